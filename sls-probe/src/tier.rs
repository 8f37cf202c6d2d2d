//! The kernel tier: policies that are decided in the kernel, where the event happens.

mod compile;
mod error;
mod files;
pub(crate) mod layout;
mod support;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use libbpf_rs::{MapCore, MapHandle, Object};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::thread::{MembarrierCommand, membarrier};
use sls_core::{Effect, Enforced, EventKind, Field, Guards, Hook, KernelLimits, Mechanism, Policy, PolicySet, Tiers};

use crate::error::ProbeError;
use crate::group::refuse;
use crate::loader::{map_of, set_entry};

use compile::{DECIDED, Image, Numbered};
pub use error::TierError;
use files::{Changes, Directories, Identity};
use layout::{Entry, Verdict, Verdicts};
pub(crate) use support::bpf_lsm;

/// The most policies that are decided in the kernel.
pub const MAX_TIER_POLICIES: usize = 4096;

/// The most paths that they name, all together.
pub const MAX_TIER_PATHS: usize = 8192;

/// The most beginnings of paths, and the most ends.
pub const MAX_TIER_PATTERNS: usize = 4096;

/// The most processes and cgroups that are protected.
pub const MAX_TIER_GUARDS: usize = 1024;

/// The longest path that is compared in the kernel, in bytes.
pub const MAX_TIER_PATH_BYTES: usize = layout::PATH_BYTES;

/// The most policies that look at one path.
pub const MAX_TIER_POLICIES_OF_PATH: usize = layout::ENTRY_POLICIES;

/// How often the files that policies name are looked up, if nothing tells that they changed.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(10);

/// Of how many files that had a named path before it is remembered that they did.
const MAX_FORMER_FILES: usize = 8;

/// No program of the tier takes that long.
const LONGEST_DECISION: Duration = Duration::from_millis(50);

const GENERATION: &str = "tier_generation";
const HEADS: &str = "tier_heads";
const POLICIES: &str = "tier_policies";
const ALLOWANCES: &str = "tier_allowances";
const PATHS: &str = "tier_paths";
const FILES: &str = "tier_files";
const BEGINNINGS: &str = "tier_beginnings";
const ENDS: &str = "tier_ends";
const PROTECTED: &str = "tier_protected";
const GUARDS: &str = "tier_guards";
pub(crate) const NAMES: &str = "tier_names";
pub(crate) const AWAY: &str = "sensor_away";

/// Every map of `bpf/tier.h` that user space writes.
pub(crate) const MAPS: [&str; 12] =
    [GENERATION, HEADS, POLICIES, ALLOWANCES, PATHS, FILES, BEGINNINGS, ENDS, PROTECTED, GUARDS, NAMES, AWAY];

/// The policies that are decided in the kernel. A probe that was built with
/// [`ProbeBuilder::kernel_tier`](crate::ProbeBuilder::kernel_tier) has one.
///
/// A program that a policy matches gets its signal while it is executed, before its first instruction, and its event tells of
/// it ([`Event::enforced`](sls_core::Event::enforced)). What the kernel does not know for certain it leaves to user space, as
/// it does whatever may be protected by a guard.
///
/// Clones are handles of the same tier.
#[derive(Clone, Debug)]
pub struct KernelTier {
    shared: Arc<Shared>,
    /// Ends the thread with the last handle.
    _watcher: Arc<Watcher>,
}

#[derive(Debug)]
struct Shared {
    maps: BTreeMap<&'static str, MapHandle>,
    loaded: Mutex<Loaded>,
    /// Policies of the generation in force and of the one before it, whose records may be under way.
    known: Mutex<[Generation; 2]>,
}

#[derive(Debug, Default)]
struct Loaded {
    generation: u32,
    image: Image,
    /// What the map of files has.
    files: BTreeMap<Identity, Entry>,
    /// The files that have the named paths, or had them and are elsewhere now. The last is the newest.
    identities: BTreeMap<Box<[u8]>, Vec<Identity>>,
    directories: Option<Directories>,
    /// What each policy was allowed last.
    allowed: BTreeMap<u16, u64>,
    /// Files that were forgotten, because too many have had the same path.
    forgotten: u64,
}

#[derive(Clone, Debug, Default)]
struct Generation {
    number: u32,
    policies: Arc<BTreeMap<u16, (Arc<Policy>, Mechanism)>>,
}

impl KernelTier {
    /// The hooks that the tier has, with the limits of what it has room for: what policies are to be loaded with
    /// ([`Capabilities::hook`](sls_core::Capabilities::hook)).
    #[must_use]
    pub fn hooks() -> Vec<Hook> {
        let limits = KernelLimits {
            policies: MAX_TIER_POLICIES,
            total_entries: MAX_TIER_PATTERNS,
            rules: 16,
            tests: layout::POLICY_TESTS / 16,
            path_bytes: MAX_TIER_PATH_BYTES,
            entries: MAX_TIER_PATTERNS,
            path_ends: true,
        };
        // Which cgroups are containers is found out in user space.
        let bounded = |hook: Hook| hook.without([Field::ContainerId]).with_limits(limits);
        let mut hooks = vec![bounded(Hook::exec_signal()), bounded(Hook::cgroup_connect())];
        if bpf_lsm().is_ok() {
            let kinds = [EventKind::Exec, EventKind::File, EventKind::Connect, EventKind::Ptrace, EventKind::Module];
            hooks.extend(kinds.map(|kind| bounded(Hook::lsm(kind))).map(|hook| match hook.kind() {
                EventKind::File => hook.operations(refuse::FILE_OPERATIONS),
                _ => hook,
            }));
        }
        hooks
    }

    /// What is missing in the running kernel for a mechanism of the tier, if something is.
    #[must_use]
    pub fn missing(mechanism: Mechanism) -> Option<String> {
        match mechanism {
            Mechanism::Lsm => bpf_lsm().err(),
            _ => None,
        }
    }

    /// Whether the tier has room for the policies of a set.
    ///
    /// # Errors
    /// As [`KernelTier::load`], but for what only the kernel knows.
    pub fn check(policies: &PolicySet, guards: &Guards) -> Result<(), TierError> {
        Image::of(policies.tiers(), guards).map(drop)
    }

    /// The tier of an object that was loaded.
    pub(crate) fn of(object: &Object) -> Result<Self, TierError> {
        let maps = MAPS.into_iter().map(|name| Ok((name, map_of(object, name)?)));
        let maps = maps.collect::<Result<_, ProbeError>>()?;
        let shared = Arc::new(Shared { maps, loaded: Mutex::default(), known: Mutex::default() });
        let watcher = Arc::new(Watcher::start(&shared)?);
        Ok(Self { shared, _watcher: watcher })
    }

    /// Puts the policies of a set in force that the kernel decides ([`Tiers`](sls_core::Tiers)), in place of those before: at
    /// every moment an event is decided by all policies of one set. They may not act before [`KernelTier::allow`] says so.
    ///
    /// # Errors
    /// When there is more than the maps have room for, or the kernel refuses; then what was in force is in force still.
    pub fn load(&self, policies: &PolicySet, guards: &Guards) -> Result<(), TierError> {
        self.load_allowed(policies, guards, |_| 0)
    }

    /// The same as [`KernelTier::load`], and [`KernelTier::allow`] in the same moment.
    ///
    /// # Errors
    /// As [`KernelTier::load`].
    pub fn load_allowed(
        &self,
        policies: &PolicySet,
        guards: &Guards,
        mut allowance: impl FnMut(&Policy) -> usize,
    ) -> Result<(), TierError> {
        let image = Image::of(policies.tiers(), guards)?;
        let allowed = image.policies.iter().map(|one| (one.number, allowed_targets(allowance(&one.policy)))).collect();
        self.shared.replace(image, allowed)
    }

    /// Says on how many targets more each policy may act from now on: `usize::MAX` is without a limit, 0 is a dry run
    /// ([`Engine::allowance`](sls_core::Engine::allowance)). To be called after each [`KernelTier::load`], and about every
    /// second, as what was allowed is used up.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn allow(&self, mut allowance: impl FnMut(&Policy) -> usize) -> Result<(), TierError> {
        let mut loaded = lock(&self.shared.loaded);
        let Loaded { generation, image, allowed, .. } = &mut *loaded;
        for Numbered { number, policy, .. } in &image.policies {
            let now = allowed_targets(allowance(policy));
            // Without an end nothing is used up.
            if allowed.get(number) == Some(&now) && matches!(now, 0 | u64::MAX) {
                continue;
            }
            self.shared.set(ALLOWANCES, &layout::number_key(*generation, *number), &layout::allowance(now))?;
            allowed.insert(*number, now);
        }
        Ok(())
    }

    /// Looks up the files that policies name, now and not only once they are seen to have changed.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn resolve(&self) -> Result<(), TierError> {
        self.shared.resolve(&mut lock(&self.shared.loaded), &everything())
    }

    /// How many files the tier forgot that have had a path which a policy names, and may be there under other names: of
    /// each path it remembers the last eight.
    #[must_use]
    pub fn files_forgotten(&self) -> u64 {
        lock(&self.shared.loaded).forgotten
    }

    /// How many directories of files that policies name are not watched now, for want of room: which
    /// files are there is looked up now and then only.
    #[must_use]
    pub fn directories_unwatched(&self) -> usize {
        lock(&self.shared.loaded).directories.as_ref().map_or(0, Directories::unwatched)
    }

    /// What a record says was done.
    pub(crate) fn enforced(&self, verdicts: Verdicts<'_>) -> Option<Enforced> {
        let verdict = verdicts.acted()?;
        let known = lock(&self.shared.known);
        let generation = known.iter().find(|generation| generation.number == verdicts.generation)?;
        let (policy, mechanism) = generation.policies.get(&verdict.policy)?.clone();
        Some(enforced(policy, mechanism, verdict))
    }

    /// What a tier of an earlier process did, for the policy that is called as `name` says (`struct tier_name`), if it is loaded
    /// still.
    pub(crate) fn enforced_before(&self, name: &[u8], verdict: Verdict) -> Option<Enforced> {
        let known = lock(&self.shared.known);
        let same = |(policy, mechanism): &&(Arc<Policy>, Mechanism)| layout::name(policy, *mechanism) == name;
        let (policy, mechanism) = known[0].policies.values().find(same)?;
        Some(enforced(policy.clone(), *mechanism, verdict))
    }
}

impl Shared {
    fn set(&self, map: &'static str, key: &[u8], value: &[u8]) -> Result<(), ProbeError> {
        match self.maps.get(map) {
            Some(handle) => set_entry(handle, map, key, value),
            None => Err(ProbeError::Object { what: "map", name: map }),
        }
    }

    fn remove(&self, map: &'static str, key: &[u8]) {
        if let Some(handle) = self.maps.get(map) {
            // What was never there need not go.
            let _ = handle.delete(key);
        }
    }

    fn replace(&self, image: Image, allowed: BTreeMap<u16, u64>) -> Result<(), TierError> {
        let mut loaded = lock(&self.loaded);
        let mut next = Loaded {
            generation: loaded.generation.checked_add(1).unwrap_or(1),
            image,
            allowed,
            directories: loaded.directories.take(),
            ..Loaded::default()
        };
        let result = self.fill(&mut next);
        if let Err(error) = result {
            self.clear(&next);
            loaded.directories = next.directories;
            self.watch(&mut loaded)?;
            return Err(error);
        }
        let policies = next.image.policies.iter();
        let policies = policies.map(|one| (one.number, (one.policy.clone(), one.mechanism))).collect();
        {
            // Before any record can speak of it.
            let mut known = lock(&self.known);
            known.swap(0, 1);
            known[0] = Generation { number: next.generation, policies: Arc::new(policies) };
        }
        let zero = 0_u32.to_ne_bytes();
        if let Err(error) = self.set(GENERATION, &zero, &next.generation.to_ne_bytes()) {
            self.clear(&next);
            return Err(error.into());
        }
        let old = std::mem::replace(&mut *loaded, next);
        if old.generation != 0 {
            // A program that has read the old number finds what it looks for until it ends.
            if membarrier(MembarrierCommand::Global).is_err() {
                thread::sleep(LONGEST_DECISION);
            }
            self.clear(&old);
        }
        Ok(())
    }

    /// Writes a generation that is not in force.
    fn fill(&self, next: &mut Loaded) -> Result<(), TierError> {
        let (generation, image) = (next.generation, &next.image);
        for Numbered { number, value, policy, mechanism } in &image.policies {
            let key = layout::number_key(generation, *number);
            self.set(POLICIES, &key, value)?;
            self.set(NAMES, &key, &layout::name(policy, *mechanism))?;
            self.set(ALLOWANCES, &key, &layout::allowance(next.allowed.get(number).copied().unwrap_or(0)))?;
        }
        for (path, entry) in &image.paths {
            self.set(PATHS, &layout::path_key(generation, path), &entry.to_bytes())?;
        }
        for (map, entries) in [(BEGINNINGS, &image.beginnings), (ENDS, &image.ends)] {
            for (beginning, entry) in entries {
                self.set(map, &layout::prefix_key(generation, beginning), &entry.to_bytes())?;
            }
        }
        for beginning in &image.protected {
            self.set(PROTECTED, &layout::prefix_key(generation, beginning), &1_u32.to_ne_bytes())?;
        }
        for (guard, (start, step)) in &image.guards {
            self.set(GUARDS, &guard.to_bytes(generation), &layout::guard(*start, *step))?;
        }
        // Before the files are looked up, so that no change falls in between.
        self.watch(next)?;
        self.resolve(next, &everything())?;
        self.set(HEADS, &next.generation.to_ne_bytes(), &next.image.head.to_bytes())?;
        Ok(())
    }

    /// Removes a generation that is not in force.
    fn clear(&self, old: &Loaded) {
        let generation = old.generation;
        self.remove(HEADS, &generation.to_ne_bytes());
        for Numbered { number, .. } in &old.image.policies {
            self.remove(POLICIES, &layout::number_key(generation, *number));
            self.remove(ALLOWANCES, &layout::number_key(generation, *number));
            self.remove(NAMES, &layout::number_key(generation, *number));
        }
        for path in old.image.paths.keys() {
            self.remove(PATHS, &layout::path_key(generation, path));
        }
        for (map, entries) in [(BEGINNINGS, &old.image.beginnings), (ENDS, &old.image.ends)] {
            entries.keys().for_each(|beginning| self.remove(map, &layout::prefix_key(generation, beginning)));
        }
        for beginning in &old.image.protected {
            self.remove(PROTECTED, &layout::prefix_key(generation, beginning));
        }
        for guard in old.image.guards.keys() {
            self.remove(GUARDS, &guard.to_bytes(generation));
        }
        for file in old.files.keys() {
            if let Some(key) = layout::file_key(generation, *file) {
                self.remove(FILES, &key);
            }
        }
    }

    fn watch(&self, loaded: &mut Loaded) -> Result<(), TierError> {
        let Loaded { directories, image, .. } = loaded;
        if directories.is_none() {
            *directories = Some(Directories::new().map_err(|source| TierError::Watch { source })?);
        }
        if let Some(directories) = directories {
            directories.watch(image.named.keys().map(|path| &**path));
        }
        Ok(())
    }

    /// Looks up which files have the paths that policies name; all of them, or those that changed. One that is renamed, or of
    /// which another link is left, is still the file that a policy named.
    fn resolve(&self, loaded: &mut Loaded, changes: &Changes) -> Result<(), TierError> {
        let Loaded { generation, image, files, identities, directories, forgotten, .. } = loaded;
        for known in identities.values_mut() {
            known.retain(|file| !changes.gone.contains(file));
        }
        for path in image.named.keys().filter(|path| changes.all || changes.names.contains(*path)) {
            let known = identities.entry(path.clone()).or_default();
            let now = files::identity(path);
            if now.is_some() && known.last() == now.as_ref() {
                continue;
            }
            known.retain(|file| now != Some(*file));
            if let Some(file) = now {
                if !directories.as_mut().is_some_and(|directories| directories.watch_file(path, file)) {
                    // When it is gone will not be told, so it counts only as long as it has the name.
                    known.clear();
                }
                known.push(file);
            }
            let over = known.len().saturating_sub(MAX_FORMER_FILES);
            known.drain(..over);
            *forgotten += over as u64;
        }
        let mut now: BTreeMap<Identity, Entry> = BTreeMap::new();
        for (path, known) in identities.iter() {
            if let Some(entry) = image.named.get(path) {
                known.iter().for_each(|file| now.entry(*file).or_default().join(entry));
            }
        }
        if let Some((file, _)) = now.iter().find(|(_, entry)| !entry.fits()) {
            let path = identities.iter().find(|(_, known)| known.contains(file));
            let path = path.map(|(path, _)| String::from_utf8_lossy(path).into_owned()).unwrap_or_default();
            return Err(TierError::Crowded { path, limit: layout::ENTRY_POLICIES });
        }
        // What is new first: a file that is named before and after is known all the time.
        for (file, entry) in now.iter().filter(|(file, entry)| files.get(*file) != Some(*entry)) {
            if let Some(key) = layout::file_key(*generation, *file) {
                self.set(FILES, &key, &entry.to_bytes())?;
            }
        }
        for file in files.keys().filter(|file| !now.contains_key(*file)) {
            if let Some(key) = layout::file_key(*generation, *file) {
                self.remove(FILES, &key);
            }
        }
        *files = now;
        if let Some(directories) = directories {
            directories.retain(|file| files.contains_key(file));
        }
        Ok(())
    }
}

fn enforced(policy: Arc<Policy>, mechanism: Mechanism, verdict: Verdict) -> Enforced {
    let effect = match (mechanism, verdict.action) {
        (Mechanism::ExecSignal, layout::SIGKILL) => Effect::Killed,
        (Mechanism::ExecSignal, _) => Effect::Stopped,
        _ => Effect::Refused,
    };
    Enforced::new(policy, verdict.rule.into(), mechanism, effect)
}

/// What the kernel has to be asked for by the policies of a set: only where it is asked can it be refused.
pub(crate) fn wanted(tiers: &Tiers) -> Vec<(Mechanism, EventKind)> {
    let some = |(mechanism, kind): &(Mechanism, EventKind)| tiers.kernel_policies(*mechanism, *kind).next().is_some();
    DECIDED.into_iter().filter(some).collect()
}

/// Without a limit, the kernel's counter never gets there.
fn allowed_targets(targets: usize) -> u64 {
    if targets == usize::MAX { u64::MAX } else { targets as u64 }
}

/// The thread that looks up files which changed.
#[derive(Debug)]
struct Watcher {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Watcher {
    fn start(shared: &Arc<Shared>) -> Result<Self, TierError> {
        let failed = |source| TierError::Watch { source };
        lock(&shared.loaded).directories = Some(Directories::new().map_err(failed)?);
        let stop =
            Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).map_err(|errno| failed(errno.into()))?);
        let (told, shared) = (Arc::clone(&stop), Arc::clone(shared));
        let watch = move || watch(&shared, &told);
        let thread = thread::Builder::new().name("sls-tier".to_owned()).spawn(watch).map_err(failed)?;
        Ok(Self { stop, thread: Some(thread) })
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        // There is always room for one.
        let _ = rustix::io::write(&self.stop, &1_u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn watch(shared: &Shared, stop: &OwnedFd) {
    let mut last = Instant::now();
    let mut inotify = None;
    loop {
        if inotify.is_none() {
            inotify = lock(&shared.loaded).directories.as_ref().and_then(|directories| directories.waiter().ok());
        }
        let left = RESOLVE_INTERVAL.saturating_sub(last.elapsed());
        let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
        files::wait(inotify.as_ref(), stop, &timeout);
        let mut told = [0; 8];
        if rustix::io::read(stop, &mut told).is_ok() {
            return;
        }
        let mut loaded = lock(&shared.loaded);
        let mut changes = loaded.directories.as_mut().map(Directories::changes).unwrap_or_default();
        if last.elapsed() >= RESOLVE_INTERVAL {
            changes.all = true;
        }
        if !changes.all && changes.names.is_empty() && changes.gone.is_empty() {
            continue;
        }
        let mut result = Ok(());
        if changes.all {
            last = Instant::now();
            // A directory may have come or gone.
            result = shared.watch(&mut loaded);
        }
        if let Err(error) = result.and_then(|()| shared.resolve(&mut loaded, &changes)) {
            tracing::warn!(%error, "files that policies name could not be looked up");
        }
    }
}

fn everything() -> Changes {
    Changes { all: true, ..Changes::default() }
}

/// Nothing panics with the lock held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

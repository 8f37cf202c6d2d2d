//! What there is to run: found in what cargo built.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, anyhow, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::Places;

/// What cargo wrote of the binaries that it built (`--message-format=json`).
const BUILT: &str = "built.json";

/// The crates whose tests are run, without what all their names begin with.
pub(crate) const RINGS: &[&str] = &["probe", "actions", "cli"];

/// What the names of all crates begin with.
const CRATE: &str = "sls-";

/// The groups and tests that ask nothing of the kernel.
const PURE: &str = ".ci/lab/pure";

/// The group of the checks that are programs and no tests.
pub(crate) const SMOKE: &str = "probe/smoke";

/// Children of a test play a part in a function of this name, which does nothing by itself.
const ACTOR: &str = "_actor";

/// The checks that are programs: name, the command's words. `example:` and `bin:` stand for what cargo built.
const CHECKS: &[(&str, &[&str])] = &[("probe", &["example:probe_smoke"]), ("kill", &[".ci/lab/kill.sh", "bin:sls"])];

/// One run in a guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Job {
    /// `RING/FILE::NAME`; the first two are the group.
    pub(crate) id: String,
    pub(crate) command: Vec<String>,
    pub(crate) directory: PathBuf,
    /// Whether it is a test of a test binary, whose output says what came of it; else the exit status alone does.
    pub(crate) test: bool,
}

impl Job {
    pub(crate) fn group(&self) -> &str {
        group(&self.id)
    }

    pub(crate) fn ring(&self) -> &str {
        ring(&self.id)
    }
}

/// The part of a test's id that says which crate it is of.
pub(crate) fn ring(id: &str) -> &str {
    id.split_once('/').map_or(id, |(ring, _)| ring)
}

/// The part of a test's id that says what it is about.
pub(crate) fn group(id: &str) -> &str {
    id.split_once("::").map_or(id, |(group, _)| group)
}

/// What one boot of a guest is to do.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Plan {
    pub(crate) jobs: Vec<Job>,
    /// After so many seconds no job is begun.
    pub(crate) budget: Option<u64>,
    /// The object that makes the kernel refuse trampolines.
    pub(crate) refuse: Option<PathBuf>,
    /// Whether there are no kprobes to be found.
    pub(crate) hide_kprobes: bool,
    /// Variables for the jobs.
    pub(crate) environment: Vec<(String, String)>,
}

/// The rings that are named, between white space; none: all.
pub(crate) fn rings(names: &str) -> anyhow::Result<Vec<&'static str>> {
    let find = |name: &str| RINGS.iter().copied().find(|ring| *ring == name);
    let all = || RINGS.join(", ");
    let names = names.split_whitespace();
    let named: Vec<_> = names
        .map(|name| find(name).with_context(|| format!("no ring {name}; there are {}", all())))
        .collect::<Result<_, _>>()?;
    Ok(if named.is_empty() { RINGS.to_vec() } else { named })
}

/// Everything that there is to run, by id: the tests of the crates `rings`, but for those that ask nothing of the kernel. With
/// `part`, only what has it in its id.
pub(crate) fn jobs(places: &Places, rings: &[&str], part: Option<&str>) -> anyhow::Result<Vec<Job>> {
    let path = places.lab().join(BUILT);
    let built = fs::read_to_string(&path).with_context(|| format!("{}: `make vm-build` writes it", path.display()))?;
    let mut built = artifacts(&built)?;
    for artifact in &mut built {
        artifact.executable = pin(places, Path::new(&artifact.executable))?;
    }
    let mut jobs = Vec::new();
    for (name, words) in CHECKS {
        let command = words.iter().map(|word| resolve(word, &built)).collect::<anyhow::Result<_>>()?;
        jobs.push(Job { id: format!("{SMOKE}::{name}"), command, directory: places.root.clone(), test: false });
    }
    for artifact in &built {
        let Some(group) = artifact.group() else { continue };
        for test in list(&artifact.executable)? {
            jobs.push(Job {
                id: format!("{group}::{test}"),
                command: vec![artifact.executable.clone(), "--exact".into(), test, "--nocapture".into()],
                directory: artifact.directory.clone(),
                test: true,
            });
        }
    }
    let pure = fs::read_to_string(places.root.join(PURE)).context(PURE)?;
    remove_pure(&mut jobs, &pure).context(PURE)?;
    jobs.retain(|job| rings.contains(&job.ring()) && part.is_none_or(|part| job.id.contains(part)));
    jobs.sort_by(|a, b| a.id.cmp(&b.id));
    let twice = jobs.windows(2).find(|pair| pair[0].id == pair[1].id);
    ensure!(twice.is_none(), "two tests are called {:?}", twice.map(|pair| &pair[0].id));
    ensure!(!jobs.is_empty(), "nothing to run");
    Ok(jobs)
}

/// Removes the groups and the single tests in the list of those that ask nothing of the kernel, all of which must be there.
fn remove_pure(jobs: &mut Vec<Job>, list: &str) -> anyhow::Result<()> {
    for line in list.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (name, why) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        ensure!(!why.trim().is_empty(), "{line:?} does not say why");
        let before = jobs.len();
        jobs.retain(|job| job.id != name && job.group() != name);
        ensure!(jobs.len() < before, "there are no tests {name:?}");
    }
    Ok(())
}

/// The first of each group, then the second of each, the crates in turn: so that little time is spent on everything. The unit
/// tests come last.
pub(crate) fn interleave(jobs: Vec<Job>) -> Vec<Job> {
    let mut places: BTreeMap<String, usize> = BTreeMap::new();
    let mut turns: BTreeMap<(bool, usize, String), usize> = BTreeMap::new();
    let mut ranked: Vec<_> = jobs
        .into_iter()
        .map(|job| {
            let place = places.entry(job.group().to_owned()).or_default();
            *place += 1;
            let unit = job.group().ends_with(UNIT);
            let turn = turns.entry((unit, *place, job.ring().to_owned())).or_default();
            *turn += 1;
            (unit, *place, *turn, job)
        })
        .collect();
    ranked.sort_by_key(|(unit, place, turn, _)| (*unit, *place, *turn));
    ranked.into_iter().map(|(.., job)| job).collect()
}

/// The group of a crate's unit tests ends with it.
pub(crate) const UNIT: &str = "(unit)";

#[derive(Debug)]
struct Artifact {
    kind: String,
    name: String,
    profile_test: bool,
    executable: String,
    /// The crate's directory, in which cargo runs its tests.
    directory: PathBuf,
}

impl Artifact {
    fn is_tests(&self) -> bool {
        self.profile_test && matches!(self.kind.as_str(), "test" | "lib" | "bin")
    }

    /// Of its tests, if it has any.
    fn group(&self) -> Option<String> {
        let name = self.directory.file_name()?.to_str()?;
        let ring = name.strip_prefix(CRATE)?;
        self.is_tests().then(|| match self.kind.as_str() {
            "test" => format!("{ring}/{}", self.name),
            _ => format!("{ring}/{UNIT}"),
        })
    }
}

/// The executables in cargo's messages. A later one takes the place of an earlier of the same name.
fn artifacts(messages: &str) -> anyhow::Result<Vec<Artifact>> {
    #[derive(Deserialize)]
    struct Message {
        reason: String,
        manifest_path: Option<PathBuf>,
        target: Option<Target>,
        profile: Option<Profile>,
        executable: Option<String>,
    }
    #[derive(Deserialize)]
    struct Target {
        kind: Vec<String>,
        name: String,
    }
    #[derive(Deserialize)]
    struct Profile {
        test: bool,
    }
    let mut found: BTreeMap<_, Artifact> = BTreeMap::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).with_context(|| format!("cargo said {line:?}"))?;
        let (Some(target), Some(profile), Some(executable), Some(manifest)) =
            (message.target, message.profile, message.executable, message.manifest_path)
        else {
            continue;
        };
        if message.reason != "compiler-artifact" {
            continue;
        }
        let directory = manifest.parent().map(Path::to_owned).unwrap_or_default();
        let kind = target.kind.into_iter().next().unwrap_or_default();
        let artifact = Artifact { kind, name: target.name, profile_test: profile.test, executable, directory };
        let key = (artifact.directory.clone(), artifact.kind.clone(), artifact.name.clone(), artifact.is_tests());
        found.insert(key, artifact);
    }
    Ok(found.into_values().collect())
}

/// Another name for a binary as it is now: cargo may build it anew while guests still run it.
pub(crate) fn pin(places: &Places, binary: &Path) -> anyhow::Result<String> {
    let directory = places.lab().join("bin");
    fs::create_dir_all(&directory)?;
    let pinned = directory.join(binary.file_name().context("a binary without a name")?);
    if let Err(error) = fs::remove_file(&pinned)
        && error.kind() != ErrorKind::NotFound
    {
        return Err(error).with_context(|| pinned.display().to_string());
    }
    if fs::hard_link(binary, &pinned).is_err() {
        fs::copy(binary, &pinned).with_context(|| format!("{}: `make vm-build` makes it", binary.display()))?;
    }
    pinned.into_os_string().into_string().map_err(|path| anyhow!("{} is not UTF-8", path.display()))
}

fn resolve(word: &str, built: &[Artifact]) -> anyhow::Result<String> {
    let Some((kind @ ("bin" | "example"), name)) = word.split_once(':') else { return Ok(word.to_owned()) };
    match built.iter().find(|artifact| artifact.kind == kind && artifact.name == name) {
        Some(artifact) => Ok(artifact.executable.clone()),
        None => bail!("{kind} {name} is not built: `make vm-build` does"),
    }
}

/// The names of the tests of a binary, those for its own children left out.
fn list(binary: &str) -> anyhow::Result<Vec<String>> {
    let output = Command::new(binary).args(["--list", "--format=terse"]).output().with_context(|| binary.to_owned())?;
    ensure!(output.status.success(), "{binary} --list: {}", output.status);
    let names = String::from_utf8(output.stdout)?;
    let names = names.lines().filter_map(|line| line.strip_suffix(": test"));
    Ok(names.filter(|name| !name.ends_with(ACTOR)).map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(id: &str) -> Job {
        Job { id: id.into(), command: Vec::new(), directory: PathBuf::new(), test: true }
    }

    #[test]
    fn little_time_is_spent_on_everything() {
        let jobs =
            ["r/a::1", "r/a::2", "r/a::3", "r/b::1", "r/(unit)::1", "r/d::1", "s/e::1", "s/e::2"].map(job).to_vec();
        let order: Vec<_> = interleave(jobs).into_iter().map(|job| job.id).collect();
        assert_eq!(order, ["r/a::1", "s/e::1", "r/b::1", "r/d::1", "r/a::2", "s/e::2", "r/a::3", "r/(unit)::1"]);
    }

    #[test]
    fn binaries_are_found_in_the_messages_of_cargo() {
        let line = |kind: &str, name: &str, test: bool, executable: &str| {
            format!(
                r#"{{"reason":"compiler-artifact","manifest_path":"/w/sls-c/Cargo.toml","target":{{"kind":["{kind}"],"name":"{name}"}},"profile":{{"test":{test}}},"executable":{executable}}}"#
            )
        };
        let messages = [
            line("lib", "c", false, "null"),
            line("lib", "c", true, r#""/t/c-1""#),
            line("test", "files", true, r#""/t/files-1""#),
            line("example", "probe_smoke", true, r#""/t/probe_smoke""#),
            line("test", "files", true, r#""/t/files-2""#),
            r#"{"reason":"build-finished","success":true}"#.to_owned(),
        ];
        let found = artifacts(&messages.join("\n")).unwrap();
        let tests: Vec<_> = found.iter().filter(|artifact| artifact.is_tests()).collect();
        assert_eq!(tests.iter().filter_map(|tests| tests.group()).collect::<Vec<_>>(), ["c/(unit)", "c/files"]);
        assert_eq!(tests[1].executable, "/t/files-2");
        assert_eq!(resolve("example:probe_smoke", &found).unwrap(), "/t/probe_smoke");
        assert_eq!(resolve("kill.sh", &found).unwrap(), "kill.sh");
        assert!(resolve("bin:sls", &found).is_err());
        assert!(artifacts("no json").is_err());
    }

    #[test]
    fn what_asks_nothing_of_the_kernel_is_there_and_says_why() {
        let all = || ["c/daemon::1", "c/schema::1", "c/schema::2", "c/commands::1", "c/commands::2"].map(job).to_vec();
        let left = |list: &str| {
            let mut jobs = all();
            remove_pure(&mut jobs, list).map(|()| jobs.into_iter().map(|job| job.id).collect::<Vec<_>>())
        };
        let found = left("# name  why\n\nc/schema  a document\nc/commands::1 text\n").unwrap();
        assert_eq!(found, ["c/daemon::1", "c/commands::2"]);
        for bad in ["c/schema", "c/gone  it is no more", "c/schema a\nc/schema b"] {
            assert!(left(bad).is_err(), "{bad}");
        }
    }
}

//! Runs everything in every guest, from outside.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use crate::Places;
use crate::expected::Missing;
use crate::guest::Report;
use crate::guests::{Guest, OTHER_BOOTS, OtherBoot};
use crate::outcome::Outcome;
use crate::plan::{self, Job, Plan};
use crate::results::{self, Fresh};

/// A boot and all that it runs. Tests have a time limit of their own.
const BOOT_PATIENCE: Duration = Duration::from_secs(2 * 60 * 60);

/// The same beyond what tests are begun in, where that is limited.
const BEYOND_BUDGET: Duration = Duration::from_secs(400);

/// How often a guest that died is booted again, for what it has not run yet.
const MORE_BOOTS: usize = 4;

/// Modules that tests may need: file systems in files, sockets of the kernel's cryptography.
const MODULES: &str = "loop af_alg algif_hash";

/// A word of how far a guest is, every so many tests.
const PROGRESS: usize = 25;

#[derive(Debug, Default)]
pub(crate) struct Options {
    pub(crate) guests: Vec<&'static Guest>,
    /// Seconds after which a guest begins no further test.
    pub(crate) budget: Option<u64>,
    /// The crates whose tests are run.
    pub(crate) rings: Vec<&'static str>,
    /// Only tests that have this in their id.
    pub(crate) part: Option<String>,
    /// This program, under a name at which it stays as it is.
    pub(crate) runner: String,
}

/// Whether all is well.
pub(crate) fn run(places: &Places, options: &Options) -> anyhow::Result<bool> {
    let missing = Missing::read(places)?;
    let mut jobs = plan::jobs(places, &options.rings, options.part.as_deref())?;
    if options.budget.is_some() {
        jobs = plan::interleave(jobs);
    }
    let series: BTreeSet<_> = options.guests.iter().map(|guest| guest.series).collect();
    let fetched = Command::new(places.root.join(".ci/lab/fetch-kernels.sh")).args(series).status()?;
    ensure!(fetched.success(), "cannot get the kernels");

    // A guest is one processor: so many at a time as there are. What lasts longest begins first.
    let parts = parts(options, &jobs);
    let waiting = Mutex::new(parts.iter());
    let done = Mutex::new(Vec::new());
    let workers = thread::available_parallelism()?.get().min(parts.len());
    thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                loop {
                    let next = lock(&waiting).next();
                    let Some(part) = next else { break };
                    let result = Run::new(places, options, part).everything(&part.jobs);
                    lock(&done).push((part.guest.name, result));
                }
            });
        }
    });

    let done = done.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    let mut found: BTreeMap<&str, Fresh> = BTreeMap::new();
    for (guest, run) in done {
        let fresh = run.with_context(|| guest)?;
        match found.entry(guest) {
            Entry::Vacant(place) => _ = place.insert(fresh),
            Entry::Occupied(mut other) => other.get_mut().merge(fresh),
        }
    }
    let mut good = true;
    let mut rows = Vec::new();
    for guest in &options.guests {
        let mut fresh = found.remove(guest.name).context("a guest was forgotten")?;
        let left_out = jobs.iter().filter(|job| guest.runs(job.ring()) && !fresh.tests.contains_key(&job.id)).count();
        fresh.complete = if left_out == 0 && options.part.is_none() { names(&options.rings) } else { Vec::new() };
        let results = || fresh.tests.iter().map(|(id, entry)| (id.as_str(), &entry.result));
        let everything = plan::RINGS.iter().all(|ring| fresh.complete.iter().any(|complete| complete == ring));
        let wrong = missing.judge(guest, results(), everything);
        for problem in &wrong {
            println!("{}: {problem}", guest.name);
        }
        good &= wrong.is_empty() && results().all(|(_, result)| *result != Outcome::Failed);
        fresh.write(places)?;
        rows.push(row(&fresh, left_out));
    }
    println!(
        "\n{:<12} {:<28} {:>5} {:>7} {:>7} {:>12} {:>8} {:>9} {:>7}",
        "guest", "kernel", "ok", "partly", "failed", "not offered", "ignored", "left out", "time"
    );
    for row in rows {
        println!("{row}");
    }
    let directory = places.fresh("");
    println!("\nEvery single result: {}/", directory.parent().unwrap_or(&directory).display());
    Ok(good)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn names(rings: &[&str]) -> Vec<String> {
    rings.iter().map(|ring| (*ring).to_owned()).collect()
}

fn row(fresh: &Fresh, left_out: usize) -> String {
    let mut counts = [0; 5];
    for entry in fresh.tests.values() {
        counts[match entry.result {
            Outcome::Ok => 0,
            Outcome::Without { .. } => 1,
            Outcome::Failed => 2,
            Outcome::NotOffered { .. } => 3,
            Outcome::Ignored(_) => 4,
        }] += 1;
    }
    let [ok, partly, failed, missing, ignored] = counts;
    format!(
        "{:<12} {:<28} {ok:>5} {partly:>7} {failed:>7} {missing:>12} {ignored:>8} {left_out:>9} {:>5} s",
        fresh.guest, fresh.kernel, fresh.seconds
    )
}

/// What one guest does by itself: of the whole matrix the tests of one crate, so that all processors end at the same time.
#[derive(Debug)]
struct Part {
    guest: &'static Guest,
    /// For the names of files.
    name: String,
    jobs: Vec<Job>,
}

fn parts(options: &Options, jobs: &[Job]) -> Vec<Part> {
    let part = |guest: &'static Guest, rings: &[&str], name: String| {
        let wanted = |job: &&Job| rings.contains(&job.ring()) && guest.runs(job.ring());
        Part { guest, name, jobs: jobs.iter().filter(wanted).cloned().collect() }
    };
    let mut parts: Vec<Part> = if options.budget.is_some() {
        // One boot: there is little time.
        options.guests.iter().map(|guest| part(guest, &options.rings, guest.name.to_owned())).collect()
    } else {
        let one = |ring: &&'static str| {
            let ring = *ring;
            options.guests.iter().map(move |guest| part(guest, &[ring], format!("{}-{ring}", guest.name)))
        };
        options.rings.iter().flat_map(one).filter(|part| !part.jobs.is_empty()).collect()
    };
    // A guest without anything to run is one of the results all the same.
    for guest in &options.guests {
        if !parts.iter().any(|part| part.guest.name == guest.name) {
            parts.push(part(guest, &[], guest.name.to_owned()));
        }
    }
    parts.sort_by_key(|part| std::cmp::Reverse(part.jobs.len()));
    parts
}

/// A part as it is run.
#[derive(Debug)]
struct Run<'a> {
    places: &'a Places,
    options: &'a Options,
    guest: &'static Guest,
    name: &'a str,
    fresh: Fresh,
    boots: usize,
    start: Instant,
}

/// How a boot ended.
#[derive(Debug, PartialEq)]
enum End {
    /// It did all, or all that the budget let it.
    Done,
    /// It died while it ran the test with this id, or before the first.
    Died(Option<String>),
}

impl<'a> Run<'a> {
    fn new(places: &'a Places, options: &'a Options, part: &'a Part) -> Self {
        let fresh = Fresh { guest: part.guest.name.to_owned(), ..Fresh::default() };
        Self { places, options, guest: part.guest, name: &part.name, fresh, boots: 0, start: Instant::now() }
    }

    fn everything(mut self, jobs: &[Job]) -> anyhow::Result<Fresh> {
        self.some(jobs.to_vec(), None)?;
        for other in OTHER_BOOTS {
            let lacks = |job: &&Job| {
                let missing = self.fresh.tests.get(&job.id).and_then(|entry| entry.result.missing());
                missing.is_some_and(|(hook, _)| hook == other.hook)
            };
            let again: Vec<Job> = jobs.iter().filter(lacks).cloned().collect();
            let here = other.guests.is_empty() || other.guests.contains(&self.guest.name);
            let possible = other.file.is_none_or(|(file, _)| self.places.target.join(file).exists());
            if here && possible && self.options.budget.is_none() {
                self.some(again, Some(other))?;
            }
        }
        self.fresh.seconds = self.start.elapsed().as_secs();
        Ok(self.fresh)
    }

    /// Runs the jobs, in one boot unless the guest dies.
    fn some(&mut self, mut jobs: Vec<Job>, other: Option<&OtherBoot>) -> anyhow::Result<()> {
        for boot in 0..=MORE_BOOTS {
            let mut done = Vec::new();
            let end = self.boot(&jobs, other, &mut done)?;
            jobs.retain(|job| !done.contains(&job.id));
            let End::Died(during) = end else { return Ok(()) };
            let last = boot == MORE_BOOTS;
            // A guest that does not come up may have had bad luck once.
            let ill = jobs.iter().filter(|job| last || during.as_ref() == Some(&job.id));
            let ill: Vec<String> = ill.map(|job| job.id.clone()).collect();
            for id in ill {
                let output = format!("the guest died; its console: {}", self.console().display());
                self.note(id.clone(), Outcome::Failed, 0.0, output);
                jobs.retain(|job| job.id != id);
            }
        }
        Ok(())
    }

    fn console(&self) -> PathBuf {
        self.places.lab().join(format!("{}-{}.console", self.name, self.boots))
    }

    fn boot(&mut self, jobs: &[Job], other: Option<&OtherBoot>, done: &mut Vec<String>) -> anyhow::Result<End> {
        if jobs.is_empty() {
            return Ok(End::Done);
        }
        self.boots += 1;
        let lab = self.places.lab();
        let refuse = (!self.guest.trampolines).then(|| lab.join("refuse.bpf.o"));
        let hide_kprobes = !self.guest.kprobes;
        let file = other.and_then(|other| other.file);
        let environment =
            file.map(|(file, name)| (name.to_owned(), self.places.target.join(file).display().to_string()));
        let environment = environment.into_iter().collect();
        let plan = Plan { jobs: jobs.to_vec(), budget: self.options.budget, refuse, hide_kprobes, environment };
        let plan_path = lab.join(format!("{}.plan", self.name));
        fs::write(&plan_path, serde_json::to_vec(&plan)?)?;
        let patience = self.options.budget.map_or(BOOT_PATIENCE, |budget| Duration::from_secs(budget) + BEYOND_BUDGET);
        let log = File::create(lab.join(format!("{}-{}.log", self.name, self.boots)))?;
        let mut guest = Command::new(self.places.root.join(".ci/lab/vm-run.sh"));
        guest.args(["-k", self.guest.series, "-t", &patience.as_secs().to_string(), "-l"]).arg(self.console());
        for share in [&self.places.root, &self.places.target] {
            guest.arg("-s").arg(share);
        }
        guest.args(["-a", other.map_or("", |other| other.kernel_arguments), "-M", MODULES, "--"]);
        guest.arg(&self.options.runner).arg("guest").arg(&plan_path);
        let mut guest = guest.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).spawn()?;
        let output = guest.stdout.take().context("no pipe")?;
        let mut running = None;
        for line in BufReader::new(output).split(b'\n') {
            match serde_json::from_slice(&line?) {
                Ok(Report::Kernel(release)) => self.fresh.kernel = release,
                Ok(Report::Begun(id)) => running = Some(id),
                Ok(Report::Ended { id, result, seconds, output }) => {
                    running = None;
                    done.push(id.clone());
                    self.note(id, result, seconds, output);
                }
                // The port is the runner's alone, but what is not its own is no reason to stop.
                Err(_) => {}
            }
        }
        let status = guest.wait()?;
        Ok(if status.success() { End::Done } else { End::Died(running) })
    }

    fn note(&mut self, id: String, result: Outcome, seconds: f64, output: String) {
        let name = self.name;
        match &result {
            Outcome::Failed => {
                println!("{name}: {id} FAILED after {seconds} s");
                for line in output.trim().lines() {
                    println!("{name}:     {line}");
                }
            }
            Outcome::NotOffered { .. } | Outcome::Without { .. } | Outcome::Ignored(_) => {
                println!("{name}: {id} {result}")
            }
            Outcome::Ok => {}
        }
        self.fresh.tests.insert(id, results::Entry { result, seconds, output });
        if self.fresh.tests.len().is_multiple_of(PROGRESS) {
            println!("{name}: {} done in {} s", self.fresh.tests.len(), self.start.elapsed().as_secs());
        }
    }
}

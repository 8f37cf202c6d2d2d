//! What it costs to hold an execution: beside a bare listener that always allows, and beside nothing. Needs root.
//!
//! Each listener is a process of its own, for what descends from the sensor is never held. All are switched on and off in
//! turn, so that whatever else happens on the machine hits them alike.

#![forbid(unsafe_code)]

// Only wall time counts: who waits takes no processor.
#[allow(dead_code)]
#[path = "../spawn-overhead/spawner.rs"]
mod spawner;
#[path = "../spawn-overhead/victim.rs"]
mod victim;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::Arc;

use anyhow::{Context, bail, ensure};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::fanotify::{
    EventFFlags, Fanotify as Listener, FanotifyResponse, InitFlags, MarkFlags, MaskFlags, Response,
};
use sls_benches::{Table, median};
use sls_core::{Capabilities, DryRunResponder, Engine, Hook, PolicyLoader, PolicySet};
use sls_probe::{Fanotify, FanotifyWatch, HeldQueue};

use spawner::Spawner;
use victim::Victim;

/// Executions between two switches.
const BATCH: u32 = 40;
/// Executions after a switch that do not count.
const WARM_UP: u32 = 5;
/// Turns of everything, unless the first argument says otherwise.
const ROUNDS: usize = 101;
/// Executions of a program that is blocked.
const BLOCKED_RUNS: u32 = 10_000;
/// What an allowed execution may cost, in executions that a bare listener allows.
const LIMIT: f64 = 1.2;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["bare", directory] => bare(Path::new(directory)),
        ["sensor", directory, rule] => sensor(Path::new(directory), rule),
        [] => measure(ROUNDS),
        [rounds] => measure(rounds.parse().context("how many rounds?")?),
        _ => bail!("usage: held-exec [ROUNDS]"),
    }
}

#[allow(clippy::print_stdout)]
fn measure(rounds: usize) -> anyhow::Result<()> {
    let (room, elsewhere) = (Room::new()?, Room::new()?);
    let victim = Victim::write(room.path())?;
    let spawner = Spawner::new(victim.path())?;
    // Nothing here is called like that, but the whole path has to be looked at.
    let rule = |room: &Room| {
        format!("programName like \"{}/.*/never-[0-9]+\" and userName != \"nobody\"", room.path().display())
    };
    let mut listeners = [
        ("nobody looks", None),
        ("bare listener", Some(Switched::start(&["bare", room.text()?])?)),
        ("sensor, allowed", Some(Switched::start(&["sensor", room.text()?, &rule(&room)])?)),
        ("sensor, looks elsewhere", Some(Switched::start(&["sensor", elsewhere.text()?, &rule(&elsewhere)])?)),
        ("nobody looks, again", None),
    ];
    let mut walls = vec![Vec::new(); listeners.len()];
    for round in 0..=rounds {
        for turn in 0..listeners.len() {
            // Nobody is always behind the same other.
            let at = (turn * (1 + round % 3) + round) % listeners.len();
            let listener = &mut listeners[at].1;
            if let Some(listener) = listener {
                listener.switch("on")?;
            }
            spawner.run(WARM_UP)?;
            let cost = spawner.run(BATCH)?;
            if let Some(listener) = listener {
                listener.switch("off")?;
            }
            // The first warms up.
            if round > 0 {
                walls[at].push(cost.wall.as_secs_f64() * 1e6 / f64::from(BATCH));
            }
        }
    }
    // Of what was measured right after each other: what else the machine does comes and goes.
    let ratio = |one: usize, other: usize| median(walls[one].iter().zip(&walls[other]).map(|(one, other)| one / other));
    let mut table = Table::new(&["an execution", "µs", "of bare", "of nobody"]);
    for (at, (name, _)) in listeners.iter().enumerate() {
        let cells = [median(walls[at].iter().copied()), ratio(at, 1), ratio(at, 0)];
        let cells = [format!("{:.1}", cells[0]), format!("{:.2}", cells[1]), format!("{:.2}", cells[2])];
        table.row(std::iter::once((*name).to_owned()).chain(cells));
    }
    println!("{rounds} rounds of {BATCH} executions each: medians of wall time, and of its ratios in a round\n{table}");
    let ratio = ratio(2, 1);
    drop(listeners);

    let mut blocking =
        Switched::start(&["sensor", room.text()?, &format!("programName == \"{}\"", victim.path().display())])?;
    blocking.switch("on")?;
    let refused = (0..BLOCKED_RUNS).filter(|_| spawner.run(1).is_err()).count();
    println!("{refused} of {BLOCKED_RUNS} executions of a blocked program were refused");
    ensure!(refused == BLOCKED_RUNS as usize, "a blocked program ran");
    println!("an allowed execution costs {ratio:.2} times that of a bare listener (at most {LIMIT})");
    ensure!(ratio <= LIMIT, "that is too much");
    Ok(())
}

/// A file system of the benchmark's own, so that nothing else on the machine is held.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> anyhow::Result<Self> {
        // Without anything that means something in a regular expression: it would hold more.
        let dir = tempfile::Builder::new().prefix("sls-bench-").tempdir()?;
        mount(Some("tmpfs"), dir.path(), Some("tmpfs"), MsFlags::empty(), None::<&str>)?;
        Ok(Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn text(&self) -> anyhow::Result<&str> {
        self.path().to_str().context("the temporary directory has an odd name")
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        let _ = umount2(self.0.path(), MntFlags::MNT_DETACH);
    }
}

/// A listener in a process of its own.
struct Switched {
    process: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Switched {
    fn start(arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let mut process = command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let input = process.stdin.take().context("no input")?;
        let output = BufReader::new(process.stdout.take().context("no output")?);
        Ok(Self { process, input, output })
    }

    fn switch(&mut self, to: &str) -> anyhow::Result<()> {
        writeln!(self.input, "{to}")?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        ensure!(answer.trim() == to, "the listener failed: {answer:?}");
        Ok(())
    }
}

impl Drop for Switched {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// Calls `switch` as the other end says.
fn switched(mut switch: impl FnMut(bool) -> anyhow::Result<()>) -> anyhow::Result<()> {
    for line in std::io::stdin().lines() {
        let line = line?;
        switch(line == "on")?;
        let mut out = std::io::stdout();
        writeln!(out, "{line}").and_then(|()| out.flush())?;
    }
    Ok(())
}

/// The least that anybody can do who holds executions: read, allow, close.
fn bare(directory: &Path) -> anyhow::Result<()> {
    let files = EventFFlags::O_RDONLY | EventFFlags::O_CLOEXEC | EventFFlags::O_LARGEFILE;
    let listener = Arc::new(Listener::init(InitFlags::FAN_CLASS_CONTENT | InitFlags::FAN_CLOEXEC, files)?);
    let reader = Arc::clone(&listener);
    std::thread::spawn(move || {
        while let Ok(events) = reader.read_events() {
            for event in &events {
                if let Some(file) = event.fd() {
                    let _ = reader.write_response(FanotifyResponse::new(file, Response::FAN_ALLOW));
                }
            }
        }
    });
    switched(|on| {
        let change = if on { MarkFlags::FAN_MARK_ADD } else { MarkFlags::FAN_MARK_REMOVE };
        let flags = change | MarkFlags::FAN_MARK_FILESYSTEM;
        Ok(listener.mark(flags, MaskFlags::FAN_OPEN_EXEC_PERM, nix::fcntl::AT_FDCWD, Some(directory))?)
    })
}

/// The sensor's own way: the matcher looks first, the engine decides on another thread what is left.
fn sensor(directory: &Path, rule: &str) -> anyhow::Result<()> {
    let policies = Arc::new(policies(rule)?);
    let (queue, decider) = HeldQueue::new(&policies)?;
    let fanotify = Fanotify::builder().start(decider)?;
    // Zero: it never trips.
    let unlimited = sls_core::BreakerLimits::default().policy_targets(0).sensor_targets(0);
    let mut engine = Engine::builder(Arc::clone(&policies)).breaker(unlimited).build();
    std::thread::spawn(move || {
        loop {
            let mut ready = [nix::poll::PollFd::new(std::os::fd::AsFd::as_fd(&queue), nix::poll::PollFlags::POLLIN)];
            let _ = nix::poll::poll(&mut ready, nix::poll::PollTimeout::NONE);
            while let Some(held) = queue.take() {
                held.decide(|event| engine.decide_held(event, &mut DryRunResponder, &mut |_| ()));
            }
        }
    });
    let watches = FanotifyWatch::of(&policies);
    let inside = |watch: &FanotifyWatch| match &watch.scope {
        sls_probe::WatchScope::Under(path) | sls_probe::WatchScope::File(path) => path.starts_with(directory),
        _ => false,
    };
    ensure!(watches.iter().all(inside), "more would be held than the benchmark's own: {watches:?}");
    switched(|on| {
        fanotify.watch(if on { &watches } else { &[] });
        Ok(())
    })
}

fn policies(rule: &str) -> anyhow::Result<PolicySet> {
    let document =
        format!("P:\n  policy: program\n  responseActions: [block]\n  rules: ['match {rule}', default ignore]\n");
    let capabilities = Capabilities::default().without_hooks().hook(Hook::fanotify_exec());
    let loaded = PolicyLoader::new().capabilities(capabilities).document("bench.yaml", document).load();
    loaded.map_err(|diagnostics| anyhow::anyhow!("{diagnostics}"))
}

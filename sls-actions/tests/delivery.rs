//! Alerts that are delivered at least once: whatever kills the process, whatever the output and the disk do.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

use std::collections::HashSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sls_actions::{Delivery, DeliveryStats, FileTransport, Spool, SpoolLimits, UnixTransport};
use sls_core::{AlertTransport, Backoff, BoxError, EncodedAlert, Uuid};

/// Longer than any wait of a test that passes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the child of the kill test works.
const ROOM: &str = "SLS_TEST_ROOM";

const QUICK: Backoff = Backoff::new(Duration::from_millis(5), Duration::from_millis(20));

fn room() -> tempfile::TempDir {
    tempfile::tempdir_in(std::env::temp_dir().canonicalize().unwrap()).unwrap()
}

fn alert(number: u128) -> EncodedAlert {
    let uuid = Uuid::from_u128(number);
    EncodedAlert::new(uuid, format!("{{\"uuid\":\"{uuid}\",\"text\":\"{}\"}}", "x".repeat(300)))
}

fn wait_for(what: &str, delivery: &Delivery, condition: impl Fn(&DeliveryStats) -> bool) -> DeliveryStats {
    let start = Instant::now();
    loop {
        let stats = delivery.stats();
        if condition(&stats) {
            return stats;
        }
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}: {stats:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

fn uuid_of(line: &str) -> Uuid {
    let start = line.find("\"uuid\":\"").unwrap() + 8;
    line[start..start + 36].parse().unwrap()
}

/// Those of the whole lines; a line that was torn when its writer was killed is none.
fn uuids_in(file: &Path) -> Vec<Uuid> {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.lines().filter(|line| line.starts_with("{\"uuid\"") && line.ends_with("x\"}")).map(uuid_of).collect()
}

/// Not a test of its own: [`two_hundred_kills_lose_nothing`] runs and kills it.
#[test]
#[ignore = "runs until it is killed"]
fn child_that_delivers() {
    let room = PathBuf::from(std::env::var_os(ROOM).unwrap());
    let limits = SpoolLimits::default();
    let spool = Spool::open(room.join("spool"), limits).unwrap();
    // One line in one write: what was reported is known as a whole or not at all.
    let reported = |uuid: Uuid| std::io::stdout().write_all(format!("spooled {uuid}\n").as_bytes()).unwrap();
    let transport = FileTransport::new(room.join("output/alerts.json"));
    let delivery = Delivery::builder(transport).spool(spool).backoff(QUICK).on_spooled(reported).start().unwrap();
    let base = u128::from(std::process::id()) << 64;
    for number in 0.. {
        delivery.send(alert(base + number));
        if number % 4 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

#[test]
fn two_hundred_kills_lose_nothing() {
    let room = room();
    let output = room.path().join("output");
    let away = room.path().join("away");
    let mut reported = HashSet::new();
    let mut random = 88_172_645_463_325_252_u64;
    for round in 0..200 {
        // At first and sometimes later the output is away.
        if round % 5 == 0 {
            let _ = fs::rename(&output, &away);
        } else if fs::rename(&away, &output).is_err() {
            fs::create_dir_all(&output).unwrap();
        }
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", "child_that_delivers"]).env(ROOM, room.path());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.contains("spooled ") {
            line.clear();
            assert!(lines.read_line(&mut line).unwrap() > 0, "the child ended by itself in round {round}");
        }
        let reader = std::thread::spawn(move || {
            let mut uuids = Vec::new();
            while line.ends_with('\n') {
                uuids.extend(line.split_once("spooled ").map(|(_, uuid)| uuid.trim().parse::<Uuid>().unwrap()));
                line.clear();
                lines.read_line(&mut line).unwrap();
            }
            uuids
        });
        // Xorshift: a moment that is another one each time.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        std::thread::sleep(Duration::from_micros(random % 40_000));
        child.kill().unwrap();
        child.wait().unwrap();
        reported.extend(reader.join().unwrap());
    }
    let mut found: HashSet<_> = uuids_in(&output.join("alerts.json")).into_iter().collect();
    let delivered = found.len();
    let mut spool = Spool::open(room.path().join("spool"), SpoolLimits::default()).unwrap();
    assert_eq!((spool.stats().corrupt, spool.stats().dropped_for_size), (0, 0));
    let left = spool.stats().waiting;
    loop {
        let batch = spool.read(1000).unwrap();
        let Some(last) = batch.last() else { break };
        spool.delivered(last.number).unwrap();
        found.extend(batch.iter().map(|spooled| spooled.alert.uuid));
    }
    println!("{} reported, {delivered} delivered, {left} in the spool", reported.len());
    assert!(reported.len() > 2000 && delivered > 0, "{} reported, {delivered} delivered", reported.len());
    let lost: Vec<_> = reported.difference(&found).collect();
    assert!(lost.is_empty(), "{} of {} are lost: {lost:?}", lost.len(), reported.len());
}

#[test]
fn what_the_last_process_left_goes_first_and_in_order() {
    let room = room();
    let socket = room.path().join("socket");
    let start = |queue| {
        let spool = Spool::open(room.path().join("spool"), SpoolLimits::default()).unwrap();
        Delivery::builder(UnixTransport::new(&socket)).spool(spool).queue(queue).backoff(QUICK).start().unwrap()
    };
    let delivery = start(10_000);
    (0..500).for_each(|number| delivery.send(alert(number)));
    let stats = wait_for("failures", &delivery, |stats| stats.failures > 3 && stats.spool.unwrap().spooled == 500);
    assert!(stats.failure.is_some_and(|failure| failure.contains("No such file")));
    let stats = delivery.finish(PATIENCE);
    assert_eq!((stats.waiting(), stats.dropped(), stats.delivered), (500, 0, 0));

    let delivery = start(10_000);
    (500..700).for_each(|number| delivery.send(alert(number)));
    let listener = UnixListener::bind(&socket).unwrap();
    let receiver = std::thread::spawn(move || {
        let lines = BufReader::new(listener.accept().unwrap().0).lines();
        lines.map(|line| uuid_of(&line.unwrap()).as_u128()).collect::<Vec<_>>()
    });
    let stats = delivery.finish(PATIENCE);
    assert_eq!((stats.delivered, stats.waiting(), stats.failure), (700, 0, None));
    assert_eq!(receiver.join().unwrap(), (0..700).collect::<Vec<_>>());
}

#[test]
fn a_receiver_that_dies_with_something_unread_gets_it_again() {
    let room = room();
    let socket = room.path().join("socket");
    let listener = UnixListener::bind(&socket).unwrap();
    let spool = Spool::open(room.path().join("spool"), SpoolLimits::default()).unwrap();
    let delivery = Delivery::builder(UnixTransport::new(&socket)).spool(spool).backoff(QUICK).start().unwrap();
    (0..50).for_each(|number| delivery.send(alert(number)));
    let (stream, _) = listener.accept().unwrap();
    wait_for("delivery", &delivery, |stats| stats.delivered == 50);
    // All are in the socket, and one is read.
    let mut first = String::new();
    BufReader::with_capacity(400, &stream).read_line(&mut first).unwrap();
    assert_eq!(uuid_of(&first).as_u128(), 0);
    drop(stream);
    delivery.send(alert(50));
    let mut lines = BufReader::new(listener.accept().unwrap().0).lines();
    let mut found = HashSet::new();
    while found.len() < 51 {
        found.insert(uuid_of(&lines.next().unwrap().unwrap()).as_u128());
    }
    assert_eq!(delivery.finish(PATIENCE).dropped(), 0);
}

/// Takes nothing until it is told to go on, and then everything.
#[derive(Debug)]
struct Stuck(crossbeam_channel::Receiver<()>);

impl AlertTransport for Stuck {
    fn send(&mut self, _: &EncodedAlert) -> Result<(), BoxError> {
        let _ = self.0.recv();
        Ok(())
    }
}

#[test]
fn nobody_waits_for_an_output_that_hangs() {
    let room = room();
    let (go_on, stuck) = crossbeam_channel::bounded(0);
    let spool = Spool::open(room.path().join("spool"), SpoolLimits::default()).unwrap();
    let delivery = Delivery::builder(Stuck(stuck)).spool(spool).start().unwrap();
    let mut slowest = Duration::ZERO;
    for number in 0..5000 {
        let start = Instant::now();
        delivery.send(alert(number));
        slowest = slowest.max(start.elapsed());
        if number % 500 == 499 {
            wait_for("the spool", &delivery, |stats| stats.spool.unwrap().spooled + stats.lost > number as u64);
        }
    }
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    let start = Instant::now();
    let stats = delivery.finish(Duration::from_millis(100));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    assert_eq!((stats.waiting(), stats.lost, stats.delivered), (5000, 0, 0));
    drop(go_on);
    // Its thread gives the spool up.
    let start = Instant::now();
    let spool = loop {
        match Spool::open(room.path().join("spool"), SpoolLimits::default()) {
            Ok(spool) => break spool,
            Err(error) => assert!(start.elapsed() < PATIENCE, "{error}"),
        }
    };
    // At least once: the batch that it was at may have gone out.
    assert!(spool.stats().found > 4000, "{:?}", spool.stats());
}

#[test]
fn without_a_spool_the_oldest_are_lost_and_counted() {
    let room = room();
    let output = room.path().join("later/alerts.json");
    let delivery = Delivery::builder(FileTransport::new(&output)).queue(100).backoff(QUICK).start().unwrap();
    for number in 0..1000 {
        delivery.send(alert(number));
        // So that it is the memory that is full, not the way there.
        if number % 50 == 49 {
            wait_for("room", &delivery, |stats| stats.in_memory + stats.lost > number as u64);
        }
    }
    fs::create_dir(output.parent().unwrap()).unwrap();
    let stats = delivery.finish(PATIENCE);
    assert_eq!((stats.delivered + stats.lost, stats.waiting()), (1000, 0));
    let found: Vec<_> = uuids_in(&output).iter().map(Uuid::as_u128).collect();
    assert_eq!(found, (1000 - u128::from(stats.delivered)..1000).collect::<Vec<_>>());
}

/// A file system of a few pages.
struct TinyDisk(PathBuf);

impl TinyDisk {
    fn mount(at: PathBuf) -> Self {
        fs::create_dir(&at).unwrap();
        let flags = rustix::mount::MountFlags::empty();
        rustix::mount::mount("sls-test", &at, "tmpfs", flags, c"size=256k,mode=0700").unwrap();
        Self(at)
    }
}

impl Drop for TinyDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn on_a_full_disk_alerts_wait_in_memory_until_there_is_room() {
    assert!(rustix::process::geteuid().is_root(), "to fill a file system takes root");
    let room = room();
    let disk = TinyDisk::mount(room.path().join("disk"));
    let output = room.path().join("later/alerts.json");
    let spool = Spool::open(disk.0.join("spool"), SpoolLimits::default()).unwrap();
    let delivery =
        Delivery::builder(FileTransport::new(&output)).spool(spool).queue(2000).backoff(QUICK).start().unwrap();
    (0..1500).for_each(|number| delivery.send(alert(number)));
    let stats = wait_for("the full disk", &delivery, |stats| stats.spool_failure.is_some() && stats.waiting() == 1500);
    let spool = stats.spool.unwrap();
    assert!(stats.spool_failure.unwrap().contains("no space left on device"));
    assert!((100..1400).contains(&spool.waiting), "{spool:?}");
    // What is there is whole; the output comes back, and with it the room.
    fs::create_dir(output.parent().unwrap()).unwrap();
    let stats = wait_for("delivery", &delivery, |stats| stats.delivered == 1500);
    assert_eq!((stats.waiting(), stats.dropped(), stats.spool.unwrap().corrupt), (0, 0, 0));
    delivery.send(alert(1500));
    let stats = wait_for("the spool", &delivery, |stats| stats.delivered == 1501);
    assert_eq!(stats.spool_failure, None);
    drop(delivery.finish(PATIENCE));
    let found: Vec<_> = uuids_in(&output).iter().map(Uuid::as_u128).collect();
    assert_eq!(found.iter().collect::<HashSet<_>>().len(), 1501);
    assert_eq!(found.len(), 1501, "twice without need");
}

#[test]
fn a_full_disk_of_the_output_loses_and_tears_nothing() {
    assert!(rustix::process::geteuid().is_root(), "to fill a file system takes root");
    let room = room();
    let disk = TinyDisk::mount(room.path().join("disk"));
    let output = disk.0.join("alerts.json");
    let spool = Spool::open(room.path().join("spool"), SpoolLimits::default()).unwrap();
    let delivery =
        Delivery::builder(FileTransport::new(&output)).spool(spool).queue(3000).backoff(QUICK).start().unwrap();
    (0..2000).for_each(|number| delivery.send(alert(number)));
    let stats = wait_for("the full disk", &delivery, |stats| stats.failures > 2);
    assert!(stats.failure.unwrap().contains("No space left on device"));
    let mut found = HashSet::new();
    // The operator makes room, again and again.
    let start = Instant::now();
    while found.len() < 2000 {
        let rotated = disk.0.join("alerts.1");
        if fs::rename(&output, &rotated).is_ok() {
            std::thread::sleep(Duration::from_millis(30));
            found.extend(uuids_in(&rotated));
            fs::remove_file(rotated).unwrap();
        }
        assert!(start.elapsed() < PATIENCE, "{} of 2000", found.len());
        std::thread::sleep(Duration::from_millis(50));
        found.extend(uuids_in(&output));
    }
    assert_eq!(delivery.finish(PATIENCE).dropped(), 0);
}

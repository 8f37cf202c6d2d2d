use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;
use sls_core::{EncodedAlert, Uuid};

use super::{MIN_SPOOL_BYTES, Spool, SpoolError, SpoolLimits};

/// A directory without a link in its path, that goes away.
struct Room(tempfile::TempDir);

impl Room {
    fn new() -> Self {
        Self(tempfile::tempdir_in(std::env::temp_dir().canonicalize().unwrap()).unwrap())
    }

    fn spool(&self) -> PathBuf {
        self.0.path().join("spool")
    }

    fn open(&self) -> Spool {
        Spool::open(self.spool(), SpoolLimits::default()).unwrap()
    }

    /// The files of alerts, in their order.
    fn segments(&self) -> Vec<PathBuf> {
        let mut files: Vec<_> = fs::read_dir(self.spool()).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.retain(|file| file.extension().is_some_and(|extension| extension == "log"));
        files.sort();
        files
    }
}

fn alert(number: u128, bytes: usize) -> EncodedAlert {
    EncodedAlert::new(Uuid::from_u128(number), format!("\"{}\"", "x".repeat(bytes)))
}

fn append_all(spool: &mut Spool, alerts: &[EncodedAlert]) {
    let mut rest = alerts;
    while !rest.is_empty() {
        rest = &rest[spool.append(rest).unwrap()..];
    }
}

/// The numbers of all alerts in it, which count as delivered then.
fn drain(spool: &mut Spool) -> Vec<u128> {
    let mut found = Vec::new();
    loop {
        let batch = spool.read(7).unwrap();
        let Some(last) = batch.last() else { return found };
        spool.delivered(last.number).unwrap();
        found.extend(batch.iter().map(|spooled| spooled.alert.uuid.as_u128()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn what_was_appended_and_not_delivered_is_there_again(
        sizes in prop::collection::vec(0_usize..20_000, 1..60),
        delivered in 0_usize..60,
        cut in prop::option::of(1_u64..30_000),
    ) {
        let room = Room::new();
        // Small enough for several segments, and large enough for all.
        let limits = SpoolLimits::default().max_bytes(2 << 20);
        let mut spool = Spool::open(room.spool(), limits).unwrap();
        let alerts: Vec<_> = sizes.iter().zip(0..).map(|(size, number)| alert(number, *size)).collect();
        append_all(&mut spool, &alerts);
        let done = delivered.min(alerts.len());
        if done > 0 {
            let mut left = done;
            while left > 0 {
                let batch = spool.read(left).unwrap();
                spool.delivered(batch.last().unwrap().number).unwrap();
                left -= batch.len();
            }
        }
        prop_assert_eq!(spool.stats().waiting, (alerts.len() - done) as u64);
        drop(spool);

        // A torn tail.
        let mut whole = alerts.len();
        if let (Some(cut), Some(last)) = (cut, room.segments().last()) {
            let bytes = fs::read(last).unwrap();
            let kept = bytes.len().saturating_sub(usize::try_from(cut).unwrap());
            let lost = super::read_spool(&bytes).count() - super::read_spool(&bytes[..kept]).count();
            fs::write(last, &bytes[..kept]).unwrap();
            whole -= lost;
        }
        let mut spool = Spool::open(room.spool(), limits).unwrap();
        append_all(&mut spool, &[alert(1000, 10)]);
        let mut wanted: Vec<_> = (done as u128..whole as u128).collect();
        wanted.push(1000);
        prop_assert_eq!(spool.stats().waiting, wanted.len() as u64);
        prop_assert_eq!(drain(&mut spool), wanted);
        prop_assert_eq!((spool.stats().waiting, spool.stats().corrupt), (0, 0));
        drop(spool);
        prop_assert_eq!(drain(&mut Spool::open(room.spool(), limits).unwrap()), Vec::<u128>::new());
    }
}

#[test]
fn a_corrupt_record_is_passed_over_and_counted() {
    let room = Room::new();
    let mut spool = room.open();
    append_all(&mut spool, &[alert(1, 100), alert(2, 100), alert(3, 100)]);
    drop(spool);
    let [file] = &room.segments()[..] else { panic!("not one segment") };
    let mut bytes = fs::read(file).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(file, bytes).unwrap();
    let mut spool = room.open();
    assert_eq!((spool.stats().corrupt, spool.stats().waiting), (1, 2));
    assert_eq!(drain(&mut spool), [1, 3]);
    assert_eq!(spool.stats().waiting, 0);
}

#[test]
fn numbers_go_on_when_everything_was_delivered() {
    let room = Room::new();
    for round in 0..20_u128 {
        let mut spool = room.open();
        // Were a number given twice, the cursor would hide the second.
        append_all(&mut spool, &[alert(round, 10)]);
        assert_eq!(drain(&mut spool), [round]);
        drop(spool);
        if round % 3 == 0 {
            room.segments().iter().for_each(|file| fs::remove_file(file).unwrap());
        }
    }
    // Without a cursor everything that is there comes once more.
    let mut spool = room.open();
    append_all(&mut spool, &[alert(77, 10)]);
    drop(spool);
    fs::write(room.spool().join("cursor"), "9999 00000000\n").unwrap();
    assert_eq!(drain(&mut room.open()).last(), Some(&77));
}

#[test]
fn the_oldest_goes_when_there_is_no_room() {
    let room = Room::new();
    let mut spool = Spool::open(room.spool(), SpoolLimits::default().max_bytes(0)).unwrap();
    let alerts: Vec<_> = (0..1000).map(|number| alert(number, 500)).collect();
    for some in alerts.chunks(3) {
        append_all(&mut spool, some);
        let on_disk: u64 = room.segments().iter().map(|file| fs::metadata(file).unwrap().len()).sum();
        assert!(on_disk <= MIN_SPOOL_BYTES && on_disk == spool.stats().bytes, "{on_disk} bytes");
    }
    let stats = spool.stats();
    assert_eq!((stats.spooled, stats.waiting + stats.dropped_for_size), (1000, 1000));
    assert!(stats.waiting > 80, "{stats:?}");
    assert_eq!(drain(&mut spool), (1000 - u128::from(stats.waiting)..1000).collect::<Vec<_>>());
    let longest = alert(1, 40_000);
    assert!(matches!(spool.append(&[longest]), Err(SpoolError::TooLong { limit: 32_768, .. })));
}

#[test]
fn what_is_too_old_goes_and_is_counted() {
    let room = Room::new();
    let limits = SpoolLimits::default().max_age(Duration::from_millis(50));
    let mut spool = Spool::open(room.spool(), limits).unwrap();
    append_all(&mut spool, &[alert(1, 10), alert(2, 10)]);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(spool.read(10).unwrap(), []);
    append_all(&mut spool, &[alert(3, 10)]);
    let stats = spool.stats();
    assert_eq!((stats.dropped_for_age, stats.waiting), (2, 1));
    drop(spool);
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(Spool::open(room.spool(), limits).unwrap().stats().dropped_for_age, 1);
}

#[test]
fn it_is_nobody_elses() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let room = Room::new();
    let mut spool = room.open();
    append_all(&mut spool, &[alert(1, 10)]);
    spool.delivered(1).unwrap();
    let mode = |path: PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(room.spool()), 0o700);
    assert!(fs::read_dir(room.spool()).unwrap().all(|entry| mode(entry.unwrap().path()) == 0o600));
    let again = Spool::open(room.spool(), SpoolLimits::default());
    assert!(matches!(again, Err(SpoolError::InUse { .. })), "{again:?}");
    drop(spool);

    let link = room.0.path().join("link");
    symlink(room.spool(), &link).unwrap();
    for path in [link.clone(), link.join("below")] {
        let error = Spool::open(&path, SpoolLimits::default()).unwrap_err();
        assert!(matches!(error, SpoolError::Open { .. }), "{error}");
    }
    fs::set_permissions(room.spool(), PermissionsExt::from_mode(0o750)).unwrap();
    let error = Spool::open(room.spool(), SpoolLimits::default()).unwrap_err().to_string();
    assert!(error.ends_with("is not safe: its mode lets others in"), "{error}");
}

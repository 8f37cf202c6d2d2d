//! The whole engine behind the verdict: policies by path, lineage and user, as the sensor loads them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sls_core::{Alert, Capabilities, DryRunResponder, Engine, EventSource, Hook, PolicyLoader};
use sls_probe::{Fanotify, FanotifyWatch, HeldQueue, Probe};

use crate::support::{BLOCKED, FINE, Launcher, Ran, Room, offered, patient};

/// A host without hooks for security, which has permission events.
fn capabilities() -> Capabilities {
    Capabilities::default().without_hooks().hook(Hook::fanotify_exec()).hook(Hook::fanotify_open())
}

/// Stops the sensor, also when a test fails.
struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Runs `look` while an engine with these policies decides, and returns the alerts.
fn with_engine(policies: &str, look: impl FnOnce(&Fanotify)) -> Vec<Alert> {
    let policies = PolicyLoader::new()
        .capabilities(capabilities())
        .document("p.yaml", policies)
        .load()
        .unwrap_or_else(|error| panic!("{error}"));
    let policies = Arc::new(policies);
    let (queue, decider) = HeldQueue::new(&policies).unwrap();
    let mut probe = Probe::builder().interest(policies.interest()).load().unwrap().attach().unwrap();
    probe.return_on(&queue).unwrap();
    let mut engine = Engine::builder(Arc::clone(&policies)).build();
    let fanotify = patient().start(decider).unwrap();
    let watches = FanotifyWatch::of(&policies);
    assert!(watches.iter().all(|watch| format!("{:?}", watch.scope).contains("/sls-room-")), "{watches:?}");
    fanotify.watch(&watches);
    let stop = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let sensor = scope.spawn(move || {
            let mut alerts = Vec::new();
            let mut turn = |probe: &mut Probe, wait| {
                let mut pending = Vec::new();
                probe
                    .poll(wait, &mut |event| {
                        engine.process(event, &mut DryRunResponder, &mut |alert| pending.push(alert))
                    })
                    .unwrap();
                while let Some(mut held) = queue.take() {
                    // What happened before it comes first.
                    probe
                        .poll(Duration::ZERO, &mut |event| {
                            engine.process(event, &mut DryRunResponder, &mut |alert| pending.push(alert));
                        })
                        .unwrap();
                    probe.complete(held.event_mut());
                    held.identify(engine.processes());
                    held.decide(|event| {
                        engine.decide_held(event, &mut DryRunResponder, &mut |alert| pending.push(alert))
                    });
                }
                pending
            };
            while !stop.load(Ordering::Relaxed) {
                alerts.extend(turn(&mut probe, Duration::from_millis(20)));
            }
            alerts.into_iter().map(|alert| alert.complete()).collect()
        });
        let end = End(stop);
        look(&fanotify);
        drop(end);
        sensor.join().unwrap()
    })
}

#[test]
fn regular_expression_on_the_path_blocks() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let (denied, allowed) = (room.program("tools/false"), room.program("tools/true"));
    let policies = format!(
        "P: {{policy: program, responseActions: [alert, block], decisionDeadline: 10000, rules: ['match programName like \"{}/t[a-z]+/f.*\" and userName != \"eve\"', default ignore]}}",
        room.path().display()
    );
    let alerts = with_engine(&policies, |fanotify| {
        assert_eq!(launcher.run(&denied, &[]), BLOCKED);
        let asked = fanotify.stats().asked;
        assert_eq!(launcher.run(&allowed, &[]), FINE);
        // What does not match is not decided twice.
        assert_eq!(fanotify.stats().asked, asked);
        assert_eq!(fanotify.stats().late, 0);
    });
    let [alert] = &alerts[..] else { panic!("{alerts:?}") };
    let fields = &alert.notifications[1].message_fields;
    assert_eq!((fields.action_type, fields.action_result), (Some("block"), Some("successful")));
    assert_eq!(fields.action_tier, Some("fanotify"));
}

#[test]
fn lineage_blocks() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let (program, shell) = (room.program("true"), room.program("busybox-shell"));
    let policies = format!(
        "Below the shell: {{policy: program, responseActions: [block], decisionDeadline: 10000, rules: ['match programName == \"{0}/*\" and ancestorProgramName == \"{0}/busybox-shell\"', default ignore]}}",
        room.path().display()
    );
    with_engine(&policies, |fanotify| {
        let below = format!("{} ; exit $?", program.display());
        // The very process that was made a moment ago, and one with a shell in between.
        assert_eq!(launcher.run(&shell, &["sh", "-c", &below]), Ran::Exited(126));
        assert_eq!(launcher.run(&shell, &["sh", "-c", &format!("sh -c '{below}'; exit $?")]), Ran::Exited(126));
        assert_eq!(launcher.run(&program, &[]), FINE);
        assert_eq!(fanotify.stats().late, 0);
    });
}

#[test]
fn user_container_and_identity_block() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let program = room.program("true");
    let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(&program).unwrap());
    std::fs::hard_link(&program, room.join("truth")).unwrap();
    let path = room.path();
    for (rule, blocked) in [
        ("userName == \"root\"".to_owned(), true),
        ("uid == 1".to_owned(), false),
        ("containerId == \"\"".to_owned(), true),
        ("containerId != \"\"".to_owned(), false),
        (format!("programInode == {inode}"), true),
        (format!("programInode == {}", inode + 1), false),
    ] {
        let policies = format!(
            "P: {{policy: program, responseActions: [block], decisionDeadline: 10000, rules: ['match programName == \"{}/*\" and {rule}', default ignore]}}",
            path.display()
        );
        with_engine(&policies, |_| {
            assert_eq!(launcher.run(&program, &[]), if blocked { BLOCKED } else { FINE }, "{rule}");
        });
    }
}

#[test]
fn writing_is_blocked_and_reading_is_not() {
    if !offered() {
        return;
    }
    let (room, launcher) = (Room::new(), Launcher::start());
    let file = room.script("file", "old\n");
    let policies = format!(
        "P: {{policy: file, responseActions: [block], decisionDeadline: 10000, rules: ['match filePath == \"{}\" and fileOperation == \"OPEN_WRITE\" and programName == \"*sh\"', default ignore]}}",
        file.display()
    );
    with_engine(&policies, |fanotify| {
        assert_eq!(launcher.shell(&format!("echo new > {}", file.display())), Ran::Exited(2));
        assert_eq!(launcher.run("/bin/cat", &[file.to_str().unwrap()]), FINE);
        assert_eq!(launcher.run("/usr/bin/truncate", &["-s", "0", file.to_str().unwrap()]), FINE);
        assert_eq!(fanotify.stats().late, 0);
    });
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "");
}

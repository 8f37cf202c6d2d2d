use super::*;

fn interest(text: &str) -> Interest {
    PolicySet::from_yaml("policy.yaml", text).unwrap().interest()
}

fn under(interest: &Interest, operation: &str) -> Vec<String> {
    match interest.paths(operation) {
        PathInterest::Any => vec!["*".to_owned()],
        PathInterest::Under(paths) => paths.iter().map(|path| String::from_utf8_lossy(path).into_owned()).collect(),
    }
}

#[test]
fn operations_are_those_that_rules_leave() {
    let interest = interest(
        "Removed:\n  policy: filemonitor\n  rules:\n    - ignore programName == \"/usr/bin/dpkg\"\n    - match \
         fileOperation == \"UNLINK\" and (filePath == \"/etc/*\" or filePath in [\"/root/.ssh/*\", \"/boot/x\"])\n    \
         - default ignore\n",
    );
    assert_eq!(interest.kinds().collect::<Vec<_>>(), [EventKind::File]);
    assert!(interest.wants_value(EventKind::File, "UNLINK") && !interest.wants_value(EventKind::File, "CHMOD"));
    assert_eq!(under(&interest, "UNLINK"), ["boot/x", "etc", "root/.ssh"]);
    assert!(under(&interest, "CHMOD").is_empty());
}

#[test]
fn a_default_that_matches_wants_all_of_its_type() {
    let interest = interest("A:\n  policy: file\n  rules: [ignore filePath == \"/tmp/*\", default match]\n");
    assert_eq!(under(&interest, "CREATE"), ["*"]);
    assert!(!interest.wants_value(EventKind::File, "UNLINK"));
    assert!(!interest.wants_value(EventKind::File, "OPEN_READ"));
}

#[test]
fn writes_are_wanted_by_name_only() {
    let rules = |rule: &str| format!("A:\n  policy: filemonitor\n  rules: ['{rule}', default ignore]\n");
    assert!(!interest(&rules("match filePath == \"/etc/*\"")).wants_value(EventKind::File, "WRITE"));
    let named = rules("match fileOperation in [\"WRITE\", \"OPEN_WRITE\"]");
    assert!(interest(&named).wants_value(EventKind::File, "WRITE"));
}

#[test]
fn what_is_elsewhere_may_be_ignored_first() {
    let of =
        |rules: &str| under(&interest(&format!("A:\n  policy: file\n  rules: [{rules}, default match]\n")), "CREATE");
    assert_eq!(of("'ignore filePath != \"/etc/*\"'"), ["etc"]);
    assert_eq!(of("'ignore uid == 0', 'ignore not filePath in [\"/etc/ssh/*\", \"/root/*\"]'"), ["etc/ssh", "root"]);
    assert_eq!(of("'ignore filePath != \"/etc/*\" and uid == 0'"), ["*"]);
    assert_eq!(of("'match filePath == \"/a/*\"', 'ignore filePath != \"/b/*\" or uid == 0'"), ["a", "b"]);
    assert_eq!(of("'ignore filePath == \"/etc/*\"'"), ["*"]);
}

#[test]
fn a_path_is_wanted_under_both_names_and_when_it_is_not_known() {
    let interest = interest("A:\n  policy: file\n  rules: ['match filePath == \"/etc/*\"', default ignore]\n");
    let wants = |old: &[u8], new: &[u8], prepare: fn(&mut Event)| {
        let mut event = Event::new(EventKind::File);
        event.set_text(Field::FileOperation, b"RENAME").set_text(Field::FilePath, old);
        event.set_text(Field::NewFilePath, new);
        prepare(&mut event);
        interest.wants(&event)
    };
    assert!(wants(b"/tmp/x", b"/etc/x", |_| ()) && wants(b"/etc/x", b"/tmp/x", |_| ()));
    assert!(!wants(b"/tmp/x", b"/tmp/y", |_| ()));
    assert!(wants(b"/tmp/x", b"/tmp/y", |event| {
        event.mark_truncated(Field::NewFilePath);
    }));
    assert!(wants(b"/tmp/x", b"/tmp/y", |event| {
        event.clear(Field::FilePath).mark_unknown(Field::FilePath);
    }));
}

#[test]
fn modes_are_narrowed_if_only_chmod_policies_ask() {
    let chmod = "A:\n  policy: chmod\n  suid: true\n  xoth: true\n  rules: [default match]\n";
    let narrow = interest(chmod);
    assert_eq!(narrow.mode_bits(), Some(0o4001));
    let wants = |mode| {
        let mut event = Event::new(EventKind::File);
        event.set_text(Field::FileOperation, b"CHMOD").set_number(Field::FileMode, mode);
        event.set_text(Field::FilePath, b"/tmp/x");
        narrow.wants(&event)
    };
    assert!(wants(0o4755) && wants(0o001) && !wants(0o755 & !1) && !wants(0));
    let monitor = "B: {policy: filemonitor, rules: [match fileOperation == \"CHMOD\", default ignore]}\n";
    assert_eq!(interest(&format!("{chmod}{monitor}")).mode_bits(), None);
    let without = interest("A: {policy: chmod, rules: [default match]}");
    assert!(!without.wants_value(EventKind::File, "UNLINK"));
    assert_eq!(without.mode_bits(), Some(0));
}

#[test]
fn ports_and_protocols_narrow_connections() {
    let one = "A:\n  policy: connect\n  rules:\n    - match protocol == \"TCP\" and remotePort in [4444, 31337]\n    - \
               default ignore\n";
    let narrow = interest(one);
    assert_eq!(narrow.ports().unwrap().iter().copied().collect::<Vec<_>>(), [4444, 31337]);
    assert!(!narrow.wants_value(EventKind::Connect, "UNIX"));
    let both = format!("{one}B:\n  policy: connect\n  rules: [match remoteHost == \"10.0.0.0/8\", default ignore]\n");
    assert_eq!(interest(&both).ports(), None);
    let of = |rules: &str| {
        interest(&format!("L: {{type: numbers, list: [22, 80-81]}}\nA: {{policy: connect, rules: [{rules}]}}\n"))
    };
    let ports = |interest: &Interest| interest.ports().map(|ports| ports.iter().copied().collect::<Vec<_>>());
    assert_eq!(ports(&of("match remotePort in $L, default ignore")), Some(vec![22, 80, 81]));
    assert_eq!(ports(&of("ignore remotePort < 80, default match")), None);
}

#[test]
fn sockets_of_the_network_and_of_the_file_system_are_told_apart() {
    let of = |rules: &str| interest(&format!("A: {{policy: connect, rules: [{rules}]}}\n"));
    let protocols =
        |interest: &Interest| ["TCP", "UDP", "UNIX"].map(|protocol| interest.wants_value(EventKind::Connect, protocol));
    let hosts = of("match remoteHost == \"10.0.0.0/8\", default ignore");
    assert_eq!(protocols(&hosts), [true, true, false]);
    let sockets = of("match socketPath == \"*/docker.sock\" or remotePort == 2375, default ignore");
    assert_eq!(protocols(&sockets), [true, true, true]);
    assert_eq!(sockets.ports().unwrap().iter().copied().collect::<Vec<_>>(), [NO_PORT, 2375]);
    let only = of("match socketPath == \"*/docker.sock\", default ignore");
    assert_eq!(protocols(&only), [false, false, true]);
    assert_eq!(protocols(&of("ignore remoteHost == \"127.0.0.0/8\", default match")), [true; 3]);
}

#[test]
fn the_type_of_an_event_may_be_asked_for() {
    let interest = interest(
        "A:\n  policy: networkService\n  rules: [match eventType == \"NETWORK_EVENT_TYPE_LISTEN\", default ignore]\n",
    );
    assert_eq!(interest.kinds().collect::<Vec<_>>(), [EventKind::Listen]);
}

#[test]
fn memory_may_have_to_be_writable() {
    let of = |rules: &str| interest(&format!("A: {{policy: memoryProtection, rules: [{rules}]}}\n"));
    let writable = of("match memoryIsWritable == true and memoryRegion != \"FILE\", default ignore");
    assert!(writable.wants_value(EventKind::Memory, "HEAP") && !writable.wants_value(EventKind::Memory, "FILE"));
    assert!(!writable.wants_read_only_memory());
    assert!(of("match memoryRegion == \"STACK\", default ignore").wants_read_only_memory());
}

#[test]
fn more_can_be_asked_for() {
    let everything = Interest::everything();
    assert!(EventKind::ALL.iter().all(|kind| everything.wants_kind(*kind)));
    assert!(!everything.wants_value(EventKind::File, "WRITE") && everything.ports().is_none());
    assert!(everything.wants_read_only_memory() && everything.mode_bits().is_none());
    let mut more = Interest::default();
    more.add_value(EventKind::File, "WRITE").add_value(EventKind::File, "SIT");
    assert_eq!(under(&more, "WRITE"), ["*"]);
    assert_eq!(more.kinds().collect::<Vec<_>>(), [EventKind::File]);
}

#[test]
fn new_files_are_remembered_wherever_they_are() {
    let interest = interest("A:\n  policy: newFileExec\n  rules: [match filePath == \"/tmp/*\", default ignore]\n");
    for operation in ["CREATE", "OPEN_WRITE", "TRUNCATE", "RENAME", "LINK"] {
        assert_eq!(under(&interest, operation), ["*"]);
    }
    assert!(!interest.wants_value(EventKind::File, "UNLINK") && !interest.wants_value(EventKind::File, "WRITE"));
}

#[test]
fn disabled_policies_want_nothing() {
    assert_eq!(interest("A:\n  policy: connect\n  enabled: false\n  rules: [default match]\n").kinds().count(), 0);
}

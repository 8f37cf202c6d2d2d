//! Recorded events: what is written can be read, and what is read is checked.

mod generators;

use proptest::prelude::*;
use sls_core::{Event, EventError, EventKind, Field, FieldKind, MAX_ANCESTORS, MAX_EVENT_LINE, UnknownKeys, Value};

use generators::{Setting, is_derived};

/// The same in every respect that the public interface shows.
fn assert_same(left: &Event, right: &Event) {
    assert_eq!(left.kind, right.kind);
    assert_eq!((left.time, left.since_boot, left.lost), (right.time, right.since_boot, right.lost));
    assert_eq!((left.process, left.parent, left.creator), (right.process, right.parent, right.creator));
    assert_eq!(
        (left.pidfd_inode, left.cgroup_id, left.pid_namespace, left.kernel_thread, left.exit_status),
        (right.pidfd_inode, right.cgroup_id, right.pid_namespace, right.kernel_thread, right.exit_status)
    );
    assert_eq!(left.mount_namespace, right.mount_namespace);
    assert_eq!(left.container_cgroup_id, right.container_cgroup_id);
    assert_eq!((left.truncated(), left.unknown()), (right.truncated(), right.unknown()));
    assert_eq!(left.untrusted(), right.untrusted());
    for field in Field::all() {
        match (left.value(field), right.value(field)) {
            (Value::Many { items: left, .. }, Value::Many { items: right, .. }) => {
                assert_eq!(left.iter().collect::<Vec<_>>(), right.iter().collect::<Vec<_>>(), "{field}");
            }
            (left, right) => assert_eq!(left, right, "{field}"),
        }
    }
    assert_eq!(left.arguments().collect::<Vec<_>>(), right.arguments().collect::<Vec<_>>());
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..40),
        "[ -~\u{0}\u{e9}\u{1F600}\"\\\\\n]{0,20}".prop_map(String::into_bytes)
    ]
}

fn setting(field: Field) -> BoxedStrategy<Option<Setting>> {
    let value = match field.kind() {
        _ if is_derived(field) => return Just(None).boxed(),
        _ if field == Field::ProgramArguments => {
            proptest::collection::vec(bytes(), 0..5).prop_map(Setting::Texts).boxed()
        }
        _ if field.spec().many => {
            proptest::collection::vec(proptest::collection::vec(1..=255u8, 1..20), 0..MAX_ANCESTORS + 3)
                .prop_map(Setting::Texts)
                .boxed()
        }
        FieldKind::Number => any::<u64>().prop_map(Setting::Number).boxed(),
        FieldKind::Bool => any::<bool>().prop_map(Setting::Bool).boxed(),
        FieldKind::Host => any::<std::net::IpAddr>().prop_map(Setting::Host).boxed(),
        FieldKind::Enum(names) => {
            proptest::sample::select(names).prop_map(|name| Setting::Texts(vec![name.into()])).boxed()
        }
        _ => bytes().prop_map(|text| Setting::Texts(vec![text])).boxed(),
    };
    proptest::option::of(value).boxed()
}

fn event() -> impl Strategy<Value = Event> {
    let head = (
        proptest::sample::select(EventKind::ALL),
        any::<[u64; 6]>(),
        any::<[u32; 3]>(),
        any::<(Option<u64>, Option<u64>, Option<u32>, bool, Option<u32>)>(),
        any::<(Option<u32>, Option<u64>)>(),
        any::<[u128; 3]>(),
    );
    let fields = Field::all().map(setting).collect::<Vec<_>>();
    (head, fields).prop_map(|((kind, numbers, pids, rest, mounts, masks), settings)| {
        let mut event = Event::new(kind);
        [event.time, event.since_boot, event.lost, event.process.start, event.parent.start, event.creator.start] =
            numbers;
        [event.process.pid, event.parent.pid, event.creator.pid] = pids;
        (event.pidfd_inode, event.cgroup_id, event.pid_namespace, event.kernel_thread, event.exit_status) = rest;
        (event.mount_namespace, event.container_cgroup_id) = mounts;
        for (field, setting) in Field::all().zip(settings) {
            if let Some(setting) = setting {
                setting.apply(&mut event, field);
            }
            let bit = 1_u128 << field as u8;
            // A few marks: on fields with a value and on fields without.
            if masks[0] & masks[1] & bit != 0 {
                event.mark_truncated(field);
            }
            if masks[0] & !masks[1] & masks[2] & bit != 0 {
                event.mark_unknown(field);
            }
            if !masks[0] & masks[1] & masks[2] & bit != 0 {
                event.mark_untrusted(field);
            }
        }
        event
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_written_can_be_read(event in event()) {
        let line = event.to_json();
        prop_assert!(!line.contains('\n'));
        let (read, skipped) = Event::from_json(&line, UnknownKeys::Reject).unwrap();
        prop_assert_eq!(skipped, 0);
        assert_same(&event, &read);
        prop_assert_eq!(read.to_json(), &*line);
        let deserialized: Event = serde_json::from_str(&line).unwrap();
        assert_same(&event, &deserialized);
    }

    #[test]
    fn memory_used_again_leaves_no_trace(first in event(), second in event()) {
        let mut event = Event::new(EventKind::Exec);
        event.read_json(first.to_json().as_bytes(), UnknownKeys::Reject).unwrap();
        event.read_json(second.to_json().as_bytes(), UnknownKeys::Reject).unwrap();
        assert_same(&event, &second);
    }

    #[test]
    fn hostile_bytes_do_not_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Event::from_json(&bytes, UnknownKeys::Reject);
        let _ = Event::from_json(&bytes, UnknownKeys::Skip);
    }

    #[test]
    fn damaged_events_do_not_panic(event in event(), damage in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..4)) {
        let mut line = event.to_json().into_bytes();
        for (index, byte) in damage {
            let at = index.index(line.len());
            line[at] = byte;
        }
        let _ = Event::from_json(&line, UnknownKeys::Skip);
    }

    #[test]
    fn any_values_do_not_panic(key in proptest::sample::select(keys()), value in json(3)) {
        let line = format!("{{\"kind\":\"exec\",{key:?}:{value}}}");
        let _ = Event::from_json(line, UnknownKeys::Skip);
    }
}

fn keys() -> Vec<&'static str> {
    Field::all()
        .map(Field::name)
        .chain(["kind", "time", "processStart", "truncated", "unknown", "lost", "other"])
        .collect()
}

fn json(depth: u32) -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i128>().prop_map(|value| value.to_string()),
        any::<f32>().prop_map(|value| value.to_string()),
        "[a-zA-Z0-9/:.=]{0,9}".prop_map(|text| format!("{text:?}")),
    ];
    leaf.prop_recursive(depth, 16, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(","))),
            inner.clone().prop_map(|value| format!("{{\"base64\":{value}}}")),
            inner.prop_map(|value| format!("{{\"other\":{value}}}")),
        ]
    })
}

#[test]
fn the_documented_example_is_read_and_written() {
    let line = r#"{"kind":"exec","time":1732420000000000000,"processPid":4242,"processStart":77000000000,"parentPid":4200,"programName":"/usr/bin/wget","programArguments":["wget","-q","http://198.51.100.7/x"],"parentProgramName":"/usr/bin/bash","uid":1000}"#;
    let (event, _) = Event::from_json(line, UnknownKeys::Reject).unwrap();
    assert_eq!(event.process.pid, 4242);
    assert_eq!(event.text(Field::ProgramArguments), b"wget -q http://198.51.100.7/x");
    assert_eq!(event.arguments().count(), 3);
    assert_eq!(event.to_json(), line);
}

#[test]
fn errors_name_the_key_and_the_reason() {
    let cases = [
        (r#"{}"#, r#"key "kind" is missing"#),
        (r#"{"kind":"exce"}"#, r#""kind" cannot be "exce"; did you mean "exec"?"#),
        (r#"{"kind":"exec","kind":"exec"}"#, r#"key "kind" is given more than once"#),
        (r#"{"kind":"exec","uid":1,"uid":1}"#, r#"key "uid" is given more than once"#),
        (
            r#"{"kind":"exec","lineage":[],"ancestorProgramName":[]}"#,
            r#"key "ancestorProgramName" is given more than once"#,
        ),
        (r#"{"kind":"exec","programNmae":"/x"}"#, r#"unknown key "programNmae"; did you mean "programName"?"#),
        (r#"{"kind":"exec","procesStart":1}"#, r#"unknown key "procesStart"; did you mean "processStart"?"#),
        (r#"{"kind":"exec","zebra":1}"#, r#"unknown key "zebra""#),
        (r#"{"kind":"exec","uid":"0"}"#, r#""uid" must be a number, not a string"#),
        (r#"{"kind":"exec","uid":1.5}"#, r#""uid" must be a number, not a fraction"#),
        (
            r#"{"kind":"exec","uid":18446744073709551616}"#,
            r#""uid" must be a whole number from 0 to 18446744073709551615"#,
        ),
        (r#"{"kind":"exec","processPid":4294967296}"#, r#""processPid" must be a whole number from 0 to 4294967295"#),
        (r#"{"kind":"exec","processPid":-1}"#, r#""processPid" must be a whole number from 0 to 4294967295"#),
        (r#"{"kind":"exec","programName":null}"#, r#""programName" must be a string, not null"#),
        (r#"{"kind":"exec","programName":["/x"]}"#, r#""programName" must be a string, not a list"#),
        (r#"{"kind":"exec","programIsMemfd":1}"#, r#""programIsMemfd" must be true or false, not a number"#),
        (
            r#"{"kind":"exec","programArguments":"ls -l"}"#,
            r#""programArguments" must be a list of strings, not a string"#,
        ),
        (
            r#"{"kind":"exec","programArguments":["ls",1]}"#,
            r#""programArguments" must be a list of strings, not a number"#,
        ),
        (
            r#"{"kind":"exec","programArguments":[["ls"]]}"#,
            r#""programArguments" must be a list of strings, not a list"#,
        ),
        (
            r#"{"kind":"exec","ancestorProgramName":["/a\u0000"]}"#,
            r#""ancestorProgramName" has a path with a NUL byte"#,
        ),
        (
            r#"{"kind":"exec","programName":{"base64":"?"}}"#,
            r#""programName" has malformed base64: Invalid symbol 63, offset 0."#,
        ),
        (
            r#"{"kind":"exec","programName":{"base64":"QQ==","x":1}}"#,
            r#""programName" must be a plain value or {"base64": "…"}, not an object"#,
        ),
        (
            r#"{"kind":"exec","programName":{"base64":{"base64":"UVE9PQ=="}}}"#,
            r#""programName" must be a string in base64, not an object"#,
        ),
        (
            r#"{"kind":"exec","programName":{}}"#,
            r#""programName" must be a plain value or {"base64": "…"}, not an object"#,
        ),
        (
            r#"{"kind":"connect","remoteHost":"example.com"}"#,
            r#""remoteHost" must be an IP address, not "example.com""#,
        ),
        (r#"{"kind":"connect","protocol":"tcp"}"#, r#""protocol" cannot be "tcp"; did you mean "TCP"?"#),
        (r#"{"kind":"exec","unknown":["uid","gidd"]}"#, r#""unknown" cannot be "gidd"; did you mean "gid"?"#),
        (
            r#"{"eventType":"BASELINE_TASK","kind":"exec"}"#,
            r#""eventType" must be "PROCESS_EVENT_TYPE_EXEC" in such an event, or left out"#,
        ),
        (r#"{"kind":"exec"} x"#, "trailing characters at column 17"),
        (r#"{"kind":"exec""#, "EOF while parsing an object at column 14"),
        (r#"[]"#, "invalid type: sequence, expected a JSON object at column 0"),
        ("", "EOF while parsing a value at column 0"),
    ];
    for (line, expected) in cases {
        let error = Event::from_json(line, UnknownKeys::Reject).expect_err(line);
        assert_eq!(error.to_string(), expected, "{line}");
    }
    let error = Event::from_json(vec![b' '; MAX_EVENT_LINE + 1], UnknownKeys::Reject).unwrap_err();
    assert_eq!(error, EventError::TooLong { limit: MAX_EVENT_LINE });
    // A hostile key is neither echoed whole nor compared with every name.
    let error = Event::from_json(format!("{{\"{}\":1}}", "k".repeat(900_000)), UnknownKeys::Reject).unwrap_err();
    assert!(error.to_string().len() < 100, "{error}");
}

#[test]
fn derived_keys_may_repeat_what_is_known() {
    let line = r#"{"eventType":"PROCESS_EVENT_TYPE_EXEC","kind":"exec","lineage":["/bin/sh"]}"#;
    let (event, _) = Event::from_json(line, UnknownKeys::Reject).unwrap();
    assert_eq!(event.to_json(), r#"{"kind":"exec","ancestorProgramName":["/bin/sh"]}"#);
}

#[test]
fn unknown_keys_can_be_skipped_whatever_they_hold() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let line =
        format!(r#"{{"new":{{"a":[1,{{"b":null}}]}},"deep":{deep},"kind":"exec","truncated":["uid","newField"]}}"#);
    let (event, skipped) = Event::from_json(&line, UnknownKeys::Skip).unwrap();
    assert_eq!(skipped, 3);
    assert!(event.truncated().contains(Field::Uid));
    // Deep nesting under a known key is refused, not followed.
    let line = format!(r#"{{"kind":"exec","uid":{deep}}}"#);
    assert!(Event::from_json(&line, UnknownKeys::Skip).is_err());
}

#[test]
fn events_can_stand_in_other_formats() {
    let event: Event =
        serde_yaml::from_str("{kind: exec, programName: /usr/bin/wget, programArguments: [wget, '-q']}").unwrap();
    assert_eq!(event.text(Field::ProgramArguments), b"wget -q");
    let error = serde_yaml::from_str::<Event>("{kind: exec, programNam: /x}").unwrap_err();
    assert!(error.to_string().contains(r#"unknown key "programNam"; did you mean "programName"?"#), "{error}");
}

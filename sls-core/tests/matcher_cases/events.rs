//! Events that match a policy, and others that nearly do, or of which less is known.

use std::net::IpAddr;

use sls_core::{Event, EventKind, Field, FieldKind, PolicyType, ProcessKey, Value, raises};

use super::choices::Choices;
use super::literals::{Words, address, integer, swap_case};
use super::policies::{LIBRARIES, Plan, SYMBOLS, Wish};
use crate::generators::{Setting, is_derived};

/// An event that is made to match the policy, if nothing else prevents that.
pub(crate) fn matching(choices: &mut Choices<'_>, words: &Words, plan: &Plan) -> Event {
    let kinds: Vec<_> = EventKind::ALL.iter().copied().filter(|kind| raises(plan.policy_type, *kind)).collect();
    let mut event = Event::new(*choices.pick(&kinds));
    event.process = ProcessKey { pid: 4242, start: 77 };
    event.parent = ProcessKey { pid: 1, start: 1 };
    raise(choices, plan.policy_type, &mut event);
    let wishes = choices.pick(&plan.wishes);
    for wish in wishes {
        apply(choices, wish, &mut event);
    }
    // What was wished of the file may be its new name.
    if event.kind == EventKind::File && choices.once_in(3) {
        event.copy_text(Field::FilePath, Field::NewFilePath);
        event.copy_text(Field::HostFilePath, Field::NewHostFilePath);
        event.set_text(Field::FilePath, words.pick(choices).as_bytes()).set_text(Field::FileOperation, b"RENAME");
    }
    event
}

/// Gives the event what the type of a policy asks for.
fn raise(choices: &mut Choices<'_>, policy_type: PolicyType, event: &mut Event) {
    use PolicyType as P;
    match policy_type {
        P::File | P::FileMonitor => {
            event.set_text(Field::FileOperation, b"CREATE").set_text(Field::FilePath, b"/x");
        }
        P::Chmod => drop(event.set_text(Field::FileOperation, b"CHMOD").set_number(Field::FileMode, 0o4755)),
        P::NewFileExec => drop(event.set_number(Field::FileAge, *choices.pick(&[0, 60, 61, 120, 121]))),
        P::InteractiveShell => {
            event.set_text(Field::ProgramName, b"/bin/sh").set_text(Field::StandardInput, b"TERMINAL");
            event.set_arguments([&b"sh"[..]]);
        }
        P::Selinux => drop(event.set_text(Field::SecurityChange, b"SELINUX_DISABLED")),
        P::SmepSmap => drop(event.set_text(Field::SecurityChange, b"SMEP_DISABLED")),
        P::KernelPayload => drop(event.set_text(Field::SecurityChange, b"KERNEL_PAYLOAD")),
        P::Kprobe | P::Uprobe => {
            event.set_text(Field::ProbeSymbol, choices.pick(SYMBOLS).as_bytes());
            if policy_type == P::Uprobe {
                event.set_text(Field::ProbeExecutable, choices.pick(LIBRARIES).as_bytes());
            }
        }
        _ => {}
    }
}

/// Gives the event a value. Of a field with many values, it becomes one or some of 64 at most.
fn apply(choices: &mut Choices<'_>, (field, setting): &Wish, event: &mut Event) {
    match setting {
        Setting::Number(number) if *field == Field::ProcessPid => event.process.pid = *number as u32,
        Setting::Number(number) if *field == Field::ParentPid => event.parent.pid = *number as u32,
        _ if is_derived(*field) => {}
        Setting::Texts(texts) if field.spec().many => {
            let mut items = items(event.value(*field));
            let at = choices.below(items.len() + 1);
            items.splice(at..at, texts.iter().cloned());
            if choices.once_in(3) {
                let others = 64_usize.saturating_sub(items.len());
                let before = choices.below(others + 1);
                let other = |index: usize| format!("/opt/{index}").into_bytes();
                items.splice(0..0, (0..before).map(other));
                items.extend((before..others).map(other));
            }
            Setting::Texts(items).apply(event, *field);
        }
        Setting::Texts(texts) if *field == Field::ProgramArguments => {
            let arguments: Vec<_> = texts[0].split(|byte| *byte == b' ').map(<[u8]>::to_vec).collect();
            Setting::Texts(arguments).apply(event, *field);
        }
        setting => setting.clone().apply(event, *field),
    }
}

fn items(value: Value<'_>) -> Vec<Vec<u8>> {
    match value {
        Value::Many { items, .. } => items.iter().map(<[u8]>::to_vec).collect(),
        _ => Vec::new(),
    }
}

/// What a domain name may resolve to: an address of the event, or another.
pub(crate) fn resolved(choices: &mut Choices<'_>, event: &Event) -> IpAddr {
    let host = Field::all().find_map(|field| match event.value(field) {
        Value::Host(host) => Some(host),
        _ => None,
    });
    host.filter(|_| choices.once_in(2)).unwrap_or_else(|| address(choices))
}

/// Fields that decide whether a policy is raised.
const TRIGGERS: &[Field] = &[
    Field::FileOperation,
    Field::FileMode,
    Field::FileAge,
    Field::ProgramName,
    Field::StandardInput,
    Field::SecurityChange,
    Field::ProbeSymbol,
    Field::ProbeExecutable,
    Field::NewFilePath,
];

/// Changes one thing in the event and says what.
pub(crate) fn change(choices: &mut Choices<'_>, words: &Words, plans: &[Plan], event: &mut Event) -> &'static str {
    let mut fields: Vec<_> = Field::all().filter(|field| event.value(*field) != Value::Absent).collect();
    fields.retain(|field| !is_derived(*field));
    if fields.is_empty() || choices.once_in(8) {
        return match choices.below(5) {
            0 => {
                event.process.pid = *choices.pick(&[0, 1, 2, 22, 1000, u32::MAX]);
                "another pid"
            }
            1 => {
                event.mark_unknown(*choices.pick(TRIGGERS));
                "trigger unknown"
            }
            2 => {
                event.mark_unknown(*choices.pick(&[
                    Field::EventType,
                    Field::ProcessPid,
                    Field::ParentPid,
                    Field::Lineage,
                ]));
                "unknown"
            }
            3 => {
                // What another policy wants in addition.
                if let Some(wishes) =
                    plans.get(choices.below(plans.len().max(1))).map(|plan| choices.pick(&plan.wishes))
                {
                    wishes.iter().for_each(|wish| apply(choices, wish, event));
                }
                "two policies"
            }
            _ => {
                // A field about which nothing was said.
                let fields: Vec<_> = Field::all().filter(|field| !is_derived(*field)).collect();
                event.mark_unknown(*choices.pick(&fields));
                "unknown"
            }
        };
    }
    let field = *choices.pick(&fields);
    match choices.below(10) {
        0 => {
            event.clear(field);
            "absent"
        }
        1 => {
            event.mark_unknown(field);
            "unknown"
        }
        2 => {
            event.clear(field).mark_unknown(field);
            "unknown"
        }
        3 => {
            event.clear(field).mark_truncated(field);
            "truncated to nothing"
        }
        4 => {
            event.mark_truncated(field);
            "truncated after all that was asked for"
        }
        5 | 6 if matches!(event.value(field), Value::Text { .. } | Value::Many { .. }) => {
            truncate(choices, field, event);
            "truncated"
        }
        _ => another_value(choices, words, field, event),
    }
}

/// Leaves the end of a path, the start of anything else.
fn truncate(choices: &mut Choices<'_>, field: Field, event: &mut Event) {
    let kept = match event.value(field) {
        Value::Text { bytes, .. } => {
            let at = choices.below(bytes.len() + 1);
            let kept = if field.kind() == FieldKind::Path { &bytes[at..] } else { &bytes[..at] };
            vec![kept.to_vec()]
        }
        value => {
            let mut items = items(value);
            items.truncate(choices.below(items.len() + 1));
            items
        }
    };
    Setting::Texts(kept).apply(event, field);
    event.mark_truncated(field);
}

fn another_value(choices: &mut Choices<'_>, words: &Words, field: Field, event: &mut Event) -> &'static str {
    match event.value(field) {
        Value::Number(number) => {
            let other = match choices.below(4) {
                0 => number.wrapping_add(1),
                1 => number.wrapping_sub(1),
                2 => number ^ 1 << choices.below(64),
                _ => integer(choices, "==").value,
            };
            event.set_number(field, other);
            "another number"
        }
        Value::Bool(value) => {
            event.set_bool(field, !value);
            "another bool"
        }
        Value::Host(host) => {
            let other = match (host, choices.below(3)) {
                (IpAddr::V4(host), 0) => IpAddr::V6(host.to_ipv6_mapped()),
                (IpAddr::V6(host), 0) => host.to_canonical(),
                _ => address(choices),
            };
            event.set_host(field, other);
            "another host"
        }
        Value::Text { bytes, .. } => {
            let mut text = bytes.to_vec();
            let what = near_miss(choices, words, &mut text);
            Setting::Texts(vec![text]).apply(event, field);
            what
        }
        value @ Value::Many { .. } => {
            let mut items = items(value);
            let what = match choices.below(5) {
                0 => {
                    items.clear();
                    "no items"
                }
                1 => {
                    items.reverse();
                    "other order"
                }
                2 => {
                    let at = choices.below(items.len() + 1);
                    items.splice(at..at, [Vec::new(), Vec::new()]);
                    "empty items"
                }
                _ if items.is_empty() => "no items",
                _ => {
                    let at = choices.below(items.len());
                    near_miss(choices, words, &mut items[at])
                }
            };
            Setting::Texts(items).apply(event, field);
            what
        }
        _ => {
            event.clear(field);
            "absent"
        }
    }
}

fn near_miss(choices: &mut Choices<'_>, words: &Words, text: &mut Vec<u8>) -> &'static str {
    let end = text.len();
    match choices.below(10) {
        0 => {
            text.pop();
            "cut"
        }
        1 if end > 0 => {
            text.remove(0);
            "cut"
        }
        2 if end > 0 => {
            text.remove(choices.below(end));
            "cut"
        }
        3 => {
            text.push(b'x');
            "extended"
        }
        4 => {
            text.insert(0, b'x');
            "extended"
        }
        5 => {
            text.splice(0..0, words.anything(choices));
            text.extend(words.anything(choices));
            "extended"
        }
        6 => {
            *text = swap_case(text);
            "other case"
        }
        7 if end > 0 => {
            text[choices.below(end)] ^= 0x20;
            "one byte changed"
        }
        8 if end > 0 => {
            text[choices.below(end)] ^= 0x80;
            "one byte changed"
        }
        _ => {
            *text = words.pick(choices).into_bytes();
            "another value"
        }
    }
}

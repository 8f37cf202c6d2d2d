//! The workload as policies and events.

use std::fmt::Write;

use sls_core::{Event, EventKind, Field, ProcessKey};

use crate::workload::{Condition, Execution, TextField, TextTest, UidTest};

/// The inode of the host's first PID namespace.
const HOST_PID_NAMESPACE: u32 = 0xefff_fffc;

/// A policy document with a policy for each rule. Its name is the rule's position: [`rule_of`].
#[must_use]
pub fn document(rules: &[Condition]) -> String {
    let mut text = String::new();
    for (index, rule) in rules.iter().enumerate() {
        // Writing to memory does not fail. No text of the workload has a single quote.
        let _ = write!(
            text,
            "rule {index}:\n  policy: program\n  rules:\n    - 'match {}'\n    - default ignore\n",
            expression(rule)
        );
    }
    text
}

/// The rule that a policy of [`document`] stands for.
#[must_use]
pub fn rule_of(policy_name: &str) -> Option<usize> {
    policy_name.strip_prefix("rule ")?.parse().ok()
}

fn expression(condition: &Condition) -> String {
    match condition {
        Condition::And(terms) => joined(terms, " and "),
        Condition::Or(terms) => joined(terms, " or "),
        Condition::Not(inner) => format!("not ({})", expression(inner)),
        Condition::Uid(UidTest::Equals(uid)) => format!("uid == {uid}"),
        Condition::Uid(UidTest::AtLeast(uid)) => format!("uid >= {uid}"),
        Condition::Text(field, test) => {
            let field = match field {
                TextField::Exe => Field::ProgramName,
                TextField::Name => Field::ProcessName,
                TextField::Arguments => Field::ProgramArguments,
                TextField::Parent => Field::ParentProgramName,
            };
            match test {
                TextTest::Equals(text) | TextTest::Glob(text) => format!("{field} == \"{text}\""),
                TextTest::Prefix(text) => format!("{field} == \"{text}*\""),
                TextTest::In(texts) => format!("{field} in [\"{}\"]", texts.join("\", \"")),
                TextTest::Regex(regex) => format!("{field} like \".*{}.*\"", regex.pattern),
            }
        }
    }
}

fn joined(terms: &[Condition], with: &str) -> String {
    let terms: Vec<_> = terms.iter().map(|term| format!("({})", expression(term))).collect();
    terms.join(with)
}

/// The event of an execution, with what the sensor gives every event of a program: see `benches/data/exec.jsonl`.
#[must_use]
pub fn event(execution: &Execution) -> Event {
    let mut event = Event::new(EventKind::Exec);
    let start = |pid: u32| u64::from(pid) * 1_000_003;
    event.time = 1_800_000_000_000_000_000 + u64::from(execution.pid);
    event.process = ProcessKey { pid: execution.pid, start: start(execution.pid) };
    event.parent = ProcessKey { pid: execution.parent_pid, start: start(execution.parent_pid) };
    event.pidfd_inode = Some(u64::from(execution.pid) + 100_000);
    event.cgroup_id = Some(if execution.container.is_empty() { 1 } else { 4000 });
    event.pid_namespace = Some(HOST_PID_NAMESPACE);
    event.set_text(Field::ProcessName, execution.name.as_bytes());
    for id in [Field::Uid, Field::Gid, Field::Euid, Field::Egid] {
        event.set_number(id, execution.uid.into());
    }
    event.set_text(Field::ProgramName, execution.exe.as_bytes());
    event.set_text(Field::ProgramDirectory, execution.directory.as_bytes());
    event.set_text(Field::InvokedName, execution.exe.as_bytes());
    event.set_arguments(execution.arguments.iter().map(String::as_bytes));
    event.set_number(Field::ProgramInode, u64::from(execution.pid) * 7);
    event.set_number(Field::ProgramDevice, 65_024);
    event.set_bool(Field::ProgramIsMemfd, false).set_bool(Field::ProgramIsDeleted, false);
    let user: &[u8] = if execution.uid == 0 { b"root" } else { b"user" };
    event.set_text(Field::UserName, user).set_text(Field::GroupName, user);
    if !execution.container.is_empty() {
        event.set_text(Field::ContainerId, execution.container.as_bytes());
        event.set_text(Field::ContainerName, &execution.container.as_bytes()[..12]);
        event.set_text(Field::ImageName, b"registry.example.org/service:1");
    }
    event.set_text(Field::ParentProgramName, execution.parent.as_bytes());
    event.set_text(Field::ParentProgramArguments, execution.parent.as_bytes());
    event.set_ancestors([execution.parent.as_bytes(), b"/usr/lib/systemd/systemd"]);
    event
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sls_core::{CompiledMatcher, Matcher, PolicySet, TreeMatcher, Value};

    use super::*;
    use crate::workload::{MATCHING, Regexes, Workload};

    #[test]
    fn ten_executions_match() {
        for (rules, regexes) in [(1, Regexes::AllWithLiteral), (400, Regexes::SomeWithoutLiteral)] {
            let workload = Workload::new(rules, regexes, 0);
            let set = Arc::new(PolicySet::from_yaml("rules.yaml", document(&workload.rules)).unwrap());
            let plain = TreeMatcher::new(set.clone());
            let compiled = CompiledMatcher::new(set);
            let matched = |matcher: &dyn Matcher, event: &Event| {
                let mut matched = Vec::new();
                matcher.decide(event, &mut |decision| matched.extend(rule_of(&decision.policy.name)));
                matched
            };
            let mut matching = 0;
            for execution in &workload.executions {
                let event = event(execution);
                let found = matched(&plain, &event);
                assert_eq!(matched(&compiled, &event), found);
                matching += usize::from(!found.is_empty());
            }
            assert_eq!(matching, MATCHING, "{rules} rules");
        }
    }

    #[test]
    fn events_have_what_executions_have() {
        let workload = Workload::new(1, Regexes::AllWithLiteral, 0);
        for execution in &workload.executions[..100] {
            let event = event(execution);
            let joined = execution.joined_arguments();
            let text = Value::Text { bytes: joined.as_bytes(), truncated: false };
            assert_eq!(event.value(Field::ProgramArguments), text);
            assert_eq!(event.text(Field::ParentProgramName), execution.parent.as_bytes());
            assert!(event.unknown().is_empty());
        }
    }
}

use std::sync::Arc;

use super::*;
use crate::event::Event;
use crate::hook::KernelLimits;
use crate::policy::PolicySet;

fn lower_at(hook: &Hook, policy_type: &str, rules: &str, limits: &KernelLimits) -> Result<KernelPolicy, Vec<String>> {
    let lists = "Places: {type: paths, list: [/a, /b/*, '*/c']}\nNets: {type: hosts, list: [10.0.0.0/8, localhost]}\n";
    let text = format!("{lists}P: {{policy: {policy_type}, rules: [{rules}]}}");
    let set = PolicySet::from_yaml("p.yaml", text).unwrap();
    let policy: &Arc<Policy> = set.policy("P").unwrap();
    KernelPolicy::lower(policy, &hook.clone().with_limits(*limits))
        .map_err(|obstacles| obstacles.iter().map(ToString::to_string).collect::<Vec<_>>())
}

fn lower(rules: &str) -> Result<KernelPolicy, Vec<String>> {
    lower_at(&Hook::exec_signal(), "program", rules, &KernelLimits::default())
}

fn paths(set: &KernelSet) -> &PathSet {
    let KernelSet::Paths(paths) = set else { panic!("{set:?}") };
    paths
}

#[test]
fn a_list_is_one_set_and_or_of_one_field_too() {
    let lowered = lower("'match programName in $Places or programName == \"/d\"', default ignore").unwrap();
    assert_eq!(lowered.rules.len(), 2);
    let [test] = &*lowered.rules[0].tests else { panic!("{lowered:?}") };
    let set = paths(&test.set);
    assert!(set.whole.contains(&b"/d"[..]) && set.whole.contains(&b"/a"[..]) && set.whole.len() == 2);
    assert!(set.beginnings.contains(&b"/b/"[..]) && set.ends.contains(&b"/c"[..]) && !test.negated);
    let neither = lower("'match uid != 1 and uid not in [2, 4] and uid > 9', default ignore").unwrap();
    let tests: Vec<_> = neither.rules[0].tests.iter().map(|test| (test.negated, test.set.clone())).collect();
    let all = u64::MAX;
    assert_eq!(tests, [(true, KernelSet::Numbers(vec![(1, 2), (4, 4)])), (false, KernelSet::Numbers(vec![(10, all)]))]);
}

#[test]
fn alternatives_are_rules_in_a_row_and_not_is_pushed_down() {
    let lowered =
        lower("'ignore not (uid == 0 and programIsMemfd == false)', 'match gid == 1 or euid == 2', default ignore")
            .unwrap();
    let shape: Vec<_> = lowered
        .rules
        .iter()
        .map(|rule| (rule.rule, rule.tests.iter().map(|test| (test.field, test.negated)).collect::<Vec<_>>()))
        .collect();
    assert_eq!(
        shape,
        [
            (0, vec![(Field::Uid, true)]),
            (0, vec![(Field::ProgramIsMemfd, false)]),
            (1, vec![(Field::Gid, false)]),
            (1, vec![(Field::Euid, false)]),
            (2, vec![]),
        ]
    );
}

#[test]
fn what_stands_in_the_way_is_told_test_by_test() {
    let refused = lower(
        "'ignore programArguments == \"x\" or userName == \"root\"', 'match programName like \"/a.*\" and parentProgramName =~ \
         \"/B\" and programName == \"/a/*/b\" and containerId == \"abc\" and ancestorProgramName == \"/x\"', default ignore",
    )
    .unwrap_err();
    assert_eq!(
        refused,
        [
            "`programArguments == \"x\"`: arguments are compared in user space",
            "`userName == \"root\"`: the kernel knows no names of users; compare the number",
            "`programName like \"/a.*\"`: regular expressions are matched in user space",
            "`parentProgramName =~ \"/B\"`: the kernel tells upper from lower case",
            "`programName == \"/a/*/b\"`: a `*` inside a path is compared in user space",
            "`containerId == \"abc\"`: the kernel knows only whether it is empty; the text is compared in user space",
            "`ancestorProgramName == \"/x\"`: the kernel compares no ancestors but the parent",
        ]
    );
    let hosts = "'match remoteHost in $Nets', default ignore";
    let refused = lower_at(&Hook::cgroup_connect(), "connect", hosts, &KernelLimits::default()).unwrap_err();
    assert_eq!(refused, ["`remoteHost in $Nets`: domain names of a list are resolved in user space"]);
    let refused = lower_at(&Hook::exec_signal(), "newFileExec", "default match", &KernelLimits::default()).unwrap_err();
    assert_eq!(refused, ["whether the file is new is remembered in user space"]);
    let refused = lower_at(&Hook::exec_signal(), "connect", "default match", &KernelLimits::default()).unwrap_err();
    assert_eq!(refused, ["events of kind `exec` do not raise it"]);
    let euid = "'match euid == 0', default ignore";
    let refused = lower_at(&Hook::lsm(EventKind::Exec), "program", euid, &KernelLimits::default()).unwrap_err();
    assert_eq!(refused, ["`euid == 0`: it is not known before set-user-id bits were looked at"]);
}

#[test]
fn each_limit_refuses_what_is_more() {
    let limits =
        KernelLimits { rules: 5, tests: 2, path_bytes: 8, entries: 8, path_ends: false, ..KernelLimits::default() };
    let refused = |rules: &str| lower_at(&Hook::exec_signal(), "program", rules, &limits).unwrap_err().join("; ");
    let fits = |rules: &str| lower_at(&Hook::exec_signal(), "program", rules, &limits).map(drop);
    let alternatives = "uid == 0 or gid == 0";
    assert_eq!(fits(&format!("'match ({alternatives}) and (euid == 0 or egid == 0)', default ignore")), Ok(()));
    let more = format!("'match ({alternatives}) and (euid == 0 or egid == 0 or processPid == 9)', default ignore");
    assert!(refused(&more).ends_with("more than 5 rules in the kernel"), "{}", refused(&more));
    let several =
        format!("'match {alternatives}', 'match euid == 0 or egid == 0', 'match processPid == 9', default match");
    assert_eq!(refused(&several), "it needs 6 rules in the kernel, where a policy has room for 5");
    assert!(
        refused("'match uid == 0 and gid == 0 and euid == 0', default ignore")
            .ends_with("2 tests at once in the kernel")
    );
    assert!(refused("'match programName == \"/12345678\"', default ignore").contains("more than 8 bytes"));
    assert!(refused("'match programName == \"*/wget\"', default ignore").contains("no ends of paths"));
    assert_eq!(fits("'match uid in [1, 3, 5, 7, 9, 11, 13, 15]', default ignore"), Ok(()));
    assert!(refused("'match uid in [1, 3, 5, 7, 9, 11, 13, 15, 17]', default ignore").contains("9 entries"));
}

#[test]
fn a_hard_link_is_caught_only_where_it_would_get_around_a_match() {
    let mut lowered = lower(
        "'ignore programName == \"/usr/bin/apt\"', 'match programName == \"/usr/bin/wget\" and programName != \"/x\"', \
         default ignore",
    )
    .unwrap();
    let identified: Vec<_> = lowered
        .identified()
        .map(|paths| {
            paths.set_identities(|path| (path == b"/usr/bin/wget").then_some((8, 77)));
            paths.whole.len()
        })
        .collect();
    assert_eq!(identified, [1]);
    let mut event = Event::new(EventKind::Exec);
    event.set_text(Field::ProgramName, b"/tmp/w").set_number(Field::ProgramDevice, 8);
    assert_eq!(lowered.decide(event.set_number(Field::ProgramInode, 77)), Some(KernelVerdict::Match { rule: 1 }));
    assert_eq!(lowered.decide(event.set_number(Field::ProgramInode, 78)), Some(KernelVerdict::Ignore { rule: 2 }));
}

#[test]
fn operations_are_those_that_the_policy_can_respond_to() {
    let at = |policy_type, rules| {
        let hook = if policy_type == "connect" { EventKind::Connect } else { EventKind::File };
        lower_at(&Hook::lsm(hook), policy_type, rules, &KernelLimits::default()).unwrap().operations
    };
    assert_eq!(at("file", "default match"), ["CREATE", "OPEN_WRITE", "RENAME", "LINK", "SYMLINK"]);
    assert_eq!(at("filemonitor", "'match fileOperation == \"UNLINK\"', default ignore"), ["UNLINK"]);
    assert_eq!(at("connect", "'match remotePort != 80', default ignore"), ["TCP", "UDP"]);
    assert_eq!(at("connect", "'ignore remotePort == 80', default match"), ["TCP", "UDP", "UNIX"]);
}

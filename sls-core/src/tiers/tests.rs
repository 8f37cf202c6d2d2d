use super::*;
use crate::hook::KernelLimits;
use crate::loader::PolicyLoader;
use crate::policy::PolicySet;

fn load(host: Capabilities, text: &str) -> Result<PolicySet, String> {
    let loaded = PolicyLoader::new().capabilities(host).document("p.yaml", text).load();
    loaded.map_err(|findings| {
        let lines = findings.as_slice().iter().map(|finding| {
            let help = finding.help.as_deref().unwrap_or_default();
            format!("{}: {} [{}] ({help})", finding.code, finding.message, finding.label)
        });
        lines.collect::<Vec<_>>().join("\n")
    })
}

fn host(hooks: impl IntoIterator<Item = Hook>) -> Capabilities {
    hooks.into_iter().fold(Capabilities::default().without_hooks(), Capabilities::hook)
}

fn mechanisms(host: Capabilities, text: &str) -> Vec<(Option<&'static str>, &'static str)> {
    let set = load(host, text).unwrap();
    set.tiers().cases().iter().map(|case| (case.operation, case.mechanism.name())).collect()
}

fn program(actions: &str, rule: &str) -> String {
    format!("P: {{policy: program, responseActions: [{actions}], rules: ['match {rule}', default ignore]}}")
}

#[test]
fn the_strongest_that_can_is_taken() {
    let wget = "programName == \"/usr/bin/wget\"";
    let arguments = "programName == \"/usr/bin/wget\" and programArguments == \"*x*\"";
    let container = "programName == \"/usr/bin/wget\" and containerName == \"web\"";
    let everywhere = "containerName == \"web\"";
    let exec = || host([Hook::exec_signal(), Hook::fanotify_exec()]);
    for (actions, rule, wanted) in [
        ("kill", wget, "exec signal"),
        ("stop", wget, "exec signal"),
        ("kill", container, "fanotify permission"),
        ("kill", everywhere, "pidfd"),
        ("kill", arguments, "pidfd"),
        ("kill-container", wget, "fanotify permission"),
        ("block", wget, "fanotify permission"),
        ("block, alert", everywhere, "fanotify permission"),
    ] {
        assert_eq!(mechanisms(exec(), &program(actions, rule)), [(None, wanted)], "{actions} {rule}");
    }
    let any = Capabilities::default;
    assert_eq!(mechanisms(any(), &program("block", wget)), [(None, "BPF LSM")]);
    assert_eq!(mechanisms(any(), &program("block", container)), [(None, "fanotify permission")]);
    assert!(mechanisms(any(), &program("alert", wget)).is_empty(), "nothing is enforced");
}

#[test]
fn every_stronger_one_is_accounted_for() {
    let text = program("kill", "programName == \"/usr/bin/wget\" and programArguments == \"*x*\"");
    let set = load(Capabilities::default(), &text).unwrap();
    let told = serde_json::to_value(set.tiers().cases()).unwrap();
    let reason = "`programArguments == \"*x*\"`: arguments are compared in user space";
    let held = "`programArguments == \"*x*\"`: `programArguments` is not known before it has happened";
    let expected = serde_json::json!([{
        "policy": "P", "event": "exec", "operation": null, "tier": "process", "mechanism": "pidfd",
        "passedOver": [
            {"tier": "kernel", "mechanism": "BPF LSM", "reasons": ["it refuses, and the policy has no `block`"]},
            {"tier": "kernel", "mechanism": "exec signal", "reasons": [reason]},
            {"tier": "fanotify", "mechanism": "fanotify permission", "reasons": [held]},
        ],
    }]);
    assert_eq!(told, expected);
    let missing = Capabilities::default().no_mechanism(Mechanism::Lsm, "the kernel has no BPF LSM (CONFIG_BPF_LSM)");
    let set = load(missing, &program("block", "programName == \"/x\"")).unwrap();
    let [case] = set.tiers().cases() else { panic!("one") };
    assert_eq!(case.passed_over[0].obstacles[0].to_string(), "the kernel has no BPF LSM (CONFIG_BPF_LSM)");
}

#[test]
fn a_wish_that_no_tier_meets_is_an_error() {
    let without = || Capabilities::default().without_hooks().no_mechanism(Mechanism::Lsm, "no CONFIG_BPF_LSM");
    let refused = load(without(), &program("block, alert", "uid == 0")).unwrap_err();
    assert_eq!(
        refused,
        "SLS028: `P` cannot block events of kind `exec`: no tier of this sensor refuses them [BPF LSM: no CONFIG_BPF_LSM; exec \
         signal: it signals a process, and refuses nothing; fanotify permission: this sensor does not have it] (`kill` ends \
         the program a moment later; `sls doctor` tells what this host lacks)"
    );
    let kernel = "P: {policy: program, tier: kernel, responseActions: [kill], rules: ['match userName == \"x\"', default ignore]}";
    let refused = load(Capabilities::default(), kernel).unwrap_err();
    assert!(refused.contains("SLS028") && refused.contains("in the tier `kernel`"), "{refused}");
    assert!(refused.contains("the kernel knows no names of users"), "{refused}");
    assert_eq!(
        load(without(), "P: {policy: program, enabled: false, responseActions: [block], rules: [default match]}")
            .map(drop),
        Ok(())
    );
}

#[test]
fn a_block_has_to_hold_all_that_happens() {
    let text = |test: &str| {
        format!(
            "P: {{policy: file, responseActions: [block], rules: ['match filePath == \"/etc/*\"{test}', default ignore]}}"
        )
    };
    let held = || host([Hook::fanotify_open()]);
    let refused = load(held(), &text("")).unwrap_err();
    assert!(
        refused.contains("`CREATE` in events of kind `file`") && refused.contains("does not hold `CREATE`"),
        "{refused}"
    );
    let narrow = text(" and fileOperation == \"OPEN_WRITE\"");
    assert_eq!(mechanisms(held(), &narrow), [(Some("OPEN_WRITE"), "fanotify permission")]);
    let all: Vec<_> =
        ["CREATE", "OPEN_WRITE", "RENAME", "LINK", "SYMLINK"].map(|operation| (Some(operation), "BPF LSM")).to_vec();
    assert_eq!(mechanisms(Capabilities::default(), &text("")), all);
    let unlink = "P: {policy: filemonitor, responseActions: [block], rules: ['match fileOperation == \"UNLINK\"', default ignore]}";
    assert_eq!(mechanisms(host([Hook::lsm(EventKind::File)]), unlink), [(Some("UNLINK"), "BPF LSM")]);
}

#[test]
fn connections_over_ip_need_no_lsm() {
    let text = |rule: &str| format!("P: {{policy: connect, responseActions: [block], rules: [{rule}]}}");
    let cgroup = || host([Hook::cgroup_connect()]);
    let inet = text("'match remoteHost == \"10.0.0.0/8\"', default ignore");
    assert_eq!(mechanisms(cgroup(), &inet), [(Some("TCP"), "cgroup connect"), (Some("UDP"), "cgroup connect")]);
    let set = load(cgroup(), &inet).unwrap();
    let lowered: Vec<_> = set.tiers().kernel_policies(Mechanism::CgroupConnect, EventKind::Connect).collect();
    assert_eq!((lowered.len(), &*lowered[0].operations), (1, &["TCP", "UDP"][..]));
    let unix = load(cgroup(), &text("default match")).unwrap_err();
    assert!(unix.contains("`UNIX`"), "{unix}");
}

#[test]
fn what_the_kernel_has_no_room_for_is_known_at_load() {
    let small = Hook::exec_signal().with_limits(KernelLimits { policies: 1, ..KernelLimits::default() });
    let one = |name: &str, key: &str| {
        format!(
            "{name}: {{policy: program, {key} responseActions: [kill], rules: ['match uid == 7', default ignore]}}\n"
        )
    };
    let two = one("A", "") + &one("B", "");
    assert_eq!(mechanisms(host([small.clone()]), &two), [(None, "exec signal"), (None, "pidfd")]);
    let refused = load(host([small]), &(one("A", "") + &one("B", "tier: kernel,"))).unwrap_err();
    assert!(refused.contains("`B`") && refused.contains("there is room for 1 policies only"), "{refused}");
}

#[test]
fn content_that_a_host_cannot_enforce_is_left_out() {
    let text = program("block", "uid == 0");
    let loader = PolicyLoader::new().capabilities(Capabilities::default().without_hooks()).content("c.yaml", text);
    let set = loader.load().unwrap();
    assert!(set.policies().is_empty());
    assert_eq!(set.left_out().as_slice()[0].code.id(), "SLS028");
}

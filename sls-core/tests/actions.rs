//! The actions, row by row: who may have them, what they act upon, in which order, and what their alerts say.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Code, Engine, Event, EventKind, Execution, Field,
    GuardedPlanner, Guards, MessageType, PendingAlert, PlannedAction, Policy, PolicySet, PolicyType, ProcessKey,
    Responder, TargetType, Tier,
};

/// The types whose events no process raises.
const WITHOUT_PROCESS: &[PolicyType] = &[PolicyType::Container, PolicyType::Selinux, PolicyType::SmepSmap];
const WITH_FILE: &[PolicyType] =
    &[PolicyType::File, PolicyType::FileMonitor, PolicyType::NewFileExec, PolicyType::Chmod];
const BLOCKABLE: &[PolicyType] = &[
    PolicyType::Program,
    PolicyType::File,
    PolicyType::FileMonitor,
    PolicyType::Connect,
    PolicyType::Ptrace,
    PolicyType::KernelModule,
];

/// Which policy types may have an action.
#[derive(Clone, Copy)]
enum May {
    All,
    Only(&'static [PolicyType]),
    AllBut(&'static [PolicyType]),
}

impl May {
    fn have(self, policy_type: PolicyType) -> bool {
        match self {
            Self::All => true,
            Self::Only(types) => types.contains(&policy_type),
            Self::AllBut(types) => !types.contains(&policy_type),
        }
    }
}

/// Tokens as policies may write them, the token in alerts, who may have it, and the target type.
const TABLE: &[(&str, &str, May, Option<&str>)] = &[
    ("alert", "alert", May::All, None),
    ("audit", "audit", May::All, None),
    ("block", "block", May::Only(BLOCKABLE), Some("operation")),
    ("stop", "stop", May::AllBut(WITHOUT_PROCESS), Some("process")),
    ("suspend", "stop", May::AllBut(WITHOUT_PROCESS), Some("process")),
    ("pause-container", "pause-container", May::AllBut(WITHOUT_PROCESS), Some("container")),
    ("quarantine", "quarantine", May::Only(WITH_FILE), Some("file")),
    ("delete", "delete", May::Only(WITH_FILE), Some("file")),
    ("delete-file", "delete", May::Only(WITH_FILE), Some("file")),
    ("kill", "kill", May::AllBut(WITHOUT_PROCESS), Some("process")),
    ("kill-tree", "kill-tree", May::AllBut(WITHOUT_PROCESS), Some("process")),
    ("kill-container", "kill-container", May::AllBut(WITHOUT_PROCESS), Some("container")),
];

#[test]
fn each_policy_type_may_have_the_actions_of_the_table() {
    for (written, token, may, target) in TABLE {
        let action = Action::from_token(written).unwrap();
        assert_eq!(action.token(), *token);
        assert_eq!(action.target_type().map(TargetType::name), *target, "{written}");
        for policy_type in PolicyType::ALL {
            let loaded = load(*policy_type, &format!("responseActions: [{written}]"));
            match loaded {
                Ok(policy) => {
                    assert!(may.have(*policy_type), "a {policy_type} policy may have {written}");
                    assert_eq!(tokens(&policy), [*token]);
                }
                Err(code) => {
                    assert!(!may.have(*policy_type), "no {policy_type} policy may have {written}");
                    assert_eq!(code, Code::WrongAction, "{policy_type} {written}");
                }
            }
        }
    }
    for action in Action::ALL {
        assert!(TABLE.iter().any(|(_, token, ..)| *token == action.token()), "{action} is not in the table");
    }
}

#[test]
fn tokens_are_written_as_they_are() {
    for wrong in ["Kill", "kill_tree", "kill ", "isolate-host", "smart_policy", ""] {
        let loaded = load(PolicyType::Program, &format!("responseActions: ['{wrong}']"));
        assert_eq!(loaded.unwrap_err(), Code::UnknownName, "{wrong:?}");
    }
}

#[test]
fn the_short_form_alerts_as_well() {
    for (written, expected) in [
        ("responseAction: kill", &["alert", "kill"][..]),
        ("responseAction: delete-file", &["alert", "delete"]),
        ("responseAction: suspend", &["alert", "stop"]),
        ("responseAction: audit", &["alert", "audit"]),
        ("responseActions: [kill]", &["kill"]),
        ("responseActions: []", &[]),
        ("enabled: true", &["alert"]),
    ] {
        assert_eq!(tokens(&load(PolicyType::File, written).unwrap()), expected, "{written}");
    }
    let both = load(PolicyType::File, "responseAction: kill, responseActions: [kill]");
    assert_eq!(both.unwrap_err(), Code::Conflict);
}

#[test]
fn several_actions_run_in_the_safe_order() {
    const ORDER: [&str; 8] =
        ["block", "stop", "pause-container", "quarantine", "delete", "kill", "kill-tree", "kill-container"];
    let mut written: Vec<_> = ORDER.into_iter().chain(["alert"]).collect();
    for _ in 0..written.len() {
        written.rotate_left(1);
        let mut recording = Answering::with(|_| ActionResult::Successful);
        let alert = respond(&written.join(", "), Guards::default(), false, &mut recording).remove(0);
        assert_eq!(recording.executed, ORDER, "{written:?}");
        let reported: Vec<_> = alert["notifications"].as_array().unwrap()[1..]
            .iter()
            .map(|notification| notification["message_fields"]["action_type"].as_str().unwrap())
            .collect();
        assert_eq!(reported, ORDER);
    }
}

#[test]
fn the_message_type_is_that_of_the_policy() {
    for (actions, message_type) in [
        ("alert", Some(MessageType::Alert)),
        ("audit", Some(MessageType::Audit)),
        ("alert, audit", Some(MessageType::Alert)),
        ("kill, audit", Some(MessageType::Audit)),
        ("kill", None),
    ] {
        let mut found = Vec::new();
        let mut answering = Answering::with(|_| ActionResult::Successful);
        process(actions, Guards::default(), false, &mut answering, &mut |pending| found.push(pending.message_type()));
        assert_eq!(found, [message_type], "{actions}");
    }
}

/// What comes of an action, and what its alert says of it.
#[test]
fn each_result_is_reported_in_words() {
    let not_successful = |_: &str| ActionResult::NotSuccessful { details: "no such process".to_owned() };
    for (token, target) in TABLE
        .iter()
        .filter_map(|(written, token, _, target)| target.filter(|_| written == token).map(|target| (*token, target)))
    {
        let reported = |guards: Guards, dry_run, result: fn(&str) -> ActionResult| {
            let mut answering = Answering::with(result);
            let alert = respond(&format!("{token}, alert"), guards, dry_run, &mut answering).remove(0);
            let [detection, action] = &alert["notifications"].as_array().unwrap()[..] else { panic!("{alert}") };
            assert_eq!(detection["message_fields"], json!({"file_path": "/etc/pwn"}));
            for key in ["uuid", "name"] {
                assert_eq!(action[key], detection[key]);
            }
            let fields = &action["message_fields"];
            assert_eq!(fields["action_type"], token);
            assert_eq!(fields["action_target_type"], target);
            // Where nothing was tried, there is no tier and no time.
            let acted = ["successful", "not successful"].contains(&fields["action_result"].as_str().unwrap());
            assert_eq!(acted, !answering.executed.is_empty(), "{action}");
            assert_eq!(fields.get("action_tier").map(|tier| tier == "process"), acted.then_some(true), "{action}");
            assert_eq!(fields.get("action_latency_us").map(|time| time == 7), acted.then_some(true), "{action}");
            let details = fields.get("action_result_details").map(|details| details.as_str().unwrap().to_owned());
            let message = action["message"].as_str().unwrap().to_owned();
            (fields["action_result"].as_str().unwrap().to_owned(), message, details)
        };
        let expect = |result: &str, message: String, details: Option<&str>| {
            (result.to_owned(), message, details.map(str::to_owned))
        };

        let done = reported(Guards::default(), false, |_| ActionResult::Successful);
        assert_eq!(done, expect("successful", format!("Took responseAction: {token}"), None));

        let failed = match target {
            "process" => format!("unable to {token} process 2745: no such process"),
            "file" => format!("unable to {token} the file: no such process"),
            _ => format!("unable to take responseAction {token}: no such process"),
        };
        let found = reported(Guards::default(), false, not_successful);
        assert_eq!(found, expect("not successful", failed, Some("no such process")));

        let dry = reported(Guards::default(), true, |_| ActionResult::Successful);
        assert_eq!(dry, expect("dry run", format!("Would have taken responseAction: {token}"), None));

        // The same in dry run: guards are asked before.
        let details = Some("forbidden-action: the operator forbids this action");
        for dry_run in [false, true] {
            let refused = reported(Guards::default().forbid_action(token), dry_run, |_| ActionResult::Successful);
            assert_eq!(refused, expect("refused", format!("Refused responseAction: {token}"), details));
        }

        // Who acts may still refuse, and names its guard.
        let late = |_: &str| ActionResult::Refused { details: "process-identity: it is another".to_owned() };
        let mut answering = Answering::with(late);
        let alert = respond(&format!("{token}, alert"), Guards::default(), false, &mut answering).remove(0);
        let fields = &alert["notifications"][1]["message_fields"];
        assert_eq!(fields["action_result"], "refused");
        assert_eq!(fields["action_result_details"], "process-identity: it is another");
        assert!(fields.get("action_tier").is_none() && fields.get("action_latency_us").is_none());
    }
}

#[test]
fn a_protected_process_is_spared_by_all_that_reaches_it() {
    let guards = Guards::none().protect_program("/usr/bin/evil");
    for (token, spared) in [
        ("block", true),
        ("stop", true),
        ("kill", true),
        ("kill-tree", true),
        ("pause-container", true),
        ("kill-container", true),
        // A file is its target, not who wrote it.
        ("quarantine", false),
        ("delete", false),
    ] {
        let mut answering = Answering::with(|_| ActionResult::Successful);
        let alert = respond(&format!("{token}, alert"), guards.clone(), false, &mut answering).remove(0);
        let fields = &alert["notifications"][1]["message_fields"];
        assert_eq!(fields["action_result"], if spared { "refused" } else { "successful" }, "{token}");
        if spared {
            let details = fields["action_result_details"].as_str().unwrap();
            assert_eq!(details, "protected-program: the operator protects this program", "{token}");
        }
    }
}

#[test]
fn what_the_event_does_not_identify_is_not_acted_upon() {
    for (token, strip, guard) in [
        ("kill", (|event: &mut Event| event.process.start = 0) as fn(&mut Event), "process-identity"),
        ("kill-container", |event| _ = event.clear(Field::ContainerId), "container"),
        ("pause-container", |event| event.container_cgroup_id = None, "container-identity"),
        ("delete", |event| _ = event.clear(Field::FileInode), "file-identity"),
        ("quarantine", |event| _ = event.clear(Field::FileDevice), "file-identity"),
    ] {
        let mut answering = Answering::with(|_| ActionResult::Successful);
        let mut alerts = Vec::new();
        let mut event = event();
        strip(&mut event);
        let mut engine = Engine::builder(policies(&format!("{token}, alert"))).build();
        engine.process(&mut event, &mut answering, &mut |pending| alerts.push(pending.complete()));
        let notification = &alerts[0].notifications[1];
        assert_eq!(notification.message_fields.action_result, Some("refused"), "{token}");
        let details = notification.message_fields.action_result_details.as_ref().unwrap();
        assert!(details.starts_with(&format!("{guard}: ")), "{token}: {details}");
        assert!(answering.executed.is_empty());
    }
}

/// The policy of one document, or the code of its only error.
fn load(policy_type: PolicyType, attribute: &str) -> Result<Policy, Code> {
    let own = match policy_type {
        PolicyType::Kprobe => ", symbol: do_exit",
        PolicyType::Uprobe => ", symbol: main, executable: /bin/x",
        _ => "",
    };
    let text = format!("P: {{policy: {policy_type}{own}, rules: [default match], {attribute}}}");
    match PolicySet::from_yaml("p.yaml", text) {
        Ok(set) => Ok(Policy::clone(&set.policies()[0])),
        Err(findings) => {
            let [finding] = findings.as_slice() else { panic!("{findings}") };
            Err(finding.code)
        }
    }
}

fn tokens(policy: &Policy) -> Vec<&'static str> {
    policy.actions.iter().map(Action::token).collect()
}

fn policies(actions: &str) -> PolicySet {
    let rules = r#"rules: ['match filePath == "/etc/pwn"', default ignore]"#;
    PolicySet::from_yaml("p.yaml", format!("P: {{policy: file, responseActions: [{actions}], {rules}}}")).unwrap()
}

/// A file that a process of a container made: every action has its target.
fn event() -> Event {
    let mut event = Event::new(EventKind::File);
    (event.time, event.process) = (1_000_000, ProcessKey { pid: 2745, start: 5 });
    event.container_cgroup_id = Some(99);
    event
        .set_text(Field::ProgramName, b"/usr/bin/evil")
        .set_text(Field::FileOperation, b"CREATE")
        .set_text(Field::FilePath, b"/etc/pwn")
        .set_number(Field::FileDevice, 8)
        .set_number(Field::FileInode, 77)
        .set_text(Field::ContainerId, b"c0ffee");
    event
}

fn process(
    actions: &str,
    guards: Guards,
    dry_run: bool,
    responder: &mut Answering,
    alert: &mut dyn FnMut(PendingAlert),
) {
    let planner = GuardedPlanner::new(guards);
    let mut engine = Engine::builder(policies(actions)).planner(planner).dry_run(dry_run).build();
    engine.process(&mut event(), responder, alert);
}

fn respond(actions: &str, guards: Guards, dry_run: bool, responder: &mut Answering) -> Vec<Value> {
    let mut alerts = Vec::new();
    process(actions, guards, dry_run, responder, &mut |pending| {
        alerts.push(serde_json::from_str(&pending.complete().to_json()).unwrap());
    });
    alerts
}

/// Carries nothing out, 7 µs after the event, and says what it is told to.
#[derive(Debug)]
struct Answering {
    result: fn(&str) -> ActionResult,
    executed: Vec<&'static str>,
}

impl Answering {
    fn with(result: fn(&str) -> ActionResult) -> Self {
        Self { result, executed: Vec::new() }
    }
}

impl Responder for Answering {
    fn supports(&self) -> ActionSet {
        Action::ALL.iter().copied().collect()
    }

    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        let token = action.action.token();
        self.executed.push(token);
        let mut outcome = ActionOutcome::new(action, (self.result)(token));
        (outcome.tier, outcome.time) = (Some(Tier::Process), Some(context.event().time + 7_000));
        Execution::Done(outcome)
    }
}

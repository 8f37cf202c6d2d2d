//! Actions that embedders add are treated as SLS's own: at load, in plans, guards, dry runs, explanations, tests, schemas
//! and alerts.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::{Value, json};
use sls_core::{
    Action, ActionContext, ActionOutcome, ActionPlanner, ActionResult, ActionSet, Capabilities, Code, CustomAction,
    Diagnostics, Engine, EngineBuilder, Event, EventKind, Execution, Field, GuardedPlanner, Guards, Limits, Permission,
    PlanContext, PlannedAction, PolicyLoader, PolicySet, PolicyTests, PolicyType, ProcessKey, Responder, Target,
    TargetType, TreeMatcher,
};

static ISOLATE: CustomAction = CustomAction::new("isolate-host", TargetType::Host);
static LOG_OUT: CustomAction = CustomAction::new("log-out", TargetType::Process);
static SNAPSHOT: CustomAction = CustomAction::new("snapshot", TargetType::Container);
static UPLOAD: CustomAction = CustomAction::new("upload", TargetType::File);
static ALL: [Action; 4] =
    [Action::Custom(&ISOLATE), Action::Custom(&LOG_OUT), Action::Custom(&SNAPSHOT), Action::Custom(&UPLOAD)];

#[test]
fn a_policy_may_have_what_the_responder_supports() {
    let text = policy("isolate-host, kill, alert");
    let policy = load(&text, &ALL).unwrap().policies()[0].clone();
    let tokens: Vec<_> = policy.actions.iter().map(Action::token).collect();
    assert_eq!(tokens, ["alert", "isolate-host", "kill"], "what kills comes last");

    let unknown = load(&text, &[]).unwrap_err();
    assert_eq!(unknown.as_slice()[0].code, Code::UnknownName);
    assert!(unknown.as_slice()[0].message.contains("`isolate-host`"));

    // A slip of the pen finds it as it does the others.
    let near = load(&text.replace("isolate", "isolte"), &ALL).unwrap_err();
    assert_eq!(near.as_slice()[0].suggestion.as_ref().unwrap().replacement, "isolate-host");
}

#[test]
fn its_target_decides_which_policies_may_have_it() {
    static OF_PTRACE: CustomAction =
        CustomAction::new("report-peer", TargetType::Process).policy_types(&[PolicyType::Ptrace]);
    for (action, types) in [
        (&ISOLATE, [true, true, true, true]),
        (&LOG_OUT, [true, true, false, true]),
        (&SNAPSHOT, [true, true, false, true]),
        (&UPLOAD, [false, true, false, false]),
        (&OF_PTRACE, [false, false, false, true]),
    ] {
        let names = ["program", "file", "container", "ptrace"];
        for (policy_type, may) in names.into_iter().zip(types) {
            let text =
                format!("P: {{policy: {policy_type}, rules: [default match], responseAction: {}}}", action.token());
            match load(&text, &[Action::Custom(action)]) {
                Ok(_) => assert!(may, "{policy_type} may have {action:?}"),
                Err(findings) => {
                    assert!(!may, "{findings}");
                    assert_eq!(findings.as_slice()[0].code, Code::WrongAction);
                }
            }
        }
    }
}

/// What an action acts on, and who is spared by it, follows from the kind of its target alone.
#[test]
fn targets_and_guards_are_those_of_the_own_actions() {
    let pairs = [(&LOG_OUT, "kill"), (&SNAPSHOT, "kill-container"), (&UPLOAD, "delete")];
    let strips: [fn(&mut Event); 5] = [
        |_| (),
        |event| event.process.pid = 1,
        |event| event.process.start = 0,
        |event| _ = event.clear(Field::ContainerId).clear(Field::FileInode),
        |event| event.container_cgroup_id = None,
    ];
    for guards in [
        Guards::default(),
        Guards::none().protect_program("/usr/bin/evil"),
        Guards::none().protect_path("/etc/*"),
        Guards::none().protect_cgroup(99),
        Guards::none(),
    ] {
        for (custom, own) in pairs {
            for strip in strips {
                let mut event = event();
                strip(&mut event);
                let [custom, own] = [custom.token(), own].map(|token| plan(token, &event, guards.clone()));
                assert_eq!((custom.target, custom.permission), (own.target, own.permission));
            }
        }
    }
}

#[test]
fn the_host_is_guarded_by_forbidding_the_action() {
    // Whoever raised it: the host is no process.
    let mut init = event();
    init.process.pid = 1;
    let planned = plan("isolate-host", &init, Guards::default());
    assert_eq!((planned.target, planned.permission), (Target::Host, Permission::Granted));

    let guards = Guards::default().forbid_action("isolate-host");
    let Permission::Refused(refusal) = plan("isolate-host", &event(), guards.clone()).permission else {
        panic!("it was not refused")
    };
    assert_eq!(refusal.to_string(), "forbidden-action: the operator forbids this action");
    assert_eq!(plan("kill", &event(), guards).permission, Permission::Granted);
}

#[test]
fn alerts_tell_of_it() {
    let alert = |build: fn(EngineBuilder) -> EngineBuilder| -> (Value, usize) {
        let mut responder = Embedder::default();
        let engine = Engine::builder(load(&policy("isolate-host, alert"), &ALL).unwrap());
        let mut found = Vec::new();
        build(engine).build().process(&mut event(), &mut responder, &mut |pending| {
            found.push(serde_json::from_str(&pending.complete().to_json()).unwrap());
        });
        let [alert]: [Value; 1] = found.try_into().unwrap();
        (alert["notifications"][1].clone(), responder.executed)
    };

    let (done, executed) = alert(|builder| builder);
    assert_eq!((done["message"].as_str().unwrap(), executed), ("Took responseAction: isolate-host", 1));
    let fields = json!({"action_type": "isolate-host", "action_target_type": "host", "action_result": "successful"});
    assert_eq!(done["message_fields"], fields);

    let (dry, executed) = alert(|builder| builder.dry_run(true));
    assert_eq!((dry["message"].as_str().unwrap(), executed), ("Would have taken responseAction: isolate-host", 0));
    assert_eq!(dry["message_fields"]["action_result"], "dry run");

    let (refused, executed) =
        alert(|builder| builder.planner(GuardedPlanner::new(Guards::default().forbid_action("isolate-host"))));
    assert_eq!((refused["message"].as_str().unwrap(), executed), ("Refused responseAction: isolate-host", 0));
    assert_eq!(refused["message_fields"]["action_result"], "refused");
}

#[test]
fn explanations_show_it() {
    for (guards, permission, guard) in [
        (Guards::default(), "granted", None),
        (
            Guards::default().forbid_action("isolate-host"),
            "refused",
            Some("forbidden-action: the operator forbids this action"),
        ),
    ] {
        let policies = load(&policy("isolate-host, alert"), &ALL).unwrap();
        let mut engine = Engine::builder(policies).planner(GuardedPlanner::new(guards)).build();
        let explanation = engine.explain(&mut event()).remove(0);
        let [planned] = &explanation.plan[..] else { panic!("{explanation:?}") };
        assert_eq!((planned.action, planned.permission, planned.guard.as_deref()), ("isolate-host", permission, guard));
    }
}

#[test]
fn policy_tests_expect_it() {
    let text = |expected: &str| {
        let event = "{kind: file, programName: /usr/bin/evil, fileOperation: CREATE, filePath: /etc/pwn}";
        format!("tests: [{{name: t, event: {event}, expect: [{{policy: P, actions: [{expected}]}}]}}]")
    };
    let read = |text: String, actions| PolicyTests::with_actions("t.yaml", text, &Limits::default(), actions);
    let set: ActionSet = ALL.into_iter().collect();
    let policies = || load(&policy("isolate-host, alert"), &ALL).unwrap();
    let passes = |expected: &str| read(text(expected), set).unwrap().run(policies()).unwrap()[0].passed();
    assert!(passes("isolate-host, alert"));
    assert!(!passes("alert"));
    assert!(!passes("isolate-host: refused, alert"));

    let unknown = read(text("isolate-hosts"), set).unwrap_err();
    assert_eq!(unknown.as_slice()[0].suggestion.as_ref().unwrap().replacement, "isolate-host");
    assert_eq!(
        PolicyTests::from_yaml("t.yaml", text("isolate-host")).unwrap_err().as_slice()[0].code,
        Code::UnknownName
    );
}

#[test]
fn warnings_count_it_as_acting() {
    let text = "P: {policy: program, rules: [default match], responseActions: [isolate-host]}";
    let set = load(text, &ALL).unwrap();
    let [warning] = set.warnings().as_slice() else { panic!("{}", set.warnings()) };
    assert_eq!(warning.code, Code::MatchesEverything);
    assert!(warning.message.contains("`isolate-host` for every event"), "{}", warning.message);
}

#[test]
fn the_effective_document_keeps_it() {
    let set = load(&policy("isolate-host, alert"), &ALL).unwrap();
    let again = load(set.effective_document(), &ALL).unwrap();
    assert_eq!(again.hash(), set.hash());
    assert_eq!(again.policies()[0].actions, set.policies()[0].actions);
}

#[cfg(feature = "json-schema")]
#[test]
fn the_schema_has_it_where_it_fits() {
    let schema = sls_core::document_schema(ALL.into_iter().collect());
    let own = sls_core::document_schema(ActionSet::EMPTY);
    assert_eq!(own, schemars::schema_for!(PolicySet));
    let has = |schema: &schemars::Schema, policy_type: &str, token: &str| {
        let place = format!("/$defs/Policy.{policy_type}/properties/responseActions/items/enum");
        schema.pointer(&place).unwrap().as_array().unwrap().contains(&token.into())
    };
    for (policy_type, token, fits) in [
        ("program", "isolate-host", true),
        ("selinux", "isolate-host", true),
        ("selinux", "log-out", false),
        ("program", "upload", false),
        ("file", "upload", true),
    ] {
        assert_eq!(has(&schema, policy_type, token), fits, "{policy_type} {token}");
        assert!(!has(&own, policy_type, token));
    }
}

/// A policy on what [`event`] is.
fn policy(actions: &str) -> String {
    let rules = r#"rules: ['match filePath == "/etc/pwn"', default ignore]"#;
    format!("P: {{policy: file, responseActions: [{actions}], {rules}}}")
}

fn load(text: &str, actions: &[Action]) -> Result<PolicySet, Diagnostics> {
    let own = Action::ALL.iter().chain(actions).copied().collect();
    let capabilities = Capabilities::new(|_| Field::all().collect(), own);
    PolicyLoader::new().capabilities(capabilities).document("p.yaml", text).load()
}

/// What is planned about `event` for the only action.
fn plan(token: &str, event: &Event, guards: Guards) -> PlannedAction {
    use sls_core::Matcher;
    let policies = load(&policy(token), &ALL).unwrap();
    let planner = GuardedPlanner::new(guards);
    let mut planned = Vec::new();
    TreeMatcher::new(policies.into()).decide(event, &mut |decision| {
        planned.extend(planner.plan(&PlanContext::new(event, decision, false)).actions().cloned());
    });
    let [planned]: [PlannedAction; 1] = planned.try_into().unwrap();
    assert_eq!(planned.action.token(), token);
    planned
}

/// A file that a process of a container made.
fn event() -> Event {
    let mut event = Event::new(EventKind::File);
    event.process = ProcessKey { pid: 2745, start: 5 };
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

#[derive(Debug, Default)]
struct Embedder {
    executed: usize,
}

impl Responder for Embedder {
    fn supports(&self) -> ActionSet {
        ALL.into_iter().collect()
    }

    fn execute(&mut self, action: &PlannedAction, _: &ActionContext<'_>) -> Execution {
        self.executed += 1;
        Execution::Done(ActionOutcome::new(action, ActionResult::Successful))
    }
}

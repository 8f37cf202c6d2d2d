//! A response of one's own: `isolate-host`, carried out through the embedder's transport. No kernel, no root.

// An example shows what it does.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use sls_core::{
    Action, ActionContext, ActionOutcome, ActionResult, ActionSet, Capabilities, CustomAction, DryRunResponder, Engine,
    Event, EventKind, Execution, Field, PlannedAction, PolicyLoader, ProcessKey, Responder, Responders, TargetType,
};

static ISOLATE: CustomAction = CustomAction::new("isolate-host", TargetType::Host);

const POLICIES: &str = r#"
Beacon:
  policy: program
  responseActions: [isolate-host, kill, alert]
  rules: ['match programName == "/tmp/beacon"', default ignore]
"#;

/// Asks whoever manages the network. `execute` runs on the thread that reads events: a transport that answers later
/// returns [`Execution::Pending`].
#[derive(Debug)]
struct NetworkController(std::sync::mpsc::Sender<String>);

impl Responder for NetworkController {
    fn supports(&self) -> ActionSet {
        [Action::Custom(&ISOLATE)].into_iter().collect()
    }

    fn execute(&mut self, action: &PlannedAction, context: &ActionContext<'_>) -> Execution {
        let result = match self.0.send(format!("isolate this host: {}", context.policy_name())) {
            Ok(()) => ActionResult::Successful,
            Err(error) => ActionResult::NotSuccessful { details: error.to_string() },
        };
        Execution::Done(ActionOutcome::new(action, result))
    }
}

fn main() -> Result<(), sls_core::Diagnostics> {
    let (transport, requests) = std::sync::mpsc::channel();
    // Kill and the others would be `sls_actions::ProcessResponder`; here nobody is killed.
    let mut responder = Responders::default().with(NetworkController(transport)).with(DryRunResponder);
    let capabilities = Capabilities::new(|_| Field::all().collect(), responder.supports());
    let policies = PolicyLoader::new().capabilities(capabilities).document("built-in", POLICIES).load()?;
    let mut engine = Engine::builder(policies).dry_run(std::env::args().any(|arg| arg == "--dry-run")).build();

    let mut event = Event::new(EventKind::Exec);
    (event.time, event.process) = (1_732_420_000_000_000_000, ProcessKey { pid: 30, start: 30 });
    event.set_text(Field::ProgramName, b"/tmp/beacon");
    engine.process(&mut event, &mut responder, &mut |pending| println!("{}", pending.complete().to_json()));
    requests.try_iter().for_each(|request| eprintln!("sent: {request}"));
    Ok(())
}

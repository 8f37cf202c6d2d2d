//! A dry run of every action against a real run of it, on real processes, cgroups and files. Needs root and cgroup version 2.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod files;
mod support;

use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use serde_json::Value;
use sls_actions::{ContainerResponder, ProcessResponder, process_key};
use sls_core::{Action, Engine, Event, EventKind, Field, PolicySet, Responder, Responders};

use files::Place;
use support::containers::OwnCgroup;
use support::{Child, patience, thread_states, wait_until};

/// What an action can be about: a process in a cgroup of its own that made a file.
struct Scene {
    place: Place,
    cgroup: OwnCgroup,
    child: Child,
    file: PathBuf,
}

impl Scene {
    fn new() -> Self {
        let (place, cgroup, child) = (Place::new(), OwnCgroup::new(), Child::sleeping());
        cgroup.add(child.pid as u32);
        wait_until("the child is in its cgroup", || !cgroup.is_empty());
        let file = place.file("evil", b"x");
        Self { place, cgroup, child, file }
    }

    fn event(&self) -> Event {
        let metadata = fs::metadata(&self.file).unwrap();
        let path = self.file.as_os_str().as_bytes();
        let mut event = Event::new(EventKind::File);
        event.time = 1_000_000;
        event.process = process_key(self.child.pid as u32).unwrap();
        event.container_cgroup_id = Some(self.cgroup.id());
        event
            .set_text(Field::ProgramName, b"/usr/bin/evil")
            .set_text(Field::FileOperation, b"CREATE")
            .set_text(Field::FilePath, path)
            .set_text(Field::HostFilePath, path)
            .set_number(Field::FileDevice, metadata.dev())
            .set_number(Field::FileInode, metadata.ino())
            .set_text(Field::ContainerId, b"c0ffee");
        event
    }

    fn responders(&self) -> Responders {
        let processes = ProcessResponder::builder().confirm_timeout(patience()).build().unwrap();
        let containers = ContainerResponder::builder().confirm_timeout(patience()).build().unwrap();
        Responders::default().with(processes).with(containers).with(self.place.responder())
    }

    /// The alert of one event in an engine of its own.
    fn alert(&self, action: Action, dry_run: bool) -> Value {
        let rules = r#"rules: ['match fileOperation == "CREATE"', default ignore]"#;
        let text = format!("P: {{policy: file, responseActions: [{action}, alert], {rules}}}");
        let mut engine = Engine::builder(PolicySet::from_yaml("p.yaml", text).unwrap()).dry_run(dry_run).build();
        let mut alerts = Vec::new();
        engine.process(&mut self.event(), &mut self.responders(), &mut |pending| alerts.push(pending.complete()));
        let [alert] = &alerts[..] else { panic!("{} alerts", alerts.len()) };
        serde_json::from_str(&alert.to_json()).unwrap()
    }

    fn is_untouched(&self) -> bool {
        // Looking must not reap it.
        let goes_on = !thread_states(self.child.pid).contains(['T', 'Z', 'X']);
        goes_on && !self.cgroup.is_frozen() && self.file.exists()
    }
}

#[test]
fn every_action_is_reported_as_it_would_be_taken() {
    let supported = Scene::new().responders().supports();
    let acting: Vec<_> = Action::ALL.iter().copied().filter(|action| action.target_type().is_some()).collect();
    // What is to be refused before it happens, nobody can do after it.
    let missing: Vec<_> = acting.iter().filter(|action| !supported.contains(**action)).collect();
    assert_eq!(missing, [&Action::Block]);
    for action in acting.into_iter().filter(|action| supported.contains(*action)) {
        let scene = Scene::new();
        let dry = scene.alert(action, true);
        assert!(scene.is_untouched(), "{action} in dry run");
        let real = scene.alert(action, false);
        assert!(!scene.is_untouched(), "{action}");

        let [dry_entry, real_entry] = [&dry, &real].map(|alert| alert["notifications"][1].clone());
        assert_eq!(dry_entry["message"], format!("Would have taken responseAction: {action}"));
        assert_eq!(real_entry["message"], format!("Took responseAction: {action}"), "{real_entry}");
        assert_eq!(dry_entry["message_fields"]["action_result"], "dry run");
        assert_eq!(real_entry["message_fields"]["action_result"], "successful");
        for key in ["action_tier", "action_latency_us"] {
            let has = |entry: &Value| entry["message_fields"].get(key).is_some();
            assert!(!has(&dry_entry) && has(&real_entry), "{action} {key}");
        }
        assert_eq!(without_results(dry), without_results(real));
    }
}

/// The alert without what a dry run may say otherwise of its action.
fn without_results(mut alert: Value) -> Value {
    let entry = alert["notifications"][1].as_object_mut().unwrap();
    entry.retain(|key, _| !["message", "timestamp"].contains(&key.as_str()));
    let may_differ = ["action_result", "action_result_details", "action_tier", "action_latency_us"];
    entry["message_fields"].as_object_mut().unwrap().retain(|key, _| !may_differ.contains(&key.as_str()));
    alert
}

//! Policies of the types that look at more than executions, from the document to the alert, on the real kernel.

// A test may panic.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod support;

use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

use support::{Alert, Sensor, Victim, copy_of, directory, replace, sls_run, text_against, wait_for, write};

/// One policy of each type that a shell can provoke here; all look at what is below `directory` only.
fn policies(directory: &Path) -> String {
    let here = directory.display();
    format!(
        r#"
Created: {{policy: file, rules: ['match filePath == "{here}/made*" and programName == "*sh"', default ignore]}}
Removed: {{policy: filemonitor, rules: ['match fileOperation == "UNLINK" and filePath == "{here}/*"', default ignore]}}
Set-uid: {{policy: chmod, suid: true, rules: ['match filePath == "{here}/*"', default ignore]}}
New: {{policy: newFileExec, rules: ['match filePath == "{here}/made"', default ignore]}}
Connected: {{policy: connect, rules: ['match remoteHost == "127.0.0.1" and programArguments == "*{here}*"', default ignore]}}
Listens: {{policy: networkService, rules: ['match localHost == "127.0.0.1" and programName == "*/kinds-*"', default ignore]}}
Crashed: {{policy: segfault, tolerance: 0, rules: ['match programArguments == "*{here}*"', default ignore]}}
"#
    )
}

#[test]
fn each_type_has_its_alert() {
    let directory = directory();
    let here = directory.path();
    let policy = write(here.join("policy.yaml"), &policies(here));
    let sensor = Sensor::start(sls_run(&policy));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!(
        "cd {here} && cp /usr/bin/true made && chmod u+s made && ./made && : > made-too && ln -s made made-link; \
         exec 3<>/dev/tcp/127.0.0.1/{port}; exec 3>&-; \
         bash -c 'kill -SEGV $$' {here}; rm made; exit 0",
        here = here.display()
    );
    let victim = Victim::spawn(Command::new("bash").args(["-c", &script, &here.display().to_string()]));
    assert!(victim.reap().success());

    let alert =
        |policy: &str| wait_for(policy, || sensor.alerts_now().into_iter().find(|alert| alert.policy() == policy));
    let file = |alert: &Alert, key: &str| alert.json["file_info"][key].as_str().unwrap().to_owned();
    let created = alert("Created");
    assert_eq!(file(&created, "path"), here.join("made-too").to_str().unwrap(), "{}", created.text);
    assert_eq!(file(&created, "operation"), "CREATE");
    assert_eq!(created.json["process_info"]["name"], "/usr/bin/bash");
    assert_eq!(file(&alert("Set-uid"), "operation"), "CHMOD");
    assert_eq!(file(&alert("Removed"), "path"), here.join("made").to_str().unwrap());
    assert_eq!(file(&alert("New"), "path"), here.join("made").to_str().unwrap());
    assert_eq!(alert("Listens").json["network_info"]["local_port"], port);
    let connected = alert("Connected");
    assert_eq!(connected.json["network_info"]["remote_port"], port, "{}", connected.text);
    assert_eq!(connected.json["process_info"]["name"], "/usr/bin/bash");
    assert_eq!(alert("Crashed").json["policy_type"], "segfault");
    sensor.stop().assert_clean();
}

/// What nobody asked for at the start is watched once a policy asks for it, and no more when none does.
#[test]
fn a_reload_changes_what_is_watched() {
    let directory = directory();
    let here = directory.path();
    let program = copy_of("/usr/bin/sleep", here.join("executed"));
    let file = write(here.join("policy.yaml"), &text_against("Executed", &program));
    let sensor = Sensor::start(sls_run(&file));
    let touch = |name: &str| Victim::spawn(Command::new("touch").arg(here.join(name))).reap();
    touch("before");
    let watch = format!(
        "Touched:\n  policy: file\n  rules: ['match filePath == \"{}/*\" and programName == \"*/touch\"', default ignore]\n",
        here.display()
    );
    replace(&file, watch);
    sensor.wait_for_log("policies reloaded");
    touch("after");
    let alert = wait_for("the alert", || sensor.alerts_now().into_iter().find(|alert| alert.policy() == "Touched"));
    assert_eq!(alert.json["file_info"]["path"], here.join("after").to_str().unwrap());
    sensor.stop().assert_clean();
}

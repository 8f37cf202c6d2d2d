//! Operations that the kernel tier refuses before they happen. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::fs::{self, File, OpenOptions};
use std::io;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use sls_core::{
    Capabilities, Effect, Event, EventKind, Field, Guards, Mechanism, PolicyLoader, PolicySet, Protected, Value,
};
use sls_probe::{KernelTier, Probe};

use common::{Watch, not_offered, open_dir, spare_module, text};

fn offers_lsm() -> bool {
    if KernelTier::missing(Mechanism::Lsm).is_some() {
        not_offered("lsm", "CONFIG_BPF_LSM, lsm=…,bpf");
        return false;
    }
    true
}

fn policies(text: &str, without: Option<Mechanism>) -> PolicySet {
    let mut host = KernelTier::hooks().into_iter().fold(Capabilities::default().without_hooks(), Capabilities::hook);
    if let Some(mechanism) = without {
        host = host.no_mechanism(mechanism, "the test does without");
    }
    PolicyLoader::new().capabilities(host).document("p.yaml", text).load().unwrap()
}

fn refusing(policy_type: &str, condition: &str) -> String {
    format!("P:\n  policy: {policy_type}\n  responseActions: [block]\n  rules: ['match {condition}', default ignore]\n")
}

fn enforcing(set: &PolicySet, guards: &Guards) -> Watch {
    let builder = Probe::builder().snapshot(false).kernel_tier(true).refusals(set.tiers());
    let watch = Watch::with(builder);
    watch.probe.kernel_tier().unwrap().load_allowed(set, guards, |_| usize::MAX).unwrap();
    watch
}

fn of(policy_type: &str, condition: &str) -> Watch {
    enforcing(&policies(&refusing(policy_type, condition), None), &Guards::default())
}

fn is_refused<T>(result: io::Result<T>) -> bool {
    match result {
        Ok(_) => false,
        Err(error) => {
            assert_eq!(error.raw_os_error(), Some(libc::EPERM), "{error}");
            true
        }
    }
}

/// The event of what was refused last.
fn refused(watch: &mut Watch, kind: EventKind) -> Event {
    let is = |event: &Event| event.kind == kind && event.enforced.is_some();
    watch.until("the refusal", |events| events.iter().any(is));
    let event = watch.events.drain(..).rfind(is).unwrap();
    let enforced = event.enforced.as_ref().unwrap();
    assert_eq!((&*enforced.policy.name, enforced.rule, enforced.effect), ("P", 0, Effect::Refused));
    event
}

#[test]
fn a_program_is_not_executed() {
    if !offers_lsm() {
        return;
    }
    let (_dir, dir) = open_dir();
    let program = dir.join("program");
    fs::copy("/bin/true", &program).unwrap();
    let mut watch = of("program", &format!("programName == \"{}\"", program.display()));
    assert!(is_refused(Command::new(&program).status()));
    let event = refused(&mut watch, EventKind::Exec);
    assert_eq!(text(&event, Field::ProgramName), program.to_str().unwrap());
    assert_eq!(event.enforced.unwrap().mechanism, Mechanism::Lsm);
    // Under other names, and as the interpreter of a script.
    let (link, hard) = (dir.join("link"), dir.join("hard"));
    symlink(&program, &link).unwrap();
    fs::hard_link(&program, &hard).unwrap();
    let script = dir.join("script");
    fs::write(&script, format!("#!{}\n", program.display())).unwrap();
    fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    for path in [&link, &hard, &script] {
        assert!(is_refused(Command::new(path).status()), "{}", path.display());
    }
    assert!(Command::new("/bin/true").status().unwrap().success());
    // In dry run, it is.
    watch.probe.kernel_tier().unwrap().allow(|_| 0).unwrap();
    assert!(Command::new(&program).status().unwrap().success());
}

#[test]
fn files_stay_as_they_are() {
    if !offers_lsm() {
        return;
    }
    let (_dir, dir) = open_dir();
    let (kept, other) = (dir.join("kept"), dir.join("other"));
    fs::write(&kept, "kept").unwrap();
    fs::write(&other, "other").unwrap();
    let operations = "fileOperation in [\"CREATE\", \"OPEN_WRITE\", \"RENAME\", \"UNLINK\", \"TRUNCATE\", \"CHMOD\"]";
    let condition = format!("{operations} and filePath == \"{}/k*\"", dir.display());
    let mut watch = of("filemonitor", &condition);
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    let mut told = |operation: &str, path: &Path| {
        let event = refused(&mut watch, EventKind::File);
        assert_eq!(text(&event, Field::FileOperation), operation);
        assert_eq!(text(&event, Field::FilePath), path.to_str().unwrap());
        event
    };
    assert!(is_refused(OpenOptions::new().append(true).open(&kept)));
    told("OPEN_WRITE", &kept);
    assert!(is_refused(fs::remove_file(&kept)));
    told("UNLINK", &kept);
    assert!(is_refused(fs::rename(&kept, dir.join("gone"))));
    told("RENAME", &kept);
    assert!(is_refused(fs::rename(&other, dir.join("knew"))));
    let event = told("RENAME", &other);
    assert_eq!(text(&event, Field::NewFilePath), dir.join("knew").to_str().unwrap());
    assert!(is_refused(File::create_new(dir.join("knew"))));
    told("CREATE", &dir.join("knew"));
    assert!(is_refused(nix::unistd::truncate(&kept, 0).map_err(io::Error::from)));
    told("TRUNCATE", &kept);
    assert!(is_refused(fs::set_permissions(&kept, std::os::unix::fs::PermissionsExt::from_mode(0o777))));
    told("CHMOD", &kept);
    // By another way to the same file.
    symlink(&kept, dir.join("link")).unwrap();
    assert!(is_refused(OpenOptions::new().write(true).open(dir.join("link"))));
    assert!(is_refused(
        OpenOptions::new().write(true).open(Path::new("/proc/self/root").join(kept.strip_prefix("/").unwrap()))
    ));
    assert_eq!(fs::read(&kept).unwrap(), b"kept");
    fs::write(&other, "changed").unwrap();
    fs::rename(&other, dir.join("else")).unwrap();
    fs::remove_file(dir.join("else")).unwrap();
}

#[test]
fn only_the_program_that_a_policy_names_is_refused() {
    if !offers_lsm() {
        return;
    }
    let (_dir, dir) = open_dir();
    let (program, file) = (dir.join("touch"), dir.join("file"));
    fs::copy(fs::canonicalize("/usr/bin/touch").unwrap(), &program).unwrap();
    let condition = format!("fileOperation == \"CREATE\" and programName == \"{}\"", program.display());
    let mut watch = of("file", &condition);
    assert!(!Command::new(&program).arg(&file).stderr(std::process::Stdio::null()).status().unwrap().success());
    assert!(!file.exists());
    let event = refused(&mut watch, EventKind::File);
    assert_eq!(text(&event, Field::FilePath), file.to_str().unwrap());
    assert!(Command::new("touch").arg(&file).status().unwrap().success());
}

fn connections(without: Option<Mechanism>, mechanism: Mechanism) {
    let refused_one = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = refused_one.local_addr().unwrap().port();
    let condition =
        format!("remoteHost in [\"127.0.0.0/8\", \"::1\"] and remotePort == {port} and protocol != \"UNIX\"");
    let set = policies(&refusing("connect", &condition), without);
    let mut watch = enforcing(&set, &Guards::default());
    assert!(is_refused(TcpStream::connect(refused_one.local_addr().unwrap())));
    let event = refused(&mut watch, EventKind::Connect);
    assert_eq!(event.value(Field::RemoteHost), Value::Host("127.0.0.1".parse().unwrap()));
    assert_eq!(event.number(Field::RemotePort), Some(port.into()));
    assert_eq!(text(&event, Field::Protocol), "TCP");
    assert_eq!(event.process.pid, std::process::id());
    assert_eq!(event.enforced.unwrap().mechanism, mechanism);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    assert!(is_refused(socket.connect(("127.0.0.1", port))));
    assert_eq!(text(&refused(&mut watch, EventKind::Connect), Field::Protocol), "UDP");
    if let Ok(socket) = UdpSocket::bind("[::1]:0") {
        assert!(is_refused(socket.connect(("::1", port))));
        let event = refused(&mut watch, EventKind::Connect);
        assert_eq!(event.value(Field::RemoteHost), Value::Host("::1".parse().unwrap()));
    }
    TcpStream::connect(other.local_addr().unwrap()).unwrap();
    // What is protected is not refused.
    let guards = Guards::default().with("test", "it is this one", Protected::Pid(std::process::id()));
    watch.probe.kernel_tier().unwrap().load_allowed(&set, &guards, |_| usize::MAX).unwrap();
    TcpStream::connect(refused_one.local_addr().unwrap()).unwrap();
}

#[test]
fn connections_are_refused_by_cgroups() {
    connections(Some(Mechanism::Lsm), Mechanism::CgroupConnect);
}

#[test]
fn connections_are_refused_by_the_security_module() {
    if offers_lsm() {
        connections(None, Mechanism::Lsm);
    }
}

#[test]
fn a_process_is_not_traced() {
    if !offers_lsm() {
        return;
    }
    let (_dir, dir) = open_dir();
    let program = dir.join("sleep");
    fs::copy(fs::canonicalize("/usr/bin/sleep").unwrap(), &program).unwrap();
    let mut watch = of("ptrace", &format!("targetProgramName == \"{}\"", program.display()));
    let (child, _) = watch.started(Command::new(&program).arg("1000"));
    let (other, _) = watch.started(Command::new("sleep").arg("1000"));
    let pid = |child: &common::Running| nix::unistd::Pid::from_raw(child.0.id() as i32);
    let attached = nix::sys::ptrace::seize(pid(&child), nix::sys::ptrace::Options::empty());
    assert!(is_refused(attached.map_err(io::Error::from)));
    let event = refused(&mut watch, EventKind::Ptrace);
    assert_eq!(event.number(Field::TargetPid), Some(child.0.id().into()));
    assert_eq!(text(&event, Field::TargetProgramName), program.to_str().unwrap());
    nix::sys::ptrace::seize(pid(&other), nix::sys::ptrace::Options::empty()).unwrap();
}

#[test]
fn a_module_is_not_loaded() {
    if !offers_lsm() {
        return;
    }
    let Some(module) = spare_module() else { return };
    let mut watch = of("kernelModule", "moduleOperation == \"MODULE_LOAD\" and uid == 0");
    let file = File::open(&module).unwrap();
    let load = || {
        nix::kmod::finit_module(&file, c"numdummies=0", nix::kmod::ModuleInitFlags::empty()).map_err(io::Error::from)
    };
    assert!(is_refused(load()));
    assert_eq!(text(&refused(&mut watch, EventKind::Module), Field::ModuleOperation), "MODULE_LOAD");
    watch.probe.kernel_tier().unwrap().allow(|_| 0).unwrap();
    if load().is_ok() {
        nix::kmod::delete_module(c"dummy", nix::kmod::DeleteModuleFlags::O_NONBLOCK).unwrap();
    }
}

#[test]
fn policies_that_come_later_are_asked_too() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let none = policies(&refusing("program", "programName == \"/none\"").replace("block", "kill"), None);
    let mut watch = enforcing(&none, &Guards::default());
    TcpStream::connect(address).unwrap();
    let set =
        policies(&refusing("connect", &format!("remotePort == {} and protocol != \"UNIX\"", address.port())), None);
    watch.probe.set_policies(&set).unwrap();
    watch.probe.kernel_tier().unwrap().load_allowed(&set, &Guards::default(), |_| usize::MAX).unwrap();
    assert!(is_refused(TcpStream::connect(address)));
    watch.probe.set_policies(&none).unwrap();
    watch.probe.kernel_tier().unwrap().load_allowed(&none, &Guards::default(), |_| usize::MAX).unwrap();
    TcpStream::connect(address).unwrap();
}

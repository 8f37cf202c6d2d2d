//! The sensor protects itself: signals, ptrace and what would change its BPF objects are refused. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, IoSlice, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;

use libbpf_rs::query::LinkInfoIter;
use libbpf_rs::{MapHandle, Program};
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::sys::uio::{RemoteIoVec, process_vm_writev};
use nix::unistd::Pid;
use sls_core::{Interest, PolicyLoader};
use sls_probe::{Probe, ProbeError, SelfProtection, TamperAttempt, Tampering};

use common::{Watch, actor, become_program, not_offered, role};

fn offers_lsm() -> bool {
    if SelfProtection::missing().is_some() {
        not_offered("lsm", "CONFIG_BPF_LSM, lsm=…,bpf");
        return false;
    }
    true
}

fn protected(protection: SelfProtection) -> Watch {
    Watch::with(Probe::builder().snapshot(false).self_protection(protection))
}

const ACTOR: &str = "attack_actor";

/// What another process does to the one that is its parent; how the kernel answers is its exit status.
#[test]
fn attack_actor() {
    let Some(role) = role() else { return };
    let parent = nix::unistd::getppid();
    let (attack, argument) = role.split_once(' ').unwrap_or((&role, ""));
    if attack == "sensor" {
        return sensor(argument);
    }
    let number = || argument.parse::<u32>().unwrap();
    let of_bpf = |error: libbpf_rs::Error| {
        let source = io::Error::last_os_error();
        source.raw_os_error().map_or_else(|| panic!("{error}"), Errno::from_raw)
    };
    let result = match attack {
        "signal" => kill(parent, Signal::try_from(argument.parse::<i32>().unwrap()).unwrap()),
        "probe" => kill(parent, None),
        "seize" => nix::sys::ptrace::seize(parent, nix::sys::ptrace::Options::empty()),
        "write" => {
            let remote = [RemoteIoVec { base: argument.parse().unwrap(), len: 1 }];
            process_vm_writev(parent, &[IoSlice::new(b"x")], &remote).map(drop)
        }
        "mem" => {
            let file = OpenOptions::new().write(true).open(format!("/proc/{parent}/mem"));
            file.map(drop).map_err(|error| Errno::from_raw(error.raw_os_error().unwrap()))
        }
        "look" => fs::read(format!("/proc/{parent}/status")).map(drop).map_err(|_| Errno::EIO),
        "limit" => {
            let mut status = Command::new("prlimit");
            let status = status.args(["--cpu=1000000", "--pid", &parent.to_string()]);
            let status = status.stderr(Stdio::null()).status();
            if status.unwrap().success() { Ok(()) } else { Err(Errno::EPERM) }
        }
        "map" => MapHandle::from_map_id(number()).map(drop).map_err(of_bpf),
        "program" => Program::fd_from_id(number()).map(drop).map_err(of_bpf),
        // The one that is refused ends it.
        "links" => {
            let found: BTreeSet<u32> = LinkInfoIter::default().map(|link| link.id).collect();
            let own: BTreeSet<u32> = argument.split(',').map(|id| id.parse().unwrap()).collect();
            if found.is_disjoint(&own) { Err(Errno::EPERM) } else { Ok(()) }
        }
        other => panic!("{other}"),
    };
    std::process::exit(result.err().map_or(0, |errno| errno as i32));
}

fn attack(what: &str) -> i32 {
    actor(ACTOR, what).status().unwrap().code().unwrap()
}

/// What `attempt` the sensor says was refused.
fn told(watch: &mut Watch) -> Vec<TamperAttempt> {
    let report = watch.probe.tampering().unwrap();
    assert_eq!(report.refused, report.attempts.len() as u64);
    report.attempts
}

/// The ids of the BPF objects that this process has open, in what the kernel says of each.
fn open_ids(key: &str) -> BTreeSet<u32> {
    let infos = fs::read_dir("/proc/self/fdinfo").unwrap();
    let infos = infos.filter_map(|entry| fs::read_to_string(entry.unwrap().path()).ok());
    // Links name their programs, too.
    let infos = infos.filter(|info| key == "link_id:" || !info.contains("link_id:"));
    infos.filter_map(|info| info.lines().find_map(|line| line.strip_prefix(key)?.trim().parse().ok())).collect()
}

const EPERM: i32 = libc::EPERM;

#[test]
fn signals_of_others_are_refused() {
    if !offers_lsm() {
        return;
    }
    let mut watch = protected(SelfProtection::new().allow_signal(libc::SIGCHLD));
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGSTOP, libc::SIGSEGV] {
        assert_eq!(attack(&format!("signal {signal}")), EPERM);
        let attempts = told(&mut watch);
        let [attempt] = &attempts[..] else { panic!("{attempts:?}") };
        assert_eq!(attempt.tampering, Tampering::Signal(signal as u32));
        assert!(attempt.pid.is_some_and(|pid| pid != std::process::id()) && attempt.uid == 0, "{attempt:?}");
        assert!(attempt.start > 0 && !attempt.name.is_empty(), "{attempt:?}");
    }
    // Whether it is there may be asked, and what the sensor takes may be sent.
    assert_eq!(attack("probe"), 0);
    assert_eq!(attack(&format!("signal {}", libc::SIGCHLD)), 0);
    // Its own threads, and it itself.
    let own = thread::spawn(|| kill(Pid::this(), Signal::SIGURG)).join().unwrap();
    own.unwrap();
    nix::sys::signal::raise(Signal::SIGURG).unwrap();
    // Others have no such protection.
    let mut other = common::Running(Command::new("sleep").arg("1000").spawn().unwrap());
    let killed = Command::new("kill").args(["-KILL", &other.0.id().to_string()]).status().unwrap();
    assert!(killed.success());
    assert_eq!(other.0.wait().unwrap().signal(), Some(libc::SIGKILL));
    assert_eq!(told(&mut watch), []);
    // It ends with the probe.
    drop(watch);
    assert_eq!(attack(&format!("signal {}", libc::SIGURG)), 0);
}

#[test]
fn exempt_programs_may() {
    if !offers_lsm() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let exempt = dir.path().join("exempt");
    fs::copy(std::env::current_exe().unwrap(), &exempt).unwrap();
    let mut watch = protected(SelfProtection::new().allow_program(&exempt));
    let mut command = actor(ACTOR, &format!("signal {}", libc::SIGURG));
    let run = |program: &Path, command: &Command| {
        let envs = command.get_envs().map(|(name, value)| (name.to_owned(), value.unwrap().to_owned()));
        let mut other = Command::new(program);
        other.args(command.get_args()).envs(envs).stdout(Stdio::null());
        other.status().unwrap().code().unwrap()
    };
    assert_eq!(run(&exempt, &command), 0);
    assert_eq!(command.status().unwrap().code(), Some(EPERM));
    // A new file of the name is not the old one, until it is looked up again.
    fs::rename(&exempt, dir.path().join("old")).unwrap();
    fs::copy(std::env::current_exe().unwrap(), &exempt).unwrap();
    assert_eq!(run(&exempt, &command), EPERM);
    watch.probe.set_policies(&PolicyLoader::new().load().unwrap()).unwrap();
    assert_eq!(run(&exempt, &command), 0);
    assert_eq!(run(&dir.path().join("old"), &command), EPERM);
    assert_eq!(told(&mut watch).len(), 3);
}

#[test]
fn its_memory_and_limits_are_out_of_reach() {
    if !offers_lsm() {
        return;
    }
    let mut watch = protected(SelfProtection::new());
    let byte = Box::new(b'a');
    let limit = getrlimit(Resource::RLIMIT_CPU).unwrap();
    let write = format!("write {}", std::ptr::from_ref(&*byte) as usize);
    for (what, tampering, errno) in [
        ("seize", Tampering::Ptrace, EPERM),
        (&write, Tampering::Ptrace, EPERM),
        // Whatever the reason, the kernel says this.
        ("mem", Tampering::Ptrace, libc::EACCES),
        ("limit", Tampering::ResourceLimit(0), EPERM),
    ] {
        assert_eq!(attack(what), errno, "{what}");
        let attempts = told(&mut watch);
        assert!(matches!(&attempts[..], [attempt] if attempt.tampering == tampering), "{attempts:?}");
    }
    assert_eq!((*byte, getrlimit(Resource::RLIMIT_CPU).unwrap()), (b'a', limit));
    assert_eq!(attack("look"), 0);
    assert_eq!(told(&mut watch), []);
}

#[test]
fn its_bpf_objects_are_its_own() {
    if !offers_lsm() {
        return;
    }
    let mut watch = protected(SelfProtection::new());
    // Also what it loads later.
    for interest in [Interest::default(), Interest::everything()] {
        watch.probe.set_interest(interest).unwrap();
        let (maps, programs) = (open_ids("map_id:"), open_ids("prog_id:"));
        let links = open_ids("link_id:");
        assert!(maps.len() > 5 && programs.len() > 5 && links.len() > 5, "{maps:?} {programs:?} {links:?}");
        for id in [maps.first().unwrap(), maps.last().unwrap()] {
            assert_eq!(attack(&format!("map {id}")), EPERM);
            assert_eq!(told(&mut watch)[0].tampering, Tampering::BpfMap(*id));
        }
        for id in [programs.first().unwrap(), programs.last().unwrap()] {
            assert_eq!(attack(&format!("program {id}")), EPERM);
            assert_eq!(told(&mut watch)[0].tampering, Tampering::BpfProgram(*id));
        }
        let ids: Vec<String> = links.iter().map(u32::to_string).collect();
        assert_eq!(attack(&format!("links {}", ids.join(","))), EPERM);
        let attempts = told(&mut watch);
        assert!(
            matches!(attempts[..], [TamperAttempt { tampering: Tampering::BpfLink(id), .. }] if links.contains(&id)),
            "{attempts:?}"
        );
        // Itself, it may.
        Program::fd_from_id(*programs.last().unwrap()).unwrap();
        MapHandle::from_map_id(*maps.first().unwrap()).unwrap();
    }
}

#[test]
fn signals_of_files_are_refused() {
    if !offers_lsm() {
        return;
    }
    let mut watch = protected(SelfProtection::new());
    // F_SETOWN, F_SETSIG with SIGKILL, and F_SETFL with O_ASYNC.
    let script = "pipe(R, W); fcntl(R, 8, 0 + $ARGV[0]) && fcntl(R, 10, 9) && fcntl(R, 4, 020000) || die; syswrite(W, 'x') || die";
    let status = Command::new("perl").args(["-e", script, &std::process::id().to_string()]).status().unwrap();
    assert!(status.success());
    let attempts = told(&mut watch);
    // The end of the writer is another thing that happens to the reader.
    let of_file = |attempt: &TamperAttempt| attempt.tampering == Tampering::FileSignal(9) && attempt.pid.is_none();
    assert!(!attempts.is_empty() && attempts.iter().all(of_file), "{attempts:?}");
}

/// A sensor that protects itself, in a process of its own.
fn sensor(how_it_ends: &str) {
    let _watch = protected(SelfProtection::new());
    match how_it_ends {
        "timer" => {
            nix::unistd::alarm::set(1);
            thread::sleep(common::patience());
        }
        "abort" => std::process::abort(),
        "orphaned" => {
            nix::sys::prctl::set_pdeathsig(Some(Signal::SIGUSR1)).unwrap();
            io::stdout().write_all(b"\nready\n").unwrap();
            thread::sleep(common::patience());
        }
        "execution" => become_program("/bin/true"),
        other => panic!("{other}"),
    }
}

#[test]
fn signals_of_the_kernel_arrive() {
    if !offers_lsm() {
        return;
    }
    for (how, signal) in [("timer", Some(libc::SIGALRM)), ("abort", Some(libc::SIGABRT)), ("execution", None)] {
        let status = actor(ACTOR, &format!("sensor {how}")).stderr(Stdio::null()).status().unwrap();
        assert_eq!(status.signal(), signal, "{how}: {status:?}");
    }
    // What it wants to be told of the end of its parent, which is a thread.
    let parent = thread::spawn(|| {
        let mut child = actor(ACTOR, "sensor orphaned").stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.map_while(Result::ok).any(|line| line == "ready"));
        child
    });
    let status = parent.join().unwrap().wait().unwrap();
    assert_eq!(status.signal(), Some(libc::SIGUSR1), "{status:?}");
}

#[test]
fn more_attempts_than_are_remembered_are_counted() {
    if !offers_lsm() {
        return;
    }
    let mut watch = protected(SelfProtection::new());
    let pid = std::process::id();
    let script = format!("for i in $(seq 100); do kill -TERM {pid}; done");
    let status = Command::new("/bin/sh").args(["-c", &script]).stderr(Stdio::null()).status().unwrap();
    assert!(!status.success());
    let report = watch.probe.tampering().unwrap();
    assert_eq!((report.attempts.len(), report.refused), (sls_probe::MAX_TAMPER_ATTEMPTS, 100));
    assert_eq!(watch.probe.tampering().unwrap(), sls_probe::TamperReport::default());
}

/// Has pid 1 make a system call.
#[cfg(target_arch = "x86_64")]
fn call_of_pid_1(number: i64, arguments: [u64; 2]) -> i64 {
    use nix::sys::ptrace;
    use nix::sys::wait::waitpid;
    let init = Pid::from_raw(1);
    ptrace::attach(init).unwrap();
    waitpid(init, None).unwrap();
    let saved = ptrace::getregs(init).unwrap();
    let mut regs = saved;
    // It waits in a system call, whose instruction has two bytes.
    regs.rip -= 2;
    regs.rax = number as u64;
    regs.orig_rax = u64::MAX;
    [regs.rdi, regs.rsi] = arguments;
    ptrace::setregs(init, regs).unwrap();
    ptrace::step(init, None).unwrap();
    waitpid(init, None).unwrap();
    let result = ptrace::getregs(init).unwrap().rax as i64;
    ptrace::setregs(init, saved).unwrap();
    ptrace::detach(init, None).unwrap();
    result
}

#[test]
#[cfg(target_arch = "x86_64")]
fn pid_1_may() {
    if !offers_lsm() {
        return;
    }
    // Not on a machine that others use.
    if std::env::var_os("SLS_LAB_GUEST").is_none() {
        return not_offered("spare-init", "a guest of the lab");
    }
    let mut watch = protected(SelfProtection::new());
    let result = call_of_pid_1(libc::SYS_kill, [std::process::id().into(), libc::SIGURG as u64]);
    assert_eq!(result, 0);
    assert_eq!(told(&mut watch), []);
}

#[test]
fn without_the_security_module_it_does_not_load() {
    let Some(missing) = SelfProtection::missing() else { return };
    let error = Probe::builder().self_protection(SelfProtection::new()).load().unwrap_err();
    assert!(matches!(&error, ProbeError::NoSelfProtection { reason } if *reason == missing), "{error}");
    assert!(error.to_string().starts_with("the sensor cannot protect itself: BPF is not among"), "{error}");
}

#[test]
fn an_exempt_program_that_is_not_there_is_an_error() {
    if !offers_lsm() {
        return;
    }
    let protection = SelfProtection::new().allow_program("/no/such/program");
    let error = Probe::builder().self_protection(protection).load().unwrap_err();
    assert!(matches!(error, ProbeError::ExemptProgram { .. }), "{error}");
}

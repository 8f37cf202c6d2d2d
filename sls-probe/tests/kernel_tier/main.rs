//! Programs are killed and stopped by the kernel itself, before their first instruction. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod bypass;
#[path = "../common/mod.rs"]
mod common;
mod pin;
mod victim;

use std::fmt::Write;
use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use sls_core::{
    Capabilities, Effect, Event, EventKind, Guards, KernelVerdict, Mechanism, PolicyLoader, PolicySet, ProcessKey,
};
use sls_probe::{KernelTier, Probe, TierError};

use common::{Running, Watch, emulated, has, open_dir};
use victim::Marks;

pub(crate) fn policies(text: &str) -> PolicySet {
    let host = KernelTier::hooks().into_iter().fold(Capabilities::default().without_hooks(), Capabilities::hook);
    PolicyLoader::new().capabilities(host).document("p.yaml", text).load().unwrap()
}

/// A policy that kills what matches.
pub(crate) fn killing(name: &str, condition: &str) -> String {
    format!("{name}:\n  policy: program\n  responseActions: [kill]\n  rules: ['match {condition}', default ignore]\n")
}

pub(crate) fn program(path: &Path) -> String {
    format!("programName == \"{}\"", path.display())
}

/// A probe whose kernel tier has these policies, without a limit.
pub(crate) fn enforcing(text: &str) -> Watch {
    let watch = Watch::with(Probe::builder().snapshot(false).kernel_tier(true));
    enforce(&watch, text);
    watch
}

pub(crate) fn enforce(watch: &Watch, text: &str) {
    let set = policies(text);
    let all = set.tiers().kernel_policies(Mechanism::ExecSignal, EventKind::Exec).count();
    assert_eq!(all, set.policies().len(), "a policy is not for the kernel");
    tier(watch).load(&set, &Guards::default()).unwrap();
    tier(watch).allow(|_| usize::MAX).unwrap();
}

pub(crate) fn tier(watch: &Watch) -> &KernelTier {
    watch.probe.kernel_tier().unwrap()
}

pub(crate) fn run(program: &Path, marks: &Marks) -> ExitStatus {
    Command::new(program).stdout(marks.stdout()).status().unwrap()
}

pub(crate) const KILLED: Option<i32> = Some(libc::SIGKILL);

/// The exec event of the only child that a command has been.
pub(crate) fn exec_event(watch: &mut Watch, command: &mut Command) -> (Event, ExitStatus) {
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    let status = child.wait().unwrap();
    watch.until("the end", |events| has(events, pid, EventKind::Exit));
    (watch.last(pid, EventKind::Exec), status)
}

#[test]
fn of_many_victims_none_runs_an_instruction() {
    let (runs, others) = if emulated() { (200, 200) } else { (10_000, 1000) };
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    assert!(run(&victim, &marks).success());
    assert_eq!(marks.count(), 1, "the victim does write");
    let mut text = killing("The victim", &program(&victim));
    for other in 0..others {
        text.push_str(&killing(&format!("Other {other}"), &format!("programName == \"/opt/other/{other}\"")));
    }
    let mut watch = enforcing(&text);
    for _ in 0..runs {
        assert_eq!(run(&victim, &marks).signal(), KILLED);
        watch.events.clear();
        watch.poll(std::time::Duration::ZERO);
    }
    assert_eq!(marks.count(), 1, "writes of {runs} victims");
    println!("{runs} victims, {} policies: 0 writes", others + 1);
}

#[test]
fn event_says_which_policy_and_rule_killed() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let rule = program(&victim);
    let text = format!(
        "Victims:\n  policy: program\n  responseActions: [kill, alert]\n  rules: ['ignore uid == 12345', 'match {rule}', default ignore]\n"
    );
    let mut watch = enforcing(&text);
    let (event, status) = exec_event(&mut watch, Command::new(&victim).stdout(Stdio::null()));
    assert_eq!(status.signal(), KILLED);
    let enforced = event.enforced.unwrap();
    assert_eq!((&*enforced.policy.name, enforced.rule), ("Victims", 1));
    assert_eq!((enforced.mechanism, enforced.effect), (Mechanism::ExecSignal, Effect::Killed));
    let (event, status) = exec_event(&mut watch, &mut Command::new("/bin/true"));
    assert!(status.success() && event.enforced.is_none());
}

#[test]
fn a_stopped_program_runs_nothing_until_it_is_resumed() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let mut watch = enforcing(&killing("Victims", &program(&victim)).replace("[kill]", "[stop]"));
    let (mut child, event) = watch.started(Command::new(&victim).stdout(marks.stdout()));
    assert_eq!(event.enforced.unwrap().effect, Effect::Stopped);
    let pid = child.0.id();
    while common::stat_field(pid, 3).unwrap() != "T" {
        std::thread::yield_now();
    }
    assert_eq!(marks.count(), 0);
    assert!(Command::new("kill").args(["-CONT", &pid.to_string()]).status().unwrap().success());
    assert!(child.0.wait().unwrap().success());
    assert_eq!(marks.count(), 1);
}

#[test]
fn what_is_not_allowed_is_a_dry_run() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let mut watch = enforcing(&killing("Victims", &program(&victim)));
    tier(&watch).allow(|_| 2).unwrap();
    let killed = [(); 4].map(|()| run(&victim, &marks).signal() == KILLED);
    assert_eq!(killed, [true, true, false, false], "two were allowed");
    tier(&watch).allow(|_| 0).unwrap();
    let (event, status) = exec_event(&mut watch, Command::new(&victim).stdout(marks.stdout()));
    assert!(status.success() && event.enforced.is_none(), "{event:?}");
    tier(&watch).allow(|_| usize::MAX).unwrap();
    assert_eq!(run(&victim, &marks).signal(), KILLED);
    assert_eq!(marks.count(), 3);
}

#[test]
fn guards_hold_in_the_kernel() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let watch = enforcing(&killing("Victims", &program(&victim)));
    let set = policies(&killing("Victims", &program(&victim)));
    let allowed = |guards: Guards| {
        tier(&watch).load(&set, &guards).unwrap();
        tier(&watch).allow(|_| usize::MAX).unwrap();
        run(&victim, &marks).success()
    };
    let namespace = |path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap()) as u32;
    let mounts = namespace("/proc/self/ns/mnt");
    assert!(!allowed(Guards::default()));
    assert!(!allowed(Guards::default().protect_program("/usr/bin/other")));
    assert!(allowed(Guards::default().protect_program(victim.to_str().unwrap())));
    // A wildcard protects more in the kernel than it says; user space knows better.
    assert!(allowed(Guards::default().protect_program(format!("{}/*/other", dir.display()))));
    assert!(allowed(Guards::default().host_mount_namespace(mounts).protect_program(format!("{}/*", dir.display()))));
    // In another mount namespace, a path is no protection.
    assert!(!allowed(Guards::default().host_mount_namespace(1).protect_program(format!("{}/*", dir.display()))));
    // The process that is protected is the one that executes: this one is not.
    assert!(!allowed(Guards::default().protect_sensor(ProcessKey { pid: std::process::id(), start: 1 }, 1)));
    assert_eq!(marks.count(), 3);
}

#[test]
fn a_protected_process_and_cgroup_may_execute_anything() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let mut watch = enforcing(&killing("Victims", &program(&victim)));
    let set = policies(&killing("Victims", &program(&victim)));
    let mut shell = |guards: &dyn Fn(ProcessKey, u64) -> Guards| {
        let mut command = Command::new("/bin/sh");
        let script = format!("read line; exec {}", victim.display());
        let (mut child, event) =
            watch.started(command.args(["-c", &script]).stdin(Stdio::piped()).stdout(marks.stdout()));
        let guards = guards(event.process, event.cgroup_id.unwrap());
        tier(&watch).load(&set, &guards).unwrap();
        tier(&watch).allow(|_| usize::MAX).unwrap();
        std::io::Write::write_all(child.0.stdin.as_mut().unwrap(), b"\n").unwrap();
        child.0.wait().unwrap().success()
    };
    assert!(!shell(&|_, _| Guards::default()));
    assert!(shell(&|process, _| Guards::default().protect_sensor(process, 1)));
    // In steps of clock ticks, as /proc has them.
    let in_ticks = |ProcessKey { pid, start, .. }| ProcessKey { pid, start: start / 10_000_000 * 10_000_000 };
    assert!(shell(&|process, _| Guards::default().protect_sensor(in_ticks(process), 10_000_000)));
    let earlier = |ProcessKey { pid, start, .. }| ProcessKey { pid, start: start - 1 };
    assert!(!shell(&|process, _| Guards::default().protect_sensor(earlier(process), 1)), "that pid is reused");
    assert!(shell(&|_, cgroup| Guards::default().protect_cgroup(cgroup)));
    assert!(!shell(&|_, cgroup| Guards::default().protect_cgroup(cgroup + 1)));
    assert_eq!(marks.count(), 3);
}

#[test]
fn policies_are_replaced_at_once() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let watch = enforcing(&killing("Victims", &program(&victim)));
    let mut sets = Vec::new();
    for count in [1, 40] {
        let mut text = String::new();
        for other in 0..count {
            write!(text, "{}", killing(&format!("Other {other}"), &format!("programName == \"/opt/{other}\"")))
                .unwrap();
        }
        text.push_str(&killing("Victims", &program(&victim)));
        sets.push(policies(&text));
    }
    let done = AtomicBool::new(false);
    let runs = if emulated() { 50 } else { 2000 };
    std::thread::scope(|scope| {
        let tier = tier(&watch).clone();
        let (done, sets) = (&done, &sets);
        let reloading = scope.spawn(move || {
            let mut reloads = 0;
            while !done.load(Ordering::Relaxed) {
                tier.load_allowed(&sets[reloads % 2], &Guards::default(), |_| usize::MAX).unwrap();
                reloads += 1;
            }
            reloads
        });
        for _ in 0..runs {
            assert_eq!(run(&victim, &marks).signal(), KILLED);
        }
        done.store(true, Ordering::Relaxed);
        println!("{runs} victims, {} reloads", reloading.join().unwrap());
    });
    assert_eq!(marks.count(), 0);
}

#[test]
fn what_does_not_fit_is_refused_at_load_and_the_rest_stays() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let watch = enforcing(&killing("Victims", &program(&victim)));
    let mut crowd = String::new();
    for policy in 0..=sls_probe::MAX_TIER_POLICIES_OF_PATH {
        crowd.push_str(&killing(&format!("P{policy}"), &format!("programName == \"/opt/one\" and uid == {policy}")));
    }
    let error = tier(&watch).load(&policies(&crowd), &Guards::default()).unwrap_err();
    assert!(matches!(&error, TierError::Crowded { path, .. } if path == "/opt/one"), "{error}");
    let mut many = String::from("Many:\n  policy: program\n  responseActions: [kill]\n  rules: ['match uid in [");
    for number in 0..70 {
        write!(many, "{}{}", if number > 0 { ", " } else { "" }, 2 * number).unwrap();
    }
    many.push_str("]', default ignore]\n");
    let error = tier(&watch).load(&policies(&many), &Guards::default()).unwrap_err();
    assert!(matches!(&error, TierError::Room { policy, .. } if policy == "Many"), "{error}");
    assert_eq!(run(&victim, &marks).signal(), KILLED);
}

/// The kernel decides as [`sls_core::KernelPolicy::decide`] does, in whatever way a program is named.
#[test]
fn kernel_decides_as_the_reference_does() {
    let (_dir, dir) = open_dir();
    let deep = dir.join("a").join("b".repeat(200)).join("c".repeat(200));
    fs::create_dir_all(&deep).unwrap();
    fs::create_dir(dir.join("shells")).unwrap();
    let many = (0..70).fold(dir.join("m"), |path, _| path.join("d"));
    fs::create_dir_all(&many).unwrap();
    let programs = [
        victim::write(&dir, "victim"),
        victim::write(&dir.join("shells"), "sh"),
        victim::write(&deep, "x.sh"),
        victim::write(&many, "y"),
    ];
    let d = dir.display();
    let exe = std::env::current_exe().unwrap().parent().unwrap().display().to_string();
    let conditions = [
        format!("programName == \"{d}/victim\""),
        format!("programName == \"{d}/*\""),
        format!("programName == \"{d}/shells*\" and uid == 0"),
        format!("programName != \"{d}/victim\" and programName == \"{d}*\""),
        "programName == \"*/sh\"".to_owned(),
        "programName == \"*.sh\"".to_owned(),
        "programName == \"*ctim\" or programName == \"*/d/y\"".to_owned(),
        format!("programName == \"{d}/a/*\" and programName != \"*.sh\""),
        format!("programName in [\"{d}/victim\", \"*/sh\"] and not parentProgramName in [\"/bin/sh\", \"{exe}*\"]"),
        format!("programName == \"{d}/victim\" and parentProgramName == \"{exe}*\""),
        format!("programName == \"{d}/victim\" and euid > 5 or programName == \"{d}/shells/sh\" and gid in [0, 7, 9]"),
        format!("programIsMemfd == true or programName == \"{d}/m/d/d/d*\""),
        format!("programName == \"{d}/victim\" and not (uid in [1, 3, 5, 0])"),
        format!("processPid > 1 and parentPid > 1 and programName == \"{d}/shells/*\" and programIsDeleted == false"),
    ];
    let mut watch = enforcing(&killing("None", "programName == \"/none\""));
    let (mut killed, mut spared) = (0, 0);
    for condition in &conditions {
        let text = killing("P", condition);
        let set = policies(&text);
        enforce(&watch, &text);
        let lowered = set.tiers().kernel_policies(Mechanism::ExecSignal, EventKind::Exec).next().unwrap();
        for path in &programs {
            let (mut event, status) = exec_event(&mut watch, Command::new(path).stdout(Stdio::null()));
            let parent = fs::read_link("/proc/self/exe").unwrap();
            event.set_text(sls_core::Field::ParentProgramName, parent.as_os_str().as_encoded_bytes());
            let expected = matches!(lowered.decide(&event), Some(KernelVerdict::Match { .. }));
            assert_eq!(status.signal() == KILLED, expected, "{condition}: {}", path.display());
            assert_eq!(event.enforced.is_some(), expected);
            *if expected { &mut killed } else { &mut spared } += 1;
        }
    }
    assert!(killed > 10 && spared > 10, "{killed} {spared}");
}

#[test]
fn a_file_that_replaces_a_named_one_is_known_by_its_links() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let _watch = enforcing(&killing("Victims", &program(&victim)));
    let link = |name: &str| {
        let link = dir.join(name);
        fs::hard_link(&victim, &link).unwrap();
        link
    };
    let first = link("first");
    assert_eq!(run(&first, &marks).signal(), KILLED);
    fs::rename(victim::write(&dir, "new"), &victim).unwrap();
    let second = link("second");
    let deadline = std::time::Instant::now() + common::patience();
    while run(&second, &marks).signal() != KILLED {
        assert!(std::time::Instant::now() < deadline, "the new file is not known");
    }
    // It was named, and is the same program still.
    assert_eq!(run(&first, &marks).signal(), KILLED);
}

#[test]
fn of_a_name_the_last_files_are_remembered_and_the_others_counted() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let watch = enforcing(&killing("Victims", &program(&victim)));
    for number in 0..10 {
        let link = dir.join(format!("former {number}"));
        fs::hard_link(&victim, &link).unwrap();
        fs::rename(victim::write(&dir, "new"), &victim).unwrap();
        tier(&watch).resolve().unwrap();
    }
    // Eleven files have had the name, of which eight are known.
    assert_eq!(tier(&watch).files_forgotten(), 3);
    assert_eq!(run(&victim, &marks).signal(), KILLED);
    assert_eq!(run(&dir.join("former 9"), &marks).signal(), KILLED);
    assert!(run(&dir.join("former 0"), &marks).success());
}

#[test]
fn an_inode_that_is_used_again_is_another_file() {
    let (_dir, dir) = open_dir();
    let victim = victim::write(&dir, "victim");
    let marks = Marks::new(&dir);
    let watch = enforcing(&killing("Victims", &program(&victim)));
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let old = inode(&victim);
    fs::remove_file(&victim).unwrap();
    // Most file systems give the number to one of the next files.
    let mut reused = false;
    for number in 0..200 {
        let innocent = victim::write(&dir, &format!("innocent {number}"));
        if inode(&innocent) == old {
            reused = true;
            let deadline = std::time::Instant::now() + common::patience();
            while !run(&innocent, &marks).success() {
                assert!(std::time::Instant::now() < deadline, "the inode is still taken for the victim");
            }
        }
    }
    tier(&watch).resolve().unwrap();
    if !reused {
        println!("the file system used no inode again");
    }
}

#[test]
fn without_a_tier_nothing_is_decided() {
    let mut watch = Watch::start();
    assert!(watch.probe.kernel_tier().is_none());
    let (child, event) = watch.started(Command::new("sleep").arg("1000"));
    assert!(event.enforced.is_none());
    drop::<Running>(child);
}

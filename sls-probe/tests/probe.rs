//! Probes of the user's own, on real functions of programs, of libraries and, where the kernel has kprobes, of the kernel.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::ffi::CStr;
use std::fs::{self, File};
use std::hint::black_box;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::Mode;
use sls_core::{Event, EventKind, Field, Interest, PolicyType, ProbePoint};
use sls_probe::{MAX_PROBES, Probe, ProbeBuilder};

use common::{Watch, actor, not_offered, open_dir, role, text};

/// What the probes are on. Its symbol is in the test binary, which every actor runs as well.
#[unsafe(no_mangle)]
#[inline(never)]
extern "C" fn sls_probe_target(number: i32, pair: &[u32; 2], name: *const std::ffi::c_char) -> i64 {
    black_box((pair, name));
    i64::from(black_box(number)) - 10
}

fn call(number: i32, name: &CStr) -> i64 {
    sls_probe_target(number, &[17, 4711], name.as_ptr())
}

fn executable() -> String {
    std::env::current_exe().unwrap().canonicalize().unwrap().to_str().unwrap().to_owned()
}

fn target() -> ProbePoint {
    ProbePoint::user("Target", &executable(), "sls_probe_target")
}

fn builder(points: impl IntoIterator<Item = ProbePoint>) -> ProbeBuilder {
    let builder = Probe::builder().exec(false).fork(false).exit(false).snapshot(false);
    builder.unsafe_probes(true).interest(interest(points))
}

fn interest(points: impl IntoIterator<Item = ProbePoint>) -> Interest {
    let mut interest = Interest::default();
    for point in points {
        interest.add_probe(point);
    }
    interest
}

fn ended(mut child: Child) -> u32 {
    let pid = child.id();
    assert!(child.wait().unwrap().success());
    pid
}

fn probes_of(watch: &Watch, pid: u32) -> Vec<&Event> {
    watch.events.iter().filter(|event| event.kind == EventKind::Probe && event.process.pid == pid).collect()
}

fn refusal(points: impl IntoIterator<Item = ProbePoint>) -> String {
    match builder(points).load().and_then(|loaded| loaded.attach()) {
        Ok(_) => panic!("such a probe was put in"),
        Err(error) => error.to_string(),
    }
}

#[test]
fn a_function_of_a_program_and_what_it_is_passed() {
    if role().is_some() {
        black_box(call(-3, c"a name"));
        return;
    }
    let place = target().argument("number", "arg0:s32").argument("second", "+4(arg1):u32");
    let mut watch = Watch::with(builder([place.argument("third", "$arg3:string").argument("raw", "%di:x8")]));
    // The sensor's own calls are no events.
    black_box(call(5, c"own"));
    let pid = ended(actor("a_function_of_a_program_and_what_it_is_passed", "caller").spawn().unwrap());
    watch.until("the probe", |events| common::has(events, pid, EventKind::Probe));
    let events = probes_of(&watch, pid);
    assert_eq!(events.len(), 1);
    assert_eq!(text(events[0], Field::ProbeSymbol), "sls_probe_target");
    assert_eq!(text(events[0], Field::ProbeExecutable), executable());
    assert_eq!(text(events[0], Field::ProbeArguments), "number=-3 raw=0xfd second=4711 third=\"a name\"");
    assert!(events[0].untrusted().contains(Field::ProbeArguments));
    assert!(watch.events.iter().all(|event| event.process.pid != std::process::id()));
    assert_eq!(watch.probe.lost(EventKind::Probe).unwrap(), 0);
}

#[test]
fn what_a_function_returns() {
    if role().is_some() {
        black_box(call(7, c""));
        return;
    }
    let mut watch = Watch::with(builder([target().argument("result", "$retval:s64")]));
    let pid = ended(actor("what_a_function_returns", "caller").spawn().unwrap());
    watch.until("the probe", |events| common::has(events, pid, EventKind::Probe));
    assert_eq!(text(probes_of(&watch, pid)[0], Field::ProbeArguments), "result=-3");
}

#[test]
fn what_cannot_be_read_is_marked() {
    if role().is_some() {
        black_box(sls_probe_target(1, &[0, 0], std::ptr::dangling()));
        return;
    }
    let mut watch = Watch::with(builder([target().argument("name", "arg2:string").argument("number", "arg0:u32")]));
    let pid = ended(actor("what_cannot_be_read_is_marked", "caller").spawn().unwrap());
    watch.until("the probe", |events| common::has(events, pid, EventKind::Probe));
    let event = probes_of(&watch, pid)[0];
    assert_eq!(event.text(Field::ProbeArguments), b"name= number=1");
    assert!(event.truncated().contains(Field::ProbeArguments));
}

#[test]
fn a_function_of_a_library() {
    let (_guard, directory) = open_dir();
    if role().is_some() {
        nix::unistd::mkfifo(&directory.join("fifo"), Mode::from_bits_truncate(0o640)).unwrap();
        return;
    }
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let libc = maps.lines().find_map(|line| line.split_whitespace().nth(5).filter(|path| path.contains("/libc.so")));
    let libc = libc.expect("the C library").to_owned();
    let point = ProbePoint::user("Pipes", &libc, "mkfifo").argument("mode", "arg1:x32").argument("path", "arg0:string");
    let mut watch = Watch::with(builder([point]));
    let pid = ended(actor("a_function_of_a_library", "caller").spawn().unwrap());
    watch.until("the probe", |events| common::has(events, pid, EventKind::Probe));
    let arguments = text(probes_of(&watch, pid)[0], Field::ProbeArguments);
    assert!(arguments.starts_with("mode=0x1a0 path=/") && arguments.ends_with("/fifo"), "{arguments}");
    assert_eq!(text(probes_of(&watch, pid)[0], Field::ProbeExecutable), libc);
}

/// The first byte of the function, as this process has it.
#[cfg(target_arch = "x86_64")]
fn first_byte() -> u8 {
    let mut byte = [0];
    let address = sls_probe_target as *const () as u64;
    assert_eq!(File::open("/proc/self/mem").unwrap().read_at(&mut byte, address).unwrap(), 1);
    byte[0]
}

#[cfg(target_arch = "x86_64")]
#[test]
fn probes_come_and_go_with_what_is_wanted_and_end_with_the_sensor() {
    const BREAKPOINT: u8 = 0xcc;
    if role().is_some() {
        // Tests beside this one have probes on the function as well: this one is in a copy.
        black_box(call(1, c""));
        std::process::exit(i32::from(first_byte() == BREAKPOINT) + 20);
    }
    let (_guard, directory) = open_dir();
    let copy = directory.join("copy");
    fs::copy(executable(), &copy).unwrap();
    let run = || {
        let mut command = Command::new(&copy);
        let original = actor("probes_come_and_go_with_what_is_wanted_and_end_with_the_sensor", "caller");
        command.args(original.get_args()).envs(original.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let mut child = command.stdout(std::process::Stdio::null()).spawn().unwrap();
        (child.id(), child.wait().unwrap().code() == Some(21))
    };
    let point = || ProbePoint::user("Target", copy.to_str().unwrap(), "sls_probe_target");
    let mut watch = Watch::with(builder([]));
    assert!(!run().1);
    watch.probe.set_interest(interest([point()])).unwrap();
    let (pid, attached) = run();
    assert!(attached);
    watch.until("the probe", |events| common::has(events, pid, EventKind::Probe));

    // What is refused changes nothing.
    let wrong = ProbePoint::user("Wrong", copy.to_str().unwrap(), "no_such_function");
    let error = watch.probe.set_interest(interest([wrong])).unwrap_err().to_string();
    assert!(error.contains("\"Wrong\""), "{error}");
    let (pid, attached) = run();
    assert!(attached);
    watch.until("the probe", |events| common::has(events, pid, EventKind::Probe));

    // Other arguments are another probe.
    watch.probe.set_interest(interest([point().argument("n", "arg0:s32")])).unwrap();
    let (pid, attached) = run();
    assert!(attached);
    watch.until("the probe", |events| common::has(events, pid, EventKind::Probe));
    assert_eq!(probes_of(&watch, pid).len(), 1);
    assert_eq!(text(probes_of(&watch, pid)[0], Field::ProbeArguments), "n=1");

    watch.probe.set_interest(interest([])).unwrap();
    assert!(!run().1);
    watch.probe.set_interest(interest([point()])).unwrap();
    assert!(run().1);
    drop(watch);
    assert!(!run().1);
}

#[test]
fn a_busy_function_leaves_room_for_others() {
    const CALLS: usize = 20_000;
    if role().is_some() {
        for _ in 0..CALLS {
            black_box(call(1, c"12345678"));
        }
        return;
    }
    let point = target().argument("name", "arg2:string");
    let mut watch = Watch::with(builder([point]).exec(true).ring_bytes(1 << 20));
    let busy = ended(actor("a_busy_function_leaves_room_for_others", "caller").spawn().unwrap());
    // Nobody has read anything yet.
    let late = ended(Command::new("/bin/true").spawn().unwrap());
    watch.until("the program", |events| common::has(events, late, EventKind::Exec));
    let seen = probes_of(&watch, busy).len();
    let lost = usize::try_from(watch.probe.lost(EventKind::Probe).unwrap()).unwrap();
    assert!((500..CALLS).contains(&seen), "{seen} seen, {lost} lost");
    assert!(seen + lost >= CALLS, "{seen} seen, {lost} lost");
    assert_eq!(watch.probe.lost(EventKind::Exec).unwrap(), 0);
}

#[test]
fn what_is_not_possible_names_the_policy() {
    let missing = refusal([ProbePoint::user("Missing", &executable(), "no_such_function")]);
    assert!(missing.contains("policy \"Missing\" on no_such_function in /"), "{missing}");
    assert!(missing.ends_with("the executable has no such function in its symbols"), "{missing}");
    let nowhere = refusal([ProbePoint::user("Nowhere", "/no/such/file", "main")]);
    assert!(nowhere.contains("\"Nowhere\"") && nowhere.contains("cannot be opened"), "{nowhere}");
    let relative = refusal([ProbePoint::user("Relative", "libc.so.6", "open")]);
    assert!(relative.contains("begin with `/`"), "{relative}");
    let nonsense = refusal([target().argument("a", "rdi")]);
    assert!(nonsense.contains("the argument `a` cannot be fetched: `rdi` is no place"), "{nonsense}");
    let second = ProbePoint::user("Second", &executable(), "sls_probe_target");
    let two = refusal([target(), second.argument("a", "arg0")]);
    assert!(two.contains("\"Second\"") && two.contains("\"Target\" fetches other arguments"), "{two}");
    let many = (0..=MAX_PROBES).map(|number| ProbePoint::user("Many", &executable(), &format!("f{number}")));
    let many = refusal(many);
    assert!(many.contains("65 probes: the limit is 64"), "{many}");
    let kernel = refusal([ProbePoint::kernel("Kernel", "no_such_function")]);
    assert!(kernel.contains("\"Kernel\" on no_such_function: the kernel has no "), "{kernel}");
    let unsafe_probes = builder([target()]).unsafe_probes(false).load().unwrap_err().to_string();
    assert!(unsafe_probes.contains("does not allow probes"), "{unsafe_probes}");
}

fn has_kprobes() -> bool {
    Path::new("/sys/bus/event_source/devices/kprobe").exists()
}

#[test]
fn what_the_kernel_offers_is_known_before() {
    let builder = builder([]);
    assert_eq!(builder.unavailable(PolicyType::Kprobe).is_none(), has_kprobes());
    assert_eq!(builder.unavailable(PolicyType::Uprobe), None);
    assert!(builder.provides(EventKind::Probe).contains(Field::ProbeArguments));
    assert!(Probe::builder().provides(EventKind::Probe).is_empty());
}

#[test]
fn functions_of_the_kernel() {
    if !has_kprobes() {
        return not_offered("kprobe", "CONFIG_KPROBES, CONFIG_KPROBE_EVENTS");
    }
    let (_guard, directory) = open_dir();
    if role().is_some() {
        let none: Option<&str> = None;
        mount(Some("nothing"), &directory, Some("ramfs"), MsFlags::MS_NOSUID, none).unwrap();
        umount2(&directory, MntFlags::empty()).unwrap();
        drop(File::open("/etc/passwd").unwrap());
        return;
    }
    let mounts = ProbePoint::kernel("Mounts", "security_sb_mount").argument("flags", "arg3:x32");
    let opens = ProbePoint::kernel("Opens", "do_sys_openat2").argument("dir", "arg0:s32");
    let points =
        [mounts.argument("type", "%dx:string"), opens.argument("path", "arg1:ustring").argument("how", "+0(%dx)")];
    let mut watch = Watch::with(builder(points).exec(true).exit(true));
    let pid = ended(actor("functions_of_the_kernel", "caller").spawn().unwrap());
    watch.until("the end", |events| common::has(events, pid, EventKind::Exit));
    let events = probes_of(&watch, pid);
    let of = |symbol: &str| {
        let events = events.iter().filter(move |event| event.text(Field::ProbeSymbol) == symbol.as_bytes());
        events.map(|event| String::from_utf8_lossy(event.text(Field::ProbeArguments)).into_owned()).collect::<Vec<_>>()
    };
    assert_eq!(of("security_sb_mount"), ["flags=0x2 type=ramfs"]);
    let opened = of("do_sys_openat2");
    // O_CLOEXEC, and with 64-bit offsets O_LARGEFILE.
    let passwd = ["dir=-100 how=524288 path=/etc/passwd", "dir=-100 how=557056 path=/etc/passwd"];
    assert!(opened.iter().any(|arguments| passwd.contains(&arguments.as_str())), "{opened:?}");
    let mount = events.iter().find(|event| event.text(Field::ProbeSymbol) == b"security_sb_mount").unwrap();
    assert!(!mount.untrusted().contains(Field::ProbeArguments));

    let mut watch = Watch::with(builder([ProbePoint::kernel("Returns", "security_sb_mount").argument("r", "ret:s32")]));
    let pid = ended(actor("functions_of_the_kernel", "caller").spawn().unwrap());
    watch.until("the probe", |events| common::has(events, pid, EventKind::Probe));
    assert_eq!(text(probes_of(&watch, pid)[0], Field::ProbeArguments), "r=0");
}

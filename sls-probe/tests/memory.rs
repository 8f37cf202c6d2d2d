//! Memory that real processes make executable. Needs root.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::ffi::c_void;
use std::fs::File;
use std::io::Write;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::ptr::NonNull;

use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mmap_anonymous, mprotect};
use sls_core::{Event, EventKind, Field, Interest, PolicySet, PolicyType, Value};
use sls_probe::{HookFamily, Probe};

use common::{Watch, actor, family, role, text};

const PAGE: usize = 4096;
const RW: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_WRITE);
const RX: ProtFlags = ProtFlags::PROT_READ.union(ProtFlags::PROT_EXEC);
const RWX: ProtFlags = RW.union(RX);

fn watch_for(interest: Interest) -> Watch {
    Watch::with(Probe::builder().fork(false).snapshot(false).interest(interest).hooks(family()))
}

fn watch() -> Watch {
    let mut interest = Interest::default();
    interest.add_kind(EventKind::Memory).add_kind(EventKind::Userfaultfd);
    watch_for(interest)
}

/// Plays `part` in a child, and returns what is told of it.
fn act(watch: &mut Watch, part: &str) -> Vec<Event> {
    let events = run(watch, &mut actor("memory_actor", part));
    events.into_iter().filter(|event| matches!(event.kind, EventKind::Memory | EventKind::Userfaultfd)).collect()
}

fn run(watch: &mut Watch, command: &mut Command) -> Vec<Event> {
    let mut child = command.spawn().unwrap();
    let pid = child.id();
    watch.until("the end of the actor", |events| common::has(events, pid, EventKind::Exit));
    assert!(child.wait().unwrap().success(), "{command:?}");
    watch.of(pid).into_iter().cloned().collect()
}

/// Region and whether it is writable.
fn regions(events: &[Event]) -> Vec<(String, bool)> {
    let told = events.iter().map(|event| {
        let Value::Bool(writable) = event.value(Field::MemoryIsWritable) else { panic!("{event:?}") };
        (text(event, Field::MemoryRegion), writable)
    });
    told.collect()
}

fn map(prot: ProtFlags) -> NonNull<c_void> {
    // SAFETY: new memory, which nothing else knows.
    unsafe { mmap_anonymous(None, PAGES, prot, MapFlags::MAP_PRIVATE).unwrap() }
}

const PAGES: NonZeroUsize = NonZeroUsize::new(4 * PAGE).unwrap();

fn map_file(file: impl AsFd, prot: ProtFlags, flags: MapFlags) -> nix::Result<NonNull<c_void>> {
    // SAFETY: new memory, which nothing else knows.
    unsafe { mmap(None, NonZeroUsize::new(PAGE).unwrap(), prot, flags, file, 0) }
}

fn protect(at: NonNull<c_void>, prot: ProtFlags) -> nix::Result<()> {
    // SAFETY: what is there stays readable and writable, or belongs to nobody but the caller.
    unsafe { mprotect(at, PAGE, prot) }
}

/// The page of an address.
fn page(at: usize) -> NonNull<c_void> {
    NonNull::new((at & !(PAGE - 1)) as *mut c_void).unwrap()
}

fn mapping(name: &str) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
    let line = maps.lines().find(|line| line.ends_with(name)).unwrap();
    usize::from_str_radix(line.split('-').next().unwrap(), 16).unwrap()
}

fn file() -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(&[0xc3; PAGE]).unwrap();
    file
}

fn memfd() -> OwnedFd {
    let fd = memfd_create(c"code", MFdFlags::empty()).unwrap();
    File::from(fd.try_clone().unwrap()).write_all(&[0xc3; PAGE]).unwrap();
    fd
}

#[test]
fn memory_actor() {
    let Some(part) = role() else { return };
    let shared = MapFlags::MAP_SHARED;
    let private = MapFlags::MAP_PRIVATE;
    match &*part {
        "nothing" => {
            let at = map(RW);
            protect(at, ProtFlags::PROT_READ).unwrap();
            protect(at, RW).unwrap();
            map_file(file(), RW, private).unwrap();
            map_file(memfd(), RW, shared).unwrap();
            // As the dynamic linker does.
            map_file(file(), RX, private).unwrap();
        }
        "refused" => {
            // The file is open for reading only.
            let file = File::open("/proc/self/exe").unwrap();
            assert!(map_file(&file, RWX, shared).is_err());
            let at = map_file(&file, ProtFlags::PROT_READ, shared).unwrap();
            assert!(protect(at, RWX).is_err());
            assert!(protect(page(PAGE), RWX).is_err(), "nothing is mapped there");
        }
        "map" => drop(map(RX)),
        "map-writable" => drop(map(RWX)),
        "protect" => protect(map(RW), RX).unwrap(),
        "protect-second-page" => {
            let at = map(RW);
            let second = page(at.as_ptr() as usize + PAGE);
            protect(second, RX).unwrap();
        }
        "shared" => {
            // SAFETY: new memory, which nothing else knows.
            let at = unsafe { mmap_anonymous(None, PAGES, RW, shared).unwrap() };
            protect(at, RX).unwrap();
        }
        "pkey" => {
            let at = map(RW).as_ptr();
            // SAFETY: as mprotect; -1 is the key that every page has.
            let result =
                unsafe { libc::syscall(libc::SYS_pkey_mprotect, at, PAGE, libc::PROT_READ | libc::PROT_EXEC, -1) };
            assert_eq!(result, 0);
        }
        "heap" => {
            // SAFETY: room behind the heap's end, which the allocator does not know of.
            let at = unsafe {
                libc::sbrk(4 * PAGE as isize);
                libc::sbrk(0) as usize - 2 * PAGE
            };
            protect(page(at), RX).unwrap();
        }
        "stack" => protect(page(mapping("[stack]")), RWX).unwrap(),
        "memfd" => drop(map_file(memfd(), RX, private).unwrap()),
        "memfd-protect" => protect(map_file(memfd(), RW, shared).unwrap(), RX).unwrap(),
        "file" => protect(map_file(file(), RW, private).unwrap(), RWX).unwrap(),
        "file-map" => drop(map_file(file(), RWX, private).unwrap()),
        "several" => {
            // A file and anonymous memory side by side, in one call.
            let at = map(RW).as_ptr() as usize;
            let first = NonZeroUsize::new(at).unwrap();
            // SAFETY: it takes the place of a page that is ours.
            unsafe {
                let fixed = private | MapFlags::MAP_FIXED;
                mmap(Some(first), NonZeroUsize::new(PAGE).unwrap(), ProtFlags::PROT_READ, fixed, file(), 0).unwrap();
                mprotect(page(at), 2 * PAGE, RX).unwrap();
            }
        }
        "personality" => {
            // SAFETY: concerns later mappings only.
            assert!(unsafe { libc::personality(libc::READ_IMPLIES_EXEC as u64) } >= 0);
            map(RW);
        }
        "shm" => {
            // SAFETY: a new segment, which goes with this process.
            unsafe {
                let id = libc::shmget(libc::IPC_PRIVATE, PAGE, 0o700);
                let at = libc::shmat(id, std::ptr::null(), libc::SHM_EXEC);
                libc::shmctl(id, libc::IPC_RMID, std::ptr::null_mut());
                assert!(at as isize > 0);
            }
        }
        #[cfg(target_arch = "x86_64")]
        "protect-32-bit" => {
            // SAFETY: new memory, which nothing else knows, where 32 bits can address it.
            let at = unsafe { mmap_anonymous(None, PAGES, RW, private | MapFlags::MAP_32BIT).unwrap() };
            assert_eq!(mprotect_of_32_bits(at.as_ptr() as usize, PAGE, RX.bits() as usize), 0);
        }
        "userfaultfd" => {
            // SAFETY: makes a descriptor, which is nobody else's.
            let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC) };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
            // SAFETY: as above.
            drop(unsafe { OwnedFd::from_raw_fd(fd as i32) });
            // SAFETY: flags that do not exist.
            assert!(unsafe { libc::syscall(libc::SYS_userfaultfd, 0xff00) } < 0);
        }
        "userfaultfd-device" => {
            let device = File::options().read(true).write(true).open("/dev/userfaultfd").unwrap();
            const USERFAULTFD_IOC_NEW: libc::Ioctl = 0xaa00;
            // SAFETY: makes a descriptor, which is nobody else's.
            let fd = unsafe { libc::ioctl(device.as_raw_fd(), USERFAULTFD_IOC_NEW, libc::O_CLOEXEC) };
            assert!(fd >= 0, "{}", std::io::Error::last_os_error());
        }
        other => panic!("no part is called {other}"),
    }
}

/// As a 32-bit program makes it.
#[cfg(target_arch = "x86_64")]
fn mprotect_of_32_bits(at: usize, len: usize, prot: usize) -> i64 {
    const MPROTECT: i64 = 125;
    let result: i64;
    // SAFETY: the caller owns the memory; the register that the compiler keeps for itself is put back.
    unsafe {
        std::arch::asm!(
            "xchg {first}, rbx", "int 0x80", "xchg {first}, rbx",
            first = inout(reg) at => _,
            inlateout("rax") MPROTECT => result,
            in("rcx") len, in("rdx") prot,
            lateout("r8") _, lateout("r9") _, lateout("r10") _, lateout("r11") _,
        );
    }
    result
}

/// System calls of 32-bit programs have no tracepoints; the functions behind them are the same.
#[cfg(target_arch = "x86_64")]
#[test]
fn calls_of_32_bit_programs_are_told_by_trampolines_only() {
    let mut watch = watch();
    let told = regions(&act(&mut watch, "protect-32-bit"));
    let expected = [("ANONYMOUS".to_owned(), false)];
    assert_eq!(told, if family() == HookFamily::Trampoline { &expected[..] } else { &[] });
}

#[test]
fn each_region_that_becomes_executable_is_told() {
    let mut watch = watch();
    for (part, region, writable) in [
        ("map", "ANONYMOUS", false),
        ("map-writable", "ANONYMOUS", true),
        ("protect", "ANONYMOUS", false),
        ("protect-second-page", "ANONYMOUS", false),
        ("shared", "ANONYMOUS", false),
        ("pkey", "ANONYMOUS", false),
        ("heap", "HEAP", false),
        ("stack", "STACK", true),
        ("memfd", "MEMFD", false),
        ("memfd-protect", "MEMFD", false),
        ("file", "FILE", true),
        ("file-map", "FILE", true),
        ("several", "ANONYMOUS", false),
        ("personality", "ANONYMOUS", true),
        ("shm", "ANONYMOUS", true),
    ] {
        assert_eq!(regions(&act(&mut watch, part)), [(region.to_owned(), writable)], "{part}");
    }
    assert_eq!(watch.probe.lost(EventKind::Memory).unwrap(), 0);
}

#[test]
fn what_stays_as_it_is_or_is_refused_is_nothing() {
    let mut watch = watch();
    for part in ["nothing", "refused"] {
        assert_eq!(regions(&act(&mut watch, part)), [], "{part}");
    }
    let events = run(&mut watch, &mut Command::new("/bin/true"));
    assert!(events.iter().all(|event| event.kind != EventKind::Memory), "{events:?}");
}

#[test]
fn only_the_regions_that_are_wanted_are_told() {
    let yaml = "A:\n  policy: memoryProtection\n  rules:\n    - match memoryRegion in [\"MEMFD\", \"STACK\"]\n    - default ignore\n";
    let mut watch = watch_for(PolicySet::from_yaml("policy.yaml", yaml).unwrap().interest());
    assert_eq!(regions(&act(&mut watch, "map-writable")), []);
    assert_eq!(regions(&act(&mut watch, "memfd")), [("MEMFD".to_owned(), false)]);
}

#[test]
fn userfaultfd_is_told_once_it_is_made() {
    let mut watch = watch();
    let kinds: Vec<EventKind> = act(&mut watch, "userfaultfd").iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Userfaultfd]);
    assert!(sls_core::EventSource::provides(&watch.probe, EventKind::Userfaultfd).contains(Field::Uid));
    // The trampoline sees the other way to make one.
    if family() == HookFamily::Trampoline && std::path::Path::new("/dev/userfaultfd").exists() {
        let kinds: Vec<EventKind> = act(&mut watch, "userfaultfd-device").iter().map(|event| event.kind).collect();
        assert_eq!(kinds, [EventKind::Userfaultfd]);
    }
}

#[test]
fn nothing_is_missing_for_policies_of_these_types() {
    let builder = Probe::builder().hooks(family());
    for (policy_type, kind) in [
        (PolicyType::Ptrace, EventKind::Ptrace),
        (PolicyType::MemoryProtection, EventKind::Memory),
        (PolicyType::Userfaultfd, EventKind::Userfaultfd),
        (PolicyType::PrivilegeEscalation, EventKind::Credentials),
        (PolicyType::Segfault, EventKind::Crash),
    ] {
        assert_eq!(builder.unavailable(policy_type), None);
        assert!(builder.provides(kind).contains(Field::Uid), "{kind}");
    }
}

#[test]
fn program_started_by_ld_so_maps_its_file_and_nothing_else() {
    let mut watch = watch();
    let loader = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"];
    let loader = loader.into_iter().find(|path| std::path::Path::new(path).exists()).unwrap();
    let events = run(&mut watch, Command::new(loader).arg("/bin/true"));
    let exec = events.iter().find(|event| event.kind == EventKind::Exec).unwrap();
    assert_eq!(text(exec, Field::ProgramName), std::fs::canonicalize(loader).unwrap().to_str().unwrap());
    assert_eq!(
        exec.arguments().collect::<Vec<_>>(),
        [loader.as_bytes(), b"/bin/true"],
        "what it starts is in its arguments"
    );
    // Code from a file that nobody can write through it is no event of memory.
    assert!(events.iter().all(|event| event.kind != EventKind::Memory), "{events:?}");
}

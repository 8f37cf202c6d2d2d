//! Code that is really loaded into the kernel. Modules and other kernels only where the kernel takes them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr)]

mod common;

use std::ffi::{CStr, CString};
use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::kmod::{DeleteModuleFlags, ModuleInitFlags, delete_module, finit_module, init_module};
use sls_core::{Event, EventKind, Field, Interest, Value};
use sls_probe::Probe;

use common::{Watch, actor, family, not_offered, open_dir, role, spare_module, text, without};

const MODULE: &str = "dummy";

fn watch() -> Watch {
    let mut interest = Interest::default();
    interest.add_kind(EventKind::Module);
    let builder = Probe::builder().exec(false).fork(false).exit(false).snapshot(false);
    Watch::with(builder.interest(interest).hooks(family()))
}

fn loads<'w>(watch: &'w Watch, operation: &'static str) -> impl Iterator<Item = &'w Event> {
    watch.events.iter().filter(move |event| {
        event.kind == EventKind::Module && event.text(Field::ModuleOperation) == operation.as_bytes()
    })
}

fn is_load(event: &Event, operation: &str, pid: u32) -> bool {
    event.process.pid == pid && event.text(Field::ModuleOperation) == operation.as_bytes()
}

#[test]
fn programs_that_others_load_are_reported_and_the_sensors_own_are_not() {
    if role().is_some() {
        drop(Probe::builder().snapshot(false).load().expect("load"));
        return;
    }
    let mut watch = watch();
    // Of this process, which is a sensor.
    drop(Probe::builder().snapshot(false).load().expect("load"));
    let mut child =
        actor("programs_that_others_load_are_reported_and_the_sensors_own_are_not", "loader").spawn().unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success());
    watch.until("the child's programs", |events| {
        events.iter().any(|event| is_load(event, "BPF_LOAD", pid) && event.text(Field::ModuleName) == b"on_exit")
    });
    let of_child: Vec<_> = loads(&watch, "BPF_LOAD").filter(|event| event.process.pid == pid).collect();
    for name in ["on_exec", "on_fork", "on_exit"] {
        let times = of_child.iter().filter(|event| event.text(Field::ModuleName) == name.as_bytes()).count();
        assert_eq!(times, 1, "{name}");
    }
    assert!(of_child.iter().all(|event| event.value(Field::FilePath) == Value::Absent));
    let own = std::process::id();
    let own: Vec<_> = loads(&watch, "BPF_LOAD").filter(|event| event.process.pid == own).collect();
    assert!(own.is_empty(), "{own:?}");
    assert_eq!(watch.probe.lost(EventKind::Module).unwrap(), 0);
}

#[test]
fn a_program_that_is_refused_is_no_event() {
    if role().is_some() {
        // Without a licence and instructions.
        let attributes = [0_u8; 64];
        // SAFETY: the kernel only reads the attributes.
        let fd = unsafe { libc::syscall(libc::SYS_bpf, 5, attributes.as_ptr(), attributes.len()) };
        assert!(fd < 0);
        drop(Probe::builder().exec(false).fork(false).snapshot(false).load().expect("load"));
        return;
    }
    let mut watch = watch();
    let mut child = actor("a_program_that_is_refused_is_no_event", "loader").spawn().unwrap();
    let pid = child.id();
    assert!(child.wait().unwrap().success());
    let on_exit = |event: &Event| is_load(event, "BPF_LOAD", pid) && event.text(Field::ModuleName) == b"on_exit";
    watch.until("what came after it", |events| events.iter().any(on_exit));
    let mut of_child = loads(&watch, "BPF_LOAD").filter(|event| event.process.pid == pid);
    assert!(of_child.all(|event| event.value(Field::ModuleName) != Value::Unknown));
}

/// One test at a time has the module, and nobody keeps it.
struct Loaded(#[allow(dead_code)] MutexGuard<'static, ()>);

fn name() -> CString {
    CString::new(MODULE).unwrap()
}

impl Loaded {
    fn turn() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        Self(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn unload(&self) {
        delete_module(&name(), DeleteModuleFlags::O_NONBLOCK).unwrap();
    }
}

impl Drop for Loaded {
    fn drop(&mut self) {
        let _ = delete_module(&name(), DeleteModuleFlags::O_NONBLOCK);
    }
}

#[test]
fn modules_from_files_and_from_memory() {
    let Some(file) = spare_module() else { return };
    let turn = Loaded::turn();
    let mut watch = watch();
    let pid = std::process::id();
    let options: &CStr = c"numdummies=0";

    // What is refused is no event, and its path is not that of the next.
    let (_guard, directory) = open_dir();
    let broken = directory.join("broken.ko");
    fs::write(&broken, b"no module").unwrap();
    assert!(finit_module(File::open(&broken).unwrap(), options, ModuleInitFlags::empty()).is_err());
    init_module(&fs::read(&file).unwrap(), options).unwrap();
    turn.unload();
    finit_module(File::open(&file).unwrap(), options, ModuleInitFlags::empty()).unwrap();
    turn.unload();

    watch.until("two modules", |events| events.iter().filter(|event| is_load(event, "MODULE_LOAD", pid)).count() >= 2);
    let modules: Vec<_> = loads(&watch, "MODULE_LOAD").filter(|event| event.process.pid == pid).collect();
    assert_eq!(modules.len(), 2);
    assert!(modules.iter().all(|event| event.text(Field::ModuleName) == MODULE.as_bytes()));
    assert_eq!(modules[0].value(Field::FilePath), Value::Absent, "{:?}", modules[0]);
    assert_eq!(text(modules[1], Field::FilePath), file.to_str().unwrap());
}

/// A system call as 32-bit programs make it, which tracepoints of system calls do not see.
#[cfg(target_arch = "x86_64")]
fn call32(number: u32, first: u32, second: u32, third: u32) -> i32 {
    let result: u32;
    // SAFETY: the registers are those of the convention; what the call does is its caller's affair.
    unsafe {
        std::arch::asm!(
            "xchg rbx, {first:r}",
            "int 0x80",
            "xchg rbx, {first:r}",
            first = inout(reg) u64::from(first) => _,
            inout("eax") number => result,
            in("ecx") second,
            in("edx") third,
            out("r8") _, out("r9") _, out("r10") _, out("r11") _,
        );
    }
    result as i32
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_module_by_a_32_bit_call() {
    const FINIT_MODULE: u32 = 350;
    let Some(file) = spare_module() else { return };
    let turn = Loaded::turn();
    let mut watch = watch();
    // SAFETY: nothing else is there; the page is empty options, below 4 GiB.
    let options = unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_32BIT;
        libc::mmap(std::ptr::null_mut(), 4096, libc::PROT_READ, flags, -1, 0)
    };
    assert_ne!(options, libc::MAP_FAILED);
    let open = File::open(&file).unwrap();
    assert_eq!(call32(FINIT_MODULE, open.as_raw_fd() as u32, options as usize as u32, 0), 0);
    turn.unload();
    let pid = std::process::id();
    watch.until("the module", |events| events.iter().any(|event| is_load(event, "MODULE_LOAD", pid)));
    let event = loads(&watch, "MODULE_LOAD").next().unwrap();
    assert_eq!(event.text(Field::ModuleName), MODULE.as_bytes());
    if family().sees_objects() {
        assert_eq!(text(event, Field::FilePath), file.to_str().unwrap());
    } else {
        assert_eq!(event.value(Field::FilePath), Value::Unknown);
        without("kprobe", "the file of a module that a 32-bit call loads");
    }
}

#[test]
fn another_kernel() {
    if std::env::var_os("SLS_LAB_GUEST").is_none() || !Path::new("/sys/kernel/kexec_loaded").exists() {
        return not_offered("kexec", "CONFIG_KEXEC_FILE, and a machine to be thrown away");
    }
    let image = PathBuf::from(std::env::var_os("SLS_LAB_KERNEL").expect("the image of this kernel"));
    let mut watch = watch();
    let kernel = File::open(&image).unwrap();
    let load = |flags: libc::c_ulong| {
        let no_initrd: libc::c_ulong = 4;
        let (fd, command_line) = (kernel.as_raw_fd(), c"");
        // SAFETY: the kernel reads one byte of the command line.
        unsafe { libc::syscall(libc::SYS_kexec_file_load, fd, -1, 1_usize, command_line.as_ptr(), flags | no_initrd) }
    };
    assert_eq!(load(0), 0, "{}", std::io::Error::last_os_error());
    let unload: libc::c_ulong = 1;
    assert_eq!(load(unload), 0);
    let pid = std::process::id();
    watch.until("the kernel", |events| events.iter().any(|event| is_load(event, "KEXEC", pid)));
    let kernels: Vec<_> = loads(&watch, "KEXEC").collect();
    assert_eq!(kernels.len(), 1);
    assert_eq!(text(kernels[0], Field::FilePath), image.to_str().unwrap());
    assert_eq!(kernels[0].value(Field::ModuleName), Value::Absent);
}

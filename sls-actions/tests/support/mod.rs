//! Real processes for the tests, and the system calls that make them. All `unsafe` code of the tests is here.

// Each test program uses a part.
#![allow(dead_code, unused_imports)]

pub(crate) mod containers;
#[path = "../../../.ci/lab/for_tests.rs"]
mod for_tests;

use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::io;
use std::sync::{Barrier, LazyLock};
use std::time::{Duration, Instant};

use libc::{c_int, c_long, pid_t};
use sls_actions::{CLOCK_TICK_NS, ProcessResponder, process_target};
use sls_core::{
    Action, ActionContext, ActionOutcome, Event, EventKind, Execution, Permission, PlannedAction, Responder, Target,
};

pub(crate) use for_tests::{emulated, not_offered, patience, rounds, without};

/// What outlives its parent ends by itself after so many seconds: longer than any wait of a test that passes.
const LIFETIME_SECONDS: u32 = 130;

pub(crate) fn responder() -> ProcessResponder {
    ProcessResponder::builder().confirm_timeout(patience()).build().unwrap()
}

pub(crate) fn granted(action: Action, target: Target) -> PlannedAction {
    PlannedAction::new(action, target, Permission::Granted)
}

/// Executes as the answer to an event that tells nothing.
pub(crate) fn start(responder: &mut dyn Responder, planned: &PlannedAction) -> Execution {
    static EVENT: LazyLock<Event> = LazyLock::new(|| Event::new(EventKind::Exec));
    responder.execute(planned, &ActionContext::new(&EVENT))
}

pub(crate) fn execute(action: Action, target: Target) -> ActionOutcome {
    start(&mut responder(), &granted(action, target)).finish()
}

/// What the alert says: `action_result` and its details.
pub(crate) fn said(outcome: &ActionOutcome) -> (&str, &str) {
    (outcome.result.name(), outcome.result.details())
}

/// The target as a kernel without pidfs gives it.
pub(crate) fn without_inode(target: Target) -> Target {
    let Target::Process { key, .. } = target else { panic!("not a process: {target:?}") };
    Target::Process { key, pidfd_inode: None }
}

pub(crate) fn has_inode(target: Target) -> bool {
    matches!(target, Target::Process { pidfd_inode: Some(_), .. })
}

pub(crate) fn start_of(target: Target) -> u64 {
    let Target::Process { key, .. } = target else { panic!("not a process: {target:?}") };
    key.start
}

/// The states of all threads, one letter each.
pub(crate) fn thread_states(pid: pid_t) -> String {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.unwrap().path().join("stat")).ok())
        .map(|stat| stat.rsplit(") ").next().unwrap().chars().next().unwrap())
        .collect()
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < patience(), "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A child of this test. As long as it is not reaped its pid is its own; it is killed and reaped in the end.
#[derive(Debug)]
pub(crate) struct Child {
    pub(crate) pid: pid_t,
    reaped: bool,
}

impl Child {
    /// A child that sleeps until it is killed.
    pub(crate) fn sleeping() -> Self {
        Self::running(|| sleep_forever())
    }

    /// A child that runs `body` and exits with 0.
    pub(crate) fn running(body: impl FnOnce()) -> Self {
        // SAFETY: the C library makes its own state usable in the child, and `body` is run there by the only thread.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", io::Error::last_os_error());
        if pid == 0 {
            die_with_parent();
            body();
            exit_now(0);
        }
        Self { pid, reaped: false }
    }

    /// A child with this very pid, which runs `body` and exits with what it returns. `body` must do nothing but system
    /// calls. None if the pid is taken.
    pub(crate) fn with_pid(pid: pid_t, body: impl FnOnce() -> c_int) -> Option<Self> {
        let result = clone(0, &[pid]);
        if result == 0 {
            die_with_parent();
            exit_now(body());
        }
        match io::Error::last_os_error().raw_os_error() {
            _ if result > 0 => Some(Self { pid: result as pid_t, reaped: false }),
            Some(libc::EEXIST) => None,
            _ => panic!("clone3 with a chosen pid: {}", io::Error::last_os_error()),
        }
    }

    pub(crate) fn target(&self) -> Target {
        process_target(self.pid as u32).unwrap()
    }

    /// Whether nothing has happened to it: neither ended nor stopped.
    pub(crate) fn is_untouched(&self) -> bool {
        self.wait_for(libc::WNOHANG | libc::WUNTRACED).is_none()
    }

    /// For one whose end was reported.
    pub(crate) fn forget_reaped(mut self) {
        self.reaped = true;
    }

    /// Waits for its end and reaps it.
    pub(crate) fn reap(mut self) -> Status {
        self.reap_now()
    }

    pub(crate) fn signal(&self, signal: c_int) {
        // SAFETY: no memory is involved. The child is not reaped, so the pid is its own.
        unsafe { libc::kill(self.pid, signal) };
    }

    /// Waits until it is dead, and leaves it so.
    pub(crate) fn wait_until_zombie(&self) {
        // SAFETY: all-zero is a valid value of this plain structure.
        let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
        // SAFETY: `info` is a place to write to.
        let result =
            unsafe { libc::waitid(libc::P_PID, self.pid as libc::id_t, &raw mut info, libc::WEXITED | libc::WNOWAIT) };
        assert_eq!(result, 0);
    }

    /// Makes this thread its tracer, with the options given.
    pub(crate) fn trace(&self, options: c_int) {
        self.ptrace(libc::PTRACE_SEIZE, options.into());
    }

    /// Waits until it stops in its tracer's hand, for an event; returns that event.
    pub(crate) fn wait_for_trace_event(&self) -> c_int {
        match self.wait_for(0) {
            Some(Status::Other(status)) => status >> 16,
            status => panic!("no trace event but {status:?}"),
        }
    }

    /// Waits until a stop signal has put it in its tracer's hand.
    pub(crate) fn wait_for_stop_signal(&self) {
        let status = self.wait_for(0);
        assert!(matches!(status, Some(Status::Other(status)) if status >> 8 == libc::SIGSTOP), "{status:?}");
    }

    /// Gives up being its tracer, and lets it have `signal`.
    pub(crate) fn trace_detach(&self, signal: c_int) {
        self.ptrace(libc::PTRACE_DETACH, signal.into());
    }

    /// Lets it go on from a trace event.
    pub(crate) fn trace_continue(&self) {
        self.ptrace(libc::PTRACE_CONT, 0);
    }

    /// Traced, and waiting for a signal to stop it: swallows that signal and runs on to the `steps`th beginning or end of
    /// a system call, where it is held. How it ended, if it ended before.
    pub(crate) fn run_to_system_call(&self, steps: usize) -> Option<Status> {
        let is_stop = |status, signal| matches!(status, Some(Status::Other(status)) if status >> 8 == signal);
        self.wait_for_stop_signal();
        for _ in 0..steps {
            self.ptrace(libc::PTRACE_SYSCALL, 0);
            let status = self.wait_for(0);
            if !is_stop(status, libc::SIGTRAP | 0x80) {
                return status;
            }
        }
        None
    }

    fn ptrace(&self, request: libc::c_uint, data: c_long) {
        assert_eq!(self.try_ptrace(request, data), 0, "ptrace: {}", io::Error::last_os_error());
    }

    fn try_ptrace(&self, request: libc::c_uint, data: c_long) -> c_long {
        // SAFETY: the requests used here read and write no memory of this process.
        unsafe { libc::ptrace(request, self.pid, 0 as c_long, data) }
    }

    fn reap_now(&mut self) -> Status {
        self.reaped = true;
        self.wait_for(0).unwrap()
    }

    fn wait_for(&self, flags: c_int) -> Option<Status> {
        let mut status = 0;
        // SAFETY: `status` is a place to write to.
        let waited = unsafe { libc::waitpid(self.pid, &raw mut status, flags | libc::__WALL) };
        assert!(waited >= 0, "waitpid: {}", io::Error::last_os_error());
        (waited > 0).then(|| match status {
            _ if libc::WIFEXITED(status) => Status::Exited(libc::WEXITSTATUS(status)),
            _ if libc::WIFSIGNALED(status) => Status::Killed(libc::WTERMSIG(status)),
            other => Status::Other(other),
        })
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if !self.reaped {
            self.signal(libc::SIGKILL);
            // A traced child stops before it is dead, or has stopped already, and waits for its tracer.
            self.try_ptrace(libc::PTRACE_CONT, 0);
            while let Status::Other(_) = self.reap_now() {
                self.try_ptrace(libc::PTRACE_CONT, 0);
            }
        }
    }
}

/// How a child ended, or else what waitpid(2) gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Status {
    Exited(c_int),
    Killed(c_int),
    Other(c_int),
}

/// A pipe for one byte at a time; usable after fork and clone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Signal {
    read: c_int,
    write: c_int,
}

impl Signal {
    pub(crate) fn new() -> Self {
        let mut fds = [0; 2];
        // SAFETY: there is room for two descriptors.
        assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
        Self { read: fds[0], write: fds[1] }
    }

    pub(crate) fn send(self) {
        // SAFETY: one byte is read from a constant.
        let written = unsafe { libc::write(self.write, [1_u8].as_ptr().cast(), 1) };
        assert_eq!(written, 1);
    }

    pub(crate) fn receive(self) {
        let mut byte = [0_u8];
        // SAFETY: there is room for one byte.
        while unsafe { libc::read(self.read, byte.as_mut_ptr().cast(), 1) } != 1 {}
    }

    pub(crate) fn close(self) {
        // SAFETY: the descriptors were made by `new`, and the caller uses the pipe no more.
        unsafe { (libc::close(self.read), libc::close(self.write)) };
    }
}

/// Waits without an end, and without heeding any signal but the deadly: state `D`. It is a parent in vfork(2), whose child
/// runs no other program.
pub(crate) fn hang_uninterruptibly() {
    if clone(libc::CLONE_VFORK as u64, &[]) == 0 {
        die_with_parent();
        sleep_forever();
    }
}

pub(crate) fn sleep_forever() -> ! {
    loop {
        // SAFETY: no memory is involved.
        unsafe { libc::pause() };
    }
}

/// Stops the calling process until it is continued, or until its tracer swallows the signal.
pub(crate) fn stop_self() {
    // SAFETY: no memory is involved.
    unsafe { libc::raise(libc::SIGSTOP) };
}

pub(crate) fn sleep_micros(micros: u32) {
    let time = libc::timespec { tv_sec: 0, tv_nsec: c_long::from(micros) * 1000 };
    // SAFETY: `time` is read, nothing is written.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
}

pub(crate) fn exit_now(status: c_int) -> ! {
    // SAFETY: it does not return, and runs nothing of this process.
    unsafe { libc::_exit(status) }
}

/// Ends the calling thread and no other.
pub(crate) fn exit_thread() -> ! {
    // SAFETY: the thread's stack is never given back, as it is the first thread's.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
    unreachable!("exit does not return");
}

/// The id of the calling thread.
pub(crate) fn this_thread() -> pid_t {
    // SAFETY: no memory is involved.
    unsafe { libc::gettid() }
}

pub(crate) fn is_root() -> bool {
    // SAFETY: no memory is involved.
    unsafe { libc::geteuid() == 0 }
}

/// Makes the calling thread, and no other, an ordinary user's: without this the C library changes all threads.
pub(crate) fn become_nobody() {
    const NOBODY: c_long = 65534;
    // SAFETY: no memory is involved.
    assert_eq!(unsafe { libc::syscall(libc::SYS_setresuid, NOBODY, NOBODY, NOBODY) }, 0);
}

/// For the child of a child: takes back that it dies with its parent; it ends soon in any case.
pub(crate) fn outlive_parent() {
    // SAFETY: no memory is involved.
    unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, 0), libc::alarm(LIFETIME_SECONDS)) };
}

/// clone3(2) with a copy of everything, as fork(2) makes it. The child must do nothing but system calls.
fn clone(flags: u64, set_tid: &[pid_t]) -> c_long {
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = flags;
    args.exit_signal = libc::SIGCHLD as u64;
    if !set_tid.is_empty() {
        args.set_tid = set_tid.as_ptr() as u64;
        args.set_tid_size = set_tid.len() as u64;
    }
    // SAFETY: the structure and the pid that it points to outlive the call, and without CLONE_VM the child has a copy of
    // everything, stack included.
    unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<libc::clone_args>()) }
}

fn die_with_parent() {
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
}

/// Counts what each thread allocates.
#[derive(Debug)]
pub(crate) struct CountingAllocator<A>(pub(crate) A);

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

/// How often the calling thread has allocated memory.
pub(crate) fn allocations() -> usize {
    ALLOCATIONS.get()
}

// SAFETY: all is left to the inner allocator; the counter is in static memory, has no destructor and allocates nothing.
unsafe impl<A: GlobalAlloc> GlobalAlloc for CountingAllocator<A> {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { self.0.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this very method.
        unsafe { self.0.dealloc(memory, layout) }
    }
}

/// A pipe that every process of a tree holds one end of. When the last has gone the other end says so.
#[derive(Debug)]
pub(crate) struct Lifeline {
    read: c_int,
    write: c_int,
}

impl Lifeline {
    pub(crate) fn new() -> Self {
        let mut fds = [0; 2];
        // SAFETY: there is room for two descriptors.
        assert_eq!(unsafe { libc::pipe2(fds.as_mut_ptr(), 0) }, 0);
        Self { read: fds[0], write: fds[1] }
    }

    /// Lets go of this process's own end; afterwards only the others are counted.
    pub(crate) fn leave(&mut self) {
        // SAFETY: the descriptor was made by `new`, and is used no more.
        unsafe { libc::close(std::mem::replace(&mut self.write, -1)) };
    }

    /// Whether within `timeout` all others have gone.
    pub(crate) fn is_cut(&self, timeout: Duration) -> bool {
        let mut poll = libc::pollfd { fd: self.read, events: libc::POLLIN, revents: 0 };
        // SAFETY: one structure is read and written.
        let ready = unsafe { libc::poll(&raw mut poll, 1, timeout.as_millis() as c_int) };
        ready == 1 && poll.revents & libc::POLLHUP != 0
    }
}

impl Drop for Lifeline {
    fn drop(&mut self) {
        // SAFETY: the descriptors were made by `new`; closing -1 does nothing.
        unsafe { (libc::close(self.read), libc::close(self.write)) };
    }
}

/// A tree that fights for its life: `width` children below each process, `depth` generations. Whoever loses a child makes
/// another at once. Of those at the bottom half end by themselves, so that all of this never stops; the others stay.
pub(crate) fn storm(width: u32, depth: u32, seed: u64) -> ! {
    // SAFETY: no memory is involved.
    unsafe { (libc::prctl(libc::PR_SET_PDEATHSIG, 0), libc::alarm(LIFETIME_SECONDS)) };
    if depth == 0 {
        if seed.is_multiple_of(2) {
            sleep_forever();
        }
        sleep_micros(300);
        exit_now(0);
    }
    let mut seed = seed;
    let mut make = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        fork_into(|| storm(width, depth - 1, seed >> 33));
    };
    (0..width).for_each(|_| make());
    loop {
        // SAFETY: a null status is not written to.
        if unsafe { libc::waitpid(-1, std::ptr::null_mut(), 0) } > 0 {
            make();
        }
    }
}

/// A process that makes another and ends, again and again, until `deadline`.
pub(crate) fn hop(deadline: Instant) -> ! {
    loop {
        if Instant::now() > deadline {
            exit_now(0);
        }
        if fork_into(|| {}) {
            exit_now(0);
        }
    }
}

/// Below the calling process `depth` others, each the child of the one before; all sleep. The last says so.
pub(crate) fn chain(depth: usize, ready: Signal) -> ! {
    outlive_parent();
    if depth == 0 {
        ready.send();
    } else {
        fork_into(|| chain(depth - 1, ready));
    }
    sleep_forever();
}

/// Makes the calling process lead a session of its own.
pub(crate) fn lead_session() {
    // SAFETY: no memory is involved.
    unsafe { libc::setsid() };
}

/// Runs `body` in a new child. True in the parent; in the child, if `body` returns, false.
pub(crate) fn fork_into(body: impl FnOnce()) -> bool {
    loop {
        // SAFETY: the child of the only thread does nothing but system calls.
        match unsafe { libc::fork() } {
            0 => {
                body();
                return false;
            }
            pid if pid > 0 => return true,
            // There is no room now.
            _ => sleep_micros(1000),
        }
    }
}

/// A number that is shared with all processes made afterwards. It is never given back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared(&'static std::sync::atomic::AtomicI32);

impl Shared {
    pub(crate) fn new() -> Self {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
        // SAFETY: new memory, which nothing else uses.
        let memory = unsafe { libc::mmap(std::ptr::null_mut(), 4096, access, flags, -1, 0) };
        assert_ne!(memory, libc::MAP_FAILED);
        // SAFETY: it is aligned to a page, full of zeros, and stays until the process ends.
        Self(unsafe { &*memory.cast() })
    }

    pub(crate) fn set(self, value: c_int) {
        self.0.store(value, std::sync::atomic::Ordering::SeqCst);
    }

    pub(crate) fn set_own_pid(self) {
        // SAFETY: no memory is involved.
        self.set(unsafe { libc::getpid() });
    }

    /// The number, when it is no longer 0.
    pub(crate) fn wait(self) -> c_int {
        wait_until("a process has told its number", || self.0.load(std::sync::atomic::Ordering::SeqCst) != 0);
        self.0.load(std::sync::atomic::Ordering::SeqCst)
    }
}

/// The longest that a killer waits before it strikes, in microseconds: past the end of most victims.
const LONGEST_DELAY: u64 = 800;

/// What a process that was never signalled exits with, when it is asked to.
const UNHARMED: i32 = 42;

/// One race; none if another process of the machine took the pid.
pub(crate) fn race(
    responder: &mut ProcessResponder,
    action: Action,
    by_inode: bool,
    random: &mut Random,
) -> Option<String> {
    let pid = free_pid();
    let (go, leave) = (Signal::new(), Signal::new());
    let life = random.below(100) as u32;
    let victim = Child::with_pid(pid, || {
        go.receive();
        sleep_micros(life);
        0
    })?;
    let mut target = victim.target();
    if !by_inode {
        target = without_inode(target);
        std::thread::sleep(Duration::from_nanos(CLOCK_TICK_NS));
    }
    let delay = Duration::from_micros(random.below(LONGEST_DELAY));
    let barrier = Barrier::new(2);
    let (result, replacement) = std::thread::scope(|scope| {
        let killer = scope.spawn(|| {
            barrier.wait();
            spin(delay);
            let outcome = start(responder, &granted(action, target)).finish();
            if action == Action::Stop {
                // A stopped victim would never make place.
                let _ = start(responder, &granted(Action::Kill, target)).finish();
            }
            outcome
        });
        barrier.wait();
        go.send();
        let status = victim.reap();
        let replacement = Child::with_pid(pid, || {
            leave.receive();
            UNHARMED
        });
        assert!(matches!(status, Status::Exited(0) | Status::Killed(libc::SIGKILL)), "{status:?}");
        (killer.join().unwrap().result, replacement)
    });
    let result = format!("{} {}", result.name(), result.details());
    let replacement = replacement?;
    assert!(replacement.is_untouched(), "the new process was signalled ({result})");
    leave.send();
    assert_eq!(replacement.reap(), Status::Exited(UNHARMED), "the new process was signalled ({result})");
    go.close();
    leave.close();
    Some(result)
}

fn free_pid() -> i32 {
    let child = Child::sleeping();
    child.pid
}

/// Waits without sleeping.
pub(crate) fn spin(time: Duration) {
    let start = Instant::now();
    while start.elapsed() < time {
        std::hint::spin_loop();
    }
}

/// Numbers that are the same in each run (a linear congruential generator).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % limit
    }
}

//! Start a program from a descriptor without copying the caller's memory: clone(CLONE_VM | CLONE_VFORK | CLONE_PIDFD), then execveat(2).
//!
//! A fork of a large, multi-threaded process copies its page tables; this does not, so its cost does not depend on the caller's size.
//! Between clone and exec the child shares the caller's memory while the calling thread is suspended, so it calls nothing but
//! async-signal-safe system calls on data prepared before.

use std::ffi::{CString, c_char, c_int, c_void};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicU64, Ordering};

/// Enough for the child's few frames and for the system calls it makes; it allocates nothing.
const CHILD_STACK_BYTES: usize = 64 * 1024;

/// What to start, and with which descriptors.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program: a memfd or a file opened with O_CLOEXEC. It must be an ELF file; an interpreter could not open a closed descriptor.
    pub program: BorrowedFd<'a>,
    /// The arguments, the name first.
    pub args: &'a [CString],
    /// The environment, `NAME=value` each.
    pub env: &'a [CString],
    /// The descriptors of the new program: element `n` becomes descriptor `n`. Every other one is closed.
    pub fds: &'a [BorrowedFd<'a>],
}

/// A started child.
#[derive(Debug)]
pub struct Child {
    /// Its process id, in the caller's pid namespace.
    pub pid: i32,
    /// A descriptor that stays true to the process even when the number is used again; readable when it has ended.
    pub pidfd: OwnedFd,
}

/// Starts the program in a session of its own, with default signal handlers and no signal blocked, and returns once it has been executed.
///
/// The child is the caller's to reap. An error is the child's (execve, dup, setsid) as well as the caller's (clone).
pub fn spawn(spawn: &Spawn<'_>) -> io::Result<Child> {
    let argv = pointers(spawn.args);
    let envp = pointers(spawn.env);
    let sources: Vec<RawFd> = spawn.fds.iter().map(|fd| fd.as_raw_fd()).collect();
    let mut scratch = sources.clone();
    let mut plan = Plan {
        program: spawn.program.as_raw_fd(),
        argv: argv.as_ptr(),
        envp: envp.as_ptr(),
        scratch: scratch.as_mut_ptr(),
        count: sources.len(),
        mask: empty_mask(),
        errno: 0,
    };
    let mut stack = vec![0u64; CHILD_STACK_BYTES / size_of::<u64>()];
    let mut pidfd: c_int = -1;
    let mut previous = empty_mask();
    let mut all = empty_mask();

    // SAFETY: both sets are owned by this frame. Blocking every signal keeps a handler of ours from running in the child, on shared memory.
    unsafe {
        libc::sigfillset(&raw mut all);
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const all, &raw mut previous);
    }
    // SAFETY: the stack's end is 16-byte aligned by `align_down`, and stack, plan and everything plan points to outlive the child's use of
    // them, because CLONE_VFORK suspends this thread until the child has executed or ended. `run_child` never returns into this frame.
    let pid = unsafe {
        let top = align_down(stack.as_mut_ptr().add(stack.len()).cast());
        let flags = libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_PIDFD | libc::SIGCHLD;
        libc::clone(run_child, top, flags, (&raw mut plan).cast(), &raw mut pidfd)
    };
    let failed = if pid < 0 { Some(io::Error::last_os_error()) } else { None };
    // SAFETY: `previous` was filled by the call above.
    unsafe { libc::pthread_sigmask(libc::SIG_SETMASK, &raw const previous, std::ptr::null_mut()) };
    if let Some(error) = failed {
        return Err(error);
    }

    // SAFETY: clone succeeded, so it stored a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    // SAFETY: a plain read of our own field, volatile because the child wrote it behind the compiler's back.
    let errno = unsafe { std::ptr::read_volatile(&raw const plan.errno) };
    if errno != 0 {
        // SAFETY: waits for our own child, which is ending; no memory of ours is involved. A signal may interrupt the wait.
        while unsafe { libc::waitpid(pid, std::ptr::null_mut(), 0) } < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
        {
        }
        return Err(io::Error::from_raw_os_error(errno));
    }
    Ok(Child { pid, pidfd })
}

/// Takes over a descriptor that this process was started with, and marks it close-on-exec. Each can be taken once.
///
/// # Errors
/// EBADF when it is not open, was taken already, or is above 63.
pub fn inherited(number: RawFd) -> io::Result<OwnedFd> {
    static TAKEN: AtomicU64 = AtomicU64::new(0);
    let bad = || io::Error::from_raw_os_error(libc::EBADF);
    let bit = u32::try_from(number).ok().and_then(|number| 1u64.checked_shl(number)).ok_or_else(bad)?;
    if TAKEN.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
        return Err(bad());
    }
    // SAFETY: changes a flag of the descriptor, or fails when there is none.
    if unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is open, and `TAKEN` sees to it that this function gives it to one owner only. Callers name one that the process
    // was started with, as the documentation says, so that nothing else in it owns the number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// All that the child reads and writes, prepared by the parent.
struct Plan {
    program: RawFd,
    argv: *const *const c_char,
    envp: *const *const c_char,
    scratch: *mut RawFd,
    count: usize,
    mask: libc::sigset_t,
    errno: c_int,
}

/// The child: never returns, reports a failure in `Plan::errno`.
extern "C" fn run_child(argument: *mut c_void) -> c_int {
    // SAFETY: the parent passed a pointer to its `Plan` and is suspended, so this is the only access to it.
    let plan = unsafe { &mut *argument.cast::<Plan>() };
    // SAFETY: the child has its own descriptor table and signal actions (no CLONE_FILES, no CLONE_SIGHAND), and only makes system calls.
    let errno = unsafe { prepare_and_exec(plan) };
    // SAFETY: as above; the parent reads the field once this process has ended.
    unsafe {
        std::ptr::write_volatile(&raw mut plan.errno, errno);
        libc::_exit(127)
    }
}

/// Places the descriptors and executes. Returns the errno of what failed.
///
/// # Safety
/// Only in a child made with CLONE_VM and CLONE_VFORK, with a `plan` prepared by [`spawn`].
unsafe fn prepare_and_exec(plan: &mut Plan) -> c_int {
    // SAFETY: pure system calls on integers and on arrays of the suspended parent, within their bounds.
    unsafe {
        if libc::setsid() < 0 {
            return *libc::__errno_location();
        }
        // Above every target first, so that no dup2 overwrites a source that is still needed.
        let base = plan.count as c_int;
        let program = libc::fcntl(plan.program, libc::F_DUPFD_CLOEXEC, base);
        if program < 0 {
            return *libc::__errno_location();
        }
        for index in 0..plan.count {
            let high = libc::fcntl(*plan.scratch.add(index), libc::F_DUPFD_CLOEXEC, base);
            if high < 0 {
                return *libc::__errno_location();
            }
            *plan.scratch.add(index) = high;
        }
        for index in 0..plan.count {
            if libc::dup2(*plan.scratch.add(index), index as c_int) < 0 {
                return *libc::__errno_location();
            }
        }
        let flags = libc::CLOSE_RANGE_CLOEXEC as c_int;
        if libc::syscall(libc::SYS_close_range, base, c_int::MAX, flags) < 0 {
            return *libc::__errno_location();
        }
        default_signals();
        libc::pthread_sigmask(libc::SIG_SETMASK, &raw const plan.mask, std::ptr::null_mut());
        execveat(program, plan.argv, plan.envp);
        *libc::__errno_location()
    }
}

/// Sets every signal back to the default: handlers, so that none runs between here and exec, and ignored ones, which exec would keep ignored.
///
/// # Safety
/// Only in a child that has its own table of signal actions.
unsafe fn default_signals() {
    const LAST_SIGNAL: c_int = 64;
    const MASK_BYTES: usize = 8;
    // The kernel's struct sigaction, which is at most as long on any architecture: SIG_DFL, no flags, no restorer, an empty mask.
    let default = [0u64; 4];
    for signal in 1..=LAST_SIGNAL {
        // SAFETY: past the C library, which keeps two signals to itself. The kernel reads `default`, and refuses SIGKILL and SIGSTOP without effect.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), std::ptr::null_mut::<u64>(), MASK_BYTES) };
    }
}

/// # Safety
/// Both arrays end with a null pointer and hold pointers to C strings.
unsafe fn execveat(program: RawFd, argv: *const *const c_char, envp: *const *const c_char) {
    // SAFETY: the caller vouches for the arrays; the path is a static empty string, as AT_EMPTY_PATH wants it.
    unsafe { libc::syscall(libc::SYS_execveat, program, c"".as_ptr(), argv, envp, libc::AT_EMPTY_PATH) };
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
}

fn empty_mask() -> libc::sigset_t {
    // SAFETY: sigset_t is a plain array of integers; all zero is the empty set.
    unsafe { std::mem::zeroed() }
}

fn align_down(top: *mut c_void) -> *mut c_void {
    const ALIGN: usize = 16;
    top.wrapping_byte_sub(top as usize % ALIGN)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Read;
    use std::os::fd::AsFd;

    use super::*;

    fn text(words: &[&str]) -> Vec<CString> {
        words.iter().map(|word| CString::new(*word).expect("no NUL in the test's words")).collect()
    }

    #[test]
    fn descriptors_land_where_asked_and_others_are_closed() {
        let shell = File::open("/bin/ls").expect("ls is there");
        let null = File::open("/dev/null").expect("null is there");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        // Sources that are one another's targets: 0, 1, 2 must not overwrite each other.
        let fds = [null.as_fd(), writer.as_fd(), writer.as_fd(), null.as_fd()];
        let child = spawn(&Spawn { program: shell.as_fd(), args: &text(&["ls", "/proc/self/fd"]), env: &text(&["LC_ALL=C"]), fds: &fds })
            .expect("spawned");
        drop(writer);
        let mut shown = String::new();
        reader.read_to_string(&mut shown).expect("read");
        assert_eq!(shown.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3", "4"], "4 is ls's own directory descriptor");
        let status = rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), rustix::process::WaitIdOptions::EXITED);
        assert_eq!(status.expect("ours to reap").and_then(|status| status.exit_status()), Some(0));
    }

    #[test]
    fn the_child_starts_with_no_signal_blocked_or_handled_and_leads_a_session() {
        let queue = crate::sigwait::SignalQueue::block(&[libc::SIGUSR1, libc::SIGTERM]).expect("blocked in this thread");
        let cat = File::open("/bin/cat").expect("cat is there");
        let null = File::open("/dev/null").expect("null is there");
        let (mut reader, writer) = io::pipe().expect("a pipe");
        let fds = [null.as_fd(), writer.as_fd(), writer.as_fd()];
        let child =
            spawn(&Spawn { program: cat.as_fd(), args: &text(&["cat", "/proc/self/status"]), env: &[], fds: &fds }).expect("spawned");
        drop((writer, queue));
        let mut shown = String::new();
        reader.read_to_string(&mut shown).expect("read");
        let field = |name: &str| shown.lines().find_map(|line| line.strip_prefix(name)).expect("a field of status").trim().to_owned();
        assert_eq!((field("SigBlk:"), field("SigIgn:"), field("SigCgt:")), ("0".repeat(16), "0".repeat(16), "0".repeat(16)));
        assert_eq!(field("NSsid:"), child.pid.to_string());
        let status = rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), rustix::process::WaitIdOptions::EXITED);
        assert!(status.expect("ours to reap").is_some());
    }

    #[test]
    fn a_failed_exec_is_reported_and_leaves_no_child() {
        let text_file = File::open("/etc/passwd").expect("passwd is there");
        let error = spawn(&Spawn { program: text_file.as_fd(), args: &text(&["x"]), env: &[], fds: &[] }).expect_err("no program");
        assert_eq!(error.raw_os_error(), Some(libc::EACCES));
    }
}

//! A new process by clone3(2), with namespaces, a control group and a pidfd, and the ways in which it then becomes another program.

use std::convert::Infallible;
use std::ffi::{CStr, CString};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};

use rustix::io::Errno;
use rustix::process::Pid;

use crate::checked;

/// The exit code of a child whose closure panicked.
const EXIT_PANIC: i32 = 101;

/// Namespace flags of clone3(2), unshare(2) and setns(2).
pub mod namespace {
    /// Control groups.
    pub const CGROUP: u64 = libc::CLONE_NEWCGROUP as u64;
    /// System V IPC and POSIX message queues.
    pub const IPC: u64 = libc::CLONE_NEWIPC as u64;
    /// Mounts.
    pub const MOUNT: u64 = libc::CLONE_NEWNS as u64;
    /// Network devices, addresses, sockets.
    pub const NET: u64 = libc::CLONE_NEWNET as u64;
    /// Process numbers.
    pub const PID: u64 = libc::CLONE_NEWPID as u64;
    /// Monotonic and boot-time clocks.
    pub const TIME: u64 = 0x80;
    /// User and group ids, capabilities.
    pub const USER: u64 = libc::CLONE_NEWUSER as u64;
    /// Host and domain name.
    pub const UTS: u64 = libc::CLONE_NEWUTS as u64;
}

/// A child that [`fork`] made. The caller is its parent and must reap it.
#[derive(Debug)]
pub struct Child {
    /// Its number in the caller's pid namespace.
    pub pid: Pid,
    /// A descriptor of it, close-on-exec.
    pub pidfd: OwnedFd,
}

#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Makes a child with a copy of this process's memory, in the new namespaces of `flags` (see [`namespace`]) and, on cgroup v2, in the group of the
/// directory `cgroup`. The child runs `body`, and exits with what it returns unless `body` executes another program.
///
/// The child has only the calling thread. Call this from a process with one thread, or at least while no other thread can hold a lock
/// (the allocator's among them) that `body` needs: with such a lock held the child waits for ever, though memory stays sound.
///
/// # Errors
/// The errno of clone3(2) or clone(2).
pub fn fork(flags: u64, cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce() -> i32) -> Result<Child, Errno> {
    clone_process(flags, libc::SIGCHLD as u64, cgroup, body)
}

/// The same, but the child's parent is the caller's parent, which gets the caller's own signal at its end: for a caller that stepped into namespaces it
/// cannot leave, and has nothing else to do.
///
/// # Errors
/// As [`fork`].
pub fn fork_sibling(flags: u64, cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce() -> i32) -> Result<Child, Errno> {
    clone_process(flags | libc::CLONE_PARENT as u64, 0, cgroup, body)
}

fn clone_process(flags: u64, exit_signal: u64, cgroup: Option<BorrowedFd<'_>>, body: impl FnOnce() -> i32) -> Result<Child, Errno> {
    const INTO_CGROUP: u64 = 0x2_0000_0000;
    let mut pidfd: libc::c_int = -1;
    let mut args = CloneArgs { flags: flags | libc::CLONE_PIDFD as u64, pidfd: &raw mut pidfd as u64, exit_signal, ..CloneArgs::default() };
    if let Some(directory) = cgroup {
        args.flags |= INTO_CGROUP;
        args.cgroup = directory.as_raw_fd() as u64;
    }
    // SAFETY: without CLONE_VM and with a null stack the child continues here on its own copy of the memory, as after fork(2); `args` lives across
    // the call and the kernel writes only to `pidfd`.
    let result = unsafe { libc::syscall(libc::SYS_clone3, &raw const args, size_of::<CloneArgs>()) };
    let result = match result {
        // Docker's system call filter hides clone3 from what runs in a container, as its flags are out of a filter's sight. What needs none of its
        // own flags does with clone(2), which takes the signal in the lowest byte and the place for the pidfd as third argument.
        -1 if cgroup.is_none() && checked(result) == Err(Errno::NOSYS) => {
            let flags = args.flags | args.exit_signal;
            // SAFETY: as above.
            unsafe { libc::syscall(libc::SYS_clone, flags, 0usize, &raw mut pidfd, 0usize, 0usize) }
        }
        result => result,
    };
    if result == 0 {
        let code = catch_unwind(AssertUnwindSafe(body)).unwrap_or(EXIT_PANIC);
        // SAFETY: ends the child at once; no destructor of the parent's state may run in it.
        unsafe { libc::_exit(code) }
    }
    let pid = checked(result)?;
    // SAFETY: clone3 succeeded with CLONE_PIDFD, so `pidfd` is a new descriptor that nobody else owns.
    let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
    Pid::from_raw(pid as i32).map(|pid| Child { pid, pidfd }).ok_or(Errno::INVAL)
}

/// The arguments or the environment of a program, in the form that execve(2) wants.
#[derive(Debug)]
pub struct Strings {
    pointers: Vec<*const libc::c_char>,
    /// What `pointers` points into.
    strings: Vec<CString>,
}

impl Strings {
    /// Takes the strings over.
    pub fn new(strings: Vec<CString>) -> Self {
        let pointers = strings.iter().map(|string| string.as_ptr()).chain([std::ptr::null()]).collect();
        Self { pointers, strings }
    }

    /// The strings.
    pub fn as_slice(&self) -> &[CString] {
        &self.strings
    }
}

/// Replaces this process by the program at `path` (execve(2)). Returns only on failure.
///
/// # Errors
/// The errno of execve(2).
pub fn execute(path: &CStr, arguments: &Strings, environment: &Strings) -> Result<Infallible, Errno> {
    // SAFETY: `Strings` holds null-terminated arrays of pointers to C strings that it owns.
    let result = unsafe { libc::execve(path.as_ptr(), arguments.pointers.as_ptr(), environment.pointers.as_ptr()) };
    Err(checked(result.into()).err().unwrap_or(Errno::INVAL))
}

/// Replaces this process by the program of an open descriptor (execveat(2) with AT_EMPTY_PATH). Returns only on failure.
///
/// # Errors
/// The errno of execveat(2).
pub fn execute_fd(program: BorrowedFd<'_>, arguments: &Strings, environment: &Strings) -> Result<Infallible, Errno> {
    // SAFETY: as in `execute`; the empty path is a static C string.
    let result = unsafe {
        libc::syscall(
            libc::SYS_execveat,
            program.as_raw_fd(),
            c"".as_ptr(),
            arguments.pointers.as_ptr(),
            environment.pointers.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    Err(checked(result).err().unwrap_or(Errno::INVAL))
}

/// Marks every descriptor from `first` up close-on-exec (close_range(2)).
///
/// # Errors
/// The errno of close_range(2): ENOSYS below Linux 5.9, EINVAL below 5.11.
pub fn close_on_exec_from(first: u32) -> Result<(), Errno> {
    const CLOEXEC: u32 = 4;
    // SAFETY: closes nothing; it changes a flag of descriptors at the next execve only.
    checked(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOEXEC) }).map(drop)
}

/// Closes one descriptor by its number; meant for a forked child, whose owners of it never run their destructors.
pub fn close(number: i32) {
    // SAFETY: the child that calls this does not use the descriptor any more, and ends by execve or _exit.
    unsafe { libc::close(number) };
}

/// Closes every descriptor from `first` up except `kept`, which gets sorted; meant for a forked child that is about to execute a program.
pub fn close_all_but(first: u32, kept: &mut Vec<i32>) {
    kept.sort_unstable();
    kept.dedup();
    let mut from = first;
    for number in kept.iter().filter_map(|&number| u32::try_from(number).ok()).filter(|&number| number >= first).chain([u32::MAX]) {
        if from < number {
            // SAFETY: as in `close`; the last descriptor that is kept ends the range before it.
            unsafe { libc::syscall(libc::SYS_close_range, from, number - u32::from(number != u32::MAX), 0) };
        }
        from = number.saturating_add(1);
    }
}

/// Lets `count` descriptors from `first` up survive execve; numbers that are not open are passed over.
///
/// # Errors
/// The errno of fcntl(2), EBADF aside.
pub fn inherit(first: i32, count: u32) -> Result<(), Errno> {
    for number in first..first.saturating_add_unsigned(count) {
        // SAFETY: changes only the descriptor's close-on-exec flag.
        match checked(unsafe { libc::fcntl(number, libc::F_SETFD, 0) }.into()) {
            Ok(_) | Err(Errno::BADF) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(())
}

/// Sets the execution domain of the calling process (personality(2)).
///
/// # Errors
/// The errno of personality(2).
pub fn set_personality(persona: u32) -> Result<(), Errno> {
    // SAFETY: takes a number; the address layout of this process does not change before its next execve.
    checked(unsafe { libc::personality(persona.into()) }.into()).map(drop)
}

/// Makes `target` refer to what `source` refers to, not close-on-exec (dup2(2)); meant for 0, 1 and 2 in a child before it executes a program.
///
/// # Errors
/// The errno of dup2(2).
pub fn place_descriptor(source: BorrowedFd<'_>, target: i32) -> Result<(), Errno> {
    if source.as_raw_fd() == target {
        // SAFETY: changes only the descriptor's close-on-exec flag.
        return checked(unsafe { libc::fcntl(target, libc::F_SETFD, 0) }.into()).map(drop);
    }
    // SAFETY: callers name a number that no `OwnedFd` of this process owns (0 to 2, or one below a preserved range).
    checked(unsafe { libc::dup2(source.as_raw_fd(), target) }.into()).map(drop)
}

/// Resets the disposition of every signal to the default and unblocks all, as a program expects them at its start.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: SIG_DFL runs no code of ours; numbers that may not be changed (KILL, STOP, glibc's own two) fail without effect.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    // SAFETY: an empty set on the stack, filled before it is read.
    unsafe {
        let mut none = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{WaitId, WaitIdOptions, waitid};
    use std::os::fd::AsFd;

    #[test]
    fn a_child_runs_its_body_and_gives_its_code() {
        let child = fork(0, None, || 7).unwrap();
        let status = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
        assert_eq!(status.exit_status(), Some(7));
    }

    #[test]
    fn a_missing_program_is_told() {
        let none = Strings::new(Vec::new());
        assert_eq!(execute(c"/no/such", &none, &none).unwrap_err(), Errno::NOENT);
    }
}

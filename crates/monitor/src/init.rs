//! The tiny init: runs the command as its child, hands signals on, reaps whatever is orphaned, and ends with the command's exit code.

use std::ffi::{CString, OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;

use kernel::fork::{Strings, execute, fork, reset_signals};
use kernel::pidfd::send_signal;
use kernel::sigwait::SignalQueue;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};

const EXIT_USAGE: i32 = 125;
const EXIT_NOT_EXECUTABLE: i32 = 126;
const EXIT_NOT_FOUND: i32 = 127;
/// Where a name without slash is looked for when PATH is not set.
const PATH_DEFAULT: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Runs the command of `args` (after an optional `--`) and returns its exit code.
pub fn run(args: &[OsString]) -> i32 {
    let command = args.strip_prefix(&[OsString::from("--")]).unwrap_or(args);
    if command.is_empty() {
        eprintln!("cais-init: a command is expected");
        return EXIT_USAGE;
    }
    // Queued before the child exists, so that none is lost. Faults of our own (SEGV and the like) are not for the child.
    let signals = match SignalQueue::block(&handed_on_and_child()) {
        Ok(signals) => signals,
        Err(error) => return complain("queue signals", &error),
    };
    let child = match fork(0, None, || become_command(command)) {
        Ok(child) => child,
        Err(errno) => return complain("start the command", &errno.into()),
    };
    loop {
        match signals.next() {
            Ok(signal) if signal == Signal::CHILD.as_raw() => {
                if let Some(code) = reap(child.pid) {
                    return code;
                }
            }
            Ok(signal) => drop(send_signal(child.pidfd.as_fd(), signal)),
            Err(error) => return complain("wait for signals", &error),
        }
    }
}

/// Reaps everything that has ended; the exit code if the command is among it.
fn reap(command: Pid) -> Option<i32> {
    let mut code = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid == command {
            code = exit_code(status);
        }
    }
    code
}

fn exit_code(status: WaitStatus) -> Option<i32> {
    status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal))
}

/// In the child: a process group of its own, in the terminal's foreground if there is one, then the command.
fn become_command(command: &[OsString]) -> i32 {
    let _ = rustix::process::setpgid(None, None);
    // SIGTTOU is still blocked here, so the kernel lets a background group do this.
    let _ = rustix::termios::tcsetpgrp(std::io::stdin(), rustix::process::getpgrp());
    reset_signals();
    let words: Result<Vec<CString>, _> = command.iter().map(|word| CString::new(word.as_bytes())).collect();
    let env: Vec<CString> =
        std::env::vars_os().filter_map(|(name, value)| CString::new([name.as_bytes(), b"=", value.as_bytes()].concat()).ok()).collect();
    let Ok(words) = words else { return EXIT_USAGE };
    let errno = execute_in_path(&words, env);
    eprintln!("cais-init: {}: {}", command[0].display(), std::io::Error::from(errno));
    if errno == Errno::NOENT || errno == Errno::NOTDIR { EXIT_NOT_FOUND } else { EXIT_NOT_EXECUTABLE }
}

/// Executes the first of the words, looked for in PATH if it has no slash. Returns only with what kept it from that.
fn execute_in_path(words: &[CString], env: Vec<CString>) -> Errno {
    let (args, env) = (Strings::new(words.to_vec()), Strings::new(env));
    let name = words[0].as_bytes();
    if name.contains(&b'/') {
        return execute(&words[0], &args, &env).err().unwrap_or(Errno::INVAL);
    }
    let path = std::env::var_os("PATH").unwrap_or_else(|| PATH_DEFAULT.into());
    let mut worst = Errno::NOENT;
    for folder in std::env::split_paths(&path) {
        let Ok(candidate) = CString::new(folder.join(OsStr::from_bytes(name)).as_os_str().as_bytes()) else { continue };
        match execute(&candidate, &args, &env).err() {
            Some(Errno::NOENT | Errno::NOTDIR) | None => {}
            Some(errno) => worst = errno,
        }
    }
    worst
}

/// Every signal that a process can be sent on purpose, and SIGCHLD.
fn handed_on_and_child() -> Vec<i32> {
    const LAST: i32 = 64;
    let own = [Signal::KILL, Signal::STOP, Signal::SEGV, Signal::BUS, Signal::FPE, Signal::ILL, Signal::TRAP, Signal::SYS, Signal::ABORT];
    // 32 and 33 belong to the C library.
    (1..=LAST).filter(|number| !own.iter().any(|signal| signal.as_raw() == *number) && !(32..=33).contains(number)).collect()
}

fn complain(what: &str, error: &std::io::Error) -> i32 {
    eprintln!("cais-init: {what}: {error}");
    EXIT_USAGE
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_and_the_unblockable_stay() {
        let signals = handed_on_and_child();
        assert!(signals.contains(&15) && signals.contains(&17) && signals.contains(&64));
        assert!(!signals.contains(&9) && !signals.contains(&11) && !signals.contains(&32));
    }
}

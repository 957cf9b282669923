//! A foreground process: its terminal, the signals that are for it, and its end.

use std::io::{IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::sigwait::SignalQueue;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, connect, sendmsg,
    socket_with,
};
use rustix::process::{Signal, WaitId, WaitIdOptions, waitid};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use super::{stdio, words};

/// An error message is shorter; a FIFO must not feed without end.
const OUTCOME_BYTES_MAX: u64 = 64 << 10;

/// Rows and columns of a terminal.
pub(super) fn size(terminal: BorrowedFd<'_>) -> Option<(u16, u16)> {
    tcgetwinsize(terminal).ok().map(|size| (size.ws_row, size.ws_col))
}

/// The name under which a terminal is handed over.
pub(super) const NAME: &[u8] = b"/dev/ptmx";

/// Sends a descriptor over the socket at `path`, as runc does: with a name as data.
pub(super) fn hand_over(path: &Path, name: &[u8], descriptor: BorrowedFd<'_>) -> Result<(), String> {
    let send = || -> Result<(), Errno> {
        let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        let fds = [descriptor.as_fd()];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !ancillary.push(SendAncillaryMessage::ScmRights(&fds)) {
            return Err(Errno::NOBUFS);
        }
        sendmsg(&socket, &[IoSlice::new(name)], &mut ancillary, SendFlags::NOSIGNAL).map(drop)
    };
    send().map_err(|errno| format!("hand {} over to {}: {errno}", String::from_utf8_lossy(name), path.display()))
}

/// Reads a FIFO that was opened without waiting, until its last writer is gone.
pub(super) fn read_all(fifo: &OwnedFd) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    rustix::io::ioctl_fionbio(fifo, false).map_err(|errno| format!("wait for the container: {errno}"))?;
    let reader = std::fs::File::from(fifo.try_clone().map_err(words)?);
    reader.take(OUTCOME_BYTES_MAX).read_to_end(&mut bytes).map_err(words)?;
    Ok(bytes)
}

/// The signals that are handed on to the container's process, and the one about the window.
pub(super) fn signals() -> Result<SignalQueue, String> {
    let handed_on =
        [Signal::HUP, Signal::INT, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::TERM, Signal::CONT, Signal::WINCH, Signal::ALARM];
    SignalQueue::block(&handed_on.map(Signal::as_raw)).map_err(|error| format!("block signals: {error}"))
}

/// Puts the caller's terminal into raw mode, and back when it is dropped.
struct Raw(Option<Termios>);

impl Raw {
    fn set() -> Self {
        let stdin = stdio::stdin();
        let before = Some(stdin).filter(|stdin| isatty(stdin)).and_then(|stdin| tcgetattr(stdin).ok());
        if let Some(mut raw) = before.clone() {
            raw.make_raw();
            let _ = tcsetattr(stdin, OptionalActions::Now, &raw);
        }
        Self(before)
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if let Some(before) = &self.0 {
            let _ = tcsetattr(stdio::stdin(), OptionalActions::Now, before);
        }
    }
}

/// Relays the terminal and forwards signals until the process ends; its exit code, 128 more for a signal.
pub(super) fn serve(signals: &SignalQueue, pidfd: &OwnedFd, master: Option<&OwnedFd>) -> Result<i32, String> {
    let _raw = master.map(|_| Raw::set());
    let mut input_open = master.is_some();
    let mut output_open = master.is_some();
    loop {
        let mut fds = vec![PollFd::new(pidfd, PollFlags::IN), PollFd::new(signals, PollFlags::IN)];
        let stdin = stdio::stdin();
        if let Some(master) = master {
            fds.push(PollFd::new(master, if output_open { PollFlags::IN } else { PollFlags::empty() }));
            if input_open {
                fds.push(PollFd::from_borrowed_fd(stdin, PollFlags::IN));
            }
        }
        match poll(&mut fds, None) {
            Err(Errno::INTR) => continue,
            other => other.map_err(words)?,
        };
        let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready[1] {
            forward(signals, pidfd, master);
        }
        if let Some(master) = master {
            if output_open && ready.get(2) == Some(&true) {
                output_open = relay(master.as_fd(), stdio::stdout());
            }
            if input_open && ready.get(3) == Some(&true) {
                input_open = relay(stdin, master.as_fd());
            }
        }
        if ready[0] {
            // What the process wrote last is still in the terminal.
            while let Some(master) = master.filter(|_| output_open) {
                output_open = relay(master.as_fd(), stdio::stdout());
            }
            return reap(pidfd.as_fd());
        }
    }
}

/// The exit code of an ended process.
fn reap(pidfd: BorrowedFd<'_>) -> Result<i32, String> {
    let status = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED)).map_err(words)?;
    let Some(status) = status else { return Err("the container's process cannot be waited for".into()) };
    Ok(status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal)).unwrap_or(super::EXIT_FAILED))
}

fn forward(signals: &SignalQueue, pidfd: &OwnedFd, master: Option<&OwnedFd>) {
    let Ok(number) = signals.next() else { return };
    match master {
        Some(master) if number == Signal::WINCH.as_raw() => {
            if let Ok(size) = tcgetwinsize(stdio::stdin()) {
                let _ = tcsetwinsize(master, size);
            }
        }
        // It may have ended meanwhile.
        _ => drop(kernel::pidfd::send_signal(pidfd.as_fd(), number)),
    }
}

/// Copies what is there; whether more may come.
fn relay(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> bool {
    let mut buffer = [0u8; 16 << 10];
    match rustix::io::read(from, &mut buffer) {
        Ok(0) => false,
        Ok(count) => {
            let mut rest = &buffer[..count];
            while !rest.is_empty() {
                match rustix::io::write(to, rest) {
                    Ok(written) => rest = &rest[written..],
                    Err(Errno::INTR | Errno::AGAIN) => {}
                    Err(_) => return false,
                }
            }
            let _ = std::io::stdout().flush();
            true
        }
        Err(Errno::INTR | Errno::AGAIN) => true,
        // A terminal without any open end answers EIO.
        Err(_) => false,
    }
}

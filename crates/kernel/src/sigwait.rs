//! Signals as a readable descriptor, for programs that forward or count them in an ordinary loop instead of in handlers.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

/// A signalfd; its signals are blocked in the thread that made it and in the threads which that one starts afterwards.
#[derive(Debug)]
pub struct SignalQueue {
    fd: OwnedFd,
    set: libc::sigset_t,
}

impl SignalQueue {
    /// Blocks `signals` (by number) for the calling thread and queues them here. Make it before other threads are started.
    ///
    /// # Errors
    /// EINVAL for a number that is no signal; EMFILE or ENFILE when descriptors run out.
    pub fn block(signals: &[i32]) -> io::Result<Self> {
        let mut set = MaybeUninit::<libc::sigset_t>::uninit();
        // SAFETY: sigemptyset initialises the set that it is given a valid pointer to.
        let mut set = unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            set.assume_init()
        };
        for signal in signals {
            // SAFETY: the set is initialised; a bad number is answered with an error.
            if unsafe { libc::sigaddset(&mut set, *signal) } != 0 {
                return Err(io::Error::last_os_error());
            }
        }
        // SAFETY: both pointers are valid or null as pthread_sigmask allows; only this thread's mask changes.
        let refused = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) };
        if refused != 0 {
            return Err(io::Error::from_raw_os_error(refused));
        }
        // SAFETY: the set is initialised; -1 asks for a new descriptor.
        let raw = unsafe { libc::signalfd(-1, &set, libc::SFD_CLOEXEC) };
        if raw < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just gave this descriptor to us alone.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        Ok(Self { fd, set })
    }

    /// Waits for the next signal and returns its number.
    ///
    /// # Errors
    /// What read(2) answers; EINTR is retried.
    pub fn next(&self) -> io::Result<i32> {
        let mut info = MaybeUninit::<libc::signalfd_siginfo>::uninit();
        let size = size_of::<libc::signalfd_siginfo>();
        loop {
            // SAFETY: the buffer has exactly the size that is passed, and the kernel writes whole records only.
            let count = unsafe { libc::read(self.fd.as_raw_fd(), info.as_mut_ptr().cast(), size) };
            if count == size as isize {
                // SAFETY: a whole record was written.
                return Ok(unsafe { info.assume_init() }.ssi_signo as i32);
            }
            let cause = io::Error::last_os_error();
            if cause.kind() != io::ErrorKind::Interrupted {
                return Err(cause);
            }
        }
    }
}

impl AsFd for SignalQueue {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Ends the queueing for the thread that drops it; what is still queued is delivered then.
impl Drop for SignalQueue {
    fn drop(&mut self) {
        // SAFETY: the set is initialised; only this thread's mask changes.
        unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &self.set, std::ptr::null_mut()) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_is_read_instead_of_delivered() {
        let queue = SignalQueue::block(&[libc::SIGUSR1]).expect("a queue");
        // SAFETY: the signal is blocked in this thread, to which pthread_kill sends it.
        unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) };
        assert_eq!(queue.next().expect("a signal"), libc::SIGUSR1);
        assert!(SignalQueue::block(&[1000]).is_err());
    }
}

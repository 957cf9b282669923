//! The client's own terminal: raw mode, size, and unbuffered output.

use std::io::{self, BufWriter, Write};
use std::os::fd::BorrowedFd;

use kernel::sigwait::SignalQueue;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::termios::{LocalModes, OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// SIGHUP, SIGINT, SIGQUIT and SIGTERM.
const ENDING_SIGNALS: [i32; 4] = [1, 2, 3, 15];
/// What shells add to a signal's number for an exit code.
const SIGNAL_EXIT_BASE: i32 = 128;
const OUTPUT_BUFFER_BYTES: usize = 64 << 10;

/// Raw mode of stdin; the former mode comes back when this is dropped.
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Switches stdin to raw mode: every key goes to the container.
    pub fn enter() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(stdin, OptionalActions::Now, &raw)?;
        Ok(Self { before })
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // The terminal may be gone by now; then there is nothing to restore.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// The terminal on stdin without echo; the former mode comes back when this is dropped.
pub struct Silence {
    before: Termios,
}

impl Silence {
    /// Stops showing what is typed.
    pub fn enter() -> io::Result<Self> {
        let stdin = rustix::stdio::stdin();
        let before = tcgetattr(stdin)?;
        let mut silent = before.clone();
        silent.local_modes.remove(LocalModes::ECHO);
        // A signal would end the program with the terminal left silent: it puts the mode back first.
        let signals = SignalQueue::block(&ENDING_SIGNALS)?;
        let restored = before.clone();
        std::thread::spawn(move || {
            if let Ok(signal) = signals.next() {
                let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &restored);
                eprintln!();
                std::process::exit(SIGNAL_EXIT_BASE + signal);
            }
        });
        tcsetattr(stdin, OptionalActions::Flush, &silent)?;
        Ok(Self { before })
    }
}

impl Drop for Silence {
    fn drop(&mut self) {
        // The terminal may be gone by now; then there is nothing to restore.
        let _ = tcsetattr(rustix::stdio::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Whether stdin is a terminal.
pub fn stdin_is_terminal() -> bool {
    isatty(rustix::stdio::stdin())
}

/// Whether stdout is a terminal.
pub fn stdout_is_terminal() -> bool {
    isatty(rustix::stdio::stdout())
}

/// Rows and columns of the terminal on stdout or stdin; nothing when there is none, or it does not know.
pub fn size() -> Option<(u16, u16)> {
    let of = |fd| tcgetwinsize(fd).ok().map(|size| (size.ws_row, size.ws_col)).filter(|(rows, columns)| *rows > 0 && *columns > 0);
    of(rustix::stdio::stdout()).or_else(|| of(rustix::stdio::stdin()))
}

/// Stdout or stderr without Rust's line buffering, which costs a write per line.
pub struct Output(BorrowedFd<'static>);

/// Stdout in larger pieces; flush it.
pub fn stdout() -> BufWriter<Output> {
    BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, Output(rustix::stdio::stdout()))
}

/// Stderr in larger pieces; flush it.
pub fn stderr() -> BufWriter<Output> {
    BufWriter::with_capacity(OUTPUT_BUFFER_BYTES, Output(rustix::stdio::stderr()))
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Ok(count) => return Ok(count),
                Err(Errno::INTR) => {}
                // A terminal shared with another program may have been switched to non-blocking by it.
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads from stdin, past the buffer of the standard library, of which an attached stream must not leave anything behind.
pub fn read_stdin(buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match rustix::io::read(rustix::stdio::stdin(), &mut *buffer) {
            Ok(count) => return Ok(count),
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => {
                poll(&mut [PollFd::new(&rustix::stdio::stdin(), PollFlags::IN)], None)?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
}

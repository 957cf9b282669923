//! Streams between the client's terminal and a process in a container: output, input, detach keys, signals, sizes.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context as _, Result};
use client::{Client, Hijacked, Request, encode, frames};
use kernel::sigwait::SignalQueue;

use crate::terminal::{self, RawMode};

/// What ends an attached session unless told otherwise: Ctrl-P, Ctrl-Q.
const DETACH_KEYS_DEFAULT: &[u8] = &[0x10, 0x11];
const INPUT_BUFFER_BYTES: usize = 64 << 10;
const RAW_BUFFER_BYTES: usize = 64 << 10;
/// A process that was just started may not have its terminal yet.
const RESIZE_ATTEMPTS_MAX: u32 = 10;

const SIGNALS_FORWARDED: &[(i32, &str)] = &[(1, "HUP"), (2, "INT"), (3, "QUIT"), (10, "USR1"), (12, "USR2"), (14, "ALRM"), (15, "TERM")];
const SIGWINCH: i32 = 28;

/// What runs at the other end.
#[derive(Debug, Clone)]
pub enum Target {
    /// A container's first process.
    Container(String),
    /// A process started by exec.
    Exec(String),
}

/// How a session behaves.
pub struct Session {
    /// What runs at the other end.
    pub target: Target,
    /// Whether it has a terminal, so that its output is one raw stream.
    pub tty: bool,
    /// Whether our stdin goes there.
    pub stdin: bool,
    /// Whether its output is shown.
    pub stdout: bool,
    /// Whether its errors are shown.
    pub stderr: bool,
    /// Keys that end the session and leave the process running.
    pub detach_keys: Vec<u8>,
    /// Whether signals that we get are handed to it.
    pub forward_signals: bool,
}

/// Something that happens during a session.
#[derive(Debug)]
pub enum Event {
    /// The other end closed its output, or it broke.
    OutputEnded(io::Result<()>),
    /// The detach keys were typed.
    Detached,
    /// The container ended with this code, or waiting for it failed.
    Exited(Result<i32>),
    /// We were asked to end by this signal, which is not handed on.
    Signalled(i32),
}

/// A running session; dropping it restores the terminal.
pub struct Running {
    /// Events, in order.
    pub events: Receiver<Event>,
    /// For further sources of events.
    pub sender: Sender<Event>,
    _raw: Option<RawMode>,
}

/// Blocks the signals that a session handles. Call it before any thread is started: threads inherit the mask.
pub fn block_signals(forward: bool, tty: bool) -> Result<Option<SignalQueue>> {
    // With a terminal in raw mode no signal may end us before the mode is restored.
    let mut signals: Vec<i32> = if forward || tty { SIGNALS_FORWARDED.iter().map(|(number, _)| *number).collect() } else { Vec::new() };
    if tty {
        signals.push(SIGWINCH);
    }
    if signals.is_empty() {
        return Ok(None);
    }
    SignalQueue::block(&signals).map(Some).context("block signals")
}

/// Starts the threads that move bytes. With a terminal at both ends, ours is raw from here on.
pub fn start(session: &Session, connection: Hijacked) -> Result<Running> {
    let (sender, events) = channel();
    let raw = if session.tty && session.stdin && terminal::stdin_is_terminal() {
        Some(RawMode::enter().context("switch the terminal to raw mode")?)
    } else {
        None
    };
    let input = connection.stream.try_clone().context("share the connection")?;
    let (tty, stdout, stderr) = (session.tty, session.stdout, session.stderr);
    let output_events = sender.clone();
    thread::spawn(move || {
        let ended = copy_output(connection, tty, stdout, stderr);
        // Nobody listens any more once the session is over.
        let _ = output_events.send(Event::OutputEnded(ended));
    });
    if session.stdin {
        let keys = if session.tty { session.detach_keys.clone() } else { Vec::new() };
        let input_events = sender.clone();
        thread::spawn(move || {
            if copy_input(input, &keys) {
                let _ = input_events.send(Event::Detached);
            }
        });
    }
    Ok(Running { events, sender, _raw: raw })
}

/// Makes a program that runs in the container's terminal draw itself anew: it does so when the size changes, so the size is changed and set right
/// afterwards by [`follow_signals`].
pub fn redraw(client: &Client, session: &Session) {
    if session.tty
        && let Some((rows, columns)) = terminal::size()
    {
        resize_to(client, &session.target, rows.saturating_add(1), columns.saturating_add(1));
    }
}

/// Hands signals on from now, and the terminal's size now and whenever it changes.
pub fn follow_signals(client: &Client, session: &Session, queue: Option<SignalQueue>, events: Sender<Event>) {
    let (client, target, forward) = (client.clone(), session.target.clone(), session.forward_signals);
    let with_terminal = session.tty && terminal::size().is_some();
    if with_terminal && !resize(&client, &target) {
        let (client, target) = (client.clone(), target.clone());
        thread::spawn(move || {
            for attempt in 1..RESIZE_ATTEMPTS_MAX {
                thread::sleep(std::time::Duration::from_millis(10 * u64::from(attempt)));
                if resize(&client, &target) {
                    break;
                }
            }
        });
    }
    let Some(queue) = queue else { return };
    thread::spawn(move || {
        while let Ok(signal) = queue.next() {
            if signal == SIGWINCH {
                if with_terminal {
                    resize(&client, &target);
                }
            } else if let (Target::Container(id), true) = (&target, forward)
                && let Some((_, name)) = SIGNALS_FORWARDED.iter().find(|(number, _)| *number == signal)
            {
                // A container that is not running any more cannot get it: its end is on the way to us.
                let _ = client.send(Request::post(format!("/containers/{}/kill", encode(id))).query("signal", name));
            } else if events.send(Event::Signalled(signal)).is_err() {
                return;
            }
        }
    });
}

/// The bytes of `--detach-keys`: `ctrl-p,ctrl-q` or single characters, separated by commas.
pub fn parse_detach_keys(given: Option<&str>) -> Result<Vec<u8>> {
    let Some(text) = given.filter(|text| !text.is_empty()) else { return Ok(DETACH_KEYS_DEFAULT.to_vec()) };
    let key = |name: &str| match name.strip_prefix("ctrl-").map(str::as_bytes) {
        Some([letter @ b'a'..=b'z']) => Some(letter - b'a' + 1),
        Some([sign @ (b'@' | b'[' | b'\\' | b']' | b'^' | b'_')]) => Some(sign & 0x1f),
        None if name.len() == 1 => name.bytes().next(),
        _ => None,
    };
    text.split(',').map(|name| key(name).ok_or_else(|| anyhow::anyhow!("invalid detach keys {text:?}: unknown key {name:?}"))).collect()
}

fn resize(client: &Client, target: &Target) -> bool {
    let Some((rows, columns)) = terminal::size() else { return true };
    resize_to(client, target, rows, columns)
}

fn resize_to(client: &Client, target: &Target, rows: u16, columns: u16) -> bool {
    let path = match target {
        Target::Container(id) => format!("/containers/{}/resize", encode(id)),
        Target::Exec(id) => format!("/exec/{}/resize", encode(id)),
    };
    client.send(Request::post(path).query("h", rows).query("w", columns)).and_then(client::Response::finish).is_ok()
}

fn copy_output(connection: Hijacked, tty: bool, stdout: bool, stderr: bool) -> io::Result<()> {
    let mut source = io::Cursor::new(connection.ahead).chain(connection.stream);
    let (mut out, mut err, mut nowhere) = (terminal::stdout(), terminal::stderr(), io::sink());
    if tty {
        let mut buffer = vec![0u8; RAW_BUFFER_BYTES];
        loop {
            match source.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(count) => {
                    out.write_all(&buffer[..count])?;
                    out.flush()?;
                }
                Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
                Err(cause) => return Err(cause),
            }
        }
    }
    let mut also_nowhere = io::sink();
    let out: &mut dyn Write = if stdout { &mut out } else { &mut nowhere };
    let err: &mut dyn Write = if stderr { &mut err } else { &mut also_nowhere };
    frames::demultiplex(source, out, err)
}

/// Copies our stdin until its end, which becomes the end of the process's. True when the detach keys were typed.
fn copy_input(mut target: client::Stream, keys: &[u8]) -> bool {
    let mut scanner = DetachScanner { keys: keys.to_vec(), matched: 0 };
    let mut buffer = vec![0u8; INPUT_BUFFER_BYTES];
    loop {
        let count = terminal::read_stdin(&mut buffer).unwrap_or(0);
        if count == 0 {
            // The other end may be gone already.
            let _ = target.shutdown(Shutdown::Write);
            return false;
        }
        let (passed, detached) = scanner.scan(&buffer[..count]);
        if !passed.is_empty() && target.write_all(&passed).is_err() {
            return false;
        }
        if detached {
            return true;
        }
    }
}

/// Finds the detach keys in what is typed; their beginning is held back until it is clear that the rest does not follow.
struct DetachScanner {
    keys: Vec<u8>,
    matched: usize,
}

impl DetachScanner {
    fn scan(&mut self, typed: &[u8]) -> (Vec<u8>, bool) {
        if self.keys.is_empty() {
            return (typed.to_vec(), false);
        }
        let mut passed = Vec::with_capacity(typed.len() + self.matched);
        for byte in typed {
            if *byte == self.keys[self.matched] {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return (passed, true);
                }
                continue;
            }
            passed.extend_from_slice(&self.keys[..self.matched]);
            self.matched = usize::from(*byte == self.keys[0]);
            if self.matched == 0 {
                passed.push(*byte);
            }
        }
        (passed, false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn detach_keys_are_found_across_reads_and_held_back() {
        let mut scanner = DetachScanner { keys: vec![16, 17], matched: 0 };
        assert_eq!(scanner.scan(b"ab\x10"), (b"ab".to_vec(), false));
        assert_eq!(scanner.scan(b"c"), (b"\x10c".to_vec(), false));
        assert_eq!(scanner.scan(b"\x10\x10"), (b"\x10".to_vec(), false));
        assert_eq!(scanner.scan(b"\x11rest"), (Vec::new(), true));
        let mut none = DetachScanner { keys: Vec::new(), matched: 0 };
        assert_eq!(none.scan(b"\x10\x11"), (b"\x10\x11".to_vec(), false));
    }

    #[test]
    fn detach_keys_are_parsed() {
        let parse = |text| parse_detach_keys(Some(text)).ok();
        assert_eq!(parse("ctrl-p,ctrl-q"), Some(vec![16, 17]));
        assert_eq!(parse("a,ctrl-["), Some(vec![b'a', 27]));
        assert_eq!(parse("ctrl-é"), None);
        assert_eq!(parse("xy"), None);
        assert_eq!(parse_detach_keys(None).ok(), Some(vec![16, 17]));
    }
}

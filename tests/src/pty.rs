//! A command under a terminal of its own, with lines typed into it.

use crate::sh::{self, Cmd};
use anyhow::{Context, Result, bail};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use std::os::fd::OwnedFd;
use std::process::Stdio;
use std::time::{Duration, Instant};

/// A step is typed when the terminal has been silent for so long: programs that draw a prompt are ready then.
const QUIET: Duration = Duration::from_millis(400);
const END_GRACE: Duration = Duration::from_secs(5);

/// Runs a command under a terminal of `rows` × `columns`, types each of `steps` when the terminal has gone quiet, and answers the
/// exit code and all that was shown.
pub fn run(command: Cmd, size: (u16, u16), steps: &[&[u8]], timeout: Duration) -> Result<(i32, String)> {
    let line = command.line();
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).context("open a terminal")?;
    grantpt(&master)?;
    unlockpt(&master)?;
    let name = ptsname(&master, Vec::new())?;
    let slave = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    tcsetwinsize(&master, Winsize { ws_row: size.0, ws_col: size.1, ws_xpixel: 0, ws_ypixel: 0 })?;
    // setsid(1) makes the terminal the controlling one, which would take `unsafe` to do between fork and exec.
    let mut inner = command.into_inner();
    let mut setsid = std::process::Command::new("setsid");
    setsid.args(["--ctty", "--wait"]).arg(inner.get_program()).args(inner.get_args());
    for (key, value) in inner.get_envs() {
        match value {
            Some(value) => setsid.env(key, value),
            None => setsid.env_remove(key),
        };
    }
    setsid.stdin(Stdio::from(slave.try_clone()?)).stdout(Stdio::from(slave.try_clone()?)).stderr(Stdio::from(slave));
    let mut child = setsid.spawn().with_context(|| format!("run `{line}` under a terminal"))?;
    // Our copies of the slave must close, or the end is never seen.
    drop(setsid);
    inner.stdin(Stdio::null());
    let shown = converse(&master, steps, Instant::now() + timeout)?;
    let shown = String::from_utf8_lossy(&shown).into_owned();
    match sh::wait(&mut child, Instant::now() + END_GRACE)? {
        Some(code) => Ok((code, shown)),
        None => bail!("`{line}` did not end under its terminal; it showed: {shown:?}"),
    }
}

fn converse(master: &OwnedFd, steps: &[&[u8]], deadline: Instant) -> Result<Vec<u8>> {
    let mut shown = Vec::new();
    let mut steps = steps.iter();
    let mut last = Instant::now();
    let mut buffer = [0; 4096];
    while Instant::now() < deadline {
        let mut fds = [PollFd::new(master, PollFlags::IN)];
        poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 50_000_000 }))?;
        if !fds[0].revents().is_empty() {
            match rustix::io::read(master, &mut buffer) {
                // EIO is how a terminal says that its last user has gone.
                Ok(0) | Err(rustix::io::Errno::IO) => return Ok(shown),
                Ok(n) => shown.extend_from_slice(&buffer[..n]),
                Err(error) => return Err(error).context("read from the terminal"),
            }
            last = Instant::now();
        } else if last.elapsed() > QUIET
            && let Some(step) = steps.next()
        {
            rustix::io::write(master, step).context("type into the terminal")?;
            last = Instant::now();
        }
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_sees_a_terminal_of_the_size_asked_for() {
        let shell = Cmd::new("sh");
        let steps: [&[u8]; 2] = [b"tty; stty size\n", b"exit 5\n"];
        let (code, shown) = run(shell, (33, 77), &steps, Duration::from_secs(20)).unwrap();
        assert_eq!(code, 5);
        assert!(shown.contains("/dev/pts/") && shown.contains("33 77"), "{shown:?}");
    }
}

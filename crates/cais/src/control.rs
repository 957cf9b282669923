//! `cais engine`: run it, stop it, ask how it is.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::options::{self, FLAGS, Host, Options};
use crate::serve;

/// How long an engine may take to stop.
const STOP_TIMEOUT: Duration = Duration::from_secs(30);
/// Exit code of `status` when no engine runs, as service managers have it.
const NOT_RUNNING: u8 = 3;

const HELP: &str = "Usage:  cais engine [OPTIONS] [stop | status]

Runs the engine in the foreground. 'stop' ends the engine of these roots (its containers go on), 'status' tells whether it runs.

Options:
";

pub(crate) fn main(args: &[OsString]) -> Result<ExitCode> {
    let matches = options::parse(args)?;
    if matches.on("help") {
        print!(
            "{HELP}{}",
            cli::flag_lines(&FLAGS.iter().chain(crate::network::FLAGS).filter(|flag| flag.long != "ready-fd").collect::<Vec<_>>())
        );
        return Ok(ExitCode::SUCCESS);
    }
    let options = Options::read(&matches)?;
    match matches.positionals.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [] => serve::run(options),
        ["stop"] => stop(&options),
        ["status"] => Ok(status(&options)),
        [other, ..] => bail!("unknown command {other:?}: use stop or status, or nothing to run the engine"),
    }
}

fn stop(options: &Options) -> Result<ExitCode> {
    let Some(pid) = running(options) else {
        println!("no engine runs with the data root {}", options.data_root.display());
        return Ok(ExitCode::SUCCESS);
    };
    let engine = pidfd_open(pid, PidfdFlags::empty()).context("open the engine's process")?;
    pidfd_send_signal(&engine, Signal::TERM).context("signal the engine")?;
    let mut ready = [rustix::event::PollFd::new(&engine, rustix::event::PollFlags::IN)];
    let limit = rustix::event::Timespec { tv_sec: STOP_TIMEOUT.as_secs() as i64, tv_nsec: 0 };
    let begun = Instant::now();
    loop {
        match rustix::event::poll(&mut ready, Some(&limit)) {
            Ok(0) => bail!("the engine (process {}) did not end within {} s", pid.as_raw_nonzero(), STOP_TIMEOUT.as_secs()),
            Ok(_) => break,
            Err(rustix::io::Errno::INTR) if begun.elapsed() < STOP_TIMEOUT => {}
            Err(errno) => return Err(errno).context("wait for the engine"),
        }
    }
    println!("the engine (process {}) has ended", pid.as_raw_nonzero());
    Ok(ExitCode::SUCCESS)
}

fn status(options: &Options) -> ExitCode {
    let Some(pid) = running(options) else {
        println!("no engine runs with the data root {}", options.data_root.display());
        return ExitCode::from(NOT_RUNNING);
    };
    println!("the engine runs as process {}, data root {}", pid.as_raw_nonzero(), options.data_root.display());
    for host in &options.hosts {
        match host {
            Host::Unix(path) => println!("  unix://{}", path.display()),
            Host::Tcp(address) => println!("  tcp://{address}"),
            Host::Inherited => println!("  sockets of systemd"),
        }
    }
    ExitCode::SUCCESS
}

/// The engine's process, if the one in the pid file is an engine: numbers are used again.
fn running(options: &Options) -> Option<Pid> {
    let text = std::fs::read_to_string(&options.pidfile).ok()?;
    let pid = Pid::from_raw(text.trim().parse().ok()?)?;
    let command = std::fs::read(format!("/proc/{}/cmdline", pid.as_raw_nonzero())).ok()?;
    let mut words = command.split(|byte| *byte == 0);
    let name = words.next()?.rsplit(|byte| *byte == b'/').next()?;
    (name == b"caisd" || words.next() == Some(b"engine")).then_some(pid)
}

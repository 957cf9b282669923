//! Starting an engine on the default socket for a client that finds none.

use std::error::Error;
use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use kernel::spawn::{Spawn, spawn};
use rustix::fs::{Mode, OFlags};

/// Where the engine's messages go: nobody watches its terminal.
const LOG: &str = "/run/cais/engine.log";
/// How much of the log an error shows.
const LOG_TAIL_LEN: usize = 2000;
const READY_FD: usize = 3;

/// Starts an engine in a session of its own, with a clean environment, and returns when it listens.
pub(crate) fn start() -> Result<(), Box<dyn Error + Send + Sync>> {
    if !rustix::process::geteuid().is_root() {
        return Err("no engine runs, and only root can start one: type `sudo cais engine`, or start its service".into());
    }
    if let Some(folder) = Path::new(LOG).parent() {
        std::fs::create_dir_all(folder)?;
    }
    let log = File::options().create(true).append(true).open(LOG)?;
    let begun = log.metadata()?.len();
    let null = File::options().read(true).write(true).open("/dev/null")?;
    let (ready, tell) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let program = rustix::fs::open("/proc/self/exe", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let args = ["cais", "engine", "--ready-fd", &READY_FD.to_string()].map(CString::new).into_iter().collect::<Result<Vec<_>, _>>()?;
    let child = spawn(&Spawn {
        program: program.as_fd(),
        args: &args,
        env: &environment(),
        fds: &[null.as_fd(), log.as_fd(), log.as_fd(), tell.as_fd()],
    })?;
    drop(tell);
    let mut byte = [0];
    // The end of the pipe without a byte is the end of the engine.
    if File::from(ready).read(&mut byte)? == 1 {
        return Ok(());
    }
    let _ = rustix::process::waitid(rustix::process::WaitId::PidFd(child.pidfd.as_fd()), rustix::process::WaitIdOptions::EXITED);
    Err(said_since(begun).into())
}

/// What an engine needs of the environment, and nothing of the client's own.
fn environment() -> Vec<CString> {
    const KEPT: [&str; 9] = ["PATH", "HOME", "TMPDIR", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"];
    KEPT.iter().filter_map(|name| CString::new(format!("{name}={}", std::env::var(name).ok()?)).ok()).collect()
}

/// What the engine wrote to its log before it ended.
fn said_since(begun: u64) -> String {
    let text = std::fs::read(LOG).unwrap_or_default();
    let new = text.get(begun as usize..).unwrap_or_default();
    let tail = String::from_utf8_lossy(&new[new.len().saturating_sub(LOG_TAIL_LEN)..]).trim().to_owned();
    if tail.is_empty() { format!("it ended without a word; its log is {LOG}") } else { tail }
}

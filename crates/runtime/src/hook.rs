//! Hooks: programs of the host that a specification wants to be run at certain points.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{Error, Result, oci};

/// What a hook is told on its standard input.
#[derive(Debug, Clone, Copy)]
pub(crate) struct State<'a> {
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a Path,
    pub(crate) annotations: &'a BTreeMap<String, String>,
    pub(crate) status: &'static str,
    pub(crate) pid: Option<Pid>,
}

impl State<'_> {
    /// The state of the OCI specification, as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "ociVersion": crate::config::OCI_VERSION,
            "id": self.id,
            "status": self.status,
            "pid": self.pid.map_or(0, |pid| pid.as_raw_nonzero().get()),
            "bundle": self.bundle,
            "annotations": self.annotations,
        })
    }
}

/// Runs one hook to its end, with nothing of this process's environment.
pub(crate) fn run(stage: &'static str, hook: &oci::Hook, state: &State<'_>) -> Result<()> {
    let fail = |reason: String| Error::Hook { stage: stage.into(), path: hook.path.display().to_string(), reason };
    if !hook.path.is_absolute() {
        return Err(fail("the path is not absolute".into()));
    }
    let mut command = Command::new(&hook.path);
    if let Some((name, arguments)) = hook.args.split_first() {
        std::os::unix::process::CommandExt::arg0(&mut command, name);
        command.args(arguments);
    }
    command.env_clear().envs(hook.env.iter().filter_map(|pair| pair.split_once('=')));
    command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| fail(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A hook need not read its input.
        let _ = input.write_all(state.json().to_string().as_bytes());
    }
    if let Some(seconds) = hook.timeout.filter(|&seconds| seconds > 0) {
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or_else(|| fail("it has no process number".into()))?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).map_err(|errno| fail(errno.to_string()))?;
        let timeout = Timespec { tv_sec: seconds, tv_nsec: 0 };
        let ended = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)));
        if ended == Ok(0) {
            let _ = pidfd_send_signal(pidfd.as_fd(), Signal::KILL);
            let _ = child.wait();
            return Err(fail(format!("it did not end within {seconds} s")));
        }
    }
    let status = child.wait().map_err(|error| fail(error.to_string()))?;
    if status.success() { Ok(()) } else { Err(fail(format!("it ended with {status}"))) }
}

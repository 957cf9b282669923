//! What the monitor keeps about its container between the launch and its own end.

use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use cgroup::{Group, OomWatch};
use monitor::{ExecExit, Exit, Started, State};
use runtime::oci;

use super::engines::Engines;
use super::external::External;
use super::process::Status;

/// How long an ended container's mounts are held for an engine that is not there.
const HOLD_ALONE_MS: u64 = 60_000;
/// How long they are held for a connected engine that does not acknowledge the exit.
const HOLD_SILENT_MS: u64 = 600_000;
/// How many ended execs are remembered for an engine that was away.
const EXEC_EXITS_LEN_MAX: usize = 64;

/// A launched container.
#[derive(Debug)]
pub struct Container {
    /// Its id.
    pub id: String,
    /// What an exec needs of its specification.
    pub spec: oci::Spec,
    /// Its compiled seccomp program.
    pub seccomp: Option<OwnedFd>,
    /// Its control group.
    pub group: Group,
    /// Tells when the kernel kills for lack of memory.
    pub oom: Option<OomWatch>,
    /// How often it did.
    pub oom_kills: u64,
    /// When to count again: the notice comes before the kill.
    pub oom_check_at: Option<Instant>,
    /// Its mount namespace: as long as it is open, the end of the last process does not wait for the overlay to be synced.
    pub mounts: Option<File>,
    /// Whether and when it was started.
    pub started: Started,
    /// Frozen by a request.
    pub paused: bool,
    /// Where its exit is recorded.
    pub exit_record: File,
    /// When it is to be killed if it still runs.
    pub kill_at: Option<Instant>,
    /// How its first process ended, and when.
    pub ended: Option<(Status, i64)>,
    /// The recorded exit.
    pub exit: Option<Exit>,
    /// When the exit was recorded.
    pub exit_at: Option<Instant>,
    /// An engine has taken note of the exit.
    pub acknowledged: bool,
    /// The latest ended execs.
    pub exec_exits: VecDeque<ExecExit>,
    /// The program that is its runtime.
    pub external: Option<External>,
}

/// What is kept open for a container.
#[derive(Debug)]
pub struct Kept {
    /// See [`Container::group`].
    pub group: Group,
    /// See [`Container::exit_record`].
    pub exit_record: File,
    /// See [`Container::mounts`].
    pub mounts: File,
    /// See [`Container::seccomp`].
    pub seccomp: Option<OwnedFd>,
    /// See [`Container::oom`].
    pub oom: Option<OomWatch>,
    /// See [`Container::external`].
    pub external: Option<External>,
}

impl Container {
    /// A container that was just started.
    pub fn new(id: String, spec: oci::Spec, started: Started, kept: Kept) -> Self {
        Self {
            id,
            spec,
            seccomp: kept.seccomp,
            group: kept.group,
            oom: kept.oom,
            oom_kills: 0,
            oom_check_at: None,
            mounts: Some(kept.mounts),
            started,
            paused: false,
            exit_record: kept.exit_record,
            kill_at: None,
            ended: None,
            exit: None,
            exit_at: None,
            acknowledged: false,
            exec_exits: VecDeque::new(),
            external: kept.external,
        }
    }

    /// Until when its mounts are held after the exit for an acknowledgement.
    pub fn hold_until(&self, engines: &Engines) -> Option<Instant> {
        let exit_at = self.exit_at.filter(|_| !self.acknowledged)?;
        Some(match engines.alone_since() {
            Some(alone_since) => exit_at.max(alone_since) + Duration::from_millis(HOLD_ALONE_MS),
            None => exit_at + Duration::from_millis(HOLD_SILENT_MS),
        })
    }

    /// Everything an engine may want to know, but for the running execs.
    pub fn state(&self, execs: Vec<(String, i32)>) -> State {
        State {
            id: self.id.clone(),
            monitor_pid: std::process::id().try_into().unwrap_or_default(),
            started: Some(self.started.clone()),
            paused: self.paused,
            oom_kills: self.oom_kills,
            exit: self.exit.clone(),
            execs,
            exec_exits: self.exec_exits.iter().cloned().collect(),
        }
    }

    /// Remembers an ended exec.
    pub fn remember(&mut self, exit: ExecExit) {
        if self.exec_exits.len() == EXEC_EXITS_LEN_MAX {
            self.exec_exits.pop_front();
        }
        self.exec_exits.push_back(exit);
    }

    /// The seccomp program, read anew: it is not kept in memory.
    pub fn seccomp_program(&self) -> std::io::Result<Option<Vec<u8>>> {
        self.seccomp.as_ref().map(read_program).transpose()
    }
}

/// Reads a seccomp program from the memfd that holds it.
pub fn read_program(fd: &OwnedFd) -> std::io::Result<Vec<u8>> {
    /// The kernel takes 4,096 instructions of 8 bytes.
    const PROGRAM_BYTES_MAX: usize = 4096 * 8;
    let mut program = vec![0; PROGRAM_BYTES_MAX];
    let mut filled = 0;
    while filled < program.len() {
        match rustix::io::retry_on_intr(|| rustix::io::pread(fd, &mut program[filled..], filled as u64))? {
            0 => break,
            count => filled += count,
        }
    }
    program.truncate(filled);
    Ok(program)
}

/// A process's start time in clock ticks after boot: field 22 of /proc/PID/stat, counted after the name, which may hold anything.
pub fn start_ticks(pid: i32) -> std::io::Result<u64> {
    const FIELD_AFTER_NAME: usize = 19;
    let mut text = String::new();
    File::open(format!("/proc/{pid}/stat"))?.read_to_string(&mut text)?;
    let after_name = text.rsplit_once(") ").map_or("", |(_, after)| after);
    let field = after_name.split(' ').nth(FIELD_AFTER_NAME).and_then(|field| field.parse().ok());
    field.ok_or_else(|| std::io::ErrorKind::InvalidData.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_start_time_is_found() {
        let ticks = start_ticks(std::process::id() as i32).expect("we run");
        assert!(ticks > 0);
    }
}

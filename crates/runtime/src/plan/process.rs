//! The process: credentials, limits, arguments.

use std::ffi::CString;
use std::path::PathBuf;

use rustix::process::Resource;

use super::schedule::{self, Schedule};
use super::{Capabilities, clean};
use crate::{Error, Result, oci, seccomp};

/// What is executed, and as whom. The same for a container's first process and for an exec.
#[derive(Debug, Clone, PartialEq)]
pub struct ProcessPlan {
    /// The command and its arguments; not empty.
    pub args: Vec<CString>,
    /// `NAME=value` each.
    pub env: Vec<CString>,
    /// The working directory: absolute and clean.
    pub cwd: PathBuf,
    /// As whom.
    pub user: UserChoice,
    /// File mode creation mask.
    pub umask: Option<u32>,
    /// Capability sets.
    pub capabilities: Capabilities,
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// execve gives no privileges.
    pub no_new_privileges: bool,
    /// The execution domain (personality(2)).
    pub personality: Option<u32>,
    /// A filter is loaded, with these flags.
    pub seccomp_flags: Option<u32>,
    /// How it is scheduled.
    pub schedule: Schedule,
}

/// The user, by number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserChoice {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Additional group ids.
    pub groups: Vec<u32>,
}

/// One resource limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rlimit {
    /// Which.
    pub resource: Resource,
    /// Its name, for messages.
    pub name: String,
    /// The limit in force; `None` unlimited.
    pub soft: Option<u64>,
    /// The highest that the process may set; `None` unlimited.
    pub hard: Option<u64>,
}

pub(crate) fn plan(process: &oci::Process, linux: &oci::Linux) -> Result<ProcessPlan> {
    refuse_unserved(process)?;
    if process.args.is_empty() {
        return Err(Error::field("process.args", "no command specified"));
    }
    if process.args[0].is_empty() {
        return Err(Error::field("process.args[0]", "the command is empty"));
    }
    let strings = |strings: &[String], field: &str| -> Result<Vec<CString>> {
        let string = |(at, text): (usize, &String)| {
            CString::new(text.as_str()).map_err(|_| Error::field(format!("{field}[{at}]"), format!("{text:?} contains a zero byte")))
        };
        strings.iter().enumerate().map(string).collect()
    };
    if !process.cwd.as_os_str().is_empty() && !process.cwd.is_absolute() {
        return Err(Error::field("process.cwd", format!("the working directory {:?} is not an absolute path", process.cwd)));
    }
    Ok(ProcessPlan {
        args: strings(&process.args, "process.args")?,
        env: strings(&process.env, "process.env")?,
        cwd: clean(&process.cwd),
        user: UserChoice { uid: process.user.uid, gid: process.user.gid, groups: process.user.additional_gids.clone() },
        umask: process.user.umask,
        capabilities: process.capabilities.as_ref().map(Capabilities::of).transpose()?.unwrap_or_default(),
        rlimits: process.rlimits.iter().enumerate().map(rlimit).collect::<Result<_>>()?,
        no_new_privileges: process.no_new_privileges,
        personality: linux.personality.as_ref().map(personality).transpose()?,
        schedule: schedule::plan(process, linux)?,
        seccomp_flags: linux.seccomp.as_ref().map(seccomp::load_flags).transpose()?,
    })
}

fn refuse_unserved(process: &oci::Process) -> Result<()> {
    let refused = [
        (!process.apparmor_profile.is_empty(), "process.apparmorProfile: AppArmor profiles"),
        (!process.selinux_label.is_empty(), "process.selinuxLabel: SELinux labels"),
    ];
    refused.iter().find(|(asked, _)| *asked).map_or(Ok(()), |(_, what)| Err(Error::unsupported(format!("{what} are not supported"))))
}

fn rlimit((at, limit): (usize, &oci::Rlimit)) -> Result<Rlimit> {
    let resource = match limit.kind.as_str() {
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_STACK" => Resource::Stack,
        other => {
            let field = format!("process.rlimits[{at}].type");
            return Err(Error::field(field, format!("{other:?} is not a resource limit: RLIMIT_NOFILE, RLIMIT_CORE and the like are")));
        }
    };
    if limit.soft > limit.hard {
        let what = format!("{}: the soft limit {} is above the hard limit {}", limit.kind, limit.soft, limit.hard);
        return Err(Error::field(format!("process.rlimits[{at}]"), what));
    }
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    Ok(Rlimit { resource, name: limit.kind.clone(), soft: finite(limit.soft), hard: finite(limit.hard) })
}

/// The values of personality(2) that the specification names.
fn personality(personality: &oci::Personality) -> Result<u32> {
    if let Some(flag) = personality.flags.first() {
        return Err(Error::field("linux.personality.flags", format!("{flag:?} is not a flag: the specification has none yet")));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::field("linux.personality.domain", format!("{other:?} is not an execution domain: LINUX and LINUX32 are"))),
    }
}

//! The process: credentials, limits, arguments.

use std::ffi::CString;
use std::path::PathBuf;

use rustix::process::Resource;

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
        return Err(Error::invalid("no command specified"));
    }
    if process.args[0].is_empty() {
        return Err(Error::invalid("the command is empty"));
    }
    let strings = |strings: &[String], what: &str| -> Result<Vec<CString>> {
        strings
            .iter()
            .map(|text| CString::new(text.as_str()).map_err(|_| Error::invalid(format!("{what} {text:?} contains a zero byte"))))
            .collect()
    };
    if !process.cwd.as_os_str().is_empty() && !process.cwd.is_absolute() {
        return Err(Error::invalid(format!("the working directory {:?} is not an absolute path", process.cwd)));
    }
    Ok(ProcessPlan {
        args: strings(&process.args, "the argument")?,
        env: strings(&process.env, "the environment variable")?,
        cwd: clean(&process.cwd),
        user: UserChoice { uid: process.user.uid, gid: process.user.gid, groups: process.user.additional_gids.clone() },
        umask: process.user.umask,
        capabilities: process.capabilities.as_ref().map(Capabilities::of).transpose()?.unwrap_or_default(),
        rlimits: process.rlimits.iter().map(rlimit).collect::<Result<_>>()?,
        no_new_privileges: process.no_new_privileges,
        personality: linux.personality.as_ref().map(personality).transpose()?,
        seccomp_flags: linux.seccomp.as_ref().map(seccomp::load_flags).transpose()?,
    })
}

fn refuse_unserved(process: &oci::Process) -> Result<()> {
    let refused = [
        (!process.apparmor_profile.is_empty(), "AppArmor profiles (process.apparmorProfile)"),
        (!process.selinux_label.is_empty(), "SELinux labels (process.selinuxLabel)"),
        (process.scheduler.is_some(), "scheduling policies (process.scheduler)"),
        (process.io_priority.is_some(), "I/O priorities (process.ioPriority)"),
        (process.exec_cpu_affinity.is_some(), "CPU affinities of an exec (process.execCPUAffinity)"),
    ];
    refused.iter().find(|(asked, _)| *asked).map_or(Ok(()), |(_, what)| Err(Error::unsupported(format!("{what} are not supported"))))
}

fn rlimit(limit: &oci::Rlimit) -> Result<Rlimit> {
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
        other => return Err(Error::invalid(format!("{other:?} is not a resource limit"))),
    };
    if limit.soft > limit.hard {
        return Err(Error::invalid(format!("{}: the soft limit {} is above the hard limit {}", limit.kind, limit.soft, limit.hard)));
    }
    let finite = |value: u64| (value != u64::MAX).then_some(value);
    Ok(Rlimit { resource, name: limit.kind.clone(), soft: finite(limit.soft), hard: finite(limit.hard) })
}

/// The values of personality(2) that the specification names.
fn personality(personality: &oci::Personality) -> Result<u32> {
    if let Some(flag) = personality.flags.first() {
        return Err(Error::unsupported(format!("the personality flag {flag:?} is not supported")));
    }
    match personality.domain.as_str() {
        "LINUX" => Ok(0),
        "LINUX32" => Ok(8),
        other => Err(Error::invalid(format!("{other:?} is not an execution domain: LINUX and LINUX32 are"))),
    }
}

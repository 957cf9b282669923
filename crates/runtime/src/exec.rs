//! A further process in a running container.

use std::os::fd::BorrowedFd;

use rustix::process::Pid;

use crate::{Result, Running, Stdio, oci};

/// The container to enter.
#[derive(Debug, Clone, Copy)]
pub struct ExecTarget<'a> {
    /// Its first process, in the caller's pid namespace.
    pub pid: Pid,
    /// The descriptor of that process.
    pub pidfd: BorrowedFd<'a>,
    /// The container's control group, to be joined.
    pub group: Option<&'a cgroup::Group>,
    /// The container's specification: its seccomp profile and its time and cgroup namespaces.
    pub spec: &'a oci::Spec,
    /// The container's compiled filter, in place of compiling the specification's.
    pub seccomp_program: Option<&'a [u8]>,
}

/// How the process differs from what its `oci::Process` says.
#[derive(Debug, Clone, Default)]
pub struct Joining {
    /// Docker's form of the user, looked up in the container; comes before `process.user`.
    pub user: Option<String>,
    /// Additional groups, by name or number.
    pub additional_groups: Vec<String>,
    /// No filter, whatever the container has (`exec --privileged`).
    pub unconfined: bool,
    /// How many descriptors from 3 up the program inherits.
    pub preserve_fds: u32,
}

/// Runs `process` in the target's namespaces and control group. Returns when its program runs; the caller is its parent and reaps it.
///
/// # Errors
/// What kept the program from being executed; the process is gone and reaped then.
pub fn exec(target: &ExecTarget<'_>, process: &oci::Process, stdio: Stdio<'_>, joining: &Joining) -> Result<Running> {
    todo!()
}

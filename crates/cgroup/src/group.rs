//! One group in every hierarchy: make, join, limit, signal, remove.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal};

use crate::{Hierarchy, Limits, Result, System};

/// The group at one path below every usable hierarchy.
#[derive(Debug, Clone)]
pub struct Group {
    path: PathBuf,
    members: Vec<(Hierarchy, PathBuf)>,
}

impl Group {
    /// Makes the group at `path` (`ROOT/ID`, as many levels as wanted) in every hierarchy. What is missing above it is made too and stays. An existing
    /// group is taken as it is. Hierarchies without controllers are used where that is possible.
    pub fn create(system: &System, path: &Path) -> Result<Self> {
        todo!()
    }

    /// A group that exists already, or did. Nothing is checked.
    pub fn open(system: &System, path: &Path) -> Self {
        todo!()
    }

    /// The path, as it was given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The group's directory in the hierarchy of `controller`; `""` means the version 2 hierarchy.
    pub fn directory_of(&self, controller: &str) -> Option<&Path> {
        todo!()
    }

    /// The group's directory in the version 2 hierarchy (hybrid machines have one too), for CLONE_INTO_CGROUP.
    pub fn directory(&self) -> Result<Option<OwnedFd>> {
        todo!()
    }

    /// Moves the calling process, which must have one thread, into the group in every version 1 hierarchy, and with `unified` in the version 2 one too.
    pub fn join_self(&self, unified: bool) -> Result<()> {
        todo!()
    }

    /// Moves another process with all its threads.
    pub fn join(&self, pid: Pid) -> Result<()> {
        todo!()
    }

    /// Sets limits, on a new group or while processes run in it.
    pub fn set(&self, limits: &Limits) -> Result<()> {
        todo!()
    }

    /// Stops every process of the group until [`Self::thaw`]. Returns when all of them stand.
    pub fn freeze(&self) -> Result<()> {
        todo!()
    }

    /// Lets the processes go on.
    pub fn thaw(&self) -> Result<()> {
        todo!()
    }

    /// Whether the group is frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        todo!()
    }

    /// The processes of the group and of the groups below it, in this process's pid namespace. Empty when the group is gone.
    pub fn pids(&self) -> Result<Vec<Pid>> {
        todo!()
    }

    /// Sends `signal` to every process of the group.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        todo!()
    }

    /// Kills every process of the group and of the groups below it, frozen ones too.
    pub fn kill_all(&self) -> Result<()> {
        todo!()
    }

    /// Removes the group and the groups below it, and waits a little for processes that are about to be gone. What is not there is no error.
    pub fn remove(&self) -> Result<()> {
        todo!()
    }

    /// What the group uses.
    pub fn stats(&self) -> Result<crate::Stats> {
        todo!()
    }
}

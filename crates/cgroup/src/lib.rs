//! Control groups: one view over version 1, hybrid and version 2 machines.
//!
//! A [`System`] says what is mounted; a [`Group`] is one path below every hierarchy of it. On version 1 a process joins by writing to each `tasks`
//! file itself ([`Group::join_self`]); on version 2 it is born in the group through [`Group::directory`] and clone3's CLONE_INTO_CGROUP.
#![forbid(unsafe_code)]

mod devices;
mod error;
mod file;
mod freeze;
mod group;
mod limits;
mod oom;
mod stats;
mod system;

pub use devices::{DeviceKind, DeviceRule};
pub use error::{Error, Result};
pub use group::Group;
pub use limits::{BlockRate, Limits};
pub use oom::OomWatch;
pub use stats::{BlockIo, BlockOperation, Cpu, HugeTlb, Memory, Pids, Stats, Throttling};
pub use system::{Hierarchy, Mode, System};

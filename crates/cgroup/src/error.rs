//! What can go wrong with control groups.

use std::path::PathBuf;

use rustix::io::Errno;
use types::{Classify, ErrorKind};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation on control groups that failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nothing is mounted that could be used.
    #[error("no control group hierarchy is mounted on this machine")]
    NotMounted,
    /// A limit needs a controller that this machine does not offer.
    #[error("{what} cannot be limited: the {controller} controller is not available on this machine")]
    NoController {
        /// What was to be limited.
        what: &'static str,
        /// The controller that does it.
        controller: &'static str,
    },
    /// A value that no kernel would take, or a path that leaves the hierarchy.
    #[error("{what} {value:?} is not valid: {reason}")]
    Invalid {
        /// The setting.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is expected.
        reason: &'static str,
    },
    /// The kernel has no such setting.
    #[error("{what} cannot be set: the kernel has no {file}")]
    NoSetting {
        /// What was to be set.
        what: &'static str,
        /// The missing file.
        file: String,
    },
    /// Making a group failed.
    #[error("make the control group {}", path.display())]
    Create {
        /// Its directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// Reading a file failed.
    #[error("read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// Writing a file failed.
    #[error("write {value:?} to {}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What was written.
        value: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// A process could not enter the group.
    #[error("join the control group {}", path.display())]
    Join {
        /// The group's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// Removing a group failed.
    #[error("remove the control group {}", path.display())]
    Remove {
        /// Its directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// Processes did not stop in time.
    #[error("the processes of the control group {} did not {what} in time", path.display())]
    Timeout {
        /// The group's directory.
        path: PathBuf,
        /// What was waited for.
        what: &'static str,
    },
    /// The device filter was refused.
    #[error("{operation} the device filter of {}", path.display())]
    DeviceFilter {
        /// "load" or "attach".
        operation: &'static str,
        /// The group's directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: Errno,
    },
}

impl Error {
    /// The errno at the bottom, if the kernel refused something.
    pub fn errno(&self) -> Option<Errno> {
        match self {
            Self::Create { source, .. }
            | Self::Read { source, .. }
            | Self::Write { source, .. }
            | Self::Join { source, .. }
            | Self::Remove { source, .. }
            | Self::DeviceFilter { source, .. } => Some(*source),
            _ => None,
        }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::InvalidInput,
            Self::Write { source: Errno::INVAL | Errno::RANGE | Errno::NODEV, .. } => ErrorKind::InvalidInput,
            Self::Write { source: Errno::BUSY, .. } => ErrorKind::Conflict,
            Self::NoController { .. } | Self::NoSetting { .. } => ErrorKind::InvalidInput,
            Self::NotMounted => ErrorKind::Unavailable,
            _ if matches!(self.errno(), Some(Errno::ACCESS | Errno::PERM | Errno::ROFS)) => ErrorKind::Forbidden,
            _ => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NotMounted => Some("mount the cgroup2 filesystem: mount -t cgroup2 none /sys/fs/cgroup".into()),
            Self::Create { source: Errno::ROFS, .. } => {
                Some("the hierarchy is mounted read-only: remount it read-write, or run as a privileged container".into())
            }
            Self::Write { source: Errno::BUSY, path, .. }
                if path.ends_with("memory.limit_in_bytes") || path.ends_with("memory.memsw.limit_in_bytes") =>
            {
                Some("the group uses more memory than the new limit: choose a higher one, or free memory first".into())
            }
            Self::Write { source: Errno::INVAL, path, .. } if path.ends_with("cpu.rt_runtime_us") => {
                Some("the group above has no real-time time to hand on: write some to its cpu.rt_runtime_us first".into())
            }
            Self::Write { source: Errno::BUSY, path, .. } if path.ends_with("cgroup.subtree_control") => {
                Some("a group that hands on controllers may not contain processes: move them to a leaf group".into())
            }
            _ => None,
        }
    }
}

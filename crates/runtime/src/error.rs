//! What can go wrong between a specification and a running program.

use rustix::io::Errno;
use types::{Classify, ErrorKind};

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Exit code of a command that was found but cannot be executed, as shells and Docker give it.
pub const EXIT_NOT_EXECUTABLE: i32 = 126;
/// Exit code of a command that was not found.
pub const EXIT_NOT_FOUND: i32 = 127;
/// Exit code of a container that could not be made.
pub const EXIT_ENGINE: i32 = 125;

/// A container or a process could not be made or started.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The specification asks for something impossible or contradictory.
    #[error("{what}")]
    Invalid {
        /// What is wrong, in a sentence without a full stop.
        what: String,
    },
    /// The specification asks for something that this runtime or this machine does not have.
    #[error("{what}")]
    Unsupported {
        /// What is missing.
        what: String,
    },
    /// A step of making the container failed: `mount proc on /proc`, say.
    #[error("{step}")]
    Step {
        /// What was done, and to what.
        step: String,
        /// The cause.
        #[source]
        source: Errno,
    },
    /// The program could not be executed.
    #[error("exec {command:?}")]
    Exec {
        /// What was to be executed, as the caller named it.
        command: String,
        /// Why not.
        #[source]
        cause: ExecFailure,
    },
    /// The user or group does not exist in the container.
    #[error("unable to find {kind} {name}: no matching entries in {file} file")]
    UnknownUser {
        /// `user` or `group`.
        kind: String,
        /// What was looked for.
        name: String,
        /// `passwd` or `group`.
        file: String,
    },
    /// The child ended without saying why: it was killed.
    #[error("the container's first process ended before it could {stage}")]
    ChildLost {
        /// What it was about to do.
        stage: String,
    },
    /// The container whose namespaces were to be joined has ended.
    #[error("the container is not running")]
    NotRunning,
    /// A hook failed.
    #[error("run the {stage} hook {path}: {reason}")]
    Hook {
        /// `prestart`, `createRuntime` …
        stage: String,
        /// The hook's program.
        path: String,
        /// Its exit code, signal or time-out.
        reason: String,
    },
    /// The control group could not be made, limited or joined.
    #[error("set up the control group")]
    Cgroup(#[from] cgroup::Error),
}

/// Why a program could not be executed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExecFailure {
    /// A name without slash that no folder of PATH has.
    #[error("executable file not found in $PATH")]
    NotInPath,
    /// A folder.
    #[error("is a directory")]
    Directory,
    /// What the kernel says.
    #[error("{}", exec_text(*.0))]
    Errno(Errno),
}

/// The words that shells use, in lower case, rather than rustix's.
fn exec_text(errno: Errno) -> String {
    match errno {
        Errno::NOENT => "no such file or directory".into(),
        Errno::ACCESS => "permission denied".into(),
        Errno::NOEXEC => "exec format error".into(),
        Errno::NOTDIR => "not a directory".into(),
        Errno::LOOP => "too many levels of symbolic links".into(),
        Errno::TOOBIG => "argument list too long".into(),
        other => other.to_string(),
    }
}

impl Error {
    /// The exit code that Docker's clients expect: 127 for a command that is not there, 126 for one that cannot be executed, 125 for the rest.
    pub fn exit_code(&self) -> i32 {
        match self {
            Self::Exec { cause: ExecFailure::NotInPath | ExecFailure::Errno(Errno::NOENT | Errno::NOTDIR), .. } => EXIT_NOT_FOUND,
            Self::Exec { .. } => EXIT_NOT_EXECUTABLE,
            _ => EXIT_ENGINE,
        }
    }

    /// Shorthand for a failed step.
    pub(crate) fn step(step: impl Into<String>) -> impl FnOnce(Errno) -> Self {
        let step = step.into();
        move |source| Self::Step { step, source }
    }

    /// Shorthand for a specification that cannot be served.
    pub(crate) fn invalid(what: impl Into<String>) -> Self {
        Self::Invalid { what: what.into() }
    }

    /// Shorthand for a field of the specification that has a value which cannot be.
    pub(crate) fn field(path: impl std::fmt::Display, what: impl std::fmt::Display) -> Self {
        Self::Invalid { what: format!("{path}: {what}") }
    }

    /// Shorthand for something that is not there.
    pub(crate) fn unsupported(what: impl Into<String>) -> Self {
        Self::Unsupported { what: what.into() }
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } | Self::UnknownUser { .. } | Self::Exec { .. } => ErrorKind::InvalidInput,
            Self::Unsupported { .. } => ErrorKind::NotServed,
            Self::NotRunning => ErrorKind::Conflict,
            Self::Cgroup(error) => error.kind(),
            Self::Step { source: Errno::PERM | Errno::ACCESS, .. } => ErrorKind::Forbidden,
            Self::Step { source: Errno::NOSPC | Errno::NOMEM | Errno::AGAIN | Errno::MFILE | Errno::NFILE, .. } => ErrorKind::Unavailable,
            Self::Step { .. } | Self::ChildLost { .. } | Self::Hook { .. } => ErrorKind::Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Cgroup(error) => error.hint(),
            Self::Exec { cause: ExecFailure::Errno(Errno::NOEXEC), .. } => {
                Some("the file is no program for this machine: check the image's platform, or the first line of a script".into())
            }
            Self::Step { step, source: Errno::NODEV } if step.contains("overlay") => {
                Some("load the kernel module: modprobe overlay".into())
            }
            _ => None,
        }
    }
}

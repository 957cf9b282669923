//! Making a container and starting it: the public face of the runtime.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::{Result, oci};

/// Everything that a container is made of. [`Launch::new`] fills what is rarely changed.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The container's name towards the kernel (session keyring) and hooks.
    pub id: &'a str,
    /// What to make. `spec.root.path` is not looked at: see `root`.
    pub spec: &'a oci::Spec,
    /// The directory that hooks are told of.
    pub bundle: &'a Path,
    /// The root filesystem.
    pub root: Root,
    /// Namespaces to join by descriptor. They come before what `spec.linux.namespaces` says about the same kind.
    pub namespaces: Namespaces<'a>,
    /// What becomes descriptors 0, 1 and 2.
    pub stdio: Stdio<'a>,
    /// The control group; `None` leaves the container in the caller's.
    pub cgroup: Option<Group<'a>>,
    /// A compiled filter (see [`crate::seccomp::compile`]), in place of compiling `spec.linux.seccomp`, which is still what decides whether there is one
    /// and gives the flags.
    pub seccomp_program: Option<&'a [u8]>,
    /// An init program (an ELF, open, close-on-exec) that is executed in place of the command, with `-- COMMAND ARGUMENTS…` as its arguments.
    pub init: Option<BorrowedFd<'a>>,
    /// Docker's form of the user: `name`, `uid`, `name:group`, `uid:gid`. Looked up in the container's own files; comes before `spec.process.user`.
    pub user: Option<String>,
    /// Additional groups, by name or number, looked up in the container.
    pub additional_groups: Vec<String>,
    /// How many descriptors from 3 up the program inherits.
    pub preserve_fds: u32,
    /// Where the child waits for its start; `None` is the usual in-process way.
    pub gate: Option<Gate<'a>>,
}

impl<'a> Launch<'a> {
    /// A launch of `spec` on `root` with the given standard streams, and nothing else.
    pub fn new(id: &'a str, spec: &'a oci::Spec, root: Root, stdio: Stdio<'a>) -> Self {
        Self {
            id,
            spec,
            bundle: Path::new("/"),
            root,
            namespaces: Namespaces::default(),
            stdio,
            cgroup: None,
            seccomp_program: None,
            init: None,
            user: None,
            additional_groups: Vec::new(),
            preserve_fds: 0,
            gate: None,
        }
    }
}

/// The root filesystem.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Root {
    /// A directory.
    Path(PathBuf),
    /// An overlay, mounted for this container with `index=off,redirect_dir=off,metacopy=off`.
    Overlay {
        /// Read-only layers, the topmost first.
        lower: Vec<PathBuf>,
        /// The read/write layer.
        upper: PathBuf,
        /// Scratch space on the filesystem of `upper`.
        work: PathBuf,
        /// Nothing is synced: a crash of the machine loses `upper`.
        volatile: bool,
    },
}

/// Namespaces to join, by descriptor.
#[derive(Debug, Clone, Copy, Default)]
pub struct Namespaces<'a> {
    /// Network.
    pub net: Option<BorrowedFd<'a>>,
    /// IPC.
    pub ipc: Option<BorrowedFd<'a>>,
    /// Host name.
    pub uts: Option<BorrowedFd<'a>>,
    /// Process numbers.
    pub pid: Option<BorrowedFd<'a>>,
    /// Control groups.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// Clocks.
    pub time: Option<BorrowedFd<'a>>,
    /// Users.
    pub user: Option<BorrowedFd<'a>>,
}

/// Standard streams.
#[derive(Debug, Clone, Copy)]
pub enum Stdio<'a> {
    /// Open descriptors.
    Fds {
        /// Becomes 0.
        stdin: BorrowedFd<'a>,
        /// Becomes 1.
        stdout: BorrowedFd<'a>,
        /// Becomes 2.
        stderr: BorrowedFd<'a>,
    },
    /// A new terminal of the container's own devpts instance; its master is handed back.
    Tty {
        /// Rows and columns.
        size: Option<(u16, u16)>,
    },
}

/// Where the container's processes are counted and limited.
#[derive(Debug, Clone, Copy)]
pub struct Group<'a> {
    /// The machine's hierarchies.
    pub system: &'a cgroup::System,
    /// The group's path in each of them, `ROOT/ID`. Its limits are `spec.linux.resources`.
    pub path: &'a Path,
}

/// A start that another process will give, through two FIFOs (or socket ends) which the caller opened read-write.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The child waits until it can read a byte here.
    pub start: BorrowedFd<'a>,
    /// The child writes here why its program could not be executed; it is closed when the program runs.
    pub outcome: BorrowedFd<'a>,
}

/// A container whose first process waits for its start. Dropping it kills the process and reaps it.
#[derive(Debug)]
pub struct Created {
    /// The first process, in the caller's pid namespace.
    pub pid: Pid,
    /// Its descriptor, close-on-exec.
    pub pidfd: OwnedFd,
    /// The terminal's master with [`Stdio::Tty`].
    pub tty_master: Option<OwnedFd>,
    /// The control group, made and limited.
    pub group: Option<cgroup::Group>,
}

/// A process whose program runs. The caller is its parent and reaps it.
#[derive(Debug)]
pub struct Running {
    /// Its number in the caller's pid namespace.
    pub pid: Pid,
    /// Its descriptor, close-on-exec: readable when it has ended.
    pub pidfd: OwnedFd,
    /// The terminal's master with [`Stdio::Tty`].
    pub tty_master: Option<OwnedFd>,
    /// The control group of a container; `None` for an exec.
    pub group: Option<cgroup::Group>,
}

impl Created {
    /// Lets the first process execute its program, and waits until it has (poststart hooks included).
    ///
    /// # Errors
    /// What kept the program from being executed: [`crate::Error::exit_code`] tells 126 from 127. The process is gone and reaped then, and the control
    /// group removed.
    pub fn start(self) -> Result<Running> {
        todo!()
    }
}

/// Makes a container up to the point where its program would be executed. The calling process must have one thread, and becomes the parent.
///
/// # Errors
/// The step that failed. Nothing is left behind then: no process, mount or control group.
pub fn create(launch: &Launch<'_>) -> Result<Created> {
    todo!()
}

/// Runs the `poststop` hooks of a container that has ended; failures are collected, every hook is run.
pub fn after_stop(spec: &oci::Spec, id: &str, bundle: &Path) -> Vec<crate::Error> {
    todo!()
}

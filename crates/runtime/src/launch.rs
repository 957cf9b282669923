//! Making a container and starting it: the public face of the runtime.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kernel::fork::namespace;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, waitid};

use crate::child::{self, Context};
use crate::control::{Channel, Message};
use crate::plan::{self, Given, Plan};
use crate::source::Sources;
use crate::{Error, Result, hook, oci, spaces};

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
    /// A mount, attached nowhere yet, that goes over `/run/secrets` when all else is mounted.
    pub secrets: Option<BorrowedFd<'a>>,
    /// How many descriptors from 3 up the program inherits.
    pub preserve_fds: u32,
    /// The first process is killed when the calling thread ends: for a caller without which nobody would look after the container.
    pub die_with_caller: bool,
    /// The root is not pivoted to but covers the host's, and a chroot hides that: a weaker barrier, for hosts that run from their initial ramdisk.
    pub no_pivot: bool,
    /// The container keeps the caller's session keyring.
    pub keep_keyring: bool,
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
            secrets: None,
            preserve_fds: 0,
            die_with_caller: false,
            no_pivot: false,
            keep_keyring: false,
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
        /// Nothing is synced: a crash of the machine loses `upper`. The same `upper` may be mounted so again while the machine has not crashed.
        volatile: bool,
        /// Files of all layers, the read/write one included, have the ids on disk that the container sees: they are mapped through its user
        /// namespace, so that layers are shared with containers that have other maps or none. Needs a user namespace, Linux 5.19, and `upper` and
        /// `work` side by side.
        idmap: bool,
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

/// A container whose first process waits for its start. When this is dropped the process ends by itself, and the caller still has to reap it.
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
    channel: Channel,
    after_start: Option<StartHooks>,
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
    /// What kept the program from being executed: [`Error::exit_code`] tells 126 from 127. The process is gone and reaped then, and the control
    /// group removed.
    pub fn start(self) -> Result<Running> {
        let Self { pid, pidfd, tty_master, group, channel, after_start } = self;
        let outcome = channel.send(&Message::Start).and_then(|()| channel.receive());
        let result = match outcome {
            Ok(Message::End) => after_start.map_or(Ok(()), |hooks| hooks.run(pid)),
            Ok(Message::Failed(error)) => Err(error),
            Ok(_) | Err(Errno::PIPE) => Err(Error::ChildLost { stage: "execute its program".into() }),
            Err(errno) => Err(Error::step("start the container")(errno)),
        };
        match result {
            Ok(()) => Ok(Running { pid, pidfd, tty_master, group }),
            Err(error) => {
                discard(pidfd.as_fd(), group.as_ref());
                Err(error)
            }
        }
    }

    /// Gives the process up to whoever holds its gate ([`Launch::gate`]): it goes on waiting when the caller has gone.
    pub fn leave(self) -> (Pid, OwnedFd, Option<cgroup::Group>) {
        (self.pid, self.pidfd, self.group)
    }
}

/// Makes a container up to the point where its program would be executed. The calling process must have one thread, and becomes the parent.
///
/// # Errors
/// The step that failed. Nothing is left behind then: no process, mount or control group.
pub fn create(launch: &Launch<'_>) -> Result<Created> {
    let plan = plan::plan(launch.spec, &given(launch))?;
    let sources = Sources::open(launch, &plan)?;
    let (ours, theirs) = Channel::pair()?;
    let group = make_group(launch)?;
    let made = fork_child(launch, &plan, &sources, group.as_ref(), &ours, &theirs);
    drop(theirs);
    let child = match made {
        Ok(child) => child,
        Err(error) => {
            if let Some(group) = &group {
                // The first failure is what the caller needs to hear.
                let _ = group.remove();
            }
            return Err(error);
        }
    };
    match await_ready(launch, &plan, &ours, child.pid) {
        Ok(tty_master) => {
            let after_start = StartHooks::of(launch);
            Ok(Created { pid: child.pid, pidfd: child.pidfd, tty_master, group, channel: ours, after_start })
        }
        Err(error) => {
            discard(child.pidfd.as_fd(), group.as_ref());
            Err(error)
        }
    }
}

/// Runs the `poststop` hooks of a container that has ended; failures are collected, every hook is run.
pub fn after_stop(spec: &oci::Spec, id: &str, bundle: &Path) -> Vec<Error> {
    let state = hook::State { id, bundle, annotations: &spec.annotations, status: "stopped", pid: None };
    spec.hooks.poststop.iter().filter_map(|one| hook::run("poststop", one, &state).err()).collect()
}

/// The poststart hooks, kept until the start.
#[derive(Debug)]
pub(crate) struct StartHooks {
    hooks: Vec<oci::Hook>,
    id: String,
    bundle: PathBuf,
    annotations: std::collections::BTreeMap<String, String>,
}

impl StartHooks {
    fn of(launch: &Launch<'_>) -> Option<Self> {
        let hooks = launch.spec.hooks.poststart.clone();
        let keep = || Self { hooks, id: launch.id.into(), bundle: launch.bundle.into(), annotations: launch.spec.annotations.clone() };
        (!launch.spec.hooks.poststart.is_empty()).then(keep)
    }

    fn run(&self, pid: Pid) -> Result<()> {
        let state = hook::State { id: &self.id, bundle: &self.bundle, annotations: &self.annotations, status: "running", pid: Some(pid) };
        self.hooks.iter().try_for_each(|one| hook::run("poststart", one, &state))
    }
}

fn given(launch: &Launch<'_>) -> Given {
    let namespaces = launch.namespaces.each().map(|(flag, _)| flag).sum();
    Given { namespaces, terminal: matches!(launch.stdio, Stdio::Tty { .. }) }
}

impl<'a> Namespaces<'a> {
    /// The given ones, with their kind.
    pub(crate) fn each(&self) -> impl Iterator<Item = (u64, BorrowedFd<'a>)> + use<'a> {
        let all = [
            (namespace::USER, self.user),
            (namespace::NET, self.net),
            (namespace::IPC, self.ipc),
            (namespace::UTS, self.uts),
            (namespace::PID, self.pid),
            (namespace::TIME, self.time),
            (namespace::CGROUP, self.cgroup),
        ];
        all.into_iter().filter_map(|(flag, fd)| fd.map(|fd| (flag, fd)))
    }
}

fn make_group(launch: &Launch<'_>) -> Result<Option<cgroup::Group>> {
    let Some(wanted) = launch.cgroup else { return Ok(None) };
    let limits = launch.spec.linux.resources.as_ref().map(crate::resources::limits).transpose()?;
    let group = cgroup::Group::create(wanted.system, wanted.path)?;
    if let Some(Err(error)) = limits.map(|limits| group.set(&limits)) {
        let _ = group.remove();
        return Err(error.into());
    }
    Ok(Some(group))
}

/// Forks the child in its namespaces; it never returns from here.
fn fork_child(
    launch: &Launch<'_>,
    plan: &Plan,
    sources: &Sources<'_>,
    group: Option<&cgroup::Group>,
    ours: &Channel,
    theirs: &Channel,
) -> Result<kernel::fork::Child> {
    let binds = sources.group_binds(launch, plan, group)?;
    let into = group.map(cgroup::Group::directory).transpose()?.flatten();
    let body = || {
        let context = Context { launch, plan, sources, binds: &binds, group, channel: theirs };
        child::run(&context, ours.as_fd())
    };
    let (joined, into) = (sources.joined_by_caller(plan), into.as_ref().map(AsFd::as_fd));
    if plan.joins_users {
        return spaces::fork_beyond(&joined, plan.new_namespaces, into, body);
    }
    spaces::in_joined(&joined, || {
        kernel::fork::fork(plan.new_namespaces, into, body).map_err(Error::step("make a process in new namespaces"))
    })
}

/// Serves the child until it has set everything up.
fn await_ready(launch: &Launch<'_>, plan: &Plan, channel: &Channel, pid: Pid) -> Result<Option<OwnedFd>> {
    if let Some(maps) = &plan.ids {
        spaces::write_maps(pid, maps)?;
        channel.send(&Message::Mapped).map_err(Error::step("speak to the container's first process"))?;
    }
    loop {
        match channel.receive().map_err(Error::step("listen to the container's first process"))? {
            Message::Ready(tty_master) => return Ok(tty_master),
            Message::Hooks => {
                let state = hook::State {
                    id: launch.id,
                    bundle: launch.bundle,
                    annotations: &launch.spec.annotations,
                    status: "creating",
                    pid: Some(pid),
                };
                let hooks = &launch.spec.hooks;
                hooks.prestart.iter().try_for_each(|one| hook::run("prestart", one, &state))?;
                hooks.create_runtime.iter().try_for_each(|one| hook::run("createRuntime", one, &state))?;
                channel.send(&Message::HooksDone).map_err(Error::step("speak to the container's first process"))?;
            }
            Message::Failed(error) => return Err(error),
            _ => return Err(Error::ChildLost { stage: "set the container up".into() }),
        }
    }
}

/// Ends and reaps a child whose container failed, and removes its group.
pub(crate) fn discard(pidfd: BorrowedFd<'_>, group: Option<&cgroup::Group>) {
    // It may have ended by itself already.
    let _ = rustix::process::pidfd_send_signal(pidfd, Signal::KILL);
    let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED));
    if let Some(group) = group {
        let _ = group.remove();
    }
}

//! A further process in a running container.

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::fork::namespace;
use kernel::seccomp::Instruction;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Pid, Signal};

use crate::child::{self, Terminal, open_terminal, process};
use crate::control::{Channel, Message};
use crate::launch::discard;
use crate::listener::{Listener, number_outside};
use crate::plan::{self, ProcessPlan};
use crate::{Error, Result, Running, Stdio, hook, oci, path, source, spaces};

/// What statfs(2) says of a devpts.
const DEVPTS_SUPER_MAGIC: rustix::fs::FsWord = 0x1cd1;

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
    /// The container's name, for whoever a filter asks.
    pub id: String,
}

/// Runs `process` in the target's namespaces and control group. Returns when its program runs; the caller is its parent and reaps it.
///
/// # Errors
/// What kept the program from being executed; the process is gone and reaped then.
pub fn exec(target: &ExecTarget<'_>, process: &oci::Process, stdio: Stdio<'_>, joining: &Joining) -> Result<Running> {
    let mut entering = begin(target, process, stdio, joining)?;
    loop {
        match entering.proceed() {
            Progress::Entering(still) => entering = still,
            Progress::Running(running) => return Ok(running),
            Progress::Failed { error, pidfd, .. } => {
                discard(pidfd.as_fd(), None);
                return Err(error);
            }
        }
    }
}

/// A process on its way into a container, where it is seen by the container's own processes: they can stop it for as long as they like, so that
/// a caller with anything else to do must not wait for it. When its descriptor is readable there is something to [`Entering::proceed`] with.
#[derive(Debug)]
pub struct Entering {
    child: kernel::fork::Child,
    channel: Channel,
    tty_master: Option<OwnedFd>,
}

/// How far it is.
#[derive(Debug)]
pub enum Progress {
    /// Still under way.
    Entering(Entering),
    /// Its program runs, or it was killed on the way. The caller reaps it.
    Running(Running),
    /// It ends, for this reason. The caller reaps it.
    Failed {
        /// What kept the program from being executed.
        error: Error,
        /// Its number in the caller's pid namespace.
        pid: Pid,
        /// Its descriptor.
        pidfd: OwnedFd,
    },
}

/// The beginning of [`exec()`]: the process is made, and nothing is waited for.
///
/// # Errors
/// What kept the process from being made.
pub fn begin(target: &ExecTarget<'_>, process: &oci::Process, stdio: Stdio<'_>, joining: &Joining) -> Result<Entering> {
    let plan = plan::process(process, &target.spec.linux)?;
    let profile = target.spec.linux.seccomp.as_ref().filter(|_| !joining.unconfined);
    let program = source::filter(profile, target.seccomp_program)?;
    let listener = Listener::connect(profile)?;
    let (ours, theirs) = Channel::pair()?;
    let into = target.group.map(cgroup::Group::directory).transpose()?.flatten();
    let entry =
        Entry { target, process, plan: &plan, program: program.as_deref(), listener: listener.as_ref(), stdio, joining, channel: &theirs };
    // The pid namespace takes children only: the caller steps in for the fork, and back.
    let child = spaces::in_joined(&[(namespace::PID, target.pidfd)], || {
        let body = || entry.run(ours.as_fd());
        kernel::fork::fork(0, into.as_ref().map(AsFd::as_fd), body).map_err(Error::step("make a process in the container"))
    })
    .map_err(gone)?;
    Ok(Entering { child, channel: ours, tty_master: None })
}

impl Entering {
    /// Takes the next word of the process, and waits for it if there is none.
    pub fn proceed(mut self) -> Progress {
        let error = match self.channel.receive() {
            Ok(Message::Ready(master)) => {
                self.tty_master = master;
                return Progress::Entering(self);
            }
            Ok(Message::End) => {
                let Self { child, tty_master, .. } = self;
                return Progress::Running(Running { pid: child.pid, pidfd: child.pidfd, tty_master, group: None });
            }
            Ok(Message::Failed(error)) => error,
            Ok(_) => Error::ChildLost { stage: "execute its program".into() },
            Err(errno) => Error::step("listen to the process in the container")(errno),
        };
        Progress::Failed { error: gone(error), pid: self.child.pid, pidfd: self.child.pidfd }
    }

    /// Gives it up: it is killed, and soon proceeds to its end.
    pub fn kill(&self) {
        // It may have ended by itself already.
        let _ = rustix::process::pidfd_send_signal(&self.child.pidfd, Signal::KILL);
    }
}

impl AsFd for Entering {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// A container whose first process has ended cannot be entered, in whichever step the kernel notices.
fn gone(error: Error) -> Error {
    match error {
        Error::Step { source: Errno::SRCH, .. } => Error::NotRunning,
        Error::Step { step, source: Errno::NOMEM } if step.contains("make a process") => Error::NotRunning,
        other => other,
    }
}

/// What the child needs to know.
struct Entry<'a> {
    target: &'a ExecTarget<'a>,
    process: &'a oci::Process,
    plan: &'a ProcessPlan,
    program: Option<&'a [Instruction]>,
    listener: Option<&'a Listener>,
    stdio: Stdio<'a>,
    joining: &'a Joining,
    channel: &'a Channel,
}

impl Entry<'_> {
    fn run(&self, callers_end: BorrowedFd<'_>) -> i32 {
        let Err(error) = self.enter(callers_end);
        // A caller that has gone does not want to know.
        let _ = self.channel.send(&Message::Failed(error));
        1
    }

    fn enter(&self, callers_end: BorrowedFd<'_>) -> Result<Infallible> {
        kernel::fork::close(callers_end.as_raw_fd());
        self.close_the_rest();
        kernel::fork::close_on_exec_from(3).map_err(Error::step("mark descriptors close-on-exec"))?;
        kernel::fork::reset_signals();
        if let Some(value) = self.process.oom_score_adj {
            spaces::write("/proc/self/oom_score_adj", &value.to_string()).map_err(Error::step(format!("set oom_score_adj to {value}")))?;
        }
        let asked = self.listener.map(|listener| self.announcement(listener).map(|said| (listener, said))).transpose()?;
        process::choose_cpus(&self.plan.schedule.cpus_initial)?;
        if let Some(group) = self.target.group {
            group.join_self(false)?;
        }
        process::choose_cpus(&self.plan.schedule.cpus_final)?;
        // From here on the container's processes could look into this one, if it were dumpable.
        rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::step("hide from debuggers"))?;
        rustix::process::setsid().map_err(Error::step("make a session"))?;
        child::new_keyring("exec");
        kernel::ns::join(self.target.pidfd, self.namespaces()?).map_err(Error::step("join the container's namespaces"))?;
        let user_namespace = self.has_namespace("user");
        if user_namespace {
            kernel::caps::set_ids(0, 0, Some(&[])).map_err(Error::step("become root of the user namespace"))?;
        }
        let root = open(c"/", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(Error::step("open the container's root"))?;
        let credentials = child::lookup(root.as_fd(), &self.plan.user, self.joining.user.as_deref(), &self.joining.additional_groups)?;
        let terminal = match self.stdio {
            Stdio::Tty { size } => Some(terminal(root.as_fd(), size)?),
            Stdio::Fds { .. } => None,
        };
        if let Some(master) = child::streams(self.stdio, terminal, credentials.choice.uid)? {
            self.channel.send(&Message::Ready(Some(master))).map_err(Error::step("hand the terminal over"))?;
        }
        // `become_program` closes whatever is left by number: no owner may be left that would close it a second time.
        drop(root);
        process::prepare(self.plan)?;
        let order = process::Order {
            process: self.plan,
            credentials: &credentials,
            program: self.program,
            init: None,
            preserve_fds: self.joining.preserve_fds,
            die_with_caller: false,
            in_user_namespace: user_namespace,
            listener: asked.as_ref().map(|(listener, message)| (*listener, message.as_slice())),
        };
        process::become_program(&order, &[self.channel.as_fd()])
    }

    /// Closes what the caller has open and this process does not need. Those inside who may trace everything can see it from its birth.
    fn close_the_rest(&self) {
        let mut kept = vec![self.channel.as_fd().as_raw_fd(), self.target.pidfd.as_raw_fd()];
        kept.extend(self.listener.map(|listener| listener.socket.as_raw_fd()));
        if let Stdio::Fds { stdin, stdout, stderr } = self.stdio {
            kept.extend([stdin, stdout, stderr].map(|fd| fd.as_raw_fd()));
        }
        kernel::fork::close_all_but(3 + self.joining.preserve_fds, &mut kept);
    }

    fn announcement(&self, listener: &Listener) -> Result<Vec<u8>> {
        let annotations = &self.target.spec.annotations;
        let state = hook::State {
            id: self.joining.id.as_str(),
            bundle: Path::new("/"),
            annotations,
            status: "running",
            pid: Some(self.target.pid),
        };
        Ok(listener.message(number_outside()?, &state))
    }

    fn has_namespace(&self, kind: &str) -> bool {
        self.target.spec.linux.namespaces.iter().any(|namespace| namespace.kind == kind)
    }

    /// Joining a namespace one is in already does no harm, users aside; and kernels may lack time namespaces.
    fn namespaces(&self) -> Result<u64> {
        let always = namespace::MOUNT | namespace::NET | namespace::IPC | namespace::UTS | namespace::CGROUP | namespace::PID;
        let optional = [("user", namespace::USER), ("time", namespace::TIME)];
        Ok(optional.iter().filter(|(kind, _)| self.has_namespace(kind)).fold(always, |flags, (_, flag)| flags | flag))
    }
}

/// A terminal of the container's devpts. Whatever lies at that path now, it has to be a devpts and its multiplexer.
fn terminal(root: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<Terminal> {
    let fail = || Error::step("open /dev/pts of the container");
    let pts = path::open_in(root, Path::new("/dev/pts"), OFlags::PATH | OFlags::DIRECTORY).map_err(fail())?;
    if rustix::fs::fstatfs(&pts).map_err(fail())?.f_type != DEVPTS_SUPER_MAGIC {
        return Err(Error::invalid("a terminal is wanted, but the container has no devpts on /dev/pts"));
    }
    open_terminal(pts.as_fd(), "ptmx", size)
}

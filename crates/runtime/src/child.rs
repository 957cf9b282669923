//! The child's side: everything between clone3 and execve, in the order in which it is done.

mod copy_up;
mod dev;
mod mounts;
pub(crate) mod process;
mod protect;

pub(crate) use dev::{Terminal, open_terminal};

use std::convert::Infallible;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::fork::namespace;
use kernel::mount::{Change, Propagation};
use rustix::fs::{Mode, OFlags};
use rustix::mount::{MoveMountFlags, UnmountFlags, move_mount, unmount};
use rustix::process::DumpableBehavior;

use crate::control::{Channel, Message, encode};
use crate::launch::{Launch, Stdio};
use crate::listener::{Listener, number_outside};
use crate::plan::{Plan, UserChoice};
use crate::source::{GroupBinds, Sources};
use crate::{Error, Result, hook, path, spaces, user};

/// What the child needs to know.
pub(crate) struct Context<'a> {
    pub(crate) launch: &'a Launch<'a>,
    pub(crate) plan: &'a Plan,
    pub(crate) sources: &'a Sources<'a>,
    pub(crate) binds: &'a GroupBinds,
    pub(crate) group: Option<&'a cgroup::Group>,
    pub(crate) channel: &'a Channel,
}

/// Exit code of a child that could not execute its program; the caller learns the reason from the message, not from here.
const EXIT_FAILED: i32 = 1;

/// Runs in the new process. Returns only when something failed and was reported.
pub(crate) fn run(context: &Context<'_>, callers_end: BorrowedFd<'_>) -> i32 {
    let Err(error) = carry_out(context, callers_end);
    // A caller that has gone does not want to know.
    let _ = context.channel.send(&Message::Failed(error));
    EXIT_FAILED
}

fn carry_out(context: &Context<'_>, callers_end: BorrowedFd<'_>) -> Result<Infallible> {
    let Context { launch, plan, .. } = *context;
    // Held open here, it would hide the caller's death from the child.
    kernel::fork::close(callers_end.as_raw_fd());
    kernel::fork::close_on_exec_from(3).map_err(Error::step("mark descriptors close-on-exec"))?;
    kernel::fork::reset_signals();
    // What is made from here on has the mode that is asked for.
    rustix::process::umask(Mode::empty());
    let asked =
        context.sources.listener.as_ref().map(|listener| announcement(launch, listener).map(|said| (listener, said))).transpose()?;
    enter(context)?;
    let root = mounts::take_root(context)?;
    if plan.runtime_hooks {
        ask(context.channel, &Message::Hooks)?;
    }
    let made = mounts::mount_all(context, root.as_fd())?;
    if let Some(secrets) = launch.secrets {
        let fail = || Error::step("mount the secrets on /run/secrets");
        let target = path::make_directory(root.as_fd(), Path::new("/run/secrets")).map_err(fail())?;
        attach(secrets, target.as_fd()).map_err(fail())?;
    }
    let terminal = dev::fill(context, root.as_fd(), &made)?;
    names_and_sysctls(plan, &made)?;
    if plan.child_hooks {
        let state = hook_state(launch, "created");
        launch.spec.hooks.create_container.iter().try_for_each(|one| hook::run("createContainer", one, &state))?;
    }
    path::make_directory(root.as_fd(), &plan.process.cwd)
        .map_err(Error::step(format!("make the working directory {}", plan.process.cwd.display())))?;
    protect::protect(plan, root.as_fd(), &made)?;
    pivot(plan, root.as_fd(), launch.no_pivot)?;
    let credentials = credentials(context, root.as_fd())?;
    let master = streams(launch.stdio, terminal, credentials.choice.uid)?;
    // `become_program` closes whatever is left by number: no owner may be left that would close it a second time.
    drop((made, root));
    process::prepare(&plan.process)?;
    if launch.gate.is_some() {
        // Whoever gives the start by another command hears no more than that it failed, so what can be known before is told now.
        process::look_for(&plan.process)?;
    }
    wait_for_start(context, master)?;
    if !launch.spec.hooks.start_container.is_empty() {
        let state = hook_state(launch, "created");
        launch.spec.hooks.start_container.iter().try_for_each(|one| hook::run("startContainer", one, &state))?;
    }
    let order = process::Order {
        process: &plan.process,
        credentials: &credentials,
        program: context.sources.program.as_deref(),
        init: launch.init,
        preserve_fds: launch.preserve_fds,
        die_with_caller: launch.die_with_caller,
        in_user_namespace: plan.in_user_namespace(),
        listener: asked.as_ref().map(|(listener, message)| (*listener, message.as_slice())),
    };
    let result =
        process::become_program(&order, &[context.channel.as_fd(), launch.gate.map_or(context.channel.as_fd(), |gate| gate.outcome)]);
    if let (Err(error), Some(gate)) = (&result, launch.gate) {
        // A reader that has gone does not want to know.
        let _ = rustix::io::write(gate.outcome, &encode(error));
    }
    result
}

fn announcement(launch: &Launch<'_>, listener: &Listener) -> Result<Vec<u8>> {
    let number = number_outside()?;
    let state = hook::State { pid: rustix::process::Pid::from_raw(number), ..hook_state(launch, "creating") };
    Ok(listener.message(number, &state))
}

fn hook_state<'a>(launch: &'a Launch<'a>, status: &'static str) -> hook::State<'a> {
    let pid = Some(rustix::process::getpid());
    hook::State { id: launch.id, bundle: launch.bundle, annotations: &launch.spec.annotations, status, pid }
}

/// Sends a message and waits for the answer.
fn ask(channel: &Channel, message: &Message) -> Result<()> {
    channel.send(message).map_err(Error::step("speak to the runtime"))?;
    match channel.receive().map_err(Error::step("listen to the runtime"))? {
        Message::End => Err(Error::ChildLost { stage: "go on: the runtime has gone".into() }),
        _ => Ok(()),
    }
}

/// Control groups, namespaces, session.
fn enter(context: &Context<'_>) -> Result<()> {
    let Context { launch, plan, sources, .. } = *context;
    if let Some(value) = plan.oom_score_adj {
        spaces::write("/proc/self/oom_score_adj", &value.to_string()).map_err(Error::step(format!("set oom_score_adj to {value}")))?;
    }
    if let Some(group) = context.group {
        group.join_self(false)?;
    }
    if plan.ids.is_some() && !matches!(context.channel.receive().map_err(Error::step("listen to the runtime"))?, Message::Mapped) {
        return Err(Error::ChildLost { stage: "get its id maps".into() });
    }
    for (flag, fd) in sources.joined_by_child(plan) {
        spaces::join(fd, flag)?;
    }
    if plan.late_namespaces & namespace::CGROUP != 0 {
        kernel::ns::unshare(namespace::CGROUP).map_err(Error::step("make a cgroup namespace"))?;
    }
    if plan.late_namespaces & namespace::TIME != 0 {
        spaces::enter_new_time(&plan.time_offsets)?;
    }
    rustix::process::setsid().map_err(Error::step("make a session"))?;
    if !launch.keep_keyring {
        new_keyring(launch.id);
    }
    if plan.in_user_namespace() {
        kernel::caps::set_ids(0, 0, Some(&[])).map_err(Error::step("become root of the user namespace"))?;
    }
    // Where a pid namespace is shared, its other processes could look into this one until it executes its program, if it were dumpable.
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::step("hide from debuggers"))
}

/// Keys of the caller's session are none of the container's business. Kernels without keyrings have none to hide, and a spent quota must not keep a
/// container from starting: the kernel then has no session keyring to hand on beyond the user's own.
pub(crate) fn new_keyring(id: &str) {
    if let Ok(name) = std::ffi::CString::new(format!("_ses.{id}")) {
        let _ = kernel::keyring::join_new_session(&name);
    }
}

fn names_and_sysctls(plan: &Plan, made: &mounts::Made) -> Result<()> {
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes()).map_err(Error::step(format!("set the host name {name:?}")))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes()).map_err(Error::step(format!("set the domain name {name:?}")))?;
    }
    for (relative, value) in &plan.sysctls {
        let fail = || Error::step(format!("set the sysctl {} to {value:?}", relative.display()));
        let proc = made.proc.as_ref().ok_or_else(|| Error::invalid("sysctls are given, but no proc filesystem on /proc"))?;
        let file = path::open_plain(proc.as_fd(), &Path::new("sys").join(relative), OFlags::WRONLY).map_err(fail())?;
        rustix::io::write(&file, value.as_bytes()).map_err(fail())?;
    }
    Ok(())
}

/// Makes the new root the root of the mount namespace, and lets go of the old one.
fn pivot(plan: &Plan, root: BorrowedFd<'_>, no_pivot: bool) -> Result<()> {
    rustix::process::fchdir(root).map_err(Error::step("enter the root filesystem"))?;
    match if no_pivot { Err(rustix::io::Errno::INVAL) } else { rustix::process::pivot_root(c".", c".") } {
        Ok(()) => unmount(c".", UnmountFlags::DETACH).map_err(Error::step("let go of the host's root filesystem"))?,
        // Not wanted, or the host runs from its initial ramdisk, which pivot_root does not move: the new root covers it, and a chroot hides it.
        Err(rustix::io::Errno::INVAL) => rustix::process::chroot(c".").map_err(Error::step("change the root directory"))?,
        Err(errno) => return Err(Error::step("make the root filesystem the root")(errno)),
    }
    rustix::process::chdir(c"/").map_err(Error::step("enter the root directory"))?;
    if plan.propagation != Propagation::Private {
        let change = Change { propagation: Some(plan.propagation), recursive: true, ..Change::default() };
        kernel::mount::change_path(c"/", &change).map_err(Error::step("set the propagation of the root filesystem"))?;
    }
    Ok(())
}

/// The user, looked up in the container where it was given by name.
fn credentials(context: &Context<'_>, root: BorrowedFd<'_>) -> Result<process::Credentials> {
    lookup(root, &context.plan.process.user, context.launch.user.as_deref(), &context.launch.additional_groups)
}

/// The user as Docker's form names it, or else as the specification numbers it.
pub(crate) fn lookup(root: BorrowedFd<'_>, choice: &UserChoice, name: Option<&str>, additional: &[String]) -> Result<process::Credentials> {
    if name.is_none() && additional.is_empty() {
        return Ok(process::Credentials { home: user::home_of(root, choice.uid), choice: choice.clone() });
    }
    let numeric = format!("{}:{}", choice.uid, choice.gid);
    let found = user::resolve(root, name.unwrap_or(&numeric), additional)?;
    Ok(process::Credentials { choice: UserChoice { uid: found.uid, gid: found.gid, groups: found.groups }, home: found.home })
}

/// Puts the standard streams in place; gives back the terminal's master.
pub(crate) fn streams(stdio: Stdio<'_>, terminal: Option<Terminal>, uid: u32) -> Result<Option<OwnedFd>> {
    let place = |fd: BorrowedFd<'_>, number| kernel::fork::place_descriptor(fd, number).map_err(Error::step("set up the standard streams"));
    match (stdio, terminal) {
        (Stdio::Tty { .. }, Some(terminal)) => {
            kernel::pty::make_controlling(terminal.peer.as_fd()).map_err(Error::step("make the terminal the controlling one"))?;
            own_stream(terminal.peer.as_fd(), uid);
            (0..=2).try_for_each(|number| place(terminal.peer.as_fd(), number))?;
            Ok(Some(terminal.master))
        }
        (Stdio::Fds { stdin, stdout, stderr }, _) => {
            let lifted = [stdin, stdout, stderr]
                .map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(Error::step("set up the standard streams")));
            for (number, fd) in lifted.into_iter().enumerate() {
                let fd = fd?;
                own_stream(fd.as_fd(), uid);
                place(fd.as_fd(), number as i32)?;
            }
            Ok(None)
        }
        (Stdio::Tty { .. }, None) => Err(Error::invalid("a terminal is wanted, but the container has no devpts on /dev/pts")),
    }
}

/// Lets the container's user reopen its own streams (`/dev/stdout`). What cannot change its owner (/dev/null, sockets, files of others) stays as it is.
fn own_stream(fd: BorrowedFd<'_>, uid: u32) {
    use rustix::fs::{FileType, Uid, fchown, fstat};
    let Ok(stat) = fstat(fd) else { return };
    let kind = FileType::from_raw_mode(stat.st_mode);
    let terminal = kind == FileType::CharacterDevice && rustix::termios::isatty(fd);
    if stat.st_uid != uid && (kind == FileType::Fifo || terminal) {
        let _ = fchown(fd, Some(Uid::from_raw(uid)), None);
    }
}

/// Tells the caller that all is set up, and waits.
fn wait_for_start(context: &Context<'_>, master: Option<OwnedFd>) -> Result<()> {
    let message = Message::Ready(master);
    let Some(gate) = context.launch.gate else { return ask(context.channel, &message) };
    context.channel.send(&message).map_err(Error::step("speak to the runtime"))?;
    let mut byte = [0u8; 1];
    match rustix::io::retry_on_intr(|| rustix::io::read(gate.start, &mut byte)).map_err(Error::step("wait for the start"))? {
        0 => Err(Error::ChildLost { stage: "be started".into() }),
        _ => Ok(()),
    }
}

/// Attaches a detached mount to an open directory or file.
pub(crate) fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> std::result::Result<(), rustix::io::Errno> {
    move_mount(mount, c"", target, c"", MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH)
}

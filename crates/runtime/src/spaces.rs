//! Namespaces: joining those that the caller has to be in while it forks, and the id maps of a new user namespace.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use kernel::fork::namespace;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::{DumpableBehavior, Pid, WaitId, WaitIdOptions, set_dumpable_behavior, waitid};

use crate::control::{Channel, Message};
use crate::plan::IdMaps;
use crate::{Error, Result};

/// The name of a kind of namespace below `/proc/PID/ns`, as a child is put into it.
fn link_name(flag: u64) -> &'static str {
    match flag {
        namespace::CGROUP => "cgroup",
        namespace::IPC => "ipc",
        namespace::NET => "net",
        namespace::PID => "pid",
        namespace::TIME => "time",
        namespace::USER => "user",
        namespace::UTS => "uts",
        _ => "mnt",
    }
}

/// Runs `body` with the calling thread (for pid namespaces: its later children) in the namespaces of `joined`, then goes back.
pub(crate) fn in_joined<T>(joined: &[(u64, BorrowedFd<'_>)], body: impl FnOnce() -> Result<T>) -> Result<T> {
    let mut own: Vec<(u64, OwnedFd)> = Vec::with_capacity(joined.len());
    let entered = joined.iter().try_for_each(|&(flag, fd)| {
        let path = format!("/proc/thread-self/ns/{}", link_name(flag));
        let before = open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::step(format!("open {path}")))?;
        kernel::ns::join(fd, flag).map_err(Error::step(format!("join the {} namespace", link_name(flag))))?;
        own.push((flag, before));
        Ok(())
    });
    let result = entered.and_then(|()| body());
    for (flag, before) in own.iter().rev() {
        kernel::ns::join(before.as_fd(), *flag).map_err(Error::step(format!("go back to the {} namespace", link_name(*flag))))?;
    }
    result
}

/// Makes the child of [`kernel::fork::fork`] from inside the namespaces of `joined`, a user namespace among them. From there the caller could not come
/// back, so a go-between goes in; the child is the caller's all the same.
pub(crate) fn fork_beyond(
    joined: &[(u64, BorrowedFd<'_>)],
    flags: u64,
    cgroup: Option<BorrowedFd<'_>>,
    body: impl FnOnce() -> i32,
) -> Result<kernel::fork::Child> {
    let (ours, theirs) = Channel::pair()?;
    let go = || -> Result<kernel::fork::Child> {
        // What lives in that user namespace must not look into this process.
        set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(Error::step("hide from debuggers"))?;
        let last = |flag: u64| flag == namespace::USER;
        for &(flag, fd) in joined.iter().filter(|(flag, _)| !last(*flag)).chain(joined.iter().filter(|(flag, _)| last(*flag))) {
            join(fd, flag)?;
        }
        kernel::fork::fork_sibling(flags, cgroup, body).map_err(Error::step("make a process in new namespaces"))
    };
    let between = kernel::fork::fork(0, None, || {
        let message = match go() {
            Ok(child) => Message::Born(child.pid, child.pidfd),
            Err(error) => Message::Failed(error),
        };
        i32::from(theirs.send(&message).is_err())
    })
    .map_err(Error::step("make a process"))?;
    drop(theirs);
    let outcome = ours.receive();
    reap(between.pidfd.as_fd());
    match outcome.map_err(Error::step("listen to a process"))? {
        Message::Born(pid, pidfd) => Ok(kernel::fork::Child { pid, pidfd }),
        Message::Failed(error) => Err(error),
        _ => Err(Error::ChildLost { stage: "be made".into() }),
    }
}

/// A user namespace to map ids through, and whom its root is on the host.
#[derive(Debug)]
pub(crate) struct Users {
    pub(crate) namespace: OwnedFd,
    /// The host's ids of user and group 0, if they are mapped.
    pub(crate) root: Option<(u32, u32)>,
}

impl Users {
    /// A new one with these maps and nothing in it.
    pub(crate) fn with(maps: &IdMaps) -> Result<Self> {
        let root = root_of(&maps.users).zip(root_of(&maps.groups));
        in_held(namespace::USER, None, |pid| {
            write_maps(pid, maps)?;
            let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
            let namespace =
                open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::step(format!("open {path}")))?;
            Ok(Self { namespace, root })
        })
    }

    /// An existing one.
    pub(crate) fn of(user: BorrowedFd<'_>) -> Result<Self> {
        let namespace = rustix::io::fcntl_dupfd_cloexec(user, 3).map_err(Error::step("copy a descriptor"))?;
        // Its maps can be read of what is in it alone.
        in_held(0, Some(user), |pid| {
            let read = |name: &str| std::fs::read_to_string(format!("/proc/{}/{name}", pid.as_raw_nonzero())).unwrap_or_default();
            Ok(Self { namespace, root: root_of(&read("uid_map")).zip(root_of(&read("gid_map"))) })
        })
    }
}

/// What id 0 is on the other side of a map.
fn root_of(map: &str) -> Option<u32> {
    map.lines().find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.next()? == "0").then(|| fields.next()?.parse().ok())?
    })
}

/// Calls `body` with a process that does nothing in new namespaces, or in a user namespace that it joined; then the process ends.
fn in_held<T>(new: u64, joined: Option<BorrowedFd<'_>>, body: impl FnOnce(Pid) -> Result<T>) -> Result<T> {
    let (ours, theirs) = Channel::pair()?;
    let number = ours.as_fd().as_raw_fd();
    let holder = kernel::fork::fork(new, None, || {
        kernel::fork::close(number);
        let entered = set_dumpable_behavior(DumpableBehavior::NotDumpable)
            .map_err(Error::step("hide from debuggers"))
            .and_then(|()| joined.map_or(Ok(()), |fd| join(fd, namespace::USER)));
        let message = entered.map_or_else(Message::Failed, |()| Message::Ready(None));
        // Until the caller has what it wants, or has gone.
        i32::from(theirs.send(&message).is_err() || theirs.receive().is_err())
    })
    .map_err(Error::step("make a process in a user namespace"))?;
    drop(theirs);
    let result = match ours.receive() {
        Ok(Message::Ready(_)) => body(holder.pid),
        Ok(Message::Failed(error)) => Err(error),
        _ => Err(Error::ChildLost { stage: "enter a user namespace".into() }),
    };
    drop(ours);
    reap(holder.pidfd.as_fd());
    result
}

/// Waits for a child that is about to end.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) {
    let _ = rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(pidfd), WaitIdOptions::EXITED));
}

/// Moves the calling process into one namespace for good.
pub(crate) fn join(fd: BorrowedFd<'_>, flag: u64) -> Result<()> {
    kernel::ns::join(fd, flag).map_err(Error::step(format!("join the {} namespace", link_name(flag))))
}

/// Gives the child's new user namespace its maps.
pub(crate) fn write_maps(pid: Pid, maps: &IdMaps) -> Result<()> {
    for (name, text) in [("uid_map", &maps.users), ("gid_map", &maps.groups)] {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        write(&path, text).map_err(Error::step(format!("write the id map {:?} to {path}", text.trim())))?;
    }
    Ok(())
}

/// Puts the calling process, which must have one thread, into a new time namespace with these clock offsets.
pub(crate) fn enter_new_time(offsets: &str) -> Result<()> {
    kernel::ns::unshare(namespace::TIME).map_err(Error::step("make a time namespace"))?;
    if !offsets.is_empty() {
        write("/proc/self/timens_offsets", offsets).map_err(Error::step(format!("set the clock offsets {:?}", offsets.trim())))?;
    }
    let path = c"/proc/self/ns/time_for_children";
    let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(Error::step("open the time namespace"))?;
    join(fd.as_fd(), namespace::TIME)
}

/// Writes a small kernel file at once.
pub(crate) fn write(path: &str, text: &str) -> std::result::Result<(), rustix::io::Errno> {
    let path = CString::new(path).map_err(|_| rustix::io::Errno::INVAL)?;
    let file = open(path.as_c_str(), OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::io::retry_on_intr(|| rustix::io::write(&file, text.as_bytes())).map(drop)
}

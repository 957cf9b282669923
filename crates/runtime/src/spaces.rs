//! Namespaces: joining those that the caller has to be in while it forks, and the id maps of a new user namespace.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use kernel::fork::namespace;
use rustix::fs::{Mode, OFlags, open};
use rustix::process::Pid;

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

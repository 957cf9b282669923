//! Masked and read-only paths, and mounts that become read-only in the end.
//!
//! Paths below /proc and /sys are looked up from the descriptors of the mounts that were made for this container, without following links, so that
//! nothing which another container swaps in a shared directory can redirect them (CVE-2025-31133, CVE-2025-52881).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::mount::{Change, attribute};
use rustix::fs::{FileType, OFlags, fstat};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen, open_tree,
};

use super::attach;
use super::mounts::Made;
use crate::path::{open_in, open_plain};
use crate::plan::Plan;
use crate::{Error, Result};

/// Puts all of it in force.
pub(super) fn protect(plan: &Plan, root: BorrowedFd<'_>, made: &Made) -> Result<()> {
    for path in &plan.readonly {
        if let Some(target) = find(path, root, made)? {
            make_readonly(path, target.as_fd())?;
        }
    }
    mask_all(plan, root, made)?;
    for (name, mount) in &made.readonly {
        set_readonly(mount.as_fd(), name, false)?;
    }
    if plan.readonly_root {
        set_readonly(root, "make the root filesystem read-only", false)?;
    }
    Ok(())
}

/// What is at `path` of the container, if anything.
fn find(path: &Path, root: BorrowedFd<'_>, made: &Made) -> Result<Option<OwnedFd>> {
    let from = |mount: &Option<OwnedFd>, prefix: &str| {
        let rest = path.strip_prefix(prefix).ok().filter(|rest| !rest.as_os_str().is_empty())?;
        Some(open_plain(mount.as_ref()?.as_fd(), rest, OFlags::PATH))
    };
    let found = from(&made.proc, "/proc").or_else(|| from(&made.sys, "/sys")).unwrap_or_else(|| open_in(root, path, OFlags::PATH));
    match found {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(errno) => Err(Error::step(format!("open {} to protect it", path.display()))(errno)),
    }
}

fn clone_of(fd: BorrowedFd<'_>, recursive: bool) -> std::result::Result<OwnedFd, Errno> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(fd, c"", if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags })
}

fn make_readonly(path: &Path, target: BorrowedFd<'_>) -> Result<()> {
    let name = format!("make {} read-only", path.display());
    let mount = clone_of(target, true).map_err(Error::step(name.clone()))?;
    set_readonly(mount.as_fd(), &name, true)?;
    attach(mount.as_fd(), target).map_err(Error::step(name))
}

fn set_readonly(mount: BorrowedFd<'_>, name: &str, recursive: bool) -> Result<()> {
    let change = Change { set: attribute::RDONLY, recursive, ..Change::default() };
    kernel::mount::change(mount, c"", &change).map_err(Error::step(name))
}

/// Covers files with the null device and directories with one empty read-only filesystem.
fn mask_all(plan: &Plan, root: BorrowedFd<'_>, made: &Made) -> Result<()> {
    let mut null = None;
    let mut empty = None;
    for path in &plan.masked {
        let fail = || Error::step(format!("mask {}", path.display()));
        let Some(target) = find(path, root, made)? else { continue };
        let stat = fstat(&target).map_err(fail())?;
        let mount = if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            match &empty {
                None => empty_directory(&mut empty).map_err(fail())?,
                Some(first) => clone_of(AsFd::as_fd(first), false).map_err(fail())?,
            }
        } else {
            if null.is_none() {
                null = Some(null_device(root, made)?);
            }
            let Some(null) = &null else { continue };
            clone_of(null.as_fd(), false).map_err(fail())?
        };
        attach(mount.as_fd(), target.as_fd()).map_err(fail())?;
    }
    Ok(())
}

/// The container's /dev/null, checked to be the null device through the very descriptor that is used.
fn null_device(root: BorrowedFd<'_>, made: &Made) -> Result<OwnedFd> {
    let null = match &made.dev {
        Some(dev) => open_plain(dev.as_fd(), Path::new("null"), OFlags::PATH),
        None => open_in(root, Path::new("/dev/null"), OFlags::PATH),
    };
    let null = null.map_err(Error::step("open /dev/null to mask files with it"))?;
    let stat = fstat(&null).map_err(Error::step("look at /dev/null"))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == rustix::fs::makedev(1, 3) {
        Ok(null)
    } else {
        Err(Error::invalid("/dev/null of the container is not the null device, so nothing can be masked with it"))
    }
}

/// A tmpfs that stays empty. Its first mount is handed out; `kept` is another descriptor of it, for copies once it is attached.
fn empty_directory(kept: &mut Option<OwnedFd>) -> std::result::Result<OwnedFd, Errno> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, value) in [("size", "0"), ("nr_inodes", "1"), ("mode", "755")] {
        fsconfig_set_string(&context, key, value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    let mount = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes | MountAttrFlags::MOUNT_ATTR_NOEXEC)?;
    *kept = Some(rustix::io::fcntl_dupfd_cloexec(&mount, 3)?);
    Ok(mount)
}

//! mount_setattr(2), which `rustix` lacks; the rest of the descriptor-based mount API is in `rustix::mount`.

use std::ffi::CStr;
use std::os::fd::{AsRawFd, BorrowedFd};

use rustix::io::Errno;

use crate::checked;

/// Attributes of mounts, as mount_setattr(2) and fsmount(2) number them.
pub mod attribute {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// Set-user-id bits have no effect.
    pub const NOSUID: u64 = 0x2;
    /// Device nodes cannot be opened.
    pub const NODEV: u64 = 0x4;
    /// Programs cannot be executed.
    pub const NOEXEC: u64 = 0x8;
    /// The field of access-time modes; relatime is 0.
    pub const ATIME: u64 = 0x70;
    /// Access times are never updated.
    pub const NOATIME: u64 = 0x10;
    /// Access times are always updated.
    pub const STRICTATIME: u64 = 0x20;
    /// Access times of directories are not updated.
    pub const NODIRATIME: u64 = 0x80;
    /// Ids are mapped through a user namespace.
    pub const IDMAP: u64 = 0x10_0000;
    /// Symbolic links are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// How mounts made below a mount spread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Propagation {
    /// Neither way.
    Private,
    /// From the peer group to this mount only.
    Slave,
    /// Both ways.
    Shared,
    /// Neither way, and the mount cannot be bound elsewhere.
    Unbindable,
}

/// A change to one mount or to a tree of mounts.
#[derive(Debug, Clone, Copy, Default)]
pub struct Change<'fd> {
    /// Attributes to set (see [`attribute`]).
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// A new propagation.
    pub propagation: Option<Propagation>,
    /// The user namespace for [`attribute::IDMAP`].
    pub user_namespace: Option<BorrowedFd<'fd>>,
    /// Whether every mount below is changed too.
    pub recursive: bool,
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Changes the mount of `mount` (a mount descriptor, or any open file that is the root of one) at `path`, which may be empty.
///
/// # Errors
/// The errno of mount_setattr(2): ENOSYS below Linux 5.12, EINVAL where `mount` is not the root of a mount.
pub fn change(mount: BorrowedFd<'_>, path: &CStr, change: &Change<'_>) -> Result<(), Errno> {
    change_at(mount.as_raw_fd(), path, change)
}

/// The same for a path of the calling process.
///
/// # Errors
/// As [`change`].
pub fn change_path(path: &CStr, change: &Change<'_>) -> Result<(), Errno> {
    change_at(libc::AT_FDCWD, path, change)
}

fn change_at(mount: i32, path: &CStr, change: &Change<'_>) -> Result<(), Errno> {
    const AT_RECURSIVE: i32 = 0x8000;
    let attr = MountAttr {
        set: change.set,
        clear: change.clear,
        propagation: match change.propagation {
            None => 0,
            Some(Propagation::Private) => libc::MS_PRIVATE,
            Some(Propagation::Slave) => libc::MS_SLAVE,
            Some(Propagation::Shared) => libc::MS_SHARED,
            Some(Propagation::Unbindable) => libc::MS_UNBINDABLE,
        },
        userns_fd: change.user_namespace.map_or(0, |fd| fd.as_raw_fd() as u64),
    };
    let recursive = if change.recursive { AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string and `attr` has the size that is given; both outlive the call, and the kernel only reads them.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount,
            path.as_ptr(),
            libc::AT_EMPTY_PATH | libc::AT_SYMLINK_NOFOLLOW | recursive,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    };
    checked(result).map(drop)
}

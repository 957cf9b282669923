//! What a container's own /dev holds: nodes, links, its terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, chownat, fstat, mknodat, openat, symlinkat, unlinkat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::Made;
use super::{Context, attach};
use crate::launch::Stdio;
use crate::path::{make_file, make_parent, open_in, open_plain};
use crate::plan::{DeviceNode, NodeKind};
use crate::{Error, Result};

/// Both ends of a terminal.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(crate) master: OwnedFd,
    pub(crate) peer: OwnedFd,
}

/// Makes nodes and links, and the terminal if one is wanted.
pub(super) fn fill(context: &Context<'_>, root: BorrowedFd<'_>, made: &Made) -> Result<Option<Terminal>> {
    let plan = context.plan;
    for (index, device) in plan.devices.iter().enumerate() {
        match context.sources.devices.get(index) {
            Some(Some(source)) => bind_node(device, source.as_fd(), root)?,
            _ => make_node(device, root, made)?,
        }
    }
    if plan.own_dev {
        let directory = open_in(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY).map_err(Error::step("open /dev"))?;
        for (name, target) in &plan.links {
            link(directory.as_fd(), name, target)?;
        }
    }
    let Stdio::Tty { size } = context.launch.stdio else { return Ok(None) };
    let pts = made.pts.as_ref().ok_or_else(|| Error::invalid("a terminal is wanted, but the container has no devpts on /dev/pts"))?;
    let terminal = open_terminal(pts.as_fd(), "ptmx", size)?;
    if plan.console {
        show_console(root, terminal.peer.as_fd())?;
    }
    Ok(Some(terminal))
}

fn node_type(kind: NodeKind) -> FileType {
    match kind {
        NodeKind::Block => FileType::BlockDevice,
        NodeKind::Char => FileType::CharacterDevice,
        NodeKind::Fifo => FileType::Fifo,
    }
}

fn make_node(device: &DeviceNode, root: BorrowedFd<'_>, made: &Made) -> Result<()> {
    let fail = || Error::step(format!("make the device {}", device.path.display()));
    // The usual case is a name right below the tmpfs that was just made.
    let simple = device.path.strip_prefix("/dev").ok().filter(|rest| rest.components().count() == 1);
    let (parent, name);
    let (directory, name) = match (simple, &made.dev) {
        (Some(rest), Some(dev)) => (dev.as_fd(), rest.as_os_str()),
        _ => {
            (parent, name) = make_parent(root, &device.path).map_err(fail())?;
            (parent.as_fd(), name)
        }
    };
    let number = rustix::fs::makedev(device.major, device.minor);
    let mode = Mode::from_raw_mode(device.mode);
    match mknodat(directory, name, node_type(device.kind), mode, number) {
        Err(Errno::EXIST) => match unlinkat(directory, name, AtFlags::empty()) {
            // A file of the image, when /dev is not the container's own: the container finds what was asked for.
            Ok(()) => mknodat(directory, name, node_type(device.kind), mode, number).map_err(fail())?,
            // Something is mounted there, by the user's own wish.
            Err(Errno::BUSY) => return Ok(()),
            Err(errno) => return Err(fail()(errno)),
        },
        other => other.map_err(fail())?,
    }
    if device.uid | device.gid != 0 {
        let (uid, gid) = (rustix::fs::Uid::from_raw(device.uid), rustix::fs::Gid::from_raw(device.gid));
        chownat(directory, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(fail())?;
    }
    Ok(())
}

/// In a user namespace nodes cannot be made, so the host's are shown: provided that they are the device that was asked for.
fn bind_node(device: &DeviceNode, source: BorrowedFd<'_>, root: BorrowedFd<'_>) -> Result<()> {
    let fail = || Error::step(format!("mount the device {}", device.path.display()));
    let stat = fstat(source).map_err(fail())?;
    let wanted = (node_type(device.kind), rustix::fs::makedev(device.major, device.minor));
    if (FileType::from_raw_mode(stat.st_mode), stat.st_rdev) != wanted {
        return Err(Error::invalid(format!("the host's {} is not the device {}:{}", device.path.display(), device.major, device.minor)));
    }
    let target = make_file(root, &device.path).map_err(fail())?;
    attach(source, target.as_fd()).map_err(fail())
}

fn link(dev: BorrowedFd<'_>, name: &str, target: &str) -> Result<()> {
    let fail = || Error::step(format!("make the link /dev/{name}"));
    match symlinkat(target, dev, name) {
        // Mounted there by the user, or left by an image whose /dev is used.
        Err(Errno::EXIST) => Ok(()),
        other => other.map_err(fail()),
    }
}

/// Opens a new terminal of the devpts instance whose root is `pts`.
pub(crate) fn open_terminal(pts: BorrowedFd<'_>, ptmx: &str, size: Option<(u16, u16)>) -> Result<Terminal> {
    let fail = || Error::step("open a terminal");
    let master = openat(pts, ptmx, OFlags::RDWR | OFlags::NOCTTY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()).map_err(fail())?;
    let stat = fstat(&master).map_err(fail())?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::CharacterDevice || stat.st_rdev != rustix::fs::makedev(5, 2) {
        return Err(Error::invalid("/dev/pts/ptmx of the container is not the terminal multiplexer"));
    }
    let peer = kernel::pty::open_peer(master.as_fd()).map_err(fail())?;
    if let Some((rows, columns)) = size {
        let size = rustix::termios::Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        rustix::termios::tcsetwinsize(&master, size).map_err(Error::step("set the size of the terminal"))?;
    }
    Ok(Terminal { master, peer })
}

/// Shows the terminal as /dev/console. The mount is made of the open terminal itself, so no path can be swapped in between (CVE-2025-52565).
fn show_console(root: BorrowedFd<'_>, peer: BorrowedFd<'_>) -> Result<()> {
    let fail = || Error::step("mount the terminal on /dev/console");
    let dev = open_in(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY).map_err(fail())?;
    let create = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(&dev, "console", create, Mode::from_raw_mode(0o600)) {
        Ok(_) | Err(Errno::EXIST) => {}
        Err(errno) => return Err(fail()(errno)),
    }
    let target = open_plain(dev.as_fd(), Path::new("console"), OFlags::PATH).map_err(fail())?;
    let mount = open_tree(peer, c"", OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH)
        .map_err(fail())?;
    attach(mount.as_fd(), target.as_fd()).map_err(fail())
}

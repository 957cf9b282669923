//! `tmpcopyup`: a tmpfs that begins with a copy of the folder which it covers.

use std::ffi::{CStr, CString};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Uid, chownat, fchmod, fchown, fstat, mkdirat, mknodat, openat, readlinkat, statat,
    symlinkat,
};
use rustix::io::Errno;

/// Folders within folders are copied down to here.
const DEPTH_MAX: u32 = 128;
const CHUNK_BYTES: usize = 64 << 10;

/// Copies what `from` holds into `to`, with owners and permissions, and gives `to` those of `from`. Both are folders, opened for reading.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd, keep_mode: bool) -> Result<(), Errno> {
    let stat = fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    if !keep_mode {
        fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    }
    entries(from.as_fd(), to.as_fd(), DEPTH_MAX)
}

fn entries(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> Result<(), Errno> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name: &CStr = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        let stat = match statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
            // It went away meanwhile.
            Err(Errno::NOENT) => continue,
            other => other?,
        };
        one(from, to, name, &stat, depth)?;
    }
    Ok(())
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &CStr, stat: &Stat, depth: u32) -> Result<(), Errno> {
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    let plain = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            if depth == 0 {
                return Err(Errno::NAMETOOLONG);
            }
            mkdirat(to, name, mode)?;
            let open = |at| openat(at, name, OFlags::RDONLY | OFlags::DIRECTORY | plain, Mode::empty());
            let (inner_from, inner_to) = (open(from)?, open(to)?);
            entries(inner_from.as_fd(), inner_to.as_fd(), depth - 1)?;
            fchown(&inner_to, Some(uid), Some(gid))?;
            fchmod(&inner_to, mode)
        }
        FileType::RegularFile => {
            let source = openat(from, name, OFlags::RDONLY | plain, Mode::empty())?;
            let target = openat(to, name, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | plain, Mode::from_raw_mode(0o600))?;
            bytes(source.as_fd(), target.as_fd())?;
            fchown(&target, Some(uid), Some(gid))?;
            fchmod(&target, mode)
        }
        FileType::Symlink => {
            let target: CString = readlinkat(from, name, Vec::new())?;
            symlinkat(target.as_c_str(), to, name)?;
            chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        FileType::Fifo => {
            mknodat(to, name, FileType::Fifo, mode, 0)?;
            chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        }
        // A socket without whoever listened on it is nothing, and devices are given by linux.devices alone.
        _ => Ok(()),
    }
}

fn bytes(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut buffer = vec![0u8; CHUNK_BYTES];
    loop {
        let count = rustix::io::retry_on_intr(|| rustix::io::read(from, &mut buffer))?;
        let mut rest = &buffer[..count];
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            let written = rustix::io::retry_on_intr(|| rustix::io::write(to, rest))?;
            rest = &rest[written..];
        }
    }
}

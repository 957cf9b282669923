//! Several layers seen as overlayfs would show them, without a mount.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::archive::parents::{is_whiteout, join, through_proc};
use crate::{Error, Result};

const LINKS_MAX: usize = 40;
const XATTR_LIST_LEN_MAX: usize = 64 << 10;
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);

type Kernel<T> = std::result::Result<T, Errno>;

/// Layers, top first.
pub struct Merged {
    root: Vec<OwnedFd>,
}

/// What is at a path.
pub enum Found {
    /// A directory: where it is in each layer that contributes to it, top first.
    Directory(Vec<OwnedFd>),
    /// Anything else: the directory in which it is, and its name there.
    Other(OwnedFd, Vec<u8>),
}

impl Merged {
    /// Opens the layers' root directories, top first.
    pub fn open(layers: &[PathBuf]) -> Result<Self> {
        let open = |path: &PathBuf| fs::open(path, DIRECTORY, Mode::empty()).map_err(|error| Error::io("open", path, error));
        Ok(Self { root: layers.iter().map(open).collect::<Result<_>>()? })
    }

    /// One directory as it is.
    pub fn of(directory: OwnedFd) -> Self {
        Self { root: vec![directory] }
    }

    /// The root directory.
    pub fn root(&self) -> Kernel<Vec<OwnedFd>> {
        clone_all(&self.root)
    }

    /// What is at a path from the root, links not followed.
    pub fn lookup(&self, path: &[u8]) -> Kernel<Option<Found>> {
        let mut here = Found::Directory(self.root()?);
        for name in path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()) {
            let Found::Directory(directory) = here else {
                return Ok(None);
            };
            match child(&directory, name)? {
                Some(found) => here = found,
                None => return Ok(None),
            }
        }
        Ok(Some(here))
    }

    /// What is at a path, links followed inside of the root; `..` at the root stays there.
    pub fn resolve(&self, path: &[u8]) -> Kernel<Option<Found>> {
        let mut left: Vec<Vec<u8>> = components(path);
        let mut done: Vec<Vec<u8>> = Vec::new();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                done.pop();
                continue;
            }
            let real = done.iter().chain([&name]).fold(Vec::new(), |path, name| join(&path, name));
            match self.lookup(&real)? {
                None => return Ok(None),
                Some(Found::Other(above, own)) if is_link(&above, &own)? => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Errno::LOOP);
                    }
                    let target = fs::readlinkat(&above, own.as_slice(), Vec::new())?.into_bytes();
                    if target.starts_with(b"/") {
                        done.clear();
                    }
                    left.extend(components(&target));
                }
                Some(_) => done.push(name),
            }
        }
        self.lookup(&done.iter().fold(Vec::new(), |path, name| join(&path, name)))
    }
}

/// Path components, last first.
fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).rev().collect()
}

fn is_link(above: &OwnedFd, name: &[u8]) -> Kernel<bool> {
    Ok(FileType::from_raw_mode(fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode) == FileType::Symlink)
}

fn clone_all(directory: &[OwnedFd]) -> Kernel<Vec<OwnedFd>> {
    directory.iter().map(|fd| rustix::io::fcntl_dupfd_cloexec(fd, 3)).collect()
}

/// What a merged directory has under a name.
pub fn child(directory: &[OwnedFd], name: &[u8]) -> Kernel<Option<Found>> {
    let mut parts = Vec::new();
    for part in directory {
        let stat = match fs::statat(part, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            looked => looked?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let found = fs::openat(part, name, DIRECTORY, Mode::empty())?;
            let opaque = is_opaque(&found);
            parts.push(found);
            if opaque {
                break;
            }
        } else if is_whiteout(&stat) || !parts.is_empty() {
            break;
        } else {
            return Ok(Some(Found::Other(rustix::io::fcntl_dupfd_cloexec(part, 3)?, name.to_vec())));
        }
    }
    Ok(match parts.is_empty() {
        true => None,
        false => Some(Found::Directory(parts)),
    })
}

/// Whether it hides what is below.
pub fn is_opaque(directory: &OwnedFd) -> bool {
    let mut value = [0; 1];
    fs::fgetxattr(directory, "trusted.overlay.opaque", &mut value) == Ok(1) && value == *b"y"
}

/// The names in any part of a merged directory, in order; some may stand for nothing.
pub fn names(directory: &[OwnedFd]) -> Kernel<Vec<Vec<u8>>> {
    let mut names = BTreeSet::new();
    for part in directory {
        names.extend(tarball::names(part.as_fd())?);
    }
    Ok(names.into_iter().collect())
}

/// The names in a merged directory with what they are.
pub fn list(directory: &[OwnedFd]) -> Kernel<Vec<(Vec<u8>, Found)>> {
    let mut found = Vec::new();
    for name in names(directory)? {
        if let Some(what) = child(directory, &name)? {
            found.push((name, what));
        }
    }
    Ok(found)
}

/// Copies what is in a merged directory into `target`, links not followed. Hard links become files of their own.
pub fn copy_tree(source: &[OwnedFd], target: BorrowedFd<'_>) -> Kernel<()> {
    for (name, found) in list(source)? {
        match found {
            Found::Other(above, own) => copy_file(above.as_fd(), &own, target, &name)?,
            Found::Directory(parts) => {
                fs::mkdirat(target, name.as_slice(), Mode::from_raw_mode(0o700))?;
                let made = fs::openat(target, name.as_slice(), DIRECTORY, Mode::empty())?;
                copy_tree(&parts, made.as_fd())?;
                copy_directory_attributes(&parts, made.as_fd())?;
            }
        }
    }
    Ok(())
}

/// Gives a directory the attributes that a merged one shows: those of its topmost part.
pub fn copy_directory_attributes(source: &[OwnedFd], target: BorrowedFd<'_>) -> Kernel<()> {
    let Some(top) = source.first() else {
        return Ok(());
    };
    let stat = fs::fstat(top)?;
    let at = through_proc(target);
    fs::chown(at.as_str(), Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fs::chmod(at.as_str(), Mode::from_raw_mode(stat.st_mode & 0o7777))?;
    copy_xattrs(&through_proc(top.as_fd()).into_bytes(), at.as_bytes(), true)?;
    fs::utimensat(fs::CWD, at.as_str(), &times(&stat), AtFlags::empty())
}

/// Copies one file, link or node with all that belongs to it.
pub fn copy_file(above: BorrowedFd<'_>, name: &[u8], target: BorrowedFd<'_>, target_name: &[u8]) -> Kernel<()> {
    let stat = fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let kind = FileType::from_raw_mode(stat.st_mode);
    match kind {
        FileType::RegularFile => copy_content(above, name, target, target_name)?,
        FileType::Symlink => fs::symlinkat(fs::readlinkat(above, name, Vec::new())?, target, target_name)?,
        _ => fs::mknodat(target, target_name, kind, Mode::from_raw_mode(stat.st_mode & 0o7777), stat.st_rdev)?,
    }
    fs::chownat(target, target_name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), AtFlags::SYMLINK_NOFOLLOW)?;
    if kind != FileType::Symlink {
        fs::chmodat(target, target_name, Mode::from_raw_mode(stat.st_mode & 0o7777), AtFlags::empty())?;
    }
    let path = |directory: BorrowedFd<'_>, name: &[u8]| [through_proc(directory).as_bytes(), b"/", name].concat();
    copy_xattrs(&path(above, name), &path(target, target_name), false)?;
    fs::utimensat(target, target_name, &times(&stat), AtFlags::SYMLINK_NOFOLLOW)
}

fn copy_content(above: BorrowedFd<'_>, name: &[u8], target: BorrowedFd<'_>, target_name: &[u8]) -> Kernel<()> {
    let input = fs::openat(above, name, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK, Mode::empty())?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let output = fs::openat(target, target_name, flags, Mode::from_raw_mode(0o600))?;
    let (mut input, mut output) = (File::from(input), File::from(output));
    // The kernel copies, sharing blocks where the filesystem can.
    io::copy(&mut input, &mut output).map_err(|error| error.raw_os_error().map_or(Errno::IO, Errno::from_raw_os_error))?;
    Ok(())
}

/// Copies extended attributes but overlayfs's own. `follow`: the paths are descriptors' links below /proc.
fn copy_xattrs(source: &[u8], target: &[u8], follow: bool) -> Kernel<()> {
    let mut names = vec![0; XATTR_LIST_LEN_MAX];
    let listed = match follow {
        true => fs::listxattr(source, names.as_mut_slice()),
        false => fs::llistxattr(source, names.as_mut_slice()),
    };
    let len = match listed {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        listed => listed?,
    };
    for name in names[..len].split(|&byte| byte == 0) {
        if name.is_empty() || name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let mut value = vec![0; XATTR_LIST_LEN_MAX];
        let set = match follow {
            true => fs::getxattr(source, name, value.as_mut_slice())
                .and_then(|len| fs::setxattr(target, name, &value[..len], XattrFlags::empty())),
            false => fs::lgetxattr(source, name, value.as_mut_slice())
                .and_then(|len| fs::lsetxattr(target, name, &value[..len], XattrFlags::empty())),
        };
        match set {
            Err(Errno::OPNOTSUPP | Errno::PERM) => {}
            set => set?,
        }
    }
    Ok(())
}

fn times(stat: &Stat) -> Timestamps {
    let time = |seconds, nanos: u64| Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps { last_access: time(stat.st_atime, stat.st_atime_nsec), last_modification: time(stat.st_mtime, stat.st_mtime_nsec) }
}

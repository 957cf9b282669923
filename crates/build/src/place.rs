//! Where files are put: a directory of the layer that is being made, and what the same directory has in the layers below.
//!
//! Everything is made through descriptors of directories that belong to the new layer alone; links on the way are resolved in the tree, never by the kernel.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid};
use rustix::io::Errno;
use store::merged::{self, Found};

use crate::tree::{DEPTH_MAX, join};
use crate::{Error, Result};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
pub(crate) const LINKS_MAX: usize = 40;

/// A directory of the new layer.
pub(crate) struct Place {
    /// In the new layer.
    pub own: OwnedFd,
    /// The same in the layers below, top first; empty where there is none.
    pub below: Vec<OwnedFd>,
    /// Its path from the root.
    pub path: Vec<u8>,
}

/// What a new directory gets.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Attributes {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    /// Seconds and nanoseconds; now if none.
    pub mtime: Option<(i64, u64)>,
}

impl Default for Attributes {
    fn default() -> Self {
        Self { mode: 0o755, uid: 0, gid: 0, mtime: None }
    }
}

/// What has a name at a place.
pub(crate) enum There {
    Nothing,
    Directory,
    Link(Vec<u8>),
    Other,
}

impl Place {
    /// The root of a new layer over others.
    pub fn root(own: OwnedFd, below: Vec<OwnedFd>) -> Self {
        Self { own, below, path: Vec::new() }
    }

    pub fn duplicate(&self) -> Result<Self> {
        let dup = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|error| Error::io("open", &self.path, error));
        Ok(Self { own: dup(&self.own)?, below: self.below.iter().map(dup).collect::<Result<_>>()?, path: self.path.clone() })
    }

    /// What is there by that name.
    pub fn look(&self, name: &[u8]) -> Result<There> {
        let fail = |error| Error::io("look at", &join(&self.path, name), error);
        let own = merged::child(std::slice::from_ref(&self.own), name).map_err(fail)?;
        let found = match own {
            Some(found) => Some(found),
            None => merged::child(&self.below, name).map_err(fail)?,
        };
        Ok(match found {
            None => There::Nothing,
            Some(Found::Directory(_)) => There::Directory,
            Some(Found::Other(above, own)) => {
                let stat = fs::statat(&above, own.as_slice(), AtFlags::SYMLINK_NOFOLLOW).map_err(fail)?;
                match FileType::from_raw_mode(stat.st_mode) {
                    FileType::Symlink => There::Link(fs::readlinkat(&above, own.as_slice(), Vec::new()).map_err(fail)?.into_bytes()),
                    _ => There::Other,
                }
            }
        })
    }

    /// The directory of that name, made where it is missing; answers also whether it is new. A link or file in its place is an error.
    pub fn enter(&self, name: &[u8], new: Attributes) -> Result<(Self, bool)> {
        let path = join(&self.path, name);
        let fail = |operation| {
            let path = path.clone();
            move |error: Errno| Error::io(operation, &path, error)
        };
        let below = match merged::child(&self.below, name).map_err(fail("look at"))? {
            Some(Found::Directory(parts)) => Some(parts),
            Some(Found::Other(..)) => None,
            None => Some(Vec::new()),
        };
        match fs::openat(&self.own, name, DIRECTORY, Mode::empty()) {
            Ok(own) => {
                let below = if merged::is_opaque(&own) { Vec::new() } else { below.unwrap_or_default() };
                return Ok((Self { own, below, path }, false));
            }
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return Err(Error::path(&path, "cannot copy to non-directory")),
            Err(error) => return Err(fail("open")(error)),
        }
        let below = below.ok_or_else(|| Error::path(&path, "cannot copy to non-directory"))?;
        fs::mkdirat(&self.own, name, Mode::from_raw_mode(0o700)).map_err(fail("make"))?;
        let own = fs::openat(&self.own, name, DIRECTORY, Mode::empty()).map_err(fail("open"))?;
        let is_new = below.is_empty();
        match is_new {
            true => set_attributes(own.as_fd(), &new).map_err(fail("set the attributes of"))?,
            false => merged::copy_directory_attributes(&below, own.as_fd()).map_err(fail("copy the attributes of"))?,
        }
        Ok((Self { own, below, path }, is_new))
    }

    /// The directory at a path from here, which is the root; links on the way are followed in the tree, missing directories are made.
    /// Answers also whether the last one is new.
    pub fn reach(&self, path: &[u8], new: Attributes) -> Result<(Self, bool)> {
        let mut left = components(path);
        let mut stack = vec![self.duplicate()?];
        let mut links = 0;
        let mut is_new = false;
        while let Some(name) = left.pop() {
            let here = stack.last().ok_or_else(|| Error::path(path, "it has no root"))?;
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            if stack.len() > DEPTH_MAX {
                return Err(Error::path(path, "it is too many directories deep"));
            }
            match here.look(&name)? {
                There::Link(target) => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::path(path, "too many links on the way"));
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    left.extend(components(&target));
                }
                There::Other => return Err(Error::path(path, "cannot copy to non-directory")),
                There::Nothing | There::Directory => {
                    let (place, made) = here.enter(&name, new)?;
                    is_new = made;
                    stack.push(place);
                }
            }
        }
        stack.pop().map(|place| (place, is_new)).ok_or_else(|| Error::path(path, "it has no root"))
    }

    /// Makes room for something that is no directory: what this layer has already is removed, what lies below is hidden by what comes.
    pub fn make_room(&self, name: &[u8]) -> Result<()> {
        let path = join(&self.path, name);
        match self.look(name)? {
            There::Nothing => Ok(()),
            There::Directory => Err(Error::path(&path, "cannot replace a directory with a file")),
            There::Link(_) | There::Other => match fs::unlinkat(&self.own, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(Error::io("replace", &path, error)),
            },
        }
    }
}

/// Sets what a directory or file gets. Owner first: the kernel takes set-user-id bits away with a change of it.
pub(crate) fn set_attributes(fd: BorrowedFd<'_>, attributes: &Attributes) -> std::result::Result<(), Errno> {
    fs::fchown(fd, Some(Uid::from_raw(attributes.uid)), Some(Gid::from_raw(attributes.gid)))?;
    fs::fchmod(fd, Mode::from_raw_mode(attributes.mode))?;
    match attributes.mtime {
        Some(mtime) => fs::futimens(fd, &times(mtime)),
        None => Ok(()),
    }
}

pub(crate) fn times((seconds, nanos): (i64, u64)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::try_from(nanos).unwrap_or(0) };
    Timestamps { last_access: time, last_modification: time }
}

pub(crate) fn mtime(stat: &Stat) -> (i64, u64) {
    (stat.st_mtime, stat.st_mtime_nsec)
}

/// Path components, last first.
pub(crate) fn components(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|&byte| byte == b'/').filter(|name| !name.is_empty() && *name != b".").map(<[u8]>::to_vec).rev().collect()
}

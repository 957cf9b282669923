//! The directories that entries go into, held open so that consecutive entries cost no look-ups.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

const NEW_DIR_MODE: u32 = 0o755;
const PATH: OFlags = OFlags::PATH.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// A directory on the way, under the name that the archive uses for it.
struct Level {
    name: Vec<u8>,
    fd: OwnedFd,
    /// Its path from the root without links.
    real: Vec<u8>,
}

/// Is told the real path of each directory that is made because the archive has no entry for it, and whether it hides what is below.
pub(crate) type Made<'m> = &'m mut dyn FnMut(&[u8], bool);

/// The way to the directory used last.
pub(crate) struct Parents {
    root: OwnedFd,
    stack: Vec<Level>,
}

/// Why a directory can't be reached.
#[derive(Debug)]
pub(crate) enum Unreachable {
    /// There is none, and none was to be made.
    Absent,
    /// Something else is there, or a link leads nowhere.
    NotADirectory,
    /// The kernel refused.
    Failed(Errno),
}

impl From<Errno> for Unreachable {
    fn from(error: Errno) -> Self {
        Self::Failed(error)
    }
}

impl Parents {
    pub fn new(root: OwnedFd) -> Self {
        Self { root, stack: Vec::new() }
    }

    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Forgets what is open, since something on the way was replaced.
    pub fn forget(&mut self) {
        self.stack.clear();
    }

    /// The directory at `components`, links on the way resolved inside of the root, and its real path. Missing ones are made where `made` is given, which is told their real paths.
    pub fn open(&mut self, components: &[&[u8]], mut made: Option<Made<'_>>) -> Result<(BorrowedFd<'_>, &[u8]), Unreachable> {
        let known = self.stack.iter().zip(components).take_while(|(level, name)| level.name == **name).count();
        self.stack.truncate(known);
        for name in &components[known..] {
            let level = self.enter(name, &mut made)?;
            self.stack.push(level);
        }
        Ok(match self.stack.last() {
            Some(level) => (level.fd.as_fd(), &level.real),
            None => (self.root.as_fd(), b""),
        })
    }

    fn enter(&self, name: &[u8], made: &mut Option<Made<'_>>) -> Result<Level, Unreachable> {
        let (at, above) = match self.stack.last() {
            Some(level) => (level.fd.as_fd(), level.real.as_slice()),
            None => (self.root.as_fd(), &b""[..]),
        };
        let real = join(above, name);
        match fs::openat(at, name, PATH | OFlags::NOFOLLOW, Mode::empty()) {
            Ok(fd) => return Ok(Level { name: name.to_vec(), fd, real }),
            Err(Errno::NOENT) => {}
            Err(Errno::NOTDIR | Errno::LOOP) => return self.enter_other(at, name, real, made),
            Err(error) => return Err(error.into()),
        }
        let Some(made) = made else {
            return Err(Unreachable::Absent);
        };
        let fd = make(at, name)?;
        made(&real, false);
        Ok(Level { name: name.to_vec(), fd, real })
    }

    /// What is there is no directory: a link to one, or the mark of a removed one.
    fn enter_other(&self, at: BorrowedFd<'_>, name: &[u8], real: Vec<u8>, made: &mut Option<Made<'_>>) -> Result<Level, Unreachable> {
        let stat = fs::statat(at, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if is_whiteout(&stat) {
            let Some(made) = made else {
                return Err(Unreachable::Absent);
            };
            fs::unlinkat(at, name, AtFlags::empty())?;
            let fd = make(at, name)?;
            set_opaque(fd.as_fd())?;
            made(&real, true);
            return Ok(Level { name: name.to_vec(), fd, real });
        }
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            return Err(Unreachable::NotADirectory);
        }
        let fd = match fs::openat2(&self.root, real.as_slice(), PATH, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Err(Unreachable::NotADirectory),
            opened => opened?,
        };
        let real = self.real_path(fd.as_fd())?;
        Ok(Level { name: name.to_vec(), fd, real })
    }

    fn real_path(&self, fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
        let (root, path) = (descriptor_path(self.root.as_fd())?, descriptor_path(fd)?);
        let below = path.strip_prefix(root.as_slice()).ok_or(Errno::XDEV)?;
        Ok(below.strip_prefix(b"/").unwrap_or(below).to_vec())
    }
}

/// Whether it is overlayfs's mark of something removed: a character device 0:0.
pub(crate) fn is_whiteout(stat: &fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Marks a directory as hiding what is below it.
pub(crate) fn set_opaque(directory: BorrowedFd<'_>) -> Result<(), Errno> {
    fs::setxattr(through_proc(directory), "trusted.overlay.opaque", b"y", fs::XattrFlags::empty())
}

/// A path that means the descriptor itself, for calls that take none.
pub(crate) fn through_proc(fd: BorrowedFd<'_>) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

/// `a` and `b` with a slash between, unless there is no `a`.
pub(crate) fn join(above: &[u8], name: &[u8]) -> Vec<u8> {
    match above.is_empty() {
        true => name.to_vec(),
        false => [above, b"/", name].concat(),
    }
}

fn make(at: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    fs::mkdirat(at, name, Mode::from_raw_mode(NEW_DIR_MODE))?;
    fs::chmodat(at, name, Mode::from_raw_mode(NEW_DIR_MODE), AtFlags::empty())?;
    fs::openat(at, name, PATH | OFlags::NOFOLLOW, Mode::empty())
}

fn descriptor_path(fd: BorrowedFd<'_>) -> Result<Vec<u8>, Errno> {
    Ok(fs::readlink(through_proc(fd), Vec::new())?.into_bytes())
}

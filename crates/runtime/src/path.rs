//! Paths below a container's root: resolved by the kernel so that no link leads out, used through descriptors.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags, mkdirat, openat, openat2};
use rustix::io::Errno;

/// How often openat2 is tried again when something was renamed under its feet.
const RACES_MAX: u32 = 64;
/// As many links as the kernel follows in one path.
const LINKS_MAX: u32 = 40;

/// Opens `path` with `root` as the root: absolute links and `..` stay inside, links of /proc that lead elsewhere are not followed.
pub(crate) fn open_in(root: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// Opens `path`, relative to `directory`, without following any link.
pub(crate) fn open_plain(directory: BorrowedFd<'_>, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(directory, path, flags, ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

fn resolve(root: BorrowedFd<'_>, path: &Path, flags: OFlags, how: ResolveFlags) -> Result<OwnedFd, Errno> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    for _ in 0..RACES_MAX {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// Opens the directory at `path` (O_PATH), making it and its parents when they are missing. A link to nowhere has its target made, inside the root.
pub(crate) fn make_directory(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    make(root, path, OFlags::PATH | OFlags::DIRECTORY, LINKS_MAX)
}

/// Opens what is at `path` (O_PATH), making an empty file, and its parents, when nothing is there.
pub(crate) fn make_file(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    make(root, path, OFlags::PATH, LINKS_MAX)
}

/// The directory above `path`, made when it is missing, and the last name.
pub(crate) fn make_parent<'p>(root: BorrowedFd<'_>, path: &'p Path) -> Result<(OwnedFd, &'p OsStr), Errno> {
    let Some(Component::Normal(name)) = path.components().next_back() else { return Err(Errno::INVAL) };
    let parent = make_directory(root, path.parent().unwrap_or(Path::new("/")))?;
    Ok((parent, name))
}

fn make(root: BorrowedFd<'_>, path: &Path, flags: OFlags, links: u32) -> Result<OwnedFd, Errno> {
    match open_in(root, path, flags) {
        Err(Errno::NOENT) if links > 0 => {}
        other => return other,
    }
    let above = path.parent().ok_or(Errno::INVAL)?;
    let parent = make(root, above, OFlags::PATH | OFlags::DIRECTORY, links)?;
    let Some(Component::Normal(name)) = path.components().next_back() else { return open_in(root, path, flags) };
    let made = if flags.contains(OFlags::DIRECTORY) {
        mkdirat(&parent, name, Mode::from_raw_mode(0o755))
    } else {
        openat(&parent, name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC, Mode::from_raw_mode(0o755)).map(drop)
    };
    match made {
        Ok(()) => return open_in(root, path, flags),
        Err(Errno::EXIST) => {}
        Err(errno) => return Err(errno),
    }
    // It is there and yet cannot be found: a link to nowhere, or something that another process just made.
    match rustix::fs::readlinkat(&parent, name, Vec::new()) {
        Ok(target) => make(root, &above.join(OsStr::from_bytes(target.to_bytes())), flags, links - 1),
        Err(_) => open_in(root, path, flags),
    }
}

/// The kind of a file behind a descriptor.
pub(crate) fn is_directory(fd: BorrowedFd<'_>) -> Result<bool, Errno> {
    let stat = rustix::fs::fstat(fd.as_fd())?;
    Ok(rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::CWD;

    fn scratch(name: &str) -> (std::path::PathBuf, OwnedFd) {
        let path = std::env::temp_dir().join(format!("cais-path-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        let fd = openat(CWD, &path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).unwrap();
        (path, fd)
    }

    #[test]
    fn links_stay_inside_and_missing_parents_are_made() {
        let (path, root) = scratch("links");
        std::os::unix::fs::symlink("/etc", path.join("absolute")).unwrap();
        std::os::unix::fs::symlink("../../../../..", path.join("climb")).unwrap();
        make_file(root.as_fd(), Path::new("/absolute/a/b")).unwrap();
        assert!(path.join("etc/a/b").is_file(), "an absolute link is taken from the root");
        make_directory(root.as_fd(), Path::new("/climb/up")).unwrap();
        assert!(path.join("up").is_dir());
        assert_eq!(open_plain(root.as_fd(), Path::new("absolute"), OFlags::PATH | OFlags::DIRECTORY).unwrap_err(), Errno::LOOP);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn links_that_go_in_circles_end() {
        let (path, root) = scratch("circle");
        std::os::unix::fs::symlink("two", path.join("one")).unwrap();
        std::os::unix::fs::symlink("one", path.join("two")).unwrap();
        assert_eq!(make_file(root.as_fd(), Path::new("/one")).unwrap_err(), Errno::LOOP);
        std::fs::remove_dir_all(path).unwrap();
    }
}

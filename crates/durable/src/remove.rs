//! Removal in two steps: a rename that makes it true for everybody, then the work, which may stop and go on at any time.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, CWD, Dir, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use crate::{Error, Result, fail_point};

/// Directories deeper than this are moved up before they are walked, so that depth costs no descriptors and no stack.
const DEPTH_MAX: usize = 32;

/// Moves `path` into the directory `trash` (same filesystem) under a name of its own, which is answered. From then on it is gone for everybody else.
pub fn entomb(path: &Path, trash: &Path) -> Result<PathBuf> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or(OsStr::new("tree")).to_string_lossy();
    loop {
        let tomb = trash.join(format!("{name}.{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        match fs::renameat_with(CWD, path, CWD, &tomb, fs::RenameFlags::NOREPLACE) {
            Ok(()) => {
                fail_point("durable.entombed");
                return Ok(tomb);
            }
            Err(Errno::EXIST | Errno::NOTEMPTY) => continue,
            Err(error) => return Err(Error::new("move to the trash", path, error)),
        }
    }
}

/// Removes everything in the directory `trash`, going on after errors; answers the first one.
pub fn sweep(trash: &Path) -> Result<()> {
    let directory = open_dir(CWD, trash.as_os_str().as_bytes()).map_err(|error| Error::new("open", trash, error))?;
    let mut first = Ok(());
    for name in names(&directory).map_err(|error| Error::new("list", trash, error))? {
        let removed = remove_tree(&trash.join(OsStr::from_bytes(name.to_bytes())));
        first = first.and(removed);
    }
    first
}

/// Removes a file or a whole tree. Links are removed, never followed; what is mounted in the tree is left alone and answers an error. Absence is success.
pub fn remove_tree(path: &Path) -> Result<()> {
    let fail = |error| Error::new("remove", path, error);
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let name = path.file_name().ok_or_else(|| fail(Errno::INVAL))?;
    let name = CString::new(name.as_bytes()).map_err(|_| fail(Errno::INVAL))?;
    let parent = match open_dir(CWD, parent.as_os_str().as_bytes()) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(fail)?,
    };
    match fs::unlinkat(&parent, &name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(error) => return Err(fail(error)),
    }
    let root = match open_child(parent.as_fd(), &name) {
        Err(Errno::NOENT) => return Ok(()),
        opened => opened.map_err(fail)?,
    };
    let mut walk = Walk { root: root.as_fd(), moved: 0, first: None };
    // Directories that were moved up are found by the next round.
    loop {
        let before = walk.moved;
        walk.empty(root.as_fd(), 0);
        if walk.moved == before || walk.first.is_some() {
            break;
        }
    }
    match walk.first {
        Some(error) => Err(fail(error)),
        None => fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR).map_err(fail),
    }
}

struct Walk<'a> {
    root: BorrowedFd<'a>,
    moved: u64,
    first: Option<Errno>,
}

impl Walk<'_> {
    fn empty(&mut self, directory: BorrowedFd<'_>, depth: usize) {
        let entries = match names(directory) {
            Ok(entries) => entries,
            Err(error) => return self.note(error),
        };
        for name in entries {
            match fs::unlinkat(directory, &name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::ISDIR | Errno::PERM) => self.remove_dir(directory, &name, depth),
                Err(error) => self.note(error),
            }
        }
    }

    fn remove_dir(&mut self, directory: BorrowedFd<'_>, name: &CStr, depth: usize) {
        match fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => return,
            Err(Errno::NOTEMPTY | Errno::EXIST) => {}
            Err(error) => return self.note(error),
        }
        if depth >= DEPTH_MAX {
            return self.move_up(directory, name);
        }
        match open_child(directory, name) {
            Ok(child) => self.empty(child.as_fd(), depth + 1),
            Err(error) => return self.note(error),
        }
        match fs::unlinkat(directory, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => self.note(error),
        }
    }

    fn move_up(&mut self, directory: BorrowedFd<'_>, name: &CStr) {
        loop {
            self.moved += 1;
            let target = format!(".deep-{}-{}", std::process::id(), self.moved);
            match fs::renameat_with(directory, name, self.root, target.as_str(), fs::RenameFlags::NOREPLACE) {
                Ok(()) => return,
                Err(Errno::EXIST) => continue,
                Err(error) => return self.note(error),
            }
        }
    }

    fn note(&mut self, error: Errno) {
        self.first.get_or_insert(error);
    }
}

fn open_dir(at: BorrowedFd<'_>, path: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    fs::openat(at, path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// Opens a directory by its own name, not crossing into what may be mounted on it.
fn open_child(at: BorrowedFd<'_>, name: &CStr) -> std::result::Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    fs::openat2(at, name, flags, Mode::empty(), ResolveFlags::NO_XDEV | ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS)
}

/// The names in a directory, all read before anything is removed.
fn names(directory: impl AsFd) -> std::result::Result<Vec<CString>, Errno> {
    let mut found = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        if !matches!(name.to_bytes(), b"." | b"..") {
            found.push(name.to_owned());
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_removed_and_never_followed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (keep, tree) = (directory.path().join("keep"), directory.path().join("tree"));
        std::fs::create_dir_all(keep.join("sub")).expect("makes");
        std::fs::create_dir_all(tree.join("a/b")).expect("makes");
        std::os::unix::fs::symlink(&keep, tree.join("a/link")).expect("links");
        std::os::unix::fs::symlink(directory.path().join("absent"), tree.join("dangling")).expect("links");
        remove_tree(&tree).expect("removes");
        assert!(keep.join("sub").is_dir() && !tree.exists());
        remove_tree(&tree).expect("absence is success");
    }

    #[test]
    fn a_very_deep_tree_is_removed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let tree = directory.path().join("tree");
        std::fs::create_dir(&tree).expect("makes");
        let mut at: OwnedFd = std::fs::File::open(&tree).expect("opens").into();
        for _ in 0..3000 {
            fs::mkdirat(&at, "d", Mode::from_raw_mode(0o755)).expect("makes");
            at = fs::openat(&at, "d", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty()).expect("opens");
        }
        drop(at);
        remove_tree(&tree).expect("removes");
        assert!(!tree.exists());
    }

    #[test]
    fn the_trash_is_swept() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let trash = directory.path().join("trash");
        std::fs::create_dir(&trash).expect("makes");
        for round in 0..2 {
            let tree = directory.path().join("tree");
            std::fs::create_dir_all(tree.join("x")).expect("makes");
            let tomb = entomb(&tree, &trash).expect("moves");
            assert!(!tree.exists() && tomb.is_dir(), "{round}");
        }
        sweep(&trash).expect("sweeps");
        assert_eq!(std::fs::read_dir(&trash).expect("lists").count(), 0);
    }
}

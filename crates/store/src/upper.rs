//! What a container changed: its read/write layer seen as a list of changes, as the whole root, and as a layer's archive.

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use tarball::{Directory, Node, Packer, Tree, names};

use crate::archive::parents::{is_whiteout, join};
use crate::merged::{self, Found, Merged, child, is_opaque};
use crate::{Error, Result, Store};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
const OPAQUE_MARK: &[u8] = b".wh..wh..opq";
/// What the names of marks begin with.
const MARK: &[u8] = b".wh.";
const DEPTH_MAX: usize = 512;

/// What happened to a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChangeKind {
    /// It was there and is different now, or something in it is.
    Modified,
    /// It was not there.
    Added,
    /// It is there no more.
    Deleted,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathChange {
    /// The path, absolute in the container.
    pub path: Vec<u8>,
    /// What happened to it.
    pub kind: ChangeKind,
}

/// What every container finds at its start, whatever its image: made for mounts, and nobody's change.
pub(crate) const MOUNT_POINTS: &[&[u8]] = &[
    b"dev",
    b"dev/console",
    b"dev/mqueue",
    b"dev/pts",
    b"dev/shm",
    b"run/secrets",
    b"etc/hostname",
    b"etc/hosts",
    b"etc/mtab",
    b"etc/resolv.conf",
    b"proc",
    b"sys",
    b"sys/fs",
    b"sys/fs/cgroup",
];

impl Store {
    /// What a container's read/write layer changes of its image, in the order of paths.
    pub fn changes(&self, id: &str) -> Result<Vec<PathChange>> {
        let snapshot = self.snapshot(id)?;
        let upper = open(&snapshot.upper)?;
        let below = Merged::open(&snapshot.lower)?.root().map_err(|error| Error::io("open", &snapshot.upper, error))?;
        let mut changes = Vec::new();
        compare(&upper, &below, b"", 0, &mut changes).map_err(|error| Error::io("compare", &snapshot.upper, error))?;
        Ok(changes)
    }

    /// Writes the container's whole root, mounts left out, as an archive.
    pub fn export(&self, id: &str, output: &mut dyn Write) -> Result<()> {
        let snapshot = self.snapshot(id)?;
        let layers: Vec<_> = [&snapshot.upper].into_iter().chain(&snapshot.lower).cloned().collect();
        let root = Merged::open(&layers)?.root().map_err(|error| Error::io("open", &snapshot.upper, error))?;
        let mut packer = Packer::new(output, &|_, _| false);
        packer.directory(&Whole, &Parts(root), b"")?;
        packer.finish()?;
        Ok(())
    }

    /// Writes what layers, lowest first, show together as an archive.
    pub fn export_layers(&self, layers: &[std::sync::Arc<crate::LayerHold>], output: &mut dyn Write) -> Result<()> {
        let directories = self.directories_of(layers);
        let root = Merged::open(&directories)?.root().map_err(|error| Error::io("open", self.root(), error))?;
        let mut packer = Packer::new(output, &|_, _| false);
        packer.directory(&Whole, &Parts(root), b"")?;
        packer.finish()?;
        Ok(())
    }

    /// Writes the read/write layer as a layer's archive: what was removed as whiteouts.
    pub(crate) fn pack_upper(&self, id: &str, output: &mut dyn Write) -> Result<()> {
        let snapshot = self.snapshot(id)?;
        let upper = open(&snapshot.upper)?;
        let mut packer = Packer::new(output, &is_untouched_mount_point);
        let tree = Upper::default();
        let packed = packer.directory(&tree, &upper, b"");
        tree.explain(packed)?;
        packer.finish()?;
        Ok(())
    }
}

/// The layers as the container sees them.
struct Whole;

/// A directory of several layers, top first.
struct Parts(Vec<OwnedFd>);

impl Directory for Parts {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.0[0].as_fd()
    }
}

impl Tree for Whole {
    type Directory = Parts;

    fn names(&self, directory: &Parts) -> std::result::Result<Vec<Vec<u8>>, Errno> {
        merged::names(&directory.0)
    }

    fn child(&self, directory: &Parts, name: &[u8]) -> std::result::Result<Option<Node<Parts>>, Errno> {
        Ok(child(&directory.0, name)?.map(|found| match found {
            Found::Directory(parts) => Node::Directory(Parts(parts)),
            Found::Other(above, name) => Node::Other(above, name),
        }))
    }
}

/// The read/write layer alone, its marks translated.
#[derive(Default)]
pub(crate) struct Upper {
    /// A file's own name that would be read as a mark: the layer cannot be packed.
    reserved: RefCell<Option<Vec<u8>>>,
}

impl Upper {
    /// The outcome of packing, with the name that was refused.
    pub(crate) fn explain(self, packed: std::result::Result<(), tarball::Error>) -> Result<()> {
        match self.reserved.into_inner() {
            Some(name) => {
                let reason = "a layer's archive takes it for the mark of a removed file: rename or remove it";
                Err(Error::invalid(format!("the file name {:?}", String::from_utf8_lossy(&name)), reason))
            }
            None => Ok(packed?),
        }
    }
}

impl Tree for Upper {
    type Directory = OwnedFd;

    fn names(&self, directory: &OwnedFd) -> std::result::Result<Vec<Vec<u8>>, Errno> {
        let mut names = names(directory.as_fd())?;
        if let Some(name) = names.iter().find(|name| name.starts_with(MARK)) {
            self.reserved.replace(Some(name.clone()));
            return Err(Errno::INVAL);
        }
        if is_opaque(directory) {
            // First: it hides what is below, not what the same layer brings.
            names.insert(0, OPAQUE_MARK.to_vec());
        }
        Ok(names)
    }

    fn child(&self, directory: &OwnedFd, name: &[u8]) -> std::result::Result<Option<Node<OwnedFd>>, Errno> {
        let Some(stat) = look(directory, name)? else {
            return Ok((name == OPAQUE_MARK).then(|| Node::Mark(name.to_vec())));
        };
        Ok(Some(if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            Node::Directory(fs::openat(directory, name, DIRECTORY, Mode::empty())?)
        } else if is_whiteout(&stat) {
            Node::Mark([MARK, name].concat())
        } else {
            Node::Other(rustix::io::fcntl_dupfd_cloexec(directory, 3)?, name.to_vec())
        }))
    }
}

/// Lists the changes in a directory of the read/write layer; answers whether something in it was added or removed.
fn compare(
    upper: &OwnedFd,
    below: &[OwnedFd],
    path: &[u8],
    depth: usize,
    changes: &mut Vec<PathChange>,
) -> std::result::Result<bool, Errno> {
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let opaque = is_opaque(upper);
    let mut all = names(upper.as_fd())?;
    if opaque {
        // What is hidden was removed with the directory that was there before.
        all.extend(merged::names(below)?);
        all.sort_unstable();
        all.dedup();
    }
    let mut altered = false;
    for name in all {
        let at = join(path, &name);
        let was = child(below, &name)?;
        let mut change = |kind| changes.push(PathChange { path: [b"/", at.as_slice()].concat(), kind });
        let Some(stat) = look(upper, &name)?.filter(|stat| !is_whiteout(stat)) else {
            if was.is_some() {
                change(ChangeKind::Deleted);
                altered = true;
            }
            continue;
        };
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        if was.is_none() && is_untouched_mount_point(&at, &stat) {
            if is_directory {
                altered |= compare_below(upper, &name, &[], &at, depth, changes)?;
            }
            continue;
        }
        match was {
            None => {
                change(ChangeKind::Added);
                altered = true;
                if is_directory {
                    compare_below(upper, &name, &[], &at, depth, changes)?;
                }
            }
            Some(Found::Directory(parts)) if is_directory => {
                let position = changes.len();
                let inner = compare_below(upper, &name, &parts, &at, depth, changes)?;
                if inner || attributes_differ(&stat, &parts)? {
                    changes.insert(position, PathChange { path: [b"/", at.as_slice()].concat(), kind: ChangeKind::Modified });
                }
            }
            Some(_) => {
                change(ChangeKind::Modified);
                if is_directory {
                    compare_below(upper, &name, &[], &at, depth, changes)?;
                }
            }
        }
    }
    Ok(altered)
}

fn compare_below(
    upper: &OwnedFd,
    name: &[u8],
    below: &[OwnedFd],
    path: &[u8],
    depth: usize,
    changes: &mut Vec<PathChange>,
) -> std::result::Result<bool, Errno> {
    match fs::openat(upper, name, DIRECTORY, Mode::empty()) {
        Ok(directory) => compare(&directory, below, path, depth + 1, changes),
        // It went or changed meanwhile.
        Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Ok(true),
        Err(error) => Err(error),
    }
}

fn attributes_differ(stat: &Stat, parts: &[OwnedFd]) -> std::result::Result<bool, Errno> {
    let Some(top) = parts.first() else { return Ok(true) };
    let was = fs::fstat(top)?;
    Ok((was.st_mode, was.st_uid, was.st_gid) != (stat.st_mode, stat.st_uid, stat.st_gid))
}

/// Made by a start, and still as it was made: an empty file or a directory (whose content is looked at on its own).
fn is_untouched_mount_point(path: &[u8], stat: &Stat) -> bool {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => stat.st_size == 0 && MOUNT_POINTS.contains(&path),
        FileType::Directory => MOUNT_POINTS.contains(&path),
        _ => false,
    }
}

fn look(directory: &OwnedFd, name: &[u8]) -> std::result::Result<Option<Stat>, Errno> {
    match fs::statat(directory, name, fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> Result<OwnedFd> {
    fs::open(path, DIRECTORY, Mode::empty()).map_err(|error| Error::io("open", path, error))
}

//! From directories to an archive. Each file is opened once, without following links, and everything about it is asked of that descriptor.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{self, Dir, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::{DEPTH_MAX, Entry, Error, Kind, Tap, Writer, Xattrs, join, through_proc};

const XATTR_LEN_MAX: usize = 64 << 10;
const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const OPEN_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A way to see directories: as they are, or several as one.
pub trait Tree {
    /// An open directory.
    type Directory: Directory;

    /// The names in a directory, in order.
    fn names(&self, directory: &Self::Directory) -> Result<Vec<Vec<u8>>, Errno>;

    /// What a name in a directory stands for; nothing if it has gone meanwhile.
    fn child(&self, directory: &Self::Directory, name: &[u8]) -> Result<Option<Node<Self::Directory>>, Errno>;
}

/// An open directory that can tell its attributes.
pub trait Directory {
    /// The directory whose attributes count.
    fn descriptor(&self) -> BorrowedFd<'_>;
}

impl Directory for OwnedFd {
    fn descriptor(&self) -> BorrowedFd<'_> {
        self.as_fd()
    }
}

/// What a name in a directory stands for.
pub enum Node<D> {
    /// A directory.
    Directory(D),
    /// Anything else: the directory in which it is, and its name there.
    Other(OwnedFd, Vec<u8>),
    /// Nothing of its own: an empty file of this name says something about what is around it.
    Mark(Vec<u8>),
}

/// Directories as they are, mounts in them included.
#[derive(Debug, Clone, Copy)]
pub struct Plain;

impl Tree for Plain {
    type Directory = OwnedFd;

    fn names(&self, directory: &OwnedFd) -> Result<Vec<Vec<u8>>, Errno> {
        names(directory.as_fd())
    }

    fn child(&self, directory: &OwnedFd, name: &[u8]) -> Result<Option<Node<OwnedFd>>, Errno> {
        match fs::openat(directory, name, OPEN_DIRECTORY, Mode::empty()) {
            Ok(below) => Ok(Some(Node::Directory(below))),
            Err(Errno::NOTDIR | Errno::LOOP) => Ok(Some(Node::Other(rustix::io::fcntl_dupfd_cloexec(directory, 3)?, name.to_vec()))),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// The names in one directory, in order.
pub fn names(directory: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Packs directories and files into one archive. Files with several names become hard links.
pub struct Packer<'s, W> {
    writer: Writer<'s, W>,
    /// Where in the archive the first name of a file is, by device and inode.
    links: HashMap<(u64, u64), Vec<u8>>,
    skip: &'s dyn Fn(&[u8], &Stat) -> bool,
}

impl<'s, W: Write> Packer<'s, W> {
    /// A packer that leaves out what `skip` says, by its name in the archive.
    pub fn new(output: W, skip: &'s dyn Fn(&[u8], &Stat) -> bool) -> Self {
        Self { writer: Writer::new(output), links: HashMap::new(), skip }
    }

    /// A packer of everything that tells where the contents of files are.
    pub fn tapped(output: W, tap: Tap<'s>) -> Self {
        Self { writer: Writer::tapped(output, tap), links: HashMap::new(), skip: &|_, _| false }
    }

    /// Ends the archive.
    pub fn finish(self) -> Result<W, Error> {
        self.writer.finish()
    }

    /// Adds a directory with everything in it under `path`; where that is empty, only what is in it.
    pub fn directory<T: Tree>(&mut self, tree: &T, directory: &T::Directory, path: &[u8]) -> Result<(), Error> {
        self.directory_below(tree, directory, path, 0)
    }

    fn directory_below<T: Tree>(&mut self, tree: &T, directory: &T::Directory, path: &[u8], depth: usize) -> Result<(), Error> {
        if depth > DEPTH_MAX {
            return Err(Error::Refused(format!("{}: more than {DEPTH_MAX} directories deep", String::from_utf8_lossy(path))));
        }
        if !path.is_empty() {
            let own = directory.descriptor();
            let stat = fs::fstat(own).map_err(|error| Error::io("look at", path, error))?;
            if (self.skip)(path, &stat) {
                return Ok(());
            }
            let name = if path.ends_with(b"/") { path.to_vec() } else { [path, b"/"].concat() };
            let entry = Entry { kind: Kind::Directory, ..entry(name, &stat, xattrs(own, path)?) };
            self.writer.append(&entry, &mut io::empty())?;
        }
        for name in tree.names(directory).map_err(|error| Error::io("list", path, error))? {
            let below = join(path, &name);
            match tree.child(directory, &name).map_err(|error| Error::io("open", &below, error))? {
                None => {}
                Some(Node::Directory(directory)) => self.directory_below(tree, &directory, &below, depth + 1)?,
                Some(Node::Other(above, name)) => self.other(above.as_fd(), &name, &below)?,
                Some(Node::Mark(name)) => self.mark(join(path, &name))?,
            }
        }
        Ok(())
    }

    fn mark(&mut self, path: Vec<u8>) -> Result<(), Error> {
        let entry = Entry {
            kind: Kind::File,
            path,
            link: Vec::new(),
            stored: 0,
            sparse: None,
            mode: 0,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            device: (0, 0),
            xattrs: Vec::new(),
        };
        self.writer.append(&entry, &mut io::empty())
    }

    /// Adds a file, link, node or empty directory under `path`. Sockets, which mean nothing elsewhere, are left out.
    pub fn other(&mut self, above: BorrowedFd<'_>, name: &[u8], path: &[u8]) -> Result<(), Error> {
        let node = match fs::openat(above, name, NODE, Mode::empty()) {
            Err(Errno::NOENT) => return Ok(()),
            opened => opened.map_err(|error| Error::io("open", path, error))?,
        };
        self.node(node.as_fd(), path)
    }

    /// The same for what an `O_PATH` descriptor stands for.
    pub fn node(&mut self, node: BorrowedFd<'_>, path: &[u8]) -> Result<(), Error> {
        let fail = |operation| move |error: Errno| Error::io(operation, path, error);
        let stat = fs::fstat(node).map_err(fail("look at"))?;
        if (self.skip)(path, &stat) {
            return Ok(());
        }
        let kind = match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Kind::File,
            FileType::Symlink => Kind::Symlink,
            FileType::CharacterDevice => Kind::CharDevice,
            FileType::BlockDevice => Kind::BlockDevice,
            FileType::Fifo => Kind::Fifo,
            FileType::Directory => Kind::Directory,
            FileType::Socket | FileType::Unknown => return Ok(()),
        };
        let mut entry = Entry { kind, ..entry(path.to_vec(), &stat, Vec::new()) };
        if stat.st_nlink > 1 && kind != Kind::Directory {
            let identity = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&identity) {
                let link = Entry { kind: Kind::HardLink, link: first.clone(), ..entry };
                return self.writer.append(&link, &mut io::empty());
            }
            self.links.insert(identity, path.to_vec());
        }
        match kind {
            Kind::File => {
                // By the descriptor that was looked at: a name could stand for a device or a pipe by now.
                let file = fs::open(through_proc(node), OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC, Mode::empty());
                let mut file = File::from(file.map_err(fail("open"))?);
                entry.stored = u64::try_from(stat.st_size).unwrap_or(0);
                entry.xattrs = xattrs(file.as_fd(), path)?;
                self.writer.append(&entry, &mut file)
            }
            Kind::Symlink => {
                entry.link = fs::readlinkat(node, "", Vec::new()).map_err(fail("read the link"))?.into_bytes();
                self.writer.append(&entry, &mut io::empty())
            }
            _ => self.writer.append(&entry, &mut io::empty()),
        }
    }

    /// Adds a file whose content is at hand.
    pub fn file(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        self.writer.append(entry, content)
    }
}

/// An entry with a file's attributes. Times are cut to seconds, as Docker does: fractions would need an extended header for every entry.
fn entry(path: Vec<u8>, stat: &Stat, xattrs: Xattrs) -> Entry {
    Entry {
        kind: Kind::File,
        path,
        link: Vec::new(),
        stored: 0,
        sparse: None,
        mode: stat.st_mode & 0o7777,
        uid: stat.st_uid,
        gid: stat.st_gid,
        mtime: (stat.st_mtime, 0),
        device: (fs::major(stat.st_rdev), fs::minor(stat.st_rdev)),
        xattrs,
    }
}

/// The attributes that mean the same elsewhere: capabilities, and what users set.
fn xattrs(fd: BorrowedFd<'_>, path: &[u8]) -> Result<Xattrs, Error> {
    let mut names = [0u8; 1024];
    let mut long = Vec::new();
    let names: &[u8] = match fs::flistxattr(fd, &mut names) {
        Ok(0) | Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::BADF) => return Ok(Vec::new()),
        Ok(len) => &names[..len],
        Err(Errno::RANGE) => {
            long.resize(XATTR_LEN_MAX, 0);
            let len = fs::flistxattr(fd, long.as_mut_slice()).map_err(|error| Error::io("list the attributes of", path, error))?;
            &long[..len]
        }
        Err(error) => return Err(Error::io("list the attributes of", path, error)),
    };
    let mut found = Vec::new();
    for name in names.split(|&byte| byte == 0).filter(|name| *name == b"security.capability" || name.starts_with(b"user.")) {
        let mut value = vec![0; XATTR_LEN_MAX];
        match fs::fgetxattr(fd, name, value.as_mut_slice()) {
            Ok(len) => {
                value.truncate(len);
                found.push((name.to_vec(), value));
            }
            // It went meanwhile, or means nothing in this user namespace.
            Err(Errno::NODATA | Errno::OVERFLOW) => {}
            Err(error) => return Err(Error::io("read an attribute of", path, error)),
        }
    }
    Ok(found)
}

//! Changes of files: the actions of one step, carried out in the directory of its new layer.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use dockerfile::graph::{CopyAction, FileAction, Mode as FileMode, Owner as Who};
use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags};
use rustix::io::Errno;
use store::archive::compression::{Compression, decompress};
use store::merged::{Found, Merged};
use tarball::{Owner, Target, Unpack};

use crate::owner;
use crate::place::{Attributes, LINKS_MAX, Place, There, components, mtime, set_attributes, times};
use crate::tree::{DEPTH_MAX, Filter, Selected, Tree, clean, join, kind, stat};
use crate::{Cancel, Error, Result};

const FILE_FLAGS: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags = OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const XATTRS_LEN_MAX: usize = 64 << 10;
const BLOCK: usize = 512;

/// A layer that is being filled.
pub(crate) struct Filling<'a> {
    root: Place,
    base: Merged,
    cancel: &'a Cancel,
    /// Whether a file of another layer may get a further name here, rather than be copied: not where it may be written to.
    pub may_link: bool,
    /// Where files with several names are in the new layer: by device and inode of the source.
    links: HashMap<(u64, u64), (OwnedFd, Vec<u8>)>,
}

/// What is to be copied, found and ready.
pub(crate) struct Copying<'a> {
    pub action: &'a CopyAction,
    pub tree: &'a Tree,
    pub selected: Vec<Selected>,
    pub exclude: Option<&'a dyn Filter>,
}

/// What everything that one action makes gets.
#[derive(Clone, Copy)]
struct How<'a> {
    owner: Option<(u32, u32)>,
    keep_owner: bool,
    mode: Option<&'a FileMode>,
}

impl How<'_> {
    fn of(&self, stat: &Stat) -> Attributes {
        let (uid, gid) = match self.owner {
            Some(owner) => owner,
            None if self.keep_owner => (stat.st_uid, stat.st_gid),
            None => (0, 0),
        };
        let is_directory = kind(stat) == FileType::Directory;
        let now = stat.st_mode & 0o7777;
        Attributes { mode: self.mode.map_or(now, |mode| mode.apply(now, is_directory)), uid, gid, mtime: Some(mtime(stat)) }
    }

    fn parents(&self) -> Attributes {
        let (uid, gid) = self.owner.unwrap_or_default();
        Attributes { uid, gid, ..Attributes::default() }
    }
}

impl<'a> Filling<'a> {
    /// Fills the directory `own` over the layers `base`, top first (none for an empty base).
    pub fn new(own: &Path, base: &[std::path::PathBuf], cancel: &'a Cancel) -> Result<Self> {
        let shown = own.to_string_lossy().into_owned();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = fs::open(own, flags, Mode::empty()).map_err(|error| Error::io("open", shown.as_bytes(), error))?;
        let base = Merged::open(base).map_err(|source| Error::Store { operation: "open the step's base", source })?;
        let below = base.root().map_err(|error| Error::io("open", shown.as_bytes(), error))?;
        Ok(Self { root: Place::root(root, below), base, cancel, may_link: true, links: HashMap::new() })
    }

    /// Makes a folder and those above it, or writes a file.
    pub fn simple(&mut self, action: &FileAction) -> Result<()> {
        match action {
            FileAction::Mkdir { path, mode, owner } => {
                let (uid, gid) = self.owner(owner.as_ref())?;
                self.root.reach(path.as_bytes(), Attributes { mode: *mode, uid, gid, mtime: None }).map(|_| ())
            }
            FileAction::Mkfile { path, name, content, mode, owner } => {
                let (uid, gid) = self.owner(owner.as_ref())?;
                let how = How { owner: Some((uid, gid)), keep_owner: false, mode: None };
                let (place, name) = self.destination(path, name.as_bytes(), how.parents(), false)?;
                place.make_room(&name)?;
                let at = join(&place.path, &name);
                let file = fs::openat(&place.own, name.as_slice(), NEW_FILE, Mode::from_raw_mode(0o600));
                let mut file = File::from(file.map_err(|error| Error::io("make", &at, error))?);
                file.write_all(content.as_bytes()).map_err(|error| Error::io("write", &at, error))?;
                let attributes = Attributes { mode: mode.apply(0o644, false), uid, gid, mtime: None };
                set_attributes(file.as_fd(), &attributes).map_err(|error| Error::io("set the attributes of", &at, error))
            }
            FileAction::Copy(_) => Ok(()),
        }
    }

    fn owner(&self, owner: Option<&Who>) -> Result<(u32, u32)> {
        owner::resolve(owner, &self.base)
    }

    /// Copies what was selected.
    pub fn copy(&mut self, copying: &Copying<'_>) -> Result<()> {
        let action = copying.action;
        let owner = action.owner.as_ref().map(|owner| self.owner(Some(owner))).transpose()?;
        let how = How { owner, keep_owner: action.keep_owner, mode: action.mode.as_ref() };
        let many = copying.selected.len() > 1;
        for selected in &copying.selected {
            self.cancel.check()?;
            self.one(copying, selected, &how, many)?;
        }
        Ok(())
    }

    fn one(&mut self, copying: &Copying<'_>, selected: &Selected, how: &How<'_>, many: bool) -> Result<()> {
        let action = copying.action;
        let name = selected.path.rsplit(|&byte| byte == b'/').next().unwrap_or_default().to_vec();
        let is_directory = matches!(selected.found, Found::Directory(_));
        if action.parents {
            return self.with_parents(copying, selected, how);
        }
        if action.unpack && self.unpack(copying, selected, how)? {
            return Ok(());
        }
        if is_directory {
            let (place, is_new) = self.root.reach(action.destination.as_bytes(), how.parents())?;
            let base_len = selected.path.len();
            self.content(copying, &selected.found, &selected.path, base_len, &place, how, 0)?;
            return if is_new { finish(&place, &selected.found, &selected.path, how) } else { Ok(()) };
        }
        let (place, name) = self.destination(&action.destination, &name, how.parents(), many)?;
        self.leaf(copying.tree, &selected.found, &selected.path, &place, &name, how)
    }

    /// The folder and name that a file goes to: into the destination if that is a folder (or must be one), else the destination is its name.
    fn destination(&self, destination: &str, name: &[u8], parents: Attributes, is_folder: bool) -> Result<(Place, Vec<u8>)> {
        let path = clean(destination.as_bytes());
        if is_folder || destination.ends_with('/') || destination.ends_with("/.") || path.is_empty() {
            return Ok((self.root.reach(&path, parents)?.0, name.to_vec()));
        }
        let (above, last) = match path.iter().rposition(|&byte| byte == b'/') {
            Some(at) => (&path[..at], &path[at + 1..]),
            None => (&b""[..], path.as_slice()),
        };
        let (place, _) = self.root.reach(above, parents)?;
        match place.look(last)? {
            There::Directory => Ok((self.root.reach(&path, parents)?.0, name.to_vec())),
            There::Link(_) => match self.is_directory(&path)? {
                true => Ok((self.root.reach(&path, parents)?.0, name.to_vec())),
                false => Ok((place, last.to_vec())),
            },
            There::Nothing | There::Other => Ok((place, last.to_vec())),
        }
    }

    /// Whether a path of the base leads to a folder in the end.
    fn is_directory(&self, path: &[u8]) -> Result<bool> {
        let found = self.base.resolve(path).map_err(|error| Error::io("look at", path, error))?;
        Ok(matches!(found, Some(Found::Directory(_))))
    }

    /// `--parents`: the folders above come along, those after the pivot if the source has one.
    fn with_parents(&mut self, copying: &Copying<'_>, selected: &Selected, how: &How<'_>) -> Result<()> {
        let source = copying.action.source.as_str();
        let pivot = source
            .find("/./")
            .map_or(0, |at| clean(&source.as_bytes()[..at]).split(|&byte| byte == b'/').filter(|part| !part.is_empty()).count());
        let parts: Vec<&[u8]> = selected.path.split(|&byte| byte == b'/').filter(|part| !part.is_empty()).collect();
        let (mut place, _) = self.root.reach(copying.action.destination.as_bytes(), how.parents())?;
        let is_directory = matches!(selected.found, Found::Directory(_));
        let folders = if is_directory { parts.len() } else { parts.len().saturating_sub(1) };
        for at in pivot..folders {
            let above = copying.tree.select(&String::from_utf8_lossy(&parts[..=at].join(&b'/')), false)?;
            let attributes = match above.first() {
                Some(above) => how.of(&stat(&above.found, &above.path)?),
                None => how.parents(),
            };
            place = place.enter(parts[at], attributes)?.0;
        }
        match is_directory {
            true => self.content(copying, &selected.found, &selected.path, selected.path.len(), &place, how, 0),
            false => self.leaf(copying.tree, &selected.found, &selected.path, &place, parts.last().copied().unwrap_or_default(), how),
        }
    }

    /// Copies what is in a folder.
    #[expect(clippy::too_many_arguments, reason = "a recursion that carries where it reads and where it writes")]
    fn content(
        &mut self,
        copying: &Copying<'_>,
        found: &Found,
        path: &[u8],
        base_len: usize,
        place: &Place,
        how: &How<'_>,
        depth: usize,
    ) -> Result<()> {
        let Found::Directory(parts) = found else { return Ok(()) };
        if depth > DEPTH_MAX {
            return Err(Error::path(path, "it is too many directories deep"));
        }
        self.cancel.check()?;
        for child in copying.tree.children(parts, path, base_len, copying.exclude)? {
            if !matches!(child.found, Found::Directory(_)) {
                self.leaf(copying.tree, &child.found, &child.path, place, &child.name, how)?;
                continue;
            }
            if child.is_excluded && !self.has_any(copying, &child.found, &child.path, base_len, depth)? {
                continue;
            }
            let attributes = how.of(&stat(&child.found, &child.path)?);
            let (below, _) = place.enter(&child.name, attributes)?;
            self.content(copying, &child.found, &child.path, base_len, &below, how, depth + 1)?;
            finish(&below, &child.found, &child.path, how)?;
        }
        Ok(())
    }

    /// Whether anything in a folder that is left out is wanted.
    fn has_any(&self, copying: &Copying<'_>, found: &Found, path: &[u8], base_len: usize, depth: usize) -> Result<bool> {
        let Found::Directory(parts) = found else { return Ok(true) };
        if depth > DEPTH_MAX {
            return Ok(false);
        }
        for child in copying.tree.children(parts, path, base_len, copying.exclude)? {
            if !child.is_excluded || self.has_any(copying, &child.found, &child.path, base_len, depth + 1)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Copies a file, link or node.
    fn leaf(&mut self, tree: &Tree, found: &Found, path: &[u8], place: &Place, name: &[u8], how: &How<'_>) -> Result<()> {
        let Found::Other(above, own) = found else { return Ok(()) };
        let stat = stat(found, path)?;
        let to = join(&place.path, name);
        let fail = |operation| {
            let to = to.clone();
            move |error: Errno| Error::io(operation, &to, error)
        };
        if kind(&stat) == FileType::Socket {
            return Ok(());
        }
        place.make_room(name)?;
        let identity = (stat.st_dev, stat.st_ino);
        if stat.st_nlink > 1
            && let Some((first, first_name)) = self.links.get(&identity)
            && !tree.is_owned
        {
            return fs::linkat(first, first_name.as_slice(), &place.own, name, AtFlags::empty()).map_err(fail("link"));
        }
        let attributes = how.of(&stat);
        match kind(&stat) {
            FileType::RegularFile => {
                // A file of another layer never changes: one more name for it is a copy.
                let same = (attributes.uid, attributes.gid, attributes.mode) == (stat.st_uid, stat.st_gid, stat.st_mode & 0o7777);
                let is_first = !self.links.contains_key(&identity);
                let linked = self.may_link
                    && tree.is_owned
                    && same
                    && is_first
                    && fs::linkat(above, own.as_slice(), &place.own, name, AtFlags::empty()).is_ok();
                if !linked {
                    copy_file(above, own, place, name, &attributes, path, &to)?;
                }
                if stat.st_nlink > 1 || linked {
                    let kept = rustix::io::fcntl_dupfd_cloexec(&place.own, 3).map_err(fail("open"))?;
                    self.links.insert(identity, (kept, name.to_vec()));
                }
                return Ok(());
            }
            FileType::Symlink => {
                let target = fs::readlinkat(above, own.as_slice(), Vec::new()).map_err(fail("read the link"))?;
                fs::symlinkat(target, &place.own, name).map_err(fail("make"))?;
            }
            file_type => {
                fs::mknodat(&place.own, name, file_type, Mode::from_raw_mode(0o600), stat.st_rdev).map_err(fail("make"))?;
                let mode = Mode::from_raw_mode(attributes.mode);
                fs::chmodat(&place.own, name, mode, AtFlags::empty()).map_err(fail("set the mode of"))?;
            }
        }
        let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
        fs::chownat(&place.own, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW).map_err(fail("set the owner of"))?;
        fs::utimensat(&place.own, name, &times(mtime(&stat)), AtFlags::SYMLINK_NOFOLLOW).map_err(fail("set the time of"))
    }

    /// Unpacks an archive; false if it is none.
    fn unpack(&mut self, copying: &Copying<'_>, selected: &Selected, how: &How<'_>) -> Result<bool> {
        let Found::Other(above, own) = &selected.found else { return Ok(false) };
        let file =
            fs::openat(above, own.as_slice(), FILE_FLAGS, Mode::empty()).map_err(|error| Error::io("open", &selected.path, error))?;
        if kind(&fs::fstat(&file).map_err(|error| Error::io("look at", &selected.path, error))?) != FileType::RegularFile {
            return Ok(false);
        }
        let mut file = File::from(file);
        if !is_archive(&mut file).map_err(|error| Error::io("read", &selected.path, error))? {
            return Ok(false);
        }
        let (place, _) = self.root.reach(copying.action.destination.as_bytes(), how.parents())?;
        let fail = |source| Error::Unpack { path: String::from_utf8_lossy(&selected.path).into_owned(), source };
        let mut plain = decompress(&mut file).map_err(|error| Error::io("read", &selected.path, error))?;
        self.unpack_over(&place, &mut plain, how, &fail)?;
        Ok(true)
    }

    fn unpack_over(
        &self,
        place: &Place,
        plain: &mut (dyn Read + Send),
        how: &How<'_>,
        fail: &dyn Fn(tarball::Error) -> Error,
    ) -> Result<()> {
        let open = |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, 3).map_err(|error| Error::io("open", &place.path, error));
        let refused = std::cell::RefCell::new(None);
        let rename = |path: &[u8]| match self.bring_up(&join(&place.path, path), path) {
            Ok(real) => Some(real),
            Err(error) => {
                refused.borrow_mut().get_or_insert(error);
                None
            }
        };
        let owner = how.owner.map_or(Owner::Archive, |(uid, gid)| Owner::Fixed(uid, gid));
        let target = Target { directory: open(&self.root.own)?, root: Some((open(&self.root.own)?, Vec::new())) };
        let unpacked = tarball::unpack(BufReader::new(plain), &target, &Unpack { owner, keep_kinds: false, rename: &rename });
        match refused.into_inner() {
            Some(error) => Err(error),
            None => unpacked.map_err(fail),
        }
    }

    /// Makes the folders above an archive's entry that the layers below have, as they are there. Answers the entry's path without links on the way.
    fn bring_up(&self, path: &[u8], shown: &[u8]) -> Result<Vec<u8>> {
        if escapes(shown) {
            return Err(Error::path(shown, "the path leads out of the archive's root"));
        }
        let path = clean(path);
        let mut left: Vec<Vec<u8>> = path.split(|&byte| byte == b'/').rev().map(<[u8]>::to_vec).collect();
        let mut stack = vec![self.root.duplicate()?];
        let mut links = 0;
        while let Some(name) = left.pop() {
            let Some(here) = stack.last() else { break };
            if name == b".." {
                if stack.len() > 1 {
                    stack.pop();
                }
                continue;
            }
            let is_last = left.is_empty();
            match here.look(&name)? {
                There::Directory => {
                    let next = here.enter(&name, Attributes::default())?.0;
                    stack.push(next);
                }
                There::Link(target) if !is_last => {
                    links += 1;
                    if links > LINKS_MAX {
                        return Err(Error::path(shown, "too many links on the way"));
                    }
                    if target.starts_with(b"/") {
                        stack.truncate(1);
                    }
                    left.extend(components(&target));
                }
                // What the archive makes, or what is in its way.
                There::Nothing | There::Link(_) | There::Other => {
                    left.push(name);
                    break;
                }
            }
        }
        let here = stack.last().map(|place| place.path.clone()).unwrap_or_default();
        Ok(left.iter().rev().fold(here, |path, name| join(&path, name)))
    }
}

/// Whether a path climbs above where it begins.
fn escapes(path: &[u8]) -> bool {
    let mut depth = 0i64;
    path.split(|&byte| byte == b'/').any(|part| {
        match part {
            b"" | b"." => {}
            b".." => depth -= 1,
            _ => depth += 1,
        }
        depth < 0
    })
}

/// Copies a file's content and attributes; the kernel copies, sharing blocks where the filesystem can.
fn copy_file(above: &OwnedFd, own: &[u8], place: &Place, name: &[u8], attributes: &Attributes, path: &[u8], to: &[u8]) -> Result<()> {
    let input = fs::openat(above, own, FILE_FLAGS, Mode::empty()).map_err(|error| Error::io("open", path, error))?;
    if kind(&fs::fstat(&input).map_err(|error| Error::io("look at", path, error))?) != FileType::RegularFile {
        return Err(Error::path(path, "it was replaced while it was copied"));
    }
    let output = fs::openat(&place.own, name, NEW_FILE, Mode::from_raw_mode(0o600)).map_err(|error| Error::io("make", to, error))?;
    let (mut input, mut output) = (File::from(input), File::from(output));
    io::copy(&mut input, &mut output).map_err(|error| Error::io("copy to", to, error))?;
    copy_xattrs(&input, &output).map_err(|error| Error::io("copy the attributes of", path, error))?;
    set_attributes(output.as_fd(), attributes).map_err(|error| Error::io("set the attributes of", to, error))
}

/// The attributes that mean the same elsewhere.
fn copy_xattrs(input: &File, output: &File) -> std::result::Result<(), Errno> {
    let mut names = [0u8; 4096];
    let len = match fs::flistxattr(input, &mut names) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::RANGE) => return Ok(()),
        Err(error) => return Err(error),
    };
    for name in names[..len].split(|&byte| byte == 0).filter(|name| *name == b"security.capability" || name.starts_with(b"user.")) {
        let mut value = vec![0; XATTRS_LEN_MAX];
        let copied = fs::fgetxattr(input, name, value.as_mut_slice())
            .and_then(|len| fs::fsetxattr(output, name, &value[..len], XattrFlags::empty()));
        match copied {
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM | Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives a folder what its source has, once everything is in it.
fn finish(place: &Place, found: &Found, path: &[u8], how: &How<'_>) -> Result<()> {
    let attributes = how.of(&stat(found, path)?);
    set_attributes(place.own.as_fd(), &attributes).map_err(|error| Error::io("set the attributes of", &place.path, error))
}

/// Whether a file is a tar archive, compressed or not. It is rewound.
fn is_archive(file: &mut File) -> io::Result<bool> {
    use std::io::Seek;
    let mut start = [0; 6];
    let len = read_up_to(file, &mut start)?;
    file.rewind()?;
    let compression = Compression::of(&start[..len]);
    let mut block = [0; BLOCK];
    let read = match decompress(file) {
        Ok(mut plain) => read_up_to(&mut *plain, &mut block),
        Err(error) => Err(error),
    };
    file.rewind()?;
    // Something compressed that is broken, or no tar, is a file like any other.
    let is_whole = matches!(read, Ok(BLOCK)) || compression == Compression::None && matches!(read, Ok(len) if len == BLOCK);
    Ok(is_whole && tarball::is_header(&block))
}

fn read_up_to(input: &mut (impl Read + ?Sized), bytes: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match input.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

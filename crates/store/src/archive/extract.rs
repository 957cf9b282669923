//! Unpacking one layer's archive into a directory that becomes a lower directory of overlays.
//!
//! Everything is made through directory descriptors below the layer's root, in which links are resolved too, so nothing in an archive can reach outside. Ownership, modes,
//! extended attributes and times are the archive's; whiteouts become what overlayfs understands. What would mean something else to overlayfs than to the archive's maker is refused.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, RenameFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::limits::Limits;
use super::parents::{Parents, Unreachable, is_whiteout, join, set_opaque, through_proc};
use super::recipe::{MOVED, Moved, RECIPE, RecipeWriter, SPARE};
use crate::catalog::RootAttributes;
use crate::{Error, Result};
use tarball::{Entry, Kind, ParseError, Parser};

const WHITEOUT: &[u8] = b".wh.";
/// Of AUFS, whose layers the format comes from; all but the opaque mark mean nothing elsewhere.
const AUFS: &[u8] = b".wh..wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// How many bytes of an archive's headers are held before the recipe takes them.
const ASIDE_LEN_MAX: usize = 64 << 10;
const LINK_LEN_MAX: usize = 4095;

/// What an unpacked archive turned out to be.
#[derive(Debug, Default)]
pub(crate) struct Extracted {
    /// The bytes of its regular files.
    pub size: u64,
    /// Mode and owner of the root directory, if it tells them.
    pub root: Option<RootAttributes>,
    /// What depends on the layers below.
    pub needs: Needs,
}

/// What a layer takes from the layers below it.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct Needs {
    /// Directories that have entries but no entry of their own: their attributes are those of the same directory below.
    pub directories: BTreeSet<Vec<u8>>,
    /// Hard links (path, target) whose target is not in the archive.
    pub links: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether everything at the root is hidden.
    pub opaque_root: bool,
}

impl Needs {
    pub fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.links.is_empty() && !self.opaque_root
    }
}

/// Unpacks into `directory`, which is empty: files to `fs/`, and beside it what gives the archive back.
pub(crate) fn extract<R: BufRead>(input: R, directory: &Path, limits: &Limits) -> Result<Extracted> {
    let fs_path = directory.join("fs");
    durable::create_dir(&fs_path, 0o755)?;
    let root = fs::open(&fs_path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let mut extractor = Extractor {
        parents: Parents::new(root.map_err(|error| Error::io("open", &fs_path, error))?),
        recipe: RecipeWriter::create(&directory.join(RECIPE))?,
        directory: directory.to_owned(),
        limits,
        found: Extracted::default(),
        directory_times: Vec::new(),
        moved: Vec::new(),
        spare: None,
    };
    extractor.run(&mut Parser::new(input))?;
    extractor.finish()
}

struct Extractor<'a> {
    parents: Parents,
    recipe: RecipeWriter,
    directory: PathBuf,
    limits: &'a Limits,
    found: Extracted,
    /// Set at the end, since what is put into a directory changes its time.
    directory_times: Vec<(Vec<u8>, (i64, u32))>,
    moved: Vec<Moved>,
    spare: Option<OwnedFd>,
}

/// Where an entry goes.
struct Place<'a> {
    /// Names of the directories above it.
    above: Vec<&'a [u8]>,
    /// Its own name; `None` for the root itself.
    name: Option<&'a [u8]>,
}

impl Extractor<'_> {
    fn run<R: BufRead>(&mut self, parser: &mut Parser<R>) -> Result<()> {
        let mut count = 0;
        while let Some(entry) = parser.next_entry().map_err(parse_error)? {
            count += 1;
            if count > self.limits.entries {
                return Err(Error::invalid("the archive", format!("it has more than {} entries", self.limits.entries)));
            }
            self.found.size = self.found.size.saturating_add(entry.content_len());
            if self.found.size > self.limits.layer_bytes {
                return Err(Error::invalid("the archive", format!("its files have more than {} bytes", self.limits.layer_bytes)));
            }
            let place = self.place(&entry.path)?;
            self.entry(parser, &entry, &place)?;
            if parser.aside().len() > ASIDE_LEN_MAX {
                self.take_aside(parser.aside())?;
            }
        }
        parser.finish::<Error>(|aside| self.take_aside(aside))?;
        self.take_aside(parser.aside())
    }

    fn take_aside(&mut self, aside: &mut Vec<u8>) -> Result<()> {
        self.recipe.raw(aside).map_err(|error| Error::io("write", &self.directory.join(RECIPE), error))
    }

    /// The components of a path, `.` and inner `..` resolved as text, as Docker does.
    fn place<'p>(&self, path: &'p [u8]) -> Result<Place<'p>> {
        let refuse = |reason: &str| Err(Error::invalid(shown(path), reason));
        if path.contains(&0) {
            return refuse("the path contains a NUL byte");
        }
        let mut above: Vec<&[u8]> = Vec::new();
        for component in path.split(|&byte| byte == b'/') {
            match component {
                b"" | b"." => {}
                b".." => {
                    if above.pop().is_none() {
                        return refuse("the path leads out of the archive's root");
                    }
                }
                name => above.push(name),
            }
        }
        if above.len() > self.limits.depth {
            return refuse(&format!("the path is more than {} directories deep", self.limits.depth));
        }
        let name = above.pop();
        Ok(Place { above, name })
    }

    fn entry<R: BufRead>(&mut self, parser: &mut Parser<R>, entry: &Entry, place: &Place<'_>) -> Result<()> {
        if let Some((name, _)) = entry.xattrs.iter().find(|(name, _)| name.starts_with(b"trusted.overlay.")) {
            return Err(Error::invalid(
                shown(&entry.path),
                format!("the attribute {} would change what overlayfs shows", String::from_utf8_lossy(name)),
            ));
        }
        let Some(name) = place.name else {
            return self.root_entry(entry);
        };
        if let Some(removed) = name.strip_prefix(WHITEOUT) {
            return self.whiteout(entry, place, name, removed);
        }
        let (above, real) = self.parent(&entry.path, &place.above)?;
        let real = join(&real, name);
        match entry.kind {
            Kind::Directory => self.directory_entry(above.as_fd(), entry, name, real),
            Kind::File => {
                self.make_room(above.as_fd(), entry, name, &real)?;
                self.file(parser, above.as_fd(), entry, name, &real)
            }
            Kind::HardLink => self.hard_link(above.as_fd(), entry, name, real),
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.make_room(above.as_fd(), entry, name, &real)?;
                make_node(above.as_fd(), entry, name)?;
                set_attributes(above.as_fd(), entry, name)
            }
        }
    }

    /// The directory that an entry goes into, made with those above it where the archive has no entries for them.
    fn parent(&mut self, path: &[u8], above: &[&[u8]]) -> Result<(OwnedFd, Vec<u8>)> {
        let implied = &mut self.found.needs.directories;
        let mut made = |real: &[u8], hides: bool| {
            // One that hides what is below takes nothing from there.
            if !hides {
                implied.insert(real.to_vec());
            }
        };
        match self.parents.open(above, Some(&mut made)) {
            Ok((fd, real)) => {
                let fd = fd.try_clone_to_owned().map_err(|error| at("open the parent directory", path, error))?;
                Ok((fd, real.to_vec()))
            }
            Err(Unreachable::Failed(error)) => Err(at("make the parent directory", path, error)),
            Err(Unreachable::Absent | Unreachable::NotADirectory) => Err(Error::invalid(shown(path), "something above it is no directory")),
        }
    }

    fn root_entry(&mut self, entry: &Entry) -> Result<()> {
        if entry.kind != Kind::Directory {
            return Err(Error::invalid(shown(&entry.path), "the root is no directory"));
        }
        self.found.root = Some(RootAttributes { mode: entry.mode, uid: entry.uid, gid: entry.gid });
        let root = self.parents.root();
        fs::fchown(root, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
            .map_err(|error| at("set the owner of", &entry.path, error))?;
        fs::fchmod(root, Mode::from_raw_mode(entry.mode)).map_err(|error| at("set the mode of", &entry.path, error))?;
        for (name, value) in &entry.xattrs {
            let set = fs::fsetxattr(root, name.as_slice(), value, XattrFlags::empty());
            tolerate(set, entry, name)?;
        }
        self.directory_times.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn whiteout(&mut self, entry: &Entry, place: &Place<'_>, name: &[u8], removed: &[u8]) -> Result<()> {
        if matches!(removed, b"" | b"." | b"..") {
            return Err(Error::invalid(shown(&entry.path), "the whiteout names no file in its directory"));
        }
        if name.starts_with(AUFS) && name != OPAQUE {
            return Ok(());
        }
        if name == OPAQUE && place.above.is_empty() {
            self.found.needs.opaque_root = true;
            return Ok(());
        }
        let (above, real) = self.parent(&entry.path, &place.above)?;
        if name == OPAQUE {
            self.found.needs.directories.remove(&real);
            return set_opaque(above.as_fd()).map_err(|error| at("mark as opaque", &entry.path, error));
        }
        match fs::statat(&above, removed, AtFlags::SYMLINK_NOFOLLOW) {
            // What the same archive brings is not removed by it; a directory then hides what is below.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                let directory = open_dir(above.as_fd(), removed).map_err(|error| at("open", &entry.path, error))?;
                self.found.needs.directories.remove(&join(&real, removed));
                set_opaque(directory.as_fd()).map_err(|error| at("mark as opaque", &entry.path, error))
            }
            Ok(_) => Ok(()),
            Err(Errno::NOENT) => fs::mknodat(&above, removed, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(|error| at("make the whiteout", &entry.path, error)),
            Err(error) => Err(at("look at", &entry.path, error)),
        }
    }

    fn directory_entry(&mut self, above: BorrowedFd<'_>, entry: &Entry, name: &[u8], real: Vec<u8>) -> Result<()> {
        let make = || fs::mkdirat(above, name, Mode::from_raw_mode(0o700));
        match make() {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let stat = fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW).map_err(|error| at("look at", &entry.path, error))?;
                if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
                    let hides = is_whiteout(&stat);
                    self.make_room(above, entry, name, &real)?;
                    make().map_err(|error| at("make", &entry.path, error))?;
                    if hides {
                        let directory = open_dir(above, name).map_err(|error| at("open", &entry.path, error))?;
                        set_opaque(directory.as_fd()).map_err(|error| at("mark as opaque", &entry.path, error))?;
                    }
                }
            }
            Err(error) => return Err(at("make", &entry.path, error)),
        }
        self.found.needs.directories.remove(&real);
        set_owner_and_mode(above, entry, name)?;
        set_xattrs(above, entry, name)?;
        self.directory_times.push((real, entry.mtime));
        Ok(())
    }

    fn file<R: BufRead>(&mut self, parser: &mut Parser<R>, above: BorrowedFd<'_>, entry: &Entry, name: &[u8], real: &[u8]) -> Result<()> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::openat(above, name, flags, Mode::from_raw_mode(0o600)).map_err(|error| at("make", &entry.path, error))?;
        let mut file = File::from(file);
        match &entry.sparse {
            Some(sparse) => {
                file.set_len(sparse.len).map_err(|error| at("set the length of", &entry.path, error))?;
                for part in &sparse.parts {
                    let end = part.offset + part.len;
                    copy(parser, entry, part.len, |chunk, left| file.write_all_at(chunk, end - left))?;
                }
            }
            None if entry.stored > 0 => {
                self.take_aside(parser.aside())?;
                self.recipe.content(real, entry.stored).map_err(|error| Error::io("write", &self.directory.join(RECIPE), error))?;
                copy(parser, entry, entry.stored, |chunk, _| file.write_all(chunk))?;
            }
            None => {}
        }
        // The kernel drops set-user-id bits and capabilities when the owner changes: owner first.
        fs::fchown(&file, Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
            .map_err(|error| at("set the owner of", &entry.path, error))?;
        fs::fchmod(&file, Mode::from_raw_mode(entry.mode)).map_err(|error| at("set the mode of", &entry.path, error))?;
        for (name, value) in &entry.xattrs {
            tolerate(fs::fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()), entry, name)?;
        }
        fs::futimens(&file, &times(entry.mtime)).map_err(|error| at("set the time of", &entry.path, error))
    }

    fn hard_link(&mut self, above: BorrowedFd<'_>, entry: &Entry, name: &[u8], real: Vec<u8>) -> Result<()> {
        let target = self.place(&entry.link)?;
        let Some(target_name) = target.name else {
            return Err(Error::invalid(shown(&entry.path), "a hard link to the root"));
        };
        let found = match self.parents.open(&target.above, None) {
            Ok((directory, target_above)) => {
                let directory = directory.try_clone_to_owned().map_err(|error| at("open the target of", &entry.path, error))?;
                Some((directory, join(target_above, target_name)))
            }
            Err(Unreachable::Absent) => None,
            Err(Unreachable::NotADirectory) => {
                return Err(Error::invalid(shown(&entry.path), "something above the link's target is no directory"));
            }
            Err(Unreachable::Failed(error)) => return Err(at("open the target of", &entry.path, error)),
        };
        let wanted = match &found {
            Some((directory, _)) => match fs::statat(directory, target_name, AtFlags::SYMLINK_NOFOLLOW) {
                Ok(stat) => Some((directory, stat)),
                Err(Errno::NOENT) => None,
                Err(error) => return Err(at("look at the target of", &entry.path, error)),
            },
            None => None,
        };
        let Some((directory, stat)) = wanted else {
            // It may be in a layer below.
            self.make_room(above, entry, name, &real)?;
            let target = target.above.iter().chain([&target_name]).fold(Vec::new(), |path, name| join(&path, name));
            self.found.needs.links.push((real, target));
            return Ok(());
        };
        if is_whiteout(&stat) || FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            return Err(Error::invalid(shown(&entry.path), "a hard link to what is no file"));
        }
        if let Ok(present) = fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW)
            && (present.st_dev, present.st_ino) == (stat.st_dev, stat.st_ino)
        {
            return Ok(());
        }
        self.make_room(above, entry, name, &real)?;
        fs::linkat(directory, target_name, above, name, AtFlags::empty()).map_err(|error| at("link", &entry.path, error))
    }

    /// Moves away what an earlier entry left under the name. Content that the recipe refers to is kept.
    fn make_room(&mut self, above: BorrowedFd<'_>, entry: &Entry, name: &[u8], real: &[u8]) -> Result<()> {
        let fail = |error| at("replace", &entry.path, error);
        let stat = match fs::statat(above, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(()),
            looked => looked.map_err(fail)?,
        };
        self.parents.forget();
        if !matches!(FileType::from_raw_mode(stat.st_mode), FileType::Directory | FileType::RegularFile) {
            return fs::unlinkat(above, name, AtFlags::empty()).map_err(fail);
        }
        let number = self.moved.len() as u64;
        let spare = self.spare()?;
        fs::renameat_with(above, name, spare, number.to_string().as_str(), RenameFlags::NOREPLACE).map_err(fail)?;
        self.moved.push(Moved { path: real.to_vec(), before: self.recipe.references(), spare: number });
        // Nothing of a replaced directory takes attributes from below any more.
        let below = [real, b"/"].concat();
        let needs = &mut self.found.needs;
        needs.directories.retain(|path| path != real && !path.starts_with(&below));
        needs.links.retain(|(path, _)| path != real && !path.starts_with(&below));
        self.directory_times.retain(|(path, _)| path != real && !path.starts_with(&below));
        Ok(())
    }

    fn spare(&mut self) -> Result<BorrowedFd<'_>> {
        if self.spare.is_none() {
            let path = self.directory.join(SPARE);
            durable::create_dir(&path, 0o700)?;
            let opened = fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
            self.spare = Some(opened.map_err(|error| Error::io("open", &path, error))?);
        }
        self.spare.as_ref().map(AsFd::as_fd).ok_or_else(|| Error::invalid(SPARE, "it is not open"))
    }

    fn link_late(&mut self, path: &[u8], target: &[u8]) -> Result<bool> {
        let (target_above, target_name) = split(target);
        let directory = match self.parents.open(&target_above, None) {
            Ok((directory, _)) => directory.try_clone_to_owned().map_err(|error| at("open the target of", path, error))?,
            Err(_) => return Ok(false),
        };
        let (above, name) = split(path);
        match self.parents.open(&above, None) {
            Ok((above, _)) => match fs::linkat(directory, target_name, above, name, AtFlags::empty()) {
                Ok(()) => Ok(true),
                Err(Errno::NOENT) => Ok(false),
                Err(error) => Err(at("link", path, error)),
            },
            Err(_) => Ok(false),
        }
    }

    fn finish(mut self) -> Result<Extracted> {
        // A link's target may have come later in the archive.
        for (path, target) in std::mem::take(&mut self.found.needs.links) {
            if !self.link_late(&path, &target)? {
                self.found.needs.links.push((path, target));
            }
        }
        for (path, mtime) in std::mem::take(&mut self.directory_times) {
            let components: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
            let set = match self.parents.open(&components, None) {
                Ok((directory, _)) => fs::utimensat(directory, ".", &times(mtime), AtFlags::empty()),
                Err(Unreachable::Failed(error)) => Err(error),
                Err(_) => Ok(()),
            };
            set.map_err(|error| at("set the time of", &path, error))?;
        }
        if !self.moved.is_empty() {
            let text = serde_json::to_vec(&self.moved).unwrap_or_default();
            let path = self.directory.join(MOVED);
            let written = File::create_new(&path).and_then(|mut file| file.write_all(&text));
            written.map_err(|error| Error::io("write", &path, error))?;
        }
        self.recipe.finish().map_err(|error| Error::io("write", &self.directory.join(RECIPE), error))?;
        Ok(self.found)
    }
}

/// Hands `len` bytes of content on; `write` is told how many are left, its own included.
fn copy<R: BufRead>(
    parser: &mut Parser<R>,
    entry: &Entry,
    len: u64,
    mut write: impl FnMut(&[u8], u64) -> std::io::Result<()>,
) -> Result<()> {
    let mut left = len;
    while left > 0 {
        let chunk = parser.content().map_err(parse_error)?;
        let part = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if part == 0 {
            return Err(Error::invalid(shown(&entry.path), "its content ends too early"));
        }
        write(&chunk[..part], left).map_err(|error| at("write", &entry.path, error))?;
        parser.consume(part);
        left -= part as u64;
    }
    Ok(())
}

fn make_node(above: BorrowedFd<'_>, entry: &Entry, name: &[u8]) -> Result<()> {
    let refuse = |reason: &str| Err(Error::invalid(shown(&entry.path), reason));
    let mode = Mode::from_raw_mode(entry.mode);
    let made = match entry.kind {
        Kind::Symlink => {
            if entry.link.is_empty() || entry.link.len() > LINK_LEN_MAX || entry.link.contains(&0) {
                return refuse("the link's target is empty, too long, or contains a NUL byte");
            }
            fs::symlinkat(entry.link.as_slice(), above, name)
        }
        Kind::Fifo => fs::mknodat(above, name, FileType::Fifo, mode, 0),
        Kind::CharDevice if entry.device == (0, 0) => return refuse("a character device 0:0 would be a whiteout to overlayfs"),
        Kind::CharDevice => fs::mknodat(above, name, FileType::CharacterDevice, mode, fs::makedev(entry.device.0, entry.device.1)),
        Kind::BlockDevice => fs::mknodat(above, name, FileType::BlockDevice, mode, fs::makedev(entry.device.0, entry.device.1)),
        Kind::File | Kind::HardLink | Kind::Directory => return refuse("it is no node"),
    };
    made.map_err(|error| at("make", &entry.path, error))
}

fn set_attributes(above: BorrowedFd<'_>, entry: &Entry, name: &[u8]) -> Result<()> {
    set_owner_and_mode(above, entry, name)?;
    set_xattrs(above, entry, name)?;
    fs::utimensat(above, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(|error| at("set the time of", &entry.path, error))
}

fn set_owner_and_mode(above: BorrowedFd<'_>, entry: &Entry, name: &[u8]) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(entry.uid), Gid::from_raw(entry.gid));
    fs::chownat(above, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(|error| at("set the owner of", &entry.path, error))?;
    // Links have no mode of their own.
    if entry.kind != Kind::Symlink {
        fs::chmodat(above, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(|error| at("set the mode of", &entry.path, error))?;
    }
    Ok(())
}

fn set_xattrs(above: BorrowedFd<'_>, entry: &Entry, name: &[u8]) -> Result<()> {
    for (key, value) in &entry.xattrs {
        let path = [through_proc(above).as_bytes(), b"/", name].concat();
        tolerate(fs::lsetxattr(path.as_slice(), key.as_slice(), value, XattrFlags::empty()), entry, key)?;
    }
    Ok(())
}

/// Attributes that this filesystem or kernel has no place for (SELinux labels, say) are left out, as Docker does.
fn tolerate(set: std::result::Result<(), Errno>, entry: &Entry, name: &[u8]) -> Result<()> {
    match set {
        Err(Errno::OPNOTSUPP | Errno::PERM) => {
            tracing::debug!(entry = %shown(&entry.path), attribute = %String::from_utf8_lossy(name), "the filesystem does not take an extended attribute");
            Ok(())
        }
        set => set.map_err(|error| at("set an extended attribute of", &entry.path, error)),
    }
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: time, last_modification: time }
}

fn open_dir(above: BorrowedFd<'_>, name: &[u8]) -> std::result::Result<OwnedFd, Errno> {
    fs::openat(above, name, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW, Mode::empty())
}

/// A path's directories and its last component.
pub(crate) fn split(path: &[u8]) -> (Vec<&[u8]>, &[u8]) {
    let mut components: Vec<&[u8]> = path.split(|&byte| byte == b'/').filter(|name| !name.is_empty()).collect();
    let name = components.pop().unwrap_or(b".");
    (components, name)
}

fn shown(path: &[u8]) -> String {
    format!("archive entry {:?}", String::from_utf8_lossy(path))
}

fn at(operation: &'static str, path: &[u8], error: impl Into<std::io::Error>) -> Error {
    Error::io(operation, Path::new(std::ffi::OsStr::from_bytes(path)), error)
}

fn parse_error(error: ParseError) -> Error {
    error.into()
}

impl From<ParseError> for Error {
    fn from(error: ParseError) -> Self {
        match error {
            ParseError::Read(source) => Self::Read { subject: "the archive".to_owned(), source },
            other => Self::invalid("the archive", other.to_string()),
        }
    }
}

//! From an archive into a directory of a live tree: a running container's, or the caller's own.

use std::fs::File;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use rustix::fs::{self, AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::{DEPTH_MAX, Entry, Error, Kind, Parser, names, through_proc};

const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const NODE: OFlags = PATH.union(OFlags::NOFOLLOW);
const DIRECTORY: OFlags = PATH.union(OFlags::DIRECTORY);
const IMPLIED_MODE: u32 = 0o755;
const LINK_LEN_MAX: usize = 4095;

/// Where an archive goes.
#[derive(Debug)]
pub struct Target {
    /// The directory that entries are relative to.
    pub directory: OwnedFd,
    /// The root in which links above entries are followed, and the path of `directory` from there. Without one a link above an entry is refused.
    pub root: Option<(OwnedFd, Vec<u8>)>,
}

/// To whom unpacked files belong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// To whom the archive says.
    Archive,
    /// To this user and group.
    Fixed(u32, u32),
    /// To the caller, who may not be able to give files away.
    Caller,
}

/// How to unpack.
pub struct Unpack<'r> {
    /// To whom what is made belongs.
    pub owner: Owner,
    /// A directory is not replaced by something else, nor something else by a directory.
    pub keep_kinds: bool,
    /// The path under which an entry is made: nothing leaves it out.
    pub rename: &'r dyn Fn(&[u8]) -> Option<Vec<u8>>,
}

/// Unpacks an archive. What is there already is replaced, directories are merged; entries that were made before a failure stay.
pub fn unpack<R: BufRead>(input: R, target: &Target, how: &Unpack<'_>) -> Result<(), Error> {
    let mut unpacker = Unpacker { target, how, last_parent: None, directory_times: Vec::new() };
    let mut parser = Parser::new(input);
    while let Some(mut entry) = parser.next_entry()? {
        // Only who must give back the exact archive needs them.
        parser.aside().clear();
        let Some(path) = (how.rename)(&entry.path) else { continue };
        entry.path = path;
        if entry.kind == Kind::HardLink {
            let Some(link) = (how.rename)(&entry.link) else { continue };
            entry.link = link;
        }
        unpacker.entry(&mut parser, &entry)?;
    }
    parser.finish::<Error>(|aside| {
        aside.clear();
        Ok(())
    })?;
    unpacker.finish()
}

struct Unpacker<'a> {
    target: &'a Target,
    how: &'a Unpack<'a>,
    /// Consecutive entries are most often in one directory.
    last_parent: Option<(Vec<u8>, OwnedFd)>,
    /// Set at the end, since what is put into a directory changes its time.
    directory_times: Vec<(OwnedFd, (i64, u32))>,
}

/// Times of directories are held by descriptors; beyond this many they are set early.
const DIRECTORY_TIMES_MAX: usize = 256;

impl Unpacker<'_> {
    fn entry<R: BufRead>(&mut self, parser: &mut Parser<R>, entry: &Entry) -> Result<(), Error> {
        let components = components(&entry.path)?;
        let Some((name, above)) = components.split_last() else {
            // The target itself keeps its attributes.
            return match entry.kind {
                Kind::Directory => Ok(()),
                _ => Err(Error::Refused("the archive's root is no directory".to_owned())),
            };
        };
        let parent = self.parent(above, &entry.path)?;
        let parent = parent.as_fd();
        let exists = self.make_room(parent, name, entry)?;
        match entry.kind {
            Kind::Directory => self.directory(parent, name, entry, exists),
            Kind::File => self.file(parser, parent, name, entry),
            Kind::HardLink => self.hard_link(parent, name, entry),
            Kind::Symlink => self.symlink(parent, name, entry),
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => self.node(parent, name, entry),
        }
    }

    fn finish(self) -> Result<(), Error> {
        for (directory, mtime) in self.directory_times.into_iter().rev() {
            set_time(directory.as_fd(), mtime, b".")?;
        }
        Ok(())
    }

    /// The directory that an entry goes into, made where it is missing.
    fn parent(&mut self, above: &[&[u8]], path: &[u8]) -> Result<OwnedFd, Error> {
        let text = above.join(&b'/');
        if let Some((last, fd)) = &self.last_parent
            && *last == text
        {
            return fd.try_clone().map_err(|error| Error::io("open the directory of", path, error));
        }
        let found = self.reach(above, path)?;
        let kept = found.try_clone().map_err(|error| Error::io("open the directory of", path, error))?;
        self.last_parent = Some((text, kept));
        Ok(found)
    }

    fn reach(&self, above: &[&[u8]], path: &[u8]) -> Result<OwnedFd, Error> {
        let fail = |error: Errno| Error::io("open the directory of", path, error);
        if above.is_empty() {
            return self.target.directory.try_clone().map_err(|error| Error::io("open the directory of", path, error));
        }
        match self.open_directory(&above.join(&b'/')) {
            Ok(fd) => return Ok(fd),
            Err(Errno::NOENT) => {}
            Err(Errno::LOOP) if self.target.root.is_none() => {
                return Err(Error::Refused(format!("{}: a link is in the way to it", String::from_utf8_lossy(path))));
            }
            Err(Errno::NOTDIR) => {
                return Err(Error::Refused(format!("{}: something above it is no directory", String::from_utf8_lossy(path))));
            }
            Err(error) => return Err(fail(error)),
        }
        let Some((name, higher)) = above.split_last() else { return Err(fail(Errno::NOENT)) };
        let parent = self.reach(higher, path)?;
        match fs::mkdirat(&parent, *name, Mode::from_raw_mode(IMPLIED_MODE)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(Error::io("make the directory of", path, error)),
        }
        fs::openat(&parent, *name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(fail)
    }

    /// A directory below the target: without links, or with links that stay in the root.
    fn open_directory(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let straight = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        match (fs::openat2(&self.target.directory, path, DIRECTORY, Mode::empty(), straight), &self.target.root) {
            (Err(Errno::LOOP), Some((root, base))) => {
                let whole = [base.as_slice(), b"/", path].concat();
                fs::openat2(root, whole, DIRECTORY, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
            }
            (opened, _) => opened,
        }
    }

    /// Removes what is in the way of an entry; answers whether a directory is there that the entry's directory merges with.
    fn make_room(&mut self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<bool, Error> {
        let present = match fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            looked => looked.map_err(|error| Error::io("look at", &entry.path, error))?,
        };
        let present_is_directory = FileType::from_raw_mode(present.st_mode) == FileType::Directory;
        let shown = || String::from_utf8_lossy(&entry.path).trim_end_matches('/').to_owned();
        match (present_is_directory, entry.kind == Kind::Directory) {
            (true, true) => return Ok(true),
            (true, false) if self.how.keep_kinds => {
                return Err(Error::Refused(format!("cannot overwrite directory {:?} with non-directory", shown())));
            }
            (false, true) if self.how.keep_kinds => {
                return Err(Error::Refused(format!("cannot overwrite non-directory {:?} with directory", shown())));
            }
            _ => {}
        }
        self.last_parent = None;
        remove(parent, name, 0).map_err(|error| Error::io("replace", &entry.path, error))?;
        Ok(false)
    }

    fn directory(&mut self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry, exists: bool) -> Result<(), Error> {
        if !exists {
            fs::mkdirat(parent, name, Mode::from_raw_mode(0o700)).map_err(|error| Error::io("make", &entry.path, error))?;
        }
        let made =
            fs::openat(parent, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty()).map_err(|error| Error::io("open", &entry.path, error))?;
        self.attributes(made.as_fd(), entry)?;
        if self.directory_times.len() < DIRECTORY_TIMES_MAX {
            self.directory_times.push((made, entry.mtime));
        } else {
            set_time(made.as_fd(), entry.mtime, &entry.path)?;
        }
        Ok(())
    }

    fn file<R: BufRead>(&self, parser: &mut Parser<R>, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), Error> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::openat(parent, name, flags, Mode::from_raw_mode(0o600)).map_err(|error| Error::io("make", &entry.path, error))?;
        let mut file = File::from(file);
        match &entry.sparse {
            Some(sparse) => {
                file.set_len(sparse.len).map_err(|error| Error::io("set the length of", &entry.path, error))?;
                for part in &sparse.parts {
                    let end = part.offset + part.len;
                    copy(parser, entry, part.len, |chunk, left| file.write_all_at(chunk, end - left))?;
                }
            }
            None => copy(parser, entry, entry.stored, |chunk, _| file.write_all(chunk))?,
        }
        self.attributes(file.as_fd(), entry)?;
        fs::futimens(&file, &times(entry.mtime)).map_err(|error| Error::io("set the time of", &entry.path, error))
    }

    fn hard_link(&mut self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), Error> {
        let target = components(&entry.link)?;
        let Some((target_name, above)) = target.split_last() else {
            return Err(Error::Refused(format!("{}: a hard link to the root", String::from_utf8_lossy(&entry.path))));
        };
        let directory = self.reach(above, &entry.link)?;
        // Without following: a link in its place is linked to as such.
        fs::linkat(directory, *target_name, parent, name, AtFlags::empty()).map_err(|error| Error::io("link", &entry.path, error))
    }

    fn symlink(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), Error> {
        if entry.link.is_empty() || entry.link.len() > LINK_LEN_MAX || entry.link.contains(&0) {
            return Err(Error::Refused(format!(
                "{}: its link is empty, too long, or contains a NUL byte",
                String::from_utf8_lossy(&entry.path)
            )));
        }
        fs::symlinkat(entry.link.as_slice(), parent, name).map_err(|error| Error::io("make", &entry.path, error))?;
        if let Some((uid, gid)) = self.owner(entry) {
            let owned = fs::chownat(parent, name, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)), AtFlags::SYMLINK_NOFOLLOW);
            owned.map_err(|error| Error::io("set the owner of", &entry.path, error))?;
        }
        fs::utimensat(parent, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| Error::io("set the time of", &entry.path, error))
    }

    fn node(&self, parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> Result<(), Error> {
        let (kind, device) = match entry.kind {
            Kind::CharDevice => (FileType::CharacterDevice, fs::makedev(entry.device.0, entry.device.1)),
            Kind::BlockDevice => (FileType::BlockDevice, fs::makedev(entry.device.0, entry.device.1)),
            _ => (FileType::Fifo, 0),
        };
        fs::mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device).map_err(|error| Error::io("make", &entry.path, error))?;
        let made = fs::openat(parent, name, NODE, Mode::empty()).map_err(|error| Error::io("open", &entry.path, error))?;
        let stat = fs::fstat(&made).map_err(|error| Error::io("look at", &entry.path, error))?;
        if FileType::from_raw_mode(stat.st_mode) != kind {
            return Err(Error::Refused(format!("{}: it was replaced while it was made", String::from_utf8_lossy(&entry.path))));
        }
        self.attributes(made.as_fd(), entry)?;
        set_time(made.as_fd(), entry.mtime, &entry.path)
    }

    fn owner(&self, entry: &Entry) -> Option<(u32, u32)> {
        match self.how.owner {
            Owner::Archive => Some((entry.uid, entry.gid)),
            Owner::Fixed(uid, gid) => Some((uid, gid)),
            Owner::Caller => None,
        }
    }

    /// Owner, mode and attributes, by the descriptor. The kernel drops set-user-id bits and capabilities when the owner changes: owner first.
    fn attributes(&self, made: BorrowedFd<'_>, entry: &Entry) -> Result<(), Error> {
        let at = through_proc(made);
        if let Some((uid, gid)) = self.owner(entry) {
            fs::chown(at.as_str(), Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
                .map_err(|error| Error::io("set the owner of", &entry.path, error))?;
        }
        fs::chmod(at.as_str(), Mode::from_raw_mode(entry.mode)).map_err(|error| Error::io("set the mode of", &entry.path, error))?;
        for (name, value) in entry.xattrs.iter().filter(|(name, _)| !name.starts_with(b"trusted.")) {
            match fs::setxattr(at.as_str(), name.as_slice(), value, XattrFlags::empty()) {
                // This filesystem or caller has no place for it; Docker leaves it out, too.
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::PERM) => {}
                Err(error) => return Err(Error::io("set an attribute of", &entry.path, error)),
            }
        }
        Ok(())
    }
}

/// The components of a path, `.` and inner `..` resolved as text, as Docker does.
fn components(path: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let refuse = |reason: &str| Err(Error::Refused(format!("archive entry {:?}: {reason}", String::from_utf8_lossy(path))));
    let mut components: Vec<&[u8]> = Vec::new();
    for component in path.split(|&byte| byte == b'/') {
        match component {
            b"" | b"." => {}
            b".." if components.pop().is_none() => return refuse("the path leads out of the directory"),
            b".." => {}
            name if name.contains(&0) => return refuse("the path contains a NUL byte"),
            name => components.push(name),
        }
    }
    match components.len() > DEPTH_MAX {
        true => refuse("the path is too deep"),
        false => Ok(components),
    }
}

/// Removes whatever has the name, with what is in it.
fn remove(parent: BorrowedFd<'_>, name: &[u8], depth: usize) -> Result<(), Errno> {
    match fs::unlinkat(parent, name, AtFlags::empty()) {
        Err(Errno::ISDIR) => {}
        Err(Errno::NOENT) => return Ok(()),
        removed => return removed,
    }
    if depth > DEPTH_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let directory = fs::openat(parent, name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    for name in names(directory.as_fd())? {
        remove(directory.as_fd(), &name, depth + 1)?;
    }
    fs::unlinkat(parent, name, AtFlags::REMOVEDIR)
}

/// Hands `len` bytes of content on; `write` is told how many are left, its own included.
fn copy<R: BufRead>(
    parser: &mut Parser<R>,
    entry: &Entry,
    len: u64,
    mut write: impl FnMut(&[u8], u64) -> io::Result<()>,
) -> Result<(), Error> {
    let mut left = len;
    while left > 0 {
        let chunk = parser.content()?;
        let part = chunk.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        if part == 0 {
            return Err(Error::Refused(format!("archive entry {:?}: its content ends too early", String::from_utf8_lossy(&entry.path))));
        }
        write(&chunk[..part], left).map_err(|error| Error::io("write", &entry.path, error))?;
        parser.consume(part);
        left -= part as u64;
    }
    Ok(())
}

fn set_time(fd: BorrowedFd<'_>, mtime: (i64, u32), path: &[u8]) -> Result<(), Error> {
    fs::utimensat(fs::CWD, through_proc(fd), &times(mtime), AtFlags::empty()).map_err(|error| Error::io("set the time of", path, error))
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: i64::from(nanos) };
    Timestamps { last_access: time, last_modification: time }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::path::Path;

    use super::*;
    use crate::{Packer, Plain};

    fn open(path: &Path) -> OwnedFd {
        fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).expect("opens")
    }

    fn packed(path: &Path, prefix: &[u8]) -> Vec<u8> {
        let mut packer = Packer::new(Vec::new(), &|_, _| false);
        packer.directory(&Plain, &open(path), prefix).expect("packs");
        packer.finish().expect("finishes")
    }

    fn how(keep_kinds: bool) -> Unpack<'static> {
        Unpack { owner: Owner::Caller, keep_kinds, rename: &|path| Some(path.to_vec()) }
    }

    fn into(root: &Path, base: &str) -> Target {
        Target { directory: open(&root.join(base)), root: Some((open(root), base.as_bytes().to_vec())) }
    }

    #[test]
    fn a_tree_survives_the_way() {
        let (from, to) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        let source = from.path();
        std::fs::create_dir_all(source.join("d/e")).expect("made");
        std::fs::write(source.join("d/file"), b"content").expect("written");
        std::fs::set_permissions(source.join("d/file"), std::fs::Permissions::from_mode(0o4751)).expect("set");
        std::fs::hard_link(source.join("d/file"), source.join("d/hard")).expect("linked");
        symlink("/etc/passwd", source.join("d/e/link")).expect("linked");
        unpack(packed(source, b"top").as_slice(), &into(to.path(), ""), &how(true)).expect("unpacks");
        let made = to.path().join("top/d");
        let (file, hard) = (made.join("file").metadata().expect("there"), made.join("hard").metadata().expect("there"));
        assert_eq!((file.ino(), file.mode() & 0o7777), (hard.ino(), 0o4751));
        assert_eq!(std::fs::read(made.join("hard")).expect("reads"), b"content");
        assert_eq!(std::fs::read_link(made.join("e/link")).expect("a link"), Path::new("/etc/passwd"));
        assert_eq!(file.mtime(), source.join("d/file").metadata().expect("there").mtime());
    }

    #[test]
    fn kinds_are_kept_when_asked_for() {
        let (from, to) = (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        std::fs::write(from.path().join("x"), b"file").expect("written");
        std::fs::create_dir_all(to.path().join("x/full")).expect("made");
        let archive = packed(from.path(), b"");
        let error = unpack(archive.as_slice(), &into(to.path(), ""), &how(true)).expect_err("refused");
        assert_eq!(error.to_string(), "cannot overwrite directory \"x\" with non-directory");
        unpack(archive.as_slice(), &into(to.path(), ""), &how(false)).expect("replaces");
        assert_eq!(std::fs::read(to.path().join("x")).expect("reads"), b"file");
        let error = unpack(packed(from.path(), b"x").as_slice(), &into(to.path(), ""), &how(true)).expect_err("refused");
        assert_eq!(error.to_string(), "cannot overwrite non-directory \"x\" with directory");
    }

    #[test]
    fn links_above_entries_stay_in_the_root_or_are_refused() {
        let (from, to, outside) =
            (tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"), tempfile::tempdir().expect("a folder"));
        std::fs::create_dir(from.path().join("sub")).expect("made");
        std::fs::write(from.path().join("sub/file"), b"x").expect("written");
        let mut packer = Packer::new(Vec::new(), &|path, _| path == b"sub");
        // Without the directory's own entry, so that the link is only passed through.
        packer.directory(&Plain, &open(&from.path().join("sub")), b"").expect("packs");
        let archive = packer.finish().expect("finishes");
        let below = Unpack { rename: &|path| Some([b"sub/", path].concat()), ..how(true) };
        std::fs::create_dir(to.path().join("base")).expect("made");
        let leads_out = outside.path().to_str().expect("text").to_owned();
        symlink(&leads_out, to.path().join("base/sub")).expect("linked");
        std::fs::create_dir_all(to.path().join(leads_out.trim_start_matches('/'))).expect("made");
        unpack(archive.as_slice(), &into(to.path(), "base"), &below).expect("inside of the root");
        assert!(to.path().join(leads_out.trim_start_matches('/')).join("file").exists());
        let own = Target { directory: open(&to.path().join("base")), root: None };
        assert!(matches!(unpack(archive.as_slice(), &own, &below), Err(Error::Refused(_))));
        assert_eq!(std::fs::read_dir(outside.path()).expect("lists").count(), 0);
    }

    #[test]
    fn paths_that_lead_out_are_refused() {
        for bad in [&b"../x"[..], b"a/../../x"] {
            assert!(components(bad).is_err());
        }
        assert_eq!(components(b"/a/./b/../c/").expect("good"), [b"a", b"c"]);
    }
}

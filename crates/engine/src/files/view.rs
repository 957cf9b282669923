//! A container's files as the container sees them, by descriptor: the root of its first process, or its layers and volumes mounted where nobody else sees them.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::mount::{Change, Propagation, attribute};
use rustix::fs::{self, AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, StatxFlags};
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};

use super::{described, read_directory};
use crate::container::Record;
use crate::mounts::{Planned, Source, clean};
use crate::request::PathStat;
use crate::{Engine, Error};

const INSIDE: ResolveFlags = ResolveFlags::IN_ROOT.union(ResolveFlags::NO_MAGICLINKS);
const PATH: OFlags = OFlags::PATH.union(OFlags::CLOEXEC);
const NODE: OFlags = PATH.union(OFlags::NOFOLLOW);
const DIRECTORY: OFlags = PATH.union(OFlags::DIRECTORY);

/// The files of one container.
pub(super) struct View {
    root: OwnedFd,
    name: String,
    /// Keeps the mounts of a container that does not run; they go with it.
    _namespace: Option<OwnedFd>,
}

/// What a path led to.
pub(super) struct Place {
    /// What it is, not opened for anything.
    pub(super) node: OwnedFd,
    /// The same for reading, if it is a directory.
    pub(super) content: Option<OwnedFd>,
    /// What its entries in an archive begin with: the path's last component, `.` or `/`.
    pub(super) entry_name: Vec<u8>,
    /// The path from the root, without `.` and `..`.
    path: String,
}

impl View {
    /// Opens the files of a container. Blocks.
    pub(super) fn open(engine: &Engine, record: &Record) -> Result<Self, Error> {
        let (root, namespace) = if record.is_alive() { (root_of_process(record)?, None) } else { mounted_aside(engine, record)? };
        Ok(Self { root, name: record.name.clone(), _namespace: namespace })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The path, with the last component as it is: only a slash or a dot after it follows a link there.
    pub(super) fn place(&self, asked_name: &str, path: &str) -> Result<Place, Error> {
        let fail = |error| self.unreachable(asked_name, path, error);
        let cleaned = clean(path);
        let asserts_directory = path.ends_with('/') || path.ends_with("/.") || path == ".";
        let (above, last) = cleaned.rsplit_once('/').unwrap_or(("", ""));
        let node = if last.is_empty() || asserts_directory {
            fs::openat2(&self.root, cleaned.as_str(), DIRECTORY, Mode::empty(), INSIDE).map_err(fail)?
        } else {
            let above =
                fs::openat2(&self.root, if above.is_empty() { "/" } else { above }, DIRECTORY, Mode::empty(), INSIDE).map_err(fail)?;
            fs::openat(&above, last, NODE, Mode::empty()).map_err(fail)?
        };
        let stat = fs::fstat(&node).map_err(fail)?;
        let entry_name = match last {
            "" => "/",
            _ if path.ends_with('.') && asserts_directory => ".",
            last => last,
        };
        let content = read_directory(&node, &stat).transpose().map_err(fail)?;
        Ok(Place { node, content, entry_name: entry_name.as_bytes().to_vec(), path: cleaned })
    }

    /// A directory with all links followed, and its path from the root.
    pub(super) fn directory(&self, asked_name: &str, path: &str) -> Result<(OwnedFd, Vec<u8>), Error> {
        let cleaned = clean(path);
        let opened = fs::openat2(&self.root, cleaned.as_str(), DIRECTORY, Mode::empty(), INSIDE);
        let directory = opened.map_err(|error| self.unreachable(asked_name, path, error))?;
        Ok((directory, cleaned.into_bytes()))
    }

    pub(super) fn describe(&self, place: &Place) -> Result<PathStat, Error> {
        let fail = |error: Errno| Error::Reach { path: place.path.clone(), name: self.name.clone(), source: error.into() };
        let stat = fs::fstat(&place.node).map_err(fail)?;
        let target = match FileType::from_raw_mode(stat.st_mode) {
            FileType::Symlink => self.link_target(place).map_err(fail)?,
            _ => String::new(),
        };
        Ok(described(&place.entry_name, &stat, target))
    }

    /// Whether a directory is in the root's own mount, not in one below it.
    pub(super) fn is_root_mount(&self, directory: &OwnedFd) -> bool {
        let mount = |fd: BorrowedFd<'_>| fs::statx(fd, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID).map(|stat| stat.stx_mnt_id);
        matches!((mount(self.root.as_fd()), mount(directory.as_fd())), (Ok(root), Ok(own)) if root == own)
    }

    /// Where a link leads in the end, as a path from the root; where that does not exist, where it says.
    fn link_target(&self, place: &Place) -> Result<String, Errno> {
        let text = |fd: BorrowedFd<'_>| fs::readlink(format!("/proc/self/fd/{}", fd.as_raw_fd()), Vec::new());
        if let Ok(end) = fs::openat2(&self.root, place.path.as_str(), PATH, Mode::empty(), INSIDE) {
            let (root, end) = (text(self.root.as_fd())?.into_bytes(), text(end.as_fd())?.into_bytes());
            let root = root.strip_suffix(b"/").unwrap_or(&root);
            if let Some(below) = end.strip_prefix(root) {
                return Ok(clean(&String::from_utf8_lossy(below)));
            }
        }
        let target = fs::readlinkat(&place.node, "", Vec::new())?.into_bytes();
        let above = place.path.rsplit_once('/').map_or("", |(above, _)| above);
        let target = String::from_utf8_lossy(&target);
        Ok(if target.starts_with('/') { clean(&target) } else { clean(&format!("{above}/{target}")) })
    }

    fn unreachable(&self, asked_name: &str, path: &str, error: Errno) -> Error {
        let (path, name) = (path.to_owned(), asked_name.to_owned());
        match error {
            Errno::NOENT => Error::NoSuchPath { path, name },
            Errno::NOTDIR => Error::NotADirectory { path, name },
            error => Error::Reach { path, name, source: error.into() },
        }
    }
}

/// The root of a running container's first process. The process is known by its cgroup, so that a number used again is not taken for it.
fn root_of_process(record: &Record) -> Result<OwnedFd, Error> {
    let fail = |source: std::io::Error| Error::Reach { path: "/".to_owned(), name: record.name.clone(), source };
    let process = fs::open(format!("/proc/{}", record.state.pid), DIRECTORY, Mode::empty()).map_err(|error| fail(error.into()))?;
    let groups = fs::openat(&process, "cgroup", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| fail(error.into()))?;
    let groups = std::io::read_to_string(std::fs::File::from(groups)).map_err(fail)?;
    if !groups.contains(record.id.as_str()) {
        return Err(Error::NotRunning { id: record.id.clone() });
    }
    fs::openat(&process, "root", DIRECTORY, Mode::empty()).map_err(|error| fail(error.into()))
}

/// The layers of a container that does not run with its volumes and binds on them, in a mount namespace that lives as long as its descriptor.
fn mounted_aside(engine: &Engine, record: &Record) -> Result<(OwnedFd, Option<OwnedFd>), Error> {
    let snapshot =
        engine.store.snapshot(record.id.as_str()).map_err(|source| Error::Store { operation: "find the container's files", source })?;
    let overlay = runtime::detached_overlay(&snapshot.lower, &snapshot.upper, &snapshot.work)
        .map_err(|source| Error::MountFiles { name: record.name.clone(), source })?;
    let sources: Vec<(&Planned, std::path::PathBuf)> =
        record.planned_mounts.iter().filter_map(|planned| Some((planned, source_of(engine, planned)?))).collect();
    let folder = engine.layout.container(&record.id);
    let fail = |source: std::io::Error| Error::Reach { path: "/".to_owned(), name: record.name.clone(), source };
    // A thread of its own: mount namespaces are changed for a thread, and this one must not come back to others' work.
    let namespace = std::thread::scope(|scope| {
        let made = std::thread::Builder::new()
            .name("view".to_owned())
            .spawn_scoped(scope, || attach(&overlay, record.host.readonly_rootfs, &folder, &sources));
        made.map(|thread| thread.join().unwrap_or_else(|_| Err(std::io::Error::other("the mounting thread failed"))))
    });
    let namespace = namespace.map_err(fail)?.map_err(fail)?;
    Ok((overlay, Some(namespace)))
}

/// The host's path of what is mounted; nothing for what has no content while the container does not run.
fn source_of(engine: &Engine, planned: &Planned) -> Option<std::path::PathBuf> {
    match &planned.source {
        Source::Bind { path, .. } => Some(path.into()),
        Source::Volume { name, subpath, .. } => {
            let mountpoint = engine.store.volume(name).ok()?.mountpoint.clone();
            Some(if subpath.is_empty() { mountpoint } else { mountpoint.join(subpath) })
        }
        Source::Tmpfs { .. } => None,
    }
}

/// Attaches root and mounts in a new namespace of the calling thread, and answers the namespace.
fn attach(overlay: &OwnedFd, read_only: bool, folder: &Path, sources: &[(&Planned, std::path::PathBuf)]) -> std::io::Result<OwnedFd> {
    kernel::ns::unshare(kernel::fork::namespace::MOUNT)?;
    // What the host unmounts goes here too; what is mounted here stays here.
    kernel::mount::change_path(c"/", &Change { propagation: Some(Propagation::Slave), recursive: true, ..Change::default() })?;
    let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    let at = fs::open(folder, DIRECTORY, Mode::empty())?;
    move_mount(overlay, "", &at, "", empty)?;
    for (planned, source) in sources {
        let name = CString::new(source.as_os_str().as_encoded_bytes())?;
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_RECURSIVE;
        let tree = match open_tree(CWD, name.as_c_str(), flags) {
            // A bind's directory is made by the start.
            Err(Errno::NOENT) => continue,
            tree => tree?,
        };
        let is_directory = FileType::from_raw_mode(fs::fstat(&tree)?.st_mode) == FileType::Directory;
        let target = match mount_point(overlay, &planned.destination, is_directory) {
            Err(Errno::NOENT) => continue,
            target => target?,
        };
        let change = Change {
            set: if planned.read_only { attribute::RDONLY } else { 0 },
            propagation: Some(Propagation::Private),
            recursive: true,
            ..Change::default()
        };
        kernel::mount::change(tree.as_fd(), c"", &change)?;
        move_mount(&tree, "", &target, "", empty)?;
    }
    if read_only {
        // Last: mount points were made in it.
        kernel::mount::change(overlay.as_fd(), c"", &Change { set: attribute::RDONLY, ..Change::default() })?;
    }
    Ok(fs::open("/proc/thread-self/ns/mnt", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?)
}

/// The directory or file that a mount goes on; directories are made as a start makes them.
fn mount_point(root: &OwnedFd, path: &str, is_directory: bool) -> Result<OwnedFd, Errno> {
    match fs::openat2(root, path, PATH, Mode::empty(), INSIDE) {
        Err(Errno::NOENT) if is_directory => {}
        opened => return opened,
    }
    let (above, name) = path.rsplit_once('/').ok_or(Errno::NOENT)?;
    let above = if above.is_empty() { fs::openat2(root, "/", PATH, Mode::empty(), INSIDE)? } else { mount_point(root, above, true)? };
    match fs::mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => fs::openat(&above, name, NODE | OFlags::DIRECTORY, Mode::empty()),
        Err(error) => Err(error),
    }
}

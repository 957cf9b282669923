//! The root filesystem: a directory of the host, or an overlay that is mounted for the container, with its layers' ids mapped where that is wanted.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kernel::fork::namespace;
use kernel::mount::{Change, Propagation, attribute};
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string,
    fsmount, fsopen, mount, move_mount,
};

use crate::control::{Channel, Message};
use crate::source::clone_tree;
use crate::spaces::{self, Users};
use crate::{Error, Result, Root};

/// Strings that fsconfig(2) takes end here.
const CONFIG_BYTES_MAX: usize = 255;

/// The root filesystem, as far as the caller can make it.
#[derive(Debug)]
pub(crate) enum RootMount {
    /// A detached mount.
    Detached(OwnedFd),
    /// Fsconfig(2) cannot take that many layers: the child mounts them with mount(2).
    Late,
}

/// The layers of an overlay.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layers<'a> {
    pub(crate) lower: &'a [PathBuf],
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
    pub(crate) volatile: bool,
}

/// Takes or makes the root. `users` is the user namespace that the ids of layers are mapped through, if they are. What runs in a user namespace cannot
/// mount an overlay late, so that nothing is left to it then.
pub(crate) fn take(root: &Root, in_user_namespace: bool, users: Option<&Users>) -> Result<RootMount> {
    let (layers, idmap) = match root {
        Root::Path(path) => return directory(path).map(RootMount::Detached),
        Root::Overlay { lower, upper, work, volatile, idmap } => (Layers { lower, upper, work, volatile: *volatile }, *idmap),
    };
    match (users.filter(|_| idmap), idmap) {
        (None, true) => {
            Err(Error::invalid("the layers of the root filesystem are to be id-mapped, but the container has no user namespace"))
        }
        (Some(users), _) if at_least((6, 15)) => mapped(&layers, users).map(RootMount::Detached),
        (Some(users), _) => aside(&layers, Some(users)).map(RootMount::Detached),
        (None, false) => match overlay(&layers)? {
            RootMount::Late if in_user_namespace => aside(&layers, None).map(RootMount::Detached),
            made => Ok(made),
        },
    }
}

/// A container's root filesystem as a detached mount of its own: for those who work on its files while it does not run.
///
/// # Errors
/// Those of the mount; and unsupported where the kernel cannot take that many layers in a detached mount (below Linux 6.5).
pub fn detached_overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd> {
    match overlay(&Layers { lower, upper, work, volatile: false })? {
        RootMount::Detached(mount) => Ok(mount),
        RootMount::Late => Err(Error::unsupported("this kernel cannot mount that many layers aside: start the container first")),
    }
}

fn directory(path: &Path) -> Result<OwnedFd> {
    let tree = clone_tree(path, true)?;
    if !tree.directory {
        return Err(Error::step(format!("use {} as root filesystem", path.display()))(Errno::NOTDIR));
    }
    let private = Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    kernel::mount::change(tree.mount.as_fd(), c"", &private)
        .map_err(Error::step(format!("mount the root filesystem {}", path.display())))?;
    Ok(tree.mount)
}

/// Options that keep the layers free of what only one mount would understand.
const OVERLAY_OPTIONS: [(&str, &str); 3] = [("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

/// What an overlay's directories are called towards the kernel, and the descriptors that those names go by.
#[derive(Debug, Default)]
struct Names {
    lower: Vec<String>,
    upper: String,
    work: String,
    held: Vec<OwnedFd>,
}

impl Names {
    fn of(
        layers: &Layers<'_>,
        name: fn(&Path, &mut Vec<OwnedFd>) -> std::result::Result<String, Errno>,
    ) -> std::result::Result<Self, Errno> {
        let mut held = Vec::new();
        let lower = layers.lower.iter().map(|path| name(path, &mut held)).collect::<std::result::Result<_, _>>()?;
        let (upper, work) = (name(layers.upper, &mut held)?, name(layers.work, &mut held)?);
        Ok(Self { lower, upper, work, held })
    }
}

fn overlay(layers: &Layers<'_>) -> Result<RootMount> {
    // Linux below 6.5 has no `lowerdir+`: then all layers in one short string, and where that is too long, mount(2), whose options may fill a page.
    let each = at_least((6, 5));
    let names = Names::of(layers, if each { short } else { descriptor_name }).map_err(fail(layers, ""))?;
    match mount_names(layers, &names, each) {
        Err(Error::Step { source: Errno::NAMETOOLONG, .. }) => Ok(RootMount::Late),
        made => made.map(RootMount::Detached),
    }
}

fn fail(layers: &Layers<'_>, complaint: &str) -> impl FnOnce(Errno) -> Error + use<> {
    Error::step(format!("mount overlay with the upper directory {}{complaint}", layers.upper.display()))
}

fn mount_names(layers: &Layers<'_>, names: &Names, each: bool) -> Result<OwnedFd> {
    if names.lower.is_empty() {
        return Err(Error::invalid("an overlay root needs a lower directory"));
    }
    if layers.volatile {
        forget_volatile(layers.work);
    }
    let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail(layers, ""))?;
    let set = |key: &str, value: &str| fsconfig_set_string(&context, key, value);
    let fill = || -> std::result::Result<OwnedFd, Errno> {
        set("source", "overlay")?;
        if each {
            names.lower.iter().try_for_each(|layer| set("lowerdir+", layer))?;
        } else {
            let joined = names.lower.join(":");
            if joined.len() > CONFIG_BYTES_MAX {
                return Err(Errno::NAMETOOLONG);
            }
            set("lowerdir", &joined)?;
        }
        set("upperdir", &names.upper)?;
        set("workdir", &names.work)?;
        OVERLAY_OPTIONS.iter().try_for_each(|(key, value)| set(key, value))?;
        if layers.volatile {
            fsconfig_set_flag(&context, "volatile")?;
        }
        fsconfig_create(&context)?;
        fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    fill().map_err(|errno| fail(layers, &explanation(&context))(errno))
}

/// An overlay of id-mapped copies of the layers. The overlay itself cannot be mapped. Read/write layer and scratch space have to be of one mount.
fn mapped(layers: &Layers<'_>, users: &Users) -> Result<OwnedFd> {
    let (above, upper, work) = side_by_side(layers)?;
    let mut names = Names::default();
    for layer in layers.lower {
        names.lower.push(hold(mapped_clone(layer, users)?, &mut names.held));
    }
    let above = hold(mapped_clone(above, users)?, &mut names.held);
    (names.upper, names.work) = (format!("{above}/{upper}"), format!("{above}/{work}"));
    as_root_of(users, || mount_names(layers, &names, true))
}

/// Mounts as the root of the user namespace towards filesystems: an overlay works in its scratch space as whoever mounted it, and the host's root has no
/// id in there.
fn as_root_of<T>(users: &Users, body: impl FnOnce() -> Result<T>) -> Result<T> {
    let (uid, gid) = users.root.ok_or_else(|| {
        Error::invalid("the layers of the root filesystem cannot be id-mapped: the maps have no entry that begins with id 0")
    })?;
    kernel::caps::with_filesystem_ids(uid, gid, body).map_err(Error::step(format!("take on the ids {uid}:{gid}")))?
}

/// The directory that holds the read/write layer and the scratch space, and their names in it.
fn side_by_side<'a>(layers: &Layers<'a>) -> Result<(&'a Path, &'a str, &'a str)> {
    let split = |path: &'a Path| Some((path.parent()?, path.file_name()?.to_str()?));
    match (split(layers.upper), split(layers.work)) {
        (Some((above, upper)), Some((other, work))) if above == other => Ok((above, upper, work)),
        _ => Err(Error::invalid(format!(
            "{} and {} must be in one directory to be id-mapped",
            layers.upper.display(),
            layers.work.display()
        ))),
    }
}

/// A detached copy of one mount, its ids mapped through `users`.
fn mapped_clone(path: &Path, users: &Users) -> Result<OwnedFd> {
    let mount = clone_tree(path, false)?.mount;
    map_ids(mount.as_fd(), users, false, &path.display().to_string())?;
    Ok(mount)
}

/// Maps the ids of a detached mount.
pub(crate) fn map_ids(mount: BorrowedFd<'_>, users: &Users, recursive: bool, what: &str) -> Result<()> {
    let change = Change { set: attribute::IDMAP, user_namespace: Some(users.namespace.as_fd()), recursive, ..Change::default() };
    kernel::mount::change(mount, c"", &change).map_err(|errno| match errno {
        Errno::INVAL => {
            Error::unsupported(format!("the ids of {what} cannot be mapped: its filesystem, or this kernel, has no id-mapped mounts"))
        }
        errno => Error::step(format!("map the ids of {what}"))(errno),
    })
}

/// Mounts the overlay in a mount namespace of its own, where id-mapped copies of the layers lie over them: kernels below 6.15 take no detached mounts as
/// layers. The overlay outlives that namespace.
fn aside(layers: &Layers<'_>, users: Option<&Users>) -> Result<OwnedFd> {
    let (ours, theirs) = Channel::pair()?;
    let helper = kernel::fork::fork(namespace::MOUNT, None, || {
        let message = match mount_aside(layers, users) {
            Ok(mount) => Message::Ready(Some(mount)),
            Err(error) => Message::Failed(error),
        };
        i32::from(theirs.send(&message).is_err())
    })
    .map_err(Error::step("make a mount namespace"))?;
    drop(theirs);
    let answer = ours.receive();
    spaces::reap(helper.pidfd.as_fd());
    match answer.map_err(Error::step("listen to a process"))? {
        Message::Ready(Some(mount)) => Ok(mount),
        Message::Failed(error) => Err(error),
        _ => Err(Error::ChildLost { stage: "mount the root filesystem".into() }),
    }
}

fn mount_aside(layers: &Layers<'_>, users: Option<&Users>) -> Result<OwnedFd> {
    let private = Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
    kernel::mount::change_path(c"/", &private).map_err(Error::step("make the host's mounts private"))?;
    if let Some(users) = users {
        let (above, ..) = side_by_side(layers)?;
        let paths: Vec<&Path> = layers.lower.iter().map(PathBuf::as_path).chain([above]).collect();
        let clones = paths.iter().map(|path| mapped_clone(path, users)).collect::<Result<Vec<_>>>()?;
        for (path, clone) in paths.iter().zip(&clones) {
            move_mount(clone, c"", CWD, *path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
                .map_err(Error::step(format!("cover {}", path.display())))?;
        }
    }
    let mount = || match overlay(layers)? {
        RootMount::Detached(mount) => Ok(mount),
        RootMount::Late => {
            mount_late(layers)?;
            Ok(clone_tree(layers.upper, false)?.mount)
        }
    };
    users.map_or_else(mount, |users| as_root_of(users, mount))
}

/// Mounts the overlay with mount(2), over its own upper directory: any directory does, and this one is there. For mount namespaces that nobody else
/// looks into.
pub(crate) fn mount_late(layers: &Layers<'_>) -> Result<()> {
    let names = Names::of(layers, descriptor_name).map_err(fail(layers, ""))?;
    let fixed: String = OVERLAY_OPTIONS.iter().map(|(key, value)| format!(",{key}={value}")).collect();
    let volatile = if layers.volatile { ",volatile" } else { "" };
    let options = format!("lowerdir={},upperdir={},workdir={}{fixed}{volatile}", names.lower.join(":"), names.upper, names.work);
    let options = CString::new(options).map_err(|_| Error::invalid("an overlay path contains a zero byte"))?;
    mount(c"overlay", layers.upper, c"overlay", MountFlags::empty(), Some(options.as_c_str())).map_err(fail(layers, ""))
}

/// Whether the kernel is of this version or a later one. Trying what an older one does not have would leave a complaint in its log each time.
fn at_least(version: (u32, u32)) -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|digits| digits.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= version
}

/// What the kernel has to say about a filesystem that it refused to configure, in brackets; empty when it says nothing.
pub(crate) fn explanation(context: &OwnedFd) -> String {
    let mut texts = Vec::new();
    let mut buffer = [0u8; 512];
    // One message per read, until there is none.
    while let Ok(count @ 1..) = rustix::io::read(context, &mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..count]);
        texts.push(text.trim().trim_start_matches("e ").to_owned());
    }
    if texts.is_empty() { String::new() } else { format!(" ({})", texts.join("; ")) }
}

/// The kernel marks the work directory of a volatile overlay, and refuses to mount it again, since after a crash of the machine the upper directory may
/// have holes. Without a crash it has none; and whoever asks for a volatile overlay once more accepts them.
fn forget_volatile(work: &Path) {
    use rustix::fs::{AtFlags, unlinkat};
    let mark = work.join("work/incompat/volatile");
    // Most often there is nothing to forget.
    if unlinkat(CWD, mark.join("dirty"), AtFlags::empty()).is_ok() {
        let _ = unlinkat(CWD, &mark, AtFlags::REMOVEDIR);
    }
}

/// `path`, or when fsconfig could not take it the name of a descriptor of it.
fn short(path: &Path, held: &mut Vec<OwnedFd>) -> std::result::Result<String, Errno> {
    match path.to_str().filter(|text| text.len() <= CONFIG_BYTES_MAX && !text.contains(['\\', ',', ':'])) {
        Some(text) => Ok(text.to_owned()),
        None => descriptor_name(path, held),
    }
}

fn descriptor_name(path: &Path, held: &mut Vec<OwnedFd>) -> std::result::Result<String, Errno> {
    Ok(hold(open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?, held))
}

/// The name of a descriptor that is kept open.
fn hold(fd: OwnedFd, held: &mut Vec<OwnedFd>) -> String {
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    held.push(fd);
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::IdMaps;
    use std::os::unix::fs::{MetadataExt, chown};

    /// Both ways of mapping a root's layers, on kernels that have both.
    #[test]
    fn mapped_layers_show_other_ids_and_take_them_back() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: mounting needs root");
            return;
        }
        let path = std::env::temp_dir().join(format!("cais-root-{}", std::process::id()));
        let folder = |name: &str| path.join(name);
        for name in ["lower", "upper", "work"] {
            std::fs::create_dir_all(folder(name)).unwrap();
        }
        std::fs::write(folder("lower/seven"), "").unwrap();
        chown(folder("lower/seven"), Some(7), Some(8)).unwrap();
        let map = "0 300000 65536\n".to_owned();
        let users = Users::with(&IdMaps { users: map.clone(), groups: map }).unwrap();
        let lower = [folder("lower")];
        let (upper, work) = (folder("upper"), folder("work"));
        let layers = Layers { lower: &lower, upper: &upper, work: &work, volatile: true };
        let ways: [&dyn Fn() -> Result<OwnedFd>; 2] = [&|| aside(&layers, Some(&users)), &|| mapped(&layers, &users)];
        for way in ways.iter().take(if at_least((6, 15)) { 2 } else { 1 }) {
            let root = way().unwrap();
            let seven = rustix::fs::statat(&root, "seven", rustix::fs::AtFlags::empty()).unwrap();
            assert_eq!((seven.st_uid, seven.st_gid), (300_007, 300_008));
            let uid = |number| Some(rustix::fs::Uid::from_raw(number));
            // Changed through the overlay it is copied up, and is on disk what it is inside.
            rustix::fs::chownat(&root, "seven", uid(300_009), None, rustix::fs::AtFlags::empty()).unwrap();
            let copied = std::fs::metadata(folder("upper/seven")).unwrap();
            assert_eq!((copied.uid(), copied.gid()), (9, 8));
            drop(root);
            std::fs::remove_file(folder("upper/seven")).unwrap();
        }
        let apart = Layers { work: &path.join("lower/work"), ..layers };
        assert!(mapped(&apart, &users).unwrap_err().to_string().contains("must be in one directory"));
        std::fs::remove_dir_all(path).unwrap();
    }
}

//! What the container gets from the host, opened by the caller before it forks: the root filesystem, bind sources, namespaces, the filter.
//!
//! Opening here, outside the new namespaces, lets the same code serve user namespaces: a detached mount may be attached where it could not be made.

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use kernel::fork::namespace;
use kernel::mount::{Change, Propagation, attribute};
use kernel::seccomp::Instruction;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    open_tree,
};

use crate::plan::{Filesystem, MountStep, NodeKind, Plan};
use crate::{Error, Launch, Result, Root, path, seccomp};

/// Strings that fsconfig(2) takes end here.
const CONFIG_BYTES_MAX: usize = 255;

/// The opened things.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) root: RootMount,
    /// In step with the plan's mounts; `None` for what the child mounts itself.
    pub(crate) binds: Vec<Option<Bind>>,
    /// In step with the plan's devices, where nodes cannot be made (user namespaces).
    pub(crate) devices: Vec<OwnedFd>,
    pub(crate) program: Option<Vec<Instruction>>,
    /// Namespaces to join, given ones first.
    joined: Vec<(u64, BorrowedFd<'a>)>,
    opened: Vec<(u64, OwnedFd)>,
}

/// The root filesystem.
#[derive(Debug)]
pub(crate) enum RootMount {
    /// A detached mount.
    Detached(OwnedFd),
    /// Fsconfig(2) cannot take that many layers: the child mounts them with mount(2).
    Late,
}

/// A detached copy of a part of the host's tree.
#[derive(Debug)]
pub(crate) struct Bind {
    pub(crate) mount: OwnedFd,
    pub(crate) directory: bool,
}

/// The container's groups in the version 1 hierarchies: names below /sys/fs/cgroup and detached mounts. One without a name is the whole of it.
pub(crate) type GroupBinds = Vec<(String, OwnedFd)>;

impl<'a> Sources<'a> {
    pub(crate) fn open(launch: &Launch<'a>, plan: &Plan) -> Result<Self> {
        let joined: Vec<_> = launch.namespaces.each().collect();
        let opened = plan
            .joined
            .iter()
            .map(|(flag, path)| {
                let fd = open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
                    .map_err(Error::step(format!("open the namespace {}", path.display())))?;
                Ok((*flag, fd))
            })
            .collect::<Result<Vec<_>>>()?;
        if joined.iter().map(|(flag, _)| *flag).chain(opened.iter().map(|(flag, _)| *flag)).any(|flag| flag == namespace::USER) {
            return Err(Error::unsupported(
                "joining an existing user namespace is not supported: a container makes its own or has the host's",
            ));
        }
        let devices = if plan.ids.is_some() {
            plan.devices.iter().map(|device| Ok(clone_tree(&device.path, false)?.mount)).collect::<Result<_>>()?
        } else {
            Vec::new()
        };
        Ok(Self {
            root: root(&launch.root)?,
            binds: plan.mounts.iter().map(bind).collect::<Result<_>>()?,
            devices: if plan.devices.iter().any(|device| device.kind == NodeKind::Fifo) && plan.ids.is_some() {
                return Err(Error::unsupported("named pipes among the devices cannot be made in a user namespace"));
            } else {
                devices
            },
            program: program(launch)?,
            joined,
            opened,
        })
    }

    /// The namespaces that the caller must be in while it forks: a pid namespace takes children only, and from inside a new user namespace none of
    /// the host's can be joined any more.
    pub(crate) fn joined_by_caller(&self, plan: &Plan) -> Vec<(u64, BorrowedFd<'_>)> {
        self.all_joined().filter(|(flag, _)| *flag == namespace::PID || plan.ids.is_some()).collect()
    }

    /// The namespaces that the child joins itself.
    pub(crate) fn joined_by_child(&self, plan: &Plan) -> Vec<(u64, BorrowedFd<'_>)> {
        self.all_joined().filter(|(flag, _)| *flag != namespace::PID && plan.ids.is_none()).collect()
    }

    fn all_joined(&self) -> impl Iterator<Item = (u64, BorrowedFd<'_>)> {
        self.joined.iter().copied().chain(self.opened.iter().map(|(flag, fd)| (*flag, fd.as_fd())))
    }

    /// Version 1 and hybrid: a mount of each of the container's groups, if it wants to see them.
    pub(crate) fn group_binds(&self, launch: &Launch<'_>, plan: &Plan, group: Option<&cgroup::Group>) -> Result<GroupBinds> {
        let Some(step) = plan.mounts.iter().find(|step| step.filesystem == Filesystem::Cgroup) else { return Ok(Vec::new()) };
        let detected;
        let system = match launch.cgroup {
            Some(wanted) => wanted.system,
            None => {
                detected = cgroup::System::detect()?;
                &detected
            }
        };
        let mut binds = Vec::new();
        if let (cgroup::Mode::V2, Some(hierarchy)) = (system.mode(), system.unified()) {
            // A user namespace may mount the whole only together with a cgroup namespace of its own; else it sees its own group.
            if plan.ids.is_some() && plan.late_namespaces & namespace::CGROUP == 0 {
                let directory = group.and_then(|group| group.directory_of("")).unwrap_or(&hierarchy.mount);
                binds.push((String::new(), group_bind(step, directory)?));
            }
            return Ok(binds);
        }
        for hierarchy in system.hierarchies() {
            let Some(name) = hierarchy.mount.file_name().map(|name| name.to_string_lossy().into_owned()) else { continue };
            let controller = if hierarchy.unified { "" } else { hierarchy.controllers.first().map_or("", String::as_str) };
            let directory = match group {
                // A hierarchy in which no group could be made is left out.
                Some(group) => match group.directory_of(controller) {
                    Some(directory) => directory,
                    None => continue,
                },
                None => hierarchy.mount.as_path(),
            };
            binds.push((name, group_bind(step, directory)?));
        }
        Ok(binds)
    }
}

fn group_bind(step: &MountStep, directory: &Path) -> Result<OwnedFd> {
    let mount = clone_tree(directory, false)?.mount;
    let change = Change { set: step.set, propagation: Some(Propagation::Private), ..Change::default() };
    kernel::mount::change(mount.as_fd(), c"", &change).map_err(Error::step(step.name()))?;
    Ok(mount)
}

fn program(launch: &Launch<'_>) -> Result<Option<Vec<Instruction>>> {
    filter(launch.spec.linux.seccomp.as_ref(), launch.seccomp_program)
}

/// The filter that goes with `profile`: the compiled one, or the profile compiled now.
pub(crate) fn filter(profile: Option<&crate::oci::Seccomp>, compiled: Option<&[u8]>) -> Result<Option<Vec<Instruction>>> {
    let Some(profile) = profile else { return Ok(None) };
    let own;
    let bytes = match compiled {
        Some(bytes) => bytes,
        None => {
            own = seccomp::compile(profile)?;
            &own
        }
    };
    let (instructions, rest) = bytes.as_chunks::<8>();
    if !rest.is_empty() {
        return Err(Error::invalid("the compiled seccomp filter is not a whole number of instructions"));
    }
    Ok(Some(instructions.iter().map(|bytes| Instruction::from_bytes(*bytes)).collect()))
}

fn root(root: &Root) -> Result<RootMount> {
    match root {
        Root::Path(path) => {
            let tree = clone_tree(path, true)?;
            if !tree.directory {
                return Err(Error::step(format!("use {} as root filesystem", path.display()))(Errno::NOTDIR));
            }
            let private = Change { propagation: Some(Propagation::Private), recursive: true, ..Change::default() };
            kernel::mount::change(tree.mount.as_fd(), c"", &private)
                .map_err(Error::step(format!("mount the root filesystem {}", path.display())))?;
            Ok(RootMount::Detached(tree.mount))
        }
        Root::Overlay { lower, upper, work, volatile } => overlay(lower, upper, work, *volatile),
    }
}

/// A container's root filesystem as a detached mount of its own: for those who work on its files while it does not run.
///
/// # Errors
/// Those of the mount; and unsupported where the kernel cannot take that many layers in a detached mount (below Linux 6.5).
pub fn detached_overlay(lower: &[PathBuf], upper: &Path, work: &Path) -> Result<OwnedFd> {
    match overlay(lower, upper, work, false)? {
        RootMount::Detached(mount) => Ok(mount),
        RootMount::Late => Err(Error::unsupported("this kernel cannot mount that many layers aside: start the container first")),
    }
}

/// Options that keep the layers free of what only one mount would understand.
const OVERLAY_OPTIONS: [(&str, &str); 3] = [("index", "off"), ("redirect_dir", "off"), ("metacopy", "off")];

fn overlay(lower: &[PathBuf], upper: &Path, work: &Path, volatile: bool) -> Result<RootMount> {
    let fail = |complaint: &str| Error::step(format!("mount overlay with the upper directory {}{complaint}", upper.display()));
    if lower.is_empty() {
        return Err(Error::invalid("an overlay root needs a lower directory"));
    }
    let mut held = Vec::new();
    let mut complaint = String::new();
    let set = |context: &OwnedFd, key: &str, value: &str| fsconfig_set_string(context, key, value);
    let fill = |context: &OwnedFd, held: &mut Vec<OwnedFd>, each: bool| -> std::result::Result<OwnedFd, Errno> {
        set(context, "source", "overlay")?;
        if each {
            for layer in lower {
                set(context, "lowerdir+", &short(layer, held)?)?;
            }
        } else {
            set(context, "lowerdir", &joined(lower, held)?)?;
        }
        set(context, "upperdir", &short(upper, held)?)?;
        set(context, "workdir", &short(work, held)?)?;
        for (key, value) in OVERLAY_OPTIONS {
            set(context, key, value)?;
        }
        if volatile {
            fsconfig_set_flag(context, "volatile")?;
        }
        fsconfig_create(context)?;
        fsmount(context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
    };
    let mut configure = |held: &mut Vec<OwnedFd>, each: bool| -> std::result::Result<OwnedFd, Errno> {
        held.clear();
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        fill(&context, held, each).inspect_err(|_| complaint = explanation(&context))
    };
    if volatile {
        forget_volatile(work);
    }
    // Linux below 6.5 has no `lowerdir+`: then all layers in one short string, and where that is too long, mount(2), whose options may fill a page.
    match configure(&mut held, takes_layers_one_by_one()) {
        Err(Errno::NAMETOOLONG) => {}
        Err(errno) => return Err(fail(&complaint)(errno)),
        Ok(mount) => return Ok(RootMount::Detached(mount)),
    }
    Ok(RootMount::Late)
}

/// The options of an overlay for mount(2), which may fill a page, and the descriptors that they name. They must be of the mount namespace in which the
/// overlay is mounted, so this is for the child.
pub(crate) fn late_options(
    lower: &[PathBuf],
    upper: &Path,
    work: &Path,
    volatile: bool,
) -> std::result::Result<(String, Vec<OwnedFd>), Errno> {
    let mut held = Vec::new();
    let layers = lower.iter().map(|path| descriptor_name(path, &mut held)).collect::<std::result::Result<Vec<_>, _>>()?.join(":");
    let (upper, work) = (descriptor_name(upper, &mut held)?, descriptor_name(work, &mut held)?);
    let fixed: String = OVERLAY_OPTIONS.iter().map(|(key, value)| format!(",{key}={value}")).collect();
    let volatile = if volatile { ",volatile" } else { "" };
    Ok((format!("lowerdir={layers},upperdir={upper},workdir={work}{fixed}{volatile}"), held))
}

/// Linux 6.5 and later. Asking an older one would leave a complaint in its log each time.
fn takes_layers_one_by_one() -> bool {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|digits| digits.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (6, 5)
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

fn joined(lower: &[PathBuf], held: &mut Vec<OwnedFd>) -> std::result::Result<String, Errno> {
    let names = lower.iter().map(|path| descriptor_name(path, held)).collect::<std::result::Result<Vec<_>, _>>()?.join(":");
    if names.len() <= CONFIG_BYTES_MAX { Ok(names) } else { Err(Errno::NAMETOOLONG) }
}

fn descriptor_name(path: &Path, held: &mut Vec<OwnedFd>) -> std::result::Result<String, Errno> {
    let fd = open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let name = format!("/proc/self/fd/{}", fd.as_raw_fd());
    held.push(fd);
    Ok(name)
}

/// A detached copy of the mount at `path`, with what is mounted below it if that is wanted.
fn clone_tree(path: &Path, recursive: bool) -> Result<Bind> {
    let fail = || Error::step(format!("take the mount of {}", path.display()));
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | if recursive { OpenTreeFlags::AT_RECURSIVE } else { OpenTreeFlags::empty() };
    let name =
        CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| Error::invalid(format!("the path {path:?} contains a zero byte")))?;
    let mount = open_tree(CWD, name.as_c_str(), flags).map_err(fail())?;
    let directory = path::is_directory(mount.as_fd()).map_err(fail())?;
    Ok(Bind { mount, directory })
}

/// The source of a bind mount, with its attributes set while nobody can see it.
fn bind(step: &MountStep) -> Result<Option<Bind>> {
    let Filesystem::Bind { source, recursive, idmap } = &step.filesystem else { return Ok(None) };
    if *idmap {
        return Err(Error::unsupported(format!("{}: id-mapped mounts are not supported", step.name())));
    }
    let bind = clone_tree(source, *recursive)?;
    if step.target.starts_with("/proc") && !is_proc(bind.mount.as_fd()) && step.target == Path::new("/proc") {
        return Err(Error::invalid(format!("{} cannot be mounted on /proc: it is no proc filesystem", source.display())));
    }
    change(bind.mount.as_fd(), step)?;
    Ok(Some(bind))
}

fn is_proc(fd: BorrowedFd<'_>) -> bool {
    rustix::fs::fstatfs(fd).is_ok_and(|stat| stat.f_type == rustix::fs::PROC_SUPER_MAGIC)
}

/// Sets the attributes and the propagation of a detached bind mount. Without a word about propagation it is private.
fn change(mount: BorrowedFd<'_>, step: &MountStep) -> Result<()> {
    let (propagation, tree) = step.propagation.unwrap_or((Propagation::Private, true));
    let apply = |change: Change<'_>| kernel::mount::change(mount, c"", &change).map_err(Error::step(step.name()));
    let (set, clear) = (step.set_recursive, step.clear_recursive);
    if set | clear != 0 || tree {
        apply(Change {
            set,
            clear: clear_of(set, clear),
            propagation: tree.then_some(propagation),
            recursive: true,
            user_namespace: None,
        })?;
    }
    if step.set | step.clear != 0 || !tree {
        apply(Change {
            set: step.set,
            clear: clear_of(step.set, step.clear),
            propagation: (!tree).then_some(propagation),
            recursive: false,
            user_namespace: None,
        })?;
    }
    Ok(())
}

/// The field of access-time modes is replaced as a whole, so it has to be cleared when it is set.
pub(crate) fn clear_of(set: u64, clear: u64) -> u64 {
    if set & attribute::ATIME != 0 { clear | attribute::ATIME } else { clear }
}

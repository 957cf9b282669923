//! What the container gets from the host, opened by the caller before it forks: the root filesystem, bind sources, namespaces, the filter.
//!
//! Opening here, outside the new namespaces, lets the same code serve user namespaces: a detached mount may be attached where it could not be made.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use kernel::fork::namespace;
use kernel::mount::{Change, Propagation, attribute};
use kernel::seccomp::Instruction;
use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    open_tree,
};

use crate::listener::Listener;
use crate::plan::{DeviceNode, Filesystem, IdMap, MountStep, NodeKind, Plan};
use crate::root::{self, RootMount, explanation};
use crate::spaces::Users;
use crate::{Error, Launch, Result, Root, path, seccomp, spaces};

/// The opened things.
#[derive(Debug)]
pub(crate) struct Sources<'a> {
    pub(crate) root: RootMount,
    /// In step with the plan's mounts; `None` for what the child mounts itself.
    pub(crate) binds: Vec<Option<Bind>>,
    /// In step with the plan's devices: the host's nodes, where none can be made (user namespaces).
    pub(crate) devices: Vec<Option<OwnedFd>>,
    pub(crate) program: Option<Vec<Instruction>>,
    pub(crate) listener: Option<Listener>,
    /// Namespaces to join, given ones first.
    joined: Vec<(u64, BorrowedFd<'a>)>,
    opened: Vec<(u64, OwnedFd)>,
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
        let shown = |device: &DeviceNode| plan.in_user_namespace() && device.kind != NodeKind::Fifo;
        let device = |device: &DeviceNode| shown(device).then(|| Ok(clone_tree(&device.path, false)?.mount)).transpose();
        let mut sources = Self {
            root: RootMount::Late,
            binds: Vec::with_capacity(plan.mounts.len()),
            devices: plan.devices.iter().map(device).collect::<Result<_>>()?,
            program: program(launch)?,
            listener: Listener::connect(launch.spec.linux.seccomp.as_ref())?,
            joined,
            opened,
        };
        let mapping = sources.mapping(launch, plan)?;
        sources.root = root::take(&launch.root, plan.in_user_namespace(), mapping.as_ref())?;
        for step in &plan.mounts {
            let bind = match foreign_filesystem(step, plan) {
                Some(flag) => Some(sources.mount_for_child(step, flag)?),
                None => bind(step, mapping.as_ref())?,
            };
            sources.binds.push(bind);
        }
        Ok(sources)
    }

    /// The user namespace that ids are mapped through, where something wants the container's: another one with the same maps does, as the container's
    /// own is yet to be made.
    fn mapping(&self, launch: &Launch<'_>, plan: &Plan) -> Result<Option<Users>> {
        let wanted = |step: &MountStep| matches!(&step.filesystem, Filesystem::Bind { idmap: Some(map), .. } if map.maps.is_none());
        if !matches!(launch.root, Root::Overlay { idmap: true, .. }) && !plan.mounts.iter().any(wanted) {
            return Ok(None);
        }
        match &plan.ids {
            Some(maps) => Users::with(maps).map(Some),
            None => {
                let joined = self.all_joined().find(|(flag, _)| *flag == namespace::USER);
                joined.map(|(_, fd)| Users::of(fd)).transpose()
            }
        }
    }

    /// Makes a filesystem that shows a namespace which the container's user namespace does not own.
    fn mount_for_child(&self, step: &MountStep, flag: u64) -> Result<Bind> {
        let Filesystem::New { kind, source, parameters } = &step.filesystem else {
            return Err(Error::invalid(format!("{}: nothing that the caller could mount", step.name())));
        };
        let joined: Vec<_> = self.all_joined().filter(|(kind, _)| *kind == flag && flag != namespace::PID).collect();
        let mount = spaces::in_joined(&joined, || new_filesystem(step, kind, source, parameters, step.set))?;
        Ok(Bind { mount, directory: true })
    }

    /// The namespaces that the caller must be in while it forks: a pid namespace takes children only, and from inside a new user namespace none of
    /// the host's can be joined any more.
    pub(crate) fn joined_by_caller(&self, plan: &Plan) -> Vec<(u64, BorrowedFd<'_>)> {
        self.all_joined().filter(|(flag, _)| *flag == namespace::PID || plan.in_user_namespace()).collect()
    }

    /// The namespaces that the child joins itself.
    pub(crate) fn joined_by_child(&self, plan: &Plan) -> Vec<(u64, BorrowedFd<'_>)> {
        self.all_joined().filter(|(flag, _)| *flag != namespace::PID && !plan.in_user_namespace()).collect()
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
            if plan.in_user_namespace() && plan.late_namespaces & namespace::CGROUP == 0 {
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

/// A detached copy of the mount at `path`, with what is mounted below it if that is wanted.
pub(crate) fn clone_tree(path: &Path, recursive: bool) -> Result<Bind> {
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

/// Which kind of namespace a filesystem shows that the container's user namespace may not mount it of.
fn foreign_filesystem(step: &MountStep, plan: &Plan) -> Option<u64> {
    let Filesystem::New { kind, .. } = &step.filesystem else { return None };
    let shown = match kind.as_str() {
        "sysfs" => namespace::NET,
        "mqueue" => namespace::IPC,
        "proc" => namespace::PID,
        _ => return None,
    };
    Some(shown).filter(|flag| plan.foreign & flag != 0)
}

/// A new instance of a filesystem, configured and mounted aside.
pub(crate) fn new_filesystem(
    step: &MountStep,
    kind: &str,
    source: &str,
    parameters: &[(String, Option<String>)],
    attributes: u64,
) -> Result<OwnedFd> {
    let fail = || Error::step(step.name());
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(fail())?;
    if !source.is_empty() {
        fsconfig_set_string(&context, "source", source).map_err(fail())?;
    }
    for (key, value) in parameters {
        let result = match value {
            Some(value) => fsconfig_set_string(&context, key.as_str(), value.as_str()),
            None => fsconfig_set_flag(&context, key.as_str()),
        };
        let option = || value.as_ref().map_or(key.clone(), |value| format!("{key}={value}"));
        result.map_err(|errno| Error::step(format!("{}: set the option {:?}{}", step.name(), option(), explanation(&context)))(errno))?;
    }
    fsconfig_create(&context).map_err(|errno| Error::step(format!("{}{}", step.name(), explanation(&context)))(errno))?;
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes as u32)).map_err(fail())
}

/// The source of a bind mount, with its attributes set while nobody can see it. `mapping` is a namespace with the container's ids.
fn bind(step: &MountStep, mapping: Option<&Users>) -> Result<Option<Bind>> {
    let Filesystem::Bind { source, recursive, idmap } = &step.filesystem else { return Ok(None) };
    let bind = clone_tree(source, *recursive)?;
    if step.target.starts_with("/proc") && !is_proc(bind.mount.as_fd()) && step.target == Path::new("/proc") {
        return Err(Error::invalid(format!("{} cannot be mounted on /proc: it is no proc filesystem", source.display())));
    }
    if let Some(IdMap { maps, recursive }) = idmap {
        let own = maps.as_ref().map(Users::with).transpose()?;
        let users = own.as_ref().or(mapping).ok_or_else(|| Error::invalid(format!("{}: no ids to map", step.name())))?;
        root::map_ids(bind.mount.as_fd(), users, *recursive, &source.display().to_string())?;
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

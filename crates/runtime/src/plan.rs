//! From a specification to ordered steps, without touching the machine.

mod capability;
mod mount;
mod process;
mod schedule;

use std::path::{Component, Path, PathBuf};

use kernel::fork::namespace;
use kernel::mount::Propagation;

pub(crate) use capability::names as capability_names;
pub use capability::{Capabilities, capability_name, capability_number};
pub(crate) use mount::option_names as mount_options;
pub use mount::{Filesystem, IdMap, MountStep};
pub(crate) use process::plan as process;
pub use process::{ProcessPlan, Rlimit, UserChoice};
pub use schedule::Schedule;
pub(crate) use schedule::{MEMORY_FLAGS, MEMORY_MODES};

use crate::{Error, Result, oci};

/// What the caller brings itself, so that the plan does not have to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Given {
    /// Namespaces (see [`kernel::fork::namespace`]) that are joined by descriptor.
    pub namespaces: u64,
    /// A terminal is wanted.
    pub terminal: bool,
}

/// Everything that is done for a container, in order.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Namespaces that clone3 makes.
    pub new_namespaces: u64,
    /// Namespaces that the child makes itself, because they start from what it is then: control groups and clocks.
    pub late_namespaces: u64,
    /// Namespaces to join by path, with their kind.
    pub joined: Vec<(u64, PathBuf)>,
    /// Offsets of a new time namespace, in the form of `/proc/PID/timens_offsets`.
    pub time_offsets: String,
    /// Maps of a new user namespace.
    pub ids: Option<IdMaps>,
    /// An existing user namespace is joined.
    pub joins_users: bool,
    /// The kinds of namespaces (network, IPC, processes) that do not belong to the container's user namespace, so that it may not mount their filesystems.
    pub foreign: u64,
    /// Host name.
    pub hostname: Option<String>,
    /// NIS domain name.
    pub domainname: Option<String>,
    /// How mounts spread into and out of the root in the end.
    pub propagation: Propagation,
    /// The root cannot be written.
    pub readonly_root: bool,
    /// Mounts, in order.
    pub mounts: Vec<MountStep>,
    /// Whether /dev is the container's own, to be filled with nodes and links.
    pub own_dev: bool,
    /// Device nodes.
    pub devices: Vec<DeviceNode>,
    /// Links of /dev: name below /dev and target.
    pub links: Vec<(&'static str, &'static str)>,
    /// /dev/console shows the container's terminal.
    pub console: bool,
    /// Files below /proc/sys, and what is written to them.
    pub sysctls: Vec<(PathBuf, String)>,
    /// Paths to hide.
    pub masked: Vec<PathBuf>,
    /// Paths to write-protect.
    pub readonly: Vec<PathBuf>,
    /// The first process.
    pub process: ProcessPlan,
    /// Its badness towards the out-of-memory killer.
    pub oom_score_adj: Option<i32>,
    /// Hooks that run in the child.
    pub child_hooks: bool,
    /// Hooks that run in the caller while the child waits.
    pub runtime_hooks: bool,
}

impl Plan {
    /// Whether the container's ids are not the host's.
    pub fn in_user_namespace(&self) -> bool {
        self.ids.is_some() || self.joins_users
    }
}

/// Maps of a user namespace, in the form of `/proc/PID/uid_map`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMaps {
    /// Users.
    pub users: String,
    /// Groups.
    pub groups: String,
}

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeviceNode {
    /// Where, inside.
    pub path: PathBuf,
    /// What kind.
    pub kind: NodeKind,
    /// Major number.
    pub major: u32,
    /// Minor number.
    pub minor: u32,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// Kinds of special files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeKind {
    /// Block device.
    Block,
    /// Character device.
    Char,
    /// Named pipe.
    Fifo,
}

/// What every container has in /dev.
const DEFAULT_DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 6] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
    ("ptmx", "pts/ptmx"),
];

/// Orders what `spec` asks for.
///
/// # Errors
/// [`Error::Invalid`] for what contradicts itself, [`Error::Unsupported`] for what this runtime does not do.
pub fn plan(spec: &oci::Spec, given: &Given) -> Result<Plan> {
    refuse_unserved(spec)?;
    check_hooks(&spec.hooks)?;
    let linux = &spec.linux;
    let process = spec.process.as_ref().ok_or_else(|| Error::field("process", "the specification has no process"))?;
    let spaces = Namespaces::of(linux, given)?;
    let user_namespace = spaces.new & namespace::USER != 0;
    let joins_users = !user_namespace && spaces.own(namespace::USER);
    let mapped = !linux.uid_mappings.is_empty() || !linux.gid_mappings.is_empty();
    // Beside a namespace to join they say nothing: it has its own. Podman gives some all the same.
    if mapped && !user_namespace && !joins_users {
        return Err(Error::field("linux.uidMappings", "id mappings are given, but no user namespace"));
    }
    for (name, value, flag) in [("hostname", &spec.hostname, namespace::UTS), ("domainname", &spec.domainname, namespace::UTS)] {
        if !value.is_empty() && !spaces.own(flag) {
            return Err(Error::field(name, "it is given, but no UTS namespace to set it in"));
        }
    }
    let own_dev = !spec.mounts.iter().any(|mount| clean(&mount.destination) == Path::new("/dev") && mount::is_bind(mount));
    let text = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let protect = |paths: &[String]| paths.iter().map(|path| clean(Path::new(path))).collect();
    Ok(Plan {
        new_namespaces: spaces.new,
        late_namespaces: spaces.late,
        time_offsets: linux.time_offsets.iter().map(|(clock, offset)| format!("{clock} {} {}\n", offset.secs, offset.nanosecs)).collect(),
        ids: if user_namespace { Some(id_maps(&linux.uid_mappings, &linux.gid_mappings, "linux", "a new user namespace")?) } else { None },
        joins_users,
        foreign: spaces.foreign(user_namespace, joins_users),
        hostname: text(&spec.hostname),
        domainname: text(&spec.domainname),
        propagation: root_propagation(&linux.rootfs_propagation)?,
        readonly_root: spec.root.as_ref().is_some_and(|root| root.readonly),
        mounts: spec
            .mounts
            .iter()
            .enumerate()
            .map(|(at, mount)| mount::step(at, mount, user_namespace || joins_users))
            .collect::<Result<_>>()?,
        own_dev,
        devices: devices(linux, own_dev)?,
        links: if own_dev { LINKS.to_vec() } else { Vec::new() },
        console: given.terminal && own_dev,
        sysctls: linux.sysctl.iter().map(|(key, value)| sysctl(key, value, &spaces)).collect::<Result<_>>()?,
        masked: protect(&linux.masked_paths),
        readonly: protect(&linux.readonly_paths),
        process: process::plan(process, linux)?,
        oom_score_adj: process.oom_score_adj,
        child_hooks: !spec.hooks.create_container.is_empty(),
        runtime_hooks: !(spec.hooks.prestart.is_empty() && spec.hooks.create_runtime.is_empty()),
        joined: spaces.joined,
    })
}

/// Hooks are checked before anything is made, those that run last too.
fn check_hooks(hooks: &oci::Hooks) -> Result<()> {
    let stages = [
        ("prestart", &hooks.prestart),
        ("createRuntime", &hooks.create_runtime),
        ("createContainer", &hooks.create_container),
        ("startContainer", &hooks.start_container),
        ("poststart", &hooks.poststart),
        ("poststop", &hooks.poststop),
    ];
    for (stage, hooks) in stages {
        for (at, hook) in hooks.iter().enumerate() {
            let field = |name: &str| format!("hooks.{stage}[{at}].{name}");
            if !hook.path.is_absolute() {
                return Err(Error::field(field("path"), format!("the path {:?} is not absolute", hook.path)));
            }
            if hook.timeout.is_some_and(|seconds| seconds <= 0) {
                return Err(Error::field(field("timeout"), "it is not above 0 s"));
            }
        }
    }
    Ok(())
}

/// What the kernel of this product line or this runtime cannot do is refused before anything is made.
fn refuse_unserved(spec: &oci::Spec) -> Result<()> {
    if !spec.linux.mount_label.is_empty() {
        return Err(Error::unsupported("linux.mountLabel: SELinux labels are not supported"));
    }
    if spec.linux.intel_rdt.is_some() {
        return Err(Error::unsupported("linux.intelRdt: cache allocation is not supported"));
    }
    if !spec.linux.net_devices.is_empty() {
        return Err(Error::unsupported(
            "linux.netDevices: devices of the host's network cannot be handed over yet: move them with ip link set netns",
        ));
    }
    Ok(())
}

/// The kinds of namespace, as the specification names them.
pub(crate) const NAMESPACES: [(&str, u64); 8] = [
    ("cgroup", namespace::CGROUP),
    ("ipc", namespace::IPC),
    ("mount", namespace::MOUNT),
    ("network", namespace::NET),
    ("pid", namespace::PID),
    ("time", namespace::TIME),
    ("user", namespace::USER),
    ("uts", namespace::UTS),
];

fn namespace_flag(at: usize, kind: &str) -> Result<u64> {
    let known = NAMESPACES.iter().find(|(name, _)| *name == kind).map(|(_, flag)| *flag);
    known.ok_or_else(|| {
        let names = NAMESPACES.map(|(name, _)| name).join(", ");
        Error::field(format!("linux.namespaces[{at}].type"), format!("{kind:?} is not a kind of namespace: {names} are"))
    })
}

struct Namespaces {
    new: u64,
    late: u64,
    given: u64,
    joined: Vec<(u64, PathBuf)>,
}

impl Namespaces {
    fn of(linux: &oci::Linux, given: &Given) -> Result<Self> {
        let mut spaces = Self { new: 0, late: 0, given: given.namespaces, joined: Vec::new() };
        let mut seen = 0;
        for (at, one) in linux.namespaces.iter().enumerate() {
            let flag = namespace_flag(at, &one.kind)?;
            if seen & flag != 0 {
                return Err(Error::field(format!("linux.namespaces[{at}]"), format!("the {} namespace is listed twice", one.kind)));
            }
            seen |= flag;
            let path = one.path.as_ref().filter(|path| !path.as_os_str().is_empty());
            match (given.namespaces & flag != 0, path) {
                (true, _) => {}
                (false, Some(_)) if flag == namespace::MOUNT => {
                    return Err(Error::unsupported(
                        "linux.namespaces: joining a mount namespace is not supported: a container has a mount namespace of its own",
                    ));
                }
                (false, Some(path)) => spaces.joined.push((flag, path.clone())),
                (false, None) if flag & (namespace::CGROUP | namespace::TIME) != 0 => spaces.late |= flag,
                (false, None) => spaces.new |= flag,
            }
        }
        if spaces.new & namespace::MOUNT == 0 {
            return Err(Error::field("linux.namespaces", "a container needs a mount namespace of its own"));
        }
        if !linux.time_offsets.is_empty() && spaces.late & namespace::TIME == 0 {
            return Err(Error::field("linux.timeOffsets", "time offsets are given, but no new time namespace"));
        }
        Ok(spaces)
    }

    /// The kinds that belong to another user namespace than the container's. What is joined beside a user namespace is taken for its own.
    fn foreign(&self, new_users: bool, joins_users: bool) -> u64 {
        let all = namespace::NET | namespace::IPC | namespace::PID;
        match (new_users, joins_users) {
            (true, _) => all & !self.new,
            (false, true) => all & !(self.new | self.given | self.joined.iter().map(|(kind, _)| kind).sum::<u64>()),
            (false, false) => 0,
        }
    }

    /// Whether the container has a namespace of the kind that is not the host's.
    fn own(&self, flag: u64) -> bool {
        (self.new | self.late | self.given) & flag != 0 || self.joined.iter().any(|(kind, _)| *kind == flag)
    }
}

/// The kernel takes no longer maps.
const ID_MAPPINGS_MAX: usize = 340;

fn id_maps(users: &[oci::IdMapping], groups: &[oci::IdMapping], field: &str, what: &str) -> Result<IdMaps> {
    if users.is_empty() || groups.is_empty() {
        return Err(Error::field(field, format!("{what} needs uidMappings and gidMappings")));
    }
    Ok(IdMaps { users: id_map(users, &format!("{field}.uidMappings"))?, groups: id_map(groups, &format!("{field}.gidMappings"))? })
}

/// One map as the kernel wants it: ranges that are not empty, do not wrap and do not overlap on either side.
fn id_map(maps: &[oci::IdMapping], field: &str) -> Result<String> {
    if maps.len() > ID_MAPPINGS_MAX {
        return Err(Error::field(field, format!("{} ranges are given: the kernel takes {ID_MAPPINGS_MAX}", maps.len())));
    }
    for (at, map) in maps.iter().enumerate() {
        let fits = |start: u32| start.checked_add(map.size).is_some();
        if map.size == 0 || !fits(map.container_id) || !fits(map.host_id) {
            let what = format!("a range of {} ids from {} to {} is not possible", map.size, map.container_id, map.host_id);
            return Err(Error::field(format!("{field}[{at}]"), what));
        }
        let overlap = |one: u32, size: u32, other: u32, other_size: u32| one < other + other_size && other < one + size;
        if maps[..at].iter().any(|earlier| {
            overlap(map.container_id, map.size, earlier.container_id, earlier.size)
                || overlap(map.host_id, map.size, earlier.host_id, earlier.size)
        }) {
            return Err(Error::field(format!("{field}[{at}]"), "it overlaps an earlier range"));
        }
    }
    Ok(maps.iter().map(|map| format!("{} {} {}\n", map.container_id, map.host_id, map.size)).collect())
}

fn root_propagation(text: &str) -> Result<Propagation> {
    Ok(match text.strip_prefix('r').unwrap_or(text) {
        "" | "private" => Propagation::Private,
        "slave" => Propagation::Slave,
        "shared" => Propagation::Shared,
        "unbindable" => Propagation::Unbindable,
        _ => {
            return Err(Error::field(
                "linux.rootfsPropagation",
                format!("{text:?} is not a mount propagation: private, slave, shared, unbindable, with or without r, are"),
            ));
        }
    })
}

fn devices(linux: &oci::Linux, own_dev: bool) -> Result<Vec<DeviceNode>> {
    let mut nodes: Vec<DeviceNode> = linux.devices.iter().enumerate().map(device).collect::<Result<_>>()?;
    if own_dev {
        let listed = |path: &Path| linux.devices.iter().any(|device| clean(&device.path) == path);
        let default = DEFAULT_DEVICES.iter().map(|&(name, major, minor)| DeviceNode {
            path: Path::new("/dev").join(name),
            kind: NodeKind::Char,
            major,
            minor,
            mode: 0o666,
            uid: 0,
            gid: 0,
        });
        nodes.splice(0..0, default.filter(|node| !listed(&node.path)));
    }
    Ok(nodes)
}

fn device((at, device): (usize, &oci::Device)) -> Result<DeviceNode> {
    let path = clean(&device.path);
    let kind = match device.kind.as_str() {
        "c" | "u" => NodeKind::Char,
        "b" => NodeKind::Block,
        "p" => NodeKind::Fifo,
        other => {
            let field = format!("linux.devices[{at}].type");
            return Err(Error::field(field, format!("{other:?} is not a type of device (of {}): c, u, b and p are", path.display())));
        }
    };
    let number = |name: &str, number: i64| {
        let what =
            || Error::field(format!("linux.devices[{at}].{name}"), format!("{number} is not a device number (of {})", path.display()));
        u32::try_from(number).map_err(|_| what())
    };
    Ok(DeviceNode {
        kind,
        major: number("major", device.major)?,
        minor: number("minor", device.minor)?,
        mode: device.file_mode.unwrap_or(0o666) & 0o7777,
        uid: device.uid.unwrap_or(0),
        gid: device.gid.unwrap_or(0),
        path,
    })
}

/// A setting of the kernel is allowed where it belongs to a namespace that the container has for itself; others would change the host.
fn sysctl(key: &str, value: &str, spaces: &Namespaces) -> Result<(PathBuf, String)> {
    const IPC: [&str; 9] = ["msgmax", "msgmnb", "msgmni", "sem", "shmall", "shmmax", "shmmni", "shm_rmid_forced", "msg_next_id"];
    const UTS: [&str; 2] = ["hostname", "domainname"];
    // Both forms are in use: a.b/c.d (a dot within a name written as a slash) and a/b.c/d.
    let swap = |byte: char| match byte {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    let path: String = match key.find(['.', '/']) {
        Some(at) if key.as_bytes()[at] == b'.' => key.chars().map(swap).collect(),
        _ => key.to_owned(),
    };
    let relative = clean(Path::new(&path)).strip_prefix("/").map(Path::to_owned).unwrap_or_default();
    let parts: Vec<&str> = relative.iter().filter_map(|part| part.to_str()).collect();
    let needed = match parts.as_slice() {
        ["net", ..] => namespace::NET,
        ["fs", "mqueue", ..] => namespace::IPC,
        ["kernel", name] if IPC.contains(name) => namespace::IPC,
        ["kernel", name] if UTS.contains(name) => namespace::UTS,
        _ => {
            return Err(Error::field(
                format!("linux.sysctl.{key}"),
                format!("sysctl {key:?} is not in a namespace of its own: it would change the host"),
            ));
        }
    };
    if spaces.own(needed) {
        Ok((relative, value.to_owned()))
    } else {
        Err(Error::field(
            format!("linux.sysctl.{key}"),
            format!("sysctl {key:?} is not allowed: the container shares that namespace with the host"),
        ))
    }
}

/// An absolute path without `.`, `..` and doubled slashes, as text alone: links are dealt with where the path is opened.
pub(crate) fn clean(path: &Path) -> PathBuf {
    let mut result = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => result.push(name),
            Component::ParentDir => {
                result.pop();
            }
            _ => {}
        }
    }
    result
}

#[cfg(test)]
mod tests;

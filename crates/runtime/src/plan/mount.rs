//! Mounts: what a list of options means.

use std::path::{Path, PathBuf};

use kernel::mount::{Propagation, attribute};

use super::{IdMaps, clean, id_maps};
use crate::{Error, Result, oci};

/// One mount, ready to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct MountStep {
    /// Where, inside: absolute and clean.
    pub target: PathBuf,
    /// What.
    pub filesystem: Filesystem,
    /// Attributes of the mount to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// Attributes to set on it and everything below.
    pub set_recursive: u64,
    /// Attributes to clear on it and everything below.
    pub clear_recursive: u64,
    /// How mounts below it spread, and whether that holds for the whole tree.
    pub propagation: Option<(Propagation, bool)>,
    /// A tmpfs begins with a copy of what it covers.
    pub copy_up: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq)]
pub enum Filesystem {
    /// A part of the host's tree.
    Bind {
        /// Path on the host.
        source: PathBuf,
        /// With what is mounted below it.
        recursive: bool,
        /// Ids of its files are shown mapped.
        idmap: Option<IdMap>,
    },
    /// The container's own view of its control groups.
    Cgroup,
    /// A new instance.
    New {
        /// Type.
        kind: String,
        /// Source, if any.
        source: String,
        /// Parameters: flags without, strings with a value.
        parameters: Vec<(String, Option<String>)>,
    },
}

/// A mount's own mapping of ids: what is the first number on the filesystem is the second in the mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IdMap {
    /// The maps; `None` means those of the container's user namespace.
    pub maps: Option<IdMaps>,
    /// Mounts below are mapped too.
    pub recursive: bool,
}

impl MountStep {
    /// Words for error messages.
    pub fn name(&self) -> String {
        match &self.filesystem {
            Filesystem::Bind { source, .. } => format!("mount {} on {}", source.display(), self.target.display()),
            Filesystem::Cgroup => format!("mount the control groups on {}", self.target.display()),
            Filesystem::New { kind, .. } => format!("mount {kind} on {}", self.target.display()),
        }
    }
}

/// Below /proc, only these files may be covered: what shows a container its limits.
const PROC_TARGETS: [&str; 13] = [
    "/proc/cpuinfo",
    "/proc/diskstats",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/net/dev",
    "/proc/slabinfo",
    "/proc/stat",
    "/proc/swaps",
    "/proc/sys/crypto/fips_enabled",
    "/proc/sys/kernel/cap_last_cap",
    "/proc/sys/kernel/ns_last_pid",
    "/proc/sys/kernel/random/boot_id",
    "/proc/uptime",
];

pub(super) fn is_bind(mount: &oci::Mount) -> bool {
    mount.kind == "bind" || mount.options.iter().any(|option| option == "bind" || option == "rbind")
}

/// What `mount` asks for.
pub(super) fn step(at: usize, mount: &oci::Mount, in_user_namespace: bool) -> Result<MountStep> {
    let field = |name: &str| format!("mounts[{at}].{name}");
    if mount.destination.as_os_str().is_empty() {
        return Err(Error::field(field("destination"), "a mount has no destination"));
    }
    let target = clean(&mount.destination);
    if target == Path::new("/") {
        return Err(Error::field(field("destination"), "nothing can be mounted on the container's root"));
    }
    let bind = is_bind(mount);
    let mut step = MountStep {
        target,
        filesystem: Filesystem::Cgroup,
        set: 0,
        clear: 0,
        set_recursive: 0,
        clear_recursive: 0,
        propagation: None,
        copy_up: false,
    };
    let mut recursive = false;
    let mut parameters = Vec::new();
    for option in &mount.options {
        match option.as_str() {
            "bind" | "defaults" | "async" | "nomand" | "noiversion" | "" => {}
            "rbind" => recursive = true,
            // See `id_map`.
            "idmap" | "ridmap" => {}
            "tmpcopyup" if mount.kind == "tmpfs" => step.copy_up = true,
            "tmpcopyup" => return Err(Error::field(field("options"), "\"tmpcopyup\" is an option of a tmpfs")),
            option if attributes(option, &mut step) || propagation(option, &mut step) => {}
            option if bind => {
                let what = format!("{option:?} is not an option of a bind mount (on {})", step.target.display());
                return Err(Error::field(field("options"), what));
            }
            option => parameters.push(match option.split_once('=') {
                Some((key, value)) => (key.to_owned(), Some(value.to_owned())),
                None => (option.to_owned(), None),
            }),
        }
    }
    let idmap = id_map(at, mount, &step.target, bind, in_user_namespace)?;
    step.filesystem = match mount.kind.as_str() {
        _ if bind && !Path::new(&mount.source).is_absolute() => {
            let what = format!("the source {:?} of the mount on {} is not an absolute path", mount.source, step.target.display());
            return Err(Error::field(field("source"), what));
        }
        _ if bind => Filesystem::Bind { source: mount.source.clone().into(), recursive, idmap },
        "cgroup" | "cgroup2" => Filesystem::Cgroup,
        "" => return Err(Error::field(field("type"), format!("the mount on {} has no type", step.target.display()))),
        kind => Filesystem::New { kind: kind.to_owned(), source: mount.source.clone(), parameters },
    };
    if step.target.starts_with("/proc")
        && step.target != Path::new("/proc")
        && !PROC_TARGETS.iter().any(|allowed| step.target == Path::new(allowed))
    {
        let what = format!("{} cannot be covered by a mount: it is inside /proc", step.target.display());
        return Err(Error::field(field("destination"), what));
    }
    Ok(step)
}

/// The mapping that a mount asks for, by an option or by maps of its own.
fn id_map(at: usize, mount: &oci::Mount, target: &Path, bind: bool, in_user_namespace: bool) -> Result<Option<IdMap>> {
    let asked = |name: &str| mount.options.iter().any(|option| option == name);
    let own = !(mount.uid_mappings.is_empty() && mount.gid_mappings.is_empty());
    if !(own || asked("idmap") || asked("ridmap")) {
        return Ok(None);
    }
    if !bind {
        let what = format!("the mount on {} cannot be id-mapped: only bind mounts can", target.display());
        return Err(Error::field(format!("mounts[{at}]"), what));
    }
    let maps = match own {
        true => Some(id_maps(
            &mount.uid_mappings,
            &mount.gid_mappings,
            &format!("mounts[{at}]"),
            &format!("the id-mapped mount on {}", target.display()),
        )?),
        false if in_user_namespace => None,
        false => {
            let what = format!(
                "the id-mapped mount on {} needs uidMappings and gidMappings, or a user namespace of the container's to take them from",
                target.display()
            );
            return Err(Error::field(format!("mounts[{at}]"), what));
        }
    };
    Ok(Some(IdMap { maps, recursive: asked("ridmap") }))
}

/// Attributes of a mount, the name of each, and whether the name sets or clears it.
const ATTRIBUTES: [(&str, bool, u64); 16] = [
    ("ro", true, attribute::RDONLY),
    ("rw", false, attribute::RDONLY),
    ("nosuid", true, attribute::NOSUID),
    ("suid", false, attribute::NOSUID),
    ("nodev", true, attribute::NODEV),
    ("dev", false, attribute::NODEV),
    ("noexec", true, attribute::NOEXEC),
    ("exec", false, attribute::NOEXEC),
    ("noatime", true, attribute::NOATIME),
    ("strictatime", true, attribute::STRICTATIME),
    ("relatime", true, 0),
    ("atime", true, 0),
    ("nodiratime", true, attribute::NODIRATIME),
    ("diratime", false, attribute::NODIRATIME),
    ("nosymfollow", true, attribute::NOSYMFOLLOW),
    ("symfollow", false, attribute::NOSYMFOLLOW),
];

/// Options that are attributes of a mount. With an `r` before it the whole tree is meant.
fn attributes(option: &str, step: &mut MountStep) -> bool {
    let find = |name: &str| ATTRIBUTES.iter().find(|(known, ..)| *known == name);
    // `relatime` begins with an r of its own, so the plain names go first.
    let (found, recursive) = match (find(option), option.strip_prefix('r').and_then(find)) {
        (Some(found), _) => (found, false),
        (None, Some(found)) => (found, true),
        (None, None) => return matches!(option, "norelatime" | "nostrictatime"),
    };
    let (set, clear) = if recursive { (&mut step.set_recursive, &mut step.clear_recursive) } else { (&mut step.set, &mut step.clear) };
    let &(_, sets, bits) = found;
    // The modes of access times share one field: a new mode replaces it.
    if bits == 0 || bits & attribute::ATIME != 0 {
        *set = *set & !attribute::ATIME | bits;
        *clear |= attribute::ATIME;
    } else if sets {
        *set |= bits;
        *clear &= !bits;
    } else {
        *clear |= bits;
        *set &= !bits;
    }
    true
}

const PROPAGATIONS: [(&str, Propagation); 4] = [
    ("private", Propagation::Private),
    ("slave", Propagation::Slave),
    ("shared", Propagation::Shared),
    ("unbindable", Propagation::Unbindable),
];

fn propagation(option: &str, step: &mut MountStep) -> bool {
    let find = |name: &str| PROPAGATIONS.iter().find(|(known, _)| *known == name).map(|(_, kind)| *kind);
    let found = find(option).map(|kind| (kind, false)).or_else(|| option.strip_prefix('r').and_then(find).map(|kind| (kind, true)));
    step.propagation = found.or(step.propagation);
    found.is_some()
}

/// Every option that is not handed to the filesystem.
pub(crate) fn option_names() -> Vec<String> {
    let mut names: Vec<String> = ["bind", "rbind", "defaults", "async", "nomand", "noiversion", "idmap", "ridmap", "tmpcopyup"]
        .into_iter()
        .chain(["norelatime", "nostrictatime"])
        .map(str::to_owned)
        .collect();
    for name in ATTRIBUTES.iter().map(|(name, ..)| *name).chain(PROPAGATIONS.iter().map(|(name, _)| *name)) {
        names.extend([name.to_owned(), format!("r{name}")]);
    }
    names.sort_unstable();
    names
}

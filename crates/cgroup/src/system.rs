//! What the machine offers: the mounted hierarchies and their controllers.

use std::path::{Path, PathBuf};

use crate::{Error, Result, file};

/// How the machine uses control groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Version 1 hierarchies only.
    V1,
    /// Version 1 hierarchies, and a version 2 one beside them.
    Hybrid,
    /// Version 2 only.
    V2,
}

/// One mounted hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub mount: PathBuf,
    /// Its controllers; a named hierarchy without any has `name=NAME` alone.
    pub controllers: Vec<String>,
    /// Whether it is the version 2 hierarchy.
    pub unified: bool,
}

impl Hierarchy {
    /// Whether it has no controller: used to keep track of processes only.
    pub fn is_named(&self) -> bool {
        !self.unified && self.controllers.iter().all(|name| name.starts_with("name="))
    }
}

/// The hierarchies of this machine, found once and then shared.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct System {
    hierarchies: Vec<Hierarchy>,
}

const CONTROLLERS_V1: [&str; 14] = [
    "cpu",
    "cpuacct",
    "cpuset",
    "memory",
    "devices",
    "freezer",
    "blkio",
    "pids",
    "hugetlb",
    "net_cls",
    "net_prio",
    "perf_event",
    "rdma",
    "misc",
];

impl System {
    /// Reads what is mounted in this process's mount namespace.
    ///
    /// # Errors
    /// [`Error::NotMounted`] when no hierarchy with a controller is mounted.
    pub fn detect() -> Result<Self> {
        let mountinfo = file::read(Path::new("/proc/self/mountinfo"))?;
        let mut system = Self::parse(&mountinfo);
        // One that something else lies over cannot be used.
        system.hierarchies.retain_mut(|hierarchy| {
            if !hierarchy.unified {
                return true;
            }
            let names = file::try_read(&hierarchy.mount.join("cgroup.controllers"));
            hierarchy.controllers = names.iter().flat_map(|names| names.split_whitespace()).map(str::to_owned).collect();
            names.is_ok()
        });
        if system.hierarchies.iter().all(|hierarchy| !hierarchy.unified && hierarchy.is_named()) {
            return Err(Error::NotMounted);
        }
        Ok(system)
    }

    /// Version 1, version 2, or both.
    pub fn mode(&self) -> Mode {
        match (self.hierarchies.iter().any(|one| one.unified), self.hierarchies.iter().any(|one| !one.unified)) {
            (true, false) => Mode::V2,
            (true, true) => Mode::Hybrid,
            (false, _) => Mode::V1,
        }
    }

    /// Every hierarchy, in the order of mounting.
    pub fn hierarchies(&self) -> &[Hierarchy] {
        &self.hierarchies
    }

    /// The hierarchy that has `controller`, if any.
    pub fn controller(&self, controller: &str) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.controllers.iter().any(|name| name == controller))
    }

    /// The version 2 hierarchy, if any.
    pub fn unified(&self) -> Option<&Hierarchy> {
        self.hierarchies.iter().find(|hierarchy| hierarchy.unified)
    }

    /// Whether swap can be limited. On version 2 every kernel with swap accounting has it, which only a group below the root can tell: `group` names
    /// one that exists, such as the engine's own.
    pub fn limits_swap(&self, group: &Path) -> bool {
        self.controller("memory").is_some_and(|memory| {
            let name = if memory.unified { "memory.swap.max" } else { "memory.memsw.limit_in_bytes" };
            memory.mount.join(file::below(group)).join(name).exists()
        })
    }

    fn parse(mountinfo: &str) -> Self {
        let mut hierarchies: Vec<Hierarchy> = Vec::new();
        let mut devices: Vec<&str> = Vec::new();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let mut left = left.split(' ').skip(2);
            let (Some(device), Some(_root), Some(mount)) = (left.next(), left.next(), left.next()) else { continue };
            let mut right = right.split(' ');
            let (Some(kind), Some(_source), Some(options)) = (right.next(), right.next(), right.next()) else { continue };
            let unified = kind == "cgroup2";
            if !(unified || kind == "cgroup") || devices.contains(&device) {
                continue;
            }
            let known = |name: &&str| name.starts_with("name=") || CONTROLLERS_V1.contains(name);
            let controllers = if unified { Vec::new() } else { options.split(',').filter(known).map(str::to_owned).collect() };
            devices.push(device);
            hierarchies.push(Hierarchy { mount: unescape(mount), controllers, unified });
        }
        Self { hierarchies }
    }
}

/// Spaces and the like are written as `\040` in mountinfo.
fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt;
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        if let (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', tail @ ..]) = (first, tail) {
            bytes.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
            rest = tail;
        } else {
            bytes.push(first);
            rest = tail;
        }
    }
    std::ffi::OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory
99 31 0:32 / /elsewhere rw,relatime - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/system\\040d rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
";

    #[test]
    fn a_hybrid_machine_is_read_once_per_hierarchy() {
        let system = System::parse(HYBRID);
        assert_eq!(system.mode(), Mode::Hybrid);
        assert_eq!(system.hierarchies().len(), 4);
        assert_eq!(system.controller("cpuacct").map(|one| one.mount.as_path()), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(system.controller("memory").map(|one| one.mount.as_path()), Some(Path::new("/sys/fs/cgroup/memory")));
        assert!(system.hierarchies()[2].is_named());
        assert_eq!(system.hierarchies()[2].mount, Path::new("/sys/fs/cgroup/system d"));
        assert!(system.controller("pids").is_none());
    }

    #[test]
    fn modes() {
        assert_eq!(System::parse("24 1 0:2 / /sys/fs/cgroup rw - cgroup2 cgroup rw\n").mode(), Mode::V2);
        assert_eq!(System::parse("24 1 0:2 / /c rw - cgroup cgroup rw,cpu\n").mode(), Mode::V1);
        assert_eq!(System::parse("nonsense\n - \n").hierarchies(), []);
    }
}

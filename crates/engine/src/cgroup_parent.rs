//! Where a container's control group is: below the engine's own, or below the parent that the container asks for. Parents that the engine made carry
//! its mark, and go when they are empty.

use std::path::{Component, Path, PathBuf};

use rustix::fs::{AtFlags, CWD, XattrFlags};
use types::container::HostConfig;

use crate::container::Record;
use crate::sandbox::bad;
use crate::{Engine, Error};

const MARK: &str = "trusted.cais.owner";
const MARK_BYTES_MAX: usize = 256;
const PARENT_BYTES_MAX: usize = 1024;

/// Refuses parents that leave the hierarchy.
pub(crate) fn validate(host: &HostConfig) -> Result<(), Error> {
    let parent = Path::new(&host.cgroup_parent);
    let climbs = parent.components().any(|part| matches!(part, Component::ParentDir | Component::CurDir));
    if climbs || host.cgroup_parent.len() > PARENT_BYTES_MAX || host.cgroup_parent.contains(['\0', '\n']) {
        return Err(bad("CgroupParent", &host.cgroup_parent, "a path such as /name or /name/name without .. is expected"));
    }
    Ok(())
}

impl Engine {
    /// A container's control group, relative to each hierarchy. A parent with a slash in front is counted from the hierarchy's root, one without from the
    /// engine's own group.
    pub(crate) fn cgroup_path(&self, record: &Record) -> PathBuf {
        self.parent_path(record).join(record.id.as_str())
    }

    /// A container's control group.
    pub(crate) fn group(&self, record: &Record) -> cgroup::Group {
        cgroup::Group::open(&self.cgroups, &self.cgroup_path(record))
    }

    fn parent_path(&self, record: &Record) -> PathBuf {
        let asked = &record.host.cgroup_parent;
        match asked.strip_prefix('/') {
            Some(absolute) if !absolute.trim_matches('/').is_empty() => PathBuf::from(absolute.trim_matches('/')),
            _ => Path::new(&self.layout.cgroup_root).join(asked.trim_matches('/')),
        }
    }

    /// Makes the parent that a container asks for, and gives it what its real-time tasks need. Blocks.
    pub(crate) fn provide_cgroup_parent(&self, record: &Record) -> Result<(), Error> {
        let parent = self.parent_path(record);
        let failed = |source| Error::Cgroup { id: record.id.clone(), source };
        if !record.host.cgroup_parent.is_empty() {
            let missing: Vec<PathBuf> = self.directories(&parent).filter(|directory| !directory.exists()).collect();
            let made = cgroup::Group::create(&self.cgroups, &parent);
            for directory in missing.iter().filter(|directory| directory.exists()) {
                // Without the mark it stays, which is the lesser evil.
                let _ = rustix::fs::setxattr(directory, MARK, self.layout.cgroup_root.as_bytes(), XattrFlags::empty());
            }
            made.map_err(failed)?;
        }
        if record.host.cpu_realtime_runtime != 0 {
            self.provide_realtime(record, &parent).map_err(failed)?;
        }
        Ok(())
    }

    /// Removes the parent again where this engine made it and nobody lives there. Blocks.
    pub(crate) fn drop_cgroup_parent(&self, record: &Record) {
        if !record.host.cgroup_parent.starts_with('/') {
            return;
        }
        let mut mark = [0; MARK_BYTES_MAX];
        let mut levels: Vec<PathBuf> = self.directories(&self.parent_path(record)).collect();
        levels.sort_by_key(|directory| std::cmp::Reverse(directory.components().count()));
        for directory in levels {
            let own =
                rustix::fs::getxattr(&directory, MARK, &mut mark).is_ok_and(|length| mark[..length] == *self.layout.cgroup_root.as_bytes());
            if own {
                // Where somebody lives there it stays.
                let _ = rustix::fs::unlinkat(CWD, &directory, AtFlags::REMOVEDIR);
            }
        }
    }

    /// The directories of a group and of all groups above it in every hierarchy, without the hierarchies' roots.
    fn directories<'a>(&'a self, group: &'a Path) -> impl Iterator<Item = PathBuf> + 'a {
        let levels = move || group.ancestors().filter(|level| !level.as_os_str().is_empty());
        self.cgroups.hierarchies().iter().flat_map(move |hierarchy| levels().map(|level| hierarchy.mount.join(level)))
    }

    /// A group's real-time budget comes out of its parent's, which is as much as its containers need.
    fn provide_realtime(&self, record: &Record, parent: &Path) -> Result<(), cgroup::Error> {
        let all = self.containers.all();
        let others = all.iter().map(|container| container.record());
        let others = others.filter(|other| other.id != record.id && other.is_alive() && self.parent_path(other) == parent);
        let shares = others.map(|other| crate::resources::realtime_share(&other.host)).fold(0i64, i64::saturating_add);
        let needed = shares.saturating_add(crate::resources::realtime_share(&record.host));
        for level in parent.ancestors().filter(|level| !level.as_os_str().is_empty()).collect::<Vec<_>>().into_iter().rev() {
            let limits = cgroup::Limits { cpu_realtime_runtime: Some(needed), ..cgroup::Limits::default() };
            cgroup::Group::open(&self.cgroups, level).set(&limits)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_parent_stays_inside_the_hierarchy() {
        let check = |parent: &str| validate(&HostConfig { cgroup_parent: parent.to_owned(), ..HostConfig::default() });
        for good in ["", "/", "/a/b", "a", "machine.slice"] {
            assert!(check(good).is_ok(), "{good}");
        }
        for bad in ["..", "/a/../..", "a/../b", "/a\nb", &"x/".repeat(600)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}

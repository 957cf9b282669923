//! What Docker gives every container unless it is told otherwise, in the specification's form, and what this machine has to give.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Dir, FileType, Mode, OFlags, Stat, lstat, open, stat};
use rustix::io::Errno;

use crate::plan::capability_name;
use crate::{Error, Result, oci};

pub use types::container::defaults::{CAPABILITIES, MASKED_PATHS, READONLY_PATHS};

/// The mounts of every container: /proc, /dev, /dev/pts, /dev/shm, /dev/mqueue, /sys, /sys/fs/cgroup. `privileged` makes /sys and /sys/fs/cgroup
/// writable. Leave out /dev/shm or /dev/mqueue when something else is mounted there.
pub fn mounts(shm_bytes: u64, privileged: bool) -> Vec<oci::Mount> {
    let access = if privileged { "rw" } else { "ro" };
    let mount = |destination: &str, kind: &str, options: &[&str]| oci::Mount {
        destination: destination.into(),
        kind: kind.into(),
        source: kind.into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..oci::Mount::default()
    };
    let size = format!("size={shm_bytes}");
    vec![
        mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
        mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", access]),
        mount("/sys/fs/cgroup", "cgroup", &[access, "nosuid", "noexec", "nodev"]),
        mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &size]),
    ]
}

/// Device rules of a container that is not privileged: everything denied but what [`crate::resources::limits`] always adds, the usual nodes.
pub fn device_rules() -> Vec<oci::DeviceRule> {
    vec![oci::DeviceRule { allow: false, kind: "a".into(), access: "rwm".into(), ..oci::DeviceRule::default() }]
}

/// The one rule of a privileged container.
pub fn device_rules_privileged() -> Vec<oci::DeviceRule> {
    vec![oci::DeviceRule { allow: true, kind: "a".into(), access: "rwm".into(), ..oci::DeviceRule::default() }]
}

/// The rule that lets a container use `device`; `access` of `r`, `w` and `m`.
pub fn device_rule(device: &oci::Device, access: &str) -> oci::DeviceRule {
    oci::DeviceRule { allow: true, kind: device.kind.clone(), major: Some(device.major), minor: Some(device.minor), access: access.into() }
}

/// Every capability that this process can hand on: effective and in the bounding set, by name with `CAP_`. What a privileged container gets.
pub fn own_capabilities() -> Vec<String> {
    let mask = kernel::caps::current().map(|sets| sets.effective).unwrap_or(0) & kernel::caps::bounding();
    (0..64).filter(|number| mask & (1 << number) != 0).filter_map(capability_name).collect()
}

/// The host's device nodes below /dev for a privileged container, without terminals and without what every container has anyway.
///
/// # Errors
/// /dev cannot be read.
pub fn host_devices() -> Result<Vec<oci::Device>> {
    let mut devices = nodes(Path::new("/dev"), Path::new("/dev"))?;
    devices.retain(|device| !HAD_ANYWAY.iter().any(|name| device.path == Path::new("/dev").join(name)));
    Ok(devices)
}

/// One device of the host (`--device`), or all nodes below a directory, placed at `inside`.
///
/// # Errors
/// The path is missing, or is no device and no directory.
pub fn device(host: &Path, inside: &Path) -> Result<Vec<oci::Device>> {
    let stat = stat(host).map_err(Error::step(format!("look at the device {}", host.display())))?;
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => nodes(host, inside),
        _ => match node(&stat, inside) {
            Some(device) => Ok(vec![device]),
            None => Err(Error::invalid(format!("{} is not a device node", host.display()))),
        },
    }
}

/// Names below /dev that are the container's own or a terminal of the host.
const HAD_ANYWAY: [&str; 9] = ["console", "full", "null", "ptmx", "random", "tty", "urandom", "zero", "fd"];
/// Folders below /dev that belong to mounts of their own.
const OTHER_MOUNTS: [&str; 7] = ["pts", "shm", "mqueue", "fd", ".lxc", ".lxd-mounts", ".udev"];
const DEPTH_MAX: usize = 16;

fn nodes(host: &Path, inside: &Path) -> Result<Vec<oci::Device>> {
    let mut found = Vec::new();
    collect(host, inside, 0, &mut found).map_err(Error::step(format!("list the devices in {}", host.display())))?;
    found.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(found)
}

fn collect(host: &Path, inside: &Path, depth: usize, found: &mut Vec<oci::Device>) -> std::result::Result<(), Errno> {
    let directory = open(host, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::new(directory)?.flatten() {
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        let (host, inside) = (host.join(name), inside.join(name));
        // A node that goes away meanwhile is not there.
        let Ok(stat) = lstat(&host) else { continue };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            let skip = name == "." || name == ".." || (depth == 0 && OTHER_MOUNTS.iter().any(|other| name == *other));
            if !skip && depth < DEPTH_MAX {
                // A folder that cannot be read does not keep the rest back.
                let _ = collect(&host, &inside, depth + 1, found);
            }
        } else {
            found.extend(node(&stat, &inside));
        }
    }
    Ok(())
}

fn node(stat: &Stat, inside: &Path) -> Option<oci::Device> {
    let kind = match FileType::from_raw_mode(stat.st_mode) {
        FileType::BlockDevice => "b",
        FileType::CharacterDevice => "c",
        _ => return None,
    };
    Some(oci::Device {
        path: inside.into(),
        kind: kind.into(),
        major: rustix::fs::major(stat.st_rdev).into(),
        minor: rustix::fs::minor(stat.st_rdev).into(),
        file_mode: Some(stat.st_mode & 0o7777),
        uid: Some(stat.st_uid),
        gid: Some(stat.st_gid),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_of_the_host() {
        let null = device(Path::new("/dev/null"), Path::new("/dev/elsewhere")).unwrap();
        assert_eq!((null[0].major, null[0].minor, null[0].kind.as_str()), (1, 3, "c"));
        assert_eq!(null[0].path, Path::new("/dev/elsewhere"));
        assert!(device(Path::new("/etc/passwd"), Path::new("/x")).unwrap_err().to_string().contains("not a device"));
        assert!(device(Path::new("/dev/no-such"), Path::new("/x")).is_err());
        let all = host_devices().unwrap();
        assert!(all.iter().all(|device| device.path != Path::new("/dev/null") && !device.path.starts_with("/dev/pts")));
    }

    #[test]
    fn own_capabilities_are_names() {
        assert!(own_capabilities().iter().all(|name| name.starts_with("CAP_")));
    }
}

//! User namespaces: which ids of the host a container's ids are.
//!
//! What is on disk has the ids that the container sees: mounts are mapped, so that layers are shared by containers of all ranges, and a volume can go
//! from one to the other.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use runtime::oci;
use serde::{Deserialize, Serialize};
use types::container::{HostConfig, NamespaceMode};

use crate::container::lock;
use crate::sandbox::bad;
use crate::{Engine, Error};

/// What `--userns auto` gives each container: 65,536 ids of its own out of a part of the numbers that distributions leave alone.
const RANGE_SIZE: u32 = 65_536;
const AUTO_START: u32 = 0x2000_0000;
const AUTO_RANGES: u32 = 0x4000;
/// The range of `--userns-remap default` where /etc/subuid names none.
const DEFAULT_START: u32 = 0x1fff_0000;
const DEFAULT_USERS: [&str; 2] = ["cais", "dockremap"];
/// How long a range is kept for a container that is being made.
const MAKING_MAX: Duration = Duration::from_secs(600);
/// Layers of an overlay can be id-mapped from this kernel on, and a tmpfs from that one.
const KERNEL_MIN: (u32, u32) = (5, 19);
const KERNEL_TMPFS: (u32, u32) = (6, 3);
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Ids of the host that are a container's 0 and up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The user that is its root.
    pub uid: u32,
    /// The group that is its root's.
    pub gid: u32,
    /// How many.
    pub size: u32,
}

/// Ranges of containers that are being made.
#[derive(Debug, Default)]
pub(crate) struct Ranges(Mutex<BTreeMap<u32, Instant>>);

impl IdRange {
    /// What `--userns-remap` means: `default`, or `USER[:GROUP]` with ranges in /etc/subuid and /etc/subgid.
    ///
    /// # Errors
    /// A sentence.
    pub fn of_setting(text: &str) -> Result<Self, String> {
        let read = |path: &str| {
            let file = std::fs::File::open(path).ok();
            file.and_then(|file| std::io::read_to_string(std::io::Read::take(file, FILE_BYTES_MAX)).ok()).unwrap_or_default()
        };
        Self::choose(text, &read("/etc/subuid"), &read("/etc/subgid"))
    }

    fn choose(text: &str, subuid: &str, subgid: &str) -> Result<Self, String> {
        if text == "default" {
            let found = DEFAULT_USERS.iter().find_map(|name| Some((subordinate(subuid, name)?, subordinate(subgid, name)?)));
            let ((uid, users), (gid, groups)) = found.unwrap_or(((DEFAULT_START, RANGE_SIZE), (DEFAULT_START, RANGE_SIZE)));
            return Ok(Self { uid, gid, size: users.min(groups) });
        }
        let (user, group) = text.split_once(':').unwrap_or((text, text));
        let missing = |name: &str, file: &str| format!("{name:?} has no range of ids in {file}: add a line such as {name}:231072:65536");
        let (uid, users) = subordinate(subuid, user).ok_or_else(|| missing(user, "/etc/subuid"))?;
        let (gid, groups) = subordinate(subgid, group).ok_or_else(|| missing(group, "/etc/subgid"))?;
        Ok(Self { uid, gid, size: users.min(groups) })
    }
}

/// The first range of a name: start and size.
fn subordinate(text: &str, name: &str) -> Option<(u32, u32)> {
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let found = fields.next()? == name;
        let (start, size): (u32, u32) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        (found && size > 0 && start.checked_add(size).is_some()).then_some((start, size))
    })
}

impl Engine {
    /// The ids of a container that is being made; none where they are the host's.
    pub(crate) fn choose_ids(&self, host: &HostConfig) -> Result<Option<IdRange>, Error> {
        let range = match (host.userns_mode.as_str(), self.config.sandbox.remap) {
            ("host", _) | ("", None) => return Ok(None),
            ("", Some(range)) => range,
            ("auto", _) => self.own_range()?,
            (other, _) => return Err(bad("UsernsMode", other, "use host, auto, or nothing for the engine's setting")),
        };
        refuse_combinations(host)?;
        if kernel_release() < KERNEL_MIN {
            let (major, minor) = KERNEL_MIN;
            return Err(bad("UsernsMode", &host.userns_mode, &format!("id-mapped layers need Linux {major}.{minor} or later")));
        }
        if self.runtime(&host.runtime)?.is_some() {
            return Err(bad("UsernsMode", &host.userns_mode, "other runtimes than the engine's own cannot have it: use --userns host"));
        }
        Ok(Some(range))
    }

    /// A range that no other container has.
    fn own_range(&self) -> Result<IdRange, Error> {
        let mut making = lock(&self.ranges.0);
        making.retain(|_, since| since.elapsed() < MAKING_MAX);
        let held: Vec<u32> = self.containers.all().iter().filter_map(|container| Some(container.record().id_range?.uid)).collect();
        let starts = (0..AUTO_RANGES).map(|number| AUTO_START + number * RANGE_SIZE);
        let free = starts.into_iter().find(|start| !making.contains_key(start) && !held.contains(start));
        let start = free.ok_or_else(|| bad("UsernsMode", "auto", "all ranges are taken: remove containers that are not needed"))?;
        making.insert(start, Instant::now());
        Ok(IdRange { uid: start, gid: start, size: RANGE_SIZE })
    }
}

/// Docker's rules: what belongs to the host is not for whoever is nobody there.
fn refuse_combinations(host: &HostConfig) -> Result<(), Error> {
    let is_host = |mode: &str| NamespaceMode::parse(mode) == NamespaceMode::Host;
    let refused = [
        (host.privileged, "Privileged", "a privileged container needs the host's user namespace: use --userns host"),
        (is_host(&host.pid_mode), "PidMode", "the host's processes cannot be shared with a user namespace of its own: use --userns host"),
        (is_host(&host.ipc_mode), "IpcMode", "the host's IPC cannot be shared with a user namespace of its own: use --userns host"),
        (is_host(&host.uts_mode), "UTSMode", "the host's names cannot be shared with a user namespace of its own: use --userns host"),
        (
            is_host(&host.network_mode),
            "NetworkMode",
            "the host's network cannot be shared with a user namespace of its own: use --userns host",
        ),
    ];
    match refused.into_iter().find(|(asked, ..)| *asked) {
        Some((_, field, reason)) => Err(bad(field, if field == "Privileged" { "true" } else { "host" }, reason)),
        None => Ok(()),
    }
}

/// Gives a specification a user namespace, and maps what is bound into it.
pub(crate) fn apply(range: IdRange, spec: &mut oci::Spec) {
    let mapping = |host_id| vec![oci::IdMapping { container_id: 0, host_id, size: range.size }];
    spec.linux.namespaces.push(oci::Namespace { kind: "user".to_owned(), path: None });
    spec.linux.uid_mappings = mapping(range.uid);
    spec.linux.gid_mappings = mapping(range.gid);
    for mount in spec.mounts.iter_mut().filter(|mount| mount.kind == "bind" && can_be_mapped(Path::new(&mount.source))) {
        mount.options.push("idmap".to_owned());
    }
}

/// Whether the kernel maps ids on the filesystem at `path`. Elsewhere files of the host's root belong to nobody.
fn can_be_mapped(path: &Path) -> bool {
    const EXT: i64 = 0xef53;
    const XFS: i64 = 0x5846_5342;
    const BTRFS: i64 = 0x9123_683e;
    const F2FS: i64 = 0xf2f5_2010;
    const EROFS: i64 = 0xe0f5_e1e2;
    const SQUASHFS: i64 = 0x7371_7368;
    const VFAT: i64 = 0x4d44;
    const TMPFS: i64 = 0x0102_1994;
    rustix::fs::statfs(path).is_ok_and(|found| match found.f_type {
        TMPFS => kernel_release() >= KERNEL_TMPFS,
        kind => [EXT, XFS, BTRFS, F2FS, EROFS, SQUASHFS, VFAT].contains(&kind),
    })
}

/// The first two numbers of the kernel's release.
fn kernel_release() -> (u32, u32) {
    let name = rustix::system::uname();
    let release = name.release().to_string_lossy();
    let mut numbers = release.split(|letter: char| !letter.is_ascii_digit()).map(|digits| digits.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_name_ranges() {
        let (users, groups) = ("other:1:1\nweb:300000:65536\n", "web:400000:1000\n");
        let range = IdRange::choose("web", users, groups).expect("both files have it");
        assert_eq!(range, IdRange { uid: 300_000, gid: 400_000, size: 1000 });
        assert!(IdRange::choose("nobody", users, groups).expect_err("no line").contains("/etc/subuid"));
        assert!(IdRange::choose("web:x", users, groups).expect_err("no line").contains("/etc/subgid"));
        assert_eq!(IdRange::choose("default", users, groups).expect("always").uid, DEFAULT_START);
        assert_eq!(IdRange::choose("default", "dockremap:7:9\n", "dockremap:8:9\n").expect("listed"), IdRange { uid: 7, gid: 8, size: 9 });
        assert_eq!(subordinate("web:4294967295:2\n", "web"), None);
    }

    #[test]
    fn the_hosts_namespaces_do_not_go_with_it() {
        let check = |host: HostConfig| refuse_combinations(&host).map_err(|error| error.to_string());
        assert!(check(HostConfig::default()).is_ok());
        let host = || "host".to_owned();
        for bad in [
            HostConfig { privileged: true, ..HostConfig::default() },
            HostConfig { pid_mode: host(), ..HostConfig::default() },
            HostConfig { ipc_mode: host(), ..HostConfig::default() },
            HostConfig { network_mode: host(), ..HostConfig::default() },
        ] {
            assert!(check(bad).expect_err("refused").contains("--userns host"));
        }
    }

    #[test]
    fn ranges_do_not_overlap() {
        const { assert!(DEFAULT_START + RANGE_SIZE <= AUTO_START && AUTO_START.checked_add(AUTO_RANGES * RANGE_SIZE).is_some()) }
    }
}

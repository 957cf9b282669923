//! What a container wants mounted, planned from the three ways to say it (`Binds`, `Mounts`, `Tmpfs`) and from the image's volumes. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use types::container::{Config, HostConfig, Mount, MountPoint};

use crate::Error;

/// One mount, complete but for the host directory of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Planned {
    /// Where in the container: absolute and clean.
    pub destination: String,
    /// Writing is refused.
    pub read_only: bool,
    /// What is mounted.
    pub source: Source,
    /// How mounts propagate; empty for the default.
    pub propagation: String,
    /// Options of the short form, as given.
    pub mode: String,
    /// Comes from `--tmpfs`: not shown among the mounts.
    pub hidden: bool,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// A path of the host.
    Bind {
        /// The path: absolute and clean.
        path: String,
        /// A directory is made when nothing is there.
        create: bool,
        /// Mounts below it are left out.
        non_recursive: bool,
    },
    /// A volume.
    Volume {
        /// Its name; filled in once an anonymous one is made.
        name: String,
        /// It has no name of its own and goes with the container.
        anonymous: bool,
        /// It is not filled from the image.
        no_copy: bool,
        /// The directory in it that is mounted; empty for the whole.
        subpath: String,
        /// Labels for a volume made by this mount.
        labels: BTreeMap<String, String>,
    },
    /// Memory.
    Tmpfs {
        /// Mount options.
        options: Vec<String>,
    },
}

/// Plans all mounts of a container, outermost first.
/// `inherited` are other containers': they give way to what the request names, and the image's volumes give way to them.
pub(crate) fn plan(config: &Config, host: &HostConfig, inherited: Vec<Planned>) -> Result<Vec<Planned>, Error> {
    let mut planned: Vec<Planned> = Vec::new();
    for bind in &host.binds {
        planned.push(short_form(bind)?);
    }
    for mount in &host.mounts {
        planned.push(long_form(mount)?);
    }
    for (target, options) in &host.tmpfs {
        let options = options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
        planned.push(Planned { hidden: true, ..simple(clean_target(target)?, Source::Tmpfs { options: tmpfs_options(options)? }) });
    }
    let mut taken = BTreeSet::new();
    for mount in &planned {
        if !taken.insert(mount.destination.clone()) {
            return Err(Error::DuplicateMount { target: mount.destination.clone() });
        }
    }
    planned.extend(inherited.into_iter().filter(|mount| taken.insert(mount.destination.clone())));
    for target in config.volumes.keys() {
        let destination = clean_target(target)?;
        if taken.insert(destination.clone()) {
            let source =
                Source::Volume { name: String::new(), anonymous: true, no_copy: false, subpath: String::new(), labels: BTreeMap::new() };
            planned.push(simple(destination, source));
        }
    }
    planned.sort_by_key(|mount| (mount.destination.matches('/').count(), mount.destination.clone()));
    Ok(planned)
}

impl Planned {
    /// The same mount for another container: a volume stays whose it is, and is not filled again.
    pub(crate) fn shared(mut self, read_only: bool) -> Self {
        self.read_only |= read_only;
        if let Source::Volume { anonymous, no_copy, .. } = &mut self.source {
            (*anonymous, *no_copy) = (false, true);
        }
        self
    }

    /// As `inspect` shows it; `directory` is the host directory of a volume.
    pub(crate) fn point(&self, directory: impl Fn(&str) -> String) -> Option<MountPoint> {
        if self.hidden {
            return None;
        }
        let mut point = MountPoint {
            destination: self.destination.clone(),
            mode: self.mode.clone(),
            rw: !self.read_only,
            propagation: String::new(),
            ..MountPoint::default()
        };
        match &self.source {
            Source::Bind { path, .. } => {
                point.kind = "bind".to_owned();
                point.source = path.clone();
                point.propagation = if self.propagation.is_empty() { "rprivate".to_owned() } else { self.propagation.clone() };
            }
            Source::Volume { name, .. } => {
                point.kind = "volume".to_owned();
                point.source = directory(name);
                point.name = name.clone();
                point.driver = "local".to_owned();
            }
            Source::Tmpfs { .. } => point.kind = "tmpfs".to_owned(),
        }
        Some(point)
    }
}

fn simple(destination: String, source: Source) -> Planned {
    Planned { destination, read_only: false, source, propagation: String::new(), mode: String::new(), hidden: false }
}

/// `[source:]target[:option,…]`.
fn short_form(text: &str) -> Result<Planned, Error> {
    let invalid = |reason: &'static str| Error::BadMount { mount: text.to_owned(), reason };
    let parts: Vec<&str> = text.split(':').collect();
    let (source, target, mode) = match parts[..] {
        [target] => ("", target, ""),
        [source, target] if target.starts_with('/') => (source, target, ""),
        [target, mode] if target.starts_with('/') && is_mode(mode) => ("", target, mode),
        [source, target, mode] => (source, target, mode),
        _ => return Err(invalid("expected [SOURCE:]TARGET[:OPTION,...] with an absolute TARGET")),
    };
    if parts.len() > 1 && source.is_empty() && mode.is_empty() {
        return Err(invalid("the source is empty"));
    }
    let destination = clean_target(target)?;
    let mut mount = Planned { mode: mode.to_owned(), ..simple(destination, Source::Tmpfs { options: Vec::new() }) };
    let mut no_copy = false;
    for option in mode.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" | "readonly" => mount.read_only = true,
            // Labels of SELinux and hints for other systems have no effect here, as with Docker on such a machine.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" => no_copy = true,
            propagation if is_propagation(propagation) => mount.propagation = propagation.to_owned(),
            _ => return Err(invalid("unknown option: use ro, rw, z, Z, nocopy or a propagation such as rslave")),
        }
    }
    mount.source = if source.starts_with('/') {
        Source::Bind { path: clean(source), create: true, non_recursive: false }
    } else {
        if !source.is_empty() && !crate::name::is_valid(source) {
            return Err(Error::BadVolumeName { name: source.to_owned() });
        }
        if !mount.propagation.is_empty() {
            return Err(invalid("propagation is for bind mounts"));
        }
        Source::Volume { name: source.to_owned(), anonymous: source.is_empty(), no_copy, subpath: String::new(), labels: BTreeMap::new() }
    };
    Ok(mount)
}

fn long_form(mount: &Mount) -> Result<Planned, Error> {
    let invalid =
        |reason: &'static str| Error::BadMount { mount: format!("type={},src={},dst={}", mount.kind, mount.source, mount.target), reason };
    if mount.target.is_empty() {
        return Err(invalid("the target is missing"));
    }
    let mut planned = Planned { read_only: mount.read_only, ..simple(clean_target(&mount.target)?, Source::Tmpfs { options: Vec::new() }) };
    planned.source = match mount.kind.as_str() {
        "bind" => {
            if !mount.source.starts_with('/') {
                return Err(invalid("the source of a bind mount must be an absolute path"));
            }
            let options = mount.bind_options.clone().unwrap_or_default();
            if !options.propagation.is_empty() && !is_propagation(&options.propagation) {
                return Err(invalid("unknown propagation: use private, rprivate, shared, rshared, slave or rslave"));
            }
            planned.propagation = options.propagation;
            Source::Bind { path: clean(&mount.source), create: options.create_mountpoint, non_recursive: options.non_recursive }
        }
        "volume" => {
            if !mount.source.is_empty() && !crate::name::is_valid(&mount.source) {
                return Err(Error::BadVolumeName { name: mount.source.clone() });
            }
            let options = mount.volume_options.clone().unwrap_or_default();
            if options
                .driver_config
                .as_ref()
                .is_some_and(|driver| !matches!(driver.name.as_str(), "" | "local") || !driver.options.is_empty())
            {
                return Err(invalid("only the volume driver local without options is served"));
            }
            if Path::new(&options.subpath).components().any(|part| !matches!(part, Component::Normal(_))) {
                return Err(invalid("volume-subpath must be a relative path inside of the volume"));
            }
            let (name, anonymous) = (mount.source.clone(), mount.source.is_empty());
            Source::Volume { name, anonymous, no_copy: options.no_copy, subpath: options.subpath, labels: options.labels.into_map() }
        }
        "tmpfs" => {
            if !mount.source.is_empty() {
                return Err(invalid("a tmpfs mount has no source"));
            }
            let options = mount.tmpfs_options.clone().unwrap_or_default();
            let mut list = Vec::new();
            if options.size_bytes > 0 {
                list.push(format!("size={}", options.size_bytes));
            }
            if options.mode != 0 {
                list.push(format!("mode={:o}", options.mode));
            }
            list.extend(options.options.iter().map(|words| words.join("=")));
            Source::Tmpfs { options: tmpfs_options(list)? }
        }
        _ => return Err(invalid("unknown type: use bind, volume or tmpfs")),
    };
    Ok(planned)
}

/// The options given, after those that Docker gives every tmpfs.
fn tmpfs_options(given: Vec<String>) -> Result<Vec<String>, Error> {
    const FLAGS: &[&str] = &[
        "ro",
        "rw",
        "exec",
        "noexec",
        "suid",
        "nosuid",
        "dev",
        "nodev",
        "sync",
        "async",
        "atime",
        "noatime",
        "diratime",
        "nodiratime",
        "relatime",
    ];
    const VALUES: &[&str] = &["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol", "huge"];
    let mut options: Vec<String> = ["noexec", "nosuid", "nodev"].map(str::to_owned).to_vec();
    for option in given {
        let known = match option.split_once('=') {
            Some((key, _)) => VALUES.contains(&key),
            None => FLAGS.contains(&option.as_str()),
        };
        if !known {
            return Err(Error::BadTmpfsOption { option });
        }
        // A later word takes back the default it is the opposite of.
        options.retain(|earlier| earlier.strip_prefix("no") != Some(option.as_str()));
        options.push(option);
    }
    Ok(options)
}

fn is_mode(text: &str) -> bool {
    !text.is_empty() && !text.starts_with('/')
}

fn is_propagation(text: &str) -> bool {
    matches!(text, "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave")
}

fn clean_target(target: &str) -> Result<String, Error> {
    if !target.starts_with('/') {
        return Err(Error::BadMount { mount: target.to_owned(), reason: "the target must be an absolute path" });
    }
    let target = clean(target);
    if target == "/" {
        return Err(Error::BadMount { mount: target, reason: "nothing can be mounted over the root" });
    }
    Ok(target)
}

/// An absolute path without `.`, `..`, doubled or trailing slashes.
pub(crate) fn clean(path: &str) -> String {
    let mut cleaned = PathBuf::from("/");
    for part in Path::new(path).components() {
        match part {
            Component::Normal(name) => cleaned.push(name),
            Component::ParentDir => {
                cleaned.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    cleaned.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_short_form_tells_binds_from_volumes() {
        let bind = short_form("/a//b/../c:/in/:ro,rslave").expect("a bind");
        assert_eq!(bind.source, Source::Bind { path: "/a/c".into(), create: true, non_recursive: false });
        assert_eq!((bind.destination.as_str(), bind.read_only, bind.propagation.as_str()), ("/in", true, "rslave"));
        assert!(
            matches!(short_form("data:/d").expect("a volume").source, Source::Volume { ref name, anonymous: false, .. } if name == "data")
        );
        assert!(matches!(short_form("/d").expect("anonymous").source, Source::Volume { anonymous: true, .. }));
        assert!(matches!(
            short_form("/d:ro").expect("anonymous"),
            Planned { read_only: true, source: Source::Volume { anonymous: true, .. }, .. }
        ));
        for bad in ["", "a:b", "x:/", ":/d", "a:/d:what", "a:/d:ro:x", "../x:/d", "data:/d:rslave"] {
            assert!(short_form(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn image_volumes_give_way_and_duplicates_are_refused() {
        let mut config = Config::default();
        config.volumes.insert("/data".into(), Default::default());
        config.volumes.insert("/more".into(), Default::default());
        let mut host = HostConfig { binds: vec!["/x:/data".to_owned()].into(), ..HostConfig::default() };
        let planned = plan(&config, &host, Vec::new()).expect("a plan");
        assert_eq!(planned.iter().map(|mount| mount.destination.as_str()).collect::<Vec<_>>(), ["/data", "/more"]);
        assert!(matches!(planned[0].source, Source::Bind { .. }));
        host.tmpfs.insert("/data/".into(), String::new());
        assert!(matches!(plan(&config, &host, Vec::new()), Err(Error::DuplicateMount { .. })));
    }

    #[test]
    fn tmpfs_options_are_checked_and_take_back_defaults() {
        let options = |text: &str| tmpfs_options(text.split(',').map(str::to_owned).collect());
        assert_eq!(options("exec,size=1m").expect("known"), ["nosuid", "nodev", "exec", "size=1m"]);
        assert!(options("lowerdir=/x").is_err());
    }
}

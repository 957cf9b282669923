//! What is remembered of a container between commands: a folder with `state.json` and the FIFOs of its start, or for one that is created, started and
//! removed by the same command nothing but its state, as a file in the folder's place. Where states are kept on a disk, folders cost.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};

use super::{Global, words};
use crate::{config, oci};

const ID_BYTES_MAX: usize = 1024;

/// `state.json`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) pid: i32,
    /// When the process started, in the kernel's ticks: a number may be used again, both together are not.
    pub(super) start_time: u64,
    pub(super) bundle: PathBuf,
    /// Below each hierarchy's mount point.
    pub(super) cgroup: PathBuf,
    /// Whether there is one, and its processes are the container's alone.
    #[serde(default = "yes")]
    pub(super) grouped: bool,
    pub(super) created: String,
    pub(super) spec: oci::Spec,
}

fn yes() -> bool {
    true
}

/// What a container does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Status {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Status {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// A container's folder.
#[derive(Debug, Clone)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// The folder of `id`, which may not exist. A name must not lead elsewhere.
    pub(super) fn of(global: &Global, id: &str) -> Result<Self, String> {
        let plain = id.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_+-.".contains(&byte));
        if id.is_empty() || id.len() > ID_BYTES_MAX || id == "." || id == ".." || !plain {
            return Err(format!("{id:?} is not a container's name: letters, digits and _+-. are allowed"));
        }
        Ok(Self(global.root.join(id)))
    }

    /// Makes it.
    pub(super) fn make(&self) -> Result<(), String> {
        self.make_new(|path| fs::create_dir(path))
    }

    /// Makes a file in its place, for a container without gates. It is empty until the first [`Self::save`].
    pub(super) fn make_file(&self) -> Result<(), String> {
        use std::os::unix::fs::OpenOptionsExt;
        self.make_new(|path| fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map(drop))
    }

    fn make_new(&self, make: impl FnOnce(&Path) -> std::io::Result<()>) -> Result<(), String> {
        let fail = |error: std::io::Error| format!("make {}: {error}", self.0.display());
        if let Some(root) = self.0.parent() {
            fs::create_dir_all(root).map_err(fail)?;
        }
        match make(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(format!("a container named {:?} exists already", self.0.file_name().unwrap_or_default()))
            }
            other => other.map_err(fail),
        }
    }

    pub(super) fn remove(&self) -> Result<(), String> {
        let removed = match fs::remove_file(&self.0) {
            Err(error) if error.kind() == std::io::ErrorKind::IsADirectory => fs::remove_dir_all(&self.0),
            other => other,
        };
        removed.map_err(|error| format!("remove {}: {error}", self.0.display()))
    }

    /// Where the state is, and whether that is a file which nobody has read yet.
    fn place(&self) -> (PathBuf, bool) {
        match fs::symlink_metadata(&self.0) {
            Ok(metadata) if metadata.is_file() => (self.0.clone(), metadata.len() == 0),
            _ => (self.0.join("state.json"), false),
        }
    }

    pub(super) fn save(&self, record: &Record) -> Result<(), String> {
        let (path, fresh) = self.place();
        let text = serde_json::to_vec(record).map_err(words)?;
        let write = || {
            if fresh {
                return fs::OpenOptions::new().write(true).open(&path)?.write_all(&text);
            }
            // No container's name has this letter.
            let mut temporary = path.clone().into_os_string();
            temporary.push("#new");
            fs::File::create(&temporary)?.write_all(&text)?;
            fs::rename(&temporary, &path)
        };
        write().map_err(|error: std::io::Error| format!("write {}: {error}", path.display()))
    }

    pub(super) fn load(&self) -> Result<Record, String> {
        let none = || format!("no container named {:?} exists", self.0.file_name().unwrap_or_default().to_string_lossy());
        let (path, fresh) = self.place();
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(none()),
            other => other.map_err(|error| format!("read {}: {error}", path.display()))?,
        };
        match serde_json::from_slice(&bytes) {
            // It is about to be written, or half written.
            Err(error) if fresh || (path == self.0 && error.is_eof()) => Err(none()),
            other => other.map_err(|error| format!("read {}: {error}", path.display())),
        }
    }

    /// The FIFO over which the start is given.
    pub(super) fn start_gate(&self) -> PathBuf {
        self.0.join("start")
    }

    /// The FIFO over which it is told what became of it.
    pub(super) fn outcome_gate(&self) -> PathBuf {
        self.0.join("outcome")
    }

    /// Makes both FIFOs and opens them for the container's process.
    pub(super) fn make_gates(&self) -> Result<(OwnedFd, OwnedFd), String> {
        let make = |path: &Path| {
            mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
            open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        };
        let gate = |path: PathBuf| make(&path).map_err(|errno| format!("make {}: {errno}", path.display()));
        Ok((gate(self.start_gate())?, gate(self.outcome_gate())?))
    }

    pub(super) fn status(&self, record: &Record) -> Status {
        if record.process().is_none() {
            return Status::Stopped;
        }
        let frozen = cgroup::System::detect().ok().and_then(|system| cgroup::Group::open(&system, &record.cgroup).is_frozen().ok());
        match (self.start_gate().exists(), frozen) {
            (_, Some(true)) => Status::Paused,
            (true, _) => Status::Created,
            (false, _) => Status::Running,
        }
    }
}

impl Record {
    /// The container's first process, if it is the same one and not yet dead.
    pub(super) fn process(&self) -> Option<(Pid, OwnedFd)> {
        let pid = Pid::from_raw(self.pid)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Looked at after the descriptor was opened: if it is the process now, the descriptor is its too.
        let (start_time, zombie) = start_time(pid)?;
        (start_time == self.start_time && !zombie).then_some((pid, pidfd))
    }

    /// The state of the OCI specification.
    pub(super) fn json(&self, status: Status) -> serde_json::Value {
        serde_json::json!({
            "ociVersion": config::OCI_VERSION,
            "id": self.id,
            "pid": if status == Status::Stopped { 0 } else { self.pid },
            "status": status.name(),
            "bundle": self.bundle,
            "rootfs": self.rootfs(),
            "created": self.created,
            "annotations": self.spec.annotations,
            // Containers are made by root alone.
            "owner": "root",
        })
    }

    pub(super) fn rootfs(&self) -> PathBuf {
        self.bundle.join(self.spec.root.as_ref().map_or(Path::new("rootfs"), |root| root.path.as_path()))
    }
}

/// When a process started, and whether it is dead already.
pub(super) fn start_time(pid: Pid) -> Option<(u64, bool)> {
    let text = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name may contain anything; the state is the third field and the start the twenty-second.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ');
    let state = fields.next()?;
    Some((fields.nth(18)?.parse().ok()?, matches!(state, "Z" | "X")))
}

/// A bundle's `config.json`.
pub(super) fn read_spec(path: &Path) -> Result<oci::Spec, String> {
    let mut bytes = Vec::new();
    let read = fs::File::open(path).and_then(|file| file.take(config::CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes));
    read.map_err(|error| format!("read {}: {error}", path.display()))?;
    config::parse(&bytes).map_err(|error| format!("{}: {}", path.display(), words(error)))
}

/// This moment as RFC 3339 in UTC.
pub(super) fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    rfc3339(since.as_secs(), since.subsec_nanos())
}

fn rfc3339(seconds: u64, nanoseconds: u32) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days are counted from 1 March of year 0, so that a leap day ends its year (Howard Hinnant, chrono-compatible low-level date algorithms).
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{nanoseconds:09}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        assert_eq!(rfc3339(0, 0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(rfc3339(951_782_400, 5), "2000-02-29T00:00:00.000000005Z");
        assert_eq!(rfc3339(1_735_689_599, 0), "2024-12-31T23:59:59.000000000Z");
    }

    #[test]
    fn a_state_is_kept_in_a_folder_or_in_a_file() {
        let root = std::env::temp_dir().join(format!("cais-state-{}", std::process::id()));
        let global = Global { root: root.clone(), log: None, json: false, groups: true };
        let (one, two) = (Folder::of(&global, "one").unwrap(), Folder::of(&global, "two").unwrap());
        let mut record = Record {
            id: "x".into(),
            pid: 1,
            start_time: 2,
            bundle: "/b".into(),
            cgroup: "c".into(),
            grouped: true,
            created: now(),
            spec: oci::Spec::default(),
        };
        one.make().unwrap();
        two.make_file().unwrap();
        for folder in [&one, &two] {
            assert!(folder.make().unwrap_err().contains("exists already"));
            assert!(folder.make_file().unwrap_err().contains("exists already"));
            assert!(folder.load().unwrap_err().contains("no container named"));
            for pid in [7, 8] {
                record.pid = pid;
                folder.save(&record).unwrap();
                assert_eq!(folder.load().unwrap().pid, pid);
            }
            folder.remove().unwrap();
            assert!(folder.load().is_err() && folder.remove().is_err());
        }
        assert_eq!(fs::read_dir(&root).unwrap().count(), 0);
        fs::remove_dir(root).unwrap();
    }

    #[test]
    fn names_do_not_lead_elsewhere() {
        let global = Global { root: "/run/x".into(), log: None, json: false, groups: true };
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(Folder::of(&global, bad).is_err(), "{bad:?}");
        }
        assert!(Folder::of(&global, "a-b_c.d+1").is_ok());
    }
}

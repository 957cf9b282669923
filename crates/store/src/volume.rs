//! Named and anonymous volumes.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use durable::fail_point;
use jiff::Timestamp;
use rustix::fs::{self, Mode, OFlags};
use serde::{Deserialize, Serialize};
use types::Id;

use crate::catalog::kind;
use crate::merged::{Found, Merged, copy_directory_attributes, copy_tree};
use crate::records::{Records, Transaction, decode};
use crate::snapshot::tree_size;
use crate::store::{entries, file_name};
use crate::{Database, Error, Result, Store};

/// The label of volumes that nobody named.
const ANONYMOUS_LABEL: &str = "com.docker.volume.anonymous";
const NAME_LEN_MAX: usize = 255;
const DATA: &str = "_data";

/// A volume to be made.
#[derive(Debug, Clone, Default)]
pub struct NewVolume {
    /// Its name; `None` makes one of 64 hexadecimal digits and the label `com.docker.volume.anonymous`.
    pub name: Option<String>,
    /// The digits for a volume without a name, for a caller that must know them before the volume is there.
    pub digits: Option<Id>,
    /// The driver asked for: empty or `local`.
    pub driver: String,
    /// Options of the driver; only an empty map is served.
    pub options: BTreeMap<String, String>,
    /// Labels; `None` where the client gave none.
    pub labels: Option<BTreeMap<String, String>>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339 with seconds.
    pub created: String,
    /// Labels, as given.
    pub labels: Option<BTreeMap<String, String>>,
    /// Whether nobody named it: goes with the container that it was made for.
    pub anonymous: bool,
    /// The directory to mount.
    #[serde(skip)]
    pub mountpoint: PathBuf,
}

impl Store {
    /// Makes a volume, or answers the one of that name as it is.
    pub fn create_volume(&self, new: &NewVolume) -> Result<Arc<Volume>> {
        let named = new.name.clone().filter(|name| !name.is_empty());
        let anonymous = named.is_none();
        let name = named.unwrap_or_else(|| new.digits.clone().unwrap_or_else(Id::random).to_string());
        check_name(&name)?;
        check_driver(&name, new)?;
        let _right = self.volume_writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(present) = self.volume_map().get(&name) {
            return Ok(Arc::clone(present));
        }
        let mut labels = new.labels.clone();
        if anonymous {
            labels.get_or_insert_default().insert(ANONYMOUS_LABEL.to_owned(), String::new());
        }
        let directory = self.volume_dir(&name);
        // What a crash left there has no record.
        self.reaper.bury(&directory)?;
        durable::create_dir(&directory, 0o701)?;
        durable::create_dir(&directory.join(DATA), 0o755)?;
        durable::sync_dir(&directory)?;
        durable::sync_dir(&self.root.join("volumes"))?;
        fail_point("store.volume.made");
        let volume = Arc::new(Volume { created: now_in_seconds(), labels, anonymous, mountpoint: directory.join(DATA), name });
        let mut transaction = Transaction::new();
        transaction.put(kind::VOLUME, &volume.name, volume.as_ref())?.delete(kind::VOLUME_GRAVE, &volume.name)?;
        self.db().apply(transaction)?;
        self.change_volumes(|volumes| volumes.insert(volume.name.clone(), Arc::clone(&volume)));
        Ok(volume)
    }

    /// The volume of that name.
    pub fn volume(&self, name: &str) -> Result<Arc<Volume>> {
        self.volume_map().get(name).cloned().ok_or_else(|| Error::NoSuchVolume(name.to_owned()))
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<Arc<Volume>> {
        self.volume_map().values().cloned().collect()
    }

    /// Removes a volume with its files (in the background). The engine has made sure that no container uses it.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        let _right = self.volume_writer.lock().unwrap_or_else(PoisonError::into_inner);
        self.volume(name)?;
        let mut transaction = Transaction::new();
        transaction.delete(kind::VOLUME, name)?.put(kind::VOLUME_GRAVE, name, "")?;
        self.db().apply(transaction)?;
        fail_point("store.volume.removed");
        self.change_volumes(|volumes| volumes.remove(name));
        self.finish_volume_removal(name)
    }

    /// Goes on with removals that a crash interrupted, and removes what a creation left. A directory with files that nobody removed is left alone.
    pub(crate) fn collect_volumes(&self) -> Result<()> {
        let _right = self.volume_writer.lock().unwrap_or_else(PoisonError::into_inner);
        for (name, _) in self.db().scan_raw(kind::VOLUME_GRAVE)? {
            self.finish_volume_removal(&name)?;
        }
        for path in entries(&self.root.join("volumes"))? {
            let Some(name) = file_name(&path) else {
                continue;
            };
            if self.db().get_raw(kind::VOLUME, name)?.is_some() {
                continue;
            }
            match is_empty(&path.join(DATA)).unwrap_or(true) {
                true => self.reaper.bury(&path)?,
                false => tracing::warn!(path = %path.display(), "a volume's directory without a record is left alone"),
            }
        }
        Ok(())
    }

    fn finish_volume_removal(&self, name: &str) -> Result<()> {
        self.reaper.bury(&self.volume_dir(name))?;
        let mut transaction = Transaction::new();
        transaction.delete(kind::VOLUME_GRAVE, name)?;
        // If this is lost, the next start finds nothing to bury.
        self.db().submit(transaction, |_| {});
        Ok(())
    }

    /// The bytes of the volume's files. Walks it.
    pub fn volume_size(&self, name: &str) -> Result<u64> {
        tree_size(&self.volume(name)?.mountpoint)
    }

    /// Fills an empty volume with what the image has at `path` (links resolved inside the image), owner and mode of that directory included, as at a volume's first use.
    /// `lower` are the image's layers, top first ([`Snapshot::lower`](crate::Snapshot)). Answers whether anything was done: not if the volume has files, or the image has no directory there.
    pub fn fill_volume(&self, name: &str, lower: &[PathBuf], path: &str) -> Result<bool> {
        let volume = self.volume(name)?;
        let fail = |error| Error::io("fill the volume at", &volume.mountpoint, error);
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let target = fs::open(&volume.mountpoint, flags, Mode::empty()).map_err(fail)?;
        if !is_empty(&volume.mountpoint)? {
            return Ok(false);
        }
        let Some(Found::Directory(source)) = Merged::open(lower)?.resolve(path.as_bytes()).map_err(fail)? else {
            return Ok(false);
        };
        copy_tree(&source, target.as_fd()).map_err(fail)?;
        copy_directory_attributes(&source, target.as_fd()).map_err(fail)?;
        Ok(true)
    }

    fn volume_dir(&self, name: &str) -> PathBuf {
        self.root.join("volumes").join(name)
    }

    fn volume_map(&self) -> Arc<BTreeMap<String, Arc<Volume>>> {
        Arc::clone(&self.volumes.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_volumes<T>(&self, change: impl FnOnce(&mut BTreeMap<String, Arc<Volume>>) -> T) {
        let mut volumes = BTreeMap::clone(&self.volume_map());
        change(&mut volumes);
        *self.volumes.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(volumes);
    }
}

/// Reads the records of all volumes. One that can't be read, or whose directory is gone, is left out with a warning.
pub(crate) fn read_all(db: &Database, root: &Path) -> Result<BTreeMap<String, Arc<Volume>>> {
    let mut volumes = BTreeMap::new();
    for (name, body) in db.scan_raw(kind::VOLUME)? {
        match decode::<Volume>(kind::VOLUME, &name, &body) {
            Ok(volume) => {
                let mountpoint = root.join("volumes").join(&name).join(DATA);
                if !mountpoint.is_dir() {
                    tracing::warn!(volume = name, path = %mountpoint.display(), "the volume's directory is gone");
                }
                volumes.insert(name, Arc::new(Volume { mountpoint, ..volume }));
            }
            Err(error) => tracing::warn!(error = %types::error::chain(&error), "a damaged record is left out"),
        }
    }
    Ok(volumes)
}

fn check_name(name: &str) -> Result<()> {
    let good = |letter: u8| letter.is_ascii_alphanumeric() || b"_.-".contains(&letter);
    if name.len() < 2 {
        return Err(Error::VolumeNameShort(name.to_owned()));
    }
    match name.len() <= NAME_LEN_MAX && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(good) {
        true => Ok(()),
        false => Err(Error::VolumeName(name.to_owned())),
    }
}

fn check_driver(name: &str, new: &NewVolume) -> Result<()> {
    if !matches!(new.driver.as_str(), "" | "local") {
        return Err(Error::NoSuchVolumeDriver { name: name.to_owned(), driver: new.driver.clone() });
    }
    match new.options.keys().next() {
        Some(option) => {
            Err(Error::VolumeOptions(format!("create {name}: the option {option:?} of the volume driver \"local\" is not served")))
        }
        None => Ok(()),
    }
}

fn is_empty(directory: &Path) -> Result<bool> {
    let mut entries = std::fs::read_dir(directory).map_err(|error| Error::io("list", directory, error))?;
    Ok(entries.next().is_none())
}

/// Volumes tell their age in whole seconds.
fn now_in_seconds() -> String {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now).to_string()
}

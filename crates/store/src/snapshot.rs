//! Read/write layers of containers.

use std::collections::HashSet;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use rustix::fs::{Gid, Uid};

use crate::catalog::{Image, RootAttributes};
use crate::layer::SNAPSHOT_LAYERS;
use crate::store::{entries, file_name};
use crate::{Error, Result, Store};

/// The directories of a container's overlay.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    /// The layers' directories, top first. At least one (an empty directory when the image has no layers).
    pub lower: Vec<PathBuf>,
    /// The read/write layer.
    pub upper: PathBuf,
    /// Overlayfs's work directory.
    pub work: PathBuf,
}

impl Store {
    /// The directory of a container, `containers/<id>`, which the engine shares: made by [`Store::create_snapshot`], gone after [`Store::remove_snapshot`].
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.root.join("containers").join(id)
    }

    /// Makes the container's directory with an empty read/write layer over the image, and holds the image's layers until [`Store::remove_snapshot`], even if the image is removed.
    /// A few directory operations, no sync: what a crash leaves of it is removed with [`Store::remove_snapshot`] too.
    pub fn create_snapshot(&self, id: &str, image: &Image) -> Result<Snapshot> {
        self.snapshot_of(id, image.layers.iter().map(|layer| layer.key.clone()).collect(), image.root)
    }

    pub(crate) fn snapshot_of(&self, id: &str, keys: Vec<String>, root: Option<RootAttributes>) -> Result<Snapshot> {
        check_id(id)?;
        self.hold_for_container(id, &keys)?;
        let made = self.make_snapshot(id, &keys, root);
        if made.is_err() {
            self.release(id);
            // The first error is the one to tell; what is left has no record.
            let _ = self.reaper.bury(&self.container_dir(id));
        }
        made
    }

    /// The directories of a snapshot that exists, after a restart of the engine as well. Does not wait for the disk.
    pub fn snapshot(&self, id: &str) -> Result<Snapshot> {
        let keys = {
            let holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
            holds.snapshots.get(id).cloned().ok_or_else(|| Error::NoSuchSnapshot(id.to_owned()))?
        };
        Ok(self.describe(&self.container_dir(id), &keys))
    }

    /// The ids of all containers that have a directory here, whatever state it is in: what has no record is to be removed.
    pub fn snapshot_ids(&self) -> Result<Vec<String>> {
        Ok(entries(&self.root.join("containers"))?.iter().filter_map(|path| file_name(path)).map(str::to_owned).collect())
    }

    /// Removes the container's whole directory: on return it is gone by name; its files go in the background, which is taken up again at the next start. Absence is success.
    /// Layers whose image was removed before go with their last container.
    pub fn remove_snapshot(&self, id: &str) -> Result<()> {
        check_id(id)?;
        self.reaper.bury(&self.container_dir(id))?;
        let released = self.release(id);
        let catalog = self.catalog();
        let of_images: HashSet<&str> = catalog.images().flat_map(|image| &image.layers).map(|layer| layer.key.as_str()).collect();
        match released.iter().all(|key| of_images.contains(key.as_str())) {
            true => Ok(()),
            false => self.drop_unused_layers(&self.write()).map(|_| ()),
        }
    }

    /// The bytes of the files in the read/write layer (`SizeRw`). Walks it.
    pub fn snapshot_size(&self, id: &str) -> Result<u64> {
        check_id(id)?;
        tree_size(&self.container_dir(id).join("upper"))
    }

    fn hold_for_container(&self, id: &str, keys: &[String]) -> Result<()> {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if holds.snapshots.contains_key(id) || holds.unknown.contains(id) {
            return Err(Error::SnapshotExists(id.to_owned()));
        }
        let catalog = self.catalog();
        if let Some(gone) = keys.iter().find(|key| holds.is_doomed(key) || !catalog.layers.contains_key(*key)) {
            return Err(format!("sha256:{gone}").parse().map_or_else(|_| Error::Key { key: gone.clone() }, Error::MissingLayer));
        }
        holds.snapshots.insert(id.to_owned(), keys.to_vec());
        Ok(())
    }

    fn release(&self, id: &str) -> Vec<String> {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        holds.unknown.remove(id);
        holds.snapshots.remove(id).unwrap_or_default()
    }

    fn make_snapshot(&self, id: &str, keys: &[String], root: Option<RootAttributes>) -> Result<Snapshot> {
        let directory = self.container_dir(id);
        durable::create_dir(&directory, 0o710)?;
        let list = directory.join(SNAPSHOT_LAYERS);
        let mut text: String = keys.iter().map(|key| format!("{key}\n")).collect();
        text.push_str("end\n");
        let written = std::fs::File::create_new(&list).and_then(|mut file| file.write_all(text.as_bytes()));
        written.map_err(|error| Error::io("write", &list, error))?;
        let snapshot = self.describe(&directory, keys);
        let root = root.unwrap_or(RootAttributes { mode: 0o755, uid: 0, gid: 0 });
        durable::create_dir(&snapshot.upper, root.mode)?;
        if (root.uid, root.gid) != (0, 0) {
            let owned = rustix::fs::chown(&snapshot.upper, Some(Uid::from_raw(root.uid)), Some(Gid::from_raw(root.gid)));
            owned.map_err(|error| Error::io("set the owner of", &snapshot.upper, error))?;
        }
        durable::create_dir(&snapshot.work, 0o700)?;
        Ok(snapshot)
    }

    fn describe(&self, directory: &Path, keys: &[String]) -> Snapshot {
        let lower = self.layer_dirs(keys.iter().map(String::as_str));
        Snapshot { lower, upper: directory.join("upper"), work: directory.join("work") }
    }
}

/// Ids become directory names.
fn check_id(id: &str) -> Result<()> {
    match id.is_empty() || id.starts_with('.') || id.contains(['/', '\0']) {
        true => Err(Error::Key { key: id.to_owned() }),
        false => Ok(()),
    }
}

/// The bytes of the files below a directory, those with several names once. What vanishes meanwhile does not count.
pub(crate) fn tree_size(directory: &Path) -> Result<u64> {
    let mut size = 0u64;
    let mut seen = HashSet::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        let listed = match std::fs::read_dir(&directory) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            listed => listed.map_err(|error| Error::io("list", &directory, error))?,
        };
        for entry in listed {
            let entry = entry.map_err(|error| Error::io("list", &directory, error))?;
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if metadata.is_dir() {
                left.push(entry.path());
            } else if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
                size = size.saturating_add(metadata.len());
            }
        }
    }
    Ok(size)
}

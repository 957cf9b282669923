//! Read/write layers of containers.

use std::path::PathBuf;

use crate::catalog::Image;
use crate::{Result, Store};

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
        let _ = id;
        todo!()
    }

    /// Makes the container's directory with an empty read/write layer over the image, and holds the image's layers until [`Store::remove_snapshot`], even if the image is removed.
    /// A few directory operations, no sync: what a crash leaves of it is removed with [`Store::remove_snapshot`] too.
    pub fn create_snapshot(&self, id: &str, image: &Image) -> Result<Snapshot> {
        let _ = (id, image);
        todo!()
    }

    /// The directories of a snapshot that exists, after a restart of the engine as well.
    pub fn snapshot(&self, id: &str) -> Result<Snapshot> {
        let _ = id;
        todo!()
    }

    /// The ids of all containers that have a directory here, whatever state it is in: what has no record is to be removed.
    pub fn snapshot_ids(&self) -> Result<Vec<String>> {
        todo!()
    }

    /// Removes the container's whole directory: on return it is gone by name; its files go in the background, which is taken up again at the next start. Absence is success.
    pub fn remove_snapshot(&self, id: &str) -> Result<()> {
        let _ = id;
        todo!()
    }

    /// The bytes of the files in the read/write layer (`SizeRw`). Walks it.
    pub fn snapshot_size(&self, id: &str) -> Result<u64> {
        let _ = id;
        todo!()
    }
}

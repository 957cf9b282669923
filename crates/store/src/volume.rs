//! Named and anonymous volumes.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Result, Store};

/// A volume to be made.
#[derive(Debug, Clone, Default)]
pub struct NewVolume {
    /// Its name; `None` makes one of 64 hexadecimal digits and the label `com.docker.volume.anonymous`.
    pub name: Option<String>,
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
        let _ = new;
        todo!()
    }

    /// The volume of that name.
    pub fn volume(&self, name: &str) -> Result<Arc<Volume>> {
        let _ = name;
        todo!()
    }

    /// All volumes, by name.
    pub fn volumes(&self) -> Vec<Arc<Volume>> {
        todo!()
    }

    /// Removes a volume with its files (in the background). The engine has made sure that no container uses it.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        let _ = name;
        todo!()
    }

    /// The bytes of the volume's files. Walks it.
    pub fn volume_size(&self, name: &str) -> Result<u64> {
        let _ = name;
        todo!()
    }

    /// Fills an empty volume with what the image has at `path` (links resolved inside the image), owner and mode of that directory included, as at a volume's first use.
    /// `lower` are the image's layers, top first ([`Snapshot::lower`](crate::Snapshot)). Answers whether anything was done: not if the volume has files, or the image has no directory there.
    pub fn fill_volume(&self, name: &str, lower: &[PathBuf], path: &str) -> Result<bool> {
        let _ = (name, lower, path);
        todo!()
    }
}

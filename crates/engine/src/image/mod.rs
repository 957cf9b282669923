//! Images: pull, import, load, save, list, inspect, tag, remove, prune. Plain requests in, plain outcomes out.
//!
//! Work on disks happens on blocking threads of the store; what moves between them and the network are bounded channels of [`Bytes`].

mod error;
mod list;
mod pull;
mod stream;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use registry::{Credentials, Registry};
use store::{Image, ImageUser, Removal, Store};
use tokio::sync::mpsc;
use types::{Digest, ImageRef, Platform};

pub use error::Error;
pub use list::{ImageDetails, ImageSummary};
pub use pull::{Progress, Pulled};
pub use store::{HistoryEntry, ImportOptions};

/// What the operations on images answer.
pub type Result<T> = std::result::Result<T, Error>;

/// Tells which containers use an image. Must only look at what is in memory.
pub type Users = Arc<dyn Fn(&Digest) -> Vec<ImageUser> + Send + Sync>;

/// Bytes that come from or go to a client.
pub type Body = mpsc::Receiver<io::Result<Bytes>>;

/// The operations on images.
#[derive(Clone)]
pub struct Images {
    store: Arc<Store>,
    registry: Arc<Registry>,
    users: Users,
    downloads: Arc<pull::Downloads>,
}

/// What a list of images is asked for.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Also the nameless images that others were made from.
    pub all: bool,
    /// Docker's filters: `reference`, `dangling`, `label`, `label!`, `before`, `since`, `until`.
    pub filters: BTreeMap<String, Vec<String>>,
    /// Whether the bytes shared with other images are to be added up.
    pub shared_size: bool,
}

/// What loading did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// The image.
    pub id: Digest,
    /// The names given, in the familiar form; none for a nameless image.
    pub names: Vec<String>,
}

/// What pruning did.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// What was removed.
    pub removed: Vec<Removal>,
    /// The bytes of the layers that went.
    pub reclaimed: u64,
}

/// How to reach registries.
#[derive(Debug, Clone, Default)]
pub struct RegistrySettings {
    /// Registries to which plain HTTP is spoken, besides those on loopback: `host[:port]` or a range `10.0.0.0/8`.
    pub insecure: Vec<String>,
    /// How the engine names itself to registries.
    pub user_agent: String,
}

impl Images {
    /// The operations on the images of a store. Nothing is connected before it is needed.
    pub fn new(store: Arc<Store>, settings: RegistrySettings, users: Users) -> Self {
        let _ = (store, settings, users);
        todo!()
    }

    /// Fetches an image (`:latest` implied) for a platform, this machine's if absent. Layers that the store has are not fetched again; two pulls of the same layer share one download.
    /// Progress is sent as Docker words it; a receiver that is gone or full loses lines (never the last of a layer), not the pull.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Pulled> {
        let _ = (reference, platform, credentials, progress);
        todo!()
    }

    /// Makes an image of one layer from an archive.
    pub async fn import(&self, input: Body, options: ImportOptions) -> Result<Arc<Image>> {
        let _ = (input, options);
        todo!()
    }

    /// Loads the images of an archive.
    pub async fn load(&self, input: Body, platform: Option<Platform>) -> Result<Vec<LoadedImage>> {
        let _ = (input, platform);
        todo!()
    }

    /// Starts writing images to an archive. References are checked before this answers; what fails later ends the stream with an error.
    pub async fn save(&self, references: Vec<String>, platform: Option<Platform>) -> Result<Body> {
        let _ = (references, platform);
        todo!()
    }

    /// The images that pass the filters, the latest made first.
    pub async fn list(&self, request: &ListRequest) -> Result<Vec<ImageSummary>> {
        let _ = request;
        todo!()
    }

    /// The image that a name, id or prefix means. Does not wait.
    pub fn find(&self, reference: &str) -> Result<Arc<Image>> {
        let _ = reference;
        todo!()
    }

    /// Everything about one image.
    pub fn inspect(&self, reference: &str) -> Result<ImageDetails> {
        let _ = reference;
        todo!()
    }

    /// What each step of an image's making did, newest first.
    pub fn history(&self, reference: &str) -> Result<Vec<HistoryEntry>> {
        let _ = reference;
        todo!()
    }

    /// Gives an image another name: `repository` without a tag, and the tag (`latest` if empty).
    pub async fn tag(&self, reference: &str, repository: &str, tag: &str) -> Result<()> {
        let _ = (reference, repository, tag);
        todo!()
    }

    /// Removes a name or an image by Docker's rules.
    pub async fn remove(&self, reference: &str, force: bool, noprune: bool) -> Result<Vec<Removal>> {
        let _ = (reference, force, noprune);
        todo!()
    }

    /// Removes images that nobody uses: nameless ones, or with the filter `dangling=false` all. Filters: `dangling`, `label`, `label!`, `until`.
    pub async fn prune(&self, filters: &BTreeMap<String, Vec<String>>) -> Result<Pruned> {
        let _ = filters;
        todo!()
    }

    /// The ids of the image that `reference` means and of all that have its layers at their bottom, for the filter `ancestor` of containers. Empty if there is none.
    pub fn descendants(&self, reference: &str) -> Vec<Digest> {
        let _ = reference;
        todo!()
    }
}

impl std::fmt::Debug for Images {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Images({:?})", self.store)
    }
}

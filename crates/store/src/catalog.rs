//! What the store holds, as an immutable snapshot in memory, and the records it is made from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use types::image::{Descriptor, ImageConfig};
use types::{Digest, ImageRef};

/// The kinds of documents that belong to this crate.
pub(crate) mod kind {
    pub const BUILD_CACHE: &str = "build-cache";
    pub const IMAGE: &str = "image";
    pub const LAYER: &str = "layer";
    pub const NAME: &str = "name";
    pub const VOLUME: &str = "volume";
    /// A volume whose directory is still to be removed.
    pub const VOLUME_GRAVE: &str = "volume-grave";
}

/// Everything that images consist of, at one moment.
#[derive(Debug, Clone, Default)]
pub struct Catalog {
    pub(crate) images: BTreeMap<Digest, Arc<Image>>,
    pub(crate) names: BTreeMap<ImageRef, Arc<Name>>,
    /// By key: the diffID's digits for a layer that stands alone, the chainID's for one that was completed from those below it.
    pub(crate) layers: HashMap<String, Arc<Layer>>,
}

impl Catalog {
    /// All images, by id.
    pub fn images(&self) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values()
    }

    /// The image of that id.
    pub fn image(&self, id: &Digest) -> Option<&Arc<Image>> {
        self.images.get(id)
    }

    /// All names with what they point at, in order.
    pub fn names(&self) -> impl Iterator<Item = (&ImageRef, &Arc<Name>)> {
        self.names.iter()
    }

    /// What a name points at.
    pub fn name(&self, name: &ImageRef) -> Option<&Arc<Name>> {
        self.names.get(name)
    }

    /// The names of an image with a tag (`RepoTags`), in order.
    pub fn tags_of(&self, id: &Digest) -> Vec<&ImageRef> {
        self.names_of(id).filter(|name| name.digest().is_none()).collect()
    }

    /// The names of an image with a digest (`RepoDigests`), in order.
    pub fn digests_of(&self, id: &Digest) -> Vec<&ImageRef> {
        self.names_of(id).filter(|name| name.digest().is_some()).collect()
    }

    /// Images that were made from this one.
    pub fn children_of(&self, id: &Digest) -> impl Iterator<Item = &Arc<Image>> {
        self.images.values().filter(move |image| image.parent.as_ref() == Some(id))
    }

    /// The layer of that key.
    pub fn layer(&self, key: &str) -> Option<&Arc<Layer>> {
        self.layers.get(key)
    }

    fn names_of(&self, id: &Digest) -> impl Iterator<Item = &ImageRef> {
        self.names.iter().filter(move |(_, target)| target.image == *id).map(|(name, _)| name)
    }
}

/// An image. Immutable.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Image {
    /// The digest of its configuration.
    pub id: Digest,
    /// The configuration, as far as it is understood; its exact bytes are content under `id`.
    pub config: ImageConfig,
    /// Its manifest, which is content too. One made here when the image came without.
    pub manifest: Descriptor,
    /// Its layers, lowest first.
    pub layers: Vec<ImageLayer>,
    /// The image it was made from here, by a build or a commit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<Digest>,
    /// When it was given a name last, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_tagged: Option<String>,
    /// Mode and owner of the root directory, where a layer tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootAttributes>,
}

impl Image {
    /// The bytes of the files in all its layers together, as Docker counts an image's size.
    pub fn size(&self) -> u64 {
        self.layers.iter().map(|layer| layer.size).sum()
    }
}

/// A layer as part of an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageLayer {
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// The digest that stands for it with all layers below it.
    pub chain_id: Digest,
    /// The key of the extracted layer.
    pub key: String,
    /// The bytes of its files.
    pub size: u64,
}

/// Mode and owner of a root directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootAttributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a name points at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Name {
    /// The image for this machine's platform.
    pub image: Digest,
    /// The root: the index or manifest that the name has at its registry, or the manifest made here.
    pub target: Descriptor,
}

/// An extracted layer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Layer {
    /// Its directory's name below `layers/`.
    pub key: String,
    /// The digest of its uncompressed archive.
    pub diff_id: Digest,
    /// Whether it is the same whatever lies below it. Otherwise attributes of directories (or linked files) were taken from the layers below.
    pub stands_alone: bool,
    /// The bytes of its regular files.
    pub size: u64,
    /// The bytes of its uncompressed archive.
    pub archive_size: u64,
    /// Mode and owner of the root directory, if the archive tells them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub root: Option<RootAttributes>,
    /// Where its compressed archive can be had again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub origins: Vec<Origin>,
}

/// A registry's repository that has a layer's compressed archive.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The repository, without tag and digest.
    pub repository: ImageRef,
    /// The compressed archive.
    pub blob: Descriptor,
}

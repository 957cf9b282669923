//! Images: look-up, names, history, and how new ones become visible.

use std::path::PathBuf;
use std::sync::Arc;

use types::image::Descriptor;
use types::{Digest, ImageRef};

use crate::catalog::{Catalog, Image, Origin};
use crate::layer::{LayerHold, StagedLayer};
use crate::{Result, Store};

/// An image that is about to become visible.
#[derive(Debug)]
pub struct NewImage {
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// The manifest, byte for byte with its media type; one is made when absent.
    pub manifest: Option<(String, Vec<u8>)>,
    /// The layers, lowest first, as many as the configuration has diffIDs.
    pub layers: Vec<NewLayer>,
    /// The image that it was made from here.
    pub parent: Option<Digest>,
    /// Names to be given, each with its root where that is not the manifest. A name that another image has moves.
    pub names: Vec<(ImageRef, Option<Descriptor>)>,
}

/// A layer of an image that is about to become visible.
#[derive(Debug)]
pub enum NewLayer {
    /// One that the store has.
    Present(LayerHold),
    /// One that was just unpacked, and where it came from.
    Staged(Box<StagedLayer>, Option<Origin>),
}

/// One line of `history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image's id on the first line, of which the names are `tags`; `<missing>` on others unless a parent is known.
    pub id: String,
    /// When, RFC 3339; absent if it was not noted.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// The familiar names of the image of that line.
    pub tags: Vec<String>,
    /// The bytes of the layer's files.
    pub size: u64,
    /// A remark.
    pub comment: String,
}

impl Store {
    /// All that is known of images at this moment, without waiting.
    pub fn catalog(&self) -> Arc<Catalog> {
        todo!()
    }

    /// All images at this moment.
    pub fn images(&self) -> Vec<Arc<Image>> {
        todo!()
    }

    /// The image that `text` means: a name (with `:latest` implied), `name@digest`, an id, or an unambiguous prefix of one. An ambiguous one says so.
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        let _ = text;
        todo!()
    }

    /// Gives an image another name; the name moves if it is another image's. Answers whether anything changed.
    pub fn tag(&self, image: &Digest, name: &ImageRef) -> Result<bool> {
        let _ = (image, name);
        todo!()
    }

    /// What each step of the making did, newest first.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let _ = image;
        todo!()
    }

    /// The directories of an image's layers, top first: what an overlay's `lowerdir` takes.
    pub fn lowerdirs(&self, image: &Image) -> Vec<PathBuf> {
        let _ = image;
        todo!()
    }

    /// Makes a new image visible, all of it or nothing: syncs, publishes the staged layers, records. One that is there already only gets the names.
    pub fn commit_image(&self, new: NewImage) -> Result<Arc<Image>> {
        let _ = new;
        todo!()
    }
}

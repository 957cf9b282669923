//! How much disk space what takes.

use types::Digest;

use crate::{Result, Store};

/// The disk space of images, layers and volumes (`system df`).
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// The bytes of the files in all layers, each layer once.
    pub layers: u64,
    /// Each image.
    pub images: Vec<ImageUsage>,
    /// Each volume.
    pub volumes: Vec<VolumeUsage>,
}

/// The disk space of one image.
#[derive(Debug, Clone)]
pub struct ImageUsage {
    /// The image.
    pub id: Digest,
    /// The bytes of its layers that other images have too.
    pub shared: u64,
    /// The bytes of all its layers.
    pub size: u64,
}

/// The disk space of one volume.
#[derive(Debug, Clone)]
pub struct VolumeUsage {
    /// The volume.
    pub name: String,
    /// The bytes of its files.
    pub size: u64,
}

impl Store {
    /// Adds it all up. Walks the volumes.
    pub fn usage(&self) -> Result<Usage> {
        todo!()
    }
}

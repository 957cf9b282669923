//! How much disk space what takes.

use std::collections::HashMap;

use types::Digest;

use crate::catalog::Catalog;
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

impl Catalog {
    /// The bytes of each image's layers, and of those that other images have too.
    pub fn image_usage(&self) -> Vec<ImageUsage> {
        let mut users: HashMap<&str, usize> = HashMap::new();
        for image in self.images() {
            // An image may have the same layer twice and still be its only user.
            let mut keys: Vec<&str> = image.layers.iter().map(|layer| layer.key.as_str()).collect();
            keys.sort_unstable();
            keys.dedup();
            keys.into_iter().for_each(|key| *users.entry(key).or_default() += 1);
        }
        let shared = |key: &str| users.get(key).is_some_and(|&count| count > 1);
        self.images()
            .map(|image| ImageUsage {
                id: image.id.clone(),
                shared: image.layers.iter().filter(|layer| shared(&layer.key)).map(|layer| layer.size).sum(),
                size: image.size(),
            })
            .collect()
    }

    /// The bytes of the files in all layers, each layer once.
    pub fn layers_size(&self) -> u64 {
        self.layers.values().map(|layer| layer.size).sum()
    }
}

impl Store {
    /// Adds it all up. Walks the volumes.
    pub fn usage(&self) -> Result<Usage> {
        let catalog = self.catalog();
        let mut volumes = Vec::new();
        for volume in self.volumes() {
            volumes.push(VolumeUsage { name: volume.name.clone(), size: self.volume_size(&volume.name)? });
        }
        Ok(Usage { layers: catalog.layers_size(), images: catalog.image_usage(), volumes })
    }
}

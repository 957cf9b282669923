//! How much disk space what takes.

use std::collections::{HashMap, HashSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use types::Digest;

use crate::catalog::Catalog;
use crate::{Error, Result, Store};

/// The disk space of images, layers and volumes (`system df`).
#[derive(Debug, Clone, Default)]
pub struct Usage {
    /// The bytes of the files in all layers of images, each layer once.
    pub layers: u64,
    /// Each image.
    pub images: Vec<ImageUsage>,
    /// Each volume.
    pub volumes: Vec<VolumeUsage>,
    /// What the disk says.
    pub disk: DiskUse,
}

/// The disk's blocks, in bytes: what `du` adds up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUse {
    /// Of everything below the data root.
    pub total: u64,
    /// Of layers, with what gives back their archives, and of configurations and manifests.
    pub images: u64,
    /// Of volumes.
    pub volumes: u64,
    /// Of containers' read/write layers.
    pub containers: u64,
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

    /// The bytes of the files in the layers of images, each layer once.
    pub fn image_layers_size(&self) -> u64 {
        let keys: HashSet<&str> = self.images().flat_map(|image| &image.layers).map(|layer| layer.key.as_str()).collect();
        keys.iter().filter_map(|key| self.layers.get(*key)).map(|layer| layer.size).sum()
    }

    /// The bytes of the files in all layers, each layer once, those that only the build cache needs included.
    pub fn layers_size(&self) -> u64 {
        self.layers.values().map(|layer| layer.size).sum()
    }
}

/// The bytes of the disk's blocks below a path, the path itself included, but for what was counted before. What vanishes meanwhile does not count.
fn blocks(path: &Path, seen: &mut HashSet<(u64, u64)>) -> Result<u64> {
    let mut bytes = 0u64;
    let mut left = vec![path.to_owned()];
    while let Some(path) = left.pop() {
        let Ok(metadata) = path.symlink_metadata() else { continue };
        let is_new = (metadata.nlink() == 1 && !metadata.is_dir()) || seen.insert((metadata.dev(), metadata.ino()));
        if !is_new {
            continue;
        }
        bytes = bytes.saturating_add(metadata.blocks().saturating_mul(512));
        if metadata.is_dir() {
            let Ok(entries) = std::fs::read_dir(&path) else { continue };
            for entry in entries {
                left.push(entry.map_err(|error| Error::io("list", &path, error))?.path());
            }
        }
    }
    Ok(bytes)
}

impl Store {
    /// The bytes that are free for the engine on the data root's filesystem, if it tells.
    pub fn free_bytes(&self) -> Option<u64> {
        let stat = rustix::fs::statvfs(self.root()).ok()?;
        Some(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn disk_use(&self) -> Result<DiskUse> {
        let mut seen = HashSet::new();
        let mut of = |path: &Path| blocks(path, &mut seen);
        let images = of(&self.layers_dir())? + of(&self.root.join("content"))?;
        let volumes = of(&self.root.join("volumes"))?;
        let mut containers = 0;
        for path in crate::store::entries(&self.root.join("containers"))? {
            containers += of(&path.join("upper"))?;
        }
        let rest = of(&self.root)?;
        Ok(DiskUse { total: images + volumes + containers + rest, images, volumes, containers })
    }

    /// Adds it all up. Walks the volumes.
    pub fn usage(&self) -> Result<Usage> {
        let catalog = self.catalog();
        let mut volumes = Vec::new();
        for volume in self.volumes() {
            volumes.push(VolumeUsage { name: volume.name.clone(), size: self.volume_size(&volume.name)? });
        }
        Ok(Usage { layers: catalog.image_layers_size(), images: catalog.image_usage(), volumes, disk: self.disk_use()? })
    }
}

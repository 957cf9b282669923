//! Layers: unpacking into the staging area, completing, holding, dropping.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io::Read;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durable::fail_point;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};
use types::Digest;

use crate::archive::extract::split;
use crate::archive::parents::{Parents, Unreachable};
use crate::archive::pipeline::{Unpacked, unpack};
use crate::catalog::{Catalog, Layer, kind};
use crate::merged::{Found, Merged, copy_directory_attributes, copy_file, list};
use crate::records::{Records, Transaction};
use crate::store::{entries, file_name};
use crate::{Error, Result, Store};

/// The file in a container's directory that names the layers below its read/write layer.
pub(crate) const SNAPSHOT_LAYERS: &str = "layers";

/// A layer that is unpacked but not yet visible. Dropped, it is removed.
#[derive(Debug)]
pub struct StagedLayer {
    directory: StagingDir,
    unpacked: Unpacked,
}

impl StagedLayer {
    /// The digest of the uncompressed archive.
    pub fn diff_id(&self) -> &Digest {
        &self.unpacked.diff_id
    }

    /// The bytes of its regular files.
    pub fn size(&self) -> u64 {
        self.unpacked.extracted.size
    }

    /// Whether the archive had no bytes at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.unpacked.archive_size == 0
    }

    pub(crate) fn fs_dir(&self) -> PathBuf {
        self.directory.0.join("fs")
    }

    /// Takes from the layers below what the archive left to them. `below`: their directories, top first.
    pub(crate) fn complete(&self, below: &[PathBuf]) -> Result<()> {
        let needs = &self.unpacked.extracted.needs;
        match needs.is_empty() {
            true => Ok(()),
            false => Completion::new(&self.fs_dir(), below)?.run(needs),
        }
    }

    /// Its record, as the layer over `chain_id`'s others.
    pub(crate) fn record(&self, chain_id: &Digest) -> Layer {
        let stands_alone = self.unpacked.extracted.needs.is_empty();
        Layer {
            key: if stands_alone { self.unpacked.diff_id.hex() } else { chain_id.hex() }.to_owned(),
            diff_id: self.unpacked.diff_id.clone(),
            stands_alone,
            size: self.unpacked.extracted.size,
            archive_size: self.unpacked.archive_size,
            root: self.unpacked.extracted.root,
            origins: Vec::new(),
        }
    }

    /// Whether it takes something from the layers below it, so that it is finished for one image only.
    pub fn depends_on_others(&self) -> bool {
        !self.unpacked.extracted.needs.is_empty()
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.directory.0
    }
}

/// A directory in the staging area. Dropped, it is removed, unless it has been moved away.
#[derive(Debug)]
pub(crate) struct StagingDir(pub PathBuf);

impl Drop for StagingDir {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_tree(&self.0) {
            tracing::warn!(error = %types::error::chain(&error), "a staged layer was not removed; the next start does");
        }
    }
}

/// A layer that can't be removed while this exists.
#[derive(Debug)]
pub struct LayerHold {
    layer: Arc<Layer>,
    holds: Arc<Mutex<Holds>>,
}

impl LayerHold {
    /// The layer.
    pub fn layer(&self) -> &Arc<Layer> {
        &self.layer
    }
}

impl Drop for LayerHold {
    fn drop(&mut self) {
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = holds.counts.get_mut(&self.layer.key) {
            *count -= 1;
            if *count == 0 {
                holds.counts.remove(&self.layer.key);
            }
        }
    }
}

/// Who needs layers besides images.
#[derive(Debug, Default)]
pub(crate) struct Holds {
    counts: HashMap<String, usize>,
    /// Layers of each container, by its id.
    pub snapshots: BTreeMap<String, Vec<String>>,
    /// Containers whose list of layers was lost in a crash: while there are any, no layer is dropped.
    pub unknown: BTreeSet<String>,
    /// Layers that are being dropped.
    doomed: HashSet<String>,
}

impl Holds {
    /// Keeps every layer for as long as the store is open.
    pub fn keep_all(&mut self) {
        // No container has this id.
        self.unknown.insert(String::new());
    }

    /// Reads which layers the containers have.
    pub fn read(containers: &Path) -> Result<Self> {
        let mut holds = Self::default();
        for path in entries(containers)? {
            let Some(id) = file_name(&path) else {
                continue;
            };
            match read_layers(&path) {
                Some(layers) => {
                    holds.snapshots.insert(id.to_owned(), layers);
                }
                None => {
                    holds.unknown.insert(id.to_owned());
                }
            }
        }
        Ok(holds)
    }

    pub fn is_doomed(&self, key: &str) -> bool {
        self.doomed.contains(key)
    }

    fn needs(&self, key: &str) -> bool {
        self.counts.contains_key(key) || !self.unknown.is_empty() || self.snapshots.values().flatten().any(|held| held == key)
    }
}

/// The list of layers in a container's directory, written with a last line so that a torn one is recognised.
pub(crate) fn read_layers(container: &Path) -> Option<Vec<String>> {
    let text = std::fs::read_to_string(container.join(SNAPSHOT_LAYERS)).ok()?;
    let lines = text.strip_suffix("end\n")?;
    Some(lines.lines().map(str::to_owned).collect())
}

impl Store {
    /// The layer of that diffID if the store has it, held. A layer that took something from those below it is found by its chainID.
    pub fn find_layer(&self, diff_id: &Digest, chain_id: &Digest) -> Option<LayerHold> {
        let catalog = self.catalog();
        let alone = catalog.layers.get(diff_id.hex()).filter(|layer| layer.stands_alone);
        let layer =
            alone.or_else(|| catalog.layers.get(chain_id.hex()).filter(|layer| !layer.stands_alone && layer.diff_id == *diff_id))?;
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        // Between the look at the catalog and the lock it may have been dropped.
        if holds.is_doomed(&layer.key) || !self.catalog().layers.contains_key(&layer.key) {
            return None;
        }
        *holds.counts.entry(layer.key.clone()).or_default() += 1;
        Some(LayerHold { layer: Arc::clone(layer), holds: Arc::clone(&self.holds) })
    }

    /// Holds the layer of that key, which `catalog`, about to be shown, has.
    pub(crate) fn hold_key(&self, catalog: &Catalog, key: &str) -> Result<LayerHold> {
        let layer = catalog.layers.get(key).ok_or_else(|| Error::Key { key: key.to_owned() })?;
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        *holds.counts.entry(key.to_owned()).or_default() += 1;
        Ok(LayerHold { layer: Arc::clone(layer), holds: Arc::clone(&self.holds) })
    }

    /// Unpacks an archive, compressed in any of the known ways or not, into the staging area, hashing it meanwhile. Reads to the end of `input`.
    pub fn unpack(&self, input: &mut (dyn Read + Send)) -> Result<StagedLayer> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("layer-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = StagingDir(self.root.join("staging").join(name));
        durable::create_dir(&directory.0, 0o700)?;
        let unpacked = unpack(input, &directory.0, &self.limits)?;
        fail_point("store.layer.unpacked");
        Ok(StagedLayer { directory, unpacked })
    }

    /// Drops all layers that no image, container or hold needs. Answers their keys and sizes.
    pub(crate) fn drop_unused_layers(&self, right: &MutexGuard<'_, ()>) -> Result<Vec<Arc<Layer>>> {
        let catalog = self.catalog();
        let cached = self.build_cache().layers();
        let of_images = catalog.images.values().flat_map(|image| &image.layers).map(|layer| layer.key.as_str());
        let needed: HashSet<&str> = of_images.chain(cached.iter().map(String::as_str)).collect();
        let unused: Vec<Arc<Layer>> = {
            let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
            let unused = catalog.layers.values().filter(|layer| !needed.contains(layer.key.as_str()) && !holds.needs(&layer.key));
            let unused: Vec<_> = unused.cloned().collect();
            holds.doomed.extend(unused.iter().map(|layer| layer.key.clone()));
            unused
        };
        if unused.is_empty() {
            return Ok(unused);
        }
        let dropped = self.drop_layers(right, &catalog, &unused);
        let mut holds = self.holds.lock().unwrap_or_else(PoisonError::into_inner);
        for layer in &unused {
            holds.doomed.remove(&layer.key);
        }
        dropped.map(|()| unused)
    }

    fn drop_layers(&self, right: &MutexGuard<'_, ()>, catalog: &Catalog, unused: &[Arc<Layer>]) -> Result<()> {
        let mut transaction = Transaction::new();
        let mut left = catalog.clone();
        for layer in unused {
            transaction.delete(kind::LAYER, &layer.key)?;
            left.layers.remove(&layer.key);
        }
        self.db().apply(transaction)?;
        self.show(right, left);
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).retain(|key| unused.iter().all(|layer| layer.key != *key));
        fail_point("store.layer.dropped");
        for layer in unused {
            // What is left of it is found by the next start.
            if let Err(error) = self.reaper.bury(&self.layers_dir().join(&layer.key)) {
                tracing::warn!(error = %types::error::chain(&error), "a layer's files were not removed; the next start does");
            }
        }
        Ok(())
    }
}

/// The digests that stand for each layer with all those below it (OCI image specification, "Layer ChainID").
pub fn chain_ids(diff_ids: &[Digest]) -> Vec<Digest> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::from_sha256(Sha256::digest(format!("{below} {diff_id}")).into()),
        };
        chain.push(next);
    }
    chain
}

/// Finishing a layer from those below it.
struct Completion {
    own: Parents,
    below: Merged,
}

impl Completion {
    fn new(own: &Path, below: &[PathBuf]) -> Result<Self> {
        let root = fs::open(own, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self { own: Parents::new(root.map_err(|error| Error::io("open", own, error))?), below: Merged::open(below)? })
    }

    fn run(&mut self, needs: &crate::archive::extract::Needs) -> Result<()> {
        let mut directories = needs.directories.clone();
        for (path, target) in &needs.links {
            self.link(path, target, &mut directories)?;
        }
        for path in &directories {
            self.adopt(path).map_err(|error| failed("complete the directory", path, error))?;
        }
        if needs.opaque_root {
            self.hide_all().map_err(|error| failed("hide what is below", b"/", error))?;
        }
        Ok(())
    }

    /// A hard link whose target is below: overlayfs would copy only one name up, so both are made here.
    fn link(&mut self, path: &[u8], target: &[u8], directories: &mut BTreeSet<Vec<u8>>) -> Result<()> {
        let fail = |error| failed("link", path, error);
        let absent =
            || Error::invalid(format!("archive entry {:?}", String::from_utf8_lossy(path)), "a hard link to a file that is in no layer");
        let (target_above, target_name) = split(target);
        let mut made = |real: &[u8], hides: bool| {
            if !hides {
                directories.insert(real.to_vec());
            }
        };
        let copy_to = match self.own.open(&target_above, Some(&mut made)) {
            Ok((directory, _)) => directory.try_clone_to_owned().map_err(|error| Error::io("open", Path::new("."), error))?,
            Err(Unreachable::Failed(error)) => return Err(fail(error)),
            Err(_) => return Err(absent()),
        };
        match fs::statat(&copy_to, target_name, AtFlags::SYMLINK_NOFOLLOW) {
            // Another link to the same file has brought it already.
            Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile => {}
            Ok(_) => return Err(absent()),
            Err(_) => match self.below.lookup(target).map_err(fail)? {
                Some(Found::Other(above, name)) => copy_file(above.as_fd(), &name, copy_to.as_fd(), target_name).map_err(fail)?,
                _ => return Err(absent()),
            },
        }
        let (above, name) = split(path);
        match self.own.open(&above, None) {
            Ok((above, _)) => fs::linkat(&copy_to, target_name, above, name, AtFlags::empty()).map_err(fail),
            Err(_) => Err(absent()),
        }
    }

    fn adopt(&mut self, path: &[u8]) -> std::result::Result<(), rustix::io::Errno> {
        let (mut components, name) = split(path);
        components.push(name);
        let (Some(Found::Directory(parts)), Ok((own, _))) = (self.below.lookup(path)?, self.own.open(&components, None)) else {
            return Ok(());
        };
        copy_directory_attributes(&parts, own)
    }

    fn hide_all(&mut self) -> std::result::Result<(), rustix::io::Errno> {
        let root = self.own.root();
        for (name, _) in list(&self.below.root()?)? {
            match fs::statat(root, name.as_slice(), AtFlags::SYMLINK_NOFOLLOW) {
                Err(rustix::io::Errno::NOENT) => fs::mknodat(root, name.as_slice(), FileType::CharacterDevice, Mode::empty(), 0)?,
                Ok(stat) if FileType::from_raw_mode(stat.st_mode) == FileType::Directory => {
                    let directory = fs::openat(root, name.as_slice(), OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
                    crate::archive::parents::set_opaque(directory.as_fd())?;
                }
                looked => {
                    looked?;
                }
            }
        }
        Ok(())
    }
}

fn failed(operation: &'static str, path: &[u8], error: rustix::io::Errno) -> Error {
    use std::os::unix::ffi::OsStrExt;
    Error::io(operation, Path::new(std::ffi::OsStr::from_bytes(path)), error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chain_ids_follow_the_specification() {
        let digest = |byte| Digest::from_sha256([byte; 32]);
        let chain = chain_ids(&[digest(1), digest(2)]);
        assert_eq!(chain[0], digest(1));
        assert_eq!(chain[1], Digest::from_sha256(Sha256::digest(format!("{} {}", digest(1), digest(2))).into()));
    }
}

//! The build cache: which step, of which inputs, made which layer. Kept in memory, and written down with the layers that it names.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use durable::{fail_point, sync_filesystem};
use serde::{Deserialize, Serialize};
use types::Digest;

use crate::catalog::{Catalog, kind};
use crate::image::now;
use crate::layer::LayerHold;
use crate::records::{Records, Transaction, decode};
use crate::snapshot::tree_size;
use crate::{Database, Error, Result, Store};

/// Below the data root.
const CACHE_MOUNTS: &str = "build/cache";

/// The [`CacheRecord::kind`] of a folder that is kept between builds.
pub const CACHE_MOUNT: &str = "exec.cachemount";

/// What a step of a build came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheRecord {
    /// The digest of the step and all its inputs, in hexadecimal digits.
    pub key: String,
    /// The layer that it made; none if it changed nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layer: Option<Digest>,
    /// `regular` for a step's result.
    pub kind: String,
    /// The step as progress shows it.
    pub description: String,
    /// When it was carried out, RFC 3339.
    pub created: String,
    /// When it was used last, RFC 3339.
    pub last_used: String,
    /// How often it was used since.
    pub uses: u64,
    /// The bytes of the layer's files.
    pub size: u64,
    /// The inputs by name, to tell what changed when a step is not found.
    #[serde(default)]
    pub inputs: BTreeMap<String, String>,
    /// The same step at the same place of the same Dockerfile, whatever its inputs.
    #[serde(default)]
    pub slot: String,
}

/// The records in memory, and which of them the database does not have yet.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    records: BTreeMap<String, Arc<CacheRecord>>,
    changed: HashSet<String>,
}

impl Cache {
    /// Reads the records; one that can't be read, or whose layer is gone, only costs a step.
    pub fn read(db: &Database, catalog: &Catalog) -> Result<Self> {
        let mut cache = Self::default();
        let mut lost = Transaction::new();
        for (key, body) in db.scan_raw(kind::BUILD_CACHE)? {
            let record = decode::<CacheRecord>(kind::BUILD_CACHE, &key, &body).ok();
            match record.filter(|record| record.layer.as_ref().is_none_or(|layer| catalog.layers.contains_key(layer.hex()))) {
                Some(record) => {
                    cache.records.insert(key, Arc::new(record));
                }
                None => {
                    lost.delete(kind::BUILD_CACHE, &key)?;
                }
            }
        }
        if !lost.is_empty() {
            db.apply(lost)?;
        }
        Ok(cache)
    }

    /// The keys of the layers that the records name.
    pub fn layers(&self) -> HashSet<String> {
        self.records.values().filter_map(|record| Some(record.layer.as_ref()?.hex().to_owned())).collect()
    }
}

impl Store {
    /// All records of the build cache.
    pub fn cache_records(&self) -> Vec<Arc<CacheRecord>> {
        self.build_cache().records.values().cloned().collect()
    }

    /// What a step of that key came to, with its layer held, if it is known. It counts as used.
    pub fn cached_step(&self, key: &str) -> Option<(Arc<CacheRecord>, Option<Arc<LayerHold>>)> {
        let mut cache = self.build_cache();
        let record = cache.records.get(key)?;
        let hold = match &record.layer {
            Some(layer) => Some(Arc::new(self.find_layer(layer, layer)?)),
            None => None,
        };
        let used = Arc::new(CacheRecord { last_used: now(), uses: record.uses + 1, ..CacheRecord::clone(record) });
        cache.records.insert(key.to_owned(), Arc::clone(&used));
        cache.changed.insert(key.to_owned());
        Some((used, hold))
    }

    /// The latest record of the same step with other inputs.
    pub fn cached_before(&self, slot: &str) -> Option<Arc<CacheRecord>> {
        let cache = self.build_cache();
        cache.records.values().filter(|record| record.slot == slot).max_by(|one, other| one.last_used.cmp(&other.last_used)).cloned()
    }

    /// Notes what a step came to; [`Store::keep_steps`] writes it down.
    pub fn remember_step(&self, record: CacheRecord) {
        let mut cache = self.build_cache();
        cache.changed.insert(record.key.clone());
        cache.records.insert(record.key.clone(), Arc::new(record));
    }

    /// Writes down the layers and the records of steps, with one wait for the disk.
    pub fn keep_steps(&self) -> Result<()> {
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let changed: Vec<Arc<CacheRecord>> = {
            let mut cache = self.build_cache();
            let changed = std::mem::take(&mut cache.changed);
            changed.iter().filter_map(|key| cache.records.get(key).cloned()).collect()
        };
        if unwritten.is_empty() && changed.is_empty() {
            return Ok(());
        }
        fail_point("store.steps.begin");
        if !unwritten.is_empty() {
            sync_filesystem(&self.layers_dir())?;
        }
        let _right = self.write();
        let catalog = self.catalog();
        let mut transaction = Transaction::new();
        for layer in unwritten.iter().filter_map(|key| catalog.layers.get(key)) {
            transaction.put(kind::LAYER, &layer.key, layer.as_ref())?;
        }
        for record in &changed {
            transaction.put(kind::BUILD_CACHE, &record.key, record.as_ref())?;
        }
        self.db().apply(transaction)?;
        fail_point("store.steps.recorded");
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).retain(|key| !unwritten.contains(key));
        Ok(())
    }

    /// Removes records with their cache mounts, and the layers that nothing else needs. Answers the bytes that went.
    pub fn forget_steps(&self, keys: &[String]) -> Result<u64> {
        let mut freed = 0;
        for record in self.cache_records().iter().filter(|record| record.kind == CACHE_MOUNT && keys.contains(&record.key)) {
            freed += self.cache_size(record)?;
            self.reaper.bury(&self.cache_mount(&record.key)?)?;
        }
        let right = self.write();
        let mut transaction = Transaction::new();
        {
            let mut cache = self.build_cache();
            for key in keys {
                cache.changed.remove(key);
                if cache.records.remove(key).is_some() {
                    transaction.delete(kind::BUILD_CACHE, key)?;
                }
            }
        }
        self.db().apply(transaction)?;
        Ok(freed + self.drop_unused_layers(&right)?.iter().map(|layer| layer.size).sum::<u64>())
    }

    /// Where the folder of a cache mount is, or is to be made. Keys are hexadecimal digits.
    pub fn cache_mount(&self, key: &str) -> Result<PathBuf> {
        if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(Error::Key { key: key.to_owned() });
        }
        let above = self.root().join(CACHE_MOUNTS);
        durable::create_dir_all(&above, 0o711)?;
        Ok(above.join(key))
    }

    /// The bytes that a record stands for now; a cache mount is walked.
    pub fn cache_size(&self, record: &CacheRecord) -> Result<u64> {
        match record.kind == CACHE_MOUNT {
            true => tree_size(&self.cache_mount(&record.key)?),
            false => Ok(record.size),
        }
    }

    /// Whether a layer is also an image's or somebody's at work.
    pub fn is_shared(&self, record: &CacheRecord) -> bool {
        let catalog = self.catalog();
        let Some(layer) = &record.layer else { return false };
        catalog.images().flat_map(|image| &image.layers).any(|of_image| of_image.key == layer.hex())
    }

    pub(crate) fn build_cache(&self) -> MutexGuard<'_, Cache> {
        let cache: &Mutex<Cache> = &self.cache;
        cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

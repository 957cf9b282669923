//! The build cache as clients see it, and its removal.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use store::CacheRecord;
use types::ErrorKind;

use super::{Error, Result};
use crate::Engine;

/// What a filter may be.
const FILTERS: [&str; 9] = ["id", "until", "unused-for", "type", "description", "inuse", "shared", "private", "parents"];

/// An entry of the build cache.
#[derive(Debug, Clone)]
pub struct CacheEntry {
    /// The entry.
    pub record: Arc<CacheRecord>,
    /// Its bytes now.
    pub size: u64,
    /// Whether a build uses it now.
    pub in_use: bool,
    /// Whether its layer is an image's, too.
    pub shared: bool,
}

/// What is to be removed.
#[derive(Debug, Clone, Default)]
pub struct PruneCache {
    /// Also what images have, too: the record goes, the layer stays.
    pub all: bool,
    /// Docker's filters: `until`, `unused-for`, `id`, `type`, `description`, `inuse`, `shared`, `private`.
    pub filters: BTreeMap<String, Vec<String>>,
    /// So many bytes of what was used last stay.
    pub keep: u64,
}

/// What was removed.
#[derive(Debug, Clone, Default)]
pub struct PrunedCache {
    /// The ids of the entries.
    pub removed: Vec<String>,
    /// The bytes that went.
    pub reclaimed: u64,
}

impl Engine {
    /// The entries of the build cache. Walks cache mounts; blocks.
    pub fn build_cache(&self) -> Result<Vec<CacheEntry>> {
        let fail = |source| Error::Store { operation: "look at the build cache", source };
        let entry = |record: Arc<CacheRecord>| {
            let size = self.store.cache_size(&record).map_err(fail)?;
            let (in_use, shared) = (self.builder.caches.is_used(&record.key), self.store.is_shared(&record));
            Ok(CacheEntry { record, size, in_use, shared })
        };
        self.store.cache_records().into_iter().map(entry).collect()
    }

    /// The same, for callers that must not block.
    pub async fn build_cache_usage(self: &Arc<Self>) -> Result<Vec<CacheEntry>> {
        let engine = Arc::clone(self);
        tokio::task::spawn_blocking(move || engine.build_cache()).await?
    }

    /// Removes entries of the build cache, those first that were not used for longest.
    pub async fn prune_build_cache(self: &Arc<Self>, request: PruneCache) -> Result<PrunedCache> {
        let engine = Arc::clone(self);
        tokio::task::spawn_blocking(move || engine.prune_entries(&request)).await?
    }

    fn prune_entries(&self, request: &PruneCache) -> Result<PrunedCache> {
        if let Some(unknown) = request.filters.keys().find(|key| !FILTERS.contains(&key.as_str())) {
            return Err(Error::request(ErrorKind::InvalidInput, format!("invalid filter '{unknown}'")));
        }
        let mut entries = self.build_cache()?;
        entries.sort_by(|one, other| one.record.last_used.cmp(&other.record.last_used));
        let mut left: u64 = entries.iter().map(|entry| entry.size).sum();
        let mut chosen = Vec::new();
        for entry in &entries {
            let is_wanted = !entry.in_use && (request.all || !entry.shared) && passes(entry, &request.filters)?;
            if is_wanted && (request.keep == 0 || left > request.keep) {
                left = left.saturating_sub(entry.size);
                chosen.push(entry.record.key.clone());
            }
        }
        let fail = |source| Error::Store { operation: "remove entries of the build cache", source };
        let reclaimed = self.store.forget_steps(&chosen).map_err(fail)?;
        Ok(PrunedCache { removed: chosen, reclaimed })
    }
}

fn passes(entry: &CacheEntry, filters: &BTreeMap<String, Vec<String>>) -> Result<bool> {
    for (key, values) in filters {
        let mut is_any = values.is_empty();
        for value in values {
            is_any |= fits(entry, key, value)?;
        }
        if !is_any {
            return Ok(false);
        }
    }
    Ok(true)
}

fn fits(entry: &CacheEntry, key: &str, value: &str) -> Result<bool> {
    let bad = || Error::request(ErrorKind::InvalidInput, format!("invalid filter '{key}={value}'"));
    let flag = || match value {
        "" | "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(bad()),
    };
    Ok(match key {
        "id" => entry.record.key.starts_with(value),
        "type" => entry.record.kind == value,
        "description" => entry.record.description.contains(value),
        "inuse" => entry.in_use == flag()?,
        "shared" => entry.shared == flag()?,
        "private" => entry.shared != flag()?,
        // Entries do not know of each other.
        "parents" => false,
        _ => {
            let used: Timestamp = entry.record.last_used.parse().map_err(|_| bad())?;
            let before = match value.parse::<SignedDuration>() {
                Ok(age) => Timestamp::now().checked_sub(age).map_err(|_| bad())?,
                Err(_) => match value.parse::<i64>() {
                    Ok(seconds) => Timestamp::from_second(seconds).map_err(|_| bad())?,
                    Err(_) => value.parse().map_err(|_| bad())?,
                },
            };
            used < before
        }
    })
}

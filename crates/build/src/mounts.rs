//! What is mounted into commands: caches that outlive a build, files of other trees, secrets.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use dockerfile::graph::CacheSharing;

use crate::solve::digest_of;
use crate::{Cancel, Result};

/// Folders that are kept between builds, and who uses them now.
#[derive(Debug, Default)]
pub struct CacheMounts {
    used: Mutex<HashMap<String, Use>>,
    freed: Condvar,
}

#[derive(Debug, Default)]
struct Use {
    users: usize,
    alone: bool,
}

/// A cache folder in use; free again when dropped.
#[derive(Debug)]
pub(crate) struct CacheUse<'a> {
    mounts: &'a CacheMounts,
    pub key: String,
}

impl CacheMounts {
    /// Nobody uses any.
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether somebody uses the folder of that key.
    pub fn is_used(&self, key: &str) -> bool {
        self.lock().contains_key(key)
    }

    /// Waits until the cache of that id may be used as `sharing` says. Ids are hashed: whatever they say, they are no paths.
    pub(crate) fn take(&self, id: &str, sharing: CacheSharing, cancel: &Cancel) -> Result<CacheUse<'_>> {
        let mut used = self.lock();
        let mut number = 0u32;
        loop {
            cancel.check()?;
            let key = digest_of(&["cache mount", id, &number.to_string()]);
            let now = used.get(&key);
            let is_free = now.is_none_or(|now| !now.alone && sharing == CacheSharing::Shared);
            if is_free {
                let entry = used.entry(key.clone()).or_default();
                entry.users += 1;
                entry.alone = sharing != CacheSharing::Shared;
                return Ok(CacheUse { mounts: self, key });
            }
            match sharing {
                CacheSharing::Private => number += 1,
                CacheSharing::Shared | CacheSharing::Locked => {
                    let waited = self.freed.wait_timeout(used, std::time::Duration::from_millis(200));
                    used = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Use>> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for CacheUse<'_> {
    fn drop(&mut self) {
        let mut used = self.mounts.lock();
        if let Some(entry) = used.get_mut(&self.key) {
            entry.users -= 1;
            if entry.users == 0 {
                used.remove(&self.key);
            }
        }
        drop(used);
        self.mounts.freed.notify_all();
    }
}

/// A directory that only its maker reads, and that goes with it.
pub(crate) struct Private(PathBuf);

impl Private {
    /// A new directory below `above`.
    pub fn create(above: &Path) -> Result<Self> {
        use std::sync::atomic::{AtomicU64, Ordering};
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let path = above.join(format!("step-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
        let made = durable::create_dir_all(above, 0o700).and_then(|()| durable::create_dir(&path, 0o700));
        made.map_err(|source| crate::Error::Store { operation: "make a private folder", source: source.into() })?;
        Ok(Self(path))
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        if let Err(error) = durable::remove_tree(&self.0) {
            tracing::warn!(error = types::error::chain(&error), "a private folder of a build was not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sharing_is_kept() {
        let mounts = CacheMounts::new();
        let cancel = Cancel::default();
        let take = |sharing| mounts.take("id", sharing, &cancel).expect("takes");
        let one = take(CacheSharing::Shared);
        let two = take(CacheSharing::Shared);
        assert_eq!(one.key, two.key);
        let own = take(CacheSharing::Private);
        assert_ne!(own.key, one.key);
        std::thread::scope(|scope| {
            let waiting = scope.spawn(|| take(CacheSharing::Locked).key.clone());
            drop((one, two));
            assert!(!waiting.join().expect("ends").is_empty());
        });
        assert!(mounts.is_used(&own.key));
        let locked = take(CacheSharing::Locked);
        cancel.cancel();
        assert!(mounts.take("id", CacheSharing::Locked, &cancel).is_err());
        drop(locked);
    }

    #[test]
    fn ids_are_no_paths() {
        let mounts = CacheMounts::new();
        let taken = mounts.take("../../../etc", CacheSharing::Shared, &Cancel::default()).expect("takes");
        assert!(taken.key.len() == 64 && taken.key.bytes().all(|byte| byte.is_ascii_hexdigit()));
    }
}

//! Collections: what nothing names and nobody is pushing is removed, while the registry serves.

use std::path::PathBuf;
use std::sync::PoisonError;
use std::time::Duration;

use durable::fail_point;
use rusqlite::params;
use types::Digest;

use super::{LEASE, Store, now};
use crate::{Error, Result};

/// Rows and files that one job of the writer handles, so that pushes in between wait little.
const BATCH_LEN: usize = 500;

/// What a collection is to take.
#[derive(Debug, Clone)]
pub struct Collection {
    /// Blobs that no manifest names are kept for so long after they were pushed or asked for.
    pub lease: Duration,
    /// Uploads that nobody has written to for so long are given up.
    pub upload_age: Duration,
    /// Manifests without a tag, pushed so long ago, that no index names and that are attached to nothing kept; `None` keeps them all.
    pub untagged_age: Option<Duration>,
}

impl Default for Collection {
    fn default() -> Self {
        Self { lease: LEASE, upload_age: Duration::from_secs(24 * 60 * 60), untagged_age: None }
    }
}

/// What a collection took.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Collected {
    /// Manifests without a tag.
    pub manifests: u64,
    /// Blobs that were taken away from a repository.
    pub links: u64,
    /// Files of content.
    pub files: u64,
    /// Uploads that were given up.
    pub uploads: u64,
    /// The space of files and uploads.
    pub bytes: u64,
}

impl Store {
    /// Collects. May be stopped at any point and run again, beside pushes and pulls and other collections.
    pub fn collect(&self, collection: &Collection) -> Result<Collected> {
        // Two at a time in one process could share a transaction, in which one removes the file of a row that the other has not dropped for good.
        let _one_at_a_time = self.collecting.lock().unwrap_or_else(PoisonError::into_inner);
        let mut collected = Collected::default();
        (collected.uploads, collected.bytes) = self.uploads.sweep(collection.upload_age)?;
        if let Some(age) = collection.untagged_age {
            collected.manifests = self.drop_untagged(age)?;
        }
        collected.links = self.drop_links(collection.lease)?;
        self.drop_content()?;
        fail_point("registry.gc.rows");
        let mut orphans = Vec::new();
        self.content.each(|entry| match entry {
            Ok((digest, size)) => orphans.push((digest, size)),
            Err(path) => tracing::warn!(path = %path.display(), "a file that is no content lies among the content"),
        })?;
        for batch in orphans.chunks(BATCH_LEN) {
            let (files, bytes) = self.remove_orphans(batch)?;
            collected.files += files;
            collected.bytes += bytes;
        }
        Ok(collected)
    }

    /// Blobs that no manifest of their repository names.
    fn drop_links(&self, lease: Duration) -> Result<u64> {
        let before = now() - i64::try_from(lease.as_secs()).unwrap_or(i64::MAX);
        let drop = "DELETE FROM link WHERE (repository, digest) IN (SELECT repository, digest FROM link WHERE touched <= ?1 AND NOT EXISTS \
                    (SELECT 1 FROM edge WHERE edge.repository = link.repository AND edge.child = link.digest) LIMIT ?2)";
        self.in_batches(move |connection| connection.execute(drop, params![before, BATCH_LEN as i64]))
    }

    /// Content that no repository has.
    fn drop_content(&self) -> Result<u64> {
        let drop = "DELETE FROM content WHERE digest IN (SELECT digest FROM content \
                    WHERE NOT EXISTS (SELECT 1 FROM link WHERE link.digest = content.digest) \
                    AND NOT EXISTS (SELECT 1 FROM manifest WHERE manifest.digest = content.digest) LIMIT ?1)";
        self.in_batches(move |connection| connection.execute(drop, [BATCH_LEN as i64]))
    }

    fn in_batches(&self, drop: impl Fn(&rusqlite::Connection) -> rusqlite::Result<usize> + Clone + Send + 'static) -> Result<u64> {
        let mut total = 0;
        loop {
            let drop = drop.clone();
            let count = self.database.write("collect in", move |connection| drop(connection).map_err(Error::sql("collect in")))?;
            total += count as u64;
            if count < BATCH_LEN {
                return Ok(total);
            }
        }
    }

    /// Manifests without a tag, each round those that no kept index names; a round can free those below.
    fn drop_untagged(&self, age: Duration) -> Result<u64> {
        let before = now() - i64::try_from(age.as_secs()).unwrap_or(i64::MAX);
        let loose = "SELECT repository, digest FROM manifest AS m WHERE pushed <= ?1 \
                     AND NOT EXISTS (SELECT 1 FROM tag WHERE tag.repository = m.repository AND tag.digest = m.digest) \
                     AND NOT EXISTS (SELECT 1 FROM edge WHERE edge.repository = m.repository AND edge.child = m.digest) \
                     AND (subject IS NULL OR NOT EXISTS \
                          (SELECT 1 FROM manifest AS s WHERE s.repository = m.repository AND s.digest = m.subject)) LIMIT ?2";
        let mut total = 0;
        loop {
            let count = self.database.write("collect in", move |connection| {
                let fail = Error::sql("collect in");
                let found = || -> rusqlite::Result<usize> {
                    let mut query = connection.prepare_cached(loose)?;
                    let rows = query.query_map(params![before, BATCH_LEN as i64], |row| Ok((row.get(0)?, row.get(1)?)))?;
                    let rows: Vec<(i64, String)> = rows.collect::<rusqlite::Result<_>>()?;
                    for (id, digest) in &rows {
                        super::manifests::remove_manifest(connection, *id, digest)?;
                    }
                    Ok(rows.len())
                };
                found().map_err(fail)
            })?;
            total += count as u64;
            if count == 0 {
                return Ok(total);
            }
        }
    }

    /// Files that no row names. Looked up and removed in the writer's transaction: no push of any process is between its file and its row then.
    fn remove_orphans(&self, files: &[(Digest, u64)]) -> Result<(u64, u64)> {
        let unnamed = self.database.read("collect in", |connection| {
            let mut query = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM content WHERE digest = ?1)")?;
            let mut unnamed = Vec::new();
            for (digest, size) in files {
                if !query.query_row([digest.to_string()], |row| row.get(0))? {
                    unnamed.push((digest.clone(), *size));
                }
            }
            Ok(unnamed)
        })?;
        if unnamed.is_empty() {
            return Ok((0, 0));
        }
        let content = std::sync::Arc::clone(&self.content);
        self.database.write("collect in", move |connection| {
            let fail = Error::sql("collect in");
            let mut query = connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM content WHERE digest = ?1)").map_err(&fail)?;
            let (mut count, mut bytes) = (0, 0);
            for (digest, size) in unnamed {
                if !query.query_row([digest.to_string()], |row| row.get::<_, bool>(0)).map_err(&fail)? {
                    content.remove(&digest)?;
                    fail_point("registry.gc.removed");
                    (count, bytes) = (count + 1, bytes + size);
                }
            }
            Ok((count, bytes))
        })
    }

    /// Files of uploads that were begun and not finished: how many, and their size.
    pub fn unfinished(&self) -> Result<(u64, u64)> {
        let files: Vec<(PathBuf, u64, _)> = self.uploads.files()?;
        Ok((files.len() as u64, files.iter().map(|(_, size, _)| size).sum()))
    }
}

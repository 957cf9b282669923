//! What a registry holds, for people: sizes by repository, tags in full.

use rusqlite::params;
use types::Digest;

use super::manifests::{AFTER_TAG, page};
use super::{Page, Store, find_repository};
use crate::Result;
use crate::name::RepositoryName;

/// A tag with what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TagInfo {
    /// The tag.
    pub name: String,
    /// The manifest's digest.
    pub digest: String,
    /// The manifest's type.
    pub media_type: String,
    /// The manifest and all below it, each content once.
    pub size: u64,
    /// When it was set, in seconds since 1970.
    pub updated: i64,
}

/// What a repository holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepositoryUsage {
    /// Its name.
    pub name: String,
    /// How many tags it has.
    pub tags: u64,
    /// How many manifests.
    pub manifests: u64,
    /// Its content, each once, whoever else has it, too.
    pub bytes: u64,
}

/// What the whole registry holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Usage {
    /// Blobs and manifests, each once.
    pub contents: u64,
    /// Their size.
    pub bytes: u64,
    /// What a collection could free of them, once leases have ended.
    pub loose_bytes: u64,
    /// Uploads begun and not finished.
    pub uploads: u64,
    /// Their size.
    pub upload_bytes: u64,
}

/// All content below a tag's manifest, that included.
const SIZE_BELOW: &str = "SELECT coalesce(sum(size), 0) FROM content WHERE digest IN (\
    WITH RECURSIVE below(digest) AS (VALUES (tag.digest) UNION \
    SELECT edge.child FROM edge JOIN below ON edge.repository = tag.repository AND edge.parent = below.digest) SELECT digest FROM below)";

impl Store {
    /// The tags after `last` with what they name; `None` when there is no such repository.
    pub fn tags_in_full(&self, repository: &RepositoryName, last: Option<&str>, limit: usize) -> Result<Option<Page<TagInfo>>> {
        self.database.read("list the tags in", |connection| {
            let Some(id) = find_repository(connection, repository.as_str())? else { return Ok(None) };
            let query = format!(
                "SELECT tag.name, tag.digest, manifest.media_type, ({SIZE_BELOW}), tag.updated FROM tag \
                 JOIN manifest ON manifest.repository = tag.repository AND manifest.digest = tag.digest \
                 WHERE tag.repository = ?1 AND {AFTER_TAG} \
                 ORDER BY tag.name COLLATE NOCASE, tag.name LIMIT ?3"
            );
            let mut query = connection.prepare_cached(&query)?;
            let rows = query.query_map(params![id, last.unwrap_or_default(), limit as i64 + 1], |row| {
                let size = row.get::<_, i64>(3)? as u64;
                Ok(TagInfo { name: row.get(0)?, digest: row.get(1)?, media_type: row.get(2)?, size, updated: row.get(4)? })
            })?;
            page(limit, rows).map(Some)
        })
    }

    /// What each repository holds, by name. Blobs that no manifest names yet count, too.
    pub fn repository_usage(&self) -> Result<Vec<RepositoryUsage>> {
        self.database.read("sum up", |connection| {
            let query = "SELECT name, (SELECT count(*) FROM tag WHERE tag.repository = id), \
                (SELECT count(*) FROM manifest WHERE manifest.repository = id), \
                (SELECT coalesce(sum(size), 0) FROM content WHERE digest IN \
                 (SELECT digest FROM link WHERE link.repository = id UNION SELECT digest FROM manifest WHERE manifest.repository = id)) AS bytes \
                FROM repository WHERE bytes > 0 ORDER BY name";
            let mut query = connection.prepare_cached(query)?;
            let rows = query.query_map([], |row| {
                let number = |column: usize| row.get::<_, i64>(column).map(|number| number as u64);
                Ok(RepositoryUsage { name: row.get(0)?, tags: number(1)?, manifests: number(2)?, bytes: number(3)? })
            })?;
            rows.collect()
        })
    }

    /// What the whole registry holds.
    pub fn usage(&self) -> Result<Usage> {
        let (contents, bytes, loose) = self.database.read("sum up", |connection| {
            let query = "SELECT count(*), coalesce(sum(size), 0), coalesce(sum(size) FILTER (WHERE NOT EXISTS \
                (SELECT 1 FROM manifest WHERE manifest.digest = content.digest) AND NOT EXISTS \
                (SELECT 1 FROM link JOIN edge ON edge.repository = link.repository AND edge.child = link.digest \
                 WHERE link.digest = content.digest)), 0) FROM content";
            connection.query_row(query, [], |row| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?, row.get::<_, i64>(2)?)))
        })?;
        let (uploads, upload_bytes) = self.unfinished()?;
        Ok(Usage { contents: contents as u64, bytes: bytes as u64, loose_bytes: loose as u64, uploads, upload_bytes })
    }

    /// Repositories that have a blob, up to so many.
    pub fn holders(&self, digest: &Digest, limit: usize) -> Result<Vec<RepositoryName>> {
        self.database.read("look up a blob in", |connection| {
            let query = "SELECT name FROM repository JOIN link ON link.repository = repository.id WHERE link.digest = ?1 LIMIT ?2";
            let mut query = connection.prepare_cached(query)?;
            let rows = query.query_map(params![digest.to_string(), limit as i64], |row| row.get::<_, String>(0))?;
            let names = rows.collect::<rusqlite::Result<Vec<_>>>()?;
            Ok(names.iter().filter_map(|name| RepositoryName::parse(name)).collect())
        })
    }

    /// Removes a repository with all it has. Answers whether there was one. Its content goes with the next collection.
    pub fn remove_repository(&self, repository: &RepositoryName) -> Result<bool> {
        let name = repository.clone();
        self.database.write("remove a repository from", move |connection| {
            let removed = || -> rusqlite::Result<bool> {
                let Some(id) = find_repository(connection, name.as_str())? else { return Ok(false) };
                for table in ["tag", "edge", "manifest", "link"] {
                    connection.execute(&format!("DELETE FROM {table} WHERE repository = ?1"), [id])?;
                }
                connection.execute("DELETE FROM repository WHERE id = ?1", [id]).map(|count| count > 0)
            };
            removed().map_err(crate::Error::sql("remove a repository from"))
        })
    }
}

//! Manifests, tags, lists and referrers.

use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension, params};
use types::Digest;

use super::{Store, add_content, check_quota, find_repository, now, repository_id};
use crate::manifest::Manifest;
use crate::name::RepositoryName;
use crate::{Error, Result};

/// A manifest that is stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Its digest.
    pub digest: Digest,
    /// Its type.
    pub media_type: String,
    /// Its size in bytes.
    pub size: u64,
}

/// A manifest to be stored.
#[derive(Debug)]
pub struct NewManifest {
    /// The bytes as they came.
    pub bytes: bytes::Bytes,
    /// Their digest.
    pub digest: Digest,
    /// What they say.
    pub manifest: Manifest,
    /// Tags that it gets.
    pub tags: Vec<String>,
    /// What must hold for the reference it is put under.
    pub condition: Option<Condition>,
    /// Whether an index may name manifests that are not here.
    pub sparse: bool,
    /// What the repository may hold, in bytes.
    pub quota: Option<u64>,
}

/// What a client demands of the state that it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// Nothing has that tag yet.
    Absent,
    /// The tag names one of these; with none given, anything.
    OneOf(Vec<String>),
}

/// A part of a list, and whether more follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    /// The entries.
    pub items: Vec<T>,
    /// Whether the list goes on.
    pub more: bool,
}

/// A manifest that is attached to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Referrer {
    /// The manifest.
    pub info: ManifestInfo,
    /// What it is.
    pub artifact_type: Option<String>,
    /// Its annotations as JSON text.
    pub annotations: Option<String>,
}

/// The tags after ?2. Written so that the index leads there: of a pair's comparison SQLite would look at every tag.
pub(super) const AFTER_TAG: &str = "tag.name COLLATE NOCASE >= ?2 AND (tag.name COLLATE NOCASE > ?2 OR tag.name > ?2)";

impl Store {
    /// Stores a manifest whose parts are all there.
    pub fn put_manifest(&self, repository: &RepositoryName, new: NewManifest) -> Result<()> {
        let staged = self.uploads.stage(&new.bytes)?;
        let (name, content, path) = (repository.clone(), Arc::clone(&self.content), staged.clone());
        let outcome = self.database.write("record a manifest in", move |connection| {
            let id = repository_id(connection, &name)?;
            check_parts(connection, id, &name, &new)?;
            check_condition(connection, id, &new)?;
            check_quota(connection, id, &name, &new.digest, new.bytes.len() as u64, new.quota)?;
            record(connection, id, &new)?;
            content.adopt(&path, &new.digest)
        });
        if outcome.is_err() {
            // Left behind, it would be removed by a later sweep.
            let _ = std::fs::remove_file(&staged);
        }
        outcome
    }

    /// The manifest that a tag or digest names.
    pub fn manifest(&self, repository: &RepositoryName, reference: &str) -> Result<Option<ManifestInfo>> {
        self.database.read("look up a manifest in", |connection| {
            let Some(id) = find_repository(connection, repository.as_str())? else { return Ok(None) };
            let tagged = "SELECT digest FROM tag WHERE repository = ?1 AND name = ?2";
            let digest = match reference.contains(':') {
                true => Some(reference.to_owned()),
                false => connection.prepare_cached(tagged)?.query_row(params![id, reference], |row| row.get(0)).optional()?,
            };
            let Some(digest) = digest else { return Ok(None) };
            let query = "SELECT digest, media_type, size FROM manifest WHERE repository = ?1 AND digest = ?2";
            connection.prepare_cached(query)?.query_row(params![id, digest], info).optional()
        })
    }

    /// Removes a manifest and the tags that name it. Answers whether it was there.
    pub fn remove_manifest(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let (name, digest) = (repository.clone(), digest.to_string());
        self.database.write("remove a manifest from", move |connection| {
            let fail = Error::sql("remove a manifest from");
            let Some(id) = find_repository(connection, name.as_str()).map_err(&fail)? else { return Ok(false) };
            remove_manifest(connection, id, &digest).map_err(&fail)
        })
    }

    /// Removes a tag. Answers whether it was there.
    pub fn remove_tag(&self, repository: &RepositoryName, tag: &str) -> Result<bool> {
        let (name, tag) = (repository.clone(), tag.to_owned());
        self.database.write("remove a tag from", move |connection| {
            let remove = "DELETE FROM tag WHERE repository = (SELECT id FROM repository WHERE name = ?1) AND name = ?2";
            connection.execute(remove, params![name.as_str(), tag]).map(|count| count > 0).map_err(Error::sql("remove a tag from"))
        })
    }

    /// The tags after `last`, in alphabetical order whatever their case; `None` when there is no such repository.
    pub fn tags(&self, repository: &RepositoryName, last: Option<&str>, limit: usize) -> Result<Option<Page<String>>> {
        self.database.read("list the tags in", |connection| {
            let Some(id) = find_repository(connection, repository.as_str())? else { return Ok(None) };
            if !has_manifests(connection, id)? {
                return Ok(None);
            }
            let query = format!("SELECT name FROM tag WHERE repository = ?1 AND {AFTER_TAG} ORDER BY name COLLATE NOCASE, name LIMIT ?3");
            let mut query = connection.prepare_cached(&query)?;
            page(limit, query.query_map(params![id, last.unwrap_or_default(), limit as i64 + 1], |row| row.get(0))?).map(Some)
        })
    }

    /// The repositories after `last` that have a manifest, in alphabetical order.
    pub fn repositories(&self, last: Option<&str>, limit: usize) -> Result<Page<String>> {
        self.database.read("list the repositories in", |connection| {
            let query = "SELECT name FROM repository WHERE name > ?1 AND EXISTS \
                         (SELECT 1 FROM manifest WHERE manifest.repository = repository.id) ORDER BY name LIMIT ?2";
            let mut query = connection.prepare_cached(query)?;
            page(limit, query.query_map(params![last.unwrap_or_default(), limit as i64 + 1], |row| row.get(0))?)
        })
    }

    /// The manifests attached to that digest, after the digest `last`.
    pub fn referrers(
        &self,
        repository: &RepositoryName,
        subject: &Digest,
        artifact_type: Option<&str>,
        last: Option<&str>,
        limit: usize,
    ) -> Result<Page<Referrer>> {
        self.database.read("list the referrers in", |connection| {
            let query = "SELECT digest, media_type, size, artifact_type, annotations FROM manifest \
                         WHERE repository = (SELECT id FROM repository WHERE name = ?1) AND subject = ?2 \
                         AND (?3 IS NULL OR artifact_type = ?3) AND digest > ?4 ORDER BY digest LIMIT ?5";
            let mut query = connection.prepare_cached(query)?;
            let values = params![repository.as_str(), subject.to_string(), artifact_type, last.unwrap_or_default(), limit as i64 + 1];
            let rows =
                query.query_map(values, |row| Ok(Referrer { info: info(row)?, artifact_type: row.get(3)?, annotations: row.get(4)? }))?;
            page(limit, rows)
        })
    }
}

pub(super) fn page<T>(limit: usize, rows: impl Iterator<Item = rusqlite::Result<T>>) -> rusqlite::Result<Page<T>> {
    let mut items = rows.collect::<rusqlite::Result<Vec<T>>>()?;
    let more = items.len() > limit;
    items.truncate(limit);
    Ok(Page { items, more })
}

fn info(row: &rusqlite::Row<'_>) -> rusqlite::Result<ManifestInfo> {
    let text: String = row.get(0)?;
    let digest =
        text.parse().map_err(|error| rusqlite::Error::FromSqlConversionFailure(0, rusqlite::types::Type::Text, Box::new(error)))?;
    Ok(ManifestInfo { digest, media_type: row.get(1)?, size: row.get::<_, i64>(2)? as u64 })
}

fn has_manifests(connection: &Connection, id: i64) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ?1)")?.query_row([id], |row| row.get(0))
}

fn check_parts(connection: &Connection, id: i64, name: &RepositoryName, new: &NewManifest) -> Result<()> {
    let fail = Error::sql("look up the parts of a manifest in");
    let missing = |digest: &Digest| Error::MissingContent { repository: name.to_string(), digest: digest.clone() };
    let linked = "SELECT EXISTS (SELECT 1 FROM link WHERE repository = ?1 AND digest = ?2)";
    let mut linked = connection.prepare_cached(linked).map_err(&fail)?;
    for digest in &new.manifest.blobs {
        if !linked.query_row(params![id, digest.to_string()], |row| row.get(0)).map_err(&fail)? {
            return Err(missing(digest));
        }
    }
    if new.sparse {
        return Ok(());
    }
    let known = "SELECT EXISTS (SELECT 1 FROM manifest WHERE repository = ?1 AND digest = ?2)";
    let mut known = connection.prepare_cached(known).map_err(&fail)?;
    for digest in &new.manifest.manifests {
        if !known.query_row(params![id, digest.to_string()], |row| row.get(0)).map_err(&fail)? {
            return Err(missing(digest));
        }
    }
    Ok(())
}

fn check_condition(connection: &Connection, id: i64, new: &NewManifest) -> Result<()> {
    let Some(condition) = &new.condition else { return Ok(()) };
    let fail = Error::sql("look up a tag in");
    let current: Option<String> = match new.tags.first() {
        Some(tag) => {
            let query = "SELECT digest FROM tag WHERE repository = ?1 AND name = ?2";
            connection.query_row(query, params![id, tag], |row| row.get(0)).optional().map_err(fail)?
        }
        None => {
            let query = "SELECT digest FROM manifest WHERE repository = ?1 AND digest = ?2";
            connection.query_row(query, params![id, new.digest.to_string()], |row| row.get(0)).optional().map_err(fail)?
        }
    };
    let holds = match (condition, current) {
        (Condition::Absent, current) => current.is_none(),
        (Condition::OneOf(_), None) => false,
        (Condition::OneOf(digests), Some(current)) => digests.is_empty() || digests.contains(&current),
    };
    if holds { Ok(()) } else { Err(Error::Precondition) }
}

fn record(connection: &Connection, id: i64, new: &NewManifest) -> Result<()> {
    let fail = Error::sql("record a manifest in");
    let digest = new.digest.to_string();
    add_content(connection, &new.digest, new.bytes.len() as u64)?;
    let add = "INSERT INTO manifest (repository, digest, media_type, artifact_type, subject, annotations, size, pushed) \
               VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) \
               ON CONFLICT DO UPDATE SET media_type = excluded.media_type, pushed = excluded.pushed";
    let manifest = &new.manifest;
    let subject = manifest.subject.as_ref().map(ToString::to_string);
    let size = new.bytes.len() as i64;
    let values = params![id, digest, manifest.media_type, manifest.artifact_type, subject, manifest.annotations, size, now()];
    connection.execute(add, values).map_err(&fail)?;
    let mut edge = connection
        .prepare_cached("INSERT INTO edge (repository, parent, child) VALUES (?1, ?2, ?3) ON CONFLICT DO NOTHING")
        .map_err(&fail)?;
    for child in manifest.blobs.iter().chain(&manifest.manifests) {
        edge.execute(params![id, digest, child.to_string()]).map_err(&fail)?;
    }
    let tag = "INSERT INTO tag (repository, name, digest, updated) VALUES (?1, ?2, ?3, ?4) \
               ON CONFLICT DO UPDATE SET digest = excluded.digest, updated = excluded.updated";
    let mut tag = connection.prepare_cached(tag).map_err(&fail)?;
    for name in &new.tags {
        tag.execute(params![id, name, digest, now()]).map_err(&fail)?;
    }
    Ok(())
}

pub(super) fn remove_manifest(connection: &Connection, id: i64, digest: &str) -> rusqlite::Result<bool> {
    connection.execute("DELETE FROM tag WHERE repository = ?1 AND digest = ?2", params![id, digest])?;
    connection.execute("DELETE FROM edge WHERE repository = ?1 AND parent = ?2", params![id, digest])?;
    connection.execute("DELETE FROM manifest WHERE repository = ?1 AND digest = ?2", params![id, digest]).map(|count| count > 0)
}

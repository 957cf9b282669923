//! What the registry keeps: content by digest, and tables of which repository has what.
//!
//! Order of every change: the bytes are written and synced under another name; then, in the database's one writer, they get their name, the
//! folder is synced, and a commit makes them known. A crash between any two of these steps leaves at most a file that nothing names, which a
//! collection removes. Collections use the same writer, so that they never run between a file's naming and its commit.

mod check;
mod content;
mod db;
mod gc;
mod manifests;
mod upload;
mod usage;

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use durable::{Lock, create_dir_all};
use rusqlite::{Connection, OptionalExtension, params};
use types::Digest;

pub use check::{Checked, Problem};
pub use content::{Content, digest_of};
pub use gc::{Collected, Collection};
pub use manifests::{Condition, NewManifest, Page, Referrer};
pub use upload::{Upload, UploadId, Uploads};

use crate::name::RepositoryName;
use crate::{Error, Result};
use db::Database;

/// How long what was pushed or asked for is safe from collections though no manifest names it yet.
pub const LEASE: Duration = Duration::from_secs(60 * 60);
/// A lease is renewed when so much of it is over.
const LEASE_RENEWED_AFTER: Duration = Duration::from_secs(15 * 60);

/// A registry's folder.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    content: Arc<Content>,
    database: Database,
    uploads: Uploads,
    collecting: Mutex<()>,
    _lock: Option<Lock>,
}

impl Store {
    /// Opens a folder to serve it, making it when missing. One process serves a folder at a time.
    pub fn serve(root: &Path) -> Result<Self> {
        create_dir_all(root, 0o700)?;
        let lock = Lock::try_take(&root.join("lock"))?.ok_or_else(|| Error::Served { root: root.to_owned() })?;
        Self::open(root, Some(lock))
    }

    /// Opens a folder that exists, beside the process that serves it.
    pub fn beside(root: &Path) -> Result<Self> {
        if !root.join("db").is_file() {
            return Err(Error::Absent { what: "the registry's folder", name: root.display().to_string() });
        }
        Self::open(root, None)
    }

    fn open(root: &Path, lock: Option<Lock>) -> Result<Self> {
        let content = Arc::new(Content::open(&root.join("content"))?);
        let uploads = Uploads::open(&root.join("uploads"))?;
        let syncing = Arc::clone(&content);
        let database = Database::open(&root.join("db"), move || syncing.sync())?;
        Ok(Self { root: root.to_owned(), content, database, uploads, collecting: Mutex::default(), _lock: lock })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The uploads under way.
    pub fn uploads(&self) -> &Uploads {
        &self.uploads
    }

    /// The size of a blob or manifest of this repository; `None` when it does not have it. Asking for it keeps it from being collected for a while.
    pub fn blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        let (name, text) = (repository.clone(), digest.to_string());
        let found = self.database.read("look up a blob in", |connection| {
            let linked = "SELECT content.size, link.touched FROM repository JOIN link ON link.repository = repository.id \
                          JOIN content ON content.digest = link.digest WHERE repository.name = ?1 AND link.digest = ?2";
            let mut linked = connection.prepare_cached(linked)?;
            let row = |row: &rusqlite::Row<'_>| Ok((row.get::<_, i64>(0)?, row.get::<_, i64>(1)?));
            linked.query_row(params![name.as_str(), text], row).optional()
        })?;
        let Some((size, touched)) = found else { return Ok(None) };
        if now().saturating_sub(touched) > LEASE_RENEWED_AFTER.as_secs() as i64 {
            let kept = self.database.write("renew a lease in", move |connection| touch(connection, &name, &text))?;
            if !kept {
                return Ok(None);
            }
        }
        Ok(Some(size as u64))
    }

    /// Opens the file of content; `None` when it is not there.
    pub fn open_content(&self, digest: &Digest) -> Result<Option<File>> {
        self.content.file(digest)
    }

    /// Small content whole; `None` when it is not there.
    pub fn read_content(&self, digest: &Digest, bytes_max: usize) -> Result<Option<Vec<u8>>> {
        let Some(file) = self.content.file(digest)? else { return Ok(None) };
        let mut bytes = Vec::new();
        let read = file.take(bytes_max as u64).read_to_end(&mut bytes);
        read.map_err(|error| Error::io("read", &self.content.path(digest), error))?;
        Ok(Some(bytes))
    }

    /// Makes a verified upload a blob of its repository. The upload is over when this succeeds, and when its content is not what the digest says.
    pub fn finish(
        &self,
        repository: &RepositoryName,
        id: &UploadId,
        upload: &mut Upload,
        digest: &Digest,
        quota: Option<u64>,
    ) -> Result<()> {
        let outcome = upload.confirm(digest).and_then(|()| {
            let (name, digest, size, path) = (repository.clone(), digest.clone(), upload.offset(), upload.path().to_owned());
            let content = Arc::clone(&self.content);
            self.database.write("record a blob in", move |connection| {
                let repository = repository_id(connection, &name)?;
                check_quota(connection, repository, &name, &digest, size, quota)?;
                add_content(connection, &digest, size)?;
                link(connection, repository, &digest)?;
                content.adopt(&path, &digest)
            })
        });
        match &outcome {
            Ok(()) | Err(Error::DigestMismatch { .. } | Error::Quota { .. }) => {
                upload.close();
                self.uploads.end(repository, id)?;
            }
            Err(_) => {}
        }
        outcome
    }

    /// Gives a repository a blob that another one has: one of `sources`. Answers whether it could.
    pub fn mount(&self, repository: &RepositoryName, sources: Vec<RepositoryName>, digest: &Digest, quota: Option<u64>) -> Result<bool> {
        let (name, digest) = (repository.clone(), digest.clone());
        self.database.write("mount a blob in", move |connection| {
            if !is_linked_in(connection, &sources, &digest)? {
                return Ok(false);
            }
            let fail = Error::sql("mount a blob in");
            let size = "SELECT size FROM content WHERE digest = ?1";
            let size: Option<i64> = connection.query_row(size, [digest.to_string()], |row| row.get(0)).optional().map_err(fail)?;
            let Some(size) = size else { return Ok(false) };
            let repository = repository_id(connection, &name)?;
            check_quota(connection, repository, &name, &digest, size as u64, quota)?;
            link(connection, repository, &digest)?;
            Ok(true)
        })
    }

    /// Takes a blob away from a repository. Answers whether it had it. The content goes with the next collection.
    pub fn remove_blob(&self, repository: &RepositoryName, digest: &Digest) -> Result<bool> {
        let (name, digest) = (repository.clone(), digest.to_string());
        self.database.write("remove a blob from", move |connection| {
            let remove = "DELETE FROM link WHERE repository = (SELECT id FROM repository WHERE name = ?1) AND digest = ?2";
            let count = connection.execute(remove, params![name.as_str(), digest]).map_err(Error::sql("remove a blob from"))?;
            Ok(count > 0)
        })
    }
}

/// Seconds since 1970.
fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs() as i64)
}

fn touch(connection: &Connection, name: &RepositoryName, digest: &str) -> Result<bool> {
    let update = "UPDATE link SET touched = ?3 WHERE repository = (SELECT id FROM repository WHERE name = ?1) AND digest = ?2";
    let count = connection.execute(update, params![name.as_str(), digest, now()]).map_err(Error::sql("renew a lease in"))?;
    Ok(count > 0)
}

/// The number of a repository, which is made when missing.
fn repository_id(connection: &Connection, name: &RepositoryName) -> Result<i64> {
    let fail = Error::sql("record a repository in");
    connection
        .prepare_cached("INSERT INTO repository (name) VALUES (?1) ON CONFLICT DO NOTHING")
        .and_then(|mut add| add.execute([name.as_str()]))
        .map_err(&fail)?;
    find_repository(connection, name.as_str()).map_err(&fail)?.ok_or(Error::DatabaseGone)
}

fn find_repository(connection: &Connection, name: &str) -> rusqlite::Result<Option<i64>> {
    connection.prepare_cached("SELECT id FROM repository WHERE name = ?1")?.query_row([name], |row| row.get(0)).optional()
}

fn add_content(connection: &Connection, digest: &Digest, size: u64) -> Result<()> {
    let add = "INSERT INTO content (digest, size) VALUES (?1, ?2) ON CONFLICT DO UPDATE SET size = excluded.size";
    connection.execute(add, params![digest.to_string(), size as i64]).map(drop).map_err(Error::sql("record content in"))
}

fn link(connection: &Connection, repository: i64, digest: &Digest) -> Result<()> {
    let add = "INSERT INTO link (repository, digest, touched) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET touched = excluded.touched";
    connection.execute(add, params![repository, digest.to_string(), now()]).map(drop).map_err(Error::sql("record a blob in"))
}

fn is_linked_in(connection: &Connection, sources: &[RepositoryName], digest: &Digest) -> Result<bool> {
    let fail = Error::sql("look up a blob in");
    let named =
        "SELECT EXISTS (SELECT 1 FROM link JOIN repository ON repository.id = link.repository WHERE link.digest = ?1 AND name = ?2)";
    let mut query = connection.prepare_cached(named).map_err(&fail)?;
    for source in sources {
        if query.query_row(params![digest.to_string(), source.as_str()], |row| row.get(0)).map_err(&fail)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// What a repository holds counts, each content once, whoever else has it, too.
fn check_quota(connection: &Connection, id: i64, name: &RepositoryName, digest: &Digest, size: u64, quota: Option<u64>) -> Result<()> {
    let Some(quota) = quota else { return Ok(()) };
    let held = "SELECT coalesce(sum(size), 0) FROM content WHERE digest <> ?2 AND digest IN \
                (SELECT digest FROM link WHERE repository = ?1 UNION SELECT digest FROM manifest WHERE repository = ?1)";
    let held: i64 = connection.query_row(held, params![id, digest.to_string()], |row| row.get(0)).map_err(Error::sql("sum up"))?;
    match held as u64 + size {
        needed if needed > quota => Err(Error::Quota { repository: name.to_string(), needed, quota }),
        _ => Ok(()),
    }
}

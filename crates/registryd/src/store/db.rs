//! The registry's tables: which repository has what, in SQLite, in WAL mode with `synchronous=FULL`.
//!
//! One thread writes. It takes whatever is waiting and makes it one commit and so one wait for the disk; each job runs in a savepoint of its
//! own, so that one that fails takes nothing else with it. Readers have connections of their own and never wait for a commit.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use durable::fail_point;
use rusqlite::{Connection, TransactionBehavior};

use crate::{Error, Result};

/// The version of the tables; a database with a greater one was written by a newer program.
const SCHEMA_VERSION: i64 = 1;
/// How many jobs may share a commit.
const BATCH_LEN_MAX: usize = 128;
/// How long one process waits for another that writes.
const BUSY_TIMEOUT: Duration = Duration::from_secs(60);
/// SQLite's page cache of the writer, and of each reader.
const CACHE_KIB: i64 = 2048;
const READER_CACHE_KIB: i64 = 512;
/// Connections kept for readers; more are made and closed again under load.
const READERS_KEPT_MAX: usize = 8;

const SCHEMA: &str = "
CREATE TABLE repository (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
CREATE TABLE content (digest TEXT PRIMARY KEY, size INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE link (
    repository INTEGER NOT NULL, digest TEXT NOT NULL, touched INTEGER NOT NULL, PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX link_digest ON link (digest);
CREATE TABLE manifest (
    repository INTEGER NOT NULL, digest TEXT NOT NULL, media_type TEXT NOT NULL, artifact_type TEXT, subject TEXT, annotations TEXT,
    size INTEGER NOT NULL, pushed INTEGER NOT NULL, PRIMARY KEY (repository, digest)
) WITHOUT ROWID;
CREATE INDEX manifest_digest ON manifest (digest);
CREATE INDEX manifest_subject ON manifest (repository, subject) WHERE subject IS NOT NULL;
CREATE TABLE edge (
    repository INTEGER NOT NULL, parent TEXT NOT NULL, child TEXT NOT NULL, PRIMARY KEY (repository, parent, child)
) WITHOUT ROWID;
CREATE INDEX edge_child ON edge (repository, child);
CREATE TABLE tag (
    repository INTEGER NOT NULL, name TEXT NOT NULL, digest TEXT NOT NULL, updated INTEGER NOT NULL, PRIMARY KEY (repository, name)
) WITHOUT ROWID;
CREATE INDEX tag_order ON tag (repository, name COLLATE NOCASE, name);
CREATE INDEX tag_digest ON tag (repository, digest);
";

/// Told once whether the commit came through.
type Told = Box<dyn FnOnce(Option<Arc<rusqlite::Error>>) + Send>;
/// Runs in a savepoint, or not at all when the transaction has failed already. Answers whether it is to be kept, and whom to tell.
type Job = Box<dyn FnOnce(Option<&Connection>) -> (bool, Told) + Send>;

/// The database. Dropping it waits for what was submitted.
pub struct Database {
    jobs: Option<Sender<Job>>,
    readers: Mutex<Vec<Connection>>,
    path: PathBuf,
    writer: Option<JoinHandle<()>>,
}

impl Database {
    /// Opens `path`, making it when missing. `before_commit` is called on the writer's thread before each commit: what the rows are going to
    /// name must be on the disk then.
    pub fn open(path: &Path, before_commit: impl Fn() -> Result<()> + Send + 'static) -> Result<Self> {
        let writer = connect(path, CACHE_KIB)?;
        prepare(&writer, path)?;
        let (jobs, waiting) = channel();
        let thread = std::thread::Builder::new().name("registry-db".to_owned()).stack_size(512 << 10);
        let writer = thread
            .spawn(move || write_all(writer, &waiting, &before_commit))
            .map_err(|error| Error::io("start a thread for", path, error))?;
        Ok(Self { jobs: Some(jobs), readers: Mutex::default(), path: path.to_owned(), writer: Some(writer) })
    }

    /// Runs a change and waits until it is on the disk. A change that answers an error leaves nothing.
    pub fn write<T: Send + 'static>(
        &self,
        operation: &'static str,
        change: impl FnOnce(&Connection) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (send, receive) = sync_channel(1);
        let job: Job = Box::new(move |connection| {
            let outcome = connection.map_or(Err(Error::DatabaseGone), change);
            let keep = outcome.is_ok();
            let told: Told = Box::new(move |failure| {
                let outcome = match failure {
                    Some(source) => Err(Error::Database { operation, source }),
                    None => outcome,
                };
                // Nobody waits any more only if the caller's thread is gone.
                let _ = send.send(outcome);
            });
            (keep, told)
        });
        self.jobs.as_ref().and_then(|jobs| jobs.send(job).ok()).ok_or(Error::DatabaseGone)?;
        receive.recv().unwrap_or(Err(Error::DatabaseGone))
    }

    /// Reads what was committed last.
    pub fn read<T>(&self, operation: &'static str, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Result<T> {
        let kept = self.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
        let connection = match kept {
            Some(connection) => connection,
            None => connect(&self.path, READER_CACHE_KIB)?,
        };
        // One snapshot for all statements of the query.
        let transaction = connection.unchecked_transaction().map_err(Error::sql(operation))?;
        let outcome = query(&transaction).map_err(Error::sql(operation));
        drop(transaction);
        let mut readers = self.readers.lock().unwrap_or_else(PoisonError::into_inner);
        if readers.len() < READERS_KEPT_MAX {
            readers.push(connection);
        }
        outcome
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(writer) = self.writer.take() {
            // A thread that panicked has said so itself.
            let _ = writer.join();
        }
    }
}

impl std::fmt::Debug for Database {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Database({})", self.path.display())
    }
}

fn connect(path: &Path, cache_kib: i64) -> Result<Connection> {
    let fail = Error::sql("open");
    let connection = Connection::open(path).map_err(&fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(&fail)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(&fail)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(&fail)?;
    connection.pragma_update(None, "cache_size", -cache_kib).map_err(&fail)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn prepare(connection: &Connection, path: &Path) -> Result<()> {
    let fail = Error::sql("prepare");
    let transaction = rusqlite::Transaction::new_unchecked(connection, TransactionBehavior::Immediate).map_err(&fail)?;
    let version: i64 = transaction.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(&fail)?;
    if version > SCHEMA_VERSION {
        return Err(Error::Schema { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    if version < SCHEMA_VERSION {
        transaction.execute_batch(SCHEMA).map_err(&fail)?;
        transaction.pragma_update(None, "user_version", SCHEMA_VERSION).map_err(&fail)?;
    }
    transaction.commit().map_err(&fail)
}

/// The writer's loop: ends when the database is dropped.
fn write_all(mut connection: Connection, waiting: &Receiver<Job>, before_commit: &impl Fn() -> Result<()>) {
    while let Ok(first) = waiting.recv() {
        let batch = std::iter::once(first).chain(waiting.try_iter().take(BATCH_LEN_MAX - 1));
        let mut told = Vec::new();
        let outcome = commit(&mut connection, batch, &mut told, before_commit);
        let failure = outcome.err().map(Arc::new);
        for tell in told {
            tell(failure.clone());
        }
    }
}

fn commit(
    connection: &mut Connection,
    batch: impl Iterator<Item = Job>,
    told: &mut Vec<Told>,
    before_commit: &impl Fn() -> Result<()>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate);
    let mut failure = None;
    // Every job is answered, also after the transaction has failed.
    for job in batch {
        let usable = transaction.as_deref().ok().filter(|_| failure.is_none());
        let begun = usable.map(|transaction| transaction.execute_batch("SAVEPOINT job"));
        let usable = usable.filter(|_| matches!(begun, Some(Ok(()))));
        let (keep, tell) = job(usable);
        told.push(tell);
        let ended = usable.map(|transaction| transaction.execute_batch(if keep { "RELEASE job" } else { "ROLLBACK TO job; RELEASE job" }));
        failure = failure.or(begun.and_then(std::result::Result::err)).or(ended.and_then(std::result::Result::err));
    }
    let transaction = transaction?;
    if let Some(failure) = failure {
        return Err(failure);
    }
    before_commit().map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    fail_point("registry.db.commit");
    transaction.commit()?;
    fail_point("registry.db.committed");
    Ok(())
}

//! The metadata database: JSON documents in SQLite, in WAL mode with `synchronous=FULL`.
//!
//! One thread writes. It takes whatever is waiting, makes it one commit and so one sync, and then tells each of those that waited.
//! Readers use a connection of their own and are never held up by a commit; checkpoints run on a third one, away from everybody's path.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use durable::fail_point;
use rusqlite::{Connection, OptionalExtension, params};

use crate::records::{Records, Transaction};
use crate::{Error, Result};

/// The version of the tables; a database with a greater one was written by a newer program.
const SCHEMA_VERSION: i64 = 1;
/// How many transactions may share a commit.
const BATCH_LEN_MAX: usize = 256;
/// How many commits are made before a checkpoint is asked for.
const COMMITS_PER_CHECKPOINT: u32 = 200;
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);
/// SQLite's page cache of each connection.
const CACHE_KIB: i64 = 256;

/// Called once with a transaction's outcome.
type Done = Box<dyn FnOnce(Result<()>) + Send>;

struct Job {
    transaction: Transaction,
    done: Done,
}

/// The database. Dropping it waits for what was submitted and checkpoints.
pub struct Database {
    jobs: Option<Sender<Job>>,
    reader: Mutex<Connection>,
    path: PathBuf,
    threads: Vec<JoinHandle<()>>,
}

impl Database {
    /// Opens `path`, making it when missing.
    pub fn open(path: &Path) -> Result<Self> {
        let writer = connect(path)?;
        prepare(&writer, path)?;
        let reader = connect(path)?;
        let checkpointer = connect(path)?;
        let (jobs, waiting) = channel();
        let (due, asked) = sync_channel(1);
        let own_path = path.to_owned();
        let writing = spawn("db-writer", path, move || write_all(writer, &own_path, &waiting, &due))?;
        let checkpointing = spawn("db-checkpoint", path, move || checkpoint_all(&checkpointer, &asked))?;
        Ok(Self { jobs: Some(jobs), reader: Mutex::new(reader), path: path.to_owned(), threads: vec![writing, checkpointing] })
    }

    /// Hands in a transaction; `done` is called on the writer's thread once it is on the disk (or has failed), and must not block.
    /// Transactions take effect in the order in which they are handed in.
    pub fn submit(&self, transaction: Transaction, done: impl FnOnce(Result<()>) + Send + 'static) {
        let job = Job { transaction, done: Box::new(done) };
        let unsent = match &self.jobs {
            Some(jobs) => jobs.send(job).err().map(|error| error.0),
            None => Some(job),
        };
        if let Some(job) = unsent {
            (job.done)(Err(Error::DatabaseGone));
        }
    }

    fn sql(&self, operation: &'static str) -> impl Fn(rusqlite::Error) -> Error {
        let path = self.path.clone();
        move |source| Error::Database { operation, path: path.clone(), source: Arc::new(source) }
    }
}

impl Records for Database {
    fn apply(&self, transaction: Transaction) -> Result<()> {
        let (send, receive) = sync_channel(1);
        self.submit(transaction, move |outcome| {
            // Nobody waits any more only if the caller's thread is gone.
            let _ = send.send(outcome);
        });
        receive.recv().unwrap_or(Err(Error::DatabaseGone))
    }

    fn get_raw(&self, kind: &str, id: &str) -> Result<Option<Vec<u8>>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = reader.prepare_cached("SELECT body FROM document WHERE kind = ?1 AND id = ?2").map_err(self.sql("read"))?;
        query.query_row(params![kind, id], |row| row.get(0)).optional().map_err(self.sql("read"))
    }

    fn scan_raw(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let reader = self.reader.lock().unwrap_or_else(PoisonError::into_inner);
        let mut query = reader.prepare_cached("SELECT id, body FROM document WHERE kind = ?1 ORDER BY id").map_err(self.sql("read"))?;
        let rows = query.query_map(params![kind], |row| Ok((row.get(0)?, row.get(1)?))).map_err(self.sql("read"))?;
        rows.collect::<rusqlite::Result<_>>().map_err(self.sql("read"))
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        self.jobs = None;
        for thread in self.threads.drain(..) {
            // A thread that panicked has said so itself.
            let _ = thread.join();
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Database({})", self.path.display())
    }
}

fn spawn(name: &str, path: &Path, work: impl FnOnce() + Send + 'static) -> Result<JoinHandle<()>> {
    let builder = std::thread::Builder::new().name(name.to_owned()).stack_size(512 << 10);
    builder.spawn(work).map_err(|error| Error::io("start a thread for", path, error))
}

fn connect(path: &Path) -> Result<Connection> {
    let fail = |source| Error::Database { operation: "open", path: path.to_owned(), source: Arc::new(source) };
    let connection = Connection::open(path).map_err(fail)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(fail)?;
    connection.pragma_update(None, "journal_mode", "WAL").map_err(fail)?;
    connection.pragma_update(None, "synchronous", "FULL").map_err(fail)?;
    connection.pragma_update(None, "wal_autocheckpoint", 0).map_err(fail)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB).map_err(fail)?;
    Ok(connection)
}

fn prepare(connection: &Connection, path: &Path) -> Result<()> {
    let fail = |source| Error::Database { operation: "prepare", path: path.to_owned(), source: Arc::new(source) };
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(fail)?;
    if version > SCHEMA_VERSION {
        return Err(Error::Schema { path: path.to_owned(), found: version, known: SCHEMA_VERSION });
    }
    if version < SCHEMA_VERSION {
        let table = "CREATE TABLE IF NOT EXISTS document (kind TEXT NOT NULL, id TEXT NOT NULL, body BLOB NOT NULL, PRIMARY KEY (kind, id)) WITHOUT ROWID";
        connection.execute_batch(&format!("BEGIN IMMEDIATE; {table}; PRAGMA user_version = {SCHEMA_VERSION}; COMMIT")).map_err(fail)?;
    }
    Ok(())
}

/// The writer's loop: ends when every sender is gone.
fn write_all(mut connection: Connection, path: &Path, waiting: &Receiver<Job>, due: &SyncSender<()>) {
    let mut commits = 0;
    while let Ok(first) = waiting.recv() {
        let mut batch = vec![first];
        while batch.len() < BATCH_LEN_MAX {
            match waiting.try_recv() {
                Ok(job) => batch.push(job),
                Err(_) => break,
            }
        }
        let outcome = commit(&mut connection, &batch).map_err(Arc::new);
        for job in batch {
            let told = outcome.clone();
            (job.done)(told.map_err(|source| Error::Database { operation: "write", path: path.to_owned(), source }));
        }
        commits += 1;
        // A full queue means that a checkpoint is asked for already.
        if commits >= COMMITS_PER_CHECKPOINT && due.try_send(()).is_ok() {
            commits = 0;
        }
    }
}

fn commit(connection: &mut Connection, batch: &[Job]) -> rusqlite::Result<()> {
    fail_point("store.db.begin");
    let transaction = connection.transaction_with_behavior(rusqlite::TransactionBehavior::Immediate)?;
    {
        let mut put = transaction.prepare_cached("INSERT OR REPLACE INTO document (kind, id, body) VALUES (?1, ?2, ?3)")?;
        let mut delete = transaction.prepare_cached("DELETE FROM document WHERE kind = ?1 AND id = ?2")?;
        for change in batch.iter().flat_map(|job| &job.transaction.changes) {
            match &change.body {
                Some(body) => put.execute(params![change.kind, change.id, body])?,
                None => delete.execute(params![change.kind, change.id])?,
            };
        }
    }
    fail_point("store.db.commit");
    transaction.commit()?;
    fail_point("store.db.committed");
    Ok(())
}

/// The checkpointer's loop: ends with the writer, and then empties the log.
fn checkpoint_all(connection: &Connection, asked: &Receiver<()>) {
    while asked.recv().is_ok() {
        if let Err(error) = checkpoint(connection, "PASSIVE") {
            tracing::warn!(%error, "a database checkpoint failed; it is tried again later");
        }
    }
    // A log that stays is read at the next start.
    let _ = checkpoint(connection, "TRUNCATE");
}

fn checkpoint(connection: &Connection, mode: &str) -> rusqlite::Result<()> {
    connection.query_row(&format!("PRAGMA wal_checkpoint({mode})"), [], |_| Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn keeps_the_contract() {
        let directory = tempfile::tempdir().expect("temporary directory");
        crate::records_contract::check(&Database::open(&directory.path().join("db")).expect("opens"));
    }

    #[test]
    fn what_was_written_is_there_after_opening_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("db");
        Database::open(&path).expect("opens").put("kind", "id", "text").expect("puts");
        assert_eq!(Database::open(&path).expect("opens").get::<String>("kind", "id").expect("reads").as_deref(), Some("text"));
    }

    #[test]
    fn many_writers_share_commits_and_all_are_answered() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let database = Database::open(&directory.path().join("db")).expect("opens");
        let answered = Arc::new(AtomicUsize::new(0));
        for number in 0..1000 {
            let mut transaction = Transaction::new();
            transaction.put("kind", &format!("{number:04}"), &number).expect("encodes");
            let answered = Arc::clone(&answered);
            database.submit(transaction, move |outcome| {
                outcome.expect("commits");
                answered.fetch_add(1, Ordering::SeqCst);
            });
        }
        database.put("kind", "last", &0).expect("puts");
        assert_eq!(answered.load(Ordering::SeqCst), 1000);
        assert_eq!(database.scan::<u32>("kind").expect("scans").len(), 1001);
    }

    #[test]
    fn a_newer_database_is_refused() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("db");
        drop(Database::open(&path).expect("opens"));
        Connection::open(&path).and_then(|connection| connection.pragma_update(None, "user_version", 99)).expect("changes");
        assert!(matches!(Database::open(&path), Err(Error::Schema { found: 99, .. })));
    }
}

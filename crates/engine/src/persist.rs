//! Keeping records: durable containers in the database, throw-away ones as files in the run directory, always the newest state.

use std::sync::Arc;

use store::{Records, Transaction};

use crate::container::{Container, Record};
use crate::{Engine, Error};

/// The kind of document that a container is.
pub(crate) const CONTAINERS: &str = "container";

impl Engine {
    /// Changes the record in memory; readers see it at once. What must survive a crash is then written with [`Engine::save`].
    pub(crate) fn change(&self, container: &Container, change: impl FnOnce(&mut Record)) -> Arc<Record> {
        container.modify(change)
    }

    /// Writes the record as it is, and returns when it is as durable as the container is.
    pub(crate) async fn save(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let (engine, container) = (self.clone(), container.clone());
        tokio::task::spawn_blocking(move || engine.save_blocking(&container)).await?
    }

    /// Hands the record to the database's writer without waiting: for what a restarted engine finds out by itself from the run directory.
    pub(crate) fn save_later(&self, container: &Container) {
        // Under the lock, so that a state never overtakes a newer one on the way to the writer.
        let _order = crate::container::lock(&container.saving);
        let record = container.record();
        let name = record.name.clone();
        let report = move |outcome: store::Result<()>| {
            if let Err(error) = outcome {
                tracing::error!(container = name, error = types::error::chain(&error), "the container's record could not be written");
            }
        };
        if record.is_ephemeral() {
            return report(self.ephemeral.put(CONTAINERS, record.id.as_str(), &*record));
        }
        let mut transaction = Transaction::new();
        match transaction.put(CONTAINERS, record.id.as_str(), &*record) {
            Ok(_) => self.store.db().submit(transaction, report),
            Err(error) => report(Err(error)),
        }
    }

    fn save_blocking(&self, container: &Container) -> Result<(), Error> {
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        {
            let _order = crate::container::lock(&container.saving);
            let record = container.record();
            let failed = |source| Error::Store { operation: "write the container's record", source };
            if record.is_ephemeral() {
                return self.ephemeral.put(CONTAINERS, record.id.as_str(), &*record).map_err(failed);
            }
            let mut transaction = Transaction::new();
            transaction.put(CONTAINERS, record.id.as_str(), &*record).map_err(failed)?;
            self.store.db().submit(transaction, move |outcome| {
                let _ = sender.send(outcome);
            });
        }
        let outcome = receiver.recv().unwrap_or(Err(store::Error::DatabaseGone));
        outcome.map_err(|source| Error::Store { operation: "write the container's record", source })
    }

    /// Deletes the record. Blocks.
    pub(crate) fn forget(&self, record: &Record) -> Result<(), Error> {
        let id = record.id.as_str();
        let deleted = if record.is_ephemeral() { self.ephemeral.delete(CONTAINERS, id) } else { self.store.db().delete(CONTAINERS, id) };
        deleted.map_err(|source| Error::Store { operation: "delete the container's record", source })
    }

    /// All records that can be read, durable and throw-away ones. One that cannot is reported and left alone. Blocks.
    pub(crate) fn load(&self) -> Result<Vec<Record>, Error> {
        let failed = |source| Error::Store { operation: "read the containers' records", source };
        let mut all = self.store.db().scan_raw(CONTAINERS).map_err(failed)?;
        all.extend(self.ephemeral.scan_raw(CONTAINERS).map_err(failed)?);
        let decode = |(id, body): (String, Vec<u8>)| match serde_json::from_slice::<Record>(&body) {
            Ok(record) => Some(record),
            Err(source) => {
                let error = Error::Record { subject: format!("container {id}"), source };
                tracing::error!(error = types::error::chain(&error), "a container is left out");
                None
            }
        };
        Ok(all.into_iter().filter_map(decode).collect())
    }
}

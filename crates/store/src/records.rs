//! Documents by kind and id: one trait over the database (durable) and the run directory (ephemeral).

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::{Error, Result};

/// Kinds and ids are at most this long.
const KEY_LEN_MAX: usize = 255;

/// Changes that become true together.
#[derive(Debug, Clone, Default)]
pub struct Transaction {
    pub(crate) changes: Vec<Change>,
}

#[derive(Debug, Clone)]
pub(crate) struct Change {
    pub(crate) kind: String,
    pub(crate) id: String,
    /// `None`: delete.
    pub(crate) body: Option<Vec<u8>>,
}

impl Transaction {
    /// A transaction without changes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a document, or replaces the one that is there. It is serialised here, as JSON.
    pub fn put<T: Serialize + ?Sized>(&mut self, kind: &str, id: &str, document: &T) -> Result<&mut Self> {
        let body = serde_json::to_vec(document).map_err(|source| Error::Encode { kind: kind.to_owned(), id: id.to_owned(), source })?;
        self.changes.push(Change { kind: check(kind)?, id: check(id)?, body: Some(body) });
        Ok(self)
    }

    /// Deletes a document; absence is success.
    pub fn delete(&mut self, kind: &str, id: &str) -> Result<&mut Self> {
        self.changes.push(Change { kind: check(kind)?, id: check(id)?, body: None });
        Ok(self)
    }

    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

fn check(key: &str) -> Result<String> {
    match !key.is_empty() && key.len() <= KEY_LEN_MAX && !key.contains('\0') {
        true => Ok(key.to_owned()),
        false => Err(Error::Key { key: key.to_owned() }),
    }
}

/// A place for documents. Everything blocks; call it from a thread that may.
pub trait Records: Send + Sync {
    /// Makes the changes, all or none; on return they are as durable as the place promises.
    fn apply(&self, transaction: Transaction) -> Result<()>;

    /// One document's JSON text.
    fn get_raw(&self, kind: &str, id: &str) -> Result<Option<Vec<u8>>>;

    /// All documents of a kind, ordered by id, as JSON texts.
    fn scan_raw(&self, kind: &str) -> Result<Vec<(String, Vec<u8>)>>;

    /// Adds or replaces one document.
    fn put<T: Serialize + ?Sized>(&self, kind: &str, id: &str, document: &T) -> Result<()>
    where
        Self: Sized,
    {
        let mut transaction = Transaction::new();
        transaction.put(kind, id, document)?;
        self.apply(transaction)
    }

    /// Deletes one document; absence is success.
    fn delete(&self, kind: &str, id: &str) -> Result<()>
    where
        Self: Sized,
    {
        let mut transaction = Transaction::new();
        transaction.delete(kind, id)?;
        self.apply(transaction)
    }

    /// One document.
    fn get<T: DeserializeOwned>(&self, kind: &str, id: &str) -> Result<Option<T>>
    where
        Self: Sized,
    {
        self.get_raw(kind, id)?.map(|body| decode(kind, id, &body)).transpose()
    }

    /// All documents of a kind, ordered by id. One that can't be read fails the whole scan; use [`Records::scan_raw`] to go on without it.
    fn scan<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<(String, T)>>
    where
        Self: Sized,
    {
        self.scan_raw(kind)?
            .into_iter()
            .map(|(id, body)| {
                let document = decode(kind, &id, &body)?;
                Ok((id, document))
            })
            .collect()
    }
}

/// Reads one document's JSON text.
pub fn decode<T: DeserializeOwned>(kind: &str, id: &str, body: &[u8]) -> Result<T> {
    serde_json::from_slice(body).map_err(|source| Error::Decode { kind: kind.to_owned(), id: id.to_owned(), source })
}

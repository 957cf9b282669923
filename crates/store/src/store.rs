//! The store itself: opening, directories, parts.

use std::path::{Path, PathBuf};

use crate::archive::limits::Limits;
use crate::{Content, Database, Result};

/// How to open a store.
#[derive(Debug, Clone)]
pub struct Options {
    /// The data root.
    pub root: PathBuf,
    /// What archives may contain.
    pub limits: Limits,
}

impl Options {
    /// A data root with the usual limits.
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), limits: Limits::default() }
    }
}

/// The store. One per data root and machine; share it in an `Arc`.
#[derive(Debug)]
pub struct Store {}

impl Store {
    /// Opens (and makes, if missing) the data root: takes its lock, empties the staging area, goes on with removals in the background.
    pub fn open(options: Options) -> Result<Self> {
        let _ = options;
        todo!()
    }

    /// The data root.
    pub fn root(&self) -> &Path {
        todo!()
    }

    /// The metadata database, where the engine keeps its documents too (other kinds than `image`, `name`, `layer`, `volume`).
    pub fn db(&self) -> &Database {
        todo!()
    }

    /// Small content by digest.
    pub fn content(&self) -> &Content {
        todo!()
    }

    /// Waits until everything that was removed is off the disk: for tests, and before a data root is deleted.
    pub fn wait_for_removals(&self) {
        todo!()
    }
}

//! Small content by digest: configurations, manifests, indexes.

use std::path::PathBuf;

use types::Digest;

use crate::Result;

/// `content/<algorithm>/<hex>`.
#[derive(Debug)]
pub struct Content {
    #[expect(dead_code, reason = "the skeleton")]
    directory: PathBuf,
}

impl Content {
    /// The bytes of that digest.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let _ = digest;
        todo!()
    }

    /// Whether the store has it.
    pub fn contains(&self, digest: &Digest) -> bool {
        let _ = digest;
        todo!()
    }

    /// Adds bytes (idempotent) and answers their digest. Nothing refers to them yet: what is not referred to may go at the next start.
    pub fn write(&self, bytes: &[u8]) -> Result<Digest> {
        let _ = bytes;
        todo!()
    }
}

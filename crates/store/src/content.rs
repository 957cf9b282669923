//! Small content by digest: configurations, manifests, indexes.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use durable::{create_dir_all, write_atomic, write_volatile};
use sha2::{Digest as _, Sha256};
use types::Digest;

use crate::{Error, Result};

const MODE: u32 = 0o600;

/// `content/<algorithm>/<hex>`.
#[derive(Debug)]
pub struct Content {
    directory: PathBuf,
}

impl Content {
    pub(crate) fn open(directory: &Path) -> Result<Self> {
        create_dir_all(&directory.join("sha256"), 0o700)?;
        Ok(Self { directory: directory.to_owned() })
    }

    /// The bytes of that digest, verified.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.path(digest);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Err(Error::MissingContent(digest.clone())),
            Err(error) => return Err(Error::io("read", &path, error)),
        };
        let found = digest_of(&bytes);
        match found == *digest {
            true => Ok(bytes),
            false => Err(Error::DigestMismatch { subject: path.display().to_string(), expected: digest.clone(), found }),
        }
    }

    /// Whether the store has it.
    pub fn contains(&self, digest: &Digest) -> bool {
        self.path(digest).is_file()
    }

    /// Adds bytes (idempotent), synced, and answers their digest. Nothing refers to them yet: what is not referred to goes at the next start.
    pub fn write(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = digest_of(bytes);
        let path = self.path(&digest);
        if !path.is_file() {
            write_atomic(&path, bytes, MODE)?;
        }
        Ok(digest)
    }

    /// Writes bytes in the place of what may be damaged, synced, and answers their digest.
    pub fn replace(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = digest_of(bytes);
        write_atomic(&self.path(&digest), bytes, MODE)?;
        Ok(digest)
    }

    /// Adds bytes as [`Content::write`] does, left to the caller to sync before anything refers to it.
    pub(crate) fn write_unsynced(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = digest_of(bytes);
        let path = self.path(&digest);
        if !path.is_file() {
            write_volatile(&path, bytes, MODE)?;
        }
        Ok(digest)
    }

    /// Removes what nothing refers to, best effort.
    pub(crate) fn remove(&self, digest: &Digest) {
        if let Err(error) = std::fs::remove_file(self.path(digest)) {
            tracing::debug!(%digest, %error, "content was not removed");
        }
    }

    /// Removes everything but what is referred to.
    pub(crate) fn keep_only(&self, referred: &BTreeSet<Digest>) -> Result<()> {
        let directory = self.directory.join("sha256");
        let entries = std::fs::read_dir(&directory).map_err(|error| Error::io("list", &directory, error))?;
        for entry in entries {
            let entry = entry.map_err(|error| Error::io("list", &directory, error))?;
            let digest = entry.file_name().to_str().and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if digest.is_none_or(|digest| !referred.contains(&digest))
                && let Err(error) = std::fs::remove_file(entry.path())
            {
                tracing::warn!(path = %entry.path().display(), %error, "unused content was not removed");
            }
        }
        Ok(())
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.directory.join(digest.algorithm().name()).join(digest.hex())
    }
}

/// The SHA-256 of bytes.
pub fn digest_of(bytes: &[u8]) -> Digest {
    Digest::from_sha256(Sha256::digest(bytes).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_verified_when_read() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let content = Content::open(directory.path()).expect("opens");
        let digest = content.write(b"text").expect("writes");
        assert_eq!(content.write(b"text").expect("is idempotent"), digest);
        assert_eq!(content.read(&digest).expect("reads"), b"text");
        std::fs::write(content.path(&digest), b"tex").expect("damages");
        assert!(matches!(content.read(&digest), Err(Error::DigestMismatch { .. })));
        content.keep_only(&BTreeSet::new()).expect("removes");
        assert!(matches!(content.read(&digest), Err(Error::MissingContent(_))));
    }
}

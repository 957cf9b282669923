//! Files by digest: `content/<algorithm>/<hex>`, the layout of the engine's own content store.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use durable::{create_dir_all, fail_point, sync_dir};
use sha2::{Digest as _, Sha256, Sha512};
use types::Digest;
use types::digest::Algorithm;

use crate::{Error, Result};

const ALGORITHMS: [Algorithm; 2] = [Algorithm::Sha256, Algorithm::Sha512];
const READ_BYTES: usize = 256 * 1024;

/// The folder of content.
#[derive(Debug)]
pub struct Content {
    root: PathBuf,
    /// Whether names were added that are not synced yet, per algorithm.
    unsynced: [AtomicBool; 2],
}

impl Content {
    pub(super) fn open(root: &Path) -> Result<Self> {
        for algorithm in ALGORITHMS {
            create_dir_all(&root.join(algorithm.name()), 0o700)?;
        }
        Ok(Self { root: root.to_owned(), unsynced: [AtomicBool::new(false), AtomicBool::new(false)] })
    }

    /// Where the content of that digest is.
    pub fn path(&self, digest: &Digest) -> PathBuf {
        self.root.join(digest.algorithm().name()).join(digest.hex())
    }

    /// Opens content for reading; `None` when it is not there.
    pub fn file(&self, digest: &Digest) -> Result<Option<File>> {
        let path = self.path(digest);
        match File::open(&path) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(Error::io("open", &path, error)),
        }
    }

    /// Gives a file that is on the disk its final name, in place of what has it. Lasting after [`Content::sync`].
    pub(super) fn adopt(&self, staged: &Path, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        fail_point("registry.content.adopt");
        std::fs::rename(staged, &path).map_err(|error| Error::io("give its name to", &path, error))?;
        self.unsynced[usize::from(digest.algorithm() == Algorithm::Sha512)].store(true, Ordering::Release);
        fail_point("registry.content.adopted");
        Ok(())
    }

    /// Makes the names added so far lasting.
    pub(super) fn sync(&self) -> Result<()> {
        for (algorithm, unsynced) in ALGORITHMS.iter().zip(&self.unsynced) {
            if unsynced.swap(false, Ordering::AcqRel) {
                sync_dir(&self.root.join(algorithm.name()))?;
            }
        }
        Ok(())
    }

    pub(super) fn remove(&self, digest: &Digest) -> Result<()> {
        let path = self.path(digest);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }

    /// What lies there: each digest with its size. What is no content is told as a path.
    pub(super) fn each(&self, mut see: impl FnMut(std::result::Result<(Digest, u64), PathBuf>)) -> Result<()> {
        for algorithm in ALGORITHMS {
            let directory = self.root.join(algorithm.name());
            for entry in std::fs::read_dir(&directory).map_err(|error| Error::io("list", &directory, error))? {
                let entry = entry.map_err(|error| Error::io("list", &directory, error))?;
                let digest = entry.file_name().to_str().and_then(|hex| format!("{}:{hex}", algorithm.name()).parse::<Digest>().ok());
                match (digest, entry.metadata()) {
                    (Some(digest), Ok(metadata)) if metadata.is_file() => see(Ok((digest, metadata.len()))),
                    // It was removed meanwhile.
                    (Some(_), Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {}
                    _ => see(Err(entry.path())),
                }
            }
        }
        Ok(())
    }
}

/// A running hash.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// SHA-256.
    Sha256(Sha256),
    /// SHA-512.
    Sha512(Sha512),
}

impl Hasher {
    /// A hash of nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Its function.
    pub fn algorithm(&self) -> Algorithm {
        match self {
            Self::Sha256(_) => Algorithm::Sha256,
            Self::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Takes more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hash) => hash.update(bytes),
            Self::Sha512(hash) => hash.update(bytes),
        }
    }

    /// The digest.
    pub fn finish(self) -> Digest {
        match self {
            Self::Sha256(hash) => Digest::from_sha256(hash.finalize().into()),
            Self::Sha512(hash) => Digest::from_sha512(hash.finalize().into()),
        }
    }
}

/// The digest of bytes.
pub fn digest_of(algorithm: Algorithm, bytes: &[u8]) -> Digest {
    let mut hasher = Hasher::new(algorithm);
    hasher.update(bytes);
    hasher.finish()
}

/// The digest of a whole file.
pub(super) fn digest_of_file(path: &Path, algorithm: Algorithm) -> Result<Digest> {
    let mut file = File::open(path).map_err(|error| Error::io("open", path, error))?;
    let mut hasher = Hasher::new(algorithm);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hasher.finish()),
            Ok(count) => hasher.update(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", path, error)),
        }
    }
}

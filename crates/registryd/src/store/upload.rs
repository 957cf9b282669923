//! Uploads: files that grow until their digest is confirmed. They survive a restart, so that a client can go on where it was.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use durable::{create_dir_all, fail_point};
use sha2::{Digest as _, Sha256};
use types::Digest;
use types::digest::Algorithm;

use super::content::{Hasher, digest_of_file};
use crate::name::RepositoryName;
use crate::{Error, Result};

const ID_BYTES: usize = 16;
/// Digits of a repository's hash in the name of an upload's file: it belongs to that repository alone.
const OWNER_DIGITS: usize = 16;

/// The folder of uploads, and what is known about those under way.
#[derive(Debug)]
pub struct Uploads {
    directory: PathBuf,
    open: Mutex<HashMap<UploadId, Arc<tokio::sync::Mutex<Upload>>>>,
}

/// The name of an upload: random, so that nobody finds another's.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(String);

impl UploadId {
    /// Checks what a client sent.
    pub fn parse(text: &str) -> Option<Self> {
        (text.len() == ID_BYTES * 2 && text.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'))).then(|| Self(text.to_owned()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// One upload.
#[derive(Debug)]
pub struct Upload {
    file: File,
    path: PathBuf,
    offset: u64,
    /// Covers all that was written; none when an earlier process wrote some of it.
    hasher: Option<Hasher>,
    used: SystemTime,
    over: bool,
}

impl Upload {
    /// How much is there.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Another descriptor of its file.
    pub fn duplicate(&self) -> Result<File> {
        self.file.try_clone().map_err(|error| Error::io("duplicate", &self.path, error))
    }

    /// Whether it was finished or given up while somebody waited for it.
    pub fn is_over(&self) -> bool {
        self.over
    }

    /// Says that nobody can go on with it.
    pub fn close(&mut self) {
        self.over = true;
    }

    /// Appends.
    pub fn append(&mut self, bytes: &[u8]) -> Result<()> {
        let written = self.file.write_all(bytes);
        if let Err(error) = written {
            // What arrived in part counts as not arrived.
            let _ = self.file.set_len(self.offset).and_then(|()| self.file.seek(SeekFrom::Start(self.offset)));
            return Err(Error::io("write to the upload", &self.path, error));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        self.offset += bytes.len() as u64;
        self.used = SystemTime::now();
        fail_point("registry.upload.appended");
        Ok(())
    }

    /// Verifies the digest and puts the bytes on the disk.
    pub(super) fn confirm(&mut self, expected: &Digest) -> Result<()> {
        let found = match self.hasher.take() {
            Some(hasher) if hasher.algorithm() == expected.algorithm() => hasher.finish(),
            _ => digest_of_file(&self.path, expected.algorithm())?,
        };
        if found != *expected {
            return Err(Error::DigestMismatch { expected: expected.clone(), found });
        }
        self.file.sync_all().map_err(|error| Error::io("sync", &self.path, error))?;
        fail_point("registry.upload.synced");
        Ok(())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

impl Uploads {
    pub(super) fn open(directory: &Path) -> Result<Self> {
        create_dir_all(directory, 0o700)?;
        Ok(Self { directory: directory.to_owned(), open: Mutex::default() })
    }

    /// Begins an upload; the algorithm is a guess that saves a second reading when it is right.
    pub fn begin(&self, repository: &RepositoryName, algorithm: Algorithm) -> Result<UploadId> {
        let mut bytes = [0; ID_BYTES];
        getrandom::fill(&mut bytes).map_err(|error| Error::io("draw a name in", &self.directory, std::io::Error::other(error)))?;
        let id = UploadId(bytes.iter().map(|byte| format!("{byte:02x}")).collect());
        let path = self.path(repository, &id);
        let file = File::options().read(true).append(true).create_new(true).open(&path);
        let file = file.map_err(|error| Error::io("create", &path, error))?;
        let upload = Upload { file, path, offset: 0, hasher: Some(Hasher::new(algorithm)), used: SystemTime::now(), over: false };
        self.lock().insert(id.clone(), Arc::new(tokio::sync::Mutex::new(upload)));
        Ok(id)
    }

    /// An upload of this repository, also one that an earlier process began.
    pub fn get(&self, repository: &RepositoryName, id: &UploadId) -> Result<Option<Arc<tokio::sync::Mutex<Upload>>>> {
        let path = self.path(repository, id);
        let file = match File::options().read(true).append(true).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("open", &path, error)),
        };
        let metadata = file.metadata().map_err(|error| Error::io("stat", &path, error))?;
        let mut open = self.lock();
        let upload = open.entry(id.clone()).or_insert_with(|| {
            let hasher = (metadata.len() == 0).then(|| Hasher::new(Algorithm::Sha256));
            let used = metadata.modified().unwrap_or_else(|_| SystemTime::now());
            Arc::new(tokio::sync::Mutex::new(Upload { file, path, offset: metadata.len(), hasher, used, over: false }))
        });
        Ok(Some(Arc::clone(upload)))
    }

    /// Forgets an upload and removes what is left of it.
    pub fn end(&self, repository: &RepositoryName, id: &UploadId) -> Result<()> {
        self.lock().remove(id);
        let path = self.path(repository, id);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::io("remove", &path, error)),
            _ => Ok(()),
        }
    }

    /// How many are under way in this process.
    pub fn count(&self) -> usize {
        self.lock().len()
    }

    /// Removes what nobody has written to for so long; answers how many files and bytes went.
    pub(super) fn sweep(&self, age: Duration) -> Result<(u64, u64)> {
        let (mut count, mut bytes) = (0, 0);
        for (path, size, modified) in self.files()? {
            let id = path.file_name().and_then(|name| name.to_str()).and_then(|name| UploadId::parse(name.split('-').next()?));
            let mut open = self.lock();
            let upload = id.as_ref().and_then(|id| open.get(id).cloned());
            // Whoever holds it is writing to it.
            let used = match &upload {
                Some(upload) => match upload.try_lock() {
                    Ok(upload) => upload.used.max(modified),
                    Err(_) => continue,
                },
                None => modified,
            };
            if used.elapsed().unwrap_or_default() < age {
                continue;
            }
            if let Some(id) = &id {
                open.remove(id);
            }
            match std::fs::remove_file(&path) {
                Ok(()) => (count, bytes) = (count + 1, bytes + size),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(Error::io("remove", &path, error)),
            }
        }
        Ok((count, bytes))
    }

    /// What lies there: path, size and when it was last written.
    pub(super) fn files(&self) -> Result<Vec<(PathBuf, u64, SystemTime)>> {
        let listing = |error| Error::io("list", &self.directory, error);
        let mut files = Vec::new();
        for entry in std::fs::read_dir(&self.directory).map_err(listing)? {
            let entry = entry.map_err(listing)?;
            // One that is gone meanwhile was finished.
            if let Ok(metadata) = entry.metadata() {
                files.push((entry.path(), metadata.len(), metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
            }
        }
        Ok(files)
    }

    /// A new file for content that is not uploaded in pieces.
    pub(super) fn stage(&self, bytes: &[u8]) -> Result<PathBuf> {
        let mut name = [0; ID_BYTES];
        getrandom::fill(&mut name).map_err(|error| Error::io("draw a name in", &self.directory, std::io::Error::other(error)))?;
        let path = self.directory.join(name.iter().map(|byte| format!("{byte:02x}")).collect::<String>());
        let written = File::options().write(true).create_new(true).open(&path).and_then(|mut file| {
            file.write_all(bytes)?;
            file.sync_all()
        });
        if let Err(error) = written {
            let _ = std::fs::remove_file(&path);
            return Err(Error::io("write", &path, error));
        }
        Ok(path)
    }

    fn path(&self, repository: &RepositoryName, id: &UploadId) -> PathBuf {
        let owner = Digest::from_sha256(Sha256::digest(repository.as_str()).into());
        self.directory.join(format!("{}-{}", id.0, &owner.hex()[..OWNER_DIGITS]))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<UploadId, Arc<tokio::sync::Mutex<Upload>>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

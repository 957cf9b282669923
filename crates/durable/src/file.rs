//! Staged files, published directories, locks.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{self, AtFlags, CWD, FallocateFlags, FlockOperation, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use crate::{Error, Result, fail_point};

/// What the names of staged files begin with.
const STAGED_PREFIX: &str = ".staged-";

/// A file that nobody sees until it is committed; dropped before that, it is removed.
#[derive(Debug)]
pub struct StagedFile {
    file: File,
    path: PathBuf,
    committed: bool,
}

impl StagedFile {
    /// A new empty file in the directory that its final path is in, or is on the same filesystem with.
    pub fn create(directory: &Path, mode: u32) -> Result<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        loop {
            let name = format!("{STAGED_PREFIX}{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
            let path = directory.join(name);
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            match fs::openat(CWD, &path, flags, Mode::from_raw_mode(mode)) {
                Ok(file) => return Ok(Self { file: file.into(), path, committed: false }),
                // A leftover of an earlier process with the same id.
                Err(Errno::EXIST) => continue,
                Err(error) => return Err(Error::new("create", &path, error)),
            }
        }
    }

    /// The open file.
    pub fn file(&mut self) -> &mut File {
        &mut self.file
    }

    /// Syncs the data, gives the file its name (replacing what has it), and syncs the directory.
    pub fn commit(mut self, path: &Path) -> Result<()> {
        self.file.sync_all().map_err(|error| Error::new("sync", path, error))?;
        fail_point("durable.file.synced");
        self.rename(path)?;
        fail_point("durable.file.renamed");
        sync_dir(parent(path))
    }

    /// Gives the file its name without syncing anything: whole for every reader, but not after a power cut.
    pub fn commit_volatile(mut self, path: &Path) -> Result<()> {
        self.rename(path)
    }

    fn rename(&mut self, path: &Path) -> Result<()> {
        fs::rename(&self.path, path).map_err(|error| Error::new("rename a staged file to", path, error))?;
        self.committed = true;
        Ok(())
    }
}

impl Write for StagedFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for StagedFile {
    fn drop(&mut self) {
        if !self.committed {
            // A leftover is found by the next start.
            let _ = fs::unlink(&self.path);
        }
    }
}

/// Whether a file of this name is a leftover of a staged write.
pub fn is_staged(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(STAGED_PREFIX.as_bytes())
}

/// Writes a file so that after a crash it is the old one or the new one, whole; on return it is on the disk.
pub fn write_atomic(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut staged = StagedFile::create(parent(path), mode)?;
    staged.write_all(bytes).map_err(|error| Error::new("write", path, error))?;
    staged.commit(path)
}

/// Writes a file so that readers see the old one or the new one, whole, but without a promise about power cuts: for the run directory.
pub fn write_volatile(path: &Path, bytes: &[u8], mode: u32) -> Result<()> {
    let mut staged = StagedFile::create(parent(path), mode)?;
    staged.write_all(bytes).map_err(|error| Error::new("write", path, error))?;
    staged.commit_volatile(path)
}

/// Gives a staged directory its final name, which must be free, and syncs both parents. The caller has synced the contents, by [`sync_filesystem`] for instance.
pub fn publish_dir(staged: &Path, path: &Path) -> Result<()> {
    fs::renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE).map_err(|error| Error::new("publish", path, error))?;
    fail_point("durable.dir.renamed");
    sync_dir(parent(path))?;
    if parent(staged) != parent(path) { sync_dir(parent(staged)) } else { Ok(()) }
}

/// Like [`publish_dir`] for several directories at once (staged, final), which share one wait for the disk. When one fails, those before it have their final names.
pub fn publish_dirs(moves: &[(PathBuf, PathBuf)]) -> Result<()> {
    for (staged, path) in moves {
        fs::renameat_with(CWD, staged, CWD, path, RenameFlags::NOREPLACE).map_err(|error| Error::new("publish", path, error))?;
        fail_point("durable.dir.renamed");
    }
    let mut parents: Vec<&Path> = moves.iter().flat_map(|(staged, path)| [parent(path), parent(staged)]).collect();
    parents.sort();
    parents.dedup();
    parents.into_iter().try_for_each(sync_dir)
}

/// Syncs a directory, so that the names in it survive a power cut.
pub fn sync_dir(path: &Path) -> Result<()> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let directory = fs::openat(CWD, path, flags, Mode::empty()).map_err(|error| Error::new("open", path, error))?;
    fs::fsync(directory).map_err(|error| Error::new("sync", path, error))
}

/// Syncs everything on the filesystem that holds `path`: one wait for many files.
pub fn sync_filesystem(path: &Path) -> Result<()> {
    let directory =
        fs::openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| Error::new("open", path, error))?;
    fs::syncfs(directory.as_fd()).map_err(|error| Error::new("sync the filesystem of", path, error))
}

/// A new file with its blocks reserved, so that a later write to it does not fail for want of space.
pub fn preallocate(path: &Path, len: u64, mode: u32) -> Result<File> {
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let file = fs::openat(CWD, path, flags, Mode::from_raw_mode(mode)).map_err(|error| Error::new("create", path, error))?;
    match fs::fallocate(&file, FallocateFlags::empty(), 0, len) {
        Ok(()) => {}
        // A filesystem that cannot reserve gets real zeros.
        Err(Errno::OPNOTSUPP) => {
            let zeros = vec![0; usize::try_from(len).unwrap_or(usize::MAX).min(1 << 20)];
            let mut left = len;
            let mut file = File::from(file.try_clone().map_err(|error| Error::new("duplicate", path, error))?);
            while left > 0 {
                let part = zeros.len().min(usize::try_from(left).unwrap_or(usize::MAX));
                file.write_all(&zeros[..part]).map_err(|error| Error::new("fill", path, error))?;
                left -= part as u64;
            }
        }
        Err(error) => return Err(Error::new("reserve space for", path, error)),
    }
    Ok(file.into())
}

/// Makes a directory with exactly this mode, whatever the umask. One that exists is an error.
pub fn create_dir(path: &Path, mode: u32) -> Result<()> {
    fs::mkdir(path, Mode::from_raw_mode(mode & 0o777)).map_err(|error| Error::new("make directory", path, error))?;
    fs::chmodat(CWD, path, Mode::from_raw_mode(mode), AtFlags::empty()).map_err(|error| Error::new("set the mode of", path, error))
}

/// Makes a directory and those above it where they are missing; only the new ones get the mode.
pub fn create_dir_all(path: &Path, mode: u32) -> Result<()> {
    match create_dir(path, mode) {
        Ok(()) => Ok(()),
        Err(error) if path.is_dir() => {
            drop(error);
            Ok(())
        }
        Err(error) if error.source.kind() == io::ErrorKind::NotFound => match path.parent() {
            Some(above) if !above.as_os_str().is_empty() => {
                create_dir_all(above, mode)?;
                match create_dir(path, mode) {
                    Err(error) if error.source.kind() != io::ErrorKind::AlreadyExists => Err(error),
                    _ => Ok(()),
                }
            }
            _ => Err(error),
        },
        Err(error) => Err(error),
    }
}

/// The directory that holds `path`.
fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// An exclusive lock on a file, held until dropped or until the process ends.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "the lock lives as long as the descriptor")] File);

impl Lock {
    /// Takes the lock without waiting; `None` when another process has it. The file is made when missing and never removed.
    pub fn try_take(path: &Path) -> Result<Option<Self>> {
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = fs::openat(CWD, path, flags, Mode::from_raw_mode(0o600)).map_err(|error| Error::new("open", path, error))?;
        match fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file.into()))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(Error::new("lock", path, error)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("a");
        write_atomic(&path, b"one", 0o600).expect("first");
        write_atomic(&path, b"two", 0o600).expect("second");
        write_volatile(&path, b"three", 0o600).expect("third");
        assert_eq!(std::fs::read(&path).expect("reads"), b"three");
        drop(StagedFile::create(directory.path(), 0o600).expect("staged"));
        assert_eq!(std::fs::read_dir(directory.path()).expect("lists").count(), 1);
    }

    #[test]
    fn a_directory_is_published_only_to_a_free_name() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (staged, path) = (directory.path().join("s"), directory.path().join("p"));
        create_dir_all(&staged.join("x/y"), 0o755).expect("makes");
        publish_dir(&staged, &path).expect("publishes");
        assert!(path.join("x/y").is_dir());
        create_dir(&staged, 0o700).expect("makes again");
        assert!(publish_dir(&staged, &path).is_err());
    }

    #[test]
    fn the_lock_excludes_and_ends_with_its_holder() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("lock");
        let held = Lock::try_take(&path).expect("opens").expect("is free");
        assert!(Lock::try_take(&path).expect("opens").is_none());
        drop(held);
        assert!(Lock::try_take(&path).expect("opens").is_some());
    }

    #[test]
    fn reserved_space_has_the_length() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("record");
        let file = preallocate(&path, 4096, 0o600).expect("reserves");
        assert_eq!(file.metadata().expect("stat").len(), 4096);
        assert!(preallocate(&path, 4096, 0o600).is_err());
    }
}

//! What files are, as one digest: paths, kinds, modes, contents and (of layers) owners, but not times. Contents are read once: a file that looks the
//! same as before, by inode, size and both of its times, is taken to be the same.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::os::fd::OwnedFd;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{self, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use store::merged::Found;

use crate::tree::{DEPTH_MAX, Filter, Selected, Tree, kind, stat};
use crate::{Cancel, Error, Result};

/// Files that are remembered; beyond that all are forgotten, which only costs reading them again.
const REMEMBERED_LEN_MAX: usize = 400_000;
/// Selections that are remembered.
const SELECTIONS_LEN_MAX: usize = 10_000;
/// A file that was changed a shorter time ago may change again within the clock's grain.
const SETTLED_SECONDS: i64 = 2;
/// Files that wait to be read.
const WAITING_MAX: usize = 128;
/// Names in an explanation of what changed; beyond that the directories at the top stand for their files.
const PARTS_MAX: usize = 1000;
const READ_LEN: usize = 256 << 10;

/// One file at one moment: device, inode, size, times of content and of attributes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Identity(u64, u64, i64, (i64, u64), (i64, u64));

type Hash = [u8; 32];

/// What is known of contents.
#[derive(Default)]
pub struct Digests {
    files: Mutex<HashMap<Identity, Hash>>,
    selections: Mutex<HashMap<String, Listing>>,
}

/// A digest of files, and what went into it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Of everything.
    pub digest: String,
    /// By path, to tell what changed.
    pub parts: BTreeMap<String, String>,
}

/// What is hashed.
pub(crate) struct Selection<'a> {
    pub tree: &'a Tree,
    pub selected: &'a [Selected],
    pub exclude: Option<&'a dyn Filter>,
    /// Stands for the source and all that is said about it.
    pub name: String,
}

/// An entry whose content may still be missing.
struct Entry {
    path: Vec<u8>,
    header: Vec<u8>,
    content: Option<Hash>,
}

struct Job {
    index: usize,
    above: OwnedFd,
    name: Vec<u8>,
    identity: Identity,
    path: Vec<u8>,
}

impl Digests {
    /// Nothing is known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The digest of a selection.
    pub(crate) fn of(&self, selection: &Selection<'_>, cancel: &Cancel) -> Result<Listing> {
        let key = selection.tree.id.as_ref().map(|id| format!("{id} {}", selection.name));
        if let Some(known) = key.as_ref().and_then(|key| lock(&self.selections).get(key).cloned()) {
            return Ok(known);
        }
        let listing = listing(self.entries(selection, cancel)?);
        if let Some(key) = key {
            let mut selections = lock(&self.selections);
            if selections.len() >= SELECTIONS_LEN_MAX {
                selections.clear();
            }
            selections.insert(key, listing.clone());
        }
        Ok(listing)
    }

    /// Walks on this thread, reads on others.
    fn entries(&self, selection: &Selection<'_>, cancel: &Cancel) -> Result<Vec<Entry>> {
        let readers = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        std::thread::scope(|scope| {
            let (send, receive) = sync_channel::<Job>(WAITING_MAX);
            let receive = Arc::new(Mutex::new(receive));
            let reading: Vec<_> = (0..readers)
                .map(|_| {
                    let receive = Arc::clone(&receive);
                    scope.spawn(move || {
                        let mut hashes = Vec::new();
                        let mut buffer = vec![0; READ_LEN];
                        loop {
                            let job = lock(&receive).recv();
                            let Ok(job) = job else { return Ok(hashes) };
                            cancel.check()?;
                            let hash = read(&job, &mut buffer)?;
                            self.remember(job.identity, hash);
                            hashes.push((job.index, hash));
                        }
                    })
                })
                .collect();
            drop(receive);
            let mut walk = Walk { digests: self, selection, cancel, entries: Vec::new(), queue: &mut |job| send.send(job).is_ok() };
            let walked = selection.selected.iter().try_for_each(|selected| walk.selected(selected));
            let mut entries = walk.entries;
            drop(send);
            for reader in reading {
                let hashes = reader.join().unwrap_or(Err(Error::Cancelled))?;
                for (index, hash) in hashes {
                    entries[index].content = Some(hash);
                }
            }
            walked.map(|()| entries)
        })
    }

    fn known(&self, identity: &Identity) -> Option<Hash> {
        lock(&self.files).get(identity).copied()
    }

    fn remember(&self, identity: Identity, hash: Hash) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |now| now.as_secs() as i64);
        if now - identity.4.0 < SETTLED_SECONDS {
            return;
        }
        let mut files = lock(&self.files);
        if files.len() >= REMEMBERED_LEN_MAX {
            files.clear();
        }
        files.insert(identity, hash);
    }
}

struct Walk<'a, 'q> {
    digests: &'a Digests,
    selection: &'a Selection<'a>,
    cancel: &'a Cancel,
    entries: Vec<Entry>,
    /// Answers whether anybody reads.
    queue: &'q mut dyn FnMut(Job) -> bool,
}

impl Walk<'_, '_> {
    fn selected(&mut self, selected: &Selected) -> Result<()> {
        self.found(&selected.found, &selected.path, &selected.path, selected.path.len(), 0)
    }

    /// `shown`: the path as it counts.
    fn found(&mut self, found: &Found, path: &[u8], shown: &[u8], base_len: usize, depth: usize) -> Result<()> {
        if depth > DEPTH_MAX {
            return Err(Error::path(path, "it is too many directories deep"));
        }
        let stat = stat(found, path)?;
        let is_counted = kind(&stat) != FileType::Socket;
        if is_counted {
            self.entry(found, &stat, path, shown)?;
        }
        let Found::Directory(parts) = found else { return Ok(()) };
        self.cancel.check()?;
        for child in self.selection.tree.children(parts, path, base_len, self.selection.exclude)? {
            self.found(&child.found, &child.path, &child.path, base_len, depth + 1)?;
        }
        Ok(())
    }

    fn entry(&mut self, found: &Found, stat: &Stat, path: &[u8], shown: &[u8]) -> Result<()> {
        let file_type = kind(stat);
        let owner = if self.selection.tree.has_owners { (stat.st_uid, stat.st_gid) } else { (0, 0) };
        let mut header = shown.to_vec();
        header.push(0);
        header.extend_from_slice(format!("{:o} {} {} ", stat.st_mode, owner.0, owner.1).as_bytes());
        let mut content = None;
        match (file_type, found) {
            (FileType::Symlink, Found::Other(above, name)) => {
                let target = fs::readlinkat(above, name.as_slice(), Vec::new()).map_err(|error| Error::io("read the link", path, error))?;
                header.extend_from_slice(target.as_bytes());
            }
            (FileType::RegularFile, Found::Other(above, name)) => {
                header.extend_from_slice(stat.st_size.to_string().as_bytes());
                let identity = identity(stat);
                content = self.digests.known(&identity);
                if content.is_none() {
                    let above = rustix::io::fcntl_dupfd_cloexec(above, 3).map_err(|error| Error::io("open", path, error))?;
                    let job = Job { index: self.entries.len(), above, name: name.clone(), identity, path: path.to_vec() };
                    if !(self.queue)(job) {
                        return Err(Error::Cancelled);
                    }
                }
            }
            (FileType::CharacterDevice | FileType::BlockDevice, _) => header.extend_from_slice(stat.st_rdev.to_string().as_bytes()),
            _ => {}
        }
        self.entries.push(Entry { path: shown.to_vec(), header, content });
        Ok(())
    }
}

/// The SHA-256 of a file that must still be the one that was looked at.
fn read(job: &Job, buffer: &mut [u8]) -> Result<Hash> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = fs::openat(&job.above, job.name.as_slice(), flags, Mode::empty()).map_err(|error| Error::io("open", &job.path, error))?;
    let stat = fs::fstat(&file).map_err(|error| Error::io("look at", &job.path, error))?;
    if kind(&stat) != FileType::RegularFile {
        return Err(Error::io("read", &job.path, Errno::STALE));
    }
    let mut file = File::from(file);
    let mut hash = Sha256::new();
    loop {
        match file.read(buffer) {
            Ok(0) => return Ok(hash.finalize().into()),
            Ok(len) => hash.update(&buffer[..len]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(Error::io("read", &job.path, error)),
        }
    }
}

fn listing(entries: Vec<Entry>) -> Listing {
    let mut whole = Sha256::new();
    let mut parts: BTreeMap<String, Sha256> = BTreeMap::new();
    let is_short = entries.len() <= PARTS_MAX;
    for entry in &entries {
        let mut one = Sha256::new();
        one.update((entry.header.len() as u64).to_le_bytes());
        one.update(&entry.header);
        one.update(entry.content.unwrap_or_default());
        let one: Hash = one.finalize().into();
        whole.update(one);
        let path = String::from_utf8_lossy(&entry.path).into_owned();
        let part = match is_short {
            true => path,
            false => path.split('/').next().unwrap_or_default().to_owned(),
        };
        if parts.len() < PARTS_MAX || parts.contains_key(&part) {
            parts.entry(part).or_default().update(one);
        }
    }
    let short = |hash: Sha256| hex(&<Hash>::from(hash.finalize())[..8]);
    Listing { digest: hex(&<Hash>::from(whole.finalize())), parts: parts.into_iter().map(|(path, hash)| (path, short(hash))).collect() }
}

fn identity(stat: &Stat) -> Identity {
    Identity(stat.st_dev, stat.st_ino, stat.st_size, (stat.st_mtime, stat.st_mtime_nsec), (stat.st_ctime, stat.st_ctime_nsec))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

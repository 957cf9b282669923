//! Verifying what the store holds, and putting right what is damaged.
//!
//! A layer is whole when its recipe and its files together give back the very archive that its diffID is the digest of, and when each of its files is on the disk what
//! that archive says: its kind, owner, mode, length and link.

use std::collections::HashMap;
use std::io::{BufReader, BufWriter, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{self, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use tarball::{Entry, Kind, Parser};
use types::Digest;

use crate::archive::recipe::rebuild;
use crate::catalog::{Image, Layer};
use crate::layer::{LayerHold, StagedLayer};
use crate::{Error, Result, Store};

const BUFFER_LEN: usize = 128 << 10;
const WHITEOUT: &[u8] = b".wh.";

/// A layer that is not what it should be.
#[derive(Debug, Clone)]
pub struct DamagedLayer {
    /// The layer.
    pub layer: Arc<Layer>,
    /// What is wrong with it.
    pub reason: String,
    /// The images that have it.
    pub images: Vec<Digest>,
}

/// What became of a verification.
#[derive(Debug, Clone, Default)]
pub struct Verified {
    /// How many layers were looked at.
    pub layers: usize,
    /// How many configurations, manifests and indexes.
    pub documents: usize,
    /// Layers that are not whole.
    pub damaged: Vec<DamagedLayer>,
    /// Configurations, manifests and indexes that are missing or changed.
    pub documents_damaged: Vec<Digest>,
}

impl Store {
    /// Reads every layer and every document, and tells which are damaged. `told` is called before each layer; an answer of `false` ends the verification.
    pub fn verify(&self, told: &mut dyn FnMut(&Layer) -> bool) -> Result<Verified> {
        let catalog = self.catalog();
        let mut verified = Verified::default();
        for digest in crate::store::referred(&catalog) {
            verified.documents += 1;
            if self.content().read(&digest).is_err() {
                verified.documents_damaged.push(digest);
            }
        }
        let mut layers: Vec<&Arc<Layer>> = catalog.layers.values().collect();
        layers.sort_by(|one, other| one.key.cmp(&other.key));
        for layer in layers {
            // One that was dropped meanwhile need not be looked at.
            let Some(_hold) = self.hold_layer(layer) else { continue };
            if !told(layer) {
                return Ok(verified);
            }
            verified.layers += 1;
            if let Err(error) = self.verify_layer(layer) {
                let has = |image: &&Arc<Image>| image.layers.iter().any(|held| held.key == layer.key);
                verified.damaged.push(DamagedLayer {
                    layer: Arc::clone(layer),
                    reason: types::error::chain(&error),
                    images: catalog.images().filter(has).map(|image| image.id.clone()).collect(),
                });
            }
        }
        Ok(verified)
    }

    /// Holds a layer by its record.
    pub fn hold_layer(&self, layer: &Layer) -> Option<LayerHold> {
        // A layer that does not stand alone is found by its chainID, which is its key.
        let chain_id = if layer.stands_alone { layer.diff_id.clone() } else { format!("sha256:{}", layer.key).parse().ok()? };
        self.find_layer(&layer.diff_id, &chain_id)
    }

    /// Whether one layer is whole; the error says what is wrong.
    pub fn verify_layer(&self, layer: &Layer) -> Result<()> {
        let directory = self.layers_dir().join(&layer.key);
        let pipe = |source| Error::io("make a pipe for", &directory, source);
        let (reader, writer) = std::io::pipe().map_err(pipe)?;
        std::thread::scope(|scope| {
            let rebuilding = std::thread::Builder::new().name("verify".to_owned()).spawn_scoped(scope, || {
                let mut output = BufWriter::with_capacity(BUFFER_LEN, writer);
                let rebuilt = rebuild(&directory, &mut output)?;
                // The other side may have seen enough.
                let _ = output.flush();
                Ok::<_, Error>(rebuilt)
            });
            let rebuilding = rebuilding.map_err(pipe)?;
            let entries = entries_of(BufReader::with_capacity(BUFFER_LEN, reader));
            let rebuilt = rebuilding.join().unwrap_or_else(|_| Err(Error::invalid("the layer", "the thread that reads it failed")));
            let (found, _) = rebuilt?;
            if found != layer.diff_id {
                let subject = format!("the layer in {}", layer.key);
                return Err(Error::DigestMismatch { subject, expected: layer.diff_id.clone(), found });
            }
            compare(&directory.join("fs"), &entries?)
        })
    }

    /// Puts a newly unpacked copy of a layer into a damaged one's place. No container may run on it meanwhile.
    pub fn replace_layer(&self, layer: &Layer, staged: &StagedLayer) -> Result<()> {
        if *staged.diff_id() != layer.diff_id {
            let subject = format!("what was fetched for the layer in {}", layer.key);
            return Err(Error::DigestMismatch { subject, expected: layer.diff_id.clone(), found: staged.diff_id().clone() });
        }
        let below = self.layers_below(layer)?;
        staged.complete(&below)?;
        let right = self.write();
        if !self.catalog().layers.contains_key(&layer.key) {
            return Err(Error::MissingLayer(layer.diff_id.clone()));
        }
        let path = self.layers_dir().join(&layer.key);
        durable::sync_filesystem(staged.dir())?;
        // In one step: there is no moment without the layer. What was damaged goes with the staged one's place.
        let exchanged = match fs::renameat_with(fs::CWD, staged.dir(), fs::CWD, &path, RenameFlags::EXCHANGE) {
            Err(rustix::io::Errno::NOENT) => fs::renameat_with(fs::CWD, staged.dir(), fs::CWD, &path, RenameFlags::NOREPLACE),
            exchanged => exchanged,
        };
        exchanged.map_err(|error| Error::io("replace", &path, error))?;
        durable::sync_dir(&self.layers_dir())?;
        drop(right);
        Ok(())
    }

    /// The directories of what lies below a layer that takes something from there, top first.
    fn layers_below(&self, layer: &Layer) -> Result<Vec<PathBuf>> {
        if layer.stands_alone {
            return Ok(Vec::new());
        }
        let catalog = self.catalog();
        let place = |image: &Arc<Image>| {
            let at = image.layers.iter().position(|held| held.key == layer.key)?;
            Some(image.layers[..at].iter().rev().map(|below| self.layers_dir().join(&below.key).join("fs")).collect())
        };
        catalog.images().find_map(place).ok_or_else(|| Error::MissingLayer(layer.diff_id.clone()))
    }
}

/// What each path of an archive is in the end.
fn entries_of(input: impl std::io::BufRead) -> Result<HashMap<Vec<u8>, Entry>> {
    let mut parser = Parser::new(input);
    let mut entries = HashMap::new();
    while let Some(entry) = parser.next_entry()? {
        parser.aside().clear();
        let path = clean(&entry.path);
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or_default();
        if !path.is_empty() && !name.starts_with(WHITEOUT) {
            entries.insert(path, entry);
        }
    }
    parser.finish::<Error>(|aside| {
        aside.clear();
        Ok(())
    })?;
    Ok(entries)
}

fn clean(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|byte| *byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    parts.join(&b'/')
}

/// Whether what is below a directory is what the entries say. Entries below links, and those replaced by others, are not looked at.
fn compare(root: &Path, entries: &HashMap<Vec<u8>, Entry>) -> Result<()> {
    let top = fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let top = top.map_err(|error| Error::io("open", root, error))?;
    for (path, entry) in entries {
        if entry.kind == Kind::HardLink || replaced(path, entries) {
            continue;
        }
        let damaged = |what: &str| Err(Error::invalid(format!("{:?}", String::from_utf8_lossy(path)), what));
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let opened = fs::openat2(&top, path.as_slice(), OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty(), resolve);
        let Ok(file) = opened else { return damaged("it is missing") };
        let stat = fs::fstat(&file).map_err(|error| Error::io("look at", &root.join(std::ffi::OsStr::from_bytes(path)), error))?;
        if FileType::from_raw_mode(stat.st_mode) != kind_of(entry.kind) {
            return damaged("it is of another kind");
        }
        if (stat.st_uid, stat.st_gid) != (entry.uid, entry.gid) {
            return damaged("it has another owner");
        }
        if entry.kind != Kind::Symlink && stat.st_mode & 0o7777 != entry.mode & 0o7777 {
            return damaged("it has another mode");
        }
        if entry.kind == Kind::File && u64::try_from(stat.st_size).ok() != Some(entry.content_len()) {
            return damaged("it has another length");
        }
        if entry.kind == Kind::Symlink {
            let target = fs::readlinkat(&file, "", Vec::new()).map(|target| target.into_bytes());
            if target.ok().as_deref() != Some(entry.link.as_slice()) {
                return damaged("it leads elsewhere");
            }
        }
    }
    Ok(())
}

/// Whether something above a path is no directory of this archive.
fn replaced(path: &[u8], entries: &HashMap<Vec<u8>, Entry>) -> bool {
    let cuts = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
    cuts.into_iter().any(|at| entries.get(&path[..at]).is_some_and(|above| above.kind != Kind::Directory))
}

fn kind_of(kind: Kind) -> FileType {
    match kind {
        Kind::File | Kind::HardLink => FileType::RegularFile,
        Kind::Symlink => FileType::Symlink,
        Kind::CharDevice => FileType::CharacterDevice,
        Kind::BlockDevice => FileType::BlockDevice,
        Kind::Directory => FileType::Directory,
        Kind::Fifo => FileType::Fifo,
    }
}

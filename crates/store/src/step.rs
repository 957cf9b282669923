//! Layers that steps of a build make: a directory is filled, walked once in canonical order, and renamed into place.
//!
//! Such a layer is visible at once, so that the next step can lie on it, but it is written down only by [`Store::keep_steps`] (or by the first image that has it):
//! a build waits for the disk once, not at every step, and a crash before leaves directories without a record, which the next start removes.

use std::cell::RefCell;
use std::collections::HashSet;
use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use durable::fail_point;
use rustix::fs::{self, AtFlags, FileType, Mode, OFlags, RenameFlags, ResolveFlags};
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tarball::Packer;
use types::Digest;

use crate::archive::recipe::{RECIPE, RecipeWriter};
use crate::catalog::{Catalog, Layer, RootAttributes};
use crate::layer::{LayerHold, StagingDir};
use crate::merged::Merged;
use crate::upper::{MOUNT_POINTS, Upper};
use crate::{Error, Result, Snapshot, Store};

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC).union(OFlags::NOFOLLOW);
/// Bytes of headers that wait before the recipe takes them.
const RAW_LEN_MAX: usize = 64 << 10;

/// A directory that is to become a layer. Dropped, it is removed.
#[derive(Debug)]
pub struct Draft {
    directory: StagingDir,
}

impl Draft {
    /// Where the files go. What overlayfs understands as removed or opaque means that here, too.
    pub fn fs_dir(&self) -> PathBuf {
        self.directory.0.join("fs")
    }
}

impl Store {
    /// An empty directory in the staging area that is to become a layer.
    pub fn draft(&self) -> Result<Draft> {
        let draft = self.empty_draft()?;
        durable::create_dir(&draft.fs_dir(), 0o755)?;
        Ok(draft)
    }

    /// A directory in the staging area that is removed when it is dropped, and by the next start at the latest.
    pub fn scratch(&self) -> Result<Scratch> {
        Ok(Scratch(self.empty_draft()?.directory))
    }

    fn empty_draft(&self) -> Result<Draft> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name = format!("step-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let directory = StagingDir(self.root.join("staging").join(name));
        durable::create_dir(&directory.0, 0o700)?;
        Ok(Draft { directory })
    }

    /// Takes the read/write layer out of a snapshot whose overlay is mounted nowhere any more. What a start made for its mounts is left out, `mounted` (absolute paths) included.
    pub fn take_upper(&self, id: &str, mounted: &[String]) -> Result<Draft> {
        let snapshot = self.snapshot(id)?;
        let draft = self.empty_draft()?;
        let to = draft.fs_dir();
        fs::renameat_with(fs::CWD, &snapshot.upper, fs::CWD, &to, RenameFlags::NOREPLACE)
            .map_err(|error| Error::io("take the changes of a step from", &snapshot.upper, error))?;
        let below = Merged::open(&snapshot.lower)?;
        let own = fs::open(&to, DIRECTORY, Mode::empty()).map_err(|error| Error::io("open", &to, error))?;
        remove_stubs(&own, &below, mounted).map_err(|error| Error::io("clean up", &to, error))?;
        Ok(draft)
    }

    /// Makes a filled directory a layer that can be used at once; nothing if there is nothing in it. A layer that is there already takes its place.
    pub fn adopt(&self, draft: Draft) -> Result<Option<LayerHold>> {
        let Some(layer) = describe(&draft.directory.0)? else { return Ok(None) };
        if let Some(hold) = self.find_layer(&layer.diff_id, &layer.diff_id) {
            return Ok(Some(hold));
        }
        fail_point("store.step.described");
        let layer = Arc::new(layer);
        let right = self.write();
        let mut catalog = Catalog::clone(&self.catalog());
        if !catalog.layers.contains_key(&layer.key) {
            let path = self.layers_dir().join(&layer.key);
            // What a failed attempt left there.
            self.reaper.bury(&path)?;
            fs::renameat_with(fs::CWD, &draft.directory.0, fs::CWD, &path, RenameFlags::NOREPLACE)
                .map_err(|error| Error::io("publish", &path, error))?;
            fail_point("store.step.renamed");
            self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).insert(layer.key.clone());
            catalog.layers.insert(layer.key.clone(), Arc::clone(&layer));
        }
        self.hold_key(&catalog, &layer.key).map(|hold| {
            self.show(&right, catalog);
            Some(hold)
        })
    }

    /// The directories of layers given lowest first, as an overlay takes them: top first.
    pub fn directories_of(&self, layers: &[Arc<LayerHold>]) -> Vec<PathBuf> {
        self.layer_dirs(layers.iter().map(|hold| hold.layer().key.as_str()))
    }

    /// As [`Store::create_snapshot`], over layers that need not be an image's, lowest first.
    pub fn create_snapshot_over(&self, id: &str, layers: &[Arc<LayerHold>], root: Option<RootAttributes>) -> Result<Snapshot> {
        let keys: Vec<String> = layers.iter().map(|hold| hold.layer().key.clone()).collect();
        self.snapshot_of(id, keys, root)
    }
}

/// A directory in the staging area.
#[derive(Debug)]
pub struct Scratch(StagingDir);

impl Scratch {
    /// The directory.
    pub fn path(&self) -> &Path {
        &self.0.0
    }
}

/// Walks the files once: writes the recipe beside them and answers the layer that they are.
fn describe(directory: &Path) -> Result<Option<Layer>> {
    let recipe = directory.join(RECIPE);
    let fs_dir = directory.join("fs");
    let root = fs::open(&fs_dir, DIRECTORY, Mode::empty()).map_err(|error| Error::io("open", &fs_dir, error))?;
    let own = tarball::names(root.as_fd()).map_err(|error| Error::io("list", &fs_dir, error))?;
    if own.is_empty() {
        return Ok(None);
    }
    let state =
        RefCell::new(Walk { recipe: RecipeWriter::create(&recipe)?, raw: Vec::new(), content: 0, size: 0, hash: Sha256::new(), len: 0 });
    let broken = RefCell::new(None);
    let tap = |path: &[u8], len: u64| {
        if let Err(error) = state.borrow_mut().begin_content(path, len) {
            *broken.borrow_mut() = Some(error);
        }
    };
    let mut packer = Packer::tapped(Sink(&state), Box::new(tap));
    let tree = Upper::default();
    let packed = packer.directory(&tree, &root, b"");
    tree.explain(packed)?;
    packer.finish()?;
    let fail = |error| Error::io("write", &recipe, error);
    if let Some(error) = broken.into_inner() {
        return Err(fail(error));
    }
    let mut walk = state.into_inner();
    walk.recipe.raw(&mut walk.raw).map_err(fail)?;
    walk.recipe.finish().map_err(fail)?;
    let diff_id = Digest::from_sha256(walk.hash.finalize().into());
    Ok(Some(Layer {
        key: diff_id.hex().to_owned(),
        diff_id,
        stands_alone: true,
        size: walk.size,
        archive_size: walk.len,
        root: None,
        origins: Vec::new(),
    }))
}

/// The archive as it is written: hashed, and its headers put into the recipe.
struct Walk {
    recipe: RecipeWriter,
    raw: Vec<u8>,
    /// Bytes of a file's content that are still to come.
    content: u64,
    /// The bytes of all files so far.
    size: u64,
    hash: Sha256,
    len: u64,
}

impl Walk {
    fn begin_content(&mut self, path: &[u8], len: u64) -> io::Result<()> {
        self.recipe.raw(&mut self.raw)?;
        self.recipe.content(path, len)?;
        self.content = len;
        self.size += len;
        Ok(())
    }
}

struct Sink<'a>(&'a RefCell<Walk>);

impl Write for Sink<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut walk = self.0.borrow_mut();
        walk.hash.update(bytes);
        walk.len += bytes.len() as u64;
        match walk.content.checked_sub(bytes.len() as u64) {
            Some(left) if walk.content > 0 => walk.content = left,
            _ => {
                walk.raw.extend_from_slice(bytes);
                if walk.raw.len() > RAW_LEN_MAX {
                    let Walk { recipe, raw, .. } = &mut *walk;
                    recipe.raw(raw)?;
                }
            }
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes away what was made for mounts: empty files and directories at their places, and directories above them in which nothing else is.
/// Nothing is reached through a link, so that no step can lead the clean-up astray.
fn remove_stubs(own: &OwnedFd, below: &Merged, mounted: &[String]) -> std::result::Result<(), Errno> {
    let usual = MOUNT_POINTS.iter().map(|path| String::from_utf8_lossy(path).into_owned());
    let mut paths: Vec<String> = usual.chain(mounted.iter().map(|path| path.trim_matches('/').to_owned())).collect();
    // Directories above mount points were made or copied up with them.
    let above: HashSet<String> =
        paths.iter().flat_map(|path| Path::new(path).ancestors().skip(1).map(|path| path.to_string_lossy().into_owned())).collect();
    paths.extend(above);
    paths.retain(|path| !path.is_empty());
    paths.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
    paths.dedup();
    for path in paths {
        remove_stub(own, below, &path)?;
    }
    Ok(())
}

fn remove_stub(own: &OwnedFd, below: &Merged, path: &str) -> std::result::Result<(), Errno> {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    let parent = match parent {
        "" => rustix::io::fcntl_dupfd_cloexec(own, 3)?,
        parent => match fs::openat2(own, parent, DIRECTORY, Mode::empty(), resolve) {
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => return Ok(()),
            opened => opened?,
        },
    };
    let stat = match fs::statat(&parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        looked => looked?,
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile if stat.st_size == 0 && below.lookup(path.as_bytes())?.is_none() => {
            fs::unlinkat(&parent, name, AtFlags::empty())
        }
        FileType::Directory => {
            let directory = fs::openat(&parent, name, DIRECTORY, Mode::empty())?;
            if crate::merged::is_opaque(&directory) || !tarball::names(directory.as_fd())?.is_empty() {
                return Ok(());
            }
            let was = match below.lookup(path.as_bytes())? {
                Some(crate::merged::Found::Directory(parts)) => parts.first().map(fs::fstat).transpose()?,
                Some(crate::merged::Found::Other(..)) => return Ok(()),
                None => None,
            };
            // One that a step gave other attributes is its change.
            let same = was.is_none_or(|was| (was.st_mode, was.st_uid, was.st_gid) == (stat.st_mode, stat.st_uid, stat.st_gid));
            match same {
                true => fs::unlinkat(&parent, name, AtFlags::REMOVEDIR),
                false => Ok(()),
            }
        }
        _ => Ok(()),
    }
}

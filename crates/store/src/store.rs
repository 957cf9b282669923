//! The store itself: opening, directories, parts.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use durable::{Lock, create_dir_all};

use crate::archive::limits::Limits;
use crate::cache::Cache;
use crate::catalog::{Catalog, Image, Layer, Name, kind};
use crate::content::Content;
use crate::layer::Holds;
use crate::reaper::Reaper;
use crate::records::{Records, decode};
use crate::volume::Volume;
use crate::{Database, Error, Result};

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
///
/// Those who change images wait for each other; nobody who only looks waits for them.
pub struct Store {
    pub(crate) root: PathBuf,
    pub(crate) limits: Limits,
    pub(crate) holds: Arc<Mutex<Holds>>,
    pub(crate) reaper: Reaper,
    pub(crate) volumes: RwLock<Arc<BTreeMap<String, Arc<Volume>>>>,
    /// Taken by whoever changes volumes.
    pub(crate) volume_writer: Mutex<()>,
    /// What steps of builds came to.
    pub(crate) cache: Mutex<Cache>,
    /// Layers that are there, but not in the database yet.
    pub(crate) unwritten: Mutex<HashSet<String>>,
    db: Database,
    content: Content,
    catalog: RwLock<Arc<Catalog>>,
    /// Taken by whoever changes the catalog.
    writer: Mutex<()>,
    _lock: Lock,
}

impl Store {
    /// Opens (and makes, if missing) the data root: takes its lock, empties the staging area, goes on with removals in the background.
    pub fn open(options: Options) -> Result<Self> {
        let root = options.root;
        for (name, mode) in [
            ("db", 0o700),
            ("content", 0o700),
            // Files of images and volumes have modes and owners of their makers' choice: nobody else on this machine may reach them by name.
            ("layers", 0o700),
            ("containers", 0o711),
            ("volumes", 0o700),
            ("staging", 0o700),
            ("empty", 0o755),
        ] {
            let path = root.join(name);
            create_dir_all(&path, mode)?;
            // An earlier version may have made it with another.
            std::fs::set_permissions(&path, Permissions::from_mode(mode)).map_err(|error| Error::io("set the mode of", &path, error))?;
        }
        let lock = Lock::try_take(&root.join("db/lock"))?.ok_or_else(|| Error::Locked { root: root.clone() })?;
        let db = Database::open(&root.join("db/cais.db"))?;
        let content = Content::open(&root.join("content"))?;
        let reaper = Reaper::start(&root.join("trash"))?;
        let (catalog, damaged) = read_catalog(&db)?;
        let cache = Cache::read(&db, &catalog)?;
        let volumes = crate::volume::read_all(&db, &root)?;
        let mut holds = Holds::read(&root.join("containers"))?;
        if damaged {
            holds.keep_all();
        }
        let store = Self {
            root,
            limits: options.limits,
            holds: Arc::new(Mutex::new(holds)),
            reaper,
            volumes: RwLock::new(Arc::new(volumes)),
            volume_writer: Mutex::new(()),
            cache: Mutex::new(cache),
            unwritten: Mutex::default(),
            db,
            content,
            catalog: RwLock::new(Arc::new(catalog)),
            writer: Mutex::new(()),
            _lock: lock,
        };
        store.collect(damaged)?;
        Ok(store)
    }

    /// The data root.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The metadata database, where the engine keeps its documents too (other kinds than `image`, `name`, `layer`, `volume`).
    pub fn db(&self) -> &Database {
        &self.db
    }

    /// Small content by digest.
    pub fn content(&self) -> &Content {
        &self.content
    }

    /// Waits until everything that was removed is off the disk: for tests, and before a data root is deleted.
    pub fn wait_for_removals(&self) {
        self.reaper.wait();
    }

    /// All that is known of images at this moment, without waiting.
    pub fn catalog(&self) -> Arc<Catalog> {
        Arc::clone(&self.catalog.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The right to change the catalog.
    pub(crate) fn write(&self) -> MutexGuard<'_, ()> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes a changed catalog the one that everybody sees. The caller has the right to.
    pub(crate) fn show(&self, _right: &MutexGuard<'_, ()>, catalog: Catalog) {
        *self.catalog.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(catalog);
    }

    pub(crate) fn layers_dir(&self) -> PathBuf {
        self.root.join("layers")
    }

    /// Removes what a crash left: staged work, layers without a record, content that nothing refers to, layers that nothing needs. Where records are damaged,
    /// nothing is taken for unneeded.
    fn collect(&self, damaged: bool) -> Result<()> {
        let right = self.write();
        for path in entries(&self.root.join("staging"))? {
            self.reaper.bury(&path)?;
        }
        self.collect_volumes()?;
        if damaged {
            return Ok(());
        }
        let catalog = self.catalog();
        for path in entries(&self.layers_dir())? {
            if !file_name(&path).is_some_and(|name| catalog.layers.contains_key(name)) {
                self.reaper.bury(&path)?;
            }
        }
        self.content.keep_only(&referred(&catalog))?;
        self.drop_unused_layers(&right)?;
        Ok(())
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Store({})", self.root.display())
    }
}

/// The content that a catalog needs.
pub(crate) fn referred(catalog: &Catalog) -> BTreeSet<types::Digest> {
    let of_images = catalog.images.values().flat_map(|image| [image.id.clone(), image.manifest.digest.clone()]);
    let of_names = catalog.names.values().map(|name| name.target.digest.clone());
    of_images.chain(of_names).collect()
}

/// The paths in a directory.
pub(crate) fn entries(directory: &Path) -> Result<Vec<PathBuf>> {
    let fail = |error| Error::io("list", directory, error);
    std::fs::read_dir(directory).map_err(fail)?.map(|entry| entry.map(|entry| entry.path()).map_err(fail)).collect()
}

pub(crate) fn file_name(path: &Path) -> Option<&str> {
    path.file_name().and_then(|name| name.to_str())
}

/// Reads the records. One that can't be read is left out with a warning, rather than keeping the engine from starting; answers also whether there was one.
fn read_catalog(db: &Database) -> Result<(Catalog, bool)> {
    let mut damaged = false;
    let mut layers = HashMap::new();
    for (id, body) in db.scan_raw(kind::LAYER)? {
        damaged |= !keep(decode::<Layer>(kind::LAYER, &id, &body), |layer| layers.insert(id.clone(), Arc::new(layer)));
    }
    let mut images = BTreeMap::new();
    for (id, body) in db.scan_raw(kind::IMAGE)? {
        damaged |= !keep(decode::<Image>(kind::IMAGE, &id, &body), |image| images.insert(image.id.clone(), Arc::new(image)));
    }
    let mut names = BTreeMap::new();
    for (id, body) in db.scan_raw(kind::NAME)? {
        let Ok(name) = id.parse() else {
            tracing::warn!(name = id, "the record of an image name is damaged and left out");
            damaged = true;
            continue;
        };
        damaged |= !keep(decode::<Name>(kind::NAME, &id, &body), |target| names.insert(name, Arc::new(target)));
    }
    names.retain(|_, target| images.contains_key(&target.image));
    Ok((Catalog { images, names, layers }, damaged))
}

fn keep<T, U>(decoded: Result<T>, insert: impl FnOnce(T) -> U) -> bool {
    match decoded {
        Ok(document) => {
            insert(document);
            true
        }
        Err(error) => {
            tracing::warn!(error = %types::error::chain(&error), "a damaged record is left out");
            false
        }
    }
}

//! Images: look-up, names, history, and how new ones become visible.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use durable::{fail_point, publish_dirs, sync_filesystem};
use jiff::Timestamp;
use types::image::{Descriptor, ImageConfig, Manifest, media_type};
use types::{Digest, ImageRef};

use crate::catalog::{Catalog, Image, ImageLayer, Layer, Name, Origin, kind};
use crate::layer::{LayerHold, StagedLayer, chain_ids};
use crate::records::{Records, Transaction};
use crate::{Error, Result, Store};

/// An image that is about to become visible.
#[derive(Debug)]
pub struct NewImage {
    /// The configuration, byte for byte.
    pub config: Vec<u8>,
    /// The manifest, byte for byte with its media type; one is made when absent.
    pub manifest: Option<(String, Vec<u8>)>,
    /// What names point at besides, byte for byte: the index that lists the manifest.
    pub documents: Vec<Vec<u8>>,
    /// The layers, lowest first, as many as the configuration has diffIDs.
    pub layers: Vec<NewLayer>,
    /// The image that it was made from here.
    pub parent: Option<Digest>,
    /// Names to be given, each with its root where that is not the manifest. A name that another image has moves.
    pub names: Vec<(ImageRef, Option<Descriptor>)>,
}

/// A layer of an image that is about to become visible.
#[derive(Debug)]
pub enum NewLayer {
    /// One that the store has.
    Present(LayerHold),
    /// One that was just unpacked, and where it came from.
    Staged(Arc<StagedLayer>, Option<Box<Origin>>),
}

/// One line of `history`, newest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistoryEntry {
    /// The image's id on the first line, of which the names are `tags`; `<missing>` on others unless a parent is known.
    pub id: String,
    /// When, RFC 3339; absent if it was not noted.
    pub created: Option<String>,
    /// The instruction.
    pub created_by: String,
    /// The familiar names of the image of that line.
    pub tags: Vec<String>,
    /// The bytes of the layer's files.
    pub size: u64,
    /// A remark.
    pub comment: String,
}

impl Catalog {
    /// The image that `text` means: a name (with `:latest` implied), `name@digest`, an id, or an unambiguous prefix of one.
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        let digits = text.strip_prefix("sha256:").unwrap_or(text);
        let is_prefix = !digits.is_empty() && digits.len() <= 64 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
        if is_prefix && (digits.len() == 64 || digits.len() < text.len()) {
            return self.by_prefix(digits)?.ok_or_else(|| Error::NoSuchImage(text.to_owned()));
        }
        let name: ImageRef = text.parse()?;
        let name = name.with_default_tag();
        if let Some(image) = self.by_name(&name) {
            return Ok(image);
        }
        if is_prefix && let Some(image) = self.by_prefix(digits)? {
            return Ok(image);
        }
        Err(Error::NoSuchImage(name.familiar()))
    }

    fn by_name(&self, name: &ImageRef) -> Option<Arc<Image>> {
        let target = match name.digest() {
            None => self.names.get(name)?,
            // With a digest the tag is only a remark.
            Some(digest) => self.names.get(&name.with_digest(digest.clone()))?,
        };
        self.images.get(&target.image).cloned()
    }

    fn by_prefix(&self, digits: &str) -> Result<Option<Arc<Image>>> {
        let mut fitting = self.images.values().filter(|image| image.id.hex().starts_with(digits));
        match (fitting.next(), fitting.count()) {
            (None, _) => Ok(None),
            (Some(image), 0) => Ok(Some(Arc::clone(image))),
            (Some(_), more) => Err(Error::AmbiguousImage { prefix: digits.to_owned(), count: more + 1 }),
        }
    }

    fn familiar_tags(&self, id: &Digest) -> Vec<String> {
        self.tags_of(id).into_iter().map(ImageRef::familiar).collect()
    }
}

impl Store {
    /// All images at this moment.
    pub fn images(&self) -> Vec<Arc<Image>> {
        self.catalog().images().cloned().collect()
    }

    /// The image that `text` means; see [`Catalog::resolve`].
    pub fn resolve(&self, text: &str) -> Result<Arc<Image>> {
        self.catalog().resolve(text)
    }

    /// Gives an image another name (a tag); the name moves if it is another image's. Answers whether anything changed.
    pub fn tag(&self, image: &Digest, name: &ImageRef) -> Result<bool> {
        let right = self.write();
        let mut catalog = Catalog::clone(&self.catalog());
        let image = catalog.images.get(image).cloned().ok_or_else(|| Error::NoSuchImage(image.to_string()))?;
        let name = name.clone().with_default_tag();
        let target = Arc::new(Name { image: image.id.clone(), target: image.manifest.clone() });
        if catalog.names.get(&name).is_some_and(|present| present.image == image.id) {
            return Ok(false);
        }
        let tagged = Image { last_tagged: Some(now()), ..Image::clone(&image) };
        let mut transaction = Transaction::new();
        transaction.put(kind::NAME, &name.to_string(), target.as_ref())?.put(kind::IMAGE, tagged.id.hex(), &tagged)?;
        self.db().apply(transaction)?;
        catalog.names.insert(name, target);
        catalog.images.insert(tagged.id.clone(), Arc::new(tagged));
        self.show(&right, catalog);
        Ok(true)
    }

    /// What each step of the making did, newest first.
    pub fn history(&self, image: &Image) -> Vec<HistoryEntry> {
        let catalog = self.catalog();
        let mut layers = image.layers.iter();
        let mut lines: Vec<HistoryEntry> = image
            .config
            .history
            .iter()
            .map(|step| HistoryEntry {
                id: "<missing>".to_owned(),
                created: step.created.clone(),
                created_by: step.created_by.clone(),
                tags: Vec::new(),
                size: if step.empty_layer { 0 } else { layers.next().map_or(0, |layer| layer.size) },
                comment: step.comment.clone(),
            })
            .collect();
        // Layers that no step accounts for still take space.
        lines.extend(layers.map(|layer| HistoryEntry {
            id: "<missing>".to_owned(),
            created: image.config.created.clone(),
            created_by: String::new(),
            tags: Vec::new(),
            size: layer.size,
            comment: String::new(),
        }));
        lines.reverse();
        let mut next = Some(Arc::new(image.clone()));
        for line in &mut lines {
            let Some(of_line) = next else {
                break;
            };
            line.id = of_line.id.to_string();
            line.tags = catalog.familiar_tags(&of_line.id);
            next = of_line.parent.as_ref().and_then(|parent| catalog.images.get(parent).cloned());
        }
        lines
    }

    /// The directories of an image's layers, top first: what an overlay's `lowerdir` takes. One empty directory for an image without layers.
    pub fn lowerdirs(&self, image: &Image) -> Vec<PathBuf> {
        self.layer_dirs(image.layers.iter().map(|layer| layer.key.as_str()))
    }

    /// The directories of layers given lowest first, top first. Overlayfs refuses a directory that is given twice; the lower of two equal layers shows nothing.
    pub(crate) fn layer_dirs<'k>(&self, keys: impl DoubleEndedIterator<Item = &'k str>) -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        let mut directories: Vec<PathBuf> =
            keys.rev().filter(|key| seen.insert(*key)).map(|key| self.layers_dir().join(key).join("fs")).collect();
        if directories.is_empty() {
            directories.push(self.root.join("empty"));
        }
        directories
    }

    /// Makes a new image visible, all of it or nothing: syncs, publishes the staged layers, records. One that is there already only gets the names.
    pub fn commit_image(&self, new: NewImage) -> Result<Arc<Image>> {
        let config = self.check_config(&new)?;
        let chain = chain_ids(&config.rootfs.diff_ids);
        let mut parts = Parts::default();
        for (layer, chain_id) in new.layers.into_iter().zip(&chain) {
            parts.add(self, layer, chain_id)?;
        }
        let id = self.content().write_unsynced(&new.config)?;
        let manifest = self.write_manifest(new.manifest, &new.config, &id, &parts.records)?;
        for document in &new.documents {
            self.content().write_unsynced(document)?;
        }
        fail_point("store.image.staged");
        sync_filesystem(&self.root.join("content"))?;
        fail_point("store.image.synced");
        let image = Image {
            id,
            manifest,
            layers: parts.image_layers(&chain),
            parent: new.parent,
            last_tagged: None,
            root: parts.records.iter().rev().find_map(|layer| layer.root),
            config,
        };
        self.publish(image, parts, new.names)
    }

    fn check_config(&self, new: &NewImage) -> Result<ImageConfig> {
        let invalid = |reason: String| Err(Error::invalid("image configuration", reason));
        if new.config.len() as u64 > self.limits.document_bytes {
            return invalid(format!("it has more than {} bytes", self.limits.document_bytes));
        }
        let config: ImageConfig = match serde_json::from_slice(&new.config) {
            Ok(config) => config,
            Err(error) => return invalid(error.to_string()),
        };
        if config.os != "linux" && !config.os.is_empty() {
            return invalid(format!("images for the operating system {:?} cannot be used on this platform", config.os));
        }
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != new.layers.len() {
            return invalid(format!("it has {} diffIDs, but the image has {} layers", diff_ids.len(), new.layers.len()));
        }
        if diff_ids.len() > self.limits.layers {
            return invalid(format!("the image has {} layers, {} are allowed", diff_ids.len(), self.limits.layers));
        }
        for (expected, layer) in diff_ids.iter().zip(&new.layers) {
            let found = match layer {
                NewLayer::Present(hold) => &hold.layer().diff_id,
                NewLayer::Staged(staged, _) => staged.diff_id(),
            };
            if found != expected {
                return Err(Error::DigestMismatch {
                    subject: "an uncompressed layer".to_owned(),
                    expected: expected.clone(),
                    found: found.clone(),
                });
            }
        }
        Ok(config)
    }

    fn write_manifest(&self, given: Option<(String, Vec<u8>)>, config: &[u8], id: &Digest, layers: &[Arc<Layer>]) -> Result<Descriptor> {
        let (media_type, bytes) = match given {
            Some(given) => given,
            None => (media_type::OCI_MANIFEST.to_owned(), plain_manifest(config.len(), id, layers)?),
        };
        let digest = self.content().write_unsynced(&bytes)?;
        Ok(Descriptor::new(&media_type, digest, bytes.len() as u64))
    }

    fn publish(&self, mut image: Image, parts: Parts, names: Vec<(ImageRef, Option<Descriptor>)>) -> Result<Arc<Image>> {
        let right = self.write();
        let mut catalog = Catalog::clone(&self.catalog());
        let mut transaction = Transaction::new();
        let mut moves = Vec::new();
        for (staged, record) in &parts.staged {
            // Somebody else may have brought the same layer meanwhile; then this one is dropped.
            if !catalog.layers.contains_key(&record.key) {
                let path = self.layers_dir().join(&record.key);
                // What a failed attempt left there.
                self.reaper.bury(&path)?;
                moves.push((staged.dir().to_owned(), path));
                transaction.put(kind::LAYER, &record.key, record.as_ref())?;
                catalog.layers.insert(record.key.clone(), Arc::clone(record));
            }
        }
        if !moves.is_empty() {
            publish_dirs(&moves)?;
        }
        // Layers of a build's steps that nobody wrote down yet: the caller has synced them with the rest.
        let unwritten = self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for record in parts.records.iter().filter(|record| unwritten.contains(&record.key)) {
            transaction.put(kind::LAYER, &record.key, record.as_ref())?;
        }
        fail_point("store.image.published");
        if let Some(present) = catalog.images.get(&image.id) {
            image.parent = present.parent.clone().or(image.parent);
            image.last_tagged = present.last_tagged.clone();
        }
        if !names.is_empty() {
            image.last_tagged = Some(now());
        }
        for (name, target) in names {
            let name = name.with_default_tag();
            let target = Name { image: image.id.clone(), target: target.unwrap_or_else(|| image.manifest.clone()) };
            transaction.put(kind::NAME, &name.to_string(), &target)?;
            catalog.names.insert(name, Arc::new(target));
        }
        let image = Arc::new(image);
        transaction.put(kind::IMAGE, image.id.hex(), image.as_ref())?;
        self.db().apply(transaction)?;
        self.unwritten.lock().unwrap_or_else(PoisonError::into_inner).retain(|key| parts.records.iter().all(|record| record.key != *key));
        fail_point("store.image.recorded");
        catalog.images.insert(image.id.clone(), Arc::clone(&image));
        self.show(&right, catalog);
        Ok(image)
    }
}

/// The layers of an image that is about to become visible.
#[derive(Default)]
struct Parts {
    /// All of them, lowest first.
    records: Vec<Arc<Layer>>,
    /// Where their files are now, lowest first.
    directories: Vec<PathBuf>,
    staged: Vec<(Arc<StagedLayer>, Arc<Layer>)>,
    holds: Vec<LayerHold>,
}

impl Parts {
    fn add(&mut self, store: &Store, layer: NewLayer, chain_id: &Digest) -> Result<()> {
        let (record, directory) = match layer {
            NewLayer::Present(hold) => {
                let record = Arc::clone(hold.layer());
                let directory = store.layers_dir().join(&record.key).join("fs");
                self.holds.push(hold);
                (record, directory)
            }
            NewLayer::Staged(staged, origin) => {
                // Somebody who unpacked it together with us may have published it.
                if let Some(hold) = store.find_layer(staged.diff_id(), chain_id) {
                    return self.add(store, NewLayer::Present(hold), chain_id);
                }
                let below: Vec<PathBuf> = self.directories.iter().rev().cloned().collect();
                staged.complete(&below)?;
                let record = Arc::new(Layer { origins: origin.into_iter().map(|origin| *origin).collect(), ..staged.record(chain_id) });
                let directory = staged.fs_dir();
                self.staged.push((staged, Arc::clone(&record)));
                (record, directory)
            }
        };
        self.records.push(record);
        self.directories.push(directory);
        Ok(())
    }

    fn image_layers(&self, chain: &[Digest]) -> Vec<ImageLayer> {
        let layer = |(record, chain_id): (&Arc<Layer>, &Digest)| ImageLayer {
            diff_id: record.diff_id.clone(),
            chain_id: chain_id.clone(),
            key: record.key.clone(),
            size: record.size,
        };
        self.records.iter().zip(chain).map(layer).collect()
    }
}

/// A manifest whose layers are the uncompressed archives.
pub(crate) fn plain_manifest(config_len: usize, id: &Digest, layers: &[Arc<Layer>]) -> Result<Vec<u8>> {
    let manifest = Manifest {
        schema_version: 2,
        media_type: media_type::OCI_MANIFEST.to_owned(),
        config: Descriptor::new(media_type::OCI_CONFIG, id.clone(), config_len as u64),
        layers: layers.iter().map(|layer| Descriptor::new(media_type::OCI_LAYER, layer.diff_id.clone(), layer.archive_size)).collect(),
        annotations: BTreeMap::new(),
        rest: serde_json::Map::new(),
    };
    serde_json::to_vec(&manifest).map_err(|source| Error::Encode { kind: "manifest".to_owned(), id: id.to_string(), source })
}

/// This moment as records tell it.
pub(crate) fn now() -> String {
    Timestamp::now().to_string()
}

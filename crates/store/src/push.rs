//! What a push needs of the store: an image with its layers held, each layer's exact archive compressed, and records of where things are now.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use sha2::{Digest as _, Sha256};
use types::image::{Descriptor, Manifest, media_type};
use types::{Digest, ImageRef};

use crate::archive::recipe::rebuild;
use crate::catalog::{Catalog, Image, Layer, Name, Origin, kind};
use crate::compress::ParallelGzip;
use crate::layer::LayerHold;
use crate::records::{Records, Transaction};
use crate::{Error, Result, Store};

/// So many places are remembered of one layer; the oldest go first.
const ORIGINS_MAX: usize = 16;

/// An image that is being pushed; its layers stay meanwhile.
#[derive(Debug)]
pub struct Pushing {
    /// The image.
    pub image: Arc<Image>,
    /// Its configuration, byte for byte.
    pub config: Vec<u8>,
    /// Its layers, lowest first.
    pub layers: Vec<LayerHold>,
    /// Manifests that the image came with, the likeliest first, each with the repositories that are known to have had it.
    pub manifests: Vec<KnownManifest>,
}

/// A manifest of an image, as it came from or went to a registry.
#[derive(Debug, Clone)]
pub struct KnownManifest {
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The same, understood.
    pub manifest: Manifest,
    /// Repositories that had it.
    pub repositories: Vec<ImageRef>,
}

impl Store {
    /// Holds what is to be pushed.
    pub fn pushing(&self, image: Arc<Image>) -> Result<Pushing> {
        let config = self.content().read(&image.id)?;
        let mut layers = Vec::with_capacity(image.layers.len());
        for layer in &image.layers {
            let hold = self.find_layer(&layer.diff_id, &layer.chain_id);
            layers.push(hold.ok_or_else(|| Error::MissingLayer(layer.diff_id.clone()))?);
        }
        let manifests = self.known_manifests(&self.catalog(), &image);
        Ok(Pushing { image, config, layers, manifests })
    }

    fn known_manifests(&self, catalog: &Catalog, image: &Image) -> Vec<KnownManifest> {
        let mut known: Vec<KnownManifest> = Vec::new();
        let named = catalog.names().filter(|(_, name)| name.image == image.id).map(|(reference, name)| (Some(reference), &name.target));
        for (reference, target) in [(None, &image.manifest)].into_iter().chain(named) {
            // An index stands for the manifest in it that was chosen.
            let is_index = media_type::is_index(&target.media_type);
            let target = if is_index { &image.manifest } else { target };
            let repository = reference.filter(|reference| reference.digest().is_some()).map(ImageRef::without_suffix);
            match known.iter_mut().find(|held| held.descriptor.digest == target.digest) {
                Some(held) => held.repositories.extend(repository),
                None => known.extend(self.known_manifest(image, target, repository)),
            }
        }
        known
    }

    /// A manifest of an image, unless it is one made here that no registry ever had: those list the layers as they are unpacked.
    fn known_manifest(&self, image: &Image, target: &Descriptor, repository: Option<ImageRef>) -> Option<KnownManifest> {
        let bytes = self.content().read(&target.digest).ok()?;
        let manifest: Manifest = serde_json::from_slice(&bytes).ok()?;
        let is_of_image = manifest.config.digest == image.id && manifest.layers.len() == image.layers.len();
        let is_plain = manifest.layers.iter().zip(&image.layers).all(|(layer, own)| layer.digest == own.diff_id);
        let was_away = repository.is_some() || !is_plain || image.layers.is_empty();
        let known = KnownManifest { descriptor: target.clone(), bytes, manifest, repositories: repository.into_iter().collect() };
        (is_of_image && was_away).then_some(known)
    }

    /// Writes a layer's archive, the exact one that it was unpacked from, compressed with gzip on all processors. The same layer always gives the same bytes.
    pub fn compress_layer(&self, hold: &LayerHold, output: &mut dyn Write) -> Result<Descriptor> {
        let hashed = Hashed { output, hash: Sha256::new(), len: 0 };
        let mut gzip = ParallelGzip::new(hashed).map_err(|source| write_error(hold.layer(), source))?;
        self.rebuild_verified(hold.layer(), &mut gzip)?;
        let done = gzip.finish().and_then(|mut hashed| hashed.flush().map(|()| hashed));
        let hashed = done.map_err(|source| write_error(hold.layer(), source))?;
        Ok(Descriptor::new(media_type::OCI_LAYER_GZIP, Digest::from_sha256(hashed.hash.finalize().into()), hashed.len))
    }

    /// The same, uncompressed.
    pub fn rebuild_layer(&self, hold: &LayerHold, output: &mut dyn Write) -> Result<Descriptor> {
        self.rebuild_verified(hold.layer(), output)?;
        output.flush().map_err(|source| write_error(hold.layer(), source))?;
        Ok(Descriptor::new(media_type::OCI_LAYER, hold.layer().diff_id.clone(), hold.layer().archive_size))
    }

    fn rebuild_verified(&self, layer: &Layer, output: &mut dyn Write) -> Result<()> {
        let (found, _) = rebuild(&self.layers_dir().join(&layer.key), output)?;
        match found == layer.diff_id {
            true => Ok(()),
            false => Err(Error::DigestMismatch { subject: format!("the layer in {}", layer.key), expected: layer.diff_id.clone(), found }),
        }
    }

    /// Records that an image is in a repository under a manifest (`RepoDigests`), and where each of its layers' blobs can be had again.
    /// What was removed meanwhile is left out.
    pub fn record_push(
        &self,
        repository: &ImageRef,
        image: &Digest,
        manifest: (&Descriptor, &[u8]),
        blobs: &[(String, Descriptor)],
    ) -> Result<()> {
        let (target, bytes) = manifest;
        self.content().write(bytes)?;
        let right = self.write();
        let mut catalog = Catalog::clone(&self.catalog());
        if !catalog.images.contains_key(image) {
            return Ok(());
        }
        let mut transaction = Transaction::new();
        let name = repository.with_digest(target.digest.clone());
        let points_at = Name { image: image.clone(), target: target.clone() };
        let mut is_changed = catalog.names.get(&name).is_none_or(|held| **held != points_at);
        transaction.put(kind::NAME, &name.to_string(), &points_at)?;
        catalog.names.insert(name, Arc::new(points_at));
        for (key, blob) in blobs {
            let Some(layer) = catalog.layers.get(key) else { continue };
            let origin = Origin { repository: repository.without_suffix(), blob: blob.clone() };
            if layer.origins.contains(&origin) {
                continue;
            }
            let mut changed = Layer::clone(layer);
            changed.origins.push(origin);
            let excess = changed.origins.len().saturating_sub(ORIGINS_MAX);
            changed.origins.drain(..excess);
            transaction.put(kind::LAYER, key, &changed)?;
            catalog.layers.insert(key.clone(), Arc::new(changed));
            is_changed = true;
        }
        if is_changed {
            self.db().apply(transaction)?;
            self.show(&right, catalog);
        }
        Ok(())
    }
}

impl Pushing {
    /// A manifest of the image over these blobs of its layers, lowest first. The same blobs always give the same bytes.
    pub fn manifest_over(&self, blobs: Vec<Descriptor>) -> Result<KnownManifest> {
        let config = Descriptor::new(media_type::OCI_CONFIG, self.image.id.clone(), self.config.len() as u64);
        let plain = |blob: Descriptor| Descriptor::new(oci_type(&blob.media_type), blob.digest, blob.size);
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::OCI_MANIFEST.to_owned(),
            config,
            layers: blobs.into_iter().map(plain).collect(),
            annotations: BTreeMap::new(),
            rest: serde_json::Map::new(),
        };
        let bytes = serde_json::to_vec(&manifest).map_err(|source| Error::Encode {
            kind: "manifest".to_owned(),
            id: self.image.id.to_string(),
            source,
        })?;
        let descriptor = Descriptor::new(media_type::OCI_MANIFEST, crate::content::digest_of(&bytes), bytes.len() as u64);
        Ok(KnownManifest { descriptor, bytes, manifest, repositories: Vec::new() })
    }
}

/// Hashes and counts what passes.
struct Hashed<'a> {
    output: &'a mut dyn Write,
    hash: Sha256,
    len: u64,
}

impl Write for Hashed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.output.write(bytes)?;
        self.hash.update(&bytes[..count]);
        self.len += count as u64;
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.output.flush()
    }
}

/// A layer's type as an OCI manifest names it.
fn oci_type(layer: &str) -> &str {
    match layer {
        media_type::DOCKER_LAYER => media_type::OCI_LAYER,
        media_type::DOCKER_LAYER_GZIP => media_type::OCI_LAYER_GZIP,
        other => other,
    }
}

fn write_error(layer: &Layer, source: io::Error) -> Error {
    Error::Read { subject: format!("layer {}", layer.diff_id), source }
}

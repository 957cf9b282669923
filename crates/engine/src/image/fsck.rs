//! Verifying everything that images are made of, and fetching again what is damaged, and only that.

use std::sync::Arc;

use registry::Registry;
use store::{DamagedLayer, Store};
use tokio::sync::mpsc;
use types::image::{Descriptor, Manifest};
use types::{Digest, ImageRef};

use super::{Images, Result, pull};

/// What a verification found.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// How many layers were looked at.
    pub layers: usize,
    /// How many configurations, manifests and indexes.
    pub documents: usize,
    /// What is not as it should be.
    pub damaged: Vec<Damage>,
}

/// Something that is damaged, or was.
#[derive(Debug, Clone)]
pub struct Damage {
    /// The layer's diffID, or the document's digest.
    pub digest: Digest,
    /// What is wrong with it.
    pub reason: String,
    /// The names (or ids) of the images that have it.
    pub images: Vec<String>,
    /// Where it was fetched from again, or why it was not.
    pub repaired: std::result::Result<String, String>,
}

impl Images {
    /// Verifies every layer and every document, and with `repair` fetches what is damaged from the registries that it came from. `lines` tells how it goes.
    pub async fn fsck(&self, repair: bool, lines: mpsc::Sender<String>) -> Result<Checked> {
        let told = lines.clone();
        let verified = self
            .block(move |store| {
                let mut tell = |layer: &store::Layer| told.blocking_send(format!("Verifying layer {}", layer.diff_id.short())).is_ok();
                Ok(store.verify(&mut tell)?)
            })
            .await?;
        let mut checked = Checked { layers: verified.layers, documents: verified.documents, damaged: Vec::new() };
        for digest in verified.documents_damaged {
            let repaired = if repair { self.fetch_document(&digest).await } else { Err(NOT_ASKED.to_owned()) };
            let images = self.owners(&self.images_with(&digest));
            checked.damaged.push(Damage { reason: "it is missing or changed".to_owned(), images, repaired, digest });
        }
        for damaged in verified.damaged {
            let repaired = if repair { self.fetch_layer(&damaged).await } else { Err(NOT_ASKED.to_owned()) };
            let images = self.owners(&damaged.images);
            checked.damaged.push(Damage { digest: damaged.layer.diff_id.clone(), reason: damaged.reason, images, repaired });
        }
        Ok(checked)
    }

    /// Fetches a layer again, wherever it can be had, and puts it into the damaged one's place.
    async fn fetch_layer(&self, damaged: &DamagedLayer) -> std::result::Result<String, String> {
        let layer = &damaged.layer;
        let running = |image: &Digest| (self.users)(image).into_iter().find(|user| user.running);
        if let Some(user) = damaged.images.iter().find_map(running) {
            let id = user.container.get(..12).unwrap_or(&user.container);
            return Err(format!("container {id} runs on it: stop it, and do this again"));
        }
        let mut last = "no registry is known that has it: load or pull an image that has it again".to_owned();
        for origin in layer.origins.iter().rev() {
            // Nobody watches the bytes.
            let (progress, _) = mpsc::channel(1);
            let store = Arc::clone(&self.store);
            let fetched = pull::fetch(&self.registry, store, &origin.repository, None, &origin.blob, &layer.diff_id, progress).await;
            let replaced = match fetched {
                Ok(staged) => {
                    let layer = Arc::clone(layer);
                    self.block(move |store| Ok(store.replace_layer(&layer, &staged)?)).await
                }
                Err(error) => Err(error),
            };
            match replaced {
                Ok(()) => return Ok(origin.repository.familiar_name()),
                Err(error) => last = types::error::chain(&error),
            }
        }
        Err(last)
    }

    async fn fetch_document(&self, digest: &Digest) -> std::result::Result<String, String> {
        let mut last = "no registry is known that has it".to_owned();
        let repositories: Vec<ImageRef> = {
            let catalog = self.store.catalog();
            let owners = self.images_with(digest);
            owners.iter().flat_map(|image| catalog.digests_of(image)).map(ImageRef::without_suffix).collect()
        };
        for repository in repositories {
            match document(&self.registry, &self.store, &repository, digest).await {
                Ok(bytes) => {
                    let kept = self.block(move |store| Ok(store.content().replace(&bytes)?)).await;
                    return kept.map(|_| repository.familiar_name()).map_err(|error| types::error::chain(&error));
                }
                Err(error) => last = types::error::chain(&error),
            }
        }
        Err(last)
    }

    /// The images that need a document.
    fn images_with(&self, digest: &Digest) -> Vec<Digest> {
        let catalog = self.store.catalog();
        let named = catalog.names().filter(|(_, name)| name.target.digest == *digest).map(|(_, name)| name.image.clone());
        let own = catalog.images().filter(|image| image.id == *digest || image.manifest.digest == *digest).map(|image| image.id.clone());
        let mut images: Vec<Digest> = named.chain(own).collect();
        images.sort();
        images.dedup();
        images
    }

    fn owners(&self, images: &[Digest]) -> Vec<String> {
        let catalog = self.store.catalog();
        let name = |id: &Digest| catalog.tags_of(id).first().map_or_else(|| id.short().to_owned(), |name| name.familiar());
        images.iter().map(name).collect()
    }
}

const NOT_ASKED: &str = "not asked for";

/// A configuration (a blob) or a manifest (a document of its own).
async fn document(registry: &Registry, store: &Store, repository: &ImageRef, digest: &Digest) -> Result<Vec<u8>> {
    let catalog = store.catalog();
    if let Some(image) = catalog.image(digest) {
        let manifest: Option<Manifest> =
            store.content().read(&image.manifest.digest).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        if let Some(config) = manifest.map(|manifest| manifest.config).filter(|config: &Descriptor| config.digest == *digest) {
            let mut bytes = Vec::new();
            registry.blob(repository, &config, None, &mut bytes).await?;
            return Ok(bytes);
        }
    }
    Ok(registry.root(&repository.with_digest(digest.clone()), None).await?.bytes)
}

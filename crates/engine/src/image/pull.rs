//! Pulling: what is missing is fetched, verified and unpacked while it streams, and becomes visible all at once.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::{BoxFuture, FutureExt, Shared, WeakShared};
use futures_util::stream::{FuturesUnordered, StreamExt};
use registry::{BlobSink, Credentials, Document, Registry, choose_platform};
use store::{LayerHold, NewImage, NewLayer, Origin, StagedLayer, Store, chain_ids};
use tokio::sync::{Semaphore, mpsc};
use types::image::{Descriptor, ImageConfig, Index, Manifest, media_type};
use types::{Classify, Digest, ErrorKind, ImageRef, Platform};

use super::stream::{BodyReader, PIECES_WAITING_MAX};
use super::{Error, Result};

/// How many layers are fetched at once.
const LAYERS_AT_ONCE_MAX: usize = 4;
const LAYERS_MAX: usize = 127;
const CONFIG_LEN_MAX: u64 = 4 << 20;
/// Indexes in indexes are followed so far.
const INDEX_DEPTH_MAX: usize = 4;
/// How often the progress of one layer is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// A client that does not take a line for so long loses it.
const LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// One line of progress, as Docker's JSON stream words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What it is about: a layer's short digest, or the tag on the first line; empty on the last lines.
    pub id: String,
    /// `Pulling from library/x`, `Pulling fs layer`, `Waiting`, `Downloading`, `Verifying Checksum`, `Download complete`, `Extracting`, `Pull complete`, `Already exists`, `Digest: …`, `Status: …`.
    pub status: String,
    /// Bytes done and, if known, to do: while downloading and extracting.
    pub detail: Option<(u64, Option<u64>)>,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Digest,
    /// The digest of the root that the name has at its registry.
    pub digest: Digest,
    /// Whether anything is new here; if not, the image was up to date.
    pub newer: bool,
}

type Fetched = std::result::Result<Arc<StagedLayer>, Arc<Error>>;
type Download = Shared<BoxFuture<'static, Fetched>>;

/// Layers that are being fetched, so that pulls of the same layer share one download.
#[derive(Default)]
pub(super) struct Downloads(Mutex<HashMap<String, WeakShared<BoxFuture<'static, Fetched>>>>);

/// One pull.
pub(super) struct Pull {
    pub store: Arc<Store>,
    pub registry: Arc<Registry>,
    pub downloads: Arc<Downloads>,
    pub reference: ImageRef,
    pub platform: Option<Platform>,
    pub credentials: Option<Credentials>,
    pub progress: mpsc::Sender<Progress>,
}

impl Pull {
    /// Fetches the image, tells how it goes, and gives it its names; of a repository alone, all its tags, one after the other.
    pub async fn run(self) -> Result<Vec<Pulled>> {
        if !self.reference.is_name_only() {
            let pulled = self.run_one().await?;
            self.status(&self.reference, pulled.newer).await;
            return Ok(vec![pulled]);
        }
        let tags = self.registry.tags(&self.reference, self.credentials.as_ref()).await?;
        if tags.is_empty() {
            return Err(self.unusable("the repository has no tags".to_owned()));
        }
        let repository = self.reference.clone();
        let mut one = self;
        let mut all = Vec::new();
        for tag in tags {
            one.reference = repository.with_tag(&tag)?;
            all.push(one.run_one().await?);
        }
        one.status(&repository, all.iter().any(|pulled| pulled.newer)).await;
        Ok(all)
    }

    async fn run_one(&self) -> Result<Pulled> {
        let tag = self.reference.tag().map(str::to_owned).or_else(|| self.reference.digest().map(ToString::to_string));
        self.tell(&tag.unwrap_or_default(), format!("Pulling from {}", self.reference.path()), None).await;
        let root = self.registry.root(&self.reference, self.credentials.as_ref()).await?;
        let manifest = self.manifest_for_platform(&root).await?;
        let parsed: Manifest = parse(&manifest.bytes).map_err(|error| self.unusable(format!("its manifest can't be read: {error}")))?;
        self.check_manifest(&parsed)?;
        let config = self.config(&parsed).await?;
        let is_new = !self.has_names(&parsed.config.digest, &root.descriptor);
        if is_new || self.store.catalog().image(&parsed.config.digest).is_none() {
            let layers = self.layers(&parsed, &config.1).await?;
            let is_staged: Vec<bool> = layers.iter().map(|layer| matches!(layer, NewLayer::Staged(..))).collect();
            self.commit(config.0, manifest, &root, layers).await?;
            for (descriptor, _) in parsed.layers.iter().zip(is_staged).filter(|(_, is_staged)| *is_staged) {
                self.tell(descriptor.digest.short(), "Pull complete", None).await;
            }
        }
        self.tell("", format!("Digest: {}", root.descriptor.digest), None).await;
        Ok(Pulled { image: parsed.config.digest, digest: root.descriptor.digest, newer: is_new })
    }

    async fn status(&self, reference: &ImageRef, is_new: bool) {
        let outcome = if is_new { "Downloaded newer image" } else { "Image is up to date" };
        self.tell("", format!("Status: {outcome} for {}", reference.familiar()), None).await;
    }

    /// The manifest that serves the platform best, which may be the root itself.
    async fn manifest_for_platform(&self, root: &Document) -> Result<Document> {
        let wanted = self.platform.clone().unwrap_or_else(Platform::host);
        let mut document = root.clone();
        for _ in 0..INDEX_DEPTH_MAX {
            if !media_type::is_index(&document.descriptor.media_type) {
                return Ok(document);
            }
            let index: Index = parse(&document.bytes).map_err(|error| self.unusable(format!("its index can't be read: {error}")))?;
            let chosen = choose_platform(&index, &wanted)
                .ok_or_else(|| registry::Error::NoPlatform { platform: wanted.to_string(), reference: self.reference.familiar() })?;
            document = self.registry.manifest(&self.reference, chosen, self.credentials.as_ref()).await?;
        }
        Err(self.unusable("its indexes are nested too deep".to_owned()))
    }

    fn check_manifest(&self, manifest: &Manifest) -> Result<()> {
        if manifest.layers.len() > LAYERS_MAX {
            return Err(self.unusable(format!("it has {} layers, {LAYERS_MAX} are allowed", manifest.layers.len())));
        }
        match manifest.layers.iter().find(|layer| !media_type::is_layer(&layer.media_type)) {
            None => Ok(()),
            Some(layer) if media_type::is_foreign_layer(&layer.media_type) => {
                Err(self.unusable(format!("layer {} is one that must be fetched from elsewhere, which is not supported", layer.digest)))
            }
            Some(layer) => Err(self.unusable(format!("{} is of type {:?}, which is no layer of an image", layer.digest, layer.media_type))),
        }
    }

    async fn config(&self, manifest: &Manifest) -> Result<(Vec<u8>, ImageConfig)> {
        let wanted = &manifest.config;
        if wanted.size > CONFIG_LEN_MAX {
            return Err(self.unusable(format!("its configuration has {} bytes, {CONFIG_LEN_MAX} are allowed", wanted.size)));
        }
        let mut bytes = Vec::new();
        self.registry.blob(&self.reference, wanted, self.credentials.as_ref(), &mut bytes).await?;
        let config: ImageConfig = parse(&bytes).map_err(|error| self.unusable(format!("its configuration can't be read: {error}")))?;
        if config.rootfs.diff_ids.len() != manifest.layers.len() {
            return Err(self.unusable("its configuration and its manifest differ in the number of layers".to_owned()));
        }
        if let Some(wanted) = &self.platform
            && config.platform().suits(wanted).is_none()
        {
            return Err(Error::Platform {
                image: self.reference.familiar(),
                found: config.platform().to_string(),
                wanted: wanted.to_string(),
            });
        }
        Ok((bytes, config))
    }

    /// Every layer, lowest first, held or unpacked.
    async fn layers(&self, manifest: &Manifest, config: &ImageConfig) -> Result<Vec<NewLayer>> {
        let diff_ids = &config.rootfs.diff_ids;
        let chain = chain_ids(diff_ids);
        let mut found: Vec<Option<NewLayer>> = Vec::new();
        let mut missing: Vec<usize> = Vec::new();
        for (at, descriptor) in manifest.layers.iter().enumerate() {
            let hold: Option<LayerHold> = self.store.find_layer(&diff_ids[at], &chain[at]);
            match &hold {
                Some(_) => self.tell(descriptor.digest.short(), "Already exists", None).await,
                None => {
                    self.tell(descriptor.digest.short(), "Pulling fs layer", None).await;
                    missing.push(at);
                }
            }
            found.push(hold.map(NewLayer::Present));
        }
        self.check_space(missing.iter().map(|&at| manifest.layers[at].size).sum())?;
        // The largest first: the others fit beside it.
        missing.sort_by_key(|&at| std::cmp::Reverse(manifest.layers[at].size));
        let permits = Arc::new(Semaphore::new(LAYERS_AT_ONCE_MAX));
        let mut fetching: FuturesUnordered<_> = missing
            .into_iter()
            .map(|at| {
                let permits = Arc::clone(&permits);
                async move {
                    let _permit = permits.acquire().await;
                    let layer = self.layer(&manifest.layers[at], &diff_ids[at]).await?;
                    Ok::<_, Error>((at, layer))
                }
            })
            .collect();
        while let Some(fetched) = fetching.next().await {
            let (at, staged) = fetched?;
            let origin = Origin { repository: self.reference.without_suffix(), blob: manifest.layers[at].clone() };
            found[at] = Some(NewLayer::Staged(staged, Some(Box::new(origin))));
        }
        drop(fetching);
        Ok(found.into_iter().flatten().collect())
    }

    /// What is unpacked takes about the space of what is fetched, and more: a pull that can't end well does not begin.
    fn check_space(&self, wanted: u64) -> Result<()> {
        match self.store.free_bytes() {
            Some(free) if free < wanted => Err(Error::NoSpace { reference: self.reference.familiar(), wanted, free }),
            _ => Ok(()),
        }
    }

    async fn layer(&self, blob: &Descriptor, diff_id: &Digest) -> Result<Arc<StagedLayer>> {
        let had_mirrors = self.registry.has_mirrors(&self.reference);
        let (download, mine) = self.downloads.join(&format!("{diff_id} {}", blob.digest), || self.download(blob, diff_id));
        if !mine {
            self.tell(blob.digest.short(), "Waiting", None).await;
        }
        let staged = match download.await {
            Ok(staged) => staged,
            // The other pull may have failed for reasons of its own: credentials, a registry that is gone.
            Err(_) if !mine => self.download(blob, diff_id).await.map_err(shared)?,
            // What a mirror gave is no word on what the registry has.
            Err(error) if is_lie(&error) && had_mirrors => self.download(blob, diff_id).await.map_err(shared)?,
            Err(error) => return Err(shared(error)),
        };
        // A layer that is finished from those below it can't be shared while that happens.
        let staged = match !mine && staged.depends_on_others() {
            true => self.download(blob, diff_id).await.map_err(shared)?,
            false => staged,
        };
        self.tell(blob.digest.short(), "Download complete", None).await;
        self.tell(blob.digest.short(), "Extracting", Some((blob.size, Some(blob.size)))).await;
        Ok(staged)
    }

    fn download(&self, blob: &Descriptor, diff_id: &Digest) -> BoxFuture<'static, Fetched> {
        let (registry, store) = (Arc::clone(&self.registry), Arc::clone(&self.store));
        let (repository, credentials) = (self.reference.clone(), self.credentials.clone());
        let (blob, diff_id, progress) = (blob.clone(), diff_id.clone(), self.progress.clone());
        async move {
            fetch(&registry, store, &repository, credentials.as_ref(), &blob, &diff_id, progress).await.map(Arc::new).map_err(Arc::new)
        }
        .boxed()
    }

    async fn commit(&self, config: Vec<u8>, manifest: Document, root: &Document, layers: Vec<NewLayer>) -> Result<()> {
        let target = Some(root.descriptor.clone());
        let by_digest = self.reference.with_digest(root.descriptor.digest.clone());
        let mut names = vec![(by_digest, target.clone())];
        if let (Some(_), None) = (self.reference.tag(), self.reference.digest()) {
            names.push((self.reference.clone(), target));
        }
        let new = NewImage {
            config,
            manifest: Some((manifest.descriptor.media_type, manifest.bytes)),
            documents: vec![root.bytes.clone()],
            layers,
            parent: None,
            names,
        };
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || store.commit_image(new)).await??;
        Ok(())
    }

    /// Whether the name means this image already.
    fn has_names(&self, image: &Digest, root: &Descriptor) -> bool {
        let catalog = self.store.catalog();
        let name = match self.reference.digest() {
            Some(digest) => self.reference.with_digest(digest.clone()),
            None => self.reference.clone(),
        };
        catalog.name(&name).is_some_and(|held| held.image == *image && held.target.digest == root.digest)
    }

    fn unusable(&self, reason: String) -> Error {
        Error::Unusable { reference: self.reference.familiar(), reason }
    }

    async fn tell(&self, id: &str, status: impl Into<String>, detail: Option<(u64, Option<u64>)>) {
        let line = Progress { id: id.to_owned(), status: status.into(), detail };
        // Whoever listens too slowly, or not any more, does not hold up the pull.
        let _ = self.progress.send_timeout(line, LINE_TIMEOUT).await;
    }
}

impl Downloads {
    /// The download of that key that is going on, or a new one; and whether it is new.
    fn join(&self, key: &str, start: impl FnOnce() -> BoxFuture<'static, Fetched>) -> (Download, bool) {
        let mut downloads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        downloads.retain(|_, download| download.upgrade().is_some());
        if let Some(download) = downloads.get(key).and_then(WeakShared::upgrade) {
            return (download, false);
        }
        let download = start().shared();
        if let Some(weak) = download.downgrade() {
            downloads.insert(key.to_owned(), weak);
        }
        (download, true)
    }
}

/// Streams a blob into the store and verifies it on the way: the compressed bytes here, the plain ones there.
pub(super) async fn fetch(
    registry: &Registry,
    store: Arc<Store>,
    repository: &ImageRef,
    credentials: Option<&Credentials>,
    blob: &Descriptor,
    diff_id: &Digest,
    progress: mpsc::Sender<Progress>,
) -> Result<StagedLayer> {
    let (sender, body) = mpsc::channel(PIECES_WAITING_MAX);
    let unpacking = tokio::task::spawn_blocking(move || store.unpack(&mut BodyReader::new(body)));
    let mut sink = LayerSink { sender, progress, id: blob.digest.short().to_owned(), done: 0, total: blob.size, told: Instant::now() };
    let streamed = registry.blob(repository, blob, credentials, &mut sink).await;
    if streamed.is_err() {
        // Otherwise the unpacking side would take the end of what came for the end of the layer.
        let _ = sink.sender.send(Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the download failed"))).await;
    } else {
        let _ = sink.progress.try_send(Progress { id: sink.id.clone(), status: "Verifying Checksum".to_owned(), detail: None });
    }
    drop(sink);
    let unpacked = unpacking.await?;
    let staged = match (streamed, unpacked) {
        (Ok(()), unpacked) => unpacked?,
        // The sink fails when the unpacking side has: that is the cause then.
        (Err(registry::Error::Sink { .. }), Err(error)) => return Err(error.into()),
        (Err(error), _) => return Err(error.into()),
    };
    match staged.diff_id() == diff_id {
        true => Ok(staged),
        false => Err(store::Error::DigestMismatch {
            subject: format!("layer {} of {}, uncompressed,", blob.digest, repository.familiar()),
            expected: diff_id.clone(),
            found: staged.diff_id().clone(),
        }
        .into()),
    }
}

/// Hands a layer's bytes to the thread that unpacks them, and counts.
struct LayerSink {
    sender: mpsc::Sender<io::Result<Bytes>>,
    progress: mpsc::Sender<Progress>,
    id: String,
    done: u64,
    total: u64,
    told: Instant,
}

impl BlobSink for LayerSink {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.done += bytes.len() as u64;
        self.sender.send(Ok(bytes)).await.map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the layer can't be unpacked"))?;
        if self.told.elapsed() >= PROGRESS_INTERVAL || self.done == self.total {
            self.told = Instant::now();
            let line = Progress { id: self.id.clone(), status: "Downloading".to_owned(), detail: Some((self.done, Some(self.total))) };
            let _ = self.progress.try_send(line);
        }
        Ok(())
    }
}

/// What a name means at its registry, and the platforms that it has.
pub(super) async fn distribution(
    registry: &Registry,
    reference: &ImageRef,
    credentials: Option<&Credentials>,
) -> Result<(Descriptor, Vec<Platform>)> {
    let unusable = |reason: String| Error::Unusable { reference: reference.familiar(), reason };
    let root = registry.root(reference, credentials).await?;
    if media_type::is_index(&root.descriptor.media_type) {
        let index: Index = parse(&root.bytes).map_err(|error| unusable(format!("its index can't be read: {error}")))?;
        return Ok((root.descriptor, index.manifests.into_iter().filter_map(|entry| entry.platform).collect()));
    }
    let manifest: Manifest = parse(&root.bytes).map_err(|error| unusable(format!("its manifest can't be read: {error}")))?;
    if manifest.config.size > CONFIG_LEN_MAX {
        return Err(unusable(format!("its configuration has {} bytes, {CONFIG_LEN_MAX} are allowed", manifest.config.size)));
    }
    let mut bytes = Vec::new();
    registry.blob(reference, &manifest.config, credentials, &mut bytes).await?;
    // What is no image may have any configuration.
    let config: ImageConfig = parse(&bytes).unwrap_or_default();
    let platform = (!config.architecture.is_empty()).then(|| config.platform());
    Ok((root.descriptor, platform.into_iter().collect()))
}

/// Whether what came is not what was promised.
fn is_lie(error: &Error) -> bool {
    use registry::Error::{DigestMismatch, SizeMismatch};
    matches!(error, Error::Registry(DigestMismatch { .. } | SizeMismatch { .. }) | Error::Store(_))
}

fn parse<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(bytes)
}

/// The error of a download that several may have waited for.
fn shared(error: Arc<Error>) -> Error {
    Arc::try_unwrap(error).unwrap_or_else(|error| {
        let kind: ErrorKind = error.kind();
        Error::Shared(types::error::chain(error.as_ref()), kind)
    })
}

impl std::fmt::Debug for Downloads {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("Downloads")
    }
}

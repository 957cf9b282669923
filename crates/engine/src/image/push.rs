//! Pushing: what the registry has, or has next door, is not sent; what is sent is the exact archive of each layer.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::future::try_join_all;
use registry::{Begun, BlobSink, Credentials, Document, Registry, Upload};
use store::{KnownManifest, Layer, Pushing, Store};
use tokio::sync::{Semaphore, mpsc};
use types::image::{Descriptor, Index, Manifest, media_type};
use types::{Digest, ImageRef};

use super::stream::{BodyWriter, PIECES_WAITING_MAX};
use super::{Error, Progress, Result};

/// How many layers are sent at once.
const LAYERS_AT_ONCE_MAX: usize = 4;
/// How often a layer is begun again when the registry has lost what it had.
const ATTEMPTS_MAX: u32 = 3;
const RETRY_DELAY: Duration = Duration::from_secs(1);
/// How often the progress of one layer is told.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// A client that does not take a line for so long loses it.
const LINE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a push tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PushLine {
    /// How it goes, as Docker words it: `Preparing`, `Waiting`, `Pushing`, `Pushed`, `Layer already exists`, `Mounted from …`.
    Progress(Progress),
    /// A tag is at the registry.
    Pushed(Pushed),
}

/// A tag that is at its registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pushed {
    /// The tag.
    pub tag: String,
    /// The digest of what it means there.
    pub digest: Digest,
    /// The bytes of that manifest.
    pub size: u64,
}

/// One push.
#[derive(Clone)]
pub(super) struct Push {
    pub store: Arc<Store>,
    pub registry: Arc<Registry>,
    /// The repository, without tag.
    pub repository: ImageRef,
    pub credentials: Option<Credentials>,
    pub lines: mpsc::Sender<PushLine>,
}

/// An index that a tag stands for.
struct Listing {
    document: Document,
    index: Index,
    /// Repositories of the same registry that are known to have it.
    sources: Vec<ImageRef>,
}

/// A blob of a layer, and whether it must be made because nobody has it.
enum Obtained {
    There,
    Nowhere,
}

impl Push {
    /// Sends the images of these tags, one after the other.
    pub async fn run(&self, tags: Vec<(String, Arc<store::Image>)>) -> Result<Vec<Pushed>> {
        self.tell("", format!("The push refers to repository [{}]", self.repository.repository())).await;
        let mut all = Vec::new();
        for (tag, image) in tags {
            let store = Arc::clone(&self.store);
            let pushing = Arc::new(tokio::task::spawn_blocking(move || store.pushing(image)).await??);
            for hold in pushing.layers.iter().rev() {
                self.tell(hold.layer().diff_id.short(), "Preparing").await;
            }
            let index = self.index_of(&pushing.image.id, &tag);
            let pushed = self.image(&pushing, &tag, index).await?;
            self.tell("", format!("{tag}: digest: {} size: {}", pushed.digest, pushed.size)).await;
            let _ = self.lines.send_timeout(PushLine::Pushed(pushed.clone()), LINE_TIMEOUT).await;
            all.push(pushed);
        }
        Ok(all)
    }

    /// The index that a tag stands for: its own, or that of another name of the same image, which the tag was made from.
    fn index_of(&self, image: &Digest, tag: &str) -> Option<Listing> {
        let catalog = self.store.catalog();
        let own = self.repository.with_tag(tag).ok();
        let names = || catalog.names().filter(|(_, name)| name.image == *image && media_type::is_index(&name.target.media_type));
        let (_, name) = names().find(|(reference, _)| Some(*reference) == own.as_ref()).or_else(|| names().next())?;
        let bytes = self.store.content().read(&name.target.digest).ok()?;
        let index: Index = serde_json::from_slice(&bytes).ok()?;
        let same = |held: &&ImageRef| held.domain() == self.repository.domain();
        let sources = names().filter(|(_, other)| other.target.digest == name.target.digest).map(|(reference, _)| reference);
        let mut sources: Vec<ImageRef> = sources.filter(same).map(ImageRef::without_suffix).collect();
        sources.dedup();
        Some(Listing { document: Document { descriptor: name.target.clone(), bytes }, index, sources })
    }

    /// Brings the other manifests of an index to the repository, without sending their layers; answers whether all are there.
    async fn bring_others(&self, listing: &Listing, own: &Digest) -> Result<bool> {
        for listed in listing.index.manifests.iter().filter(|listed| listed.digest != *own) {
            if !self.bring(listing, listed).await? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn bring(&self, listing: &Listing, listed: &Descriptor) -> Result<bool> {
        if self.registry.manifest(&self.repository, listed, self.credentials()).await.is_ok() {
            return Ok(true);
        }
        for source in &listing.sources {
            let Ok(document) = self.registry.manifest(source, listed, self.credentials()).await else { continue };
            // What lists further manifests, or none of an image's blobs, is left where it is.
            let Ok(manifest) = serde_json::from_slice::<Manifest>(&document.bytes) else { return Ok(false) };
            let mut all = true;
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                let sources = std::slice::from_ref(source);
                all = all && matches!(self.obtain(blob.digest.short(), blob, sources).await?, Obtained::There);
            }
            if all {
                self.registry.put_manifest(&self.repository, None, &document, self.credentials()).await?;
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn image(&self, pushing: &Arc<Pushing>, tag: &str, listing: Option<Listing>) -> Result<Pushed> {
        let mut chosen = None;
        for known in &pushing.manifests {
            if self.obtain_all(pushing, known).await? {
                chosen = Some(known.clone());
                break;
            }
        }
        let manifest = match chosen {
            Some(known) => known,
            None => {
                let made = self.anew(pushing).await?;
                if let Some(before) = pushing.manifests.first().filter(|before| before.descriptor.digest != made.descriptor.digest) {
                    let before = before.descriptor.digest.short();
                    self.tell(
                        "",
                        format!("The digest changes: not all blobs of {before} can be had again, so layers were compressed anew"),
                    )
                    .await;
                }
                made
            }
        };
        let config = &manifest.manifest.config;
        if !self.registry.has_blob(&self.repository, &config.digest, self.credentials()).await? {
            let bytes = Bytes::copy_from_slice(&pushing.config);
            self.registry.put_blob(&self.repository, &config.digest, bytes, self.credentials()).await?;
        }
        let own = Document { descriptor: manifest.descriptor.clone(), bytes: manifest.bytes.clone() };
        let whole = self.whole(&own, listing).await?;
        let root = whole.unwrap_or(own);
        self.registry.put_manifest(&self.repository, Some(tag), &root, self.credentials()).await?;
        let pushed = Pushed { tag: tag.to_owned(), digest: root.descriptor.digest.clone(), size: root.descriptor.size };
        self.record(pushing, manifest, root).await?;
        Ok(pushed)
    }

    /// The index, where it can be pushed whole: the image's manifest is at the repository then, as are all others that it lists.
    async fn whole(&self, own: &Document, listing: Option<Listing>) -> Result<Option<Document>> {
        let lists = |listing: &Listing| listing.index.manifests.iter().any(|listed| listed.digest == own.descriptor.digest);
        let Some(listing) = listing.filter(lists) else { return Ok(None) };
        self.registry.put_manifest(&self.repository, None, own, self.credentials()).await?;
        if self.bring_others(&listing, &own.descriptor.digest).await? {
            return Ok(Some(listing.document));
        }
        self.tell("", "Not all platforms of the image are present or at this registry: only the one that is here is pushed").await;
        Ok(None)
    }

    async fn record(&self, pushing: &Pushing, manifest: KnownManifest, root: Document) -> Result<()> {
        let keys = pushing.layers.iter().map(|hold| hold.layer().key.clone());
        let blobs: Vec<(String, Descriptor)> = keys.zip(manifest.manifest.layers).collect();
        let (store, repository, image) = (Arc::clone(&self.store), self.repository.clone(), pushing.image.id.clone());
        let recorded = move || store.record_push(&repository, &image, (&root.descriptor, &root.bytes), &blobs);
        Ok(tokio::task::spawn_blocking(recorded).await??)
    }

    /// Brings all blobs of a manifest to the repository, byte for byte; answers whether that was possible.
    async fn obtain_all(&self, pushing: &Arc<Pushing>, known: &KnownManifest) -> Result<bool> {
        let permits = Semaphore::new(LAYERS_AT_ONCE_MAX);
        let layers = pushing.layers.iter().zip(&known.manifest.layers).enumerate().map(|(at, (hold, blob))| {
            let permits = &permits;
            async move {
                let _permit = permits.acquire().await;
                let sources = sources(hold.layer(), blob, &known.repositories);
                let is_plain = blob.digest == hold.layer().diff_id;
                match self.obtain(hold.layer().diff_id.short(), blob, &sources).await? {
                    Obtained::Nowhere if is_plain => self.send(pushing, at, false).await.map(|_| true),
                    Obtained::Nowhere => Ok(false),
                    Obtained::There => Ok::<_, Error>(true),
                }
            }
        });
        Ok(try_join_all(layers).await?.into_iter().all(|there| there))
    }

    /// A manifest over the blobs that the repository has, or can be given, of each layer.
    async fn anew(&self, pushing: &Arc<Pushing>) -> Result<KnownManifest> {
        let permits = Semaphore::new(LAYERS_AT_ONCE_MAX);
        let layers = pushing.layers.iter().enumerate().map(|(at, hold)| {
            let permits = &permits;
            async move {
                if at >= LAYERS_AT_ONCE_MAX {
                    self.tell(hold.layer().diff_id.short(), "Waiting").await;
                }
                let _permit = permits.acquire().await;
                for origin in hold.layer().origins.iter().rev() {
                    let sources = sources(hold.layer(), &origin.blob, &[]);
                    if let Obtained::There = self.obtain(hold.layer().diff_id.short(), &origin.blob, &sources).await? {
                        return Ok(origin.blob.clone());
                    }
                }
                self.send(pushing, at, true).await
            }
        });
        let blobs: Vec<Descriptor> = try_join_all(layers).await?;
        Ok(pushing.manifest_over(blobs)?)
    }

    /// Looks for a blob, mounts it from a repository of the same registry, or fetches it from another one.
    async fn obtain(&self, id: &str, blob: &Descriptor, sources: &[ImageRef]) -> Result<Obtained> {
        if self.registry.has_blob(&self.repository, &blob.digest, self.credentials()).await? {
            self.tell(id, "Layer already exists").await;
            return Ok(Obtained::There);
        }
        let is_next_door = |source: &&ImageRef| source.domain() == self.repository.domain();
        let here = self.repository.without_suffix();
        for source in sources.iter().filter(is_next_door).filter(|source| **source != here) {
            match self.registry.begin_upload(&self.repository, Some((&blob.digest, source)), self.credentials()).await {
                Ok(Begun::Mounted) => {
                    self.tell(id, format!("Mounted from {}", source.path())).await;
                    return Ok(Obtained::There);
                }
                Ok(Begun::Upload(upload)) => upload.cancel().await,
                // A token service may refuse the other repository, which does not mean that this one can't be written to.
                Err(registry::Error::PushDenied { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        for source in sources.iter().filter(|source| !is_next_door(source)) {
            match self.carry(id, blob, source).await {
                Ok(()) => return Ok(Obtained::There),
                Err(error) => tracing::debug!(error = %types::error::chain(&error), %source, "a blob can't be fetched again"),
            }
        }
        Ok(Obtained::Nowhere)
    }

    /// Fetches a blob from another registry, as anybody may, and hands it on while it is verified.
    async fn carry(&self, id: &str, blob: &Descriptor, source: &ImageRef) -> Result<()> {
        let Begun::Upload(upload) = self.registry.begin_upload(&self.repository, None, self.credentials()).await? else {
            return Ok(());
        };
        let mut sink = UploadSink { upload: *upload, told: self.telling(id, blob.size) };
        match self.registry.blob(source, blob, None, &mut sink).await {
            Ok(()) => sink.upload.finish(&blob.digest).await?,
            Err(error) => {
                sink.upload.cancel().await;
                return Err(error.into());
            }
        }
        self.tell(id, "Pushed").await;
        Ok(())
    }

    /// Rebuilds a layer's archive and sends it; one whose upload the registry has lost is begun again.
    async fn send(&self, pushing: &Arc<Pushing>, at: usize, compress: bool) -> Result<Descriptor> {
        let mut attempt = 1;
        loop {
            match self.send_once(pushing, at, compress).await {
                Err(Error::Registry(registry::Error::UploadLost { .. })) if attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(RETRY_DELAY * attempt).await;
                    attempt += 1;
                }
                sent => return sent,
            }
        }
    }

    async fn send_once(&self, pushing: &Arc<Pushing>, at: usize, compress: bool) -> Result<Descriptor> {
        let layer = pushing.layers[at].layer();
        let Begun::Upload(mut upload) = self.registry.begin_upload(&self.repository, None, self.credentials()).await? else {
            return Err(Error::Unasked(self.repository.familiar_name()));
        };
        let (sender, mut pieces) = mpsc::channel(PIECES_WAITING_MAX);
        let (store, held) = (Arc::clone(&self.store), Arc::clone(pushing));
        let writing = tokio::task::spawn_blocking(move || {
            let mut writer = BodyWriter::new(sender);
            match compress {
                true => store.compress_layer(&held.layers[at], &mut writer),
                false => store.rebuild_layer(&held.layers[at], &mut writer),
            }
        });
        let mut told = self.telling(layer.diff_id.short(), layer.archive_size);
        let mut sent = Ok(());
        while let Some(Ok(piece)) = pieces.recv().await {
            told.add(piece.len() as u64);
            sent = upload.write(piece).await;
            if sent.is_err() {
                break;
            }
        }
        drop(pieces);
        let written = writing.await?;
        // The writer fails when the upload has: that is the cause then.
        sent?;
        let blob = match written {
            Ok(blob) => blob,
            Err(error) => {
                upload.cancel().await;
                return Err(error.into());
            }
        };
        upload.finish(&blob.digest).await?;
        self.tell(layer.diff_id.short(), "Pushed").await;
        Ok(blob)
    }

    fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    fn telling(&self, id: &str, total: u64) -> Telling {
        Telling { lines: self.lines.clone(), id: id.to_owned(), done: 0, total, told: Instant::now() }
    }

    async fn tell(&self, id: &str, status: impl Into<String>) {
        let line = Progress { id: id.to_owned(), status: status.into(), detail: None };
        // Whoever listens too slowly, or not any more, does not hold up the push.
        let _ = self.lines.send_timeout(PushLine::Progress(line), LINE_TIMEOUT).await;
    }
}

/// Repositories that may have a blob, the last known first.
fn sources(layer: &Layer, blob: &Descriptor, of_manifest: &[ImageRef]) -> Vec<ImageRef> {
    let origins = layer.origins.iter().rev().filter(|origin| origin.blob.digest == blob.digest).map(|origin| &origin.repository);
    let mut sources: Vec<ImageRef> = Vec::new();
    for source in origins.chain(of_manifest) {
        if !sources.contains(source) {
            sources.push(source.clone());
        }
    }
    sources
}

/// How far a layer has come.
struct Telling {
    lines: mpsc::Sender<PushLine>,
    id: String,
    done: u64,
    total: u64,
    told: Instant,
}

impl Telling {
    fn add(&mut self, len: u64) {
        self.done += len;
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            let detail = Some((self.done, Some(self.total.max(self.done))));
            let _ = self.lines.try_send(PushLine::Progress(Progress { id: self.id.clone(), status: "Pushing".to_owned(), detail }));
        }
    }
}

/// Hands a blob on to another registry.
struct UploadSink<'r> {
    upload: Upload<'r>,
    told: Telling,
}

impl BlobSink for UploadSink<'_> {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.told.add(bytes.len() as u64);
        self.upload.write(bytes).await.map_err(|error| io::Error::other(types::error::chain(&error)))
    }
}

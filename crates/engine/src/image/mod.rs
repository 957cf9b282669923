//! Images: pull, import, load, save, list, inspect, tag, remove, prune. Plain requests in, plain outcomes out.
//!
//! Work on disks happens on blocking threads of the store; what moves between them and the network are bounded channels of [`Bytes`].

mod error;
mod fsck;
mod glob;
mod list;
mod pull;
mod push;
pub(crate) mod stream;

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::sync::Arc;

use crate::event::Bus;
use bytes::Bytes;
use registry::Registry;
use store::{Image, ImageUser, Removal, Store};
use tokio::sync::mpsc;
use types::image::Descriptor;
use types::{Digest, ImageRef, Platform};

use stream::{BodyReader, BodyWriter};

pub use error::Error;
pub use fsck::{Checked, Damage};
pub use list::{ImageDetails, ImageSummary, ListedManifest};
pub use pull::{Progress, Pulled};
pub use push::{PushLine, Pushed};
pub use registry::{Credentials, Found, Proxies};
pub use store::{HistoryEntry, ImportOptions};

/// What the operations on images answer.
pub type Result<T> = std::result::Result<T, Error>;

/// Tells which containers use an image. Must only look at what is in memory.
pub type Users = Arc<dyn Fn(&Digest) -> Vec<ImageUser> + Send + Sync>;

/// Bytes that come from or go to a client.
pub type Body = mpsc::Receiver<io::Result<Bytes>>;

/// The operations on images.
#[derive(Clone)]
pub struct Images {
    store: Arc<Store>,
    registry: Arc<Registry>,
    users: Users,
    downloads: Arc<pull::Downloads>,
    events: Arc<Bus>,
}

/// What a list of images is asked for.
#[derive(Debug, Clone, Default)]
pub struct ListRequest {
    /// Also the nameless images that others were made from.
    pub all: bool,
    /// Docker's filters: `reference`, `dangling`, `label`, `label!`, `before`, `since`, `until`.
    pub filters: BTreeMap<String, Vec<String>>,
    /// Whether the bytes shared with other images are to be added up.
    pub shared_size: bool,
    /// Whether to tell which manifests the names stand for.
    pub manifests: bool,
}

/// What loading did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoadedImage {
    /// The image.
    pub id: Digest,
    /// The names given, in the familiar form; none for a nameless image.
    pub names: Vec<String>,
}

/// What pruning did.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// What was removed.
    pub removed: Vec<Removal>,
    /// The bytes of the layers that went.
    pub reclaimed: u64,
}

/// How to reach registries.
#[derive(Debug, Clone, Default)]
pub struct RegistrySettings {
    /// Registries whose certificates do not matter and that may speak plain HTTP, besides those on loopback: `host[:port]` or a range `10.0.0.0/8`.
    pub insecure: Vec<String>,
    /// Base URLs that are asked before a registry, by its domain.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Base URLs of registries that are elsewhere than their domain says.
    pub endpoints: BTreeMap<String, String>,
    /// Folders with a folder per host, as Docker's `certs.d`.
    pub certificates: Vec<std::path::PathBuf>,
    /// Proxies; those of the environment where none are given.
    pub proxies: Proxies,
}

impl Images {
    /// The operations on the images of a store. Nothing is connected before it is needed.
    pub fn new(store: Arc<Store>, settings: RegistrySettings, users: Users) -> Self {
        let options = registry::Options {
            insecure: settings.insecure,
            endpoints: settings.endpoints,
            mirrors: settings.mirrors,
            certificates: settings.certificates,
            proxies: settings.proxies,
            user_agent: String::new(),
        };
        Self { store, registry: Arc::new(Registry::new(options)), users, downloads: Arc::default(), events: Arc::new(Bus::new()) }
    }

    /// Tells what happens on this bus.
    pub(crate) fn announcing(self, events: Arc<Bus>) -> Self {
        Self { events, ..self }
    }

    /// `id` is what the event is about: an image's identifier, or for a registry's images the name.
    fn announce(&self, action: &str, id: String, name: &str) {
        self.events.publish("image", action, id, BTreeMap::from([("name".to_owned(), name.to_owned())]));
    }

    /// Fetches a file from the web, of so many bytes at most.
    pub(crate) async fn download<S: registry::BlobSink>(&self, url: &str, len_max: u64, sink: &mut S) -> Result<registry::Downloaded> {
        Ok(self.registry.download(url, len_max, sink).await?)
    }

    /// Tells that an image that was just made has a name.
    pub(crate) fn announce_tag(&self, image: &Image, name: &ImageRef) {
        self.announce("tag", image.id.to_string(), &name.familiar());
    }

    /// Fetches an image for a platform, this machine's if absent; without tag and digest all tags of the repository. Layers that the store has are not fetched again; two pulls of the same layer share one download.
    /// Progress is sent as Docker words it; a receiver that is gone or full loses lines, which does not hold up the pull.
    pub async fn pull(
        &self,
        reference: &ImageRef,
        platform: Option<&Platform>,
        credentials: Option<&Credentials>,
        progress: mpsc::Sender<Progress>,
    ) -> Result<Vec<Pulled>> {
        let pull = pull::Pull {
            store: Arc::clone(&self.store),
            registry: Arc::clone(&self.registry),
            downloads: Arc::clone(&self.downloads),
            reference: reference.clone(),
            platform: platform.cloned(),
            credentials: credentials.cloned(),
            progress,
        };
        let name = pull.reference.familiar();
        let pulled = pull.run().await?;
        self.announce("pull", name.clone(), &name);
        Ok(pulled)
    }

    /// Sends what a tag of a repository means to its registry, or with `tag` absent all tags of that repository. What the registry has already is not sent.
    /// Afterwards the image has a digest in that repository.
    pub async fn push(
        &self,
        repository: &ImageRef,
        tag: Option<&str>,
        credentials: Option<&Credentials>,
        lines: mpsc::Sender<PushLine>,
    ) -> Result<Vec<Pushed>> {
        let tags = self.pushed_tags(repository, tag)?;
        let (store, registry) = (Arc::clone(&self.store), Arc::clone(&self.registry));
        let repository = repository.without_suffix();
        let name = repository.familiar();
        let pushed = push::Push { store, registry, repository, credentials: credentials.cloned(), lines }.run(tags).await?;
        self.announce("push", name.clone(), &name);
        Ok(pushed)
    }

    /// What a push sends: the tags with their images.
    pub fn pushed_tags(&self, repository: &ImageRef, tag: Option<&str>) -> Result<Vec<(String, Arc<Image>)>> {
        if repository.digest().is_some() {
            return Err(Error::PushDigest(repository.familiar()));
        }
        let catalog = self.store.catalog();
        let whole = repository.without_suffix();
        let is_meant = |name: &&ImageRef| match tag {
            Some(tag) => name.tag() == Some(tag),
            None => true,
        };
        let held = catalog.names().filter(|(name, _)| name.digest().is_none() && name.without_suffix() == whole);
        let held = held.filter(|(name, _)| is_meant(name));
        let tags: Vec<_> =
            held.filter_map(|(name, target)| Some((name.tag()?.to_owned(), Arc::clone(catalog.image(&target.image)?)))).collect();
        match tags.is_empty() {
            false => Ok(tags),
            true => Err(Error::NotTagged(tag.map_or_else(|| whole.familiar(), |tag| format!("{}:{tag}", whole.familiar())))),
        }
    }

    /// What a name means at its registry: the root, and the platforms that it has.
    pub async fn distribution(&self, reference: &ImageRef, credentials: Option<&Credentials>) -> Result<(Descriptor, Vec<Platform>)> {
        pull::distribution(&self.registry, &reference.clone().with_default_tag(), credentials).await
    }

    /// Searches the registry of that domain for repositories.
    pub async fn search(&self, domain: &str, term: &str, limit: usize, credentials: Option<&Credentials>) -> Result<Vec<Found>> {
        Ok(self.registry.search(domain, term, limit, credentials).await?)
    }

    /// Checks credentials at the registry of that domain. Answers what stands for the password from now on, where there is such a thing.
    pub async fn login(&self, domain: &str, credentials: &Credentials) -> Result<Option<String>> {
        Ok(self.registry.login(domain, credentials).await?)
    }

    /// Makes an image of one layer from an archive.
    pub async fn import(&self, input: Body, options: ImportOptions) -> Result<Arc<Image>> {
        let name = options.name.as_ref().map(ImageRef::familiar).unwrap_or_default();
        let image = self.block(move |store| Ok(store.import(&mut BodyReader::new(input), &options)?)).await?;
        self.announce("import", image.id.to_string(), &name);
        Ok(image)
    }

    /// Loads the images of an archive.
    pub async fn load(&self, input: Body, platform: Option<Platform>) -> Result<Vec<LoadedImage>> {
        let loaded = self.block(move |store| Ok(store.load(&mut BodyReader::new(input), platform.as_ref())?)).await?;
        let plain = |loaded: store::Loaded| LoadedImage {
            id: loaded.image.id.clone(),
            names: loaded.names.iter().map(ImageRef::familiar).collect(),
        };
        let loaded: Vec<LoadedImage> = loaded.into_iter().map(plain).collect();
        for image in &loaded {
            self.announce("load", image.id.to_string(), image.names.first().map_or("", String::as_str));
        }
        Ok(loaded)
    }

    /// Starts writing images to an archive. References are checked before this answers; what fails later ends the stream with an error.
    pub async fn save(&self, references: Vec<String>, platform: Option<Platform>) -> Result<Body> {
        let catalog = self.store.catalog();
        for reference in &references {
            catalog.resolve(reference)?;
        }
        let (sender, body) = mpsc::channel(stream::PIECES_WAITING_MAX);
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || {
            let mut writer = BodyWriter::new(sender.clone());
            let saved =
                store.save(&references, platform.as_ref(), &mut writer).map_err(|error| io::Error::other(types::error::chain(&error)));
            if let Err(error) = saved.and_then(|()| writer.flush()) {
                // Nobody is there to be told if the client has gone.
                let _ = sender.blocking_send(Err(error));
            }
        });
        Ok(body)
    }

    /// The images that pass the filters, the latest made first.
    pub async fn list(&self, request: &ListRequest) -> Result<Vec<ImageSummary>> {
        list::list(&self.store, &self.store.catalog(), request, &self.users)
    }

    /// The image that a name, id or prefix means. Does not wait.
    pub fn find(&self, reference: &str) -> Result<Arc<Image>> {
        Ok(self.store.resolve(reference)?)
    }

    /// Everything about one image.
    pub fn inspect(&self, reference: &str) -> Result<ImageDetails> {
        let catalog = self.store.catalog();
        let image = catalog.resolve(reference)?;
        Ok(list::details(&self.store, &catalog, image))
    }

    /// Refuses an image that is for another platform than the one asked for, in Docker's words.
    pub fn check_platform(&self, reference: &str, wanted: Option<&Platform>) -> Result<()> {
        let Some(wanted) = wanted else { return Ok(()) };
        let image = self.store.resolve(reference)?;
        let found = image.config.platform();
        match found.suits(wanted) {
            Some(_) => Ok(()),
            None => Err(Error::Platform { image: reference.to_owned(), found: found.to_string(), wanted: wanted.to_string() }),
        }
    }

    /// What each step of an image's making did, newest first.
    pub fn history(&self, reference: &str) -> Result<Vec<HistoryEntry>> {
        Ok(self.store.history(&*self.store.resolve(reference)?))
    }

    /// Gives an image another name: `repository` without a tag, and the tag (`latest` if empty).
    pub async fn tag(&self, reference: &str, repository: &str, tag: &str) -> Result<()> {
        let image = self.find(reference)?;
        let repository: ImageRef = repository.parse()?;
        let name = match tag {
            "" => repository.with_default_tag(),
            tag => repository.with_tag(tag)?,
        };
        if name.digest().is_some() {
            return Err(Error::TagDigest(name.familiar()));
        }
        let (id, familiar) = (image.id.to_string(), name.familiar());
        self.block(move |store| Ok(store.tag(&image.id, &name)?)).await?;
        self.announce("tag", id, &familiar);
        Ok(())
    }

    /// Removes a name or an image by Docker's rules.
    pub async fn remove(&self, reference: &str, force: bool, noprune: bool) -> Result<Vec<Removal>> {
        let before = self.store.catalog();
        let id = before.resolve(reference).map(|image| image.id.to_string()).unwrap_or_default();
        let (reference, users) = (reference.to_owned(), Arc::clone(&self.users));
        let removed = self.block(move |store| Ok(store.remove_image(&reference, force, noprune, &|image| users(image))?)).await?;
        self.announce_removals(&removed, &before, &id);
        Ok(removed)
    }

    /// Removes images that nobody uses: nameless ones, or with the filter `dangling=false` all. Filters: `dangling`, `label`, `label!`, `until`.
    pub async fn prune(&self, filters: &BTreeMap<String, Vec<String>>) -> Result<Pruned> {
        let (filters, users) = (filters.clone(), Arc::clone(&self.users));
        let before = self.store.catalog();
        let pruned = self.block(move |store| prune(&store, &filters, &users)).await?;
        self.announce_removals(&pruned.removed, &before, "");
        Ok(pruned)
    }

    /// Names that went (from the image of that identifier, if it is known) and images that went; layers are not told of.
    fn announce_removals(&self, removed: &[Removal], before: &store::Catalog, id: &str) {
        for removal in removed {
            match removal {
                Removal::Untagged(name) => self.announce("untag", id.to_owned(), name),
                Removal::Deleted(gone) if before.image(gone).is_some() => self.announce("delete", gone.to_string(), &gone.to_string()),
                Removal::Deleted(_) => {}
            }
        }
    }

    /// The ids of the image that `reference` means and of all that have its layers at their bottom, for the filter `ancestor` of containers. Empty if there is none.
    pub fn descendants(&self, reference: &str) -> Vec<Digest> {
        let catalog = self.store.catalog();
        let Ok(ancestor) = catalog.resolve(reference) else {
            return Vec::new();
        };
        let descends = |image: &&Arc<Image>| {
            let bottom = image.layers.iter().map(|layer| &layer.diff_id).take(ancestor.layers.len());
            image.id == ancestor.id || (!ancestor.layers.is_empty() && bottom.eq(ancestor.layers.iter().map(|layer| &layer.diff_id)))
        };
        catalog.images().filter(descends).map(|image| image.id.clone()).collect()
    }

    /// Does work of the store on a thread that may block.
    async fn block<T: Send + 'static>(&self, work: impl FnOnce(Arc<Store>) -> Result<T> + Send + 'static) -> Result<T> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || work(store)).await?
    }
}

/// Removes what can be removed; one image that is in use after all does not keep the others.
fn prune(store: &Store, filters: &BTreeMap<String, Vec<String>>, users: &Users) -> Result<Pruned> {
    let before = store.catalog();
    let mut pruned = Pruned::default();
    for image in list::prunable(&before, filters, users)? {
        let catalog = store.catalog();
        let names = catalog.tags_of(&image.id).into_iter().chain(catalog.digests_of(&image.id)).map(ImageRef::to_string);
        let names: Vec<String> = names.collect();
        // Digests may go with the last tag; nameless images go by their id.
        let references = if names.is_empty() { vec![image.id.to_string()] } else { names };
        for reference in references {
            match store.remove_image(&reference, false, false, &|image| users(image)) {
                Ok(removed) => pruned.removed.extend(removed),
                Err(store::Error::NoSuchImage(_) | store::Error::ImageInUse(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    pruned.reclaimed = before.layers_size().saturating_sub(store.catalog().layers_size());
    Ok(pruned)
}

impl std::fmt::Debug for Images {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Images({:?})", self.store)
    }
}

//! What a solver asks of the engine: images, commands, files from the web.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use build::{Cancel, Output, Ran, Step, Worker};
use dockerfile::graph::{GitSource, Source};
use dockerfile::{BaseImage, Bases};
use store::{Image, Scratch};
use tokio::sync::mpsc;
use types::{Classify, Digest, ErrorKind, ImageRef, Platform};

use super::notes::Notes;
use super::run::Settings;
use crate::container::lock;
use crate::image::Credentials;
use crate::{Engine, image};

/// Lines of a pull's progress that wait.
const PULL_LINES_MAX: usize = 64;

/// One build's way to the engine. For threads that may block.
pub(super) struct EngineWorker {
    pub engine: Arc<Engine>,
    pub runtime: tokio::runtime::Handle,
    pub settings: Settings,
    pub notes: Notes,
    /// Users at registries, by domain.
    pub credentials: BTreeMap<String, Credentials>,
    /// Registries are asked even for images that are here.
    pub pull: bool,
    /// What references mean in this build, by reference and platform.
    pub images: Mutex<BTreeMap<(String, String), Arc<Image>>>,
    pub cancel: Cancel,
}

impl EngineWorker {
    /// The image that a reference means throughout this build, fetched if it is not here (or with `pull` always).
    fn resolve(&self, reference: &str, platform: &Platform) -> Result<Arc<Image>, image::Error> {
        let key = (reference.to_owned(), platform.to_string());
        if let Some(image) = lock(&self.images).get(&key) {
            return Ok(Arc::clone(image));
        }
        let name: ImageRef = reference.parse()?;
        let here = self.engine.images().find(reference).ok();
        let here = here.filter(|image| image.config.platform().suits(platform).is_some());
        let found = match here {
            Some(image) if !self.pull => image,
            here => match (self.fetch(&name, platform), here) {
                (Ok(image), _) => image,
                // It has no registry to be asked.
                (Err(_), Some(image)) if is_local(&name, &image, &self.engine) => image,
                (Err(error), _) => return Err(error),
            },
        };
        lock(&self.images).insert(key, Arc::clone(&found));
        Ok(found)
    }

    fn fetch(&self, name: &ImageRef, platform: &Platform) -> Result<Arc<Image>, image::Error> {
        let name = name.clone().with_default_tag();
        let credentials = self.credentials.get(name.domain()).cloned();
        let (sender, mut lines) = mpsc::channel(PULL_LINES_MAX);
        let vertex = self.notes.begin(&format!("[internal] pull {}", name.familiar()));
        let engine = Arc::clone(&self.engine);
        let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
        self.cancel.listen(move || drop(stop));
        let host = *platform == Platform::host();
        let platform = platform.clone();
        let pulled = self.runtime.block_on(async {
            let pull = engine.images().pull(&name, (!host).then_some(&platform), credentials.as_ref(), sender);
            tokio::pin!(pull);
            tokio::pin!(stopped);
            loop {
                tokio::select! {
                    pulled = &mut pull => break Some(pulled),
                    Some(line) = lines.recv() => self.notes.status(&vertex, &line),
                    _ = &mut stopped => break None,
                }
            }
        });
        let found = match pulled {
            Some(Ok(pulled)) => match pulled.first() {
                Some(pulled) => self.engine.images().find(&pulled.image.to_string()),
                None => Err(store::Error::NoSuchImage(name.familiar()).into()),
            },
            Some(Err(error)) => Err(error),
            None => Err(image::Error::Shared("the build was cancelled".to_owned(), ErrorKind::Unavailable)),
        };
        self.notes.end(&vertex, false, found.as_ref().err().map(|error| types::error::chain(error)));
        found
    }
}

/// Whether an image was made here: a name that no registry gave.
fn is_local(name: &ImageRef, image: &Image, engine: &Engine) -> bool {
    let catalog = engine.store.catalog();
    let repository = name.without_suffix();
    !catalog.digests_of(&image.id).into_iter().any(|digest| digest.without_suffix() == repository)
}

impl Worker for EngineWorker {
    fn image(&self, reference: &str, digest: Option<&Digest>, platform: &Platform, cancel: &Cancel) -> build::Result<Arc<Image>> {
        cancel.check()?;
        let failed =
            |error: image::Error| build::Error::Worker { operation: format!("pull {reference}"), kind: error.kind(), source: error.into() };
        let image = self.resolve(reference, platform).map_err(failed)?;
        match digest {
            Some(digest) if image.manifest.digest != *digest && image.id != *digest => Err(build::Error::Worker {
                operation: format!("use {reference}"),
                kind: ErrorKind::Conflict,
                source: format!("it is {} now, and was {digest} when the build began", image.manifest.digest).into(),
            }),
            _ => Ok(image),
        }
    }

    fn run(&self, step: &Step<'_>, output: Output<'_>, cancel: &Cancel) -> build::Result<Ran> {
        cancel.check()?;
        let ran = self.engine.run_step(&self.settings, step, output, cancel);
        ran.map_err(|error| {
            let kind = error.kind();
            build::Error::Worker { operation: "run the command".to_owned(), kind, source: error.into() }
        })
    }

    fn fetch(&self, url: &str, checksum: Option<&str>, filename: &str, cancel: &Cancel) -> build::Result<Scratch> {
        cancel.check()?;
        let fetched = self.engine.fetch_file(&self.runtime, url, checksum, filename, cancel);
        fetched.map(|(scratch, _)| scratch).map_err(|error| outside(format!("fetch {url}"), error))
    }

    fn git(&self, source: &GitSource, cancel: &Cancel) -> build::Result<(Scratch, PathBuf)> {
        cancel.check()?;
        self.engine.check_out(source, cancel).map_err(|error| outside(format!("check out {}", source.remote), error))
    }
}

fn outside(operation: String, error: super::Error) -> build::Error {
    build::Error::Worker { operation, kind: error.kind(), source: error.into() }
}

/// Base images, for the lowering.
pub(super) struct BaseImages<'a>(pub &'a EngineWorker);

impl Bases for BaseImages<'_> {
    fn config(&mut self, source: &Source, platform: &Platform) -> Result<BaseImage, Box<dyn std::error::Error + Send + Sync>> {
        let Source::Image { reference, .. } = source else { return Err("only images of registries can be base images here".into()) };
        let image = self.0.resolve(reference, platform)?;
        Ok(BaseImage { digest: None, config: image.config.clone() })
    }
}

//! Builds: a request becomes contexts and a Dockerfile, that becomes a graph, its result an image.

mod context;
mod error;
mod fetch;
mod notes;
mod output;
mod prune;
mod run;
mod worker;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use build::{Assembled, CacheMounts, Cancel, Digests, Inputs, Solver, Tree, assemble};
use dockerfile::graph::{NetworkMode, Source};
use dockerfile::{Dockerfile, Lines, Lowered, MAIN_CONTEXT, NamedContext, NoCache, Options, excerpt};
use store::{Image, NewImage, NewLayer};
use types::build::{BuildFailure, BuildRequest, BuildResult, BuildWarning, ContextSource};
use types::container::{HostConfig, Ulimit};
use types::{Classify, ErrorKind, Id, ImageRef, Platform};

use crate::Engine;
use crate::container::lock;
use crate::image::{Body, Credentials, stream::BodyReader};

pub use error::{Error, Faulty};
pub use notes::{Note, NoteReceiver, StepText};
pub use prune::{CacheEntry, PruneCache, PrunedCache};

use context::{Found, Place};
use notes::{GraphNotes, Notes, vertex_of};
use run::Settings;
use worker::{BaseImages, EngineWorker};

/// What the operations on builds answer.
pub type Result<T> = std::result::Result<T, Error>;

/// Steps that go on at the same time, where nobody asks for one after the other.
const PARALLEL_STEPS: usize = 4;
/// The name of what is fetched as a context.
const DOWNLOAD: &str = "download";
/// Builds that can be cancelled by their id.
const RUNNING_LEN_MAX: usize = 10_000;

/// What builds share.
#[derive(Default)]
pub(crate) struct Builder {
    digests: Digests,
    caches: CacheMounts,
    running: Mutex<BTreeMap<String, Cancel>>,
    /// Instructions that were carried out, for clients that are told so of each.
    seen: Mutex<BTreeSet<String>>,
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Builder({} builds)", lock(&self.running).len())
    }
}

/// A build that is asked for.
#[derive(Debug, Default)]
pub struct Build {
    /// What is to be built.
    pub request: BuildRequest,
    /// The context's archive, where that is how it comes.
    pub archive: Option<Body>,
    /// Limits of commands.
    pub limits: HostConfig,
    /// Users at registries, by domain.
    pub credentials: BTreeMap<String, Credentials>,
    /// Whether the client may name files of this machine: it is root, or whom the engine runs as.
    pub is_trusted: bool,
    /// One step after the other, in the order of the Dockerfile.
    pub is_sequential: bool,
    /// All steps make one layer together.
    pub squash: bool,
}

/// A build that can begin.
pub struct PreparedBuild {
    engine: Arc<Engine>,
    build: Build,
    dockerfile: Dockerfile,
    name: String,
    names: Vec<ImageRef>,
    places: Vec<output::Place>,
    platforms: Vec<Platform>,
    options: Options,
    contexts: BTreeMap<String, Arc<Tree>>,
    settings: Settings,
    cancel: Cancel,
    id: String,
}

impl Engine {
    /// Takes a request and its context in, and reads the Dockerfile. What is wrong with them is told here.
    pub async fn prepare_build(self: &Arc<Self>, mut build: Build) -> Result<PreparedBuild> {
        let engine = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let names = names(&build.request.tags)?;
            let platforms = platforms(&build.request.platforms)?;
            let settings = settings(&build)?;
            check(&build)?;
            let places = output::places(&build)?;
            let context = std::mem::take(&mut build.request.context);
            let (place, found) = engine.main_context(&mut build, &context)?;
            let dockerfile =
                dockerfile::parse(&found.text).map_err(|error| faulty(error, &found.name, &String::from_utf8_lossy(&found.text)))?;
            let mut contexts = BTreeMap::new();
            let mut named = BTreeMap::new();
            for (name, source) in &build.request.contexts {
                let (context, tree) = engine.named_context(&build, source)?;
                named.insert(name.clone(), context);
                contexts.extend(tree.map(|tree| (name.clone(), Arc::new(tree))));
            }
            let slot_path = match &context {
                ContextSource::Directory { path } => path.clone(),
                ContextSource::Url { url } => url.clone(),
                _ => String::new(),
            };
            build.request.context = context;
            contexts.extend(place.tree(Some(&found))?.map(|tree| (MAIN_CONTEXT.to_owned(), Arc::new(tree))));
            let mut options = options(&build.request, &platforms, named);
            options.ignore = found.ignore.as_deref().and_then(|text| dockerfile::ignore::Matcher::parse(text).ok());
            let id = if build.request.id.is_empty() { Id::random().to_string() } else { build.request.id.clone() };
            let cancel = engine.register_build(&id)?;
            if build.request.id.is_empty() {
                build.request.id = slot_path;
            } else {
                build.request.id = build.request.tags.first().cloned().unwrap_or(slot_path);
            }
            Ok(PreparedBuild {
                engine,
                build,
                dockerfile,
                name: found.name,
                names,
                places,
                platforms,
                options,
                contexts,
                settings,
                cancel,
                id,
            })
        })
        .await?
    }

    /// Stops a build. True if there is one of that id.
    pub fn cancel_build(&self, id: &str) -> bool {
        let found = lock(&self.builder.running).get(id).cloned();
        if let Some(cancel) = &found {
            cancel.cancel();
        }
        found.is_some()
    }

    fn register_build(&self, id: &str) -> Result<Cancel> {
        let mut running = lock(&self.builder.running);
        if running.contains_key(id) {
            return Err(Error::request(ErrorKind::Conflict, format!("a build of the id {id} is under way")));
        }
        if running.len() >= RUNNING_LEN_MAX {
            return Err(Error::request(ErrorKind::Unavailable, "too many builds are under way"));
        }
        let cancel = Cancel::default();
        running.insert(id.to_owned(), cancel.clone());
        Ok(cancel)
    }

    /// The main context and its Dockerfile.
    fn main_context(self: &Arc<Self>, build: &mut Build, source: &ContextSource) -> Result<(Place, Found)> {
        let place = match source {
            ContextSource::Empty => Place::Nothing,
            ContextSource::Directory { path } => {
                trusted(build)?;
                Place::directory(path)?
            }
            ContextSource::Archive => {
                let body = build
                    .archive
                    .take()
                    .ok_or_else(|| Error::request(ErrorKind::InvalidInput, "the archive of the build context is missing"))?;
                Place::archive(&self.store, &mut BodyReader::new(body))?
            }
            ContextSource::Url { url } => self.web_context(build, url)?,
            ContextSource::Image { .. } => return Err(Error::request(ErrorKind::InvalidInput, "the main context cannot be an image")),
        };
        let found = place.dockerfile(&build.request.dockerfile)?;
        Ok((place, found))
    }

    /// A context from the web: a repository, an archive, or a Dockerfile alone.
    fn web_context(self: &Arc<Self>, build: &mut Build, url: &str) -> Result<Place> {
        let cancel = Cancel::default();
        match dockerfile::parse_git_context(url) {
            Some(Ok(git)) => {
                let (scratch, path) = self.check_out(&git, &cancel)?;
                return Ok(Place::Own(scratch, path));
            }
            Some(Err(reason)) => return Err(Error::request(ErrorKind::InvalidInput, reason)),
            None if url.starts_with("http://") || url.starts_with("https://") => {}
            None => return Err(Error::request(ErrorKind::InvalidInput, format!("the build context {url:?} is no address"))),
        }
        let runtime = tokio::runtime::Handle::current();
        let (scratch, _) = self.fetch_file(&runtime, url, None, DOWNLOAD, &cancel)?;
        let path = scratch.path().join(DOWNLOAD);
        let file = |source| Error::File { operation: "read", path: path.clone(), source };
        let mut opened = std::fs::File::open(&path).map_err(file)?;
        if context::is_archive(&mut opened).map_err(file)? {
            return Place::archive(&self.store, &mut opened);
        }
        let text = std::fs::read_to_string(&path).map_err(file)?;
        build.request.dockerfile = types::build::DockerfileSource::Text { text, name: url.to_owned(), ignore: Some(String::new()) };
        Ok(Place::Nothing)
    }

    fn named_context(&self, build: &Build, source: &ContextSource) -> Result<(NamedContext, Option<Tree>)> {
        match source {
            ContextSource::Image { reference } => Ok((NamedContext::Image(reference.clone()), None)),
            ContextSource::Directory { path } => {
                trusted(build)?;
                let place = Place::directory(path)?;
                let ignore =
                    place.dockerfile(&types::build::DockerfileSource::Text { text: String::new(), name: String::new(), ignore: None })?;
                Ok((NamedContext::Local, place.tree(Some(&ignore))?))
            }
            ContextSource::Url { url } => match dockerfile::parse_git_context(url) {
                Some(Ok(git)) => Ok((NamedContext::Git(git), None)),
                Some(Err(reason)) => Err(Error::request(ErrorKind::InvalidInput, reason)),
                None => Ok((NamedContext::Http(url.clone()), None)),
            },
            ContextSource::Empty | ContextSource::Archive => {
                Err(Error::request(ErrorKind::InvalidInput, "a named context must be a directory, an address or an image"))
            }
        }
    }
}

impl PreparedBuild {
    /// The build's id, by which it can be cancelled.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Begins: the build goes on by itself, and is cancelled when the answer is dropped.
    pub fn start(self) -> RunningBuild {
        let (notes, receiver) = notes::notes();
        let cancel = self.cancel.clone();
        let runtime = tokio::runtime::Handle::current();
        let task = tokio::task::spawn_blocking(move || {
            let engine = Arc::clone(&self.engine);
            let id = self.id.clone();
            let outcome = self.run(runtime, notes);
            lock(&engine.builder.running).remove(&id);
            outcome
        });
        RunningBuild { notes: receiver, cancel, task: Some(task) }
    }

    fn run(self, runtime: tokio::runtime::Handle, notes: Notes) -> Result<BuildResult> {
        let worker = EngineWorker {
            engine: Arc::clone(&self.engine),
            runtime,
            settings: self.settings.clone(),
            notes: notes.clone(),
            credentials: self.build.credentials.clone(),
            pull: self.build.request.pull,
            images: Mutex::default(),
            cancel: self.cancel.clone(),
        };
        if self.build.request.check {
            return self.check(&worker, &notes);
        }
        let mut images = Vec::new();
        for platform in &self.platforms {
            images.push(self.one(&worker, &notes, platform)?);
        }
        let result = match images.pop().flatten() {
            Some(image) => BuildResult {
                digest: Some(image.manifest.digest.clone()),
                image: Some(image.id.clone()),
                names: self.names.iter().map(ImageRef::familiar).collect(),
                metadata: BTreeMap::from([
                    ("containerimage.config.digest".to_owned(), serde_json::json!(image.id)),
                    ("containerimage.digest".to_owned(), serde_json::json!(image.manifest.digest)),
                ]),
            },
            None => BuildResult::default(),
        };
        notes.send(Note::Result(Box::new(result.clone())));
        Ok(result)
    }

    /// Looks for mistakes, and builds nothing.
    fn check(&self, worker: &EngineWorker, notes: &Notes) -> Result<BuildResult> {
        let options = Options { all_stages: self.options.target.is_none(), ..self.options.clone() };
        let lowered = dockerfile::lower(&self.dockerfile, &options, &mut BaseImages(worker))
            .map_err(|error| faulty(error, &self.name, &self.dockerfile.source))?;
        notes.warnings(lowered.warnings.iter().map(warning).collect());
        notes.send(Note::Result(Box::default()));
        Ok(BuildResult::default())
    }

    /// Builds for one platform.
    fn one(&self, worker: &EngineWorker, notes: &Notes, platform: &Platform) -> Result<Option<Arc<Image>>> {
        let options = Options { platform: platform.clone(), ..self.options.clone() };
        let lowered = dockerfile::lower(&self.dockerfile, &options, &mut BaseImages(worker))
            .map_err(|error| faulty(error, &self.name, &self.dockerfile.source))?;
        let prefix = if self.platforms.len() > 1 { format!("{platform}/") } else { String::new() };
        notes.warnings(lowered.warnings.iter().map(warning).collect());
        notes.send(Note::Steps(self.steps(&lowered, &prefix)));
        let inputs = self.inputs()?;
        let progress = GraphNotes { notes, lowered: &lowered, prefix: &prefix };
        let engine = &self.engine;
        let solver = Solver {
            store: &engine.store,
            worker,
            progress: &progress,
            digests: &engine.builder.digests,
            caches: &engine.builder.caches,
            inputs: &inputs,
            filters: &|patterns| context::patterns(patterns),
        };
        let solved = solver.solve(&lowered.graph, &self.cancel).map_err(|failed| self.failed(failed, &lowered, &prefix))?;
        let assembled = assemble(&lowered, &solved);
        self.deliver(worker, notes, assembled)
    }

    /// Puts the result where it was asked for; answers the image if one stays.
    fn deliver(&self, worker: &EngineWorker, notes: &Notes, assembled: Assembled) -> Result<Option<Arc<Image>>> {
        let store = &self.engine.store;
        let mut names = self.names.clone();
        let (mut is_kept, mut is_pushed) = (self.places.is_empty(), false);
        for place in &self.places {
            match place {
                output::Place::Image { names: more, push } => {
                    names.extend(more.iter().cloned());
                    (is_kept, is_pushed) = (true, is_pushed || *push);
                }
                output::Place::Local(path) | output::Place::Tar(path) => {
                    let vertex = notes.begin(&format!("exporting to {}", path.display()));
                    let written = output::write_files(store, &assembled.layers, place);
                    notes.end(&vertex, false, written.as_ref().err().map(|error| types::error::chain(error)));
                    written?;
                }
                output::Place::Archive(..) | output::Place::Nowhere => {}
            }
        }
        let needs_image = is_kept || self.places.iter().any(|place| matches!(place, output::Place::Archive(..)));
        if !needs_image {
            return Ok(None);
        }
        let vertex = notes.begin("exporting to image");
        let before = store.catalog();
        let image = self.commit(assembled, if is_kept { &names } else { &[] });
        notes.end(&vertex, false, image.as_ref().err().map(|error| types::error::chain(error)));
        let image = image?;
        let archived = self.places.iter().try_for_each(|place| match place {
            output::Place::Archive(path, more) => {
                let all: Vec<ImageRef> = self.names.iter().chain(more).cloned().collect();
                self.engine.write_archive(&image, &all, path)
            }
            _ => Ok(()),
        });
        if !is_kept && before.image(&image.id).is_none() {
            // It was only on its way. One that somebody uses by now stays.
            let _ = store.remove_image(&image.id.to_string(), true, true, &|_| Vec::new());
        }
        archived?;
        if !is_kept {
            return Ok(None);
        }
        for name in &names {
            self.engine.images().announce_tag(&image, name);
        }
        if is_pushed {
            self.engine.push_built(&worker.runtime, &self.build, &names, notes)?;
        }
        Ok(Some(image))
    }

    fn inputs(&self) -> Result<Inputs> {
        let request = &self.build.request;
        let mut secrets = BTreeMap::new();
        for (id, text) in &request.secrets {
            let bytes =
                decode_base64(text).ok_or_else(|| Error::request(ErrorKind::InvalidInput, format!("the secret {id} is no base64")))?;
            secrets.insert(id.clone(), bytes);
        }
        let mut ssh = BTreeMap::new();
        for (id, path) in &request.ssh {
            trusted(&self.build)?;
            ssh.insert(id.clone(), PathBuf::from(path));
        }
        let host = &self.settings.host;
        let mut surroundings = BTreeMap::new();
        if !host.extra_hosts.is_empty() {
            surroundings.insert("hosts".to_owned(), host.extra_hosts.join(" "));
        }
        Ok(Inputs {
            contexts: self.contexts.clone(),
            secrets,
            ssh,
            allowed: request.allow.clone(),
            surroundings,
            slot: request.id.clone(),
            private: self.engine.config.exec_root.join("build"),
            parallel: if self.build.is_sequential { 1 } else { PARALLEL_STEPS },
        })
    }

    fn commit(&self, assembled: Assembled, names: &[ImageRef]) -> Result<Arc<Image>> {
        let store = &self.engine.store;
        let fail = |source| Error::Store { operation: "make the image", source };
        let mut layers = Vec::new();
        let chain = store::chain_ids(&assembled.config.rootfs.diff_ids);
        for (diff_id, chain_id) in assembled.config.rootfs.diff_ids.iter().zip(&chain) {
            let hold = store.find_layer(diff_id, chain_id).or_else(|| store.find_layer(diff_id, diff_id));
            layers.push(NewLayer::Present(hold.ok_or_else(|| fail(store::Error::MissingLayer(diff_id.clone())))?));
        }
        let config = serde_json::to_vec(&assembled.config)
            .map_err(|source| fail(store::Error::Encode { kind: "configuration".to_owned(), id: String::new(), source }))?;
        let names = names.iter().map(|name| (name.clone(), None)).collect();
        store.commit_image(NewImage { config, manifest: None, documents: Vec::new(), layers, parent: None, names }).map_err(fail)
    }

    /// What clients are told that count instructions: those of the stages that are carried out.
    fn steps(&self, lowered: &Lowered, prefix: &str) -> Vec<StepText> {
        let lines: BTreeSet<Lines> = lowered.graph.iter().filter_map(|(_, node)| node.lines).collect();
        let stages = &self.dockerfile.stages;
        let target = self.options.target.as_ref().map_or(stages.len().saturating_sub(1), |target| {
            let named = stages.iter().position(|stage| stage.name.as_ref().is_some_and(|name| name.eq_ignore_ascii_case(target)));
            named.or_else(|| target.parse().ok()).unwrap_or(0)
        });
        let mut steps = Vec::new();
        let mut id = String::new();
        for (at, stage) in stages.iter().enumerate().take(target + 1) {
            let is_needed = at == target || lines.contains(&stage.lines) || stage.instructions.iter().any(|one| lines.contains(&one.lines));
            if !is_needed {
                continue;
            }
            let all = std::iter::once((&stage.text, stage.lines)).chain(stage.instructions.iter().map(|one| (&one.text, one.lines)));
            for (text, lines) in all {
                let nodes = lowered.graph.iter().filter(|(_, node)| node.lines == Some(lines));
                let vertexes = nodes.map(|(node, _)| vertex_of(prefix, node)).collect();
                id = short_digest(&[&id, text]);
                let is_known = !lock(&self.engine.builder.seen).insert(id.clone());
                steps.push(StepText { text: text.clone(), vertexes, id: id.clone(), is_known });
            }
        }
        steps
    }

    fn failed(&self, failed: build::Failed, lowered: &Lowered, prefix: &str) -> Error {
        if matches!(failed.error, build::Error::Cancelled) {
            return Error::Cancelled;
        }
        let node = failed.node.and_then(|node| lowered.graph.node(node));
        let instruction = node.map(|node| node.name.split_once("] ").map_or(node.name.as_str(), |(_, rest)| rest));
        let keyword = instruction.and_then(|text| text.split_whitespace().next()).unwrap_or("COPY");
        let message = match &failed.error {
            build::Error::NotFound { .. } => format!("{keyword} failed: {}", failed.error),
            error => types::error::chain(error),
        };
        let lines = node.and_then(|node| node.lines);
        let failure = BuildFailure {
            message: message.clone(),
            vertex: failed.node.map(|node| vertex_of(prefix, node)).unwrap_or_default(),
            exit_code: failed.error.exit_code(),
            lines: lines.map(|lines| (lines.first, lines.last)),
            excerpt: lines.map(|lines| excerpt(&self.name, &self.dockerfile.source, lines)).unwrap_or_default(),
            hint: failed.error.hint().unwrap_or_default(),
        };
        Error::Step { message, failure: Box::new(failure), source: failed.error }
    }
}

impl Drop for PreparedBuild {
    fn drop(&mut self) {
        lock(&self.engine.builder.running).remove(&self.id);
    }
}

/// A build that goes on. Dropped, it is cancelled.
#[derive(Debug)]
pub struct RunningBuild {
    /// What it tells.
    pub notes: NoteReceiver,
    cancel: Cancel,
    task: Option<tokio::task::JoinHandle<Result<BuildResult>>>,
}

impl RunningBuild {
    /// Waits for the end.
    pub async fn end(&mut self) -> Result<BuildResult> {
        match self.task.take() {
            Some(task) => task.await?,
            None => Err(Error::Cancelled),
        }
    }
}

impl Drop for RunningBuild {
    fn drop(&mut self) {
        if self.task.is_some() {
            self.cancel.cancel();
        }
    }
}

fn trusted(build: &Build) -> Result<()> {
    match build.is_trusted {
        true => Ok(()),
        false => Err(Error::request(
            ErrorKind::Forbidden,
            "paths of the engine's machine can be named over its unix socket only, by root or the engine's own user",
        )),
    }
}

fn faulty(error: dockerfile::Error, name: &str, text: &str) -> Error {
    let excerpt = error.excerpt(name, text).unwrap_or_default();
    Error::Dockerfile(Box::new(Faulty { error, excerpt }))
}

fn names(tags: &[String]) -> Result<Vec<ImageRef>> {
    let parse = |tag: &String| {
        let name: ImageRef = tag.parse().map_err(|error: types::reference::InvalidReference| {
            Error::request(ErrorKind::InvalidInput, format!("invalid tag {tag:?}: {error}"))
        })?;
        match name.digest() {
            Some(_) => Err(Error::request(ErrorKind::InvalidInput, format!("invalid tag {tag:?}: an image is not named by a digest"))),
            None => Ok(name.with_default_tag()),
        }
    };
    tags.iter().filter(|tag| !tag.is_empty()).map(parse).collect()
}

fn platforms(given: &[String]) -> Result<Vec<Platform>> {
    let texts: Vec<&str> = given.iter().flat_map(|text| text.split(',')).map(str::trim).filter(|text| !text.is_empty()).collect();
    if texts.is_empty() {
        return Ok(vec![Platform::host()]);
    }
    texts
        .iter()
        .map(|text| text.parse().map_err(|error| Error::request(ErrorKind::InvalidInput, format!("invalid platform {text:?}: {error}"))))
        .collect()
}

/// Refuses what is not served, rather than leaving it out.
fn check(build: &Build) -> Result<()> {
    let request = &build.request;
    let refused = [
        (platforms(&request.platforms)?.len() > 1, "building for several platforms at once"),
        (!request.cache_from.is_empty(), "an imported cache"),
        (!request.cache_to.is_empty(), "an exported cache"),
        (!request.provenance.is_empty(), "provenance"),
        (!request.annotations.is_empty(), "annotations"),
        (build.squash, "squashing layers"),
    ];
    match refused.into_iter().find(|(is_asked, _)| *is_asked) {
        Some((_, what)) => Err(Error::request(ErrorKind::NotServed, format!("{what} is not served by this engine"))),
        None => Ok(()),
    }
}

fn settings(build: &Build) -> Result<Settings> {
    let request = &build.request;
    let mut host = build.limits.clone();
    if !request.network.is_empty() {
        host.network_mode.clone_from(&request.network);
    }
    if request.shm_size > 0 {
        host.shm_size = request.shm_size;
    }
    if !request.cgroup_parent.is_empty() {
        host.cgroup_parent.clone_from(&request.cgroup_parent);
    }
    let mut hosts = host.extra_hosts.to_vec();
    hosts.extend(request.extra_hosts.iter().cloned());
    host.extra_hosts = hosts.into();
    let mut ulimits = host.ulimits.to_vec();
    for text in &request.ulimits {
        ulimits
            .push(ulimit(text).ok_or_else(|| {
                Error::request(ErrorKind::InvalidInput, format!("invalid ulimit {text:?}: name=soft[:hard] is expected"))
            })?);
    }
    host.ulimits = ulimits.into();
    let invalid = |error: crate::Error| Error::request(ErrorKind::InvalidInput, types::error::chain(&error));
    crate::cgroup_parent::validate(&host).map_err(invalid)?;
    crate::sandbox::validate(&types::container::Config::default(), &host).map_err(invalid)?;
    crate::spec::validate(&types::container::Config::default(), &host).map_err(invalid)?;
    Ok(Settings { host })
}

fn ulimit(text: &str) -> Option<Ulimit> {
    let (name, limits) = text.split_once('=')?;
    let (soft, hard) = limits.split_once(':').unwrap_or((limits, limits));
    Some(Ulimit { name: name.to_owned(), soft: soft.parse().ok()?, hard: hard.parse().ok()? })
}

fn options(request: &BuildRequest, platforms: &[Platform], contexts: BTreeMap<String, NamedContext>) -> Options {
    let no_cache = match (request.no_cache, request.no_cache_filter.is_empty()) {
        (true, _) => NoCache::Everything,
        (false, true) => NoCache::Nothing,
        (false, false) => NoCache::Stages(request.no_cache_filter.clone()),
    };
    Options {
        build_args: request.args.clone(),
        labels: request.labels.clone(),
        target: Some(request.target.clone()).filter(|target| !target.is_empty()),
        platform: platforms.first().cloned().unwrap_or_else(Platform::host),
        build_platform: Platform::host(),
        platform_given: !request.platforms.is_empty(),
        multi_platform: platforms.len() > 1,
        no_cache,
        context: Source::Local { name: MAIN_CONTEXT.to_owned() },
        contexts,
        network: NetworkMode::Default,
        ..Options::default()
    }
}

fn warning(warning: &dockerfile::lint::Warning) -> BuildWarning {
    BuildWarning {
        rule: warning.rule.to_owned(),
        description: warning.description.to_owned(),
        url: warning.url.clone(),
        message: warning.message.clone(),
        line: warning.lines.first,
        last_line: warning.lines.last,
    }
}

/// Standard base64, padded.
fn decode_base64(text: &str) -> Option<Vec<u8>> {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.decode(text).ok()
}

/// Twelve digits that stand for texts.
fn short_digest(parts: &[&str]) -> String {
    store::digest_bytes(parts.join("\n").as_bytes()).short().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_checked_before_anything_is_built() {
        assert!(names(&["me/app:1".to_owned(), String::new()]).is_ok_and(|names| names.len() == 1));
        assert!(names(&["Me".to_owned()]).is_err() && names(&[format!("a@sha256:{}", "0".repeat(64))]).is_err());
        assert_eq!(ulimit("nofile=1:2").map(|limit| (limit.soft, limit.hard)), Some((1, 2)));
        assert!(ulimit("nofile").is_none() && ulimit("nofile=x").is_none());
        let asked = |request: BuildRequest| check(&Build { request, ..Build::default() });
        assert!(asked(BuildRequest::default()).is_ok());
        assert!(asked(BuildRequest { provenance: "max".to_owned(), ..BuildRequest::default() }).is_err());
    }
}

//! Images: pull, import, load, save, list, inspect, history, tag, remove, prune.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use engine::image::{
    Credentials, Found, HistoryEntry, ImageDetails, ImageSummary, ImportOptions, ListRequest, ListedManifest, LoadedImage, Progress, Pulled,
};
use engine::{Engine, Removal};
use futures_util::stream;
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use types::{ErrorKind, ImageRef, Platform};

use crate::error::Failure;
use crate::http::{self, JSON, Outcome, Request, TAR, ok, streamed, to_the_end};
use crate::registry_auth;
use crate::streams::progress_line;
use crate::version::Version;

/// Lines of progress that wait for a slow client.
pub(crate) const PROGRESS_QUEUE_LEN_MAX: usize = 64;

pub async fn list(engine: Arc<Engine>, request: Request) -> Outcome {
    let query = &request.query;
    let mut filters = query.filters()?;
    // Below API 1.41 the name had a parameter of its own.
    if let Some(reference) = query.get("filter").filter(|_| !request.version.since(41)) {
        filters.entry("reference".to_owned()).or_default().push(reference.to_owned());
    }
    let shared_size = query.flag("shared-size");
    let manifests = query.flag("manifests") && request.version.since(47);
    let wanted = ListRequest { all: query.flag("all"), filters, shared_size, manifests };
    let images = engine.images().list(&wanted).await.map_err(|error| Failure::of(&error))?;
    let entries: Vec<Value> = images.iter().map(|image| summary(image, request.version)).collect();
    ok(&entries)
}

/// A manifest in the list, as Docker shows it.
fn manifest(listed: &ListedManifest, image: &ImageSummary) -> Value {
    let descriptor = &listed.descriptor;
    let config_len = i64::try_from(descriptor.size).unwrap_or(i64::MAX);
    let content = if listed.is_here { config_len } else { 0 };
    let unpacked = if listed.is_here { i64::try_from(image.size).unwrap_or(i64::MAX) } else { 0 };
    let mut entry = json!({
        "ID": descriptor.digest,
        "Descriptor": descriptor,
        "Available": listed.is_here,
        "Size": { "Content": content, "Total": content.saturating_add(unpacked) },
        "Kind": if listed.attests.is_some() { "attestation" } else { "image" },
    });
    match &listed.attests {
        Some(about) => entry["AttestationData"] = json!({ "For": about }),
        None => {
            entry["ImageData"] = json!({
                "Platform": descriptor.platform,
                "Size": { "Unpacked": unpacked },
                "Containers": if listed.is_here { image.users.clone() } else { Vec::new() },
            });
        }
    }
    entry
}

/// An entry of the list.
pub fn summary(image: &ImageSummary, version: Version) -> Value {
    let labels = image.image.config.config.as_ref().and_then(|config| config.labels.as_ref());
    let mut entry = json!({
        // Docker counts containers here since API 1.51 only.
        "Containers": if version.since(51) { i64::try_from(image.containers).unwrap_or(i64::MAX) } else { -1 },
        "Created": image.created,
        "Id": image.image.id,
        "Labels": labels,
        "ParentId": image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        "RepoDigests": image.repo_digests,
        "RepoTags": image.repo_tags,
        "SharedSize": image.shared_size.map_or(-1, |size| i64::try_from(size).unwrap_or(i64::MAX)),
        "Size": image.size,
    });
    if let Some(manifests) = &image.manifests {
        entry["Manifests"] = manifests.iter().map(|listed| manifest(listed, image)).collect();
    }
    if !version.since(44) {
        entry["VirtualSize"] = json!(image.size);
        blank_names_are_null(&mut entry);
    }
    entry
}

/// An entry of `system df`, which counts containers in every version.
pub fn usage(image: &ImageSummary, version: Version) -> Value {
    let mut entry = summary(image, version);
    entry["Containers"] = json!(image.containers);
    blank_names_are_null(&mut entry);
    entry
}

fn blank_names_are_null(entry: &mut Value) {
    for names in ["RepoDigests", "RepoTags"] {
        if entry[names].as_array().is_some_and(Vec::is_empty) {
            entry[names] = Value::Null;
        }
    }
}

pub async fn inspect(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    engine.images().check_platform(name, platform(&request)?.as_ref()).map_err(|error| Failure::of(&error))?;
    let details = engine.images().inspect(name).map_err(|error| Failure::of(&error))?;
    ok(&encode_details(&details, request.version))
}

fn encode_details(details: &ImageDetails, version: Version) -> Value {
    let image = &details.image;
    let config = &image.config;
    let lower: Vec<String> = details.lower.iter().map(|path| path.to_string_lossy().into_owned()).collect();
    let (upper, below) = lower.split_first().map_or((String::new(), String::new()), |(top, rest)| (top.clone(), rest.join(":")));
    let mut layers = json!({ "UpperDir": upper });
    if !below.is_empty() {
        layers["LowerDir"] = json!(below);
    }
    let mut shown = json!({
        "Id": image.id,
        "RepoTags": details.repo_tags,
        "RepoDigests": details.repo_digests,
        "Parent": image.parent.as_ref().map(ToString::to_string).unwrap_or_default(),
        "Comment": details.comment,
        "DockerVersion": config.docker_version,
        "Author": config.author,
        "Config": run_config(details, version),
        "Architecture": config.architecture,
        "Os": config.os,
        "Size": details.size,
        "GraphDriver": { "Data": layers, "Name": "overlay2" },
        "RootFS": { "Type": "layers", "Layers": config.rootfs.diff_ids },
        "Metadata": { "LastTagTime": image.last_tagged.as_deref().unwrap_or("0001-01-01T00:00:00Z") },
    });
    match &config.created {
        Some(created) => shown["Created"] = json!(created),
        None if !version.since(44) => shown["Created"] = json!("0001-01-01T00:00:00Z"),
        None => {}
    }
    if !config.variant.is_empty() {
        shown["Variant"] = json!(config.variant);
    }
    if !version.since(44) {
        shown["VirtualSize"] = json!(details.size);
    }
    if !version.since(45) {
        shown["Container"] = json!("");
        shown["ContainerConfig"] = json!(types::container::Config::default());
    }
    shown
}

/// What containers of the image run. Fields that only containers have are shown below API 1.50, always blank.
fn run_config(details: &ImageDetails, version: Version) -> Value {
    let run = details.image.config.config.clone().unwrap_or_default();
    let set = |keys: &std::collections::BTreeMap<String, Value>| if keys.is_empty() { Value::Null } else { json!(keys) };
    let mut shown = json!({
        "User": run.user,
        "Env": run.env,
        "Cmd": run.cmd,
        "Volumes": set(&run.volumes),
        "WorkingDir": run.working_dir,
        "Entrypoint": run.entrypoint,
        "OnBuild": run.on_build,
        "Labels": run.labels,
    });
    if !run.exposed_ports.is_empty() {
        shown["ExposedPorts"] = set(&run.exposed_ports);
    }
    if let Some(signal) = &run.stop_signal {
        shown["StopSignal"] = json!(signal);
    }
    if let Some(probe) = &run.healthcheck {
        shown["Healthcheck"] = json!(probe);
    }
    if let Some(shell) = &run.shell {
        shown["Shell"] = json!(shell);
    }
    if !version.since(50) {
        for text in ["Hostname", "Domainname", "Image"] {
            shown[text] = json!("");
        }
        for flag in ["AttachStdin", "AttachStdout", "AttachStderr", "Tty", "OpenStdin", "StdinOnce"] {
            shown[flag] = json!(false);
        }
    }
    shown
}

pub async fn history(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    engine.images().check_platform(name, platform(&request)?.as_ref()).map_err(|error| Failure::of(&error))?;
    let lines = engine.images().history(name).map_err(|error| Failure::of(&error))?;
    ok(&lines.iter().map(encode_history).collect::<Vec<_>>())
}

fn encode_history(line: &HistoryEntry) -> Value {
    let created = line.created.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
    json!({
        "Comment": line.comment,
        "Created": created.map_or(0, Timestamp::as_second),
        "CreatedBy": line.created_by,
        "Id": line.id,
        "Size": line.size,
        "Tags": if line.tags.is_empty() { None } else { Some(&line.tags) },
    })
}

pub async fn tag(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let text = |key: &str| request.query.get(key).unwrap_or_default().to_owned();
    let (name, repository, tag) = (name.to_owned(), text("repo"), text("tag"));
    image_task(async move { engine.images().tag(&name, &repository, &tag).await }).await?;
    Ok(http::empty(StatusCode::CREATED))
}

pub async fn remove(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (name, force, noprune) = (name.to_owned(), request.query.flag("force"), request.query.flag("noprune"));
    let removed = image_task(async move { engine.images().remove(&name, force, noprune).await }).await?;
    ok(&removed.iter().map(encode_removal).collect::<Vec<_>>())
}

fn encode_removal(removal: &Removal) -> Value {
    match removal {
        Removal::Untagged(name) => json!({ "Untagged": name }),
        Removal::Deleted(digest) => json!({ "Deleted": digest }),
    }
}

pub async fn prune(engine: Arc<Engine>, request: Request) -> Outcome {
    let filters = request.query.filters()?;
    let pruned = image_task(async move { engine.images().prune(&filters).await }).await?;
    let removed: Vec<Value> = pruned.removed.iter().map(encode_removal).collect();
    ok(&json!({ "ImagesDeleted": if removed.is_empty() { None } else { Some(removed) }, "SpaceReclaimed": pruned.reclaimed }))
}

/// Two operations in one, as Docker has it: with `fromSrc` an import, with `fromImage` a pull.
pub async fn create(engine: Arc<Engine>, request: Request) -> Outcome {
    let platform = platform(&request)?;
    match (request.query.get("fromImage"), request.query.get("fromSrc")) {
        (Some(name), _) => {
            // Without a tag, in either place, all of them are meant.
            let reference = reference(name, request.query.get("tag").filter(|tag| !tag.is_empty()))?;
            pull(engine, reference, platform, registry_auth::credentials(&request.headers)?).await
        }
        (None, Some("-")) => import(engine, request, platform).await,
        (None, Some(_)) => Err(Failure::not_served("importing from an address")),
        (None, None) => Err(Failure::bad("one of the parameters fromImage and fromSrc is needed")),
    }
}

/// A platform, as a word or, as newer clients write it, as JSON.
pub(crate) fn platform(request: &Request) -> Result<Option<Platform>, Failure> {
    request.query.get("platform").filter(|text| !text.is_empty()).map(parse_platform).transpose()
}

fn parse_platform(text: &str) -> Result<Platform, Failure> {
    if text.starts_with('{') {
        let platform: Platform = serde_json::from_str(text).map_err(|error| Failure::bad(format!("invalid platform {text:?}: {error}")))?;
        if platform.os.is_empty() || platform.architecture.is_empty() {
            return Err(Failure::bad(format!("invalid platform {text:?}: it needs an operating system and an architecture")));
        }
        return Ok(platform.normalised());
    }
    text.parse().map_err(|error| Failure::bad(format!("invalid platform {text:?}: {error}")))
}

/// A name with the tag or digest that came beside it.
pub(crate) fn reference(name: &str, tag: Option<&str>) -> Result<ImageRef, Failure> {
    let text = match tag {
        None => name.to_owned(),
        Some(digest) if digest.contains(':') => format!("{name}@{digest}"),
        Some(tag) => format!("{name}:{tag}"),
    };
    text.parse().map_err(|error: types::reference::InvalidReference| Failure::bad(error.to_string()))
}

async fn import(engine: Arc<Engine>, request: Request, platform: Option<Platform>) -> Outcome {
    let query = &request.query;
    let name = query.get("repo").map(|name| reference(name, query.get("tag"))).transpose()?;
    let options = ImportOptions {
        name,
        changes: query.all("changes"),
        message: query.get("message").unwrap_or_default().to_owned(),
        source: "-".to_owned(),
        platform,
    };
    let input = request.upload();
    let image = image_task(async move { engine.images().import(input, options).await }).await?;
    Ok(streamed(JSON, stream::once(async move { progress_line(&json!({ "status": image.id })) })))
}

/// A task that ends with whoever holds this.
pub(crate) struct Bound<T>(pub JoinHandle<T>);

impl<T> Drop for Bound<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A pull that runs; it is cancelled when its client goes.
struct Pull {
    progress: mpsc::Receiver<Progress>,
    /// Lines that came before it was known that the pull gets anywhere.
    first: VecDeque<Progress>,
    task: Option<Bound<engine::image::Result<Vec<Pulled>>>>,
}

/// Until the registry has answered a failure is an answer of its own; later it is a line of the stream.
async fn pull(engine: Arc<Engine>, reference: ImageRef, platform: Option<Platform>, credentials: Option<Credentials>) -> Outcome {
    let (sender, progress) = mpsc::channel(PROGRESS_QUEUE_LEN_MAX);
    let task = tokio::spawn(async move { engine.images().pull(&reference, platform.as_ref(), credentials.as_ref(), sender).await });
    let mut pull = Pull { progress, first: VecDeque::new(), task: Some(Bound(task)) };
    // The first line only repeats what was asked for.
    while pull.first.len() < 2 {
        match pull.progress.recv().await {
            Some(line) => pull.first.push_back(line),
            None => {
                pull.end().await?;
                break;
            }
        }
    }
    Ok(streamed(JSON, stream::unfold(pull, |mut pull| async { pull.next_line().await.map(|line| (line, pull)) })))
}

impl Pull {
    async fn next_line(&mut self) -> Option<io::Result<Bytes>> {
        let next = match self.first.pop_front() {
            Some(first) => Some(first),
            None => self.progress.recv().await,
        };
        match next {
            Some(progress) => Some(progress_line(&encode_progress(&progress))),
            None => match self.end().await {
                Ok(()) => None,
                Err(failure) => Some(progress_line(&error_line(&failure))),
            },
        }
    }

    /// The result of the task; nothing the second time.
    async fn end(&mut self) -> Result<(), Failure> {
        let Some(mut task) = self.task.take() else { return Ok(()) };
        match (&mut task.0).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(Failure::of(&error)),
            Err(error) => Err(Failure::new(ErrorKind::Internal, format!("the pull ended: {error}"))),
        }
    }
}

pub(crate) fn encode_progress(progress: &Progress) -> Value {
    let mut line = json!({ "status": progress.status });
    if progress.id.is_empty() {
        return line;
    }
    let is_layer = !progress.status.starts_with("Pulling from ");
    if is_layer {
        line["progressDetail"] = match progress.detail {
            None => json!({}),
            Some((current, None)) => json!({ "current": current }),
            Some((current, Some(total))) => json!({ "current": current, "total": total }),
        };
    }
    line["id"] = json!(progress.id);
    line
}

/// The line of a stream that says why it ends.
pub(crate) fn error_line(failure: &Failure) -> Value {
    json!({ "errorDetail": { "message": failure.message }, "error": failure.message })
}

pub async fn load(engine: Arc<Engine>, request: Request) -> Outcome {
    let platform = platform(&request)?;
    let input = request.upload();
    let loaded = image_task(async move { engine.images().load(input, platform).await }).await?;
    let lines: Vec<io::Result<Bytes>> =
        loaded.iter().flat_map(loaded_lines).map(|line| progress_line(&json!({ "stream": line }))).collect();
    Ok(streamed(JSON, stream::iter(lines)))
}

fn loaded_lines(loaded: &LoadedImage) -> Vec<String> {
    match loaded.names.as_slice() {
        [] => vec![format!("Loaded image ID: {}\n", loaded.id)],
        names => names.iter().map(|name| format!("Loaded image: {name}\n")).collect(),
    }
}

pub async fn save(engine: Arc<Engine>, names: Vec<String>, request: Request) -> Outcome {
    if names.is_empty() {
        return Err(Failure::bad("no image to save is named"));
    }
    let platform = platform(&request)?;
    let archive = engine.images().save(names, platform).await.map_err(|error| Failure::of(&error))?;
    Ok(streamed(TAR, http::received(archive, |piece| piece)))
}

/// What a name means at its registry, without fetching it.
pub async fn distribution(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let credentials = registry_auth::credentials(&request.headers)?;
    let reference = reference(name, None)?;
    let found = engine.images().distribution(&reference, credentials.as_ref()).await;
    let (descriptor, platforms) = found.map_err(|error| Failure::of(&error))?;
    ok(&json!({
        "Descriptor": { "mediaType": descriptor.media_type, "digest": descriptor.digest, "size": descriptor.size },
        "Platforms": platforms,
    }))
}

const SEARCH_FILTERS: [&str; 3] = ["is-automated", "is-official", "stars"];
const SEARCH_LIMIT_DEFAULT: usize = 25;
const SEARCH_LIMIT_MAX: usize = 100;

/// Repositories that a registry finds for a word.
pub async fn search(engine: Arc<Engine>, request: Request) -> Outcome {
    let term = request.query.get("term").unwrap_or_default().trim();
    let limit = match request.query.get("limit").filter(|text| !text.is_empty()) {
        None => SEARCH_LIMIT_DEFAULT,
        Some(text) => text.parse::<i64>().map_err(|_| Failure::bad(format!("invalid limit specified: {text:?}"))).and_then(|limit| {
            let limit = if limit == 0 { Ok(SEARCH_LIMIT_DEFAULT) } else { usize::try_from(limit) };
            limit.ok().filter(|limit| *limit <= SEARCH_LIMIT_MAX).ok_or_else(|| Failure::bad("limit is outside the range of [1, 100]"))
        })?,
    };
    let filters = request.query.filters()?;
    if let Some(unknown) = filters.keys().find(|key| !SEARCH_FILTERS.contains(&key.as_str())) {
        return Err(Failure::bad(format!("invalid filter '{unknown}'")));
    }
    let flag = |key: &str| -> Result<Option<bool>, Failure> {
        let Some(text) = filters.get(key).and_then(|values| values.first()) else { return Ok(None) };
        match text.as_str() {
            "true" | "1" => Ok(Some(true)),
            "false" | "0" => Ok(Some(false)),
            _ => Err(Failure::bad(format!("invalid filter '{key}={text}'"))),
        }
    };
    let (official, automated) = (flag("is-official")?, flag("is-automated")?);
    let mut stars = 0;
    for text in filters.get("stars").into_iter().flatten() {
        stars = stars.max(text.parse::<u64>().map_err(|_| Failure::bad(format!("invalid filter 'stars={text}'")))?);
    }
    let (domain, word) = search_domain(term);
    if word.is_empty() {
        return Err(Failure::bad("a word to search for is needed"));
    }
    let credentials = registry_auth::credentials(&request.headers)?;
    let found = engine.images().search(&domain, word, limit, credentials.as_ref()).await.map_err(|error| Failure::of(&error))?;
    let fits = |found: &&Found| {
        official.is_none_or(|wanted| wanted == found.is_official)
            && automated.is_none_or(|wanted| wanted == found.is_automated)
            && found.star_count >= stars
    };
    let entries: Vec<Value> = found
        .iter()
        .filter(fits)
        .map(|found| {
            json!({
                "star_count": found.star_count,
                "is_official": found.is_official,
                "name": found.name,
                "is_automated": found.is_automated,
                "description": found.description,
            })
        })
        .collect();
    ok(&entries)
}

/// `host:port/word`, or only a word for the default registry.
fn search_domain(term: &str) -> (String, &str) {
    match term.split_once('/') {
        Some((host, word)) if host.contains(['.', ':']) || host == "localhost" => match host {
            "docker.io" | "index.docker.io" => ("docker.io".to_owned(), word),
            host => (host.to_owned(), word),
        },
        _ => ("docker.io".to_owned(), term.strip_prefix("library/").unwrap_or(term)),
    }
}

/// An operation that goes on to its end even when its client goes.
async fn image_task<T, F>(operation: F) -> Result<T, Failure>
where
    T: Send + 'static,
    F: Future<Output = engine::image::Result<T>> + Send + 'static,
{
    to_the_end(async move { operation.await.map_err(|error| Failure::of(&error)) }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_has_details_for_layers_only() {
        let line = |id: &str, status: &str, detail| encode_progress(&Progress { id: id.to_owned(), status: status.to_owned(), detail });
        assert_eq!(line("latest", "Pulling from library/x", None), json!({"status": "Pulling from library/x", "id": "latest"}));
        assert_eq!(line("ab", "Pulling fs layer", None), json!({"status": "Pulling fs layer", "progressDetail": {}, "id": "ab"}));
        let detail = json!({"status": "Downloading", "progressDetail": {"current": 1, "total": 2}, "id": "ab"});
        assert_eq!(line("ab", "Downloading", Some((1, Some(2)))), detail);
        assert_eq!(line("", "Digest: sha256:00", None), json!({"status": "Digest: sha256:00"}));
    }

    #[test]
    fn tags_and_digests_come_beside_a_name() {
        let digest = format!("sha256:{}", "0".repeat(64));
        assert!(reference("busybox", None).is_ok() && reference("busybox", Some("1")).is_ok());
        assert!(reference("127.0.0.1:5000/a/b", Some(&digest)).is_ok());
        assert_eq!(reference("Me/BB", Some("v1")).expect_err("upper case").status.as_u16(), 400);
    }
}

//! Uploads: in one piece, in chunks, resumed, mounted from elsewhere, given up.

use std::sync::Arc;

use hyper::body::Incoming;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinHandle;
use types::Digest;
use types::digest::Algorithm;

use super::body::Inflow;
use super::reply::{Code, Outcome, Refusal, Reply};
use super::route::{self, Query};
use super::{App, DOCKER_CONTENT_DIGEST, UPLOAD_WAIT, blocking, finished};
use crate::auth::{Action, Caller};
use crate::name::RepositoryName;
use crate::store::{Upload, UploadId};

/// Repositories that are looked at for a blob when none is named.
const HOLDERS_MAX: usize = 100;
/// How much of an upload gathers before it is written to the disk.
const WRITE_BACK_BYTES: u64 = 32 << 20;
const DOCKER_UPLOAD_UUID: HeaderName = HeaderName::from_static("docker-upload-uuid");

/// `POST /v2/<name>/blobs/uploads/`
pub(super) async fn begin(app: &App, head: &Parts, body: Incoming, caller: &Caller, repository: RepositoryName) -> Outcome {
    if head.method != Method::POST {
        return Err(Refusal::method(&head.method, "POST"));
    }
    let query = Query::of(head);
    if let Some(mounted) = query.get("mount")
        && let Some(reply) = mount(app, &query, caller, &repository, mounted).await?
    {
        return Ok(reply);
    }
    let digest = query.get("digest").map(route::digest).transpose()?;
    let algorithm = match (query.get("digest-algorithm"), &digest) {
        (_, Some(digest)) => digest.algorithm(),
        (None | Some("sha256"), None) => Algorithm::Sha256,
        (Some("sha512"), None) => Algorithm::Sha512,
        (Some(other), None) => return Err(Refusal::new(Code::DigestInvalid, format!("the algorithm {other:.40} is not served"))),
    };
    let (store, name) = (app.store.clone(), repository.clone());
    let id = blocking(move || store.uploads().begin(&name, algorithm)).await?;
    let Some(digest) = digest else { return Ok(progress(StatusCode::ACCEPTED, &repository, &id, 0)) };
    let upload = take(app, &repository, &id).await?;
    let outcome = match receive(app, upload, body, None, head).await {
        Ok(upload) => finish(app, repository.clone(), id.clone(), upload, digest).await,
        Err(refusal) => Err(refusal),
    };
    if outcome.is_err() {
        // Nobody was told its name: nobody can go on with it.
        let store = app.store.clone();
        blocking(move || store.uploads().end(&repository, &id)).await?;
    }
    outcome
}

/// A blob that another repository has needs no upload, if the caller may read it there. Nothing found is no error: an upload begins instead.
async fn mount(app: &App, query: &Query, caller: &Caller, repository: &RepositoryName, mounted: &str) -> Result<Option<Reply>, Refusal> {
    let digest = route::digest(mounted)?;
    // A name that cannot be has nothing.
    let from = query.get("from").map(|from| RepositoryName::parse(from).into_iter().collect::<Vec<_>>());
    let (store, name, wanted, quota) = (app.store.clone(), repository.clone(), digest.clone(), app.options.quota(repository));
    let (auth, caller) = (app.auth.clone(), caller.clone());
    let done = blocking(move || {
        let from = match from {
            Some(from) => from,
            None => store.holders(&wanted, HOLDERS_MAX)?,
        };
        // Without a source named, a token for one repository says nothing about others: its user's rights count.
        let may_read = |source: &RepositoryName| match &caller {
            Caller::Token(grant) => auth.has_right(grant.user.as_deref(), source, Action::Pull),
            caller => auth.allows(caller, source, Action::Pull),
        };
        let sources = from.into_iter().filter(may_read).collect();
        store.mount(&name, sources, &wanted, quota)
    });
    Ok(done.await?.then(|| created(repository, &digest)))
}

/// `/v2/<name>/blobs/uploads/<id>`
pub(super) async fn handle(app: &App, head: &Parts, body: Incoming, repository: RepositoryName, id: UploadId) -> Outcome {
    match head.method {
        Method::GET | Method::HEAD => {
            let upload = take(app, &repository, &id).await?;
            Ok(progress(StatusCode::NO_CONTENT, &repository, &id, upload.offset()))
        }
        Method::PATCH => {
            let upload = take(app, &repository, &id).await?;
            let start = start(head, &upload, &repository, &id)?;
            let upload = receive(app, upload, body, start, head).await?;
            Ok(progress(StatusCode::ACCEPTED, &repository, &id, upload.offset()))
        }
        Method::PUT => {
            let query = Query::of(head);
            let digest = query.get("digest").ok_or_else(|| Refusal::new(Code::DigestInvalid, "the parameter `digest` is missing"))?;
            let digest = route::digest(digest)?;
            let upload = take(app, &repository, &id).await?;
            let start = start(head, &upload, &repository, &id)?;
            let upload = receive(app, upload, body, start, head).await?;
            finish(app, repository, id, upload, digest).await
        }
        Method::DELETE => {
            // Waits for whoever writes to it.
            take(app, &repository, &id).await?.close();
            let store = app.store.clone();
            blocking(move || store.uploads().end(&repository, &id)).await?;
            Ok(Reply::new(StatusCode::NO_CONTENT))
        }
        _ => Err(Refusal::method(&head.method, "GET, HEAD, PATCH, PUT, DELETE")),
    }
}

/// The upload for this request alone. One whose connection broke may still be held for a moment.
async fn take(app: &App, repository: &RepositoryName, id: &UploadId) -> Result<OwnedMutexGuard<Upload>, Refusal> {
    let (store, name, wanted) = (app.store.clone(), repository.clone(), id.clone());
    let found = blocking(move || store.uploads().get(&name, &wanted)).await?;
    let upload = found.ok_or_else(route::unknown_upload)?;
    let upload = tokio::time::timeout(UPLOAD_WAIT, Arc::clone(&upload).lock_owned()).await;
    let busy = |_| Refusal::new(Code::BlobUploadInvalid, "another request writes to this upload").status(StatusCode::CONFLICT);
    let upload = upload.map_err(busy)?;
    // It may have been finished while this one waited.
    match upload.is_over() {
        false => Ok(upload),
        true => Err(route::unknown_upload()),
    }
}

/// Where the chunk begins that the request says it sends: it must be where the upload ends. `None` when it does not say.
fn start(head: &Parts, upload: &Upload, repository: &RepositoryName, id: &UploadId) -> Result<Option<(u64, u64)>, Refusal> {
    let Some(value) = head.headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let refused = |why: String| {
        let refusal = Refusal::new(Code::BlobUploadInvalid, why).status(StatusCode::RANGE_NOT_SATISFIABLE);
        located(upload.offset(), repository, id).into_iter().fold(refusal, |refusal, (name, value)| refusal.with(name, value))
    };
    let text = value.to_str().unwrap_or_default();
    // Both `0-9` of this specification and `bytes 0-9/10` of HTTP are seen.
    let numbers = text.trim_start_matches("bytes").trim_start_matches([' ', '=']).split('/').next().unwrap_or_default();
    let range = numbers.split_once('-').and_then(|(first, last)| Some((first.parse::<u64>().ok()?, last.parse::<u64>().ok()?)));
    let Some((first, last)) = range.filter(|(first, last)| last.checked_add(1).is_some_and(|end| end >= *first)) else {
        return Err(refused(format!("the range {text:.100} cannot be read: FIRST-LAST is expected")));
    };
    match first == upload.offset() {
        true => Ok(Some((first, last))),
        false => Err(refused(format!("the chunk begins at {first}, and the upload has {} bytes", upload.offset()))),
    }
}

/// Appends the request's body.
async fn receive(
    app: &App,
    upload: OwnedMutexGuard<Upload>,
    body: Incoming,
    range: Option<(u64, u64)>,
    head: &Parts,
) -> Result<OwnedMutexGuard<Upload>, Refusal> {
    let begun = upload.offset();
    let limit = app.options.blob_bytes_max;
    let announced = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| begun.saturating_add(length) > limit) {
        return Err(too_large(limit));
    }
    if let (Some((first, last)), Some(length)) = (range, announced)
        && last + 1 - first != length
    {
        let message = format!("the range {first}-{last} is not of the length {length}");
        return Err(Refusal::new(Code::SizeInvalid, message).status(StatusCode::BAD_REQUEST));
    }
    let mut inflow = Inflow::new(body);
    let mut offset = begun;
    let mut writing = Writing::Idle(upload);
    // The next bytes are received while the last ones are hashed and written.
    let outcome = loop {
        let bytes = match inflow.next().await {
            Ok(Some(bytes)) => bytes,
            Ok(None) => break Ok(()),
            Err(refusal) => break Err(refusal),
        };
        let bytes_len = bytes.len() as u64;
        offset += bytes_len;
        if offset > limit {
            break Err(too_large(limit));
        }
        let mut upload = writing.done().await?;
        if offset / WRITE_BACK_BYTES != (offset - bytes_len) / WRITE_BACK_BYTES {
            write_back(app, &upload);
        }
        writing = Writing::Busy(tokio::task::spawn_blocking(move || {
            upload.append(&bytes)?;
            Ok(upload)
        }));
    };
    // What had arrived is written, also when the connection broke: the client goes on from there.
    let upload = writing.done().await?;
    outcome?;
    app.metrics.received(upload.offset() - begun);
    Ok(upload)
}

/// Lets the disk begin with what is there, so that the end has little left to wait for. An error is seen again at the end.
fn write_back(app: &App, upload: &Upload) {
    if let (Ok(permit), Ok(file)) = (app.write_backs.clone().try_acquire_owned(), upload.duplicate()) {
        tokio::task::spawn_blocking(move || {
            drop(file.sync_data());
            drop(permit);
        });
    }
}

/// An upload that is at rest, or away being written to.
enum Writing {
    Idle(OwnedMutexGuard<Upload>),
    Busy(JoinHandle<crate::Result<OwnedMutexGuard<Upload>>>),
}

impl Writing {
    async fn done(self) -> Result<OwnedMutexGuard<Upload>, Refusal> {
        match self {
            Self::Idle(upload) => Ok(upload),
            Self::Busy(task) => finished(task).await,
        }
    }
}

fn too_large(limit: u64) -> Refusal {
    Refusal::new(Code::SizeInvalid, format!("a blob may have {limit} bytes"))
}

async fn finish(app: &App, repository: RepositoryName, id: UploadId, mut upload: OwnedMutexGuard<Upload>, digest: Digest) -> Outcome {
    let (store, name, wanted, quota) = (app.store.clone(), repository.clone(), digest.clone(), app.options.quota(&repository));
    blocking(move || store.finish(&name, &id, &mut upload, &wanted, quota)).await?;
    Ok(created(&repository, &digest))
}

fn created(repository: &RepositoryName, digest: &Digest) -> Reply {
    Reply::new(StatusCode::CREATED)
        .with(header::LOCATION, format!("/v2/{repository}/blobs/{digest}"))
        .with(DOCKER_CONTENT_DIGEST, digest.to_string())
        .with(header::CONTENT_LENGTH, "0")
}

fn progress(status: StatusCode, repository: &RepositoryName, id: &UploadId, offset: u64) -> Reply {
    let reply = located(offset, repository, id).into_iter().fold(Reply::new(status), |reply, (name, value)| reply.with(name, value));
    match status {
        StatusCode::NO_CONTENT => reply,
        _ => reply.with(header::CONTENT_LENGTH, "0"),
    }
}

fn located(offset: u64, repository: &RepositoryName, id: &UploadId) -> [(HeaderName, String); 3] {
    [
        (header::LOCATION, format!("/v2/{repository}/blobs/uploads/{}", id.as_str())),
        // The last byte that is there; an empty upload looks like one of a single byte, as the specification has it.
        (header::RANGE, format!("0-{}", offset.saturating_sub(1))),
        (DOCKER_UPLOAD_UUID, id.as_str().to_owned()),
    ]
}

//! Manifests: pushed with what they name checked, pulled by tag or digest, removed.

use hyper::body::Incoming;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use types::Digest;
use types::digest::Algorithm;

use super::blobs::precondition;
use super::body::Inflow;
use super::reply::{Code, Outcome, Payload, Refusal, Reply};
use super::route::{self, Query, Reference};
use super::{App, DOCKER_CONTENT_DIGEST, blocking};
use crate::manifest::{MANIFEST_BYTES_MAX, Manifest};
use crate::name::{RepositoryName, is_tag};
use crate::store::{Condition, NewManifest, digest_of};

const OCI_SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const OCI_TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Tags that one request may set.
const TAGS_MAX: usize = 100;

pub(super) async fn handle(app: &App, head: &Parts, body: Incoming, repository: RepositoryName, reference: Reference) -> Outcome {
    match head.method {
        Method::GET | Method::HEAD => read(app, head, repository, reference).await,
        Method::PUT => put(app, head, body, repository, reference).await,
        Method::DELETE => remove(app, repository, reference).await,
        _ => Err(Refusal::method(&head.method, "GET, HEAD, PUT, DELETE")),
    }
}

async fn read(app: &App, head: &Parts, repository: RepositoryName, reference: Reference) -> Outcome {
    let (store, text, with_content) = (app.store.clone(), reference.text(), head.method == Method::GET);
    let found = blocking(move || {
        let Some(info) = store.manifest(&repository, &text)? else { return Ok(None) };
        let bytes = match with_content {
            // A manifest that was removed meanwhile.
            true => match store.read_content(&info.digest, MANIFEST_BYTES_MAX)? {
                Some(bytes) => Some(bytes),
                None => return Ok(None),
            },
            false => None,
        };
        Ok(Some((info, bytes)))
    });
    let (info, bytes) = found.await?.ok_or_else(|| unknown(&reference))?;
    let etag = format!("\"{}\"", info.digest);
    let reply = |status| Reply::new(status).with(header::ETAG, &etag).with(DOCKER_CONTENT_DIGEST, info.digest.to_string());
    if let Some(status) = precondition(&head.headers, &etag) {
        return Ok(reply(status));
    }
    let mut reply = reply(StatusCode::OK).with(header::CONTENT_TYPE, &info.media_type).with(header::CONTENT_LENGTH, info.size.to_string());
    if let Some(bytes) = bytes {
        reply.payload = Payload::Bytes(bytes.into());
    }
    Ok(reply)
}

async fn put(app: &App, head: &Parts, body: Incoming, repository: RepositoryName, reference: Reference) -> Outcome {
    let too_large = || {
        let message = format!("a manifest may have {} MiB", MANIFEST_BYTES_MAX >> 20);
        Refusal::new(Code::ManifestInvalid, message).status(StatusCode::PAYLOAD_TOO_LARGE)
    };
    let announced = head.headers.get(header::CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if announced.is_some_and(|length| length > MANIFEST_BYTES_MAX as u64) {
        return Err(too_large());
    }
    let bytes = Inflow::new(body).whole(MANIFEST_BYTES_MAX).await?.ok_or_else(too_large)?;
    let query = Query::of(head);
    let expected = match (&reference, query.get("digest")) {
        (Reference::Digest(digest), _) => Some(digest.clone()),
        (Reference::Tag(_), Some(text)) => Some(route::digest(text)?),
        (Reference::Tag(_), None) => None,
    };
    let digest = digest_of(expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm), &bytes);
    if let Some(expected) = expected.filter(|expected| *expected != digest) {
        let detail = serde_json::json!({ "expected": expected.to_string(), "found": digest.to_string() });
        return Err(Refusal::new(Code::DigestInvalid, format!("the manifest has the digest {digest}")).detail(detail));
    }
    let content_type = head.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or("not text"));
    let manifest = Manifest::read(&bytes, content_type)?;
    let tags = tags(&reference, &query)?;
    let subject = manifest.subject.clone();
    let told = if query.get("tag").is_some() { tags.clone() } else { Vec::new() };
    let new = NewManifest {
        bytes,
        digest: digest.clone(),
        manifest,
        tags,
        condition: condition(&head.headers),
        sparse: app.options.sparse_indexes,
        quota: app.options.quota(&repository),
    };
    let (store, name) = (app.store.clone(), repository.clone());
    blocking(move || store.put_manifest(&name, new)).await?;
    let reply = Reply::new(StatusCode::CREATED)
        .with(header::LOCATION, format!("/v2/{repository}/manifests/{digest}"))
        .with(DOCKER_CONTENT_DIGEST, digest.to_string())
        .with(header::CONTENT_LENGTH, "0");
    let reply = told.into_iter().fold(reply, |reply, tag| reply.with(OCI_TAG, tag));
    Ok(match subject {
        Some(subject) => reply.with(OCI_SUBJECT, subject.to_string()),
        None => reply,
    })
}

/// The tag of the path, and those of the parameters.
fn tags(reference: &Reference, query: &Query) -> Result<Vec<String>, Refusal> {
    let mut tags: Vec<String> = match reference {
        Reference::Tag(tag) => vec![tag.clone()],
        Reference::Digest(_) => Vec::new(),
    };
    for tag in query.all("tag") {
        if !is_tag(tag) {
            return Err(Refusal::new(Code::TagInvalid, format!("invalid tag: {tag:.150}")));
        }
        if !tags.iter().any(|known| known == tag) {
            tags.push(tag.to_owned());
        }
    }
    match tags.len() {
        0..=TAGS_MAX => Ok(tags),
        _ => Err(Refusal::new(Code::TagInvalid, format!("one request may set {TAGS_MAX} tags")).status(StatusCode::URI_TOO_LONG)),
    }
}

fn condition(headers: &HeaderMap) -> Option<Condition> {
    let text = |name| headers.get(name).and_then(|value: &header::HeaderValue| value.to_str().ok()).map(str::trim);
    if text(header::IF_NONE_MATCH) == Some("*") {
        return Some(Condition::Absent);
    }
    let wanted = text(header::IF_MATCH)?;
    let digests = wanted.split(',').map(|one| one.trim().trim_start_matches("W/").trim_matches('"').to_owned());
    Some(Condition::OneOf(if wanted == "*" { Vec::new() } else { digests.collect() }))
}

async fn remove(app: &App, repository: RepositoryName, reference: Reference) -> Outcome {
    let (store, wanted) = (app.store.clone(), reference.clone());
    let removed = blocking(move || match &wanted {
        Reference::Tag(tag) => store.remove_tag(&repository, tag),
        Reference::Digest(digest) => store.remove_manifest(&repository, digest),
    });
    match removed.await? {
        true => Ok(Reply::new(StatusCode::ACCEPTED).with(header::CONTENT_LENGTH, "0")),
        false => Err(unknown(&reference)),
    }
}

fn unknown(reference: &Reference) -> Refusal {
    let detail = match reference {
        Reference::Tag(tag) => serde_json::json!({ "tag": tag }),
        Reference::Digest(digest) => serde_json::json!({ "digest": digest.to_string() }),
    };
    Refusal::new(Code::ManifestUnknown, format!("{} is not in this repository", reference.text())).detail(detail)
}

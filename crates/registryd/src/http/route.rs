//! Which request is for what: paths, methods and parameters.

use std::borrow::Cow;

use hyper::Method;
use hyper::http::request::Parts;
use types::Digest;
use types::digest::InvalidDigest;

use super::reply::{Code, Refusal};
use crate::name::{RepositoryName, is_tag};
use crate::store::UploadId;

/// What a path is about.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// `/v2/`
    Base,
    /// `/v2/_catalog`
    Catalog,
    /// `/v2/<name>/tags/list`
    Tags(RepositoryName),
    /// `/v2/<name>/referrers/<digest>`
    Referrers(RepositoryName, Digest),
    /// `/v2/<name>/blobs/<digest>`
    Blob(RepositoryName, Digest),
    /// `/v2/<name>/manifests/<reference>`
    Manifest(RepositoryName, Reference),
    /// `/v2/<name>/blobs/uploads/`
    Uploads(RepositoryName),
    /// `/v2/<name>/blobs/uploads/<id>`
    Upload(RepositoryName, UploadId),
}

/// What a manifest is asked for by.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reference {
    Tag(String),
    Digest(Digest),
}

impl Reference {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Tag(tag) => tag.clone(),
            Self::Digest(digest) => digest.to_string(),
        }
    }
}

impl Target {
    /// Reads a path. Names are looked for from the end, as a repository's name may contain any of the fixed words.
    pub(super) fn parse(path: &str) -> Result<Self, Refusal> {
        let absent = || Refusal::new(Code::Unsupported, "there is nothing at this path").status(hyper::StatusCode::NOT_FOUND);
        let rest = path.strip_prefix("/v2").ok_or_else(absent)?;
        if matches!(rest, "" | "/") {
            return Ok(Self::Base);
        }
        let parts: Vec<Cow<'_, str>> = rest.strip_prefix('/').ok_or_else(absent)?.split('/').map(decoded).collect();
        let words: Vec<&str> = parts.iter().map(AsRef::as_ref).collect();
        match words[..] {
            ["_catalog"] => Ok(Self::Catalog),
            [ref name @ .., "tags", "list"] => Ok(Self::Tags(repository(name)?)),
            [ref name @ .., "blobs", "uploads"] | [ref name @ .., "blobs", "uploads", ""] => Ok(Self::Uploads(repository(name)?)),
            [ref name @ .., "blobs", "uploads", id] => {
                let repository = repository(name)?;
                let id = UploadId::parse(id).ok_or_else(unknown_upload)?;
                Ok(Self::Upload(repository, id))
            }
            [ref name @ .., "blobs", text] => Ok(Self::Blob(repository(name)?, digest(text)?)),
            [ref name @ .., "referrers", text] => Ok(Self::Referrers(repository(name)?, digest(text)?)),
            [ref name @ .., "manifests", text] => Ok(Self::Manifest(repository(name)?, reference(text)?)),
            _ => Err(absent()),
        }
    }
}

impl Target {
    /// Its name in metrics.
    pub(super) fn word(&self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Catalog => "catalog",
            Self::Tags(_) => "tags",
            Self::Referrers(..) => "referrers",
            Self::Blob(..) => "blob",
            Self::Manifest(..) => "manifest",
            Self::Uploads(_) => "uploads",
            Self::Upload(..) => "upload",
        }
    }
}

pub(super) fn unknown_upload() -> Refusal {
    Refusal::new(Code::BlobUploadUnknown, "there is no such upload in this repository")
}

pub(super) fn digest(text: &str) -> Result<Digest, Refusal> {
    text.parse().map_err(|error: InvalidDigest| Refusal::new(Code::DigestInvalid, format!("{error}: {text:.150}")))
}

fn repository(words: &[&str]) -> Result<RepositoryName, Refusal> {
    let name = words.join("/");
    RepositoryName::parse(&name).ok_or_else(|| Refusal::new(Code::NameInvalid, format!("invalid repository name: {name:.300}")))
}

fn reference(text: &str) -> Result<Reference, Refusal> {
    if text.contains(':') {
        return digest(text).map(Reference::Digest);
    }
    match is_tag(text) {
        true => Ok(Reference::Tag(text.to_owned())),
        // Nothing can have that name.
        false => Err(Refusal::new(Code::TagInvalid, format!("invalid tag: {text:.150}"))),
    }
}

/// A path's segment with its `%XX` read; what they make may be anything, and is checked by whoever uses it.
fn decoded(segment: &str) -> Cow<'_, str> {
    if !segment.contains('%') {
        return Cow::Borrowed(segment);
    }
    let bytes = segment.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = (bytes[at] == b'%').then(|| segment.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    Cow::Owned(String::from_utf8_lossy(&out).into_owned())
}

/// The parameters of a request.
#[derive(Debug)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn of(head: &Parts) -> Self {
        Self(form_urlencoded::parse(head.uri.query().unwrap_or_default().as_bytes()).into_owned().collect())
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    pub(super) fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// Whether the method only reads.
pub(super) fn is_reading(method: &Method) -> bool {
    matches!(*method, Method::GET | Method::HEAD)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_the_end() {
        let hex = "a".repeat(64);
        let digest: Digest = format!("sha256:{hex}").parse().expect("digest");
        let name = |text: &str| RepositoryName::parse(text).expect("name");
        for (path, target) in [
            ("/v2", Target::Base),
            ("/v2/", Target::Base),
            ("/v2/_catalog", Target::Catalog),
            ("/v2/a/b/tags/list", Target::Tags(name("a/b"))),
            ("/v2/tags/list/tags/list", Target::Tags(name("tags/list"))),
            (&format!("/v2/blobs/uploads/blobs/sha256:{hex}"), Target::Blob(name("blobs/uploads"), digest.clone())),
            (&format!("/v2/a/blobs/sha256%3A{hex}"), Target::Blob(name("a"), digest.clone())),
            ("/v2/a/blobs/uploads", Target::Uploads(name("a"))),
            ("/v2/a/blobs/uploads/", Target::Uploads(name("a"))),
            ("/v2/a/manifests/v1", Target::Manifest(name("a"), Reference::Tag("v1".to_owned()))),
            (&format!("/v2/a/referrers/sha256:{hex}"), Target::Referrers(name("a"), digest)),
        ] {
            assert_eq!(Target::parse(path).expect(path), target);
        }
    }

    #[test]
    fn hostile_paths_are_refused() {
        for path in [
            "/",
            "/v1/",
            "/v2x/",
            "/v2//tags/list",
            "/v2/../etc/passwd",
            "/v2/a/../b/tags/list",
            "/v2/a%2F..%2F..%2Fb/tags/list",
            "/v2/%2e%2e/tags/list",
            "/v2/A/tags/list",
            "/v2/a/manifests/..",
            "/v2/a/manifests/%00",
            "/v2/a/blobs/sha256:../../../../etc/passwd",
            "/v2/a/blobs/md5:00",
            "/v2/a/blobs/uploads/../../../x",
            "/v2/a/blobs/uploads/zz",
            "/v2/a",
            "/v2/tags/list",
        ] {
            assert!(Target::parse(path).is_err(), "{path}");
        }
    }
}

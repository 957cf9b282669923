//! Manifests and indexes.

use reqwest::header::CONTENT_TYPE;
use types::digest::Algorithm;
use types::image::{Descriptor, Index, media_type};
use types::{Digest, ImageRef, Platform};

use crate::client::{Request, answer_error};
use crate::verify::digest_of;
use crate::{Credentials, Error, Registry, Result};

/// Manifests and indexes are at most this long (the distribution specification's limit).
const LEN_MAX: usize = 4 << 20;
const ACCEPT: &str = "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json";

/// A manifest or an index, byte for byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// Its type, digest and size.
    pub descriptor: Descriptor,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Document {
    /// A document that was made here.
    pub fn new(media_type: &str, bytes: Vec<u8>) -> Self {
        let digest = digest_of(Algorithm::Sha256, &bytes);
        Self { descriptor: Descriptor::new(media_type, digest, bytes.len() as u64), bytes }
    }
}

impl Registry {
    /// Fetches what a name points at: by its digest if it has one, which is verified, else by its tag.
    pub async fn root(&self, reference: &ImageRef, credentials: Option<&Credentials>) -> Result<Document> {
        let subject = reference.familiar();
        match (reference.digest(), reference.tag()) {
            (Some(digest), _) => self.document(reference, &digest.to_string(), Some(digest), subject, credentials).await,
            (None, tag) => self.document(reference, tag.unwrap_or(types::reference::DEFAULT_TAG), None, subject, credentials).await,
        }
    }

    /// Fetches a manifest that an index lists, and verifies it.
    pub async fn manifest(&self, repository: &ImageRef, wanted: &Descriptor, credentials: Option<&Credentials>) -> Result<Document> {
        let subject = repository.with_digest(wanted.digest.clone()).familiar();
        let document = self.document(repository, &wanted.digest.to_string(), Some(&wanted.digest), subject, credentials).await?;
        match document.descriptor.size == wanted.size {
            true => Ok(document),
            false => Err(Error::SizeMismatch {
                subject: "manifest",
                digest: wanted.digest.clone(),
                repository: repository.familiar_name(),
                expected: wanted.size,
                found: document.descriptor.size,
            }),
        }
    }

    pub(crate) async fn document(
        &self,
        repository: &ImageRef,
        name: &str,
        expected: Option<&Digest>,
        subject: String,
        credentials: Option<&Credentials>,
    ) -> Result<Document> {
        if self.has_mirrors(repository) {
            match self.document_once(repository, name, expected, subject.clone(), credentials).await {
                Ok(document) => return Ok(document),
                // A mirror that tells nonsense is none.
                Err(Error::DigestMismatch { .. } | Error::Answer { .. }) => self.distrust_mirrors(repository),
                Err(error) => return Err(error),
            }
        }
        self.document_once(repository, name, expected, subject, credentials).await
    }

    async fn document_once(
        &self,
        repository: &ImageRef,
        name: &str,
        expected: Option<&Digest>,
        subject: String,
        credentials: Option<&Credentials>,
    ) -> Result<Document> {
        let request = Request { accept: Some(ACCEPT), ..Request::get(repository, format!("manifests/{name}"), subject, credentials) };
        let mut response = self.get(&request).await?;
        let told_type = response
            .headers()
            .get(CONTENT_TYPE)
            .and_then(|value| value.to_str().ok())
            .map(|text| text.split(';').next().unwrap_or("").trim().to_owned());
        let told_digest = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        let mut bytes = Vec::new();
        let url = request.path.clone();
        while let Some(chunk) =
            response.chunk().await.map_err(|source| Error::Request { method: "Get", url: url.clone(), source: source.without_url() })?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > LEN_MAX {
                return Err(answer_error(&request, &format!("the manifest has more than {LEN_MAX} bytes")));
            }
        }
        let expected = expected.cloned().or(told_digest);
        let algorithm = expected.as_ref().map_or(Algorithm::Sha256, Digest::algorithm);
        let found = digest_of(algorithm, &bytes);
        if let Some(expected) = expected.filter(|expected| *expected != found) {
            return Err(Error::DigestMismatch { subject: "manifest", repository: repository.familiar_name(), expected, found });
        }
        let media_type = document_type(&bytes, told_type.as_deref()).map_err(|reason| answer_error(&request, &reason))?;
        if matches!(media_type.as_str(), media_type::DOCKER_SCHEMA1 | media_type::DOCKER_SCHEMA1_SIGNED) {
            return Err(Error::Schema1 { reference: request.subject });
        }
        Ok(Document { descriptor: Descriptor::new(&media_type, found, bytes.len() as u64), bytes })
    }
}

/// The type: what the document says itself, else what the registry says, else what its fields look like. The first two must not contradict each other,
/// so that one digest never means two things.
fn document_type(bytes: &[u8], told: Option<&str>) -> std::result::Result<String, String> {
    let value: serde_json::Value = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
    let has = |field: &str| value.get(field).is_some();
    if value.get("schemaVersion").and_then(serde_json::Value::as_u64) == Some(1) {
        return Ok(media_type::DOCKER_SCHEMA1.to_owned());
    }
    if has("manifests") && (has("config") || has("layers")) {
        return Err("a document that is a manifest and an index at once".to_owned());
    }
    let own = value.get("mediaType").and_then(|own| own.as_str()).filter(|own| !own.is_empty());
    let known = |text: &str| media_type::is_index(text) || media_type::is_manifest(text);
    let told = told.filter(|told| known(told));
    match (own, told) {
        (Some(own), Some(told)) if own != told => Err(format!("the document says that it is {own}, the registry says {told}")),
        (Some(own), _) if known(own) => Ok(own.to_owned()),
        (Some(own), _) => Err(format!("documents of type {own} are not images")),
        (None, Some(told)) => Ok(told.to_owned()),
        (None, None) if has("manifests") => Ok(media_type::OCI_INDEX.to_owned()),
        (None, None) if has("config") => Ok(media_type::OCI_MANIFEST.to_owned()),
        (None, None) => Err("the document is neither a manifest nor an index".to_owned()),
    }
}

/// The manifest (or nested index) of an index that serves a platform best, the first of equals.
pub fn choose_platform<'i>(index: &'i Index, wanted: &Platform) -> Option<&'i Descriptor> {
    let usable = |entry: &&Descriptor| {
        media_type::is_manifest(&entry.media_type) || media_type::is_index(&entry.media_type) || entry.media_type.is_empty()
    };
    let mut best: Option<(u32, &Descriptor)> = None;
    for entry in index.manifests.iter().filter(usable) {
        // What has no platform serves any, but only if nothing says that it fits.
        let rank = entry.platform.as_ref().map_or(Some(0), |platform| platform.suits(wanted));
        if let Some(rank) = rank
            && best.is_none_or(|(held, _)| rank > held)
        {
            best = Some((rank, entry));
        }
    }
    best.map(|(_, entry)| entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_and_contradictions_refused() {
        let told = |bytes: &str, header| document_type(bytes.as_bytes(), header);
        assert_eq!(told(r#"{"schemaVersion":2,"config":{},"layers":[]}"#, None).as_deref(), Ok(media_type::OCI_MANIFEST));
        assert_eq!(told(r#"{"schemaVersion":2,"manifests":[]}"#, Some("text/plain")).as_deref(), Ok(media_type::OCI_INDEX));
        assert_eq!(told(r#"{"config":{}}"#, Some(media_type::DOCKER_MANIFEST)).as_deref(), Ok(media_type::DOCKER_MANIFEST));
        assert_eq!(told(r#"{"schemaVersion":1}"#, None).as_deref(), Ok(media_type::DOCKER_SCHEMA1));
        for (bytes, header) in [
            (r#"{"manifests":[],"layers":[]}"#, None),
            (r#"{"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#, Some(media_type::OCI_MANIFEST)),
            (r#"{"mediaType":"application/x"}"#, None),
            ("{}", None),
            ("<html>", Some(media_type::OCI_MANIFEST)),
        ] {
            assert!(told(bytes, header).is_err(), "{bytes}");
        }
    }

    #[test]
    fn the_platform_that_fits_best_is_chosen() {
        let digest = |letter: char| format!("sha256:{}", letter.to_string().repeat(64));
        let entry = |letter, platform: &str| {
            format!(r#"{{"mediaType":"{}","digest":"{}","size":1,{platform}}}"#, media_type::OCI_MANIFEST, digest(letter))
        };
        let text = format!(
            r#"{{"schemaVersion":2,"manifests":[{},{},{},{}]}}"#,
            entry('a', r#""platform":{"os":"linux","architecture":"arm","variant":"v6"}"#),
            entry('b', r#""platform":{"os":"linux","architecture":"arm","variant":"v7"}"#),
            entry('c', r#""platform":{"os":"linux","architecture":"amd64"}"#),
            entry('d', r#""platform":{"os":"unknown","architecture":"unknown"}"#),
        );
        let index: Index = serde_json::from_str(&text).expect("parses");
        let chosen = |platform: &str| choose_platform(&index, &platform.parse().expect(platform)).map(|entry| entry.digest.to_string());
        assert_eq!(chosen("linux/amd64"), Some(digest('c')));
        assert_eq!(chosen("linux/arm/v7"), Some(digest('b')));
        assert_eq!(chosen("linux/arm/v6"), Some(digest('a')));
        assert_eq!(chosen("linux/s390x"), None);
    }
}

//! What a manifest says, as far as a registry has to know it.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use types::Digest;
use types::image::media_type as known;

/// The largest manifest, as the specification has it ("Pushing manifests").
pub const MANIFEST_BYTES_MAX: usize = 4 << 20;
/// A manifest that names more is refused.
const DESCRIPTORS_MAX: usize = 50_000;
/// An artifact manifest of the release candidates of OCI 1.1, still made by some tools.
const OCI_ARTIFACT: &str = "application/vnd.oci.artifact.manifest.v1+json";

/// A manifest or index that has been looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    /// Its type, from the request or from the document itself.
    pub media_type: String,
    /// What it is a manifest of, as referrers are filtered by.
    pub artifact_type: Option<String>,
    /// What it is attached to.
    pub subject: Option<Digest>,
    /// Its annotations, as JSON text.
    pub annotations: Option<String>,
    /// Blobs that must be in the repository.
    pub blobs: BTreeSet<Digest>,
    /// Manifests that must be in the repository.
    pub manifests: BTreeSet<Digest>,
}

/// Why a document is no manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Invalid {
    /// It is not the JSON of a manifest.
    #[error("the manifest cannot be read: {0}")]
    Json(String),
    /// The type is none that is served here.
    #[error("manifests of the type {0:?} are not served")]
    Type(String),
    /// The request and the document disagree.
    #[error("the manifest is of the type {document:?}, but was sent as {request:?}")]
    Mismatch {
        /// What the document says.
        document: String,
        /// What the request says.
        request: String,
    },
    /// Only version 2 is known.
    #[error("the manifest has the schema version {0}, and 2 is expected")]
    Version(u64),
    /// A part that its type demands is missing.
    #[error("the manifest has no {0}")]
    Missing(&'static str),
    /// A part that its type does not allow.
    #[error("a manifest of this type has no {0}")]
    Stray(&'static str),
    /// It names too much.
    #[error("the manifest names more than {DESCRIPTORS_MAX} parts")]
    TooMany,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Document {
    schema_version: Option<u64>,
    media_type: Option<String>,
    artifact_type: Option<String>,
    config: Option<Part>,
    layers: Option<Vec<Part>>,
    manifests: Option<Vec<Part>>,
    blobs: Option<Vec<Part>>,
    subject: Option<Part>,
    annotations: Option<BTreeMap<String, String>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Part {
    #[serde(default)]
    media_type: String,
    digest: Digest,
    #[serde(rename = "size")]
    _size: u64,
    urls: Option<Vec<String>>,
}

impl Part {
    /// Whether it need not be here: what may not be distributed, and says where else it is.
    fn is_elsewhere(&self) -> bool {
        known::is_foreign_layer(&self.media_type) || self.urls.as_ref().is_some_and(|urls| !urls.is_empty())
    }
}

impl Manifest {
    /// Reads a document that was sent with this `Content-Type`.
    pub fn read(bytes: &[u8], content_type: Option<&str>) -> Result<Self, Invalid> {
        let document: Document = serde_json::from_slice(bytes).map_err(|error| Invalid::Json(error.to_string()))?;
        let media_type = media_type(&document, content_type)?;
        let is_index = known::is_index(&media_type);
        match document.schema_version {
            Some(2) => {}
            None if media_type == OCI_ARTIFACT => {}
            Some(other) => return Err(Invalid::Version(other)),
            None => return Err(Invalid::Missing("schemaVersion")),
        }
        // A document that could be read as both kinds would be two things to two clients.
        match (&media_type, &document) {
            (_, Document { manifests: None, .. }) if is_index => return Err(Invalid::Missing("manifests")),
            (_, Document { config: Some(_), .. }) if is_index => return Err(Invalid::Stray("config")),
            (_, Document { layers: Some(_), .. }) if is_index => return Err(Invalid::Stray("layers")),
            (_, Document { manifests: Some(_), .. }) if !is_index => return Err(Invalid::Stray("manifests")),
            (kind, Document { config: None, .. }) if known::is_manifest(kind) => return Err(Invalid::Missing("config")),
            _ => {}
        }
        let config_type = document.config.as_ref().map(|config| config.media_type.clone()).filter(|_| !is_index);
        let parts = document.config.iter().chain(document.layers.iter().flatten()).chain(document.blobs.iter().flatten());
        let blobs: BTreeSet<Digest> = parts.filter(|part| !part.is_elsewhere()).map(|part| part.digest.clone()).collect();
        let manifests: BTreeSet<Digest> = document.manifests.iter().flatten().map(|part| part.digest.clone()).collect();
        if blobs.len() + manifests.len() > DESCRIPTORS_MAX {
            return Err(Invalid::TooMany);
        }
        let annotations = document.annotations.filter(|notes| !notes.is_empty());
        Ok(Self {
            artifact_type: document.artifact_type.filter(|kind| !kind.is_empty()).or(config_type).filter(|kind| !kind.is_empty()),
            subject: document.subject.map(|subject| subject.digest),
            annotations: annotations.and_then(|notes| serde_json::to_string(&notes).ok()),
            media_type,
            blobs,
            manifests,
        })
    }
}

/// The type on which request and document agree; where neither says it, what the document looks like.
fn media_type(document: &Document, content_type: Option<&str>) -> Result<String, Invalid> {
    let sent = content_type.and_then(|text| text.split(';').next()).map(str::trim).filter(|text| !text.is_empty());
    // What clients send who know nothing better.
    let sent = sent.filter(|text| !matches!(*text, "application/json" | "application/octet-stream" | "text/plain"));
    let own = document.media_type.as_deref().filter(|text| !text.is_empty());
    let found = match (own, sent) {
        (Some(own), Some(sent)) if own != sent => return Err(Invalid::Mismatch { document: own.to_owned(), request: sent.to_owned() }),
        (Some(own), _) => own,
        (None, Some(sent)) => sent,
        (None, None) if document.manifests.is_some() => known::OCI_INDEX,
        (None, None) => known::OCI_MANIFEST,
    };
    match found {
        found if known::is_index(found) || known::is_manifest(found) || found == OCI_ARTIFACT => Ok(found.to_owned()),
        other => Err(Invalid::Type(other.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn digest(digit: char) -> String {
        format!("sha256:{}", digit.to_string().repeat(64))
    }

    fn read(document: &serde_json::Value, content_type: Option<&str>) -> Result<Manifest, Invalid> {
        Manifest::read(document.to_string().as_bytes(), content_type)
    }

    #[test]
    fn what_it_names_is_found() {
        let document = json!({
            "schemaVersion": 2, "mediaType": known::OCI_MANIFEST, "annotations": {"a": "b"},
            "config": {"mediaType": "x/y", "digest": digest('a'), "size": 1},
            "layers": [
                {"mediaType": known::OCI_LAYER, "digest": digest('b'), "size": 2},
                {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar", "digest": digest('c'), "size": 3},
            ],
            "subject": {"mediaType": known::OCI_MANIFEST, "digest": digest('d'), "size": 4},
        });
        let manifest = read(&document, Some("application/vnd.oci.image.manifest.v1+json; charset=utf-8")).expect("reads");
        assert_eq!(manifest.blobs.iter().map(ToString::to_string).collect::<Vec<_>>(), [digest('a'), digest('b')]);
        assert_eq!(manifest.artifact_type.as_deref(), Some("x/y"));
        assert_eq!(manifest.subject.map(|subject| subject.to_string()), Some(digest('d')));
        assert_eq!(manifest.annotations.as_deref(), Some(r#"{"a":"b"}"#));
        let index = json!({"schemaVersion": 2, "manifests": [{"digest": digest('e'), "size": 1}]});
        let index = read(&index, Some(known::DOCKER_INDEX)).expect("reads");
        assert_eq!((index.media_type.as_str(), index.manifests.len(), index.blobs.len()), (known::DOCKER_INDEX, 1, 0));
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let config = json!({"digest": digest('a'), "size": 1});
        for (document, content_type) in [
            (json!([]), None),
            (json!({"schemaVersion": 1, "config": config}), None),
            (json!({"config": config}), None),
            (json!({"schemaVersion": 2}), None),
            (json!({"schemaVersion": 2, "config": {"digest": "sha256:zz", "size": 1}}), None),
            (json!({"schemaVersion": 2, "config": {"digest": digest('a'), "size": -1}}), None),
            (json!({"schemaVersion": 2, "config": config, "manifests": []}), None),
            (json!({"schemaVersion": 2, "config": config, "mediaType": known::OCI_MANIFEST}), Some(known::DOCKER_MANIFEST)),
            (json!({"schemaVersion": 2, "config": config}), Some(known::DOCKER_SCHEMA1)),
            (json!({"schemaVersion": 2, "config": config}), Some("text/html")),
        ] {
            assert!(read(&document, content_type).is_err(), "{document} {content_type:?}");
        }
        assert!(Manifest::read(b"{", None).is_err() && Manifest::read(&[0xff], None).is_err());
        assert!(Manifest::read("[".repeat(100_000).as_bytes(), None).is_err());
    }
}

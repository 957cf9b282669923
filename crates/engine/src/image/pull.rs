//! Pulling.

use types::Digest;

/// One line of progress, as Docker's JSON stream words it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// What it is about: a layer's short digest, or the tag on the first line; empty on the last lines.
    pub id: String,
    /// `Pulling from library/x`, `Pulling fs layer`, `Downloading`, `Verifying Checksum`, `Download complete`, `Extracting`, `Pull complete`, `Already exists`, `Digest: …`, `Status: …`.
    pub status: String,
    /// Bytes done and, if known, to do: while downloading and extracting.
    pub detail: Option<(u64, Option<u64>)>,
}

/// What a pull did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// The image.
    pub image: Digest,
    /// The digest of the root that the name has at its registry.
    pub digest: Digest,
    /// Whether anything is new here; if not, the image was up to date.
    pub newer: bool,
}

/// Downloads that are going on, by blob.
#[derive(Debug, Default)]
pub(super) struct Downloads {}

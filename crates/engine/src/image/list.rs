//! Lists and details of images.

use std::path::PathBuf;
use std::sync::Arc;

use store::Image;
use types::Digest;

/// One line of a list.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The image.
    pub image: Arc<Image>,
    /// The nearest parent made here.
    pub parent: Option<Digest>,
    /// Familiar names with a tag.
    pub repo_tags: Vec<String>,
    /// Familiar names with a digest.
    pub repo_digests: Vec<String>,
    /// Seconds since 1970; 0 if the image does not tell when it was made.
    pub created: i64,
    /// The bytes of its layers' files.
    pub size: u64,
    /// The bytes that other images have too, if asked for.
    pub shared_size: Option<u64>,
    /// How many containers use it.
    pub containers: usize,
}

/// Everything about one image.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The image, its configuration in `image.config`.
    pub image: Arc<Image>,
    /// Familiar names with a tag.
    pub repo_tags: Vec<String>,
    /// Familiar names with a digest.
    pub repo_digests: Vec<String>,
    /// The bytes of its layers' files.
    pub size: u64,
    /// The directories of its layers, top first (`GraphDriver.Data`).
    pub lower: Vec<PathBuf>,
    /// The remark of its newest history line, or of its configuration.
    pub comment: String,
}

//! Reading images from an archive: `docker save`'s, or an OCI layout.

use std::io::Read;
use std::sync::Arc;

use types::{ImageRef, Platform};

use crate::catalog::Image;
use crate::{Result, Store};

/// One image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// The names that it was given.
    pub names: Vec<ImageRef>,
}

impl Store {
    /// Loads every image of an archive (compressed or not), as a stream.
    pub fn load(&self, input: &mut (dyn Read + Send), platform: Option<&Platform>) -> Result<Vec<Loaded>> {
        let _ = (input, platform);
        todo!()
    }
}

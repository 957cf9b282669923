//! Writing images to an archive that is `docker save`'s and an OCI layout at once.

use std::io::Write;

use types::Platform;

use crate::{Result, Store};

impl Store {
    /// Writes the images that `references` mean, each layer once and byte for byte what it was made from, so that loading gives back the same ids.
    pub fn save(&self, references: &[String], platform: Option<&Platform>, output: &mut dyn Write) -> Result<()> {
        let _ = (references, platform, output);
        todo!()
    }
}

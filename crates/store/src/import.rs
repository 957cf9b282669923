//! Making an image of one layer from an archive of a root filesystem.

use std::io::Read;
use std::sync::Arc;

use types::{ImageRef, Platform};

use crate::catalog::Image;
use crate::{Result, Store};

/// How to make an image from an archive.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// The name to give.
    pub name: Option<ImageRef>,
    /// Instructions as in a Dockerfile: CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME, WORKDIR.
    pub changes: Vec<String>,
    /// The remark; empty: `Imported from <source>`.
    pub message: String,
    /// Where the archive came from, `-` for a stream.
    pub source: String,
    /// The platform it is for; the machine's if absent.
    pub platform: Option<Platform>,
}

impl Store {
    /// Makes an image of one layer from a tar archive, plain or compressed with gzip, xz, zstd or bzip2.
    pub fn import(&self, input: &mut (dyn Read + Send), options: &ImportOptions) -> Result<Arc<Image>> {
        let _ = (input, options);
        todo!()
    }
}

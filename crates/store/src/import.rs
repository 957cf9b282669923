//! Making an image of one layer from an archive of a root filesystem.

use std::io::Read;
use std::sync::Arc;

use types::image::{History, ImageConfig, RootFs, RunConfig};
use types::{ImageRef, Platform};

use crate::catalog::Image;
use crate::image::{NewImage, NewLayer, now};
use crate::{Error, Result, Store, changes};

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
        // Wrong instructions are told before the archive is read.
        let mut run = RunConfig::default();
        changes::apply(&mut run, &options.changes)?;
        let staged = self.unpack(input)?;
        if staged.is_empty() {
            return Err(Error::invalid("the archive", "it is empty"));
        }
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        let created = Some(now());
        let comment = match options.message.as_str() {
            "" => format!("Imported from {}", options.source),
            message => message.to_owned(),
        };
        let config = ImageConfig {
            architecture: platform.architecture,
            variant: platform.variant.unwrap_or_default(),
            os: platform.os,
            created: created.clone(),
            comment: comment.clone(),
            config: Some(run),
            rootfs: RootFs { kind: "layers".to_owned(), diff_ids: vec![staged.diff_id().clone()] },
            history: vec![History { created, comment, ..History::default() }],
            ..ImageConfig::default()
        };
        let config =
            serde_json::to_vec(&config).map_err(|source| Error::Encode { kind: "configuration".to_owned(), id: String::new(), source })?;
        self.commit_image(NewImage {
            config,
            manifest: None,
            documents: Vec::new(),
            layers: vec![NewLayer::Staged(Arc::new(staged), None)],
            parent: None,
            names: options.name.iter().map(|name| (name.clone(), None)).collect(),
        })
    }
}

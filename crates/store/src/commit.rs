//! Making an image of a container: its image with one layer more.

use std::io::{BufWriter, Write};
use std::sync::Arc;

use types::image::{History, ImageConfig, RunConfig};
use types::{Digest, ImageRef};

use crate::catalog::Image;
use crate::image::{NewImage, NewLayer, now};
use crate::layer::StagedLayer;
use crate::{Error, Result, Store};

const BUFFER_LEN: usize = 128 << 10;
/// Of the archive that holds nothing: two blocks of zeros.
const EMPTY_ARCHIVE: &str = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

/// What an image made of a container is.
#[derive(Debug, Clone, Default)]
pub struct CommitOptions {
    /// The name to give.
    pub name: Option<ImageRef>,
    /// What containers of it run.
    pub run: RunConfig,
    /// Who made it.
    pub author: String,
    /// A remark.
    pub comment: String,
    /// What the history says of the layer.
    pub created_by: String,
}

impl Store {
    /// Makes an image of a container's image and read/write layer. Nothing else may write to the layer meanwhile, or the image has some of it.
    pub fn commit_container(&self, id: &str, parent: &Image, options: &CommitOptions) -> Result<Arc<Image>> {
        let staged = self.stage_upper(id)?;
        let is_empty = staged.diff_id().to_string() == EMPTY_ARCHIVE;
        let mut layers = Vec::new();
        for layer in &parent.layers {
            let hold = self.find_layer(&layer.diff_id, &layer.chain_id).ok_or_else(|| Error::MissingLayer(layer.diff_id.clone()))?;
            layers.push(NewLayer::Present(hold));
        }
        let config = config(parent, options, (!is_empty).then(|| staged.diff_id()));
        if !is_empty {
            layers.push(NewLayer::Staged(Arc::new(staged), None));
        }
        let config =
            serde_json::to_vec(&config).map_err(|source| Error::Encode { kind: "configuration".to_owned(), id: String::new(), source })?;
        self.commit_image(NewImage {
            config,
            manifest: None,
            documents: Vec::new(),
            layers,
            parent: Some(parent.id.clone()),
            names: options.name.iter().map(|name| (name.clone(), None)).collect(),
        })
    }

    /// Packs on one thread what is unpacked on another: the layer's digest is that of the archive.
    fn stage_upper(&self, id: &str) -> Result<StagedLayer> {
        let pipe = |source| Error::Io { operation: "make a pipe for", path: self.container_dir(id), source };
        let (mut reader, writer) = std::io::pipe().map_err(pipe)?;
        std::thread::scope(|scope| {
            let packing = std::thread::Builder::new().name("pack".to_owned()).spawn_scoped(scope, move || {
                let mut output = BufWriter::with_capacity(BUFFER_LEN, writer);
                self.pack_upper(id, &mut output)?;
                output.flush().map_err(|error| Error::io("pack", &self.container_dir(id), error))
            });
            let packing = packing.map_err(pipe)?;
            let staged = self.unpack(&mut reader);
            // A packer that still writes sees that nobody reads.
            drop(reader);
            let packed = packing.join().unwrap_or_else(|_| Err(Error::invalid("the container's layer", "the thread that packs it failed")));
            match (packed, staged) {
                // What failed while packing explains what is wrong with the archive, unless nobody took it.
                (Err(error), Ok(_)) => Err(error),
                (Err(error), Err(_)) if !is_broken_pipe(&error) => Err(error),
                (_, staged) => staged,
            }
        })
    }
}

fn is_broken_pipe(error: &Error) -> bool {
    matches!(error, Error::Archive(tarball::Error::Write(source)) if source.kind() == std::io::ErrorKind::BrokenPipe)
}

fn config(parent: &Image, options: &CommitOptions, layer: Option<&Digest>) -> ImageConfig {
    let created = Some(now());
    let mut config = parent.config.clone();
    config.rootfs.diff_ids.extend(layer.cloned());
    config.history.push(History {
        created: created.clone(),
        created_by: options.created_by.clone(),
        author: options.author.clone(),
        comment: options.comment.clone(),
        empty_layer: layer.is_none(),
        ..History::default()
    });
    config.created = created;
    config.author.clone_from(&options.author);
    config.comment.clone_from(&options.comment);
    config.config = Some(options.run.clone());
    // Of the build of the parent, not of this image.
    for stale in ["container", "container_config", "id", "parent"] {
        config.rest.remove(stale);
    }
    config
}

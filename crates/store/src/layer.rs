//! Layers: unpacking into the staging area, completing, publishing, holding.

use std::io::Read;
use std::sync::Arc;

use types::Digest;

use crate::catalog::Layer;
use crate::{Result, Store};

/// A layer that is unpacked but not yet visible. Dropped, it is removed.
#[derive(Debug)]
pub struct StagedLayer {}

impl StagedLayer {
    /// The digest of the uncompressed archive.
    pub fn diff_id(&self) -> &Digest {
        todo!()
    }

    /// The bytes of its regular files.
    pub fn size(&self) -> u64 {
        todo!()
    }
}

/// A layer that can't be removed while this exists.
#[derive(Debug)]
pub struct LayerHold {}

impl LayerHold {
    /// The layer.
    pub fn layer(&self) -> &Arc<Layer> {
        todo!()
    }
}

impl Store {
    /// The layer of that diffID if the store has it, held. A layer that took something from those below it is found by its chainID.
    pub fn find_layer(&self, diff_id: &Digest, chain_id: &Digest) -> Option<LayerHold> {
        let _ = (diff_id, chain_id);
        todo!()
    }

    /// Unpacks an archive, compressed in any of the known ways or not, into the staging area, hashing it meanwhile. Reads to the end of `input`.
    pub fn unpack(&self, input: &mut (dyn Read + Send)) -> Result<StagedLayer> {
        let _ = input;
        todo!()
    }
}

//! The store: content by digest, layers and snapshots for overlayfs, images and their names, volumes, and the metadata database.
//!
//! Everything here blocks and may be called from any thread; the engine calls it through `spawn_blocking`. Lists and look-ups ([`Store::images`], [`Store::resolve`],
//! [`Store::volumes`]) read an immutable snapshot in memory and never wait for a disk, nor for a writer that does.
//!
//! On disk, below the data root:
//!
//! - `db/cais.db`: documents by kind and id, among them `image`, `name`, `layer` and `volume` of this crate;
//! - `content/sha256/<hex>`: configurations, manifests and indexes, byte for byte;
//! - `layers/<hex>/fs`: a layer's files, ready to be an overlay's lower directory, and beside it `recipe`, which gives back the exact archive;
//! - `containers/<id>/{upper,work,layers}`: a container's read/write layer and the list of the layers below it; the engine keeps more files of its own in that directory;
//! - `volumes/<name>/_data`;
//! - `staging/`: what is being made, emptied at start; `trash/`: what is being removed, emptied in the background.
#![forbid(unsafe_code)]

pub mod archive;
mod cache;
mod catalog;
mod changes;
mod commit;
mod compress;
mod content;
mod db;
pub mod ephemeral;
mod error;
mod fsck;
mod image;
mod import;
mod layer;
mod load;
pub mod merged;
mod push;
mod reaper;
pub mod records;
#[cfg(test)]
mod records_contract;
mod remove;
mod save;
mod snapshot;
mod step;
mod store;
mod upper;
mod usage;
mod volume;

pub use archive::limits::Limits;
pub use cache::{CACHE_MOUNT, CacheRecord};
pub use catalog::{Catalog, Image, ImageLayer, Layer, Name, Origin, RootAttributes};
pub use changes::apply as apply_changes;
pub use commit::CommitOptions;
pub use content::{Content, digest_of as digest_bytes};
pub use db::Database;
pub use ephemeral::Ephemeral;
pub use error::{Error, Result};
pub use fsck::{DamagedLayer, Verified};
pub use image::{HistoryEntry, NewImage, NewLayer};
pub use import::ImportOptions;
pub use layer::{LayerHold, StagedLayer, chain_ids};
pub use load::Loaded;
pub use push::{KnownManifest, Pushing};
pub use records::{Records, Transaction};
pub use remove::{ImageUser, Removal};
pub use snapshot::Snapshot;
pub use step::{Draft, Scratch};
pub use store::{Options, Store};
pub use upper::{ChangeKind, PathChange};
pub use usage::{DiskUse, ImageUsage, Usage, VolumeUsage};
pub use volume::{NewVolume, Volume};

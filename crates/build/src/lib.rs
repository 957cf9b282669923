//! Building: a graph of steps is carried out, with a cache of results, over the trees that contexts, images and earlier steps are.
//!
//! Everything here blocks. Commands run, images are fetched and repositories are cloned by a [`Worker`]; files are copied, hashed and made layers here.
#![forbid(unsafe_code)]

mod assemble;
mod cancel;
mod digest;
mod error;
mod exec;
mod explain;
mod files;
mod glob;
mod mounts;
mod owner;
mod place;
mod solve;
mod tree;
mod worker;

pub use assemble::{Assembled, assemble};
pub use cancel::Cancel;
pub use digest::Digests;
pub use error::{Error, Result};
pub use mounts::CacheMounts;
pub use solve::{Failed, Inputs, Layers, Made, MakeFilter, Solved, Solver};
pub use tree::{Filter, Tree};
pub use worker::{End, MountSource, Output, Progress, Ran, Step, StepMount, Worker};

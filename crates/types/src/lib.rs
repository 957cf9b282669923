//! What every other crate may know: identifiers, digests, image references, sizes, error kinds and the model of a container.
//!
//! Nothing here does I/O (random bytes for new ids aside), and nothing here knows another crate of the workspace.

pub mod container;
pub mod error;
pub mod id;
pub mod lenient;
pub mod nullable;

pub use error::{Classify, ErrorKind};
pub use id::Id;

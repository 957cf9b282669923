//! What every other crate may know: identifiers, digests, image references, sizes, error kinds and the model of a container.
//!
//! Nothing here does I/O (random bytes for new ids aside), and nothing here knows another crate of the workspace.
#![forbid(unsafe_code)]

pub mod build;
pub mod container;
pub mod digest;
pub mod error;
pub mod id;
pub mod image;
pub mod lenient;
pub mod nullable;
pub mod platform;
pub mod reference;
pub mod words;

pub use digest::Digest;
pub use error::{Classify, ErrorKind};
pub use id::Id;
pub use platform::Platform;
pub use reference::ImageRef;

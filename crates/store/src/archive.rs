//! Archives as untrusted input: reading, unpacking through directory descriptors, and giving back the exact bytes.
//!
//! Tar is read by an own parser rather than by a library, because two things are needed that libraries do not give: every byte that is not a file's content, for the
//! [`recipe`], and one reading of ambiguous archives, the one that Docker (Go's `archive/tar`) has, so that nothing that Docker refuses or sees one way gets in another.

pub mod compression;
pub mod limits;
pub mod recipe;

pub(crate) mod extract;
pub(crate) mod parents;
pub(crate) mod pipeline;

//! Archives as untrusted input: reading, unpacking through directory descriptors, and giving back the exact bytes.

pub mod limits;

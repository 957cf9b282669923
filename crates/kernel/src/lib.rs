//! The only crate with `unsafe`: Linux system calls that `rustix` lacks, behind typed descriptors.

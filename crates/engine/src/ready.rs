//! Waiting for descriptors.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use tokio::io::unix::AsyncFd;

/// Puts a descriptor under tokio's watch.
#[expect(
    deprecated,
    reason = "what tokio warns of is a type that closes its descriptor while it is watched: everything given here owns its own until it is dropped"
)]
pub(crate) fn watched<T: AsFd + AsRawFd>(owner: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::new(owner)
}

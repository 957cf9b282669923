//! Removal of names and images by Docker's rules.

use types::Digest;

use crate::{Result, Store};

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container's id.
    pub container: String,
    /// Whether it runs.
    pub running: bool,
}

/// One thing that a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A name is gone, in the familiar form.
    Untagged(String),
    /// An image or a layer (by its chainID) is gone.
    Deleted(Digest),
}

impl Store {
    /// Removes a name, or an image by its id or a prefix of it, as `docker rmi` does: the image goes with its last name, its layers when nobody else has them,
    /// its nameless parents unless `noprune`. `users` tells which containers use an image; it is called while the store's writers wait, so it must only look.
    pub fn remove_image(
        &self,
        reference: &str,
        force: bool,
        noprune: bool,
        users: &dyn Fn(&Digest) -> Vec<ImageUser>,
    ) -> Result<Vec<Removal>> {
        let _ = (reference, force, noprune, users);
        todo!()
    }
}

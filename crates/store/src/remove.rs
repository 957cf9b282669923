//! Removal of names and images by Docker's rules.

use std::sync::{Arc, MutexGuard};

use durable::fail_point;
use types::{Digest, ImageRef};

use crate::catalog::{Catalog, Image, Layer, kind};
use crate::records::{Records, Transaction};
use crate::store::referred;
use crate::{Error, Result, Store};

/// A container that uses an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container's id.
    pub container: String,
    /// The container's name, if it has one.
    pub name: String,
    /// Whether it runs.
    pub running: bool,
}

impl ImageUser {
    /// The id as people know it, and the name.
    fn shown(&self) -> String {
        match self.name.as_str() {
            "" => short(&self.container).to_owned(),
            name => format!("{} ({name})", short(&self.container)),
        }
    }
}

/// One thing that a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A name is gone, in the familiar form.
    Untagged(String),
    /// An image or a layer (by its chainID) is gone.
    Deleted(Digest),
}

type Users<'a> = &'a dyn Fn(&Digest) -> Vec<ImageUser>;

impl Store {
    /// Removes a name, or an image by its id or a prefix of it, as `docker rmi` does: the image goes with its last name, its layers when nobody else has them,
    /// its nameless parents unless `noprune`. `users` tells which containers use an image; it is called while the store's writers wait, so it must only look.
    pub fn remove_image(&self, reference: &str, force: bool, noprune: bool, users: Users<'_>) -> Result<Vec<Removal>> {
        let right = self.write();
        let before = self.catalog();
        let image = before.resolve(reference)?;
        let mut plan = Plan { catalog: Catalog::clone(&before), removals: Vec::new(), images: Vec::new(), names: Vec::new(), users, force };
        let goes = match named(&before, reference, &image) {
            Some(name) => plan.remove_name(&image, &name)?,
            None => plan.remove_all_names(&image)?,
        };
        if goes {
            plan.remove_image(&image, noprune)?;
        }
        self.carry_out(&right, &before, plan)
    }

    /// First the records, so that a crash leaves at most files that the next start removes.
    fn carry_out(&self, right: &MutexGuard<'_, ()>, before: &Catalog, plan: Plan<'_>) -> Result<Vec<Removal>> {
        let mut transaction = Transaction::new();
        for name in &plan.names {
            transaction.delete(kind::NAME, &name.to_string())?;
        }
        for image in &plan.images {
            transaction.delete(kind::IMAGE, image.id.hex())?;
        }
        fail_point("store.remove.begin");
        self.db().apply(transaction)?;
        fail_point("store.remove.recorded");
        let left = referred(&plan.catalog);
        self.show(right, plan.catalog);
        for digest in referred(before).difference(&left) {
            self.content().remove(digest);
        }
        let dropped = self.drop_unused_layers(right)?;
        let mut removals = plan.removals;
        for image in &plan.images {
            removals.extend(dropped_layers(image, &dropped));
        }
        Ok(removals)
    }
}

/// The chainIDs of an image's layers that were dropped, top first.
fn dropped_layers<'a>(image: &'a Image, dropped: &'a [Arc<Layer>]) -> impl Iterator<Item = Removal> + 'a {
    let is_dropped = |key: &str| dropped.iter().any(|layer| layer.key == key);
    image.layers.iter().rev().filter(move |layer| is_dropped(&layer.key)).map(|layer| Removal::Deleted(layer.chain_id.clone()))
}

/// The name that a reference is, if it is not an id.
fn named(catalog: &Catalog, reference: &str, image: &Image) -> Option<ImageRef> {
    let digits = reference.strip_prefix("sha256:").unwrap_or(reference);
    let name = reference.parse::<ImageRef>().ok()?.with_default_tag();
    let name = match name.digest() {
        Some(digest) => name.with_digest(digest.clone()),
        None => name,
    };
    match catalog.names.contains_key(&name) {
        true => Some(name),
        false if image.id.hex().starts_with(digits) => None,
        false => Some(name),
    }
}

struct Plan<'a> {
    catalog: Catalog,
    removals: Vec<Removal>,
    images: Vec<Arc<Image>>,
    names: Vec<ImageRef>,
    users: Users<'a>,
    force: bool,
}

impl Plan<'_> {
    /// A name was given. Answers whether the image goes too.
    fn remove_name(&mut self, image: &Image, name: &ImageRef) -> Result<bool> {
        if !self.force
            && self.is_single(image)
            && let Some(user) = (self.users)(&image.id).first()
        {
            return Err(Error::ImageInUse(format!(
                "unable to remove repository reference \"{}\" (must force) - container {} is using its referenced image {}",
                name.familiar(),
                user.shown(),
                image.id.short()
            )));
        }
        self.untag(name.clone());
        let same_repository = |other: &ImageRef| other.without_suffix() == name.without_suffix();
        if name.digest().is_none() && !self.catalog.tags_of(&image.id).into_iter().any(same_repository) {
            // What is left of that repository are digests, which mean nothing without a tag.
            let digests: Vec<ImageRef> =
                self.catalog.digests_of(&image.id).into_iter().filter(|other| same_repository(other)).cloned().collect();
            digests.into_iter().for_each(|digest| self.untag(digest));
        }
        Ok(self.names(image).is_empty())
    }

    /// An id was given: all names go if they are one image's under one repository, or by force.
    fn remove_all_names(&mut self, image: &Image) -> Result<bool> {
        if !self.force && !self.names(image).is_empty() && !self.is_single(image) {
            let names: Vec<String> = self.names(image).iter().map(ImageRef::familiar).collect();
            return Err(Error::ImageInUse(format!(
                "unable to delete {} (must be forced) - image is referenced in multiple repositories: {}",
                image.id.short(),
                names.join(", ")
            )));
        }
        self.check_conflicts(image)?;
        self.names(image).into_iter().for_each(|name| self.untag(name));
        Ok(true)
    }

    fn remove_image(&mut self, image: &Arc<Image>, noprune: bool) -> Result<()> {
        self.check_conflicts(image)?;
        self.delete(image);
        let mut next = image.parent.clone().filter(|_| !noprune);
        while let Some(parent) = next.and_then(|id| self.catalog.images.get(&id).cloned()) {
            let wanted = !self.names(&parent).is_empty()
                || self.catalog.children_of(&parent.id).next().is_some()
                || !(self.users)(&parent.id).is_empty();
            if wanted {
                break;
            }
            next = parent.parent.clone();
            self.delete(&parent);
        }
        Ok(())
    }

    fn check_conflicts(&self, image: &Image) -> Result<()> {
        let conflict = |how: &str, why: String| Err(Error::ImageInUse(format!("unable to delete {} ({how}) - {why}", image.id.short())));
        if self.catalog.children_of(&image.id).next().is_some() {
            return conflict("cannot be forced", "image has dependent child images".to_owned());
        }
        let users = (self.users)(&image.id);
        if let Some(user) = users.iter().find(|user| user.running) {
            return conflict("cannot be forced", format!("image is being used by running container {}", user.shown()));
        }
        match users.first() {
            Some(user) if !self.force => conflict("must be forced", format!("image is being used by stopped container {}", user.shown())),
            _ => Ok(()),
        }
    }

    /// Whether the image has one tag at most, and everything in one repository.
    fn is_single(&self, image: &Image) -> bool {
        let names = self.names(image);
        let one_repository = names.windows(2).all(|pair| pair[0].without_suffix() == pair[1].without_suffix());
        !names.is_empty() && one_repository && self.catalog.tags_of(&image.id).len() <= 1
    }

    fn names(&self, image: &Image) -> Vec<ImageRef> {
        let tags = self.catalog.tags_of(&image.id);
        tags.into_iter().chain(self.catalog.digests_of(&image.id)).cloned().collect()
    }

    fn untag(&mut self, name: ImageRef) {
        if self.catalog.names.remove(&name).is_some() {
            self.removals.push(Removal::Untagged(name.familiar()));
            self.names.push(name);
        }
    }

    fn delete(&mut self, image: &Arc<Image>) {
        self.catalog.images.remove(&image.id);
        self.removals.push(Removal::Deleted(image.id.clone()));
        self.images.push(Arc::clone(image));
    }
}

fn short(id: &str) -> &str {
    id.get(..12).unwrap_or(id)
}

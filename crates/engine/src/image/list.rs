//! Lists and details of images, and the filters that select them.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;
use store::{Catalog, Image, Store};
use types::image::{Descriptor, Index, media_type};
use types::{Digest, ImageRef};

use super::glob;
use super::{Error, ListRequest, Result, Users};
use crate::request::Filters;

const LIST_FILTERS: [&str; 7] = ["before", "dangling", "label", "label!", "reference", "since", "until"];
/// How BuildKit marks attestations in an index.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";
const REFERENCE_DIGEST: &str = "vnd.docker.reference.digest";
const ATTESTATION: &str = "attestation-manifest";
const PRUNE_FILTERS: [&str; 4] = ["dangling", "label", "label!", "until"];

/// One line of a list.
#[derive(Debug, Clone)]
pub struct ImageSummary {
    /// The image.
    pub image: Arc<Image>,
    /// The nearest parent made here.
    pub parent: Option<Digest>,
    /// Familiar names with a tag.
    pub repo_tags: Vec<String>,
    /// Familiar names with a digest.
    pub repo_digests: Vec<String>,
    /// Seconds since 1970; 0 if the image does not tell when it was made.
    pub created: i64,
    /// The bytes of its layers' files.
    pub size: u64,
    /// The bytes that other images have too, if asked for.
    pub shared_size: Option<u64>,
    /// How many containers use it.
    pub containers: usize,
    /// Their ids.
    pub users: Vec<String>,
    /// The manifests that its names stand for, if asked for: its own, and those of other platforms in the same index.
    pub manifests: Option<Vec<ListedManifest>>,
}

/// A manifest that an image's name stands for.
#[derive(Debug, Clone)]
pub struct ListedManifest {
    /// As the index lists it.
    pub descriptor: Descriptor,
    /// Whether it is the image's own; the others are at the registry only.
    pub is_here: bool,
    /// The image that an attestation speaks of.
    pub attests: Option<String>,
}

/// Everything about one image.
#[derive(Debug, Clone)]
pub struct ImageDetails {
    /// The image, its configuration in `image.config`.
    pub image: Arc<Image>,
    /// Familiar names with a tag.
    pub repo_tags: Vec<String>,
    /// Familiar names with a digest.
    pub repo_digests: Vec<String>,
    /// The bytes of its layers' files.
    pub size: u64,
    /// The directories of its layers, top first (`GraphDriver.Data`).
    pub lower: Vec<PathBuf>,
    /// The remark of its newest history line, or of its configuration.
    pub comment: String,
}

pub(super) fn list(store: &Store, catalog: &Catalog, request: &ListRequest, users: &Users) -> Result<Vec<ImageSummary>> {
    known(&request.filters, &LIST_FILTERS)?;
    let selection = Selection::new(catalog, &request.filters)?;
    let shared: HashMap<Digest, u64> = match request.shared_size {
        true => catalog.image_usage().into_iter().map(|usage| (usage.id, usage.shared)).collect(),
        false => HashMap::new(),
    };
    let mut lines: Vec<ImageSummary> = Vec::new();
    for image in catalog.images() {
        let tags = catalog.tags_of(&image.id);
        let digests = catalog.digests_of(&image.id);
        let nameless = tags.is_empty() && digests.is_empty();
        let is_step = nameless && catalog.children_of(&image.id).next().is_some();
        if (is_step && !request.all) || !selection.takes(image, nameless && !is_step) {
            continue;
        }
        let repo_tags = selection.names(tags);
        let repo_digests = selection.names(digests);
        if selection.by_name() && repo_tags.is_empty() && repo_digests.is_empty() {
            continue;
        }
        let users: Vec<String> = users(&image.id).into_iter().map(|user| user.container).collect();
        lines.push(ImageSummary {
            image: Arc::clone(image),
            parent: image.parent.clone(),
            repo_tags,
            repo_digests,
            created: created(image).map_or(0, Timestamp::as_second),
            size: image.size(),
            shared_size: request.shared_size.then(|| shared.get(&image.id).copied().unwrap_or(0)),
            containers: users.len(),
            users,
            manifests: request.manifests.then(|| manifests(store, catalog, image)),
        });
    }
    lines.sort_by_key(|line| Reverse(created(&line.image)));
    Ok(lines)
}

pub(super) fn details(store: &Store, catalog: &Catalog, image: Arc<Image>) -> ImageDetails {
    let familiar = |names: Vec<&ImageRef>| names.into_iter().map(ImageRef::familiar).collect();
    let comment = match image.config.comment.as_str() {
        "" => image.config.history.last().map(|step| step.comment.clone()).unwrap_or_default(),
        comment => comment.to_owned(),
    };
    ImageDetails {
        repo_tags: familiar(catalog.tags_of(&image.id)),
        repo_digests: familiar(catalog.digests_of(&image.id)),
        size: image.size(),
        lower: store.lowerdirs(&image),
        comment,
        image,
    }
}

/// The images that a prune may remove, parents after their children: those without a name, or all that nobody uses.
pub(super) fn prunable(catalog: &Catalog, filters: &Filters, users: &Users) -> Result<Vec<Arc<Image>>> {
    known(filters, &PRUNE_FILTERS)?;
    let only_dangling = flag(filters, "dangling")?.unwrap_or(true);
    let mut others = filters.clone();
    others.remove("dangling");
    let selection = Selection::new(catalog, &others)?;
    let is_named = |image: &Image| !catalog.tags_of(&image.id).is_empty() || !catalog.digests_of(&image.id).is_empty();
    let goes = |image: &&Arc<Image>| {
        let is_step = catalog.children_of(&image.id).next().is_some();
        let stays = is_step || (only_dangling && is_named(image));
        !stays && selection.takes(image, true) && users(&image.id).is_empty()
    };
    Ok(catalog.images().filter(goes).cloned().collect())
}

/// What an image's names stand for; only its own manifest where no index is known.
fn manifests(store: &Store, catalog: &Catalog, image: &Image) -> Vec<ListedManifest> {
    let is_index = |target: &&Descriptor| media_type::is_index(&target.media_type);
    let target = catalog.names().filter(|(_, name)| name.image == image.id).map(|(_, name)| &name.target).find(is_index);
    let index = target.and_then(|target| serde_json::from_slice::<Index>(&store.content().read(&target.digest).ok()?).ok());
    let own = Descriptor { platform: Some(image.config.platform()), ..image.manifest.clone() };
    let listed = index.map_or_else(|| vec![own], |index| index.manifests);
    let about = |descriptor: &Descriptor| {
        let is_attestation = descriptor.annotations.get(REFERENCE_TYPE).is_some_and(|kind| kind == ATTESTATION);
        descriptor.annotations.get(REFERENCE_DIGEST).filter(|_| is_attestation).cloned()
    };
    let entry = |descriptor: Descriptor| ListedManifest {
        is_here: descriptor.digest == image.manifest.digest,
        attests: about(&descriptor),
        descriptor,
    };
    listed.into_iter().map(entry).collect()
}

/// When an image says that it was made.
pub(super) fn created(image: &Image) -> Option<Timestamp> {
    image.config.created.as_deref().and_then(|text| text.parse().ok())
}

/// Filters, understood.
struct Selection<'f> {
    filters: &'f Filters,
    dangling: Option<bool>,
    patterns: &'f [String],
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    until: Option<Timestamp>,
}

impl<'f> Selection<'f> {
    fn new(catalog: &Catalog, filters: &'f Filters) -> Result<Self> {
        let moments = |key: &str| -> Result<Vec<Timestamp>> {
            crate::filter::values(filters, key).iter().map(|name| Ok(created(&*catalog.resolve(name)?).unwrap_or(Timestamp::MIN))).collect()
        };
        let until: Result<Vec<Timestamp>> = crate::filter::values(filters, "until")
            .iter()
            .map(|text| {
                crate::filter::moment("until", text).map_err(|_| Error::FilterValue { key: "until".to_owned(), value: text.clone() })
            })
            .collect();
        Ok(Self {
            filters,
            dangling: flag(filters, "dangling")?,
            patterns: crate::filter::values(filters, "reference"),
            before: moments("before")?.into_iter().min(),
            since: moments("since")?.into_iter().max(),
            until: until?.into_iter().min(),
        })
    }

    fn takes(&self, image: &Image, dangling: bool) -> bool {
        let at = created(image).unwrap_or(Timestamp::MIN);
        let labels = image.config.config.as_ref().and_then(|config| config.labels.clone()).unwrap_or_default();
        self.dangling.is_none_or(|wanted| wanted == dangling)
            && self.before.is_none_or(|before| at < before)
            && self.since.is_none_or(|since| at > since)
            && self.until.is_none_or(|until| at < until)
            && crate::filter::labels_match(self.filters, &labels)
    }

    fn by_name(&self) -> bool {
        !self.patterns.is_empty()
    }

    /// The names that the patterns select, in the familiar form.
    fn names(&self, names: Vec<&ImageRef>) -> Vec<String> {
        let fits = |name: &ImageRef| {
            let forms = [name.familiar(), name.familiar_name(), name.to_string(), name.repository()];
            self.patterns.iter().any(|pattern| forms.iter().any(|form| glob::matches(pattern, form)))
        };
        names.into_iter().filter(|name| !self.by_name() || fits(name)).map(ImageRef::familiar).collect()
    }
}

fn known(filters: &Filters, keys: &[&str]) -> Result<()> {
    match filters.keys().find(|key| !keys.contains(&key.as_str())) {
        Some(key) => Err(Error::Filter(key.clone())),
        None => Ok(()),
    }
}

fn flag(filters: &Filters, key: &str) -> Result<Option<bool>> {
    crate::filter::flag(filters, key)
        .map_err(|_| Error::FilterValue { key: key.to_owned(), value: crate::filter::values(filters, key).join(",") })
}

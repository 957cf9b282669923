//! Writing images to an archive that is `docker save`'s and an OCI layout at once.

mod tar;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::io::Write;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Map, Value, json};
use types::image::{Descriptor, Index, media_type};
use types::{Digest, ImageRef, Platform};

use crate::archive::recipe::rebuild;
use crate::catalog::{Catalog, Image, Layer};
use crate::image::plain_manifest;
use crate::layer::LayerHold;
use crate::{Error, Result, Store};
use tar::TarWriter;

/// The annotations by which tools find an image's name in an OCI layout.
pub(crate) const NAME_ANNOTATION: &str = "io.containerd.image.name";
pub(crate) const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// An image to be written, with the names to be written for it.
struct Chosen {
    image: Arc<Image>,
    names: BTreeSet<ImageRef>,
    layers: Vec<LayerHold>,
}

/// One image in `manifest.json`.
#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Store {
    /// Writes the images that `references` mean, each layer once and byte for byte what it was made from, so that loading gives back the same ids.
    /// A repository's name alone means all of its tags.
    pub fn save(&self, references: &[String], platform: Option<&Platform>, output: &mut dyn Write) -> Result<()> {
        let chosen = self.choose(references, platform)?;
        self.write_archive(&chosen, output)
    }

    /// Writes one image under these names, which it need not have here.
    pub fn save_as(&self, image: &Arc<Image>, names: &[ImageRef], output: &mut dyn Write) -> Result<()> {
        let layers = self.hold_layers(image)?;
        self.write_archive(&[Chosen { image: Arc::clone(image), names: names.iter().cloned().collect(), layers }], output)
    }

    fn write_archive(&self, chosen: &[Chosen], output: &mut dyn Write) -> Result<()> {
        let mut archive = Archive { tar: TarWriter::new(output), written: HashSet::new() };
        archive.tar.directory("blobs")?;
        archive.tar.directory("blobs/sha256")?;
        let mut entries = Vec::new();
        let mut manifests = Vec::new();
        let mut repositories: BTreeMap<String, BTreeMap<String, String>> = BTreeMap::new();
        for one in chosen {
            let config = self.content().read(&one.image.id)?;
            archive.blob(&one.image.id, &config)?;
            for hold in &one.layers {
                archive.layer(self, hold.layer())?;
            }
            let layers: Vec<Arc<Layer>> = one.layers.iter().map(|hold| Arc::clone(hold.layer())).collect();
            let manifest = plain_manifest(config.len(), &one.image.id, &layers)?;
            let digest = crate::content::digest_of(&manifest);
            archive.blob(&digest, &manifest)?;
            manifests.extend(one.descriptors(&digest, manifest.len() as u64));
            entries.push(one.entry());
            one.add_to(&mut repositories);
        }
        let index = Index {
            schema_version: 2,
            media_type: media_type::OCI_INDEX.to_owned(),
            manifests,
            annotations: BTreeMap::new(),
            rest: Map::new(),
        };
        archive.tar.file("index.json", &encode(&index)?)?;
        archive.tar.file("manifest.json", &encode(&entries)?)?;
        archive.tar.file("oci-layout", &encode(&json!({ "imageLayoutVersion": "1.0.0" }))?)?;
        if !repositories.is_empty() {
            archive.tar.file("repositories", &encode(&repositories)?)?;
        }
        archive.tar.finish()
    }

    fn choose(&self, references: &[String], platform: Option<&Platform>) -> Result<Vec<Chosen>> {
        let catalog = self.catalog();
        let mut chosen: Vec<Chosen> = Vec::new();
        for reference in references {
            for (image, name) in meant(&catalog, reference)? {
                check_platform(&image, reference, platform)?;
                let at = match chosen.iter().position(|one| one.image.id == image.id) {
                    Some(at) => at,
                    None => {
                        let layers = self.hold_layers(&image)?;
                        chosen.push(Chosen { image, names: BTreeSet::new(), layers });
                        chosen.len() - 1
                    }
                };
                chosen[at].names.extend(name);
            }
        }
        Ok(chosen)
    }

    fn hold_layers(&self, image: &Image) -> Result<Vec<LayerHold>> {
        let hold = |layer: &crate::catalog::ImageLayer| {
            self.find_layer(&layer.diff_id, &layer.chain_id).ok_or_else(|| Error::MissingLayer(layer.diff_id.clone()))
        };
        image.layers.iter().map(hold).collect()
    }
}

/// The images that a reference means, with the name to be written for each: none for an id or a digest.
fn meant(catalog: &Catalog, reference: &str) -> Result<Vec<(Arc<Image>, Option<ImageRef>)>> {
    if let Ok(name) = reference.parse::<ImageRef>() {
        if name.is_name_only() {
            let of_repository = catalog.names().filter(|(held, _)| held.tag().is_some() && held.without_suffix() == name);
            let all: Vec<_> =
                of_repository.filter_map(|(held, target)| Some((Arc::clone(catalog.image(&target.image)?), Some(held.clone())))).collect();
            if !all.is_empty() {
                return Ok(all);
            }
        } else if name.digest().is_none() && catalog.name(&name).is_some() {
            return Ok(vec![(catalog.resolve(reference)?, Some(name))]);
        }
    }
    Ok(vec![(catalog.resolve(reference)?, None)])
}

fn check_platform(image: &Image, reference: &str, wanted: Option<&Platform>) -> Result<()> {
    match wanted {
        Some(wanted) if image.config.platform().suits(wanted).is_none() => Err(Error::invalid(
            format!("image {reference}"),
            format!("its platform ({}) does not match the specified platform ({wanted})", image.config.platform()),
        )),
        _ => Ok(()),
    }
}

impl Chosen {
    fn entry(&self) -> Entry {
        let tags: Vec<String> = self.names.iter().map(ImageRef::familiar).collect();
        Entry {
            config: blob_path(&self.image.id),
            repo_tags: Some(tags).filter(|tags| !tags.is_empty()),
            layers: self.image.layers.iter().map(|layer| blob_path(&layer.diff_id)).collect(),
        }
    }

    /// One descriptor for each name, or one without.
    fn descriptors(&self, digest: &Digest, size: u64) -> Vec<Descriptor> {
        let plain =
            Descriptor { platform: Some(self.image.config.platform()), ..Descriptor::new(media_type::OCI_MANIFEST, digest.clone(), size) };
        let named = |name: &ImageRef| {
            let mut named = plain.clone();
            named.annotations.insert(NAME_ANNOTATION.to_owned(), name.to_string());
            named.annotations.insert(REF_ANNOTATION.to_owned(), name.tag().unwrap_or_default().to_owned());
            named
        };
        match self.names.is_empty() {
            true => vec![plain],
            false => self.names.iter().map(named).collect(),
        }
    }

    fn add_to(&self, repositories: &mut BTreeMap<String, BTreeMap<String, String>>) {
        let top = self.image.layers.last().map_or("", |layer| layer.chain_id.hex());
        for name in &self.names {
            let tags = repositories.entry(name.familiar_name()).or_default();
            tags.insert(name.tag().unwrap_or_default().to_owned(), top.to_owned());
        }
    }
}

struct Archive<'a> {
    tar: TarWriter<'a>,
    written: HashSet<Digest>,
}

impl Archive<'_> {
    fn blob(&mut self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        match self.written.insert(digest.clone()) {
            true => self.tar.file(&blob_path(digest), bytes),
            false => Ok(()),
        }
    }

    fn layer(&mut self, store: &Store, layer: &Layer) -> Result<()> {
        if !self.written.insert(layer.diff_id.clone()) {
            return Ok(());
        }
        self.tar.begin(&blob_path(&layer.diff_id), layer.archive_size)?;
        let (found, size) = rebuild(&store.layers_dir().join(&layer.key), self.tar.output())?;
        if found != layer.diff_id || size != layer.archive_size {
            return Err(Error::DigestMismatch { subject: format!("the layer in {}", layer.key), expected: layer.diff_id.clone(), found });
        }
        self.tar.end(size)
    }
}

fn blob_path(digest: &Digest) -> String {
    format!("blobs/{}/{}", digest.algorithm().name(), digest.hex())
}

fn encode<T: Serialize + ?Sized>(value: &T) -> Result<Vec<u8>> {
    serde_json::to_value(value).and_then(|value: Value| serde_json::to_vec(&value)).map_err(|source| Error::Encode {
        kind: "archive".to_owned(),
        id: String::new(),
        source,
    })
}

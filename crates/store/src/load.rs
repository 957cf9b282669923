//! Reading images from an archive: `docker save`'s, or an OCI layout.
//!
//! The archive is read once, as a stream, though what tells which of its files are layers may come last: whatever looks like an archive itself is unpacked as a layer
//! right away, whatever looks like JSON is kept in memory (within bounds), and only at the end it is seen what belongs together.

use std::collections::HashMap;
use std::io::{self, BufReader, Read};
use std::sync::Arc;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use sha2::{Digest as _, Sha256};
use types::image::{Descriptor, ImageConfig, Index, Manifest, media_type};
use types::{Digest, ImageRef, Platform};

use crate::archive::compression::{Compression, decompress};
use crate::catalog::Image;
use crate::content::digest_of;
use crate::image::{NewImage, NewLayer};
use crate::layer::{StagedLayer, chain_ids};
use crate::save::{NAME_ANNOTATION, REF_ANNOTATION};
use crate::{Error, Result, Store};
use tarball::{Entry, Kind, Parser};

/// JSON documents of one archive together have at most so many bytes.
const DOCUMENTS_BYTES_MAX: u64 = 256 << 20;
const ENTRIES_MAX: u64 = 1_000_000;
const IMAGES_MAX: usize = 10_000;
const INDEX_DEPTH_MAX: usize = 4;
const BUFFER_LEN: usize = 128 << 10;
const BLOBS: &str = "blobs/sha256/";

/// One image that was loaded.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The image.
    pub image: Arc<Image>,
    /// The names that it was given.
    pub names: Vec<ImageRef>,
}

/// One image as an archive lists it.
struct Listed {
    config: Vec<u8>,
    manifest: Option<(String, Vec<u8>)>,
    /// Paths of the layers, lowest first.
    layers: Vec<String>,
    names: Vec<ImageRef>,
}

/// One image in `manifest.json`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    #[serde(default)]
    layers: Option<Vec<String>>,
}

/// A layer in an archive.
enum Slot {
    Staged(Arc<StagedLayer>),
    /// The store has it; the archive's copy was passed over.
    Known,
}

/// What an archive has been found to hold.
#[derive(Default)]
struct Contents {
    documents: HashMap<String, Vec<u8>>,
    documents_bytes: u64,
    layers: HashMap<String, Slot>,
    /// Old archives have a layer once, and links to it.
    links: HashMap<String, String>,
}

impl Store {
    /// Loads every image of an archive (compressed or not), as a stream; with a platform, those for it.
    pub fn load(&self, input: &mut (dyn Read + Send), platform: Option<&Platform>) -> Result<Vec<Loaded>> {
        let contents = self.read_archive(input)?;
        let mut listed = contents.list(platform)?;
        if listed.len() > IMAGES_MAX {
            return Err(broken(format!("it has more than {IMAGES_MAX} images")));
        }
        if let Some(wanted) = platform {
            listed.retain(|one| config_of(&one.config).is_ok_and(|config| config.platform().suits(wanted).is_some()));
            if listed.is_empty() {
                return Err(broken(format!("no image in it is for the specified platform ({wanted})")));
            }
        }
        if listed.is_empty() {
            return Err(broken("there is no image in it".to_owned()));
        }
        listed.into_iter().map(|one| self.load_one(&contents, one)).collect()
    }

    fn load_one(&self, contents: &Contents, one: Listed) -> Result<Loaded> {
        let config = config_of(&one.config)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != one.layers.len() {
            return Err(broken(format!("an image has {} diffIDs and {} layers", diff_ids.len(), one.layers.len())));
        }
        let chain = chain_ids(diff_ids);
        let mut layers = Vec::new();
        for (at, path) in one.layers.iter().enumerate() {
            let layer = match self.find_layer(&diff_ids[at], &chain[at]) {
                Some(hold) => NewLayer::Present(hold),
                None => match contents.layer(path) {
                    Some(Slot::Staged(staged)) => NewLayer::Staged(Arc::clone(staged), None),
                    Some(Slot::Known) => return Err(Error::MissingLayer(diff_ids[at].clone())),
                    None => return Err(broken(format!("the layer {path:?} is missing"))),
                },
            };
            layers.push(layer);
        }
        let names = one.names.clone();
        let image = self.commit_image(NewImage {
            config: one.config,
            manifest: one.manifest,
            documents: Vec::new(),
            layers,
            parent: None,
            names: one.names.into_iter().map(|name| (name, None)).collect(),
        })?;
        Ok(Loaded { image, names })
    }

    fn read_archive(&self, input: &mut (dyn Read + Send)) -> Result<Contents> {
        let read_error = |source| Error::Read { subject: "the archive".to_owned(), source };
        let plain = decompress(input).map_err(read_error)?;
        let mut parser = Parser::new(BufReader::with_capacity(BUFFER_LEN, plain));
        let mut contents = Contents::default();
        let mut entries = 0;
        while let Some(entry) = parser.next_entry()? {
            parser.aside().clear();
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(broken(format!("it has more than {ENTRIES_MAX} entries")));
            }
            let path = clean(&entry.path)?;
            match entry.kind {
                Kind::File => self.read_file(&mut parser, &entry, path, &mut contents)?,
                Kind::Symlink => {
                    let target = join(&path, &String::from_utf8_lossy(&entry.link));
                    contents.links.insert(path, target);
                }
                Kind::HardLink => {
                    contents.links.insert(path, clean(&entry.link)?);
                }
                _ => {}
            }
        }
        // Whoever sends the archive wants it read to its end.
        parser.finish::<Error>(|aside| {
            aside.clear();
            Ok(())
        })?;
        Ok(contents)
    }

    fn read_file<R: io::BufRead + Send>(&self, parser: &mut Parser<R>, entry: &Entry, path: String, contents: &mut Contents) -> Result<()> {
        let mut content = Content { parser, start: Vec::new(), at: 0, hash: None };
        content.peek(512).map_err(|source| Error::Read { subject: format!("{path} in the archive"), source })?;
        let compression = Compression::of(&content.start);
        if compression == Compression::None && !is_tar(&content.start) {
            let is_json = matches!(content.start.trim_ascii_start().first(), Some(b'{' | b'['));
            if is_json && entry.stored <= self.limits.document_bytes {
                contents.documents_bytes += entry.stored;
                if contents.documents_bytes > DOCUMENTS_BYTES_MAX {
                    return Err(broken("its JSON documents are too large together".to_owned()));
                }
                let mut bytes = Vec::new();
                content.read_to_end(&mut bytes).map_err(|source| Error::Read { subject: format!("{path} in the archive"), source })?;
                contents.documents.insert(path, bytes);
                return Ok(());
            }
            return content.drain();
        }
        let promised = path.strip_prefix(BLOBS).and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
        let is_known = |digest: &Digest| self.catalog().layer(digest.hex()).is_some_and(|layer| layer.stands_alone);
        if compression == Compression::None && promised.as_ref().is_some_and(is_known) {
            contents.layers.insert(path, Slot::Known);
            return content.drain();
        }
        content.hash = promised.is_some().then(Sha256::new);
        let staged = self.unpack(&mut content)?;
        content.drain()?;
        if let (Some(expected), Some(hash)) = (promised, content.hash) {
            let found = Digest::from_sha256(hash.finalize().into());
            if found != expected {
                return Err(Error::DigestMismatch { subject: format!("{path} in the archive"), expected, found });
            }
        }
        contents.layers.insert(path, Slot::Staged(Arc::new(staged)));
        Ok(())
    }
}

impl Contents {
    fn list(&self, platform: Option<&Platform>) -> Result<Vec<Listed>> {
        if let Some(text) = self.documents.get("manifest.json") {
            let entries: Vec<DockerEntry> = parse("manifest.json", text)?;
            return entries.into_iter().map(|entry| self.docker_entry(entry)).collect();
        }
        let Some(text) = self.documents.get("index.json") else {
            return Err(broken(
                "it has neither manifest.json nor index.json, so it was not made by `save`, nor is it an OCI layout".to_owned(),
            ));
        };
        let index: Index = parse("index.json", text)?;
        let mut listed: Vec<(Digest, Listed)> = Vec::new();
        for descriptor in &index.manifests {
            let name = name_of(descriptor);
            let Some(manifest) = self.manifest(descriptor, platform, 0)? else {
                continue;
            };
            match listed.iter_mut().find(|(digest, _)| *digest == manifest.digest) {
                Some((_, one)) => one.names.extend(name),
                None => listed.push((manifest.digest.clone(), self.oci_entry(&manifest, name)?)),
            }
        }
        Ok(listed.into_iter().map(|(_, one)| one).collect())
    }

    fn docker_entry(&self, entry: DockerEntry) -> Result<Listed> {
        let path = clean(entry.config.as_bytes())?;
        let config = self.document(&path)?.clone();
        if let Some(expected) = promised(&path) {
            verify(&path, &expected, &config)?;
        }
        let layers = entry.layers.unwrap_or_default().iter().map(|path| clean(path.as_bytes())).collect::<Result<_>>()?;
        let names = entry.repo_tags.unwrap_or_default().iter().map(|name| Ok(name.parse()?)).collect::<Result<_>>()?;
        Ok(Listed { manifest: self.manifest_of(&digest_of(&config)), config, layers, names })
    }

    /// The manifest of an image, where the archive is an OCI layout too.
    fn manifest_of(&self, id: &Digest) -> Option<(String, Vec<u8>)> {
        let index: Index = serde_json::from_slice(self.documents.get("index.json")?).ok()?;
        index.manifests.iter().find_map(|descriptor| {
            let bytes = self.documents.get(&blob_path(&descriptor.digest)?)?;
            let manifest: Manifest = serde_json::from_slice(bytes).ok()?;
            (manifest.config.digest == *id && digest_of(bytes) == descriptor.digest).then(|| (type_of(descriptor), bytes.clone()))
        })
    }

    fn oci_entry(&self, descriptor: &Descriptor, name: Option<ImageRef>) -> Result<Listed> {
        let bytes = self.blob(&descriptor.digest)?;
        let manifest: Manifest = parse("a manifest", bytes)?;
        let path =
            |layer: &Descriptor| blob_path(&layer.digest).ok_or_else(|| broken(format!("layers by {} are not supported", layer.digest)));
        Ok(Listed {
            config: self.blob(&manifest.config.digest)?.clone(),
            manifest: Some((type_of(descriptor), bytes.clone())),
            layers: manifest.layers.iter().map(path).collect::<Result<_>>()?,
            names: name.into_iter().collect(),
        })
    }

    /// Follows indexes to the manifest for the platform; `None` if it is not in the archive, as some of an index usually are not.
    fn manifest(&self, descriptor: &Descriptor, platform: Option<&Platform>, depth: usize) -> Result<Option<Descriptor>> {
        if depth > INDEX_DEPTH_MAX {
            return Err(broken("its indexes are nested too deep".to_owned()));
        }
        if !media_type::is_index(&descriptor.media_type) {
            return Ok(Some(descriptor.clone()));
        }
        let index: Index = parse("an index", self.blob(&descriptor.digest)?)?;
        let host = Platform::host();
        let wanted = platform.unwrap_or(&host);
        let rank = |entry: &&Descriptor| entry.platform.as_ref().map_or(Some(0), |platform| platform.suits(wanted));
        let best = index.manifests.iter().filter(|entry| rank(entry).is_some() && self.blob(&entry.digest).is_ok()).max_by_key(rank);
        match best {
            Some(entry) => self.manifest(entry, platform, depth + 1),
            None => Ok(None),
        }
    }

    fn blob(&self, digest: &Digest) -> Result<&Vec<u8>> {
        let path = blob_path(digest).ok_or_else(|| broken(format!("content by {digest} is not supported")))?;
        let bytes = self.document(&path)?;
        verify(&path, digest, bytes)?;
        Ok(bytes)
    }

    fn document(&self, path: &str) -> Result<&Vec<u8>> {
        self.documents.get(path).ok_or_else(|| broken(format!("{path:?} is missing")))
    }

    fn layer(&self, path: &str) -> Option<&Slot> {
        let mut path = path;
        for _ in 0..8 {
            match (self.layers.get(path), self.links.get(path)) {
                (Some(slot), _) => return Some(slot),
                (None, Some(target)) => path = target,
                (None, None) => return None,
            }
        }
        None
    }
}

/// The content of the archive's current entry.
struct Content<'a, R> {
    parser: &'a mut Parser<R>,
    start: Vec<u8>,
    at: usize,
    hash: Option<Sha256>,
}

impl<R: io::BufRead> Content<'_, R> {
    /// Looks at the first bytes, which are read again later.
    fn peek(&mut self, len: usize) -> io::Result<()> {
        while self.start.len() < len {
            let chunk = self.parser.content().map_err(io::Error::other)?;
            let part = chunk.len().min(len - self.start.len());
            if part == 0 {
                break;
            }
            self.start.extend_from_slice(&chunk[..part]);
            self.parser.consume(part);
        }
        Ok(())
    }

    /// Reads the rest and forgets it.
    fn drain(&mut self) -> Result<()> {
        let mut buffer = vec![0; BUFFER_LEN];
        loop {
            match self.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(_) => {}
                Err(source) => return Err(Error::Read { subject: "the archive".to_owned(), source }),
            }
        }
    }
}

impl<R: io::BufRead> Read for Content<'_, R> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        let len = if self.at < self.start.len() {
            let len = (&self.start[self.at..]).read(bytes)?;
            self.at += len;
            len
        } else {
            let len = self.parser.content().map_err(io::Error::other)?.read(bytes)?;
            self.parser.consume(len);
            len
        };
        if let Some(hash) = &mut self.hash {
            hash.update(&bytes[..len]);
        }
        Ok(len)
    }
}

/// Whether a file begins as tar archives do: with a header whose checksum fits, or with the zeros of an empty archive.
fn is_tar(start: &[u8]) -> bool {
    start.len() == 512 && Parser::new(start).next_entry().map_or_else(|error| !error.is_malformed(), |_| true)
}

/// The name that an OCI layout's index gives to an image.
fn name_of(descriptor: &Descriptor) -> Option<ImageRef> {
    let full = descriptor.annotations.get(NAME_ANNOTATION).and_then(|name| name.parse().ok());
    // Some tools write the whole name here, others only the tag.
    let other = || descriptor.annotations.get(REF_ANNOTATION).filter(|name| name.contains([':', '/'])).and_then(|name| name.parse().ok());
    full.or_else(other)
}

fn type_of(descriptor: &Descriptor) -> String {
    match descriptor.media_type.as_str() {
        "" => media_type::OCI_MANIFEST.to_owned(),
        known => known.to_owned(),
    }
}

fn config_of(bytes: &[u8]) -> Result<ImageConfig> {
    parse("an image's configuration", bytes)
}

fn parse<T: DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|error| broken(format!("{what} can't be read: {error}")))
}

fn blob_path(digest: &Digest) -> Option<String> {
    (digest.algorithm().name() == "sha256").then(|| format!("{BLOBS}{}", digest.hex()))
}

/// The digest that a file's name promises, as `save` names configurations in the old and the new form.
fn promised(path: &str) -> Option<Digest> {
    let hex = path.strip_prefix(BLOBS).or_else(|| path.strip_suffix(".json"))?;
    format!("sha256:{hex}").parse().ok()
}

fn verify(path: &str, expected: &Digest, bytes: &[u8]) -> Result<()> {
    let found = digest_of(bytes);
    match found == *expected {
        true => Ok(()),
        false => Err(Error::DigestMismatch { subject: format!("{path} in the archive"), expected: expected.clone(), found }),
    }
}

/// A path without `.` and double slashes. Nothing is made of it on disk, but names that climb are no names.
fn clean(path: &[u8]) -> Result<String> {
    let text = String::from_utf8_lossy(path);
    let parts: Vec<&str> = text.split('/').filter(|part| !matches!(*part, "" | ".")).collect();
    match parts.contains(&"..") {
        true => Err(broken(format!("the path {text:?} leads out of it"))),
        false => Ok(parts.join("/")),
    }
}

/// Where a link leads, as a path from the root.
fn join(path: &str, target: &str) -> String {
    let mut parts: Vec<&str> = path.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}

fn broken(reason: String) -> Error {
    Error::invalid("the archive", reason)
}

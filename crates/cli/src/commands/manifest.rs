//! `manifest`: lists of images for several platforms, made here and put to a registry.
//!
//! This one command speaks to registries itself, as Docker's client does: what is being put together is the user's, not an engine's, and is kept where Docker keeps it,
//! in `manifests/` beside `config.json`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use registry::{Begun, Credentials, Document, Options, Registry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use types::Platform;
use types::image::{Descriptor, ImageConfig, Index, Manifest, media_type};
use types::reference::ImageRef;

use crate::auth;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, list, switch, text};

const CERTIFICATES: [&str; 2] = ["/etc/cais/certs.d", "/etc/docker/certs.d"];
const FOLDER: &str = "manifests";
const CONFIG_LEN_MAX: u64 = 4 << 20;
const ENTRY_LEN_MAX: u64 = 16 << 20;
const INSECURE: Flag = switch("insecure", None, "The registry's certificate does not matter, or it speaks plain HTTP");

pub const INSPECT: Command = Command {
    paths: &["manifest inspect"],
    usage: "[OPTIONS] [LIST] MANIFEST",
    about: "Show a manifest, or a list of manifests",
    flags: &[&[INSECURE, switch("verbose", Some('v'), "Show platforms and layers too")]],
    arity: Arity::Between(1, 2),
    run: inspect,
    ..Command::BASE
};

pub const CREATE: Command = Command {
    paths: &["manifest create"],
    usage: "[OPTIONS] LIST MANIFEST [MANIFEST...]",
    about: "Make a list of manifests, to be annotated and pushed",
    flags: &[&[switch("amend", Some('a'), "Add to the list that is there"), INSECURE]],
    arity: Arity::AtLeast(2),
    run: create,
    ..Command::BASE
};

pub const ANNOTATE: Command = Command {
    paths: &["manifest annotate"],
    usage: "[OPTIONS] LIST MANIFEST",
    about: "Say for which platform a manifest in a list is",
    flags: &[&[
        text("arch", None, "Processor architecture"),
        text("os", None, "Operating system"),
        list("os-features", None, "Feature that the operating system must have"),
        text("os-version", None, "Version of the operating system"),
        text("variant", None, "Variant of the architecture"),
    ]],
    arity: Arity::Exactly(2),
    run: annotate,
    ..Command::BASE
};

pub const PUSH: Command = Command {
    paths: &["manifest push"],
    usage: "[OPTIONS] LIST",
    about: "Put a list of manifests to its registry",
    flags: &[&[INSECURE, switch("purge", Some('p'), "Forget the list here afterwards")]],
    arity: Arity::Exactly(1),
    run: push,
    ..Command::BASE
};

pub const REMOVE: Command = Command {
    paths: &["manifest rm"],
    usage: "LIST [LIST...]",
    about: "Forget lists of manifests",
    arity: Arity::AtLeast(1),
    run: remove,
    ..Command::BASE
};

/// A manifest in a list that is being put together, as Docker's client keeps it.
#[derive(Clone, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "Ref")]
    reference: String,
    descriptor: Descriptor,
    /// The manifest's bytes in base64.
    raw: String,
}

impl Entry {
    fn bytes(&self) -> Result<Vec<u8>> {
        BASE64_STANDARD.decode(&self.raw).with_context(|| format!("the kept manifest of {} is damaged", self.reference))
    }
}

/// The lists that are being put together.
struct Lists(PathBuf);

impl Lists {
    fn open(context: &Context) -> Result<Self> {
        Ok(Self(auth::folder(context)?.join(FOLDER)))
    }

    /// Names as Docker's client makes files of them.
    fn folder(&self, list: &ImageRef) -> PathBuf {
        self.0.join(file_name(list))
    }

    fn entries(&self, list: &ImageRef) -> Result<Vec<Entry>> {
        let folder = self.folder(list);
        let found = match fs::read_dir(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("No such manifest: {}", list.familiar()),
            found => found.with_context(|| format!("list {}", folder.display()))?,
        };
        let mut paths: Vec<PathBuf> = found.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<_>>()?;
        paths.sort();
        paths.iter().map(|path| read_entry(path)).collect()
    }

    fn entry(&self, list: &ImageRef, manifest: &ImageRef) -> Result<Option<Entry>> {
        let path = self.folder(list).join(file_name(manifest));
        if path.exists() { read_entry(&path).map(Some) } else { Ok(None) }
    }

    fn keep(&self, list: &ImageRef, manifest: &ImageRef, entry: &Entry) -> Result<()> {
        let folder = self.folder(list);
        fs::create_dir_all(&folder).with_context(|| format!("make {}", folder.display()))?;
        let path = folder.join(file_name(manifest));
        let staged = folder.join(format!(".{}", std::process::id()));
        let written = fs::write(&staged, serde_json::to_vec(entry)?).and_then(|()| fs::rename(&staged, &path));
        written.with_context(|| format!("write {}", path.display()))
    }

    fn forget(&self, list: &ImageRef) -> Result<()> {
        let folder = self.folder(list);
        match fs::remove_dir_all(&folder) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => bail!("No such manifest: {}", list.familiar()),
            removed => removed.with_context(|| format!("remove {}", folder.display())),
        }
    }
}

fn file_name(name: &ImageRef) -> String {
    // A name cannot begin with a dot, nor have two of them as a component.
    name.to_string().replace(':', "-").replace('/', "_")
}

fn read_entry(path: &Path) -> Result<Entry> {
    let read = || format!("read {}", path.display());
    if fs::metadata(path).with_context(read)?.len() > ENTRY_LEN_MAX {
        bail!("{}: it is too large", read());
    }
    serde_json::from_slice(&fs::read(path).with_context(read)?).with_context(read)
}

/// A registry's client that runs on this thread.
struct Remote<'c> {
    context: &'c Context,
    registry: Registry,
    runtime: tokio::runtime::Runtime,
}

impl<'c> Remote<'c> {
    fn new(context: &'c Context, insecure: bool, names: &[&ImageRef]) -> Result<Self> {
        let insecure = names.iter().filter(|_| insecure).map(|name| name.domain().to_owned()).collect();
        let certificates = CERTIFICATES.map(PathBuf::from).to_vec();
        let proxies = registry::Proxies::default().or_environment();
        let registry = Registry::new(Options { insecure, certificates, proxies, ..Options::default() });
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("set up the connection to registries")?;
        Ok(Self { context, registry, runtime })
    }

    fn credentials(&self, name: &ImageRef) -> Result<Option<Credentials>> {
        let login = auth::login(self.context, name)?;
        Ok(login.map(|login| Credentials {
            username: login.username,
            password: login.password,
            identity_token: login.token,
            registry_token: String::new(),
        }))
    }

    fn root(&self, name: &ImageRef) -> Result<Document> {
        let credentials = self.credentials(name)?;
        Ok(self.runtime.block_on(self.registry.root(name, credentials.as_ref()))?)
    }

    /// The manifest of one image, and the platform that its configuration tells.
    fn manifest(&self, name: &ImageRef) -> Result<Entry> {
        let document = self.root(name)?;
        if media_type::is_index(&document.descriptor.media_type) {
            bail!("{} is a manifest list, and cannot be part of another", name.familiar());
        }
        self.entry(name, &document)
    }

    fn entry(&self, name: &ImageRef, document: &Document) -> Result<Entry> {
        let manifest: Manifest =
            serde_json::from_slice(&document.bytes).with_context(|| format!("read the manifest of {}", name.familiar()))?;
        let config = self.config(name, &manifest)?;
        let platform = (!config.architecture.is_empty()).then(|| config.platform());
        Ok(Entry {
            reference: name.to_string(),
            descriptor: Descriptor { platform, ..document.descriptor.clone() },
            raw: BASE64_STANDARD.encode(&document.bytes),
        })
    }

    fn config(&self, name: &ImageRef, manifest: &Manifest) -> Result<ImageConfig> {
        if manifest.config.size > CONFIG_LEN_MAX {
            bail!("the configuration of {} has {} bytes, {CONFIG_LEN_MAX} are allowed", name.familiar(), manifest.config.size);
        }
        let credentials = self.credentials(name)?;
        let mut bytes = Vec::new();
        self.runtime.block_on(self.registry.blob(name, &manifest.config, credentials.as_ref(), &mut bytes))?;
        // What is no image may have any configuration.
        Ok(serde_json::from_slice(&bytes).unwrap_or_default())
    }

    /// Brings an entry's manifest and blobs to the list's repository, which must be of the same registry.
    fn bring(&self, list: &ImageRef, entry: &Entry) -> Result<()> {
        let source: ImageRef = entry.reference.parse()?;
        let bytes = entry.bytes()?;
        let manifest: Manifest = serde_json::from_slice(&bytes)?;
        let credentials = self.credentials(list)?;
        self.runtime.block_on(async {
            for blob in manifest.layers.iter().chain([&manifest.config]) {
                if self.registry.has_blob(list, &blob.digest, credentials.as_ref()).await? {
                    continue;
                }
                let mount = Some((&blob.digest, &source));
                match self.registry.begin_upload(list, mount, credentials.as_ref()).await? {
                    Begun::Mounted => {}
                    Begun::Upload(upload) => {
                        upload.cancel().await;
                        bail!("the registry does not mount blob {} from {}", blob.digest, source.familiar_name());
                    }
                }
            }
            let document = Document { descriptor: plain(&entry.descriptor), bytes };
            Ok(self.registry.put_manifest(list, None, &document, credentials.as_ref()).await?)
        })
    }
}

/// A descriptor without what only an index says.
fn plain(descriptor: &Descriptor) -> Descriptor {
    Descriptor::new(&descriptor.media_type, descriptor.digest.clone(), descriptor.size)
}

fn name(text: &str) -> Result<ImageRef> {
    Ok(text.parse::<ImageRef>()?.with_default_tag())
}

fn inspect(context: &Context, m: &Matches) -> Result<i32> {
    let lists = Lists::open(context)?;
    let target = name(m.positionals.last().map_or("", String::as_str))?;
    let list = (m.positionals.len() == 2).then(|| name(&m.positionals[0])).transpose()?;
    if let Some(list) = &list {
        let entry = lists.entry(list, &target)?.ok_or_else(|| anyhow!("No such manifest: {} in {}", target.familiar(), list.familiar()))?;
        return show(&if m.on("verbose") { verbose(&entry)? } else { serde_json::from_slice(&entry.bytes()?)? });
    }
    if lists.folder(&target).is_dir() {
        let entries = lists.entries(&target)?;
        return show(&match m.on("verbose") {
            true => Value::Array(entries.iter().map(verbose).collect::<Result<_>>()?),
            false => serde_json::to_value(index_of(entries)?)?,
        });
    }
    let remote = Remote::new(context, m.on("insecure"), &[&target])?;
    let document = remote.root(&target)?;
    if !m.on("verbose") {
        return show(&serde_json::from_slice(&document.bytes)?);
    }
    if !media_type::is_index(&document.descriptor.media_type) {
        return show(&verbose(&remote.entry(&target, &document)?)?);
    }
    let index: Index = serde_json::from_slice(&document.bytes)?;
    let mut shown = Vec::new();
    for listed in index.manifests {
        let child = target.with_digest(listed.digest.clone());
        let document = remote.root(&child)?;
        let entry = Entry { reference: child.to_string(), raw: BASE64_STANDARD.encode(&document.bytes), descriptor: listed };
        shown.push(verbose(&entry)?);
    }
    show(&Value::Array(shown))
}

/// A manifest with what is known of it, as Docker's client shows it.
fn verbose(entry: &Entry) -> Result<Value> {
    let kind = if entry.descriptor.media_type == media_type::DOCKER_MANIFEST { "SchemaV2Manifest" } else { "OCIManifest" };
    let mut shown = json!({ "Ref": entry.reference, "Descriptor": entry.descriptor, "Raw": entry.raw });
    shown[kind] = serde_json::from_slice(&entry.bytes()?)?;
    Ok(shown)
}

fn show(value: &Value) -> Result<i32> {
    let mut text = Vec::new();
    let tabs = serde_json::ser::PrettyFormatter::with_indent(b"\t");
    value.serialize(&mut serde_json::Serializer::with_formatter(&mut text, tabs))?;
    print(&format!("{}\n", String::from_utf8_lossy(&text)))?;
    Ok(0)
}

fn create(context: &Context, m: &Matches) -> Result<i32> {
    let lists = Lists::open(context)?;
    let list = name(&m.positionals[0])?;
    if lists.folder(&list).is_dir() && !m.on("amend") {
        bail!("refusing to amend an existing manifest list with no --amend flag");
    }
    let names: Vec<ImageRef> = m.positionals[1..].iter().map(|text| name(text)).collect::<Result<_>>()?;
    let all: Vec<&ImageRef> = names.iter().collect();
    let remote = Remote::new(context, m.on("insecure"), &all)?;
    // Nothing is kept of a list that can't be made whole.
    let entries: Vec<Entry> = names.iter().map(|name| remote.manifest(name)).collect::<Result<_>>()?;
    for (manifest, entry) in names.iter().zip(&entries) {
        lists.keep(&list, manifest, entry)?;
    }
    print(&format!("Created manifest list {list}\n"))?;
    Ok(0)
}

fn annotate(context: &Context, m: &Matches) -> Result<i32> {
    let lists = Lists::open(context)?;
    let (list, manifest) = (name(&m.positionals[0])?, name(&m.positionals[1])?);
    let missing = || anyhow!("manifest for image {} does not exist in {}", manifest.familiar(), list.familiar());
    let mut entry = lists.entry(&list, &manifest)?.ok_or_else(missing)?;
    let mut platform =
        entry.descriptor.platform.take().unwrap_or_else(|| Platform { architecture: String::new(), os: String::new(), ..Platform::host() });
    let given = |flag: &str| m.text(flag).filter(|text| !text.is_empty()).map(str::to_owned);
    platform.os = given("os").unwrap_or(platform.os);
    platform.architecture = given("arch").unwrap_or(platform.architecture);
    platform.variant = given("variant").or(platform.variant);
    platform.os_version = given("os-version").or(platform.os_version);
    for features in m.list("os-features") {
        platform.os_features.extend(features.split(',').map(str::to_owned));
    }
    let known = [("linux", &["386", "amd64", "arm", "arm64", "loong64", "mips64", "mips64le", "ppc64le", "riscv64", "s390x"][..])];
    let fits = known.iter().find(|(os, _)| *os == platform.os).is_none_or(|(_, list)| list.contains(&platform.architecture.as_str()));
    if platform.os.is_empty() || platform.architecture.is_empty() || !fits {
        bail!("manifest entry for image has unsupported os/arch combination: {}/{}", platform.os, platform.architecture);
    }
    entry.descriptor.platform = Some(platform);
    lists.keep(&list, &manifest, &entry)?;
    Ok(0)
}

/// The list itself: Docker's type where all its manifests are Docker's, else OCI's.
fn index_of(entries: Vec<Entry>) -> Result<Index> {
    let is_dockers = entries.iter().all(|entry| entry.descriptor.media_type == media_type::DOCKER_MANIFEST);
    for entry in &entries {
        if entry.descriptor.platform.as_ref().is_none_or(|platform| platform.os.is_empty() || platform.architecture.is_empty()) {
            bail!("manifest {} has no platform: say which with `manifest annotate`", entry.reference);
        }
    }
    Ok(Index {
        schema_version: 2,
        media_type: if is_dockers { media_type::DOCKER_INDEX } else { media_type::OCI_INDEX }.to_owned(),
        manifests: entries.into_iter().map(|entry| entry.descriptor).collect(),
        annotations: BTreeMap::new(),
        rest: Map::new(),
    })
}

fn push(context: &Context, m: &Matches) -> Result<i32> {
    let lists = Lists::open(context)?;
    let list = name(&m.positionals[0])?;
    let entries = lists.entries(&list)?;
    let remote = Remote::new(context, m.on("insecure"), &[&list])?;
    for entry in &entries {
        let source: ImageRef = entry.reference.parse()?;
        if source.domain() != list.domain() {
            bail!("cannot use source images from a different registry than the target image: {} != {}", source.domain(), list.domain());
        }
        if source.without_suffix() != list.without_suffix() {
            remote.bring(&list, entry)?;
        }
    }
    let bytes = serde_json::to_vec(&index_of(entries)?)?;
    let index: Index = serde_json::from_slice(&bytes)?;
    let document = Document::new(&index.media_type, bytes);
    let digest = document.descriptor.digest.clone();
    let credentials = remote.credentials(&list)?;
    remote.runtime.block_on(remote.registry.put_manifest(&list, list.tag(), &document, credentials.as_ref()))?;
    print(&format!("{digest}\n"))?;
    if m.on("purge") {
        lists.forget(&list)?;
    }
    Ok(0)
}

fn remove(context: &Context, m: &Matches) -> Result<i32> {
    let lists = Lists::open(context)?;
    context.each(&m.positionals, |text| lists.forget(&name(text)?))
}

#[cfg(test)]
mod tests {
    use types::Digest;

    use super::*;

    fn entry(kind: &str, platform: Option<&str>) -> Entry {
        let digest: Digest = format!("sha256:{}", "a".repeat(64)).parse().expect("a digest");
        let platform = platform.map(|text| text.parse().expect(text));
        Entry {
            reference: "r.example/a:1".to_owned(),
            descriptor: Descriptor { platform, ..Descriptor::new(kind, digest, 1) },
            raw: BASE64_STANDARD.encode("{}"),
        }
    }

    #[test]
    fn a_list_is_of_the_type_of_its_manifests() {
        let (docker, oci) = (media_type::DOCKER_MANIFEST, media_type::OCI_MANIFEST);
        let of = |entries: Vec<Entry>| index_of(entries).map(|index| index.media_type);
        assert_eq!(of(vec![entry(docker, Some("linux/amd64"))]).expect("a list"), media_type::DOCKER_INDEX);
        assert_eq!(of(vec![entry(docker, Some("linux/amd64")), entry(oci, Some("linux/arm64"))]).expect("a list"), media_type::OCI_INDEX);
        assert!(of(vec![entry(docker, None)]).expect_err("no platform").to_string().contains("manifest annotate"));
    }

    #[test]
    fn lists_are_kept_where_docker_keeps_them() {
        assert_eq!(file_name(&"a/b:1".parse().expect("a name")), "docker.io_a_b-1");
        assert_eq!(file_name(&"r.example:5000/b:1".parse().expect("a name")), "r.example-5000_b-1");
    }
}

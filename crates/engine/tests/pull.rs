//! Pulling from Debian's `docker-registry` on loopback: whole images, shared layers, shared downloads, platforms, refusals.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::image::{Images, Progress, RegistrySettings};
use store::{ImportOptions, Options, Store};
use tempfile::TempDir;
use tokio::sync::mpsc;
use types::image::{Descriptor, Manifest, media_type};
use types::{Classify, Digest, ErrorKind, ImageRef};

/// A registry with a directory of its own, killed in the end.
struct Server {
    process: Child,
    host: String,
    _directory: TempDir,
}

impl Server {
    /// `None`, said loudly, where no registry is installed or this is not root.
    fn start() -> Option<Self> {
        if !rustix::process::geteuid().is_root() {
            eprintln!("SKIP: unpacking layers needs root");
            return None;
        }
        let directory = tempfile::tempdir().expect("temporary directory");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port").port();
        let host = format!("127.0.0.1:{port}");
        let config = directory.path().join("config.yml");
        let root = directory.path().join("data");
        let text = format!(
            "version: 0.1\nlog:\n  level: error\nstorage:\n  filesystem:\n    rootdirectory: {}\nhttp:\n  addr: {host}\n",
            root.display()
        );
        std::fs::write(&config, text).expect("writes");
        let started = Command::new("docker-registry").arg("serve").arg(&config).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let Ok(process) = started else {
            eprintln!("SKIP: docker-registry is not installed");
            return None;
        };
        let server = Self { process, host, _directory: directory };
        let end = Instant::now() + Duration::from_secs(20);
        while TcpStream::connect(&server.host).is_err() {
            assert!(Instant::now() < end, "the registry does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Some(server)
    }

    /// One request; answers the status and the header `Location`.
    fn request(&self, method: &str, target: &str, kind: &str, body: &[u8]) -> (u16, String) {
        let path = target.split_once(&self.host).map_or(target, |(_, path)| path);
        let mut stream = TcpStream::connect(&self.host).expect("connects");
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            self.host,
            body.len()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("sends");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("answers");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let location = text.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap_or_default().to_owned();
        (status, location)
    }

    fn push_blob(&self, repository: &str, kind: &str, bytes: &[u8]) -> Descriptor {
        let digest = digest_of(bytes);
        let (_, location) = self.request("POST", &format!("/v2/{repository}/blobs/uploads/"), "", b"");
        let (status, _) = self.request("PUT", &format!("{location}&digest={digest}"), "application/octet-stream", bytes);
        assert_eq!(status, 201);
        Descriptor::new(kind, digest, bytes.len() as u64)
    }

    fn push_manifest(&self, repository: &str, tag: &str, kind: &str, bytes: &[u8]) -> Descriptor {
        let (status, _) = self.request("PUT", &format!("/v2/{repository}/manifests/{tag}"), kind, bytes);
        assert_eq!(status, 201, "{}", String::from_utf8_lossy(bytes));
        Descriptor::new(kind, digest_of(bytes), bytes.len() as u64)
    }

    /// Pushes an image whose layers are given as plain archives and their compressed form.
    fn push(&self, repository: &str, tag: &str, architecture: &str, layers: &[(Vec<u8>, Vec<u8>)]) -> (Descriptor, Digest) {
        let diff_ids: Vec<String> = layers.iter().map(|(plain, _)| format!("\"{}\"", digest_of(plain))).collect();
        let config =
            format!(r#"{{"architecture":"{architecture}","os":"linux","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#, diff_ids.join(","));
        let manifest = Manifest {
            schema_version: 2,
            media_type: media_type::DOCKER_MANIFEST.to_owned(),
            config: self.push_blob(repository, media_type::DOCKER_CONFIG, config.as_bytes()),
            layers: layers.iter().map(|(_, packed)| self.push_blob(repository, media_type::DOCKER_LAYER_GZIP, packed)).collect(),
            annotations: Default::default(),
            rest: Default::default(),
        };
        let bytes = serde_json::to_vec(&manifest).expect("serialises");
        (self.push_manifest(repository, tag, media_type::DOCKER_MANIFEST, &bytes), digest_of(config.as_bytes()))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// An engine's images in a directory of their own.
struct Engine {
    images: Images,
    store: Arc<Store>,
    _directory: TempDir,
}

impl Engine {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let store = Arc::new(Store::open(Options::new(&directory.path().join("root"))).expect("opens"));
        let images = Images::new(Arc::clone(&store), RegistrySettings::default(), Arc::new(|_| Vec::new()));
        Self { images, store, _directory: directory }
    }

    /// Pulls and answers what came of it, and the lines of progress without the counts.
    async fn pull(&self, name: &str, platform: Option<&str>) -> (engine::image::Result<engine::image::Pulled>, Vec<String>) {
        let (sender, mut receiver) = mpsc::channel(1000);
        let (reference, platform): (ImageRef, _) = (name.parse().expect(name), platform.map(|text| text.parse().expect(text)));
        let pulled = self.images.pull(&reference.with_default_tag(), platform.as_ref(), None, sender).await;
        let pulled = pulled.map(|mut all| all.remove(0));
        let mut lines: Vec<String> = Vec::new();
        while let Some(Progress { id, status, .. }) = receiver.recv().await {
            lines.push(if id.is_empty() { status } else { format!("{id}: {status}") });
        }
        lines.dedup();
        (pulled, lines)
    }

    fn files(&self, name: &str) -> Vec<String> {
        let image = self.store.resolve(name).expect(name);
        let mut found = Vec::new();
        for directory in self.store.lowerdirs(&image) {
            found.extend(
                std::fs::read_dir(directory).expect("lists").map(|entry| entry.expect("entry").file_name().to_string_lossy().into_owned()),
            );
        }
        found.sort();
        found
    }
}

fn digest_of(bytes: &[u8]) -> Digest {
    // The store's own digest of content serves well enough here.
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("content");
    std::fs::write(&path, bytes).expect("writes");
    let sum = Command::new("sha256sum").arg(&path).output().expect("sha256sum");
    format!("sha256:{}", String::from_utf8_lossy(&sum.stdout).split(' ').next().expect("a sum")).parse().expect("a digest")
}

/// A layer with one file, plain and compressed by `program`.
fn layer(name: &str, size: usize, program: &str) -> (Vec<u8>, Vec<u8>) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let bytes: Vec<u8> = (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 7) as u8).collect();
    std::fs::write(directory.path().join(name), bytes).expect("writes");
    let run = |program: &str, arguments: &[&str]| {
        Command::new(program).args(arguments).current_dir(directory.path()).output().expect(program).stdout
    };
    let plain = run("tar", &["-cf-", name]);
    std::fs::write(directory.path().join("plain.tar"), &plain).expect("writes");
    let packed = run(program, &["-c", "plain.tar"]);
    (plain, packed)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_is_pulled_once_and_its_layers_never_again() {
    let Some(server) = Server::start() else {
        return;
    };
    let (base, top, other) = (layer("base", 3_000_000, "gzip"), layer("top", 1000, "zstd"), layer("other", 10, "gzip"));
    let (manifest, id) = server.push("a/app", "1", "amd64", &[base.clone(), top.clone()]);
    server.push("a/app", "2", "amd64", &[base.clone(), other.clone()]);
    let engine = Engine::new();
    let name = format!("{}/a/app:1", server.host);
    let (pulled, lines) = engine.pull(&name, None).await;
    let pulled = pulled.unwrap_or_else(|error| panic!("{}", types::error::chain(&error)));
    assert_eq!((pulled.image.clone(), pulled.digest.clone(), pulled.newer), (id.clone(), manifest.digest.clone(), true));
    assert_eq!(engine.files(&name), ["base", "top"]);
    let (short, last) = (digest_of(&base.1).short().to_owned(), format!("Status: Downloaded newer image for {name}"));
    for line in [
        "1: Pulling from a/app",
        &format!("{short}: Pulling fs layer"),
        &format!("{short}: Downloading"),
        &format!("{short}: Pull complete"),
        &last,
    ] {
        assert!(lines.iter().any(|told| told == line), "{line}: {lines:#?}");
    }
    assert_eq!(lines.last(), Some(&last));
    assert_eq!(lines[lines.len() - 2], format!("Digest: {}", manifest.digest));

    let (pulled, lines) = engine.pull(&name, None).await;
    assert!(!pulled.expect("pulls").newer);
    assert_eq!(
        lines,
        ["1: Pulling from a/app".to_owned(), format!("Digest: {}", manifest.digest), format!("Status: Image is up to date for {name}")]
    );

    let (pulled, lines) = engine.pull(&format!("{}/a/app:2", server.host), None).await;
    assert!(pulled.expect("pulls").newer);
    assert!(lines.contains(&format!("{short}: Already exists")), "{lines:#?}");

    let details = engine.images.inspect(&name).expect("inspects");
    assert_eq!(details.repo_digests, [format!("{}/a/app@{}", server.host, manifest.digest)]);
    let by_digest = format!("{}/a/app@{}", server.host, manifest.digest);
    assert_eq!(engine.images.find(&by_digest).expect("finds").id, id);
    engine.images.remove(&name, false, false).await.expect("removes");
    assert!(engine.images.find(&by_digest).is_err());
    let (pulled, _) = engine.pull(&by_digest, None).await;
    assert_eq!(pulled.expect("pulls by digest").image, id);
    assert_eq!(engine.images.inspect(id.hex()).expect("inspects").repo_tags, Vec::<String>::new());
    engine.images.remove(&by_digest, false, false).await.expect("removes");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_pulls_of_one_image_share_their_downloads() {
    let Some(server) = Server::start() else {
        return;
    };
    let layers: Vec<_> = (0..6).map(|number| layer(&format!("f{number}"), 400_000 * (number + 1), "gzip")).collect();
    let (_, id) = server.push("app", "1", "amd64", &layers);
    server.push("twin", "1", "arm64", &layers);
    let engine = Arc::new(Engine::new());
    let mut pulls = Vec::new();
    for number in 0..8 {
        let (engine, name) = (Arc::clone(&engine), format!("{}/{}:1", server.host, if number % 2 == 0 { "app" } else { "twin" }));
        pulls.push(tokio::spawn(async move { engine.pull(&name, None).await.0.map_err(|error| types::error::chain(&error)) }));
    }
    for pull in pulls {
        pull.await.expect("joins").expect("pulls");
    }
    assert_eq!(engine.files(id.hex()), ["f0", "f1", "f2", "f3", "f4", "f5"]);
    let count = |directory: &str| std::fs::read_dir(engine.store.root().join(directory)).expect("lists").count();
    engine.store.wait_for_removals();
    assert_eq!((count("layers"), count("staging")), (6, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_chooses_the_manifest() {
    let Some(server) = Server::start() else {
        return;
    };
    let (one, other) = (layer("amd", 10, "gzip"), layer("arm", 10, "gzip"));
    let entry = |descriptor: &Descriptor, architecture: &str| {
        format!(
            r#"{{"mediaType":"{}","digest":"{}","size":{},"platform":{{"os":"linux","architecture":"{architecture}"}}}}"#,
            descriptor.media_type, descriptor.digest, descriptor.size
        )
    };
    let (amd, _) = server.push("multi", "amd", "amd64", &[one]);
    let (arm, _) = server.push("multi", "arm", "arm64", &[other]);
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{},{}]}}"#,
        media_type::OCI_INDEX,
        entry(&amd, "amd64"),
        entry(&arm, "arm64")
    );
    let index = server.push_manifest("multi", "1", media_type::OCI_INDEX, index.as_bytes());
    let name = format!("{}/multi:1", server.host);
    let engine = Engine::new();
    let (pulled, _) = engine.pull(&name, Some("linux/arm64")).await;
    assert_eq!(pulled.expect("pulls").digest, index.digest);
    assert_eq!(engine.files(&name), ["arm"]);
    let (pulled, _) = engine.pull(&name, Some("linux/amd64")).await;
    assert!(pulled.expect("pulls").newer);
    assert_eq!(engine.files(&name), ["amd"]);
    let (refused, _) = engine.pull(&name, Some("linux/s390x")).await;
    assert_eq!(
        refused.expect_err("no such platform").to_string(),
        format!("no matching manifest for linux/s390x in the manifest list entries of {name}")
    );
    let (refused, _) = engine.pull(&format!("{}/multi:amd", server.host), Some("linux/arm64")).await;
    assert!(refused.expect_err("another platform").to_string().contains("does not match the specified platform (linux/arm64)"));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_wrong_leaves_nothing() {
    let Some(server) = Server::start() else {
        return;
    };
    let engine = Engine::new();
    let (missing, _) = engine.pull(&format!("{}/none:1", server.host), None).await;
    let error = missing.expect_err("is missing");
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains(&format!("manifest for {}/none:1 not found: manifest unknown", server.host)), "{error}");

    let good = layer("good", 100_000, "gzip");
    let cut = (good.0.clone(), good.1[..good.1.len() / 2].to_vec());
    let wrong = (layer("wrong", 100, "gzip").0, layer("other", 100, "gzip").1);
    let rubbish = (good.0.clone(), b"this is no archive".repeat(100));
    let escaping = {
        let mut archive = good.0.clone();
        archive[..7].copy_from_slice(b"../evil");
        archive[148..156].copy_from_slice(b"        ");
        let sum: u32 = archive[..512].iter().map(|&byte| u32::from(byte)).sum();
        archive[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        (archive.clone(), archive)
    };
    for (tag, bad, message) in [
        ("cut", cut, "read the archive"),
        ("wrong", wrong, "was expected"),
        ("rubbish", rubbish, "this is no tar archive"),
        ("escaping", escaping, "leads out of the archive's root"),
    ] {
        server.push("bad", tag, "amd64", &[good.clone(), bad]);
        let (refused, _) = engine.pull(&format!("{}/bad:{tag}", server.host), None).await;
        let text = types::error::chain(&refused.expect_err(tag));
        assert!(text.contains(message), "{tag}: {text}");
    }
    // Layers that were still being unpacked when another failed go a little later.
    let count = |directory: &str| std::fs::read_dir(engine.store.root().join(directory)).expect("lists").count();
    let end = Instant::now() + Duration::from_secs(10);
    while count("staging") > 0 && Instant::now() < end {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    engine.store.wait_for_removals();
    assert_eq!((count("layers"), count("staging"), count("content/sha256")), (0, 0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_imported_saved_and_loaded() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: unpacking layers needs root");
        return;
    }
    let engine = Engine::new();
    let (sender, body) = mpsc::channel(4);
    let (plain, _) = layer("file", 500_000, "gzip");
    tokio::spawn(async move {
        for part in plain.chunks(10_000) {
            let _ = sender.send(Ok(bytes::Bytes::copy_from_slice(part))).await;
        }
    });
    let options = ImportOptions {
        name: Some("imported:1".parse().expect("name")),
        changes: vec!["ENV Z=1".to_owned()],
        source: "-".to_owned(),
        ..ImportOptions::default()
    };
    let image = engine.images.import(body, options).await.expect("imports");
    let details = engine.images.inspect("imported:1").expect("inspects");
    assert_eq!((details.comment.as_str(), details.size), ("Imported from -", 500_000));
    engine.images.tag("imported:1", "me/other", "v1").await.expect("tags");
    assert!(engine.images.tag("imported:1", "Me/BB", "v1").await.expect_err("capital letters").to_string().contains("must be lowercase"));
    let saved = engine.images.save(vec!["imported:1".to_owned(), "me/other:v1".to_owned()], None).await.expect("saves");
    let loaded = Engine::new().images.load(saved, None).await.expect("loads");
    assert_eq!(loaded.len(), 1);
    assert_eq!((&loaded[0].id, loaded[0].names.as_slice()), (&image.id, ["imported:1".to_owned(), "me/other:v1".to_owned()].as_slice()));
    assert!(engine.images.save(vec!["nosuch".to_owned()], None).await.is_err());

    let list = |key: &str, value: &str| {
        let (images, filters) = (engine.images.clone(), [(key.to_owned(), vec![value.to_owned()])].into_iter().collect());
        async move { images.list(&engine::image::ListRequest { filters, ..Default::default() }).await.map(|lines| lines.len()) }
    };
    for (key, value, count) in [
        ("reference", "imported", 1),
        ("reference", "me/*", 1),
        ("reference", "you/*", 0),
        ("dangling", "true", 0),
        ("dangling", "false", 1),
        ("until", "1h", 0),
    ] {
        assert_eq!(list(key, value).await.expect(key), count, "{key}={value}");
    }
    assert!(list("nonsense", "1").await.is_err() && list("dangling", "maybe").await.is_err());
    let all = [("dangling".to_owned(), vec!["false".to_owned()])].into_iter().collect();
    let pruned = engine.images.prune(&all).await.expect("prunes");
    assert_eq!((pruned.reclaimed, engine.store.images().len()), (500_000, 0));
}

/// A filesystem of two megabytes, gone at the end.
struct Small(TempDir);

impl Small {
    fn mount() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=2m", "tmpfs"]).arg(directory.path()).status();
        assert!(mounted.is_ok_and(|status| status.success()));
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_the_disk_has_no_room_for_does_not_begin() {
    let Some(server) = Server::start() else {
        return;
    };
    let (plain, _) = layer("large", 3_000_000, "gzip");
    server.push("large", "1", "amd64", &[(plain.clone(), plain)]);
    let small = Small::mount();
    let store = Arc::new(Store::open(Options::new(&small.0.path().join("root"))).expect("opens"));
    let images = Images::new(Arc::clone(&store), RegistrySettings::default(), Arc::new(|_| Vec::new()));
    let reference: ImageRef = format!("{}/large:1", server.host).parse().expect("a name");
    let (sender, _lines) = mpsc::channel(100);
    let error = images.pull(&reference, None, None, sender).await.expect_err("no room");
    assert!(error.to_string().contains("the disk has room for"), "{error}");
    assert!(error.hint().is_some_and(|hint| hint.contains("free some disk space")));
    assert!(store.images().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn indexes_without_end_are_refused() {
    let Some(server) = Server::start() else {
        return;
    };
    let (mut listed, _) = server.push("odd", "1", "amd64", &[layer("f", 1000, "gzip")]);
    for depth in 0..6 {
        let entry = serde_json::to_string(&listed).expect("serialises");
        let index = format!(r#"{{"schemaVersion":2,"mediaType":"{}","manifests":[{entry}]}}"#, media_type::OCI_INDEX);
        listed = server.push_manifest("odd", &format!("depth{depth}"), media_type::OCI_INDEX, index.as_bytes());
    }
    let engine = Engine::new();
    engine.pull(&format!("{}/odd:depth1", server.host), None).await.0.expect("two indexes are followed");
    let error = engine.pull(&format!("{}/odd:depth5", server.host), None).await.0.expect_err("too deep");
    assert!(error.to_string().contains("nested too deep"), "{error}");
}

//! A registry on a port of loopback, and a client that says exactly what a test wants said.
#![allow(dead_code, reason = "each suite uses its part")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use registryd::{Options, Store, Surroundings};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256, Sha512};

/// Generous: the machine may be busy with other things.
const TIMEOUT: Duration = Duration::from_secs(60);

pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry that ends with the test.
pub struct Registry {
    pub address: SocketAddr,
    pub store: Arc<Store>,
    pub dir: tempfile::TempDir,
    stop: Option<tokio::sync::oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Registry {
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        let dir = tempfile::tempdir().expect("temporary directory");
        let root = dir.path().to_owned();
        Self::at(&root, dir, options)
    }

    /// In a folder that lies in `dir`.
    pub fn at(root: &Path, dir: tempfile::TempDir, options: Options) -> Self {
        Self::served(root, dir, options, Surroundings::default())
    }

    pub fn served(root: &Path, dir: tempfile::TempDir, options: Options, surroundings: Surroundings) -> Self {
        let store = Arc::new(Store::serve(root).expect("opens"));
        let listener = TcpListener::bind("127.0.0.1:0").expect("binds");
        let address = listener.local_addr().expect("has an address");
        let (stop, stopped) = tokio::sync::oneshot::channel();
        let served = Arc::clone(&store);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts");
            let shutdown = async { drop(stopped.await) };
            runtime.block_on(registryd::serve(served, options, surroundings, listener, shutdown)).expect("serves");
        });
        Self { address, store, dir, stop: Some(stop), thread: Some(thread) }
    }

    /// Tells it to stop, and waits until it has.
    pub fn stop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            thread.join().expect("ended well");
        }
    }

    pub fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect(self.address).expect("connects");
        stream.set_read_timeout(Some(TIMEOUT)).expect("sets");
        stream.set_write_timeout(Some(TIMEOUT)).expect("sets");
        stream
    }

    pub fn ask(&self, method: &str, target: &str, headers: &[(&str, &str)], body: &[u8]) -> Answer {
        let mut stream = self.connect();
        let mut head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n", self.address);
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        // An answer may come before the body is read; it counts.
        let _ = stream.write_all(format!("{head}\r\n").as_bytes()).and_then(|()| stream.write_all(body));
        Answer::read(&mut stream, method)
    }

    pub fn get(&self, target: &str) -> Answer {
        self.ask("GET", target, &[], b"")
    }

    pub fn head(&self, target: &str) -> Answer {
        self.ask("HEAD", target, &[], b"")
    }

    pub fn delete(&self, target: &str) -> Answer {
        self.ask("DELETE", target, &[], b"")
    }

    /// Where a new upload goes.
    pub fn begin(&self, repository: &str) -> String {
        let answer = self.ask("POST", &format!("/v2/{repository}/blobs/uploads/"), &[], b"");
        assert_eq!(answer.status, 202, "{answer:?}");
        answer.header("location").expect("has a location").to_owned()
    }

    /// Pushes a blob and answers its digest.
    pub fn blob(&self, repository: &str, bytes: &[u8]) -> String {
        let digest = sha256(bytes);
        let answer = self.ask("PUT", &format!("{}?digest={digest}", self.begin(repository)), &[], bytes);
        assert_eq!(answer.status, 201, "{answer:?}");
        digest
    }

    /// Pushes a manifest with a configuration and layers of its own, and answers it.
    pub fn image(&self, repository: &str, reference: &str, seed: &str) -> Image {
        let config = self.blob(repository, format!("config {seed}").as_bytes());
        let layer = self.blob(repository, format!("layer {seed}").as_bytes());
        let manifest = image(&config, &layer);
        let answer = self.put(repository, reference, OCI_MANIFEST, &manifest);
        assert_eq!(answer.status, 201, "{answer:?}");
        Image { digest: sha256(manifest.to_string().as_bytes()), config, layer, size: manifest.to_string().len() }
    }

    pub fn put(&self, repository: &str, reference: &str, media_type: &str, document: &Value) -> Answer {
        let target = format!("/v2/{repository}/manifests/{reference}");
        self.ask("PUT", &target, &[("Content-Type", media_type)], document.to_string().as_bytes())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            if !std::thread::panicking() {
                ended.expect("ended well");
            }
        }
    }
}

pub struct Image {
    pub digest: String,
    pub config: String,
    pub layer: String,
    pub size: usize,
}

/// A manifest of one layer.
pub fn image(config: &str, layer: &str) -> Value {
    json!({
        "schemaVersion": 2, "mediaType": OCI_MANIFEST,
        "config": { "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": 1 },
        "layers": [{ "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer, "size": 1 }],
    })
}

pub fn hex(bytes: impl AsRef<[u8]>) -> String {
    bytes.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(Sha256::digest(bytes)))
}

pub fn sha512(bytes: &[u8]) -> String {
    format!("sha512:{}", hex(Sha512::digest(bytes)))
}

/// Bytes that differ from each other and compress badly.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        bytes.extend_from_slice(&(state >> 16).to_le_bytes()[..6]);
    }
    bytes.truncate(len);
    bytes
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Answer {
    /// Reads one answer of a kept connection.
    pub fn read(stream: &mut TcpStream, method: &str) -> Self {
        let mut head = Vec::new();
        let mut byte = [0];
        while !head.ends_with(b"\r\n\r\n") {
            match stream.read(&mut byte) {
                Ok(1) => head.push(byte[0]),
                other => panic!("the answer broke off ({other:?}): {:?}", String::from_utf8_lossy(&head)),
            }
        }
        let text = String::from_utf8(head).expect("is text");
        let mut lines = text.lines();
        let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("has a status");
        let headers: Vec<(String, String)> =
            lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        let length = headers.iter().find(|(name, _)| name == "content-length").and_then(|(_, value)| value.parse().ok()).unwrap_or(0);
        let mut body = vec![0; if method == "HEAD" || matches!(status, 204 | 304) { 0 } else { length }];
        stream.read_exact(&mut body).expect("the body is whole");
        Self { status, headers, body }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The error code of a refusal.
    pub fn code(&self) -> String {
        self.json()["errors"][0]["code"].as_str().unwrap_or_default().to_owned()
    }

    /// Asserts status and code.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.code().as_str()), (status, code), "{}", String::from_utf8_lossy(&self.body));
    }
}

//! What the store's tests share: a store in a temporary directory, archives made by several programs, and trees compared.
#![allow(dead_code, reason = "each test file uses a part")]

use std::collections::BTreeMap;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use store::{Image, ImportOptions, NewImage, NewLayer, Options, Store};
use tempfile::TempDir;

/// A store that goes with its directory.
pub struct Sandbox {
    pub store: Store,
    pub directory: TempDir,
}

impl Sandbox {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        Self { store: Store::open(Options::new(&directory.path().join("root"))).expect("opens"), directory }
    }

    pub fn import(&self, archive: &[u8], name: &str) -> store::Result<Arc<Image>> {
        let options = ImportOptions { name: Some(name.parse().expect("name")), source: "-".to_owned(), ..ImportOptions::default() };
        self.store.import(&mut &*archive, &options)
    }
}

/// Makes an image of several layers.
pub fn build(store: &Store, layers: &[Vec<u8>], names: &[&str]) -> store::Result<Arc<Image>> {
    let staged: Vec<_> = layers.iter().map(|layer| store.unpack(&mut layer.as_slice()).map(Arc::new)).collect::<store::Result<_>>()?;
    let ids: Vec<String> = staged.iter().map(|layer| format!("\"{}\"", layer.diff_id())).collect();
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","created":"2020-01-01T00:00:00Z","rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        ids.join(",")
    );
    store.commit_image(NewImage {
        config: config.into_bytes(),
        manifest: None,
        documents: Vec::new(),
        layers: staged.into_iter().map(|layer| NewLayer::Staged(layer, None)).collect(),
        parent: None,
        names: names.iter().map(|text| (text.parse().expect(text), None)).collect(),
    })
}

/// Whether this process may make device nodes and foreign owners; says so if not.
pub fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("SKIP: unpacking layers needs root");
    }
    root
}

/// Whether a program is there; says so if not.
pub fn has(program: &str) -> bool {
    let found = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok();
    if !found {
        eprintln!("SKIP: {program} is not installed");
    }
    found
}

/// What a program writes to its standard output.
pub fn output(program: &str, arguments: &[&str], directory: &Path) -> Vec<u8> {
    let done = Command::new(program).args(arguments).current_dir(directory).stderr(Stdio::inherit()).output().expect(program);
    assert!(done.status.success(), "{program} {arguments:?}");
    done.stdout
}

/// Runs a shell script in a directory.
pub fn shell(script: &str, directory: &Path) {
    output("sh", &["-ec", script], directory);
}

/// Everything that makes up a tree, by path, as text.
pub fn describe(root: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut groups: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        let metadata = path.symlink_metadata().expect("stat");
        let name = String::from_utf8_lossy(path.strip_prefix(root).expect("below").as_os_str().as_bytes()).into_owned();
        let kind = metadata.file_type();
        let what = if kind.is_dir() {
            for entry in std::fs::read_dir(&path).expect("list") {
                left.push(entry.expect("entry").path());
            }
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link to {:?}", std::fs::read_link(&path).expect("readlink"))
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {} {}", kind.is_char_device(), metadata.rdev())
        } else if kind.is_fifo() {
            "fifo".to_owned()
        } else {
            let bytes = std::fs::read(&path).expect("read");
            let hash = bytes.iter().fold(0u64, |hash, &byte| hash.wrapping_mul(31).wrapping_add(u64::from(byte)));
            format!("file {} {hash:x}", bytes.len())
        };
        let mut xattrs: Vec<String> = xattr::list(&path)
            .map(|names| {
                names
                    .map(|name| format!("{}={:?}", name.to_string_lossy(), xattr::get(&path, &name).ok().flatten().unwrap_or_default()))
                    .collect()
            })
            .unwrap_or_default();
        xattrs.sort();
        let time = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        let text = format!(
            "{what} mode {:o} owner {}:{} time {time} links {} {xattrs:?}",
            metadata.mode(),
            metadata.uid(),
            metadata.gid(),
            metadata.nlink()
        );
        if metadata.nlink() > 1 && !kind.is_dir() {
            groups.entry(metadata.ino()).or_default().push(name.clone());
        }
        found.insert(name, text);
    }
    for mut group in groups.into_values() {
        group.sort();
        for name in &group {
            found.entry(name.clone()).and_modify(|text| text.push_str(&format!(" one file with {group:?}")));
        }
    }
    found
}

/// The files of an image's topmost layer in a store.
pub fn top_layer_of(store: &Store, image: &Image) -> std::path::PathBuf {
    store.lowerdirs(image)[0].clone()
}

/// The files of an image's topmost layer.
pub fn top_layer(sandbox: &Sandbox, image: &Image) -> std::path::PathBuf {
    sandbox.store.lowerdirs(image)[0].clone()
}

/// A tar archive made entry by entry, hostile ones included.
#[derive(Default)]
pub struct Tar(pub Vec<u8>);

impl Tar {
    pub fn entry(mut self, kind: u8, path: &str, link: &str, content: &[u8]) -> Self {
        self.push(kind, path.as_bytes(), link.as_bytes(), content, 0o644);
        self
    }

    pub fn file(self, path: &str, content: &str) -> Self {
        self.entry(b'0', path, "", content.as_bytes())
    }

    pub fn dir(mut self, path: &str, mode: u32) -> Self {
        self.push(b'5', path.as_bytes(), b"", b"", mode);
        self
    }

    pub fn pax(self, records: &[(&str, &str)]) -> Self {
        let body: Vec<u8> = records.iter().flat_map(|(key, value)| pax_record(key, value.as_bytes())).collect();
        self.entry(b'x', "pax", "", &body)
    }

    pub fn push(&mut self, kind: u8, path: &[u8], link: &[u8], content: &[u8], mode: u32) {
        let mut block = [0u8; 512];
        block[..path.len().min(100)].copy_from_slice(&path[..path.len().min(100)]);
        block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        block[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
        block[136..147].copy_from_slice(b"14000000000");
        block[156] = kind;
        block[157..157 + link.len().min(100)].copy_from_slice(&link[..link.len().min(100)]);
        block[257..265].copy_from_slice(b"ustar\x0000");
        seal(&mut block);
        self.0.extend_from_slice(&block);
        self.0.extend_from_slice(content);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
    }

    /// Changes the last header.
    pub fn patch(mut self, change: impl FnOnce(&mut [u8; 512])) -> Self {
        let at = self.0.len() - 512;
        let mut block: [u8; 512] = self.0[at..].try_into().expect("a block");
        change(&mut block);
        seal(&mut block);
        self.0[at..].copy_from_slice(&block);
        self
    }

    pub fn end(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        self.0
    }
}

fn seal(block: &mut [u8; 512]) {
    block[148..156].copy_from_slice(b"        ");
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

fn pax_record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut len = rest + rest.to_string().len();
    if rest + len.to_string().len() != len {
        len = rest + len.to_string().len();
    }
    [format!("{len} {key}=").as_bytes(), value, b"\n"].concat()
}

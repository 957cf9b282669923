//! Archives made to do harm: each is refused with a message, or contained in the layer's directory; and nothing is left of it.

mod common;

use std::path::Path;

use common::{Sandbox, Tar, is_root, top_layer};
use store::{ImportOptions, Limits, Options, Store};

const UP: &str = "leads out of the archive's root";

/// Archives that must be refused, with a part of the message.
fn refused() -> Vec<(&'static str, Vec<u8>, &'static str)> {
    let file = || Tar::default().file("a", "1");
    let truncated = |len: usize| {
        let mut archive = file().end();
        archive.truncate(len);
        archive
    };
    vec![
        ("climbing", Tar::default().file("../x", "1").end(), UP),
        ("climbing deep", Tar::default().file("a/../../x", "1").end(), UP),
        ("climbing absolutely", Tar::default().file("/../x", "1").end(), UP),
        ("climbing directory", Tar::default().dir("..", 0o777).end(), UP),
        ("climbing by PAX", Tar::default().pax(&[("path", "../../etc/x")]).file("a", "1").end(), UP),
        ("climbing by GNU name", Tar::default().entry(b'L', "././@LongLink", "", b"../x\0").file("a", "1").end(), UP),
        ("climbing hard link", file().entry(b'1', "l", "../../etc/passwd", b"").end(), UP),
        ("climbing whiteout", Tar::default().file("d/.wh...", "").end(), "names no file"),
        ("whiteout of nothing", Tar::default().file(".wh.", "").end(), "names no file"),
        ("whiteout of the directory itself", Tar::default().file("d/.wh..", "").end(), "names no file"),
        ("climbing whiteout's directory", Tar::default().file("../.wh.x", "").end(), UP),
        (
            "hard link to what is nowhere",
            Tar::default().entry(b'1', "l", "etc/passwd", b"").end(),
            "a hard link to a file that is in no layer",
        ),
        ("hard link to a directory", Tar::default().dir("d", 0o755).entry(b'1', "l", "d", b"").end(), "a hard link to what is no file"),
        ("hard link to the root", Tar::default().entry(b'1', "l", "/", b"").end(), "a hard link to the root"),
        ("hard link to a whiteout", Tar::default().file(".wh.w", "").entry(b'1', "l", "w", b"").end(), "a hard link to what is no file"),
        ("device 0:0", Tar::default().entry(b'3', "c", "", b"").end(), "would be a whiteout"),
        ("overlay attribute", Tar::default().pax(&[("SCHILY.xattr.trusted.overlay.redirect", "/etc")]).dir("d", 0o755).end(), "overlayfs"),
        (
            "overlay opaque attribute",
            Tar::default().pax(&[("SCHILY.xattr.trusted.overlay.opaque", "y")]).dir("d", 0o755).end(),
            "overlayfs",
        ),
        ("the root as a file", Tar::default().file(".", "x").end(), "the root is no directory"),
        ("a file as parent", file().file("a/b", "x").end(), "something above it is no directory"),
        (
            "a dangling link as parent",
            Tar::default().entry(b'2', "l", "/nowhere", b"").file("l/x", "1").end(),
            "something above it is no directory",
        ),
        ("a link loop as parent", Tar::default().entry(b'2', "l", "l", b"").file("l/x", "1").end(), "something above it is no directory"),
        ("too deep", Tar::default().pax(&[("path", &"d/".repeat(600))]).dir("x", 0o755).end(), "directories deep"),
        ("a long component", Tar::default().pax(&[("path", &"n".repeat(300))]).file("x", "1").end(), "name too long"),
        ("a NUL in a path", Tar::default().entry(b'x', "pax", "", b"12 path=a\0b\n").file("x", "1").end(), "PAX header is malformed"),
        ("a broken PAX length", Tar::default().entry(b'x', "pax", "", b"999 path=a\n").file("x", "1").end(), "PAX header is malformed"),
        (
            "a huge extended header",
            Tar::default().entry(b'x', "pax", "", b"").patch(|block| block[124..135].copy_from_slice(b"77777777777")).end(),
            "too long",
        ),
        ("a negative size", file().entry(b'0', "n", "", b"").patch(|block| block[124..136].fill(0xff)).end(), "negative size"),
        ("a size beyond everything", Tar::default().pax(&[("size", "9999999999999999999")]).file("x", "1").end(), "out of range"),
        ("a size that is not there", Tar::default().pax(&[("size", "99999999")]).file("x", "1").end(), "ends in the middle"),
        ("an owner out of range", Tar::default().pax(&[("uid", "4294967295")]).file("x", "1").end(), "out of range"),
        ("an unknown type", Tar::default().entry(b'Z', "z", "", b"").end(), "not supported"),
        (
            "a wrong checksum",
            {
                let mut archive = file().end();
                archive[0] ^= 1;
                archive
            },
            "checksum",
        ),
        ("no archive", b"hello world, this is text".repeat(50), "checksum"),
        ("short rubbish", b"x".to_vec(), "ends in the middle"),
        ("nothing", Vec::new(), "it is empty"),
        ("cut in a header", truncated(100), "ends in the middle of a header"),
        ("cut in a file", truncated(513), "ends in the middle of a file"),
        ("cut in the padding", truncated(700), "ends in the middle of a file"),
        ("headers without an entry", Tar::default().pax(&[("path", "a")]).0, "ends in the middle of"),
        (
            "overlapping sparse parts",
            Tar::default()
                .pax(&[("GNU.sparse.major", "0"), ("GNU.sparse.size", "10"), ("GNU.sparse.map", "0,1,0,1")])
                .file("s", "ab")
                .end(),
            "overlap",
        ),
        (
            "sparse parts beyond the end",
            Tar::default().pax(&[("GNU.sparse.size", "10"), ("GNU.sparse.map", "100,2")]).file("s", "ab").end(),
            "beyond its end",
        ),
        (
            "sparse map that is missing",
            Tar::default()
                .pax(&[("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.realsize", "10")])
                .file("s", "ab")
                .end(),
            "sparse",
        ),
        (
            "sparse beyond the limit",
            Tar::default().pax(&[("GNU.sparse.size", "9000000000000000"), ("GNU.sparse.map", "0,2")]).file("s", "ab").end(),
            "more than",
        ),
    ]
}

#[test]
fn hostile_archives_are_refused_and_nothing_stays() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let outside = sandbox.directory.path().join("x");
    for (what, archive, message) in refused() {
        match sandbox.import(&archive, "bad") {
            Ok(_) => panic!("{what}: was taken"),
            Err(error) => {
                let text = types::error::chain(&error).to_lowercase();
                assert!(text.contains(&message.to_lowercase()), "{what}: {text}");
            }
        }
        assert!(!outside.exists(), "{what}");
    }
    let left = |directory: &str| std::fs::read_dir(sandbox.store.root().join(directory)).expect("lists").count();
    assert_eq!((left("staging"), left("layers"), left("content/sha256"), sandbox.store.images().len()), (0, 0, 0, 0));
}

#[test]
fn links_are_followed_inside_of_the_root_only() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let outside = sandbox.directory.path().join("outside");
    std::fs::create_dir(&outside).expect("makes");
    std::fs::write(outside.join("secret"), "secret").expect("writes");
    let target = outside.to_str().expect("text").to_owned();
    let inside = target.trim_start_matches('/').to_owned();
    // The absolute link leads to a directory of that path inside of the layer.
    let archive = Tar::default()
        .dir(&inside, 0o755)
        .entry(b'2', "l", &target, b"")
        .file("l/through", "1")
        .entry(b'2', "up", "../../../../../../..", b"")
        .file("up/at-the-root", "2")
        .file("/absolute", "3")
        .file("a/../b", "4")
        .end();
    let image = sandbox.import(&archive, "links").expect("imports");
    let layer = top_layer(&sandbox, &image);
    for (path, content) in
        [(format!("{inside}/through"), "1"), ("at-the-root".to_owned(), "2"), ("absolute".to_owned(), "3"), ("b".to_owned(), "4")]
    {
        assert_eq!(std::fs::read_to_string(layer.join(&path)).expect(&path), content);
    }
    assert_eq!(std::fs::read_dir(&outside).expect("lists").count(), 1);
    // A hard link through a link that leads out finds nothing.
    let archive = Tar::default().entry(b'2', "l", &target, b"").entry(b'1', "stolen", "l/secret", b"").end();
    assert!(sandbox.import(&archive, "stolen").is_err());
    let late = Tar::default().entry(b'1', "stolen", "l/secret", b"").entry(b'2', "l", &target, b"").end();
    assert!(sandbox.import(&late, "stolen").is_err());
    // A directory that becomes a link after its attributes were noted.
    let swapped = Tar::default().dir("d", 0o700).entry(b'2', "d", &target, b"").end();
    let before = outside.metadata().expect("stat").modified().expect("time");
    sandbox.import(&swapped, "swapped").expect("imports");
    assert_eq!(outside.metadata().expect("stat").modified().expect("time"), before);
}

fn limited(root: &Path, limits: Limits) -> Store {
    Store::open(Options { limits, ..Options::new(root) }).expect("opens")
}

#[test]
fn limits_hold() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let options = ImportOptions::default();
    let zeros = vec![0u8; 8 << 20];
    let plain = Tar::default().entry(b'0', "zeros", "", &zeros).end();
    let bomb = zstd::encode_all(plain.as_slice(), 19).expect("compresses");
    let many = (0..100).fold(Tar::default(), |tar, number| tar.file(&number.to_string(), "")).end();
    let endless = {
        let mut archive = Tar::default().file("a", "1").end();
        archive.resize(4 << 20, 0);
        archive
    };
    for (limits, archive, message) in [
        (Limits { ratio: 50, ratio_free_bytes: 1 << 20, ..Limits::default() }, &bomb, "decompression bomb"),
        (Limits { layer_bytes: 1 << 20, ..Limits::default() }, &plain, "more than 1048576 bytes"),
        (Limits { layer_bytes: 1 << 20, ..Limits::default() }, &endless, "more than 1048576 bytes"),
        (Limits { entries: 50, ..Limits::default() }, &many, "more than 50 entries"),
    ] {
        let store = limited(&directory.path().join("root"), limits);
        let error = store.import(&mut archive.as_slice(), &options).expect_err(message);
        assert!(types::error::chain(&error).contains(message), "{}", types::error::chain(&error));
        assert_eq!(std::fs::read_dir(store.root().join("staging")).expect("lists").count(), 0);
    }
    let store = limited(&directory.path().join("root"), Limits::default());
    assert!(store.import(&mut bomb.as_slice(), &options).is_ok());
}

#[test]
fn names_decided_by_their_own_layer_are_not_removed_by_it() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = Tar::default()
        .file("before", "1")
        .file(".wh.before", "")
        .file(".wh.after", "")
        .file("after", "2")
        .file(".wh.dir", "")
        .file("dir/inside", "3")
        .file(".wh..wh.plnk/1.2", "aufs")
        .end();
    let image = sandbox.import(&archive, "whiteouts").expect("imports");
    let layer = top_layer(&sandbox, &image);
    let read = |name: &str| std::fs::read_to_string(layer.join(name)).expect(name);
    assert_eq!((read("before"), read("after"), read("dir/inside")), ("1".to_owned(), "2".to_owned(), "3".to_owned()));
    assert_eq!(xattr::get(layer.join("dir"), "trusted.overlay.opaque").expect("reads").as_deref(), Some(&b"y"[..]));
}

/// A filesystem of a few megabytes, gone at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn mount() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        common::output("mount", &["-t", "tmpfs", "-o", "size=16m", "tmpfs", directory.path().to_str().expect("text")], Path::new("/"));
        Self(directory)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[test]
fn a_full_disk_is_told_and_nothing_of_the_image_stays() {
    if !is_root() {
        return;
    }
    let small = Small::mount();
    let store = Store::open(Options::new(&small.0.path().join("root"))).expect("opens");
    let import = |name: &str, len: usize| {
        let options = ImportOptions { name: Some(name.parse().expect("name")), ..ImportOptions::default() };
        store.import(&mut Tar::default().file("f", &"x".repeat(len)).end().as_slice(), &options)
    };
    import("before", 1000).expect("imports");
    let free = store.free_bytes().expect("is told");
    assert!(free < 16 << 20, "{free}");
    let error = import("too-large", 32 << 20).expect_err("does not fit");
    assert!(types::error::chain(&error).contains("No space left"), "{}", types::error::chain(&error));
    let hint = types::Classify::hint(&error).unwrap_or_default();
    assert!(hint.contains("free some disk space"), "{hint}");
    assert!(store.resolve("too-large").is_err());
    assert_eq!(std::fs::read_dir(store.root().join("staging")).expect("lists").count(), 0);
    import("after", 2000).expect("there is room again");
    assert_eq!(store.images().len(), 2);
}

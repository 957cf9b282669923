//! Hostile and broken archives: nothing is written outside the image, and no image is left of what was refused.

use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Stdio;
use tests::sh::{Cmd, Done};
use tests::{Engine, skip_unless_root};

const BLOCK: usize = 512;
/// What the bomb comes to. Zeros, of which zstd makes a ten-thousandth.
const BOMB_BYTES: u64 = 6 << 30;

/// An archive written by hand, since no sane program writes such ones.
struct Tar(Vec<u8>);

impl Tar {
    fn new() -> Self {
        Self(Vec::new())
    }

    /// An entry of a type (`0` file, `1` hard link, `2` symbolic link, `3` and `4` devices, `5` folder).
    fn entry(mut self, kind: u8, name: &str, link: &str, data: &[u8]) -> Self {
        self.header(kind, name, link, data.len() as u64);
        self.0.extend_from_slice(data);
        self.0.resize(self.0.len().next_multiple_of(BLOCK), 0);
        self
    }

    fn header(&mut self, kind: u8, name: &str, link: &str, size: u64) {
        let mut block = [0_u8; BLOCK];
        let mut put = |at: usize, text: &str| block[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(100, "0000755\0");
        put(108, "0000000\0");
        put(116, "0000000\0");
        put(124, &format!("{size:011o}\0"));
        put(136, "00000000000\0");
        put(148, "        ");
        put(157, link);
        put(257, "ustar\x0000");
        put(329, "0000010\0");
        put(337, "0000000\0");
        block[156] = kind;
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&block);
    }

    fn finish(mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 2 * BLOCK, 0);
        self.0
    }
}

fn import(engine: &Engine, name: &str, bytes: &[u8]) -> Result<Done> {
    let file = engine.dir().join(name.replace('/', "-"));
    fs::write(&file, bytes)?;
    engine.cais().arg("import").arg(&file).arg(name).run()
}

/// Names, links and hard links that climb out or are absolute.
#[test]
fn escapes() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start("escapes")?;
    let outside = engine.dir().join("outside");
    fs::create_dir(&outside)?;
    fs::write(outside.join("secret"), "host")?;
    let path = outside.to_string_lossy().into_owned();
    let climb = format!("{}{path}", "../".repeat(20));
    let archives = [
        ("quay/dots:1", Tar::new().entry(b'0', &format!("{climb}/made"), "", b"x")),
        ("quay/inner-dots:1", Tar::new().entry(b'5', "a/", "", b"").entry(b'0', &format!("a/{climb}/made"), "", b"x")),
        ("quay/absolute:1", Tar::new().entry(b'0', &format!("{path}/made"), "", b"x")),
        ("quay/link:1", Tar::new().entry(b'2', "a", &path, b"").entry(b'0', "a/made", "", b"x")),
        ("quay/climbing-link:1", Tar::new().entry(b'2', "a", &climb, b"").entry(b'0', "a/made", "", b"x")),
        ("quay/link-chain:1", Tar::new().entry(b'2', "a", "b", b"").entry(b'2', "b", &path, b"").entry(b'0', "a/made", "", b"x")),
        ("quay/file-link:1", Tar::new().entry(b'2', "a", &format!("{path}/secret"), b"").entry(b'0', "a", "", b"overwritten")),
        ("quay/hard:1", Tar::new().entry(b'1', "a", &format!("{path}/secret"), b"").entry(b'0', "a", "", b"overwritten")),
        ("quay/climbing-hard:1", Tar::new().entry(b'1', "a", &format!("{climb}/secret"), b"").entry(b'0', "a", "", b"overwritten")),
        ("quay/whiteout:1", Tar::new().entry(b'2', "a", &path, b"").entry(b'0', "a/.wh.secret", "", b"")),
        ("quay/climbing-whiteout:1", Tar::new().entry(b'0', &format!("{climb}/.wh.secret"), "", b"")),
    ];
    for (name, tar) in archives {
        let done = import(&engine, name, &tar.finish())?;
        ensure!(!outside.join("made").exists(), "{name} wrote outside: {done:?}");
        let secret = fs::read_to_string(outside.join("secret"))?;
        ensure!(secret == "host", "{name} changed a file outside: {done:?}");
        ensure!(fs::metadata(outside.join("secret"))?.nlink() == 1, "{name} linked to a file outside");
        ensure!(done.code == 0 || !done.stderr.trim().is_empty(), "{name} is refused without a word");
        only_whole_images(&engine, name, &done)?;
    }
    Ok(())
}

/// A device in an image is a file like any other, and cannot be opened in a container.
#[test]
fn devices() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start("devices")?;
    let busybox = fs::read(tests::sh::which("busybox").unwrap_or_default())?;
    let tar = Tar::new().entry(b'5', "bin/", "", b"").entry(b'0', "bin/busybox", "", &busybox).entry(b'4', "disk", "", b"");
    let done = import(&engine, "quay/disk:1", &tar.finish())?;
    if done.code == 0 {
        let read = engine.run(&["run", "--rm", "quay/disk:1", "/bin/busybox", "dd", "if=/disk", "of=/dev/null", "count=1"])?;
        ensure!(read.code != 0, "a container reads a device that came with its image");
    }
    Ok(())
}

/// What ends too early, or is no archive at all.
#[test]
fn broken() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start("broken")?;
    let whole = Tar::new().entry(b'0', "file", "", &[b'x'; 5000]).finish();
    let zipped = gzip(&engine, &whole)?;
    let mut lying = Tar::new();
    lying.header(b'0', "file", "", 1 << 33);
    let mut checksum = whole.clone();
    checksum[0] ^= 1;
    let archives = [
        ("quay/cut:1", &whole[..BLOCK + 1000]),
        ("quay/cut-head:1", &whole[..100]),
        ("quay/cut-zip:1", &zipped[..zipped.len() / 2]),
        ("quay/lying-size:1", &lying.0[..]),
        ("quay/bad-sum:1", &checksum[..]),
        ("quay/no-tar:1", &[b'z'; 4096][..]),
        ("quay/no-zip:1", &b"\x1f\x8b\x08\0garbage that is no gzip stream at all"[..]),
    ];
    for (name, bytes) in archives {
        let done = import(&engine, name, bytes)?;
        ensure!(done.code == 1, "{name}: {done}");
        ensure!(!done.stderr.trim().is_empty(), "{name} is refused without a word");
        only_whole_images(&engine, name, &done)?;
    }
    let loaded = engine.cais().arg("load").stdin(whole).run()?;
    ensure!(loaded.code == 1 && !loaded.stderr.trim().is_empty(), "a root is loaded as an image archive: {loaded}");
    Ok(())
}

/// A few hundred kilobytes that unfold to gigabytes of zeros are given up early.
#[test]
fn bomb() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start("bomb")?;
    let mut head = Tar::new();
    head.header(b'0', "zeros", "", BOMB_BYTES);
    fs::write(engine.dir().join("head"), head.0)?;
    let script = format!("(cat head; head -c {BOMB_BYTES} /dev/zero) | zstd -q -1 -o bomb.tar.zst");
    Cmd::new("sh").args(["-c", &script]).dir(engine.dir()).ok()?;
    let free = free_bytes(engine.dir())?;
    let done = engine.cais().arg("import").arg(engine.dir().join("bomb.tar.zst")).arg("quay/bomb:1").run()?;
    ensure!(done.code == 1 && done.stderr.contains("compressed"), "{done}");
    only_whole_images(&engine, "quay/bomb:1", &done)?;
    let used = free.saturating_sub(free_bytes(engine.dir())?);
    ensure!(used < BOMB_BYTES / 4, "{used} bytes are still on disk");
    Ok(())
}

/// Attributes that overlayfs acts upon do not come from an archive.
#[test]
fn overlay_attributes() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start("attributes")?;
    let record = |key: &str, value: &str| {
        let body = format!(" {key}={value}\n");
        let length = (body.len() + 2..).find(|n| n.to_string().len() + body.len() == *n).unwrap_or(0);
        format!("{length}{body}")
    };
    let pax = record("SCHILY.xattr.trusted.overlay.redirect", "/etc");
    let tar = Tar::new().entry(b'x', "pax", "", pax.as_bytes()).entry(b'5', "dir/", "", b"").finish();
    let done = import(&engine, "quay/attributes:1", &tar)?;
    ensure!(done.code == 1, "{done:?}");
    ensure!(done.stderr.contains("trusted.overlay"), "{done}");
    only_whole_images(&engine, "quay/attributes:1", &done)
}

fn only_whole_images(engine: &Engine, name: &str, done: &Done) -> Result<()> {
    let there = engine.run(&["image", "inspect", name])?.code == 0;
    ensure!(
        there == (done.code == 0),
        "{name}: import ended with {}, and the image is {}",
        done.code,
        if there { "there" } else { "not there" }
    );
    Ok(())
}

fn gzip(engine: &Engine, bytes: &[u8]) -> Result<Vec<u8>> {
    let file = engine.dir().join("to-zip");
    fs::write(&file, bytes)?;
    let done = std::process::Command::new("gzip").arg("-nc").arg(&file).stdin(Stdio::null()).output()?;
    ensure!(done.status.success());
    Ok(done.stdout)
}

fn free_bytes(dir: &Path) -> Result<u64> {
    let stat = rustix::fs::statvfs(dir)?;
    Ok(stat.f_bavail * stat.f_frsize)
}

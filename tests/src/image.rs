//! Base images made from Debian's packages, cached outside the checkout, each made once and whole.

use crate::sh::{Cmd, which};
use anyhow::{Context, Result, bail};
use rustix::fs::{FlockOperation, flock};
use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The Debian release of the images.
pub const SUITE: &str = "bookworm";
const DEBIAN_TIMEOUT: Duration = Duration::from_secs(600);
/// A root without these is not one that programs expect.
const FOLDERS: [&str; 12] = ["bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "tmp", "usr", "var"];

/// Where images, packages and tools are kept between runs: `$CAIS_CACHE`, else `~/.cache/cais`.
pub fn cache() -> Result<PathBuf> {
    let dir = match (std::env::var_os("CAIS_CACHE"), std::env::var_os("HOME")) {
        (Some(dir), _) => PathBuf::from(dir),
        (None, Some(home)) => PathBuf::from(home).join(".cache/cais"),
        (None, None) => PathBuf::from("/var/cache/cais"),
    };
    fs::create_dir_all(&dir).with_context(|| format!("make the cache folder {}", dir.display()))?;
    Ok(dir)
}

/// A file of the cache, made by `make(path)` if it is missing. Two processes that want it at once make it once; it appears whole
/// or not at all.
pub fn cached(name: &str, make: impl FnOnce(&Path) -> Result<()>) -> Result<PathBuf> {
    let dir = cache()?;
    let path = dir.join(name);
    if path.exists() {
        return Ok(path);
    }
    let lock = File::create(dir.join(format!(".{name}.lock"))).with_context(|| format!("lock {name} in {}", dir.display()))?;
    flock(&lock, FlockOperation::LockExclusive)?;
    if !path.exists() {
        // The extension stays last: some programs choose a format by it.
        let part = dir.join(format!(".part-{name}"));
        make(&part).with_context(|| format!("make {}", path.display()))?;
        fs::rename(&part, &path).with_context(|| format!("publish {}", path.display()))?;
    }
    Ok(path)
}

/// A root file system of Debian's static busybox: the program, a link for each of its applets, root in passwd and group, and the
/// usual empty folders.
pub fn busybox() -> Result<PathBuf> {
    let program = which("busybox").context("busybox is not installed: apt-get install busybox-static")?;
    let version = Cmd::new("dpkg-query").args(["-W", "-f", "${Version}", "busybox-static"]).ok()?;
    let name = format!("busybox-{}.tar", version.text().replace([':', '/'], "_"));
    cached(&name, |tar| {
        let root = tar.with_extension("root");
        drop(fs::remove_dir_all(&root));
        busybox_root(&program, &root)?;
        pack(&root, tar)?;
        fs::remove_dir_all(&root)?;
        Ok(())
    })
}

/// A minimal Debian root with the packages named.
pub fn debian(include: &[&str]) -> Result<PathBuf> {
    let extra: String = include.iter().map(|package| format!("-{package}")).collect();
    cached(&format!("debian-{SUITE}{extra}.tar"), |tar| {
        // Synced once at the end rather than file by file: a root with hundreds of packages takes minutes otherwise.
        let mut make = Cmd::new("mmdebstrap").args(["--quiet", "--variant=minbase", "--dpkgopt=force-unsafe-io"]);
        if !include.is_empty() {
            make = make.arg(format!("--include={}", include.join(",")));
        }
        make.arg(SUITE).arg(tar).timeout(DEBIAN_TIMEOUT).ok()?;
        Ok(())
    })
}

/// The files of a Debian package, without installing it: a folder of the cache. For a package that only points at the current
/// version of another (`linux-image-cloud-amd64`), name the other.
pub fn unpacked_package(package: &str) -> Result<PathBuf> {
    cached(&format!("package-{package}"), |root| {
        let load = root.with_extension("download");
        for dir in [root, &load] {
            drop(fs::remove_dir_all(dir));
            fs::create_dir_all(dir)?;
            // apt fetches as its own user, who needs to get in.
            fs::set_permissions(dir, fs::Permissions::from_mode(0o777))?;
        }
        Cmd::new("apt-get").args(["-q", "download", package]).dir(&load).timeout(DEBIAN_TIMEOUT).ok()?;
        let found = fs::read_dir(&load)?.filter_map(Result::ok).map(|entry| entry.path());
        let Some(deb) = found.into_iter().find(|path| path.extension().is_some_and(|ext| ext == "deb")) else {
            bail!("apt-get download {package} left no package in {}", load.display());
        };
        Cmd::new("dpkg").arg("-x").arg(&deb).arg(root).ok()?;
        fs::remove_dir_all(&load)?;
        Ok(())
    })
}

/// Lays out a busybox root in a folder that does not exist yet.
pub fn busybox_root(program: &Path, root: &Path) -> Result<()> {
    for folder in FOLDERS {
        fs::create_dir_all(root.join(folder))?;
    }
    for (folder, mode) in [("tmp", 0o1777), ("root", 0o700)] {
        fs::set_permissions(root.join(folder), fs::Permissions::from_mode(mode))?;
    }
    fs::copy(program, root.join("bin/busybox")).with_context(|| format!("copy {}", program.display()))?;
    fs::set_permissions(root.join("bin/busybox"), fs::Permissions::from_mode(0o755))?;
    let applets = Cmd::new(program).arg("--list").ok()?;
    for applet in applets.stdout.lines().filter(|&applet| applet != "busybox") {
        symlink("busybox", root.join("bin").join(applet))?;
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n")?;
    fs::write(root.join("etc/group"), "root:x:0:\n")?;
    Ok(())
}

fn pack(root: &Path, tar: &Path) -> Result<()> {
    let steady = ["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mtime=@0"];
    Cmd::new("tar").arg("-C").arg(root).args(steady).arg("-cf").arg(tar).arg(".").ok()?;
    Ok(())
}

//! Debian's packages that a task needs, installed if they are missing.

use anyhow::{Context, Result, bail};
use std::path::Path;
use std::time::Duration;
use tests::sh::{Cmd, which};

const APT_TIMEOUT: Duration = Duration::from_secs(900);

/// A program, or the absolute path of something else, and the package that has it.
pub type Need = (&'static str, &'static str);

/// What the tests use.
pub const FOR_TESTS: &[Need] = &[
    ("bsdtar", "libarchive-tools"),
    ("buildah", "buildah"),
    ("busybox", "busybox-static"),
    ("cc", "build-essential"),
    ("cpio", "cpio"),
    ("curl", "curl"),
    ("depmod", "kmod"),
    ("docker", "docker.io"),
    ("docker-registry", "docker-registry"),
    ("etcd", "etcd-server"),
    ("git", "git"),
    ("ip", "iproute2"),
    ("ctr", "containerd"),
    ("mmdebstrap", "mmdebstrap"),
    ("nft", "nftables"),
    ("openssl", "openssl"),
    ("pgrep", "procps"),
    ("podman", "podman"),
    ("protoc", "protobuf-compiler"),
    ("python3", "python3"),
    ("/usr/share/doc/python3-seccomp", "python3-seccomp"),
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("runc", "runc"),
    ("setcap", "libcap2-bin"),
    ("setfattr", "attr"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// What the demo uses.
pub const FOR_DEMO: &[Need] =
    &[("busybox", "busybox-static"), ("mmdebstrap", "mmdebstrap"), ("curl", "curl"), ("protoc", "protobuf-compiler")];

/// What the benchmark uses of its own; the engines it compares with are the user's choice.
pub const FOR_BENCH: &[Need] = &[("busybox", "busybox-static"), ("unshare", "util-linux"), ("protoc", "protobuf-compiler")];

/// Installs the packages whose programs are not there. Quiet when there is nothing to do.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs.iter().filter(|(program, _)| !present(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        bail!("these packages are missing, and only root can install them: apt-get install {}", missing.join(" "));
    }
    println!("   installing {}", missing.join(" "));
    // A fresh machine has no package lists; one that has old ones finds a version that is gone. Either way the second try is new.
    if install(&missing).is_err() {
        apt().arg("update").ok().context("refresh the package lists")?;
        install(&missing)?;
    }
    Ok(())
}

fn present(program: &str) -> bool {
    match program {
        // The dynamically linked busybox has the same name and would not run in an empty root.
        "busybox" => which(program).is_some() && Path::new("/usr/share/doc/busybox-static").exists(),
        path if path.starts_with('/') => Path::new(path).exists(),
        _ => which(program).is_some(),
    }
}

fn install(packages: &[&str]) -> Result<()> {
    // Starting daemons is not what anyone asked for here.
    let start_nothing = "exit 101";
    let policy = Path::new("/usr/sbin/policy-rc.d");
    let ours = !policy.exists();
    if ours {
        std::fs::write(policy, format!("#!/bin/sh\n{start_nothing}\n"))?;
        std::fs::set_permissions(policy, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    }
    let done = apt().args(["install", "-y", "--no-install-recommends"]).args(packages).ok();
    if ours {
        std::fs::remove_file(policy)?;
    }
    done.map(drop)
}

fn apt() -> Cmd {
    Cmd::new("apt-get").args(["-qq", "-o", "DPkg::Lock::Timeout=300"]).env("DEBIAN_FRONTEND", "noninteractive").timeout(APT_TIMEOUT)
}

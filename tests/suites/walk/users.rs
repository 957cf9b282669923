//! User namespaces: ids of a container's own, and files that have the same owners all the same.

use crate::support::{Walk, code, has};
use anyhow::{Result, ensure};
use std::fs;
use std::os::unix::fs::MetadataExt;
use tests::Client;
use tests::engine::BUSYBOX;

const AUTO: [&str; 2] = ["--userns", "auto"];

// Docker's client knows no `--userns auto`.

/// Root inside is nobody outside; layers, volumes and binds have the owners that the container sees.
#[test]
fn own_ids() -> Result<()> {
    Walk::through("own-ids", Client::Cais, |walk| {
        let map = walk.once(&AUTO, &["cat", "/proc/self/uid_map"])?;
        let start: Vec<&str> = map.split_whitespace().collect();
        ensure!(start.len() == 3 && start[0] == "0" && start[1] != "0" && start[2] == "65536", "{map}");
        let script = "id -u; stat -c %u /bin/busybox /etc/hosts; touch /x; chown 7 /x; stat -c %u /x; ls /sys/class/net | wc -l; echo ok > /proc/sys/kernel/hostname 2>/dev/null || echo ro";
        let shown = walk.once(&AUTO, &["sh", "-c", script])?;
        ensure!(shown.split_whitespace().eq(["0", "0", "0", "7", "2", "ro"]), "{shown}");
        let folder = walk.engine.dir().join("bound");
        fs::create_dir_all(&folder)?;
        let bind = format!("{}:/b", folder.display());
        walk.once(
            &[&AUTO[..], &["-v", &bind, "-v", "vol:/v"]].concat(),
            &["sh", "-c", "touch /b/f /v/f; chown 5:6 /b/f; stat -c %u /b /v"],
        )?;
        let found = fs::metadata(folder.join("f"))?;
        ensure!((found.uid(), found.gid()) == (5, 6), "{}:{}", found.uid(), found.gid());
        ensure!(walk.once(&["-v", "vol:/v"], &["stat", "-c", "%u", "/v/f"])? == "0");
        Ok(())
    })
}

/// Each container has a range of its own, and every command works on it.
#[test]
fn ranges_apart() -> Result<()> {
    Walk::through("ranges-apart", Client::Cais, |walk| {
        let (one, other) = (walk.sleeper(&AUTO)?, walk.sleeper(&AUTO)?);
        let start = |walk: &Walk, name: &str| walk.inside(name, "cat /proc/self/uid_map");
        ensure!(start(walk, &one)? != start(walk, &other)?, "both have the same ids");
        let pid = walk.inspect(&one, "{{.State.Pid}}")?;
        ensure!(fs::metadata(format!("/proc/{pid}"))?.uid() >= 65_536, "the first process is somebody on the host");
        ensure!(walk.inspect(&one, "{{.HostConfig.UsernsMode}}")? == "auto");
        ensure!(walk.out(&["exec", "-u", "9", &one, "id", "-u"])? == "9");
        let file = walk.engine.dir().join("copied");
        fs::write(&file, "copied")?;
        let inside = format!("{one}:/tmp/f");
        let refused = walk.run(&["cp", &file.to_string_lossy(), &inside])?;
        has(&refused.stderr, "stop it first")?;
        walk.ok(&["stop", "-t", "0", &one])?;
        walk.ok(&["cp", &file.to_string_lossy(), &inside])?;
        walk.ok(&["start", &one])?;
        ensure!(walk.inside(&one, "cat /tmp/f; stat -c %u /tmp/f")? == "copied0");
        has(&walk.out(&["diff", &one])?, "/tmp/f")?;
        walk.ok(&["commit", &one, "quay/of-ids"])?;
        ensure!(walk.out(&["run", "--rm", "quay/of-ids", "stat", "-c", "%u", "/tmp/f"])? == "0");
        walk.ok(&["restart", "-t", "0", &one])?;
        ensure!(walk.inside(&one, "cat /tmp/f")? == "copied");
        Ok(())
    })
}

/// What belongs to the host is refused before anything is made.
#[test]
fn impossible_together() -> Result<()> {
    Walk::through("impossible-together", Client::Cais, |walk| {
        for flags in [["--pid", "host"], ["--ipc", "host"], ["--network", "host"], ["--uts", "host"]] {
            let refused = walk.try_once(&[&AUTO[..], &flags].concat(), &["true"])?;
            code(&refused, 125)?;
            has(&refused.stderr, "--userns host")?;
        }
        code(&walk.try_once(&[&AUTO[..], &["--privileged"]].concat(), &["true"])?, 125)?;
        code(&walk.try_once(&["--userns", "nonsense"], &["true"])?, 125)?;
        ensure!(walk.out(&["ps", "-aq"])?.is_empty());
        Ok(())
    })
}

/// The engine's setting gives user namespaces to all that do not say otherwise.
#[test]
fn remapped_engine() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let mut engine = tests::Engine::with_busybox("remapped")?;
    engine.restart_with(&["--userns-remap", "default"])?;
    let map = |flags: &[&str]| -> Result<String> {
        let line = [&["run", "--rm"], flags, &[BUSYBOX, "cat", "/proc/self/uid_map"]].concat();
        Ok(engine.ok(&line)?.text().split_whitespace().nth(1).unwrap_or_default().to_owned())
    };
    ensure!(map(&[])? != "0");
    ensure!(map(&["--userns", "host"])? == "0");
    ensure!(map(&["--userns", "host", "--privileged"])? == "0");
    Ok(())
}

//! Several engines on one machine, an engine that the client starts by itself, and one binary that works anywhere.

#![forbid(unsafe_code)]

use anyhow::{Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use tests::engine::{BUSYBOX, binary};
use tests::sh::Cmd;
use tests::{Engine, skip_unless_root};

/// Three engines never meet: same names, other addresses; the end of one is nothing to the others.
#[test]
fn side_by_side() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engines = [Engine::with_busybox("one")?, Engine::with_busybox("two")?, Engine::with_busybox("three")?];
    let mut addresses = BTreeSet::new();
    for engine in &engines {
        engine.ok(&["run", "-d", "--name", "same", BUSYBOX, "sleep", "300"])?;
        addresses.insert(engine.inspect("same", "{{.NetworkSettings.Networks.bridge.Gateway}}")?);
    }
    ensure!(addresses.len() == engines.len(), "gateways: {addresses:?}");
    let [one, two, three] = engines;
    let left = one.finish()?;
    ensure!(left.is_empty(), "the first engine left {left:#?}");
    for engine in [&two, &three] {
        ensure!(engine.ok(&["exec", "same", "echo", "here"])?.text() == "here");
    }
    Ok(())
}

/// Two engines on one data root would ruin it: the second is refused, and says why.
#[test]
fn one_data_root_one_engine() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start("locked")?;
    let other = engine.dir().join("other.sock");
    let done = Cmd::new(binary()?)
        .args(["engine", "--host", &format!("unix://{}", other.display()), "--data-root"])
        .arg(engine.data_root())
        .arg("--exec-root")
        .arg(engine.dir().join("run2"))
        .run()?;
    ensure!(done.code != 0, "a second engine runs on the same data root");
    ensure!(done.stderr.contains("data"), "{done}");
    engine.ok(&["ps"])?;
    Ok(())
}

/// A client that finds no engine on the default socket starts one and says so once; `engine status` and `engine stop` speak to it.
/// All of it in a mount and network namespace of its own, where the default folders are empty.
#[test]
fn the_client_starts_an_engine() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let script = r#"
        set -e
        for dir in /run /var/lib; do mount -t tmpfs none $dir; done
        ip link set lo up
        "$CAIS" ps
        echo "second:" >&2
        "$CAIS" ps -q
        "$CAIS" engine status
        test "$(stat -c %a /run/cais/cais.sock)" = 660
        "$CAIS" engine stop
        if "$CAIS" engine status; then echo "still there" >&2; exit 1; fi
    "#;
    let unshare = Cmd::new("unshare").args(["--mount", "--net", "sh", "-c", script]).env("CAIS", binary()?);
    let done = unshare.env_remove("CAIS_HOST").env_remove("DOCKER_HOST").ok()?;
    ensure!(done.stdout.starts_with("CONTAINER ID"), "{done:?}");
    let (first, second) = done.stderr.split_once("second:").unwrap_or((&done.stderr, ""));
    ensure!(first.contains("engine") && !first.trim().is_empty(), "the client started an engine without a word: {done:?}");
    ensure!(!second.lines().any(|line| line.contains("start")), "it says so twice: {done:?}");
    Ok(())
}

/// The binary is static: it runs in a busybox root, and in a root that holds nothing else.
#[test]
fn the_binary_works_anywhere() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("static")?;
    let own = engine.ok(&["--version"])?.stdout;
    let bind = format!("{}:/cais:ro", binary()?.display());
    ensure!(engine.ok(&["run", "--rm", "-v", &bind, BUSYBOX, "/cais", "--version"])?.stdout == own);
    let root = engine.dir().join("scratch");
    fs::create_dir(&root)?;
    fs::copy(binary()?, root.join("cais"))?;
    let tar = engine.dir().join("scratch.tar");
    Cmd::new("tar").arg("-C").arg(&root).arg("-cf").arg(&tar).arg("cais").ok()?;
    engine.cais().arg("import").arg(&tar).arg("quay/scratch:1").ok()?;
    ensure!(engine.ok(&["run", "--rm", "quay/scratch:1", "/cais", "--version"])?.stdout == own);
    Ok(())
}

/// Every name of the program that a link may give it.
#[test]
fn it_answers_to_its_names() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::start("names")?;
    for name in ["docker", "cais-runtime", "caisd"] {
        std::os::unix::fs::symlink(binary()?, engine.dir().join(name))?;
    }
    let host = format!("unix://{}", engine.socket().display());
    let as_docker = Cmd::new(engine.dir().join("docker")).args(["-H", &host, "ps", "-q"]).ok()?;
    ensure!(as_docker.stdout.is_empty());
    for (name, word) in [("cais-runtime", "create"), ("caisd", "data-root")] {
        let help = Cmd::new(engine.dir().join(name)).arg("--help").run()?;
        ensure!(format!("{}{}", help.stdout, help.stderr).contains(word), "{name}: {help:?}");
    }
    Ok(())
}

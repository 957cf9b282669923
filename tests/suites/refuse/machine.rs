//! Machines that lack something: space, root, control groups.

use anyhow::{Result, ensure};
use std::fs;
use tests::engine::{BUSYBOX, binary};
use tests::sh::Cmd;
use tests::{Engine, skip_unless_root};

/// A full disk: the import fails and says so, nothing is left of it, and what was there goes on working.
#[test]
fn full_disk() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let dir = std::env::temp_dir().join(format!("cais-test-{}-full", std::process::id()));
    fs::create_dir_all(dir.join("data"))?;
    Cmd::new("mount").args(["-t", "tmpfs", "-o", "size=24m", "none"]).arg(dir.join("data")).ok()?;
    let mut engine = Engine::start_in(dir.clone(), &binary()?, &[])?;
    // The disk of this test is itself a mount that carries the engine's mark.
    engine.forgive_leaks();
    engine.cais().args(["import", "-c", r#"CMD ["sh"]"#]).arg(tests::image::busybox()?).arg(BUSYBOX).ok()?;
    let root = dir.join("large");
    fs::create_dir(&root)?;
    Cmd::new("sh").args(["-c", &format!("head -c 40M /dev/urandom > {}/file; tar -C {0} -cf {0}.tar file", root.display())]).ok()?;
    let done = engine.cais().arg("import").arg(root.with_extension("tar")).arg("quay/large:1").run()?;
    ensure!(done.code == 1 && done.stderr.to_lowercase().contains("space"), "{done}");
    ensure!(engine.run(&["image", "inspect", "quay/large:1"])?.code == 1);
    ensure!(engine.ok(&["run", "--rm", BUSYBOX, "echo", "on"])?.text() == "on");
    Ok(())
}

/// Without root the engine says so, rather than failing at its first mount.
#[test]
fn no_root() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let dir = std::env::temp_dir().join(format!("cais-test-{}-noroot", std::process::id()));
    let setpriv = Cmd::new("setpriv").args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    // The binary may lie in a folder that only root can enter: it is handed over as a copy.
    let copy = dir.with_extension("bin");
    fs::copy(binary()?, &copy)?;
    let socket = format!("unix://{}/s", dir.display());
    let done = setpriv
        .arg(&copy)
        .args(["engine", "--host", &socket, "--data-root"])
        .arg(dir.join("d"))
        .arg("--exec-root")
        .arg(dir.join("r"))
        .run();
    fs::remove_file(&copy)?;
    let done = done?;
    ensure!(done.code != 0 && done.stderr.contains("root"), "{done}");
    ensure!(!dir.exists());
    Ok(())
}

/// Where control groups are not mounted, a container is refused with a message that names them.
#[test]
fn no_cgroups() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let dir = std::env::temp_dir().join(format!("cais-test-{}-nocgroup", std::process::id()));
    fs::create_dir_all(&dir)?;
    let script = r#"
        mount -t tmpfs none /sys/fs/cgroup || exit 99
        "$CAIS" engine --host "unix://$DIR/s" --data-root "$DIR/data" --exec-root "$DIR/run" --pidfile "$DIR/pid" > "$DIR/log" 2>&1 &
        engine=$!
        for i in $(seq 100); do
            kill -0 $engine 2>/dev/null || break
            [ -S "$DIR/s" ] && "$CAIS" -H "unix://$DIR/s" import "$TAR" quay/b:1 && break
            sleep 0.1
        done
        [ -S "$DIR/s" ] && "$CAIS" -H "unix://$DIR/s" run --rm quay/b:1 true
        code=$?
        kill $engine 2>/dev/null
        wait $engine
        cat "$DIR/log" >&2
        exit $code
    "#;
    let done = Cmd::new("unshare")
        .args(["--mount", "--net", "sh", "-c", script])
        .env("CAIS", binary()?)
        .env("DIR", &dir)
        .env("TAR", tests::image::busybox()?)
        .run();
    tests::leaks::kill_all_in(&dir);
    fs::remove_dir_all(&dir)?;
    let done = done?;
    ensure!(done.code != 0 && done.stderr.contains("cgroup"), "{done}");
    Ok(())
}

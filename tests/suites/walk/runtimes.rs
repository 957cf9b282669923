//! Other runtimes, and devices by description.

use crate::both;
use crate::support::{Walk, code, has};
use anyhow::{Result, ensure};
use std::fs;
use tests::engine::BUSYBOX;
use tests::sh::eventually;

const RUNC: [&str; 2] = ["--runtime", "runc"];

/// A container of runc that sleeps until it is asked to stop.
fn sleeper(walk: &mut Walk, flags: &[&str]) -> Result<String> {
    walk.detached(&[&RUNC[..], flags].concat(), &["sh", "-c", "trap 'exit 5' TERM; echo up; while :; do sleep 0.1; done"])
}

both! {
    /// A container of runc prints, ends, and fails as every other does.
    fn runc_runs(walk) {
        ensure!(walk.once(&RUNC, &["sh", "-c", "echo $$ $(hostname | wc -c)"])? == "1 13");
        code(&walk.try_once(&RUNC, &["sh", "-c", "echo err >&2; exit 7"])?, 7)?;
        code(&walk.try_once(&RUNC, &["no-such"])?, 127)?;
        let user = walk.once(&[&RUNC[..], &["-u", "7:8", "-w", "/tmp", "-e", "A=b"]].concat(), &["sh", "-c", "echo $(id -u) $(id -g) $PWD $A"])?;
        ensure!(user == "7 8 /tmp b", "{user}");
        let input = walk.cmd(&["run", "--rm", "-i", "--runtime", "runc", BUSYBOX, "wc", "-c"])?.stdin(vec![b'x'; 70_000]).ok()?;
        ensure!(input.text() == "70000", "{input}");
        let first = walk.once(&[&RUNC[..], &["--init"]].concat(), &["cat", "/proc/1/comm"])?;
        ensure!(first == "cais-init", "{first}");
        let net = walk.once(&RUNC, &["ls", "/sys/class/net"])?;
        ensure!(net.split_whitespace().any(|link| link == "eth0"), "{net}");
        let unknown = walk.try_once(&["--runtime", "no-such-runtime"], &["true"])?;
        code(&unknown, 125)?;
        has(&unknown.stderr, "runtime")?;
        ensure!(walk.out(&["ps", "-aq"])?.is_empty());
    }

    /// Every command works on a container of runc.
    fn runc_in_every_command(walk) {
        let name = sleeper(walk, &["-m", "64m"])?;
        ensure!(walk.inspect(&name, "{{.HostConfig.Runtime}} {{.State.Running}}")? == "runc true");
        ensure!(walk.inside(&name, "echo in $(cat /proc/1/comm)")? == "in sh");
        code(&walk.run(&["exec", &name, "sh", "-c", "exit 3"])?, 3)?;
        code(&walk.run(&["exec", &name, "no-such"])?, 127)?;
        ensure!(walk.out(&["exec", "-u", "9", &name, "id", "-u"])? == "9");
        eventually("its output is logged", 30, || walk.out(&["logs", &name]).ok().filter(|log| log == "up"))?;
        has(&walk.out(&["top", &name])?, "sleep")?;
        has(&walk.out(&["stats", "--no-stream", &name])?, "64MiB")?;
        walk.ok(&["pause", &name])?;
        ensure!(walk.inspect(&name, "{{.State.Status}}")? == "paused");
        walk.ok(&["unpause", &name])?;
        walk.ok(&["update", "-m", "48m", "--memory-swap", "48m", &name])?;
        has(&walk.out(&["stats", "--no-stream", &name])?, "48MiB")?;
        let file = walk.engine.dir().join("copied");
        fs::write(&file, "copied")?;
        walk.ok(&["cp", &file.to_string_lossy(), &format!("{name}:/tmp/f")])?;
        ensure!(walk.inside(&name, "cat /tmp/f")? == "copied");
        walk.ok(&["stop", "-t", "60", &name])?;
        ensure!(walk.inspect(&name, "{{.State.ExitCode}}")? == "5");
        walk.ok(&["start", &name])?;
        walk.ok(&["kill", &name])?;
        eventually("it is killed", 30, || walk.inspect(&name, "{{.State.ExitCode}}").ok().filter(|code| code == "137"))?;
    }

    /// Terminals of a container of runc and of an exec in it.
    fn runc_terminals(walk) {
        let (exit, shown) = walk.typed(&["run", "--rm", "-it", "--runtime", "runc", BUSYBOX, "sh"], &[b"stty size; exit 4\r"])?;
        ensure!(exit == 4 && shown.contains("40 100"), "{exit}: {shown}");
        let name = sleeper(walk, &[])?;
        let (exit, shown) = walk.typed(&["exec", "-it", &name, "sh"], &[b"tty; exit 6\r"])?;
        ensure!(exit == 6 && shown.contains("/dev/pts/"), "{exit}: {shown}");
    }

    /// A device by its CDI name, and the word of an engine that knows none.
    fn devices_by_description(walk) {
        let folder = walk.engine.dir().join("cdi");
        fs::create_dir_all(&folder)?;
        let text = "cdiVersion: 0.6.0\nkind: quay.test/dev\ncontainerEdits:\n  env: [QUAY=all]\ndevices:\n- name: one\n  containerEdits:\n    deviceNodes:\n    - {path: /dev/quay, hostPath: /dev/fuse}\n";
        fs::write(folder.join("quay.yaml"), text)?;
        walk.engine.restart_with(&["--cdi-spec-dir", &folder.to_string_lossy()])?;
        let shown = walk.once(&["--device", "quay.test/dev=one"], &["sh", "-c", "exec 3<>/dev/quay && echo opened $QUAY"])?;
        ensure!(shown == "opened all", "{shown}");
        let unknown = walk.try_once(&["--device", "quay.test/dev=two"], &["true"])?;
        code(&unknown, 125)?;
        has(&unknown.stderr, "quay.test/dev=one")?;
        let gpus = walk.try_once(&["--gpus", "all"], &["true"])?;
        code(&gpus, 125)?;
        has(&gpus.stderr, "GPU")?;
    }
}

/// An engine runs in a privileged container, with containers of its own, and all of them inside the outer one's limits.
#[test]
fn an_engine_in_a_container() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let engine = tests::Engine::with_busybox("nested")?;
    let program = format!("{}:/bin/cais:ro", tests::engine::binary()?.display());
    let image = format!("{}:/image.tar:ro", tests::image::busybox()?.display());
    let script = "cais engine >/engine.log 2>&1 & \
        n=0; until cais version >/dev/null 2>&1; do n=$((n+1)); [ $n -gt 300 ] && { cat /engine.log; exit 1; }; sleep 0.2; done; \
        cais import /image.tar inner >/dev/null && cais run --rm inner echo nested && cais run --rm --network none -m 32m inner hostname | wc -c && \
        cais run -d --name on inner sleep 300 >/dev/null && cais exec on echo inside && cais rm -f on >/dev/null && cais engine stop >/dev/null && wait";
    let flags = ["--rm", "--privileged", "-m", "1g", "--pids-limit", "300", "-v", "nested:/var/lib/cais", "-v", &program, "-v", &image];
    let done = engine.run(&[&["run"], &flags[..], &[BUSYBOX, "sh", "-c", script]].concat())?;
    ensure!(done.code == 0 && done.text() == "nested\n13\ninside", "{done}");
    Ok(())
}

/// A container of runc outlives the engine.
#[test]
fn runc_outlives_the_engine() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let mut engine = tests::Engine::with_busybox("runc-outlives")?;
    engine.ok(&["run", "-d", "--name", "on", "--runtime", "runc", BUSYBOX, "sleep", "300"])?;
    engine.restart()?;
    ensure!(engine.ok(&["exec", "on", "echo", "still"])?.text() == "still");
    engine.ok(&["stop", "-t", "0", "on"])?;
    ensure!(engine.inspect("on", "{{.State.ExitCode}}")? == "137");
    Ok(())
}

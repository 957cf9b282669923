//! The life of a container: create, start, stop, restart, kill, pause, wait, rename, logs, lists, removal.

use crate::both;
use crate::support::{code, has};
use anyhow::ensure;
use std::fs;
use std::time::{Duration, Instant};
use tests::engine::BUSYBOX;
use tests::sh::eventually;

/// Counts into a file without end.
const COUNTER: [&str; 3] = ["sh", "-c", "i=0; while :; do i=$((i+1)); echo $i > /n; sleep 0.05; done"];

both! {
    /// `run` is `create` + `start`, and a name cannot be taken twice.
    fn create_and_start(walk) {
        let name = walk.name();
        walk.ok(&["create", "--name", &name, BUSYBOX, "echo", "made"])?;
        ensure!(walk.inspect(&name, "{{.State.Status}}")? == "created");
        ensure!(walk.out(&["start", "-a", &name])? == "made");
        let again = walk.run(&["create", "--name", &name, BUSYBOX, "true"])?;
        code(&again, 1)?;
        has(&again.stderr, &name)?;
        code(&walk.run(&["run", "--name", &name, BUSYBOX, "true"])?, 125)?;
    }

    /// `ps -a -q -s -l -n --no-trunc --filter --format`, and `container ls -aq`.
    fn lists(walk) {
        let name = walk.name();
        walk.ok(&["run", "--name", &name, BUSYBOX, "sh", "-c", "dd if=/dev/zero of=/f bs=1024 count=100 2>/dev/null"])?;
        let id = walk.inspect(&name, "{{.Id}}")?;
        let short = &id[..12];
        ensure!(!walk.out(&["ps", "-q"])?.contains(short), "an ended container is listed as running");
        for args in [&["ps", "-aq"][..], &["container", "ls", "-aq"], &["ps", "-lq"], &["ps", "-n", "1", "-q"]] {
            ensure!(walk.out(args)? == short, "{args:?}");
        }
        ensure!(walk.out(&["ps", "-aq", "--no-trunc"])? == id);
        let filtered = ["ps", "-a", "--filter", &format!("name={name}"), "--filter", "status=exited", "--format", "{{.ID}} {{.Names}}"];
        ensure!(walk.out(&filtered)? == format!("{short} {name}"));
        ensure!(walk.out(&["ps", "-aq", "--filter", "status=running"])?.is_empty());
        has(&walk.out(&["ps", "-as"])?, "102kB (virtual")?;
    }

    /// `stop` sends SIGTERM and waits; `-t 0` kills at once.
    fn stop(walk) {
        let name = walk.detached(&[], &["sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done"])?;
        eventually("it is up", 10, || walk.out(&["logs", &name]).ok().filter(|log| log == "up"))?;
        walk.ok(&["stop", &name])?;
        ensure!(walk.inspect(&name, "{{.State.ExitCode}}")? == "3");
        has(&walk.out(&["logs", &name])?, "bye")?;
        let name = walk.detached(&[], &["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])?;
        let started = Instant::now();
        walk.ok(&["stop", "-t", "0", &name])?;
        ensure!(started.elapsed() < Duration::from_secs(4));
        ensure!(walk.inspect(&name, "{{.State.ExitCode}}")? == "137");
    }

    /// A stubborn process is killed when its time is over; `--stop-signal` and `--stop-timeout` are heeded.
    fn stop_deadline(walk) {
        let name = walk.detached(&["--stop-timeout", "1"], &["sh", "-c", "trap '' TERM; while :; do sleep 0.1; done"])?;
        let started = Instant::now();
        walk.ok(&["stop", &name])?;
        let took = started.elapsed();
        ensure!(took > Duration::from_millis(900) && took < Duration::from_secs(6), "{took:?}");
        let script = "trap 'exit 5' USR2; echo up; while :; do sleep 0.1; done";
        let name = walk.detached(&["--stop-signal", "USR2"], &["sh", "-c", script])?;
        eventually("it is up", 10, || walk.out(&["logs", &name]).ok().filter(|log| log == "up"))?;
        walk.ok(&["stop", &name])?;
        ensure!(walk.inspect(&name, "{{.State.ExitCode}}")? == "5");
    }

    /// Starting again keeps the read/write layer; `restart` gives a new process.
    fn start_again(walk) {
        let name = walk.sleeper(&[])?;
        walk.ok(&["exec", &name, "touch", "/kept"])?;
        walk.ok(&["stop", "-t", "0", &name])?;
        walk.ok(&["start", &name])?;
        walk.ok(&["exec", &name, "ls", "/kept"])?;
        let before = walk.inspect(&name, "{{.State.Pid}}")?;
        walk.ok(&["restart", "-t", "0", &name])?;
        ensure!(walk.inspect(&name, "{{.State.Pid}}")? != before);
    }

    /// `kill -s`, `wait`, `rename`.
    fn kill_wait_rename(walk) {
        let name = walk.detached(&[], &["sh", "-c", "trap 'exit 4' USR1; echo up; while :; do sleep 0.1; done"])?;
        eventually("it is up", 10, || walk.out(&["logs", &name]).ok().filter(|log| log == "up"))?;
        walk.ok(&["kill", "-s", "USR1", &name])?;
        ensure!(walk.out(&["wait", &name])? == "4");
        let other = walk.name();
        walk.ok(&["rename", &name, &other])?;
        ensure!(walk.inspect(&other, "{{.Name}}")? == format!("/{other}"));
        code(&walk.run(&["inspect", &name])?, 1)?;
    }

    /// `pause` freezes, `unpause` goes on with the same process.
    fn pause(walk) {
        let name = walk.detached(&[], &COUNTER)?;
        let pid = walk.inspect(&name, "{{.State.Pid}}")?;
        let count = || fs::read_to_string(format!("/proc/{pid}/root/n"));
        eventually("it counts", 10, || count().ok())?;
        walk.ok(&["pause", &name])?;
        ensure!(walk.inspect(&name, "{{.State.Status}}")? == "paused");
        let frozen = count()?;
        std::thread::sleep(Duration::from_millis(400));
        ensure!(count()? == frozen, "it went on while it was paused");
        ensure!(walk.run(&["exec", &name, "true"])?.code != 0);
        walk.ok(&["unpause", &name])?;
        eventually("it goes on", 10, || count().ok().filter(|now| *now != frozen))?;
        ensure!(walk.inspect(&name, "{{.State.Pid}}")? == pid);
    }

    /// A paused container can be stopped and removed.
    fn paused_is_removed(walk) {
        let name = walk.sleeper(&[])?;
        walk.ok(&["pause", &name])?;
        walk.remove(&[&name])?;
        ensure!(walk.out(&["ps", "-aq"])?.is_empty());
    }

    /// `logs`: whole, `--tail`, `--since`, `-t`, `-f` until the end.
    fn logs(walk) {
        let name = walk.detached(&[], &["sh", "-c", "for i in 1 2 3 4 5; do echo l$i; done; sleep 1; echo l6"])?;
        let followed = walk.ok(&["logs", "-f", &name])?;
        ensure!(followed.stdout.split_whitespace().eq(["l1", "l2", "l3", "l4", "l5", "l6"]), "{followed:?}");
        ensure!(walk.out(&["logs", "--tail", "2", &name])?.split_whitespace().eq(["l5", "l6"]));
        let stamped = walk.out(&["logs", "-t", "--tail", "1", &name])?;
        let (stamp, text) = stamped.split_once(' ').unwrap_or_default();
        ensure!(stamp.starts_with("20") && stamp.ends_with('Z') && text == "l6", "{stamped}");
        ensure!(walk.out(&["logs", "--since", "2099-01-01T00:00:00", &name])?.is_empty());
        ensure!(walk.out(&["logs", "--until", "2001-01-01T00:00:00", &name])?.is_empty());
    }

    /// Long lines and bytes that are no text come back as they were written, on the stream they were written to.
    fn logs_are_exact(walk) {
        let script = "head -c 40000 /dev/zero | tr '\\0' a; echo; echo e >&2";
        let name = walk.name();
        walk.ok(&["run", "--name", &name, BUSYBOX, "sh", "-c", script])?;
        let done = walk.ok(&["logs", &name])?;
        ensure!(done.stdout == format!("{}\n", "a".repeat(40_000)), "{} bytes came back", done.stdout.len());
        ensure!(done.stderr == "e\n");
    }

    /// `inspect -f`, `-s`, `--type`; ids by any unambiguous prefix.
    fn inspect(walk) {
        let name = walk.sleeper(&[])?;
        let id = walk.inspect(&name, "{{.Id}}")?;
        ensure!(walk.inspect(&id[..6], "{{.Name}}")? == format!("/{name}"));
        ensure!(walk.out(&["inspect", "-s", "-f", "{{.SizeRw}}", &name])?.parse::<i64>()? >= 0);
        has(&walk.out(&["inspect", "--type", "container", &name])?, &id)?;
        code(&walk.run(&["inspect", "--type", "image", &name])?, 1)?;
        ensure!(walk.inspect(BUSYBOX, "{{.Id}}")?.starts_with("sha256:"));
    }

    /// Commands on several containers act on the good ones, name each bad one, and end with 1.
    fn several_at_once(walk) {
        let (one, two) = (walk.sleeper(&[])?, walk.sleeper(&[])?);
        let done = walk.run(&["stop", "-t", "0", &one, "no-such-one", &two, "no-such-two"])?;
        code(&done, 1)?;
        for bad in ["no-such-one", "no-such-two"] {
            has(&done.stderr, bad)?;
        }
        ensure!(done.stdout.split_whitespace().eq([one.as_str(), two.as_str()]), "{done:?}");
    }

    /// `rm` refuses a running container, and `--force` removes it.
    fn remove(walk) {
        let name = walk.sleeper(&[])?;
        code(&walk.run(&["rm", &name])?, 1)?;
        walk.ok(&["rm", "--force", &name])?;
        code(&walk.run(&["inspect", &name])?, 1)?;
        code(&walk.run(&["rm", &name])?, 1)?;
    }

    /// `stop $(container ls -q)`, `container rm $(container ls -aq)`, `container prune`.
    fn remove_all(walk) {
        for _ in 0..3 {
            walk.sleeper(&["--label", "quay.all=1"])?;
        }
        let running = walk.out(&["container", "ls", "-q", "--filter", "label=quay.all=1"])?;
        let running: Vec<_> = running.split_whitespace().collect();
        ensure!(running.len() == 3);
        walk.ok(&[&["stop", "-t", "0"], &running[..]].concat())?;
        walk.ok(&[&["container", "rm"], &running[..2]].concat())?;
        let pruned = walk.out(&["container", "prune", "-f"])?;
        has(&pruned, running[2])?;
        ensure!(walk.out(&["ps", "-aq"])?.is_empty());
    }

    /// `--rm` removes it, with its anonymous volumes.
    fn throw_away(walk) {
        let name = walk.name();
        walk.ok(&["run", "--rm", "--name", &name, "-v", "/anon", BUSYBOX, "true"])?;
        code(&walk.run(&["inspect", &name])?, 1)?;
        ensure!(walk.out(&["volume", "ls", "-q"])?.is_empty());
    }

    /// `stats --no-stream`, `version`, `info`.
    fn figures(walk) {
        let name = walk.sleeper(&["-m", "64m"])?;
        let shown = walk.out(&["stats", "--no-stream", "--format", "{{.Name}} {{.CPUPerc}} {{.MemUsage}} {{.PIDs}}", &name])?;
        has(&shown, "/ 64MiB")?;
        ensure!(shown.starts_with(&name) && shown.contains('%') && shown.ends_with(" 1"), "{shown}");
        let version = walk.out(&["version", "--format", "{{.Server.APIVersion}} {{.Server.Os}}"])?;
        ensure!(version == "1.51 linux", "{version}");
        has(&walk.out(&["info", "--format", "{{.Driver}} {{.ContainersRunning}}"])?, "overlay2 1")?;
    }
}

//! Containers are processes: run, isolation, limits, terminals.

use crate::both;
use crate::support::{code, has, own_namespace};
use anyhow::ensure;
use std::time::Duration;
use tests::engine::BUSYBOX;
use tests::sh::eventually;

both! {
    /// `run` prints, and hands the exit code on.
    fn run_prints(walk) {
        ensure!(walk.once(&[], &["echo", "hello"])? == "hello");
        code(&walk.try_once(&[], &["sh", "-c", "exit 7"])?, 7)?;
    }

    /// Standard output and standard error stay apart.
    fn streams_stay_apart(walk) {
        let done = walk.try_once(&[], &["sh", "-c", "echo out; echo err >&2"])?;
        ensure!(done.stdout == "out\n" && done.stderr == "err\n", "{done:?}");
    }

    /// Standard input reaches the process, and so does its end.
    fn stdin_and_its_end(walk) {
        let counted = walk.cmd(&["run", "--rm", "-i", BUSYBOX, "wc", "-c"])?.stdin(vec![b'x'; 100_000]).ok()?;
        ensure!(counted.text() == "100000", "{counted:?}");
    }

    /// A command that is not there ends with 127, one that cannot be executed with 126.
    fn no_such_command(walk) {
        code(&walk.try_once(&[], &["/no/such"])?, 127)?;
        code(&walk.try_once(&[], &["no-such"])?, 127)?;
        code(&walk.try_once(&[], &["/etc"])?, 126)?;
        let left = walk.out(&["ps", "-aq"])?;
        ensure!(left.is_empty(), "half-made containers: {left}");
    }

    /// PID namespace: the command is process 1 and sees only its own.
    fn own_processes(walk) {
        ensure!(walk.once(&[], &["sh", "-c", "echo $$"])? == "1");
        let count: u32 = walk.once(&[], &["sh", "-c", "ls -d /proc/[0-9]* | wc -l"])?.parse()?;
        ensure!(count <= 5, "{count} processes are seen");
    }

    /// The namespaces are not the host's, and `host` shares them.
    fn own_namespaces(walk) {
        let kinds = ["pid", "net", "ipc", "mnt", "uts"];
        let shown = walk.once(&[], &["sh", "-c", "for n in pid net ipc mnt uts; do readlink /proc/self/ns/$n; done"])?;
        for (kind, got) in kinds.iter().zip(shown.lines()) {
            ensure!(got != own_namespace(kind)?, "the {kind} namespace is the host's");
        }
        ensure!(shown.lines().count() == kinds.len());
        for kind in ["ipc", "pid", "uts"] {
            let got = walk.once(&[&format!("--{kind}"), "host"], &["readlink", &format!("/proc/self/ns/{kind}")])?;
            ensure!(got == own_namespace(kind)?, "--{kind} host did not share it");
        }
    }

    /// The host name is the short id, and `--hostname` sets it.
    fn own_hostname(walk) {
        let name = walk.sleeper(&[])?;
        ensure!(walk.inside(&name, "hostname")? == walk.inspect(&name, "{{.Id}}")?[..12]);
        ensure!(walk.once(&["-h", "quay"], &["hostname"])? == "quay");
    }

    /// Own network interfaces, own mount points.
    fn own_interfaces_and_mounts(walk) {
        let links = walk.once(&[], &["ls", "/sys/class/net"])?;
        let mut links: Vec<_> = links.split_whitespace().collect();
        links.sort_unstable();
        ensure!(links == ["eth0", "lo"], "{links:?}");
        let mounts = walk.once(&[], &["cat", "/proc/mounts"])?;
        ensure!(mounts.lines().any(|line| line.starts_with("overlay / ")), "{mounts}");
        ensure!(!mounts.lines().any(|line| line.starts_with("/dev/") && line.split(' ').nth(1) == Some("/")), "{mounts}");
    }

    /// Killing the first process ends all of its children.
    fn children_end_with_the_first(walk) {
        let tag = format!("9{}", std::process::id());
        let name = walk.detached(&[], &["sh", "-c", &format!("sleep {tag} & sleep {tag} & sleep {tag}")])?;
        let alive = || tests::sh::Cmd::new("pgrep").args(["-fc", &format!("^sleep {tag}")]).run().map(|done| done.text().to_owned());
        eventually("three sleep", 10, || alive().ok().filter(|count| count == "3"))?;
        walk.ok(&["kill", &name])?;
        eventually("none sleeps", 10, || alive().ok().filter(|count| count == "0"))?;
    }

    /// A hog of memory is killed, with exit code 137, and reported as out of memory.
    fn memory_limit_holds(walk) {
        let name = walk.name();
        let done = walk.run(&["run", "--name", &name, "-m", "24m", "--memory-swap", "24m", BUSYBOX, "sh", "-c", "tail /dev/zero"])?;
        code(&done, 137)?;
        ensure!(walk.inspect(&name, "{{.State.OOMKilled}} {{.State.ExitCode}}")? == "true 137");
    }

    /// Two busy loops at `--cpus 0.5` get half a core, or less where the machine has other work.
    fn cpu_limit_holds(walk) {
        let name = walk.detached(&["--cpus", "0.5"], &["sh", "-c", "(while :; do :; done) & (while :; do :; done)"])?;
        std::thread::sleep(Duration::from_secs(1));
        let mut seen = Vec::new();
        for _ in 0..3 {
            let shown = walk.out(&["stats", "--no-stream", "--format", "{{.CPUPerc}}", &name])?;
            seen.push(shown.trim_end_matches('%').parse::<f64>()?);
        }
        ensure!(seen.iter().any(|percent| (15.0..=70.0).contains(percent)), "{seen:?}");
    }

    /// `--pids-limit` holds.
    fn pids_limit_holds(walk) {
        let done = walk.try_once(&["--pids-limit", "8"], &["sh", "-c", "for i in $(seq 30); do sleep 2 & done; wait"])?;
        has(&done.stderr.to_lowercase(), "fork")?;
    }

    /// Limits are seen by inspect and by the process, and `update` changes them while it runs.
    fn limits_change_while_running(walk) {
        let name = walk.sleeper(&["-m", "64m", "--memory-swap", "64m", "--cpu-shares", "512", "--cpuset-cpus", "0"])?;
        let limits = walk.inspect(&name, "{{.HostConfig.Memory}} {{.HostConfig.CpuShares}} {{.HostConfig.CpusetCpus}}")?;
        ensure!(limits == "67108864 512 0", "{limits}");
        ensure!(walk.inside(&name, "grep Cpus_allowed_list /proc/self/status | cut -f2")? == "0");
        walk.ok(&["update", "-m", "96m", "--memory-swap", "96m", &name])?;
        ensure!(walk.inspect(&name, "{{.HostConfig.Memory}}")? == "100663296");
    }

    /// `-d` keeps it up; `ps` and `top` show it.
    fn detached_is_shown(walk) {
        let name = walk.sleeper(&[])?;
        has(&walk.out(&["ps", "--format", "{{.Names}} {{.Status}}"])?, &format!("{name} Up"))?;
        has(&walk.out(&["top", &name])?, "sleep 300")?;
    }

    /// `run -it` is a real terminal, with its size and its exit code.
    fn terminal(walk) {
        let steps: [&[u8]; 3] = [b"tty; stty size\n", b"echo x$((40+2))y\n", b"exit 5\n"];
        let (exit, shown) = walk.typed(&["run", "--rm", "-it", BUSYBOX, "sh"], &steps)?;
        ensure!(exit == 5, "exit code {exit}: {shown:?}");
        for part in ["/dev/pts/", "40 100", "x42y"] {
            has(&shown, part)?;
        }
    }

    /// Ctrl-C reaches the process of `run -it`.
    fn interrupt(walk) {
        let script = "trap 'echo gotint; exit 9' INT; while :; do sleep 0.1; done";
        let (exit, shown) = walk.typed(&["run", "--rm", "-it", BUSYBOX, "sh", "-c", script], &[b"\x03"])?;
        has(&shown, "gotint")?;
        ensure!(exit == 9, "exit code {exit}: {shown:?}");
    }

    /// The detach keys leave it running, and `attach` comes back to it.
    fn detach_and_attach(walk) {
        let name = walk.name();
        walk.typed(&["run", "-it", "--name", &name, BUSYBOX, "sh"], &[b"A=77\n", b"\x10\x11"])?;
        ensure!(walk.inspect(&name, "{{.State.Running}}")? == "true");
        let (exit, shown) = walk.typed(&["attach", &name], &[b"echo v$A\n", b"exit 4\n"])?;
        has(&shown, "v77")?;
        ensure!(exit == 4, "exit code {exit}: {shown:?}");
    }

    /// `exec` hands its exit code on, takes `-e -u -w -d -i -it`, and fails clearly.
    fn exec(walk) {
        let name = walk.sleeper(&[])?;
        code(&walk.run(&["exec", &name, "sh", "-c", "exit 6"])?, 6)?;
        let shown = walk.out(&["exec", "-e", "Q=1", "-w", "/tmp", "-u", "5", &name, "sh", "-c", "echo $Q$(pwd)$(id -u)"])?;
        ensure!(shown == "1/tmp5", "{shown}");
        walk.ok(&["exec", "-d", &name, "touch", "/made"])?;
        eventually("the detached exec made its file", 10, || walk.run(&["exec", &name, "ls", "/made"]).ok().filter(|done| done.code == 0))?;
        ensure!(walk.cmd(&["exec", "-i", &name, "cat"])?.stdin("in").ok()?.stdout == "in");
        let (exit, shown) = walk.typed(&["exec", "-it", &name, "sh"], &[b"tty\n", b"exit 3\n"])?;
        has(&shown, "/dev/pts/")?;
        ensure!(exit == 3, "exit code {exit}: {shown:?}");
        let missing = walk.run(&["exec", &name, "/no/such"])?;
        ensure!(matches!(missing.code, 126 | 127), "{missing}");
        walk.remove(&[&name])?;
        code(&walk.run(&["exec", &name, "true"])?, 1)?;
    }

    /// A hundred inspects and twenty runs at once are all right.
    fn many_at_once(walk) {
        let name = walk.sleeper(&[])?;
        let walk = &*walk;
        std::thread::scope(|scope| {
            let inspects = (0..100).map(|_| scope.spawn(|| walk.inspect(&name, "{{.State.Running}}").map(|text| text == "true")));
            let runs = (0..20).map(|i| scope.spawn(move || walk.once(&[], &["echo", &i.to_string()]).map(|text| text == i.to_string())));
            let handles: Vec<_> = inspects.collect::<Vec<_>>().into_iter().chain(runs.collect::<Vec<_>>()).collect();
            for handle in handles {
                let outcome = handle.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
                ensure!(outcome?, "a wrong answer");
            }
            Ok(())
        })?;
    }
}

//! What a container is given and denied: environment, user, root, capabilities, seccomp, devices, names.

use crate::both;
use crate::support::{code, has};
use anyhow::ensure;
use std::fs;
use std::time::{Duration, Instant};
use tests::engine::BUSYBOX;
use tests::sh::eventually;

/// The capabilities of a container that asked for nothing, as /proc shows them.
const CAPABILITIES_DEFAULT: &str = "00000000a80425fb";

/// A script that prints one field of /proc/self/status.
fn status(field: &str) -> String {
    format!("grep '^{field}:' /proc/self/status | cut -f2")
}

both! {
    /// `-e`, `--env-file`, `-w`.
    fn environment(walk) {
        let file = walk.engine.dir().join("env");
        fs::write(&file, "B=2\n# a comment\nC\n")?;
        let file = file.to_string_lossy().into_owned();
        let shown = walk.once(&["-e", "A=1", "--env-file", &file, "-w", "/tmp"], &["sh", "-c", "echo $A$B$(pwd)"])?;
        ensure!(shown == "12/tmp", "{shown}");
    }

    /// `-u`, `--entrypoint`.
    fn user_and_entrypoint(walk) {
        let ids = walk.once(&["-u", "1000:1001"], &["sh", "-c", "echo $(id -u) $(id -g)"])?;
        ensure!(ids == "1000 1001", "{ids}");
        ensure!(walk.once(&["--entrypoint", "echo"], &["z"])? == "z");
    }

    /// Labels are kept and found by filters.
    fn labels(walk) {
        let name = walk.sleeper(&["--label", "quay.l=v"])?;
        ensure!(walk.inspect(&name, r#"{{index .Config.Labels "quay.l"}}"#)? == "v");
        let found = walk.out(&["ps", "-q", "--no-trunc", "--filter", "label=quay.l=v"])?;
        ensure!(found == walk.inspect(&name, "{{.Id}}")?, "{found}");
    }

    /// `--read-only` root with a writable `--tmpfs`.
    fn read_only(walk) {
        let done = walk.try_once(&["--read-only", "--tmpfs", "/t"], &["sh", "-c", "touch /t/ok && touch /x"])?;
        ensure!(done.code != 0);
        has(&done.stderr.to_lowercase(), "read-only")?;
    }

    /// The default capabilities, `--cap-drop` and `--cap-add`.
    fn capabilities(walk) {
        let effective = status("CapEff");
        let shown = |flags: &[&str]| walk.once(flags, &["sh", "-c", &effective]);
        ensure!(shown(&[])? == CAPABILITIES_DEFAULT);
        ensure!(shown(&["--cap-drop", "ALL"])? == "0".repeat(16));
        ensure!(shown(&["--cap-drop", "ALL", "--cap-add", "NET_ADMIN"])? == "0000000000001000");
        ensure!(shown(&["--cap-drop", "ALL", "--cap-add", "CAP_NET_ADMIN"])? == "0000000000001000");
    }

    /// `--privileged` gives what the engine itself has, the host's devices, and no seccomp.
    fn privileged(walk) {
        let own = fs::read_to_string("/proc/self/status")?;
        let bounding = own.lines().find_map(|line| line.strip_prefix("CapBnd:")).map(str::trim).unwrap_or_default().to_owned();
        let script = format!("{}; {}; ls /dev/fuse", status("CapEff"), status("Seccomp"));
        let shown = walk.once(&["--privileged"], &["sh", "-c", &script])?;
        ensure!(shown.split_whitespace().eq([bounding.as_str(), "0", "/dev/fuse"]), "{shown} against {bounding}");
    }

    /// Seccomp and no-new-privileges.
    fn security_options(walk) {
        let seccomp = status("Seccomp");
        ensure!(walk.once(&[], &["sh", "-c", &seccomp])? == "2");
        ensure!(walk.once(&["--security-opt", "seccomp=unconfined"], &["sh", "-c", &seccomp])? == "0");
        ensure!(walk.once(&["--security-opt", "no-new-privileges"], &["sh", "-c", &status("NoNewPrivs")])? == "1");
        let denied = walk.try_once(&[], &["unshare", "-U", "true"])?;
        ensure!(denied.code != 0, "unshare of a user namespace passed the default profile");
    }

    /// Kernel paths are masked or read-only.
    fn kernel_paths(walk) {
        ensure!(walk.try_once(&[], &["sh", "-c", "echo 1 > /proc/sys/kernel/domainname"])?.code != 0);
        ensure!(walk.once(&[], &["sh", "-c", "cat /proc/kcore 2>/dev/null | wc -c"])? == "0");
        ensure!(walk.once(&[], &["sh", "-c", "ls /sys/firmware | wc -l"])? == "0");
    }

    /// `--device`, `--ulimit`, `--shm-size`.
    fn devices_and_limits(walk) {
        ensure!(walk.once(&["--device", "/dev/fuse"], &["ls", "/dev/fuse"])? == "/dev/fuse");
        ensure!(walk.once(&["--device", "/dev/null:/dev/other:r"], &["cat", "/dev/other"])?.is_empty());
        let limits = walk.once(&["--ulimit", "nofile=100:200"], &["sh", "-c", "echo $(ulimit -n) $(ulimit -Hn)"])?;
        ensure!(limits == "100 200", "{limits}");
        has(&walk.once(&["--shm-size", "32m"], &["df", "-k", "/dev/shm"])?, "32768")?;
    }

    /// `--add-host`, `--dns`, and the host by its name without a flag.
    fn names(walk) {
        let hosts = walk.once(&["--add-host", "foo:1.2.3.4"], &["cat", "/etc/hosts"])?;
        ensure!(hosts.lines().any(|line| line.split_whitespace().eq(["1.2.3.4", "foo"])), "{hosts}");
        ensure!(hosts.lines().any(|line| line.split_whitespace().nth(1) == Some("host.docker.internal")), "{hosts}");
        has(&walk.once(&["--dns", "127.0.0.9"], &["cat", "/etc/resolv.conf"])?, "nameserver 127.0.0.9")?;
    }

    /// `--init` reaps and forwards; `--cidfile` has the id.
    fn init_and_cidfile(walk) {
        let file = walk.engine.dir().join("cid").to_string_lossy().into_owned();
        let name = walk.sleeper(&["--init", "--cidfile", &file])?;
        ensure!(fs::read_to_string(&file)? == walk.inspect(&name, "{{.Id}}")?);
        let first = walk.inside(&name, "cat /proc/1/comm")?;
        ensure!(first != "sleep", "the first process is {first}");
        let started = Instant::now();
        walk.ok(&["stop", &name])?;
        ensure!(started.elapsed() < Duration::from_secs(5), "--init did not forward the signal");
        code(&walk.run(&["run", "--rm", "--cidfile", &file, BUSYBOX, "true"])?, 125)?;
    }

    /// `--restart on-failure:2` counts; `always` comes back.
    fn restart_policies(walk) {
        let name = walk.name();
        walk.ok(&["run", "-d", "--name", &name, "--restart", "on-failure:2", BUSYBOX, "false"])?;
        let state = || walk.inspect(&name, "{{.RestartCount}} {{.State.Running}} {{.State.Restarting}}");
        eventually("it was restarted twice", 20, || state().ok().filter(|state| state == "2 false false"))?;
        let name = walk.sleeper(&["--restart", "always"])?;
        let first = walk.inspect(&name, "{{.State.Pid}}")?;
        let pid = rustix::process::Pid::from_raw(first.parse()?).ok_or_else(|| anyhow::anyhow!("no pid"))?;
        rustix::process::kill_process(pid, rustix::process::Signal::KILL)?;
        let state = || walk.inspect(&name, "{{.State.Running}} {{.State.Pid}}");
        eventually("it came back", 20, || state().ok().filter(|state| state.starts_with("true ") && *state != format!("true {first}")))?;
    }

    /// Unknown flags and bad values end with 125 and say what is wrong.
    fn bad_flags(walk) {
        let unknown = walk.run(&["run", "--no-such-flag", BUSYBOX])?;
        code(&unknown, 125)?;
        has(&unknown.stderr, "no-such-flag")?;
        for flags in [["-m", "banana"], ["--restart", "sometimes"], ["-p", "notaport:80"], ["--cpus", "-1x"]] {
            let done = walk.try_once(&flags, &["true"])?;
            code(&done, 125)?;
            ensure!(!done.stderr.trim().is_empty(), "{flags:?} is refused without a word");
        }
    }
}

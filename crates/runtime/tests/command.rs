//! The command line, as containerd and people use it.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use common::{Bed, sh, spec, usable, wait_until};
use runtime::oci;

/// A bundle and a place for states; the program is built with the tests.
struct Bundle {
    bed: Bed,
}

impl Bundle {
    fn new(mut spec: oci::Spec) -> Self {
        let bed = Bed::new();
        for folder in ["proc", "dev", "sys"] {
            std::fs::create_dir_all(bed.path.join("lower").join(folder)).unwrap();
        }
        spec.root = Some(oci::Root { path: "lower".into(), readonly: false });
        spec.linux.cgroups_path = format!("/{}/one", bed.name);
        std::fs::write(bed.path.join("config.json"), serde_json::to_vec(&spec).unwrap()).unwrap();
        Self { bed }
    }

    fn program() -> PathBuf {
        std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/cais-runtime")
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(Self::program());
        command.arg("--root").arg(self.bed.path.join("state")).args(args).current_dir(&self.bed.path).stdin(Stdio::null());
        command
    }

    fn call(&self, args: &[&str]) -> Output {
        self.command(args).output().unwrap()
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// The container keeps the streams of `create`, so reading them to their end would wait for its own.
    fn create(&self, args: &[&str]) {
        let status = self.command(&[&["create"], args, &["box"]].concat()).stdout(Stdio::null()).stderr(Stdio::null()).status().unwrap();
        assert!(status.success());
    }

    fn refused(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(!output.status.success(), "{args:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    fn status(&self) -> String {
        let state: serde_json::Value = serde_json::from_str(&self.ok(&["state", "box"])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    }
}

fn ready() -> bool {
    if usable() && !Bundle::program().exists() {
        eprintln!("SKIP: {} is not built", Bundle::program().display());
        return false;
    }
    usable()
}

#[test]
fn run_hands_on_output_and_code_and_leaves_nothing() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(sh("echo out; echo err >&2; cat; exit 3"));
    let mut child = bundle.command(&["run", "box"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"in\n").unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice(), output.stderr.as_slice()), (Some(3), &b"out\nin\n"[..], &b"err\n"[..]));
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    for hierarchy in bundle.bed.system.hierarchies() {
        assert!(!hierarchy.mount.join(&bundle.bed.name).join("one").exists());
    }
}

#[test]
fn signals_are_forwarded() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(sh("trap 'echo got; exit 9' TERM; echo up; while :; do sleep 0.05; done"));
    let mut child = bundle.command(&["run", "box"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let mut first = [0u8; 3];
    std::io::Read::read_exact(&mut output, &mut first).unwrap();
    let pid = rustix::process::Pid::from_raw(child.id() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn a_life_in_steps() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(sh("echo started > /tmp/marker; sleep 60"));
    let pid_file = bundle.bed.path.join("pid");
    assert!(bundle.refused(&["state", "box"]).contains("no container named \"box\" exists"));
    bundle.create(&["--pid-file", pid_file.to_str().unwrap()]);
    let marker = bundle.bed.path.join("lower/tmp/marker");
    assert_eq!(bundle.status(), "created");
    assert!(!marker.exists());
    assert!(bundle.refused(&["create", "box"]).contains("exists already"));
    assert!(bundle.refused(&["pause", "nosuch"]).contains("nosuch"));
    bundle.ok(&["start", "box"]);
    wait_until("it has started", || marker.exists());
    assert_eq!(bundle.status(), "running");
    assert!(bundle.refused(&["start", "box"]).contains("it is running"));
    assert!(bundle.ok(&["list"]).contains("running"));
    let pid = std::fs::read_to_string(&pid_file).unwrap();
    assert!(bundle.ok(&["ps", "-f", "json", "box"]).contains(&pid));

    let output = bundle.call(&[
        "exec",
        "-e",
        "Q=1",
        "--cwd",
        "/tmp",
        "--user",
        "5:6",
        "box",
        "sh",
        "-c",
        "echo $Q $(pwd) $(id -u):$(id -g); exit 4",
    ]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), &b"1 /tmp 5:6\n"[..]), "{output:?}");
    let output = bundle.call(&["exec", "box", "nosuch"]);
    assert_eq!(output.status.code(), Some(255));
    assert!(String::from_utf8(output.stderr).unwrap().contains("executable file not found in $PATH"));

    bundle.ok(&["pause", "box"]);
    assert_eq!(bundle.status(), "paused");
    assert!(bundle.refused(&["exec", "box", "true"]).contains("it is paused"));
    bundle.ok(&["resume", "box"]);
    assert!(bundle.refused(&["delete", "box"]).contains("use --force"));
    bundle.ok(&["kill", "box", "KILL"]);
    wait_until("it has ended", || bundle.status() == "stopped");
    assert!(bundle.refused(&["kill", "box", "TERM"]).contains("not running"));
    bundle.ok(&["delete", "box"]);
    assert!(bundle.refused(&["delete", "box"]).contains("no container"));
    bundle.ok(&["delete", "--force", "box"]);
}

#[test]
fn what_cannot_start_is_told() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(spec(&["/no/such"]));
    // Other engines hear of a missing command from create, and of everything else from start.
    assert!(bundle.refused(&["create", "box"]).contains("exec \"/no/such\": no such file or directory"));
    assert_eq!(bundle.ok(&["list", "-q"]), "");
    let broken = Bundle::new(spec(&["/broken"]));
    broken.bed.script("broken", "#!/no/interpreter\n");
    broken.create(&[]);
    assert!(broken.refused(&["start", "box"]).contains("exec \"/broken\": no such file or directory"));
    broken.ok(&["delete", "box"]);
    let log = bundle.bed.path.join("log");
    bundle.refused(&["--log", log.to_str().unwrap(), "--log-format", "json", "run", "box"]);
    let line: serde_json::Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().trim()).unwrap();
    assert!(line["msg"].as_str().unwrap().contains("/no/such") && line["level"] == "error");
    assert_eq!(bundle.ok(&["list", "-q"]), "");
}

#[test]
fn a_terminal_goes_over_the_console_socket() {
    if !ready() {
        return;
    }
    let mut spec = sh("tty; sleep 0.1");
    common::process(&mut spec).terminal = true;
    let bundle = Bundle::new(spec);
    let path = bundle.bed.path.join("console.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    assert!(bundle.refused(&["create", "box"]).contains("--console-socket"));
    bundle.create(&["--console-socket", path.to_str().unwrap()]);
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut name = [0u8; 64];
    rustix::net::recvmsg(stream.as_fd(), &mut [std::io::IoSliceMut::new(&mut name)], &mut ancillary, rustix::net::RecvFlags::CMSG_CLOEXEC)
        .unwrap();
    let master = ancillary
        .drain()
        .find_map(|message| match message {
            rustix::net::RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
            _ => None,
        })
        .unwrap();
    bundle.ok(&["start", "box"]);
    let mut text = [0u8; 64];
    let count = rustix::io::read(&master, &mut text).unwrap();
    assert_eq!(std::str::from_utf8(&text[..count]).unwrap(), "/dev/pts/0\r\n");
    wait_until("it has ended", || bundle.status() == "stopped");
    bundle.ok(&["delete", "box"]);
}

#[test]
fn mistakes_are_refused() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(sh("true"));
    assert!(bundle.refused(&["fly"]).contains("not a command"));
    assert!(bundle.refused(&["run", "--wrong", "box"]).contains("unknown flag --wrong"));
    assert!(bundle.refused(&["run", "../box"]).contains("not a container's name"));
    assert!(bundle.refused(&["run", "-b", "/no/such", "box"]).contains("/no/such"));
    assert!(bundle.refused(&["run"]).contains("name is missing"));
    assert!(bundle.refused(&["kill", "box", "NOPE"]).contains("not a signal"));
    assert!(bundle.ok(&["--help"]).contains("Commands:"));
    assert!(bundle.ok(&["--version"]).contains("spec: "));
}

#[test]
fn limits_are_changed_and_shown() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(sh("sleep 60"));
    bundle.create(&[]);
    bundle.ok(&["start", "box"]);
    assert!(bundle.refused(&["update", "box"]).contains("nothing to change"));
    bundle.ok(&["update", "box", "--memory", "64m", "--pids-limit=77", "--cpu-share", "512"]);
    let resources = bundle.bed.path.join("resources.json");
    std::fs::write(&resources, r#"{"cpu": {"quota": 50000, "period": 100000}, "memory": {"reservation": 33554432}}"#).unwrap();
    bundle.ok(&["update", "-r", resources.to_str().unwrap(), "box"]);
    let stats: serde_json::Value = serde_json::from_str(&bundle.ok(&["events", "--stats", "box"])).unwrap();
    assert_eq!((&stats["type"], &stats["id"]), (&"stats".into(), &"box".into()));
    assert_eq!(stats["data"]["memory"]["usage"]["limit"], 64 << 20);
    assert_eq!(stats["data"]["pids"]["limit"], 77);
    assert_eq!(stats["data"]["pids"]["current"], 1);
    let group = cgroup::Group::open(&bundle.bed.system, &std::path::Path::new(&bundle.bed.name).join("one"));
    let cpu = group.directory_of("cpu").unwrap();
    let quota = std::fs::read_to_string(cpu.join("cpu.cfs_quota_us")).or_else(|_| std::fs::read_to_string(cpu.join("cpu.max"))).unwrap();
    assert!(quota.starts_with("50000"), "{quota}");
    std::fs::write(&resources, r#"{"memory": {"limit": "much"}}"#).unwrap();
    assert!(bundle.refused(&["update", "-r", resources.to_str().unwrap(), "box"]).contains("memory.limit: invalid type"));
    assert!(bundle.refused(&["update", "--memory", "much", "box"]).contains("--memory takes a size"));

    // Lines come until the container ends.
    let mut events = bundle.command(&["events", "--interval", "10ms", "box"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(events.stdout.take().unwrap()));
    for _ in 0..3 {
        let line: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        assert_eq!(line["type"], "stats");
    }
    bundle.ok(&["kill", "-a", "box", "KILL"]);
    drop(lines);
    assert!(events.wait().unwrap().code().is_some());
    wait_until("it has ended", || bundle.status() == "stopped");
    assert!(bundle.refused(&["events", "box"]).contains("not running"));
    assert!(bundle.refused(&["update", "--memory", "1g", "box"]).contains("it is stopped"));
    bundle.ok(&["delete", "box"]);
}

#[test]
fn what_it_can_do_and_a_configuration_to_begin_with() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(sh("true"));
    let features: serde_json::Value = serde_json::from_str(&bundle.ok(&["features"])).unwrap();
    assert_eq!((&features["ociVersionMin"], &features["ociVersionMax"]), (&"1.0.0".into(), &"1.3.0".into()));
    assert_eq!(features["linux"]["cgroup"]["systemd"], false);
    assert!(bundle.refused(&["spec"]).contains("exists already"));
    let folder = bundle.bed.path.join("fresh");
    std::fs::create_dir_all(&folder).unwrap();
    bundle.ok(&["spec", "--bundle", folder.to_str().unwrap()]);
    std::os::unix::fs::symlink(bundle.bed.path.join("lower"), folder.join("rootfs")).unwrap();
    let mut text: serde_json::Value = serde_json::from_slice(&std::fs::read(folder.join("config.json")).unwrap()).unwrap();
    assert_eq!(text["ociVersion"], "1.3.0");
    text["process"]["terminal"] = false.into();
    text["process"]["args"] = serde_json::json!(["echo", "made"]);
    text["process"]["env"] = serde_json::json!(["PATH=/bin"]);
    text["linux"]["cgroupsPath"] = format!("/{}/two", bundle.bed.name).into();
    let other = bundle.bed.path.join("other.json");
    std::fs::write(&other, text.to_string()).unwrap();
    let output = bundle.call(&["run", "box", "-f", other.to_str().unwrap(), "-b", folder.to_str().unwrap()]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &b"made\n"[..]), "{output:?}");
}

#[test]
fn flags_of_other_engines() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(sh("readlink /proc/self/ns/mnt > /dev/null && pwd && cat /proc/self/cgroup | grep -c one"));
    let run = |args: &[&str]| {
        let output = bundle.call(args);
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, plain, said) = run(&["run", "box"]);
    assert_eq!(code, Some(0), "{said}");
    assert_ne!(plain, "/\n0\n");
    let (code, text, said) = run(&["run", "--no-pivot", "--no-new-keyring", "--no-subreaper", "box"]);
    assert_eq!((code, text), (Some(0), plain), "{said}");
    let (_, text, _) = run(&["--cgroup-manager=disabled", "run", "box"]);
    assert_eq!(text, "/\n0\n");
    for (args, words) in [
        (vec!["--systemd-cgroup", "run", "box"], "--cgroup-manager=cgroupfs"),
        (vec!["--cgroup-manager=systemd", "run", "box"], "systemd are not supported"),
        (vec!["--cgroup-manager=moon", "run", "box"], "cgroupfs or disabled"),
        (vec!["--rootless=true", "run", "box"], "--rootless is not supported"),
        (vec!["--log-format", "xml", "run", "box"], "text or json"),
        (vec!["list", "box"], "one argument too many"),
    ] {
        assert!(bundle.refused(&args).contains(words), "{args:?}");
    }
    let log = bundle.bed.path.join("log");
    run(&["--debug", "--log", log.to_str().unwrap(), "--log-format=json", "run", "box"]);
    assert!(std::fs::read_to_string(&log).unwrap().contains("\"level\":\"debug\",\"msg\":\"run box\""));

    // The process as a descriptor.
    let path = bundle.bed.path.join("pidfd.sock");
    let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
    run(&["run", "--pidfd-socket", path.to_str().unwrap(), "box"]);
    let (stream, _) = listener.accept().unwrap();
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = rustix::net::RecvAncillaryBuffer::new(&mut space);
    let mut name = [0u8; 64];
    rustix::net::recvmsg(stream.as_fd(), &mut [std::io::IoSliceMut::new(&mut name)], &mut ancillary, rustix::net::RecvFlags::CMSG_CLOEXEC)
        .unwrap();
    assert!(name.starts_with(b"pidfd\0"));
    assert_eq!(ancillary.drain().count(), 1);
}

/// A configuration with a mistake is told by its path, and leaves nothing.
#[test]
fn mistakes_in_the_configuration_have_a_path() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(sh("true"));
    let path = bundle.bed.path.join("config.json");
    let good: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    let cases = [
        ("/ociVersion", serde_json::json!("2.0.0"), "ociVersion: "),
        ("/process/args", serde_json::json!("true"), "process.args: "),
        ("/process/args", serde_json::json!([]), "process.args: no command"),
        ("/process/cwd", serde_json::json!("here"), "process.cwd: "),
        ("/process/capabilities/bounding/0", serde_json::json!("CAP_FLY"), "process.capabilities.bounding[0]: "),
        ("/mounts/1/destination", serde_json::json!("/"), "mounts[1].destination: "),
        ("/mounts/1/type", serde_json::json!(7), "mounts[1].type: "),
        ("/linux/namespaces/2/type", serde_json::json!("moon"), "linux.namespaces[2].type: "),
        ("/linux/resources/devices/0/access", serde_json::json!("rwx"), "linux.resources.devices[0].access: "),
        ("/linux/seccomp/syscalls/0/action", serde_json::json!("SCMP_ACT_SING"), "linux.seccomp.syscalls[0].action: "),
        ("/linux/maskedPaths", serde_json::json!({"a": 1}), "linux.maskedPaths: "),
    ];
    for (pointer, value, words) in cases {
        let mut bad = good.clone();
        *bad.pointer_mut(pointer).unwrap() = value;
        std::fs::write(&path, bad.to_string()).unwrap();
        for command in ["create", "run"] {
            let said = bundle.refused(&[command, "box"]);
            assert!(said.contains(words), "{pointer}: {said}");
            assert_eq!(bundle.ok(&["list", "-q"]), "", "{pointer}");
            for hierarchy in bundle.bed.system.hierarchies() {
                assert!(!hierarchy.mount.join(&bundle.bed.name).join("one").exists(), "{pointer}");
            }
        }
    }
}

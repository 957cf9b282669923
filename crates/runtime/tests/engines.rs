//! Other engines run containers with this runtime: podman, and containerd through its shim.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use common::{Bed, usable, wait_until};

/// The command line as a program of its own, built with the tests.
fn program() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().join("examples/cais-runtime")
}

fn ready(engine: &str) -> bool {
    if !usable() {
        return false;
    }
    for needed in [Path::new(engine), &program()] {
        if !needed.exists() {
            eprintln!("SKIP: {} is missing", needed.display());
            return false;
        }
    }
    true
}

fn words(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

const PODMAN: &str = "/usr/bin/podman";

/// A podman with all its folders below the bed's.
struct Podman {
    bed: Bed,
}

impl Podman {
    fn new() -> Self {
        let bed = Bed::new();
        for folder in ["proc", "dev", "sys", "run"] {
            std::fs::create_dir_all(bed.path.join("lower").join(folder)).unwrap();
        }
        // Locks in files rather than in the machine's shared memory; limits that any machine can give.
        let settings = "[containers]\ndefault_ulimits = [\"nofile=512:512\", \"nproc=512:512\"]\n[engine]\nlock_type = \"file\"\n";
        std::fs::write(bed.path.join("containers.conf"), settings).unwrap();
        Self { bed }
    }

    fn call(&self, args: &[&str]) -> Output {
        let folder = |name: &str| self.bed.path.join(name);
        Command::new(PODMAN)
            .env("CONTAINERS_CONF", folder("containers.conf"))
            .arg("--root")
            .arg(folder("storage"))
            .arg("--runroot")
            .arg(folder("run"))
            .arg("--tmpdir")
            .arg(folder("tmp"))
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime"])
            .arg(program())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn run(&self, flags: &[&str], command: &[&str]) -> Output {
        let root = self.bed.path.join("lower");
        let parent = format!("/{}", self.bed.name);
        let fixed = ["--network", "none", "--cgroup-parent", &parent, "--rootfs", root.to_str().unwrap()];
        self.call(&[&["run"], flags, &fixed, command].concat())
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.call(args);
        assert!(output.status.success(), "{args:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        self.call(&["rm", "--all", "--force", "--time", "0"]);
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let below = mounts.lines().filter_map(|line| line.split(' ').nth(4)).filter(|target| Path::new(target).starts_with(&self.bed.path));
        for target in below.collect::<Vec<_>>().iter().rev() {
            let _ = rustix::mount::unmount(*target, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

#[test]
fn podman_runs_containers_with_it() {
    if !ready(PODMAN) {
        return;
    }
    let podman = Podman::new();
    let output = podman.run(&["--rm", "--tmpfs", "/etc"], &["/bin/sh", "-c", "echo out; cat /etc/group | head -n 1; exit 3"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(3), &b"out\nroot:x:0:\n"[..]), "{}", words(&output));
    let output = podman.run(&["--rm"], &["/no/such"]);
    assert_eq!(output.status.code(), Some(127), "{}", words(&output));
    let output = podman.run(&["--rm"], &["nosuch"]);
    assert_eq!(output.status.code(), Some(127), "{}", words(&output));

    let output = podman.run(&["-d", "--name", "box", "--memory", "64m", "--pids-limit", "77"], &["/bin/sleep", "600"]);
    assert!(output.status.success(), "{}", words(&output));
    let output = podman.call(&["exec", "box", "/bin/sh", "-c", "echo in; exit 4"]);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(4), &b"in\n"[..]), "{}", words(&output));
    assert_eq!(podman.ok(&["stats", "--no-stream", "--format", "{{.PIDs}}", "box"]), "1\n");
    podman.ok(&["pause", "box"]);
    assert_eq!(podman.ok(&["inspect", "--format", "{{.State.Status}}", "box"]), "paused\n");
    podman.ok(&["unpause", "box"]);
    podman.ok(&["kill", "--signal", "KILL", "box"]);
    assert_eq!(podman.ok(&["wait", "box"]), "137\n");
    podman.ok(&["rm", "box"]);
    assert_eq!(podman.ok(&["ps", "--all", "--quiet"]), "");
}

/// A containerd with all its folders below the bed's.
struct Containerd {
    bed: Bed,
    process: Child,
}

const CONTAINERD: &str = "/usr/bin/containerd";

impl Containerd {
    fn new() -> Self {
        let bed = Bed::new();
        for folder in ["proc", "dev", "sys", "run"] {
            std::fs::create_dir_all(bed.path.join("lower").join(folder)).unwrap();
        }
        let folder = |name: &str| bed.path.join(name).display().to_string();
        let settings = format!(
            "version = 2\nroot = {:?}\nstate = {:?}\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\", \"io.containerd.internal.v1.opt\"]\n[grpc]\naddress = {:?}\n",
            folder("root"),
            folder("run"),
            folder("sock")
        );
        std::fs::write(bed.path.join("config.toml"), settings).unwrap();
        let log = std::fs::File::create(bed.path.join("log")).unwrap();
        let process = Command::new(CONTAINERD)
            .args(["-c", &folder("config.toml")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let containerd = Self { bed, process };
        wait_until("containerd answers", || containerd.ctr(&["version"]).status.success());
        containerd
    }

    fn ctr(&self, args: &[&str]) -> Output {
        Command::new("/usr/bin/ctr").arg("--address").arg(self.bed.path.join("sock")).args(args).stdin(Stdio::null()).output().unwrap()
    }

    fn run(&self, flags: &[&str], id: &str, command: &[&str]) -> Output {
        let (root, states) = (self.bed.path.join("lower"), self.bed.path.join("states"));
        let (program, group) = (program(), format!("/{}/{id}", self.bed.name));
        let fixed = [
            "--rootfs",
            "--runc-binary",
            program.to_str().unwrap(),
            "--runc-root",
            states.to_str().unwrap(),
            "--cgroup",
            &group,
            root.to_str().unwrap(),
            id,
        ];
        self.ctr(&[&["run"], flags, &fixed, command].concat())
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.ctr(args);
        assert!(output.status.success(), "{args:?}: {}", words(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        self.ctr(&["task", "rm", "--force", "box"]);
        self.ctr(&["container", "rm", "box"]);
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[test]
fn containerds_shim_runs_containers_with_it() {
    if !ready(CONTAINERD) {
        return;
    }
    let containerd = Containerd::new();
    // What ends at once can end before ctr has listened to its streams, whatever the runtime: so files tell what was done.
    let written = |name: &str| std::fs::read_to_string(containerd.bed.path.join("lower").join(name)).unwrap_or_default();
    let output = containerd.run(&["--rm"], "once", &["/bin/sh", "-c", "echo out > /ran; exit 3"]);
    assert_eq!((output.status.code(), written("ran").as_str()), (Some(3), "out\n"), "{}", words(&output));
    let output = containerd.run(&["-d"], "box", &["/bin/sleep", "600"]);
    assert!(output.status.success(), "{}", words(&output));
    let output = containerd.ctr(&["task", "exec", "--exec-id", "inner", "box", "/bin/sh", "-c", "echo in > /entered; exit 4"]);
    assert_eq!((output.status.code(), written("entered").as_str()), (Some(4), "in\n"), "{}", words(&output));
    assert!(containerd.ok(&["task", "ps", "box"]).lines().count() >= 2);
    containerd.ok(&["task", "pause", "box"]);
    assert!(containerd.ok(&["task", "ls"]).contains("PAUSED"));
    containerd.ok(&["task", "resume", "box"]);
    assert!(containerd.ok(&["task", "metrics", "box"]).contains("memory"));
    containerd.ok(&["task", "kill", "--signal", "KILL", "box"]);
    wait_until("it has ended", || containerd.ok(&["task", "ls"]).contains("STOPPED"));
    containerd.ctr(&["task", "rm", "box"]);
    containerd.ok(&["container", "rm", "box"]);
}

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
fn what_cannot_start_is_told_by_start() {
    if !ready() {
        return;
    }
    let bundle = Bundle::new(spec(&["/no/such"]));
    bundle.create(&[]);
    assert!(bundle.refused(&["start", "box"]).contains("exec \"/no/such\": no such file or directory"));
    bundle.ok(&["delete", "box"]);
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

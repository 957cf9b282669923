//! A busybox root filesystem and the shortest way to run something on it.
#![allow(dead_code, reason = "each test program uses a part of it")]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use runtime::{Created, Error, Group, Launch, Root, Running, Stdio, default, oci};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// Where Debian's `busybox-static` puts it.
const BUSYBOX: &str = "/bin/busybox";

/// Whether containers can be made here; tells why not.
pub fn usable() -> bool {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: making containers needs root");
        return false;
    }
    if !Path::new(BUSYBOX).exists() {
        eprintln!("SKIP: {BUSYBOX} is missing (Debian's busybox-static)");
        return false;
    }
    true
}

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A folder of a test, removed in the end, with the layers of an overlay; and a name for groups.
pub struct Bed {
    pub path: PathBuf,
    pub name: String,
    pub system: cgroup::System,
}

impl Bed {
    pub fn new() -> Self {
        let name = format!("cais-test-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(&name);
        for folder in ["lower/bin", "lower/etc", "lower/tmp", "lower/root", "upper", "work"] {
            std::fs::create_dir_all(path.join(folder)).unwrap();
        }
        std::fs::copy(BUSYBOX, path.join("lower/bin/busybox")).unwrap();
        let list = std::process::Command::new(BUSYBOX).arg("--list").output().unwrap();
        for applet in String::from_utf8(list.stdout).unwrap().lines().filter(|applet| *applet != "busybox") {
            std::os::unix::fs::symlink("busybox", path.join("lower/bin").join(applet)).unwrap();
        }
        let bed = Self { path, name, system: cgroup::System::detect().unwrap() };
        bed.file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nweb:x:33:34:Web:/var/www:/bin/sh\n");
        bed.file("etc/group", "root:x:0:\nweb:x:34:\nextra:x:90:web\n");
        bed
    }

    /// Puts a file into the image.
    pub fn file(&self, path: &str, text: &str) -> PathBuf {
        let path = self.path.join("lower").join(path);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub fn script(&self, path: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.file(path, text);
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    pub fn root(&self) -> Root {
        Root::Overlay {
            lower: vec![self.path.join("lower")],
            upper: self.path.join("upper"),
            work: self.path.join("work"),
            volatile: true,
            idmap: false,
        }
    }

    pub fn group(&self) -> PathBuf {
        Path::new(&self.name).join("one")
    }

    /// Creates and starts; what it writes comes back with its exit status.
    pub fn run(&self, spec: &oci::Spec) -> Result<Outcome, Error> {
        self.run_with(spec, |_| {})
    }

    pub fn run_with<'a>(&'a self, spec: &'a oci::Spec, change: impl FnOnce(&mut Launch<'a>)) -> Result<Outcome, Error> {
        let (reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
        let running = self.start(spec, &writer, change)?;
        drop(writer);
        let outcome = finish(&running, reader);
        if let Some(group) = &running.group {
            group.remove().unwrap();
        }
        Ok(outcome)
    }

    pub fn start<'a>(&'a self, spec: &'a oci::Spec, output: &OwnedFd, change: impl FnOnce(&mut Launch<'a>)) -> Result<Running, Error> {
        self.create(spec, output, change)?.start()
    }

    pub fn create<'a>(&'a self, spec: &'a oci::Spec, output: &OwnedFd, change: impl FnOnce(&mut Launch<'a>)) -> Result<Created, Error> {
        let null = std::fs::File::open("/dev/null").unwrap();
        let group = self.group();
        // The borrow of the streams ends with this call, so the launch is rebuilt around them.
        let mut base = Launch::new("test", spec, self.root(), Stdio::Tty { size: None });
        change(&mut base);
        let stdio = Stdio::Fds { stdin: null.as_fd(), stdout: output.as_fd(), stderr: output.as_fd() };
        let launch = Launch { stdio, cgroup: Some(Group { system: &self.system, path: &group }), ..base };
        runtime::create(&launch)
    }
}

impl Drop for Bed {
    fn drop(&mut self) {
        let group = cgroup::Group::open(&self.system, Path::new(&self.name));
        let _ = group.kill_all();
        let _ = group.remove();
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

#[derive(Debug, PartialEq, Eq)]
pub struct Outcome {
    pub code: i32,
    pub text: String,
}

/// Reads to the end and reaps. A signal counts 128 more.
pub fn finish(running: &Running, reader: OwnedFd) -> Outcome {
    let mut bytes = Vec::new();
    std::fs::File::from(reader).read_to_end(&mut bytes).unwrap();
    Outcome { code: wait(running), text: String::from_utf8_lossy(&bytes).into_owned() }
}

pub fn wait(running: &Running) -> i32 {
    let status = waitid(WaitId::PidFd(running.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap().unwrap();
    status.exit_status().unwrap_or_else(|| 128 + status.terminating_signal().unwrap())
}

/// Docker's defaults around a command.
pub fn spec(args: &[&str]) -> oci::Spec {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let capabilities = names(&default::CAPABILITIES);
    let sets = oci::Capabilities {
        bounding: capabilities.clone(),
        effective: capabilities.clone(),
        permitted: capabilities.clone(),
        ..oci::Capabilities::default()
    };
    let namespace = |kind: &&str| oci::Namespace { kind: (*kind).to_owned(), path: None };
    oci::Spec {
        oci_version: "1.2.0".into(),
        root: Some(oci::Root::default()),
        mounts: default::mounts(64 << 20, false),
        process: Some(oci::Process {
            args: names(args),
            env: names(&["PATH=/bin"]),
            cwd: "/".into(),
            capabilities: Some(sets),
            ..oci::Process::default()
        }),
        hostname: "box".into(),
        linux: oci::Linux {
            resources: Some(oci::Resources { devices: default::device_rules(), ..oci::Resources::default() }),
            namespaces: ["pid", "network", "ipc", "uts", "mount"].iter().map(namespace).collect(),
            seccomp: Some(runtime::seccomp::docker_default(&capabilities)),
            masked_paths: names(&default::MASKED_PATHS),
            readonly_paths: names(&default::READONLY_PATHS),
            ..oci::Linux::default()
        },
        ..oci::Spec::default()
    }
}

pub fn sh(script: &str) -> oci::Spec {
    spec(&["sh", "-c", script])
}

pub fn process(spec: &mut oci::Spec) -> &mut oci::Process {
    spec.process.as_mut().unwrap()
}

pub fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(60);
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

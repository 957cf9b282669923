//! The engines and runtimes that are compared, each with roots of its own, started and ended here.

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use tests::engine::{BUSYBOX, binary};
use tests::sh::{self, Cmd, eventually, which};
use tests::{Engine, http};

const END_TIMEOUT: Duration = Duration::from_secs(60);
/// podman asks for more than this machine's hard limits may allow unless told otherwise.
const PODMAN_RUN: [&str; 4] = ["--ulimit", "nofile=1024:4096", "--ulimit", "nproc=1024:4096"];

/// An engine with a client.
pub struct Peer {
    name: &'static str,
    kind: Kind,
    version: String,
}

enum Kind {
    Cais(Option<Engine>),
    Docker { daemon: Child, socket: PathBuf },
    Podman { dir: PathBuf },
}

/// Starts every engine that is installed, ours first, each with the busybox image.
pub fn start_all(dir: &Path, tar: &Path) -> Result<Vec<Peer>> {
    let engine = Engine::start_in(dir.join("cais"), &binary()?, &[])?;
    let mut peers = vec![Peer { name: "cais", kind: Kind::Cais(Some(engine)), version: String::new() }];
    match docker(dir) {
        Ok(Some(kind)) => peers.push(Peer { name: "docker", kind, version: String::new() }),
        Ok(None) => println!("   docker: not installed (docker.io)"),
        Err(error) => eprintln!("   docker: {error:#}"),
    }
    if which("podman").is_some() {
        peers.push(Peer { name: "podman", kind: Kind::Podman { dir: dir.join("podman") }, version: String::new() });
    } else {
        println!("   podman: not installed");
    }
    let mut able = Vec::new();
    for mut peer in peers {
        match peer.prepare(tar) {
            Ok(()) => able.push(peer),
            Err(error) => {
                eprintln!("   {}: {error:#}", peer.name);
                drop(peer.stop());
            }
        }
    }
    Ok(able)
}

impl Peer {
    /// The engine's short name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// The engine's own words on its version.
    pub fn version(&self) -> String {
        self.version.clone()
    }

    /// The client with these arguments.
    pub fn cmd(&self, args: &[&str]) -> Cmd {
        let client = match &self.kind {
            Kind::Cais(Some(engine)) => engine.cais(),
            Kind::Cais(None) => Cmd::new("false"),
            Kind::Docker { socket, .. } => {
                Cmd::new("docker").arg("-H").arg(format!("unix://{}", socket.display())).env_remove("DOCKER_HOST")
            }
            Kind::Podman { dir } => Cmd::new("podman")
                .arg("--root")
                .arg(dir.join("root"))
                .arg("--runroot")
                .arg(dir.join("run"))
                .arg("--cgroup-manager=cgroupfs"),
        };
        client.args(args)
    }

    /// `run FLAGS busybox COMMAND`.
    pub fn run(&self, flags: &[&str], command: &[&str]) -> Cmd {
        self.cmd(&[&["run"], self.extra(), flags, &[BUSYBOX], command].concat())
    }

    /// `create FLAGS busybox COMMAND`.
    pub fn create(&self, flags: &[&str], command: &[&str]) -> Cmd {
        self.cmd(&[&["create"], self.extra(), flags, &[BUSYBOX], command].concat())
    }

    /// Removes containers by force, at once: podman would first ask them to end, and wait.
    pub fn remove(&self, names: &[&str]) -> Cmd {
        let now: &[&str] = if matches!(self.kind, Kind::Podman { .. }) { &["-t", "0"] } else { &[] };
        self.cmd(&[&["rm", "-f"], now, names].concat())
    }

    /// The processes that stay when no container runs.
    pub fn engine_pids(&self) -> Vec<String> {
        match &self.kind {
            Kind::Cais(engine) => engine.as_ref().and_then(Engine::pid).map(|pid| pid.to_string()).into_iter().collect(),
            Kind::Docker { daemon, .. } => {
                let own = daemon.id().to_string();
                let children = fs::read_to_string(format!("/proc/{own}/task/{own}/children")).unwrap_or_default();
                let children = children.split_whitespace().filter(|pid| command_name(pid) == "containerd").map(str::to_owned);
                std::iter::once(own.clone()).chain(children).collect()
            }
            Kind::Podman { .. } => Vec::new(),
        }
    }

    /// Ends the engine.
    pub fn stop(&mut self) -> Result<()> {
        match &mut self.kind {
            Kind::Cais(engine) => {
                let left = engine.take().map(Engine::finish).transpose()?.unwrap_or_default();
                if !left.is_empty() {
                    eprintln!("   cais left: {left:#?}");
                }
            }
            Kind::Docker { daemon, .. } => {
                let pid = Pid::from_raw(i32::try_from(daemon.id())?).context("dockerd's pid")?;
                kill_process(pid, Signal::TERM)?;
                sh::wait(daemon, Instant::now() + END_TIMEOUT)?;
            }
            Kind::Podman { .. } => {
                self.cmd(&["rm", "-f", "-a"]).ok()?;
                self.cmd(&["system", "reset", "-f"]).run()?;
            }
        }
        Ok(())
    }

    const fn extra(&self) -> &'static [&'static str] {
        match self.kind {
            Kind::Podman { .. } => &PODMAN_RUN,
            _ => &[],
        }
    }

    fn prepare(&mut self, tar: &Path) -> Result<()> {
        self.cmd(&["import", "-c", r#"CMD ["sh"]"#]).arg(tar).arg(BUSYBOX).ok()?;
        let format = match self.kind {
            Kind::Podman { .. } => "podman {{.Client.Version}}",
            Kind::Docker { .. } => "docker {{.Server.Version}}, client {{.Client.Version}}",
            Kind::Cais(_) => "cais {{.Server.Version}}",
        };
        self.version = self.cmd(&["version", "--format", format]).ok()?.text().to_owned();
        Ok(())
    }
}

fn docker(dir: &Path) -> Result<Option<Kind>> {
    let (Some(dockerd), Some(_)) = (which("dockerd"), which("docker")) else { return Ok(None) };
    let dir = dir.join("docker");
    fs::create_dir_all(&dir)?;
    let socket = dir.join("s");
    let log = fs::File::create(dir.join("log"))?;
    let daemon = Cmd::new(dockerd)
        .args(["--log-level", "error", "--host", &format!("unix://{}", socket.display()), "--data-root"])
        .arg(dir.join("data"))
        .arg("--exec-root")
        .arg(dir.join("run"))
        .arg("--pidfile")
        .arg(dir.join("pid"))
        .spawn(Stdio::from(log.try_clone()?), Stdio::from(log))?;
    let kind = Kind::Docker { daemon, socket: socket.clone() };
    eventually("dockerd answers", 60, || http::unix(&socket, "GET", "/_ping", "").ok().filter(|answer| answer.status == 200))?;
    Ok(Some(kind))
}

fn command_name(pid: &str) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim().to_owned()
}

/// An OCI runtime.
pub struct Runtime {
    name: &'static str,
    command: Vec<String>,
}

impl Runtime {
    /// Ours, and the others that are installed, each with a state folder of its own.
    pub fn installed(dir: &Path) -> Result<Vec<Self>> {
        let root = |name: &str| ["--root".to_owned(), dir.join(format!("state-{name}")).display().to_string()];
        let own = vec![binary()?.display().to_string(), "runtime".to_owned()];
        let mut runtimes = vec![Self { name: "cais", command: [own, root("cais").to_vec()].concat() }];
        for name in ["crun", "runc"] {
            if let Some(path) = which(name) {
                runtimes.push(Self { name, command: [vec![path.display().to_string()], root(name).to_vec()].concat() });
            } else {
                println!("   {name}: not installed");
            }
        }
        Ok(runtimes)
    }

    /// The runtime's short name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Runs a bundle to its end.
    pub fn run(&self, bundle: &Path) -> Cmd {
        let [program, rest @ ..] = &self.command[..] else { return Cmd::new("false") };
        Cmd::new(program).args(rest).args(["run", "--bundle"]).arg(bundle).arg(format!("bench-{}", self.name))
    }
}

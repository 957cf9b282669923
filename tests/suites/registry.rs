//! `cais registry serve` as a process: what each client pushes every other one pulls, and nothing is lost when it is killed.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use tests::engine::{BUSYBOX, binary};
use tests::http::{self, free_port};
use tests::sh::{Cmd, eventually};
use tests::{Client, Engine, skip_unless_root};

/// A registry on a port of loopback, until it is dropped.
struct Registry {
    program: PathBuf,
    dir: PathBuf,
    address: String,
    child: Child,
}

impl Registry {
    fn start(engine: &Engine) -> Result<Self> {
        let (dir, program) = (engine.dir().to_owned(), binary()?);
        let address = format!("127.0.0.1:{}", free_port()?);
        let child = spawn(&program, &dir, &address)?;
        let registry = Self { program, dir, address, child };
        registry.wait()?;
        Ok(registry)
    }

    fn wait(&self) -> Result<()> {
        let socket: SocketAddr = self.address.parse()?;
        eventually("the registry is up", 60, || http::get(socket, "/v2/").ok())?;
        Ok(())
    }

    /// SIGKILL, and a new start in the same folder.
    fn kill_and_restart(&mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.child = spawn(&self.program, &self.dir, &self.address)?;
        self.wait()
    }

    fn digest(&self, name: &str, tag: &str) -> Result<String> {
        let answer = http::get(self.address.parse()?, &format!("/v2/{name}/manifests/{tag}"))?;
        ensure!(answer.status == 200, "{name}:{tag}: {} {}", answer.status, answer.body);
        let line = answer.head.lines().find_map(|line| line.strip_prefix("docker-content-digest: "));
        Ok(line.context("no digest")?.trim().to_owned())
    }
}

fn spawn(program: &Path, dir: &Path, address: &str) -> Result<Child> {
    let log = fs::File::options().append(true).create(true).open(dir.join("registry.log"))?;
    Cmd::new(program)
        .args(["registry", "serve", "--addr", address, "--root"])
        .arg(dir.join("registry"))
        .spawn(Stdio::from(log.try_clone()?), Stdio::from(log))
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tools that copy images need a folder of their own and no running service.
fn tool(program: &str, dir: &Path) -> Cmd {
    let cmd = Cmd::new(program).env("XDG_RUNTIME_DIR", dir).env("HOME", dir);
    match program {
        "skopeo" => cmd,
        _ => cmd.arg("--root").arg(dir.join("tool-root")).arg("--runroot").arg(dir.join("tool-run")).args(["--storage-driver", "vfs"]),
    }
}

/// One image goes from client to client: each pulls what the one before pushed and pushes it under a name of its own.
#[test]
fn what_one_client_pushes_the_others_pull() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("registry-clients")?;
    let registry = Registry::start(&engine)?;
    let (dir, at) = (engine.dir(), &registry.address);
    for client in [Client::Docker, Client::Cais] {
        let (engine, name) = (&engine, format!("{client:?}").to_lowercase());
        engine.client(client)?.args(["tag", BUSYBOX, &format!("{at}/{name}/bb:1")]).ok()?;
        engine.client(client)?.args(["push", &format!("{at}/{name}/bb:1")]).ok()?;
    }
    let digest = registry.digest("docker/bb", "1")?;
    ensure!(digest == registry.digest("cais/bb", "1")?, "docker and cais push the same image");

    // skopeo copies what is there, index or manifest, byte by byte.
    let copy = |from: &str, to: &str| {
        let ends = [format!("docker://{at}/{from}"), format!("docker://{at}/{to}")];
        tool("skopeo", dir)
            .args(["copy", "--all", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false"])
            .args(ends)
            .ok()
    };
    copy("docker/bb:1", "skopeo/bb:1")?;
    ensure!(registry.digest("skopeo/bb", "1")? == digest, "skopeo changed the digest");
    let list = tool("skopeo", dir).args(["list-tags", "--tls-verify=false"]).arg(format!("docker://{at}/skopeo/bb")).ok()?;
    ensure!(serde_json::from_str::<Value>(&list.stdout)?["Tags"] == serde_json::json!(["1"]), "{list}");

    for (program, from) in [("buildah", "skopeo"), ("podman", "buildah")] {
        tool(program, dir).args(["pull", "--tls-verify=false"]).arg(format!("{at}/{from}/bb:1")).ok()?;
        let target = format!("docker://{at}/{program}/bb:1");
        tool(program, dir).args(["push", "--tls-verify=false"]).arg(format!("{at}/{from}/bb:1")).arg(&target).ok()?;
        let pushed = registry.digest(&format!("{program}/bb"), "1")?;
        copy(&format!("{program}/bb:1"), &format!("{program}/copy:1"))?;
        ensure!(registry.digest(&format!("{program}/copy"), "1")? == pushed, "the digest of {program}'s image changed on its way");
    }
    for (client, from) in [(Client::Docker, "podman"), (Client::Cais, "buildah"), (Client::Cais, "skopeo")] {
        let name = format!("{at}/{from}/bb:1");
        engine.client(client)?.args(["pull", &name]).ok()?;
        ensure!(engine.client(client)?.args(["run", "--rm", &name, "echo", "it runs"]).ok()?.text() == "it runs");
    }
    tool("skopeo", dir).args(["delete", "--tls-verify=false"]).arg(format!("docker://{at}/skopeo/bb:1")).ok()?;
    ensure!(http::get(at.parse()?, "/v2/skopeo/bb/manifests/1")?.status == 404);
    Ok(())
}

/// What was pushed is there after SIGKILL, and the folder is not served twice.
#[test]
fn what_was_pushed_survives_a_kill() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("registry-kill")?;
    let mut registry = Registry::start(&engine)?;
    let name = format!("{}/kept:1", registry.address);
    engine.ok(&["tag", BUSYBOX, &name])?;
    engine.ok(&["push", &name])?;
    let digest = registry.digest("kept", "1")?;
    let second =
        Cmd::new(binary()?).args(["registry", "serve", "--addr", "127.0.0.1:0", "--root"]).arg(engine.dir().join("registry")).run()?;
    ensure!(second.code == 1 && second.stderr.contains("served by another registry"), "{second}");
    registry.kill_and_restart()?;
    ensure!(registry.digest("kept", "1")? == digest);
    engine.ok(&["rmi", &name])?;
    engine.ok(&["pull", &name])?;
    Ok(())
}

/// Wrong options are refused with what to do instead.
#[test]
fn what_would_be_open_to_everybody_is_refused() -> Result<()> {
    let program = binary()?;
    for (args, says) in [
        (&["serve", "--addr", "0.0.0.0:0"][..], "loopback"),
        (&["serve", "--addr", "banana"], "an IP address and a port"),
        (&["serve", "--log-level", "loud"], "--log-level"),
        (&["serve", "--nonsense"], "unknown flag"),
        (&["banana"], "unknown command"),
    ] {
        let done = Cmd::new(&program).arg("registry").args(args).run()?;
        ensure!(done.code == 1 && done.stderr.contains(says), "{done}");
    }
    ensure!(Cmd::new(&program).args(["registry", "serve", "--help"]).ok()?.stdout.contains("--addr"));
    Ok(())
}

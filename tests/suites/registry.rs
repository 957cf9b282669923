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

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

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
    spawn_with(Cmd::new(program), dir, address, &[])
}

fn spawn_with(program: Cmd, dir: &Path, address: &str, flags: &[&str]) -> Result<Child> {
    let log = fs::File::options().append(true).create(true).open(dir.join("registry.log"))?;
    program
        .args(["registry", "serve", "--config-file", "/dev/null", "--addr", address, "--root"])
        .arg(dir.join("registry"))
        .args(flags)
        .spawn(Stdio::from(log.try_clone()?), Stdio::from(log))
}

/// A folder that goes with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("cais-registry-{name}-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that ends with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
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

/// Points at which the registry can be stopped as a crash would, and how often each is passed before.
const FAIL_POINTS: &[(&str, u32)] = &[
    ("registry.upload.appended", 3),
    ("registry.upload.synced", 3),
    ("registry.content.adopt", 4),
    ("registry.content.adopted", 4),
    ("registry.db.commit", 6),
    ("registry.db.committed", 6),
    ("registry.gc.rows", 1),
    ("registry.gc.removed", 3),
];

/// The registry is stopped at each of its write points in the middle of a push and of a collection. What it had acknowledged is there when it
/// comes back, nothing is half there, and the push can be done again.
#[test]
fn a_crash_at_any_write_point_loses_nothing_acknowledged() -> Result<()> {
    let seed = std::env::var("SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(42_u32);
    for (number, (point, most)) in (0_u32..).zip(FAIL_POINTS) {
        let nth = 1 + seed.wrapping_add(number).wrapping_mul(2_654_435_761) % most;
        crash_at(point, nth).with_context(|| format!("SEED={seed}: {point}:{nth}"))?;
    }
    Ok(())
}

fn crash_at(point: &str, nth: u32) -> Result<()> {
    let (folder, program) = (Folder::new(point)?, binary()?);
    let dir = &folder.0;
    let address = format!("127.0.0.1:{}", free_port()?);
    let socket: SocketAddr = address.parse()?;
    let ready = || eventually("the registry is up", 60, || http::get(socket, "/v2/").ok()).map(drop);
    let mut doomed = Running(spawn_with(Cmd::new(&program).env("CAIS_FAIL_POINT", format!("{point}:{nth}")), dir, &address, &[])?);
    ready()?;
    let mut acknowledged = push_until_refused(dir, &address)?;
    if doomed.0.try_wait()?.is_none() {
        // The point lies on the way of collections, which run in a process of their own here.
        let root = dir.join("registry");
        let gc = Cmd::new(&program)
            .env("CAIS_FAIL_POINT", format!("{point}:{nth}"))
            .args(["registry", "gc", "--lease", "0", "--root"])
            .arg(root);
        let manifests = format!("http://{address}/v2/a/manifests/extra");
        ensure!(Cmd::new("curl").args(["-sf", "-X", "DELETE", &manifests]).run()?.code == 0, "the tag could not be removed");
        // What the removed tag named may go.
        acknowledged.retain(|name| !name.contains("extra"));
        ensure!(gc.args(["--untagged", "0"]).run()?.code == 134, "the point was never passed");
    }
    drop(doomed);
    let _again = Running(spawn(&program, dir, &address)?);
    ready()?;
    for name in &acknowledged {
        let answer = http::get(socket, name)?;
        ensure!(answer.status == 200, "{name} was acknowledged and is gone: {} {}", answer.status, answer.body);
    }
    let check = |what: &str| Cmd::new(&program).args(["registry", what, "--root"]).arg(dir.join("registry")).ok();
    check("fsck")?;
    ensure!(push_until_refused(dir, &address)?.len() == 8, "the push cannot be done again");
    check("gc")?;
    check("fsck")?;
    ensure!(fs::read_dir(dir.join("registry/content/sha256"))?.count() == 6, "more is left than was pushed");
    Ok(())
}

/// Pushes two images, and stops where the registry does not answer any more. Answers the paths of what was acknowledged.
fn push_until_refused(dir: &Path, address: &str) -> Result<Vec<String>> {
    let mut acknowledged = Vec::new();
    for tag in ["main", "extra"] {
        let mut digests = Vec::new();
        for part in ["config", "layer"] {
            let file = dir.join("part");
            fs::write(&file, format!("{part} of {tag} ").repeat(20_000))?;
            let digest = sha256(&file)?;
            let target = format!("http://{address}/v2/a/blobs/uploads/?digest={digest}");
            if send("POST", &target, "application/octet-stream", &file)? != "201" {
                return Ok(acknowledged);
            }
            acknowledged.push(format!("/v2/a/blobs/{digest}?{tag}"));
            digests.push(digest);
        }
        let file = dir.join("manifest");
        let manifest = serde_json::json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST,
            "config": { "mediaType": "x/y", "digest": digests[0], "size": 1 },
            "layers": [{ "mediaType": "x/z", "digest": digests[1], "size": 1 }],
        });
        fs::write(&file, manifest.to_string())?;
        if send("PUT", &format!("http://{address}/v2/a/manifests/{tag}"), OCI_MANIFEST, &file)? != "201" {
            return Ok(acknowledged);
        }
        acknowledged.push(format!("/v2/a/manifests/{tag}"));
        acknowledged.push(format!("/v2/a/manifests/{}?{tag}", sha256(&file)?));
    }
    Ok(acknowledged)
}

/// The status, or 000 when there was no answer.
fn send(method: &str, target: &str, kind: &str, file: &Path) -> Result<String> {
    let data = format!("@{}", file.display());
    let kind = format!("Content-Type: {kind}");
    let done =
        Cmd::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-X", method, "-H", &kind, "--data-binary", &data, target]);
    Ok(done.run()?.stdout)
}

fn sha256(file: &Path) -> Result<String> {
    let done = Cmd::new("sha256sum").arg(file).ok()?;
    Ok(format!("sha256:{}", done.text().split(' ').next().context("no digest")?))
}

/// Users, TLS and its renewal, with the clients that people have.
#[test]
fn users_and_tls_with_real_clients() -> Result<()> {
    let (folder, program) = (Folder::new("tls")?, binary()?);
    let dir = &folder.0;
    let address = format!("127.0.0.1:{}", free_port()?);
    let user = |words: &[&str], password: &str| {
        let cmd = Cmd::new(&program).args(["registry", "user"]).args(words).arg("--root").arg(dir.join("registry"));
        cmd.arg("--password-stdin").stdin(password).ok()
    };
    ensure!(user(&["add", "ann"], "secret\n")?.text() == "added ann");
    user(&["add", "bob"], "other")?;
    ensure!(user(&["ls"], "")?.text() == "ann\nbob");
    user(&["rm", "bob"], "")?;
    let (certificate, key) = (dir.join("cert.pem"), dir.join("key.pem"));
    let renew = || {
        let subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"];
        let made =
            Cmd::new("openssl").args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
        made.args(subject).arg("-keyout").arg(dir.join("new-key.pem")).arg("-out").arg(dir.join("new-cert.pem")).ok()?;
        fs::rename(dir.join("new-key.pem"), &key)?;
        fs::rename(dir.join("new-cert.pem"), &certificate).map_err(anyhow::Error::from)
    };
    renew()?;
    let flags = ["--tls-cert", certificate.to_str().context("path")?, "--tls-key", key.to_str().context("path")?];
    let _registry = Running(spawn_with(Cmd::new(&program), dir, &address, &flags)?);
    let curl = |user: &str| {
        let done = Cmd::new("curl").args(["-s", "-o", "/dev/null", "-w", "%{http_code}", "-u", user]).arg("--cacert").arg(&certificate);
        done.arg(format!("https://{address}/v2/")).run().map(|done| done.stdout)
    };
    eventually("the registry speaks TLS", 60, || curl("ann:secret").ok().filter(|status| status == "200"))?;
    ensure!(curl("ann:wrong")? == "401" && curl("bob:other")? == "401");
    // A client that trusts the certificate and logs in through the token service.
    let certs = dir.join("certs");
    fs::create_dir_all(&certs)?;
    fs::copy(&certificate, certs.join("ca.crt"))?;
    let layout = dir.join("layout");
    Cmd::new("umoci").args(["init", "--layout"]).arg(&layout).ok()?;
    Cmd::new("umoci").args(["new", "--image"]).arg(format!("{}:v1", layout.display())).ok()?;
    let copy = |credentials: &str| {
        let cmd = tool("skopeo", dir).args(["copy", "--dest-creds", credentials, "--dest-cert-dir"]).arg(&certs);
        cmd.arg(format!("oci:{}:v1", layout.display())).arg(format!("docker://{address}/team/app:v1")).run()
    };
    ensure!(copy("ann:wrong")?.code != 0);
    copy("ann:secret")?.ok()?;
    renew()?;
    ensure!(curl("ann:secret")? == "200", "the new certificate is not served");
    let large = Cmd::new("curl").args(["-sf", "-u", "ann:secret"]).arg("--cacert").arg(&certificate);
    ensure!(large.arg(format!("https://{address}/v2/team/app/tags/list")).ok()?.stdout.contains("v1"));
    Ok(())
}

/// The engine's own login, and Docker's, through the token service.
#[test]
fn clients_log_in_and_push() -> Result<()> {
    if skip_unless_root() {
        return Ok(());
    }
    let engine = Engine::with_busybox("registry-login")?;
    let root = engine.dir().join("registry");
    let add = Cmd::new(binary()?).args(["registry", "user", "add", "ann", "--password-stdin", "--root"]).arg(&root);
    add.stdin("secret").ok()?;
    let registry = Registry::start(&engine)?;
    for client in [Client::Docker, Client::Cais] {
        let config = engine.dir().join(format!("{client:?}"));
        let name = format!("{}/{}/bb:1", registry.address, format!("{client:?}").to_lowercase());
        let run = |args: &[&str], stdin: &str| engine.client(client)?.env("DOCKER_CONFIG", &config).args(args).stdin(stdin).run();
        run(&["tag", BUSYBOX, &name], "")?.ok()?;
        ensure!(run(&["push", &name], "")?.code != 0, "{client:?}: nobody may push");
        ensure!(run(&["login", "-u", "ann", "--password-stdin", &registry.address], "wrong")?.code != 0, "{client:?}: a wrong password");
        run(&["login", "-u", "ann", "--password-stdin", &registry.address], "secret")?.ok()?;
        run(&["push", &name], "")?.ok()?;
        run(&["pull", &name], "")?.ok()?;
    }
    Ok(())
}

/// The folder is looked after while it is served.
#[test]
fn the_folder_is_looked_after_while_it_is_served() -> Result<()> {
    let (folder, program) = (Folder::new("keep")?, binary()?);
    let dir = &folder.0;
    let address = format!("127.0.0.1:{}", free_port()?);
    let mut registry = Running(spawn(&program, dir, &address)?);
    let socket: SocketAddr = address.parse()?;
    eventually("the registry is up", 60, || http::get(socket, "/v2/").ok())?;
    ensure!(push_until_refused(dir, &address)?.len() == 8);
    let run = |args: &[&str]| Cmd::new(&program).arg("registry").args(args).arg("--root").arg(dir.join("registry")).run();
    let listed = run(&["ls"])?.ok()?.stdout;
    ensure!(listed.starts_with("REPOSITORY") && listed.lines().nth(1).is_some_and(|line| line.starts_with("a ")), "{listed}");
    ensure!(run(&["ls", "-q", "a"])?.ok()?.text() == "extra\nmain");
    ensure!(run(&["df"])?.ok()?.stdout.contains("Content"));
    run(&["rm", "a:extra"])?.ok()?;
    ensure!(http::get(socket, "/v2/a/manifests/extra")?.status == 404);
    let collected = run(&["gc", "--lease", "0", "--untagged", "0"])?.ok()?.stdout;
    ensure!(collected.starts_with("removed 1 manifests, 3 files"), "{collected}");
    ensure!(http::get(socket, "/v2/a/manifests/main")?.status == 200);
    run(&["fsck"])?.ok()?;
    for (args, says) in [
        (&["rm", "a:none"][..], "is not there"),
        (&["rm", "a"], "--all"),
        (&["rm"], "name what is to be removed"),
        (&["ls", "none"], "no repository"),
        (&["gc", "--lease", "soon"], "--lease"),
        (&["user", "add", "a:b", "--password-stdin"], "a user's name"),
    ] {
        let done = run(args)?;
        ensure!(done.code == 1 && done.stderr.contains(says), "{done}");
    }
    run(&["rm", "--all", "a"])?.ok()?;
    ensure!(http::get(socket, "/v2/_catalog")?.body.trim() == r#"{"repositories":[]}"#);
    // It ends when it is told to.
    rustix::process::kill_process(rustix::process::Pid::from_child(&registry.0), rustix::process::Signal::TERM)?;
    ensure!(eventually("the registry ends", 60, || registry.0.try_wait().ok().flatten())?.success());
    Ok(())
}

/// Wrong options are refused with what to do instead.
#[test]
fn what_would_be_open_to_everybody_is_refused() -> Result<()> {
    let (folder, program) = (Folder::new("refused")?, binary()?);
    let root = folder.0.join("registry");
    for (args, says) in [
        (&["serve", "--addr", "0.0.0.0:0"][..], "--allow-plain-http"),
        (&["serve", "--addr", "0.0.0.0:0", "--allow-plain-http"], "--allow-everybody"),
        (&["serve", "--anonymous-pull"], "no users"),
        (&["serve", "--tls-cert", "/dev/null"], "go together"),
        (&["serve", "--tls-cert", "/dev/null", "--tls-key", "/dev/null"], "no certificate"),
        (&["serve", "--users", "/nonexistent"], "/nonexistent"),
        (&["serve", "--config-file", "/nonexistent"], "/nonexistent"),
        (&["serve", "--addr", "banana"], "an IP address and a port"),
        (&["serve", "--log-level", "loud"], "--log-level"),
        (&["serve", "--nonsense"], "unknown flag"),
        (&["banana"], "unknown command"),
    ] {
        let cmd = Cmd::new(&program).arg("registry").args(args);
        let done = if args[0] == "serve" { cmd.arg("--root").arg(&root).run()? } else { cmd.run()? };
        ensure!(done.code == 1 && done.stderr.contains(says), "{done}");
    }
    ensure!(!root.exists(), "a refused start leaves nothing");
    ensure!(Cmd::new(&program).args(["registry", "serve", "--help"]).ok()?.stdout.contains("--addr"));
    Ok(())
}

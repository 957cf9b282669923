//! How registries are reached: Docker Hub played by a local one, mirrors, TLS with authorities of one's own, all tags, what a name means there.

use crate::images::Registry;
use crate::support::{code, has};
use anyhow::{Result, ensure};
use std::fs;
use std::path::Path;
use tests::sh::Cmd;
use tests::{Client, Engine, image};

const CLIENTS: [Client; 2] = [Client::Cais, Client::Docker];

/// A folder for registries that outlives none of the tests.
struct Folder(std::path::PathBuf);

impl Folder {
    fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("cais-registries-{}-{name}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    fn sub(&self, name: &str) -> Result<std::path::PathBuf> {
        let path = self.0.join(name);
        fs::create_dir_all(&path)?;
        Ok(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

/// A certificate for 127.0.0.1 that is its own authority.
fn certificate(dir: &Path, name: &str) -> Result<(String, String)> {
    let path = |ending: &str| dir.join(format!("{name}.{ending}")).to_string_lossy().into_owned();
    let (cert, key) = (path("crt"), path("key"));
    let curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let subject = ["-subj", "/CN=registry", "-addext", "subjectAltName=IP:127.0.0.1"];
    Cmd::new("openssl")
        .args(["req", "-x509", "-nodes", "-days", "2"])
        .args(curve)
        .args(subject)
        .args(["-keyout", &key, "-out", &cert])
        .ok()?;
    Ok((cert, key))
}

/// Hub's names, its library, a mirror that has only some of them, and all tags of a repository.
#[test]
fn hub_and_mirror() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let folder = Folder::new("hub")?;
    let (hub_dir, mirror_dir) = (folder.sub("hub")?, folder.sub("mirror")?);
    let hub = Registry::start(&hub_dir)?;
    let digest = hub.publish("library/bb", "1", &image::busybox()?, &hub_dir)?;
    hub.publish("library/bb", "2", &image::busybox()?, &hub_dir)?;
    hub.publish("walk/bb", "1", &image::busybox()?, &hub_dir)?;
    let mirror = Registry::start(&mirror_dir)?;
    mirror.publish("library/mirrored", "1", &image::busybox()?, &mirror_dir)?;
    let (endpoint, mirrors) = (format!("docker.io=http://{}", hub.address), format!("http://{}", mirror.address));
    let engine = Engine::start_with("hub", &["--registry-endpoint", &endpoint, "--registry-mirror", &mirrors])?;
    for client in CLIENTS {
        let run = |args: &[&str]| -> Result<String> { Ok(engine.client(client)?.args(args).ok()?.stdout) };
        let said = run(&["pull", "bb:1"])?;
        has(&said, "Pulling from library/bb")?;
        has(&said, &digest)?;
        has(&run(&["images", "--format", "{{.Repository}}:{{.Tag}}"])?, "bb:1\n")?;
        ensure!(run(&["run", "--rm", "docker.io/library/bb:1", "echo", "up"])? == "up\n");
        run(&["pull", "walk/bb:1"])?;
        // Only the mirror has this.
        run(&["pull", "mirrored:1"])?;
        has(&run(&["pull", "--all-tags", "bb"])?, "Status: ")?;
        has(&run(&["images", "--format", "{{.Tag}}", "bb"])?, "2\n")?;
        ensure!(run(&["pull", "-q", "bb:2"])? == "docker.io/library/bb:2\n");
        let refused = engine.client(client)?.args(["pull", "-a", "bb:1"]).run()?;
        code(&refused, 1)?;
        has(&refused.stderr, "tag can't be used with --all-tags/-a")?;
        let none = engine.client(client)?.args(["pull", "-a", "no/such"]).run()?;
        code(&none, 1)?;
        has(&none.stderr, "no/such")?;
        let search = engine.client(client)?.args(["search", "bb"]).run()?;
        code(&search, 1)?;
        has(&search.stderr, "does not offer searching")?;
        has(&run(&["info", "--format", "{{json .RegistryConfig.Mirrors}}"])?, &mirror.address)?;
        run(&["rmi", "-f", "bb:1", "bb:2", "walk/bb:1", "mirrored:1"])?;
    }
    let told = engine.api("GET", "/v1.51/distribution/bb:1/json", "")?;
    ensure!(told.status == 200 && told.body.contains(&digest) && told.body.contains(r#""architecture":"amd64""#), "{told:?}");
    Ok(())
}

/// A registry with a certificate of its own: accepted on loopback, checked as soon as an authority is named, and refused if that is another one.
#[test]
fn tls() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let folder = Folder::new("tls")?;
    let (own, other) = (certificate(&folder.0, "own")?, certificate(&folder.0, "other")?);
    let registry = Registry::start_tls(&folder.sub("registry")?, &own)?;
    let authorities = folder.sub("certs.d")?;
    let engine = Engine::start_with("tls", &["--registry-certs", &authorities.to_string_lossy()])?;
    let name = format!("{}/walk/bb:1", registry.address);
    engine.cais().args(["import"]).arg(image::busybox()?).arg(&name).ok()?;
    let host = authorities.join(&registry.address);
    // Nobody says how it is to be checked.
    engine.ok(&["push", &name])?;
    fs::create_dir_all(&host)?;
    fs::copy(&other.0, host.join("ca.crt"))?;
    let refused = engine.run(&["pull", &name])?;
    code(&refused, 1)?;
    has(&refused.stderr, "certificate")?;
    fs::write(host.join("ca.crt"), "nonsense")?;
    let damaged = engine.run(&["pull", &name])?;
    code(&damaged, 1)?;
    has(&damaged.stderr, "ca.crt")?;
    fs::copy(&own.0, host.join("ca.crt"))?;
    engine.ok(&["rmi", &name])?;
    for client in CLIENTS {
        engine.client(client)?.args(["pull", &name]).ok()?;
        engine.client(client)?.args(["push", &name]).ok()?;
        engine.client(client)?.args(["rmi", &name]).ok()?;
    }
    // A client's own certificate without its key is no certificate.
    fs::copy(&own.0, host.join("client.cert"))?;
    let keyless = engine.run(&["pull", &name])?;
    code(&keyless, 1)?;
    has(&keyless.stderr, "the key of the same name is missing")?;
    fs::copy(&own.1, host.join("client.key"))?;
    engine.ok(&["pull", &name])?;
    Ok(())
}

//! The examples: built as their readers build them, then run. The bases are made from Debian's packages; `npm install` asks the registry of npm.

#![forbid(unsafe_code)]

use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use tests::Engine;
use tests::engine::BUSYBOX;
use tests::http::free_port;
use tests::image;
use tests::sh::{Cmd, eventually};

/// What the two larger examples need, in one root that is made once.
const PACKAGES: &[&str] = &["ca-certificates", "gcc", "libc6-dev", "nodejs", "npm"];
/// Whom this machine trusts: a network that looks into connections has an authority of its own.
const TRUSTED: &str = "/etc/ssl/certs/ca-certificates.crt";
const DEBIAN: &str = "quay/debian:latest";
const NODE: &str = "quay/node:latest";

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

fn checked(name: &str, check: impl FnOnce(&Engine) -> Result<()>) -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox(name)?;
    let outcome = check(&engine);
    if outcome.is_err() {
        eprintln!("the engine said:\n{}", engine.log());
        engine.forgive_leaks();
    }
    outcome
}

/// Builds an example; the arguments come before the folder.
fn build(engine: &Engine, name: &str, tag: &str, flags: &[&str]) -> Result<()> {
    engine.cais().args(["build", "--progress", "plain", "-t", tag]).args(flags).arg(example(name)).ok()?;
    Ok(())
}

/// False where Debian's packages are out of reach, which is not the engine's fault.
fn debian(engine: &Engine) -> Result<bool> {
    match image::debian(PACKAGES) {
        Ok(root) => engine.cais().arg("import").arg(root).arg(DEBIAN).ok().map(|_| true),
        Err(error) => {
            eprintln!("SKIP: Debian's packages are not reached: {error:#}");
            Ok(false)
        }
    }
}

/// What npm says when it does not reach its packages.
const UNREACHED: [&str; 6] = ["ENOTFOUND", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "EAI_AGAIN", "ENETUNREACH"];

/// Builds the Node.js service; false where npm's packages are out of reach.
fn build_service(engine: &Engine, tag: &str, flags: &[&str]) -> Result<bool> {
    match build(engine, "node-service", tag, flags) {
        Err(error) if UNREACHED.iter().any(|code| format!("{error:#}").contains(code)) => {
            eprintln!("SKIP: npm's packages are not reached: {error:#}");
            Ok(false)
        }
        done => done.map(|()| true),
    }
}

fn page(port: u16) -> Result<String> {
    let url = format!("http://127.0.0.1:{port}/");
    let ask = || Cmd::new("curl").args(["-sf", "--noproxy", "*", &url]).run().ok().filter(|done| done.code == 0);
    Ok(eventually("the page comes", 60, ask)?.stdout)
}

#[test]
fn static_site() -> Result<()> {
    checked("site", |engine| {
        build(engine, "static-site", "site", &["--build-arg", &format!("BASE={BUSYBOX}")])?;
        let files = engine.ok(&["run", "--rm", "site", "find", "/www", "-type", "f"])?;
        ensure!(files.text() == "/www/site/index.html", "{files:?}");
        let port = free_port()?;
        engine.ok(&["run", "-d", "--name", "site", "-p", &format!("{port}:80"), "site"])?;
        let url = format!("http://127.0.0.1:{port}/site/");
        let shown = eventually("the page comes", 60, || {
            Cmd::new("curl").args(["-sf", "--noproxy", "*", &url]).run().ok().filter(|done| done.code == 0)
        })?;
        ensure!(shown.stdout.contains("A page out of a container."), "{shown:?}");
        Ok(())
    })
}

#[test]
fn compiled_program() -> Result<()> {
    checked("compiled", |engine| {
        if !debian(engine)? {
            return Ok(());
        }
        build(engine, "compiled", "hello", &["--build-arg", &format!("BASE={DEBIAN}"), "--build-arg", "GREETING=Bom dia"])?;
        ensure!(engine.ok(&["run", "--rm", "hello"])?.text() == "Bom dia, world");
        ensure!(engine.ok(&["run", "--rm", "hello", "cais"])?.text() == "Bom dia, cais");
        // Only the program is in the image: the compiler's stage is not.
        let layers = engine.inspect("hello", "{{len .RootFS.Layers}}")?;
        ensure!(layers == "1", "{layers} layers");
        Ok(())
    })
}

#[test]
fn node_service() -> Result<()> {
    checked("node", |engine| {
        if !debian(engine)? {
            return Ok(());
        }
        let context = engine.dir().join("node-base");
        fs::create_dir(&context)?;
        fs::copy(TRUSTED, context.join("trusted.crt")).context("copy the certificates")?;
        fs::write(context.join("Dockerfile"), format!("FROM {DEBIAN}\nCOPY trusted.crt {TRUSTED}\nENV NODE_EXTRA_CA_CERTS={TRUSTED}\n"))?;
        engine.cais().args(["build", "-t", NODE]).arg(&context).ok()?;

        if !build_service(engine, "service", &["--build-arg", &format!("BASE={NODE}")])? {
            return Ok(());
        }
        let (dir, env) = (engine.inspect("service", "{{.Config.WorkingDir}}")?, engine.inspect("service", "{{.Config.Env}}")?);
        ensure!(dir == "/usr/src/app" && env.contains("PORT=3000") && env.contains("NODE_ENV=production"), "{dir} {env}");
        let port = free_port()?;
        engine.ok(&["run", "-dp", &format!("{port}:3000"), "--name", "service", "service"])?;
        let text = page(port)?;
        ensure!(text.starts_with("up for ") && text.trim_end().ends_with("in /usr/src/app"), "{text}");

        // Another port by an argument; without WORKDIR all is in the root of the image.
        let file = example("node-service").join("Dockerfile.root");
        let flags = ["--build-arg", &format!("BASE={NODE}"), "--build-arg", "PORT=6000", "-f", &file.to_string_lossy()];
        if !build_service(engine, "service:root", &flags)? {
            return Ok(());
        }
        let port = free_port()?;
        engine.ok(&["run", "-dp", &format!("{port}:6000"), "--name", "root", "service:root"])?;
        let text = page(port)?;
        ensure!(text.trim_end().ends_with("in /"), "{text}");
        engine.ok(&["stop", "service", "root"])?;
        Ok(())
    })
}

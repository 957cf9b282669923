//! `push`, `login` and `logout`, against Debian's registry on loopback.

use crate::both;
use crate::images::Registry;
use crate::support::{Walk, code, has};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::time::Duration;
use tests::engine::BUSYBOX;
use tests::image;
use tests::sh::Cmd;

/// `user:bcrypt("secret")`.
const HTPASSWD: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";

/// The digest that a push or pull has told.
fn told(text: &str) -> Result<String> {
    let at = text.find("sha256:").with_context(|| format!("no digest in {text}"))?;
    Ok(text.get(at..at + 71).unwrap_or_default().to_owned())
}

/// The client with a `config.json` of the test's own.
fn with_config(walk: &Walk, args: &[&str]) -> Result<Cmd> {
    Ok(walk.cmd(args)?.env("DOCKER_CONFIG", walk.engine.dir().join("config")))
}

both! {
    /// What was pushed and pulled again has the digest and the id that it had; other tools read it; the second push sends nothing.
    fn push_and_pull(walk) {
        let registry = Registry::start(walk.engine.dir())?;
        let name = format!("{}/walk/pushed:1.3", registry.address);
        let id = walk.inspect(BUSYBOX, "{{.Id}}")?;
        walk.ok(&["tag", BUSYBOX, &name])?;
        let first = walk.out(&["push", &name])?;
        let digest = told(&first)?;
        has(&first, "Pushed")?;
        has(&walk.out(&["inspect", "-f", "{{json .RepoDigests}}", &name])?, &digest)?;
        let second = walk.out(&["push", &name])?;
        has(&second, "Layer already exists")?;
        ensure!(told(&second)? == digest, "{second}");
        let seen = Cmd::new("skopeo").args(["inspect", "--tls-verify=false"]).arg(format!("docker://{name}")).ok()?;
        has(&seen.stdout, &digest)?;
        walk.ok(&["rmi", &name, BUSYBOX])?;
        has(&walk.out(&["pull", &name])?, &digest)?;
        ensure!(walk.inspect(&name, "{{.Id}}")? == id);
        ensure!(walk.out(&["run", "--rm", &name, "echo", "back"])? == "back");
    }

    /// A pulled image goes to another repository as it came, without its layers being sent.
    fn push_pulled(walk) {
        let registry = Registry::start(walk.engine.dir())?;
        let digest = registry.publish("walk/bb", "1", &image::busybox()?, walk.engine.dir())?;
        walk.ok(&["rmi", BUSYBOX])?;
        let (from, to) = (format!("{}/walk/bb:1", registry.address), format!("{}/walk/copy:2", registry.address));
        walk.ok(&["pull", &from])?;
        walk.ok(&["tag", &from, &to])?;
        let said = walk.out(&["push", &to])?;
        has(&said, "Mounted from walk/bb")?;
        ensure!(told(&said)? == digest, "{said}");
    }

    /// All tags of a repository; and what can't be pushed.
    fn push_all_tags(walk) {
        let registry = Registry::start(walk.engine.dir())?;
        let name = format!("{}/walk/all", registry.address);
        for tag in ["a", "b"] {
            walk.ok(&["tag", BUSYBOX, &format!("{name}:{tag}")])?;
        }
        let said = walk.out(&["push", "-a", &name])?;
        has(&said, "a: digest: sha256:")?;
        has(&said, "b: digest: sha256:")?;
        let missing = walk.run(&["push", &format!("{name}:c")])?;
        code(&missing, 1)?;
        has(&missing.stderr, "does not exist locally")?;
        walk.ok(&["tag", BUSYBOX, "127.0.0.1:1/walk/x:1"])?;
        let nobody = walk.run(&["push", "127.0.0.1:1/walk/x:1"])?;
        code(&nobody, 1)?;
        has(&nobody.stderr, "Connection refused")?;
    }

    /// A registry that asks for a password: `login`, `push`, `pull` and `logout`, and what is wrong.
    fn push_with_password(walk) {
        let dir = walk.engine.dir().to_path_buf();
        fs::write(dir.join("htpasswd"), HTPASSWD)?;
        let access = format!("auth: {{htpasswd: {{realm: walk, path: {}}}}}\n", dir.join("htpasswd").display());
        let registry = Registry::start_with(&dir, &access)?;
        let name = format!("{}/walk/closed:1", registry.address);
        walk.ok(&["tag", BUSYBOX, &name])?;
        let login = ["login", "-u", "user", "--password-stdin", &registry.address];
        let refused = with_config(walk, &["push", &name])?.run()?;
        code(&refused, 1)?;
        has(&refused.stderr, "push access denied")?;
        let wrong = with_config(walk, &login)?.stdin("wrong\n").run()?;
        code(&wrong, 1)?;
        has(&wrong.stderr, "unauthorized")?;
        has(&with_config(walk, &login)?.stdin("secret\n").ok()?.stdout, "Login Succeeded")?;
        let said = with_config(walk, &["push", &name])?.ok()?.stdout;
        let digest = told(&said)?;
        walk.ok(&["rmi", &name])?;
        has(&with_config(walk, &["pull", &name])?.ok()?.stdout, &digest)?;
        walk.ok(&["rmi", &name])?;
        ensure!(with_config(walk, &["run", "--rm", &name, "echo", "pulled"])?.ok()?.stdout == "pulled\n");
        with_config(walk, &["logout", &registry.address])?.ok()?;
        code(&with_config(walk, &["push", &name])?.run()?, 1)?;
    }

    /// A registry that is killed while a layer goes up, and is there again a moment later.
    fn push_broken(walk) {
        let mut registry = Registry::start(walk.engine.dir())?;
        let name = format!("{}/walk/large:1", registry.address);
        let (file, tar) = (walk.engine.dir().join("noise"), walk.engine.dir().join("noise.tar"));
        Cmd::new("dd").args(["if=/dev/urandom", "bs=1M", "count=120", "status=none"]).arg(format!("of={}", file.display())).ok()?;
        Cmd::new("tar").arg("-C").arg(walk.engine.dir()).arg("-cf").arg(&tar).arg("noise").ok()?;
        walk.ok(&["import", &tar.to_string_lossy(), &name])?;
        let pushing = walk.cmd(&["push", &name])?;
        let pushed = std::thread::spawn(move || pushing.ok());
        std::thread::sleep(Duration::from_millis(600));
        registry.restart(walk.engine.dir())?;
        let said = pushed.join().map_err(|_| anyhow::anyhow!("the push panicked"))??.stdout;
        has(&said, "1: digest: sha256:")?;
        let id = walk.inspect(&name, "{{.Id}}")?;
        walk.ok(&["rmi", &name])?;
        walk.ok(&["pull", &name])?;
        ensure!(walk.inspect(&name, "{{.Id}}")? == id);
    }
}

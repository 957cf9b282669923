//! One client against one engine, in the words of the checks.

use anyhow::{Context, Result, ensure};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;
use tests::engine::BUSYBOX;
use tests::sh::{Cmd, Done, eventually};
use tests::{Client, Engine, http, pty};

/// What most containers of the walk run.
pub const SLEEP: [&str; 2] = ["sleep", "300"];
/// A web server of one page.
pub const WEB: [&str; 3] = ["sh", "-c", "mkdir -p /www; echo page > /www/index.html; exec httpd -f -p 80 -h /www"];
const PTY_TIMEOUT: Duration = Duration::from_secs(30);

/// A client, an engine, and the names given out so far.
pub struct Walk {
    /// The engine; its `cais` client serves for what is not under test.
    pub engine: Engine,
    client: Client,
    names: u32,
}

impl Walk {
    /// Runs a check with a client against an engine that has the busybox image.
    pub fn through(name: &str, client: Client, check: impl FnOnce(&mut Self) -> Result<()>) -> Result<()> {
        if tests::skip_unless_root() {
            return Ok(());
        }
        let engine = Engine::with_busybox(&format!("{name}-{client:?}").to_lowercase())?;
        let mut walk = Self { engine, client, names: 0 };
        let outcome = check(&mut walk);
        if outcome.is_err() {
            eprintln!("the engine said:\n{}", walk.engine.log());
            walk.engine.forgive_leaks();
        }
        outcome
    }

    /// The client's command, pointed at the engine.
    pub fn cmd(&self, args: &[&str]) -> Result<Cmd> {
        Ok(self.engine.client(self.client)?.args(args))
    }

    /// Runs the client; any exit code but 0 is an error.
    pub fn ok(&self, args: &[&str]) -> Result<Done> {
        self.cmd(args)?.ok()
    }

    /// Runs the client, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Result<Done> {
        self.cmd(args)?.run()
    }

    /// The trimmed standard output of a client's command that works.
    pub fn out(&self, args: &[&str]) -> Result<String> {
        Ok(self.ok(args)?.text().to_owned())
    }

    /// The output of `run --rm FLAGS busybox COMMAND`.
    pub fn once(&self, flags: &[&str], command: &[&str]) -> Result<String> {
        self.out(&[&["run", "--rm"], flags, &[BUSYBOX], command].concat())
    }

    /// The same, whatever comes of it.
    pub fn try_once(&self, flags: &[&str], command: &[&str]) -> Result<Done> {
        self.run(&[&["run", "--rm"], flags, &[BUSYBOX], command].concat())
    }

    /// A name not used yet.
    pub fn name(&mut self) -> String {
        self.names += 1;
        format!("quay-{}", self.names)
    }

    /// A running container, by its name.
    pub fn detached(&mut self, flags: &[&str], command: &[&str]) -> Result<String> {
        let name = self.name();
        self.ok(&[&["run", "-d", "--name", &name], flags, &[BUSYBOX], command].concat())?;
        Ok(name)
    }

    /// A running container that sleeps.
    pub fn sleeper(&mut self, flags: &[&str]) -> Result<String> {
        self.detached(flags, &SLEEP)
    }

    /// One value of `inspect -f`.
    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        self.out(&["inspect", "-f", format, name])
    }

    /// The output of `exec NAME sh -c SCRIPT`.
    pub fn inside(&self, name: &str, script: &str) -> Result<String> {
        self.out(&["exec", name, "sh", "-c", script])
    }

    /// `rm -f -v` of some containers.
    pub fn remove(&self, names: &[&str]) -> Result<()> {
        self.ok(&[&["rm", "-f", "-v"], names].concat()).map(drop)
    }

    /// The client under a terminal of 40 × 100, with these lines typed into it: exit code and what was shown.
    pub fn typed(&self, args: &[&str], steps: &[&[u8]]) -> Result<(i32, String)> {
        pty::run(self.cmd(args)?, (40, 100), steps, PTY_TIMEOUT)
    }

    /// The port of the host that `port NAME PORT` shows first.
    pub fn host_port(&self, name: &str, port: &str) -> Result<u16> {
        let shown = self.out(&["port", name, port])?;
        let first = shown.lines().next().context("no port is shown")?;
        first.rsplit(':').next().and_then(|digits| digits.parse().ok()).with_context(|| format!("no port in {first:?}"))
    }
}

/// Waits until the page of [`WEB`] comes from this port of loopback.
pub fn page_at(port: u16) -> Result<()> {
    page_at_address(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))
}

/// The same from any address.
pub fn page_at_address(address: SocketAddr) -> Result<()> {
    eventually(&format!("the page is served at {address}"), 10, || http::get(address, "/").ok().filter(|answer| answer.body == "page\n"))?;
    Ok(())
}

/// The namespace of a kind that this process is in.
pub fn own_namespace(kind: &str) -> Result<String> {
    Ok(std::fs::read_link(format!("/proc/self/ns/{kind}"))?.to_string_lossy().into_owned())
}

/// Fails unless `text` contains `part`.
pub fn has(text: &str, part: &str) -> Result<()> {
    ensure!(text.contains(part), "{part:?} is not in {text:?}");
    Ok(())
}

/// Fails unless the command ended with this code.
pub fn code(done: &Done, code: i32) -> Result<()> {
    ensure!(done.code == code, "exit code {code} was expected: {done}");
    Ok(())
}

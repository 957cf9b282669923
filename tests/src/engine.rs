//! An engine of a test's own: own data root, run directory, socket, bridge, table and cgroup root, all gone at the end.

use crate::leaks::{self, Mark};
use crate::sh::{self, Cmd, Done, eventually};
use crate::{http, image};
use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

const READY_SECS: u64 = 20;
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// The name under which [`Engine::with_busybox`] imports the busybox root.
pub const BUSYBOX: &str = "quay/busybox:latest";

/// Who speaks to the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Client {
    /// The client of the binary under test.
    Cais,
    /// The unmodified `docker` client found on the path.
    Docker,
}

impl Client {
    /// The program of this client.
    pub fn program(self) -> Result<PathBuf> {
        match self {
            Self::Cais => binary(),
            Self::Docker => sh::which("docker").context("no docker client is installed: apt-get install docker.io"),
        }
    }
}

/// The binary under test: `$CAIS_BIN`, else the one in the target folder that this program was built into.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("CAIS_BIN") {
        return Ok(path.into());
    }
    let own = std::env::current_exe()?;
    let built = own.ancestors().skip(1).take(2).map(|dir| dir.join("cais")).find(|path| path.is_file());
    built.context("no cais binary: `cargo build -p cais`, or name one in CAIS_BIN")
}

/// A running engine; dropping it removes its containers, ends it and looks for what it left.
#[derive(Debug)]
pub struct Engine {
    dir: PathBuf,
    program: PathBuf,
    /// What the engine's command line begins with, to run it in other namespaces.
    prefix: Vec<String>,
    flags: Vec<String>,
    child: Option<Child>,
    mark: Mark,
    keep_quiet: bool,
}

impl Engine {
    /// Starts an engine whose folder carries `name` and this process's id.
    pub fn start(name: &str) -> Result<Self> {
        Self::start_with(name, &[])
    }

    /// The same with further flags of `cais engine`.
    pub fn start_with(name: &str, flags: &[&str]) -> Result<Self> {
        let dir = std::env::temp_dir().join(format!("cais-test-{}-{name}", std::process::id()));
        Self::start_in(dir, &binary()?, flags)
    }

    /// The same in a given folder, which is removed at the end, and with a given binary.
    pub fn start_in(dir: PathBuf, program: &Path, flags: &[&str]) -> Result<Self> {
        Self::start_under(dir, program, &[], flags)
    }

    /// The same through a command that becomes the engine: `nsenter`, say.
    pub fn start_under(dir: PathBuf, program: &Path, prefix: &[&str], flags: &[&str]) -> Result<Self> {
        fs::create_dir_all(&dir).with_context(|| format!("make {}", dir.display()))?;
        let mark = Mark::new(&dir);
        let owned = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
        let (prefix, flags) = (owned(prefix), owned(flags));
        let mut engine = Self { dir, program: program.to_owned(), prefix, flags, child: None, mark, keep_quiet: false };
        engine.spawn()?;
        Ok(engine)
    }

    /// An engine that has [`BUSYBOX`].
    pub fn with_busybox(name: &str) -> Result<Self> {
        let engine = Self::start(name)?;
        engine.cais().args(["import", "-c", r#"CMD ["sh"]"#]).arg(image::busybox()?).arg(BUSYBOX).ok()?;
        Ok(engine)
    }

    /// The folder of everything that is this engine's.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The API socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.dir.join("s")
    }

    /// The data root.
    #[must_use]
    pub fn data_root(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// The run directory.
    #[must_use]
    pub fn exec_root(&self) -> PathBuf {
        self.dir.join("run")
    }

    /// The engine's process, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// What the engine has written to its standard error.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// The client of the binary under test, pointed here.
    #[must_use]
    pub fn cais(&self) -> Cmd {
        self.client_program(&self.program)
    }

    /// Either client, pointed here.
    pub fn client(&self, client: Client) -> Result<Cmd> {
        Ok(match client {
            Client::Cais => self.cais(),
            Client::Docker => self.client_program(&client.program()?),
        })
    }

    /// Runs the `cais` client with these arguments; any exit code but 0 is an error.
    pub fn ok(&self, args: &[&str]) -> Result<Done> {
        self.cais().args(args).ok()
    }

    /// Runs the `cais` client with these arguments, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Result<Done> {
        self.cais().args(args).run()
    }

    /// One value of `inspect -f`.
    pub fn inspect(&self, name: &str, format: &str) -> Result<String> {
        Ok(self.ok(&["inspect", "-f", format, name])?.text().to_owned())
    }

    /// A request to the API.
    pub fn api(&self, method: &str, path: &str, body: &str) -> Result<http::Answer> {
        http::unix(&self.socket(), method, path, body)
    }

    /// SIGKILL to the engine process alone, at once.
    pub fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.child.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }

    /// Starts the engine again in the same folder.
    pub fn restart(&mut self) -> Result<()> {
        self.kill()?;
        self.spawn()
    }

    /// Ends the engine in order and starts it again in the same folder.
    pub fn restart_gently(&mut self) -> Result<()> {
        if let Some(child) = &mut self.child {
            kill_process(Pid::from_raw(i32::try_from(child.id())?).context("a process id")?, Signal::TERM)?;
            if sh::wait(child, Instant::now() + END_TIMEOUT)?.is_none() {
                bail!("the engine did not end at SIGTERM within {END_TIMEOUT:?}");
            }
            self.child = None;
        }
        self.spawn()
    }

    /// The same with other flags of `cais engine`.
    pub fn restart_with(&mut self, flags: &[&str]) -> Result<()> {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
        self.restart()
    }

    /// Says that the test has made a mess on purpose: what is left is removed without failing the test.
    pub fn forgive_leaks(&mut self) {
        self.keep_quiet = true;
    }

    /// Removes every container, ends the engine and removes its folder; answers what it had left besides.
    pub fn finish(mut self) -> Result<Vec<String>> {
        let left = self.clean();
        std::mem::forget(self);
        left
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::options().append(true).create(true).open(self.dir.join("log"))?;
        let program = match self.prefix.split_first() {
            Some((first, rest)) => Cmd::new(first).args(rest).arg(&self.program),
            None => Cmd::new(&self.program),
        };
        let child = program
            .arg("engine")
            .arg("--host")
            .arg(format!("unix://{}", self.socket().display()))
            .arg("--data-root")
            .arg(self.data_root())
            .arg("--exec-root")
            .arg(self.exec_root())
            .args(&self.flags)
            .spawn(Stdio::from(log.try_clone()?), Stdio::from(log))?;
        self.child = Some(child);
        self.wait_until_ready()
    }

    fn wait_until_ready(&mut self) -> Result<()> {
        let socket = self.socket();
        let deadline = Instant::now() + Duration::from_secs(READY_SECS);
        loop {
            if let Some(pid) = self.pid() {
                // In every round: one that ends while it comes up may leave something, too.
                self.mark.learn_cgroup(pid);
            }
            if UnixStream::connect(&socket).is_ok() && http::unix(&socket, "GET", "/_ping", "").is_ok_and(|answer| answer.status == 200) {
                return Ok(());
            }
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok()).flatten();
            if ended.is_some() || Instant::now() > deadline {
                bail!("the engine did not come up ({ended:?}); it said: {}", self.log());
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn client_program(&self, program: &Path) -> Cmd {
        ["CAIS_HOST", "DOCKER_HOST", "DOCKER_CONTEXT", "DOCKER_API_VERSION", "DOCKER_TLS_VERIFY"]
            .iter()
            .fold(Cmd::new(program), |cmd, key| cmd.env_remove(key))
            .env("DOCKER_CONFIG", self.dir.join("client"))
            .arg("-H")
            .arg(format!("unix://{}", self.socket().display()))
    }

    fn clean(&mut self) -> Result<Vec<String>> {
        if !self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None))) {
            self.child = None;
            // Only an engine can take its containers away; when none comes up any more, what they leave is found below.
            drop(self.spawn());
        }
        if let Some(mut child) = self.child.take() {
            let ids = self.run(&["ps", "-aq", "--no-trunc"]).map(|done| done.stdout).unwrap_or_default();
            if !ids.trim().is_empty() {
                drop(self.cais().args(["rm", "-f", "-v"]).args(ids.split_whitespace()).run());
            }
            if let Some(pid) = Pid::from_raw(i32::try_from(child.id())?) {
                // An engine that never came up has ended by itself.
                let _ = kill_process(pid, Signal::TERM);
            }
            if sh::wait(&mut child, Instant::now() + END_TIMEOUT)?.is_none() {
                eprintln!("the engine did not end at SIGTERM within {END_TIMEOUT:?}; it said: {}", self.log());
            }
        }
        // The kernel takes a moment to destroy a namespace and what lives in it.
        let left = match eventually("nothing is left", 5, || leaks::of(&self.mark).is_empty().then_some(())) {
            Ok(()) => Vec::new(),
            Err(_) => leaks::of(&self.mark),
        };
        leaks::remove(&self.mark);
        fs::remove_dir_all(&self.dir).with_context(|| format!("remove {}", self.dir.display()))?;
        Ok(left)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if failing {
            eprintln!("the engine said:\n{}", tail(&self.log(), 40));
        }
        match self.clean() {
            Ok(left) if left.is_empty() => {}
            Ok(left) if failing || self.keep_quiet => eprintln!("left behind, and removed: {left:#?}"),
            Ok(left) => panic!("the engine left behind: {left:#?}"),
            Err(error) => eprintln!("cleaning up after the engine: {error:#}"),
        }
    }
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<_> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

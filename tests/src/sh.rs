//! Commands with a deadline, their output read to the end.

use anyhow::{Context, Result, bail};
use std::ffi::OsStr;
use std::fmt;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// How long [`Cmd::run`] waits unless told otherwise.
pub const TIMEOUT_DEFAULT: Duration = Duration::from_secs(90);
const PIPE_GRACE: Duration = Duration::from_secs(5);

/// What a command left.
#[derive(Clone, Debug)]
pub struct Done {
    /// The command as a reader would type it.
    pub line: String,
    /// Its exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// Standard output, invalid UTF-8 replaced.
    pub stdout: String,
    /// Standard error, invalid UTF-8 replaced.
    pub stderr: String,
    /// From spawn to the end.
    pub took: Duration,
}

impl Done {
    /// Itself when the exit code is 0, else an error that shows the command and what it said.
    pub fn ok(self) -> Result<Self> {
        if self.code != 0 {
            bail!("{self}");
        }
        Ok(self)
    }

    /// Standard output without the white space around it.
    #[must_use]
    pub fn text(&self) -> &str {
        self.stdout.trim()
    }
}

impl fmt::Display for Done {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = if self.stderr.trim().is_empty() { &self.stdout } else { &self.stderr };
        let tail: String = said.trim().chars().rev().take(1500).collect::<Vec<_>>().into_iter().rev().collect();
        write!(f, "`{}` -> exit {}: {tail}", self.line, self.code)
    }
}

/// A command being put together.
#[derive(Debug)]
pub struct Cmd {
    inner: Command,
    line: Vec<String>,
    stdin: Option<Vec<u8>>,
    timeout: Duration,
}

impl Cmd {
    /// A command by its program.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        let program = program.as_ref();
        Self { inner: Command::new(program), line: vec![program.to_string_lossy().into_owned()], stdin: None, timeout: TIMEOUT_DEFAULT }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.line.push(arg.as_ref().to_string_lossy().into_owned());
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(self, args: impl IntoIterator<Item = S>) -> Self {
        args.into_iter().fold(self, Self::arg)
    }

    /// Sets a variable of the environment.
    #[must_use]
    pub fn env(mut self, key: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(key, value);
        self
    }

    /// Takes a variable out of the environment.
    #[must_use]
    pub fn env_remove(mut self, key: &str) -> Self {
        self.inner.env_remove(key);
        self
    }

    /// Starts in a directory.
    #[must_use]
    pub fn dir(mut self, dir: &Path) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// What the command reads; without it, nothing.
    #[must_use]
    pub fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Another deadline than [`TIMEOUT_DEFAULT`].
    #[must_use]
    pub const fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// The command as a reader would type it.
    #[must_use]
    pub fn line(&self) -> String {
        self.line.iter().map(|word| quote(word)).collect::<Vec<_>>().join(" ")
    }

    /// Runs to the end and hands back what came out, whatever the exit code. An error means that it could not be run, or was
    /// killed at its deadline.
    pub fn run(mut self) -> Result<Done> {
        let line = self.line();
        self.inner.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        self.inner.stdout(Stdio::piped()).stderr(Stdio::piped());
        let started = Instant::now();
        let mut child = self.inner.spawn().with_context(|| format!("run `{line}`"))?;
        let writer = self.stdin.take().zip(child.stdin.take()).map(|(bytes, mut pipe)| {
            // A command that ends before it has read everything is its own affair.
            thread::spawn(move || drop(pipe.write_all(&bytes)))
        });
        let stdout = drain(child.stdout.take());
        let stderr = drain(child.stderr.take());
        let code = wait(&mut child, started + self.timeout).with_context(|| format!("wait for `{line}`"))?;
        let took = started.elapsed();
        if let Some(writer) = writer {
            drop(writer.join());
        }
        let (stdout, stderr) = (collect(stdout), collect(stderr));
        match code {
            Some(code) => Ok(Done { line, code, stdout, stderr, took }),
            None => bail!("`{line}` did not end within {:?}; it printed: {stdout}{stderr}", self.timeout),
        }
    }

    /// [`Cmd::run`], and any exit code but 0 is an error.
    pub fn ok(self) -> Result<Done> {
        self.run()?.ok()
    }

    /// Runs with the terminal's own streams, and any exit code but 0 is an error. No deadline.
    pub fn pass(mut self) -> Result<()> {
        let line = self.line();
        let status = self.inner.stdin(Stdio::null()).status().with_context(|| format!("run `{line}`"))?;
        if !status.success() {
            bail!("`{line}` failed: {status}");
        }
        Ok(())
    }

    /// Starts it and leaves the streams to the caller's choice (default: nothing in, nothing out).
    pub fn spawn(mut self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let line = self.line();
        self.inner.stdin(if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() });
        let mut child = self.inner.stdout(stdout).stderr(stderr).spawn().with_context(|| format!("run `{line}`"))?;
        if let (Some(bytes), Some(mut pipe)) = (self.stdin.take(), child.stdin.take()) {
            pipe.write_all(&bytes).with_context(|| format!("write to `{line}`"))?;
        }
        Ok(child)
    }

    /// The command itself, for what this type does not offer.
    #[must_use]
    pub fn into_inner(self) -> Command {
        self.inner
    }
}

/// Waits for a child until the deadline; kills it then and answers `None`.
pub fn wait(child: &mut Child, deadline: Instant) -> Result<Option<i32>> {
    use std::os::unix::process::ExitStatusExt;
    let mut pause = Duration::from_micros(200);
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status.code().unwrap_or_else(|| 128 + status.signal().unwrap_or(0))));
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(10));
    }
}

/// Asks until the answer is there, or fails with `what` after `secs`.
pub fn eventually<T>(what: &str, secs: u64, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
    let deadline = Instant::now() + Duration::from_secs(secs);
    loop {
        if let Some(answer) = ask() {
            return Ok(answer);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not so within {secs} s");
        }
        thread::sleep(Duration::from_millis(30));
    }
}

/// Where a program is, as the shell would find it.
#[must_use]
pub fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let admin = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    std::env::split_paths(&path).chain(admin).map(|dir| dir.join(program)).find(|file| file.is_file())
}

/// A word as a shell needs it.
#[must_use]
pub fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=@,+%{}".contains(c);
    if !word.is_empty() && word.chars().all(plain) { word.to_owned() } else { format!("'{}'", word.replace('\'', r"'\''")) }
}

type Reader = Option<mpsc::Receiver<Vec<u8>>>;

fn drain(pipe: Option<impl Read + Send + 'static>) -> Reader {
    let (sender, receiver) = mpsc::channel();
    let mut pipe = pipe?;
    thread::spawn(move || {
        let mut bytes = Vec::new();
        // What was read before an error is still worth showing.
        drop(pipe.read_to_end(&mut bytes));
        drop(sender.send(bytes));
    });
    Some(receiver)
}

/// What was read; nothing when someone else still holds the pipe open long after the command's end.
fn collect(reader: Reader) -> String {
    let bytes = reader.and_then(|receiver| receiver.recv_timeout(PIPE_GRACE).ok());
    bytes.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_code_and_input() {
        let done = Cmd::new("sh").args(["-c", "cat; echo e >&2; exit 7"]).stdin("in").run().unwrap();
        assert_eq!((done.code, done.stdout.as_str(), done.stderr.as_str()), (7, "in", "e\n"));
    }

    #[test]
    fn a_deadline_ends_it() {
        let result = Cmd::new("sleep").arg("60").timeout(Duration::from_millis(50)).run();
        assert!(result.unwrap_err().to_string().contains("did not end"));
    }

    #[test]
    fn lines_can_be_typed_again() {
        let line = Cmd::new("sh").args(["-c", "echo 'x y'", "a=b"]).line();
        assert_eq!(line, r"sh -c 'echo '\''x y'\''' a=b");
    }
}

//! What builds take from the web: files for `ADD`, archives and repositories as contexts.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use build::Cancel;
use bytes::Bytes;
use dockerfile::graph::GitSource;
use jiff::Timestamp;
use registry::{BlobSink, Downloaded};
use rustix::fs::{Mode, OFlags, ResolveFlags, Timespec, Timestamps};
use sha2::{Sha256, Sha384, Sha512};
use store::Scratch;
use types::ErrorKind;

use super::{Error, Result};
use crate::Engine;

/// A file from the web may be as large as this.
const FILE_BYTES_MAX: u64 = 64 << 30;
const MODE: u32 = 0o600;
/// How often it is looked whether git has ended.
const GIT_POLL: Duration = Duration::from_millis(20);
/// What git says that is handed on.
const GIT_MESSAGE_LEN_MAX: u64 = 64 << 10;

/// Writes what arrives to a file, and stops when the build does.
struct FileSink {
    file: File,
    cancel: Cancel,
}

impl BlobSink for FileSink {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other("the build was cancelled"));
        }
        self.file.write_all(&bytes)
    }
}

fn failed(what: &str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Context { what: what.to_owned(), source: source.into() }
}

impl Engine {
    /// Fetches a file into a directory of its own, with the server's time.
    pub(super) fn fetch_file(
        self: &Arc<Self>,
        runtime: &tokio::runtime::Handle,
        url: &str,
        checksum: Option<&str>,
        filename: &str,
        cancel: &Cancel,
    ) -> Result<(Scratch, Downloaded)> {
        if filename.is_empty() || filename.contains('/') || matches!(filename, "." | "..") {
            return Err(Error::request(ErrorKind::InvalidInput, format!("{url} names no file: give the destination a name")));
        }
        let scratch = self.store.scratch().map_err(|source| Error::Store { operation: "make room for a file from the web", source })?;
        let path = scratch.path().join(filename);
        let file = File::create_new(&path).map_err(|source| Error::File { operation: "make", path: path.clone(), source })?;
        let mut sink = FileSink { file, cancel: cancel.clone() };
        let downloaded = runtime.block_on(self.images().download(url, FILE_BYTES_MAX, &mut sink)).map_err(|error| failed(url, error))?;
        if let Some(checksum) = checksum {
            verify(&path, checksum, url)?;
        }
        let changed = downloaded.last_modified.as_deref().and_then(http_date).unwrap_or(0);
        let time = Timespec { tv_sec: changed, tv_nsec: 0 };
        let set = rustix::fs::futimens(&sink.file, &Timestamps { last_access: time, last_modification: time })
            .and_then(|()| rustix::fs::fchmod(&sink.file, Mode::from_raw_mode(MODE)));
        set.map_err(|error| Error::File { operation: "set the time of", path, source: error.into() })?;
        Ok((scratch, downloaded))
    }

    /// Checks a repository out into a directory of its own; answers that and the folder in it that is meant.
    pub(super) fn check_out(&self, source: &GitSource, cancel: &Cancel) -> Result<(Scratch, PathBuf)> {
        let scratch = self.store.scratch().map_err(|source| Error::Store { operation: "make room for a repository", source })?;
        let tree = scratch.path().join("tree");
        durable::create_dir(&tree, 0o755).map_err(|error| failed(&source.remote, error))?;
        let git = Git { tree: &tree, home: scratch.path(), remote: &source.remote, cancel };
        let reference = source.reference.as_deref().unwrap_or("HEAD");
        if reference.starts_with('-') || source.remote.starts_with('-') {
            return Err(Error::request(ErrorKind::InvalidInput, format!("{} {reference} is no repository", source.remote)));
        }
        git.run(&["init", "--quiet", "."])?;
        git.run(&["remote", "add", "origin", &source.remote])?;
        // Not every server gives single commits away, nor cut-off histories.
        if git.run(&["fetch", "--quiet", "--no-tags", "--depth", "1", "origin", reference]).is_err() {
            cancel.check().map_err(|_| Error::Cancelled)?;
            git.run(&["fetch", "--quiet", "--tags", "origin", "HEAD", "+refs/heads/*:refs/remotes/origin/*"])?;
            let candidates = match reference {
                "HEAD" => vec!["FETCH_HEAD".to_owned()],
                name => vec![format!("refs/remotes/origin/{name}"), format!("{name}^{{commit}}")],
            };
            let found = candidates.iter().find(|name| git.run(&["checkout", "--quiet", "--detach", name]).is_ok());
            found.ok_or_else(|| failed(&source.remote, format!("there is no branch, tag or commit {reference:?}")))?;
        } else {
            git.run(&["checkout", "--quiet", "--detach", "FETCH_HEAD"])?;
        }
        let commit = git.run(&["rev-parse", "HEAD"])?.trim().to_owned();
        if let Some(expected) = &source.checksum
            && !(expected.len() >= 7 && commit.starts_with(expected.as_str()))
        {
            return Err(failed(&source.remote, format!("the commit is {commit}, and was to be {expected}")));
        }
        if source.submodules && tree.join(".gitmodules").is_file() {
            git.run(&["submodule", "--quiet", "update", "--init", "--recursive", "--depth", "1"])?;
        }
        if !source.keep_git_dir {
            durable::remove_tree(&tree.join(".git")).map_err(|error| failed(&source.remote, error))?;
        }
        let path = folder(&tree, source.subdir.as_deref()).map_err(|error| failed(&source.remote, error))?;
        Ok((scratch, path))
    }
}

/// The folder of a repository that is meant, which no link leads out of.
fn folder(tree: &Path, subdir: Option<&str>) -> std::result::Result<PathBuf, String> {
    let Some(subdir) = subdir.map(|subdir| subdir.trim_matches('/')).filter(|subdir| !subdir.is_empty()) else {
        return Ok(tree.to_owned());
    };
    let root =
        rustix::fs::open(tree, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(|error| error.to_string())?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    rustix::fs::openat2(&root, subdir, flags, Mode::empty(), resolve).map_err(|error| format!("the folder {subdir:?} in it: {error}"))?;
    Ok(tree.join(subdir))
}

/// The git of this machine, without its settings, hooks and questions.
struct Git<'a> {
    tree: &'a Path,
    home: &'a Path,
    remote: &'a str,
    cancel: &'a Cancel,
}

impl Git<'_> {
    fn run(&self, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new("git");
        command
            .args(["-c", "core.hooksPath=/dev/null", "-c", "protocol.file.allow=never", "-c", "protocol.ext.allow=never"])
            .args(["-c", "advice.detachedHead=false", "-c", "safe.directory=*", "-c", "gc.auto=0"])
            .args(arguments)
            .current_dir(self.tree)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_else(|| "/usr/local/bin:/usr/bin:/bin".into()))
            .env("HOME", self.home)
            .env("GIT_TERMINAL_PROMPT", "0")
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .env("GIT_ALLOW_PROTOCOL", "http:https:git:ssh")
            .env("GIT_SSH_COMMAND", "ssh -o BatchMode=yes")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        for name in ["http_proxy", "https_proxy", "no_proxy", "HTTPS_PROXY", "NO_PROXY", "SSH_AUTH_SOCK"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        let mut child = command.spawn().map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::request(
                ErrorKind::Unavailable,
                format!("the repository {} needs the program git, which is not installed on the engine's machine", self.remote),
            ),
            _ => failed(self.remote, error),
        })?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let read = |pipe: Option<Box<dyn Read + Send>>| {
            std::thread::spawn(move || {
                let mut text = Vec::new();
                if let Some(mut pipe) = pipe {
                    // What is cut off, or cannot be read, is missing from a message.
                    let _ = pipe.by_ref().take(GIT_MESSAGE_LEN_MAX).read_to_end(&mut text);
                    let _ = io::copy(&mut pipe, &mut io::sink());
                }
                String::from_utf8_lossy(&text).into_owned()
            })
        };
        let out = read(out.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        let err = read(err.map(|pipe| Box::new(pipe) as Box<dyn Read + Send>));
        let status = loop {
            if let Some(status) = child.try_wait().map_err(|error| failed(self.remote, error))? {
                break status;
            }
            if self.cancel.is_cancelled() {
                let _ = child.kill();
            }
            std::thread::sleep(GIT_POLL);
        };
        let (out, err) = (out.join().unwrap_or_default(), err.join().unwrap_or_default());
        if self.cancel.is_cancelled() {
            return Err(Error::Cancelled);
        }
        match status.success() {
            true => Ok(out),
            false => {
                let why = status.signal().map_or_else(|| err.trim().to_owned(), |signal| format!("ended by signal {signal}"));
                Err(failed(self.remote, format!("git {}: {why}", arguments.first().copied().unwrap_or_default())))
            }
        }
    }
}

/// Compares a file with `algorithm:digits`.
fn verify(path: &Path, checksum: &str, url: &str) -> Result<()> {
    let fail = |source| Error::File { operation: "read", path: path.to_owned(), source };
    let mut file = File::open(path).map_err(fail)?;
    let (algorithm, digits) = checksum.split_once(':').unwrap_or(("", checksum));
    let found = match algorithm {
        "sha256" => hashed::<Sha256>(&mut file),
        "sha384" => hashed::<Sha384>(&mut file),
        "sha512" => hashed::<Sha512>(&mut file),
        _ => return Err(Error::request(ErrorKind::InvalidInput, format!("invalid checksum {checksum:?}: sha256:DIGITS is expected"))),
    };
    let found = found.map_err(fail)?;
    match found.eq_ignore_ascii_case(digits) {
        true => Ok(()),
        false => Err(failed(url, format!("digest mismatch {algorithm}:{found}: {checksum} was expected"))),
    }
}

fn hashed<D: sha2::Digest>(file: &mut File) -> io::Result<String> {
    let mut hash = D::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()),
            Ok(len) => hash.update(&buffer[..len]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Seconds since 1970 of `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(text: &str) -> Option<i64> {
    let parsed = jiff::fmt::rfc2822::parse(text).ok()?;
    let timestamp: Timestamp = parsed.timestamp();
    Some(timestamp.as_second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_servers_are_read() {
        assert_eq!(http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(http_date("yesterday"), None);
    }

    #[test]
    fn checksums_are_compared() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("f");
        std::fs::write(&path, "abc").expect("writes");
        let right = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert!(
            verify(&path, right, "u").is_ok() && verify(&path, &right.replace('b', "c"), "u").is_err() && verify(&path, "x", "u").is_err()
        );
    }

    #[test]
    fn a_folder_stays_in_its_repository() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let tree = directory.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b")).expect("makes");
        std::os::unix::fs::symlink("/etc", tree.join("link")).expect("links");
        assert_eq!(folder(&tree, Some("/a/b/")), Ok(tree.join("a/b")));
        assert!(folder(&tree, Some("../x")).is_err() && folder(&tree, Some("link")).is_err() && folder(&tree, Some("none")).is_err());
    }
}

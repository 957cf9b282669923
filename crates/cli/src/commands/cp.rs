//! `cp`: files between a container and this machine.

use std::fs;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use client::{Client, Request, Response};
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use tarball::{Owner, Packer, Plain, Target, Unpack};

use super::container_path;
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Flag, Matches, switch};
use crate::terminal;

const STAT_HEADER: &str = "X-Docker-Container-Path-Stat";
/// Go's bits for kinds of files.
const GO_DIRECTORY: u32 = 1 << 31;
const GO_LINK: u32 = 1 << 27;
const BUFFER_LEN: usize = 128 << 10;
const NODE: OFlags = OFlags::PATH.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

const FLAGS: &[Flag] = &[
    switch("archive", Some('a'), "Keep users and groups; into a container: those of the container's user"),
    switch("follow-link", Some('L'), "Copy what a link at SOURCE leads to"),
    switch("quiet", Some('q'), "Say nothing about what was copied"),
];

pub const COMMAND: Command = Command {
    paths: &["container cp", "cp"],
    usage: "[OPTIONS] CONTAINER:SOURCE TARGET|-  or  SOURCE|- CONTAINER:TARGET",
    about: "Copy files between a container and this machine",
    flags: &[FLAGS],
    arity: Arity::Exactly(2),
    run,
    ..Command::BASE
};

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stat {
    name: String,
    mode: u32,
    #[serde(default)]
    link_target: String,
}

impl Stat {
    fn is_directory(&self) -> bool {
        self.mode & GO_DIRECTORY != 0
    }
}

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let (source, target) = (&m.positionals[0], &m.positionals[1]);
    let copied = match (split(source), split(target)) {
        ((Some(_), _), (Some(_), _)) => bail!("copying between containers is not served: copy to this machine first"),
        ((None, _), (None, _)) => bail!("one side must be a container: CONTAINER:PATH"),
        ((Some(container), path), (None, _)) => from_container(context.client()?, m, container, path, target)?,
        ((None, _), (Some(container), path)) => to_container(context.client()?, m, source, container, path)?,
    };
    if let Some(bytes) = copied
        && !m.switch("quiet").unwrap_or(!terminal::stdout_is_terminal())
    {
        eprintln!("Successfully copied {} to {target}", crate::units::size(i64::try_from(bytes).unwrap_or(i64::MAX)));
    }
    Ok(0)
}

/// `CONTAINER:PATH`; absolute and `./relative` paths are this machine's, whatever they contain.
fn split(argument: &str) -> (Option<&str>, &str) {
    match argument.split_once(':') {
        Some((container, path)) if !container.is_empty() && !argument.starts_with(['/', '.']) => (Some(container), path),
        _ => (None, argument),
    }
}

fn from_container(client: &Client, m: &Matches, container: &str, path: &str, target: &str) -> Result<Option<u64>> {
    let mut wanted = path.to_owned();
    if m.on("follow-link")
        && let Some(stat) = stat(client, container, path)?
        && stat.mode & GO_LINK != 0
    {
        wanted = stat.link_target;
    }
    let response = client.send(Request::get(container_path(container, "/archive")?).query("path", &wanted))?;
    let mut response = Counted { inner: response, count: 0 };
    if target == "-" {
        if terminal::stdout_is_terminal() {
            bail!("an archive is not for a terminal: redirect stdout");
        }
        let mut out = terminal::stdout();
        io::copy(&mut response, &mut out).context("read the archive")?;
        out.flush()?;
        return Ok(None);
    }
    let source = stat_of(&response.inner)?;
    // A link that was followed keeps its own name.
    let own_name = if wanted == path { source.name.clone() } else { base_name(path) };
    let target_path = Path::new(target);
    let present = fs::metadata(target_path).ok();
    let (directory, name) = place(
        target,
        present.as_ref().map(fs::Metadata::is_dir),
        source.is_directory(),
        &own_name,
        target_path.parent().map(|parent| parent.to_string_lossy().into_owned()).unwrap_or_default(),
    )?;
    let directory = if directory.is_empty() { ".".to_owned() } else { directory };
    let rename = |entry: &[u8]| Some(renamed(entry, source.name.as_bytes(), name.as_bytes()));
    let owner = if m.on("archive") && rustix::process::geteuid().is_root() { Owner::Archive } else { Owner::Caller };
    let opened = rustix::fs::open(directory.as_str(), DIRECTORY, Mode::empty()).map_err(io::Error::from);
    let opened: OwnedFd = opened.with_context(|| format!("open {directory}"))?;
    let how = Unpack { owner, keep_kinds: true, rename: &rename };
    let reader = BufReader::with_capacity(BUFFER_LEN, &mut response);
    tarball::unpack(reader, &Target { directory: opened, root: None }, &how).with_context(|| format!("write {target}"))?;
    Ok(Some(response.count))
}

fn to_container(client: &Client, m: &Matches, source: &str, container: &str, path: &str) -> Result<Option<u64>> {
    let mut path = path.to_owned();
    let mut present = stat(client, container, &path)?;
    if let Some(link) = present.as_ref().filter(|stat| stat.mode & GO_LINK != 0) {
        path = link.link_target.clone();
        present = stat(client, container, &path)?;
    }
    let is_directory = present.as_ref().map(Stat::is_directory);
    if source == "-" {
        if is_directory != Some(true) {
            bail!("destination \"{container}:{path}\" must be a directory");
        }
        client.send(put(container, &path, m.on("archive"))?.stream("application/x-tar", &mut io::stdin().lock()))?.finish()?;
        return Ok(None);
    }
    let source = Source::open(source, m.on("follow-link"))?;
    let parent = path.trim_end_matches('/').rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
    let (directory, name) = place(&path, is_directory, source.is_directory, &source.name, parent.to_owned())?;
    let (reader, writer) = io::pipe().context("make a pipe")?;
    let mut reader = Counted { inner: reader, count: 0 };
    std::thread::scope(|scope| {
        let packing = scope.spawn(|| source.pack(name.as_bytes(), BufWriter::with_capacity(BUFFER_LEN, writer)));
        let sent =
            client.send(put(container, &directory, m.on("archive"))?.stream("application/x-tar", &mut reader)).and_then(Response::finish);
        let count = reader.count;
        // A packer that still writes sees that nobody reads.
        drop(reader);
        let packed = packing.join().unwrap_or_else(|_| bail!("the packing thread failed"));
        match (packed, sent) {
            // What failed here explains what the engine says of the archive; that nobody reads is explained by the engine.
            (Err(error), _) if !crate::context::is_broken_pipe(&error) => Err(error),
            (_, Err(error)) => Err(error.into()),
            (Err(error), Ok(())) => Err(error),
            (Ok(()), Ok(())) => Ok(Some(count)),
        }
    })
}

fn put<'a>(container: &str, directory: &str, archive: bool) -> Result<Request<'a>> {
    Ok(Request::put(container_path(container, "/archive")?)
        .query("path", directory)
        .query("noOverwriteDirNonDir", "true")
        .query_flag("copyUIDGID", archive))
}

/// Where a copy goes: the directory it is unpacked in, and its name there. Docker's rules, which are those of `cp -r`.
fn place(
    target: &str,
    target_is_directory: Option<bool>,
    source_is_directory: bool,
    name: &str,
    parent: String,
) -> Result<(String, String)> {
    let last = base_name(target);
    match target_is_directory {
        Some(true) => Ok((target.to_owned(), name.to_owned())),
        Some(false) if source_is_directory => bail!("cannot copy a directory over the file {target}"),
        None if !source_is_directory && target.ends_with('/') => bail!("there is no directory {target}"),
        _ => Ok((parent, last)),
    }
}

/// The entry's path with its first component, the name of what is copied, replaced.
fn renamed(entry: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let rest = match old {
        b"/" => entry.strip_prefix(b"/"),
        old => entry.strip_prefix(old).filter(|rest| rest.is_empty() || rest.starts_with(b"/")),
    };
    match rest {
        Some(rest) => [new, b"/", rest.strip_prefix(b"/").unwrap_or(rest)].concat(),
        None => entry.to_vec(),
    }
}

/// The last component of a path; `.` where it ends in one, `/` for the root.
fn base_name(path: &str) -> String {
    let trimmed = path.trim_end_matches('/');
    match trimmed.rsplit('/').next() {
        Some("") | None => "/".to_owned(),
        Some(name) => name.to_owned(),
    }
}

fn stat(client: &Client, container: &str, path: &str) -> Result<Option<Stat>> {
    match client.send(Request::new("HEAD", container_path(container, "/archive")?).query("path", path)) {
        Ok(response) => {
            let stat = stat_of(&response)?;
            response.finish()?;
            Ok(Some(stat))
        }
        // Whether container or path is missing is told by the request that follows.
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn stat_of(response: &Response) -> Result<Stat> {
    let header = response.header(STAT_HEADER).context("the engine did not describe the path")?;
    let text = BASE64_STANDARD.decode(header).context("decode the description of the path")?;
    serde_json::from_slice(&text).context("read the description of the path")
}

/// What is copied from this machine.
struct Source {
    path: PathBuf,
    node: OwnedFd,
    is_directory: bool,
    /// Its name at the target, unless the target gives it another.
    name: String,
}

impl Source {
    fn open(path: &str, follow: bool) -> Result<Self> {
        // A trailing slash or dot asks for the directory behind a link.
        let follow = follow || path.ends_with('/') || path.ends_with("/.") || path == "." || path.ends_with("..");
        let flags = if follow { OFlags::PATH | OFlags::CLOEXEC } else { NODE };
        let node = rustix::fs::open(path, flags, Mode::empty()).map_err(io::Error::from).with_context(|| format!("open {path}"))?;
        let stat = rustix::fs::fstat(&node).map_err(io::Error::from).with_context(|| format!("look at {path}"))?;
        let is_directory = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        if path.ends_with('/') && !is_directory {
            bail!("{path} is not a directory");
        }
        let mut name = base_name(path);
        if name == ".." || name == "/" {
            name = ".".to_owned();
        }
        Ok(Self { path: path.into(), node, is_directory, name })
    }

    fn pack(&self, name: &[u8], output: impl Write) -> Result<()> {
        let packed = || -> std::result::Result<(), tarball::Error> {
            let mut packer = Packer::new(output, &|_, _| false);
            if self.is_directory {
                let directory = rustix::fs::openat(&self.node, ".", DIRECTORY, Mode::empty()).map_err(|error| tarball::Error::Io {
                    operation: "open",
                    path: self.path.display().to_string(),
                    source: error.into(),
                })?;
                packer.directory(&Plain, &directory, name)?;
            } else {
                packer.node(std::os::fd::AsFd::as_fd(&self.node), name)?;
            }
            packer.finish().map(drop)
        };
        packed().with_context(|| format!("read {}", self.path.display()))
    }
}

/// Counts what is read.
struct Counted<R> {
    inner: R,
    count: u64,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.count += count as u64;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sides_are_told_apart() {
        assert_eq!(split("web:/etc"), (Some("web"), "/etc"));
        for local in ["/a:b", "./a:b", "../a:b", "file", "-", ":x"] {
            assert_eq!(split(local), (None, local));
        }
    }

    #[test]
    fn targets_follow_dockers_rules() {
        let to = |target: &str, there, directory, name: &str| place(target, there, directory, name, "parent".to_owned()).ok();
        let pair = |directory: &str, name: &str| Some((directory.to_owned(), name.to_owned()));
        assert_eq!(to("d", Some(true), true, "src"), pair("d", "src"));
        assert_eq!(to("d", Some(true), true, "."), pair("d", "."));
        assert_eq!(to("d/new", None, true, "src"), pair("parent", "new"));
        assert_eq!(to("d/new/", None, true, "src"), pair("parent", "new"));
        assert_eq!(to("f", Some(false), false, "src"), pair("parent", "f"));
        assert_eq!(to("f", Some(false), true, "src"), None);
        assert_eq!(to("new/", None, false, "src"), None);
    }

    #[test]
    fn entries_are_renamed_at_their_first_component() {
        let name =
            |entry: &str, old: &str, new: &str| String::from_utf8(renamed(entry.as_bytes(), old.as_bytes(), new.as_bytes())).expect("text");
        assert_eq!(name("a/b", "a", "x"), "x/b");
        assert_eq!(name("a", "a", "x"), "x/");
        assert_eq!(name("./b", ".", "x"), "x/b");
        assert_eq!(name("/b", "/", "x"), "x/b");
        assert_eq!(name("ab/c", "a", "x"), "ab/c");
    }

    #[test]
    fn base_names_keep_a_dot() {
        assert_eq!((base_name("/a/b/"), base_name("/a/."), base_name("/")), ("b".to_owned(), ".".to_owned(), "/".to_owned()));
    }
}

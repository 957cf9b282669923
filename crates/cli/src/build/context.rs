//! Where the files of a build come from: a folder, an archive on standard input, an address; and the Dockerfile with them.

use std::fs::{self, File};
use std::io::{self, Cursor, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use client::Endpoint;
use dockerfile::ignore::{IGNORE_BYTES_MAX, Matcher};
use dockerfile::{DOCKERFILE_BYTES_MAX, parse_git_context};
use rustix::fs::{Mode, OFlags};
use tarball::{Packer, Plain};
use types::build::{BuildRequest, ContextSource, DockerfileSource};

use crate::flags::Matches;

/// The file that a folder is built by.
const DOCKERFILE: &str = "Dockerfile";
/// Enough of standard input to tell an archive from a Dockerfile.
const PEEK_BYTES: usize = 512;
/// Where tar archives say what they are.
const TAR_MAGIC_AT: usize = 257;

/// What has to be sent after the request.
pub enum Payload {
    /// Nothing.
    None,
    /// An archive as it comes.
    Stream(Box<dyn Read + Send>),
    /// A folder, packed while it is sent.
    Folder(PathBuf, Matcher),
}

/// The Dockerfile's text, where the client has it.
pub struct Known {
    /// The name that messages show.
    pub name: String,
    /// The text.
    pub text: String,
}

/// Fills contexts and Dockerfile of the request. Answers what is to be sent after it, and the Dockerfile if it is here.
pub fn fill(request: &mut BuildRequest, m: &Matches, endpoint: &Endpoint) -> Result<(Payload, Option<Known>)> {
    let place = m.positional(0).unwrap_or_default();
    let file = m.text("file").filter(|file| !file.is_empty());
    let shares = shares_files(endpoint);
    for entry in m.list("build-context") {
        let (name, source) = named(entry, shares)?;
        request.contexts.insert(name, source);
    }
    if place == "-" {
        if file == Some("-") {
            bail!("the Dockerfile and the context can't both come from standard input");
        }
        return stdin(request, file);
    }
    if is_address(place) {
        request.context = ContextSource::Url { url: place.to_owned() };
        return match file {
            Some("-") => text_from_stdin(request).map(|known| (Payload::None, Some(known))),
            file => {
                request.dockerfile = DockerfileSource::Context { path: file.unwrap_or(DOCKERFILE).to_owned() };
                Ok((Payload::None, None))
            }
        };
    }
    folder(request, place, file, shares)
}

fn folder(request: &mut BuildRequest, place: &str, file: Option<&str>, shares: bool) -> Result<(Payload, Option<Known>)> {
    let root = fs::canonicalize(place).with_context(|| format!("unable to prepare context: path {place:?} not found"))?;
    if !root.is_dir() {
        bail!(
            "unable to prepare context: {place:?} is not a folder; give the folder that has the Dockerfile, and -f FILE for another name"
        );
    }
    let known = match file {
        Some("-") => text_from_stdin(request)?,
        file => {
            let path = find_dockerfile(&root, file)?;
            let text = read(&path, DOCKERFILE_BYTES_MAX)?;
            let inside = fs::canonicalize(&path).ok().and_then(|path| path.strip_prefix(&root).ok().map(Path::to_path_buf));
            let name = match (&inside, file) {
                (_, Some(file)) => file.to_owned(),
                (Some(path), None) => path.to_string_lossy().into_owned(),
                (None, None) => DOCKERFILE.to_owned(),
            };
            request.dockerfile = match inside.filter(|_| shares) {
                Some(path) => DockerfileSource::Context { path: path.to_string_lossy().into_owned() },
                None => DockerfileSource::Text { text: text.clone(), name: name.clone(), ignore: own_ignore(&path)? },
            };
            Known { name, text }
        }
    };
    if shares {
        request.context = ContextSource::Directory { path: root.to_string_lossy().into_owned() };
        return Ok((Payload::None, Some(known)));
    }
    request.context = ContextSource::Archive;
    let own = match &request.dockerfile {
        DockerfileSource::Text { ignore: Some(text), .. } => Some(text.clone()),
        _ => None,
    };
    let text = match own {
        Some(text) => text,
        None => read_optional(&root.join(".dockerignore"))?.unwrap_or_default(),
    };
    let matcher = Matcher::parse(&text).context("read .dockerignore")?;
    Ok((Payload::Folder(root, matcher), Some(known)))
}

/// The Dockerfile: relative to the working directory, or else to the context.
fn find_dockerfile(root: &Path, file: Option<&str>) -> Result<PathBuf> {
    let candidates = match file {
        Some(file) => vec![PathBuf::from(file), root.join(file)],
        None => vec![root.join(DOCKERFILE), root.join("dockerfile")],
    };
    match candidates.iter().find(|path| path.is_file()) {
        Some(path) => Ok(path.clone()),
        None => {
            let first = candidates.first().map(|path| path.display().to_string()).unwrap_or_default();
            bail!("failed to read dockerfile: open {first}: no such file; give another one with -f FILE")
        }
    }
}

/// What `FILE.dockerignore` beside the Dockerfile says, which counts before `.dockerignore`.
fn own_ignore(path: &Path) -> Result<Option<String>> {
    let mut name = path.as_os_str().to_owned();
    name.push(".dockerignore");
    read_optional(Path::new(&name))
}

fn stdin(request: &mut BuildRequest, file: Option<&str>) -> Result<(Payload, Option<Known>)> {
    let mut input = io::stdin();
    let mut head = Vec::new();
    (&mut input).take(PEEK_BYTES as u64).read_to_end(&mut head).context("read standard input")?;
    if is_archive(&head) {
        request.context = ContextSource::Archive;
        request.dockerfile = DockerfileSource::Context { path: file.unwrap_or(DOCKERFILE).to_owned() };
        return Ok((Payload::Stream(Box::new(Cursor::new(head).chain(input))), None));
    }
    if let Some(file) = file {
        bail!("standard input is no archive, so it can't hold {file}; leave -f out to build from a Dockerfile on standard input");
    }
    let known = text_of(&mut Cursor::new(head).chain(input))?;
    request.context = ContextSource::Empty;
    request.dockerfile = DockerfileSource::Text { text: known.text.clone(), name: known.name.clone(), ignore: None };
    Ok((Payload::None, Some(known)))
}

fn text_from_stdin(request: &mut BuildRequest) -> Result<Known> {
    let known = text_of(&mut io::stdin())?;
    request.dockerfile = DockerfileSource::Text { text: known.text.clone(), name: known.name.clone(), ignore: None };
    Ok(known)
}

fn text_of(input: &mut dyn Read) -> Result<Known> {
    let mut bytes = Vec::new();
    input.take(DOCKERFILE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).context("read standard input")?;
    let text = String::from_utf8(bytes).context("the Dockerfile on standard input is not UTF-8")?;
    Ok(Known { name: DOCKERFILE.to_owned(), text })
}

/// `name=value` of `--build-context`.
fn named(entry: &str, shares: bool) -> Result<(String, ContextSource)> {
    let Some((name, value)) = entry.split_once('=').filter(|(name, value)| !name.is_empty() && !value.is_empty()) else {
        bail!("invalid context value: {entry}, expected NAME=VALUE");
    };
    if let Some(reference) = value.strip_prefix("docker-image://") {
        let reference: types::ImageRef = reference.parse().with_context(|| format!("--build-context {entry}"))?;
        return Ok((name.to_owned(), ContextSource::Image { reference: reference.with_default_tag().to_string() }));
    }
    if is_address(value) {
        return Ok((name.to_owned(), ContextSource::Url { url: value.to_owned() }));
    }
    if let Some((scheme, _)) = value.split_once("://") {
        bail!("--build-context {entry}: {scheme}:// is not served; use a folder, a git or web address, or docker-image://IMAGE");
    }
    let path = fs::canonicalize(value).with_context(|| format!("--build-context {entry}: find {value}"))?;
    if !path.is_dir() {
        bail!("--build-context {entry}: {value} is not a folder");
    }
    if !shares {
        bail!("--build-context {entry}: a folder as a named context needs an engine on this machine; the main context can be sent to any");
    }
    Ok((name.to_owned(), ContextSource::Directory { path: path.to_string_lossy().into_owned() }))
}

fn is_address(text: &str) -> bool {
    text.starts_with("http://") || text.starts_with("https://") || (parse_git_context(text).is_some() && !Path::new(text).exists())
}

/// Whether the beginning of a file is one of an archive, plain or compressed.
fn is_archive(head: &[u8]) -> bool {
    const MAGIC: [&[u8]; 4] = [b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd"];
    MAGIC.iter().any(|magic| head.starts_with(magic)) || head.get(TAR_MAGIC_AT..).is_some_and(|rest| rest.starts_with(b"ustar"))
}

/// Whether the engine sees the files that we see: it listens on a socket here, is an engine itself rather than somebody who hands on what we say,
/// and its process has our mounts.
fn shares_files(endpoint: &Endpoint) -> bool {
    let Endpoint::Unix(path) = endpoint else { return false };
    let Ok(stream) = UnixStream::connect(path) else { return false };
    let Ok(peer) = rustix::net::sockopt::socket_peercred(stream.as_fd()) else { return false };
    let process = format!("/proc/{}", peer.pid.as_raw_nonzero());
    let link = |path: &str| fs::read_link(path).ok();
    let program = link(&format!("{process}/exe"));
    let name = program.as_deref().and_then(Path::file_name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let is_engine = name.starts_with("cais") || (program.is_some() && program == link("/proc/self/exe"));
    let mounts = link("/proc/self/ns/mnt");
    let root = |process: &str| link(&format!("{process}/root"));
    is_engine && mounts.is_some() && mounts == link(&format!("{process}/ns/mnt")) && root(&process) == root("/proc/self")
}

/// Packs a folder, in the order of names, without what is ignored.
pub fn pack(root: &Path, matcher: &Matcher, output: impl Write) -> Result<()> {
    let directory = rustix::fs::open(root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .with_context(|| format!("open {}", root.display()))?;
    let skip = |path: &[u8], stat: &rustix::fs::Stat| {
        let path = String::from_utf8_lossy(path);
        let is_directory = rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory;
        if is_directory { matcher.excludes_all_below(&path) } else { matcher.excludes(&path) }
    };
    let mut packer = Packer::new(output, &skip);
    packer.directory(&Plain, &directory, b"")?;
    packer.finish()?;
    Ok(())
}

fn read(path: &Path, limit: usize) -> Result<String> {
    let file = File::open(path).with_context(|| format!("open {}", path.display()))?;
    let mut bytes = Vec::new();
    file.take(limit as u64 + 1).read_to_end(&mut bytes).with_context(|| format!("read {}", path.display()))?;
    if bytes.len() > limit {
        bail!("{} is longer than {limit} bytes", path.display());
    }
    String::from_utf8(bytes).with_context(|| format!("{} is not UTF-8", path.display()))
}

fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        _ => read(path, IGNORE_BYTES_MAX).map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_told_from_dockerfiles() {
        assert!(is_archive(b"\x1f\x8b\x08") && is_archive(b"BZh9") && !is_archive(b"FROM x\n"));
        let mut tar = vec![0; PEEK_BYTES];
        tar[TAR_MAGIC_AT..TAR_MAGIC_AT + 5].copy_from_slice(b"ustar");
        assert!(is_archive(&tar));
    }

    #[test]
    fn folders_are_packed_in_order_without_what_is_ignored() {
        let root = std::env::temp_dir().join(format!("cais-build-pack-{}", std::process::id()));
        for path in ["b/keep", "b/drop", "a", "node_modules/x/y", "only/z"] {
            let path = root.join(path);
            fs::create_dir_all(path.parent().expect("has one")).expect("made");
            fs::write(&path, "x").expect("written");
        }
        let matcher = Matcher::parse("node_modules\nb\n!b/keep\nonly/*").expect("parses");
        let mut bytes = Vec::new();
        pack(&root, &matcher, &mut bytes).expect("packs");
        fs::remove_dir_all(&root).expect("removed");
        let mut parser = tarball::Parser::new(bytes.as_slice());
        let mut names = Vec::new();
        while let Some(entry) = parser.next_entry().expect("parses") {
            names.push(String::from_utf8(entry.path.clone()).expect("text"));
            while let len @ 1.. = parser.content().expect("parses").len() {
                parser.consume(len);
            }
        }
        assert_eq!(names, ["a", "b/", "b/keep", "only/"]);
    }

    #[test]
    fn named_contexts_are_read() {
        assert!(
            matches!(named("x=docker-image://a", true), Ok((_, ContextSource::Image { reference })) if reference == "docker.io/library/a:latest")
        );
        assert!(matches!(named("x=https://h/a.git#v1", false), Ok((_, ContextSource::Url { .. }))));
        assert!(matches!(named("x=/", true), Ok((_, ContextSource::Directory { .. }))));
        for entry in ["x", "=y", "x=oci-layout:///a", "x=/no/such"] {
            assert!(named(entry, true).is_err(), "{entry}");
        }
        assert!(named("x=/", false).is_err());
    }
}

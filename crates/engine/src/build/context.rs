//! Contexts: directories of the machine, archives, addresses; and the Dockerfile in them.

use std::fs::File;
use std::io::{BufReader, Read};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use build::{Filter, Tree};
use dockerfile::ignore::{IGNORE_BYTES_MAX, Matcher};
use dockerfile::{DOCKERFILE_BYTES_MAX, MAIN_CONTEXT};
use rustix::fs::{self, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use store::archive::compression::decompress;
use store::{Scratch, Store};
use tarball::{Owner, Target, Unpack};
use types::ErrorKind;
use types::build::DockerfileSource;

use super::{Error, Result};

const DOCKERFILE: &str = "Dockerfile";
const IGNORE: &str = ".dockerignore";

/// Where the files of a context are.
pub(super) enum Place {
    /// Somebody else's directory.
    Foreign(OwnedFd),
    /// A directory of the engine's own.
    Own(Scratch, PathBuf),
    /// Nowhere.
    Nothing,
}

/// A Dockerfile as it was found.
pub(super) struct Found {
    pub text: Vec<u8>,
    /// As messages name it.
    pub name: String,
    /// Its path in the context, if it is there.
    pub path: Option<String>,
    /// What leaves files out of the context.
    pub ignore: Option<String>,
}

impl Place {
    /// Opens a directory of the machine.
    pub fn directory(path: &str) -> Result<Self> {
        let fail = |source: Errno| Error::File { operation: "open the build context", path: path.into(), source: source.into() };
        if !path.starts_with('/') {
            return Err(Error::request(ErrorKind::InvalidInput, format!("the build context {path:?} is no absolute path")));
        }
        fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map(Self::Foreign).map_err(fail)
    }

    /// Unpacks an archive, compressed or not, into a directory of its own. Everything in it belongs to root.
    pub fn archive(store: &Store, input: &mut (dyn Read + Send)) -> Result<Self> {
        let fail =
            |source: Box<dyn std::error::Error + Send + Sync>| Error::Context { what: "from the client's archive".to_owned(), source };
        let scratch = store.scratch().map_err(|source| Error::Store { operation: "make room for the build context", source })?;
        let path = scratch.path().join("context");
        durable::create_dir(&path, 0o755).map_err(|error| fail(error.into()))?;
        let directory = open(&path)?;
        let target = Target { directory, root: None };
        let how = Unpack { owner: Owner::Fixed(0, 0), keep_kinds: false, rename: &|path| Some(path.to_vec()) };
        let plain = decompress(input).map_err(|error| fail(error.into()))?;
        tarball::unpack(BufReader::with_capacity(256 << 10, plain), &target, &how).map_err(|error| fail(error.into()))?;
        Ok(Self::Own(scratch, path))
    }

    fn descriptor(&self) -> Result<Option<OwnedFd>> {
        match self {
            Self::Foreign(fd) => {
                let copied = rustix::io::fcntl_dupfd_cloexec(fd, 3);
                copied.map(Some).map_err(|error| Error::File { operation: "open", path: MAIN_CONTEXT.into(), source: error.into() })
            }
            Self::Own(_, path) => open(path).map(Some),
            Self::Nothing => Ok(None),
        }
    }

    /// Finds the Dockerfile and what it leaves out.
    pub fn dockerfile(&self, source: &DockerfileSource) -> Result<Found> {
        let directory = self.descriptor()?;
        let read = |path: &str, max: usize| directory.as_ref().map_or(Ok(None), |directory| read(directory, path, max));
        match source {
            DockerfileSource::Text { text, name, ignore } => {
                let ignore = match ignore {
                    Some(ignore) => Some(ignore.clone()),
                    None => read(IGNORE, IGNORE_BYTES_MAX)?.map(text_of),
                };
                Ok(Found { text: text.clone().into_bytes(), name: name.clone(), path: None, ignore })
            }
            DockerfileSource::Context { path } => {
                let wanted = if path.is_empty() { DOCKERFILE } else { path.as_str() };
                let (text, path) = match read(wanted, DOCKERFILE_BYTES_MAX)? {
                    Some(text) => (text, wanted.to_owned()),
                    // Another spelling is as good where none was asked for.
                    None if wanted == DOCKERFILE => {
                        let other = wanted.to_lowercase();
                        (read(&other, DOCKERFILE_BYTES_MAX)?.ok_or(Error::NoDockerfile { path: wanted.to_owned() })?, other)
                    }
                    None => return Err(Error::NoDockerfile { path: wanted.to_owned() }),
                };
                let ignore = match read(&format!("{path}{IGNORE}"), IGNORE_BYTES_MAX)? {
                    Some(own) => Some(own),
                    None => read(IGNORE, IGNORE_BYTES_MAX)?,
                };
                Ok(Found { text, name: path.clone(), path: Some(path), ignore: ignore.map(text_of) })
            }
        }
    }

    /// The context as steps see it. Who sent an archive has left out already what is to be left out, but for the files that the build itself needs.
    pub fn tree(self, found: Option<&Found>) -> Result<Option<Tree>> {
        let ignore = found.and_then(|found| found.ignore.as_deref()).unwrap_or_default();
        let matcher = Matcher::parse(ignore).map_err(|error| Error::request(ErrorKind::InvalidInput, format!("{IGNORE}: {error}")))?;
        let only = match &self {
            Self::Own(..) => Some([IGNORE.to_owned(), found.and_then(|found| found.path.clone()).unwrap_or_default()]),
            Self::Foreign(_) | Self::Nothing => None,
        };
        let filter: Option<Arc<dyn Filter>> = (!matcher.is_empty()).then(|| Arc::new(Ignored { matcher, only }) as Arc<dyn Filter>);
        match self {
            Self::Nothing => Ok(None),
            Self::Foreign(directory) => Ok(Some(Tree::directory(directory, filter))),
            Self::Own(scratch, path) => Tree::scratch(scratch, &path, filter)
                .map(Some)
                .map_err(|error| Error::Context { what: "of the client".to_owned(), source: error.into() }),
        }
    }
}

/// Whether a file is a tar archive, compressed or not. It is rewound.
pub(super) fn is_archive(file: &mut File) -> std::io::Result<bool> {
    use std::io::Seek;
    let mut block = Vec::new();
    let read = match decompress(file) {
        Ok(plain) => plain.take(512).read_to_end(&mut block),
        Err(error) => Err(error),
    };
    file.rewind()?;
    let block: Option<[u8; 512]> = block.try_into().ok().filter(|_| read.is_ok());
    Ok(block.is_some_and(|block| tarball::is_header(&block)))
}

/// What `.dockerignore` leaves out.
struct Ignored {
    matcher: Matcher,
    /// The only files that count, if not all do.
    only: Option<[String; 2]>,
}

impl Filter for Ignored {
    fn excludes(&self, path: &str) -> bool {
        self.only.as_ref().is_none_or(|only| only.iter().any(|only| only == path)) && self.matcher.excludes(path)
    }

    fn wants_below(&self, path: &str) -> bool {
        self.only.is_some() || !self.matcher.excludes_all_below(path)
    }
}

/// A filter of patterns, as `--exclude` has them.
pub(super) fn patterns(patterns: &[String]) -> build::Result<Arc<dyn Filter>> {
    let matcher = Matcher::new(patterns.iter().map(String::as_str));
    let matcher = matcher.map_err(|error| build::Error::NotSupported { what: format!("the pattern of --exclude ({error})") })?;
    Ok(Arc::new(Ignored { matcher, only: None }))
}

fn open(path: &Path) -> Result<OwnedFd> {
    let opened = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty());
    opened.map_err(|error| Error::File { operation: "open", path: path.to_owned(), source: error.into() })
}

/// A file of a context; nothing if there is none. Links are followed inside of the context only.
fn read(directory: &OwnedFd, path: &str, max: usize) -> Result<Option<Vec<u8>>> {
    let fail = |source: std::io::Error| Error::File { operation: "read", path: path.into(), source };
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    let file = match fs::openat2(directory.as_fd(), path, flags, Mode::empty(), resolve) {
        Err(Errno::NOENT | Errno::NOTDIR) => return Ok(None),
        opened => File::from(opened.map_err(|error| fail(error.into()))?),
    };
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(Error::request(ErrorKind::InvalidInput, format!("{path} in the build context is no file")));
    }
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    match bytes.len() > max {
        true => Err(Error::request(ErrorKind::InvalidInput, format!("{path} has more than {max} bytes"))),
        false => Ok(Some(bytes)),
    }
}

fn text_of(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}

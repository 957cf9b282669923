//! Where the result of a build goes besides the image store: folders, archives, registries.

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{Mode, OFlags};
use store::{Image, LayerHold, Store};
use tarball::{Owner, Target, Unpack};
use tokio::sync::mpsc;
use types::build::Output;
use types::{ErrorKind, ImageRef};

use super::notes::Notes;
use super::{Build, Error, Result, names, trusted};
use crate::Engine;
use crate::image::PushLine;

const BUFFER_LEN: usize = 256 << 10;
const PUSH_LINES_MAX: usize = 64;
const FILE_MODE: u32 = 0o644;

/// One place for the result, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// The image store, under these names, and with `push` their registries, too.
    Image {
        /// Besides those of the request.
        names: Vec<ImageRef>,
        /// Whether registries get it.
        push: bool,
    },
    /// The files, in a folder of the machine.
    Local(PathBuf),
    /// The files, as an archive.
    Tar(PathBuf),
    /// The image, as an archive that is an OCI layout and `docker save`'s at once, under these names besides those of the request.
    Archive(PathBuf, Vec<ImageRef>),
    /// Nowhere but the cache.
    Nowhere,
}

/// Reads what was asked for, and refuses what is not there.
pub(super) fn places(build: &Build) -> Result<Vec<Place>> {
    build.request.outputs.iter().map(|output| place(build, output)).collect()
}

fn place(build: &Build, output: &Output) -> Result<Place> {
    let invalid = |reason: String| Error::request(ErrorKind::InvalidInput, format!("output type={}: {reason}", output.kind));
    let known: &[&str] = match output.kind.as_str() {
        "image" | "registry" => &["name", "push", "store", "unpack"],
        "local" => &["dest", "platform-split"],
        "tar" => &["dest"],
        "oci" | "docker" => &["dest", "name", "tar", "compression"],
        "cacheonly" => &[],
        other => return Err(Error::request(ErrorKind::InvalidInput, format!("unknown output type {other:?}"))),
    };
    if let Some(unknown) = output.options.keys().find(|key| !known.contains(&key.as_str())) {
        return Err(Error::request(
            ErrorKind::NotServed,
            format!("the option {unknown} of output type={} is not served by this engine", output.kind),
        ));
    }
    let is_set = |key: &str, absent: bool| match output.options.get(key).map(String::as_str) {
        None => Ok(absent),
        Some("" | "true" | "1") => Ok(true),
        Some("false" | "0") => Ok(false),
        Some(other) => Err(invalid(format!("invalid value {other:?} of {key}"))),
    };
    let dest = || -> Result<PathBuf> {
        trusted(build)?;
        let dest = output.options.get("dest").filter(|dest| dest.starts_with('/'));
        dest.map(PathBuf::from).ok_or_else(|| invalid("dest must be an absolute path".to_owned()))
    };
    Ok(match output.kind.as_str() {
        "image" | "registry" => {
            let listed: Vec<String> =
                output.options.get("name").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default();
            Place::Image { names: names(&listed)?, push: is_set("push", output.kind == "registry")? }
        }
        "local" => Place::Local(dest()?),
        "tar" => Place::Tar(dest()?),
        "cacheonly" => Place::Nowhere,
        _ => {
            if !is_set("tar", true)? {
                return Err(Error::request(
                    ErrorKind::NotServed,
                    format!("output type={}: a folder rather than an archive is not served", output.kind),
                ));
            }
            if output.options.get("compression").is_some_and(|compression| compression != "uncompressed") {
                return Err(Error::request(
                    ErrorKind::NotServed,
                    format!("output type={}: only compression=uncompressed is served", output.kind),
                ));
            }
            let listed: Vec<String> =
                output.options.get("name").map(|names| names.split(',').map(str::to_owned).collect()).unwrap_or_default();
            Place::Archive(dest()?, names(&listed)?)
        }
    })
}

/// Writes the files of layers into a folder, or as an archive. What is there already is replaced, file by file.
pub(super) fn write_files(store: &Store, layers: &[Arc<LayerHold>], place: &Place) -> Result<()> {
    let fail = |source| Error::Store { operation: "export the result", source };
    match place {
        Place::Tar(path) => staged(path, |output| store.export_layers(layers, output).map_err(fail)),
        Place::Local(path) => {
            let file = |operation| move |source: std::io::Error| Error::File { operation, path: path.clone(), source };
            std::fs::create_dir_all(path).map_err(file("make the folder"))?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
            let directory = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| file("open")(error.into()))?;
            let (reader, writer) = std::io::pipe().map_err(file("export to"))?;
            std::thread::scope(|scope| {
                let packing = scope.spawn(move || {
                    let mut output = BufWriter::with_capacity(BUFFER_LEN, writer);
                    store.export_layers(layers, &mut output).map_err(fail)?;
                    // Who reads tells why it stopped.
                    let _ = output.flush();
                    Ok(())
                });
                let how = Unpack { owner: Owner::Archive, keep_kinds: false, rename: &|path| Some(path.to_vec()) };
                let unpacked = tarball::unpack(BufReader::with_capacity(BUFFER_LEN, reader), &Target { directory, root: None }, &how);
                let packed =
                    packing.join().unwrap_or_else(|_| Err(Error::request(ErrorKind::Internal, "the thread that packs the result failed")));
                unpacked.map_err(|source| Error::Context { what: format!("into {}", path.display()), source: source.into() })?;
                packed
            })
        }
        Place::Image { .. } | Place::Archive(..) | Place::Nowhere => Ok(()),
    }
}

/// Writes a file that is whole or not there.
fn staged(path: &Path, write: impl FnOnce(&mut dyn Write) -> Result<()>) -> Result<()> {
    let file = |operation| move |source: std::io::Error| Error::File { operation, path: path.to_owned(), source };
    let above = path.parent().ok_or_else(|| file("write")(std::io::ErrorKind::InvalidInput.into()))?;
    let durable = |source: durable::Error| Error::Context { what: format!("into {}", path.display()), source: source.into() };
    let mut staged = durable::StagedFile::create(above, FILE_MODE).map_err(durable)?;
    {
        let file: &mut File = staged.file();
        let mut output = BufWriter::with_capacity(BUFFER_LEN, file);
        write(&mut output)?;
        output.flush().map_err(|source| Error::File { operation: "write", path: path.to_owned(), source })?;
    }
    staged.commit_volatile(path).map_err(durable)
}

impl Engine {
    /// Writes an image as an archive.
    pub(super) fn write_archive(&self, image: &Arc<Image>, names: &[ImageRef], path: &Path) -> Result<()> {
        let fail = |source| Error::Store { operation: "export the image", source };
        staged(path, |output| self.store.save_as(image, names, output).map_err(fail))
    }

    /// Sends an image to the registries of its names.
    pub(super) fn push_built(&self, runtime: &tokio::runtime::Handle, build: &Build, names: &[ImageRef], notes: &Notes) -> Result<()> {
        if names.is_empty() {
            return Err(Error::request(ErrorKind::InvalidInput, "an image that is to be pushed needs a name: give one with --tag"));
        }
        for name in names {
            let vertex = notes.begin(&format!("pushing {}", name.familiar()));
            let (sender, mut lines) = mpsc::channel::<PushLine>(PUSH_LINES_MAX);
            let credentials = build.credentials.get(name.domain());
            let pushed = runtime.block_on(async {
                let push = self.images().push(name, name.tag(), credentials, sender);
                tokio::pin!(push);
                loop {
                    tokio::select! {
                        pushed = &mut push => break pushed,
                        Some(line) = lines.recv() => if let PushLine::Progress(line) = line { notes.status(&vertex, &line) },
                    }
                }
            });
            notes.end(&vertex, false, pushed.as_ref().err().map(|error| types::error::chain(error)));
            pushed?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn read(kind: &str, options: &[(&str, &str)], is_trusted: bool) -> Result<Place> {
        let options: BTreeMap<String, String> = options.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        place(&Build { is_trusted, ..Build::default() }, &Output { kind: kind.to_owned(), options })
    }

    #[test]
    fn outputs_are_read_or_refused() {
        assert_eq!(read("local", &[("dest", "/x")], true).ok(), Some(Place::Local("/x".into())));
        assert!(read("local", &[("dest", "/x")], false).is_err() && read("local", &[("dest", "x")], true).is_err());
        assert!(read("oci", &[("dest", "/x"), ("compression", "zstd")], true).is_err());
        assert_eq!(read("docker", &[("dest", "/x")], true).ok(), Some(Place::Archive("/x".into(), Vec::new())));
        assert!(matches!(read("registry", &[("name", "a/b:1,c/d")], false), Ok(Place::Image { names, push: true }) if names.len() == 2));
        assert!(matches!(read("image", &[], false), Ok(Place::Image { push: false, .. })));
        assert!(read("image", &[("what", "x")], false).is_err() && read("what", &[], true).is_err());
        assert_eq!(read("cacheonly", &[], false).ok(), Some(Place::Nowhere));
    }
}

//! The files of containers: looked at, copied both ways, exported, compared with the image, made into an image.
//!
//! Docker ran programs and loaded libraries inside a container's root for this, and looked at paths before it used them. Here nothing of a container is executed or
//! loaded (archives are read and decompressed by libraries in the engine), and a path is resolved once, inside of the root, to the descriptor that is used.

mod commit;
mod view;

use std::fs::File;
use std::io::{self, BufReader, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use jiff::Timestamp;
use rustix::fs::{self, FileType, Mode, OFlags, Stat, StatVfsMountFlags};
use store::PathChange;
use store::archive::compression::decompress;
use tarball::{Owner, Packer, Plain, Target, Unpack, unpack};
use tokio::sync::mpsc;

use crate::container::{Container, Record};
use crate::image::Body;
use crate::image::stream::{BodyReader, BodyWriter, PIECES_WAITING_MAX};
use crate::request::{PathStat, PutArchive};
use crate::{Engine, Error};
use view::{Place, View};

const BUFFER_LEN: usize = 128 << 10;
const READ_DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

impl Engine {
    /// What is at a path of a container; a link at its end is not followed.
    pub async fn stat_path(self: &Arc<Self>, name: &str, path: &str) -> Result<PathStat, Error> {
        let container = self.find(name)?;
        let (name, path) = (name.to_owned(), path.to_owned());
        self.with_view(&container, move |view, _| {
            let place = view.place(&name, &path)?;
            view.describe(&place)
        })
        .await
    }

    /// What is at a path of a container, as an archive whose entries begin with the path's last component.
    pub async fn get_archive(self: &Arc<Self>, name: &str, path: &str) -> Result<(PathStat, Body), Error> {
        let container = self.find(name)?;
        let (asked, wanted) = (name.to_owned(), path.to_owned());
        let opened = self.with_view(&container, move |view, _| {
            let place = view.place(&asked, &wanted)?;
            Ok((view.describe(&place)?, place, view))
        });
        let (stat, place, view) = opened.await?;
        self.tell(&container, "archive-path", path);
        let body = streamed(container.record().name.clone(), move |name, output| {
            // The mounts go with the view.
            let _view = view;
            pack(&place, output).map_err(|source| Error::Files { operation: "pack files", name, source })
        });
        Ok((stat, body))
    }

    /// Unpacks an archive, compressed in any of the known ways or not, into a directory of a container.
    pub async fn put_archive(self: &Arc<Self>, name: &str, path: &str, how: PutArchive, input: Body) -> Result<(), Error> {
        let container = self.find(name)?;
        let (asked, wanted) = (name.to_owned(), path.to_owned());
        let mut input: Box<dyn Read + Send> = Box::new(BodyReader::new(input));
        let record = container.record();
        if record.id_range.is_some() && record.is_alive() {
            // The engine is nobody among the mapped ids, and the kernel lets nobody make files there.
            let field = format!("copying into {}, which runs in a user namespace of its own (stop it first),", record.name);
            return Err(Error::NotServed { field });
        }
        if !container.record().is_alive() {
            // A client that sends slowly must not keep the container from its start.
            let folder = self.layout.container(&container.id);
            input = Box::new(tokio::task::spawn_blocking(move || spooled(input, &folder)).await??);
        }
        // The view of a stopped container must not meet the mount of its start.
        self.with_view(&container, move |view, record| {
            let (directory, at) = view.directory(&asked, &wanted)?;
            check_writable(&view, &directory, &record.host)?;
            let owner = owner(&view, &record, how)?;
            let root = view.root().try_clone_to_owned().map_err(|source| Error::Reach { path: "/".to_owned(), name: asked, source })?;
            let target = Target { directory, root: Some((root, at)) };
            let failed = |source| Error::Files { operation: "unpack the archive into files", name: record.name.clone(), source };
            let plain = decompress(&mut input).map_err(|error| failed(tarball::Error::Parse(tarball::ParseError::Read(error))))?;
            let plain = BufReader::with_capacity(BUFFER_LEN, plain);
            let how = Unpack { owner, keep_kinds: how.keep_kinds, rename: &|path| Some(path.to_vec()) };
            unpack(plain, &target, &how).map_err(failed)
        })
        .await?;
        self.tell(&container, "extract-to-dir", path);
        Ok(())
    }

    /// A container's whole root as an archive, its mounts left out.
    pub async fn export_container(self: &Arc<Self>, name: &str) -> Result<Body, Error> {
        let container = self.find(name)?;
        let (store, id) = (self.store.clone(), container.id.clone());
        store.snapshot(id.as_str()).map_err(|source| Error::Store { operation: "find the container's files", source })?;
        self.tell(&container, "export", "");
        Ok(streamed(container.record().name.clone(), move |_, mut output| {
            store.export(id.as_str(), &mut output).map_err(|source| Error::Store { operation: "export the container's files", source })
        }))
    }

    /// What a container has changed of its image.
    pub async fn container_changes(self: &Arc<Self>, name: &str) -> Result<Vec<PathChange>, Error> {
        let container = self.find(name)?;
        let (store, id) = (self.store.clone(), container.id.clone());
        let changes = tokio::task::spawn_blocking(move || store.changes(id.as_str())).await?;
        changes.map_err(|source| Error::Store { operation: "compare the container's files with its image", source })
    }

    /// Runs `work` on a blocking thread with the container's files as it would see them. A stopped container is not started meanwhile.
    async fn with_view<T: Send + 'static>(
        self: &Arc<Self>,
        container: &Arc<Container>,
        work: impl FnOnce(View, Arc<Record>) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let engine = self.clone();
        let container = container.clone();
        // To its end even when the client goes: the lock is held as long as the files are used.
        let done = tokio::spawn(async move {
            let mut operation = Some(container.operation.lock().await);
            let record = container.record();
            if record.is_alive() {
                // A running one is not kept from being stopped.
                operation = None;
            }
            let done = tokio::task::spawn_blocking(move || work(View::open(&engine, &record)?, record)).await?;
            drop(operation);
            done
        });
        done.await?
    }

    fn tell(&self, container: &Container, action: &'static str, path: &str) {
        let record = container.record();
        let mut attributes = record.attributes();
        if !path.is_empty() {
            attributes.insert("path".to_owned(), path.to_owned());
        }
        self.events.publish("container", action, record.id.as_str(), attributes);
    }
}

/// Runs `write` on a blocking thread; what it writes is the body, and its failure the body's.
fn streamed(name: String, write: impl FnOnce(String, &mut dyn Write) -> Result<(), Error> + Send + 'static) -> Body {
    let (sender, body) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::task::spawn_blocking(move || {
        let mut writer = BodyWriter::new(sender.clone());
        let written = write(name, &mut writer).map_err(|error| io::Error::other(types::error::chain(&error)));
        if let Err(error) = written.and_then(|()| writer.flush()) {
            tracing::debug!(%error, "an archive of files was not written to its end");
            // Nobody is there to be told if the client has gone.
            let _ = sender.blocking_send(Err(error));
        }
    });
    body
}

/// The whole of an upload in a file without a name.
fn spooled(mut input: impl Read, folder: &std::path::Path) -> Result<File, Error> {
    let failed = |source| Error::File { operation: "keep the archive in", path: folder.to_owned(), source };
    let fd = fs::open(folder, OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC, Mode::RUSR | Mode::WUSR)
        .map_err(|error| failed(error.into()))?;
    let mut file = File::from(fd);
    io::copy(&mut input, &mut file).and_then(|_| file.rewind()).map_err(failed)?;
    Ok(file)
}

fn pack(place: &Place, output: &mut dyn Write) -> Result<(), tarball::Error> {
    let mut packer = Packer::new(output, &|_, _| false);
    match &place.content {
        Some(directory) => packer.directory(&Plain, directory, &place.entry_name)?,
        None => packer.node(place.node.as_fd(), &place.entry_name)?,
    }
    packer.finish().map(drop)
}

/// The kernel refuses each write in a read-only mount; this tells it before, in Docker's words.
fn check_writable(view: &View, directory: &OwnedFd, host: &types::container::HostConfig) -> Result<(), Error> {
    let read_only = fs::fstatvfs(directory).is_ok_and(|stat| stat.f_flag.contains(StatVfsMountFlags::RDONLY));
    match (read_only, host.readonly_rootfs && view.is_root_mount(directory)) {
        (_, true) => Err(Error::ReadOnlyRoot),
        (true, false) => Err(Error::ReadOnlyMount),
        (false, false) => Ok(()),
    }
}

fn owner(view: &View, record: &Record, how: PutArchive) -> Result<Owner, Error> {
    if !how.own_by_user || record.config.user.is_empty() {
        return Ok(Owner::Archive);
    }
    let user = runtime::user::resolve(view.root(), &record.config.user, &[])
        .map_err(|source| Error::MountFiles { name: record.name.clone(), source })?;
    Ok(Owner::Fixed(user.uid, user.gid))
}

/// A file's attributes under the name asked for.
fn described(name: &[u8], stat: &Stat, link_target: String) -> PathStat {
    PathStat {
        name: String::from_utf8_lossy(name).into_owned(),
        size: stat.st_size,
        mode: stat.st_mode,
        modified: Timestamp::new(stat.st_mtime, i32::try_from(stat.st_mtime_nsec).unwrap_or(0)).unwrap_or_default(),
        link_target,
    }
}

/// A directory behind a descriptor, for reading.
fn read_directory(node: &OwnedFd, stat: &Stat) -> Option<rustix::io::Result<OwnedFd>> {
    let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    is_directory.then(|| fs::openat(node, ".", READ_DIRECTORY, Mode::empty()))
}

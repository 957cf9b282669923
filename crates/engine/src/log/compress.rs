//! Rotated files of a log, compressed.

use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use rustix::fs::{FlockOperation, Mode, OFlags, Timespec, Timestamps};

use super::rotated;

/// What a compressed file may become: an hour of a container that writes as fast as it can.
const INFLATED_BYTES_MAX: u64 = 64 << 30;

/// The name of a file once it is compressed.
pub(super) fn name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".gz");
    name.into()
}

/// Compresses every rotated file of a log that is not compressed yet. Blocks.
pub(super) fn compress_all(log: &Path, files: u32) {
    for number in 1..files {
        match compress(log, number) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => tracing::warn!(%error, log = %log.display(), "a rotated log could not be compressed"),
        }
    }
}

/// Puts a compressed file in the place of the rotated one of this number, or of the number that it has by then.
pub(super) fn compress(log: &Path, number: u32) -> io::Result<()> {
    let source = File::open(rotated(log, number))?;
    let meta = source.metadata()?;
    let folder_path = log.parent().unwrap_or(Path::new("/"));
    let staged = folder_path.join(format!(".{}.{}.gz", meta.ino(), std::process::id()));
    let written = (|| {
        let mut encoder = GzEncoder::new(File::create(&staged)?, Compression::fast());
        io::copy(&mut &source, &mut encoder)?;
        let mut file = encoder.finish()?;
        file.flush()?;
        // Followers tell by the time which files are younger than the one that they have read.
        let moment = Timespec { tv_sec: meta.mtime(), tv_nsec: meta.mtime_nsec() as _ };
        rustix::fs::futimens(&file, &Timestamps { last_access: moment, last_modification: moment })?;
        Ok::<_, io::Error>(())
    })();
    let folder = File::open(folder_path)?;
    // The monitor rotates only while it has this: numbers stay while the file takes its place.
    rustix::fs::flock(&folder, FlockOperation::LockExclusive)?;
    let found =
        (number..=number + 1000).map(|number| rotated(log, number)).find(|path| path.metadata().is_ok_and(|now| now.ino() == meta.ino()));
    let placed = written.and_then(|()| match found {
        Some(path) => std::fs::rename(&staged, name(&path)).and_then(|()| std::fs::remove_file(path)),
        // Rotated away meanwhile.
        None => std::fs::remove_file(&staged),
    });
    if placed.is_err() {
        let _ = std::fs::remove_file(&staged);
    }
    placed
}

/// What a compressed file holds, in a file without a name.
pub(super) fn inflated(file: File, folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let mut plain = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
    io::copy(&mut io::Read::take(GzDecoder::new(io::BufReader::new(file)), INFLATED_BYTES_MAX), &mut plain)?;
    plain.rewind()?;
    Ok(plain)
}

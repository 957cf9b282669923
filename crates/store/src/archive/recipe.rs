//! Giving back the exact archive that a layer was unpacked from, without keeping it.
//!
//! Beside a layer's files lies its recipe: every byte of the archive that is not the content of a regular file (headers, padding, the end), and between them references
//! to the files whose content belongs there. Rebuilding copies both in turn; whoever does it compares the digest with the layer's diffID, so a changed file is noticed.
//!
//! `recipe` is a zstd stream: the letters `cais-recipe-1\n`, then records. Numbers are LEB128.
//!
//! - `R` length bytes: archive bytes as they are;
//! - `F` length path-length path: that many bytes of the file at that path below `fs/`.
//!
//! Content that is in no file of its own is among the `R` bytes: sparse files, and entries that leave no file. A file that a later entry of the same archive replaced
//! is kept in `spare/<n>`, and `moved.json` tells which references mean it: those to `path`, or below it, before the reference numbered `before`.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use types::Digest;

use crate::{Error, Result};

const MAGIC: &[u8] = b"cais-recipe-1\n";
const RAW: u8 = b'R';
const CONTENT: u8 = b'F';
const LEVEL: i32 = 1;
const PATH_LEN_MAX: u64 = 1 << 20;
const BUFFER_LEN: usize = 256 << 10;
/// The recipe's file in a layer's directory.
pub(crate) const RECIPE: &str = "recipe";
/// The list of replaced files there.
pub(crate) const MOVED: &str = "moved.json";
/// The replaced files themselves.
pub(crate) const SPARE: &str = "spare";

/// Something that a later entry of the same archive replaced.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Moved {
    /// Where it was.
    pub path: Vec<u8>,
    /// References with a smaller number mean it.
    pub before: u64,
    /// Its name below `spare/`.
    pub spare: u64,
}

/// Writes a recipe while its archive is unpacked.
pub(crate) struct RecipeWriter {
    output: zstd::Encoder<'static, BufWriter<File>>,
    references: u64,
}

impl RecipeWriter {
    pub fn create(path: &Path) -> Result<Self> {
        let fail = |error| Error::io("write", path, error);
        let file = File::create_new(path).map_err(fail)?;
        let mut output = zstd::Encoder::new(BufWriter::new(file), LEVEL).map_err(fail)?;
        output.write_all(MAGIC).map_err(fail)?;
        Ok(Self { output, references: 0 })
    }

    /// How many references were written.
    pub fn references(&self) -> u64 {
        self.references
    }

    /// Takes archive bytes.
    pub fn raw(&mut self, bytes: &mut Vec<u8>) -> io::Result<()> {
        if !bytes.is_empty() {
            self.output.write_all(&[RAW])?;
            self.number(bytes.len() as u64)?;
            self.output.write_all(bytes)?;
            bytes.clear();
        }
        Ok(())
    }

    /// Refers to a file's content.
    pub fn content(&mut self, path: &[u8], len: u64) -> io::Result<()> {
        self.references += 1;
        self.output.write_all(&[CONTENT])?;
        self.number(len)?;
        self.number(path.len() as u64)?;
        self.output.write_all(path)
    }

    pub fn finish(self) -> io::Result<()> {
        self.output.finish()?.into_inner().map_err(|error| error.into_error())?;
        Ok(())
    }

    fn number(&mut self, mut value: u64) -> io::Result<()> {
        let mut bytes = Vec::with_capacity(10);
        loop {
            let low = (value & 0x7f) as u8;
            value >>= 7;
            if value == 0 {
                bytes.push(low);
                return self.output.write_all(&bytes);
            }
            bytes.push(low | 0x80);
        }
    }
}

/// Writes the archive of the layer in `directory` (which holds `fs/` and `recipe`) and answers its digest, for the caller to compare, and its length.
pub fn rebuild(directory: &Path, output: &mut dyn Write) -> Result<(Digest, u64)> {
    let path = directory.join(RECIPE);
    let fail = |source| Error::io("rebuild an archive from", &path, source);
    let file = File::open(&path).map_err(fail)?;
    let mut recipe = BufReader::new(zstd::Decoder::new(file).map_err(fail)?);
    let mut magic = [0; MAGIC.len()];
    recipe.read_exact(&mut magic).map_err(fail)?;
    if magic != MAGIC {
        return Err(fail(io::Error::new(io::ErrorKind::InvalidData, "this is no recipe")));
    }
    let mut rebuild = Rebuild { directory, moved: moved(directory)?, output, hash: Sha256::new(), len: 0, buffer: vec![0; BUFFER_LEN] };
    let mut reference = 0;
    loop {
        let mut letter = [0];
        if recipe.read(&mut letter).map_err(fail)? == 0 {
            break;
        }
        let len = number(&mut recipe).map_err(fail)?;
        match letter[0] {
            RAW => rebuild.copy(&mut recipe, len).map_err(fail)?,
            CONTENT => {
                let path_len = number(&mut recipe).map_err(fail)?.min(PATH_LEN_MAX);
                let mut path = vec![0; usize::try_from(path_len).unwrap_or(0)];
                recipe.read_exact(&mut path).map_err(fail)?;
                rebuild.file(&path, reference, len)?;
                reference += 1;
            }
            _ => return Err(fail(io::Error::new(io::ErrorKind::InvalidData, "an unknown record"))),
        }
    }
    Ok((Digest::from_sha256(rebuild.hash.finalize().into()), rebuild.len))
}

struct Rebuild<'a> {
    directory: &'a Path,
    moved: Vec<Moved>,
    output: &'a mut dyn Write,
    hash: Sha256,
    len: u64,
    buffer: Vec<u8>,
}

impl Rebuild<'_> {
    fn file(&mut self, path: &[u8], reference: u64, len: u64) -> Result<()> {
        let below = |moved: &Moved| match path.strip_prefix(moved.path.as_slice()) {
            Some(rest) => rest.is_empty() || rest.starts_with(b"/"),
            None => false,
        };
        let place = match self.moved.iter().find(|moved| reference < moved.before && below(moved)) {
            Some(moved) => [format!("{SPARE}/{}", moved.spare).as_bytes(), &path[moved.path.len()..]].concat(),
            None => [b"fs/", path].concat(),
        };
        let shown = self.directory.join(std::ffi::OsStr::from_bytes(&place));
        let fail = |error: io::Error| Error::io("read", &shown, error);
        let root = File::open(self.directory).map_err(fail)?;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
        let file = rustix::fs::openat2(&root, place.as_slice(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty(), resolve);
        let mut file = File::from(file.map_err(|error| fail(error.into()))?);
        self.copy(&mut file, len).map_err(fail)
    }

    fn copy(&mut self, input: &mut dyn Read, mut len: u64) -> io::Result<()> {
        while len > 0 {
            let part = self.buffer.len().min(usize::try_from(len).unwrap_or(usize::MAX));
            input.read_exact(&mut self.buffer[..part])?;
            self.hash.update(&self.buffer[..part]);
            self.output.write_all(&self.buffer[..part])?;
            len -= part as u64;
            self.len += part as u64;
        }
        Ok(())
    }
}

fn moved(directory: &Path) -> Result<Vec<Moved>> {
    let path = directory.join(MOVED);
    match std::fs::read(&path) {
        Ok(text) => serde_json::from_slice(&text).map_err(|error| Error::io("read", &path, error)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(Error::io("read", &path, error)),
    }
}

fn number(input: &mut dyn Read) -> io::Result<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let mut byte = [0];
        input.read_exact(&mut byte)?;
        value |= u64::from(byte[0] & 0x7f) << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "a number is too long"))
}

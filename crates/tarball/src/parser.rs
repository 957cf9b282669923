//! A tar archive as a sequence of entries, and every byte between the files' contents.

use std::io::{self, BufRead, Read};

use super::header::{self, BLOCK, Header};
use super::sparse::Sparse;

/// Extended headers and long names are at most this long.
const EXTENDED_LEN_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// One more name of an earlier file.
    HardLink,
    /// A symbolic link.
    Symlink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A directory.
    Directory,
    /// A named pipe.
    Fifo,
}

/// One entry, extended headers applied.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What it is.
    pub kind: Kind,
    /// Its name, as the archive has it.
    pub path: Vec<u8>,
    /// What a link leads to.
    pub link: Vec<u8>,
    /// Bytes of content in the archive.
    pub stored: u64,
    /// Of a sparse file: where they belong.
    pub sparse: Option<Sparse>,
    /// Permission bits.
    pub mode: u32,
    /// The owner.
    pub uid: u32,
    /// The owning group.
    pub gid: u32,
    /// Seconds and nanoseconds since 1970.
    pub mtime: (i64, u32),
    /// Major and minor number of a device.
    pub device: (u32, u32),
    /// Extended attributes: names and values.
    pub xattrs: Xattrs,
}

/// Names and values of extended attributes.
pub type Xattrs = Vec<(Vec<u8>, Vec<u8>)>;

impl Entry {
    /// The length of the file.
    pub fn content_len(&self) -> u64 {
        self.sparse.as_ref().map_or(self.stored, |sparse| sparse.len)
    }
}

/// Why an archive can't be read on.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    #[error("read the archive")]
    /// The input failed.
    Read(#[source] io::Error),
    #[error("the archive ends in the middle of {0}")]
    /// The input ended too early.
    Truncated(&'static str),
    #[error("{0}")]
    /// It is no tar archive, or not a right one.
    Malformed(String),
}

impl ParseError {
    /// Whether the bytes are wrong, rather than too few.
    pub fn is_malformed(&self) -> bool {
        matches!(self, Self::Malformed(_))
    }
}

impl From<String> for ParseError {
    fn from(reason: String) -> Self {
        Self::Malformed(reason)
    }
}

type Parsed<T> = Result<T, ParseError>;

/// What extended headers say about the next entry.
#[derive(Default)]
struct Extended {
    path: Option<Vec<u8>>,
    /// The real name of a sparse file; `path` is then a substitute for programs that know nothing of it.
    sparse_name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse_major: Option<u64>,
    sparse_len: Option<u64>,
    sparse_pairs: Vec<Vec<u8>>,
    is_sparse: bool,
}

/// The parser. After an entry with content its content is read with [`Parser::content`] and [`Parser::consume`], or not at all.
pub struct Parser<R> {
    input: R,
    /// Content of the current entry that has not been read.
    left: u64,
    /// The padding after it.
    padding: usize,
    /// Whether content goes to `aside` too, because it can't be taken from a file again.
    keep_content: bool,
    /// Everything read that is not content, since it was taken last.
    aside: Vec<u8>,
}

impl<R: BufRead> Parser<R> {
    /// Nothing is read yet.
    pub fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0, keep_content: false, aside: Vec::new() }
    }

    /// The bytes that belong before whatever comes next.
    pub fn aside(&mut self) -> &mut Vec<u8> {
        &mut self.aside
    }

    /// The next entry; `None` at the end of the archive, after which [`Parser::finish`] reads on to the end of the input.
    pub fn next_entry(&mut self) -> Parsed<Option<Entry>> {
        self.keep_content = true;
        self.skip_content()?;
        let mut extended = Extended::default();
        let mut between = false;
        loop {
            let Some(block) = self.block(between)? else {
                return Ok(None);
            };
            let header = Header(&block);
            if header.is_zero() {
                return match (between, self.block(false)?) {
                    (false, None) => Ok(None),
                    (false, Some(second)) if Header(&second).is_zero() => Ok(None),
                    (true, _) => Err(ParseError::Truncated("an entry's headers")),
                    (false, Some(_)) => Err("a lone block of zeros is followed by more".to_owned().into()),
                };
            }
            if !header.checksum_fits() {
                return Err("this is no tar archive, or a header is damaged (checksum)".to_owned().into());
            }
            match header.kind() {
                // What holds for the whole archive (git writes its commit so) is not applied, as Docker does not.
                b'g' => {
                    self.special(&header)?;
                    continue;
                }
                b'V' => {
                    self.special(&header)?;
                    continue;
                }
                b'x' | b'X' => {
                    let body = self.special(&header)?;
                    extended.add_pax(&body)?;
                }
                b'L' => {
                    let body = self.special(&header)?;
                    extended.path = Some(header::text(&body).to_vec());
                }
                b'K' => {
                    let body = self.special(&header)?;
                    extended.link = Some(header::text(&body).to_vec());
                }
                _ => return self.entry(&block, extended).map(Some),
            }
            between = true;
        }
    }

    /// The next part of the current entry's content, empty at its end.
    pub fn content(&mut self) -> Parsed<&[u8]> {
        if self.left == 0 {
            return Ok(&[]);
        }
        let chunk = self.input.fill_buf().map_err(ParseError::Read)?;
        if chunk.is_empty() {
            return Err(ParseError::Truncated("a file"));
        }
        let len = chunk.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        Ok(&chunk[..len])
    }

    /// Takes bytes off the content that [`Parser::content`] answered last.
    pub fn consume(&mut self, len: usize) {
        if self.keep_content
            && let Ok(chunk) = self.input.fill_buf()
        {
            self.aside.extend_from_slice(&chunk[..len]);
        }
        self.input.consume(len);
        self.left -= len as u64;
    }

    /// Reads what follows the end of the archive, all of it aside. `flush` is called now and then to take the bytes away.
    pub fn finish<E: From<ParseError>>(&mut self, mut flush: impl FnMut(&mut Vec<u8>) -> Result<(), E>) -> Result<(), E> {
        loop {
            let chunk = self.input.fill_buf().map_err(ParseError::Read)?;
            if chunk.is_empty() {
                return Ok(());
            }
            let len = chunk.len();
            self.aside.extend_from_slice(chunk);
            self.input.consume(len);
            flush(&mut self.aside)?;
        }
    }

    fn skip_content(&mut self) -> Parsed<()> {
        loop {
            let len = self.content()?.len();
            if len == 0 {
                break;
            }
            self.consume(len);
        }
        let padding = self.padding;
        self.padding = 0;
        let mut block = [0; BLOCK];
        self.exact(&mut block[..padding], "a file")?;
        self.aside.extend_from_slice(&block[..padding]);
        Ok(())
    }

    /// A block, or `None` where the input ends (which is an error inside of an entry).
    fn block(&mut self, inside: bool) -> Parsed<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        if !inside && self.input.fill_buf().map_err(ParseError::Read)?.is_empty() {
            return Ok(None);
        }
        self.exact(&mut block, "a header")?;
        self.aside.extend_from_slice(&block);
        Ok(Some(block))
    }

    fn exact(&mut self, bytes: &mut [u8], what: &'static str) -> Parsed<()> {
        self.input.read_exact(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => ParseError::Truncated(what),
            _ => ParseError::Read(error),
        })
    }

    /// The body of an extended header.
    fn special(&mut self, header: &Header<'_>) -> Parsed<Vec<u8>> {
        let size = header.size()?;
        let size =
            u64::try_from(size).ok().filter(|&size| size <= EXTENDED_LEN_MAX).ok_or_else(|| "an extended header is too long".to_owned())?;
        let padded = size.next_multiple_of(BLOCK as u64);
        let mut body = Vec::new();
        (&mut self.input).take(padded).read_to_end(&mut body).map_err(ParseError::Read)?;
        if body.len() as u64 != padded {
            return Err(ParseError::Truncated("an extended header"));
        }
        self.aside.extend_from_slice(&body);
        body.truncate(usize::try_from(size).unwrap_or(usize::MAX));
        Ok(body)
    }

    fn entry(&mut self, block: &[u8; BLOCK], extended: Extended) -> Parsed<Entry> {
        let header = Header(block);
        let path = extended.sparse_name.clone().or_else(|| extended.path.clone()).unwrap_or_else(|| header.path().into_owned());
        let kind = kind(header.kind(), &path)?;
        let has_content = kind == Kind::File;
        let mut stored = match extended.size {
            Some(size) => size,
            None => u64::try_from(header.size()?).map_err(|_| "an entry has a negative size".to_owned())?,
        };
        if i64::try_from(stored).is_err() {
            return Err("an entry's size is out of range".to_owned().into());
        }
        if !has_content {
            stored = 0;
        }
        let (sparse, stored) = match has_content {
            true => self.sparse(block, &extended, stored)?,
            false => (None, stored),
        };
        self.left = stored;
        self.padding = usize::try_from(stored.next_multiple_of(BLOCK as u64) - stored).unwrap_or(0);
        self.keep_content = sparse.is_some();
        let device = header.device()?;
        Ok(Entry {
            kind,
            path,
            link: extended.link.unwrap_or_else(|| header.link().to_vec()),
            stored,
            sparse,
            mode: u32::try_from(header.mode()? & 0o7777).unwrap_or(0),
            uid: owner(extended.uid, header.uid()?, "user")?,
            gid: owner(extended.gid, header.gid()?, "group")?,
            mtime: match extended.mtime {
                Some(mtime) => mtime,
                None => (header.mtime()?, 0),
            },
            device: (number32(device.0, "device")?, number32(device.1, "device")?),
            xattrs: extended.xattrs,
        })
    }

    /// The map of a sparse file in any of the four formats, and how much content is left after it.
    fn sparse(&mut self, block: &[u8; BLOCK], extended: &Extended, stored: u64) -> Parsed<(Option<Sparse>, u64)> {
        if block[156] == b'S' {
            let (mut sparse, mut more) = Sparse::from_gnu_header(block)?;
            while more {
                let next = self.block(true)?.ok_or(ParseError::Truncated("a header"))?;
                more = sparse.add_gnu_block(&next)?;
            }
            return Ok((Some(sparse.checked(stored)?), stored));
        }
        if !extended.is_sparse {
            return Ok((None, stored));
        }
        let len = extended.sparse_len.ok_or_else(|| "a sparse file does not tell its length".to_owned())?;
        if extended.sparse_major != Some(1) {
            let sparse = Sparse::from_pairs(extended.sparse_pairs.iter().map(Vec::as_slice), len)?;
            return Ok((Some(sparse.checked(stored)?), stored));
        }
        let (sparse, taken) = Sparse::from_data(len, || self.block(true)?.ok_or(ParseError::Truncated("a header")))?;
        let stored = stored.checked_sub(taken).ok_or_else(|| "the map of a sparse file is longer than the entry".to_owned())?;
        Ok((Some(sparse.checked(stored)?), stored))
    }
}

impl Extended {
    fn add_pax(&mut self, body: &[u8]) -> Parsed<()> {
        for (key, value) in header::pax_records(body)? {
            self.add_record(key, value)?;
        }
        Ok(())
    }

    fn add_record(&mut self, key: &[u8], value: &[u8]) -> Parsed<()> {
        let number =
            || header::decimal(value).ok_or_else(|| ParseError::Malformed(format!("PAX: {} is no number", String::from_utf8_lossy(key))));
        // An empty value takes a record back.
        if value.is_empty() && !key.starts_with(b"SCHILY.xattr.") {
            return Ok(());
        }
        match key {
            b"path" => self.path = Some(value.to_vec()),
            b"linkpath" => self.link = Some(value.to_vec()),
            b"size" => self.size = Some(number()?),
            b"uid" => self.uid = Some(number()?),
            b"gid" => self.gid = Some(number()?),
            b"mtime" => self.mtime = Some(header::seconds(value).ok_or_else(|| "PAX: mtime is no time".to_owned())?),
            b"GNU.sparse.name" => self.sparse_name = Some(value.to_vec()),
            b"GNU.sparse.major" => (self.is_sparse, self.sparse_major) = (true, Some(number()?)),
            b"GNU.sparse.minor" | b"GNU.sparse.numblocks" => self.is_sparse = true,
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse_len = Some(number()?),
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                self.is_sparse = true;
                self.sparse_pairs.push(value.to_vec());
            }
            b"GNU.sparse.map" => {
                self.is_sparse = true;
                self.sparse_pairs = value.split(|&byte| byte == b',').map(<[u8]>::to_vec).collect();
            }
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    self.xattrs.retain(|(held, _)| held != name);
                    self.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    }
}

fn kind(letter: u8, path: &[u8]) -> Parsed<Kind> {
    Ok(match letter {
        // Archives older than POSIX mark a directory by the end of its name only.
        0 if path.ends_with(b"/") => Kind::Directory,
        b'0' | 0 | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        other => {
            return Err(ParseError::Malformed(format!(
                "{}: entries of type {:?} are not supported",
                String::from_utf8_lossy(path),
                char::from(other)
            )));
        }
    })
}

fn owner(extended: Option<u64>, plain: i64, what: &str) -> Parsed<u32> {
    let id = match extended {
        Some(id) => u32::try_from(id).ok(),
        None => u32::try_from(plain).ok(),
    };
    // The last number means "no change" to the kernel.
    id.filter(|&id| id != u32::MAX).ok_or_else(|| ParseError::Malformed(format!("an entry's {what} id is out of range")))
}

fn number32(value: i64, what: &str) -> Parsed<u32> {
    u32::try_from(value).map_err(|_| ParseError::Malformed(format!("an entry's {what} number is out of range")))
}

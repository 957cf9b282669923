//! Writing entries: POSIX headers, with PAX records for what does not fit into them.

use std::io::{self, Read, Write};

use crate::header::BLOCK;
use crate::{Entry, Error, Kind};

/// Names and links of this length fit into a header.
const NAME_LEN_MAX: usize = 100;
/// The largest numbers of seven and of eleven octal digits.
const OCTAL7_MAX: u64 = 0o7_777_777;
const OCTAL11_MAX: u64 = 0o77_777_777_777;
const COPY_LEN: usize = 128 << 10;

/// Is told of each file's content just before it is written: the file's path and how many bytes follow.
pub type Tap<'t> = Box<dyn FnMut(&[u8], u64) + 't>;

/// Writes an archive entry by entry.
pub struct Writer<'t, W> {
    output: W,
    buffer: Vec<u8>,
    tap: Option<Tap<'t>>,
}

impl<'t, W: Write> Writer<'t, W> {
    /// Nothing is written yet.
    pub fn new(output: W) -> Self {
        Self { output, buffer: Vec::new(), tap: None }
    }

    /// The same, with somebody who is told where the contents of files are.
    pub fn tapped(output: W, tap: Tap<'t>) -> Self {
        Self { output, buffer: Vec::new(), tap: Some(tap) }
    }

    /// Writes an entry and, for a file, the `entry.stored` bytes of its content. What `content` has too few of is filled with zeros, so that a file that shrinks
    /// while it is read does not spoil the archive.
    pub fn append(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        let records = records(entry);
        if !records.is_empty() {
            let name = [b"PaxHeaders.0/", last_component(&entry.path)].concat();
            let extended =
                Plain { name: &name, link: b"", kind: b'x', mode: 0, uid: 0, gid: 0, mtime: 0, size: records.len() as u64, device: None };
            self.put(&extended.block())?;
            self.put(&records)?;
            self.pad(records.len() as u64)?;
        }
        let has_device = matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice);
        let plain = Plain {
            name: &entry.path,
            link: &entry.link,
            kind: letter(entry.kind),
            mode: entry.mode & 0o7777,
            uid: fitting(entry.uid.into(), OCTAL7_MAX),
            gid: fitting(entry.gid.into(), OCTAL7_MAX),
            mtime: u64::try_from(entry.mtime.0).map_or(0, |time| fitting(time, OCTAL11_MAX)),
            size: fitting(entry.stored, OCTAL11_MAX),
            device: has_device.then_some(entry.device),
        };
        self.put(&plain.block())?;
        self.content(entry, content)
    }

    /// Writes the end of the archive, and answers what it was written to.
    pub fn finish(mut self) -> Result<W, Error> {
        self.put(&[0; 2 * BLOCK])?;
        self.output.flush().map_err(Error::Write)?;
        Ok(self.output)
    }

    fn content(&mut self, entry: &Entry, content: &mut dyn Read) -> Result<(), Error> {
        let mut left = entry.stored;
        if left > 0
            && let Some(tap) = &mut self.tap
        {
            tap(&entry.path, left);
        }
        self.buffer.resize(COPY_LEN, 0);
        while left > 0 {
            let wanted = COPY_LEN.min(usize::try_from(left).unwrap_or(COPY_LEN));
            let count = match content.read(&mut self.buffer[..wanted]) {
                Ok(0) => {
                    self.buffer[..wanted].fill(0);
                    wanted
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(Error::io("read", &entry.path, error)),
            };
            self.output.write_all(&self.buffer[..count]).map_err(Error::Write)?;
            left -= count as u64;
        }
        self.pad(entry.stored)
    }

    fn pad(&mut self, len: u64) -> Result<(), Error> {
        let padding = usize::try_from(len.next_multiple_of(BLOCK as u64) - len).unwrap_or(0);
        self.put(&[0; BLOCK][..padding])
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.output.write_all(bytes).map_err(Error::Write)
    }
}

/// The fields of a header block.
struct Plain<'a> {
    name: &'a [u8],
    link: &'a [u8],
    kind: u8,
    mode: u32,
    uid: u64,
    gid: u64,
    mtime: u64,
    size: u64,
    device: Option<(u32, u32)>,
}

impl Plain<'_> {
    fn block(&self) -> [u8; BLOCK] {
        let mut block = [0u8; BLOCK];
        for (at, text) in [(0, self.name), (157, self.link)] {
            let len = text.len().min(NAME_LEN_MAX);
            block[at..at + len].copy_from_slice(&text[..len]);
        }
        let (major, minor) = self.device.unwrap_or_default();
        for (at, value) in [(100, self.mode.into()), (108, self.uid), (116, self.gid), (329, major.into()), (337, minor.into())] {
            block[at..at + 7].copy_from_slice(format!("{:07o}", fitting(value, OCTAL7_MAX)).as_bytes());
        }
        for (at, value) in [(124, self.size), (136, self.mtime)] {
            block[at..at + 11].copy_from_slice(format!("{value:011o}").as_bytes());
        }
        block[148..156].copy_from_slice(b"        ");
        block[156] = self.kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        block
    }
}

/// What the header block has no room for.
fn records(entry: &Entry) -> Vec<u8> {
    let mut body = Vec::new();
    for (key, text) in [(&b"path"[..], &entry.path), (b"linkpath", &entry.link)] {
        if text.len() > NAME_LEN_MAX || !text.is_ascii() {
            record(&mut body, key, text);
        }
    }
    for (key, value, max) in
        [(&b"uid"[..], u64::from(entry.uid), OCTAL7_MAX), (b"gid", entry.gid.into(), OCTAL7_MAX), (b"size", entry.stored, OCTAL11_MAX)]
    {
        if value > max {
            record(&mut body, key, value.to_string().as_bytes());
        }
    }
    if entry.mtime.0 < 0 || entry.mtime.0.unsigned_abs() > OCTAL11_MAX {
        record(&mut body, b"mtime", entry.mtime.0.to_string().as_bytes());
    }
    for (name, value) in &entry.xattrs {
        record(&mut body, &[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    body
}

/// `length key=value\n`, where the length counts its own digits.
fn record(body: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() != length {
        length = rest + length.to_string().len();
    }
    body.extend_from_slice(length.to_string().as_bytes());
    body.extend_from_slice(&[b" ", key, b"=", value, b"\n"].concat());
}

fn letter(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
    }
}

/// The number, or 0 where a record tells it.
fn fitting(value: u64, max: u64) -> u64 {
    if value <= max { value } else { 0 }
}

fn last_component(path: &[u8]) -> &[u8] {
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or(path);
    &name[..name.len().min(NAME_LEN_MAX - 13)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Parser;

    fn entry(path: &[u8]) -> Entry {
        Entry {
            kind: Kind::File,
            path: path.to_vec(),
            link: Vec::new(),
            stored: 3,
            sparse: None,
            mode: 0o4755,
            uid: 7,
            gid: 3_000_000,
            mtime: (-5, 0),
            device: (0, 0),
            xattrs: vec![(b"security.capability".to_vec(), b"\x01\0=\n".to_vec())],
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for path in [&b"a"[..], &[b'x'; 300], "ä/ö".as_bytes(), b"\xff"] {
            let mut writer = Writer::new(Vec::new());
            writer.append(&entry(path), &mut &b"abc"[..]).expect("written");
            let bytes = writer.finish().expect("finished");
            assert_eq!(bytes.len() % BLOCK, 0);
            let mut parser = Parser::new(bytes.as_slice());
            let read = parser.next_entry().expect("parses").expect("an entry");
            assert_eq!(parser.content().expect("content"), b"abc");
            let wrote = entry(path);
            assert_eq!(
                (&read.path, read.mode, read.uid, read.gid, read.mtime),
                (&wrote.path, wrote.mode, wrote.uid, wrote.gid, wrote.mtime)
            );
            assert_eq!(read.xattrs, wrote.xattrs);
            assert!(parser.next_entry().expect("parses").is_none());
        }
    }

    #[test]
    fn a_plain_file_has_dockers_header() {
        let plain = Entry { gid: 0, mode: 0o644, uid: 0, mtime: (1_700_000_000, 5), xattrs: Vec::new(), ..entry(b"a.txt") };
        let mut writer = Writer::new(Vec::new());
        writer.append(&plain, &mut &b"abc"[..]).expect("written");
        let bytes = writer.finish().expect("finished");
        assert_eq!(bytes.len(), 4 * BLOCK);
        assert_eq!(&bytes[100..156], b"0000644\x000000000\x000000000\x0000000000003\x0014524770400\x00010221\x00 ");
        assert_eq!(&bytes[156..157], b"0");
        assert_eq!(&bytes[257..265], b"ustar\x0000");
    }

    #[test]
    fn a_file_that_shrank_is_filled_up() {
        let mut writer = Writer::new(Vec::new());
        writer.append(&entry(b"a"), &mut &b"a"[..]).expect("written");
        let bytes = writer.finish().expect("finished");
        let mut parser = Parser::new(bytes.as_slice());
        parser.next_entry().expect("parses").expect("an entry");
        assert_eq!(parser.content().expect("content"), b"a\0\0");
    }
}

//! Writing a plain tar archive of few, short names.

use std::io::Write;
use std::path::Path;

use crate::{Error, Result};

const BLOCK: usize = 512;
/// The largest size that eleven octal digits can tell.
const OCTAL_MAX: u64 = 0o77_777_777_777;

/// Writes files one after the other.
pub(super) struct TarWriter<'a> {
    output: &'a mut dyn Write,
}

impl<'a> TarWriter<'a> {
    pub fn new(output: &'a mut dyn Write) -> Self {
        Self { output }
    }

    pub fn output(&mut self) -> &mut dyn Write {
        self.output
    }

    pub fn directory(&mut self, name: &str) -> Result<()> {
        self.header(&format!("{name}/"), 0, b'5', 0o755)
    }

    pub fn file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.begin(name, bytes.len() as u64)?;
        self.put(bytes)?;
        self.end(bytes.len() as u64)
    }

    /// Begins a file whose content the caller writes to [`TarWriter::output`].
    pub fn begin(&mut self, name: &str, size: u64) -> Result<()> {
        self.header(name, size, b'0', 0o644)
    }

    /// Ends it.
    pub fn end(&mut self, size: u64) -> Result<()> {
        let padding = usize::try_from(size.next_multiple_of(BLOCK as u64) - size).unwrap_or(0);
        self.put(&[0; BLOCK][..padding])
    }

    pub fn finish(mut self) -> Result<()> {
        self.put(&[0; 2 * BLOCK])?;
        self.output.flush().map_err(write_error)
    }

    /// Times are left at 0, so that the same images always give the same archive.
    fn header(&mut self, name: &str, size: u64, kind: u8, mode: u32) -> Result<()> {
        let mut block = [0u8; BLOCK];
        let name = name.as_bytes();
        if name.len() > 100 {
            return Err(Error::invalid("the archive", "a name in it is too long"));
        }
        block[..name.len()].copy_from_slice(name);
        block[100..107].copy_from_slice(format!("{mode:07o}").as_bytes());
        block[108..115].copy_from_slice(b"0000000");
        block[116..123].copy_from_slice(b"0000000");
        match size <= OCTAL_MAX {
            true => block[124..135].copy_from_slice(format!("{size:011o}").as_bytes()),
            false => {
                block[124] = 0x80;
                block[128..136].copy_from_slice(&size.to_be_bytes());
            }
        }
        block[136..147].copy_from_slice(b"00000000000");
        block[148..156].copy_from_slice(b"        ");
        block[156] = kind;
        block[257..265].copy_from_slice(b"ustar\x0000");
        let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
        block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
        self.put(&block)
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        self.output.write_all(bytes).map_err(write_error)
    }
}

fn write_error(source: std::io::Error) -> Error {
    Error::io("write the archive to", Path::new("the output"), source)
}

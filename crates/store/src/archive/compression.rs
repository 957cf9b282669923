//! Which compression a stream has, and its plain bytes.

use std::io::{self, BufRead, BufReader, Read};

/// An xz dictionary larger than this is refused.
const XZ_MEMORY_KIB: u32 = 256 << 10;
/// log2 of the largest zstd window.
const ZSTD_WINDOW_LOG: u32 = 27;
const BUFFER_LEN: usize = 128 << 10;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip, any number of members.
    Gzip,
    /// Zstandard, any number of frames.
    Zstd,
    /// xz, any number of streams.
    Xz,
    /// bzip2, any number of streams.
    Bzip2,
}

impl Compression {
    /// Tells it by the first bytes; six are enough.
    pub fn of(start: &[u8]) -> Self {
        match start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Self::Zstd,
            [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Self::Xz,
            [b'B', b'Z', b'h', ..] => Self::Bzip2,
            _ => Self::None,
        }
    }
}

/// The plain bytes of a stream, whatever its compression. Reading errors of compressed streams say what is wrong with the data.
pub fn decompress<'a>(input: &'a mut (dyn Read + Send)) -> io::Result<Box<dyn Read + Send + 'a>> {
    let mut input = BufReader::with_capacity(BUFFER_LEN, Refilled { input, ahead: Vec::new(), at: 0 });
    // The first read may give fewer bytes than it takes to tell.
    let start = input.get_mut().peek(6)?;
    let compression = Compression::of(&start);
    decoder(compression, input)
}

fn decoder<'a, R: BufRead + Send + 'a>(compression: Compression, input: R) -> io::Result<Box<dyn Read + Send + 'a>> {
    Ok(match compression {
        Compression::None => Box::new(input),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG)?;
            Box::new(decoder)
        }
        Compression::Xz => Box::new(lzma_rust2::XzReader::new_mem_limit(input, true, XZ_MEMORY_KIB)),
        Compression::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(input)),
    })
}

/// A reader whose first bytes can be looked at before they are read.
struct Refilled<'a> {
    input: &'a mut (dyn Read + Send),
    ahead: Vec<u8>,
    at: usize,
}

impl Refilled<'_> {
    fn peek(&mut self, len: u64) -> io::Result<Vec<u8>> {
        (&mut *self.input).take(len).read_to_end(&mut self.ahead)?;
        Ok(self.ahead.clone())
    }
}

impl Read for Refilled<'_> {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        if self.at < self.ahead.len() {
            let len = (&self.ahead[self.at..]).read(bytes)?;
            self.at += len;
            return Ok(len);
        }
        self.input.read(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn plain(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let mut input = bytes;
        let mut output = Vec::new();
        decompress(&mut input)?.read_to_end(&mut output)?;
        Ok(output)
    }

    #[test]
    fn every_compression_is_told_and_undone() {
        let text = b"text ".repeat(1000);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&text).expect("compresses");
        let gzip = gzip.finish().expect("compresses");
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(&text).expect("compresses");
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), lzma_rust2::XzOptions::with_preset(0)).expect("makes");
        xz.write_all(&text).expect("compresses");
        let zstd = zstd::encode_all(text.as_slice(), 1).expect("compresses");
        for compressed in [gzip.clone(), zstd, bzip2.finish().expect("compresses"), xz.finish().expect("compresses"), text.clone()] {
            assert_eq!(plain(&compressed).expect("decompresses"), text);
            assert!(plain(&compressed[..compressed.len() - 5]).is_err() || compressed == text, "a truncated stream is an error");
        }
        assert_eq!(plain(&[gzip.clone(), gzip].concat()).expect("two members").len(), 2 * text.len());
        assert_eq!(plain(b"").expect("empty"), b"");
        assert_eq!(plain(b"ab").expect("short"), b"ab");
    }
}

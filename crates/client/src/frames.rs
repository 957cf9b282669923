//! The framing by which one stream carries stdout and stderr apart: an eight-byte head (kind, three zeros, big-endian length) before each piece.

use std::io::{self, Read, Write};

const HEAD_BYTES: usize = 8;
const BUFFER_BYTES: usize = 256 << 10;

/// Copies a framed stream to its two targets until its end. A target is flushed when the other's turn comes and when nothing more is at hand: over
/// buffered writers, runs of small pieces become one write, and the order is kept where both targets are the same terminal.
///
/// Kind 3 is an error of the engine in the middle of the stream, and is returned as such.
pub fn demultiplex(mut source: impl Read, stdout: &mut dyn Write, stderr: &mut dyn Write) -> io::Result<()> {
    let mut buffer = vec![0u8; BUFFER_BYTES];
    let (mut start, mut end) = (0, 0);
    let mut failure = Vec::new();
    let mut current: Option<(u8, usize)> = None;
    let mut last_kind = 1;
    loop {
        while start < end {
            let available = &buffer[start..end];
            let Some((kind, left)) = current else {
                if available.len() < HEAD_BYTES {
                    break;
                }
                let length = u32::from_be_bytes([available[4], available[5], available[6], available[7]]) as usize;
                current = Some((available[0], length));
                start += HEAD_BYTES;
                continue;
            };
            let piece = &available[..left.min(available.len())];
            if kind != last_kind {
                stdout.flush()?;
                stderr.flush()?;
                last_kind = kind;
            }
            match kind {
                0 | 1 => stdout.write_all(piece)?,
                2 => stderr.write_all(piece)?,
                3 => failure.extend_from_slice(&piece[..piece.len().min(BUFFER_BYTES - failure.len().min(BUFFER_BYTES))]),
                other => return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{other} is no kind of stream"))),
            }
            start += piece.len();
            current = (left > piece.len()).then(|| (kind, left - piece.len()));
        }
        if current.is_some_and(|(_, left)| left == 0) {
            current = None;
        }
        if current.is_none() && !failure.is_empty() {
            return Err(io::Error::other(String::from_utf8_lossy(&failure).into_owned()));
        }
        buffer.copy_within(start..end, 0);
        end -= start;
        start = 0;
        stdout.flush()?;
        stderr.flush()?;
        match source.read(&mut buffer[end..]) {
            Ok(0) if end == 0 && current.is_none() => return Ok(()),
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => end += count,
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            Err(cause) => return Err(cause),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, text: &str) -> Vec<u8> {
        let mut bytes = vec![kind, 0, 0, 0];
        bytes.extend((text.len() as u32).to_be_bytes());
        bytes.extend(text.as_bytes());
        bytes
    }

    /// Gives one byte at a time, so that every split is met.
    struct Drip(io::Cursor<Vec<u8>>);

    impl Read for Drip {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            self.0.read(&mut buffer[..1])
        }
    }

    fn split(bytes: Vec<u8>) -> (io::Result<()>, String, String) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        let whole = demultiplex(&bytes[..], &mut out, &mut err);
        let (mut drip_out, mut drip_err) = (Vec::new(), Vec::new());
        let dripped = demultiplex(Drip(io::Cursor::new(bytes)), &mut drip_out, &mut drip_err);
        assert_eq!((whole.is_ok(), &out, &err), (dripped.is_ok(), &drip_out, &drip_err));
        (whole, String::from_utf8(out).expect("text"), String::from_utf8(err).expect("text"))
    }

    #[test]
    fn streams_are_told_apart_at_every_split() {
        let (result, out, err) = split([frame(1, "o1\n"), frame(2, "e1\n"), frame(1, ""), frame(1, "o2\n")].concat());
        assert!(result.is_ok());
        assert_eq!((out.as_str(), err.as_str()), ("o1\no2\n", "e1\n"));
    }

    #[test]
    fn a_torn_frame_and_an_error_frame_are_errors() {
        let torn: Vec<u8> = frame(1, "hello").drain(..10).collect();
        let (result, out, _) = split(torn);
        assert!(result.is_err());
        assert_eq!(out, "he");
        let (result, _, _) = split([frame(1, "x"), frame(3, "disk full")].concat());
        assert_eq!(result.expect_err("an error").to_string(), "disk full");
        assert!(split(vec![9, 0, 0, 0, 0, 0, 0, 1, 1]).0.is_err());
    }
}

//! HTTP/1.1 as far as the Engine API needs it: one request at a time on a connection, bodies by length, chunked, or until the end of the stream.

use std::io::{self, Read, Write};

use crate::{Error, Stream};

/// Heads of engines are a few hundred bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
const HEADERS_MAX: usize = 64;
const READ_BUFFER_BYTES: usize = 64 << 10;
const CHUNK_LINE_BYTES_MAX: usize = 4096;

/// A connection with what was read ahead of need.
pub(crate) struct Connection {
    pub stream: Stream,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
}

/// Status line and headers of an answer.
pub(crate) struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

/// How long a body is.
enum Framing {
    Length(u64),
    /// Bytes left in the current chunk; `None` before the first.
    Chunked(Option<u64>),
    UntilEnd,
    Done,
}

/// Reads the body of an answer; at its end the connection can be used again.
pub(crate) struct BodyReader {
    connection: Connection,
    framing: Framing,
    reusable: bool,
}

impl Connection {
    pub fn new(stream: Stream) -> Self {
        Self { stream, buffer: vec![0; READ_BUFFER_BYTES].into(), start: 0, end: 0 }
    }

    /// Reads the next final answer's head; interim ones (100) are passed over.
    pub fn read_head(&mut self) -> Result<Head, Error> {
        loop {
            let head = self.read_any_head()?;
            if head.status != 100 {
                return Ok(head);
            }
        }
    }

    fn read_any_head(&mut self) -> Result<Head, Error> {
        let mut bytes = Vec::new();
        loop {
            let had = bytes.len();
            if self.start == self.end {
                self.fill().map_err(read_error)?;
                if self.end == 0 {
                    return Err(read_error(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            bytes.extend_from_slice(&self.buffer[self.start..self.end]);
            let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
            let mut response = httparse::Response::new(&mut headers);
            match response.parse(&bytes) {
                Ok(httparse::Status::Complete(length)) => {
                    self.start += length - had;
                    let headers =
                        response.headers.iter().map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()));
                    return Ok(Head { status: response.code.unwrap_or(0), headers: headers.collect() });
                }
                Ok(httparse::Status::Partial) if bytes.len() < HEAD_BYTES_MAX => self.start = self.end,
                Ok(httparse::Status::Partial) => {
                    return Err(Error::Protocol { reason: format!("its head is longer than {HEAD_BYTES_MAX} bytes") });
                }
                Err(cause) => return Err(Error::Protocol { reason: cause.to_string() }),
            }
        }
    }

    /// Turns the connection into a reader of the body that follows `head`.
    pub fn into_body(self, head: &Head, method: &str) -> Result<BodyReader, Error> {
        let framing = if method == "HEAD" || matches!(head.status, 101 | 204 | 304) {
            Framing::Done
        } else if head.header("transfer-encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked")) {
            Framing::Chunked(None)
        } else if let Some(length) = head.header("content-length") {
            match length.trim().parse().map_err(|_| Error::Protocol { reason: format!("content-length {length:?}") })? {
                0 => Framing::Done,
                length => Framing::Length(length),
            }
        } else {
            Framing::UntilEnd
        };
        let reusable = !head.header("connection").is_some_and(|value| value.eq_ignore_ascii_case("close"));
        Ok(BodyReader { connection: self, framing, reusable })
    }

    /// The stream and what was read ahead, for a connection that leaves HTTP.
    pub fn into_parts(self) -> (Stream, Vec<u8>) {
        let ahead = self.buffer[self.start..self.end].to_vec();
        (self.stream, ahead)
    }

    /// Whether the engine closed the connection, or sent something unasked, while it was idle.
    pub fn is_stale(&self) -> bool {
        use rustix::event::{PollFd, PollFlags, Timespec, poll};
        let mut fds = [PollFd::new(&self.stream, PollFlags::IN)];
        self.start != self.end || !matches!(poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })), Ok(0))
    }

    fn fill(&mut self) -> io::Result<()> {
        self.start = 0;
        self.end = 0;
        self.end = retry_interrupted(|| self.stream.read(&mut self.buffer))?;
        Ok(())
    }

    fn read_some(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.start == self.end {
            // A large read goes straight where it is wanted.
            if out.len() >= self.buffer.len() {
                return retry_interrupted(|| self.stream.read(out));
            }
            self.fill()?;
        }
        let count = out.len().min(self.end - self.start);
        out[..count].copy_from_slice(&self.buffer[self.start..self.start + count]);
        self.start += count;
        Ok(count)
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = Vec::new();
        let mut byte = [0u8];
        loop {
            if self.read_some(&mut byte)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            match byte[0] {
                b'\n' => return Ok(String::from_utf8_lossy(&line).trim_end().to_owned()),
                other => line.push(other),
            }
            if line.len() > CHUNK_LINE_BYTES_MAX {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "the line before a chunk is too long"));
            }
        }
    }
}

impl Head {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl BodyReader {
    /// The connection, if the body was read to its end and another request may follow.
    pub fn into_idle(self) -> Option<Connection> {
        (self.reusable && matches!(self.framing, Framing::Done)).then_some(self.connection)
    }

    fn next_chunk(&mut self, first: bool) -> io::Result<()> {
        if !first {
            self.connection.read_line()?;
        }
        let line = self.connection.read_line()?;
        let digits = line.split(';').next().unwrap_or("").trim();
        let size = u64::from_str_radix(digits, 16)
            .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{digits:?} is not a chunk size")))?;
        if size > 0 {
            self.framing = Framing::Chunked(Some(size));
            return Ok(());
        }
        while !self.connection.read_line()?.is_empty() {}
        self.framing = Framing::Done;
        Ok(())
    }
}

impl Read for BodyReader {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        if let Framing::Chunked(left @ (None | Some(0))) = self.framing {
            self.next_chunk(left.is_none())?;
        }
        let limit = match &self.framing {
            Framing::Done => return Ok(0),
            Framing::UntilEnd => u64::MAX,
            Framing::Length(left) => *left,
            Framing::Chunked(left) => left.unwrap_or(0),
        };
        let want = usize::try_from(limit).unwrap_or(usize::MAX).min(out.len());
        let got = self.connection.read_some(&mut out[..want])?;
        match &mut self.framing {
            Framing::UntilEnd if got == 0 => {
                self.framing = Framing::Done;
                self.reusable = false;
            }
            Framing::Length(_) | Framing::Chunked(_) if got == 0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            Framing::Length(left) => {
                *left -= got as u64;
                if *left == 0 {
                    self.framing = Framing::Done;
                }
            }
            Framing::Chunked(Some(left)) => *left -= got as u64,
            _ => {}
        }
        Ok(got)
    }
}

/// Sends `body` in chunks until its end.
pub(crate) fn send_chunked(stream: &mut Stream, body: &mut dyn Read) -> io::Result<()> {
    const HEADROOM: usize = 10;
    let mut buffer = vec![0u8; HEADROOM + READ_BUFFER_BYTES + 2];
    loop {
        let count = retry_interrupted(|| body.read(&mut buffer[HEADROOM..HEADROOM + READ_BUFFER_BYTES]))?;
        if count == 0 {
            return stream.write_all(b"0\r\n\r\n");
        }
        // The size is written right before the data, so that a chunk is one write.
        let size = format!("{count:x}\r\n");
        let start = HEADROOM - size.len();
        buffer[start..HEADROOM].copy_from_slice(size.as_bytes());
        buffer[HEADROOM + count..HEADROOM + count + 2].copy_from_slice(b"\r\n");
        stream.write_all(&buffer[start..HEADROOM + count + 2])?;
    }
}

pub(crate) fn read_error(source: io::Error) -> Error {
    Error::Transfer { operation: "read the answer of", source }
}

fn retry_interrupted(mut operation: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    loop {
        match operation() {
            Err(cause) if cause.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use super::*;

    fn answer(bytes: &'static [u8]) -> Connection {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair of sockets");
        theirs.write_all(bytes).expect("written");
        Connection::new(Stream::Unix(ours))
    }

    fn body(bytes: &'static [u8]) -> (u16, io::Result<String>, bool) {
        let mut connection = answer(bytes);
        let head = connection.read_head().expect("a head");
        let mut body = connection.into_body(&head, "GET").expect("a body");
        let mut text = String::new();
        let read = body.read_to_string(&mut text).map(|_| text);
        (head.status, read, body.into_idle().is_some())
    }

    #[test]
    fn bodies_end_where_their_framing_says() {
        let (status, text, idle) = body(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello");
        assert_eq!((status, text.expect("read").as_str(), idle), (200, "hello", true));
        let (_, text, idle) = body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\n\r\n");
        assert_eq!((text.expect("read").as_str(), idle), ("abcde", true));
        let (_, text, idle) = body(b"HTTP/1.1 200 OK\r\n\r\nall of it");
        assert_eq!((text.expect("read").as_str(), idle), ("all of it", false));
        let (status, text, idle) = body(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No Content\r\n\r\n");
        assert_eq!((status, text.expect("read").as_str(), idle), (204, "", true));
    }

    #[test]
    fn torn_and_foreign_answers_are_errors() {
        assert!(body(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello").1.is_err());
        assert!(body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n").1.is_err());
        assert!(body(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab").1.is_err());
        assert!(answer(b"SSH-2.0-OpenSSH\r\n\r\n").read_head().is_err());
        assert!(answer(b"").read_head().is_err());
    }
}

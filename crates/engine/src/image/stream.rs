//! Bodies as blocking readers and writers, for the store's threads.

use std::io::{self, Read, Write};

use bytes::{Buf, Bytes, BytesMut};
use tokio::sync::mpsc;

use super::Body;

/// How much is written before it is sent on.
const CHUNK_LEN: usize = 128 << 10;
/// How many pieces wait between a blocking thread and an asynchronous task.
pub(crate) const PIECES_WAITING_MAX: usize = 16;

/// Reads what arrives in a body. Only for threads that may block.
pub(crate) struct BodyReader {
    body: Body,
    current: Bytes,
}

impl BodyReader {
    pub fn new(body: Body) -> Self {
        Self { body, current: Bytes::new() }
    }
}

impl Read for BodyReader {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.body.blocking_recv() {
                Some(next) => self.current = next?,
                None => return Ok(0),
            }
        }
        let len = bytes.len().min(self.current.len());
        self.current.copy_to_slice(&mut bytes[..len]);
        Ok(len)
    }
}

/// Sends what is written into a body. Only for threads that may block.
pub(crate) struct BodyWriter {
    sender: mpsc::Sender<io::Result<Bytes>>,
    held: BytesMut,
}

impl BodyWriter {
    pub fn new(sender: mpsc::Sender<io::Result<Bytes>>) -> Self {
        Self { sender, held: BytesMut::with_capacity(CHUNK_LEN) }
    }
}

impl Write for BodyWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.held.extend_from_slice(bytes);
        if self.held.len() >= CHUNK_LEN {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.held.is_empty() {
            return Ok(());
        }
        let chunk = self.held.split().freeze();
        self.sender.blocking_send(Ok(chunk)).map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the client has gone"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_written_is_read() {
        let (sender, body) = mpsc::channel(2);
        let writing = tokio::task::spawn_blocking(move || {
            let mut writer = BodyWriter::new(sender);
            (0..10).try_for_each(|_| writer.write_all(&[7; 50_000])).and_then(|()| writer.flush())
        });
        let reading = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            BodyReader::new(body).read_to_end(&mut all).map(|_| all)
        });
        writing.await.expect("joins").expect("writes");
        assert_eq!(reading.await.expect("joins").expect("reads"), vec![7; 500_000]);
    }

    #[tokio::test]
    async fn a_broken_body_is_an_error() {
        let (sender, body) = mpsc::channel(2);
        sender.send(Err(io::Error::other("broken"))).await.expect("sends");
        let read = tokio::task::spawn_blocking(move || BodyReader::new(body).read(&mut [0; 8])).await.expect("joins");
        assert!(read.is_err());
    }
}

//! Bodies: of requests, piece by piece and within bounds; of responses, from memory or from files.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use tokio::task::JoinHandle;

use super::IDLE_MAX;
use super::metrics::Metrics;
use super::reply::{Code, Payload, Refusal};

/// What is collected of a request before it is written: few writes, and little memory however many clients upload.
const PIECE_BYTES: usize = 64 * 1024;
/// What is read of a file at a time.
const READ_BYTES: usize = 128 * 1024;

/// A request's body.
pub(super) struct Inflow {
    body: Incoming,
    ended: bool,
}

impl Inflow {
    pub(super) fn new(body: Incoming) -> Self {
        Self { body, ended: false }
    }

    /// The next bytes: what is there already, up to a bound. Nothing at the end.
    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, Refusal> {
        let mut gathered = match self.frame().await? {
            Some(first) if first.len() >= PIECE_BYTES / 2 => return Ok(Some(first)),
            Some(first) => BytesMut::from(first),
            None => return Ok(None),
        };
        while gathered.len() < PIECE_BYTES && !self.ended {
            match self.body.frame().now_or_never() {
                Some(frame) => gathered.extend_from_slice(&self.accept(frame)?.unwrap_or_default()),
                None => break,
            }
        }
        Ok(Some(gathered.freeze()))
    }

    /// The whole body; `None` when it is larger than that.
    pub(super) async fn whole(mut self, bytes_max: usize) -> Result<Option<Bytes>, Refusal> {
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await? {
            if whole.len() + bytes.len() > bytes_max {
                return Ok(None);
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(Some(whole.freeze()))
    }

    async fn frame(&mut self) -> Result<Option<Bytes>, Refusal> {
        while !self.ended {
            let frame = tokio::time::timeout(IDLE_MAX, self.body.frame()).await;
            let slow = |_| Refusal::new(Code::BlobUploadInvalid, "the client sends nothing any more").status(StatusCode::REQUEST_TIMEOUT);
            match self.accept(frame.map_err(slow)?)? {
                Some(bytes) if !bytes.is_empty() => return Ok(Some(bytes)),
                _ => {}
            }
        }
        Ok(None)
    }

    fn accept(&mut self, frame: Option<Result<Frame<Bytes>, hyper::Error>>) -> Result<Option<Bytes>, Refusal> {
        match frame {
            // Trailers say nothing here.
            Some(Ok(frame)) => Ok(frame.into_data().ok()),
            Some(Err(error)) => {
                self.ended = true;
                Err(Refusal::new(Code::BlobUploadInvalid, format!("the request's body broke off: {error}")))
            }
            None => {
                self.ended = true;
                Ok(None)
            }
        }
    }
}

/// A response's body.
pub(super) struct Outflow {
    source: Source,
    metrics: Arc<Metrics>,
}

enum Source {
    Bytes(Bytes),
    File { file: Arc<File>, offset: u64, left: u64, reading: Option<JoinHandle<io::Result<Bytes>>> },
}

impl Outflow {
    pub(super) fn new(payload: Payload, metrics: Arc<Metrics>) -> Self {
        let source = match payload {
            Payload::Empty => Source::Bytes(Bytes::new()),
            Payload::Bytes(bytes) => Source::Bytes(bytes),
            Payload::File { file, offset, len } => Source::File { file: Arc::new(file), offset, left: len, reading: None },
        };
        Self { source, metrics }
    }
}

impl Body for Outflow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        let this = self.get_mut();
        let piece = match &mut this.source {
            Source::Bytes(bytes) if bytes.is_empty() => return Poll::Ready(None),
            Source::Bytes(bytes) => std::mem::take(bytes),
            Source::File { left: 0, .. } => return Poll::Ready(None),
            Source::File { file, offset, left, reading } => {
                let task = reading.get_or_insert_with(|| {
                    let (file, offset, len) = (Arc::clone(file), *offset, READ_BYTES.min(usize::try_from(*left).unwrap_or(READ_BYTES)));
                    tokio::task::spawn_blocking(move || read_at(&file, offset, len))
                });
                let read = ready!(task.poll_unpin(context));
                *reading = None;
                match read.map_err(io::Error::other).and_then(|read| read) {
                    Ok(bytes) => {
                        *offset += bytes.len() as u64;
                        *left -= bytes.len() as u64;
                        bytes
                    }
                    Err(error) => return Poll::Ready(Some(Err(error))),
                }
            }
        };
        this.metrics.sent(piece.len() as u64);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Bytes(bytes) => bytes.is_empty(),
            Source::File { left, .. } => *left == 0,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Bytes(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::File { left, .. } => SizeHint::with_exact(*left),
        }
    }
}

fn read_at(file: &File, offset: u64, len: usize) -> io::Result<Bytes> {
    let mut buffer = vec![0; len];
    file.read_exact_at(&mut buffer, offset)?;
    Ok(buffer.into())
}

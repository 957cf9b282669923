//! Requests as handlers see them, and the responses that they make.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::stream::{self, Stream};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::{self, HeaderName, HeaderValue};
use hyper::{HeaderMap, Method, Response, StatusCode};
use serde::Serialize;
use tokio::sync::mpsc;

use crate::error::Failure;
use crate::query::Query;
use crate::version::Version;
use crate::wire::{Connection, Serving};

/// The largest JSON body of a request.
const JSON_BYTES_MAX: usize = 4 << 20;
/// Pieces of an upload that wait for their reader.
const UPLOAD_QUEUE_LEN_MAX: usize = 8;

/// How much of an unwanted body is taken in.
const LEFTOVER_BYTES_MAX: usize = 1 << 30;
/// And for how long.
const LEFTOVER_TIME_MAX: Duration = Duration::from_secs(30);

/// `Content-Type` of answers.
pub const JSON: &str = "application/json";
/// `Content-Type` of plain text.
pub const TEXT: &str = "text/plain; charset=utf-8";
/// `Content-Type` of archives.
pub const TAR: &str = "application/x-tar";

/// A request whose path and version are taken care of.
#[derive(Debug)]
pub struct Request {
    /// What to do.
    pub method: Method,
    /// The version of the API that the client speaks.
    pub version: Version,
    /// The parameters.
    pub query: Query,
    /// The headers.
    pub headers: HeaderMap,
    pub(crate) body: Inflow,
    pub(crate) connection: Arc<Connection>,
}

impl Request {
    /// The whole JSON body, bounded. It must be called JSON: what a web page can post to another address without asking is not.
    pub async fn bytes(self) -> Result<Bytes, Failure> {
        let content_type = self.headers.get(header::CONTENT_TYPE).map(|value| value.to_str().unwrap_or_default());
        let media_type = content_type.and_then(|text| text.split(';').next()).unwrap_or_default().trim();
        let is_json = media_type.eq_ignore_ascii_case(JSON) || content_type.is_none() && self.body.is_end_stream();
        if !is_json {
            return Err(Failure::bad(format!("unsupported Content-Type {media_type:?}: {JSON} is expected")));
        }
        let mut inflow = self.body;
        let mut whole = BytesMut::new();
        while let Some(piece) = inflow.next().await {
            let piece = piece.map_err(|error| Failure::bad(format!("read the request's body: {error}")))?;
            if whole.len() + piece.len() > JSON_BYTES_MAX {
                return Err(Failure::bad(format!("the request's body is larger than {} MiB", JSON_BYTES_MAX >> 20)));
            }
            whole.extend_from_slice(&piece);
        }
        Ok(whole.freeze())
    }

    /// The body piece by piece; the client is held back when whoever takes the pieces is slow.
    pub fn upload(self) -> mpsc::Receiver<io::Result<Bytes>> {
        let (sender, pieces) = mpsc::channel(UPLOAD_QUEUE_LEN_MAX);
        let mut inflow = self.body;
        tokio::spawn(async move {
            while let Some(piece) = inflow.next().await {
                let failed = piece.is_err();
                if sender.send(piece).await.is_err() || failed {
                    return;
                }
            }
        });
        pieces
    }
}

/// The body of a request. What is not read of it is thrown away when it goes, within bounds: a client that is still sending would
/// otherwise see a broken connection instead of the answer.
#[derive(Debug)]
pub struct Inflow(Option<Incoming>);

impl Inflow {
    pub(crate) fn new(body: Incoming) -> Self {
        Self(Some(body))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(Body::is_end_stream)
    }

    /// The next piece; nothing at the end and after an error.
    async fn next(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            let frame = self.0.as_mut()?.frame().await;
            let piece = match frame {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => return Some(Ok(data)),
                    // Trailers say nothing here.
                    Err(_) => continue,
                },
                Some(Err(error)) => Some(Err(io::Error::other(error))),
                None => None,
            };
            self.0 = None;
            return piece;
        }
    }
}

impl Drop for Inflow {
    fn drop(&mut self) {
        let Some(body) = self.0.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(LEFTOVER_TIME_MAX, discard(body)));
        }
    }
}

async fn discard(mut body: Incoming) {
    let mut left = LEFTOVER_BYTES_MAX;
    while let Some(Ok(frame)) = body.frame().await {
        left = left.saturating_sub(frame.data_ref().map_or(0, Bytes::len));
        if left == 0 {
            return;
        }
    }
}

/// Pieces of a body as they come. An error ends the connection, so that the client sees that the response is not whole.
pub type Pieces = Pin<Box<dyn Stream<Item = io::Result<Bytes>> + Send>>;

/// The body of a response.
pub struct Payload {
    content: Content,
    _serving: Option<Serving>,
}

enum Content {
    Whole(Bytes),
    Stream(Pieces),
}

impl Payload {
    pub(crate) fn keep(mut self, serving: Serving) -> Self {
        self._serving = Some(serving);
        self
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        match &mut self.content {
            Content::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Content::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Content::Stream(pieces) => Poll::Ready(ready!(pieces.as_mut().poll_next(context)).map(|piece| piece.map(Frame::data))),
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(&self.content, Content::Whole(bytes) if bytes.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

/// A response.
pub type Reply = Response<Payload>;

/// What handlers give back.
pub type Outcome = Result<Reply, Failure>;

/// A response without a body.
pub fn empty(status: StatusCode) -> Reply {
    whole(status, None, Bytes::new())
}

/// 204.
pub fn no_content() -> Outcome {
    Ok(empty(StatusCode::NO_CONTENT))
}

/// A text as response.
pub fn text(status: StatusCode, body: impl Into<Bytes>) -> Reply {
    whole(status, Some(TEXT), body.into())
}

/// A value as JSON.
pub fn json<T: Serialize>(status: StatusCode, value: &T) -> Outcome {
    Ok(whole(status, Some(JSON), line(value)?))
}

/// A value as JSON, with 200.
pub fn ok<T: Serialize>(value: &T) -> Outcome {
    json(StatusCode::OK, value)
}

/// A value as one line of JSON, ended by a line feed.
pub fn line<T: Serialize>(value: &T) -> Result<Bytes, Failure> {
    let mut text =
        serde_json::to_vec(value).map_err(|error| Failure::new(types::ErrorKind::Internal, format!("encode the answer: {error}")))?;
    text.push(b'\n');
    Ok(text.into())
}

/// A stream as response. The head is sent at once.
pub fn streamed(content_type: &'static str, pieces: impl Stream<Item = io::Result<Bytes>> + Send + 'static) -> Reply {
    let mut reply = Response::new(Payload { content: Content::Stream(Box::pin(pieces)), _serving: None });
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    reply
}

/// What a channel brings, as a stream that turns each item into a piece.
pub fn received<T: Send + 'static>(
    mut items: mpsc::Receiver<T>,
    mut encode: impl FnMut(T) -> io::Result<Bytes> + Send + 'static,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    stream::poll_fn(move |context| Poll::Ready(ready!(items.poll_recv(context)).map(&mut encode)))
}

/// Adds a header.
pub fn with_header(mut reply: Reply, name: &'static str, value: &str) -> Reply {
    if let Ok(value) = HeaderValue::from_str(value) {
        reply.headers_mut().insert(HeaderName::from_static(name), value);
    }
    reply
}

fn whole(status: StatusCode, content_type: Option<&'static str>, body: Bytes) -> Reply {
    let mut reply = Response::new(Payload { content: Content::Whole(body), _serving: None });
    *reply.status_mut() = status;
    if let Some(content_type) = content_type {
        reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    }
    reply
}

/// What failed, as every client expects it.
pub fn refusal(failure: &Failure) -> Reply {
    let body = serde_json::json!({ "message": failure.message });
    whole(failure.status, Some(JSON), format!("{body}\n").into())
}

/// Runs an operation to its end even when the client goes meanwhile: a change is never left half done because nobody listens.
pub async fn to_the_end<T, E, F>(operation: F) -> Result<T, Failure>
where
    T: Send + 'static,
    E: Into<Failure> + Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    match tokio::spawn(operation).await {
        Ok(result) => result.map_err(Into::into),
        Err(error) => Err(Failure::new(types::ErrorKind::Internal, format!("the engine's own task failed: {error}"))),
    }
}

/// The error of a service that cannot fail but by giving the connection away.
#[derive(Debug, thiserror::Error)]
#[error("the connection was taken over")]
pub struct TakenOver;

//! Building images: Docker's own request and stream, and the richer ones of Cais's client.

mod classic;
mod params;

use std::io;
use std::sync::Arc;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::{Bytes, BytesMut};
use engine::Engine;
use engine::build::{Build, CacheEntry, Note, PruneCache, RunningBuild};
use futures_util::stream;
use hyper::header;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use types::build::{BuildEvent, BuildRequest, ContextSource, REQUEST_BYTES_MAX, REQUEST_TYPE, VertexLog};

use crate::error::Failure;
use crate::http::{JSON, Outcome, Request, ok, streamed};
use crate::registry_auth;
use crate::streams::json_line;

/// Pieces of an archive that wait for their reader.
const PIECES_WAITING_MAX: usize = 8;

/// Builds. What is wrong with the request or the Dockerfile is an answer of its own; what fails later is a line of the stream.
pub async fn build(engine: Arc<Engine>, request: Request) -> Outcome {
    let content_type = request.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match content_type == REQUEST_TYPE {
        true => own(engine, request).await,
        false => classic::build(engine, request).await,
    }
}

/// A request of Cais's own client.
async fn own(engine: Arc<Engine>, request: Request) -> Outcome {
    let credentials = registry_auth::all_credentials(&request.headers)?;
    let is_trusted = request.connection.is_trusted();
    let mut body = request.upload();
    let (asked, rest) = first_line(&mut body).await?;
    let archive = matches!(asked.context, ContextSource::Archive).then(|| joined(rest, body));
    let build = Build { request: asked, archive, credentials, is_trusted, ..Build::default() };
    let prepared = match engine.prepare_build(build).await {
        Ok(prepared) => prepared,
        // With the place and the excerpt, which an answer of its own has no room for.
        Err(error) => {
            let event = BuildEvent { error: Some(error.failure()), ..BuildEvent::default() };
            return Ok(streamed(JSON, stream::iter([json_line(&event)])));
        }
    };
    let running = Some(prepared.start());
    let lines = stream::unfold(running, |running| async move {
        let mut running = running?;
        let event = loop {
            match running.notes.recv().await {
                Some(note) => {
                    if let Some(event) = encode(note) {
                        break (event, Some(running));
                    }
                }
                None => match running.end().await {
                    Ok(_) => return None,
                    Err(error) => break (BuildEvent { error: Some(error.failure()), ..BuildEvent::default() }, None),
                },
            }
        };
        Some((json_line(&event.0), event.1))
    });
    Ok(streamed(JSON, lines))
}

/// A note in the words of BuildKit's status.
fn encode(note: Note) -> Option<BuildEvent> {
    match note {
        Note::Steps(_) => None,
        Note::Event(event) => Some(*event),
        Note::Output { vertex, stream, bytes, timestamp } => {
            let log = VertexLog { vertex, stream, data: BASE64_STANDARD.encode(bytes), timestamp };
            Some(BuildEvent { logs: vec![log], ..BuildEvent::default() })
        }
        Note::Result(result) => Some(BuildEvent { result: Some(*result), ..BuildEvent::default() }),
    }
}

/// The request's line, and what came after it in the same piece.
async fn first_line(body: &mut mpsc::Receiver<io::Result<Bytes>>) -> Result<(BuildRequest, Bytes), Failure> {
    let mut line = BytesMut::new();
    loop {
        let Some(piece) = body.recv().await else { break };
        let piece = piece.map_err(|error| Failure::bad(format!("read the request's body: {error}")))?;
        let end = piece.iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(&piece[..end.unwrap_or(piece.len())]);
        if line.len() > REQUEST_BYTES_MAX {
            return Err(Failure::bad(format!("the build's request has more than {} MiB", REQUEST_BYTES_MAX >> 20)));
        }
        if let Some(end) = end {
            return decode(&line).map(|asked| (asked, piece.slice(end + 1..)));
        }
    }
    decode(&line).map(|asked| (asked, Bytes::new()))
}

fn decode(line: &[u8]) -> Result<BuildRequest, Failure> {
    serde_json::from_slice(line).map_err(|error| Failure::bad(format!("invalid build request: {error}")))
}

/// A body that begins with what was read of it already.
fn joined(first: Bytes, mut rest: mpsc::Receiver<io::Result<Bytes>>) -> mpsc::Receiver<io::Result<Bytes>> {
    let (sender, pieces) = mpsc::channel(PIECES_WAITING_MAX);
    tokio::spawn(async move {
        if !first.is_empty() && sender.send(Ok(first)).await.is_err() {
            return;
        }
        while let Some(piece) = rest.recv().await {
            if sender.send(piece).await.is_err() {
                return;
            }
        }
    });
    pieces
}

/// Stops a build by its id.
pub async fn cancel(engine: Arc<Engine>, request: Request) -> Outcome {
    let id = request.query.get("id").filter(|id| !id.is_empty()).ok_or_else(|| Failure::bad("build ID not provided"))?;
    // Whether there is one is nobody's business: it may have ended by itself.
    engine.cancel_build(id);
    Ok(crate::http::empty(hyper::StatusCode::NO_CONTENT))
}

/// Removes entries of the build cache.
pub async fn prune(engine: Arc<Engine>, request: Request) -> Outcome {
    let query = &request.query;
    let mut keep = 0;
    for name in ["keep-storage", "reserved-space", "max-used-space"] {
        keep = keep.max(query.number(name)?.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(0));
    }
    if query.number("min-free-space")?.is_some_and(|bytes| bytes > 0) {
        return Err(Failure::not_served("pruning by free space"));
    }
    let asked = PruneCache { all: query.flag("all"), filters: query.filters()?, keep };
    let pruned = engine.prune_build_cache(asked).await.map_err(|error| Failure::of(&error))?;
    let removed = Some(pruned.removed).filter(|removed| !removed.is_empty());
    ok(&json!({ "CachesDeleted": removed, "SpaceReclaimed": pruned.reclaimed }))
}

/// A row of `system df`.
pub fn cache_entry(entry: &CacheEntry) -> Value {
    let record = &entry.record;
    json!({
        "ID": record.key,
        "Type": record.kind,
        "Description": record.description,
        "InUse": entry.in_use,
        "Shared": entry.shared,
        "Size": entry.size,
        "CreatedAt": record.created,
        "LastUsedAt": record.last_used,
        "UsageCount": record.uses,
    })
}

/// The end of a build, as an answer that is no stream.
pub(super) async fn end(running: &mut RunningBuild) -> Option<engine::build::Error> {
    running.end().await.err()
}

//! Blobs: read whole or in part, asked for, removed.

use hyper::header::{self, HeaderMap};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use types::Digest;

use super::reply::{Code, Outcome, Payload, Refusal, Reply};
use super::{App, DOCKER_CONTENT_DIGEST, blocking};
use crate::name::RepositoryName;

/// A digest's content never changes.
const FOREVER: &str = "max-age=31536000, immutable";

pub(super) async fn handle(app: &App, head: &Parts, repository: RepositoryName, digest: Digest) -> Outcome {
    match head.method {
        Method::GET | Method::HEAD => read(app, head, repository, digest).await,
        Method::DELETE => {
            let (store, wanted) = (app.store.clone(), digest.clone());
            match blocking(move || store.remove_blob(&repository, &wanted)).await? {
                true => Ok(Reply::new(StatusCode::ACCEPTED).with(header::CONTENT_LENGTH, "0")),
                false => Err(unknown(&digest)),
            }
        }
        _ => Err(Refusal::method(&head.method, "GET, HEAD, DELETE")),
    }
}

async fn read(app: &App, head: &Parts, repository: RepositoryName, digest: Digest) -> Outcome {
    let (store, wanted, with_file) = (app.store.clone(), digest.clone(), head.method == Method::GET);
    let found = blocking(move || {
        let Some(size) = store.blob(&repository, &wanted)? else { return Ok(None) };
        let file = if with_file { store.open_content(&wanted)? } else { None };
        Ok(Some((size, file)))
    });
    let (size, file) = found.await?.ok_or_else(|| unknown(&digest))?;
    let etag = format!("\"{digest}\"");
    let reply = |status| {
        Reply::new(status)
            .with(header::ETAG, &etag)
            .with(header::CACHE_CONTROL, FOREVER)
            .with(header::ACCEPT_RANGES, "bytes")
            .with(DOCKER_CONTENT_DIGEST, digest.to_string())
    };
    if let Some(status) = precondition(&head.headers, &etag) {
        return Ok(reply(status));
    }
    let part = match range(&head.headers, size, &etag) {
        Range::Whole => None,
        Range::Part { offset, len } => Some((offset, len)),
        Range::Unsatisfiable => {
            let refusal = Refusal::new(Code::SizeInvalid, format!("the blob has {size} bytes")).status(StatusCode::RANGE_NOT_SATISFIABLE);
            return Err(refusal.with(header::CONTENT_RANGE, format!("bytes */{size}")));
        }
    };
    let (offset, len) = part.unwrap_or((0, size));
    let mut reply = match part {
        Some(_) => reply(StatusCode::PARTIAL_CONTENT).with(header::CONTENT_RANGE, format!("bytes {offset}-{}/{size}", offset + len - 1)),
        None => reply(StatusCode::OK),
    };
    reply = reply.with(header::CONTENT_LENGTH, len.to_string()).with(header::CONTENT_TYPE, "application/octet-stream");
    if head.method == Method::GET {
        let file = file.ok_or_else(|| unknown(&digest))?;
        reply.payload = Payload::File { file, offset, len };
    }
    Ok(reply)
}

pub(super) fn unknown(digest: &Digest) -> Refusal {
    Refusal::new(Code::BlobUnknown, "the blob is not in this repository").detail(serde_json::json!({ "digest": digest.to_string() }))
}

/// The status that the request's conditions lead to instead of the content.
pub(super) fn precondition(headers: &HeaderMap, etag: &str) -> Option<StatusCode> {
    if let Some(wanted) = text(headers, header::IF_MATCH)
        && !matches(wanted, etag)
    {
        return Some(StatusCode::PRECONDITION_FAILED);
    }
    text(headers, header::IF_NONE_MATCH).filter(|known| matches(known, etag)).map(|_| StatusCode::NOT_MODIFIED)
}

fn matches(list: &str, etag: &str) -> bool {
    list.split(',').map(str::trim).any(|one| one == "*" || one.trim_start_matches("W/") == etag || one == etag.trim_matches('"'))
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

#[derive(Debug, PartialEq, Eq)]
enum Range {
    Whole,
    Part { offset: u64, len: u64 },
    Unsatisfiable,
}

/// RFC 9110, section 14. Several ranges at once are answered by the whole, as is what cannot be read.
fn range(headers: &HeaderMap, size: u64, etag: &str) -> Range {
    if text(headers, header::IF_RANGE).is_some_and(|wanted| wanted != etag) {
        return Range::Whole;
    }
    let Some(wanted) = text(headers, header::RANGE).and_then(|range| range.strip_prefix("bytes=")) else { return Range::Whole };
    let Some((first, last)) = wanted.split_once('-').filter(|_| !wanted.contains(',')) else { return Range::Whole };
    let number = |text: &str| text.trim().parse::<u64>();
    match (first.trim(), last.trim()) {
        ("", last) => match number(last) {
            Ok(0) => Range::Unsatisfiable,
            Ok(_) if size == 0 => Range::Unsatisfiable,
            Ok(count) => Range::Part { offset: size.saturating_sub(count), len: count.min(size) },
            Err(_) => Range::Whole,
        },
        (first, last) => match (number(first), if last.is_empty() { Ok(u64::MAX) } else { number(last) }) {
            (Ok(first), Ok(last)) if first > last => Range::Whole,
            (Ok(first), Ok(_)) if first >= size => Range::Unsatisfiable,
            (Ok(first), Ok(last)) => Range::Part { offset: first, len: last.min(size - 1) - first + 1 },
            _ => Range::Whole,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read() {
        for (text, expected) in [
            ("bytes=0-0", Range::Part { offset: 0, len: 1 }),
            ("bytes=5-", Range::Part { offset: 5, len: 5 }),
            ("bytes=-3", Range::Part { offset: 7, len: 3 }),
            ("bytes=-30", Range::Part { offset: 0, len: 10 }),
            ("bytes=8-99", Range::Part { offset: 8, len: 2 }),
            ("bytes=10-", Range::Unsatisfiable),
            ("bytes=-0", Range::Unsatisfiable),
            ("bytes=5-4", Range::Whole),
            ("bytes=0-1,3-4", Range::Whole),
            ("bytes=x-y", Range::Whole),
            ("bytes=99999999999999999999-", Range::Whole),
            ("lines=0-1", Range::Whole),
        ] {
            let headers = HeaderMap::from_iter([(header::RANGE, text.parse().expect("value"))]);
            assert_eq!(range(&headers, 10, "\"e\""), expected, "{text}");
        }
        let stale = HeaderMap::from_iter([
            (header::RANGE, "bytes=1-".parse().expect("value")),
            (header::IF_RANGE, "\"f\"".parse().expect("value")),
        ]);
        assert_eq!(range(&stale, 10, "\"e\""), Range::Whole);
    }

    #[test]
    fn conditions_are_read() {
        let with = |name, value: &str| HeaderMap::from_iter([(name, value.parse().expect("value"))]);
        assert_eq!(precondition(&with(header::IF_NONE_MATCH, "\"a\", W/\"e\""), "\"e\""), Some(StatusCode::NOT_MODIFIED));
        assert_eq!(precondition(&with(header::IF_NONE_MATCH, "\"a\""), "\"e\""), None);
        assert_eq!(precondition(&with(header::IF_MATCH, "\"a\""), "\"e\""), Some(StatusCode::PRECONDITION_FAILED));
        assert_eq!(precondition(&with(header::IF_MATCH, "*"), "\"e\""), None);
    }
}

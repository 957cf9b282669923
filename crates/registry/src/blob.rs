//! Blobs: layers and configurations, streamed and verified, taken up again where a connection broke.

use std::future::Future;
use std::io;

use bytes::Bytes;
use reqwest::{Response, StatusCode};
use types::ImageRef;
use types::image::Descriptor;

use crate::client::{ATTEMPTS_MAX, Request, answer_error, backoff};
use crate::verify::Hasher;
use crate::{Credentials, Error, Registry, Result};

/// Takes a blob's bytes in order.
pub trait BlobSink: Send {
    /// Takes the next bytes. May wait; an error ends the transfer.
    fn write(&mut self, bytes: Bytes) -> impl Future<Output = io::Result<()>> + Send;
}

impl BlobSink for Vec<u8> {
    async fn write(&mut self, bytes: Bytes) -> io::Result<()> {
        self.extend_from_slice(&bytes);
        Ok(())
    }
}

/// How far a transfer has come.
struct Transfer {
    hasher: Hasher,
    done: u64,
}

impl Registry {
    /// Streams a blob into a sink. Success means that size and digest are those of the descriptor; the sink must not let anything be seen before that.
    pub async fn blob<S: BlobSink>(
        &self,
        repository: &ImageRef,
        wanted: &Descriptor,
        credentials: Option<&Credentials>,
        sink: &mut S,
    ) -> Result<()> {
        let mut transfer = Transfer { hasher: Hasher::new(wanted.digest.algorithm()), done: 0 };
        let mut attempt = 1;
        // A mirror that has once broken off is not asked for the rest.
        let mut direct = false;
        loop {
            let before = transfer.done;
            let (path, subject) = (format!("blobs/{}", wanted.digest), format!("fetch blob {}", wanted.digest));
            let request = Request { offset: transfer.done, direct, ..Request::get(repository, path, subject, credentials) };
            match self.part(&request, wanted, &mut transfer, sink).await {
                Ok(()) => break,
                Err(error) if error.is_passing() && attempt < ATTEMPTS_MAX => {
                    // A connection that brought something earns a fresh start.
                    attempt = if transfer.done > before { 1 } else { attempt + 1 };
                    direct = true;
                    tracing::debug!(error = %types::error::chain(&error), done = transfer.done, "a blob's transfer broke and is taken up again");
                    tokio::time::sleep(backoff(attempt)).await;
                }
                Err(error) => {
                    self.distrust_mirrors(repository);
                    return Err(error);
                }
            }
        }
        let found = transfer.hasher.finish();
        if found == wanted.digest {
            return Ok(());
        }
        self.distrust_mirrors(repository);
        Err(Error::DigestMismatch { subject: "blob", repository: repository.familiar_name(), expected: wanted.digest.clone(), found })
    }

    /// What came may have been a mirror's: the next attempt is the registry's own.
    pub(crate) fn distrust_mirrors(&self, repository: &ImageRef) {
        self.endpoints.rest(repository.domain(), None);
    }

    /// Whether the next request for something of a repository may be answered by a mirror.
    pub fn has_mirrors(&self, repository: &ImageRef) -> bool {
        !self.endpoints.mirrors(repository.domain()).is_empty()
    }

    async fn part<S: BlobSink>(&self, request: &Request<'_>, wanted: &Descriptor, transfer: &mut Transfer, sink: &mut S) -> Result<()> {
        if transfer.done == wanted.size && transfer.done > 0 {
            return Ok(());
        }
        let mut response = self.get(request).await.map_err(|error| match error {
            Error::Status { status: 404, .. } => {
                Error::BlobUnknown { repository: request.repository.familiar_name(), digest: wanted.digest.clone() }
            }
            other => other,
        })?;
        let mut skip = skipped(&response, request)?;
        let broken = |source: reqwest::Error| Error::Request { method: "Get", url: request.path.clone(), source: source.without_url() };
        while let Some(mut chunk) = response.chunk().await.map_err(broken)? {
            if skip > 0 {
                let len = chunk.len().min(usize::try_from(skip).unwrap_or(usize::MAX));
                skip -= len as u64;
                let _ = chunk.split_to(len);
            }
            if chunk.is_empty() {
                continue;
            }
            let done = transfer.done + chunk.len() as u64;
            if done > wanted.size {
                return Err(size_mismatch(request, wanted, done));
            }
            transfer.hasher.update(&chunk);
            transfer.done = done;
            sink.write(chunk).await.map_err(|source| Error::Sink { digest: wanted.digest.clone(), source })?;
        }
        match transfer.done == wanted.size {
            true => Ok(()),
            false => Err(size_mismatch(request, wanted, transfer.done)),
        }
    }
}

/// How many bytes of the answer are known already: all before the offset when the registry does not serve parts.
fn skipped(response: &Response, request: &Request<'_>) -> Result<u64> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(request.offset);
    }
    let range = response.headers().get(reqwest::header::CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let start = range.strip_prefix("bytes ").and_then(|range| range.split_once('-')).and_then(|(start, _)| start.parse::<u64>().ok());
    match start {
        Some(start) if start == request.offset => Ok(0),
        _ => Err(answer_error(request, &format!("it sends the range {range:?} instead of what follows byte {}", request.offset))),
    }
}

fn size_mismatch(request: &Request<'_>, wanted: &Descriptor, found: u64) -> Error {
    Error::SizeMismatch {
        subject: "blob",
        digest: wanted.digest.clone(),
        repository: request.repository.familiar_name(),
        expected: wanted.size,
        found,
    }
}

//! Uploads: blobs that are there already, mounted from another repository or sent in chunks, and manifests.

use bytes::{Bytes, BytesMut};
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RANGE};
use reqwest::{Method, Response, StatusCode, Url};
use types::{Digest, ImageRef};

use crate::client::{ATTEMPTS_MAX, Purpose, Request, answer_error, backoff};
use crate::{Credentials, Document, Error, Registry, Result};

/// How much of a blob goes out in one request; a blob up to this size goes in one.
const CHUNK_LEN: usize = 4 << 20;

/// How an upload begins.
#[derive(Debug)]
pub enum Begun<'r> {
    /// The registry had the blob in the other repository.
    Mounted,
    /// It must be sent.
    Upload(Box<Upload<'r>>),
}

/// A blob that is being sent.
#[derive(Debug)]
pub struct Upload<'r> {
    registry: &'r Registry,
    repository: ImageRef,
    credentials: Option<Credentials>,
    location: Url,
    /// What the registry has confirmed.
    sent: u64,
    held: BytesMut,
}

impl Registry {
    /// Whether a repository has a blob.
    pub async fn has_blob(&self, repository: &ImageRef, digest: &Digest, credentials: Option<&Credentials>) -> Result<bool> {
        let subject = format!("look for blob {digest}");
        let request = Request { method: Method::HEAD, ..push(repository, format!("blobs/{digest}"), subject, None, credentials) };
        match self.get(&request).await {
            Ok(_) => Ok(true),
            Err(Error::Status { status: 404, .. } | Error::NameUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Begins an upload, or mounts the blob from another repository of the same registry.
    pub async fn begin_upload(
        &self,
        repository: &ImageRef,
        mount: Option<(&Digest, &ImageRef)>,
        credentials: Option<&Credentials>,
    ) -> Result<Begun<'_>> {
        let path = match mount {
            Some((digest, from)) => format!("blobs/uploads/?mount={digest}&from={}", from.path()),
            None => "blobs/uploads/".to_owned(),
        };
        let from = mount.map(|(_, from)| from);
        let request = Request { method: Method::POST, ..push(repository, path, "begin an upload".to_owned(), from, credentials) };
        let response = self.get(&request).await?;
        match response.status() {
            StatusCode::CREATED if mount.is_some() => Ok(Begun::Mounted),
            StatusCode::ACCEPTED => Ok(Begun::Upload(Box::new(Upload {
                registry: self,
                repository: repository.clone(),
                credentials: credentials.cloned(),
                location: location(&response, &request)?,
                sent: 0,
                held: BytesMut::new(),
            }))),
            other => Err(answer_error(&request, &format!("it neither accepts nor refuses an upload: {other}"))),
        }
    }

    /// Gives a manifest or an index to a repository, under a tag or only under its digest.
    pub async fn put_manifest(
        &self,
        repository: &ImageRef,
        tag: Option<&str>,
        document: &Document,
        credentials: Option<&Credentials>,
    ) -> Result<()> {
        let digest = &document.descriptor.digest;
        let name = tag.map_or_else(|| digest.to_string(), str::to_owned);
        let plain = push(repository, format!("manifests/{name}"), format!("put manifest {digest}"), None, credentials);
        let body = Bytes::copy_from_slice(&document.bytes);
        let mut request = Request { method: Method::PUT, body, ..plain };
        add(&mut request, CONTENT_TYPE, &document.descriptor.media_type)?;
        let response = self.get(&request).await?;
        let told = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()?.parse::<Digest>().ok());
        match told {
            Some(found) if found != *digest => Err(Error::DigestMismatch {
                subject: "the manifest that was stored",
                repository: repository.familiar_name(),
                expected: digest.clone(),
                found,
            }),
            _ => Ok(()),
        }
    }

    /// Sends a small blob that is at hand as a whole.
    pub async fn put_blob(&self, repository: &ImageRef, digest: &Digest, bytes: Bytes, credentials: Option<&Credentials>) -> Result<()> {
        let mut attempt = 1;
        loop {
            let sent = match self.begin_upload(repository, None, credentials).await? {
                Begun::Upload(mut upload) => match upload.write(bytes.clone()).await {
                    Ok(()) => upload.finish(digest).await,
                    Err(error) => Err(error),
                },
                Begun::Mounted => Ok(()),
            };
            match sent {
                Err(error) if may_pass(&error) && attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }
}

impl Upload<'_> {
    /// Takes the next bytes.
    pub async fn write(&mut self, bytes: Bytes) -> Result<()> {
        self.held.extend_from_slice(&bytes);
        while self.held.len() > CHUNK_LEN {
            let chunk = self.held.split_to(CHUNK_LEN).freeze();
            self.chunk(chunk).await?;
        }
        Ok(())
    }

    /// Sends what is left; the registry has the blob then, and has verified its digest.
    pub async fn finish(mut self, digest: &Digest) -> Result<()> {
        let rest = self.held.split().freeze();
        // What has begun in chunks ends in a chunk: only those can be taken up again.
        let body = match self.sent {
            0 => rest,
            _ => {
                self.chunk(rest).await?;
                Bytes::new()
            }
        };
        let mut location = self.location.clone();
        location.query_pairs_mut().append_pair("digest", &digest.to_string());
        let mut attempt = 1;
        loop {
            let error = match self.send(Method::PUT, location.clone(), body.clone(), None).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if !may_pass(&error) || attempt >= ATTEMPTS_MAX {
                return Err(self.lost(error));
            }
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
            // The answer may have been lost rather than the request.
            if self.registry.has_blob(&self.repository, digest, self.credentials.as_ref()).await.unwrap_or(false) {
                return Ok(());
            }
        }
    }

    /// Gives it up; the registry would do that by itself after a while.
    pub async fn cancel(self) {
        let _ = self.send(Method::DELETE, self.location.clone(), Bytes::new(), None).await;
    }

    /// Sends a chunk, and what is missing of it again where the connection breaks.
    async fn chunk(&mut self, mut bytes: Bytes) -> Result<()> {
        let mut attempt = 1;
        while !bytes.is_empty() {
            let range = format!("{}-{}", self.sent, self.sent + bytes.len() as u64 - 1);
            let error = match self.send(Method::PATCH, self.location.clone(), bytes.clone(), Some(range)).await {
                Ok(next) => {
                    self.location = next;
                    self.sent += bytes.len() as u64;
                    return Ok(());
                }
                Err(error) => error,
            };
            // 416: it has more, or less, than was thought.
            let is_misplaced = matches!(error, Error::Status { status: 416, .. });
            if !(is_misplaced || may_pass(&error)) || attempt >= ATTEMPTS_MAX {
                return Err(self.lost(error));
            }
            tracing::debug!(error = %types::error::chain(&error), sent = self.sent, "an upload broke and is taken up again");
            tokio::time::sleep(backoff(attempt)).await;
            attempt += 1;
            self.look(&mut bytes).await?;
        }
        Ok(())
    }

    /// Asks how much the registry has, and drops that from what is still to be sent. One that does not answer is asked again after the next attempt.
    async fn look(&mut self, bytes: &mut Bytes) -> Result<()> {
        let subject = "look how far an upload has come".to_owned();
        let plain = push(&self.repository, String::new(), subject, None, self.credentials.as_ref());
        let request = Request { location: Some(self.location.clone()), ..plain };
        let response = match self.registry.get_once(&request).await {
            Ok(response) => response,
            Err(failed) if may_pass(&failed.error) => return Ok(()),
            Err(failed) => return Err(self.lost(failed.error)),
        };
        let range = response.headers().get(RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let end = range.trim_start_matches("bytes=").split_once('-').and_then(|(_, end)| end.parse::<u64>().ok());
        // `0-0` is what registries say of nothing, too.
        let has = end.filter(|end| *end > 0).map_or(0, |end| end + 1);
        let ahead = has.checked_sub(self.sent).and_then(|ahead| usize::try_from(ahead).ok()).filter(|ahead| *ahead <= bytes.len());
        let Some(ahead) = ahead else {
            let message = format!(": it has {has} bytes of {}", self.sent);
            return Err(Error::UploadLost { repository: self.repository.familiar_name(), message });
        };
        if response.headers().contains_key(LOCATION) {
            self.location = location(&response, &request)?;
        }
        self.sent = has;
        let _ = bytes.split_to(ahead);
        Ok(())
    }

    /// One request to the upload's place; answers the next place.
    async fn send(&self, method: Method, to: Url, body: Bytes, range: Option<String>) -> Result<Url> {
        let plain = push(&self.repository, String::new(), "upload a blob".to_owned(), None, self.credentials.as_ref());
        let mut request = Request { method, location: Some(to.clone()), body, ..plain };
        add(&mut request, CONTENT_TYPE, "application/octet-stream")?;
        if let Some(range) = range {
            add(&mut request, CONTENT_RANGE, &range)?;
        }
        let response = self.registry.get_once(&request).await.map_err(|failed| failed.error)?;
        match response.headers().contains_key(LOCATION) && response.status() == StatusCode::ACCEPTED {
            true => location(&response, &request),
            false => Ok(to),
        }
    }

    /// A registry that does not know the upload any more has lost it.
    fn lost(&self, error: Error) -> Error {
        match error {
            Error::Status { status: 404, message, .. } => Error::UploadLost { repository: self.repository.familiar_name(), message },
            other => other,
        }
    }
}

/// Whether an attempt a little later may succeed, even if the registry is being started again.
fn may_pass(error: &Error) -> bool {
    error.is_passing() || matches!(error, Error::Request { source, .. } if source.is_connect())
}

fn push<'a>(
    repository: &'a ImageRef,
    path: String,
    subject: String,
    from: Option<&'a ImageRef>,
    credentials: Option<&'a Credentials>,
) -> Request<'a> {
    Request { purpose: Purpose::Push(from), ..Request::get(repository, path, subject, credentials) }
}

fn add(request: &mut Request<'_>, name: HeaderName, value: &str) -> Result<()> {
    let value = HeaderValue::from_str(value).map_err(|_| answer_error(request, "a header can't be sent"))?;
    let headers: &mut HeaderMap = &mut request.headers;
    headers.insert(name, value);
    Ok(())
}

/// Where an answer says to go on. Never from https to http.
fn location(response: &Response, request: &Request<'_>) -> Result<Url> {
    let text = response.headers().get(LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let next = match text.is_empty() {
        true => None,
        false => response.url().join(text).ok(),
    };
    let next = next.filter(|next| next.scheme() == "https" || (next.scheme() == "http" && response.url().scheme() == "http"));
    next.ok_or_else(|| answer_error(request, &format!("it sends on to {text:?}")))
}

//! Requests: endpoints, authentication, retries, errors.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, Response, StatusCode, Url};
use serde::Deserialize;
use types::ImageRef;

use crate::auth::{Challenge, TokenAnswer, Tokens};
use crate::endpoint::Endpoints;
use crate::{Credentials, Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection on which nothing moves for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 10;
/// How often a request is made that fails for reasons that may pass.
pub(crate) const ATTEMPTS_MAX: u32 = 5;
const BACKOFF_FIRST: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// Error answers and tokens are read up to this length.
const ANSWER_LEN_MAX: usize = 1 << 20;
const MESSAGE_LEN_MAX: usize = 300;

/// How registries are reached.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Registries to which plain HTTP is spoken, besides those on loopback: `host`, `host:port` or an address range `10.0.0.0/8`.
    pub insecure: Vec<String>,
    /// Base URLs of registries that are elsewhere than their domain says.
    pub endpoints: BTreeMap<String, String>,
    /// How the client names itself.
    pub user_agent: String,
}

/// The client. Connections and TLS are set up when the first request is made.
#[derive(Debug)]
pub struct Registry {
    endpoints: Endpoints,
    user_agent: String,
    client: OnceLock<Client>,
    tokens: Tokens,
}

/// A request for something of a repository.
pub(crate) struct Request<'a> {
    pub repository: &'a ImageRef,
    /// Below the repository: `manifests/latest`.
    pub path: String,
    /// What is asked for, for messages.
    pub subject: String,
    pub accept: Option<&'a str>,
    /// From which byte on.
    pub offset: u64,
    pub credentials: Option<&'a Credentials>,
}

impl Registry {
    /// A client that has not connected to anything yet.
    pub fn new(options: Options) -> Self {
        let user_agent =
            if options.user_agent.is_empty() { concat!("cais/", env!("CARGO_PKG_VERSION")).to_owned() } else { options.user_agent };
        Self {
            endpoints: Endpoints { fixed: options.endpoints, insecure: options.insecure },
            user_agent,
            client: OnceLock::new(),
            tokens: Tokens::default(),
        }
    }

    /// Makes a request and authenticates as asked; tries again when that may help.
    pub(crate) async fn get(&self, request: &Request<'_>) -> Result<Response> {
        let mut attempt = 1;
        loop {
            match self.get_once(request).await {
                Ok(response) => return Ok(response),
                Err(failed) if failed.error.is_passing() && attempt < ATTEMPTS_MAX => {
                    let delay = failed.retry_after.unwrap_or_else(|| backoff(attempt));
                    tracing::debug!(error = %types::error::chain(&failed.error), attempt, "a request to a registry is made again");
                    tokio::time::sleep(delay.min(BACKOFF_MAX)).await;
                    attempt += 1;
                }
                Err(failed) => return Err(failed.error),
            }
        }
    }

    async fn get_once(&self, request: &Request<'_>) -> std::result::Result<Response, Failed> {
        let domain = request.repository.domain();
        let url = format!("{}/v2/{}/{}", self.endpoints.base(domain), request.repository.path(), request.path);
        let user = request.credentials.map_or("", |credentials| &credentials.username);
        let key = format!("{} {user}", request.repository.repository());
        let known = self.tokens.get(&key);
        let response = self.send(&url, request, known.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return self.check(response, request).await;
        }
        self.tokens.forget(&key);
        let header = self.authenticate(&response, request, &key).await?;
        let response = self.send(&url, request, Some(&header)).await?;
        self.check(response, request).await
    }

    async fn send(&self, url: &str, request: &Request<'_>, authorization: Option<&str>) -> Result<Response> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = request.accept {
            headers.insert(ACCEPT, header(accept, request)?);
        }
        if let Some(authorization) = authorization {
            let mut value = header(authorization, request)?;
            // Sensitive headers are dropped on redirects to other hosts, and kept out of logs.
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if request.offset > 0 {
            headers.insert(RANGE, header(&format!("bytes={}-", request.offset), request)?);
        }
        let sent = self.client()?.get(url).headers(headers).send().await;
        sent.map_err(|source| Error::Request { url: url.to_owned(), source: source.without_url() })
    }

    /// Answers the `Authorization` header that the challenge asks for.
    async fn authenticate(&self, response: &Response, request: &Request<'_>, key: &str) -> Result<String> {
        let host = request.repository.domain().to_owned();
        let texts: Vec<&str> = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
        let mut challenges: Vec<Challenge> = texts.iter().filter_map(|text| Challenge::parse(text)).collect();
        challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
        match challenges.into_iter().next() {
            Some(Challenge::Bearer { realm, service, scope }) => {
                let scope = scope.unwrap_or_else(|| format!("repository:{}:pull", request.repository.path()));
                let answer = self.token(request, &realm, service.as_deref(), &scope).await?;
                let text = answer.text().ok_or_else(|| answer_error(request, "the token service gave no token"))?;
                let header = format!("Bearer {text}");
                self.tokens.put_token(key, header.clone(), &answer);
                Ok(header)
            }
            Some(Challenge::Basic) => match request.credentials {
                Some(credentials) => {
                    let header = basic(credentials);
                    self.tokens.put(key, header.clone(), None);
                    Ok(header)
                }
                None => {
                    Err(Error::Denied { repository: request.repository.familiar_name(), message: ": no basic auth credentials".to_owned() })
                }
            },
            None => Err(Error::Challenge { host, challenge: texts.join(", ") }),
        }
    }

    async fn token(&self, request: &Request<'_>, realm: &str, service: Option<&str>, scope: &str) -> Result<TokenAnswer> {
        let bad = |reason: &str| Error::Challenge { host: request.repository.domain().to_owned(), challenge: format!("{reason}: {realm}") };
        let mut url = Url::parse(realm).map_err(|_| bad("no URL"))?;
        let domain = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        // A token or password is sent in the clear only where plain HTTP was allowed anyway.
        if url.scheme() != "https" && !(url.scheme() == "http" && self.endpoints.is_insecure(&domain)) {
            return Err(bad("a token service must be reached by https"));
        }
        for (name, value) in [("service", service), ("scope", Some(scope))] {
            if let Some(value) = value {
                url.query_pairs_mut().append_pair(name, value);
            }
        }
        let mut call = self.client()?.get(url);
        if let Some(credentials) = request.credentials {
            call = call.basic_auth(&credentials.username, Some(&credentials.password));
        }
        let response = call.send().await.map_err(|source| Error::Request { url: realm.to_owned(), source: source.without_url() })?;
        let status = response.status();
        let body = read_bounded(response).await.map_err(|source| Error::Request { url: realm.to_owned(), source })?;
        match status {
            StatusCode::OK => {
                serde_json::from_slice(&body).map_err(|error| answer_error(request, &format!("the token service's answer: {error}")))
            }
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                Err(Error::Denied { repository: request.repository.familiar_name(), message: message(&body) })
            }
            other => {
                Err(Error::Status { subject: "fetch a token".to_owned(), host: domain, status: other.as_u16(), message: message(&body) })
            }
        }
    }

    /// Success, or an error in the registry's words.
    async fn check(&self, response: Response, request: &Request<'_>) -> std::result::Result<Response, Failed> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok()).map(Duration::from_secs);
        let body = read_bounded(response).await.unwrap_or_default();
        let answer: ErrorAnswer = serde_json::from_slice(&body).unwrap_or_default();
        let code = answer.errors.first().map_or("", |first| first.code.as_str());
        let message = message(&body);
        let repository = || request.repository.familiar_name();
        let error = match (status, code) {
            (StatusCode::NOT_FOUND, "NAME_UNKNOWN") => Error::NameUnknown { repository: repository(), message },
            (StatusCode::NOT_FOUND, _) if request.path.starts_with("manifests/") => {
                Error::ManifestUnknown { reference: request.subject.clone(), message }
            }
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, "DENIED" | "UNAUTHORIZED" | "") => {
                Error::Denied { repository: repository(), message }
            }
            _ => Error::Status {
                subject: request.subject.clone(),
                host: request.repository.domain().to_owned(),
                status: status.as_u16(),
                message,
            },
        };
        Err(Failed { error, retry_after })
    }

    fn client(&self) -> Result<&Client> {
        if let Some(client) = self.client.get() {
            return Ok(client);
        }
        let client = Client::builder()
            .user_agent(&self.user_agent)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(Policy::custom(|attempt| {
                let downgrade = attempt.previous().last().is_some_and(|last| last.scheme() == "https") && attempt.url().scheme() != "https";
                match attempt.previous().len() > REDIRECTS_MAX || downgrade {
                    true => attempt.error("too many redirects, or one from https to http"),
                    false => attempt.follow(),
                }
            }))
            .build()
            .map_err(Error::Setup)?;
        Ok(self.client.get_or_init(|| client))
    }
}

/// A failed attempt, and when the registry says to come again.
pub(crate) struct Failed {
    error: Error,
    retry_after: Option<Duration>,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, retry_after: None }
    }
}

/// How long to wait before the attempt after this one.
pub(crate) fn backoff(attempt: u32) -> Duration {
    BACKOFF_FIRST.saturating_mul(2u32.saturating_pow(attempt.saturating_sub(1))).min(BACKOFF_MAX)
}

pub(crate) fn answer_error(request: &Request<'_>, reason: &str) -> Error {
    Error::Answer { subject: request.subject.clone(), host: request.repository.domain().to_owned(), reason: reason.to_owned() }
}

fn header(text: &str, request: &Request<'_>) -> Result<HeaderValue> {
    HeaderValue::from_str(text).map_err(|_| answer_error(request, "it can't be sent back in a header"))
}

fn basic(credentials: &Credentials) -> String {
    format!("Basic {}", BASE64.encode(format!("{}:{}", credentials.username, credentials.password)))
}

/// The body up to a bound; what is longer is cut.
pub(crate) async fn read_bounded(mut response: Response) -> std::result::Result<Vec<u8>, reqwest::Error> {
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        body.extend_from_slice(&chunk);
        if body.len() > ANSWER_LEN_MAX {
            break;
        }
    }
    Ok(body)
}

#[derive(Deserialize, Default)]
struct ErrorAnswer {
    #[serde(default)]
    errors: Vec<ErrorEntry>,
}

#[derive(Deserialize)]
struct ErrorEntry {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// What the registry says, after a colon, if it says anything that can be shown.
fn message(body: &[u8]) -> String {
    let answer: ErrorAnswer = serde_json::from_slice(body).unwrap_or_default();
    let said: Vec<String> = answer.errors.iter().filter(|entry| !entry.message.is_empty()).map(|entry| entry.message.clone()).collect();
    let shown: String = said.join("; ").chars().filter(|letter| !letter.is_control()).take(MESSAGE_LEN_MAX).collect();
    if shown.is_empty() { shown } else { format!(": {shown}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_grows_and_is_bounded() {
        assert!(backoff(1) < backoff(2));
        assert_eq!(backoff(100), BACKOFF_MAX);
    }
}

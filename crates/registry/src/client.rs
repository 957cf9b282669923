//! Requests: endpoints, authentication, retries, errors.

use std::collections::BTreeMap;
use std::sync::OnceLock;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER, WWW_AUTHENTICATE};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, Response, StatusCode, Url};
use serde::Deserialize;
use types::ImageRef;
use types::digest::Algorithm;

use crate::auth::{Challenge, TokenAnswer, Tokens};
use crate::endpoint::Endpoints;
use crate::verify::digest_of;
use crate::{Credentials, Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection on which nothing moves for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an upload's answer may take once everything is sent: some registries copy the whole blob then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// An upload of fewer bytes per second is given up.
const UPLOAD_RATE_MIN: u64 = 16 << 10;
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
    uploader: OnceLock<Client>,
    tokens: Tokens,
}

/// What a request is for, which decides what its token must allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose<'a> {
    Pull,
    /// With the repository of the same registry that a blob is to be mounted from.
    Push(Option<&'a ImageRef>),
}

impl Purpose<'_> {
    /// The scopes of a token besides what the registry asks for.
    fn scopes(self, repository: &ImageRef) -> Vec<String> {
        match self {
            Self::Pull => vec![format!("repository:{}:pull", repository.path())],
            Self::Push(from) => {
                let from = from.map(|from| format!("repository:{}:pull", from.path()));
                [format!("repository:{}:pull,push", repository.path())].into_iter().chain(from).collect()
            }
        }
    }
}

/// A request for something of a repository.
pub(crate) struct Request<'a> {
    pub repository: &'a ImageRef,
    pub method: Method,
    pub purpose: Purpose<'a>,
    /// Below the repository: `manifests/latest`.
    pub path: String,
    /// Where to send it instead of to `path`.
    pub location: Option<Url>,
    /// Headers besides, and the body.
    pub headers: HeaderMap,
    pub body: Bytes,
    /// What is asked for, for messages.
    pub subject: String,
    pub accept: Option<&'a str>,
    /// From which byte on.
    pub offset: u64,
    pub credentials: Option<&'a Credentials>,
}

impl<'a> Request<'a> {
    /// Asks for something below a repository.
    pub fn get(repository: &'a ImageRef, path: String, subject: String, credentials: Option<&'a Credentials>) -> Self {
        Self {
            repository,
            method: Method::GET,
            purpose: Purpose::Pull,
            path,
            location: None,
            headers: HeaderMap::new(),
            body: Bytes::new(),
            subject,
            accept: None,
            offset: 0,
            credentials,
        }
    }
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
            uploader: OnceLock::new(),
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

    pub(crate) async fn get_once(&self, request: &Request<'_>) -> std::result::Result<Response, Failed> {
        let domain = request.repository.domain();
        let url = format!("{}/v2/{}/{}", self.endpoints.base(domain), request.repository.path(), request.path);
        let url = request.location.as_ref().map_or(url, Url::to_string);
        let is_elsewhere = request.location.as_ref().is_some_and(|location| !self.is_of_registry(location, domain));
        let key = token_key(request);
        // Who is elsewhere has no business with what this registry lets in.
        let known = if is_elsewhere { None } else { self.tokens.get(&key) };
        let response = self.send(&url, request, known.as_deref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED || is_elsewhere {
            return self.check(response, request).await;
        }
        self.tokens.forget(&key);
        let header = self.authenticate(&response, request, &key).await?;
        let response = self.send(&url, request, Some(&header)).await?;
        self.check(response, request).await
    }

    async fn send(&self, url: &str, request: &Request<'_>, authorization: Option<&str>) -> Result<Response> {
        let mut headers = request.headers.clone();
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
        let call = match request.purpose {
            Purpose::Pull => self.client()?.request(request.method.clone(), url),
            Purpose::Push(_) => {
                let slowest = Duration::from_secs(request.body.len() as u64 / UPLOAD_RATE_MIN);
                self.uploader()?.request(request.method.clone(), url).timeout(ANSWER_TIMEOUT + slowest)
            }
        };
        let sent = call.headers(headers).body(request.body.clone()).send().await;
        sent.map_err(|source| Error::Request { method: word(&request.method), url: shown(url), source: source.without_url() })
    }

    /// Whether a URL is of the host that the registry is.
    fn is_of_registry(&self, url: &Url, domain: &str) -> bool {
        Url::parse(&self.endpoints.base(domain)).is_ok_and(|base| base.origin() == url.origin())
    }

    /// The base URL of a repository's registry.
    pub(crate) fn base(&self, domain: &str) -> String {
        self.endpoints.base(domain)
    }

    /// Answers the `Authorization` header that the challenge asks for.
    async fn authenticate(&self, response: &Response, request: &Request<'_>, key: &str) -> Result<String> {
        let domain = request.repository.domain();
        match challenge(response, domain)? {
            Challenge::Bearer { realm, service, scope } => {
                let mut scopes = request.purpose.scopes(request.repository);
                scopes.extend(scope.filter(|scope| !scopes.contains(scope)));
                let answer = self.token(domain, &realm, service.as_deref(), &scopes, request.credentials).await;
                let answer = answer.map_err(|error| match error {
                    Error::TokenDenied { message, .. } => denied(request, message),
                    other => other,
                })?;
                let text = answer.text().ok_or_else(|| answer_error(request, "the token service gave no token"))?;
                let header = format!("Bearer {text}");
                self.tokens.put_token(key, header.clone(), &answer);
                Ok(header)
            }
            Challenge::Basic => match request.credentials {
                Some(credentials) => {
                    let header = basic(credentials);
                    self.tokens.put(key, header.clone(), None);
                    Ok(header)
                }
                None => Err(denied(request, ": no basic auth credentials".to_owned())),
            },
        }
    }

    /// Asks a token service for a token.
    pub(crate) async fn token(
        &self,
        registry: &str,
        realm: &str,
        service: Option<&str>,
        scopes: &[String],
        credentials: Option<&Credentials>,
    ) -> Result<TokenAnswer> {
        let bad = |reason: &str| Error::Challenge { host: registry.to_owned(), challenge: format!("{reason}: {realm}") };
        let mut url = Url::parse(realm).map_err(|_| bad("no URL"))?;
        let domain = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        // A token or password is sent in the clear only where plain HTTP was allowed anyway.
        if url.scheme() != "https" && !(url.scheme() == "http" && self.endpoints.is_insecure(&domain)) {
            return Err(bad("a token service must be reached by https"));
        }
        for (name, value) in
            service.map(|service| ("service", service)).into_iter().chain(scopes.iter().map(|scope| ("scope", scope.as_str())))
        {
            url.query_pairs_mut().append_pair(name, value);
        }
        let mut call = self.client()?.get(url);
        if let Some(credentials) = credentials {
            call = call.basic_auth(&credentials.username, Some(&credentials.password));
        }
        let failed = |source: reqwest::Error| Error::Request { method: "Get", url: realm.to_owned(), source: source.without_url() };
        let response = call.send().await.map_err(failed)?;
        let status = response.status();
        let body = read_bounded(response).await.map_err(failed)?;
        let subject = "fetch a token".to_owned();
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|error| Error::Answer {
                subject,
                host: domain,
                reason: format!("the token service's answer: {error}"),
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::TokenDenied { host: domain, message: message(&body) }),
            other => Err(Error::Status { subject, host: domain, status: other.as_u16(), message: message(&body) }),
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
            (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, "DENIED" | "UNAUTHORIZED" | "") => denied(request, message),
            _ => Error::Status {
                subject: request.subject.clone(),
                host: request.repository.domain().to_owned(),
                status: status.as_u16(),
                message,
            },
        };
        Err(Failed { error, retry_after })
    }

    /// The connections for everything but uploads.
    pub(crate) fn client(&self) -> Result<&Client> {
        kept(&self.client, || self.builder().read_timeout(STALL_TIMEOUT))
    }

    /// Those for uploads: how long an answer takes depends on how much goes out before it.
    fn uploader(&self) -> Result<&Client> {
        kept(&self.uploader, || self.builder())
    }

    fn builder(&self) -> reqwest::ClientBuilder {
        Client::builder().user_agent(&self.user_agent).connect_timeout(CONNECT_TIMEOUT).pool_idle_timeout(IDLE_TIMEOUT).redirect(
            Policy::custom(|attempt| {
                let downgrade = attempt.previous().last().is_some_and(|last| last.scheme() == "https") && attempt.url().scheme() != "https";
                match attempt.previous().len() > REDIRECTS_MAX || downgrade {
                    true => attempt.error("too many redirects, or one from https to http"),
                    false => attempt.follow(),
                }
            }),
        )
    }
}

fn kept(client: &OnceLock<Client>, builder: impl FnOnce() -> reqwest::ClientBuilder) -> Result<&Client> {
    if let Some(client) = client.get() {
        return Ok(client);
    }
    let made = builder().build().map_err(Error::Setup)?;
    Ok(client.get_or_init(|| made))
}

/// The challenge of an answer that is known here; a token goes before a password.
pub(crate) fn challenge(response: &Response, host: &str) -> Result<Challenge> {
    let texts: Vec<&str> = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut challenges: Vec<Challenge> = texts.iter().filter_map(|text| Challenge::parse(text)).collect();
    challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
    challenges.into_iter().next().ok_or_else(|| Error::Challenge { host: host.to_owned(), challenge: texts.join(", ") })
}

/// Under what a token is kept: whoever gives another password gets no token of this one.
fn token_key(request: &Request<'_>) -> String {
    let user = request.credentials.map(|credentials| {
        let secret = digest_of(Algorithm::Sha256, credentials.password.as_bytes());
        format!("{} {}", credentials.username, secret.hex())
    });
    let purpose = match request.purpose {
        Purpose::Pull => String::new(),
        Purpose::Push(from) => format!("push {}", from.map(ImageRef::repository).unwrap_or_default()),
    };
    format!("{} {} {purpose}", request.repository.repository(), user.unwrap_or_default())
}

fn denied(request: &Request<'_>, message: String) -> Error {
    let repository = request.repository.familiar_name();
    match request.purpose {
        Purpose::Pull => Error::Denied { repository, message },
        Purpose::Push(_) => Error::PushDenied { repository, message },
    }
}

/// A method as Docker's messages have it.
fn word(method: &Method) -> &'static str {
    match *method {
        Method::GET => "Get",
        Method::HEAD => "Head",
        Method::POST => "Post",
        Method::PATCH => "Patch",
        Method::PUT => "Put",
        _ => "Delete",
    }
}

/// A URL for messages; what is asked for may be a secret of the registry's.
fn shown(url: &str) -> String {
    url.split('?').next().unwrap_or_default().to_owned()
}

/// A failed attempt, and when the registry says to come again.
pub(crate) struct Failed {
    pub error: Error,
    pub retry_after: Option<Duration>,
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

pub(crate) fn basic(credentials: &Credentials) -> String {
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
pub(crate) fn message(body: &[u8]) -> String {
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

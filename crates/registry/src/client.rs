//! Requests: where they go, how they are made again, what their failures mean.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{ACCEPT, AUTHORIZATION, HeaderMap, HeaderValue, RANGE, RETRY_AFTER};
use reqwest::{Method, Response, StatusCode, Url};
use serde::Deserialize;
use types::ImageRef;
use types::digest::Algorithm;

use crate::auth::Tokens;
use crate::endpoint::{Endpoints, authority};
use crate::transport::{Call, Proxies, Transport};
use crate::verify::digest_of;
use crate::{Credentials, Error, Result};

/// How long an upload's answer may take once everything is sent: some registries copy the whole blob then.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// An upload of fewer bytes per second is given up.
const UPLOAD_RATE_MIN: u64 = 16 << 10;
/// How long it may take to find out what an insecure registry speaks.
const PROBE_TIMEOUT: Duration = Duration::from_secs(10);
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
    /// Registries whose certificates do not matter and that may speak plain HTTP, besides those on loopback: `host`, `host:port` or an address range `10.0.0.0/8`.
    pub insecure: Vec<String>,
    /// Base URLs of registries that are elsewhere than their domain says.
    pub endpoints: BTreeMap<String, String>,
    /// Base URLs that are asked before a registry itself when something is fetched, by its domain. They are told no password.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Folders with a folder per host, as Docker's `certs.d`: `HOST[:PORT]/ca.crt`, `client.cert`, `client.key`.
    pub certificates: Vec<PathBuf>,
    /// Proxies.
    pub proxies: Proxies,
    /// How the client names itself.
    pub user_agent: String,
}

/// The client. Connections and TLS are set up when the first request is made.
#[derive(Debug)]
pub struct Registry {
    pub(crate) endpoints: Endpoints,
    pub(crate) transport: Transport,
    pub(crate) tokens: Tokens,
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
    pub fn scopes(self, repository: &ImageRef) -> Vec<String> {
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
    /// Whether mirrors are passed by.
    pub direct: bool,
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
            direct: false,
            credentials,
        }
    }
}

impl Registry {
    /// A client that has not connected to anything yet.
    pub fn new(options: Options) -> Self {
        let own = concat!("cais/", env!("CARGO_PKG_VERSION"));
        let user_agent = if options.user_agent.is_empty() { own.to_owned() } else { options.user_agent };
        Self {
            endpoints: Endpoints::new(options.endpoints, options.insecure, options.mirrors),
            transport: Transport::new(user_agent, options.certificates, options.proxies),
            tokens: Tokens::default(),
        }
    }

    /// Makes a request and authenticates as asked; tries again when that may help. What is only read is asked of mirrors first.
    pub(crate) async fn get(&self, request: &Request<'_>) -> Result<Response> {
        if request.purpose == Purpose::Pull && !request.direct {
            for mirror in self.endpoints.mirrors(request.repository.domain()) {
                match self.get_from(request, Some(&mirror)).await {
                    Ok(response) => return Ok(response),
                    Err(failed) => {
                        tracing::debug!(error = %types::error::chain(&failed.error), mirror, "a mirror does not have it");
                        if !failed.error.is_answer() {
                            self.endpoints.rest(request.repository.domain(), Some(&mirror));
                        }
                    }
                }
            }
        }
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
        self.get_from(request, None).await
    }

    async fn get_from(&self, request: &Request<'_>, mirror: Option<&str>) -> std::result::Result<Response, Failed> {
        let domain = request.repository.domain();
        let base = match mirror {
            Some(mirror) => mirror.to_owned(),
            None => self.settled_base(domain).await?,
        };
        let url = match &request.location {
            Some(location) => location.clone(),
            None => parse_url(&format!("{base}/v2/{}/{}", request.repository.path(), request.path), domain)?,
        };
        let is_elsewhere = mirror.is_none() && request.location.as_ref().is_some_and(|location| !self.is_of_registry(location, domain));
        // A mirror is no business of the user's at the registry.
        let credentials = request.credentials.filter(|_| mirror.is_none());
        let key = token_key(request, credentials, mirror);
        // Who is elsewhere has no business with what this registry lets in.
        let known = if is_elsewhere { None } else { self.tokens.get(&key) };
        let response = self.send(&url, request, known.as_deref()).await.inspect_err(|_| self.endpoints.forget(domain))?;
        if response.status() != StatusCode::UNAUTHORIZED || is_elsewhere {
            return self.check(response, request).await;
        }
        self.tokens.forget(&key);
        let header = self.authenticate(&response, request, credentials, &key).await?;
        let response = self.send(&url, request, Some(&header)).await?;
        self.check(response, request).await
    }

    async fn send(&self, url: &Url, request: &Request<'_>, authorization: Option<&str>) -> Result<Response> {
        let mut headers = request.headers.clone();
        if let Some(accept) = request.accept {
            headers.insert(ACCEPT, header(accept, request)?);
        }
        if let Some(authorization) = authorization {
            let mut value = header(authorization, request)?;
            // Kept out of logs.
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        if request.offset > 0 {
            headers.insert(RANGE, header(&format!("bytes={}-", request.offset), request)?);
        }
        let timeout = match request.purpose {
            Purpose::Pull => None,
            // How long an answer takes depends on how much goes out before it.
            Purpose::Push(_) => Some(ANSWER_TIMEOUT + Duration::from_secs(request.body.len() as u64 / UPLOAD_RATE_MIN)),
        };
        let call = Call {
            method: request.method.clone(),
            url: url.clone(),
            headers,
            body: request.body.clone(),
            timeout,
            blind: self.is_blind(&authority(url)),
        };
        self.transport.send(call).await
    }

    /// A call of the registry's that is about no repository.
    pub(crate) async fn knock(&self, url: Url, authorization: Option<String>) -> Result<Response> {
        let mut call = Call { blind: self.is_blind(&authority(&url)), ..Call::get(url) };
        if let Some(mut value) = authorization.and_then(|text| HeaderValue::from_str(&text).ok()) {
            value.set_sensitive(true);
            call.headers.insert(AUTHORIZATION, value);
        }
        self.transport.send(call).await
    }

    /// Whether a host's certificate does not matter. On loopback that is so unless somebody has put an authority there.
    pub(crate) fn is_blind(&self, host: &str) -> bool {
        let plain = host.strip_suffix(":443").unwrap_or(host);
        self.endpoints.is_listed(host) || (self.endpoints.is_insecure(plain) && self.transport.folder(host).is_none())
    }

    /// Whether a URL is of the host that the registry is.
    fn is_of_registry(&self, url: &Url, domain: &str) -> bool {
        Url::parse(&self.endpoints.base(domain)).is_ok_and(|base| base.origin() == url.origin())
    }

    /// The base URL of a registry; what an insecure one speaks is found out first, without telling it any secret.
    pub(crate) async fn settled_base(&self, domain: &str) -> Result<String> {
        for (scheme, base) in self.endpoints.untried(domain) {
            let url = parse_url(&format!("{base}/v2/"), domain)?;
            let blind = self.is_blind(&authority(&url));
            let answer = self.transport.send(Call { timeout: Some(PROBE_TIMEOUT), blind, ..Call::get(url) }).await;
            if let Err(error @ Error::Certificate { .. }) = answer {
                return Err(error);
            }
            // A server that expects TLS tells a plain request that it is a bad one, or nothing at all.
            let fits = answer.as_ref().is_ok_and(|answer| answer.status() != StatusCode::BAD_REQUEST && answer.url().scheme() == scheme);
            let is_judged = answer.as_ref().is_err_and(Error::is_certificate);
            if fits || is_judged {
                self.endpoints.learn(domain, scheme);
                break;
            }
        }
        Ok(self.endpoints.base(domain))
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
}

/// Under what a token is kept: whoever gives another password gets no token of this one.
fn token_key(request: &Request<'_>, credentials: Option<&Credentials>, mirror: Option<&str>) -> String {
    let user = credentials.map(|credentials| {
        let secrets = format!("{}\0{}\0{}", credentials.password, credentials.identity_token, credentials.registry_token);
        let secret = digest_of(Algorithm::Sha256, secrets.as_bytes());
        format!("{} {}", credentials.username, secret.hex())
    });
    let purpose = match request.purpose {
        Purpose::Pull => String::new(),
        Purpose::Push(from) => format!("push {}", from.map(ImageRef::repository).unwrap_or_default()),
    };
    format!("{} {} {purpose} {}", request.repository.repository(), user.unwrap_or_default(), mirror.unwrap_or_default())
}

pub(crate) fn denied(request: &Request<'_>, message: String) -> Error {
    let repository = request.repository.familiar_name();
    match request.purpose {
        Purpose::Pull => Error::Denied { repository, message },
        Purpose::Push(_) => Error::PushDenied { repository, message },
    }
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

/// A URL that was put together here.
pub(crate) fn parse_url(text: &str, host: &str) -> Result<Url> {
    Url::parse(text).map_err(|error| Error::Answer { subject: text.to_owned(), host: host.to_owned(), reason: error.to_string() })
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

//! Authentication: what a challenge asks for is fetched from the token service, or made of the password.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD as BASE64;
use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderValue, WWW_AUTHENTICATE};
use reqwest::{Method, Response, StatusCode, Url};

use crate::auth::{Challenge, TokenAnswer};
use crate::client::{ATTEMPTS_MAX, Request, answer_error, backoff, denied, message, read_bounded};
use crate::endpoint::authority;
use crate::transport::Call;
use crate::{Credentials, Error, Registry, Result};

/// How the client names itself to token services.
const CLIENT_ID: &str = "cais";

/// What a token is asked for.
pub(crate) struct Wanted<'a> {
    /// The registry, for messages.
    pub registry: &'a str,
    pub realm: &'a str,
    pub service: Option<&'a str>,
    pub scopes: &'a [String],
    pub credentials: Option<&'a Credentials>,
    /// Whether something is wanted that stands for the password from now on.
    pub identity: bool,
}

impl Registry {
    /// Answers the `Authorization` header that the challenge asks for.
    pub(crate) async fn authenticate(
        &self,
        response: &Response,
        request: &Request<'_>,
        credentials: Option<&Credentials>,
        key: &str,
    ) -> Result<String> {
        let domain = request.repository.domain();
        if let Some(given) = credentials.filter(|credentials| !credentials.registry_token.is_empty()) {
            return Ok(format!("Bearer {}", given.registry_token));
        }
        match challenge(response, domain)? {
            Challenge::Bearer { realm, service, scope } => {
                let mut scopes = request.purpose.scopes(request.repository);
                scopes.extend(scope.filter(|scope| !scopes.contains(scope)));
                let wanted =
                    Wanted { registry: domain, realm: &realm, service: service.as_deref(), scopes: &scopes, credentials, identity: false };
                let answer = self.token(&wanted).await.map_err(|error| match error {
                    Error::TokenDenied { message, .. } => denied(request, message),
                    other => other,
                })?;
                let text = answer.text().ok_or_else(|| answer_error(request, "the token service gave no token"))?;
                let header = format!("Bearer {text}");
                self.tokens.put_token(key, header.clone(), &answer);
                Ok(header)
            }
            Challenge::Basic => match credentials.filter(|credentials| !credentials.password.is_empty()) {
                Some(credentials) => {
                    let header = basic(credentials);
                    self.tokens.put(key, header.clone(), None);
                    Ok(header)
                }
                None => Err(denied(request, ": no basic auth credentials".to_owned())),
            },
        }
    }

    /// Asks a token service for a token; again, where it is only busy.
    pub(crate) async fn token(&self, wanted: &Wanted<'_>) -> Result<TokenAnswer> {
        let mut attempt = 1;
        loop {
            match self.token_once(wanted).await {
                Err(error) if error.is_passing() && attempt < ATTEMPTS_MAX => {
                    tokio::time::sleep(backoff(attempt)).await;
                    attempt += 1;
                }
                done => return done,
            }
        }
    }

    async fn token_once(&self, wanted: &Wanted<'_>) -> Result<TokenAnswer> {
        let bad = |reason: &str| Error::Challenge { host: wanted.registry.to_owned(), challenge: format!("{reason}: {}", wanted.realm) };
        let url = Url::parse(wanted.realm).map_err(|_| bad("no URL"))?;
        let host = match (url.host_str(), url.port()) {
            (Some(host), Some(port)) => format!("{host}:{port}"),
            (host, _) => host.unwrap_or_default().to_owned(),
        };
        // A token or password is sent in the clear only where plain HTTP was allowed anyway.
        if url.scheme() != "https" && !(url.scheme() == "http" && self.endpoints.is_insecure(&host)) {
            return Err(bad("a token service must be reached by https"));
        }
        let blind = self.is_blind(&authority(&url));
        let response = self.transport.send(Call { blind, ..call(url, wanted) }).await?;
        let status = response.status();
        let body = read_bounded(response).await.map_err(|source| Error::Request {
            method: "Get",
            url: wanted.realm.to_owned(),
            source: source.without_url(),
        })?;
        let subject = "fetch a token".to_owned();
        match status {
            StatusCode::OK => serde_json::from_slice(&body).map_err(|error| Error::Answer {
                subject,
                host,
                reason: format!("the token service's answer: {error}"),
            }),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::TokenDenied { host, message: message(&body) }),
            // An identity token that is none any more.
            StatusCode::BAD_REQUEST if is_refresh(wanted) => Err(Error::TokenDenied { host, message: message(&body) }),
            other => Err(Error::Status { subject, host, status: other.as_u16(), message: message(&body) }),
        }
    }
}

fn is_refresh(wanted: &Wanted<'_>) -> bool {
    wanted.credentials.is_some_and(|credentials| !credentials.identity_token.is_empty())
}

/// The request: by OAuth's form with an identity token, else as the token specification has it.
fn call(mut url: Url, wanted: &Wanted<'_>) -> Call {
    if let Some(credentials) = wanted.credentials.filter(|credentials| !credentials.identity_token.is_empty()) {
        // The query of a URL is encoded as a form is.
        let mut form = url.clone();
        let scope = wanted.scopes.join(" ");
        form.query_pairs_mut()
            .clear()
            .append_pair("grant_type", "refresh_token")
            .append_pair("refresh_token", &credentials.identity_token)
            .append_pair("service", wanted.service.unwrap_or_default())
            .append_pair("client_id", CLIENT_ID)
            .append_pair("scope", &scope);
        let body = Bytes::from(form.query().unwrap_or_default().to_owned());
        let mut call = Call { method: Method::POST, body, ..Call::get(url) };
        call.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        return call;
    }
    {
        let mut pairs = url.query_pairs_mut();
        if let Some(service) = wanted.service {
            pairs.append_pair("service", service);
        }
        for scope in wanted.scopes {
            pairs.append_pair("scope", scope);
        }
        if let Some(credentials) = wanted.credentials.filter(|_| wanted.identity) {
            pairs.append_pair("offline_token", "true").append_pair("client_id", CLIENT_ID).append_pair("account", &credentials.username);
        }
    }
    let mut call = Call::get(url);
    if let Some(mut value) = wanted.credentials.and_then(|credentials| HeaderValue::from_str(&basic(credentials)).ok()) {
        value.set_sensitive(true);
        call.headers.insert(AUTHORIZATION, value);
    }
    call
}

/// The challenge of an answer that is known here; a token goes before a password.
pub(crate) fn challenge(response: &Response, host: &str) -> Result<Challenge> {
    let texts: Vec<&str> = response.headers().get_all(WWW_AUTHENTICATE).iter().filter_map(|value| value.to_str().ok()).collect();
    let mut challenges: Vec<Challenge> = texts.iter().filter_map(|text| Challenge::parse(text)).collect();
    challenges.sort_by_key(|challenge| *challenge == Challenge::Basic);
    challenges.into_iter().next().ok_or_else(|| Error::Challenge { host: host.to_owned(), challenge: texts.join(", ") })
}

pub(crate) fn basic(credentials: &Credentials) -> String {
    format!("Basic {}", BASE64.encode(format!("{}:{}", credentials.username, credentials.password)))
}

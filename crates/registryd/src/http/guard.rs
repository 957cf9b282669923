//! Who may pass: callers are told apart, rights are asked, and who may not is told how to log in.

use std::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper::header::{self, HeaderMap, HeaderName};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};
use serde_json::json;

use super::reply::{Code, Outcome, Refusal, Reply};
use super::route::{Query, Target, is_reading};
use super::{App, blocking};
use crate::auth::{Access, Action, Caller, Grant, Scheme, TOKEN_TIME};
use crate::name::RepositoryName;

const REALM: &str = "cais registry";
/// Scopes that one token may have.
const SCOPES_MAX: usize = 100;
/// How long who guesses passwords has to wait.
const LOCKED_SECONDS: &str = "60";
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

/// What a request needs: a right to one repository, or to be somebody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Need<'a> {
    Right(&'a RepositoryName, Action),
    /// Any user; nobody in particular only where pulling is free for all.
    Login,
}

impl Target {
    pub(super) fn need(&self, method: &Method) -> Need<'_> {
        let reading = is_reading(method);
        match self {
            Self::Base | Self::Catalog => Need::Login,
            Self::Tags(name) | Self::Referrers(name, _) => Need::Right(name, Action::Pull),
            Self::Blob(name, _) | Self::Manifest(name, _) => match *method {
                _ if reading => Need::Right(name, Action::Pull),
                Method::DELETE => Need::Right(name, Action::Delete),
                _ => Need::Right(name, Action::Push),
            },
            Self::Uploads(name) | Self::Upload(name, _) => Need::Right(name, Action::Push),
        }
    }
}

impl App {
    /// Who asks, by the `Authorization` header. Wrong credentials are refused, also where none are needed.
    pub(super) async fn caller(&self, headers: &HeaderMap, peer: IpAddr) -> Result<Caller, Refusal> {
        if !self.auth.is_on() {
            return Ok(Caller::Anonymous);
        }
        let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(Caller::Anonymous) };
        let wrong = || Refusal::new(Code::Unauthorized, "these credentials are not right");
        let (scheme, rest) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(wrong)?;
        if scheme.eq_ignore_ascii_case("bearer") {
            let grant = self.auth.keys().read(rest.trim());
            return grant.map(Caller::Token).ok_or_else(|| Refusal::new(Code::Unauthorized, "the token is not right, or has ended"));
        }
        if !scheme.eq_ignore_ascii_case("basic") {
            return Err(wrong());
        }
        let decoded = STANDARD.decode(rest.trim()).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let (name, password) = decoded.as_deref().and_then(|text| text.split_once(':')).ok_or_else(wrong)?;
        if self.auth.is_locked(peer) {
            let refusal = Refusal::new(Code::TooManyRequests, "too many wrong passwords came from this address");
            return Err(refusal.with(header::RETRY_AFTER, LOCKED_SECONDS));
        }
        let (auth, name, password) = (self.auth.clone(), name.to_owned(), password.to_owned());
        let wanted = name.clone();
        match blocking(move || auth.login(&wanted, &password)).await? {
            true => Ok(Caller::User(name)),
            false => {
                self.auth.failed(peer);
                tracing::warn!(%peer, user = name, "a login failed");
                Err(wrong())
            }
        }
    }

    /// Lets a caller pass or says why not.
    pub(super) fn check(&self, caller: &Caller, need: &Need<'_>) -> Result<(), Refusal> {
        match need {
            _ if !self.auth.is_on() => Ok(()),
            Need::Login if caller.name().is_some() || self.auth.anonymous_pull() => Ok(()),
            // A token for nobody in particular got here through the service.
            Need::Login if matches!(caller, Caller::Token(_)) => Ok(()),
            Need::Right(repository, action) if self.auth.allows(caller, repository, *action) => Ok(()),
            Need::Login => Err(Refusal::new(Code::Unauthorized, "log in first")),
            Need::Right(repository, action) => {
                let message = format!("{} of {repository} is not allowed", action.word());
                // More could be had by another user, or by a token for this; a user who gave the password can do no more.
                match caller {
                    Caller::User(_) => Err(Refusal::new(Code::Denied, message)),
                    _ => Err(Refusal::new(Code::Unauthorized, message)),
                }
            }
        }
    }

    /// Tells who was refused how to log in.
    pub(super) fn challenged(&self, refusal: Refusal, head: &Parts, need: Option<&Need<'_>>, secure: bool) -> Refusal {
        if !refusal.wants_login() {
            return refusal;
        }
        let challenge = match self.auth.scheme() {
            Scheme::Basic => format!("Basic realm=\"{REALM}\""),
            Scheme::Token => {
                let scope = match need {
                    Some(Need::Right(name, Action::Push)) => format!(",scope=\"repository:{name}:pull,push\""),
                    Some(Need::Right(name, action)) => format!(",scope=\"repository:{name}:{}\"", action.word()),
                    _ => String::new(),
                };
                format!("Bearer realm=\"{}/token\",service=\"{REALM}\"{scope}", self.base_url(head, secure))
            }
        };
        refusal.with(header::WWW_AUTHENTICATE, challenge)
    }

    /// Where the client finds this registry: as configured, or as it says itself.
    fn base_url(&self, head: &Parts, secure: bool) -> String {
        if let Some(url) = self.auth.public_url() {
            return url.trim_end_matches('/').to_owned();
        }
        let text = |name: HeaderName| head.headers.get(name).and_then(|value| value.to_str().ok());
        let is_host =
            |host: &&str| host.bytes().all(|letter| letter.is_ascii_alphanumeric() || matches!(letter, b'.' | b'-' | b':' | b'[' | b']'));
        let host = text(header::HOST).filter(is_host).unwrap_or("localhost");
        let scheme = if secure || text(FORWARDED_PROTO) == Some("https") { "https" } else { "http" };
        format!("{scheme}://{host}")
    }

    /// `GET /token`: a token for what the caller may do of what it asks for.
    pub(super) async fn token(&self, head: &Parts, caller: &Caller) -> Outcome {
        if head.method != Method::GET {
            return Err(Refusal::method(&head.method, "GET"));
        }
        if !self.auth.is_on() {
            return Err(Refusal::new(Code::Unsupported, "this registry knows no users").status(StatusCode::NOT_FOUND));
        }
        let user = match caller {
            Caller::User(name) => Some(name.clone()),
            Caller::Anonymous => None,
            Caller::Token(_) => return Err(Refusal::new(Code::Unauthorized, "a token is got with name and password")),
        };
        let query = Query::of(head);
        let scopes = query.all("scope").flat_map(|scopes| scopes.split(' ')).filter_map(Access::parse).take(SCOPES_MAX);
        let access = scopes.filter_map(|scope| self.granted(user.as_deref(), scope)).collect();
        let grant = Grant::new(user, access);
        let token = self.auth.keys().sign(&grant);
        let issued = jiff::Timestamp::from_second(grant.issued).map(|moment| moment.to_string()).unwrap_or_default();
        let answer = json!({ "token": token, "access_token": token, "expires_in": TOKEN_TIME.as_secs(), "issued_at": issued });
        Ok(Reply::json(StatusCode::OK, &answer).with(header::CACHE_CONTROL, "no-store"))
    }

    fn granted(&self, user: Option<&str>, mut scope: Access) -> Option<Access> {
        if scope.kind != "repository" {
            // The catalog shows to each who asks what they may pull.
            return (scope.kind == "registry" && scope.name == "catalog" && user.is_some()).then_some(scope);
        }
        let repository = RepositoryName::parse(&scope.name)?;
        if scope.actions.iter().any(|word| word == "*") {
            scope.actions = [Action::Pull, Action::Push, Action::Delete].map(|action| action.word().to_owned()).to_vec();
        }
        scope.actions.retain(|word| word.parse().is_ok_and(|action| self.auth.has_right(user, &repository, action)));
        (!scope.actions.is_empty()).then_some(scope)
    }
}

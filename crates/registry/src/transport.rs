//! Connections: one set per way of trusting a host, proxies, and redirects, which are followed here so that each hop is trusted (and told secrets) on its own account.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{AUTHORIZATION, HeaderMap, LOCATION};
use reqwest::redirect::Policy;
use reqwest::{Client, Method, NoProxy, Proxy, Response, StatusCode, Url};

use crate::endpoint::authority;
use crate::{Error, Result};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection on which nothing moves for so long is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);
const IDLE_TIMEOUT: Duration = Duration::from_secs(30);
const REDIRECTS_MAX: usize = 10;
const CERTIFICATES_MAX: usize = 64;
/// Never reached through a proxy.
const LOCAL: &str = "localhost,127.0.0.0/8,::1";

/// The proxies through which registries are reached; each as a URL.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Proxies {
    /// For `http` URLs.
    pub http: Option<String>,
    /// For `https` URLs.
    pub https: Option<String>,
    /// Hosts, domains and address ranges that are reached directly, separated by commas.
    pub none: Option<String>,
}

impl Proxies {
    /// What is not given here comes from the environment: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY` and the same in small letters.
    pub fn or_environment(self) -> Self {
        let of = |names: [&str; 2]| names.into_iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()));
        Self {
            http: self.http.or_else(|| of(["HTTP_PROXY", "http_proxy"])),
            https: self.https.or_else(|| of(["HTTPS_PROXY", "https_proxy"])),
            none: self.none.or_else(|| of(["NO_PROXY", "no_proxy"])),
        }
    }
}

/// How a host's certificate is judged.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Trust {
    /// Not at all: there is none, or nobody cares.
    Blind,
    /// By the system's authorities.
    System,
    /// Also by those of a folder, whose state this tells; with its client certificates, too.
    Folder(PathBuf, Vec<(PathBuf, u64, u128)>),
}

/// All connections.
#[derive(Debug)]
pub(crate) struct Transport {
    pub user_agent: String,
    /// Folders with one folder per host: `HOST[:PORT]/*.crt` are authorities, `*.cert` with `*.key` what the client shows.
    pub certificates: Vec<PathBuf>,
    pub proxies: Proxies,
    clients: Mutex<HashMap<(Trust, bool), Client>>,
}

/// One call, before it is known where it ends.
pub(crate) struct Call {
    pub method: Method,
    pub url: Url,
    pub headers: HeaderMap,
    pub body: Bytes,
    /// Until the answer begins; without it a connection may be silent for some time only.
    pub timeout: Option<Duration>,
    /// Whether the first host's certificate does not matter.
    pub blind: bool,
}

impl Call {
    pub fn get(url: Url) -> Self {
        Self { method: Method::GET, url, headers: HeaderMap::new(), body: Bytes::new(), timeout: None, blind: false }
    }
}

impl Transport {
    pub fn new(user_agent: String, certificates: Vec<PathBuf>, proxies: Proxies) -> Self {
        Self { user_agent, certificates, proxies, clients: Mutex::default() }
    }

    /// Makes a call and follows redirects. Whoever a redirect names gets no secret that was meant for another.
    pub async fn send(&self, call: Call) -> Result<Response> {
        let (mut url, mut headers, mut blind) = (call.url.clone(), call.headers.clone(), call.blind);
        for _ in 0..=REDIRECTS_MAX {
            let client = self.client(&url, call.timeout.is_some(), blind)?;
            let mut request = client.request(call.method.clone(), url.clone()).headers(headers.clone()).body(call.body.clone());
            if let Some(timeout) = call.timeout {
                request = request.timeout(timeout);
            }
            let response = request.send().await.map_err(|source| Error::Request {
                method: word(&call.method),
                url: shown(&url),
                source: source.without_url(),
            })?;
            let Some(next) = redirected(&response, &call.method) else { return Ok(response) };
            let refused = |reason: &str| Error::Redirect { url: shown(&url), to: next.clone(), reason: reason.to_owned() };
            let to = url.join(&next).map_err(|_| refused("that is no address"))?;
            if url.scheme() == "https" && to.scheme() != "https" || !matches!(to.scheme(), "http" | "https") {
                return Err(refused("a protected connection may not continue in the clear"));
            }
            if to.origin() != url.origin() {
                headers.remove(AUTHORIZATION);
                blind = false;
            }
            url = to;
        }
        Err(Error::Redirect { url: shown(&call.url), to: shown(&url), reason: format!("that is more than {REDIRECTS_MAX} redirects") })
    }

    /// The connections that fit a URL. Those that take an answer's whole time into account have no limit of silence.
    fn client(&self, url: &Url, timed: bool, blind: bool) -> Result<Client> {
        let trust = match url.scheme() {
            "https" if !blind => self.trust(&authority(url))?,
            _ => Trust::Blind,
        };
        let key = (trust, timed);
        let mut clients = self.clients.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = clients.get(&key) {
            return Ok(client.clone());
        }
        let client = self.build(&key.0, timed)?;
        // Of a folder that has changed, what it was before is of no use.
        if let Trust::Folder(folder, _) = &key.0 {
            clients.retain(|(trust, _), _| !matches!(trust, Trust::Folder(held, state) if held == folder && Trust::Folder(held.clone(), state.clone()) != key.0));
        }
        clients.insert(key, client.clone());
        Ok(client)
    }

    fn trust(&self, host: &str) -> Result<Trust> {
        match self.folder(host) {
            Some(folder) => files(&folder).map(|state| Trust::Folder(folder, state)),
            None => Ok(Trust::System),
        }
    }

    /// The folder with the certificates of `host:port`.
    pub fn folder(&self, host: &str) -> Option<PathBuf> {
        let names = [host.strip_suffix(":443").unwrap_or(host), host];
        self.certificates.iter().flat_map(|base| names.map(|name| base.join(name))).find(|folder| folder.is_dir())
    }

    fn build(&self, trust: &Trust, timed: bool) -> Result<Client> {
        let mut builder = Client::builder()
            .user_agent(&self.user_agent)
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_idle_timeout(IDLE_TIMEOUT)
            .redirect(Policy::none())
            .no_proxy();
        if !timed {
            builder = builder.read_timeout(STALL_TIMEOUT);
        }
        let except = [Some(LOCAL), self.proxies.none.as_deref()].into_iter().flatten().collect::<Vec<_>>().join(",");
        for (address, is_https) in [(&self.proxies.http, false), (&self.proxies.https, true)] {
            if let Some(address) = address {
                let proxy = if is_https { Proxy::https(address.as_str()) } else { Proxy::http(address.as_str()) };
                let proxy = proxy.map_err(|_| Error::Proxy { proxy: without_secret(address) })?;
                builder = builder.proxy(proxy.no_proxy(NoProxy::from_string(&except)));
            }
        }
        builder = match trust {
            Trust::Blind => builder.tls_danger_accept_invalid_certs(true),
            Trust::System => builder,
            Trust::Folder(folder, state) => builder.tls_backend_preconfigured(crate::tls::settings(folder, state)?),
        };
        builder.build().map_err(Error::Setup)
    }
}

/// The files of a host's folder: path, length and time of change.
fn files(folder: &Path) -> Result<Vec<(PathBuf, u64, u128)>> {
    let fail = |error: std::io::Error| Error::Certificate { path: folder.to_owned(), reason: error.to_string() };
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(fail)? {
        let path = entry.map_err(fail)?.path();
        // Secrets are often mounted as links.
        let Ok(metadata) = std::fs::metadata(&path) else { continue };
        let changed = metadata.modified().ok().and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
        if metadata.is_file() {
            found.push((path, metadata.len(), changed.map_or(0, |time| time.as_nanos())));
        }
    }
    found.sort();
    match found.len() > CERTIFICATES_MAX {
        true => Err(Error::Certificate { path: folder.to_owned(), reason: format!("there are more than {CERTIFICATES_MAX} files") }),
        false => Ok(found),
    }
}

/// Where an answer sends on to. What would become another request (a POST that turns into a GET) is an answer of its own.
fn redirected(response: &Response, method: &Method) -> Option<String> {
    let status = response.status();
    let follows = match status {
        StatusCode::MOVED_PERMANENTLY | StatusCode::FOUND | StatusCode::SEE_OTHER => matches!(*method, Method::GET | Method::HEAD),
        StatusCode::TEMPORARY_REDIRECT | StatusCode::PERMANENT_REDIRECT => true,
        _ => false,
    };
    let location = response.headers().get(LOCATION)?.to_str().ok()?;
    follows.then(|| location.to_owned())
}

/// A method as Docker's messages have it.
pub(crate) fn word(method: &Method) -> &'static str {
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
pub(crate) fn shown(url: &Url) -> String {
    let mut url = url.clone();
    url.set_query(None);
    // Neither fails on http and https.
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

/// A proxy's address without its password.
fn without_secret(address: &str) -> String {
    address.rsplit_once('@').map_or_else(|| address.to_owned(), |(_, host)| format!("…@{host}"))
}

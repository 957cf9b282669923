//! The protocol: requests in, answers out.

mod access;
mod blobs;
mod body;
mod connection;
mod guard;
mod lists;
mod manifests;
mod metrics;
mod reply;
mod route;
mod uploads;
mod web;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use tokio::sync::Semaphore;

use crate::Result;
use crate::auth::{Action, Auth, AuthOptions, Caller};
use crate::limit::Limiter;
use crate::name::RepositoryName;
use crate::pattern::Pattern;
use crate::store::{Collection, Store};
use crate::tls::Tls;
use guard::Need;
use metrics::Metrics;
use reply::{Code, Outcome, Refusal, Reply};
use route::Target;

pub use access::AccessLog;
pub use connection::serve;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const DOCKER_API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// A client that sends or takes nothing for so long is cut off.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a request waits for another that writes to the same upload.
const UPLOAD_WAIT: Duration = Duration::from_secs(15);

/// Files that are written ahead at a time: more would only hold up each other.
const WRITE_BACKS_MAX: usize = 4;

/// How a registry is served.
#[derive(Debug, Clone)]
pub struct Options {
    /// Whether an index may name manifests that the repository does not have.
    pub sparse_indexes: bool,
    /// The largest blob.
    pub blob_bytes_max: u64,
    /// What repositories may hold: the first pattern that fits counts.
    pub quotas: Vec<(Pattern, u64)>,
    /// How long transfers may go on when the server stops.
    pub grace: Duration,
    /// Whether nothing may be changed.
    pub read_only: bool,
    /// Requests per second from one address.
    pub rate: Option<u32>,
    /// Whether others than this machine may read the metrics.
    pub open_metrics: bool,
    /// Who may do what.
    pub auth: AuthOptions,
    /// How often is collected, and what.
    pub collection: Option<(Duration, Collection)>,
}

/// What a registry is served with besides.
#[derive(Debug, Default)]
pub struct Surroundings {
    /// The certificate; without one it speaks plain HTTP.
    pub tls: Option<Tls>,
    /// Where access is logged.
    pub access_log: Option<Arc<AccessLog>>,
}

/// Paths beside the protocol's, as metrics name them.
const PLAIN_ROUTES: [&str; 4] = ["/healthz", "/metrics", "/token", "/ui/"];
/// 64 GiB.
const BLOB_BYTES_MAX_DEFAULT: u64 = 64 << 30;
const GRACE_DEFAULT: Duration = Duration::from_secs(30);

impl Default for Options {
    fn default() -> Self {
        Self {
            sparse_indexes: false,
            blob_bytes_max: BLOB_BYTES_MAX_DEFAULT,
            quotas: Vec::new(),
            grace: GRACE_DEFAULT,
            read_only: false,
            rate: None,
            open_metrics: false,
            auth: AuthOptions::default(),
            collection: None,
        }
    }
}

impl Options {
    fn quota(&self, repository: &RepositoryName) -> Option<u64> {
        self.quotas.iter().find(|(pattern, _)| pattern.fits(repository)).map(|(_, bytes)| *bytes)
    }
}

/// What every request needs.
#[derive(Debug)]
struct App {
    store: Arc<Store>,
    options: Options,
    auth: Arc<Auth>,
    limiter: Option<Limiter>,
    metrics: Arc<Metrics>,
    access_log: Option<Arc<AccessLog>>,
    /// Files that are written to the disk ahead of their end.
    write_backs: Arc<Semaphore>,
}

/// What is told about an answered request.
struct Answered {
    reply: Reply,
    route: &'static str,
    user: Option<String>,
}

impl App {
    fn new(store: Arc<Store>, options: Options, access_log: Option<Arc<AccessLog>>) -> Result<Self> {
        let auth = Arc::new(Auth::open(options.auth.clone(), store.root())?);
        let limiter = options.rate.map(Limiter::new);
        let write_backs = Arc::new(Semaphore::new(WRITE_BACKS_MAX));
        Ok(Self { store, options, auth, limiter, metrics: Arc::default(), access_log, write_backs })
    }

    /// Answers a request.
    async fn answer(&self, head: &Parts, body: Incoming, peer: IpAddr, secure: bool) -> Answered {
        let path = head.uri.path();
        let mut user = None;
        let target = match path {
            "/v2" => Some(Target::parse(path)),
            path if path.starts_with("/v2/") => Some(Target::parse(path)),
            _ => None,
        };
        let route = match &target {
            Some(Ok(target)) => target.word(),
            Some(Err(_)) => "none",
            None => PLAIN_ROUTES.into_iter().find(|known| path.starts_with(known)).unwrap_or(if path == "/" { "/" } else { "none" }),
        };
        let outcome = self.admitted(head, body, peer, secure, target, &mut user).await;
        let reply = outcome.unwrap_or_else(|refusal| {
            if refusal.is_fault() {
                tracing::debug!(method = %head.method, path, message = refusal.message(), "a request failed");
            }
            refusal.into()
        });
        Answered { reply: reply.with(DOCKER_API_VERSION, "registry/2.0"), route, user }
    }

    async fn admitted(
        &self,
        head: &Parts,
        body: Incoming,
        peer: IpAddr,
        secure: bool,
        target: Option<std::result::Result<Target, Refusal>>,
        user: &mut Option<String>,
    ) -> Outcome {
        let path = head.uri.path();
        if path == "/healthz" {
            return self.health(head).await;
        }
        if let Some(Err(wait)) = self.limiter.as_ref().map(|limiter| limiter.take(peer, Instant::now())) {
            let refusal = Refusal::new(Code::TooManyRequests, "too many requests come from this address");
            return Err(refusal.with(header::RETRY_AFTER, wait.as_secs().saturating_add(1).to_string()));
        }
        let caller = self.caller(&head.headers, peer).await;
        let caller = caller.map_err(|refusal| self.challenged(refusal, head, None, secure))?;
        *user = caller.name().map(str::to_owned);
        match (path, target) {
            ("/metrics", _) if self.options.open_metrics || peer.to_canonical().is_loopback() => {
                lists::reading(head)?;
                let page = self.metrics.page(self.store.uploads().count());
                Ok(Reply::new(StatusCode::OK).bytes(metrics::CONTENT_TYPE, page))
            }
            ("/token", _) => self.token(head, &caller).await,
            (_, Some(target)) => {
                let target = target?;
                let need = target.need(&head.method);
                self.check(&caller, &need).map_err(|refusal| self.challenged(refusal, head, Some(&need), secure))?;
                if self.options.read_only && !matches!(need, Need::Login | Need::Right(_, Action::Pull)) {
                    return Err(Refusal::new(Code::Unsupported, "this registry is read-only"));
                }
                self.dispatch(head, body, &caller, target).await
            }
            ("/", _) => web::handle(self, head, &caller).await.map_err(for_browsers),
            (path, _) if path.starts_with("/ui/") => web::handle(self, head, &caller).await.map_err(for_browsers),
            _ => Err(Refusal::new(Code::Unsupported, "there is nothing at this path").status(StatusCode::NOT_FOUND)),
        }
    }

    async fn dispatch(&self, head: &Parts, body: Incoming, caller: &Caller, target: Target) -> Outcome {
        match target {
            Target::Base => {
                lists::reading(head)?;
                Ok(Reply::json(StatusCode::OK, &serde_json::json!({})))
            }
            Target::Catalog => lists::catalog(self, head, caller).await,
            Target::Tags(repository) => lists::tags(self, head, repository).await,
            Target::Referrers(repository, digest) => lists::referrers(self, head, repository, digest).await,
            Target::Blob(repository, digest) => blobs::handle(self, head, repository, digest).await,
            Target::Manifest(repository, reference) => manifests::handle(self, head, body, repository, reference).await,
            Target::Uploads(repository) => uploads::begin(self, head, body, caller, repository).await,
            Target::Upload(repository, id) => uploads::handle(self, head, body, repository, id).await,
        }
    }

    /// Whether the folder can be read: for load balancers and service managers.
    async fn health(&self, head: &Parts) -> Outcome {
        lists::reading(head)?;
        let store = self.store.clone();
        blocking(move || store.repositories(None, 1)).await?;
        Ok(Reply::new(StatusCode::OK).bytes("text/plain; charset=utf-8", "ok\n"))
    }
}

/// Browsers ask for name and password themselves.
fn for_browsers(refusal: Refusal) -> Refusal {
    match refusal.wants_login() {
        true => refusal.with(header::WWW_AUTHENTICATE, "Basic realm=\"cais registry\""),
        false => refusal,
    }
}

/// Runs what waits for the disk away from the threads that serve. It runs to its end also when the client has gone.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> std::result::Result<T, Refusal> {
    finished(tokio::task::spawn_blocking(work)).await
}

/// The outcome of such work.
async fn finished<T>(task: tokio::task::JoinHandle<Result<T>>) -> std::result::Result<T, Refusal> {
    match task.await {
        Ok(outcome) => outcome.map_err(Refusal::from),
        Err(error) => {
            tracing::error!(%error, "a request's own task failed");
            Err(Refusal::new(Code::Unknown, "the registry failed; its log says why"))
        }
    }
}

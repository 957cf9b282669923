//! The protocol: requests in, answers out.

mod blobs;
mod body;
mod connection;
mod lists;
mod manifests;
mod metrics;
mod reply;
mod route;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::HeaderName;
use hyper::http::request::Parts;

use crate::Result;
use crate::name::RepositoryName;
use crate::pattern::Pattern;
use crate::store::Store;
use metrics::Metrics;
use reply::{Code, Outcome, Refusal, Reply};
use route::Target;

pub use connection::serve;

const DOCKER_CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const DOCKER_API_VERSION: HeaderName = HeaderName::from_static("docker-distribution-api-version");
/// A client that sends or takes nothing for so long is cut off.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long a request waits for another that writes to the same upload.
const UPLOAD_WAIT: Duration = Duration::from_secs(15);

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
}

/// 64 GiB.
const BLOB_BYTES_MAX_DEFAULT: u64 = 64 << 30;
const GRACE_DEFAULT: Duration = Duration::from_secs(30);

impl Default for Options {
    fn default() -> Self {
        Self { sparse_indexes: false, blob_bytes_max: BLOB_BYTES_MAX_DEFAULT, quotas: Vec::new(), grace: GRACE_DEFAULT }
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
    metrics: Arc<Metrics>,
}

impl App {
    /// Answers a request.
    async fn answer(&self, head: &Parts, body: Incoming) -> Reply {
        let reply = self.dispatch(head, body).await.unwrap_or_else(|refusal| {
            if refusal.is_fault() {
                tracing::debug!(method = %head.method, path = head.uri.path(), message = refusal.message(), "a request failed");
            }
            refusal.into()
        });
        reply.with(DOCKER_API_VERSION, "registry/2.0")
    }

    async fn dispatch(&self, head: &Parts, body: Incoming) -> Outcome {
        match Target::parse(head.uri.path())? {
            Target::Base => {
                lists::reading(head)?;
                Ok(Reply::json(StatusCode::OK, &serde_json::json!({})))
            }
            Target::Catalog => lists::catalog(self, head).await,
            Target::Tags(repository) => lists::tags(self, head, repository).await,
            Target::Referrers(repository, digest) => lists::referrers(self, head, repository, digest).await,
            Target::Blob(repository, digest) => blobs::handle(self, head, repository, digest).await,
            Target::Manifest(repository, reference) => manifests::handle(self, head, body, repository, reference).await,
            Target::Uploads(repository) => uploads::begin(self, head, body, repository).await,
            Target::Upload(repository, id) => uploads::handle(self, head, body, repository, id).await,
        }
    }
}

/// Runs what waits for the disk away from the threads that serve. It runs to its end also when the client has gone.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> std::result::Result<T, Refusal> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(Refusal::from),
        Err(error) => {
            tracing::error!(%error, "a request's own task failed");
            Err(Refusal::new(Code::Unknown, "the registry failed; its log says why"))
        }
    }
}

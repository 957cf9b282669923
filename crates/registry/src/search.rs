//! Searching: the old index API, which Docker Hub still serves.

use serde::Deserialize;
use types::reference::DEFAULT_DOMAIN;

use crate::client::{message, parse_url, read_bounded};
use crate::token::basic;
use crate::{Credentials, Error, Registry, Result};

/// Who searches for the default registry.
const DEFAULT_INDEX: &str = "https://index.docker.io";
/// The index gives no more at once.
const LIMIT_MAX: usize = 100;

/// One repository that was found.
#[derive(Debug, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(default)]
pub struct Found {
    /// Its name, as it is pulled.
    pub name: String,
    /// What its owner says of it.
    pub description: String,
    /// How many people like it.
    pub star_count: u64,
    /// Whether the registry's owner stands for it.
    pub is_official: bool,
    /// Whether it was built by the registry.
    pub is_automated: bool,
}

#[derive(Deserialize)]
struct Answer {
    #[serde(default)]
    results: Option<Vec<Found>>,
}

impl Registry {
    /// Searches the index of a registry, given by its domain. `limit` repositories at most, 100 being the most that an index gives.
    pub async fn search(&self, domain: &str, term: &str, limit: usize, credentials: Option<&Credentials>) -> Result<Vec<Found>> {
        let is_elsewhere = self.endpoints.fixed.contains_key(domain);
        let base = match domain == DEFAULT_DOMAIN && !is_elsewhere {
            true => DEFAULT_INDEX.to_owned(),
            false => self.settled_base(domain).await?,
        };
        let mut url = parse_url(&format!("{base}/v1/search"), domain)?;
        url.query_pairs_mut().append_pair("q", term).append_pair("n", &limit.clamp(1, LIMIT_MAX).to_string());
        let authorization = credentials.filter(|credentials| !credentials.password.is_empty()).map(basic);
        let response = self.knock(url, authorization).await?;
        let status = response.status();
        let subject = || format!("search for {term:?}");
        let body =
            read_bounded(response).await.map_err(|source| Error::Request { method: "Get", url: base, source: source.without_url() })?;
        match status.as_u16() {
            200 => {
                let answer: Answer = serde_json::from_slice(&body).map_err(|_| Error::NoSearch { host: domain.to_owned() })?;
                Ok(answer.results.unwrap_or_default())
            }
            404 | 405 | 501 => Err(Error::NoSearch { host: domain.to_owned() }),
            status => Err(Error::Status { subject: subject(), host: domain.to_owned(), status, message: message(&body) }),
        }
    }
}

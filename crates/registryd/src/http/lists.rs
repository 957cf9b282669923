//! Lists: tags, repositories, referrers, in pages that are linked.

use hyper::StatusCode;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use serde_json::{Value, json};
use types::Digest;
use types::image::media_type;

use super::reply::{Code, Outcome, Refusal, Reply};
use super::route::{Query, is_reading};
use super::{App, blocking};
use crate::auth::{Action, Caller};
use crate::name::RepositoryName;
use crate::store::{Page, Referrer};

/// The most entries of one page, whatever is asked for.
const TAGS_PAGE_MAX: usize = 10_000;
const REPOSITORIES_PAGE_MAX: usize = 1000;
const REFERRERS_PAGE_MAX: usize = 500;
const OCI_FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// `GET /v2/<name>/tags/list`
pub(super) async fn tags(app: &App, head: &Parts, repository: RepositoryName) -> Outcome {
    reading(head)?;
    let query = Query::of(head);
    let limit = limit(&query, TAGS_PAGE_MAX)?;
    let (store, name, last) = (app.store.clone(), repository.clone(), query.get("last").map(str::to_owned));
    let page = blocking(move || store.tags(&name, last.as_deref(), limit)).await?;
    let page = page.ok_or_else(|| {
        let refusal = Refusal::new(Code::NameUnknown, "there is no such repository");
        refusal.detail(json!({ "name": repository.as_str() }))
    })?;
    let next = page
        .items
        .last()
        .filter(|_| page.more)
        .map(|last| link(&format!("/v2/{repository}/tags/list"), &[("n", &limit.to_string()), ("last", last)]));
    Ok(linked(Reply::json(StatusCode::OK, &json!({ "name": repository.as_str(), "tags": page.items })), next))
}

/// `GET /v2/_catalog`: what the caller may pull.
pub(super) async fn catalog(app: &App, head: &Parts, caller: &Caller) -> Outcome {
    reading(head)?;
    let query = Query::of(head);
    let limit = limit(&query, REPOSITORIES_PAGE_MAX)?;
    let page = app.visible(caller, query.get("last").map(str::to_owned), limit).await?;
    let next = page.items.last().filter(|_| page.more).map(|last| link("/v2/_catalog", &[("n", &limit.to_string()), ("last", last)]));
    Ok(linked(Reply::json(StatusCode::OK, &json!({ "repositories": page.items })), next))
}

impl App {
    /// The repositories after `last` that the caller may pull.
    pub(super) async fn visible(&self, caller: &Caller, last: Option<String>, limit: usize) -> Result<Page<String>, Refusal> {
        let user = caller.name().map(str::to_owned);
        let (store, auth) = (self.store.clone(), self.auth.clone());
        let page = blocking(move || {
            let may_see = |name: &String| {
                let name = RepositoryName::parse(name);
                !auth.is_on() || name.is_some_and(|name| auth.has_right(user.as_deref(), &name, Action::Pull))
            };
            let (mut items, mut last) = (Vec::new(), last);
            loop {
                let page = store.repositories(last.as_deref(), REPOSITORIES_PAGE_MAX)?;
                last = page.items.last().cloned();
                items.extend(page.items.into_iter().filter(may_see));
                if !page.more || items.len() > limit {
                    let more = items.len() > limit;
                    items.truncate(limit);
                    return Ok(Page { items, more });
                }
            }
        });
        page.await
    }
}

/// `GET /v2/<name>/referrers/<digest>`. A subject that is not there has no referrers; that is no error.
pub(super) async fn referrers(app: &App, head: &Parts, repository: RepositoryName, subject: Digest) -> Outcome {
    reading(head)?;
    let query = Query::of(head);
    let limit = limit(&query, REFERRERS_PAGE_MAX)?;
    let kind = query.get("artifactType").filter(|kind| !kind.is_empty()).map(str::to_owned);
    let last = query.get("last").map(str::to_owned);
    let (store, name, wanted, filter) = (app.store.clone(), repository.clone(), subject.clone(), kind.clone());
    let page = blocking(move || store.referrers(&name, &wanted, filter.as_deref(), last.as_deref(), limit)).await?;
    let next = page.items.last().filter(|_| page.more).map(|last| {
        let (limit, last) = (limit.to_string(), last.info.digest.to_string());
        let mut parameters = vec![("n", limit.as_str()), ("last", last.as_str())];
        parameters.extend(kind.as_deref().map(|kind| ("artifactType", kind)));
        link(&format!("/v2/{repository}/referrers/{subject}"), &parameters)
    });
    let index = json!({
        "schemaVersion": 2,
        "mediaType": media_type::OCI_INDEX,
        "manifests": page.items.into_iter().map(descriptor).collect::<Vec<_>>(),
    });
    let reply = Reply::new(StatusCode::OK).bytes(media_type::OCI_INDEX, format!("{index}\n"));
    let reply = if kind.is_some() { reply.with(OCI_FILTERS_APPLIED, "artifactType") } else { reply };
    Ok(linked(reply, next))
}

fn descriptor(referrer: Referrer) -> Value {
    let info = referrer.info;
    let mut descriptor = json!({ "mediaType": info.media_type, "digest": info.digest.to_string(), "size": info.size });
    if let Some(kind) = referrer.artifact_type {
        descriptor["artifactType"] = kind.into();
    }
    if let Some(annotations) = referrer.annotations.and_then(|text| serde_json::from_str::<Value>(&text).ok()) {
        descriptor["annotations"] = annotations;
    }
    descriptor
}

/// What only has answers to reading.
pub(super) fn reading(head: &Parts) -> Result<(), Refusal> {
    if is_reading(&head.method) { Ok(()) } else { Err(Refusal::method(&head.method, "GET, HEAD")) }
}

fn limit(query: &Query, most: usize) -> Result<usize, Refusal> {
    let Some(text) = query.get("n") else { return Ok(most) };
    match text.parse::<u64>() {
        Ok(number) => Ok(usize::try_from(number).unwrap_or(most).min(most)),
        Err(_) => Err(Refusal::new(Code::PaginationNumberInvalid, format!("n={text:.40} is no number of entries"))),
    }
}

/// A relative link of RFC 5988.
fn link(path: &str, parameters: &[(&str, &str)]) -> String {
    let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
    format!("<{path}?{query}>; rel=\"next\"")
}

fn linked(reply: Reply, next: Option<String>) -> Reply {
    match next {
        Some(next) => reply.with(header::LINK, next),
        None => reply,
    }
}

//! A few pages for people: repositories, tags, layers and their sizes. No script, nothing loaded from anywhere.

use std::fmt::Write as _;

use hyper::StatusCode;
use hyper::header::{self, HeaderName};
use hyper::http::request::Parts;
use serde_json::Value;

use super::reply::{Code, Outcome, Refusal, Reply};
use super::route::Query;
use super::{App, blocking, lists};
use crate::auth::{Action, Caller};
use crate::manifest::MANIFEST_BYTES_MAX;
use crate::name::{RepositoryName, is_tag};

const CONTENT_SECURITY_POLICY: HeaderName = HeaderName::from_static("content-security-policy");
/// Entries of one page.
const PAGE_LEN: usize = 200;
const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;background:#fff}\
    a{color:#0b5cad}table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #ddd;\
    vertical-align:top}td.n,th.n{text-align:right}code{font-size:.85em;word-break:break-all}\
    @media(prefers-color-scheme:dark){body{color:#ddd;background:#16191d}a{color:#7db8f0}th,td{border-color:#333}}";

/// `/` and `/ui/…`.
pub(super) async fn handle(app: &App, head: &Parts, caller: &Caller) -> Outcome {
    lists::reading(head)?;
    let query = Query::of(head);
    let last = query.get("last").map(str::to_owned);
    let rest = head.uri.path().strip_prefix("/ui/").unwrap_or_default();
    match (rest, rest.rsplit_once(':').or_else(|| rest.rsplit_once('@'))) {
        ("", _) => repositories(app, caller, last).await,
        (_, Some(_)) => {
            let (name, reference) = rest.split_once('@').or_else(|| rest.split_once(':')).unwrap_or_default();
            manifest(app, caller, &named(name)?, reference).await
        }
        (name, None) => tags(app, caller, &named(name)?, last).await,
    }
}

fn named(text: &str) -> Result<RepositoryName, Refusal> {
    RepositoryName::parse(text).ok_or_else(absent)
}

fn absent() -> Refusal {
    Refusal::new(Code::NameUnknown, "there is nothing at this path")
}

fn may_see(app: &App, caller: &Caller, name: &RepositoryName) -> Result<(), Refusal> {
    match (app.auth.allows(caller, name, Action::Pull), caller.name()) {
        (true, _) => Ok(()),
        (false, None) => Err(Refusal::new(Code::Unauthorized, "log in first")),
        (false, Some(_)) => Err(absent()),
    }
}

async fn repositories(app: &App, caller: &Caller, last: Option<String>) -> Outcome {
    if app.auth.is_on() && !app.auth.anonymous_pull() && caller.name().is_none() {
        return Err(Refusal::new(Code::Unauthorized, "log in first"));
    }
    let page = app.visible(caller, last, PAGE_LEN).await?;
    let mut rows = String::new();
    for name in &page.items {
        let _ = write!(rows, "<tr><td><a href=\"/ui/{name}\">{name}</a></td></tr>", name = escaped(name));
    }
    let next = page.items.last().filter(|_| page.more).map(|last| format!("/?last={}", encoded(last)));
    Ok(shown("Repositories", &table(&["Repository"], &rows, "Nothing was pushed here yet."), next))
}

async fn tags(app: &App, caller: &Caller, name: &RepositoryName, last: Option<String>) -> Outcome {
    may_see(app, caller, name)?;
    let (store, wanted) = (app.store.clone(), name.clone());
    let page = blocking(move || store.tags_in_full(&wanted, last.as_deref(), PAGE_LEN)).await?.ok_or_else(absent)?;
    let mut rows = String::new();
    for tag in &page.items {
        let _ = write!(
            rows,
            "<tr><td><a href=\"/ui/{name}:{tag}\">{tag}</a></td><td><code>{digest}</code></td><td class=n>{size}</td><td>{updated}</td></tr>",
            name = escaped(name.as_str()),
            tag = escaped(&tag.name),
            digest = escaped(&tag.digest),
            size = size(tag.size),
            updated = escaped(&moment(tag.updated)),
        );
    }
    let next = page.items.last().filter(|_| page.more).map(|last| format!("/ui/{name}?last={}", encoded(&last.name)));
    let body = table(&["Tag", "Digest", "Size", "Pushed"], &rows, "No manifest of this repository has a tag.");
    Ok(shown(name.as_str(), &body, next))
}

async fn manifest(app: &App, caller: &Caller, name: &RepositoryName, reference: &str) -> Outcome {
    may_see(app, caller, name)?;
    if !is_tag(reference) && reference.parse::<types::Digest>().is_err() {
        return Err(absent());
    }
    let (store, wanted, text) = (app.store.clone(), name.clone(), reference.to_owned());
    let found = blocking(move || {
        let Some(info) = store.manifest(&wanted, &text)? else { return Ok(None) };
        Ok(store.read_content(&info.digest, MANIFEST_BYTES_MAX)?.map(|bytes| (info, bytes)))
    });
    let (info, bytes) = found.await?.ok_or_else(absent)?;
    let document: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let mut body =
        format!("<p>{} of {} bytes<br><code>{}</code></p>", escaped(&info.media_type), info.size, escaped(&info.digest.to_string()));
    let parts = |key: &str| document[key].as_array().cloned().unwrap_or_default();
    let mut rows = String::new();
    for part in parts("manifests") {
        let digest = escaped(part["digest"].as_str().unwrap_or_default());
        let platform: Vec<_> = ["os", "architecture", "variant"].iter().filter_map(|key| part["platform"][key].as_str()).collect();
        let _ = write!(
            rows,
            "<tr><td><a href=\"/ui/{}@{digest}\"><code>{digest}</code></a></td><td>{}</td><td class=n>{}</td></tr>",
            escaped(name.as_str()),
            escaped(&platform.join("/")),
            size(part["size"].as_u64().unwrap_or(0)),
        );
    }
    if !rows.is_empty() {
        body += &table(&["Manifest", "Platform", "Size"], &rows, "");
    }
    let mut rows = String::new();
    let mut total = 0;
    let config = std::iter::once(document["config"].clone()).filter(Value::is_object);
    for part in config.chain(parts("layers")) {
        let bytes = part["size"].as_u64().unwrap_or(0);
        total += bytes;
        let _ = write!(
            rows,
            "<tr><td><code>{}</code></td><td>{}</td><td class=n>{}</td></tr>",
            escaped(part["digest"].as_str().unwrap_or_default()),
            escaped(part["mediaType"].as_str().unwrap_or_default()),
            size(bytes),
        );
    }
    if !rows.is_empty() {
        let _ = write!(rows, "<tr><th>Together</th><th></th><th class=n>{}</th></tr>", size(total));
        body += &table(&["Layer", "Type", "Size"], &rows, "");
    }
    let separator = if reference.contains(':') { '@' } else { ':' };
    Ok(shown(&format!("{name}{separator}{reference}"), &body, None))
}

fn table(heads: &[&str], rows: &str, empty: &str) -> String {
    if rows.is_empty() {
        return format!("<p>{empty}</p>");
    }
    let heads: String = heads.iter().map(|head| format!("<th{}>{head}</th>", if *head == "Size" { " class=n" } else { "" })).collect();
    format!("<table><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>")
}

fn shown(title: &str, body: &str, next: Option<String>) -> Reply {
    let title = escaped(title);
    let next = next.map(|next| format!("<p><a href=\"{}\">More</a></p>", escaped(&next))).unwrap_or_default();
    let page = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{title}</title>\
         <style>{STYLE}</style><body><p><a href=\"/\">Registry</a></p><h1>{title}</h1>{body}{next}</body></html>\n"
    );
    Reply::new(StatusCode::OK)
        .bytes("text/html; charset=utf-8", page)
        .with(CONTENT_SECURITY_POLICY, "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'; base-uri 'none'")
        .with(header::X_CONTENT_TYPE_OPTIONS, "nosniff")
        .with(header::CACHE_CONTROL, "no-store")
}

/// What comes from clients is text, never markup.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            other => safe.push(other),
        }
    }
    safe
}

fn encoded(text: &str) -> String {
    form_urlencoded::byte_serialize(text.as_bytes()).collect()
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1000.0 && unit + 1 < UNITS.len() {
        value /= 1000.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}

fn moment(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).map(|moment| moment.strftime("%Y-%m-%d %H:%M UTC").to_string()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_stays_text() {
        assert_eq!(escaped("<a href=\"x\">&'"), "&lt;a href=&quot;x&quot;&gt;&amp;&#39;");
        assert_eq!((size(999), size(1000), size(12_345_678)), ("999 B".to_owned(), "1.0 kB".to_owned(), "12.3 MB".to_owned()));
    }
}

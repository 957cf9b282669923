//! The tags of a repository.

use reqwest::Url;
use reqwest::header::LINK;
use serde::Deserialize;
use types::ImageRef;

use crate::client::{Request, answer_error};
use crate::{Credentials, Error, Registry, Result};

/// A repository with more tags is not listed whole.
const TAGS_MAX: usize = 100_000;
const PAGE_LEN_MAX: usize = 8 << 20;
const PAGES_MAX: usize = 1000;

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    tags: Option<Vec<String>>,
}

impl Registry {
    /// All tags of a repository, as the registry orders them.
    pub async fn tags(&self, repository: &ImageRef, credentials: Option<&Credentials>) -> Result<Vec<String>> {
        let subject = || format!("list the tags of {}", repository.familiar_name());
        let mut request = Request::get(repository, "tags/list".to_owned(), subject(), credentials);
        let mut tags: Vec<String> = Vec::new();
        for _ in 0..PAGES_MAX {
            let mut response = self.get(&request).await?;
            let next = next_page(&response);
            let mut bytes = Vec::new();
            let broken = |source: reqwest::Error| Error::Request { method: "Get", url: subject(), source: source.without_url() };
            while let Some(chunk) = response.chunk().await.map_err(broken)? {
                bytes.extend_from_slice(&chunk);
                if bytes.len() > PAGE_LEN_MAX {
                    return Err(answer_error(&request, "the list is too long"));
                }
            }
            let page: Page = serde_json::from_slice(&bytes).map_err(|error| answer_error(&request, &error.to_string()))?;
            let before = tags.len();
            tags.extend(page.tags.unwrap_or_default());
            if tags.len() > TAGS_MAX {
                return Err(answer_error(&request, &format!("there are more than {TAGS_MAX} tags")));
            }
            match next {
                // A page that brings nothing may lead back to itself.
                Some(next) if tags.len() > before => request.location = Some(next),
                _ => return Ok(tags),
            }
        }
        Err(answer_error(&request, &format!("the list has more than {PAGES_MAX} pages")))
    }
}

/// `Link: <URL>; rel="next"`, on the same host only.
fn next_page(response: &reqwest::Response) -> Option<Url> {
    let link = response.headers().get(LINK)?.to_str().ok()?;
    let (target, rest) = link.strip_prefix('<')?.split_once('>')?;
    let url = response.url().join(target).ok()?;
    (rest.contains("next") && url.origin() == response.url().origin()).then_some(url)
}

//! Files from the web, which builds take: one address, one file, through the same proxies and with the same trust as registries.

use reqwest::StatusCode;
use reqwest::Url;
use reqwest::header::{CONTENT_TYPE, LAST_MODIFIED};

use crate::blob::BlobSink;
use crate::transport::Call;
use crate::{Error, Registry, Result};

/// What a server said of a file that was fetched.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Downloaded {
    /// Its type, without parameters.
    pub content_type: String,
    /// When it was changed last, as the server words it.
    pub last_modified: Option<String>,
    /// Its bytes.
    pub len: u64,
}

impl Registry {
    /// Fetches a file, of so many bytes at most.
    pub async fn download<S: BlobSink>(&self, url: &str, len_max: u64, sink: &mut S) -> Result<Downloaded> {
        let answer = |reason: String| Error::Answer { subject: format!("fetch {url}"), host: String::new(), reason };
        let parsed = Url::parse(url).map_err(|error| answer(error.to_string()))?;
        let host = parsed.host_str().unwrap_or_default().to_owned();
        let mut response = self.transport.send(Call::get(parsed)).await?;
        let status = response.status();
        if status != StatusCode::OK {
            return Err(Error::Status { subject: format!("fetch {url}"), host, status: status.as_u16(), message: String::new() });
        }
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let content_type = header(CONTENT_TYPE).unwrap_or_default();
        let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        let mut downloaded = Downloaded { content_type: essence, last_modified: header(LAST_MODIFIED), len: 0 };
        let failed = |source: reqwest::Error| Error::Request { method: "GET", url: url.to_owned(), source: source.without_url() };
        while let Some(bytes) = response.chunk().await.map_err(failed)? {
            downloaded.len += bytes.len() as u64;
            if downloaded.len > len_max {
                return Err(answer(format!("it has more than {len_max} bytes")));
            }
            sink.write(bytes).await.map_err(|error| answer(format!("it cannot be written: {error}")))?;
        }
        Ok(downloaded)
    }
}

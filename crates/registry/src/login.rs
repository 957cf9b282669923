//! Whether a registry knows a user.

use reqwest::header::AUTHORIZATION;
use reqwest::{Response, StatusCode};

use crate::auth::Challenge;
use crate::client::{basic, challenge, message, read_bounded};
use crate::{Credentials, Error, Registry, Result};

impl Registry {
    /// Checks credentials at a registry, given by its domain. A registry that lets everybody in accepts any.
    pub async fn login(&self, domain: &str, credentials: &Credentials) -> Result<()> {
        let url = format!("{}/v2/", self.base(domain));
        let response = self.knock(&url, None).await?;
        let response = match response.status() {
            StatusCode::UNAUTHORIZED => match challenge(&response, domain)? {
                Challenge::Basic => self.knock(&url, Some(basic(credentials))).await?,
                Challenge::Bearer { realm, service, scope } => {
                    let scopes: Vec<String> = scope.into_iter().collect();
                    let answer = self.token(domain, &realm, service.as_deref(), &scopes, Some(credentials)).await;
                    let answer = answer.map_err(|error| match error {
                        Error::TokenDenied { message, .. } => Error::LoginDenied { url: url.clone(), message },
                        other => other,
                    })?;
                    let token = answer.text().map(|text| format!("Bearer {text}"));
                    self.knock(&url, Some(token.unwrap_or_default())).await?
                }
            },
            _ => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(());
        }
        let message = message(&read_bounded(response).await.unwrap_or_default());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::LoginDenied { url, message }),
            other => Err(Error::Status { subject: "log in".to_owned(), host: domain.to_owned(), status: other.as_u16(), message }),
        }
    }

    async fn knock(&self, url: &str, authorization: Option<String>) -> Result<Response> {
        let mut call = self.client()?.get(url);
        if let Some(authorization) = authorization {
            call = call.header(AUTHORIZATION, authorization);
        }
        call.send().await.map_err(|source| Error::Request { method: "Get", url: url.to_owned(), source: source.without_url() })
    }
}

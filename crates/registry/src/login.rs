//! Whether a registry knows a user.

use reqwest::StatusCode;

use crate::auth::Challenge;
use crate::client::{message, parse_url, read_bounded};
use crate::token::{Wanted, basic, challenge};
use crate::{Credentials, Error, Registry, Result};

impl Registry {
    /// Checks credentials at a registry, given by its domain. A registry that lets everybody in accepts any. Answers what stands for the password from now on,
    /// where its token service gives such a thing.
    pub async fn login(&self, domain: &str, credentials: &Credentials) -> Result<Option<String>> {
        let address = format!("{}/v2/", self.settled_base(domain).await?);
        let url = parse_url(&address, domain)?;
        let mut identity = None;
        let response = self.knock(url.clone(), None).await?;
        let response = match response.status() {
            StatusCode::UNAUTHORIZED => match challenge(&response, domain)? {
                Challenge::Basic => self.knock(url, Some(basic(credentials))).await?,
                Challenge::Bearer { realm, service, scope } => {
                    let scopes: Vec<String> = scope.into_iter().collect();
                    let credentials = Some(credentials);
                    let service = service.as_deref();
                    let wanted = Wanted { registry: domain, realm: &realm, service, scopes: &scopes, credentials, identity: true };
                    let answer = self.token(&wanted).await.map_err(|error| match error {
                        Error::TokenDenied { message, .. } => Error::LoginDenied { url: address.clone(), message },
                        other => other,
                    })?;
                    let token = answer.text().map(|text| format!("Bearer {text}"));
                    identity = answer.refresh_token;
                    self.knock(url, Some(token.unwrap_or_default())).await?
                }
            },
            _ => response,
        };
        let status = response.status();
        if status.is_success() {
            return Ok(identity.filter(|token| !token.is_empty()));
        }
        let message = message(&read_bounded(response).await.unwrap_or_default());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(Error::LoginDenied { url: address, message }),
            other => Err(Error::Status { subject: "log in".to_owned(), host: domain.to_owned(), status: other.as_u16(), message }),
        }
    }
}

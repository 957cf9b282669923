//! Challenges and tokens.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Deserialize;

/// What tokens last when the server does not tell (distribution's token specification).
const LIFETIME_DEFAULT_S: u64 = 60;
/// Tokens are not used in their last seconds.
const MARGIN: Duration = Duration::from_secs(5);

/// What a `WWW-Authenticate` header asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl Challenge {
    /// Reads the header; `None` if neither scheme is in it. Bearer goes before Basic.
    pub fn parse(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        Some(Self::Bearer { realm: parameters.remove("realm")?, service: parameters.remove("service"), scope: parameters.remove("scope") })
    }
}

/// `key="value"` or `key=value`, separated by commas.
fn parameters(mut text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    while let Some((key, rest)) = text.split_once('=') {
        let key = key.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        let (value, rest) = match rest.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => rest.split_once(',').unwrap_or((rest, "")),
        };
        found.insert(key, value.trim().to_owned());
        text = rest;
    }
    found
}

/// A token service's answer.
#[derive(Deserialize)]
pub(crate) struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
    expires_in: Option<u64>,
    /// What stands for the password, if it was asked for.
    pub refresh_token: Option<String>,
}

impl TokenAnswer {
    pub fn text(&self) -> Option<&str> {
        [&self.token, &self.access_token].into_iter().find(|text| !text.is_empty()).map(String::as_str)
    }

    fn lifetime(&self) -> Duration {
        Duration::from_secs(self.expires_in.unwrap_or(LIFETIME_DEFAULT_S).min(24 * 3600))
    }
}

/// `Authorization` headers that worked, by registry, repository and user.
#[derive(Debug, Default)]
pub(crate) struct Tokens(Mutex<HashMap<String, (String, Option<Instant>)>>);

impl Tokens {
    pub fn get(&self, key: &str) -> Option<String> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (header, until) = tokens.get(key)?;
        until.is_none_or(|until| Instant::now() + MARGIN < until).then(|| header.clone())
    }

    pub fn forget(&self, key: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    }

    pub fn put_token(&self, key: &str, header: String, answer: &TokenAnswer) {
        self.put(key, header, Some(Instant::now() + answer.lifetime()));
    }

    pub fn put(&self, key: &str, header: String, until: Option<Instant>) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tokens.retain(|_, (_, until)| until.is_none_or(|until| now < until));
        tokens.insert(key.to_owned(), (header, until));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read() {
        let bearer =
            Challenge::parse("Bearer realm=\"https://auth.example/token\",service=\"registry.example\",scope=\"repository:a/b:pull,push\"");
        let expected = Challenge::Bearer {
            realm: "https://auth.example/token".to_owned(),
            service: Some("registry.example".to_owned()),
            scope: Some("repository:a/b:pull,push".to_owned()),
        };
        assert_eq!(bearer, Some(expected));
        assert_eq!(Challenge::parse("basic realm=x"), Some(Challenge::Basic));
        assert_eq!(
            Challenge::parse("bearer realm=x, service=y"),
            Some(Challenge::Bearer { realm: "x".to_owned(), service: Some("y".to_owned()), scope: None })
        );
        assert_eq!(Challenge::parse("Bearer service=y"), None);
        assert_eq!(Challenge::parse("Negotiate"), None);
    }

    #[test]
    fn tokens_end() {
        let tokens = Tokens::default();
        tokens.put("a", "x".to_owned(), Some(Instant::now() + Duration::from_secs(1)));
        tokens.put("b", "y".to_owned(), None);
        assert_eq!((tokens.get("a"), tokens.get("b").as_deref()), (None, Some("y")));
    }
}

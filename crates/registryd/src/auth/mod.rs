//! Who may do what: users, their rights, and the tokens that stand for them.

mod rights;
mod token;
mod users;

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

pub use rights::{Access, Action, Rule};
pub use token::{Grant, Keys, TOKEN_TIME};
pub use users::Users;

use crate::Result;
use crate::name::RepositoryName;

/// How a client is told to log in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Scheme {
    /// By tokens of the registry's own service; name and password are taken, too.
    #[default]
    Token,
    /// By name and password with every request.
    Basic,
}

/// What is needed to tell who may do what.
#[derive(Debug, Clone, Default)]
pub struct AuthOptions {
    /// The file of users, in htpasswd's format with bcrypt; without one everybody may do everything.
    pub users: Option<PathBuf>,
    /// How clients log in.
    pub scheme: Scheme,
    /// Whether who is nobody may pull.
    pub anonymous_pull: bool,
    /// Who has which rights; without rules every user has all.
    pub rules: Vec<Rule>,
    /// Where clients find this registry, as they see it; else what they say in `Host`.
    pub public_url: Option<String>,
}

/// Wrong passwords of one address within [`FAILURES_WINDOW`], after which it has to wait.
const FAILURES_MAX: u32 = 20;
const FAILURES_WINDOW: Duration = Duration::from_secs(60);
/// Addresses whose failures are remembered.
const ADDRESSES_MAX: usize = 10_000;

/// The one who asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    /// Nobody in particular.
    Anonymous,
    /// A user, by password.
    User(String),
    /// A user or nobody, by token, which grants only so much.
    Token(Grant),
}

impl Caller {
    /// The user's name, if it is one.
    pub fn name(&self) -> Option<&str> {
        match self {
            Self::Anonymous => None,
            Self::User(name) => Some(name),
            Self::Token(grant) => grant.user.as_deref(),
        }
    }
}

/// The guard.
#[derive(Debug)]
pub struct Auth {
    options: AuthOptions,
    users: Option<Users>,
    keys: Keys,
    failures: Mutex<HashMap<IpAddr, (u32, Instant)>>,
}

impl Auth {
    /// Reads users and keys; the key of tokens lies in the registry's folder.
    pub fn open(options: AuthOptions, root: &std::path::Path) -> Result<Self> {
        let users = options.users.as_deref().map(Users::open).transpose()?;
        Ok(Self { users, keys: Keys::open(&root.join("token-key"))?, options, failures: Mutex::default() })
    }

    /// Whether who is nobody may pull.
    pub fn anonymous_pull(&self) -> bool {
        self.options.anonymous_pull
    }

    /// Whether anybody is told apart at all.
    pub fn is_on(&self) -> bool {
        self.users.is_some()
    }

    /// How clients log in.
    pub fn scheme(&self) -> Scheme {
        self.options.scheme
    }

    /// Where clients find this registry.
    pub fn public_url(&self) -> Option<&str> {
        self.options.public_url.as_deref()
    }

    /// The token service.
    pub fn keys(&self) -> &Keys {
        &self.keys
    }

    /// The user of that name and password. Slow on purpose where it has not been asked lately.
    pub fn login(&self, name: &str, password: &str) -> Result<bool> {
        match &self.users {
            Some(users) => users.verify(name, password),
            None => Ok(false),
        }
    }

    /// Whether an address has tried so often in vain that it has to wait.
    pub fn is_locked(&self, address: IpAddr) -> bool {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        failures.get(&address).is_some_and(|(count, since)| *count >= FAILURES_MAX && since.elapsed() < FAILURES_WINDOW)
    }

    /// Counts a wrong password.
    pub fn failed(&self, address: IpAddr) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.len() >= ADDRESSES_MAX {
            failures.retain(|_, (_, since)| since.elapsed() < FAILURES_WINDOW);
        }
        if failures.len() >= ADDRESSES_MAX {
            return;
        }
        let entry = failures.entry(address).or_insert((0, Instant::now()));
        if entry.1.elapsed() >= FAILURES_WINDOW {
            *entry = (0, Instant::now());
        }
        entry.0 += 1;
    }

    /// Whether a caller may do that with a repository.
    pub fn allows(&self, caller: &Caller, repository: &RepositoryName, action: Action) -> bool {
        match caller {
            _ if !self.is_on() => true,
            Caller::Anonymous => self.has_right(None, repository, action),
            Caller::User(name) => self.has_right(Some(name), repository, action),
            // A token is never more than its user: rights that were taken away meanwhile are gone.
            Caller::Token(grant) => grant.covers(repository, action) && self.has_right(grant.user.as_deref(), repository, action),
        }
    }

    /// Whether a user, or nobody in particular, has a right.
    pub fn has_right(&self, user: Option<&str>, repository: &RepositoryName, action: Action) -> bool {
        if user.is_none() && self.options.anonymous_pull && action == Action::Pull {
            return true;
        }
        match (user, self.options.rules.is_empty()) {
            (Some(_), true) => true,
            (None, true) => false,
            (_, false) => self.options.rules.iter().any(|rule| rule.grants(user, repository, action)),
        }
    }
}

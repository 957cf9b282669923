//! Rights: which user may do what with which repositories.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::name::RepositoryName;
use crate::pattern::Pattern;

/// What can be done with a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Read.
    Pull,
    /// Add.
    Push,
    /// Remove.
    Delete,
}

impl FromStr for Action {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "pull" => Ok(Self::Pull),
            "push" => Ok(Self::Push),
            "delete" => Ok(Self::Delete),
            _ => Err(()),
        }
    }
}

impl Action {
    /// Its name in scopes.
    pub fn word(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
            Self::Delete => "delete",
        }
    }
}

/// Every user.
const EVERY_USER: &str = "*";
/// Who has not logged in.
const NOBODY: &str = "anonymous";

/// Users who have rights to repositories.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// Names; `*` is every user, `anonymous` is who has not logged in.
    pub users: Vec<String>,
    /// Repositories.
    pub repositories: Vec<Pattern>,
    /// What they may.
    pub actions: Vec<Action>,
}

impl Rule {
    /// Whether this rule gives a user, or nobody in particular, the right.
    pub fn grants(&self, user: Option<&str>, repository: &RepositoryName, action: Action) -> bool {
        let meant = |name: &String| match user {
            Some(user) => name == user || name == EVERY_USER,
            None => name == NOBODY,
        };
        self.actions.contains(&action) && self.users.iter().any(meant) && self.repositories.iter().any(|pattern| pattern.fits(repository))
    }
}

/// What a scope asks for, or a token grants: `repository:NAME:pull,push`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// `repository` or `registry`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The repository, or `catalog`.
    pub name: String,
    /// What is asked for.
    pub actions: Vec<String>,
}

impl Access {
    /// Reads one scope; `None` when it is none.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        // The name of a repository may be given with a registry's port in it.
        let (name, actions) = rest.rsplit_once(':')?;
        // Docker's older clients add a class: `repository(plugin)`.
        let kind = kind.split('(').next().unwrap_or(kind);
        let actions = actions.split(',').filter(|action| !action.is_empty()).map(str::to_owned).collect();
        Some(Self { kind: kind.to_owned(), name: name.to_owned(), actions })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_users_repositories_and_actions() {
        let rule = Rule {
            users: vec!["ann".to_owned()],
            repositories: vec![Pattern::parse("team/*").expect("pattern")],
            actions: vec![Action::Pull, Action::Push],
        };
        let repository = |name: &str| RepositoryName::parse(name).expect("name");
        assert!(rule.grants(Some("ann"), &repository("team/app"), Action::Push));
        assert!(!rule.grants(Some("ann"), &repository("team/app"), Action::Delete));
        assert!(!rule.grants(Some("ann"), &repository("other/app"), Action::Pull));
        assert!(!rule.grants(Some("bob"), &repository("team/app"), Action::Pull));
        assert!(!rule.grants(None, &repository("team/app"), Action::Pull));
        let everybody = Rule { users: vec!["*".to_owned(), "anonymous".to_owned()], ..rule };
        assert!(everybody.grants(Some("bob"), &repository("team/app"), Action::Pull));
        assert!(everybody.grants(None, &repository("team/app"), Action::Pull));
    }

    #[test]
    fn scopes_are_read() {
        let access = Access::parse("repository:a/b:pull,push").expect("reads");
        assert_eq!((access.kind.as_str(), access.name.as_str(), access.actions.len()), ("repository", "a/b", 2));
        assert_eq!(Access::parse("repository(plugin):a:pull").expect("reads").kind, "repository");
        assert_eq!(Access::parse("banana"), None);
    }
}

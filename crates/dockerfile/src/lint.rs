//! What is allowed and yet likely a mistake, under the names of BuildKit's rules.

use serde::Serialize;

use crate::ast::Lines;

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    /// Where.
    pub lines: Lines,
    /// The rule's name, which `# check=skip=` takes.
    pub rule: &'static str,
    /// What the rule asks for, in general.
    pub description: &'static str,
    /// Where the rule is explained; empty if nowhere.
    pub url: String,
    /// What was found here.
    pub message: String,
}

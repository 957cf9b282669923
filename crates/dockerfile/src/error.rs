//! What is wrong with a Dockerfile, where, and what to write instead.

use std::fmt;

use types::{Classify, ErrorKind};

use crate::ast::Lines;

/// Lines shown around the faulty ones.
const EXCERPT_LINES: u32 = 2;
/// Lines shown at most, for instructions that go on for pages.
const EXCERPT_LINES_MAX: u32 = 24;

/// A fault of a Dockerfile and its place, where it has one.
#[derive(Debug)]
pub struct Error {
    /// Where; a fault of the whole, such as a missing target, has none.
    pub place: Option<Place>,
    /// What.
    pub problem: Problem,
}

/// A place in a Dockerfile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The lines of the instruction.
    pub lines: Lines,
    /// The line that is at fault, counted from 1.
    pub line: u32,
    /// The column in it, in characters counted from 1.
    pub column: u32,
    /// The line itself.
    pub text: String,
}

/// What is wrong.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Problem {
    /// The language does not allow it.
    #[error("{message}")]
    Syntax {
        /// What, in lower case.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// The instruction is understood and can't be carried out.
    #[error("{message}")]
    Meaning {
        /// What, in lower case.
        message: String,
        /// What to write instead.
        hint: Option<String>,
    },
    /// The configuration of a base image could not be had.
    #[error("load metadata for {reference}")]
    Base {
        /// The image.
        reference: String,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The lint found something and was told that this is an error.
    #[error("lint violation found for rules: {rules}")]
    Lint {
        /// The rules' names.
        rules: String,
        /// The findings.
        warnings: Vec<crate::lint::Warning>,
    },
}

impl Error {
    /// A fault of the whole.
    pub(crate) fn meaning(message: String, hint: Option<String>) -> Self {
        Self { place: None, problem: Problem::Meaning { message, hint } }
    }

    /// The error in one line for people: file, line, column, what is wrong and what to write instead.
    pub fn explain(&self, file: &str) -> String {
        let mut text = match &self.place {
            Some(place) => format!("{file}:{}:{}: ", place.line, place.column),
            None => String::new(),
        };
        let message = self.problem.to_string();
        text.push_str(&message.replacen("unknown instruction: ", "unknown instruction ", 1));
        if let Some(advice) = self.advice() {
            text.push_str(": ");
            text.push_str(advice);
        }
        text
    }

    fn advice(&self) -> Option<&str> {
        match &self.problem {
            Problem::Syntax { hint, .. } | Problem::Meaning { hint, .. } => hint.as_deref(),
            _ => None,
        }
    }

    /// The advice, where it is the question whether something else was meant: part of the message itself, as clients know it.
    fn question(&self) -> Option<&str> {
        self.advice().filter(|advice| advice.starts_with("did you mean"))
    }

    /// The faulty lines and those around them, numbered, the faulty ones marked; nothing without a place.
    pub fn excerpt(&self, file: &str, dockerfile: &str) -> Option<String> {
        Some(excerpt(file, dockerfile, self.place.as_ref()?.lines))
    }
}

/// Lines of a file and those around them, numbered, `lines` marked.
pub fn excerpt(file: &str, text: &str, lines: Lines) -> String {
    let first = lines.first.saturating_sub(EXCERPT_LINES).max(1);
    let last = lines.last.saturating_add(EXCERPT_LINES).min(lines.first.saturating_add(EXCERPT_LINES_MAX));
    let rule = "--------------------";
    let mut out = format!("{file}:{}\n{rule}\n", lines.first);
    for (number, line) in (1u32..).zip(text.lines()).filter(|(number, _)| (first..=last).contains(number)) {
        let mark = if (lines.first..=lines.last).contains(&number) { ">>>" } else { "   " };
        out.push_str(format!("{number:>4} | {mark} {line}").trim_end());
        out.push('\n');
    }
    out.push_str(rule);
    out.push('\n');
    out
}

impl fmt::Display for Error {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.place, &self.problem) {
            (Some(place), Problem::Syntax { .. }) => write!(out, "dockerfile parse error on line {}: {}", place.line, self.problem)?,
            (Some(place), Problem::Meaning { .. }) => write!(out, "dockerfile line {}: {}", place.line, self.problem)?,
            (_, problem) => problem.fmt(out)?,
        }
        match self.question() {
            Some(question) => write!(out, " ({question})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        std::error::Error::source(&self.problem)
    }
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidInput
    }

    fn hint(&self) -> Option<String> {
        self.advice().filter(|_| self.question().is_none()).map(str::to_owned)
    }
}

//! What goes wrong with a request, and the one table from kinds of errors to statuses of HTTP.

use hyper::StatusCode;
use types::{Classify, ErrorKind, error};

/// A request that failed: the status and the message that the client gets.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The status of the response.
    pub status: StatusCode,
    /// The message in its body.
    pub message: String,
}

impl Failure {
    /// A failure of a kind, with a message of its own.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { status: status(kind), message: message.into() }
    }

    /// The request is malformed.
    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::InvalidInput, message)
    }

    /// The request asks for something that this engine does not serve.
    pub fn not_served(what: impl std::fmt::Display) -> Self {
        Self::new(ErrorKind::NotServed, format!("{what} is not served by this engine"))
    }

    /// No such page.
    pub fn no_page() -> Self {
        Self::new(ErrorKind::NotFound, "page not found")
    }

    /// What the engine says: its chain of causes, and its hint.
    pub fn of<E: Classify>(failed: &E) -> Self {
        let mut message = error::chain(failed);
        if let Some(hint) = failed.hint() {
            message.push_str(": ");
            message.push_str(&hint);
        }
        Self::new(failed.kind(), message)
    }
}

impl From<engine::Error> for Failure {
    fn from(failed: engine::Error) -> Self {
        Self::of(&failed)
    }
}

fn status(kind: ErrorKind) -> StatusCode {
    match kind {
        ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        ErrorKind::Unauthorized => StatusCode::UNAUTHORIZED,
        ErrorKind::Forbidden => StatusCode::FORBIDDEN,
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::Conflict => StatusCode::CONFLICT,
        ErrorKind::NotServed => StatusCode::NOT_IMPLEMENTED,
        ErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot start {0}")]
    struct Example(&'static str, #[source] std::io::Error);

    impl Classify for Example {
        fn kind(&self) -> ErrorKind {
            ErrorKind::Conflict
        }

        fn hint(&self) -> Option<String> {
            Some("stop it first".to_owned())
        }
    }

    #[test]
    fn a_message_has_the_causes_and_the_hint() {
        let failure = Failure::of(&Example("web", std::io::Error::other("port taken")));
        assert_eq!((failure.status.as_u16(), failure.message.as_str()), (409, "cannot start web: port taken: stop it first"));
        assert_eq!(Failure::not_served("search").message, "search is not served by this engine");
    }
}

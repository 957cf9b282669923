//! The kinds of failure that callers tell apart, and the trait by which each crate's error says its kind and its way out.

/// What a caller can do about a failure. The API maps each kind to one HTTP status, the client to one exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The request is malformed or asks for something impossible (HTTP 400).
    InvalidInput,
    /// Credentials are missing or wrong (HTTP 401).
    Unauthorized,
    /// The caller or the machine does not allow it (HTTP 403).
    Forbidden,
    /// The named object does not exist (HTTP 404).
    NotFound,
    /// The object's state, or another holder of the name, port or address, is in the way (HTTP 409).
    Conflict,
    /// The request asks for something that this engine does not serve (HTTP 501).
    NotServed,
    /// Something needed is out of reach for now: a full disk, a registry that does not answer (HTTP 503).
    Unavailable,
    /// Everything else: a fault of the machine or of the engine (HTTP 500).
    Internal,
}

/// Implemented by the error type of each crate.
pub trait Classify: std::error::Error {
    /// The kind, which decides status and exit code.
    fn kind(&self) -> ErrorKind;

    /// The next thing to type or to check, if there is one: a sentence without a full stop.
    fn hint(&self) -> Option<String> {
        None
    }
}

/// An error and its causes as one line, joined by ": ", each level once.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let level = cause.to_string();
        if !text.ends_with(&level) {
            text.push_str(": ");
            text.push_str(&level);
        }
        next = cause.source();
    }
    text
}

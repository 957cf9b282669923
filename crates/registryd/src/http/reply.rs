//! Answers: what is sent, and refusals in the specification's own words.

use std::fs::File;

use bytes::Bytes;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, StatusCode};
use serde_json::{Value, json};
use types::Classify;

use crate::Error;
use crate::manifest::Invalid;

/// An answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) payload: Payload,
}

/// What follows the head.
#[derive(Debug)]
pub(super) enum Payload {
    /// Nothing. A `Content-Length` that was set (the answer to HEAD) is kept.
    Empty,
    Bytes(Bytes),
    /// A part of a file.
    File {
        file: File,
        offset: u64,
        len: u64,
    },
}

/// What handlers give back.
pub(super) type Outcome = Result<Reply, Refusal>;

impl Reply {
    pub(super) fn new(status: StatusCode) -> Self {
        Self { status, headers: HeaderMap::new(), payload: Payload::Empty }
    }

    /// Adds a header. A value that cannot be one is left out: names and digests always can.
    pub(super) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.append(name, value);
        }
        self
    }

    pub(super) fn bytes(self, content_type: &str, bytes: impl Into<Bytes>) -> Self {
        let mut reply = self.with(header::CONTENT_TYPE, content_type);
        reply.payload = Payload::Bytes(bytes.into());
        reply
    }

    /// How many bytes follow the head.
    pub(super) fn len(&self) -> u64 {
        match &self.payload {
            Payload::Empty => 0,
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File { len, .. } => *len,
        }
    }

    pub(super) fn json(status: StatusCode, value: &Value) -> Self {
        Self::new(status).bytes("application/json", format!("{value}\n"))
    }
}

/// The error codes of the specification ("Error codes"), and Docker's for what it has none for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    BlobUnknown,
    BlobUploadInvalid,
    BlobUploadUnknown,
    DigestInvalid,
    ManifestBlobUnknown,
    ManifestInvalid,
    ManifestUnknown,
    NameInvalid,
    NameUnknown,
    SizeInvalid,
    TagInvalid,
    Denied,
    Unauthorized,
    TooManyRequests,
    Unsupported,
    PaginationNumberInvalid,
    Unavailable,
    Unknown,
}

impl Code {
    fn word(self) -> &'static str {
        match self {
            Self::BlobUnknown => "BLOB_UNKNOWN",
            Self::BlobUploadInvalid => "BLOB_UPLOAD_INVALID",
            Self::BlobUploadUnknown => "BLOB_UPLOAD_UNKNOWN",
            Self::DigestInvalid => "DIGEST_INVALID",
            Self::ManifestBlobUnknown => "MANIFEST_BLOB_UNKNOWN",
            Self::ManifestInvalid => "MANIFEST_INVALID",
            Self::ManifestUnknown => "MANIFEST_UNKNOWN",
            Self::NameInvalid => "NAME_INVALID",
            Self::NameUnknown => "NAME_UNKNOWN",
            Self::SizeInvalid => "SIZE_INVALID",
            Self::TagInvalid => "TAG_INVALID",
            Self::Denied => "DENIED",
            Self::Unauthorized => "UNAUTHORIZED",
            Self::TooManyRequests => "TOOMANYREQUESTS",
            Self::Unsupported => "UNSUPPORTED",
            Self::PaginationNumberInvalid => "PAGINATION_NUMBER_INVALID",
            Self::Unavailable => "UNAVAILABLE",
            Self::Unknown => "UNKNOWN",
        }
    }

    fn status(self) -> StatusCode {
        match self {
            Self::BlobUnknown | Self::BlobUploadUnknown | Self::ManifestBlobUnknown | Self::ManifestUnknown | Self::NameUnknown => {
                StatusCode::NOT_FOUND
            }
            Self::BlobUploadInvalid
            | Self::DigestInvalid
            | Self::ManifestInvalid
            | Self::NameInvalid
            | Self::TagInvalid
            | Self::PaginationNumberInvalid => StatusCode::BAD_REQUEST,
            Self::SizeInvalid => StatusCode::PAYLOAD_TOO_LARGE,
            Self::Denied => StatusCode::FORBIDDEN,
            Self::Unauthorized => StatusCode::UNAUTHORIZED,
            Self::TooManyRequests => StatusCode::TOO_MANY_REQUESTS,
            Self::Unsupported => StatusCode::METHOD_NOT_ALLOWED,
            Self::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            Self::Unknown => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

/// Why a request is not granted.
#[derive(Debug)]
pub(super) struct Refusal {
    status: StatusCode,
    code: Code,
    message: String,
    detail: Option<Box<Value>>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Refusal {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self { status: code.status(), code, message: message.into(), detail: None, headers: Vec::new() }
    }

    /// Another status than the code's usual one.
    pub(super) fn status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    pub(super) fn detail(mut self, detail: Value) -> Self {
        self.detail = Some(Box::new(detail));
        self
    }

    pub(super) fn with(mut self, name: HeaderName, value: impl AsRef<str>) -> Self {
        if let Ok(value) = HeaderValue::from_str(value.as_ref()) {
            self.headers.push((name, value));
        }
        self
    }

    /// The method is not for this path.
    pub(super) fn method(method: &Method, allowed: &'static str) -> Self {
        Self::new(Code::Unsupported, format!("{method} is not served here")).with(header::ALLOW, allowed)
    }

    /// Whether another user, or one at all, could have it.
    pub(super) fn wants_login(&self) -> bool {
        self.status == StatusCode::UNAUTHORIZED
    }

    pub(super) fn is_fault(&self) -> bool {
        self.status.is_server_error()
    }

    pub(super) fn message(&self) -> &str {
        &self.message
    }
}

impl From<Refusal> for Reply {
    fn from(refusal: Refusal) -> Self {
        let mut error = json!({ "code": refusal.code.word(), "message": refusal.message });
        if let Some(detail) = refusal.detail {
            error["detail"] = *detail;
        }
        let mut reply = Self::json(refusal.status, &json!({ "errors": [error] }));
        reply.headers.extend(refusal.headers);
        reply
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let text = types::error::chain(&error);
        match &error {
            Error::DigestMismatch { expected, found } => {
                Self::new(Code::DigestInvalid, text).detail(json!({ "expected": expected.to_string(), "found": found.to_string() }))
            }
            Error::MissingContent { digest, .. } => {
                Self::new(Code::ManifestBlobUnknown, text).detail(json!({ "digest": digest.to_string() }))
            }
            Error::Quota { .. } => Self::new(Code::Denied, text),
            Error::Precondition => Self::new(Code::Denied, text).status(StatusCode::PRECONDITION_FAILED),
            // The machine's paths are for its log, not for its clients.
            error if error.is_full() => {
                tracing::error!(error = text, hint = error.hint(), "there is no room for what is pushed");
                Self::new(Code::Unavailable, "the registry's disk is full").status(StatusCode::INSUFFICIENT_STORAGE)
            }
            _ => {
                tracing::error!(error = text, "a request failed");
                Self::new(Code::Unknown, "the registry failed; its log says why")
            }
        }
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        let refusal = Self::new(Code::ManifestInvalid, invalid.to_string());
        match invalid {
            Invalid::Type(_) => refusal.status(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            _ => refusal,
        }
    }
}

//! A blocking client of the Engine API: unix sockets and plain TCP, streamed bodies, and connections that leave HTTP (attach, exec).
//!
//! It knows transport and framing, and no command: bodies are JSON documents of the caller. Nothing here needs an async runtime, so that a
//! plain request costs one connection, one write and one read.
#![forbid(unsafe_code)]

mod endpoint;
mod error;
pub mod frames;
mod http;
mod version;

use std::io::{self, Read, Write};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

use serde::de::DeserializeOwned;
use serde_json::Value;

pub use endpoint::{Endpoint, Stream};
pub use error::Error;
pub use version::{ApiVersion, InvalidVersion};

use http::{BodyReader, Connection, Head, read_error, send_chunked};

/// Documents are bounded; streams are not.
const DOCUMENT_BYTES_MAX: u64 = 256 << 20;
const ERROR_BYTES_MAX: u64 = 1 << 20;
const IDLE_CONNECTIONS_MAX: usize = 4;

/// A client of one engine; clones share connections and the agreed API version.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    endpoint: Endpoint,
    version: AtomicU32,
    pinned: bool,
    idle: Mutex<Vec<Connection>>,
}

/// A request under construction.
pub struct Request<'a> {
    method: &'static str,
    path: String,
    query: Vec<(&'static str, String)>,
    headers: Vec<(&'static str, String)>,
    body: Body<'a>,
}

enum Body<'a> {
    None,
    Json(Vec<u8>),
    Stream { content_type: &'static str, reader: &'a mut dyn Read },
}

/// An answer with a success status.
pub struct Response {
    head: Head,
    body: Option<BodyReader>,
    client: Client,
}

/// A connection that has left HTTP: bytes both ways.
#[derive(Debug)]
pub struct Hijacked {
    /// The connection. Half-closing it ends the process's stdin.
    pub stream: Stream,
    /// What arrived together with the answer's head; it comes before everything read from `stream`.
    pub ahead: Vec<u8>,
}

impl Client {
    /// A client for `endpoint`; with `version` given exactly that version is spoken, else the engine's own if it is lower than [`ApiVersion::OWN`].
    /// Nothing is sent yet.
    pub fn new(endpoint: Endpoint, version: Option<ApiVersion>) -> Self {
        let bits = version.unwrap_or(ApiVersion::OWN).to_bits();
        Self {
            shared: Arc::new(Shared { endpoint, version: AtomicU32::new(bits), pinned: version.is_some(), idle: Mutex::new(Vec::new()) }),
        }
    }

    /// Where the engine is.
    pub fn endpoint(&self) -> &Endpoint {
        &self.shared.endpoint
    }

    /// The version spoken by now: before the first answer it is an assumption.
    pub fn version(&self) -> ApiVersion {
        ApiVersion::from_bits(self.shared.version.load(Ordering::Relaxed))
    }

    /// Makes sure that an engine listens; the connection is kept for the next request.
    pub fn connect(&self) -> Result<(), Error> {
        let connection = Connection::new(self.shared.endpoint.connect()?);
        self.keep(connection);
        Ok(())
    }

    /// Asks the engine for its version, for requests whose body cannot be sent twice.
    pub fn negotiate(&self) -> Result<ApiVersion, Error> {
        if !self.shared.pinned {
            let (head, body) = self.exchange(&mut Request::new("HEAD", "/_ping"), false)?;
            self.recycle(body);
            if let Some(theirs) = head.header("api-version").and_then(|text| text.parse::<ApiVersion>().ok()) {
                self.shared.version.store(theirs.min(ApiVersion::OWN).to_bits(), Ordering::Relaxed);
            }
        }
        Ok(self.version())
    }

    /// Sends the request and reads the answer's head; an error status becomes [`Error::Api`].
    pub fn send(&self, mut request: Request<'_>) -> Result<Response, Error> {
        if matches!(request.body, Body::Stream { .. }) {
            self.negotiate()?;
        }
        let (head, body) = self.exchange_negotiated(&mut request)?;
        Ok(Response { head, body: Some(body), client: self.clone() })
    }

    /// Sends a request that turns the connection into a stream of bytes. Engines answer 101, older ones 200.
    pub fn hijack(&self, request: Request<'_>) -> Result<Hijacked, Error> {
        let mut request = request.header("Connection", "Upgrade").header("Upgrade", "tcp");
        loop {
            let mut connection = self.connection()?;
            self.write(&mut connection, &mut request, true)?;
            let head = connection.read_head()?;
            if head.status == 101 || head.status == 200 {
                let (stream, ahead) = connection.into_parts();
                return Ok(Hijacked { stream, ahead });
            }
            let body = connection.into_body(&head, request.method)?;
            let error = self.error_of(&head, body)?;
            if !self.lower_version(&head, &error) {
                return Err(error);
            }
        }
    }

    fn exchange_negotiated(&self, request: &mut Request<'_>) -> Result<(Head, BodyReader), Error> {
        loop {
            let (head, body) = self.exchange(request, true)?;
            if head.status < 400 {
                return Ok((head, body));
            }
            let error = self.error_of(&head, body)?;
            if matches!(request.body, Body::Stream { .. }) || !self.lower_version(&head, &error) {
                return Err(error);
            }
        }
    }

    fn exchange(&self, request: &mut Request<'_>, versioned: bool) -> Result<(Head, BodyReader), Error> {
        let mut connection = self.connection()?;
        let sent = self.write(&mut connection, request, versioned);
        // An engine may refuse a long body before it has all of it: its answer says more than the broken pipe.
        let head = match (sent, connection.read_head()) {
            (Ok(()), head) => head?,
            (Err(_), Ok(head)) if head.status >= 400 => head,
            (Err(cause), _) => return Err(cause),
        };
        let body = connection.into_body(&head, request.method)?;
        Ok((head, body))
    }

    fn connection(&self) -> Result<Connection, Error> {
        while let Some(connection) = self.shared.idle.lock().unwrap_or_else(|poison| poison.into_inner()).pop() {
            if !connection.is_stale() {
                return Ok(connection);
            }
        }
        Ok(Connection::new(self.shared.endpoint.connect()?))
    }

    fn write(&self, connection: &mut Connection, request: &mut Request<'_>, versioned: bool) -> Result<(), Error> {
        let bytes = request.head(&self.shared.endpoint.host_header(), versioned.then(|| self.version()));
        let send_error = |source| Error::Transfer { operation: "send a request to", source };
        connection.stream.write_all(&bytes).map_err(send_error)?;
        match &mut request.body {
            Body::Stream { reader, .. } => send_chunked(&mut connection.stream, *reader).map_err(send_error),
            _ => Ok(()),
        }
    }

    /// After a refusal for the version: the engine's highest from now on. Says whether to ask again.
    fn lower_version(&self, head: &Head, error: &Error) -> bool {
        let Error::Api { status: 400, message } = error else { return false };
        if self.shared.pinned || !message.contains("too new") {
            return false;
        }
        let said = message.rsplit(' ').next().and_then(|word| word.parse().ok());
        let Some(theirs) = said.or_else(|| head.header("api-version")?.parse::<ApiVersion>().ok()) else { return false };
        let lower = theirs < self.version();
        if lower {
            self.shared.version.store(theirs.to_bits(), Ordering::Relaxed);
        }
        lower
    }

    fn error_of(&self, head: &Head, mut body: BodyReader) -> Result<Error, Error> {
        let mut bytes = Vec::new();
        (&mut body).take(ERROR_BYTES_MAX).read_to_end(&mut bytes).map_err(read_error)?;
        self.recycle(body);
        let document: Option<Value> = serde_json::from_slice(&bytes).ok();
        let message = match document.as_ref().and_then(|value| value.get("message")).and_then(Value::as_str) {
            Some(message) => message.trim().to_owned(),
            None => String::from_utf8_lossy(&bytes).trim().to_owned(),
        };
        let message = if message.is_empty() { format!("the engine answered with status {}", head.status) } else { message };
        Ok(Error::Api { status: head.status, message })
    }

    fn recycle(&self, mut body: BodyReader) {
        // An empty read finds the end of a chunked body that was consumed up to its last byte.
        if body.read(&mut [0u8]).is_ok_and(|count| count == 0)
            && let Some(connection) = body.into_idle()
        {
            self.keep(connection);
        }
    }

    fn keep(&self, connection: Connection) {
        let mut idle = self.shared.idle.lock().unwrap_or_else(|poison| poison.into_inner());
        if idle.len() < IDLE_CONNECTIONS_MAX {
            idle.push(connection);
        }
    }
}

impl<'a> Request<'a> {
    /// A request for `path`, which begins with a slash, has no version prefix, and has its variable parts encoded with [`encode`].
    pub fn new(method: &'static str, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), query: Vec::new(), headers: Vec::new(), body: Body::None }
    }

    /// GET.
    pub fn get(path: impl Into<String>) -> Self {
        Self::new("GET", path)
    }

    /// POST.
    pub fn post(path: impl Into<String>) -> Self {
        Self::new("POST", path)
    }

    /// PUT.
    pub fn put(path: impl Into<String>) -> Self {
        Self::new("PUT", path)
    }

    /// DELETE.
    pub fn delete(path: impl Into<String>) -> Self {
        Self::new("DELETE", path)
    }

    /// Adds a query parameter.
    pub fn query(mut self, key: &'static str, value: impl ToString) -> Self {
        self.query.push((key, value.to_string()));
        self
    }

    /// Adds a query parameter, if there is a value.
    pub fn query_opt(self, key: &'static str, value: Option<impl ToString>) -> Self {
        match value {
            Some(value) => self.query(key, value),
            None => self,
        }
    }

    /// Adds `key=1`, if set.
    pub fn query_flag(self, key: &'static str, set: bool) -> Self {
        if set { self.query(key, "1") } else { self }
    }

    /// Adds a header.
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// A JSON body.
    pub fn json(mut self, document: &Value) -> Self {
        self.body = Body::Json(document.to_string().into_bytes());
        self
    }

    /// A body of unknown length, sent in chunks as it is read.
    pub fn stream(mut self, content_type: &'static str, reader: &'a mut dyn Read) -> Self {
        self.body = Body::Stream { content_type, reader };
        self
    }

    fn head(&self, host: &str, version: Option<ApiVersion>) -> Vec<u8> {
        let mut text = format!("{} ", self.method);
        if let Some(version) = version {
            text.push_str(&format!("/v{version}"));
        }
        text.push_str(&self.path);
        for (index, (key, value)) in self.query.iter().enumerate() {
            text.push(if index == 0 { '?' } else { '&' });
            text.push_str(key);
            text.push('=');
            text.push_str(&encode(value));
        }
        text.push_str(&format!(" HTTP/1.1\r\nHost: {host}\r\nUser-Agent: cais/{}\r\n", env!("CARGO_PKG_VERSION")));
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {}\r\n", value.replace(['\r', '\n'], " ")));
        }
        match &self.body {
            Body::None if self.method == "POST" => text.push_str("Content-Length: 0\r\n\r\n"),
            Body::None => text.push_str("\r\n"),
            Body::Json(bytes) => text.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", bytes.len())),
            Body::Stream { content_type, .. } => {
                text.push_str(&format!("Content-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"))
            }
        }
        let mut bytes = text.into_bytes();
        if let Body::Json(body) = &self.body {
            bytes.extend_from_slice(body);
        }
        bytes
    }
}

impl Response {
    /// HTTP status, below 400.
    pub fn status(&self) -> u16 {
        self.head.status
    }

    /// The value of a header; names compare without case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.header(name)
    }

    /// The whole body as a JSON document.
    pub fn json<T: DeserializeOwned>(mut self) -> Result<T, Error> {
        let bytes = self.whole()?;
        serde_json::from_slice(&bytes).map_err(|source| Error::Decode { source })
    }

    /// Reads the body to its end and drops it.
    pub fn finish(mut self) -> Result<(), Error> {
        self.whole().map(drop)
    }

    fn whole(&mut self) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        if let Some(mut body) = self.body.take() {
            (&mut body).take(DOCUMENT_BYTES_MAX).read_to_end(&mut bytes).map_err(read_error)?;
            self.client.recycle(body);
        }
        Ok(bytes)
    }
}

/// Streams the body as it arrives.
impl Read for Response {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.body.as_mut().map_or(Ok(0), |body| body.read(buffer))
    }
}

/// Encodes a value for a path segment or a query: everything but unreserved characters and those that Docker leaves in image names.
pub fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' | b'/' | b':' | b'@' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::os::unix::net::UnixListener;

    use super::*;

    /// Answers each connection's requests with the next prepared answers; gives back the request lines.
    fn serve(name: &str, answers: Vec<&'static str>) -> (Endpoint, std::thread::JoinHandle<Vec<String>>) {
        let path = std::env::temp_dir().join(format!("cais-client-{name}-{}.sock", std::process::id()));
        let _ = std::fs::remove_file(&path);
        let listener = UnixListener::bind(&path).expect("bind");
        let served = path.clone();
        let handle = std::thread::spawn(move || {
            let mut seen = Vec::new();
            let mut answers = answers.into_iter();
            while answers.len() > 0 {
                let (stream, _) = listener.accept().expect("accept");
                let mut reader = BufReader::new(stream);
                loop {
                    let mut first = String::new();
                    if reader.read_line(&mut first).unwrap_or(0) == 0 {
                        break;
                    }
                    let mut line = String::new();
                    while reader.read_line(&mut line).expect("a header") > 2 {
                        line.clear();
                    }
                    seen.push(first.trim().to_owned());
                    let Some(answer) = answers.next() else { break };
                    reader.get_mut().write_all(answer.as_bytes()).expect("answered");
                    if answers.len() == 0 {
                        break;
                    }
                }
            }
            std::fs::remove_file(served).expect("socket removed");
            seen
        });
        (Endpoint::Unix(path), handle)
    }

    #[test]
    fn a_lower_version_is_agreed_on_without_a_ping() {
        let too_new = "HTTP/1.1 400 Bad Request\r\nContent-Length: 93\r\n\r\n{\"message\":\"client version 1.51 is too new. Maximum supported API version is 1.41\"}          ";
        let good = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]";
        let (endpoint, server) = serve("version", vec![too_new, good]);
        let client = Client::new(endpoint, None);
        let list: Vec<Value> = client.send(Request::get("/containers/json").query_flag("all", true)).expect("sent").json().expect("a list");
        assert!(list.is_empty());
        assert_eq!(client.version().to_string(), "1.41");
        drop(client);
        assert_eq!(
            server.join().expect("served"),
            ["GET /v1.51/containers/json?all=1 HTTP/1.1", "GET /v1.41/containers/json?all=1 HTTP/1.1"]
        );
    }

    #[test]
    fn errors_carry_the_status_and_the_words_of_the_engine() {
        let (endpoint, server) =
            serve("error", vec!["HTTP/1.1 404 Not Found\r\nContent-Length: 27\r\n\r\n{\"message\":\"No such thing\"}"]);
        let client = Client::new(endpoint, None);
        let error = client.send(Request::get("/x")).err().expect("refused");
        assert!(error.is_not_found());
        assert_eq!(error.to_string(), "No such thing");
        drop(client);
        server.join().expect("served");
    }

    #[test]
    fn no_engine_is_told_apart() {
        let client = Client::new(Endpoint::Unix("/no/such.sock".into()), None);
        assert!(matches!(client.connect(), Err(Error::NoEngine { .. })));
    }

    #[test]
    fn values_are_encoded() {
        assert_eq!(encode("a b&c=d/é:1@x"), "a%20b%26c%3Dd/%C3%A9:1@x");
    }
}

//! Taking a connection out of HTTP, for attach and exec: with `Upgrade` it answers 101, without it 200 and the stream on the same connection.

use std::sync::Arc;

use engine::request::ClientStream;
use types::ErrorKind;

use crate::error::Failure;
use crate::http::Request;
use crate::server::general_headers;
use crate::streams::{RAW, content_type};
use crate::version::Version;
use crate::wire::Connection;

/// A request that may take its connection over, once it is decided that it does.
#[derive(Debug)]
pub struct Hijack {
    connection: Arc<Connection>,
    version: Version,
    upgrade: bool,
}

impl Hijack {
    /// Remembers what the answer depends on.
    pub fn of(request: &Request) -> Self {
        let upgrade = request.headers.contains_key(hyper::header::UPGRADE);
        Self { connection: request.connection.clone(), version: request.version, upgrade }
    }

    /// The same for a websocket, whose key was answered with `accept`.
    pub async fn take_websocket(self, accept: &str) -> Result<ClientStream, Failure> {
        let head = format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
        );
        self.take_with(&head).await
    }

    /// Sends the head of the answer and takes the connection. After this nothing can be refused any more in HTTP.
    pub async fn take(self, tty: bool) -> Result<ClientStream, Failure> {
        let head = head(self.upgrade, self.version, tty);
        self.take_with(&head).await
    }

    async fn take_with(self, head: &str) -> Result<ClientStream, Failure> {
        let failed = |error: std::io::Error| Failure::new(ErrorKind::Internal, format!("take the connection over: {error}"));
        self.connection.write_raw(head.as_bytes()).await.map_err(failed)?;
        let (socket, read_ahead) = self.connection.take_over().map_err(failed)?;
        Ok(ClientStream { socket, read_ahead })
    }
}

fn head(upgrade: bool, version: Version, tty: bool) -> String {
    let mut head = if upgrade {
        format!("HTTP/1.1 101 UPGRADED\r\nContent-Type: {}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n", content_type(version, tty))
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n")
    };
    for (name, value) in general_headers() {
        head.push_str(&format!("{}: {value}\r\n", title_case(name)));
    }
    head.push_str("\r\n");
    head
}

/// `api-version` as `Api-Version`, the way HTTP/1 has been written by Docker.
fn title_case(name: &str) -> String {
    let mut first = true;
    let up = |letter: char| {
        let shown = if first { letter.to_ascii_uppercase() } else { letter };
        first = letter == '-';
        shown
    };
    name.chars().map(up).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_head_says_upgraded_only_when_asked() {
        let upgraded = head(true, Version::new(51), false);
        assert!(upgraded.starts_with(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
        ));
        let plain = head(false, Version::new(51), false);
        assert!(plain.starts_with("HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.raw-stream\r\n"));
        assert!(plain.contains("\r\nApi-Version: 1.51\r\n"));
        assert!(!plain.contains("Upgrade") && plain.ends_with("\r\n\r\n"));
    }
}

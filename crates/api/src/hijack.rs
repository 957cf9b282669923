//! Taking a connection out of HTTP, for attach and exec: with `Upgrade` it answers 101, without it 200 and the stream on the same connection.

use engine::request::ClientStream;
use types::ErrorKind;

use crate::error::Failure;
use crate::http::Request;
use crate::streams::{RAW, content_type};
use crate::version::Version;
use crate::{general_headers, wire::Connection};
use std::sync::Arc;

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

    /// Sends the head of the answer and takes the connection. After this nothing can be refused any more in HTTP.
    pub async fn take(self, tty: bool) -> Result<ClientStream, Failure> {
        let failed = |error: std::io::Error| Failure::new(ErrorKind::Internal, format!("take the connection over: {error}"));
        self.connection.write_raw(head(self.upgrade, self.version, tty).as_bytes()).await.map_err(failed)?;
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
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    head
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
        assert!(!plain.contains("Upgrade") && plain.ends_with("\r\n\r\n"));
    }
}

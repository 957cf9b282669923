//! Health checks that need no process in the container: a connection to one of its ports, or a page from there.
//!
//! The connection is made from inside of the container's network, so that what listens on its loopback alone is reached, too.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// What is shown of an answer.
const ANSWER_BYTES_MAX: u64 = 4096;
const HTTP_PORT: u16 = 80;

/// A check by the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Direct {
    /// None: the container's loopback, of either family.
    address: Option<IpAddr>,
    port: u16,
    /// The host as asked for and the path, of a check by HTTP.
    page: Option<(String, String)>,
}

impl Direct {
    /// Reads `HTTP URL` and `TCP PORT`.
    pub(crate) fn parse(kind: &str, argument: &str) -> Result<Self, String> {
        match kind {
            "TCP" => {
                let port = argument.parse().ok().filter(|port| *port > 0).ok_or("a port from 1 to 65535 is expected")?;
                Ok(Self { address: None, port, page: None })
            }
            _ => Self::parse_url(argument),
        }
    }

    fn parse_url(url: &str) -> Result<Self, String> {
        let expected = "a URL such as http://localhost:8080/healthy is expected: its host localhost or an IP address";
        let rest = url.strip_prefix("http://").ok_or(expected)?;
        let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
        if rest.contains(|letter: char| letter.is_control() || letter == ' ') {
            return Err(expected.to_owned());
        }
        let (host, port) =
            match authority.rsplit_once(':').filter(|(host, _)| !host.ends_with(':') && (!host.contains(':') || host.ends_with(']'))) {
                Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0).ok_or(expected)?),
                None => (authority, HTTP_PORT),
            };
        let address = match host {
            "localhost" => None,
            host => Some(host.trim_start_matches('[').trim_end_matches(']').parse().map_err(|_| expected)?),
        };
        Ok(Self { address, port, page: Some((authority.to_owned(), path.to_owned())) })
    }

    /// Runs the check in the network of the process `pid`: an exit code, and what to show.
    pub(crate) async fn run(&self, pid: u32, timeout: Duration) -> (i32, String) {
        let check = self.clone();
        let (sender, receiver) = tokio::sync::oneshot::channel();
        // A thread of its own: it stays in the container's network.
        let spawned = std::thread::Builder::new().name("probe".to_owned()).stack_size(128 << 10).spawn(move || {
            let outcome = check.run_here(pid, timeout);
            // Whoever asked may have given up.
            let _ = sender.send(outcome);
        });
        let outcome = match spawned {
            Ok(_) => receiver.await.unwrap_or_else(|_| Err("the check was lost".to_owned())),
            Err(error) => Err(error.to_string()),
        };
        outcome.map_or_else(|reason| (1, reason), |shown| (0, shown))
    }

    fn run_here(&self, pid: u32, timeout: Duration) -> Result<String, String> {
        let until = Instant::now() + timeout;
        let path = format!("/proc/{pid}/ns/net");
        let namespace = File::open(&path).map_err(|error| format!("open {path}: {error}"))?;
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).map_err(|error| format!("enter {path}: {error}"))?;
        let mut stream = self.connect(until)?;
        let Some((host, path)) = &self.page else { return Ok(format!("port {} is open", self.port)) };
        let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
        let failed = |error: std::io::Error| format!("ask for {path}: {error}");
        stream.set_read_timeout(Some(left)).and_then(|()| stream.set_write_timeout(Some(left))).map_err(failed)?;
        let request = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\nUser-Agent: cais-health\r\nAccept: */*\r\n\r\n");
        stream.write_all(request.as_bytes()).map_err(failed)?;
        let mut answer = Vec::new();
        // A server that does not close the connection has answered all the same.
        let ended = stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer);
        match status(&answer) {
            Some(status @ 200..400) => Ok(format!("HTTP status {status}")),
            Some(status) => Err(format!("HTTP status {status}")),
            None => Err(ended.err().map_or_else(|| "the answer is not HTTP".to_owned(), failed)),
        }
    }

    fn connect(&self, until: Instant) -> Result<TcpStream, String> {
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let addresses = self.address.map_or_else(|| loopback.to_vec(), |address| vec![address]);
        let mut failed = String::new();
        for address in addresses {
            let left = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            match TcpStream::connect_timeout(&SocketAddr::new(address, self.port), left) {
                Ok(stream) => return Ok(stream),
                Err(error) if failed.is_empty() => failed = format!("connect to port {}: {error}", self.port),
                Err(_) => {}
            }
        }
        Err(failed)
    }
}

/// The status in the first line of an answer.
fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?.strip_prefix("HTTP/1.")?;
    text.split(' ').nth(1)?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_and_ports_are_read() {
        let http = |url: &str| Direct::parse("HTTP", url);
        let check = http("http://localhost:8080/a?b").expect("good");
        assert_eq!((check.address, check.port, check.page), (None, 8080, Some(("localhost:8080".to_owned(), "/a?b".to_owned()))));
        assert_eq!(http("http://127.0.0.1").map(|check| check.port), Ok(80));
        assert_eq!(http("http://[::1]:81/").map(|check| (check.address, check.port)), Ok((Some(IpAddr::from(Ipv6Addr::LOCALHOST)), 81)));
        for bad in [
            "localhost",
            "https://localhost/",
            "http://example.com/",
            "http://localhost:0/",
            "http://localhost:x/",
            "http://localhost/\r\nX: y",
            "http://",
        ] {
            assert!(http(bad).is_err(), "{bad}");
        }
        assert!(Direct::parse("TCP", "5432").is_ok() && Direct::parse("TCP", "0").is_err() && Direct::parse("TCP", "x").is_err());
    }

    #[test]
    fn statuses_are_found() {
        assert_eq!(status(b"HTTP/1.0 204 No Content\r\n\r\n"), Some(204));
        assert_eq!(status(b"HTTP/1.1 500\r\n"), Some(500));
        assert_eq!(status(b"SSH-2.0-x\r\n"), None);
    }
}

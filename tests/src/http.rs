//! A few lines of HTTP over TCP or a unix socket: what a test asks by hand, byte by byte.

use anyhow::{Context, Result};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(10);
const JSON: &str = "application/json";

/// An answer, read until the other side closed.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The header lines, as they came.
    pub head: String,
    /// The body, chunks put together.
    pub body: String,
}

/// GET over TCP.
pub fn get(address: SocketAddr, path: &str) -> Result<Answer> {
    let stream = TcpStream::connect_timeout(&address, TIMEOUT).with_context(|| format!("connect to {address}"))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, "GET", path, "", b"")
}

/// A request over a unix socket, with a JSON body if it is not empty.
pub fn unix(socket: &Path, method: &str, path: &str, body: &str) -> Result<Answer> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    exchange(stream, method, path, JSON, body.as_bytes())
}

/// A request over a unix socket with a body of any type, and so long for the answer.
pub fn unix_with(socket: &Path, method: &str, path: &str, content_type: &str, body: &[u8], timeout: Duration) -> Result<Answer> {
    let stream = UnixStream::connect(socket).with_context(|| format!("connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(timeout))?;
    exchange(stream, method, path, content_type, body)
}

/// A port of loopback that was free a moment ago.
pub fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn exchange(mut stream: impl Read + Write, method: &str, path: &str, content_type: &str, body: &[u8]) -> Result<Answer> {
    let mut request = format!("{method} {path} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n");
    if !body.is_empty() {
        request += &format!("Content-Type: {content_type}\r\n");
    }
    request += &format!("Content-Length: {}\r\n\r\n", body.len());
    let sent = stream.write_all(request.as_bytes()).and_then(|()| stream.write_all(body));
    sent.with_context(|| format!("ask {method} {path}"))?;
    let mut bytes = Vec::new();
    // A reset after the answer does not take the answer away.
    if let Err(error) = stream.read_to_end(&mut bytes)
        && bytes.is_empty()
    {
        return Err(error).with_context(|| format!("read the answer to {method} {path}"));
    }
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").with_context(|| format!("no HTTP answer to {method} {path}: {text:?}"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).with_context(|| format!("no status in {head:?}"))?;
    let chunked = head.to_ascii_lowercase().contains("transfer-encoding: chunked");
    let body = if chunked { dechunk(body) } else { body.to_owned() };
    Ok(Answer { status, head: head.to_owned(), body })
}

fn dechunk(mut rest: &str) -> String {
    let mut body = String::new();
    while let Some((size, tail)) = rest.split_once("\r\n") {
        let size = usize::from_str_radix(size.trim(), 16).unwrap_or(0);
        if size == 0 || !tail.is_char_boundary(size.min(tail.len())) {
            break;
        }
        let size = size.min(tail.len());
        body.push_str(&tail[..size]);
        rest = tail[size..].trim_start_matches("\r\n");
    }
    body
}

#[cfg(test)]
mod tests {
    use super::dechunk;

    #[test]
    fn chunks_are_put_together() {
        assert_eq!(dechunk("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"), "abcde");
    }
}

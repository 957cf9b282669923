//! Where an engine listens: parsing of `unix://…`, `tcp://…` and `http://…`, and connecting there.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::Error;

/// Docker's port for the plain protocol, used when a tcp address names none.
const TCP_PORT_DEFAULT: u16 = 2375;
const TCP_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// `/etc/hosts` files are short; what lies beyond is not searched.
const HOSTS_FILE_BYTES_MAX: u64 = 1 << 20;

/// The address of an engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A unix stream socket.
    Unix(PathBuf),
    /// Plain HTTP over TCP: host (an address, or a name of `/etc/hosts`) and port.
    Tcp {
        /// Address or name, without brackets.
        host: String,
        /// Port.
        port: u16,
    },
}

impl FromStr for Endpoint {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let bad = |reason: &'static str| Error::BadEndpoint { text: text.to_owned(), reason };
        let (scheme, rest) = text.split_once("://").unwrap_or(if text.starts_with('/') { ("unix", text) } else { ("tcp", text) });
        match scheme {
            "unix" if rest.is_empty() => Err(bad("the path of the socket is missing")),
            "unix" => Ok(Self::Unix(PathBuf::from(rest))),
            "tcp" | "http" => {
                let (host, port) = split_host_port(rest.trim_end_matches('/')).ok_or_else(|| bad("expected tcp://HOST:PORT"))?;
                Ok(Self::Tcp { host, port })
            }
            "https" | "ssh" | "npipe" | "fd" => Err(Error::SchemeNotServed { text: text.to_owned(), scheme: scheme.to_owned() }),
            _ => Err(bad("expected unix:///PATH or tcp://HOST:PORT")),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(out, "unix://{}", path.display()),
            Self::Tcp { host, port } if host.contains(':') => write!(out, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(out, "tcp://{host}:{port}"),
        }
    }
}

impl Endpoint {
    /// The value of the `Host` header.
    pub(crate) fn host_header(&self) -> String {
        match self {
            Self::Unix(_) => "cais".to_owned(),
            Self::Tcp { host, port } if host.contains(':') => format!("[{host}]:{port}"),
            Self::Tcp { host, port } => format!("{host}:{port}"),
        }
    }

    /// Opens a connection. [`Error::NoEngine`] when nothing listens there.
    pub(crate) fn connect(&self) -> Result<Stream, Error> {
        let opened = match self {
            Self::Unix(path) => UnixStream::connect(path).map(Stream::Unix),
            Self::Tcp { host, port } => {
                let address = lookup(host).ok_or_else(|| Error::UnknownHost { host: host.clone() })?;
                TcpStream::connect_timeout(&SocketAddr::new(address, *port), TCP_CONNECT_TIMEOUT).map(|stream| {
                    // Small requests must not wait for the acknowledgement of earlier ones; a failure only costs speed.
                    let _ = stream.set_nodelay(true);
                    Stream::Tcp(stream)
                })
            }
        };
        opened.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Error::NoEngine { endpoint: self.clone(), source },
            _ => Error::Connect { endpoint: self.clone(), source },
        })
    }
}

/// A connected byte stream to an engine.
#[derive(Debug)]
pub enum Stream {
    /// Over a unix socket.
    Unix(UnixStream),
    /// Over TCP.
    Tcp(TcpStream),
}

impl Stream {
    /// A second handle on the same connection, for a thread of its own.
    pub fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Unix(stream) => stream.try_clone().map(Self::Unix),
            Self::Tcp(stream) => stream.try_clone().map(Self::Tcp),
        }
    }

    /// Ends one or both directions, for every handle on the connection.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self {
            Self::Unix(stream) => stream.shutdown(how),
            Self::Tcp(stream) => stream.shutdown(how),
        }
    }
}

impl AsFd for Stream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.read(buffer),
            Self::Tcp(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Unix(stream) => stream.write(bytes),
            Self::Tcp(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn split_host_port(text: &str) -> Option<(String, u16)> {
    if let Some(rest) = text.strip_prefix('[') {
        let (host, after) = rest.split_once(']')?;
        let port = if after.is_empty() { TCP_PORT_DEFAULT } else { after.strip_prefix(':')?.parse().ok()? };
        return Some((host.to_owned(), port));
    }
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) => (host, port.parse().ok()?),
        None => (text, TCP_PORT_DEFAULT),
    };
    let host = if host.is_empty() { "127.0.0.1" } else { host };
    (!host.contains(['/', ':'])).then(|| (host.to_owned(), port))
}

/// Addresses as they are, and names of `/etc/hosts`: the resolver of a static glibc loads the host's libraries, which may crash, so it is never asked.
fn lookup(host: &str) -> Option<IpAddr> {
    if let Ok(address) = host.parse() {
        return Some(address);
    }
    if host == "localhost" {
        return Some(IpAddr::from([127, 0, 0, 1]));
    }
    let mut text = String::new();
    std::fs::File::open("/etc/hosts").ok()?.take(HOSTS_FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    text.lines().find_map(|line| {
        let mut words = line.split('#').next()?.split_whitespace();
        let address = words.next()?.parse().ok()?;
        words.any(|name| name.eq_ignore_ascii_case(host)).then_some(address)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_parse_and_print_back() {
        for text in ["unix:///run/cais/cais.sock", "tcp://127.0.0.1:2375", "tcp://[::1]:80"] {
            assert_eq!(text.parse::<Endpoint>().expect("parses").to_string(), text);
        }
        assert_eq!("/x.sock".parse::<Endpoint>().expect("parses").to_string(), "unix:///x.sock");
        assert_eq!("http://h".parse::<Endpoint>().expect("parses").to_string(), "tcp://h:2375");
    }

    #[test]
    fn other_schemes_are_refused_by_name() {
        let text = "ssh://me@host".parse::<Endpoint>().expect_err("refused").to_string();
        assert!(text.contains("ssh"), "{text}");
        assert!("unix://".parse::<Endpoint>().is_err());
        assert!("tcp://h:notaport".parse::<Endpoint>().is_err());
        assert!("gopher://x".parse::<Endpoint>().is_err());
    }
}

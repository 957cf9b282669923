//! A connection to a collector of logs, opened anew when it breaks.

use std::io;
use std::os::unix::net::UnixDatagram as StdDatagram;
use std::path::Path;
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::{TcpStream, UdpSocket, UnixDatagram, UnixStream};

use super::{About, fluentd, gelf, journald, syslog};
use crate::log::decode::LogRecord;
use crate::log::options::{Address, Target};

/// A collector that takes longer is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// What is gathered before it is sent over a stream.
const BUFFER_BYTES: usize = 64 << 10;

/// A collector.
#[derive(Debug)]
pub(crate) struct Sink {
    target: Target,
    about: About,
    link: Option<Link>,
    /// Messages for a stream that are not sent yet.
    pending: Vec<u8>,
}

#[derive(Debug)]
enum Link {
    Tcp(TcpStream),
    Stream(UnixStream),
    Udp(UdpSocket),
    Datagram(UnixDatagram),
}

impl Sink {
    /// Reaches a collector.
    pub(super) async fn open(target: &Target, about: About) -> io::Result<Self> {
        let mut sink = Self::closed(target, about);
        sink.link = Some(sink.connect().await?);
        Ok(sink)
    }

    /// One that is reached with the first record.
    pub(super) fn closed(target: &Target, about: About) -> Self {
        Self { target: target.clone(), about, link: None, pending: Vec::new() }
    }

    /// Sends a record, or keeps it with others for [`Sink::flush`].
    pub(super) async fn send(&mut self, record: &LogRecord<'_>, time_ns: i64) -> io::Result<()> {
        if self.link.is_none() {
            self.link = Some(self.connect().await?);
        }
        let streamed = matches!(self.link, Some(Link::Tcp(_) | Link::Stream(_)));
        match &self.target {
            Target::Syslog { facility, format, .. } => {
                let message = syslog::message(&self.about, record, time_ns, *facility, *format);
                if streamed { self.gather(&message).await } else { self.datagrams(&[message]).await }
            }
            Target::Journald { .. } => {
                let message = journald::message(&self.about, record, time_ns);
                self.datagrams(&[message]).await
            }
            Target::Gelf { compression, .. } => {
                let message = gelf::message(&self.about, record, time_ns);
                if streamed {
                    self.gather(&[message.as_slice(), b"\0"].concat()).await
                } else {
                    let parts = gelf::datagrams(&message, *compression)?;
                    self.datagrams(&parts).await
                }
            }
            Target::Fluentd { nanos, .. } => {
                let message = fluentd::message(&self.about, record, time_ns, *nanos);
                self.gather(&message).await
            }
        }
    }

    /// Sends what was gathered.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        if self.pending.is_empty() {
            return Ok(());
        }
        if self.link.is_none() {
            self.link = Some(self.connect().await?);
        }
        let written = match &mut self.link {
            Some(Link::Tcp(stream)) => stream.write_all(&self.pending).await,
            Some(Link::Stream(stream)) => stream.write_all(&self.pending).await,
            _ => Ok(()),
        };
        match written {
            Ok(()) => {
                self.pending.clear();
                Ok(())
            }
            Err(error) => {
                self.link = None;
                Err(error)
            }
        }
    }

    async fn gather(&mut self, message: &[u8]) -> io::Result<()> {
        if self.pending.len() + message.len() > BUFFER_BYTES {
            self.flush().await?;
        }
        self.pending.extend_from_slice(message);
        Ok(())
    }

    async fn datagrams(&mut self, parts: &[Vec<u8>]) -> io::Result<()> {
        for part in parts {
            let sent = match &self.link {
                Some(Link::Udp(socket)) => socket.send(part).await.map(drop),
                Some(Link::Datagram(socket)) => socket.send(part).await.map(drop),
                _ => Ok(()),
            };
            match (sent, &self.link) {
                (Ok(()), _) => {}
                // Nobody listens there at the moment: that is how UDP is.
                (Err(error), Some(Link::Udp(_))) if error.kind() == io::ErrorKind::ConnectionRefused => {}
                (Err(error), _) => {
                    self.link = None;
                    return Err(error);
                }
            }
        }
        Ok(())
    }

    async fn connect(&self) -> io::Result<Link> {
        let timed_out = |_| io::Error::from(io::ErrorKind::TimedOut);
        tokio::time::timeout(CONNECT_TIMEOUT, self.reach()).await.map_err(timed_out)?
    }

    async fn reach(&self) -> io::Result<Link> {
        let address = match &self.target {
            Target::Journald { socket } => return datagram(socket).map(Link::Datagram),
            Target::Syslog { at, .. } | Target::Gelf { at, .. } | Target::Fluentd { at, .. } => at,
        };
        match address {
            Address::Tcp(address) => Ok(Link::Tcp(TcpStream::connect(address).await?)),
            Address::Udp(address) => {
                let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
                let socket = UdpSocket::bind(any).await?;
                socket.connect(address).await?;
                Ok(Link::Udp(socket))
            }
            // Which kind of socket it is shows only when it is tried.
            Address::Unix(path) => match datagram(path) {
                Ok(socket) => Ok(Link::Datagram(socket)),
                Err(_) => Ok(Link::Stream(UnixStream::connect(path).await?)),
            },
        }
    }
}

impl Target {
    /// Where it listens, as the options have it.
    pub(super) fn address(&self) -> String {
        match self {
            Self::Journald { socket } => format!("unix://{}", socket.display()),
            Self::Syslog { at, .. } | Self::Gelf { at, .. } | Self::Fluentd { at, .. } => match at {
                Address::Tcp(address) => format!("tcp://{address}"),
                Address::Udp(address) => format!("udp://{address}"),
                Address::Unix(path) => format!("unix://{}", path.display()),
            },
        }
    }

    /// Whether a container starts without it.
    pub(super) fn may_come_later(&self) -> bool {
        matches!(self, Self::Fluentd { at_once: false, .. })
    }
}

fn datagram(path: &Path) -> io::Result<UnixDatagram> {
    let socket = StdDatagram::unbound()?;
    socket.connect(path)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

//! Attaching clients to a container's streams: before its start, while it runs, with or without what was logged so far.

use std::os::fd::AsFd;
use std::sync::Arc;

use monitor::{Attach as MonitorAttach, Request};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::Shutdown;
use tokio::sync::OwnedRwLockReadGuard;
use types::container::Status;

use super::{Container, lock};
use crate::request::{Attach, ClientStream, ReadLogs, Stream};
use crate::{Engine, Error, LogRecord};

/// What an attached client gets and gives; the monitor's form of it, but for the bytes read ahead.
pub(crate) type Streams = MonitorAttach;

/// Clients that may wait for the start of one container.
const WAITING_LEN_MAX: usize = 64;

/// A client that may attach: everything is checked, only its socket is missing.
#[derive(Debug)]
pub struct AttachTicket {
    /// The container has a terminal: the stream is raw.
    pub tty: bool,
    engine: Arc<Engine>,
    container: Arc<Container>,
    streams: Streams,
    request: Attach,
    /// Keeps a start waiting until the client is registered. None when one is under way already.
    registering: Option<OwnedRwLockReadGuard<()>>,
    /// The container ran when the client asked: what it wants to see is this run, not the next.
    ran: bool,
}

impl Engine {
    /// Checks that a client may attach. [`AttachTicket::run`] then takes its socket.
    pub fn attach(self: &Arc<Self>, name: &str, request: Attach) -> Result<AttachTicket, Error> {
        let container = self.find(name)?;
        let record = container.record();
        let refused = |reason| Error::Attach { name: record.name.clone(), reason };
        match record.state.status {
            Status::Paused => return Err(refused("it is paused: unpause it first")),
            Status::Restarting => return Err(refused("it is restarting: wait until it runs")),
            Status::Removing | Status::Dead => return Err(refused("it is being removed")),
            Status::Created | Status::Running | Status::Exited => {}
        }
        let tty = record.config.tty;
        let streams = Streams {
            stdin: request.stdin && record.config.open_stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            multiplexed: !tty && !request.raw,
            detach_keys: detach_keys(request.detach_keys.as_deref())?,
            read_ahead: Vec::new(),
        };
        let mut waiting = lock(&container.waiting);
        if waiting.len() >= WAITING_LEN_MAX {
            waiting.retain(|(_, client)| !hung_up(client));
        }
        if waiting.len() >= WAITING_LEN_MAX {
            return Err(refused("too many clients wait for its start"));
        }
        drop(waiting);
        self.publish(&container, "attach");
        let registering = container.attaching.clone().try_read_owned().ok();
        Ok(AttachTicket { tty, engine: self.clone(), container, streams, request, registering, ran: record.is_alive() })
    }
}

impl AttachTicket {
    /// Hands the client's socket on. Returns when the logs are replayed and the monitor has the socket: the stream itself needs no engine.
    pub async fn run(self, client: ClientStream) {
        if self.request.logs && !self.replay(&client).await {
            return;
        }
        if !self.request.stream {
            return;
        }
        let Self { container, mut streams, registering, ran, .. } = self;
        let link = {
            let mut waiting = lock(&container.waiting);
            match container.link() {
                Some(link) => link,
                None if ran => {
                    let _ = rustix::net::shutdown(&client.socket, Shutdown::Both);
                    return;
                }
                None => {
                    // The start takes over who waits under the same lock.
                    waiting.push((streams, client));
                    return;
                }
            }
        };
        drop(registering);
        streams.read_ahead = client.read_ahead.to_vec();
        if let Err(error) = link.order(Request::Attach(streams), &[client.socket.as_fd()]).await {
            tracing::debug!(error = types::error::chain(&error), "a client could not be attached");
            let _ = rustix::net::shutdown(&client.socket, Shutdown::Both);
        }
    }

    /// Sends what was logged so far. False when the client is gone.
    async fn replay(&self, client: &ClientStream) -> bool {
        let request = ReadLogs { stdout: self.request.stdout, stderr: self.request.stderr, ..ReadLogs::default() };
        let Ok(mut reader) = self.engine.logs(self.container.id.as_str(), request).await else { return true };
        let Ok(socket) = client.socket.try_clone() else { return false };
        let Ok(mut socket) = stream(socket) else { return false };
        while let Some(batch) = reader.records.recv().await {
            let mut bytes = Vec::new();
            for record in batch.iter() {
                frame(&mut bytes, &record, !self.streams.multiplexed);
            }
            if tokio::io::AsyncWriteExt::write_all(&mut socket, &bytes).await.is_err() {
                return false;
            }
        }
        true
    }
}

/// Whether a client has gone for good; one that only has no more input has not.
fn hung_up(client: &ClientStream) -> bool {
    let mut poll = [PollFd::new(&client.socket, PollFlags::empty())];
    rustix::event::poll(&mut poll, Some(&Timespec::default())).is_ok_and(|_| poll[0].revents().contains(PollFlags::HUP))
}

/// The sequence that detaches: the default when nothing is asked for.
pub(crate) fn detach_keys(text: Option<&str>) -> Result<Vec<u8>, Error> {
    let text = text.unwrap_or_default();
    monitor::detach_keys(text).map_err(|error| Error::DetachKeys { keys: text.to_owned(), reason: error.to_string() })
}

/// A client's socket for tokio; it is always a Unix socket here.
pub(crate) fn stream(socket: std::os::fd::OwnedFd) -> std::io::Result<tokio::net::UnixStream> {
    let socket = std::os::unix::net::UnixStream::from(socket);
    socket.set_nonblocking(true)?;
    tokio::net::UnixStream::from_std(socket)
}

/// Appends a record as clients read it: with a header that names its stream, or raw.
fn frame(out: &mut Vec<u8>, record: &LogRecord<'_>, raw: bool) {
    if !raw {
        let number = match record.stream {
            Stream::Stdout => 1,
            Stream::Stderr => 2,
        };
        out.extend_from_slice(&[number, 0, 0, 0]);
        out.extend_from_slice(&(record.line.len() as u32).to_be_bytes());
    }
    out.extend_from_slice(record.line);
}

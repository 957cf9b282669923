//! Connected engines: usually one, none while the engine is restarted, two for a moment when a successor comes.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Instant;

use monitor::protocol::{MonitorMessage, VERSION};
use monitor::{Event, Reply, wire};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::poll::{Interest, Poll, Token};

/// Connections at once; further ones are closed.
const ENGINES_MAX: usize = 8;
/// Messages that wait for an engine which does not read, before it is dropped: it may connect again and is told the state.
const OUTBOX_LEN_MAX: usize = 1024;

/// All connections, and the socket where new ones come in.
#[derive(Debug)]
pub struct Engines {
    /// None once everything is said.
    listener: Option<OwnedFd>,
    listening: bool,
    connected: Vec<Engine>,
    numbers: u32,
    /// Since when nobody is connected.
    alone_since: Option<Instant>,
}

#[derive(Debug)]
struct Engine {
    number: u32,
    socket: OwnedFd,
    outbox: VecDeque<Vec<u8>>,
}

impl Engines {
    /// Begins with the connection of the engine that started this monitor.
    pub fn new(poll: &Poll, listener: OwnedFd, first: OwnedFd) -> io::Result<Self> {
        poll.add(&listener, Token::Listener, Interest::READ)?;
        let mut engines = Self { listener: Some(listener), listening: true, connected: Vec::new(), numbers: 0, alone_since: None };
        engines.add(poll, first)?;
        Ok(engines)
    }

    /// Takes the next waiting connection, if it is of the same user; answers its number.
    pub fn accept(&mut self, poll: &Poll) -> Option<u32> {
        let listener = self.listener.as_ref()?;
        let socket = match rustix::net::accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(socket) => socket,
            Err(errno) => {
                // Without descriptors to spare the connection goes on waiting, and would be reported without end.
                if matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) {
                    poll.remove(listener);
                    self.listening = false;
                }
                return None;
            }
        };
        let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
        if peer.uid != rustix::process::geteuid() || self.connected.len() >= ENGINES_MAX {
            return None;
        }
        self.add(poll, socket).ok()
    }

    /// Listens again after a lack of descriptors.
    pub fn listen_again(&mut self, poll: &Poll) {
        if let Some(listener) = self.listener.as_ref().filter(|_| !self.listening) {
            self.listening = poll.add(listener, Token::Listener, Interest::READ).is_ok();
        }
    }

    /// The next message of a connection. A broken or closed one is dropped and reads as empty.
    pub fn receive(&mut self, poll: &Poll, number: u32) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
        let engine = self.connected.iter().find(|engine| engine.number == number)?;
        match wire::receive(engine.socket.as_fd()) {
            Ok(wire::Received::Message(text, fds)) => Some((text, fds)),
            Ok(wire::Received::Empty) => None,
            Ok(wire::Received::Closed) | Err(_) => {
                self.remove(poll, number);
                None
            }
        }
    }

    /// Answers a request.
    pub fn reply(&mut self, poll: &Poll, number: u32, id: u64, reply: Reply) {
        let message = MonitorMessage { v: VERSION, id, reply: Some(reply), event: None };
        if let Ok(text) = serde_json::to_vec(&message) {
            self.send(poll, number, text);
        }
    }

    /// Tells every engine.
    pub fn broadcast(&mut self, poll: &Poll, event: &Event) {
        let message = MonitorMessage { v: VERSION, id: 0, reply: None, event: Some(event.clone()) };
        let Ok(text) = serde_json::to_vec(&message) else { return };
        let numbers: Vec<u32> = self.connected.iter().map(|engine| engine.number).collect();
        for number in numbers {
            self.send(poll, number, text.clone());
        }
    }

    /// Sends what waits for an engine that reads again.
    pub fn flush(&mut self, poll: &Poll, number: u32) {
        let Some(engine) = self.connected.iter_mut().find(|engine| engine.number == number) else { return };
        while let Some(text) = engine.outbox.front() {
            match wire::send(engine.socket.as_fd(), text, &[]) {
                Ok(()) => drop(engine.outbox.pop_front()),
                Err(error) if error.would_block() => return,
                Err(_) => return self.remove(poll, number),
            }
        }
        let _ = poll.change(&engine.socket, Token::Engine(number), Interest::READ);
    }

    /// Closes the socket where engines come in, then every connection: who sees its own end finds nobody to connect to.
    pub fn close_all(&mut self, poll: &Poll) {
        self.listener = None;
        while let Some(engine) = self.connected.first() {
            self.remove(poll, engine.number);
        }
    }

    /// Since when no engine has been connected; none while one is.
    pub fn alone_since(&self) -> Option<Instant> {
        self.alone_since
    }

    fn add(&mut self, poll: &Poll, socket: OwnedFd) -> io::Result<u32> {
        self.numbers += 1;
        poll.add(&socket, Token::Engine(self.numbers), Interest::READ)?;
        self.connected.push(Engine { number: self.numbers, socket, outbox: VecDeque::new() });
        self.alone_since = None;
        Ok(self.numbers)
    }

    fn remove(&mut self, poll: &Poll, number: u32) {
        if let Some(index) = self.connected.iter().position(|engine| engine.number == number) {
            poll.remove(&self.connected.swap_remove(index).socket);
        }
        if self.connected.is_empty() {
            self.alone_since = Some(Instant::now());
        }
    }

    fn send(&mut self, poll: &Poll, number: u32, text: Vec<u8>) {
        let Some(engine) = self.connected.iter_mut().find(|engine| engine.number == number) else { return };
        if engine.outbox.is_empty() {
            match wire::send(engine.socket.as_fd(), &text, &[]) {
                Ok(()) => return,
                Err(error) if error.would_block() => {
                    let both = Interest { read: true, write: true, priority: false };
                    let _ = poll.change(&engine.socket, Token::Engine(number), both);
                }
                Err(_) => return self.remove(poll, number),
            }
        }
        engine.outbox.push_back(text);
        if engine.outbox.len() > OUTBOX_LEN_MAX {
            self.remove(poll, number);
        }
    }
}

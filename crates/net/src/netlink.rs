//! Netlink, as much as this crate needs: messages with nested attributes, many in one send, one acknowledgement for all.
//!
//! The same few functions write rtnetlink and nf_tables messages and read their answers, so neither needs a library of types.

use std::os::fd::{AsFd, OwnedFd};

use rustix::io::Errno;
use rustix::net::{AddressFamily, Protocol, RecvFlags, SendFlags, SocketFlags, SocketType};

/// Message flags of `linux/netlink.h`.
pub const REQUEST: u16 = 0x1;
pub const ACK: u16 = 0x4;
pub const DUMP: u16 = 0x300;
pub const REPLACE: u16 = 0x100;
pub const EXCL: u16 = 0x200;
pub const CREATE: u16 = 0x400;
pub const APPEND: u16 = 0x800;

const HEADER_LEN: usize = 16;
const TYPE_NOOP: u16 = 1;
const TYPE_ERROR: u16 = 2;
const TYPE_DONE: u16 = 3;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
/// In an error: the offending message's payload is not echoed; attributes follow.
const FLAG_CAPPED: u16 = 0x100;
const FLAG_ACK_TLVS: u16 = 0x200;
const ERROR_ATTR_MESSAGE: u16 = 1;
/// More than the kernel puts into one datagram of a dump.
const RECEIVE_LEN: usize = 64 * 1024;
/// The most that one batch may need: 10,000 published ports are under 1 MiB.
const SEND_BUFFER_LEN: usize = 8 << 20;

/// Why the kernel refused a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// Which message, counted from 0 in the order of [`Batch::add`].
    pub index: usize,
    /// The kernel's error.
    pub errno: Errno,
    /// Its explanation, where it gave one.
    pub text: Option<String>,
}

/// Messages that go to the kernel in one system call.
#[derive(Debug, Default)]
pub struct Batch {
    bytes: Vec<u8>,
    starts: Vec<usize>,
    /// The message whose acknowledgement ends the exchange; without it the last one.
    acked: Option<usize>,
}

impl Batch {
    pub fn new() -> Self {
        Self { bytes: Vec::with_capacity(2048), ..Self::default() }
    }

    /// Adds a message: its fixed header after the netlink header, then the attributes that `fill` writes.
    pub fn add(&mut self, kind: u16, flags: u16, header: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.starts.push(start);
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&[0; 8]);
        self.bytes.extend_from_slice(header);
        pad(&mut self.bytes);
        fill(&mut Attributes { bytes: &mut self.bytes });
        let len = (self.bytes.len() - start) as u32;
        self.bytes[start..start + 4].copy_from_slice(&len.to_ne_bytes());
    }

    /// Ends the exchange with the answer to the message added last so far: what follows is never answered.
    pub fn acknowledge_here(&mut self) {
        self.acked = self.starts.len().checked_sub(1);
    }

    fn seal(&mut self, sequence: u32) -> usize {
        let acked = self.acked.unwrap_or(self.starts.len().saturating_sub(1));
        for (index, &start) in self.starts.iter().enumerate() {
            self.bytes[start + 8..start + 12].copy_from_slice(&sequence.wrapping_add(index as u32).to_ne_bytes());
            if index == acked {
                let flags = u16::from_ne_bytes([self.bytes[start + 6], self.bytes[start + 7]]) | ACK;
                self.bytes[start + 6..start + 8].copy_from_slice(&flags.to_ne_bytes());
            }
        }
        acked
    }
}

/// Writes attributes into a message.
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
}

impl Attributes<'_> {
    pub fn bytes(&mut self, kind: u16, value: &[u8]) {
        self.bytes.extend_from_slice(&((value.len() + 4) as u16).to_ne_bytes());
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(value);
        pad(self.bytes);
    }

    /// A text with its final NUL.
    pub fn text(&mut self, kind: u16, value: &str) {
        let mut bytes = Vec::with_capacity(value.len() + 1);
        bytes.extend_from_slice(value.as_bytes());
        bytes.push(0);
        self.bytes(kind, &bytes);
    }

    /// A number in the machine's order, as rtnetlink has it.
    pub fn number(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_ne_bytes());
    }

    /// A number in network order, as nf_tables has it.
    pub fn big(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// An attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) {
        self.nest_after(kind, &[], fill);
    }

    /// An attribute that holds a fixed header and then attributes.
    pub fn nest_after(&mut self, kind: u16, header: &[u8], fill: impl FnOnce(&mut Attributes<'_>)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&(kind | NESTED).to_ne_bytes());
        self.bytes.extend_from_slice(header);
        pad(self.bytes);
        fill(&mut Attributes { bytes: self.bytes });
        let len = (self.bytes.len() - start) as u16;
        self.bytes[start..start + 2].copy_from_slice(&len.to_ne_bytes());
    }
}

/// A netlink socket. It stays in the network namespace of the thread that opened it.
#[derive(Debug)]
pub struct Socket {
    fd: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For links, addresses and routes.
    pub fn route() -> Result<Self, Errno> {
        Self::open(None)
    }

    /// For nf_tables and connection tracking.
    pub fn netfilter() -> Result<Self, Errno> {
        Self::open(Some(rustix::net::netlink::NETFILTER))
    }

    fn open(protocol: Option<Protocol>) -> Result<Self, Errno> {
        let fd = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, protocol)?;
        // Both only help: texts in errors, and room for a whole table in one transaction.
        let _ = kernel::net::set_extended_errors(&fd);
        let _ = rustix::net::sockopt::set_socket_send_buffer_size_force(&fd, SEND_BUFFER_LEN);
        Ok(Self { fd, sequence: 1 })
    }

    /// Sends the batch and waits for its acknowledgement. What failed first is told; rtnetlink still does the messages after
    /// it, nf_tables undoes them all.
    pub fn transact(&mut self, mut batch: Batch) -> Result<(), Refusal> {
        let count = batch.starts.len() as u32;
        if count == 0 {
            return Ok(());
        }
        let first = self.reserve(count);
        let acked = batch.seal(first);
        let own = |errno| Refusal { index: 0, errno, text: None };
        self.send(&batch.bytes).map_err(own)?;
        let mut failure: Option<Refusal> = None;
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            let len = self.receive(&mut buffer).map_err(own)?;
            for message in Messages(&buffer[..len]) {
                let index = message.sequence.wrapping_sub(first) as usize;
                if message.kind != TYPE_ERROR || index >= count as usize {
                    continue;
                }
                let refusal = message.refusal(index);
                let refused = refusal.is_some();
                failure = failure.or(refusal);
                // A transaction that fails as a whole is answered for its first message alone.
                let whole = batch.acked.is_some() && index == 0 && refused;
                if index == acked || whole {
                    return failure.map_or(Ok(()), Err);
                }
            }
        }
    }

    /// Sends one request and gives each message of the answer (a whole table with [`DUMP`], else one message) to `each`.
    pub fn query(
        &mut self,
        kind: u16,
        flags: u16,
        header: &[u8],
        fill: impl FnOnce(&mut Attributes<'_>),
        mut each: impl FnMut(Message<'_>),
    ) -> Result<(), Errno> {
        let mut batch = Batch::new();
        batch.add(kind, flags, header, fill);
        let sequence = self.reserve(1);
        let dump = flags & DUMP == DUMP;
        batch.bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
        self.send(&batch.bytes)?;
        let mut buffer = vec![0; RECEIVE_LEN];
        loop {
            let len = self.receive(&mut buffer)?;
            for message in Messages(&buffer[..len]) {
                match message.kind {
                    _ if message.sequence != sequence => continue,
                    TYPE_NOOP => continue,
                    TYPE_DONE => return Ok(()),
                    TYPE_ERROR => return message.refusal(0).map_or(Ok(()), |refusal| Err(refusal.errno)),
                    _ => each(message),
                }
                if !dump {
                    return Ok(());
                }
            }
        }
    }

    fn reserve(&mut self, count: u32) -> u32 {
        let first = self.sequence;
        self.sequence = first.wrapping_add(count);
        first
    }

    /// The number by which the kernel calls this socket. Given with the first message.
    pub fn port(&self) -> Option<u32> {
        let address = rustix::net::getsockname(&self.fd).ok()?;
        rustix::net::netlink::SocketAddrNetlink::try_from(address).ok().map(|address| address.pid())
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        let sent = rustix::io::retry_on_intr(|| rustix::net::send(&self.fd, bytes, SendFlags::empty()))?;
        if sent == bytes.len() { Ok(()) } else { Err(Errno::MSGSIZE) }
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Errno> {
        let (len, whole) = rustix::io::retry_on_intr(|| rustix::net::recv(&self.fd, &mut *buffer, RecvFlags::TRUNC))?;
        if whole > buffer.len() { Err(Errno::MSGSIZE) } else { Ok(len) }
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A received message.
#[derive(Debug, Clone, Copy)]
pub struct Message<'a> {
    pub kind: u16,
    flags: u16,
    sequence: u32,
    /// The port of whoever caused it; of an event, the socket that made the change.
    pub sender: u32,
    /// What follows the netlink header.
    pub payload: &'a [u8],
}

impl<'a> Message<'a> {
    /// The attributes after a fixed header of `header_len` bytes.
    pub fn attributes(&self, header_len: usize) -> AttributeReader<'a> {
        AttributeReader(self.payload.get(align(header_len)..).unwrap_or_default())
    }

    fn refusal(&self, index: usize) -> Option<Refusal> {
        let code = self.payload.get(..4).and_then(|bytes| bytes.try_into().ok()).map_or(-Errno::IO.raw_os_error(), i32::from_ne_bytes);
        if code == 0 {
            return None;
        }
        let text = (self.flags & FLAG_ACK_TLVS != 0).then(|| self.explanation()).flatten();
        Some(Refusal { index, errno: Errno::from_raw_os_error(code.wrapping_neg()), text })
    }

    fn explanation(&self) -> Option<String> {
        let echoed = if self.flags & FLAG_CAPPED != 0 { HEADER_LEN } else { read_u32(self.payload.get(4..)?)? as usize };
        let attributes = AttributeReader(self.payload.get(4 + align(echoed)..)?);
        attributes.find(ERROR_ATTR_MESSAGE).map(text)
    }
}

/// Splits a datagram into messages.
#[derive(Debug)]
pub struct Messages<'a>(pub &'a [u8]);

impl<'a> Iterator for Messages<'a> {
    type Item = Message<'a>;

    fn next(&mut self) -> Option<Message<'a>> {
        let len = read_u32(self.0)? as usize;
        let header = self.0.get(..HEADER_LEN)?;
        let payload = self.0.get(HEADER_LEN..len)?;
        let message = Message {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            flags: u16::from_ne_bytes([header[6], header[7]]),
            sequence: read_u32(&header[8..])?,
            sender: read_u32(&header[12..])?,
            payload,
        };
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some(message)
    }
}

/// Iterates over attributes as (type without flags, value).
#[derive(Debug, Clone, Copy)]
pub struct AttributeReader<'a>(pub &'a [u8]);

impl<'a> AttributeReader<'a> {
    /// The first attribute of that type.
    pub fn find(mut self, kind: u16) -> Option<&'a [u8]> {
        self.by_ref().find(|(have, _)| *have == kind).map(|(_, value)| value)
    }
}

impl<'a> Iterator for AttributeReader<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let head = self.0.get(..4)?;
        let len = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & TYPE_MASK;
        let value = self.0.get(4..len)?;
        self.0 = self.0.get(align(len)..).unwrap_or_default();
        Some((kind, value))
    }
}

/// The first four bytes as a number in the machine's order.
pub fn read_u32(bytes: &[u8]) -> Option<u32> {
    bytes.get(..4)?.try_into().ok().map(u32::from_ne_bytes)
}

/// A text attribute without its final NUL.
pub fn text(value: &[u8]) -> String {
    let end = value.iter().position(|byte| *byte == 0).unwrap_or(value.len());
    String::from_utf8_lossy(&value[..end]).into_owned()
}

fn align(len: usize) -> usize {
    (len + 3) & !3
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(align(bytes.len()), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut batch = Batch::new();
        batch.add(16, CREATE, &[7; 6], |attributes| {
            attributes.text(3, "eth0");
            attributes.nest(18, |inner| inner.big(1, 0x01020304));
        });
        batch.add(17, 0, &[], |_| ());
        assert_eq!(batch.seal(5), 1);
        let messages: Vec<_> = Messages(&batch.bytes).collect();
        assert_eq!((messages[0].kind, messages[0].sequence, messages[0].flags), (16, 5, CREATE | REQUEST));
        assert_eq!((messages[1].kind, messages[1].sequence, messages[1].flags), (17, 6, REQUEST | ACK));
        let attributes = messages[0].attributes(6);
        assert_eq!(attributes.find(3).map(text).as_deref(), Some("eth0"));
        assert_eq!(AttributeReader(attributes.find(18).unwrap()).find(1), Some(&[1, 2, 3, 4][..]));
    }

    #[test]
    fn torn_answers_end_quietly() {
        let mut batch = Batch::new();
        batch.add(16, 0, &[0; 16], |attributes| attributes.text(3, "eth0"));
        for len in 0..batch.bytes.len() {
            assert_eq!(Messages(&batch.bytes[..len]).count(), 0);
        }
        for bytes in [&[0u8; 16][..], &[3, 0, 0, 0], &[255; 20], &[4, 0, 1, 0, 2, 0, 1, 0]] {
            assert!(Messages(bytes).count() <= 1 && AttributeReader(bytes).count() <= 2);
        }
    }

    #[test]
    fn the_kernel_acknowledges_and_explains() {
        let mut socket = Socket::route().unwrap();
        let mut names = Vec::new();
        socket.query(18, DUMP, &[0; 16], |_| (), |message| names.extend(message.attributes(16).find(3).map(text))).unwrap();
        assert!(names.iter().any(|name| name == "lo"), "{names:?}");
        let refusal = socket.query(18, 0, &[0; 16], |attributes| attributes.text(3, "no-such-link"), |_| ()).unwrap_err();
        assert_eq!(refusal, Errno::NODEV);
    }
}

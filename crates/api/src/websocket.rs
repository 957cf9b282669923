//! Attaching through a websocket: its frames carry what else goes over the connection as it is.

use base64::Engine as _;
use engine::request::ClientStream;
use hyper::header::{HeaderMap, HeaderValue};
use sha1::{Digest, Sha1};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::error::Failure;

/// What RFC 6455 has servers hash with the client's key.
const GUID: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const READ_BYTES: usize = 32 * 1024;
/// A frame that says it is longer is no frame of a terminal's.
const FRAME_BYTES_MAX: u64 = 16 << 20;

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// The answer to a client's key; without one the request is no websocket's.
pub fn accept(headers: &HeaderMap<HeaderValue>) -> Result<String, Failure> {
    let is_websocket = headers.get("upgrade").is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"websocket"));
    let key = headers.get("sec-websocket-key").filter(|_| is_websocket);
    let key = key.ok_or_else(|| Failure::bad("a websocket is expected: Upgrade: websocket with its Sec-WebSocket-Key"))?;
    let mut hash = Sha1::new();
    hash.update(key.as_bytes());
    hash.update(GUID);
    Ok(base64::engine::general_purpose::STANDARD.encode(hash.finalize()))
}

/// Puts a pair of sockets between the client and what it attaches to; answers the end without frames.
pub fn unframed(client: ClientStream) -> std::io::Result<ClientStream> {
    let outer = std::os::unix::net::UnixStream::from(client.socket);
    outer.set_nonblocking(true)?;
    let (from_client, to_client) = UnixStream::from_std(outer)?.into_split();
    let (inner, handed) = std::os::unix::net::UnixStream::pair()?;
    inner.set_nonblocking(true)?;
    let (from_process, to_process) = UnixStream::from_std(inner)?.into_split();
    let read_ahead = client.read_ahead;
    tokio::spawn(async move {
        let (control, controls) = tokio::sync::mpsc::channel(4);
        let incoming = Frames { source: from_client, ahead: read_ahead.to_vec(), at: 0 };
        // A client that breaks the rules or goes ends both directions.
        tokio::select! {
            read = receive(incoming, to_process, control) => if let Err(error) = read {
                tracing::debug!(%error, "a websocket ended");
            },
            written = send(from_process, to_client, controls) => if let Err(error) = written {
                tracing::debug!(%error, "a websocket ended");
            },
        }
    });
    Ok(ClientStream { socket: handed.into(), read_ahead: Default::default() })
}

/// What comes from the client, byte by byte.
struct Frames {
    source: OwnedReadHalf,
    ahead: Vec<u8>,
    at: usize,
}

impl Frames {
    async fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        if self.at < self.ahead.len() {
            let count = buffer.len().min(self.ahead.len() - self.at);
            buffer[..count].copy_from_slice(&self.ahead[self.at..self.at + count]);
            self.at += count;
            return Ok(count);
        }
        self.source.read(buffer).await
    }

    async fn fill(&mut self, buffer: &mut [u8]) -> std::io::Result<()> {
        let mut filled = 0;
        while filled < buffer.len() {
            match self.read(&mut buffer[filled..]).await? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                count => filled += count,
            }
        }
        Ok(())
    }
}

/// Hands on what frames carry; ends with the client's closing frame or its connection.
async fn receive(mut frames: Frames, mut process: OwnedWriteHalf, control: tokio::sync::mpsc::Sender<Vec<u8>>) -> std::io::Result<()> {
    let broken = |what: &'static str| std::io::Error::new(std::io::ErrorKind::InvalidData, what);
    let mut buffer = vec![0; READ_BYTES];
    loop {
        let mut head = [0; 2];
        frames.fill(&mut head).await?;
        let (opcode, masked) = (head[0] & 0x0f, head[1] & MASKED != 0);
        let mut left = match head[1] & 0x7f {
            126 => {
                let mut length = [0; 2];
                frames.fill(&mut length).await?;
                u64::from(u16::from_be_bytes(length))
            }
            127 => {
                let mut length = [0; 8];
                frames.fill(&mut length).await?;
                u64::from_be_bytes(length)
            }
            short => u64::from(short),
        };
        if !masked || left > FRAME_BYTES_MAX || opcode >= CLOSE && left > 125 {
            return Err(broken("a frame that no client may send"));
        }
        let mut mask = [0; 4];
        frames.fill(&mut mask).await?;
        let mut turn = 0;
        let mut small = Vec::new();
        while left > 0 {
            let part = READ_BYTES.min(usize::try_from(left).unwrap_or(READ_BYTES));
            frames.fill(&mut buffer[..part]).await?;
            for byte in &mut buffer[..part] {
                *byte ^= mask[turn % 4];
                turn += 1;
            }
            left -= part as u64;
            match opcode {
                CONTINUATION | TEXT | BINARY => process.write_all(&buffer[..part]).await?,
                _ => small.extend_from_slice(&buffer[..part]),
            }
        }
        match opcode {
            CONTINUATION | TEXT | BINARY | PONG => {}
            PING => drop(control.send(frame(PONG, &small)).await),
            CLOSE => {
                // Told back before the connection ends.
                drop(control.send(frame(CLOSE, &small)).await);
                control.closed().await;
                return Ok(());
            }
            _ => return Err(broken("a frame of an unknown kind")),
        }
    }
}

/// Frames what the process writes, and sends what the other direction answers.
async fn send(
    mut process: OwnedReadHalf,
    mut client: OwnedWriteHalf,
    mut controls: tokio::sync::mpsc::Receiver<Vec<u8>>,
) -> std::io::Result<()> {
    let mut buffer = vec![0; READ_BYTES];
    loop {
        tokio::select! {
            Some(answer) = controls.recv() => {
                client.write_all(&answer).await?;
                if answer[0] == FINAL | CLOSE {
                    return client.shutdown().await;
                }
            }
            read = process.read(&mut buffer) => match read? {
                0 => {
                    client.write_all(&frame(CLOSE, &1000_u16.to_be_bytes())).await?;
                    return client.shutdown().await;
                }
                count => client.write_all(&frame(BINARY, &buffer[..count])).await?,
            },
        }
    }
}

/// One whole frame of a server's: unmasked.
fn frame(opcode: u8, content: &[u8]) -> Vec<u8> {
    let mut out = vec![FINAL | opcode];
    match content.len() {
        length @ 0..126 => out.push(length as u8),
        length @ 126..0x1_0000 => {
            out.push(126);
            out.extend_from_slice(&(length as u16).to_be_bytes());
        }
        length => {
            out.push(127);
            out.extend_from_slice(&(length as u64).to_be_bytes());
        }
    }
    out.extend_from_slice(content);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_answered_as_the_standard_has_it() {
        let mut headers = HeaderMap::new();
        assert!(accept(&headers).is_err());
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("sec-websocket-key", HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ=="));
        assert_eq!(accept(&headers).ok().as_deref(), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
    }

    #[test]
    fn frames_have_the_shortest_length() {
        assert_eq!(frame(BINARY, b"hi"), b"\x82\x02hi");
        assert_eq!(frame(BINARY, &[7; 300])[..4], [0x82, 126, 1, 44]);
        assert_eq!(frame(BINARY, &vec![7; 70_000])[..10], [0x82, 127, 0, 0, 0, 0, 0, 1, 0x11, 0x70]);
    }

    #[tokio::test]
    async fn what_frames_carry_goes_through_both_ways() {
        let (client, server) = std::os::unix::net::UnixStream::pair().expect("a pair");
        let masked = |opcode: u8, content: &[u8]| {
            let mask = [1, 2, 3, 4];
            let hidden: Vec<u8> = content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
            [&[FINAL | opcode, MASKED | content.len() as u8], mask.as_slice(), &hidden].concat()
        };
        let first = masked(TEXT, b"he");
        let ahead = ClientStream { socket: server.into(), read_ahead: first[..3].to_vec().into() };
        let inner = unframed(ahead).expect("framed");
        let socket = std::os::unix::net::UnixStream::from(inner.socket);
        socket.set_nonblocking(true).expect("set");
        client.set_nonblocking(true).expect("set");
        let mut process = UnixStream::from_std(socket).expect("registered");
        let mut client = UnixStream::from_std(client).expect("registered");
        client.write_all(&first[3..]).await.expect("written");
        client.write_all(&masked(PING, b"p")).await.expect("written");
        client.write_all(&masked(BINARY, b"llo")).await.expect("written");
        let mut got = [0; 5];
        process.read_exact(&mut got).await.expect("read");
        assert_eq!(&got, b"hello");
        process.write_all(b"out").await.expect("written");
        let mut frames = [0; 8];
        client.read_exact(&mut frames).await.expect("read");
        assert_eq!(&frames, b"\x8a\x01p\x82\x03out");
        drop(process);
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).await.expect("read");
        assert_eq!(rest, b"\x88\x02\x03\xe8");
    }
}

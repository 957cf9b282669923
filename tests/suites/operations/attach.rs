//! Attaching through a websocket.

use anyhow::{Result, ensure};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tests::engine::BUSYBOX;

use crate::with_engine;

/// A client's frame: masked.
fn frame(opcode: u8, content: &[u8]) -> Vec<u8> {
    let mask = [9, 8, 7, 6];
    let hidden: Vec<u8> = content.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask).collect();
    [&[0x80 | opcode, 0x80 | content.len() as u8], mask.as_slice(), &hidden].concat()
}

#[test]
fn a_websocket_carries_both_directions() -> Result<()> {
    with_engine("websocket", |engine| {
        engine.ok(&["run", "-di", "--name", "echo", BUSYBOX, "sh", "-c", "read line; echo got $line; echo err >&2; read line; exit 3"])?;
        let mut socket = UnixStream::connect(engine.socket())?;
        socket.set_read_timeout(Some(Duration::from_secs(60)))?;
        let head = "GET /v1.51/containers/echo/attach/ws?stream=1&stdin=1&stdout=1&stderr=1 HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\n\
                    Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
        socket.write_all(head.as_bytes())?;
        socket.write_all(&frame(2, b"hello\n"))?;
        let mut bytes = Vec::new();
        let mut buffer = [0; 4096];
        while !bytes.ends_with(b"err\n") {
            let count = socket.read(&mut buffer)?;
            ensure!(count > 0, "ended early: {:?}", String::from_utf8_lossy(&bytes));
            bytes.extend_from_slice(&buffer[..count]);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        ensure!(text.starts_with("HTTP/1.1 101 ") && text.contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{text}");
        ensure!(text.contains("got hello\n"), "{text}");
        socket.write_all(&frame(2, b"more\n"))?;
        bytes.clear();
        socket.read_to_end(&mut bytes)?;
        ensure!(bytes.ends_with(b"\x88\x02\x03\xe8"), "{bytes:?}");
        ensure!(engine.ok(&["wait", "echo"])?.text() == "3");
        let refused = engine.api("GET", "/v1.51/containers/echo/attach/ws", "")?;
        ensure!(refused.status == 400 && refused.body.contains("websocket"), "{refused:?}");
        Ok(())
    })
}

//! Figures for Prometheus on a port of their own, which serves nothing else.

use std::sync::Arc;
use std::time::Duration;

use engine::Engine;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const HEAD_BYTES_MAX: usize = 8 * 1024;
const TIMEOUT: Duration = Duration::from_secs(10);

/// Answers `GET /metrics` on a listener, and everything else with 404, until the task is ended.
pub async fn serve_metrics(engine: Arc<Engine>, listener: std::net::TcpListener) {
    let listener = listener.set_nonblocking(true).and_then(|()| TcpListener::from_std(listener));
    let Ok(listener) = listener.inspect_err(|error| tracing::error!(%error, "figures cannot be served")) else { return };
    loop {
        match listener.accept().await {
            // One after the other: an answer is made in a moment, and who is slow is sent away.
            Ok((client, _)) => drop(tokio::time::timeout(TIMEOUT, answer(&engine, client)).await),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(engine: &Engine, mut client: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if client.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let found = head.starts_with(b"GET /metrics ") || head.starts_with(b"GET /metrics?");
    let (status, body) = if found { ("200 OK", engine.metrics()) } else { ("404 Not Found", "use /metrics\n".to_owned()) };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(body.as_bytes()).await?;
    client.shutdown().await
}

//! The access log: a line for each request, in the common format with the time it took.

use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hyper::http::request::Parts;
use hyper::{StatusCode, header};

use crate::{Error, Result};

/// Longer paths and names of clients are cut.
const TEXT_CHARS_MAX: usize = 300;

/// Where access is logged.
#[derive(Debug)]
pub struct AccessLog {
    path: Option<PathBuf>,
    file: Mutex<Option<File>>,
}

impl AccessLog {
    /// Appends to a file, which may be moved away: [`AccessLog::reopen`] then makes a new one. `-` is standard output.
    pub fn open(path: &Path) -> Result<Self> {
        let path = (path != Path::new("-")).then(|| path.to_owned());
        let log = Self { path, file: Mutex::default() };
        log.reopen()?;
        Ok(log)
    }

    /// Opens the file again.
    pub fn reopen(&self) -> Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let file = File::options().create(true).append(true).open(path).map_err(|error| Error::io("open the access log", path, error))?;
        *self.file.lock().unwrap_or_else(PoisonError::into_inner) = Some(file);
        Ok(())
    }

    pub(super) fn write(&self, peer: SocketAddr, user: Option<&str>, head: &Parts, status: StatusCode, bytes: u64, took: Duration) {
        let line = line(peer, user, head, status, bytes, took);
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let written = match file.as_mut() {
            Some(file) => file.write_all(line.as_bytes()),
            None => std::io::stdout().write_all(line.as_bytes()),
        };
        if let Err(error) = written {
            tracing::debug!(%error, "a line of the access log was lost");
        }
    }
}

fn line(peer: SocketAddr, user: Option<&str>, head: &Parts, status: StatusCode, bytes: u64, took: Duration) -> String {
    let moment = jiff::Timestamp::now().strftime("%d/%b/%Y:%H:%M:%S +0000");
    let agent = head.headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or("-");
    let target = head.uri.path_and_query().map_or("/", |target| target.as_str());
    format!(
        "{} - {} [{moment}] \"{} {} {:?}\" {} {bytes} \"-\" \"{}\" {:.6}\n",
        peer.ip(),
        safe(user.unwrap_or("-")),
        head.method,
        safe(target),
        head.version,
        status.as_u16(),
        safe(agent),
        took.as_secs_f64(),
    )
}

/// Nothing that a client sends ends a line or a field early.
fn safe(text: &str) -> String {
    let cut = text.chars().take(TEXT_CHARS_MAX);
    cut.map(|letter| if letter.is_control() || matches!(letter, '"' | '\\') { '?' } else { letter }).collect()
}

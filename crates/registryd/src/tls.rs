//! TLS: certificate and key from files, read again when they change.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::{Error, Result};

/// A certificate with its key.
#[derive(Debug)]
pub struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    state: Mutex<State>,
}

struct State {
    read: Stamp,
    config: Arc<ServerConfig>,
}

impl std::fmt::Debug for State {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str("State(…)")
    }
}

/// When both files were last changed.
type Stamp = [Option<SystemTime>; 2];

impl Tls {
    /// Reads certificate chain and key, in PEM.
    pub fn open(certificate: &Path, key: &Path) -> Result<Self> {
        let read = stamp(certificate, key);
        let state = Mutex::new(State { read, config: load(certificate, key)? });
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), state })
    }

    /// What the next connection is served with. Files that changed are read again; while they are not good, what was read last goes on.
    pub fn acceptor(&self) -> TlsAcceptor {
        let found = stamp(&self.certificate, &self.key);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.read != found {
            state.read = found;
            match load(&self.certificate, &self.key) {
                Ok(config) => {
                    tracing::info!(certificate = %self.certificate.display(), "the certificate was read again");
                    state.config = config;
                }
                Err(error) => {
                    let error = types::error::chain(&error);
                    tracing::warn!(error, "the changed certificate cannot be used; the one before goes on");
                }
            }
        }
        TlsAcceptor::from(Arc::clone(&state.config))
    }
}

fn stamp(certificate: &Path, key: &Path) -> Stamp {
    [certificate, key].map(|path| std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok())
}

fn load(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>> {
    let wrong = |path: &Path, why: String| Error::Configuration(format!("{}: {why}", path.display()));
    let chain = CertificateDer::pem_file_iter(certificate).and_then(Iterator::collect::<std::result::Result<Vec<_>, _>>);
    let chain = chain.map_err(|error| wrong(certificate, error.to_string()))?;
    if chain.is_empty() {
        return Err(wrong(certificate, "there is no certificate in it".to_owned()));
    }
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|error| wrong(key, error.to_string()))?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| wrong(certificate, error.to_string()))?;
    let mut config =
        builder.with_no_client_auth().with_single_cert(chain, secret).map_err(|error| wrong(certificate, error.to_string()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

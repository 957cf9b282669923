//! Trust in a host by the authorities (and with the client's certificates) of its folder.
//!
//! A certificate that signed itself is often its own authority, and is what people put into the folder; the usual verification refuses such a certificate, so that one
//! that is, byte for byte, in the folder is accepted for the names that it is for.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, SignatureScheme};
use rustls_platform_verifier::Verifier;

use crate::{Error, Result};

/// A certificate or key of more bytes is none.
const FILE_LEN_MAX: u64 = 1 << 20;

/// The connections' settings for a folder with these files: path, length and time of change.
pub(crate) fn settings(folder: &Path, files: &[(PathBuf, u64, u128)]) -> Result<ClientConfig> {
    let bad = |path: &Path, reason: &str| Error::Certificate { path: path.to_owned(), reason: reason.to_owned() };
    let ends = |path: &Path, with: &str| path.extension().is_some_and(|extension| extension == with);
    let of = |ending: &'static str| files.iter().filter(move |(path, ..)| ends(path, ending));
    let mut authorities = Vec::new();
    for (path, len, _) in of("crt") {
        authorities.extend(certificates(path, *len)?);
    }
    if let Some((path, ..)) = of("key").find(|(path, ..)| !files.iter().any(|(other, ..)| *other == path.with_extension("cert"))) {
        return Err(bad(path, "the certificate of the same name is missing"));
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let failed = |error: rustls::Error| Error::Certificate { path: folder.to_owned(), reason: error.to_string() };
    let inner = Verifier::new_with_extra_roots(authorities.iter().cloned(), Arc::clone(&provider)).map_err(failed)?;
    let verifier = Arc::new(Folder { inner, own: authorities, provider: Arc::clone(&provider) });
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().map_err(failed)?;
    let builder = builder.dangerous().with_custom_certificate_verifier(verifier);
    let mut settings = match of("cert").next() {
        None => builder.with_no_client_auth(),
        Some((path, len, _)) => {
            let key = path.with_extension("key");
            let key_len = files.iter().find(|(other, ..)| *other == key).map(|(_, len, _)| *len);
            let key_len = key_len.ok_or_else(|| bad(path, "the key of the same name is missing"))?;
            let secret = PrivateKeyDer::from_pem_slice(&read(&key, key_len)?).map_err(|_| bad(&key, "it is no key in PEM form"))?;
            builder.with_client_auth_cert(certificates(path, *len)?, secret).map_err(|error| bad(path, &error.to_string()))?
        }
    };
    settings.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(settings)
}

fn certificates(path: &Path, len: u64) -> Result<Vec<CertificateDer<'static>>> {
    let bad = || Error::Certificate { path: path.to_owned(), reason: "it is no certificate in PEM form".to_owned() };
    let found: Vec<_> = CertificateDer::pem_slice_iter(&read(path, len)?).collect::<std::result::Result<_, _>>().map_err(|_| bad())?;
    if found.is_empty() { Err(bad()) } else { Ok(found) }
}

fn read(path: &Path, len: u64) -> Result<Vec<u8>> {
    let fail = |reason: String| Error::Certificate { path: path.to_owned(), reason };
    if len > FILE_LEN_MAX {
        return Err(fail(format!("it has more than {FILE_LEN_MAX} bytes")));
    }
    std::fs::read(path).map_err(|error| fail(error.to_string()))
}

/// The system's judgement, and the folder's word for its own certificates.
#[derive(Debug)]
struct Folder {
    inner: Verifier,
    own: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Folder {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        let judged = self.inner.verify_server_cert(certificate, intermediates, name, ocsp, now);
        if judged.is_err() && self.own.iter().any(|own| own == certificate) {
            rustls::client::verify_server_name(&ParsedCertificate::try_from(certificate)?, name)?;
            return Ok(ServerCertVerified::assertion());
        }
        judged
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(message, certificate, signature, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

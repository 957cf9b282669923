//! Connections to etcd: every question has a limit of time, and names of members are resolved without the C library.

use std::future::Future;
use std::net::IpAddr;
use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Identity, TlsOptions};
use hickory_resolver::TokioResolver;

use crate::config::{Store, Tls};
use crate::{Error, Result};

/// How long one question may take.
pub(crate) const QUESTION_MAX: Duration = Duration::from_secs(5);
/// A connection over which nothing came for so long is asked whether it lives, and given so long to answer.
const PING_EVERY: Duration = Duration::from_secs(5);

type Answer<T> = std::result::Result<T, etcd_client::Error>;

/// Opens the connections. Does not wait for etcd, unless a user has to be authenticated.
pub(crate) async fn connect(store: &Store, tls: &Tls, user: Option<&(String, String)>) -> Result<Client> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(QUESTION_MAX)
        .with_keep_alive(PING_EVERY, QUESTION_MAX)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true);
    if let Some((name, password)) = user {
        options = options.with_user(name, password).with_auto_token_refresh(true);
    }
    let names: Vec<&str> = store.members.iter().map(|(host, _)| &**host).filter(|host| host.parse::<IpAddr>().is_err()).collect();
    if store.tls {
        options = options.with_tls(tls_options(tls, &names)?);
    }
    let mut urls = Vec::new();
    for (host, port) in &store.members {
        for address in addresses(host).await? {
            let scheme = if store.tls { "https" } else { "http" };
            urls.push(match address {
                IpAddr::V4(address) => format!("{scheme}://{address}:{port}"),
                IpAddr::V6(address) => format!("{scheme}://[{address}]:{port}"),
            });
        }
    }
    within("connect", Client::connect(urls, Some(options))).await
}

/// Waits for an answer, though not for ever.
pub(crate) async fn within<T>(operation: &'static str, question: impl Future<Output = Answer<T>>) -> Result<T> {
    match tokio::time::timeout(QUESTION_MAX, question).await {
        Ok(answer) => answer.map_err(Error::etcd(operation)),
        Err(_) => Err(Error::Silent { operation }),
    }
}

/// Connections go to addresses, so the name in the certificates has to be told: one name for all members, or their addresses in the certificates.
fn tls_options(tls: &Tls, names: &[&str]) -> Result<TlsOptions> {
    let mut options = TlsOptions::new();
    if let Some(name) = names.first() {
        if names.iter().any(|other| other != name) {
            let reason =
                "with TLS, give etcd's members as addresses that are in their certificates, or one name that leads to all".to_owned();
            return Err(Error::BadConfig { reason });
        }
        options = options.domain_name(*name);
    }
    let Some(ca) = &tls.ca else {
        return Err(Error::BadConfig { reason: "etcds:// needs the file with the authority that signed etcd's certificates".to_owned() });
    };
    options = options.ca_certificate(Certificate::from_pem(ca));
    if let (Some(cert), Some(key)) = (&tls.cert, &tls.key) {
        options = options.identity(Identity::from_pem(cert, key));
    }
    Ok(options)
}

async fn addresses(host: &str) -> Result<Vec<IpAddr>> {
    if let Ok(address) = host.parse() {
        return Ok(vec![address]);
    }
    let failed = |reason: String| Error::Resolve { name: host.to_owned(), reason };
    if host == "localhost" {
        return Ok(vec![IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)]);
    }
    let resolver = TokioResolver::builder_tokio().and_then(|builder| builder.build()).map_err(|error| failed(error.to_string()))?;
    match tokio::time::timeout(QUESTION_MAX, resolver.lookup_ip(host)).await {
        Ok(Ok(found)) => Ok(found.iter().collect()),
        Ok(Err(error)) => Err(failed(error.to_string())),
        Err(_) => Err(failed("the name servers do not answer".to_owned())),
    }
}

//! The sign of life of a host: somebody renews its lease, also while the engine is away.

use std::time::Duration;

use etcd_client::Client;
use serde::{Deserialize, Serialize};

use crate::config::{Config, Store, Tls};
use crate::{Error, Result, client};

/// A lease and what it takes to renew it: can be handed to another process as JSON. It holds the password of etcd's user and the client's key, if there are any.
#[derive(Clone, Serialize, Deserialize)]
pub struct Keeper {
    store: String,
    tls: Tls,
    user: Option<(String, String)>,
    lease: i64,
    ttl_secs: u32,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Keeper({:x} at {})", self.lease, self.store)
    }
}

impl Keeper {
    pub(crate) fn new(config: &Config, lease: i64) -> Self {
        let prefix = &config.store.prefix;
        let store = config.store.to_string();
        let store = if store.ends_with(prefix.as_str()) { store } else { format!("{store}{prefix}") };
        Self { store, tls: config.tls.clone(), user: config.user.clone(), lease, ttl_secs: config.ttl_secs }
    }

    /// The lease.
    pub fn lease(&self) -> i64 {
        self.lease
    }

    /// Renews the lease on the calling thread, until it is no more or nobody wants it any more, which is asked twice a second.
    pub fn run_blocking(&self, wanted: impl Fn() -> bool) -> Result<()> {
        const ASK_EVERY: Duration = Duration::from_millis(500);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::BadConfig { reason: format!("start a thread that renews the lease: {error}") })?;
        let unwanted = async {
            while wanted() {
                tokio::time::sleep(ASK_EVERY).await;
            }
        };
        runtime.block_on(async {
            tokio::select! {
                ended = self.run() => ended,
                () = unwanted => Ok(()),
            }
        })
    }

    /// Renews the lease until it is no more. Failures on the way are tried again: as long as etcd is away, no lease ends there.
    pub async fn run(&self) -> Result<()> {
        let store: Store = self.store.parse()?;
        let pause = Duration::from_secs(u64::from(self.ttl_secs)) / 4;
        let mut connected: Option<Client> = None;
        loop {
            let renewed = match &mut connected {
                Some(client) => renew(client, self.lease).await,
                None => match client::connect(&store, &self.tls, self.user.as_ref()).await {
                    Ok(client) => renew(connected.insert(client), self.lease).await,
                    Err(error) => Err(error),
                },
            };
            match renewed {
                Ok(true) => tokio::time::sleep(pause).await,
                Ok(false) => return Ok(()),
                Err(error) => {
                    tracing::debug!(error = types::error::chain(&error), "the lease was not renewed");
                    connected = None;
                    tokio::time::sleep(pause.min(Duration::from_secs(1))).await;
                }
            }
        }
    }
}

/// False when there is no such lease.
pub(crate) async fn renew(client: &mut Client, lease: i64) -> Result<bool> {
    match client::within("renew the host's lease", client.lease_keep_alive(lease)).await {
        Ok(_) => Ok(true),
        Err(Error::Etcd { source, .. }) if matches!(&*source, etcd_client::Error::LeaseKeepAliveError(text) if text.contains("not found")) => {
            Ok(false)
        }
        Err(error) => Err(error),
    }
}

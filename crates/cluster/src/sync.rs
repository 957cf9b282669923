//! Following the store: everything once, then every change; everything again after each interruption.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, GetOptions, WatchOptions};

use crate::client::{self, within};
use crate::config::Config;
use crate::view::{Keys, View};
use crate::{Error, Result};

const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_MAX: Duration = Duration::from_secs(5);
/// Keys of one page of the first reading.
const PAGE_LEN: i64 = 2000;
/// A watch that says nothing for so long, not even that there is nothing, is started anew: etcd promises a word every ten minutes.
const SILENCE_MAX: Duration = Duration::from_secs(20 * 60);

/// Keeps the view current until its last reader is gone.
pub(crate) async fn follow(config: Arc<Config>, keys: Keys, view: tokio::sync::watch::Sender<Arc<View>>) {
    let mut pause = RETRY_FIRST;
    let mut told = false;
    loop {
        let ended = session(&config, &keys, &view, &mut pause).await;
        if view.is_closed() {
            return;
        }
        let connected = view.borrow().connected;
        match ended {
            Ok(()) => continue,
            Err(error) if connected || !told => {
                tracing::warn!(error = types::error::chain(&error), "the cluster store is out of reach: overlay networks stay as they are");
                told = true;
            }
            Err(error) => tracing::debug!(error = types::error::chain(&error), "the cluster store is still out of reach"),
        }
        if connected {
            view.send_modify(|view| Arc::make_mut(view).connected = false);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

/// One connection's time. Ends without an error when everything has to be read again.
async fn session(config: &Config, keys: &Keys, view: &tokio::sync::watch::Sender<Arc<View>>, pause: &mut Duration) -> Result<()> {
    let mut client = client::connect(&config.store, &config.tls, config.user.as_ref()).await?;
    let mut now = read_all(&mut client, keys).await?;
    now.reading = view.borrow().reading + 1;
    let options = WatchOptions::new().with_prefix().with_start_revision(now.revision + 1).with_progress_notify();
    let mut changes = within("watch the networks", client.watch(keys.all(), Some(options))).await?;
    if now.refused == 0 || view.borrow().refused == 0 {
        tracing::info!(
            networks = now.networks.len(),
            hosts = now.hosts.len(),
            endpoints = now.endpoints.len(),
            "following the cluster store"
        );
    }
    view.send_replace(Arc::new(now.clone()));
    *pause = RETRY_FIRST;
    loop {
        let change = tokio::select! {
            change = tokio::time::timeout(SILENCE_MAX, changes.message()) => change,
            () = view.closed() => return Ok(()),
        };
        let silent = || Error::Silent { operation: "watch the networks" };
        let Some(change) = change.map_err(|_| silent())?.map_err(Error::etcd("watch the networks"))? else { return Err(silent()) };
        if change.canceled() {
            // Compacted away, or the user's rights have changed: everything again.
            if change.compact_revision() == 0 {
                tracing::debug!(reason = change.cancel_reason(), "the watch ended");
                return Err(silent());
            }
            return Ok(());
        }
        for event in change.events() {
            let Some(pair) = event.kv() else { continue };
            let value = (event.event_type() == EventType::Put).then(|| pair.value());
            now.apply(&keys.parse(pair.key()), value);
        }
        if let Some(header) = change.header() {
            if header.revision() < now.revision {
                // The store was put back to an earlier state.
                return Ok(());
            }
            now.revision = header.revision();
        }
        view.send_replace(Arc::new(now.clone()));
    }
}

/// Everything as of one revision, page by page.
async fn read_all(client: &mut Client, keys: &Keys) -> Result<View> {
    let mut view = View { connected: true, ..View::default() };
    // Networks first: what is on them is checked against them.
    for kind in ["networks/", "hosts/", "endpoints/"] {
        let start = format!("{}{kind}", keys.all());
        let end = format!("{}{}0", keys.all(), kind.trim_end_matches('/'));
        let mut next = start.into_bytes();
        loop {
            let mut options = GetOptions::new().with_range(end.clone()).with_limit(PAGE_LEN);
            if view.revision > 0 {
                options = options.with_revision(view.revision);
            }
            let page = within("read the networks", client.get(next.clone(), Some(options))).await?;
            if view.revision == 0 {
                view.revision = page.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            for pair in page.kvs() {
                view.apply(&keys.parse(pair.key()), Some(pair.value()));
            }
            match page.kvs().last().filter(|_| page.more()) {
                Some(last) => next = [last.key(), &[0]].concat(),
                None => break,
            }
        }
    }
    Ok(view)
}

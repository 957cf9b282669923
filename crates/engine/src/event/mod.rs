//! Events: what happened to containers, images, networks and volumes, for those who listen, with a bounded history.

mod history;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Mutex;

use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc};

use crate::request::{Event, ReadEvents};
use crate::{Engine, Error, filter};
use history::History;

/// How far a listener may fall behind before it misses events.
const QUEUE_LEN_MAX: usize = 1024;
const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];
/// What events are about.
const KINDS: &[&str] = &["builder", "container", "daemon", "image", "network", "volume"];

/// Where events are published and listened to.
#[derive(Debug)]
pub(crate) struct Bus {
    live: broadcast::Sender<Event>,
    history: Mutex<History>,
}

impl Bus {
    /// A bus whose history is forgotten with it.
    pub(crate) fn new() -> Self {
        Self { live: broadcast::channel(QUEUE_LEN_MAX).0, history: Mutex::default() }
    }

    /// A bus whose history goes on in the file `path`.
    pub(crate) fn open(path: &Path) -> Self {
        Self { live: broadcast::channel(QUEUE_LEN_MAX).0, history: Mutex::new(History::open(path)) }
    }

    pub(crate) fn publish(
        &self,
        kind: &'static str,
        action: impl Into<String>,
        id: impl Into<String>,
        attributes: BTreeMap<String, String>,
    ) {
        let event = Event { kind, action: action.into(), id: id.into(), attributes, time: Timestamp::now() };
        // Published under the lock, so that a listener that joins sees each event once: in the history or live.
        crate::metrics::EVENTS.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let mut history = self.lock();
        history.push(event.clone());
        // No listener is no error.
        let _ = self.live.send(event);
    }

    pub(crate) fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    /// When something last happened.
    pub(crate) fn latest(&self) -> Option<Timestamp> {
        self.lock().latest()
    }

    fn join(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let history = self.lock();
        (history.all(), self.live.subscribe())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Engine {
    /// Tells that unused objects of a kind were removed, and how many bytes that freed.
    pub(crate) fn pruned_event(&self, kind: &'static str, reclaimed: u64) {
        self.events.publish(kind, "prune", "", BTreeMap::from([("reclaimed".to_owned(), reclaimed.to_string())]));
    }

    /// Events as they come, after those of the history that `since` asks for. The stream ends at `until`.
    pub fn events(&self, request: ReadEvents) -> Result<mpsc::Receiver<Event>, Error> {
        filter::known(&request.filters, FILTERS)?;
        let (history, mut live) = self.events.join();
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let past = history.into_iter().filter(|event| request.since.is_some_and(|since| event.time >= since));
            for event in past {
                let due = request.until.is_none_or(|until| event.time <= until);
                if due && matches(&event, &request) && sender.send(event).await.is_err() {
                    return;
                }
            }
            let end = deadline(request.until);
            tokio::pin!(end);
            loop {
                let event = tokio::select! {
                    () = &mut end => return,
                    () = sender.closed() => return,
                    event = live.recv() => event,
                };
                match event {
                    Ok(event) if matches(&event, &request) => {
                        if sender.send(event).await.is_err() {
                            return;
                        }
                    }
                    // A listener that fell behind goes on with what is left.
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        });
        Ok(receiver)
    }
}

/// Completes at the moment given, or never.
async fn deadline(until: Option<Timestamp>) {
    match until {
        Some(until) => {
            let left = until.duration_since(Timestamp::now());
            tokio::time::sleep(left.try_into().unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

fn matches(event: &Event, request: &ReadEvents) -> bool {
    request.filters.iter().all(|(key, values)| {
        values.is_empty()
            || values.iter().any(|value| match key.as_str() {
                "type" => event.kind == value,
                // Some actions carry a detail after a colon: `exec_start: sh -c true`.
                "event" => event.action == *value || event.action.split(':').next() == Some(value),
                "label" => filter::label_matches(&event.attributes, value),
                "scope" => value == "local",
                "container" | "daemon" | "image" | "network" | "volume" => {
                    let name = event.attributes.get("name");
                    let of_kind =
                        event.kind == key && (event.id.starts_with(value.as_str()) || name.is_some_and(|name| is_named(key, name, value)));
                    of_kind || event.attributes.get(key).is_some_and(|name| is_named(key, name, value))
                }
                // Nothing happens to what there is not.
                _ => false,
            })
    })
}

/// Whether a name is the one asked for; an image's counts without its tag, too.
fn is_named(kind: &str, name: &str, wanted: &str) -> bool {
    let without_tag = || name.rsplit_once(':').is_some_and(|(repository, tag)| !tag.contains('/') && repository == wanted);
    name == wanted || kind == "image" && without_tag()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_select_by_kind_action_and_object() {
        let event = Event {
            kind: "container",
            action: "exec_start: sh".into(),
            id: "abcdef".into(),
            attributes: BTreeMap::from([
                ("name".into(), "web".into()),
                ("image".into(), "me/busybox:v1".into()),
                ("tier".into(), "front".into()),
            ]),
            time: Timestamp::UNIX_EPOCH,
        };
        let check = |key: &str, value: &str| {
            matches(&event, &ReadEvents { filters: BTreeMap::from([(key.to_owned(), vec![value.to_owned()])]), ..ReadEvents::default() })
        };
        assert!(check("type", "container") && !check("type", "image"));
        assert!(check("event", "exec_start") && !check("event", "exec"));
        assert!(check("container", "web") && check("container", "abc") && !check("container", "x"));
        assert!(check("image", "me/busybox") && check("image", "me/busybox:v1") && !check("image", "me") && !check("service", "web"));
        assert!(check("label", "tier=front") && !check("label", "tier=back"));
    }
}

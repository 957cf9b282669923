//! Events: what happened to containers, images, networks and volumes, for those who listen, with a bounded history.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use jiff::Timestamp;
use tokio::sync::{broadcast, mpsc};

use crate::request::{Event, ReadEvents};
use crate::{Engine, Error, filter};

/// How many past events are kept for `since`.
const HISTORY_LEN_MAX: usize = 1024;
/// How far a listener may fall behind before it misses events.
const QUEUE_LEN_MAX: usize = 1024;
const FILTERS: &[&str] = &["type", "event", "container", "image", "network", "volume", "label", "scope", "daemon", "plugin"];

/// Where events are published and listened to.
#[derive(Debug)]
pub(crate) struct Bus {
    live: broadcast::Sender<Event>,
    history: Mutex<VecDeque<Event>>,
}

impl Bus {
    pub(crate) fn new() -> Self {
        Self { live: broadcast::channel(QUEUE_LEN_MAX).0, history: Mutex::new(VecDeque::new()) }
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
        let mut history = self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if history.len() == HISTORY_LEN_MAX {
            history.pop_front();
        }
        history.push_back(event.clone());
        // No listener is no error.
        let _ = self.live.send(event);
    }

    pub(crate) fn listeners(&self) -> usize {
        self.live.receiver_count()
    }

    /// When something last happened.
    pub(crate) fn latest(&self) -> Option<Timestamp> {
        let history = self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        history.back().map(|event| event.time)
    }

    fn join(&self) -> (Vec<Event>, broadcast::Receiver<Event>) {
        let history = self.history.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        (history.iter().cloned().collect(), self.live.subscribe())
    }
}

impl Engine {
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
                "container" | "image" | "network" | "volume" => {
                    let name = event.attributes.get("name").map(String::as_str);
                    let of_kind = event.kind == key && (event.id.starts_with(value.as_str()) || name == Some(value));
                    of_kind || event.attributes.get(key) == Some(value)
                }
                _ => false,
            })
    })
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
                ("image".into(), "busybox".into()),
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
        assert!(check("image", "busybox") && check("label", "tier=front") && !check("label", "tier=back"));
    }
}

//! Containers: what is known of one, who may find it, and what can be done with it.

pub(crate) mod attach;
mod create;
mod index;
pub(crate) mod lifecycle;
mod list;
mod prune;
mod remove;
pub(crate) mod start;
mod update;
mod wait;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use types::Id;
use types::container::{Config, EndpointSettings, HostConfig, MountPoint, NetworkingConfig, PortMap, State, Status};

pub use attach::AttachTicket;
pub(crate) use index::Index;

use crate::link::Link;
use crate::log::Shipping;
use crate::mounts::{Planned, Source};
use crate::request::ClientStream;

/// Everything that is known of a container, as it is kept in the database (or, for `--rm`, in the run directory).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Record {
    /// Its identifier.
    pub id: Id,
    /// Its name, without a slash.
    pub name: String,
    /// When it was made.
    pub created: Timestamp,
    /// The image as it was asked for.
    pub image: String,
    /// The image's identifier, `sha256:…`.
    pub image_id: String,
    /// The platform it is for, `linux` say.
    pub platform: String,
    /// The program.
    pub path: String,
    /// Its arguments.
    pub args: Vec<String>,
    /// What the process is, with the image's defaults merged in.
    pub config: Config,
    /// What it may do on the host.
    pub host: HostConfig,
    /// Networks to join at start.
    pub networking: NetworkingConfig,
    /// Its mounts, as `inspect` shows them.
    pub mounts: Vec<MountPoint>,
    /// Its mounts, as the start needs them.
    pub planned_mounts: Vec<Planned>,
    /// Where it stands.
    pub state: State,
    /// How often it has ended: what `next-exit` waits for.
    pub exits: u64,
    /// Its endpoints while it runs, by the network's name.
    pub networks: BTreeMap<String, EndpointSettings>,
    /// Ports published while it runs.
    pub ports: PortMap,
    /// What the network layer needs to find the endpoints again after a restart of the engine.
    #[serde(default, alias = "endpoint", deserialize_with = "one_or_more")]
    pub endpoints: Vec<net::Endpoint>,
    /// The sandbox of this run.
    pub sandbox_id: Option<Id>,
    /// Ids of the host that are its own in a user namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id_range: Option<crate::userns::IdRange>,
    /// How often the restart policy has started it again since it was last started by hand.
    pub restart_count: u32,
    /// It was stopped by hand: `unless-stopped` and `on-failure` leave it alone.
    pub stopped_by_hand: bool,
    /// How many secrets it gets; their content is kept elsewhere.
    #[serde(default)]
    pub secrets: usize,
    /// Its removal, once it is under way, takes its anonymous volumes along.
    #[serde(default)]
    pub removes_volumes: bool,
}

impl Record {
    /// Its record is a file in the run directory: it is not expected to survive a reboot.
    pub fn is_ephemeral(&self) -> bool {
        self.host.auto_remove
    }

    /// It has a process.
    pub fn is_alive(&self) -> bool {
        matches!(self.state.status, Status::Running | Status::Paused)
    }

    /// Before its list of networks changes: writes down the one that it has by its mode alone.
    pub(crate) fn remember_default(&mut self) {
        if self.networking.endpoints_config.is_empty()
            && let Some((name, _)) = self.networks.first_key_value()
        {
            self.networking.endpoints_config.insert(name.clone(), EndpointSettings::default());
        }
    }

    /// The volumes it uses: name, and whether the volume is anonymous and goes with it.
    pub fn volumes(&self) -> impl Iterator<Item = (&str, bool)> {
        self.planned_mounts.iter().filter_map(|mount| match &mount.source {
            Source::Volume { name, anonymous, .. } => Some((name.as_str(), *anonymous)),
            _ => None,
        })
    }

    /// What events say of it.
    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        let mut attributes = self.config.labels.clone().into_map();
        attributes.insert("image".to_owned(), self.image.clone());
        attributes.insert("name".to_owned(), self.name.clone());
        attributes
    }
}

/// A container in memory. Readers take the record as it is; whoever changes its state holds `operation`.
#[derive(Debug)]
pub(crate) struct Container {
    pub(crate) id: Id,
    record: watch::Sender<Arc<Record>>,
    /// Held by an operation on this container from its check of the state to the new record.
    pub(crate) operation: tokio::sync::Mutex<()>,
    /// The way to its monitor while it runs.
    pub(crate) link: Mutex<Option<Arc<Link>>>,
    /// Clients that attached before the start.
    pub(crate) waiting: Mutex<Vec<(AttachStreams, ClientStream)>>,
    /// When each step of its latest start was done.
    pub(crate) trace: Mutex<crate::trace::Trace>,
    /// The sandbox that its first start takes.
    pub(crate) standby: Mutex<Option<crate::standby::Standby>>,
    /// Shared by clients on their way into `waiting`: they are told that they are attached before their sockets are there, and may ask for
    /// the start at once.
    pub(crate) attaching: Arc<tokio::sync::RwLock<()>>,
    /// Set while a stop, kill or removal is under way, so that the restart policy leaves it alone.
    pub(crate) stopping: std::sync::atomic::AtomicBool,
    /// Held while the end of a run is being settled: the next start waits for it.
    pub(crate) settling: tokio::sync::Mutex<()>,
    /// Orders the writes of the record.
    pub(crate) saving: Mutex<()>,
    /// True once it is removed.
    pub(crate) gone: watch::Sender<bool>,
    /// Set while a restart is under way: an end is not the end, `--rm` or not.
    pub(crate) keep: std::sync::atomic::AtomicBool,
    /// Its log on the way to a collector.
    pub(crate) shipping: Shipping,
    /// Wakes the restart policy's pause when the container is stopped or removed meanwhile.
    pub(crate) policy_wake: tokio::sync::Notify,
}

pub(crate) use attach::Streams as AttachStreams;

impl Container {
    pub(crate) fn new(record: Record) -> Self {
        Self {
            id: record.id.clone(),
            record: watch::Sender::new(Arc::new(record)),
            operation: tokio::sync::Mutex::new(()),
            link: Mutex::new(None),
            waiting: Mutex::new(Vec::new()),
            trace: Mutex::default(),
            standby: Mutex::new(None),
            attaching: Arc::default(),
            stopping: std::sync::atomic::AtomicBool::new(false),
            settling: tokio::sync::Mutex::new(()),
            saving: Mutex::new(()),
            gone: watch::Sender::new(false),
            keep: std::sync::atomic::AtomicBool::new(false),
            shipping: Shipping::default(),
            policy_wake: tokio::sync::Notify::new(),
        }
    }

    /// The record as it is now.
    pub(crate) fn record(&self) -> Arc<Record> {
        self.record.borrow().clone()
    }

    /// Follows the record.
    pub(crate) fn watch(&self) -> watch::Receiver<Arc<Record>> {
        self.record.subscribe()
    }

    /// Puts a changed record in place of the old one, and answers it.
    pub(crate) fn modify(&self, change: impl FnOnce(&mut Record)) -> Arc<Record> {
        let mut changed = None;
        self.record.send_modify(|record| {
            change(Arc::make_mut(record));
            changed = Some(record.clone());
        });
        changed.unwrap_or_else(|| self.record())
    }

    pub(crate) fn link(&self) -> Option<Arc<Link>> {
        lock(&self.link).clone()
    }
}

/// Locks, ignoring that another holder panicked: the data are replaced as a whole, never left half-changed.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
}

/// Reads a list, or the one endpoint (or none) that records had before.
pub(crate) fn one_or_more<'de, D: serde::Deserializer<'de>>(input: D) -> Result<Vec<net::Endpoint>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Held {
        More(Vec<net::Endpoint>),
        One(Box<net::Endpoint>),
    }
    Ok(match Option::<Held>::deserialize(input)? {
        None => Vec::new(),
        Some(Held::One(endpoint)) => vec![*endpoint],
        Some(Held::More(endpoints)) => endpoints,
    })
}

#[cfg(test)]
pub(crate) mod testing {
    use super::*;

    /// A record with nothing but identifier and name.
    pub(crate) fn record(id: &str, name: &str) -> Record {
        Record {
            id: id.parse().expect("an identifier"),
            name: name.to_owned(),
            created: Timestamp::UNIX_EPOCH,
            image: "busybox".to_owned(),
            image_id: format!("sha256:{}", "0".repeat(64)),
            platform: "linux".to_owned(),
            path: "true".to_owned(),
            args: Vec::new(),
            config: Config::default(),
            host: HostConfig::default(),
            networking: NetworkingConfig::default(),
            mounts: Vec::new(),
            planned_mounts: Vec::new(),
            state: State::default(),
            exits: 0,
            networks: BTreeMap::new(),
            ports: PortMap::default(),
            endpoints: Vec::new(),
            sandbox_id: None,
            id_range: None,
            restart_count: 0,
            stopped_by_hand: false,
            secrets: 0,
            removes_volumes: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_of_before_are_read() {
        let endpoint = r#"{"id":"ID","network":"ID","container":"ID","owner":"web","address":"10.0.0.2/24","gateway":"10.0.0.1",
            "mac":"02:ca:0a:00:00:02","ifname":"eth0","host_ifname":"ve0","bindings":[]}"#;
        let endpoint: serde_json::Value = serde_json::from_str(&endpoint.replace("ID", &"ab".repeat(32))).expect("JSON");
        let mut record = serde_json::to_value(testing::record(&"cd".repeat(32), "web")).expect("encodes");
        record.as_object_mut().expect("an object").remove("endpoints");
        for (endpoint, count) in [(endpoint, 1), (serde_json::Value::Null, 0)] {
            record["endpoint"] = endpoint;
            let read: Record = serde_json::from_value(record.clone()).expect("decodes");
            assert_eq!(read.endpoints.len(), count);
            let again: Record = serde_json::from_value(serde_json::to_value(&read).expect("encodes")).expect("decodes");
            assert_eq!(again.endpoints, read.endpoints);
        }
    }
}

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
    /// What the network layer needs to find the endpoint again after a restart of the engine.
    pub endpoint: Option<net::Endpoint>,
    /// The sandbox of this run.
    pub sandbox_id: Option<Id>,
    /// How often the restart policy has started it again since it was last started by hand.
    pub restart_count: u32,
    /// It was stopped by hand: `unless-stopped` and `on-failure` leave it alone.
    pub stopped_by_hand: bool,
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
            attaching: Arc::default(),
            stopping: std::sync::atomic::AtomicBool::new(false),
            settling: tokio::sync::Mutex::new(()),
            saving: Mutex::new(()),
            gone: watch::Sender::new(false),
            keep: std::sync::atomic::AtomicBool::new(false),
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
            endpoint: None,
            sandbox_id: None,
            restart_count: 0,
            stopped_by_hand: false,
        }
    }
}

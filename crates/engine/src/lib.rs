//! The engine: one module per noun, plain requests in, plain outcomes out. It speaks no protocol and knows no HTTP status; `api` does.
//!
//! Every operation on a container takes its name, its identifier or an unambiguous prefix of it. Operations on one container run one after
//! the other; lists and inspections read snapshots and wait for nothing.
#![forbid(unsafe_code)]

pub mod build;
mod cdi;
mod cgroup_parent;
mod connect;
pub mod container;
mod endpoints;
mod error;
mod event;
mod exec;
mod files;
mod filter;
mod health;
mod host;
pub mod image;
mod info;
mod link;
mod links;
mod log;
mod merge;
pub mod metrics;
mod mounts;
mod name;
mod network;
pub mod overlay;
mod persist;
mod probe;
mod ready;
pub mod request;
mod resources;
mod restore;
mod runtimes;
mod sandbox;
mod secrets;
mod signal;
mod spec;
mod standby;
mod stats;
mod top;
mod trace;
mod userns;
mod volume;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use monitor::Program;
use store::Store;
use types::Id;

pub use container::AttachTicket;
pub use error::Error;
pub use exec::ExecTicket;
pub use info::DiskUsage;
pub use log::{LogBatch, LogRecord, LogTime};
pub use network::{NetworkUser, NetworkView};
pub use runtimes::RuntimeProgram;
pub use store::{ChangeKind, PathChange, Removal, Volume};
pub use trace::{Step, Trace};
pub use userns::IdRange;

use container::{Container, Index};

/// Where the engine keeps things, and what it works with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Everything that must survive a reboot.
    pub data_root: PathBuf,
    /// Everything that must not.
    pub exec_root: PathBuf,
    /// The network's settings.
    pub net: net::NetConfig,
    /// The monitor's executable.
    pub monitor_elf: &'static [u8],
    /// How registries are reached.
    pub registries: image::RegistrySettings,
    /// How containers are made.
    pub sandbox: SandboxSettings,
    /// What may change while the engine runs.
    pub settings: Settings,
    /// Where networks across machines are kept; none: there are none.
    pub cluster: Option<overlay::ClusterConfig>,
}

/// How containers are made.
#[derive(Debug, Clone, Default)]
pub struct SandboxSettings {
    /// OCI runtimes besides the engine's own, by name.
    pub runtimes: BTreeMap<String, RuntimeProgram>,
    /// The runtime of a container that names none; empty: the engine's own.
    pub default_runtime: String,
    /// Where specifications of devices (CDI) are; the later ones win.
    pub cdi_directories: Vec<PathBuf>,
    /// How many sandboxes stand by for starts on the default bridge; 0: none.
    pub standby: usize,
    /// The ids of containers that say nothing about user namespaces; none: the host's.
    pub remap: Option<IdRange>,
}

/// What may change while the engine runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Settings {
    /// What keeps the output of containers that do not say it.
    pub log: types::container::LogConfig,
    /// The engine's own labels, `NAME=VALUE`, which `info` shows.
    pub labels: Vec<String>,
}

/// The engine.
#[derive(Debug)]
pub struct Engine {
    config: Config,
    layout: Layout,
    /// Identifies this engine; kept with the data.
    id: String,
    cgroups: Arc<cgroup::System>,
    store: Arc<Store>,
    /// Records of throw-away containers.
    ephemeral: store::Ephemeral,
    images: image::Images,
    net: Arc<net::Net>,
    overlay: Option<Arc<overlay::Overlay>>,
    monitors: Program,
    containers: Index,
    execs: exec::Execs,
    events: Arc<event::Bus>,
    stats: stats::Sampler,
    seccomp: spec::SeccompCache,
    settings: RwLock<Settings>,
    builder: build::Builder,
    /// Sandboxes that wait for their containers.
    standbys: standby::Pool,
    /// Ids of user namespaces of containers that are being made.
    ranges: userns::Ranges,
    /// Held while networks are made, removed and written down.
    network_lock: tokio::sync::Mutex<()>,
    /// Held from the look at a volume's users to its removal, and while a container takes volumes into use.
    volume_lock: tokio::sync::Mutex<()>,
}

/// Where things are below the data root and the run directory.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    data: PathBuf,
    run: PathBuf,
    /// The engine's own control group below each hierarchy.
    cgroup_root: String,
}

impl Layout {
    pub(crate) fn new(config: &Config) -> Self {
        let cgroup_root = match config.net.suffix.as_str() {
            "" => "cais".to_owned(),
            suffix => format!("cais-{suffix}"),
        };
        Self { data: config.data_root.clone(), run: config.exec_root.clone(), cgroup_root }
    }

    /// A container's folder: its name files and its log.
    pub(crate) fn container(&self, id: &Id) -> PathBuf {
        self.data.join("containers").join(id.as_str())
    }

    /// The names of the anonymous volumes that were made for a container.
    pub(crate) fn anonymous_volumes(&self, id: &Id) -> PathBuf {
        self.container(id).join("anonymous-volumes")
    }

    /// A container's json-file log.
    pub(crate) fn log(&self, id: &Id) -> PathBuf {
        self.container(id).join(format!("{id}-json.log"))
    }

    /// The history of events.
    pub(crate) fn events(&self) -> PathBuf {
        self.data.join("db").join("events.jsonl")
    }

    /// A container's log in the compact format.
    pub(crate) fn local_log(&self, id: &Id) -> PathBuf {
        self.container(id).join("local-logs").join("container.log")
    }

    /// How far a container's log was sent elsewhere.
    pub(crate) fn log_cursor(&self, id: &Id) -> PathBuf {
        self.container(id).join("log-cursor")
    }

    /// The secrets of a container.
    pub(crate) fn secrets(&self, id: &Id) -> PathBuf {
        self.container(id).join("secrets.json")
    }

    /// What exists only while a container runs.
    pub(crate) fn run(&self, id: &Id) -> PathBuf {
        self.run.join("containers").join(id.as_str())
    }

    pub(crate) fn monitor_socket(&self, id: &Id) -> PathBuf {
        self.run(id).join("monitor.sock")
    }

    pub(crate) fn exit_record(&self, id: &Id) -> PathBuf {
        self.run(id).join("exit")
    }

    /// Where the control group of a build's step is: an engine that is killed meanwhile leaves no other trace of it.
    pub(crate) fn cgroup_note(&self, id: &Id) -> PathBuf {
        self.run(id).join("cgroup")
    }

    /// What the start of a running container took of the network.
    pub(crate) fn start_note(&self, id: &Id) -> PathBuf {
        self.run(id).join("start.json")
    }
}

impl Engine {
    /// The operations on images.
    pub fn images(&self) -> &image::Images {
        &self.images
    }

    /// Where the engine's data are.
    pub fn data_root(&self) -> &Path {
        &self.config.data_root
    }

    /// The settings as they are now.
    fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Takes over changed settings, and tells of it. Containers that are there keep what they were made with.
    pub fn reload(&self, settings: Settings) -> Result<(), Error> {
        log::check(&settings.log)?;
        let attributes = [
            ("name", rustix::system::uname().nodename().to_string_lossy().into_owned()),
            ("log-driver", settings.log.kind.clone()),
            ("labels", settings.labels.join(",")),
        ];
        *self.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        let attributes = attributes.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.events.publish("daemon", "reload", self.id.as_str(), attributes);
        Ok(())
    }

    /// Whether the kernel keeps limits of swap.
    fn limits_swap(&self) -> bool {
        self.cgroups.limits_swap(Path::new(&self.layout.cgroup_root))
    }

    fn find(&self, name: &str) -> Result<Arc<Container>, Error> {
        self.containers.find(name)
    }
}

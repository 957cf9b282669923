//! What the engine is asked, and what it answers: plain data, no protocol.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use bytes::Bytes;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use types::Id;
use types::container::CreateRequest;

use crate::LogBatch;
use crate::container::Record;

/// Filters of a list: each key with the values that are acceptable, as clients write them (`{"label": ["a=b"]}`).
pub type Filters = BTreeMap<String, Vec<String>>;

/// Whether an operation changed anything. The API answers 204 or 304.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The state is now the one asked for.
    Done,
    /// It was so before.
    Already,
}

/// A container to be made.
#[derive(Debug, Clone, Default)]
pub struct CreateContainer {
    /// The name wished, without a leading slash; one is made up when absent.
    pub name: Option<String>,
    /// The platform wished, `linux/amd64` say; only the machine's own can run.
    pub platform: Option<String>,
    /// What it is, what it may do on the host, and which networks it joins.
    pub request: CreateRequest,
}

/// A container that was made.
#[derive(Debug, Clone)]
pub struct Created {
    /// Its identifier.
    pub id: Id,
    /// What could not be done as wished, in sentences.
    pub warnings: Vec<String>,
}

/// A list of containers.
#[derive(Debug, Clone, Default)]
pub struct ListContainers {
    /// Stopped ones too.
    pub all: bool,
    /// At most this many of the latest made; implies `all`.
    pub limit: Option<usize>,
    /// Count the bytes of the read/write layers (slow).
    pub size: bool,
    /// Which ones.
    pub filters: Filters,
}

/// One container as it was at one moment.
#[derive(Debug, Clone)]
pub struct ContainerView {
    /// All that is known of it.
    pub record: Arc<Record>,
    /// Bytes of the read/write layer, and of the whole root; only when asked for.
    pub size: Option<ContainerSize>,
    /// Identifiers of the execs that still run.
    pub exec_ids: Vec<Id>,
    /// Where its files are, for `inspect`.
    pub paths: ContainerPaths,
}

/// How many bytes a container takes.
#[derive(Debug, Clone, Copy)]
pub struct ContainerSize {
    /// The read/write layer.
    pub rw: u64,
    /// The read/write layer and all layers of the image.
    pub root_fs: u64,
}

/// Where a container's files are on the host.
#[derive(Debug, Clone, Default)]
pub struct ContainerPaths {
    /// `resolv.conf`, empty when the container never had one.
    pub resolv_conf: String,
    /// `hostname`.
    pub hostname: String,
    /// `hosts`.
    pub hosts: String,
    /// The json-file log; empty when the log driver is `none`.
    pub log: String,
    /// Lower directories of the root, top first, joined by `:`.
    pub lower: String,
    /// The read/write layer.
    pub upper: String,
    /// Overlayfs's work directory.
    pub work: String,
    /// Where the root is seen while the container runs: below /proc of its first process. Empty when it does not run.
    pub merged: String,
}

/// Which streams an attaching client wants.
#[derive(Debug, Clone, Default)]
pub struct Attach {
    /// Replay what was logged so far.
    pub logs: bool,
    /// Follow what comes.
    pub stream: bool,
    /// Feed standard input.
    pub stdin: bool,
    /// Receive standard output.
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
    /// The key sequence that detaches, `ctrl-p,ctrl-q` when absent.
    pub detach_keys: Option<String>,
    /// Output and errors as they are, without headers that name the stream.
    pub raw: bool,
}

/// A client's connection, taken out of the HTTP server.
#[derive(Debug)]
pub struct ClientStream {
    /// The socket.
    pub socket: OwnedFd,
    /// What the server had read beyond the request's head.
    pub read_ahead: Bytes,
}

/// Which log records are wanted.
#[derive(Debug, Clone, Default)]
pub struct ReadLogs {
    /// Go on with what comes until the container ends.
    pub follow: bool,
    /// Records of standard output.
    pub stdout: bool,
    /// Records of standard error.
    pub stderr: bool,
    /// None before this moment.
    pub since: Option<Timestamp>,
    /// None after this moment.
    pub until: Option<Timestamp>,
    /// Only this many of the last ones.
    pub tail: Option<usize>,
}

/// A standard stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// A log being read.
#[derive(Debug)]
pub struct LogReader {
    /// The container has a terminal: the stream is raw.
    pub tty: bool,
    /// The records in batches, in the order they were written; closed at the end.
    pub records: tokio::sync::mpsc::Receiver<LogBatch>,
}

/// What a waiting client waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// Not running now, or the next exit.
    #[default]
    NotRunning,
    /// The next exit, even when it is stopped now.
    NextExit,
    /// Until it is gone.
    Removed,
}

/// How a container's process ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Its exit code, or 128 + the signal that ended it.
    pub code: i64,
    /// Why it could not be started, or what went wrong while removing.
    pub error: Option<String>,
}

/// How to remove a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct RemoveContainer {
    /// Kill it first if it runs.
    pub force: bool,
    /// Remove its anonymous volumes too.
    pub volumes: bool,
}

/// A command to be run in a running container.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExecConfig {
    /// Program and arguments.
    pub cmd: Vec<String>,
    /// More environment, `NAME=value`.
    pub env: Vec<String>,
    /// `user`, `user:group`, `uid:gid`; the container's when empty.
    pub user: String,
    /// The working directory; the container's when empty.
    pub working_dir: String,
    /// Give it every capability.
    pub privileged: bool,
    /// Give it a terminal.
    pub tty: bool,
    /// A client will feed its standard input.
    pub attach_stdin: bool,
    /// A client wants its standard output.
    pub attach_stdout: bool,
    /// A client wants its standard error.
    pub attach_stderr: bool,
    /// The key sequence that detaches.
    pub detach_keys: Option<String>,
    /// The terminal's first size: rows, columns.
    pub console_size: Option<(u16, u16)>,
}

/// An exec as it was at one moment.
#[derive(Debug, Clone)]
pub struct ExecView {
    /// Its identifier.
    pub id: Id,
    /// The container it runs in.
    pub container: Id,
    /// What was asked.
    pub config: ExecConfig,
    /// It has been started and has not ended.
    pub running: bool,
    /// Its exit code, once it ended.
    pub exit_code: Option<i64>,
    /// Its process id on the host; 0 when it does not run.
    pub pid: i32,
}

/// The processes of a container as a table.
#[derive(Debug, Clone)]
pub struct Processes {
    /// The columns' titles.
    pub titles: Vec<String>,
    /// One row a process.
    pub rows: Vec<Vec<String>>,
}

/// One sample of what a container uses.
#[derive(Debug, Clone)]
pub struct StatsSample {
    /// The container.
    pub id: Id,
    /// Its name, without a slash.
    pub name: String,
    /// When it was read; `None` for a container that does not run.
    pub read: Option<Timestamp>,
    /// What its cgroups say.
    pub usage: cgroup::Stats,
    /// Nanoseconds of processor time that the whole machine used, all processors together.
    pub system_cpu_ns: u64,
    /// Processors the machine has online.
    pub online_cpus: u32,
    /// The machine's memory in bytes: the limit of containers without one.
    pub memory_total: u64,
    /// The memory in use runs on cgroup v1 (its statistics have other names there).
    pub cgroup_v1: bool,
    /// Counters of each interface.
    pub networks: BTreeMap<String, InterfaceCounters>,
}

/// Counters of a network interface.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "the names say it all")]
pub struct InterfaceCounters {
    pub rx_bytes: u64,
    pub rx_packets: u64,
    pub rx_errors: u64,
    pub rx_dropped: u64,
    pub tx_bytes: u64,
    pub tx_packets: u64,
    pub tx_errors: u64,
    pub tx_dropped: u64,
}

/// A sample together with the one before it (absent for the first).
#[derive(Debug, Clone)]
pub struct StatsPair {
    /// The newer.
    pub now: Arc<StatsSample>,
    /// The older.
    pub before: Option<Arc<StatsSample>>,
}

/// What a prune removed.
#[derive(Debug, Clone, Default)]
pub struct Pruned {
    /// Identifiers or names.
    pub deleted: Vec<String>,
    /// Bytes that are free now.
    pub reclaimed: u64,
}

/// Something that happened.
#[derive(Debug, Clone, Serialize)]
pub struct Event {
    /// `container`, `daemon`, `image`, `network`, `volume`.
    pub kind: &'static str,
    /// `create`, `start`, `die`, …
    pub action: String,
    /// The object's identifier.
    pub id: String,
    /// What is known of the object.
    pub attributes: BTreeMap<String, String>,
    /// When.
    pub time: Timestamp,
}

/// Which events are wanted.
#[derive(Debug, Clone, Default)]
pub struct ReadEvents {
    /// From the history: none before this moment. Without it only what comes.
    pub since: Option<Timestamp>,
    /// End at this moment.
    pub until: Option<Timestamp>,
    /// Which ones.
    pub filters: Filters,
}

/// A volume to be made.
#[derive(Debug, Clone, Default)]
pub struct CreateVolume {
    /// Its name; one is made up when absent, and the volume is then anonymous.
    pub name: Option<String>,
    /// `local` or empty.
    pub driver: String,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels; absent where the client gave none.
    pub labels: Option<BTreeMap<String, String>>,
}

/// What is at a path of a container.
#[derive(Debug, Clone)]
pub struct PathStat {
    /// The last component of the path asked for.
    pub name: String,
    /// Bytes.
    pub size: i64,
    /// `st_mode`: kind and permissions.
    pub mode: u32,
    /// When it was changed.
    pub modified: Timestamp,
    /// Of a symbolic link: the absolute path in the container that it leads to in the end; empty for anything else.
    pub link_target: String,
}

/// How to put an archive into a container.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutArchive {
    /// A directory is not replaced by something else, nor something else by a directory.
    pub keep_kinds: bool,
    /// Everything belongs to the container's user, where it has one.
    pub own_by_user: bool,
}

/// An image to be made of a container.
#[derive(Debug, Clone, Default)]
pub struct Commit {
    /// The container.
    pub container: String,
    /// The image's name, without one if empty.
    pub repository: String,
    /// The name's tag; `latest` if empty.
    pub tag: String,
    /// A remark.
    pub comment: String,
    /// Who made it.
    pub author: String,
    /// Hold the container's processes meanwhile.
    pub pause: bool,
    /// Instructions as in a Dockerfile.
    pub changes: Vec<String>,
    /// What containers of it run, the container's own where it says nothing.
    pub config: Option<types::container::Config>,
}

/// A network to be made.
#[derive(Debug, Clone, Default)]
pub struct CreateNetwork {
    /// Its name.
    pub name: String,
    /// `bridge` (or empty), `macvlan` or `ipvlan`.
    pub driver: String,
    /// Whether it gives IPv4 addresses.
    pub ipv4: bool,
    /// Whether it gives IPv6 addresses.
    pub ipv6: bool,
    /// A template for others.
    pub config_only: bool,
    /// The template that it is made from; empty: none.
    pub config_from: String,
    /// Options of the address management: remembered only.
    pub ipam_options: BTreeMap<String, String>,
    /// Without a way out.
    pub internal: bool,
    /// Remembered only.
    pub attachable: bool,
    /// Its addresses.
    pub pools: Vec<NetworkPool>,
    /// Options of the driver.
    pub options: BTreeMap<String, String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// Addresses of a network, as clients write them; empty: the engine's choice.
#[derive(Debug, Clone, Default)]
pub struct NetworkPool {
    /// All of them.
    pub subnet: String,
    /// Those that are given without being asked for.
    pub ip_range: String,
    /// The network's own.
    pub gateway: String,
    /// Those that others have, by name.
    pub auxiliary: BTreeMap<String, String>,
}

/// What the engine is and has, for `info`.
#[derive(Debug, Clone)]
pub struct Info {
    /// The engine's own identifier, kept with the data.
    pub id: String,
    /// Containers that run, are paused, are stopped.
    pub containers: (usize, usize, usize),
    /// Images.
    pub images: usize,
    /// The machine's name.
    pub name: String,
    /// Its kernel's release.
    pub kernel_version: String,
    /// The distribution's pretty name.
    pub operating_system: String,
    /// The distribution's version.
    pub os_version: String,
    /// Processors.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory_total: u64,
    /// `1` or `2`.
    pub cgroup_version: u8,
    /// Which limits the kernel can keep.
    pub limits: Limits,
    /// Where the data is.
    pub data_root: String,
    /// The filesystem below the data root, as `statfs` names it.
    pub backing_filesystem: String,
    /// Open descriptors and tasks of the engine, and its listeners for events.
    pub open_files: usize,
    /// Listeners for events.
    pub event_listeners: usize,
    /// OCI runtimes by name, with their paths.
    pub runtimes: BTreeMap<String, String>,
    /// The runtime of a container that names none.
    pub default_runtime: String,
    /// Where specifications of devices (CDI) are.
    pub cdi_directories: Vec<String>,
    /// Containers have user namespaces unless they say otherwise.
    pub remapped: bool,
    /// Address pools networks are made from: base and prefix length of each subnet.
    pub address_pools: Vec<(String, u8)>,
    /// Sentences about what this machine lacks.
    pub warnings: Vec<String>,
    /// Proxies: `HTTP_PROXY`, `HTTPS_PROXY`, `NO_PROXY`.
    pub proxies: [String; 3],
    /// Registries that are not checked, as the settings name them.
    pub insecure_registries: Vec<String>,
    /// Mirrors, by the domain of the registry that they stand for.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// The engine's own labels.
    pub labels: Vec<String>,
    /// The log drivers, and the one of containers that name none.
    pub log_drivers: Vec<&'static str>,
    /// See above.
    pub log_driver: String,
    /// The machine forwards IPv4.
    pub ipv4_forwarding: bool,
}

/// Which limits the kernel can keep.
#[derive(Debug, Clone, Copy, Default)]
#[expect(missing_docs, reason = "the names say it all")]
pub struct Limits {
    pub memory: bool,
    pub swap: bool,
    pub cpu_cfs: bool,
    pub cpu_shares: bool,
    pub cpuset: bool,
    pub pids: bool,
    pub oom_kill_disable: bool,
}

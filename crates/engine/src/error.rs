//! What can go wrong in the engine: each variant an operation and its subject.

use std::path::PathBuf;

use types::{Classify, ErrorKind, Id};

/// An operation of the engine that failed.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message beside each variant says what it is")]
pub enum Error {
    #[error("this engine shares no networks with other hosts")]
    NoCluster,
    #[error(transparent)]
    Cluster(cluster::Error),
    #[error("No such container: {name}")]
    NoSuchContainer { name: String },
    #[error("multiple containers found with the id prefix {prefix}")]
    AmbiguousPrefix { prefix: String },
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You have to remove (or rename) that container to be able to reuse that name."
    )]
    NameTaken { name: String, holder: Id },
    #[error("Invalid container name ({name}), only {pattern} are allowed", pattern = crate::name::PATTERN)]
    BadName { name: String },
    #[error("Neither old nor new names may be empty")]
    EmptyName,
    #[error("the container {name} has that name already")]
    SameName { name: String },
    #[error("no command specified: neither the request nor the image {image} has one")]
    NoCommand { image: String },
    #[error("the image {image} is for {image_platform}, this machine runs {machine}")]
    WrongPlatform { image: String, image_platform: String, machine: String },

    #[error("invalid filter '{key}'")]
    UnknownFilter { key: String },
    #[error("invalid value {value:?} of the filter {key}: expected {expected}")]
    BadFilter { key: String, value: String, expected: &'static str },
    #[error("invalid {field}: {value:?}: {reason}")]
    BadField { field: &'static str, value: String, reason: String },
    #[error("{field} is not served by this engine")]
    NotServed { field: String },
    #[error("Cannot link to a non running container: {name} AS {alias}")]
    LinkTarget { name: String, alias: String },
    #[error("invalid mount {mount:?}: {reason}")]
    BadMount { mount: String, reason: &'static str },
    #[error("Duplicate mount point: {target}")]
    DuplicateMount { target: String },
    #[error("invalid tmpfs option {option:?}")]
    BadTmpfsOption { option: String },
    #[error("bind source path does not exist: {}", path.display())]
    BindSourceMissing { path: PathBuf },
    #[error("open the bind source {}", path.display())]
    BindSource { path: PathBuf, source: std::io::Error },
    #[error("{name:?} includes invalid characters for a volume name, only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    BadVolumeName { name: String },

    #[error("container {id} is not running")]
    NotRunning { id: Id },
    #[error("cannot kill container: {name}: container {id} is not running")]
    KillNotRunning { name: String, id: Id },
    #[error("cannot kill container: {name}: invalid signal: {signal}")]
    KillBadSignal { name: String, signal: String },
    #[error("invalid signal: {signal}")]
    BadSignal { signal: String },
    #[error("container {name} is restarting, wait until the container is running")]
    Restarting { name: String },
    #[error("container {id} is already paused")]
    AlreadyPaused { id: Id },
    #[error("Container {id} is not paused")]
    NotPaused { id: Id },
    #[error("Container {name} is paused, unpause the container before {what}")]
    Paused { name: String, what: &'static str },
    #[error("cannot start a paused container, try unpause instead")]
    StartPaused,
    #[error("container {name} is being removed and cannot be started")]
    BeingRemoved { name: String },
    #[error("removal of container {name} is already in progress")]
    RemovalInProgress { name: String },
    #[error("cannot remove container \"{name}\": container is {status}: stop the container before removing or force remove")]
    RemoveRunning { name: String, status: &'static str },
    #[error("container {name} did not end within {seconds} s after SIGKILL")]
    DidNotEnd { name: String, seconds: u64 },
    #[error("the mode container:{target} cannot be used: {reason}")]
    JoinTarget { target: String, reason: String },
    #[error("{text}")]
    Start { text: String, exit_code: i32 },

    #[error("must specify at least one of 'stdout' or 'stderr'")]
    NoStream,
    #[error("container {name} has the log driver {driver} with nothing kept to read")]
    NoLog { name: String, driver: String },
    #[error("logger: no log driver named '{driver}' is registered")]
    NoSuchLogDriver { driver: String },
    #[error("invalid log option {option}={value}: {reason}")]
    BadLogOption { option: String, value: String, reason: String },
    #[error("failed to initialize logging driver {driver}: connect to {address}")]
    LogDriver { driver: String, address: String, source: std::io::Error },
    #[error("cannot attach to container {name}: {reason}")]
    Attach { name: String, reason: &'static str },
    #[error("invalid detach keys {keys:?}: {reason}")]
    DetachKeys { keys: String, reason: String },

    #[error("No exec command specified")]
    NoExecCommand,
    #[error("No such exec instance: {id}")]
    NoSuchExec { id: String },
    #[error("exec command {id} has already run")]
    ExecAlreadyRun { id: Id },
    #[error("{limit} execs run or were never started")]
    TooManyExecs { limit: usize },
    #[error("exec command {id} is not running")]
    ExecNotRunning { id: Id },

    #[error("ps does not understand {unknown:?} in {arguments:?}")]
    PsArguments { arguments: String, unknown: String },
    #[error("cgroup of container {id}")]
    Cgroup { id: Id, source: cgroup::Error },
    #[error("set up the engine's control groups")]
    Cgroups { source: cgroup::Error },
    #[error("container {name}: the monitor {what}")]
    Monitor { name: String, what: String },
    #[error("talk to the monitor of container {name}")]
    Link { name: String, source: monitor::Error },

    #[error("Could not find the file {path} in container {name}")]
    NoSuchPath { path: String, name: String },
    #[error("{path} in container {name} is not a directory")]
    NotADirectory { path: String, name: String },
    #[error("container rootfs is marked read-only")]
    ReadOnlyRoot,
    #[error("mounted volume is marked read-only")]
    ReadOnlyMount,
    #[error("{operation} of container {name}")]
    Files { operation: &'static str, name: String, source: tarball::Error },
    #[error("reach {path} in container {name}")]
    Reach { path: String, name: String, source: std::io::Error },
    #[error("mount the files of container {name}")]
    MountFiles { name: String, source: runtime::Error },

    #[error("get {name}: no such volume")]
    NoSuchVolume { name: String },
    #[error("remove {name}: volume is in use - [{users}]")]
    VolumeInUse { name: String, users: String },
    #[error("create {name}: error looking up volume plugin {driver}: plugin \"{driver}\" not found")]
    NoSuchVolumeDriver { name: String, driver: String },
    #[error("network {name} not found")]
    NoSuchNetwork { name: String },

    #[error("invalid endpoint settings for network {network}: {reason}")]
    BadEndpoint { network: String, reason: String },
    #[error("{name} is a pre-defined network and cannot be removed")]
    PredefinedNetwork { name: String },
    #[error("plugin {driver:?} not found")]
    NoSuchNetworkDriver { driver: String },
    #[error("endpoint with name {container} already exists in network {network}")]
    AlreadyConnected { container: String, network: String },
    #[error("container {id} is not connected to network {network}")]
    NotConnected { id: Id, network: String },
    #[error("{reason}")]
    SharedNetwork { reason: &'static str },
    #[error(transparent)]
    Network(net::Error),

    #[error("{operation}")]
    Net { operation: &'static str, source: net::Error },
    /// The store's own words are the ones that clients know.
    #[error(transparent)]
    NoImage(store::Error),
    #[error("{operation}")]
    Store { operation: &'static str, source: store::Error },
    #[error(transparent)]
    Image(#[from] crate::image::Error),
    #[error("{operation} {}", path.display())]
    File { operation: &'static str, path: PathBuf, source: std::io::Error },
    #[error("the engine's own task failed: {0}")]
    Task(#[from] tokio::task::JoinError),
    #[error("decode the record of {subject}")]
    Record { subject: String, source: serde_json::Error },
}

impl Classify for Error {
    fn kind(&self) -> ErrorKind {
        use ErrorKind::{Conflict, Forbidden, Internal, InvalidInput, NotFound};
        match self {
            Self::NoSuchPath { .. } => NotFound,
            Self::NotADirectory { .. } => InvalidInput,
            Self::ReadOnlyRoot | Self::ReadOnlyMount => Forbidden,
            Self::Files { source, .. } => files_kind(source),
            Self::Reach { .. } | Self::MountFiles { .. } => Internal,
            Self::NoSuchContainer { .. } | Self::NoSuchExec { .. } | Self::NoSuchVolume { .. } | Self::NoSuchNetwork { .. } => NotFound,
            Self::NoSuchVolumeDriver { .. } | Self::NoSuchNetworkDriver { .. } => NotFound,
            // Docker's answers to these.
            Self::PredefinedNetwork { .. } | Self::AlreadyConnected { .. } => Forbidden,
            Self::NotConnected { .. } => Internal,
            Self::Network(source) => source.kind(),
            Self::NoCluster => ErrorKind::NotServed,
            Self::Cluster(source) => source.kind(),
            Self::NameTaken { .. }
            | Self::SameName { .. }
            | Self::NotRunning { .. }
            | Self::KillNotRunning { .. }
            | Self::Restarting { .. }
            | Self::AlreadyPaused { .. }
            | Self::Paused { .. }
            | Self::StartPaused
            | Self::BeingRemoved { .. }
            | Self::RemovalInProgress { .. }
            | Self::RemoveRunning { .. }
            | Self::JoinTarget { .. }
            | Self::LinkTarget { .. }
            | Self::Attach { .. }
            | Self::TooManyExecs { .. }
            | Self::ExecAlreadyRun { .. }
            | Self::ExecNotRunning { .. }
            | Self::VolumeInUse { .. } => Conflict,
            Self::NotServed { .. } => ErrorKind::NotServed,
            Self::AmbiguousPrefix { .. }
            | Self::BadName { .. }
            | Self::EmptyName
            | Self::NoCommand { .. }
            | Self::WrongPlatform { .. }
            | Self::UnknownFilter { .. }
            | Self::BadFilter { .. }
            | Self::BadField { .. }
            | Self::BadEndpoint { .. }
            | Self::SharedNetwork { .. }
            | Self::BadMount { .. }
            | Self::DuplicateMount { .. }
            | Self::BadTmpfsOption { .. }
            | Self::BindSourceMissing { .. }
            | Self::BadVolumeName { .. }
            | Self::KillBadSignal { .. }
            | Self::BadSignal { .. }
            | Self::NoStream
            | Self::NoLog { .. }
            | Self::NoSuchLogDriver { .. }
            | Self::BadLogOption { .. }
            | Self::DetachKeys { .. }
            | Self::NoExecCommand
            | Self::PsArguments { .. }
            // A command that is missing or cannot be executed is the request's fault.
            | Self::Start { exit_code: 126 | 127, .. } => InvalidInput,
            Self::BindSource { source, .. } | Self::File { source, .. } => match source.kind() {
                std::io::ErrorKind::PermissionDenied => Forbidden,
                std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => ErrorKind::Unavailable,
                _ => Internal,
            },
            Self::Cgroup { source, .. } | Self::Cgroups { source } => source.kind(),
            Self::Net { source, .. } => source.kind(),
            Self::Store { source, .. } | Self::NoImage(source) => source.kind(),
            Self::Image(source) => source.kind(),
            Self::Link { source, .. } => source.kind(),
            Self::LogDriver { .. }
            | Self::NotPaused { .. }
            | Self::DidNotEnd { .. }
            | Self::Start { .. }
            | Self::Monitor { .. }
            | Self::Task(_)
            | Self::Record { .. } => Internal,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::NoSuchLogDriver { .. } => {
                let names: Vec<&str> = crate::log::DRIVERS.iter().map(|(name, _)| *name).collect();
                Some(format!("known are {}", names.join(", ")))
            }
            Self::LogDriver { .. } => Some("start the collector, or choose another --log-driver".to_owned()),
            Self::AmbiguousPrefix { .. } => Some("give more digits of the id".to_owned()),
            Self::BindSourceMissing { .. } => Some("make it first, or use -v, which makes a missing directory".to_owned()),
            Self::PsArguments { .. } => Some("use -ef, aux, or -o with names of columns such as pid,user,cmd".to_owned()),
            Self::NoCommand { .. } => Some("name a command after the image".to_owned()),
            Self::File { source, .. } if source.kind() == std::io::ErrorKind::StorageFull => {
                Some("free some space: `cais system df` shows what takes it".to_owned())
            }
            Self::Cgroup { source, .. } | Self::Cgroups { source } => source.hint(),
            Self::Net { source, .. } => source.hint(),
            Self::Network(source) => source.hint(),
            Self::Cluster(source) => source.hint(),
            Self::NoCluster => Some(
                "start it with --cluster-store etcd://HOST:2379 and --cluster-advertise ADDRESS: an overlay network needs both".to_owned(),
            ),
            Self::Store { source, .. } | Self::NoImage(source) => source.hint(),
            Self::Image(source) => source.hint(),
            Self::Link { source, .. } => source.hint(),
            _ => None,
        }
    }
}

fn files_kind(error: &tarball::Error) -> ErrorKind {
    let errno = error.errno().map(rustix::io::Errno::from_raw_os_error);
    match (error, errno) {
        (tarball::Error::Parse(_) | tarball::Error::Refused(_), _) => ErrorKind::InvalidInput,
        (_, Some(rustix::io::Errno::ROFS | rustix::io::Errno::PERM | rustix::io::Errno::ACCESS)) => ErrorKind::Forbidden,
        (_, Some(rustix::io::Errno::NOSPC | rustix::io::Errno::DQUOT)) => ErrorKind::Unavailable,
        _ => ErrorKind::Internal,
    }
}

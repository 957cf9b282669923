//! The engine as a process: opened, served, closed.

use std::io::Write;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use engine::{Config, Engine};
use tokio::signal::unix::{SignalKind, signal};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;

use crate::options::{Host, Options};

const SOCKET_MODE: u32 = 0o660;
/// The first descriptor that systemd hands over.
const LISTEN_FDS_START: i32 = 3;
const LISTEN_FDS_MAX: i32 = 16;
/// Threads for operations that block: few at rest, and bounded under load.
const BLOCKING_THREADS_MAX: usize = 128;

/// Runs the engine until it is told to stop.
pub(crate) fn run(options: Options) -> Result<ExitCode> {
    if !rustix::process::geteuid().is_root() {
        bail!("the engine makes namespaces, mounts and control groups, and needs root for it: start it with sudo, or as a service");
    }
    let level = start_logging(&options);
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().max_blocking_threads(BLOCKING_THREADS_MAX).build()?;
    runtime.block_on(serve(options, &level))?;
    // What still blocks must not hold up the end.
    runtime.shutdown_background();
    Ok(ExitCode::SUCCESS)
}

async fn serve(options: Options, level: &LevelHandle) -> Result<()> {
    let config = Config {
        data_root: options.data_root.clone(),
        exec_root: options.exec_root.clone(),
        net: net_config(&options)?,
        monitor_elf: crate::MONITOR_ELF,
        registries: options.registries.clone(),
        sandbox: options.sandbox.clone(),
        settings: options.settings.clone(),
        cluster: options.cluster.clone(),
    };
    // Taken before clients can come, so that none meets a half-open engine.
    let mut stop = StopSignals::new()?;
    let engine = Engine::open(config).await.map_err(described)?;
    write_pidfile(&options.pidfile)?;
    let mut sockets = Vec::new();
    let mut listeners = Vec::new();
    for host in &options.hosts {
        listen(host, &options, &mut listeners, &mut sockets)?;
    }
    if let Some(address) = options.metrics {
        let listener = std::net::TcpListener::bind(address).with_context(|| format!("serve figures at {address}"))?;
        tokio::spawn(api::serve_metrics(engine.clone(), listener));
    }
    tracing::info!(data_root = %options.data_root.display(), sockets = ?sockets, "the engine listens");
    tell_ready(&options);
    let reloading = reload_on_hangup(engine.clone(), level.clone())?;
    api::serve(engine.clone(), listeners, async { stop.recv().await }).await;
    reloading.abort();
    tracing::info!("the engine stops; containers go on");
    engine.close().await;
    for path in sockets.iter().chain([&options.pidfile]) {
        let _ = std::fs::remove_file(path);
    }
    Ok(())
}

/// The network's settings, with the command that runs this same program as its helper.
fn net_config(options: &Options) -> Result<net::NetConfig> {
    let program = std::env::current_exe().context("find the engine's own program")?;
    let mut net = options.net.clone();
    net.netd_command = vec![program.into_os_string(), "netd".into()];
    Ok(net)
}

type LevelHandle = reload::Handle<LevelFilter, tracing_subscriber::Registry>;

/// Logs to standard error; how much may change later.
fn start_logging(options: &Options) -> LevelHandle {
    let (level, handle) = reload::Layer::new(LevelFilter::from_level(options.log_level));
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_target(false);
    let registry = tracing_subscriber::registry().with(level);
    if options.log_json {
        registry.with(lines.json().flatten_event(true)).init();
    } else {
        registry.with(lines).init();
    }
    handle
}

/// Reads the configuration again at each SIGHUP. What cannot change while the engine runs stays as it is.
fn reload_on_hangup(engine: Arc<Engine>, level: LevelHandle) -> Result<tokio::task::JoinHandle<()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(tokio::spawn(async move {
        while hangups.recv().await.is_some() {
            let args: Vec<std::ffi::OsString> = std::env::args_os().collect();
            let own = args.iter().position(|word| word == "engine").map_or(1, |at| at + 1);
            let read = crate::options::parse(args.get(own..).unwrap_or_default()).and_then(|matches| Options::read(&matches));
            let taken = read.and_then(|options| {
                engine.reload(options.settings).map_err(described)?;
                Ok(level.reload(LevelFilter::from_level(options.log_level))?)
            });
            match taken {
                Ok(()) => tracing::info!("the configuration was read again"),
                Err(error) => tracing::error!(error = format!("{error:#}"), "the configuration stays as it was"),
            }
        }
    }))
}

pub(crate) struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    pub(crate) fn new() -> Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    pub(crate) async fn recv(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

fn listen(host: &Host, options: &Options, listeners: &mut Vec<api::Listener>, sockets: &mut Vec<PathBuf>) -> Result<()> {
    match host {
        Host::Unix(path) => {
            listeners.push(api::Listener::unix(bind_unix(path, options)?).map_err(described)?);
            sockets.push(path.clone());
        }
        Host::Tcp(address) => {
            let listener = std::net::TcpListener::bind(address).with_context(|| format!("listen on tcp://{address}"))?;
            listeners.push(api::Listener::tcp(listener).map_err(described)?);
        }
        Host::Inherited => {
            for number in LISTEN_FDS_START..LISTEN_FDS_START + inherited_count()? {
                let fd = kernel::spawn::inherited(number).context("take over the sockets of systemd")?;
                listeners.push(api::Listener::unix(UnixListener::from(fd)).map_err(described)?);
            }
        }
    }
    Ok(())
}

/// Binds a socket that its owner and the group may use. One that a dead engine left is replaced.
fn bind_unix(path: &Path, options: &Options) -> Result<UnixListener> {
    let listening = || format!("listen on unix://{}", path.display());
    if UnixStream::connect(path).is_ok() {
        bail!("{}: another engine answers there: stop it with `cais engine stop`, or choose another --host", listening());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(listening)?;
    }
    // Bound under another name and renamed, so that nobody ever connects before the rights are set.
    let staged = path.with_extension(format!("{}.new", std::process::id()));
    let _ = std::fs::remove_file(&staged);
    let listener = UnixListener::bind(&staged).with_context(listening)?;
    std::fs::set_permissions(&staged, std::fs::Permissions::from_mode(SOCKET_MODE)).with_context(listening)?;
    match group_id(&options.group) {
        Some(gid) => chown(&staged, Some(0), Some(gid)).with_context(listening)?,
        None if options.group_given => {
            bail!("{}: there is no group {:?}: make it with `groupadd {}`", listening(), options.group, options.group)
        }
        None => {}
    }
    std::fs::rename(&staged, path).with_context(listening)?;
    Ok(listener)
}

/// A group's number, by name or number, from /etc/group.
fn group_id(name: &str) -> Option<u32> {
    if let Ok(number) = name.parse() {
        return Some(number);
    }
    let text = std::fs::read_to_string("/etc/group").ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then(|| fields.nth(1)?.parse().ok()).flatten()
    })
}

/// How many sockets systemd handed over to this very process.
fn inherited_count() -> Result<i32> {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<i32>().ok());
    match (number("LISTEN_PID"), number("LISTEN_FDS")) {
        (Some(pid), Some(count)) if pid == std::process::id() as i32 && (1..=LISTEN_FDS_MAX).contains(&count) => Ok(count),
        _ => bail!("--host fd://: no sockets were handed over: this is for a unit with a socket file beside it"),
    }
}

fn write_pidfile(path: &Path) -> Result<()> {
    let written = || format!("write the pid file {}", path.display());
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).with_context(written)?;
    }
    std::fs::write(path, format!("{}\n", std::process::id())).with_context(written)
}

/// Tells whoever started the engine that it listens: through the descriptor given, and systemd through its socket.
fn tell_ready(options: &Options) {
    if let Some(number) = options.ready_fd {
        match kernel::spawn::inherited(number) {
            Ok(fd) => {
                // Who waits there may have gone.
                let _ = std::fs::File::from(fd).write_all(b"1");
            }
            Err(error) => tracing::warn!(%error, number, "--ready-fd names no open descriptor"),
        }
    }
    notify_ready();
}

/// Tells systemd that what it started is ready.
pub(crate) fn notify_ready() {
    if let Some(path) = std::env::var_os("NOTIFY_SOCKET")
        && let Ok(socket) = UnixDatagram::unbound()
        && let Err(error) = socket.send_to(b"READY=1", path)
    {
        tracing::warn!(%error, "the service manager could not be told that the program is ready");
    }
}

/// As many descriptors as the machine allows: each container takes a few.
pub(crate) fn raise_descriptor_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }) {
        tracing::debug!(%error, "the limit of open descriptors stays as it is");
    }
}

/// An error with its causes and the way out.
pub(crate) fn described(error: impl types::Classify) -> anyhow::Error {
    let text = types::error::chain(&error);
    match error.hint() {
        Some(hint) => anyhow::anyhow!("{text}\n{hint}"),
        None => anyhow::anyhow!("{text}"),
    }
}

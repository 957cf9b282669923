//! Starting a container: network, specification and monitor, then the monitor's word that the program runs.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use monitor::{Handle, LaunchFds, LaunchRequest, Reply, Started};
use serde::{Deserialize, Serialize};
use types::Id;
use types::container::{EndpointSettings, NamespaceMode, PortMap, Status};

use super::{Container, Record, lock};
use crate::link::Link;
use crate::log::Sink;
use crate::request::{Change, ClientStream, RemoveContainer};
use crate::sandbox::{Prepared, namespace};
use crate::spec::{SeccompCache, Security};
use crate::standby::{Parts, Standby};
use crate::{Engine, Error, spec, userns};

/// How long a start waits for a client that attaches.
const ATTACHING_MAX: Duration = Duration::from_secs(1);

/// A monitor that was told to launch, and the network it launches into.
struct Launched {
    handle: Handle,
    network: Prepared,
}

/// What a start takes of the network, kept in the run directory as long as the container runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct StartNote {
    networks: BTreeMap<String, EndpointSettings>,
    ports: PortMap,
    #[serde(default, alias = "endpoint", deserialize_with = "super::one_or_more")]
    endpoints: Vec<net::Endpoint>,
}

impl StartNote {
    /// The note in a file, if there is a whole one.
    pub(crate) fn read(path: &std::path::Path) -> Option<Self> {
        serde_json::from_slice(&std::fs::read(path).ok()?).ok()
    }

    /// Puts what was taken into the record.
    pub(crate) fn apply(self, record: &mut Record) {
        record.networks = self.networks;
        record.ports = self.ports;
        record.endpoints = self.endpoints;
    }
}

/// Namespaces of other containers, held until the monitor has them.
struct Joined {
    ipc: Option<OwnedFd>,
    pid: Option<OwnedFd>,
}

impl Engine {
    /// Starts a container that does not run.
    pub async fn start_container(self: &Arc<Self>, name: &str) -> Result<Change, Error> {
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        if record.state.status != Status::Created {
            lock(&container.trace).clear();
        }
        lock(&container.trace).done("engine: asked to start it");
        match record.state.status {
            Status::Running => return Ok(Change::Already),
            Status::Paused => return Err(Error::StartPaused),
            Status::Removing | Status::Dead => return Err(Error::BeingRemoved { name: record.name.clone() }),
            Status::Created | Status::Exited | Status::Restarting => {}
        }
        self.change(&container, |record| {
            record.restart_count = 0;
            record.stopped_by_hand = false;
        });
        let started = self.launch(&container).await;
        if started.is_err() && record.host.auto_remove {
            // It was to go when it ends, and it has.
            let engine = self.clone();
            let id = container.id.clone();
            tokio::spawn(async move { engine.remove_container(id.as_str(), RemoveContainer { force: true, volumes: true }).await });
        }
        started.map(|()| Change::Done)
    }

    /// Starts the container's process. The caller holds `operation`.
    pub(super) async fn launch(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        drop(container.settling.lock().await);
        let record = container.record();
        // Output must not come before those who were promised it; one that hangs on its way holds nobody up.
        drop(tokio::time::timeout(ATTACHING_MAX, container.attaching.write()).await);
        let clients = std::mem::take(&mut *lock(&container.waiting));
        self.drain_log(container).await;
        let sink = match self.open_sink(&record).await {
            Ok(sink) => sink,
            Err(error) => {
                self.note_failed_start(container, &error);
                return Err(error);
            }
        };
        let (engine, prepared, held) = (self.clone(), record.clone(), container.clone());
        // The clients' sockets are closed by this task's end in case of failure: they then see the stream end.
        let standby = lock(&container.standby).take().and_then(Standby::take);
        let launched = tokio::task::spawn_blocking(move || engine.spawn_monitor(&held, &prepared, clients, standby)).await?;
        let outcome = match launched {
            Ok(launched) => self.take_over(container, &record, launched, sink).await,
            Err(error) => Err(error),
        };
        if let Err(error) = &outcome {
            self.note_failed_start(container, error);
        }
        outcome
    }

    /// Makes all that the monitor needs, and starts it. Blocks.
    fn spawn_monitor(
        &self,
        container: &Container,
        record: &Record,
        clients: Vec<(super::AttachStreams, ClientStream)>,
        standby: Option<Parts>,
    ) -> Result<Launched, Error> {
        // A monitor that has gone while it waited is no help, nor is a standby of the default network where the container was put on others meanwhile.
        let fits = |parts: &Parts| parts.is_alive() && crate::standby::qualifies(&record.host, &record.networking);
        let standby = standby.and_then(|parts| {
            if fits(&parts) {
                Some(parts)
            } else {
                self.discard_standby(parts);
                None
            }
        });
        let run = self.layout.run(&record.id);
        let file = |operation, path: &std::path::Path| {
            let path = path.to_owned();
            move |source| Error::File { operation, path, source }
        };
        std::fs::create_dir_all(&run).map_err(file("make the run directory", &run))?;
        self.provide_cgroup_parent(record)?;
        let (waiting, made) =
            standby.map(|parts| (crate::standby::Waiting::new(self, parts.id, parts.handle), (parts.netns, parts.endpoint))).unzip();
        let network = self.prepare_network(record, made)?;
        self.note_start(record, &network)?;
        lock(&container.trace).done("engine: network ready");
        let security = Security::parse(&record.host)?;
        let filter = security.filter(&self.seccomp)?;
        let mut spec = self.spec(record, &security, filter.as_ref())?;
        let devices = crate::cdi::resolve(&self.config.sandbox.cdi_directories, &record.host.device_requests)?;
        let mut additional_groups = record.host.group_add.to_vec();
        additional_groups.extend(devices.apply(&mut spec)?);
        if let Some(range) = record.id_range {
            userns::apply(range, &mut spec);
        }
        let snapshot =
            self.store.snapshot(record.id.as_str()).map_err(|source| Error::Store { operation: "find the container's files", source })?;
        let exit_record = self.layout.exit_record(&record.id);
        monitor::exit_record::prepare(&exit_record).map_err(|source| Error::Link { name: record.name.clone(), source })?;
        let mut attach = Vec::new();
        let mut sockets: Vec<OwnedFd> = Vec::new();
        for (mut streams, client) in clients {
            streams.read_ahead = client.read_ahead.to_vec();
            attach.push(streams);
            sockets.push(client.socket);
        }
        let request = LaunchRequest {
            id: record.id.to_string(),
            spec: Box::new(spec),
            root: monitor::Root::Overlay {
                lower: snapshot.lower,
                upper: snapshot.upper,
                work: snapshot.work,
                volatile: record.is_ephemeral(),
                idmap: record.id_range.is_some(),
            },
            cgroup: self.cgroup_path(record).to_string_lossy().into_owned(),
            user: record.config.user.clone(),
            additional_groups,
            init: record.host.init == Some(true),
            open_stdin: record.config.open_stdin,
            stdin_once: record.config.stdin_once,
            log: self.log_file(record)?,
            exit_record,
            socket: self.layout.monitor_socket(&record.id),
            runtime: self.runtime(&record.host.runtime)?.map(|program| monitor::ExternalRuntime {
                program: program.path,
                arguments: program.arguments,
                folder: run.join("oci"),
            }),
            attach,
        };
        let joined = self.joined_namespaces(record)?;
        let secrets = if record.secrets > 0 { Some(crate::secrets::mount(&self.layout.secrets(&record.id))?) } else { None };
        lock(&container.trace).done("engine: specification ready");
        let fds = LaunchFds {
            ipc_namespace: joined.ipc.as_ref().map(AsFd::as_fd),
            pid_namespace: joined.pid.as_ref().map(AsFd::as_fd),
            uts_namespace: None,
            net_namespace: network.netns.as_ref().map(AsFd::as_fd),
            seccomp: filter.as_ref().map(|filter| filter.program.as_fd()),
            secrets: secrets.as_ref().map(AsFd::as_fd),
            clients: sockets.iter().map(AsFd::as_fd).collect(),
        };
        let spawned = match waiting {
            Some(waiting) => waiting.launch(&request, &fds),
            None => self.monitors.spawn(&request, &fds),
        };
        lock(&container.trace).done("engine: monitor told to launch");
        let handle = spawned.map_err(|source| Error::Link { name: record.name.clone(), source })?;
        Ok(Launched { handle, network })
    }

    /// Writes the note of a running container anew, after a change of its networks.
    pub(crate) fn renote_start(&self, record: &Record) -> Result<(), Error> {
        let note = StartNote { networks: record.networks.clone(), ports: record.ports.clone(), endpoints: record.endpoints.clone() };
        self.write_note(record, &note)
    }

    /// Writes down what the start takes, so that an engine killed before it knew the outcome finds the container's network again.
    fn note_start(&self, record: &Record, network: &Prepared) -> Result<(), Error> {
        let note = StartNote { networks: network.networks.clone(), ports: network.ports.clone(), endpoints: network.endpoints().to_vec() };
        self.write_note(record, &note)
    }

    fn write_note(&self, record: &Record, note: &StartNote) -> Result<(), Error> {
        let path = self.layout.start_note(&record.id);
        let body = serde_json::to_vec(note).map_err(|source| Error::Record { subject: record.name.clone(), source })?;
        std::fs::write(&path, body).map_err(|source| Error::File { operation: "write", path, source })
    }

    /// Waits for the monitor's word, and makes the container a running one.
    async fn take_over(
        self: &Arc<Self>,
        container: &Arc<Container>,
        record: &Record,
        launched: Launched,
        sink: Option<Sink>,
    ) -> Result<(), Error> {
        let Launched { handle, network } = launched;
        let (link, answer, notices) = Link::open(record.name.clone(), handle, self.exec_end())?;
        let answered = match answer.get().await {
            Ok(reply) => reply,
            Err(error) => {
                // Whatever it has begun must not run on unknown to everybody.
                link.kill_monitor();
                self.bury(container).await;
                return Err(error);
            }
        };
        let started = match answered {
            Reply::Started(started) => started,
            Reply::LaunchFailed(failure) => return Err(Error::Start { text: failure.text, exit_code: failure.exit_code }),
            Reply::Failed { text, .. } => return Err(Error::Monitor { name: record.name.clone(), what: text }),
            other => return Err(Error::Monitor { name: record.name.clone(), what: format!("answered the launch with {other:?}") }),
        };
        {
            let mut trace = lock(&container.trace);
            for (name, at_ns) in &started.steps {
                trace.add(format!("monitor: {name}").into(), *at_ns);
            }
            trace.done("engine: told that the program runs");
        }
        container.stopping.store(false, std::sync::atomic::Ordering::Release);
        *lock(&container.link) = Some(link.clone());
        let (networks, ports) = (network.networks.clone(), network.ports.clone());
        let endpoints = network.keep();
        let record = self.change(container, |record| {
            mark_started(record, &started);
            record.networks = networks;
            record.ports = ports;
            record.endpoints = endpoints;
            record.sandbox_id = Some(Id::random());
        });
        self.save_later(container);
        self.volume_events(&record, "mount");
        self.network_events(&record, "connect");
        self.events.publish("container", "start", record.id.as_str(), record.attributes());
        tokio::spawn(self.clone().supervise(container.clone(), link.clone(), notices));
        self.watch_health(container);
        self.ship_log(container, sink);
        if crate::standby::qualifies(&record.host, &record.networking) {
            self.fill_standbys();
        }
        // Clients that attached while the start was under way.
        let late = std::mem::take(&mut *lock(&container.waiting));
        for (mut streams, client) in late {
            streams.read_ahead = client.read_ahead.to_vec();
            if let Err(error) = link.order(monitor::Request::Attach(streams), &[client.socket.as_fd()]).await {
                tracing::debug!(error = types::error::chain(&error), "a client could not be attached");
            }
        }
        Ok(())
    }

    fn note_failed_start(&self, container: &Container, error: &Error) {
        let text = types::error::chain(error);
        let exit_code = match error {
            Error::Start { exit_code, .. } => *exit_code,
            _ => spec::EXIT_CODE_FAILED,
        };
        let record = self.change(container, |record| {
            // Never started stays `created`; one that ran before stays `exited`.
            if record.state.status == Status::Restarting {
                record.state.status = Status::Exited;
            }
            record.state.error = text;
            record.state.exit_code = exit_code;
            record.exits += 1;
        });
        self.save_later(container);
        let _ = std::fs::remove_dir_all(self.layout.run(&record.id));
        self.drop_cgroup_parent(&record);
        self.events.publish("container", "die", record.id.as_str(), super::lifecycle::with_exit_code(&record, exit_code));
    }

    /// Namespaces of other containers that this one joins.
    fn joined_namespaces(&self, record: &Record) -> Result<Joined, Error> {
        let open = |mode: &str, kind| match NamespaceMode::parse(mode) {
            NamespaceMode::Container(name) => namespace(&*self.joinable(name)?, kind).map(Some),
            _ => Ok(None),
        };
        Ok(Joined { ipc: open(&record.host.ipc_mode, "ipc")?, pid: open(&record.host.pid_mode, "pid")? })
    }
}

impl Security {
    pub(crate) fn filter(&self, cache: &SeccompCache) -> Result<Option<spec::Filter>, Error> {
        match &self.seccomp {
            spec::Seccomp::Unconfined => Ok(None),
            spec::Seccomp::Default => cache.get(None, &self.capabilities).map(Some),
            spec::Seccomp::Custom(profile) => cache.get(Some(profile), &self.capabilities).map(Some),
        }
    }
}

/// The record of a container whose process has just started.
pub(crate) fn mark_started(record: &mut Record, started: &Started) {
    record.state.status = Status::Running;
    record.state.pid = u32::try_from(started.pid).unwrap_or(0);
    record.state.error.clear();
    record.state.exit_code = 0;
    record.state.oom_killed = false;
    record.state.started_at = Timestamp::from_nanosecond(started.at_ns.into()).ok();
    record.state.finished_at = None;
    record.state.health = crate::health::at_start(&record.config);
}

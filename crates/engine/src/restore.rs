//! Opening the engine: what the records say is brought together with what the kernel has. Only what carries this engine's mark is touched.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use jiff::Timestamp;
use monitor::{Exit, Handle, Program, Reply};
use store::{Options, Store};
use types::Id;
use types::container::Status;

use crate::container::lifecycle::{forget_run, mark_ended, policy_restarts};
use crate::container::start::{StartNote, mark_started};
use crate::container::{Container, Index, Record, lock};
use crate::link::Link;
use crate::{Config, Engine, Error, Layout, event, exec, image, info, log, overlay, spec, standby, stats, userns};

/// The exit code of a container that nobody saw ending: the machine was switched off, say.
const EXIT_CODE_UNKNOWN: i32 = 255;
/// How long the monitor of a container that nobody knows may take to go.
const STRAY_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);
/// The leaf for the engine, its monitors and netd: outside of every container's limits and freezer.
pub(crate) const HOST_LEAF: &str = "host";
/// Between two attempts to reach a monitor that takes no connection at the moment.
const RECONNECT_INTERVAL: std::time::Duration = std::time::Duration::from_millis(100);
/// How long the engine's start waits for monitors that do not answer; they are waited for in the background from then on.
const SILENCE_MAX: std::time::Duration = std::time::Duration::from_secs(5);
/// How long nothing must have happened before memory is given back.
const SHRINK_INTERVAL: std::time::Duration = std::time::Duration::from_secs(5);

impl Engine {
    /// Opens the data root, finds the containers that run, and finishes what a crash interrupted.
    pub async fn open(config: Config) -> Result<Arc<Self>, Error> {
        let engine = tokio::task::spawn_blocking(move || Self::assemble(config)).await??;
        engine.restore().await?;
        tokio::spawn(shrink_when_idle(Arc::downgrade(&engine)));
        Ok(engine)
    }

    /// Ends the engine's work: with no container left running, networks and control groups go too. Containers that run go on.
    pub async fn close(self: &Arc<Self>) {
        if self.containers.all().iter().all(|container| !container.record().is_alive()) {
            self.leave_overlay().await;
        }
        let engine = self.clone();
        let closed = tokio::task::spawn_blocking(move || {
            engine.close_standbys();
            let idle = engine.containers.all().iter().all(|container| !container.record().is_alive());
            if let Err(error) = engine.net.close(idle) {
                tracing::warn!(error = types::error::chain(&error), "the network could not be taken down whole");
            }
            if idle {
                engine.leave_cgroups();
            }
        });
        if let Err(error) = closed.await {
            tracing::warn!(%error, "the engine could not be closed in order");
        }
    }

    fn assemble(config: Config) -> Result<Arc<Self>, Error> {
        let layout = Layout::new(&config);
        for folder in [&config.data_root, &config.exec_root] {
            make_private(folder)?;
        }
        let failed = |operation| move |source| Error::Store { operation, source };
        let cgroups = cgroup::System::detect().map_err(|source| Error::Cgroups { source })?;
        let store = Arc::new(Store::open(Options::new(&config.data_root)).map_err(failed("open the data root"))?);
        let ephemeral = store::Ephemeral::open(&config.exec_root.join("records")).map_err(failed("open the run directory"))?;
        enter_leaf(&cgroups, &layout)?;
        let net = net::Net::open(config.net.clone()).map_err(|source| Error::Net { operation: "set up the network", source })?;
        let monitors = Program::seal(config.monitor_elf).map_err(|source| Error::Link { name: "-".to_owned(), source })?;
        // Two megabytes that are in the memfd now.
        kernel::heap::forget(config.monitor_elf);
        let id = info::engine_id(&store)?;
        let mut registries = config.registries.clone();
        registries.proxies = registries.proxies.or_environment();
        let config = Config { registries: registries.clone(), ..config };
        let events = Arc::new(event::Bus::open(&layout.events()));
        let settings = config.settings.clone();
        // A choice that no container could be made with is told now.
        log::check(&settings.log)?;
        let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
        let overlay =
            config.cluster.as_ref().map(|cluster| overlay::Overlay::open(cluster, &store, &config.exec_root, name)).transpose()?;
        Ok(Arc::new_cyclic(|engine: &std::sync::Weak<Self>| {
            let users = engine.clone();
            let users: image::Users = Arc::new(move |image| users.upgrade().map(|engine| engine.users_of(image)).unwrap_or_default());
            Self {
                images: image::Images::new(store.clone(), registries, users).announcing(events.clone()),
                config,
                layout,
                id,
                cgroups: Arc::new(cgroups),
                store,
                ephemeral,
                net: Arc::new(net),
                overlay,
                monitors,
                containers: Index::default(),
                execs: exec::Execs::default(),
                events: events.clone(),
                stats: stats::Sampler::default(),
                seccomp: spec::SeccompCache::default(),
                settings: std::sync::RwLock::new(settings),
                builder: crate::build::Builder::default(),
                standbys: standby::Pool::default(),
                ranges: userns::Ranges::default(),
                network_lock: tokio::sync::Mutex::new(()),
                volume_lock: tokio::sync::Mutex::new(()),
            }
        }))
    }

    async fn restore(self: &Arc<Self>) -> Result<(), Error> {
        let engine = self.clone();
        let records = tokio::task::spawn_blocking(move || engine.load()).await??;
        let mut containers = Vec::new();
        for mut record in records {
            // Killed before the start's outcome was recorded: the container may run all the same.
            if !record.is_alive()
                && let Some(note) = StartNote::read(&self.layout.start_note(&record.id))
            {
                note.apply(&mut record);
            }
            let container = Arc::new(Container::new(record));
            match self.containers.restore(container.clone()) {
                Ok(()) => containers.push(container),
                Err(error) => tracing::error!(error = types::error::chain(&error), "a container is left out"),
            }
        }
        self.remove_unrecorded(&containers).await?;
        // Endpoints first: an address must be taken before anything new can ask for one.
        // Those that run come before those whose end was not written down: what an ended one has given back may be another's by now.
        let mut holders: Vec<_> = containers.iter().map(|container| container.record()).collect();
        holders.sort_by_cached_key(|record| self.seems_ended(&record.id));
        let endpoints: Vec<_> = holders.iter().flat_map(|record| record.endpoints.clone()).collect();
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            engine.restore_networks()?;
            engine.net.restore(endpoints);
            Ok::<_, Error>(())
        })
        .await??;
        // Side by side: a monitor that takes its time holds nobody else up.
        let restored: Vec<_> = containers.iter().map(|container| tokio::spawn(self.clone().restore_one(container.clone()))).collect();
        let mut wanted = Vec::new();
        for (container, restored) in containers.iter().zip(restored) {
            if restored.await? {
                wanted.push(container.clone());
            }
        }
        let net = self.net.clone();
        if let Err(error) = tokio::task::spawn_blocking(move || net.reconcile()).await? {
            tracing::warn!(error = types::error::chain(&error), "leftovers of the network could not be removed");
        }
        self.follow_overlay();
        for container in wanted {
            tokio::spawn(self.clone().resume_policy(container));
        }
        Ok(())
    }

    /// Whether the run directory tells of an end, or of no run at all.
    fn seems_ended(&self, id: &Id) -> bool {
        let recorded = matches!(monitor::exit_record::read(&self.layout.exit_record(id)), Ok(Some(_)));
        recorded || !self.layout.monitor_socket(id).exists()
    }

    /// Brings one container up to date. True when its policy wants it started.
    async fn restore_one(self: Arc<Self>, container: Arc<Container>) -> bool {
        let status = container.record().state.status;
        if matches!(status, Status::Removing | Status::Dead) {
            self.finish_removal(&container).await;
            return false;
        }
        let (engine, settled) = (self.clone(), container.clone());
        let mut settling = tokio::spawn(async move { engine.settle(&settled).await });
        if let Ok(due) = tokio::time::timeout(SILENCE_MAX, &mut settling).await {
            return due.unwrap_or(false);
        }
        tracing::warn!(container = container.record().name, "its monitor does not answer yet: the engine goes on without it");
        tokio::spawn(async move {
            if let Ok(true) = settling.await {
                self.resume_policy(container).await;
            }
        });
        false
    }

    /// Takes up a container that runs, or settles the end of one that does not. True when its policy wants it started.
    async fn settle(self: &Arc<Self>, container: &Arc<Container>) -> bool {
        let record = container.record();
        if self.reconnect(container).await {
            return false;
        }
        let ended = if record.is_alive() || self.layout.run(&record.id).exists() { self.end_unwatched(container).await } else { None };
        let record = container.record();
        self.drop_cgroup_parent(&record);
        let by_hand = record.stopped_by_hand && record.host.restart_policy.name != "always";
        let due = match ended {
            Some(code) => !record.stopped_by_hand && policy_restarts(&record, code),
            None if record.state.status == Status::Restarting => true,
            // Stopped before the engine was: those that are always to run are started with it.
            None => {
                record.state.status == Status::Exited
                    && matches!(record.host.restart_policy.name.as_str(), "always" | "unless-stopped")
                    && !by_hand
            }
        };
        if !due && record.host.auto_remove && record.state.status != Status::Created {
            self.change(container, |record| record.removes_volumes = true);
            self.finish_removal(container).await;
        }
        due
    }

    /// Finds the monitor of a container and listens to it. False when there is none.
    async fn reconnect(self: &Arc<Self>, container: &Arc<Container>) -> bool {
        let name = container.record().name.clone();
        let socket = self.layout.monitor_socket(&container.id);
        // A monitor that is there is not given up for being slow: what it keeps would be ended. Only where nobody listens is it gone.
        let handle = loop {
            match Handle::connect(&socket) {
                Ok(handle) => break handle,
                Err(error) if error.would_block() => tokio::time::sleep(RECONNECT_INTERVAL).await,
                Err(_) => return false,
            }
        };
        let Ok((link, answer, notices)) = Link::open(name.clone(), handle, self.exec_end()) else { return false };
        let state = match answer.get_at_last().await {
            Ok(Reply::State(state)) => state,
            Ok(other) => {
                tracing::error!(container = name, "the monitor answered its first question with {other:?}");
                return false;
            }
            Err(error) => {
                tracing::error!(container = name, error = types::error::chain(&error), "the monitor cannot be talked to");
                return false;
            }
        };
        let Some(started) = state.started else {
            // Killed in the middle of a start that nobody was told of: it is undone.
            return false;
        };
        *lock(&container.link) = Some(link.clone());
        for (exec, pid) in &state.execs {
            self.execs.restore(exec, &container.id, *pid);
        }
        self.change(container, |record| {
            if record.state.pid != u32::try_from(started.pid).unwrap_or(0) || !record.is_alive() {
                mark_started(record, &started);
            }
            record.state.status = if state.paused { Status::Paused } else { Status::Running };
            record.state.oom_killed |= state.oom_kills > 0;
        });
        self.save_later(container);
        match state.exit {
            Some(exit) => self.finish(container, &link, exit).await,
            None => {
                self.resume_names(container).await;
                tokio::spawn(self.clone().supervise(container.clone(), link, notices));
                self.watch_health(container);
                self.ship_log(container, None);
                self.compress_log(container);
            }
        }
        true
    }

    /// The end of a container that has no monitor any more: from its exit record if it is of this boot, else unknown. Answers the exit code.
    async fn end_unwatched(self: &Arc<Self>, container: &Arc<Container>) -> Option<i32> {
        let was_alive = container.record().is_alive();
        let buried = self.bury(container).await;
        let run = self.layout.run(&container.id);
        let rebooted = !run.exists();
        let _ = tokio::task::spawn_blocking(move || std::fs::remove_dir_all(run)).await;
        let (net, id, endpoints) = (self.net.clone(), container.id.clone(), container.record().endpoints.clone());
        let _ = tokio::task::spawn_blocking(move || crate::sandbox::give_back(&net, &id, &endpoints)).await;
        if !was_alive {
            // A start that was interrupted: the container is as it was before.
            self.change(container, |record| {
                record.state.error.clear();
                forget_run(record);
            });
            return None;
        }
        let exit = if rebooted {
            Exit { code: EXIT_CODE_UNKNOWN, signal: None, oom_killed: false, at_ns: Timestamp::now().as_nanosecond() as i64 }
        } else {
            buried
        };
        self.change(container, |record| {
            if rebooted {
                record.state.error.clear();
            }
            mark_ended(record, &exit);
        });
        self.save_later(container);
        Some(exit.code)
    }

    async fn finish_removal(self: &Arc<Self>, container: &Arc<Container>) {
        let name = container.record().name.clone();
        self.bury(container).await;
        if let Err(error) = self.remove_files(container).await {
            tracing::error!(container = name, error = types::error::chain(&error), "the interrupted removal could not be finished");
        }
    }

    /// Removes folders of containers that have no record: a creation that was interrupted.
    async fn remove_unrecorded(self: &Arc<Self>, containers: &[Arc<Container>]) -> Result<(), Error> {
        let known: HashSet<String> = containers.iter().map(|container| container.id.to_string()).collect();
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let failed = |source| Error::Store { operation: "remove what an interrupted creation left", source };
            for id in engine.store.snapshot_ids().map_err(failed)? {
                if !known.contains(&id) {
                    if let Ok(id) = id.parse() {
                        engine.drop_unrecorded_volumes(&id);
                    }
                    engine.store.remove_snapshot(&id).map_err(failed)?;
                }
            }
            engine.remove_stray_runs(&known);
            Ok(())
        })
        .await?
    }

    /// Run directories and control groups of containers that have no record.
    fn remove_stray_runs(&self, known: &HashSet<String>) {
        let Ok(entries) = std::fs::read_dir(self.layout.run.join("containers")) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let Ok(id) = name.parse::<Id>() else { continue };
            if known.contains(&name) {
                continue;
            }
            let noted = std::fs::read_to_string(self.layout.cgroup_note(&id)).ok().filter(|path| path.ends_with(id.as_str()));
            let path = noted.map_or_else(|| Path::new(&self.layout.cgroup_root).join(id.as_str()), PathBuf::from);
            let group = cgroup::Group::open(&self.cgroups, &path);
            if let Err(error) = group.kill_all().and_then(|()| group.remove()) {
                tracing::warn!(container = name, error = types::error::chain(&error), "a stray control group could not be removed");
            }
            end_monitor(&self.layout.monitor_socket(&id));
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }

    /// Moves out of the engine's own groups and removes them.
    fn leave_cgroups(&self) {
        let root = Path::new(&self.layout.cgroup_root);
        let leaf = cgroup::Group::open(&self.cgroups, &root.join(HOST_LEAF));
        let own = rustix::process::getpid();
        let parent = cgroup::Group::open(&self.cgroups, Path::new(""));
        let left = parent.join(own).and_then(|()| leaf.remove()).and_then(|()| cgroup::Group::open(&self.cgroups, root).remove());
        if let Err(error) = left {
            tracing::debug!(error = types::error::chain(&error), "the engine's control groups stay");
        }
    }

    fn users_of(&self, image: &types::Digest) -> Vec<store::ImageUser> {
        let id = image.to_string();
        let records = self.containers.all().into_iter().map(|container| container.record());
        let uses = |record: &Arc<Record>| record.image_id == id;
        records
            .filter(uses)
            .map(|record| store::ImageUser { container: record.id.to_string(), name: record.name.clone(), running: record.is_alive() })
            .collect()
    }
}

/// Lets a monitor go that nobody knows, once its container has ended. Blocks.
fn end_monitor(socket: &Path) {
    let Ok(handle) = Handle::connect(socket) else { return };
    let kill = monitor::Request::Signal { signal: rustix::process::Signal::KILL.as_raw(), exec: None };
    let mut sent = handle.send(monitor::LAUNCH_ID + 1, kill, &[]);
    let deadline = std::time::Instant::now() + STRAY_TIMEOUT;
    while sent.is_ok() && std::time::Instant::now() < deadline {
        match handle.try_recv() {
            Ok(monitor::Arrival::Closed) | Err(_) => return,
            Ok(monitor::Arrival::Event(monitor::Event::Exited(_))) => {
                sent = handle.send(monitor::LAUNCH_ID + 2, monitor::Request::Ack, &[]);
            }
            Ok(monitor::Arrival::Reply(0, Reply::State(state))) if state.exit.is_some() => {
                sent = handle.send(monitor::LAUNCH_ID + 2, monitor::Request::Ack, &[]);
            }
            Ok(monitor::Arrival::Empty) => {
                let wait = rustix::time::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
                // A wait that is cut short only looks again.
                let _ = rustix::event::poll(&mut [rustix::event::PollFd::new(&handle, rustix::event::PollFlags::IN)], Some(&wait));
            }
            Ok(_) => {}
        }
    }
}

/// Gives memory back to the kernel after a burst of work, once it is over.
async fn shrink_when_idle(engine: std::sync::Weak<Engine>) {
    let mut shrunk = None;
    loop {
        tokio::time::sleep(SHRINK_INTERVAL).await;
        let Some(latest) = engine.upgrade().map(|engine| engine.events.latest()) else { return };
        if latest > shrunk && latest.is_some_and(|latest| Timestamp::now().duration_since(latest).unsigned_abs() >= SHRINK_INTERVAL) {
            let _ = tokio::task::spawn_blocking(kernel::heap::trim).await;
            shrunk = latest;
        }
    }
}

/// Moves the engine into its leaf, which everything that it starts inherits.
fn enter_leaf(cgroups: &cgroup::System, layout: &Layout) -> Result<(), Error> {
    let leaf = Path::new(&layout.cgroup_root).join(HOST_LEAF);
    let group = cgroup::Group::create(cgroups, &leaf).map_err(|source| Error::Cgroups { source })?;
    group.join(rustix::process::getpid()).map_err(|source| Error::Cgroups { source })
}

/// A folder that only its owner reads.
fn make_private(folder: &Path) -> Result<(), Error> {
    use std::os::unix::fs::DirBuilderExt;
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o711).create(folder);
    made.map_err(|source| Error::File { operation: "make the folder", path: folder.to_owned(), source })
}

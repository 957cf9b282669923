//! Making a container: everything that can be refused is refused here, and a failure leaves nothing behind.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use store::Image;
use types::container::{HostConfig, Secret, State};
use types::{Id, Platform};

use super::{Container, Record, lock};
use crate::mounts::Planned;
use crate::request::{CreateContainer, Created};
use crate::standby::Standby;
use crate::trace::Trace;
use crate::{Engine, Error, merge, mounts, name, sandbox, secrets, spec};

/// How often a made-up name is tried; the later ones carry a number of many digits.
const NAME_ATTEMPTS: u32 = 10;

impl Engine {
    /// Makes a container of an image that is there.
    pub async fn create_container(self: &Arc<Self>, request: CreateContainer) -> Result<Created, Error> {
        let image = self.store.resolve(&request.request.config.image).map_err(Error::NoImage)?;
        check_platform(&request, &image)?;
        let secrets = request.request.secrets.clone();
        secrets::validate(&secrets)?;
        let mut trace = Trace::default();
        trace.done("engine: asked to make the container");
        let (mut record, mut warnings, standby) = self.draft(request, &image)?;
        if !secrets.is_empty() && self.runtime(&record.host.runtime)?.is_some() {
            return Err(Error::NotServed { field: "Secrets with a runtime other than the engine's own".to_owned() });
        }
        warnings.extend(sandbox::validate(&record.config, &record.host)?);
        self.check_joined(&record)?;
        let lease = self.lease_name(&mut record)?;

        let in_use = self.volume_lock.lock().await;
        let engine = self.clone();
        let record = tokio::task::spawn_blocking(move || engine.provide(record, &image, &secrets)).await??;
        trace.done(if standby.is_some() { "engine: layer and volumes made, a standby bound" } else { "engine: layer and volumes made" });
        let container = Arc::new(Container::new(record));
        *lock(&container.trace) = trace;
        if standby.is_some() {
            *lock(&container.standby) = standby;
            self.watch_bound(&container);
        }
        if let Err(error) = self.save(&container).await {
            self.withdraw(&container.record()).await;
            return Err(error);
        }
        lock(&container.trace).done("engine: container recorded");
        self.containers.insert(container.clone(), lease);
        // From here on the container itself is found when somebody asks who uses the volumes.
        drop(in_use);
        let record = container.record();
        self.events.publish("container", "create", record.id.as_str(), record.attributes());
        Ok(Created { id: record.id.clone(), warnings })
    }

    /// The record of a request: merged with the image, with defaults filled in, and checked.
    fn draft(&self, request: CreateContainer, image: &Image) -> Result<(Record, Vec<String>, Option<Standby>), Error> {
        let not_served = request.request.not_served();
        if !not_served.is_empty() {
            return Err(Error::NotServed { field: not_served.join(", ") });
        }
        let (mut config, mut host, networking) = (request.request.config, request.request.host, request.request.networking);
        if host.runtime.is_empty() {
            host.runtime.clone_from(&self.config.sandbox.default_runtime);
        }
        self.default_log(&mut host);
        host.fill_defaults(self.cgroups.mode() == cgroup::Mode::V2);
        let networking = self.canonical_networks(&config.mac_address, &host, networking)?;
        merge::merge(&mut config, image.config.config.as_ref().unwrap_or(&Default::default()));
        config.labels.give();
        let standby = if self.runtime(&host.runtime)?.is_none() { self.bind_standby(&host, &networking) } else { None };
        let id = standby.as_ref().and_then(Standby::id).unwrap_or_else(Id::random);
        if config.hostname.is_empty() {
            config.hostname = match sandbox::Mode::parse(&host) {
                sandbox::Mode::Host => rustix::system::uname().nodename().to_string_lossy().into_owned(),
                sandbox::Mode::Container(target) => self.find(&target)?.record().config.hostname.clone(),
                _ => id.short().to_owned(),
            };
        }
        spec::validate(&config, &host)?;
        crate::cdi::resolve(&self.config.sandbox.cdi_directories, &host.device_requests)?;
        let id_range = self.choose_ids(&host)?;
        let warnings = self.fit_limits(&mut host)?;
        let (path, args) = merge::command(&config).ok_or_else(|| Error::NoCommand { image: config.image.clone() })?;
        let planned_mounts = mounts::plan(&config, &host, self.inherited_mounts(&host)?)?;
        let networks = match sandbox::Mode::parse(&host) {
            sandbox::Mode::Network(_) => networking.endpoints_config.clone().into_map(),
            _ => BTreeMap::new(),
        };
        let record = Record {
            id,
            name: request.name.map(|name| name.strip_prefix('/').unwrap_or(&name).to_owned()).unwrap_or_default(),
            created: Timestamp::now(),
            image: config.image.clone(),
            image_id: image.id.to_string(),
            platform: image.config.os.clone(),
            path,
            args,
            config,
            host,
            networking,
            mounts: Vec::new(),
            planned_mounts,
            state: State::default(),
            exits: 0,
            networks,
            ports: Default::default(),
            endpoints: Vec::new(),
            sandbox_id: None,
            id_range,
            restart_count: 0,
            stopped_by_hand: false,
            secrets: 0,
            removes_volumes: false,
        };
        self.log_plan(&record)?;
        Ok((record, warnings, standby))
    }

    /// Fills in the engine's own choice of a log for who makes none; its options go with its driver.
    fn default_log(&self, host: &mut HostConfig) {
        let (asked, own) = (&mut host.log_config, self.settings().log);
        if asked.kind.is_empty() {
            asked.kind.clone_from(&own.kind);
        }
        if asked.kind == own.kind {
            for (name, value) in own.config.iter() {
                if !asked.config.contains_key(name) {
                    asked.config.insert(name.clone(), value.clone());
                }
            }
        }
    }

    /// The mounts of the containers that `--volumes-from` names, of which the first counts where several have the same place.
    fn inherited_mounts(&self, host: &HostConfig) -> Result<Vec<Planned>, Error> {
        let mut mounts = Vec::new();
        for text in host.volumes_from.iter() {
            let (name, mode) = text.split_once(':').unwrap_or((text, ""));
            let bad = |reason: &str| Error::BadField { field: "VolumesFrom", value: text.clone(), reason: reason.to_owned() };
            if name.is_empty() {
                return Err(bad("NAME[:ro] is expected"));
            }
            let read_only = match mode {
                "" | "rw" | "z" | "Z" => false,
                "ro" => true,
                _ => return Err(bad("use ro or rw after the name")),
            };
            let record = self.find(name)?.record();
            mounts.extend(record.planned_mounts.iter().filter(|mount| !mount.hidden).map(|mount| mount.clone().shared(read_only)));
        }
        Ok(mounts)
    }

    /// A container whose namespaces are to be joined must exist; whether it runs matters at the start.
    fn check_joined(&self, record: &Record) -> Result<(), Error> {
        for mode in [&record.host.network_mode, &record.host.ipc_mode, &record.host.pid_mode] {
            if let Some(target) = mode.strip_prefix("container:") {
                self.find(target).map_err(|error| Error::JoinTarget { target: target.to_owned(), reason: error.to_string() })?;
            }
        }
        Ok(())
    }

    /// Takes the name asked for, or a made-up one that is free.
    fn lease_name(&self, record: &mut Record) -> Result<super::index::NameLease<'_>, Error> {
        if !record.name.is_empty() {
            if !name::is_valid(&record.name) {
                return Err(Error::BadName { name: record.name.clone() });
            }
            return self.containers.reserve(&record.name, &record.id);
        }
        let mut attempt = 0;
        loop {
            let made_up = name::made_up(attempt);
            match self.containers.reserve(&made_up, &record.id) {
                Ok(lease) => {
                    record.name = made_up;
                    return Ok(lease);
                }
                Err(error) if attempt >= NAME_ATTEMPTS => return Err(error),
                Err(_) => attempt += 1,
            }
        }
    }

    /// Makes the read/write layer and the volumes. On failure the layer is gone again, and the anonymous volumes with it. Blocks.
    fn provide(&self, mut record: Record, image: &Image, secrets: &[Secret]) -> Result<Record, Error> {
        let failed = |operation| move |source| Error::Store { operation, source };
        let snapshot = self.store.create_snapshot(record.id.as_str(), image).map_err(failed("make the container's read/write layer"))?;
        record.secrets = secrets.len();
        let kept = secrets::keep(&self.layout.secrets(&record.id), secrets);
        let Err(error) = kept.and_then(|()| self.provide_volumes(&mut record, &snapshot.lower)) else { return Ok(record) };
        for (name, _) in record.volumes().filter(|(name, anonymous)| *anonymous && !name.is_empty()) {
            let _ = self.store.remove_volume(name);
        }
        let _ = self.store.remove_snapshot(record.id.as_str());
        Err(error)
    }

    /// Takes back what [`Engine::provide`] made.
    async fn withdraw(self: &Arc<Self>, record: &Record) {
        let (store, id) = (self.store.clone(), record.id.clone());
        let volumes: Vec<String> = record.volumes().filter(|(_, anonymous)| *anonymous).map(|(name, _)| name.to_owned()).collect();
        let taken_back = tokio::task::spawn_blocking(move || {
            for name in volumes {
                let _ = store.remove_volume(&name);
            }
            store.remove_snapshot(id.as_str())
        });
        if !matches!(taken_back.await, Ok(Ok(()))) {
            tracing::warn!(container = record.name, "the layer of a container that was not made could not be removed");
        }
    }
}

/// A container runs on this machine's processor or not at all.
fn check_platform(request: &CreateContainer, image: &Image) -> Result<(), Error> {
    let machine = Platform::host();
    let own = image.config.platform();
    let wrong = |image_platform: String| {
        Err(Error::WrongPlatform { image: request.request.config.image.clone(), image_platform, machine: machine.to_string() })
    };
    if let Some(wanted) = &request.platform {
        let wanted: Platform = wanted.parse().map_err(|error: types::platform::InvalidPlatform| Error::BadField {
            field: "platform",
            value: wanted.clone(),
            reason: error.to_string(),
        })?;
        if wanted.os != own.os || wanted.architecture != own.architecture {
            return wrong(own.to_string());
        }
    }
    if own.os != machine.os || own.architecture != machine.architecture {
        return wrong(own.to_string());
    }
    Ok(())
}

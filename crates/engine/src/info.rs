//! What the engine is and has, and what takes how much space.

use std::sync::Arc;

use store::{Records, Usage};
use types::container::Status;

use crate::request::{ContainerSize, Info, Limits};
use crate::{Engine, Error, host};

/// Everything that takes space below the data root.
#[derive(Debug, Clone)]
pub struct DiskUsage {
    /// Of images, layers and volumes.
    pub store: Usage,
    /// Containers with their sizes.
    pub containers: Vec<crate::request::ContainerView>,
}

impl Engine {
    /// What the engine is and has.
    pub async fn info(self: &Arc<Self>) -> Result<Info, Error> {
        let engine = self.clone();
        Ok(tokio::task::spawn_blocking(move || engine.describe_host()).await?)
    }

    /// What takes how much space.
    pub async fn disk_usage(self: &Arc<Self>) -> Result<DiskUsage, Error> {
        let store = self.store.clone();
        let usage = tokio::task::spawn_blocking(move || store.usage()).await?;
        let usage = usage.map_err(|source| Error::Store { operation: "measure what is stored", source })?;
        let all = crate::request::ListContainers { all: true, size: true, ..Default::default() };
        Ok(DiskUsage { store: usage, containers: self.list_containers(all).await? })
    }

    /// The bytes of a container's read/write layer and of its whole root. Blocks.
    pub(crate) fn measure(&self, record: &crate::container::Record) -> Result<ContainerSize, store::Error> {
        let rw = self.store.snapshot_size(record.id.as_str())?;
        let image = self.store.resolve(&record.image_id).map(|image| image.size()).unwrap_or(0);
        Ok(ContainerSize { rw, root_fs: rw + image })
    }

    fn describe_host(&self) -> Info {
        let uname = rustix::system::uname();
        let count =
            |wanted: &[Status]| self.containers.all().iter().filter(|container| wanted.contains(&container.record().state.status)).count();
        let containers = (
            count(&[Status::Running, Status::Restarting]),
            count(&[Status::Paused]),
            count(&[Status::Created, Status::Exited, Status::Dead, Status::Removing]),
        );
        let has = |controller: &str| self.cgroups.controller(controller).is_some();
        let limits = Limits {
            memory: has("memory"),
            swap: has("memory") && self.limits_swap(),
            cpu_cfs: has("cpu"),
            cpu_shares: has("cpu"),
            cpuset: has("cpuset"),
            pids: has("pids"),
            oom_kill_disable: has("memory") && self.cgroups.mode() != cgroup::Mode::V2,
        };
        let registries = &self.config.registries;
        let proxies = [&registries.proxies.http, &registries.proxies.https, &registries.proxies.none];
        Info {
            id: self.id.clone(),
            containers,
            images: self.store.images().len(),
            name: uname.nodename().to_string_lossy().into_owned(),
            kernel_version: uname.release().to_string_lossy().into_owned(),
            operating_system: host::os_release("PRETTY_NAME").unwrap_or_else(|| "Linux".to_owned()),
            os_version: host::os_release("VERSION_ID").unwrap_or_default(),
            cpus: host::cpus(),
            memory_total: host::memory_total(),
            cgroup_version: if self.cgroups.mode() == cgroup::Mode::V2 { 2 } else { 1 },
            warnings: self.warnings(&limits),
            limits,
            data_root: self.config.data_root.to_string_lossy().into_owned(),
            backing_filesystem: host::filesystem(&self.config.data_root),
            open_files: std::fs::read_dir("/proc/self/fd").map_or(0, Iterator::count),
            event_listeners: self.events.listeners(),
            runtimes: self.runtimes(),
            default_runtime: match self.config.sandbox.default_runtime.as_str() {
                "" => types::container::defaults::RUNTIME.to_owned(),
                name => name.to_owned(),
            },
            cdi_directories: self.config.sandbox.cdi_directories.iter().map(|path| path.display().to_string()).collect(),
            remapped: self.config.sandbox.remap.is_some(),
            address_pools: self.config.net.pools.iter().map(|pool| (pool.base.to_string(), pool.size)).collect(),
            proxies: proxies.map(|proxy| proxy.clone().unwrap_or_default()),
            insecure_registries: registries.insecure.clone(),
            mirrors: registries.mirrors.clone(),
            log_drivers: crate::log::DRIVERS.iter().map(|(name, _)| *name).collect(),
            log_driver: self.settings().log.kind,
            labels: self.settings().labels,
            ipv4_forwarding: std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward").is_ok_and(|text| text.trim() == "1"),
        }
    }

    fn warnings(&self, limits: &Limits) -> Vec<String> {
        let lacking = [
            (limits.memory, "memory"),
            (limits.swap, "swap"),
            (limits.cpu_cfs, "processors"),
            (limits.cpuset, "a choice of processors"),
            (limits.pids, "processes"),
        ];
        let lacking = lacking.into_iter().filter(|(has, _)| !has).map(|(_, what)| format!("WARNING: This kernel keeps no limit of {what}"));
        lacking.chain(self.net.warnings().into_iter().map(|text| format!("WARNING: {text}"))).collect()
    }
}

/// The engine's own identifier: made once, kept with the data.
pub(crate) fn engine_id(store: &store::Store) -> Result<String, Error> {
    const KIND: &str = "engine";
    let failed = |source| Error::Store { operation: "read the engine's identifier", source };
    if let Some(id) = store.db().get::<String>(KIND, "id").map_err(failed)? {
        return Ok(id);
    }
    let id = types::Id::random();
    let text = id.as_str();
    // The form of a UUID, which is what clients show.
    let uuid = [&text[0..8], &text[8..12], &text[12..16], &text[16..20], &text[20..32]].join("-");
    store.db().put(KIND, "id", &uuid).map_err(failed)?;
    Ok(uuid)
}

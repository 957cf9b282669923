//! Changing a container that exists: its name, its limits, its restart policy.

use std::sync::Arc;

use monitor::Request;
use types::container::{HostConfig, Status, UpdateRequest};

use super::Record;
use crate::{Engine, Error, name, resources};

impl Engine {
    /// Gives a container another name.
    pub async fn rename_container(self: &Arc<Self>, old: &str, new: &str) -> Result<(), Error> {
        let new = new.strip_prefix('/').unwrap_or(new);
        if old.is_empty() || new.is_empty() {
            return Err(Error::EmptyName);
        }
        if !name::is_valid(new) {
            return Err(Error::BadName { name: new.to_owned() });
        }
        let container = self.find(old)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        if record.name == new {
            return Err(Error::SameName { name: new.to_owned() });
        }
        self.containers.rename(&record.id, &record.name, new)?;
        self.change(&container, |changed| renamed(changed, &record.name, new));
        if let Err(error) = self.save(&container).await {
            // Nobody took the old name in between: it is given back by the same lock that took it.
            self.change(&container, |changed| renamed(changed, new, &record.name));
            let _ = self.containers.rename(&record.id, new, &record.name);
            return Err(error);
        }
        self.net.rename(&record.id, new);
        let record_now = container.record();
        let mut attributes = record_now.attributes();
        attributes.insert("oldName".to_owned(), format!("/{}", record.name));
        self.events.publish("container", "rename", record.id.as_str(), attributes);
        Ok(())
    }

    /// Changes limits and the restart policy. Answers what could not be done as wished.
    pub async fn update_container(self: &Arc<Self>, name: &str, request: UpdateRequest) -> Result<Vec<String>, Error> {
        let not_served = request.not_served();
        if !not_served.is_empty() {
            return Err(Error::NotServed { field: not_served.join(", ") });
        }
        let container = self.find(name)?;
        let _operation = container.operation.lock().await;
        let record = container.record();
        if matches!(record.state.status, Status::Removing | Status::Dead) {
            return Err(Error::BeingRemoved { name: record.name.clone() });
        }
        let mut host = record.host.clone();
        refuse_fixed(&request.resources)?;
        merge(&mut host, &request)?;
        crate::spec::validate(&record.config, &host)?;
        let warnings = self.fit_limits(&mut host)?;
        if record.is_alive()
            && let Some(link) = container.link()
        {
            let resources = Box::new(resources::limits(&host)?);
            link.order(Request::Update { resources }, &[]).await?;
        }
        self.change(&container, |record| record.host = host);
        self.save(&container).await?;
        self.publish(&container, "update");
        Ok(warnings)
    }
}

/// The name, and where networks know the container by it.
fn renamed(record: &mut Record, old: &str, new: &str) {
    new.clone_into(&mut record.name);
    let known = record.endpoints.iter_mut().filter_map(|endpoint| {
        new.clone_into(&mut endpoint.owner);
        endpoint.names.first_mut()
    });
    let shown = record.networks.values_mut().filter_map(|settings| settings.dns_names.first_mut());
    known.chain(shown).filter(|name| *name == old).for_each(|name| new.clone_into(name));
}

/// Takes over what the request sets; zero and empty mean unchanged.
fn merge(host: &mut HostConfig, request: &UpdateRequest) -> Result<(), Error> {
    let new = &request.resources;
    // A share of processors replaces quota and period, and the other way round.
    if new.nano_cpus != 0 {
        (host.cpu_quota, host.cpu_period) = (0, 0);
    }
    if new.cpu_quota != 0 || new.cpu_period != 0 {
        host.nano_cpus = 0;
    }
    for (held, given) in [
        (&mut host.cpu_shares, new.cpu_shares),
        (&mut host.nano_cpus, new.nano_cpus),
        (&mut host.cpu_quota, new.cpu_quota),
        (&mut host.cpu_period, new.cpu_period),
        (&mut host.memory_reservation, new.memory_reservation),
        (&mut host.cpu_realtime_period, new.cpu_realtime_period),
        (&mut host.cpu_realtime_runtime, new.cpu_realtime_runtime),
        (&mut host.kernel_memory, new.kernel_memory),
        (&mut host.kernel_memory_tcp, new.kernel_memory_tcp),
    ] {
        if given != 0 {
            *held = given;
        }
    }
    if new.memory != 0 {
        if host.memory_swap > 0 && new.memory > host.memory_swap && new.memory_swap == 0 {
            return Err(Error::BadField {
                field: "Memory",
                value: new.memory.to_string(),
                reason: "Memory limit should be smaller than already set memoryswap limit, update the memoryswap at the same time"
                    .to_owned(),
            });
        }
        host.memory = new.memory;
    }
    if new.memory_swap != 0 {
        host.memory_swap = new.memory_swap;
    }
    for (held, given) in [(&mut host.cpuset_cpus, &new.cpuset_cpus), (&mut host.cpuset_mems, &new.cpuset_mems)] {
        if !given.is_empty() {
            held.clone_from(given);
        }
    }
    merge_block_io(host, new);
    if new.memory_swappiness.is_some_and(|value| value != -1) {
        host.memory_swappiness = new.memory_swappiness;
    }
    if new.oom_kill_disable == Some(true) {
        host.oom_kill_disable = new.oom_kill_disable;
    }
    if new.pids_limit.is_some() {
        host.pids_limit = new.pids_limit;
    }
    if let Some(policy) = &request.restart_policy {
        host.restart_policy.clone_from(policy);
    }
    Ok(())
}

fn merge_block_io(host: &mut HostConfig, new: &HostConfig) {
    if new.blkio_weight != 0 {
        host.blkio_weight = new.blkio_weight;
    }
    if !new.blkio_weight_device.is_empty() {
        host.blkio_weight_device.clone_from(&new.blkio_weight_device);
    }
    for (held, given) in [
        (&mut host.blkio_device_read_bps, &new.blkio_device_read_bps),
        (&mut host.blkio_device_write_bps, &new.blkio_device_write_bps),
        (&mut host.blkio_device_read_iops, &new.blkio_device_read_iops),
        (&mut host.blkio_device_write_iops, &new.blkio_device_write_iops),
    ] {
        if !given.is_empty() {
            held.clone_from(given);
        }
    }
}

/// What is part of a container from its beginning.
fn refuse_fixed(new: &HostConfig) -> Result<(), Error> {
    let asked = [
        (!new.cgroup_parent.is_empty(), "CgroupParent"),
        (!new.devices.is_empty(), "Devices"),
        (!new.device_cgroup_rules.is_empty(), "DeviceCgroupRules"),
        (!new.device_requests.is_empty(), "DeviceRequests"),
        (!new.ulimits.is_empty(), "Ulimits"),
    ];
    match asked.into_iter().find(|(asked, _)| *asked) {
        Some((_, field)) => Err(crate::sandbox::bad(field, "", "it cannot be changed after the container was made")),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_means_unchanged() {
        let mut host = HostConfig { memory: 64 << 20, memory_swap: 64 << 20, cpu_quota: 5000, ..HostConfig::default() };
        let mut request = UpdateRequest::default();
        merge(&mut host, &request).expect("nothing to do");
        assert_eq!((host.memory, host.cpu_quota), (64 << 20, 5000));
        request.resources.memory = 96 << 20;
        assert!(merge(&mut host, &request).is_err());
        request.resources.memory_swap = 96 << 20;
        request.resources.nano_cpus = 500_000_000;
        merge(&mut host, &request).expect("both");
        assert_eq!((host.memory, host.memory_swap, host.cpu_quota), (96 << 20, 96 << 20, 0));
    }
}

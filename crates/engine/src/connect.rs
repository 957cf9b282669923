//! Connecting containers to networks, and disconnecting them, while they run and while they don't.

use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::sync::Arc;

use net::{Endpoint, Netns};
use types::container::{EndpointSettings, Status};

use crate::container::{Container, Record};
use crate::endpoints::{self, Join, Routes};
use crate::sandbox::{self, Mode};
use crate::{Engine, Error};

/// Files of a container that name hosts are read up to this length.
const FILE_LEN_MAX: u64 = 1 << 20;

impl Engine {
    /// Puts a container on one more network: at once if it runs, and at each start.
    pub async fn connect_network(self: &Arc<Self>, network: &str, container: &str, asked: EndpointSettings) -> Result<(), Error> {
        let network = self.network(network)?;
        let container = self.find(container)?;
        let _operation = container.operation.lock().await;
        // No end of a run is settled meanwhile: it would not give back what is added now.
        let settling = container.settling.lock().await;
        let record = container.record();
        connectable(&record, &network)?;
        let asked = endpoints::only_asked(asked);
        self.check_endpoint(&network, &asked)?;
        let join = Join { network: network.clone(), asked: asked.clone() };
        let shown = if record.is_alive() {
            if record.networks.contains_key(&network.name) {
                return Err(Error::AlreadyConnected { container: record.name.clone(), network: network.name.clone() });
            }
            let (engine, record) = (self.clone(), record.clone());
            Some(tokio::task::spawn_blocking(move || engine.add_endpoint(&record, &join)).await??)
        } else {
            None
        };
        let alive = shown.is_some();
        self.change(&container, |record| {
            record.remember_default();
            record.networking.endpoints_config.insert(network.name.clone(), asked.clone());
            match shown {
                Some((settings, endpoints)) => {
                    record.networks.insert(network.name.clone(), settings);
                    record.endpoints = endpoints;
                    record.ports = sandbox::observed_ports(&record.config, &record.endpoints);
                }
                None => _ = record.networks.insert(network.name.clone(), asked),
            }
        });
        drop(settling);
        self.finish_change(&container).await?;
        if alive {
            self.network_event(&network, "connect", Some(&record.id));
        }
        Ok(())
    }

    /// Takes a container off a network. With `force` it does not matter whether it is on it.
    pub async fn disconnect_network(self: &Arc<Self>, network: &str, container: &str, force: bool) -> Result<(), Error> {
        let network = self.network(network)?;
        let container = self.find(container)?;
        let _operation = container.operation.lock().await;
        let settling = container.settling.lock().await;
        let record = container.record();
        connectable(&record, &network)?;
        if !record.networks.contains_key(&network.name) {
            let error = Error::NotConnected { id: record.id.clone(), network: network.name.clone() };
            return if force { Ok(()) } else { Err(error) };
        }
        let left = if record.is_alive() {
            let (engine, record, network) = (self.clone(), record.clone(), network.clone());
            Some(tokio::task::spawn_blocking(move || engine.remove_endpoint(&record, &network)).await??)
        } else {
            None
        };
        let alive = left.is_some();
        self.change(&container, |record| {
            record.remember_default();
            record.networking.endpoints_config.remove(&network.name);
            record.networks.remove(&network.name);
            if let Some(endpoints) = left {
                record.endpoints = endpoints;
                record.ports = sandbox::observed_ports(&record.config, &record.endpoints);
            }
        });
        drop(settling);
        self.finish_change(&container).await?;
        if alive {
            self.network_event(&network, "disconnect", Some(&record.id));
        }
        Ok(())
    }

    /// Has a container that goes on through a restart of the engine find names again.
    pub(crate) async fn resume_names(self: &Arc<Self>, container: &Arc<Container>) {
        let record = container.record();
        if record.endpoints.iter().all(|endpoint| endpoint.names.is_empty()) {
            return;
        }
        let (engine, record) = (self.clone(), record.clone());
        let resumed = tokio::task::spawn_blocking(move || {
            let netns = engine.netns_of(&record)?;
            engine.serve_names(&record, &netns)
        });
        if let Ok(Err(error)) = resumed.await {
            tracing::error!(
                container = container.record().name,
                error = types::error::chain(&error),
                "names are not served to the container"
            );
        }
    }

    async fn finish_change(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let record = container.record();
        // An engine that is killed before the record is written finds the endpoints in the note.
        if record.is_alive() {
            self.renote_start(&record)?;
        }
        self.save(container).await
    }

    /// Blocks.
    fn add_endpoint(&self, record: &Record, join: &Join) -> Result<(EndpointSettings, Vec<Endpoint>), Error> {
        let netns = self.netns_of(record)?;
        let ifname = endpoints::ifname(join, &record.endpoints)?;
        // Where the default routes lead is arranged below, when all is known.
        let request = endpoints::request(record, join, ifname, Routes::default())?;
        let endpoint = self.plug(&netns, record, &join.network, request)?;
        let settings = endpoints::settings(record, join, &endpoint);
        let mut all = record.endpoints.clone();
        all.push(endpoint.clone());
        let mut after = record.clone();
        after.endpoints.clone_from(&all);
        after.networking.endpoints_config.insert(join.network.name.clone(), join.asked.clone());
        let arranged = self.arrange(&after, &netns).and_then(|endpoints| {
            add_to_hosts(&self.layout.container(&record.id).join("hosts"), &endpoint, &sandbox::own_names(record))?;
            Ok(endpoints)
        });
        match arranged {
            Ok(endpoints) => Ok((settings, endpoints)),
            Err(error) => {
                let _ = self.net.detach(&netns, &endpoint);
                let _ = self.net.refresh_names(&record.id);
                Err(error)
            }
        }
    }

    /// Blocks.
    fn remove_endpoint(&self, record: &Record, network: &net::Network) -> Result<Vec<Endpoint>, Error> {
        let Some(endpoint) = record.endpoints.iter().find(|endpoint| endpoint.network == network.id) else {
            return Ok(record.endpoints.clone());
        };
        let netns = self.netns_of(record)?;
        self.net.detach(&netns, endpoint).map_err(Error::Network)?;
        remove_from_hosts(&self.layout.container(&record.id).join("hosts"), endpoint)?;
        let mut after = record.clone();
        after.endpoints.retain(|other| other.id != endpoint.id);
        after.networking.endpoints_config.remove(&network.name);
        self.arrange(&after, &netns)
    }

    /// After a change of a running container's networks: default route, published ports and names are where they belong.
    fn arrange(&self, record: &Record, netns: &Netns) -> Result<Vec<Endpoint>, Error> {
        let mut endpoints = record.endpoints.clone();
        let networks: Vec<_> = self.net.networks();
        let known: Vec<_> = endpoints
            .iter()
            .filter_map(|endpoint| {
                let network = networks.iter().find(|network| network.id == endpoint.network)?;
                let asked = record.networking.endpoints_config.get(&network.name);
                Some((&**network, asked.map_or(0, |asked| asked.gw_priority)))
            })
            .collect();
        let gateways = endpoints::gateways(&known);
        for (gateway, ipv6) in [(&gateways.v4, false), (&gateways.v6, true)] {
            if let Some(endpoint) = endpoints.iter().find(|endpoint| Some(&endpoint.network) == gateway.as_ref()) {
                self.net.set_default_route(netns, endpoint, ipv6).map_err(Error::Network)?;
            }
        }
        let published = endpoints.iter().any(|endpoint| !endpoint.bindings.is_empty());
        if let Some(endpoint) = endpoints.iter_mut().find(|endpoint| Some(&endpoint.network) == gateways.publishing())
            && !published
            && !endpoint.host_ifname.is_empty()
        {
            let requests = self.port_requests_on(&endpoint.network, record)?;
            self.net.publish(endpoint, &requests).map_err(Error::Network)?;
        }
        if endpoints.iter().any(|endpoint| !endpoint.names.is_empty()) {
            let path = self.layout.container(&record.id).join("resolv.conf");
            let mode = Mode::parse(&record.host);
            // Of a container that found no names so far; what somebody wrote into the file stays.
            let before = self.resolv_conf(record, &mode, false)?;
            if std::fs::read_to_string(&path).is_ok_and(|text| text == before) {
                let after = self.resolv_conf(record, &mode, true)?;
                std::fs::write(&path, after).map_err(|source| Error::File { operation: "write", path, source })?;
            }
            self.serve_names(record, netns)?;
        } else {
            self.net.refresh_names(&record.id).map_err(Error::Network)?;
        }
        Ok(endpoints)
    }

    fn serve_names(&self, record: &Record, netns: &Netns) -> Result<(), Error> {
        let joins = self.joins(record)?;
        let resolving = self.resolving(record, &joins)?;
        self.net.serve_names(netns, &record.id, resolving).map_err(Error::Network)
    }

    fn netns_of(&self, record: &Record) -> Result<Netns, Error> {
        let container = self.containers.get(&record.id).ok_or_else(|| Error::NoSuchContainer { name: record.name.clone() })?;
        Netns::from_fd(sandbox::namespace(&container, "net")?).map_err(Error::Network)
    }
}

/// Refuses containers that have no place in networks of their own, and networks that have no places.
fn connectable(record: &Record, network: &net::Network) -> Result<(), Error> {
    let reason = match Mode::parse(&record.host) {
        _ if matches!(record.state.status, Status::Removing | Status::Dead) => {
            return Err(Error::BeingRemoved { name: record.name.clone() });
        }
        Mode::Host => "container cannot be disconnected from host network or connected to host network",
        Mode::Container(_) => "container sharing network namespace with another container or host cannot be connected to any other network",
        Mode::None => "container cannot be connected to multiple networks with one of the networks in private (none) mode",
        Mode::Network(_) if network.driver == net::Driver::Host => {
            "container cannot be disconnected from host network or connected to host network"
        }
        Mode::Network(_) if network.driver == net::Driver::None => {
            "container cannot be connected to multiple networks with one of the networks in private (none) mode"
        }
        Mode::Network(_) => return Ok(()),
    };
    Err(Error::SharedNetwork { reason })
}

/// The file is mounted in the container, so it keeps its inode.
pub(crate) fn change_file(path: &Path, change: impl FnOnce(String) -> String) -> Result<(), Error> {
    let failed = |operation| move |source| Error::File { operation, path: path.to_owned(), source };
    let mut file = std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(failed("open"))?;
    let mut text = String::new();
    (&mut file).take(FILE_LEN_MAX).read_to_string(&mut text).map_err(failed("read"))?;
    let text = change(text);
    file.seek(SeekFrom::Start(0)).and_then(|_| file.write_all(text.as_bytes())).map_err(failed("write"))?;
    file.set_len(text.len() as u64).map_err(failed("write"))
}

fn add_to_hosts(path: &Path, endpoint: &Endpoint, names: &str) -> Result<(), Error> {
    change_file(path, |mut text| {
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        endpoint.addresses().for_each(|address| text.push_str(&format!("{address}\t{names}\n")));
        text
    })
}

fn remove_from_hosts(path: &Path, endpoint: &Endpoint) -> Result<(), Error> {
    let addresses: Vec<_> = endpoint.addresses().map(|address| address.to_string()).collect();
    let is_own = |line: &str| line.split_whitespace().next().is_some_and(|first| addresses.iter().any(|address| address == first));
    change_file(path, |text| text.lines().filter(|line| !is_own(line)).map(|line| format!("{line}\n")).collect())
}

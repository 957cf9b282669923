//! Links between containers of the default network, where names are not served: lines in `/etc/hosts`, as Docker writes them.

use std::net::IpAddr;

use net::Endpoint;

use crate::connect::change_file;
use crate::container::Record;
use crate::{Engine, Error};

/// What the default network is called among a container's networks.
const DEFAULT_NETWORK: &str = "bridge";

impl Engine {
    /// The names that a container's links give on the default network, with the addresses of the containers behind them.
    pub(crate) fn linked_hosts(&self, record: &Record) -> Result<Vec<(String, IpAddr)>, Error> {
        let mut hosts = Vec::new();
        for (target, alias) in links(record) {
            let target = self.find(target)?.record();
            let network = self.network(DEFAULT_NETWORK)?;
            let endpoint = target.endpoints.iter().find(|endpoint| target.is_alive() && endpoint.network == network.id);
            let endpoint = endpoint.ok_or_else(|| Error::LinkTarget { name: target.name.clone(), alias: alias.to_owned() })?;
            hosts.extend(endpoint.addresses().map(|address| (names(&target, alias), address)));
        }
        Ok(hosts)
    }

    /// A container has started, perhaps at another address than before: who is linked to it finds it there. A failure is logged.
    pub(crate) fn tell_linked(&self, record: &Record, endpoints: &[Endpoint]) {
        let Ok(network) = self.network(DEFAULT_NETWORK) else { return };
        let Some(endpoint) = endpoints.iter().find(|endpoint| endpoint.network == network.id) else { return };
        for other in self.containers.all().into_iter().map(|container| container.record()).filter(|other| other.is_alive()) {
            for (target, alias) in links(&other) {
                if !self.find(target).is_ok_and(|target| target.record().id == record.id) {
                    continue;
                }
                let suffix = format!("\t{}", names(record, alias));
                let path = self.layout.container(&other.id).join("hosts");
                let changed = change_file(&path, |text| {
                    let others = text.lines().filter(|line| !line.ends_with(&suffix)).map(|line| format!("{line}\n"));
                    others.chain(endpoint.addresses().map(|address| format!("{address}{suffix}\n"))).collect()
                });
                if let Err(error) = changed {
                    tracing::warn!(container = other.name, error = types::error::chain(&error), "a link leads nowhere");
                }
            }
        }
    }
}

/// Targets and the names that they are given, of the default network.
fn links(record: &Record) -> impl Iterator<Item = (&str, &str)> {
    let asked = record.networking.endpoints_config.get(DEFAULT_NETWORK).into_iter();
    asked.flat_map(|asked| asked.links.iter()).map(|link| {
        let (target, alias) = link.split_once(':').unwrap_or((link, link));
        (target, alias.trim_start_matches('/'))
    })
}

fn names(target: &Record, alias: &str) -> String {
    let mut names = vec![alias];
    for name in [target.config.hostname.as_str(), &target.name] {
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names.join(" ")
}

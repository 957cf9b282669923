//! Networks as they are listed and inspected.

use std::collections::BTreeMap;
use std::sync::Arc;

use types::Id;

use crate::request::Filters;
use crate::{Engine, Error, filter};

const FILTERS: &[&str] = &["dangling", "driver", "id", "label", "name", "scope", "type"];
const BUILT_IN: [&str; 3] = ["bridge", "host", "none"];

/// A network and who is on it.
#[derive(Debug, Clone)]
pub struct NetworkView {
    /// The network.
    pub network: Arc<net::Network>,
    /// Running containers on it, by identifier.
    pub containers: BTreeMap<Id, NetworkUser>,
}

/// A container's place in a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkUser {
    /// Its name.
    pub name: String,
    /// The endpoint's identifier.
    pub endpoint_id: String,
    /// The hardware address.
    pub mac_address: String,
    /// The address with the prefix length; empty where there is none.
    pub ipv4_address: String,
}

impl Engine {
    /// Networks that the filters select.
    pub fn list_networks(&self, filters: &Filters) -> Result<Vec<NetworkView>, Error> {
        filter::known(filters, FILTERS)?;
        let dangling = filter::flag(filters, "dangling")?;
        let holds = |network: &net::Network| {
            let built_in = BUILT_IN.contains(&network.name.as_str());
            filter::any(filters, "driver", |driver| driver == network.driver.as_str())
                && filter::any(filters, "id", |prefix| network.id.as_str().starts_with(prefix))
                && filter::any(filters, "name", |part| network.name.contains(part))
                && filter::any(filters, "scope", |scope| scope == "local")
                && filter::any(filters, "type", |kind| kind == if built_in { "builtin" } else { "custom" })
                && dangling.is_none_or(|wanted| (!built_in && self.net.endpoints(&network.id).is_empty()) == wanted)
                && filter::labels_match(filters, &network.labels)
        };
        Ok(self.net.networks().into_iter().filter(|network| holds(network)).map(|network| self.network_view(network)).collect())
    }

    /// A network by name, identifier or unambiguous prefix of one.
    pub fn inspect_network(&self, name: &str) -> Result<NetworkView, Error> {
        let network = self.net.network(name).map_err(|_| Error::NoSuchNetwork { name: name.to_owned() })?;
        Ok(self.network_view(network))
    }

    fn network_view(&self, network: Arc<net::Network>) -> NetworkView {
        let records = self.containers.all().into_iter().map(|container| container.record());
        let containers = records.filter(|record| record.is_alive()).filter_map(|record| {
            let settings = record.networks.get(&network.name)?;
            let ipv4_address = match settings.ip_address.as_str() {
                "" => String::new(),
                address => format!("{address}/{}", settings.ip_prefix_len),
            };
            let user = NetworkUser {
                name: record.name.clone(),
                endpoint_id: settings.endpoint_id.clone(),
                mac_address: settings.mac_address.clone(),
                ipv4_address,
            };
            Some((record.id.clone(), user))
        });
        NetworkView { containers: containers.collect(), network }
    }
}

//! What this host knows of all hosts: a snapshot, and how one change of a key makes the next.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use types::Id;

use crate::record::{Endpoint, Host, Network, Record, SCHEMA};

/// Records that are kept of one kind; more are somebody's attempt to fill this host's memory.
const RECORDS_MAX: usize = 100_000;

/// Everything that hosts share, as of one revision of the store. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct View {
    /// Networks by id.
    pub networks: BTreeMap<Id, Arc<Network>>,
    /// Hosts by id.
    pub hosts: BTreeMap<Id, Arc<Host>>,
    /// Endpoints by network and id.
    pub endpoints: BTreeMap<(Id, Id), Arc<Endpoint>>,
    /// The store's revision.
    pub revision: i64,
    /// How often everything has been read anew.
    pub reading: u64,
    /// Whether the store answers: what is here may be old otherwise.
    pub connected: bool,
    /// Keys below the prefix whose values are not valid records.
    pub refused: u64,
}

impl View {
    /// A network by its name.
    pub fn named(&self, name: &str) -> Option<&Arc<Network>> {
        self.networks.values().find(|network| network.name == name)
    }

    /// The endpoints of a network.
    pub fn on<'a>(&'a self, network: &Id) -> impl Iterator<Item = &'a Arc<Endpoint>> + use<'a> {
        let first = (network.clone(), lowest());
        let network = network.clone();
        self.endpoints.range(first..).take_while(move |((of, _), _)| *of == network).map(|(_, endpoint)| endpoint)
    }

    /// Endpoints of other hosts, each with the address of its host. One that says to be where no host is known to be is left out, and so are
    /// those that claim the address, or the hardware address, of an endpoint before them: a packet has one destination.
    pub fn remote<'a>(&'a self, network: &Id, own: &Id) -> Vec<(&'a Endpoint, IpAddr)> {
        let mut macs: Vec<[u8; 6]> = Vec::new();
        let mut own_first: Vec<&Arc<Endpoint>> = self.on(network).collect();
        own_first.sort_by_key(|endpoint| endpoint.host != *own);
        let mut found = Vec::new();
        for endpoint in own_first {
            if macs.contains(&endpoint.mac) {
                continue;
            }
            macs.push(endpoint.mac);
            if let Some(host) = self.hosts.get(&endpoint.host).filter(|_| endpoint.host != *own) {
                found.push((&**endpoint, host.address));
            }
        }
        found
    }

    /// What a host is called, for messages.
    pub fn host_name(&self, id: &Id) -> String {
        self.hosts.get(id).map_or_else(|| id.short().to_owned(), |host| host.name.clone())
    }

    /// Takes over a change: a key's new value, or none when it is gone.
    pub(crate) fn apply(&mut self, key: &Key, value: Option<&[u8]>) {
        let applied = match (key, value) {
            (Key::Network(id), None) => Ok(_ = self.networks.remove(id)),
            (Key::Host(id), None) => Ok(_ = self.hosts.remove(id)),
            (Key::Endpoint(network, id), None) => Ok(_ = self.endpoints.remove(&(network.clone(), id.clone()))),
            (Key::Other, _) => Ok(()),
            (_, Some(text)) => self.store(key, text),
        };
        if let Err(reason) = applied {
            tracing::warn!(?key, reason, "a foreign or damaged record in the cluster store is left alone");
            self.refused += 1;
            // What it said before is no longer so.
            self.apply(key, None);
        }
    }

    fn store(&mut self, key: &Key, text: &[u8]) -> Result<(), String> {
        let other = || "its key and its value name different things".to_owned();
        let full = |count: usize| if count >= RECORDS_MAX { Err("there are too many".to_owned()) } else { Ok(()) };
        match key {
            Key::Network(id) => {
                let network = Network::decode(text)?;
                full(self.networks.len())?;
                if network.id != *id {
                    return Err(other());
                }
                self.networks.insert(id.clone(), Arc::new(network));
            }
            Key::Host(id) => {
                let host = Host::decode(text)?;
                full(self.hosts.len())?;
                if host.id != *id {
                    return Err(other());
                }
                self.hosts.insert(id.clone(), Arc::new(host));
            }
            Key::Endpoint(network, id) => {
                let endpoint = Endpoint::decode(text)?;
                full(self.endpoints.len())?;
                if (&endpoint.network, &endpoint.id) != (network, id) {
                    return Err(other());
                }
                let fits = self.networks.get(network).is_some_and(|network| network.has_room_for(IpAddr::V4(endpoint.address)));
                if !fits {
                    return Err(format!("{} is no address of its network", endpoint.address));
                }
                self.endpoints.insert((network.clone(), id.clone()), Arc::new(endpoint));
            }
            Key::Other => {}
        }
        Ok(())
    }
}

/// A key, taken apart.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Key {
    Network(Id),
    Host(Id),
    Endpoint(Id, Id),
    /// Ours but without a record in it, or not ours.
    Other,
}

/// The keys of one fleet. The store holds, below PREFIX/1:
/// `networks/ID`, `hosts/ID`, `endpoints/NETWORK/ID`, `addresses/NETWORK/ADDRESS`, and `ledger`, which changes with every change of networks.
#[derive(Debug, Clone)]
pub(crate) struct Keys {
    base: String,
}

impl Keys {
    pub fn new(prefix: &str) -> Self {
        Self { base: format!("{prefix}/{SCHEMA}/") }
    }

    /// What all keys begin with.
    pub fn all(&self) -> &str {
        &self.base
    }

    pub fn networks(&self) -> String {
        format!("{}networks/", self.base)
    }

    pub fn network(&self, id: &Id) -> String {
        format!("{}networks/{id}", self.base)
    }

    pub fn host(&self, id: &Id) -> String {
        format!("{}hosts/{id}", self.base)
    }

    pub fn endpoint(&self, network: &Id, id: &Id) -> String {
        format!("{}endpoints/{network}/{id}", self.base)
    }

    /// What the keys of a network's addresses begin with.
    pub fn addresses(&self, network: &Id) -> String {
        format!("{}addresses/{network}/", self.base)
    }

    pub fn address(&self, network: &Id, address: IpAddr) -> String {
        format!("{}addresses/{network}/{address}", self.base)
    }

    pub fn ledger(&self) -> String {
        format!("{}ledger", self.base)
    }

    pub fn parse(&self, key: &[u8]) -> Key {
        let parts = || {
            let text = std::str::from_utf8(key).ok()?.strip_prefix(&self.base)?;
            let (kind, rest) = text.split_once('/')?;
            match kind {
                "networks" => Some(Key::Network(rest.parse().ok()?)),
                "hosts" => Some(Key::Host(rest.parse().ok()?)),
                "endpoints" => {
                    let (network, id) = rest.split_once('/')?;
                    Some(Key::Endpoint(network.parse().ok()?, id.parse().ok()?))
                }
                _ => None,
            }
        };
        parts().unwrap_or(Key::Other)
    }
}

fn lowest() -> Id {
    "0".repeat(64).parse().expect("64 digits")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::tests::{endpoint, network};

    fn host(address: &str) -> Host {
        Host { id: Id::random(), name: "h".to_owned(), address: address.parse().expect("an address"), key: None }
    }

    fn put<R: Record>(view: &mut View, key: Key, record: &R) {
        view.apply(&key, Some(&record.encode().expect("valid")));
    }

    #[test]
    fn changes_make_the_next_view() {
        let keys = Keys::new("/cais");
        let (net, here, there) = (network("web", 5000, "10.0.0.0/24"), host("192.0.2.1"), host("192.0.2.2"));
        let mut view = View::default();
        put(&mut view, keys.parse(keys.network(&net.id).as_bytes()), &net);
        for host in [&here, &there] {
            put(&mut view, keys.parse(keys.host(&host.id).as_bytes()), host);
        }
        let (one, two) = (endpoint(&net, &here.id, "10.0.0.2"), endpoint(&net, &there.id, "10.0.0.3"));
        for endpoint in [&one, &two] {
            put(&mut view, keys.parse(keys.endpoint(&net.id, &endpoint.id).as_bytes()), endpoint);
        }
        assert_eq!(view.on(&net.id).count(), 2);
        let remote = view.remote(&net.id, &here.id);
        assert_eq!(remote, [(&two, "192.0.2.2".parse().expect("an address"))]);
        view.apply(&Key::Host(there.id.clone()), None);
        assert!(view.remote(&net.id, &here.id).is_empty());
        view.apply(&Key::Endpoint(net.id.clone(), one.id.clone()), None);
        assert_eq!(view.on(&net.id).count(), 1);
        assert_eq!(view.refused, 0);
    }

    #[test]
    fn what_does_not_fit_its_key_is_left_out() {
        let net = network("web", 5000, "10.0.0.0/24");
        let mut view = View::default();
        put(&mut view, Key::Network(Id::random()), &net);
        assert!(view.networks.is_empty());
        put(&mut view, Key::Network(net.id.clone()), &net);
        let host = Id::random();
        for address in ["10.0.1.2", "10.0.0.1", "10.0.0.255", "10.0.0.0"] {
            let outside = endpoint(&net, &host, address);
            put(&mut view, Key::Endpoint(net.id.clone(), outside.id.clone()), &outside);
        }
        view.apply(&Key::Host(host), Some(b"no json"));
        assert!(view.endpoints.is_empty() && view.hosts.is_empty());
        assert_eq!(view.refused, 6);
        // A record that turns bad is no longer the one that it was.
        view.apply(&Key::Network(net.id.clone()), Some(b"{}"));
        assert!(view.networks.is_empty());
    }

    #[test]
    fn a_host_that_claims_the_hardware_address_of_ours_is_not_believed() {
        let net = network("web", 5000, "10.0.0.0/24");
        let (here, there) = (host("192.0.2.1"), host("192.0.2.2"));
        let mut view = View::default();
        put(&mut view, Key::Network(net.id.clone()), &net);
        put(&mut view, Key::Host(here.id.clone()), &here);
        put(&mut view, Key::Host(there.id.clone()), &there);
        let ours = endpoint(&net, &here.id, "10.0.0.2");
        let thief = Endpoint { mac: ours.mac, ..endpoint(&net, &there.id, "10.0.0.9") };
        for endpoint in [&ours, &thief] {
            put(&mut view, Key::Endpoint(net.id.clone(), endpoint.id.clone()), endpoint);
        }
        assert!(view.remote(&net.id, &here.id).is_empty());
    }

    #[test]
    fn keys_of_others_are_none_of_ours() {
        let keys = Keys::new("/cais");
        let id = Id::random();
        for key in ["/cais/2/networks/x", "/cais/1/networks/x", "/cais/1/endpoints/", "/other", "", &format!("/cais/1/endpoints/{id}")] {
            assert_eq!(keys.parse(key.as_bytes()), Key::Other, "{key}");
        }
        assert_eq!(keys.parse(&[0xff; 9]), Key::Other);
    }
}

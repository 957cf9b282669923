//! The networks of one engine: the front of this crate.

use std::net::Ipv4Addr;
use std::sync::Arc;

use types::Id;

use crate::{Endpoint, EndpointRequest, NetConfig, Netns, Network, PortBinding, PortRequest, Result};

/// The networks of one engine. Thread-safe; no lock is held over a system call that waits for more than the kernel.
#[derive(Debug)]
pub struct Net {
    config: NetConfig,
}

/// What [`Net::reconcile`] removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Host ends of interfaces that belong to no live endpoint.
    pub links: Vec<String>,
    /// Keys (container ids) that netd held ports for without need.
    pub held: Vec<String>,
}

impl Net {
    /// Makes what is missing: the bridge with its address, the nftables table, IPv4 forwarding. Idempotent: what is there with our
    /// names is taken over, and its address kept.
    pub fn open(config: NetConfig) -> Result<Self> {
        Ok(Self { config })
    }

    /// The configuration in force.
    pub fn config(&self) -> &NetConfig {
        &self.config
    }

    /// Takes over the endpoints of containers that still run (their leases, ports and names), after a restart of the engine.
    /// Ports that netd no longer holds are bound again. Failures are logged and returned, one per endpoint; the others are restored.
    pub fn restore(&self, endpoints: Vec<Endpoint>) -> Vec<crate::Error> {
        let _ = endpoints;
        todo!()
    }

    /// Removes this engine's leftovers: interfaces on our bridges, port elements and held ports that belong to no endpoint
    /// known from [`Net::restore`] and [`Net::attach`].
    pub fn reconcile(&self) -> Result<Reconciled> {
        todo!()
    }

    /// Installs bridge, table and elements again from memory, after a flush by others for example.
    pub fn repair(&self) -> Result<()> {
        todo!()
    }

    /// Ends the engine's use of the network. With `remove` (no container runs), bridge, table and netd go too, and nothing is left on the host.
    pub fn close(&self, remove: bool) -> Result<()> {
        let _ = remove;
        todo!()
    }

    /// What a person should know: a foreign firewall that cuts containers off, with the way out.
    pub fn warnings(&self) -> Vec<String> {
        todo!()
    }

    /// All networks: the built-in `bridge`, `host` and `none`.
    pub fn networks(&self) -> Vec<Arc<Network>> {
        todo!()
    }

    /// A network by name, id, or unambiguous prefix of an id; `default` is `bridge`.
    pub fn network(&self, name: &str) -> Result<Arc<Network>> {
        let _ = name;
        todo!()
    }

    /// The endpoints on a network, for `network inspect`.
    pub fn endpoints(&self, network: &Id) -> Vec<Endpoint> {
        let _ = network;
        todo!()
    }

    /// The address under which containers reach the host: `host.docker.internal`.
    pub fn host_address(&self) -> Ipv4Addr {
        todo!()
    }

    /// Puts an interface with address and default route into the namespace.
    pub fn attach(&self, netns: &Netns, request: &EndpointRequest) -> Result<Endpoint> {
        let _ = (netns, request);
        todo!()
    }

    /// Publishes ports, all of them or none, and adds the bindings to `endpoint` (and to what this `Net` remembers of it).
    pub fn publish(&self, endpoint: &mut Endpoint, ports: &[PortRequest]) -> Result<Vec<PortBinding>> {
        let _ = (endpoint, ports);
        todo!()
    }

    /// Gives back address and ports at once. The interface is not waited for: it goes with its namespace. Finishes
    /// whatever fails on the way, then tells the first failure. Releasing an unknown endpoint is not an error.
    pub fn release(&self, endpoint: &Id) -> Result<()> {
        let _ = endpoint;
        todo!()
    }

    /// Tells messages about taken names and ports that the container is now called otherwise.
    pub fn rename(&self, container: &Id, owner: &str) {
        let _ = (container, owner);
        todo!()
    }
}

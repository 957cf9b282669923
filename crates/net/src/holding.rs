//! Ports of the host in netd's hands: reserved, handed over, and reserved again when netd was lost.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::manager::Inner;
use crate::netd::handle;
use crate::netd::protocol::HeldPort;
use crate::ports::{self, Reservation};
use crate::{Endpoint, Error, PortBinding, PortRequest, Result};

/// How many netd processes in a row may end under our hands.
const NETD_TRIES: usize = 2;
/// How long a netd that was killed may take to let its ports go.
const ENDING_MAX: Duration = Duration::from_millis(500);

impl Inner {
    /// Reserves ports, all or none.
    pub fn reserve(&self, endpoint: &Endpoint, requests: &[PortRequest]) -> Result<Vec<Reservation>> {
        let mut reserved: Vec<Reservation> = Vec::with_capacity(requests.len());
        for request in requests {
            let reservation = ports::reserve(request, |protocol, host, port| {
                let clashes = |held: &PortBinding| (held.protocol, held.host_port) == (protocol, port) && ports::in_the_way(held, host);
                if reserved.iter().flat_map(|reservation| &reservation.bindings).any(clashes) {
                    return Some(endpoint.owner.clone());
                }
                let state = self.state();
                state.every_endpoint().find(|other| other.bindings.iter().any(clashes)).map(|other| other.owner.clone())
            })?;
            reserved.push(reservation);
        }
        Ok(reserved)
    }

    /// Hands reserved ports to netd, started if need be.
    pub fn hold(self: &Arc<Self>, endpoint: &Endpoint, reserved: &[Reservation]) -> Result<()> {
        for _ in 0..NETD_TRIES {
            self.netd_ready()?;
            match self.hand_over(endpoint, reserved) {
                // It ended at that moment: another one takes over everything.
                Err(Error::Netd { source, .. }) if source.raw_os_error().is_some() => tracing::warn!(error = %source, "netd is replaced"),
                done => return done,
            }
        }
        self.netd_ready()?;
        self.hand_over(endpoint, reserved)
    }

    /// Makes netd hold what is remembered of the endpoint, no more.
    pub fn hold_anew(&self, endpoint: &Endpoint) {
        let remembered = self.state().endpoints.get(&endpoint.id).cloned();
        let outcome =
            self.netd.release(endpoint.id.as_str()).and_then(|()| remembered.map_or(Ok(()), |endpoint| self.bind_again(&endpoint)));
        if let Err(error) = outcome {
            tracing::warn!(error = types::error::chain(&error), owner = endpoint.owner, "ports are not held as they should be");
        }
    }

    /// After a restart of the engine: finds the netd of before and has it hold what it should. The errors are per endpoint.
    pub fn reclaim_ports(self: &Arc<Self>) -> Vec<Error> {
        let publishing: Vec<_> = self.state().endpoints.values().filter(|endpoint| !endpoint.bindings.is_empty()).cloned().collect();
        let held = match self.netd.adopt().and_then(|found| if found { self.netd.list().map(Some) } else { Ok(None) }) {
            Ok(Some(held)) => held,
            // A new one is given everything at once, and logs what fails. One that was found but is ending is like none.
            Ok(None) | Err(_) if !publishing.is_empty() => return self.netd_ready().err().into_iter().collect(),
            Ok(None) | Err(_) => return Vec::new(),
        };
        self.watch_netd();
        let lacking = publishing.into_iter().filter(|endpoint| {
            let expected = ports::requests_for(&endpoint.bindings).len() as u32;
            held.get(endpoint.id.as_str()).copied().unwrap_or(0) < expected
        });
        lacking.filter_map(|endpoint| self.netd.release(endpoint.id.as_str()).and_then(|()| self.bind_again(&endpoint)).err()).collect()
    }

    /// A netd that answers: the one that runs, or a new one that is given everything there is to hold.
    pub fn netd_ready(self: &Arc<Self>) -> Result<()> {
        let _one_at_a_time = self.revival.lock().unwrap_or_else(PoisonError::into_inner);
        if self.netd.watch().is_some() {
            return Ok(());
        }
        let fresh = self.netd.start()?;
        self.watch_netd();
        if fresh {
            let publishing: Vec<_> = self.state().endpoints.values().filter(|endpoint| !endpoint.bindings.is_empty()).cloned().collect();
            for endpoint in publishing {
                if let Err(error) = self.bind_again(&endpoint) {
                    tracing::warn!(error = types::error::chain(&error), owner = endpoint.owner, "a published port is no longer reserved");
                }
            }
            if let Err(error) = self.tell_everything() {
                tracing::warn!(error = types::error::chain(&error), "not all names are known to netd");
            }
        }
        Ok(())
    }

    /// Reserves what an endpoint has published once more. The kernel's translation does not depend on it.
    fn bind_again(&self, endpoint: &Endpoint) -> Result<()> {
        let requests = ports::requests_for(&endpoint.bindings);
        let reserved: Result<Vec<_>> = requests.iter().map(reserve_again).collect();
        self.hand_over(endpoint, &reserved?)
    }

    fn hand_over(&self, endpoint: &Endpoint, reserved: &[Reservation]) -> Result<()> {
        let (v4, v6) = (endpoint.ipv4().map(IpAddr::V4), endpoint.ipv6().map(IpAddr::V6));
        let held = |reservation: &Reservation| {
            let binding = reservation.bindings.first()?;
            // What listens on every IPv4 address alone is more common than the opposite.
            let address = if binding.host_ip.is_ipv6() { v6.or(v4)? } else { v4.or(v6)? };
            Some(HeldPort { protocol: binding.protocol, target: SocketAddr::new(address, binding.container_port) })
        };
        let ports: Vec<_> = reserved.iter().filter_map(|reservation| Some((reservation.socket.as_fd(), held(reservation)?))).collect();
        self.netd.hold(endpoint.id.as_str(), &ports)
    }

    /// Replaces netd when it ends while there is something to hold. The thread ends with the connection.
    fn watch_netd(self: &Arc<Self>) {
        let Some((connection, generation)) = self.netd.watch() else { return };
        let inner = Arc::downgrade(self);
        let watch = move || {
            handle::wait_for_end(&connection);
            let Some(inner) = inner.upgrade() else { return };
            let needed = || inner.serves_names() || inner.state().endpoints.values().any(|endpoint| !endpoint.bindings.is_empty());
            if inner.netd.lost(generation) && needed() {
                tracing::warn!("netd has ended; another one takes over the published ports");
                if let Err(error) = inner.netd_ready() {
                    tracing::error!(error = types::error::chain(&error), "published ports are not reserved");
                }
            }
        };
        if let Err(error) = thread::Builder::new().name("netd-watch".to_owned()).stack_size(256 * 1024).spawn(watch) {
            tracing::warn!(%error, "netd is not watched");
        }
    }
}

/// The holder of before may be ending just now, and its sockets with it.
fn reserve_again(request: &PortRequest) -> Result<Reservation> {
    let start = Instant::now();
    loop {
        match ports::reserve(request, |_, _, _| None) {
            Err(Error::PortInUse { .. }) if start.elapsed() < ENDING_MAX => thread::sleep(Duration::from_millis(2)),
            done => return done,
        }
    }
}

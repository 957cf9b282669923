//! Reserving ports of the host: a bound socket per port, which nobody else can take as long as it is held.
//!
//! A port on every address is one IPv6 socket that takes IPv4 too: one descriptor, and one number for both by itself.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::endpoint::{PortBinding, PortRequest, Protocol};
use crate::{Error, Result, owner};

/// Connections that wait to be accepted by the proxy.
const BACKLOG: i32 = 128;
/// How often the kernel is asked for a free port before giving up: its choice can be taken between bind and listen.
const FREE_PORT_TRIES: usize = 16;

/// A reserved port with its socket, bound and (TCP) listening.
#[derive(Debug)]
pub struct Reservation {
    pub socket: OwnedFd,
    /// One binding, or the two of a port on every address.
    pub bindings: Vec<PortBinding>,
}

/// Reserves what a request asks for. `taken` knows the ports of our own containers: address, port, who has it.
pub fn reserve(request: &PortRequest, taken: impl Fn(Protocol, Option<IpAddr>, u16) -> Option<String>) -> Result<Reservation> {
    let shown = request.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED.into());
    let protocol = request.protocol;
    if request.host_ports == (0..=0) {
        let free = (0..FREE_PORT_TRIES).find_map(|_| match bind(protocol, request.host_ip, 0) {
            Err(Errno::ADDRINUSE) => None,
            outcome => Some(outcome),
        });
        let (socket, port, both) = free.unwrap_or(Err(Errno::ADDRINUSE)).map_err(|source| unbound(shown, 0, protocol, source))?;
        return Ok(Reservation { socket, bindings: bindings(request, port, both) });
    }
    let mut last = Error::Bind { host: shown, port: *request.host_ports.start(), protocol, source: Errno::INVAL };
    for port in request.host_ports.clone() {
        if let Some(owner) = taken(protocol, request.host_ip, port) {
            last = Error::PortAllocated { host: shown, port, protocol, owner };
            continue;
        }
        match bind(protocol, request.host_ip, port) {
            Ok((socket, port, both)) => return Ok(Reservation { socket, bindings: bindings(request, port, both) }),
            Err(Errno::ADDRINUSE) => last = Error::PortInUse { host: shown, port, protocol, holder: owner::holder(protocol, shown, port) },
            Err(source) => return Err(unbound(shown, port, protocol, source)),
        }
    }
    Err(last)
}

fn unbound(host: IpAddr, port: u16, protocol: Protocol, source: Errno) -> Error {
    match (protocol, source) {
        (Protocol::Sctp, Errno::PROTONOSUPPORT | Errno::SOCKTNOSUPPORT) => Error::NoSctp,
        _ => Error::Bind { host, port, protocol, source },
    }
}

/// The requests that would reserve the same ports again, for a holder that was lost.
pub fn requests_for(bindings: &[PortBinding]) -> Vec<PortRequest> {
    let on_every = |binding: &PortBinding, unspecified: IpAddr| {
        bindings.iter().any(|other| {
            (other.protocol, other.host_port, other.container_port) == (binding.protocol, binding.host_port, binding.container_port)
                && other.host_ip == unspecified
        })
    };
    let mut requests = Vec::new();
    for binding in bindings {
        let both = match binding.host_ip {
            IpAddr::V6(address) if address.is_unspecified() && on_every(binding, Ipv4Addr::UNSPECIFIED.into()) => continue,
            IpAddr::V4(address) => address.is_unspecified() && on_every(binding, Ipv6Addr::UNSPECIFIED.into()),
            IpAddr::V6(_) => false,
        };
        let host_ports: RangeInclusive<u16> = binding.host_port..=binding.host_port;
        let host_ip = (!both).then_some(binding.host_ip);
        requests.push(PortRequest { protocol: binding.protocol, host_ip, host_ports, container_port: binding.container_port });
    }
    requests
}

/// Whether a binding stands in the way of a port on `host` (`None`: on every address).
pub fn in_the_way(binding: &PortBinding, host: Option<IpAddr>) -> bool {
    let Some(host) = host else { return true };
    let bound = binding.host_ip;
    bound == host || bound.is_ipv4() == host.is_ipv4() && (bound.is_unspecified() || host.is_unspecified())
}

fn bindings(request: &PortRequest, host_port: u16, both: bool) -> Vec<PortBinding> {
    let binding = |host_ip| PortBinding { protocol: request.protocol, host_ip, host_port, container_port: request.container_port };
    match request.host_ip {
        Some(address) => vec![binding(address)],
        None if both => vec![binding(Ipv4Addr::UNSPECIFIED.into()), binding(Ipv6Addr::UNSPECIFIED.into())],
        None => vec![binding(Ipv4Addr::UNSPECIFIED.into())],
    }
}

/// Binds (and listens). Tells the port, and whether the socket takes both IPv4 and IPv6.
fn bind(protocol: Protocol, host: Option<IpAddr>, port: u16) -> Result<(OwnedFd, u16, bool), Errno> {
    let Some(host) = host else {
        return match bind_to(protocol, Ipv6Addr::UNSPECIFIED.into(), port, false) {
            Ok((socket, port)) => Ok((socket, port, true)),
            // A kernel without IPv6.
            Err(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL) => {
                bind_to(protocol, Ipv4Addr::UNSPECIFIED.into(), port, false).map(|(socket, port)| (socket, port, false))
            }
            Err(errno) => Err(errno),
        };
    };
    bind_to(protocol, host, port, true).map(|(socket, port)| (socket, port, false))
}

fn bind_to(protocol: Protocol, host: IpAddr, port: u16, v6_only: bool) -> Result<(OwnedFd, u16), Errno> {
    let family = if host.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let (kind, number) = match protocol {
        Protocol::Tcp => (SocketType::STREAM, None),
        Protocol::Udp => (SocketType::DGRAM, None),
        // Bound is enough to reserve it; nobody listens, since the kernel alone passes it on.
        Protocol::Sctp => (SocketType::STREAM, Some(rustix::net::ipproto::SCTP)),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, number)?;
    if host.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, v6_only)?;
    }
    if protocol == Protocol::Tcp {
        // Connections of an earlier holder that still close must not keep the port; a listener keeps it nevertheless.
        sockopt::set_socket_reuseaddr(&socket, true)?;
    }
    rustix::net::bind(&socket, &SocketAddr::new(host, port))?;
    if protocol == Protocol::Tcp {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    let bound: SocketAddr = rustix::net::getsockname(&socket)?.try_into()?;
    Ok((socket, bound.port()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    fn request(protocol: Protocol, host_ip: Option<IpAddr>, host_ports: RangeInclusive<u16>) -> PortRequest {
        PortRequest { protocol, host_ip, host_ports, container_port: 80 }
    }

    fn nobody(_: Protocol, _: Option<IpAddr>, _: u16) -> Option<String> {
        None
    }

    #[test]
    fn one_socket_reserves_both_families() {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let held = reserve(&request(protocol, None, 0..=0), nobody).unwrap();
            let port = held.bindings[0].host_port;
            assert_eq!(held.bindings.iter().map(|binding| binding.host_ip.to_string()).collect::<Vec<_>>(), ["0.0.0.0", "::"]);
            for address in ["0.0.0.0", "127.0.0.1", "::", "::1"] {
                let address = SocketAddr::new(address.parse().unwrap(), port);
                let taken = match protocol {
                    Protocol::Tcp => TcpListener::bind(address).is_err(),
                    _ => UdpSocket::bind(address).is_err(),
                };
                assert!(taken, "{address}/{protocol} is free");
            }
            assert_eq!(requests_for(&held.bindings), [request(protocol, None, port..=port)]);
        }
    }

    #[test]
    fn sctp_is_reserved_where_the_kernel_has_it() {
        match reserve(&request(Protocol::Sctp, None, 0..=0), nobody) {
            Ok(held) => {
                let port = held.bindings[0].host_port;
                assert!(reserve(&request(Protocol::Sctp, None, port..=port), nobody).is_err(), "it is held");
            }
            Err(error) => assert!(matches!(error, Error::NoSctp), "{error}"),
        }
    }

    #[test]
    fn taken_ports_name_their_holder() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = reserve(&request(Protocol::Tcp, None, port..=port), nobody).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("address already in use") && text.contains(&format!("pid {}", std::process::id())), "{text}");
        let ours = |_: Protocol, _: Option<IpAddr>, _: u16| Some("web".to_owned());
        let error = reserve(&request(Protocol::Tcp, None, port..=port), ours).unwrap_err();
        assert_eq!(error.to_string(), format!("bind for 0.0.0.0:{port}/tcp failed: port is already allocated to container web"));
    }

    #[test]
    fn families_are_apart_and_every_address_is_not() {
        let binding = |host: &str| PortBinding { protocol: Protocol::Tcp, host_ip: host.parse().unwrap(), host_port: 1, container_port: 1 };
        let way = |bound: &str, host: &str| in_the_way(&binding(bound), host.parse().ok());
        assert!(way("127.0.0.1", "127.0.0.1") && way("0.0.0.0", "127.0.0.1") && way("::1", "::") && way("::1", "every"));
        assert!(!way("127.0.0.1", "127.0.0.2") && !way("0.0.0.0", "::1") && !way("::", "10.0.0.1"));
    }

    #[test]
    fn ranges_take_the_first_free_port_and_odd_hosts_are_told() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port().min(65000);
        let local = Some(Ipv4Addr::LOCALHOST.into());
        if let Ok(held) = reserve(&request(Protocol::Tcp, local, port..=port + 20), nobody) {
            assert!(held.bindings[0].host_port > port);
            assert_eq!(requests_for(&held.bindings)[0].host_ip, local);
        }
        let elsewhere = reserve(&request(Protocol::Tcp, Some(Ipv4Addr::new(203, 0, 113, 9).into()), 0..=0), nobody);
        assert!(matches!(elsewhere, Err(Error::Bind { source: Errno::ADDRNOTAVAIL, .. })), "{elsewhere:?}");
    }
}

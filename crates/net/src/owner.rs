//! Which process holds a port of the host: for the message about a taken one.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::endpoint::Protocol;

/// State "listening" in `/proc/net/tcp`.
const TCP_LISTEN: &str = "0A";
/// How many descriptors are looked at before giving up: the answer is a convenience.
const DESCRIPTORS_MAX: usize = 200_000;

/// "python3 (pid 77)" for the process whose socket stands in the way of a bind, if it can be seen from here.
pub fn holder(protocol: Protocol, host: IpAddr, port: u16) -> Option<String> {
    let inode = ["", "6"].iter().find_map(|version| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{protocol}{version}")).ok()?;
        table.lines().skip(1).find_map(|line| matching_inode(line, protocol, host, port))
    })?;
    let pid = process_with_socket(&inode)?;
    let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
    Some(format!("{} (pid {pid})", name.trim_end()))
}

fn matching_inode(line: &str, protocol: Protocol, host: IpAddr, port: u16) -> Option<String> {
    let mut fields = line.split_whitespace();
    let (address, local_port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let inode = fields.nth(5)?;
    let blocks = u16::from_str_radix(local_port, 16).ok()? == port && conflicts(parse_address(address)?, host);
    let listens = protocol == Protocol::Udp || state == TCP_LISTEN;
    (blocks && listens && inode != "0").then(|| inode.to_owned())
}

/// Whether a socket bound to `bound` keeps another from `wanted`: the same address, or one of them is every address.
fn conflicts(bound: IpAddr, wanted: IpAddr) -> bool {
    bound.to_canonical() == wanted.to_canonical() || bound.is_unspecified() || wanted.is_unspecified()
}

/// Addresses are hexadecimal words of the machine's order, one for IPv4 and four for IPv6.
fn parse_address(text: &str) -> Option<IpAddr> {
    let word = |part: &str| u32::from_str_radix(part, 16).ok().map(u32::to_ne_bytes);
    if text.len() == 8 {
        return word(text).map(|bytes| Ipv4Addr::from(bytes).into());
    }
    let mut bytes = [0; 16];
    for (index, chunk) in bytes.chunks_exact_mut(4).enumerate() {
        chunk.copy_from_slice(&word(text.get(index * 8..index * 8 + 8)?)?);
    }
    Some(Ipv6Addr::from(bytes).into())
}

fn process_with_socket(inode: &str) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    let mut budget = DESCRIPTORS_MAX;
    for process in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            budget = budget.checked_sub(1)?;
            if fs::read_link(descriptor.path()).is_ok_and(|target| target.as_os_str() == wanted.as_str()) {
                return Some(pid);
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, UdpSocket};

    #[test]
    fn own_sockets_are_found() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let found = holder(Protocol::Tcp, Ipv4Addr::UNSPECIFIED.into(), port).unwrap();
        assert!(found.ends_with(&format!("(pid {})", std::process::id())), "{found}");
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(holder(Protocol::Udp, Ipv4Addr::LOCALHOST.into(), port).is_some());
        assert_eq!(holder(Protocol::Udp, Ipv4Addr::new(127, 0, 0, 9).into(), port), None);
    }

    #[test]
    fn torn_lines_are_passed_over() {
        for line in ["", "0: x", "0: 0100007F:1F90 00000000:0000 0A", "0: 0100007F:zz 0:0 0A 0 0 0 0 0 5"] {
            assert_eq!(matching_inode(line, Protocol::Tcp, Ipv4Addr::LOCALHOST.into(), 8080), None);
        }
    }
}

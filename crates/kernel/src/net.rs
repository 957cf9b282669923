//! Network namespaces of a thread, socket options and datagram addresses that `rustix` lacks.

use std::mem::{MaybeUninit, size_of, size_of_val};
use std::net::{Ipv6Addr, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

use rustix::io::Errno;
use rustix::thread::UnshareFlags;

/// `setsockopt` level of netlink sockets and the option that adds texts to errors (`linux/netlink.h`).
const SOL_NETLINK: libc::c_int = 270;
const NETLINK_EXT_ACK: libc::c_int = 11;

/// Puts the calling thread alone into a new network namespace. Meant for a thread that ends soon after.
pub fn unshare_network() -> Result<(), Errno> {
    // SAFETY: only the network namespace is unshared; the descriptor table stays common to all threads.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET) }
}

/// Asks the kernel to explain errors on a netlink socket in words (`NLMSGERR_ATTR_MSG`).
pub fn set_extended_errors(socket: impl AsFd) -> Result<(), Errno> {
    set_flag(socket, SOL_NETLINK, NETLINK_EXT_ACK)
}

/// Asks for the destination address of each datagram on an IPv6 socket, for [`receive_datagram`].
pub fn set_receive_destination(socket: impl AsFd) -> Result<(), Errno> {
    set_flag(socket, libc::IPPROTO_IPV6, libc::IPV6_RECVPKTINFO)
}

/// A datagram that arrived on an IPv6 socket (IPv4 peers have mapped addresses).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram {
    /// Its length in the caller's buffer.
    pub len: usize,
    /// Who sent it.
    pub peer: SocketAddrV6,
    /// Where it was sent to, if [`set_receive_destination`] is on.
    pub destination: Option<Ipv6Addr>,
    /// The interface on which it came.
    pub interface: u32,
}

/// Room for one `in6_pktinfo` with its header, aligned as the kernel wants it.
#[repr(C, align(8))]
struct Control([MaybeUninit<u8>; 64]);

/// Receives one datagram without waiting.
pub fn receive_datagram(socket: impl AsFd, buffer: &mut [u8]) -> Result<Datagram, Errno> {
    let mut name: MaybeUninit<libc::sockaddr_in6> = MaybeUninit::zeroed();
    let mut control = Control([MaybeUninit::zeroed(); 64]);
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: an all-zero msghdr is valid; every pointer set below outlives the call and comes with its true length.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = name.as_mut_ptr().cast();
    message.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    message.msg_controllen = size_of_val(&control.0);
    // SAFETY: the message describes live buffers of the stated lengths.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC) };
    let len = crate::checked(received as libc::c_long)? as usize;
    // SAFETY: zeroed at first and then written by the kernel: any bit pattern is a valid sockaddr_in6.
    let name = unsafe { name.assume_init() };
    if i32::from(name.sin6_family) != libc::AF_INET6 {
        return Err(Errno::AFNOSUPPORT);
    }
    let peer = SocketAddrV6::new(name.sin6_addr.s6_addr.into(), u16::from_be(name.sin6_port), 0, name.sin6_scope_id);
    let info = destination(&message);
    Ok(Datagram {
        len,
        peer,
        destination: info.map(|info| info.ipi6_addr.s6_addr.into()),
        interface: info.map_or(0, |info| info.ipi6_ifindex),
    })
}

/// Sends one datagram without waiting, from the address `source` of this host.
pub fn send_datagram(
    socket: impl AsFd,
    bytes: &[u8],
    peer: SocketAddrV6,
    source: Option<Ipv6Addr>,
    interface: u32,
) -> Result<usize, Errno> {
    // SAFETY: an all-zero sockaddr_in6 is valid.
    let mut name: libc::sockaddr_in6 = unsafe { MaybeUninit::zeroed().assume_init() };
    name.sin6_family = libc::AF_INET6 as libc::sa_family_t;
    name.sin6_port = peer.port().to_be();
    name.sin6_addr.s6_addr = peer.ip().octets();
    name.sin6_scope_id = peer.scope_id();
    let mut control = Control([MaybeUninit::zeroed(); 64]);
    let mut part = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: as in receive_datagram.
    let mut message: libc::msghdr = unsafe { MaybeUninit::zeroed().assume_init() };
    message.msg_name = (&raw mut name).cast();
    message.msg_namelen = size_of::<libc::sockaddr_in6>() as libc::socklen_t;
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    if let Some(source) = source {
        let info = libc::in6_pktinfo { ipi6_addr: libc::in6_addr { s6_addr: source.octets() }, ipi6_ifindex: interface };
        // SAFETY: the control buffer is larger than CMSG_SPACE of an in6_pktinfo, zeroed and aligned for a cmsghdr, so the
        // first header exists and its data has room for the structure.
        unsafe {
            message.msg_control = control.0.as_mut_ptr().cast();
            message.msg_controllen = libc::CMSG_SPACE(size_of::<libc::in6_pktinfo>() as u32) as usize;
            let header = libc::CMSG_FIRSTHDR(&raw const message);
            (*header).cmsg_level = libc::IPPROTO_IPV6;
            (*header).cmsg_type = libc::IPV6_PKTINFO;
            (*header).cmsg_len = libc::CMSG_LEN(size_of::<libc::in6_pktinfo>() as u32) as usize;
            libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().write_unaligned(info);
        }
    }
    // SAFETY: the message describes live buffers of the stated lengths, which the kernel only reads.
    let sent = unsafe { libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) };
    crate::checked(sent as libc::c_long).map(|sent| sent as usize)
}

fn destination(message: &libc::msghdr) -> Option<libc::in6_pktinfo> {
    // SAFETY: the kernel set msg_controllen to what it wrote; the CMSG macros stay within it, and the structure's size is
    // checked before it is read.
    unsafe {
        let mut header = libc::CMSG_FIRSTHDR(message);
        while !header.is_null() {
            let wanted = (*header).cmsg_level == libc::IPPROTO_IPV6 && (*header).cmsg_type == libc::IPV6_PKTINFO;
            if wanted && (*header).cmsg_len >= libc::CMSG_LEN(size_of::<libc::in6_pktinfo>() as u32) as usize {
                return Some(libc::CMSG_DATA(header).cast::<libc::in6_pktinfo>().read_unaligned());
            }
            header = libc::CMSG_NXTHDR(message, header);
        }
    }
    None
}

fn set_flag(socket: impl AsFd, level: libc::c_int, option: libc::c_int) -> Result<(), Errno> {
    let on: libc::c_int = 1;
    // SAFETY: the value is a live int and its true size is given.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, option, (&raw const on).cast(), size_of_val(&on) as libc::socklen_t) };
    crate::checked(result.into()).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket;

    #[test]
    fn datagrams_carry_their_destination_and_answers_come_from_it() {
        let Ok(server) = UdpSocket::bind("[::]:0") else {
            eprintln!("SKIP: no IPv6 here");
            return;
        };
        set_receive_destination(&server).unwrap();
        let port = server.local_addr().unwrap().port();
        let client = UdpSocket::bind("[::1]:0").unwrap();
        client.connect(("::1", port)).unwrap();
        client.send(b"ping").unwrap();
        rustix::event::poll(&mut [rustix::event::PollFd::new(&server, rustix::event::PollFlags::IN)], None).unwrap();
        let mut buffer = [0; 16];
        let got = receive_datagram(&server, &mut buffer).unwrap();
        assert_eq!((&buffer[..got.len], got.destination), (&b"ping"[..], Some(Ipv6Addr::LOCALHOST)));
        send_datagram(&server, b"pong", got.peer, got.destination, got.interface).unwrap();
        assert_eq!(client.recv(&mut buffer).unwrap(), 4);
    }
}

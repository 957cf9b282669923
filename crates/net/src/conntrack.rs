//! Connection tracking: datagram flows to a container that is gone are forgotten, or a client that keeps sending would
//! never reach its successor (`linux/netfilter/nfnetlink_conntrack.h`).

use std::net::IpAddr;

use crate::Endpoint;
use crate::endpoint::Protocol;
use crate::netlink::{self, AttributeReader, Batch, Socket};
use crate::nft::{FAMILY_IPV4, FAMILY_IPV6, HEADER_LEN};

const SUBSYSTEM: u16 = 1;
const GET: u16 = 1;
const DELETE: u16 = 2;
const TUPLE_ORIG: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ZONE: u16 = 18;
const TUPLE_IP: u16 = 1;
const TUPLE_PROTO: u16 = 2;
const IP_V4_SRC: u16 = 1;
const IP_V6_SRC: u16 = 3;
const PROTO_NUM: u16 = 1;
const NESTED: u16 = 0x8000;

/// Forgets the datagram flows that the endpoint answered. Does nothing for one without UDP ports. A failure is logged: the
/// flows end by themselves once their clients fall silent.
pub fn forget_datagrams(socket: &mut Socket, endpoint: &Endpoint) {
    if !endpoint.bindings.iter().any(|binding| binding.protocol == Protocol::Udp) {
        return;
    }
    for address in endpoint.addresses() {
        forget_those_of(socket, address);
    }
}

fn forget_those_of(socket: &mut Socket, address: IpAddr) {
    let family = if address.is_ipv4() { FAMILY_IPV4 } else { FAMILY_IPV6 };
    let mut batches = Vec::new();
    let list = socket.query(
        SUBSYSTEM << 8 | GET,
        netlink::DUMP,
        &[family, 0, 0, 0],
        |_| (),
        |message| {
            let attributes = message.attributes(HEADER_LEN);
            if let Some(original) = attributes.find(TUPLE_ORIG).filter(|_| answered_by(attributes, address)) {
                let mut batch = Batch::new();
                batch.add(SUBSYSTEM << 8 | DELETE, 0, &[family, 0, 0, 0], |flow| {
                    flow.bytes(TUPLE_ORIG | NESTED, original);
                    if let Some(zone) = attributes.find(ZONE) {
                        flow.bytes(ZONE, zone);
                    }
                });
                batches.push(batch);
            }
        },
    );
    if let Err(errno) = list {
        tracing::warn!(%errno, "the connection tracking table cannot be read");
    }
    for batch in batches {
        // It may have ended by itself meanwhile.
        let _ = socket.transact(batch);
    }
}

fn answered_by(attributes: AttributeReader<'_>, address: IpAddr) -> bool {
    let is_from = || {
        let reply = AttributeReader(attributes.find(TUPLE_REPLY)?);
        let datagrams = AttributeReader(reply.find(TUPLE_PROTO)?).find(PROTO_NUM)? == [Protocol::Udp.number()];
        let ends = AttributeReader(reply.find(TUPLE_IP)?);
        let same = match address {
            IpAddr::V4(address) => ends.find(IP_V4_SRC)? == address.octets(),
            IpAddr::V6(address) => ends.find(IP_V6_SRC)? == address.octets(),
        };
        Some(datagrams && same)
    };
    is_from() == Some(true)
}

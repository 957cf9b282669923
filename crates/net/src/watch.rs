//! Keeps the table there: others flush it (`nft flush ruleset`), and firewalls come and go beside it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Weak};
use std::thread;

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, netlink::SocketAddrNetlink};

use crate::manager::Inner;
use crate::netlink::{Messages, text};
use crate::nft::{DEL_TABLE, HEADER_LEN, NEW_CHAIN, SUBSYSTEM, TABLE_NAME};

/// `NFNLGRP_NFTABLES` as a bit.
const GROUP_NFTABLES: u32 = 1 << (7 - 1);
/// A reload of a firewall is many events: the table is looked at when none has come for so long.
const QUIET: Timespec = Timespec { tv_sec: 0, tv_nsec: 50_000_000 };
/// Kinds up to this one are about tables, chains and rules.
const RULE_KINDS_END: u16 = 8;

/// A thread that repairs. Ends when dropped.
#[derive(Debug)]
pub struct Watcher {
    stop: OwnedFd,
}

impl Watcher {
    /// Starts watching. Without it the engine works, but repairs nothing by itself.
    pub fn start(inner: &Arc<Inner>) -> Option<Self> {
        match spawn(inner) {
            Ok(stop) => Some(Self { stop }),
            Err(errno) => {
                tracing::warn!(%errno, "the packet filter is not watched");
                None
            }
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
    }
}

/// What events were about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Seen {
    /// Our table was touched by somebody else.
    ours: bool,
    /// Chains or rules of others changed.
    others: bool,
}

fn spawn(inner: &Arc<Inner>) -> Result<OwnedFd, Errno> {
    let protocol = Some(rustix::net::netlink::NETFILTER);
    let events = rustix::net::socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK, protocol)?;
    rustix::net::bind(&events, &SocketAddrNetlink::new(0, GROUP_NFTABLES))?;
    let stop = rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?;
    let stopped = stop.try_clone().map_err(|_| Errno::MFILE)?;
    let inner = Arc::downgrade(inner);
    let builder = thread::Builder::new().name("nft-watch".to_owned()).stack_size(512 * 1024);
    builder.spawn(move || watch(&events, &stopped, &inner)).map_err(|_| Errno::AGAIN)?;
    Ok(stop)
}

fn watch(events: &OwnedFd, stop: &OwnedFd, inner: &Weak<Inner>) {
    let mut seen = Seen::default();
    loop {
        let pending = seen != Seen::default();
        let mut polled = [PollFd::new(stop, PollFlags::IN), PollFd::new(events, PollFlags::IN)];
        let ready = match rustix::event::poll(&mut polled, pending.then_some(&QUIET)) {
            Ok(ready) => ready,
            Err(Errno::INTR) => continue,
            Err(_) => return,
        };
        if !polled[0].revents().is_empty() {
            return;
        }
        let Some(inner) = inner.upgrade() else { return };
        if ready == 0 {
            act(&inner, seen);
            seen = Seen::default();
        } else {
            look(events, &inner, &mut seen);
        }
    }
}

fn act(inner: &Inner, seen: Seen) {
    let done = if seen.ours {
        tracing::warn!(table = inner.config.table, "others changed our packet filter table; it is put right");
        inner.install()
    } else {
        inner.refresh_foreign()
    };
    if let Err(error) = done {
        tracing::error!(error = types::error::chain(&error), "the packet filter is not as it should be");
    }
}

fn look(events: &OwnedFd, inner: &Inner, seen: &mut Seen) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match rustix::net::recv(events.as_fd(), &mut buffer[..], RecvFlags::empty()) {
            Ok((len, _)) => {
                for message in Messages(&buffer[..len]) {
                    judge(message.kind, message.sender, message.attributes(HEADER_LEN).find(TABLE_NAME), inner, seen);
                }
            }
            // Events were lost: anything may have happened.
            Err(Errno::NOBUFS) => *seen = Seen { ours: true, others: true },
            Err(_) => return,
        }
    }
}

/// The table's name is the first attribute of every kind of object.
fn judge(kind: u16, sender: u32, table: Option<&[u8]>, inner: &Inner, seen: &mut Seen) {
    if kind >> 8 != SUBSYSTEM || inner.is_own_port(sender) {
        return;
    }
    let kind = kind & 0xff;
    if table.map(text).as_deref() == Some(&inner.config.table) {
        seen.ours = true;
    } else if kind == DEL_TABLE || (NEW_CHAIN..=RULE_KINDS_END).contains(&kind) {
        seen.others = true;
    }
}

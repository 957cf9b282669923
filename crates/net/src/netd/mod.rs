//! The process that holds published ports: bound sockets that reserve them, and a proxy for what the kernel cannot translate.
//! It answers containers' questions for names, too.
//!
//! Whatever arrives at a held socket is passed on to the container: all of IPv6 (`[::1]` too), and IPv4 that met no
//! translation because others flushed the packet filter. One thread, one epoll, bounded buffers, no privileges.

mod dns;
mod forward;
pub(crate) mod handle;
mod names;
mod program;
pub(crate) mod protocol;
mod tcp;
mod udp;
pub(crate) mod zone;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

/// Does what [`crate::Net::keep`] asked for, on a thread of its own: what was asked, and whether it is still wanted.
pub type Keep = fn(&str, &dyn Fn() -> bool);

/// `cais netd --socket PATH`: listens there, holds what engines hand over, gives up its privileges, outlives the engine.
/// It ends when told, or when it holds nothing and no engine is connected for a while. `args` are those after `netd`.
/// A `SOCK_SEQPACKET` socket as descriptor 3 is the first engine's connection. `--protocol NUMBER` before it says another
/// version of the protocol than this program speaks, to see how such a netd is replaced.
pub fn main(args: impl Iterator<Item = OsString>, keep: Keep) -> ExitCode {
    let mut args = args.peekable();
    let mut version = Some(protocol::VERSION);
    if args.next_if(|flag| flag == "--protocol").is_some() {
        version = args.next().and_then(|number| number.to_str()?.parse().ok());
    }
    let (version, socket) = match (version, args.next(), args.next(), args.next()) {
        (Some(version), Some(flag), Some(path), None) if flag == "--socket" => (version, PathBuf::from(path)),
        _ => {
            eprintln!("cais netd: usage: cais netd [--protocol NUMBER] --socket PATH (the engine starts it)");
            return ExitCode::from(125);
        }
    };
    match program::run(&socket, version, keep) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("cais netd: {}: {error}", socket.display());
            ExitCode::FAILURE
        }
    }
}

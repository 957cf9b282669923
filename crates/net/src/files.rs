//! What a container reads about names: `/etc/hosts` and `/etc/resolv.conf`. Pure functions; the caller reads and writes the files.

use std::net::IpAddr;

/// The file of systemd-resolved that lists the real resolvers, to be given to [`resolv_conf`] when [`is_stub`] says so.
pub const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// Whether the only resolvers listed are systemd-resolved's loopback stubs, so that [`RESOLVED_UPSTREAM`] should be read instead.
pub fn is_stub(host_file: &str) -> bool {
    let _ = host_file;
    todo!()
}

/// A container's `resolv.conf` from the host's. `dns`, `search` and `options` replace what the host says when not empty
/// (`search` of `["."]` means none). Loopback resolvers, which a container with its own namespace cannot reach, are
/// dropped; when none is left, Google's public ones are taken, as Docker does.
/// With `keep_loopback` (network `host`) nothing is dropped.
pub fn resolv_conf(host_file: &str, dns: &[IpAddr], search: &[String], options: &[String], keep_loopback: bool) -> String {
    let _ = (host_file, dns, search, options, keep_loopback);
    todo!()
}

/// A container's `hosts`: loopback names, then `extra` (of `--add-host`, already resolved), then one line per own address
/// with the host name (and its first label, if it has a domain).
pub fn hosts_file(hostname: &str, addresses: &[IpAddr], extra: &[(String, IpAddr)]) -> String {
    let _ = (hostname, addresses, extra);
    todo!()
}

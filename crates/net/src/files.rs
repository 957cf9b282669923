//! What a container reads about names: `/etc/hosts` and `/etc/resolv.conf`. Pure functions; the caller reads and writes the files.

use std::fmt::Write as _;
use std::net::IpAddr;

/// The file of systemd-resolved that lists the real resolvers, to be given to [`resolv_conf`] when [`is_stub`] says so.
pub const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";

/// Where Docker, and so everybody's images, turn to when the host names no resolver that a container can reach.
const PUBLIC_RESOLVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// Names that every container knows, as Docker writes them.
const LOOPBACK_HOSTS: &str = "127.0.0.1\tlocalhost\n\
    ::1\tlocalhost ip6-localhost ip6-loopback\n\
    fe00::\tip6-localnet\n\
    ff00::\tip6-mcastprefix\n\
    ff02::1\tip6-allnodes\n\
    ff02::2\tip6-allrouters\n";

/// The servers that a `resolv.conf` of the host lists, loopback ones included, or the public ones if it lists none.
pub(crate) fn servers(host_file: &str) -> Vec<IpAddr> {
    let listed: Vec<_> = nameservers(host_file).collect();
    if listed.is_empty() { PUBLIC_RESOLVERS.iter().filter_map(|address| address.parse().ok()).collect() } else { listed }
}

/// The `resolv.conf` of a container whose questions netd answers: the engine's own server, and the rest as of [`resolv_conf`].
/// Names of one label are asked as they are, unless `options` say otherwise.
pub fn resolv_conf_with_names(host_file: &str, search: &[String], options: &[String]) -> String {
    let mut options = if options.is_empty() { all_values(host_file, "options") } else { options.to_vec() };
    if !options.iter().any(|option| option.starts_with("ndots:")) {
        options.push("ndots:0".to_owned());
    }
    resolv_conf(host_file, &[crate::names::ADDRESS.into()], search, &options, false)
}

/// Whether the only resolvers listed are systemd-resolved's loopback stubs, so that [`RESOLVED_UPSTREAM`] should be read instead.
pub fn is_stub(host_file: &str) -> bool {
    let mut servers = nameservers(host_file).peekable();
    servers.peek().is_some() && servers.all(|server| server == IpAddr::from([127, 0, 0, 53]) || server == IpAddr::from([127, 0, 0, 54]))
}

/// A container's `resolv.conf` from the host's. `dns`, `search` and `options` replace what the host says when not empty
/// (`search` of `["."]` means none). Loopback resolvers, which a container with its own namespace cannot reach, are
/// dropped; when none is left, Google's public ones are taken, as Docker does.
/// With `keep_loopback` (network `host`) nothing is dropped.
pub fn resolv_conf(host_file: &str, dns: &[IpAddr], search: &[String], options: &[String], keep_loopback: bool) -> String {
    let mut servers: Vec<String> = match dns {
        [] => nameservers(host_file).filter(|server| keep_loopback || !unreachable(server)).map(|server| server.to_string()).collect(),
        given => given.iter().map(ToString::to_string).collect(),
    };
    if servers.is_empty() && !keep_loopback {
        servers.extend(PUBLIC_RESOLVERS.map(str::to_owned));
    }
    let search = match search {
        [] => last_values(host_file, &["search", "domain"]),
        [only] if only == "." => Vec::new(),
        given => given.to_vec(),
    };
    let options = if options.is_empty() { all_values(host_file, "options") } else { options.to_vec() };
    let mut text = String::new();
    for server in servers {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "nameserver {server}");
    }
    for (keyword, values) in [("search", search), ("options", options)] {
        if !values.is_empty() {
            let _ = writeln!(text, "{keyword} {}", values.join(" "));
        }
    }
    text
}

/// A container's `hosts`: loopback names, then `extra` (of `--add-host`, already resolved), then one line per own address
/// with the host name (and its first label, if it has a domain; names separated by a blank are taken as they are).
pub fn hosts_file(hostname: &str, addresses: &[IpAddr], extra: &[(String, IpAddr)]) -> String {
    let mut text = LOOPBACK_HOSTS.to_owned();
    for (name, address) in extra {
        let _ = writeln!(text, "{address}\t{name}");
    }
    for address in addresses {
        match hostname.split_once('.') {
            Some((label, _)) if !label.is_empty() && !hostname.contains(' ') => _ = writeln!(text, "{address}\t{hostname} {label}"),
            _ => _ = writeln!(text, "{address}\t{hostname}"),
        }
    }
    text
}

/// The resolvers that a `resolv.conf` lists, in order. A zone (`fe80::1%eth0`) is meaningless elsewhere, so such lines are left out.
pub(crate) fn nameservers(file: &str) -> impl Iterator<Item = IpAddr> + '_ {
    lines(file).filter_map(|(keyword, values)| (keyword == "nameserver").then(|| values.split_whitespace().next()?.parse().ok()).flatten())
}

/// Only the machine itself answers there.
fn unreachable(server: &IpAddr) -> bool {
    server.is_loopback() || server.is_unspecified()
}

/// The last line with one of the keywords wins, as in the C library.
fn last_values(file: &str, keywords: &[&str]) -> Vec<String> {
    let last = lines(file).filter(|(keyword, _)| keywords.contains(keyword)).last();
    last.map(|(_, values)| values.split_whitespace().filter(|value| *value != ".").map(str::to_owned).collect()).unwrap_or_default()
}

fn all_values(file: &str, wanted: &str) -> Vec<String> {
    lines(file).filter(|(keyword, _)| *keyword == wanted).flat_map(|(_, values)| values.split_whitespace()).map(str::to_owned).collect()
}

/// Lines as (keyword, rest), comments aside.
fn lines(file: &str) -> impl Iterator<Item = (&str, &str)> {
    file.lines().filter_map(|line| line.split(['#', ';']).next()?.trim().split_once([' ', '\t']))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# made by hand\nnameserver 127.0.0.1\nnameserver 10.0.0.53 # main\nnameserver ::1\nnameserver fd00::53\n\
        domain old.example\nsearch example.org  corp\noptions ndots:2 timeout:1\n";

    #[test]
    fn loopback_resolvers_are_dropped_and_the_rest_kept() {
        let expected = "nameserver 10.0.0.53\nnameserver fd00::53\nsearch example.org corp\noptions ndots:2 timeout:1\n";
        assert_eq!(resolv_conf(HOST, &[], &[], &[], false), expected);
        assert!(resolv_conf(HOST, &[], &[], &[], true).starts_with("nameserver 127.0.0.1\n"));
    }

    #[test]
    fn given_values_replace_the_hosts() {
        let text = resolv_conf(HOST, &["9.9.9.9".parse().unwrap()], &[".".to_owned()], &["rotate".to_owned()], false);
        assert_eq!(text, "nameserver 9.9.9.9\noptions rotate\n");
        assert_eq!(
            resolv_conf("", &["127.0.0.1".parse().unwrap()], &["a".to_owned(), "b".to_owned()], &[], false),
            "nameserver 127.0.0.1\nsearch a b\n"
        );
    }

    #[test]
    fn containers_on_networks_of_their_own_ask_the_engine() {
        let expected = "nameserver 127.0.0.11\nsearch example.org corp\noptions ndots:2 timeout:1\n";
        assert_eq!(resolv_conf_with_names(HOST, &[], &[]), expected);
        assert_eq!(resolv_conf_with_names("nameserver 1.1.1.1\n", &[], &[]), "nameserver 127.0.0.11\noptions ndots:0\n");
        assert_eq!(servers("nameserver 127.0.0.53\n"), [IpAddr::from([127, 0, 0, 53])]);
        assert_eq!(servers("").len(), 2);
    }

    #[test]
    fn public_resolvers_are_the_last_resort() {
        assert_eq!(resolv_conf("nameserver 127.0.0.53\n", &[], &[], &[], false), "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
        assert_eq!(resolv_conf("", &[], &[], &[], true), "");
    }

    #[test]
    fn stubs_are_recognised() {
        assert!(is_stub("nameserver 127.0.0.53\noptions edns0\n"));
        for other in ["", "nameserver 10.0.0.1\n", "nameserver 127.0.0.53\nnameserver 10.0.0.1\n", "nameserver 127.0.0.1\n"] {
            assert!(!is_stub(other), "{other:?}");
        }
    }

    #[test]
    fn hosts_have_loopback_extra_and_own_lines() {
        let text = hosts_file("web.example.org", &["172.30.0.2".parse().unwrap()], &[("db".to_owned(), "10.1.1.1".parse().unwrap())]);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n"));
        assert!(text.ends_with("10.1.1.1\tdb\n172.30.0.2\tweb.example.org web\n"), "{text}");
        assert!(hosts_file("abc", &["::2".parse().unwrap()], &[]).ends_with("::2\tabc\n"));
    }
}

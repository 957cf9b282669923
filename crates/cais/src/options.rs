//! The engine's options: from the command line, then from a file, then the defaults that belong to the data root.

mod daemon_json;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cli::flags::{self, Flag, Matches, list, switch, text};
use engine::image::{Proxies, RegistrySettings};
use engine::{IdRange, RuntimeProgram, SandboxSettings};
use net::NetConfig;
use serde::Deserialize;

use crate::network;

const DATA_ROOT: &str = "/var/lib/cais";
const EXEC_ROOT: &str = "/run/cais";
const CERTIFICATES: [&str; 2] = ["/etc/cais/certs.d", "/etc/docker/certs.d"];
const CDI_DIRECTORIES: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];
/// Where the configuration is looked for, in this order.
const CONFIG_FILES: &[&str] = &["/etc/cais/engine.toml", "/etc/cais/daemon.json"];
const STANDBY_DEFAULT: usize = 0;
const STANDBY_MAX: usize = 64;
const GROUP: &str = "cais";
/// A larger file is no configuration.
const CONFIG_BYTES_MAX: u64 = 1024 * 1024;

/// The flags of `cais engine`, named as dockerd's; the same names are the keys of the file.
pub(crate) const FLAGS: &[Flag] = &[
    list("host", Some('H'), "Listen here: unix:///PATH or tcp://127.0.0.1:PORT (default unix://EXEC-ROOT/cais.sock)"),
    text("group", Some('G'), "Group that may use the socket (default cais, where it exists)"),
    text("data-root", None, "Folder of images, containers and volumes (default /var/lib/cais)"),
    text("exec-root", None, "Folder of what must not survive a reboot (default /run/cais)"),
    text("pidfile", Some('p'), "File for the process id (default EXEC-ROOT/cais.pid)"),
    text(
        "config-file",
        None,
        "TOML file, or JSON file as dockerd has it, with these options (default /etc/cais/engine.toml, then /etc/cais/daemon.json)",
    ),
    text("bridge", Some('b'), "Name of the default network's bridge (default derived from the data root)"),
    text("bip", None, "Address and prefix of the bridge, 10.10.0.1/24 say"),
    list("insecure-registry", None, "Registry whose certificate does not matter, or that has none: HOST[:PORT] or a range of addresses"),
    list("registry-mirror", None, "Ask this URL first for what is pulled from Docker Hub, or from HOST: [HOST=]URL"),
    list("registry-endpoint", None, "Reach a registry elsewhere than its name says: HOST=URL"),
    list(
        "registry-certs",
        None,
        "Folder with HOST[:PORT]/ca.crt, client.cert and client.key (default /etc/cais/certs.d and /etc/docker/certs.d)",
    ),
    text("http-proxy", None, "Proxy for http URLs of registries (default $HTTP_PROXY)"),
    text("https-proxy", None, "Proxy for https URLs of registries (default $HTTPS_PROXY)"),
    text("no-proxy", None, "Hosts that are reached without a proxy, separated by commas (default $NO_PROXY)"),
    list("add-runtime", None, "OCI runtime besides the engine's own: NAME=PATH"),
    text("default-runtime", None, "OCI runtime of containers that name none (default cais)"),
    list("cdi-spec-dir", None, "Folder of CDI specifications of devices (default /etc/cdi and /var/run/cdi)"),
    switch("debug", Some('D'), "Log what helps to find mistakes, as --log-level debug does"),
    list("label", None, "Label of this engine, which info shows: NAME=VALUE"),
    text("log-driver", None, "Where the output of containers goes that name no --log-driver (default json-file)"),
    text("log-format", None, "How the engine logs: text or json (default text)"),
    text("cluster-store", None, "Where networks across machines are kept: etcd://HOST:2379[,HOST:2379...], etcds:// for TLS"),
    text("cluster-advertise", None, "Address or interface under which other hosts reach this one"),
    list("cluster-store-opt", None, "Option of the cluster store: kv.cacertfile=FILE, kv.certfile, kv.keyfile, kv.user, kv.passwordfile"),
    text("cluster-ttl", None, "How long this host's containers stay known after its last sign of life (default 30s)"),
    text("standby", None, "Sandboxes that stand by for starts on the default bridge (default 0: none; at most 64)"),
    text("userns-remap", None, "User namespaces for containers: default, or USER[:GROUP] with ranges in /etc/subuid and /etc/subgid"),
    text("log-level", Some('l'), "How much to log: trace, debug, info, warn or error (default info)"),
    list("log-opt", None, "Option of --log-driver for containers: NAME=VALUE"),
    text("metrics-addr", None, "Serve figures for Prometheus at this address and port: 127.0.0.1:9323"),
    text("ready-fd", None, "Descriptor that is written to and closed when the engine listens"),
    switch("help", Some('h'), "Show help"),
];

/// What the engine is started with.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) hosts: Vec<Host>,
    pub(crate) group: String,
    /// The group was asked for by name: it must exist.
    pub(crate) group_given: bool,
    pub(crate) data_root: PathBuf,
    pub(crate) exec_root: PathBuf,
    pub(crate) pidfile: PathBuf,
    pub(crate) net: NetConfig,
    pub(crate) registries: RegistrySettings,
    pub(crate) sandbox: SandboxSettings,
    pub(crate) cluster: Option<engine::overlay::ClusterConfig>,
    pub(crate) log_level: tracing::Level,
    pub(crate) log_json: bool,
    pub(crate) metrics: Option<std::net::SocketAddr>,
    pub(crate) settings: engine::Settings,
    pub(crate) ready_fd: Option<i32>,
}

/// Where clients come in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Host {
    Unix(PathBuf),
    Tcp(std::net::SocketAddr),
    /// Sockets that systemd opened.
    Inherited,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct File {
    host: Vec<String>,
    group: Option<String>,
    data_root: Option<PathBuf>,
    exec_root: Option<PathBuf>,
    pidfile: Option<PathBuf>,
    bridge: Option<String>,
    bip: Option<String>,
    default_address_pool: Vec<String>,
    ipv6: Option<bool>,
    fixed_cidr_v6: Option<String>,
    mtu: Option<u32>,
    firewall: Option<String>,
    published: Option<String>,
    published_allow: Vec<String>,
    insecure_registry: Vec<String>,
    registry_mirror: Vec<String>,
    registry_endpoint: Vec<String>,
    registry_certs: Vec<String>,
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
    runtimes: BTreeMap<String, Runtime>,
    default_runtime: Option<String>,
    cdi_spec_dir: Vec<PathBuf>,
    cluster_store: Option<String>,
    cluster_advertise: Option<String>,
    cluster_store_opt: Vec<String>,
    cluster_ttl: Option<String>,
    standby: Option<usize>,
    userns_remap: Option<String>,
    log_level: Option<String>,
    debug: Option<bool>,
    label: Vec<String>,
    log_driver: Option<String>,
    log_format: Option<String>,
    log_opt: Vec<String>,
    metrics_addr: Option<String>,
}

/// A table `[runtimes.NAME]`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct Runtime {
    path: PathBuf,
    #[serde(default)]
    runtime_args: Vec<String>,
}

impl Options {
    pub(crate) fn read(matches: &Matches) -> Result<Self> {
        let file = read_file(matches.text("config-file"))?;
        let path = |flag: &str, key: Option<PathBuf>, default: PathBuf| matches.text(flag).map(PathBuf::from).or(key).unwrap_or(default);
        let word = |flag: &str, key: Option<String>| matches.text(flag).map(str::to_owned).or(key);
        let words = |flag: &str, key: Vec<String>| match matches.list(flag) {
            given if given.is_empty() => key,
            given => given.into_iter().map(str::to_owned).collect(),
        };
        let data_root = absolute(path("data-root", file.data_root, DATA_ROOT.into()))?;
        let exec_root = absolute(path("exec-root", file.exec_root, EXEC_ROOT.into()))?;
        let mut hosts = words("host", file.host).iter().map(|text| parse_host(text)).collect::<Result<Vec<_>>>()?;
        if hosts.is_empty() {
            hosts.push(Host::Unix(exec_root.join("cais.sock")));
        }
        let mut net = NetConfig::derive(&data_root, &exec_root);
        if let Some(bridge) = word("bridge", file.bridge) {
            if bridge.is_empty() || bridge.len() > 15 || bridge.contains(['/', ' ']) {
                bail!("--bridge {bridge:?}: an interface's name has 1 to 15 characters, no space and no slash");
            }
            net.bridge = bridge;
        }
        if let Some(bip) = word("bip", file.bip) {
            net.bip = Some(bip.parse().with_context(|| format!("--bip {bip:?}"))?);
        }
        let keys = network::Keys {
            default_address_pool: file.default_address_pool,
            ipv6: file.ipv6,
            fixed_cidr_v6: file.fixed_cidr_v6,
            mtu: file.mtu,
            firewall: file.firewall,
            published: file.published,
            published_allow: file.published_allow,
        };
        network::read(&mut net, matches, keys)?;
        let sandbox = SandboxSettings {
            runtimes: runtimes(&matches.list("add-runtime"), file.runtimes)?,
            default_runtime: word("default-runtime", file.default_runtime).unwrap_or_default(),
            cdi_directories: match matches.list("cdi-spec-dir") {
                given if !given.is_empty() => given.into_iter().map(PathBuf::from).collect(),
                _ if !file.cdi_spec_dir.is_empty() => file.cdi_spec_dir,
                _ => CDI_DIRECTORIES.map(PathBuf::from).to_vec(),
            },
            standby: standby(matches.text("standby"), file.standby)?,
            remap: match word("userns-remap", file.userns_remap).as_deref() {
                None | Some("") => None,
                Some(text) => Some(IdRange::of_setting(text).map_err(|error| anyhow::anyhow!("--userns-remap {text:?}: {error}"))?),
            },
        };
        let mut certificates: Vec<PathBuf> = words("registry-certs", file.registry_certs).into_iter().map(PathBuf::from).collect();
        if certificates.is_empty() {
            certificates = CERTIFICATES.map(PathBuf::from).to_vec();
        }
        let registries = RegistrySettings {
            insecure: words("insecure-registry", file.insecure_registry),
            mirrors: registry_urls("registry-mirror", &words("registry-mirror", file.registry_mirror), Some("docker.io"))?,
            endpoints: registry_urls("registry-endpoint", &words("registry-endpoint", file.registry_endpoint), None)?
                .into_iter()
                .filter_map(|(host, mut urls)| Some((host, urls.pop()?)))
                .collect(),
            certificates,
            proxies: Proxies {
                http: word("http-proxy", file.http_proxy),
                https: word("https-proxy", file.https_proxy),
                none: word("no-proxy", file.no_proxy),
            },
        };
        let debug = matches.switch("debug").or(file.debug).unwrap_or(false);
        let level = word("log-level", file.log_level).unwrap_or_else(|| if debug { "debug" } else { "info" }.to_owned());
        let log_json = match word("log-format", file.log_format).as_deref() {
            None | Some("text") => false,
            Some("json") => true,
            Some(other) => bail!("--log-format {other:?}: use text or json"),
        };
        let metrics = word("metrics-addr", file.metrics_addr);
        let metrics = metrics
            .map(|text| text.parse().with_context(|| format!("--metrics-addr {text:?}: an IP address and a port are expected")))
            .transpose()?;
        let labels = words("label", file.label);
        if let Some(bad) = labels.iter().find(|label| label.split_once('=').is_none_or(|(name, _)| name.is_empty())) {
            bail!("--label {bad:?}: NAME=VALUE is expected");
        }
        let mut log = types::container::LogConfig {
            kind: word("log-driver", file.log_driver).unwrap_or_else(|| "json-file".to_owned()),
            ..Default::default()
        };
        for option in words("log-opt", file.log_opt) {
            let (name, value) = option.split_once('=').with_context(|| format!("--log-opt {option:?}: NAME=VALUE is expected"))?;
            log.config.insert(name.to_owned(), value.to_owned());
        }
        let ready_fd = matches.text("ready-fd").map(|text| text.parse().context("--ready-fd takes a number")).transpose()?;
        let group = word("group", file.group);
        let cluster = crate::cluster_options::read(crate::cluster_options::Words {
            store: word("cluster-store", file.cluster_store),
            advertise: word("cluster-advertise", file.cluster_advertise),
            store_options: words("cluster-store-opt", file.cluster_store_opt),
            ttl: word("cluster-ttl", file.cluster_ttl),
        })?;
        Ok(Self {
            hosts,
            group_given: group.is_some(),
            group: group.unwrap_or_else(|| GROUP.to_owned()),
            pidfile: path("pidfile", file.pidfile, exec_root.join("cais.pid")),
            net,
            registries,
            sandbox,
            cluster,
            log_level: level_named(&level)?,
            log_json,
            metrics,
            settings: engine::Settings { log, labels },
            data_root,
            exec_root,
            ready_fd,
        })
    }
}

fn standby(flag: Option<&str>, file: Option<usize>) -> Result<usize> {
    let given = flag.map(|text| text.parse().with_context(|| format!("--standby {text:?}"))).transpose()?.or(file);
    match given.unwrap_or(STANDBY_DEFAULT) {
        number if number <= STANDBY_MAX => Ok(number),
        number => bail!("--standby {number}: at most {STANDBY_MAX} are possible"),
    }
}

/// Those of the file, then those of the flags, `NAME=PATH`.
fn runtimes(given: &[&str], file: BTreeMap<String, Runtime>) -> Result<BTreeMap<String, RuntimeProgram>> {
    let of_file = |(name, runtime): (String, Runtime)| (name, RuntimeProgram { path: runtime.path, arguments: runtime.runtime_args });
    let mut all: BTreeMap<String, RuntimeProgram> = file.into_iter().map(of_file).collect();
    for text in given {
        match text.split_once('=') {
            Some((name, path)) if !name.is_empty() && !path.is_empty() => {
                all.insert(name.to_owned(), RuntimeProgram { path: path.into(), arguments: Vec::new() });
            }
            _ => bail!("--add-runtime {text:?}: NAME=PATH is expected"),
        }
    }
    if let Some(name) = all.keys().find(|name| name.contains('/') || *name == "cais") {
        bail!("the runtime {name:?} cannot be called so: a slash begins a path, and cais is the engine's own");
    }
    Ok(all)
}

/// `HOST=URL`, or only a URL where there is a host to be implied, by host.
fn registry_urls(flag: &str, words: &[String], implied: Option<&str>) -> Result<BTreeMap<String, Vec<String>>> {
    let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for word in words {
        let (host, url) = match word.split_once('=') {
            Some((host, url)) if !host.contains("://") => (Some(host), url),
            _ => (implied, word.as_str()),
        };
        let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let is_url = rest.is_some_and(|rest| !rest.starts_with('/') && !rest.is_empty() && !rest.contains(['?', '#', ' ', '@']));
        match host.filter(|host| !host.is_empty() && is_url) {
            Some(host) => found.entry(host.to_owned()).or_default().push(url.to_owned()),
            None => {
                bail!("--{flag} {word:?}: {}https://HOST[:PORT] is expected", if implied.is_some() { "[REGISTRY=]" } else { "REGISTRY=" })
            }
        }
    }
    Ok(found)
}

/// Reads the flags; the words that are left are returned, too.
pub(crate) fn parse(args: &[std::ffi::OsString]) -> Result<Matches> {
    let words: Vec<String> = args
        .iter()
        .map(|word| word.to_str().map(str::to_owned).with_context(|| format!("the argument {} is not UTF-8", word.display())))
        .collect::<Result<_>>()?;
    flags::parse(&[FLAGS, network::FLAGS], true, &words)
        .map_err(|misuse| anyhow::anyhow!("{}\n\nRun 'cais engine --help' for more information", misuse.0))
}

fn read_file(given: Option<&str>) -> Result<File> {
    let default = || CONFIG_FILES.iter().copied().find(|path| Path::new(path).exists());
    let Some(path) = given.or_else(default).map(Path::new) else { return Ok(File::default()) };
    let read = || format!("read the configuration {}", path.display());
    let size = std::fs::metadata(path).with_context(read)?.len();
    if size > CONFIG_BYTES_MAX {
        bail!("{}: it is larger than {CONFIG_BYTES_MAX} bytes", read());
    }
    let text = std::fs::read_to_string(path).with_context(read)?;
    if path.extension().is_some_and(|extension| extension == "json") {
        return daemon_json::read(&text).with_context(read);
    }
    toml::from_str(&text).with_context(read)
}

fn absolute(path: PathBuf) -> Result<PathBuf> {
    std::path::absolute(&path).with_context(|| format!("make {} absolute", path.display()))
}

pub(crate) fn parse_host(text: &str) -> Result<Host> {
    if let Some(path) = text.strip_prefix("unix://") {
        return if path.starts_with('/') {
            Ok(Host::Unix(path.into()))
        } else {
            bail!("--host {text:?}: an absolute path is expected: unix:///run/cais/cais.sock")
        };
    }
    if let Some(address) = text.strip_prefix("tcp://") {
        return address
            .parse()
            .map(Host::Tcp)
            .with_context(|| format!("--host {text:?}: an IP address and a port are expected: tcp://127.0.0.1:2375"));
    }
    if text == "fd://" {
        return Ok(Host::Inherited);
    }
    bail!("--host {text:?}: use unix:///PATH, tcp://127.0.0.1:PORT, or fd:// for sockets of systemd")
}

fn level_named(name: &str) -> Result<tracing::Level> {
    match name {
        // Docker's words for what is above an error.
        "fatal" | "panic" => Ok(tracing::Level::ERROR),
        name => name.parse().map_err(|_| anyhow::anyhow!("--log-level {name:?}: use trace, debug, info, warn or error")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(args: &[&str]) -> Result<Options> {
        let args: Vec<std::ffi::OsString> = args.iter().map(Into::into).collect();
        Options::read(&parse(&args)?)
    }

    #[test]
    fn defaults_follow_the_roots() {
        let options = options(&["--data-root", "/d", "--exec-root", "/e", "--config-file", "/dev/null"]).expect("good options");
        assert_eq!(options.hosts, [Host::Unix("/e/cais.sock".into())]);
        assert_eq!(options.pidfile, Path::new("/e/cais.pid"));
    }

    #[test]
    fn registries_have_mirrors_and_endpoints() {
        let args = ["--registry-mirror", "https://a.example", "--registry-mirror", "r.example:5000=http://b.example/x"];
        let options =
            options(&[&args[..], &["--registry-endpoint", "docker.io=http://127.0.0.1:5000", "--config-file", "/dev/null"]].concat());
        let registries = options.expect("good options").registries;
        assert_eq!(registries.mirrors["docker.io"], ["https://a.example"]);
        assert_eq!(registries.mirrors["r.example:5000"], ["http://b.example/x"]);
        assert_eq!(registries.endpoints["docker.io"], "http://127.0.0.1:5000");
        assert_eq!(registries.certificates[0], Path::new("/etc/cais/certs.d"));
    }

    #[test]
    fn bad_values_are_refused() {
        for bad in [
            ["--host", "http://x"],
            ["--host", "tcp://localhost:1"],
            ["--bip", "banana"],
            ["--bridge", "much-too-long-name"],
            ["--default-address-pool", "x"],
            ["--default-address-pool", "base=fd00::/48,size=200"],
            ["--fixed-cidr-v6", "10.0.0.0/8"],
            ["--mtu", "5"],
            ["--firewall", "off"],
            ["--published", "all"],
            ["--published-allow", "0/tcp"],
            ["--published-allow", "80/icmp"],
            ["--log-level", "loud"],
            ["--registry-mirror", "mirror.example"],
            ["--registry-mirror", "=https://mirror.example"],
            ["--registry-endpoint", "https://elsewhere.example"],
            ["--log-format", "xml"],
            ["--metrics-addr", "localhost"],
            ["--label", "x"],
            ["--log-opt", "x"],
            ["--config-file", "/no/such/file"],
            ["--nonsense", "x"],
        ] {
            let without_file = ["--config-file", "/dev/null"];
            let args = if bad[0] == "--config-file" { bad.to_vec() } else { [bad, without_file].concat() };
            assert!(options(&args).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_the_defaults() {
        let file = std::env::temp_dir().join(format!("cais-options-{}.json", std::process::id()));
        let text = r#"{"log-driver": "local", "log-opts": {"max-size": "1m"}, "labels": ["a=b"], "debug": true, "hosts": ["unix:///x"]}"#;
        std::fs::write(&file, text).expect("written");
        let path = file.to_str().expect("text");
        let options = options(&["--config-file", path, "--host", "unix:///y", "--exec-root", "/e"]);
        std::fs::remove_file(&file).expect("removed");
        let options = options.expect("good options");
        assert_eq!(options.hosts, [Host::Unix("/y".into())]);
        assert_eq!((options.settings.log.kind.as_str(), options.log_level), ("local", tracing::Level::DEBUG));
        assert_eq!(
            (options.settings.log.config["max-size"].as_str(), options.settings.labels.as_slice()),
            ("1m", ["a=b".to_owned()].as_slice())
        );
    }
}

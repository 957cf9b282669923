//! Containers as the API shows them: in a list, and one by one.

use std::collections::BTreeMap;

use engine::request::{ContainerPaths, ContainerSize, ContainerView};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use types::Id;
use types::container::{Config, EndpointSettings, Health, HostConfig, List, Map, MountPoint, NamespaceMode, PortMap, State, Status};

/// How Go writes a moment that never came.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// A moment as Docker writes it.
pub fn moment(time: Option<Timestamp>) -> String {
    time.map_or_else(|| NEVER.to_owned(), |time| time.to_string())
}

/// One entry of the list.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Summary<'a> {
    id: &'a Id,
    names: [String; 1],
    image: &'a str,
    #[serde(rename = "ImageID")]
    image_id: &'a str,
    command: String,
    created: i64,
    ports: Vec<PortSummary>,
    #[serde(skip_serializing_if = "is_zero")]
    size_rw: u64,
    #[serde(skip_serializing_if = "is_zero")]
    size_root_fs: u64,
    labels: &'a BTreeMap<String, String>,
    state: Status,
    status: String,
    host_config: Value,
    network_settings: NetworksOnly,
    mounts: &'a [MountPoint],
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworksOnly {
    networks: BTreeMap<String, EndpointSettings>,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
struct PortSummary {
    #[serde(rename = "PrivatePort")]
    private: u16,
    #[serde(rename = "Type")]
    protocol: String,
    #[serde(rename = "IP")]
    ip: String,
    #[serde(rename = "PublicPort", skip_serializing_if = "Option::is_none")]
    public: Option<u16>,
}

fn is_zero(value: &u64) -> bool {
    *value == 0
}

/// An entry of the list, as it is at the moment `now`.
pub fn summary(view: &ContainerView, now: Timestamp) -> Summary<'_> {
    let record = &view.record;
    let mut host = json!({ "NetworkMode": record.host.network_mode });
    if !record.host.annotations.is_empty() {
        host["Annotations"] = json!(record.host.annotations);
    }
    let ports = if is_up(&record.state) { observed_ports(&record.config, &record.ports) } else { Map::empty() };
    Summary {
        id: &record.id,
        names: [format!("/{}", record.name)],
        image: &record.image,
        image_id: &record.image_id,
        command: command_line(&record.path, &record.args),
        created: record.created.as_second(),
        ports: port_list(&ports),
        size_rw: view.size.map_or(0, |size| size.rw),
        size_root_fs: view.size.map_or(0, |size| size.root_fs),
        labels: &record.config.labels,
        state: record.state.status,
        status: status_words(&record.state, now),
        host_config: host,
        network_settings: NetworksOnly { networks: networks(view) },
        mounts: &record.mounts,
    }
}

/// All of a container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspect<'a> {
    id: &'a Id,
    created: String,
    path: &'a str,
    args: &'a [String],
    state: StateJson<'a>,
    image: &'a str,
    resolv_conf_path: &'a str,
    hostname_path: &'a str,
    hosts_path: &'a str,
    log_path: &'a str,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: &'a str,
    mount_label: &'static str,
    process_label: &'static str,
    app_armor_profile: &'static str,
    #[serde(rename = "ExecIDs")]
    exec_ids: List<Id>,
    host_config: &'a HostConfig,
    graph_driver: GraphDriver<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: &'a [MountPoint],
    config: &'a Config,
    network_settings: NetworkSettings,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct StateJson<'a> {
    status: Status,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: u32,
    exit_code: i32,
    error: &'a str,
    started_at: String,
    finished_at: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<&'a Health>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver<'a> {
    data: Layers<'a>,
    name: &'static str,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Layers<'a> {
    #[serde(rename = "ID")]
    id: &'a Id,
    lower_dir: &'a str,
    merged_dir: &'a str,
    upper_dir: &'a str,
    work_dir: &'a str,
}

/// The networks, and on top the default bridge's endpoint once more, where clients below API 1.52 look for it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(rename = "SandboxID")]
    sandbox_id: String,
    sandbox_key: String,
    ports: PortMap,
    #[serde(rename = "EndpointID")]
    endpoint_id: String,
    gateway: String,
    #[serde(rename = "GlobalIPv6Address")]
    global_ipv6_address: String,
    #[serde(rename = "GlobalIPv6PrefixLen")]
    global_ipv6_prefix_len: u8,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    #[serde(rename = "IPv6Gateway")]
    ipv6_gateway: String,
    mac_address: String,
    networks: BTreeMap<String, EndpointSettings>,
}

/// All of a container.
pub fn inspect(view: &ContainerView) -> Inspect<'_> {
    let record = &view.record;
    let ContainerPaths { resolv_conf, hostname, hosts, log, lower, upper, work, merged } = &view.paths;
    Inspect {
        id: &record.id,
        created: record.created.to_string(),
        path: &record.path,
        args: &record.args,
        state: state(&record.state),
        image: &record.image_id,
        resolv_conf_path: resolv_conf,
        hostname_path: hostname,
        hosts_path: hosts,
        log_path: log,
        name: format!("/{}", record.name),
        restart_count: record.restart_count,
        driver: "overlay2",
        platform: &record.platform,
        mount_label: "",
        process_label: "",
        app_armor_profile: "",
        exec_ids: if view.exec_ids.is_empty() { List::default() } else { view.exec_ids.clone().into() },
        host_config: &record.host,
        graph_driver: GraphDriver {
            data: Layers { id: &record.id, lower_dir: lower, merged_dir: merged, upper_dir: upper, work_dir: work },
            name: "overlay2",
        },
        size_rw: view.size.map(|ContainerSize { rw, .. }| rw),
        size_root_fs: view.size.map(|ContainerSize { root_fs, .. }| root_fs),
        mounts: &record.mounts,
        config: &record.config,
        network_settings: network_settings(view),
    }
}

fn state(state: &State) -> StateJson<'_> {
    StateJson {
        status: state.status,
        running: state.status.is_active(),
        paused: state.status == Status::Paused,
        restarting: state.status == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: state.status == Status::Dead,
        pid: state.pid,
        exit_code: state.exit_code,
        error: &state.error,
        started_at: moment(state.started_at),
        finished_at: moment(state.finished_at),
        health: state.health.as_ref(),
    }
}

/// Whether it has a process, and so a sandbox and ports.
fn is_up(state: &State) -> bool {
    matches!(state.status, Status::Running | Status::Paused)
}

fn network_settings(view: &ContainerView) -> NetworkSettings {
    let record = &view.record;
    let networks = networks(view);
    let bridge = networks.get("bridge").cloned().unwrap_or_default();
    let up = is_up(&record.state);
    let sandbox_id = record.sandbox_id.as_ref().filter(|_| up).map(ToString::to_string).unwrap_or_default();
    NetworkSettings {
        sandbox_key: if up { format!("/proc/{}/ns/net", record.state.pid) } else { String::new() },
        sandbox_id,
        ports: if up { observed_ports(&record.config, &record.ports) } else { Map::empty() },
        endpoint_id: bridge.endpoint_id,
        gateway: bridge.gateway,
        global_ipv6_address: bridge.global_ipv6_address,
        global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
        ip_address: bridge.ip_address,
        ip_prefix_len: bridge.ip_prefix_len,
        ipv6_gateway: bridge.ipv6_gateway,
        mac_address: bridge.mac_address,
        networks,
    }
}

/// The endpoints it has while it runs; otherwise the networks that it will join.
fn networks(view: &ContainerView) -> BTreeMap<String, EndpointSettings> {
    let record = &view.record;
    if !record.networks.is_empty() {
        return record.networks.clone();
    }
    let mode = match NamespaceMode::parse(&record.host.network_mode) {
        NamespaceMode::Container(_) => return BTreeMap::new(),
        NamespaceMode::Default => "bridge",
        NamespaceMode::Host => "host",
        NamespaceMode::Other(name) => name,
    };
    let asked = record.networking.endpoints_config.iter().find(|(name, _)| name.as_str() == mode).map(|(_, endpoint)| endpoint);
    // Of an endpoint asked for, only what was asked: addresses that a client copied from elsewhere are not this container's.
    let endpoint = asked.map_or_else(EndpointSettings::default, |asked| EndpointSettings {
        ipam_config: asked.ipam_config.clone(),
        links: asked.links.clone(),
        aliases: asked.aliases.clone(),
        driver_opts: asked.driver_opts.clone(),
        gw_priority: asked.gw_priority,
        ..EndpointSettings::default()
    });
    BTreeMap::from([(mode.to_owned(), endpoint)])
}

/// The published ports, and the exposed ones beside them as `null`.
fn observed_ports(config: &Config, published: &PortMap) -> PortMap {
    let mut ports: BTreeMap<_, _> = config.exposed_ports.keys().map(|port| (port.clone(), List::default())).collect();
    ports.extend(published.iter().map(|(port, bindings)| (port.clone(), bindings.clone())));
    ports.into()
}

fn port_list(ports: &PortMap) -> Vec<PortSummary> {
    let mut list = Vec::new();
    for (port, bindings) in ports {
        let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
        let Ok(private) = number.parse() else { continue };
        let entry = |ip: &str, public| PortSummary { private, protocol: protocol.to_owned(), ip: ip.to_owned(), public };
        if bindings.is_empty() {
            list.push(entry("", None));
        }
        list.extend(bindings.iter().map(|binding| entry(&binding.host_ip, binding.host_port.parse().ok())));
    }
    list.sort();
    list
}

fn command_line(path: &str, args: &[String]) -> String {
    let mut line = path.to_owned();
    for arg in args {
        line.push(' ');
        if arg.contains(' ') {
            line.push_str(&format!("'{arg}'"));
        } else {
            line.push_str(arg);
        }
    }
    line
}

/// The state in words, as `ps` shows it.
fn status_words(state: &State, now: Timestamp) -> String {
    let ago = |time: Option<Timestamp>| human_duration(time.map_or(0, |time| now.duration_since(time).as_secs()));
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => match state.health.as_ref().map(|health| health.status.as_str()) {
            None | Some("none" | "") => format!("Up {}", ago(state.started_at)),
            Some("starting") => format!("Up {} (health: starting)", ago(state.started_at)),
            Some(health) => format!("Up {} ({health})", ago(state.started_at)),
        },
        Status::Paused => format!("Up {} (Paused)", ago(state.started_at)),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago(state.finished_at)),
        Status::Dead => "Dead".to_owned(),
    }
}

/// A length of time in words, the larger the coarser.
fn human_duration(seconds: i64) -> String {
    const MINUTE: i64 = 60;
    const HOUR: i64 = 60 * MINUTE;
    const DAY: i64 = 24;
    let minutes = seconds / MINUTE;
    let hours = (seconds + HOUR / 2) / HOUR;
    match seconds {
        ..1 => "Less than a second".to_owned(),
        1 => "1 second".to_owned(),
        2..60 => format!("{seconds} seconds"),
        _ if minutes == 1 => "About a minute".to_owned(),
        _ if minutes < 60 => format!("{minutes} minutes"),
        _ if hours == 1 => "About an hour".to_owned(),
        _ if hours < 2 * DAY => format!("{hours} hours"),
        _ if hours < 14 * DAY => format!("{} days", hours / DAY),
        _ if hours < 60 * DAY => format!("{} weeks", hours / DAY / 7),
        _ if hours < 2 * 365 * DAY => format!("{} months", hours / DAY / 30),
        _ => format!("{} years", hours / DAY / 365),
    }
}

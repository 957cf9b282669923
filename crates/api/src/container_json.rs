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
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Value>,
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
        health: None,
        network_settings: NetworksOnly { networks: networks(view) },
        mounts: &record.mounts,
    }
}

impl Summary<'_> {
    /// The same with what its probes say, which Docker shows in `system df` only below API 1.52.
    pub fn with_health(mut self, view: &ContainerView) -> Self {
        let health = view.record.state.health.as_ref();
        let status = health.map_or("none", |health| health.status.as_str());
        self.health = Some(json!({ "Status": status, "FailingStreak": health.map_or(0, |health| health.failing_streak) }));
        self
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

/// The networks, and on top the default bridge's endpoint once more, if it is on that, where clients below API 1.52 look for it.
#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    #[serde(rename = "SandboxID")]
    sandbox_id: String,
    sandbox_key: String,
    ports: PortMap,
    #[serde(flatten)]
    bridge: Option<BridgeEndpoint>,
    networks: BTreeMap<String, EndpointSettings>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "PascalCase")]
struct BridgeEndpoint {
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
    let bridge = networks.get("bridge").cloned().map(|bridge| BridgeEndpoint {
        endpoint_id: bridge.endpoint_id,
        gateway: bridge.gateway,
        global_ipv6_address: bridge.global_ipv6_address,
        global_ipv6_prefix_len: bridge.global_ipv6_prefix_len,
        ip_address: bridge.ip_address,
        ip_prefix_len: bridge.ip_prefix_len,
        ipv6_gateway: bridge.ipv6_gateway,
        mac_address: bridge.mac_address,
    });
    let up = is_up(&record.state);
    let sandbox_id = record.sandbox_id.as_ref().filter(|_| up).map(ToString::to_string).unwrap_or_default();
    NetworkSettings {
        sandbox_key: if up { format!("/proc/{}/ns/net", record.state.pid) } else { String::new() },
        sandbox_id,
        ports: if up { observed_ports(&record.config, &record.ports) } else { Map::empty() },
        bridge,
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
    let ago = |time: Option<Timestamp>| types::words::duration(time.map_or(0, |time| now.duration_since(time).as_secs()));
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use types::container::CreateRequest;

    use super::*;

    const ID: &str = "f06b0f5c97b42d723bddbcd8962a4b22ab5b8dd1e502e1cbd0381b50daf3664c";

    /// A container that was asked for with `body` and is in `state`; `more` are further fields of its record.
    fn view(body: Value, state: Value, more: Value) -> ContainerView {
        let mut asked = CreateRequest::from_slice(body.to_string().as_bytes()).expect("a request");
        asked.host.fill_defaults(false);
        asked.config.labels.give();
        let mut record = json!({
            "id": ID, "name": "g1", "created": "2026-11-22T10:51:26.89022329Z", "image": "busybox:latest", "image_id": "sha256:00", "platform": "linux",
            "path": "sh", "args": ["-c", "echo out; sleep 300"], "config": asked.config, "host": asked.host, "networking": asked.networking,
            "mounts": [], "planned_mounts": [], "state": state, "exits": 0, "networks": {}, "ports": {}, "endpoint": null, "sandbox_id": null,
            "restart_count": 0, "stopped_by_hand": false,
        });
        if let (Value::Object(record), Value::Object(more)) = (&mut record, more) {
            record.extend(more);
        }
        let record = Arc::new(serde_json::from_value(record).expect("a record"));
        ContainerView { record, size: None, exec_ids: Vec::new(), paths: ContainerPaths::default() }
    }

    fn keys(value: &Value) -> Vec<&str> {
        let mut keys: Vec<&str> = value.as_object().expect("an object").keys().map(String::as_str).collect();
        keys.sort_unstable();
        keys
    }

    #[test]
    fn a_new_container_is_shown_with_its_blanks() {
        let view = view(json!({"Image": "busybox:latest", "Cmd": ["sh", "-c", "x"]}), json!({"status": "created"}), json!({}));
        let shown = serde_json::to_value(inspect(&view)).expect("encodes");
        let expected = [
            "AppArmorProfile",
            "Args",
            "Config",
            "Created",
            "Driver",
            "ExecIDs",
            "GraphDriver",
            "HostConfig",
            "HostnamePath",
            "HostsPath",
            "Id",
            "Image",
            "LogPath",
            "MountLabel",
            "Mounts",
            "Name",
            "NetworkSettings",
            "Path",
            "Platform",
            "ProcessLabel",
            "ResolvConfPath",
            "RestartCount",
            "State",
        ];
        assert_eq!(keys(&shown), expected);
        assert_eq!((&shown["Name"], &shown["ExecIDs"], &shown["Mounts"]), (&json!("/g1"), &Value::Null, &json!([])));
        assert_eq!(shown["Created"], "2026-11-22T10:51:26.89022329Z");
        let state = json!({
            "Status": "created", "Running": false, "Paused": false, "Restarting": false, "OOMKilled": false, "Dead": false, "Pid": 0, "ExitCode": 0,
            "Error": "", "StartedAt": "0001-01-01T00:00:00Z", "FinishedAt": "0001-01-01T00:00:00Z",
        });
        assert_eq!(shown["State"], state);
        let endpoint = json!({
            "IPAMConfig": null, "Links": null, "MacAddress": "", "Aliases": null, "DriverOpts": null, "GwPriority": 0, "NetworkID": "", "EndpointID": "",
            "Gateway": "", "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0, "DNSNames": null,
        });
        let networks = json!({
            "SandboxID": "", "SandboxKey": "", "Ports": {}, "EndpointID": "", "Gateway": "", "GlobalIPv6Address": "", "GlobalIPv6PrefixLen": 0,
            "IPAddress": "", "IPPrefixLen": 0, "IPv6Gateway": "", "MacAddress": "", "Networks": {"bridge": endpoint},
        });
        assert_eq!(shown["NetworkSettings"], networks);
        let config = json!({
            "Hostname": "", "Domainname": "", "User": "", "AttachStdin": false, "AttachStdout": false, "AttachStderr": false, "Tty": false,
            "OpenStdin": false, "StdinOnce": false, "Env": null, "Cmd": ["sh", "-c", "x"], "Image": "busybox:latest", "Volumes": null, "WorkingDir": "",
            "Entrypoint": null, "Labels": {},
        });
        assert_eq!(shown["Config"], config);
    }

    #[test]
    fn a_running_container_shows_its_ports_and_addresses() {
        let body = json!({"Image": "busybox:latest", "ExposedPorts": {"80/tcp": {}, "53/udp": {}}});
        let state = json!({"status": "running", "pid": 470, "started_at": "2026-11-22T10:51:29.738329675Z"});
        let more = json!({
            "networks": {"bridge": {"EndpointID": "e", "IPAddress": "172.17.0.2", "IPPrefixLen": 16, "Gateway": "172.17.0.1", "MacAddress": "ba:1c:dc:40:b2:70"}},
            "ports": {"80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32768"}]},
            "sandbox_id": ID,
        });
        let view = view(body, state, more);
        let shown = serde_json::to_value(inspect(&view)).expect("encodes");
        let settings = &shown["NetworkSettings"];
        assert_eq!(
            settings["Ports"],
            json!({"53/udp": null, "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "32768"}, {"HostIp": "::", "HostPort": "32768"}]})
        );
        assert_eq!((&settings["IPAddress"], &settings["SandboxID"]), (&json!("172.17.0.2"), &json!(ID)));
        let now = "2026-11-22T10:51:32.9Z".parse().expect("a time");
        let listed = serde_json::to_value(summary(&view, now)).expect("encodes");
        let ports = json!([
            {"IP": "", "PrivatePort": 53, "Type": "udp"}, {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 32768, "Type": "tcp"},
            {"IP": "::", "PrivatePort": 80, "PublicPort": 32768, "Type": "tcp"},
        ]);
        assert_eq!((&listed["Ports"], &listed["Status"], &listed["State"]), (&ports, &json!("Up 3 seconds"), &json!("running")));
        assert_eq!(listed["Command"], "sh -c 'echo out; sleep 300'");
        let expected = [
            "Command",
            "Created",
            "HostConfig",
            "Id",
            "Image",
            "ImageID",
            "Labels",
            "Mounts",
            "Names",
            "NetworkSettings",
            "Ports",
            "State",
            "Status",
        ];
        assert_eq!(keys(&listed), expected);
        assert_eq!(listed["HostConfig"], json!({"NetworkMode": "bridge"}));
    }

    #[test]
    fn states_are_put_into_words() {
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().expect("a time");
        let at = |seconds: i64| now.checked_sub(jiff::SignedDuration::from_secs(seconds)).ok();
        let words = |status, exit_code, started, finished| {
            let state = State { status, exit_code, started_at: at(started), finished_at: at(finished), ..State::default() };
            status_words(&state, now)
        };
        assert_eq!(words(Status::Created, 0, 0, 0), "Created");
        assert_eq!(words(Status::Running, 0, 60, 0), "Up About a minute");
        assert_eq!(words(Status::Paused, 0, 7200, 0), "Up 2 hours (Paused)");
        assert_eq!(words(Status::Restarting, 1, 9, 5), "Restarting (1) 5 seconds ago");
        assert_eq!(words(Status::Exited, 137, 9, 0), "Exited (137) Less than a second ago");
        assert_eq!((words(Status::Removing, 0, 0, 0), words(Status::Dead, 0, 0, 0)), ("Removal In Progress".to_owned(), "Dead".to_owned()));
    }

    #[test]
    fn a_shared_network_shows_none_of_its_own() {
        let body = json!({"Image": "busybox:latest", "HostConfig": {"NetworkMode": "container:abc"}});
        let view = view(body, json!({"status": "created"}), json!({}));
        assert!(networks(&view).is_empty());
    }
}

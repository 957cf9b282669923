//! The engine itself: is it there, what is it, what does it hold.

use std::collections::HashMap;
use std::sync::Arc;

use engine::Engine;
use engine::image::ListRequest;
use engine::request::{Filters, Info};
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::error::Failure;
use crate::http::{self, Outcome, Reply, Request, ok};
use crate::version::Version;
use crate::{container_json, images, volumes};

/// The engine's version.
const ENGINE_VERSION: &str = env!("CARGO_PKG_VERSION");

/// The machine's architecture in Go's names.
const fn go_architecture() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else {
        std::env::consts::ARCH
    }
}

pub fn ping() -> Reply {
    let reply = http::text(StatusCode::OK, "OK");
    let headers = [
        // The client builds with what this names; 1 is the engine's own builder.
        ("builder-version", "1"),
        ("swarm", "inactive"),
        ("cache-control", "no-cache, no-store, must-revalidate"),
        ("pragma", "no-cache"),
    ];
    headers.into_iter().fold(reply, |reply, (name, value)| http::with_header(reply, name, value))
}

/// Figures in Prometheus' text format.
pub fn metrics(engine: &Engine) -> Reply {
    http::text(StatusCode::OK, engine.metrics())
}

pub fn version() -> Outcome {
    let kernel = rustix::system::uname();
    let kernel = kernel.release().to_string_lossy();
    let (arch, current, oldest) = (go_architecture(), Version::CURRENT.to_string(), Version::OLDEST.to_string());
    ok(&json!({
        "Platform": { "Name": "Cais" },
        "Version": ENGINE_VERSION,
        "ApiVersion": current,
        "MinAPIVersion": oldest,
        "Os": "linux",
        "Arch": arch,
        "Components": [{
            "Name": "Engine",
            "Version": ENGINE_VERSION,
            "Details": {
                "ApiVersion": current,
                "Arch": arch,
                "BuildTime": "",
                "Experimental": "false",
                "GitCommit": "",
                "GoVersion": "",
                "KernelVersion": kernel,
                "MinAPIVersion": oldest,
                "Os": "linux",
            },
        }],
        "GitCommit": "",
        "GoVersion": "",
        "KernelVersion": kernel,
        "BuildTime": "",
    }))
}

pub async fn info(engine: Arc<Engine>, request: Request) -> Outcome {
    let info = engine.info().await?;
    ok(&encode_info(&info, request.version))
}

fn encode_info(info: &Info, version: Version) -> Value {
    let (running, paused, stopped) = info.containers;
    let limits = &info.limits;
    let [http_proxy, https_proxy, no_proxy] = &info.proxies;
    let mut shown = json!({
        "ID": info.id,
        "Containers": running + paused + stopped,
        "ContainersRunning": running,
        "ContainersPaused": paused,
        "ContainersStopped": stopped,
        "Images": info.images,
        "Driver": "overlay2",
        "DriverStatus": [
            ["Backing Filesystem", info.backing_filesystem.as_str()],
            ["Supports d_type", "true"],
            ["Using metacopy", "false"],
            ["Native Overlay Diff", "true"],
            ["userxattr", "false"],
        ],
        "Plugins": {
            "Volume": ["local"],
            "Network": ["bridge", "host", "null"],
            "Authorization": null,
            "Log": info.log_drivers,
        },
        "MemoryLimit": limits.memory,
        "SwapLimit": limits.swap,
        "CpuCfsPeriod": limits.cpu_cfs,
        "CpuCfsQuota": limits.cpu_cfs,
        "CPUShares": limits.cpu_shares,
        "CPUSet": limits.cpuset,
        "PidsLimit": limits.pids,
        "IPv4Forwarding": info.ipv4_forwarding,
        "Debug": tracing::enabled!(tracing::Level::DEBUG),
        "NFd": info.open_files,
        "OomKillDisable": limits.oom_kill_disable,
        "NGoroutines": tokio::runtime::Handle::current().metrics().num_alive_tasks(),
        "SystemTime": Timestamp::now().to_string(),
        "LoggingDriver": info.log_driver,
        "CgroupDriver": "cgroupfs",
        "CgroupVersion": info.cgroup_version.to_string(),
        "NEventsListener": info.event_listeners,
        "KernelVersion": info.kernel_version,
        "OperatingSystem": info.operating_system,
        "OSVersion": info.os_version,
        "OSType": "linux",
        "Architecture": std::env::consts::ARCH,
        "NCPU": info.cpus,
        "MemTotal": info.memory_total,
    });
    let rest = json!({
        "IndexServerAddress": "https://index.docker.io/v1/",
        "RegistryConfig": {
            "InsecureRegistryCIDRs": insecure_ranges(info),
            "IndexConfigs": index_configs(info),
            "Mirrors": hub_mirrors(info),
        },
        "GenericResources": null,
        "DockerRootDir": info.data_root,
        "HttpProxy": http_proxy,
        "HttpsProxy": https_proxy,
        "NoProxy": no_proxy,
        "Name": info.name,
        "Labels": info.labels,
        "ExperimentalBuild": false,
        "ServerVersion": ENGINE_VERSION,
        "Runtimes": info.runtimes.iter().map(|(name, path)| (name.clone(), json!({ "path": path }))).collect::<Map<_, _>>(),
        "DefaultRuntime": info.default_runtime,
        "Swarm": {
            "NodeID": "",
            "NodeAddr": "",
            "LocalNodeState": "inactive",
            "ControlAvailable": false,
            "Error": "",
            "RemoteManagers": null,
        },
        "LiveRestoreEnabled": true,
        "Isolation": "",
        "InitBinary": "cais-init",
        "ContainerdCommit": { "ID": "" },
        "RuncCommit": { "ID": "" },
        "InitCommit": { "ID": "" },
        "SecurityOptions": if info.remapped { json!(["name=seccomp,profile=builtin", "name=userns"]) } else { json!(["name=seccomp,profile=builtin"]) },
        "FirewallBackend": { "Driver": "nftables" },
        "DefaultAddressPools": info.address_pools.iter().map(|(base, size)| json!({ "Base": base, "Size": size })).collect::<Vec<_>>(),
        "CDISpecDirs": info.cdi_directories,
        "Warnings": info.warnings,
    });
    if let (Value::Object(shown), Value::Object(rest)) = (&mut shown, rest) {
        shown.extend(rest);
        if !version.since(49) {
            older_info(shown);
        }
    }
    shown
}

/// Fields that older clients expect.
fn older_info(shown: &mut Map<String, Value>) {
    shown.remove("FirewallBackend");
    for commit in ["ContainerdCommit", "RuncCommit", "InitCommit"] {
        shown.insert(commit.to_owned(), json!({ "ID": "", "Expected": "" }));
    }
    for table in ["BridgeNfIptables", "BridgeNfIp6tables"] {
        shown.insert(table.to_owned(), json!(false));
    }
    shown["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"] = Value::Null;
    shown["RegistryConfig"]["AllowNondistributableArtifactsHostnames"] = Value::Null;
}

/// The address ranges whose registries are not checked; those on loopback always.
fn insecure_ranges(info: &Info) -> Vec<&str> {
    ["::1/128", "127.0.0.0/8"]
        .into_iter()
        .chain(info.insecure_registries.iter().map(String::as_str).filter(|name| name.contains('/')))
        .collect()
}

fn hub_mirrors(info: &Info) -> Vec<String> {
    // Docker's all end in a slash.
    info.mirrors.get("docker.io").into_iter().flatten().map(|mirror| format!("{}/", mirror.trim_end_matches('/'))).collect()
}

/// What is set of each registry.
fn index_configs(info: &Info) -> Value {
    let mut configs = json!({ "docker.io": { "Name": "docker.io", "Mirrors": hub_mirrors(info), "Secure": true, "Official": true } });
    for name in info.insecure_registries.iter().filter(|name| !name.contains('/')) {
        configs[name] = json!({ "Name": name, "Mirrors": [], "Secure": false, "Official": false });
    }
    configs
}

pub async fn disk_usage(engine: Arc<Engine>, request: Request) -> Outcome {
    let types = request.query.all("type");
    if let Some(unknown) = types.iter().find(|kind| !["image", "container", "volume", "build-cache"].contains(&kind.as_str())) {
        return Err(Failure::bad(format!("unknown object type: {unknown}")));
    }
    let wanted = |kind: &str| types.is_empty() || types.iter().any(|asked| asked == kind);
    let usage = engine.disk_usage().await?;
    let mut shown = json!({});
    if wanted("image") {
        let asked = ListRequest { all: true, shared_size: true, ..ListRequest::default() };
        let list = engine.images().list(&asked).await.map_err(|error| Failure::of(&error))?;
        shown["LayersSize"] = json!(usage.store.disk.images);
        shown["Images"] = list.iter().map(|image| images::usage(image, request.version)).collect();
    }
    if wanted("container") {
        let now = Timestamp::now();
        shown["Containers"] =
            json!(usage.containers.iter().map(|view| container_json::summary(view, now).with_health(view)).collect::<Vec<_>>());
    }
    if wanted("volume") {
        let sizes: HashMap<&str, u64> = usage.store.volumes.iter().map(|volume| (volume.name.as_str(), volume.size)).collect();
        let list = engine.list_volumes(Filters::new()).await?.into_iter().map(|volume| {
            let mut entry = volumes::encode(&volume);
            // A volume made since the measurement has no size yet.
            let size = sizes.get(volume.name.as_str()).map_or(json!(-1), |size| json!(size));
            entry["UsageData"] = json!({ "RefCount": engine.volume_users(&volume.name).len(), "Size": size });
            entry
        });
        shown["Volumes"] = list.collect();
    }
    // Asked for by Cais's own client: with it, everything adds up to what the disk says.
    if request.query.flag("engine") {
        let disk = usage.store.disk;
        shown["ContainersSize"] = json!(disk.containers);
        shown["VolumesSize"] = json!(disk.volumes);
        shown["LogsAndDatabaseSize"] = json!(disk.total.saturating_sub(disk.images + disk.containers + disk.volumes));
    }
    if wanted("build-cache") {
        let entries = engine.build_cache_usage().await.map_err(|error| Failure::of(&error))?;
        shown["BuildCache"] = entries.iter().map(crate::build::cache_entry).collect();
    }
    ok(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info() -> Info {
        Info {
            runtimes: [("cais".to_owned(), "cais".to_owned())].into(),
            default_runtime: "cais".to_owned(),
            cdi_directories: Vec::new(),
            remapped: false,
            id: "b4992d61".to_owned(),
            containers: (2, 1, 3),
            images: 1,
            name: "vm".to_owned(),
            kernel_version: "6.18".to_owned(),
            operating_system: "Debian GNU/Linux 12 (bookworm)".to_owned(),
            os_version: "12".to_owned(),
            cpus: 2,
            memory_total: 1 << 30,
            cgroup_version: 1,
            limits: engine::request::Limits::default(),
            data_root: "/var/lib/cais".to_owned(),
            backing_filesystem: "extfs".to_owned(),
            open_files: 9,
            event_listeners: 0,
            address_pools: vec![("172.30.0.0/16".to_owned(), 24)],
            warnings: Vec::new(),
            proxies: Default::default(),
            insecure_registries: vec!["plain.example:5000".to_owned(), "10.0.0.0/8".to_owned()],
            mirrors: [("docker.io".to_owned(), vec!["https://m.example".to_owned()])].into(),
            labels: Vec::new(),
            log_drivers: vec!["json-file", "none"],
            log_driver: "json-file".to_owned(),
            ipv4_forwarding: true,
        }
    }

    #[tokio::test]
    async fn info_counts_and_depends_on_the_version() {
        let newer = encode_info(&info(), Version::new(51));
        assert_eq!((&newer["Containers"], &newer["ContainersStopped"], &newer["CgroupVersion"]), (&json!(6), &json!(3), &json!("1")));
        assert_eq!(newer["Swarm"]["LocalNodeState"], "inactive");
        assert_eq!(newer["RuncCommit"], json!({"ID": ""}));
        let older = encode_info(&info(), Version::new(41));
        assert_eq!(older["RuncCommit"], json!({"ID": "", "Expected": ""}));
        assert!(older.get("FirewallBackend").is_none() && older["BridgeNfIptables"] == json!(false));
        assert_eq!(older["RegistryConfig"]["AllowNondistributableArtifactsCIDRs"], Value::Null);
        assert_eq!(newer["RegistryConfig"]["InsecureRegistryCIDRs"], json!(["::1/128", "127.0.0.0/8", "10.0.0.0/8"]));
        assert_eq!(newer["RegistryConfig"]["IndexConfigs"]["plain.example:5000"]["Secure"], false);
        assert_eq!(newer["RegistryConfig"]["Mirrors"], json!(["https://m.example/"]));
    }

    #[test]
    fn ping_tells_what_clients_look_for() {
        let reply = ping();
        assert_eq!(reply.headers()["builder-version"], "1");
        assert_eq!(reply.headers()["content-type"], "text/plain; charset=utf-8");
    }
}

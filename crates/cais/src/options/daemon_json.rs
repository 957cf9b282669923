//! `daemon.json`: dockerd's configuration, whose keys are partly named otherwise than its flags.

use std::collections::BTreeMap;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::File;

/// What of dockerd's configuration has a meaning here.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case")]
struct DaemonJson {
    hosts: Vec<String>,
    group: Option<String>,
    data_root: Option<std::path::PathBuf>,
    exec_root: Option<std::path::PathBuf>,
    pidfile: Option<std::path::PathBuf>,
    bridge: Option<String>,
    bip: Option<String>,
    default_address_pools: Vec<AddressPool>,
    insecure_registries: Vec<String>,
    registry_mirrors: Vec<String>,
    proxies: Proxies,
    runtimes: BTreeMap<String, Runtime>,
    default_runtime: Option<String>,
    cdi_spec_dirs: Vec<std::path::PathBuf>,
    log_level: Option<String>,
    debug: Option<bool>,
    labels: Vec<String>,
    log_driver: Option<String>,
    log_format: Option<String>,
    log_opts: BTreeMap<String, String>,
    metrics_addr: Option<String>,
    // What holds here anyway; other values are refused.
    live_restore: Option<bool>,
    storage_driver: Option<String>,
    exec_opts: Vec<String>,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "kebab-case", deny_unknown_fields)]
struct Proxies {
    http_proxy: Option<String>,
    https_proxy: Option<String>,
    no_proxy: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Runtime {
    path: std::path::PathBuf,
    #[serde(default)]
    runtime_args: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct AddressPool {
    base: String,
    size: u8,
}

/// Reads the text of a `daemon.json`.
pub(super) fn read(text: &str) -> Result<File> {
    // An empty file is an empty configuration.
    let json: DaemonJson = if text.trim().is_empty() { DaemonJson::default() } else { serde_json::from_str(text)? };
    if !json.rest.is_empty() {
        let names: Vec<&str> = json.rest.keys().map(String::as_str).collect();
        bail!("these keys are not served: {}", names.join(", "));
    }
    if json.live_restore == Some(false) {
        bail!("live-restore: containers always outlive the engine here; leave the key out");
    }
    if let Some(driver) = json.storage_driver.filter(|driver| driver != "overlay2") {
        bail!("storage-driver {driver:?}: overlay2 is the only one");
    }
    if let Some(option) = json.exec_opts.iter().find(|option| *option != "native.cgroupdriver=cgroupfs") {
        bail!("exec-opts {option:?}: native.cgroupdriver=cgroupfs is the only one");
    }
    Ok(File {
        host: json.hosts,
        group: json.group,
        data_root: json.data_root,
        exec_root: json.exec_root,
        pidfile: json.pidfile,
        bridge: json.bridge,
        bip: json.bip,
        default_address_pool: json.default_address_pools.iter().map(|pool| format!("base={},size={}", pool.base, pool.size)).collect(),
        insecure_registry: json.insecure_registries,
        registry_mirror: json.registry_mirrors,
        http_proxy: json.proxies.http_proxy,
        https_proxy: json.proxies.https_proxy,
        no_proxy: json.proxies.no_proxy,
        runtimes: json
            .runtimes
            .into_iter()
            .map(|(name, Runtime { path, runtime_args })| (name, super::Runtime { path, runtime_args }))
            .collect(),
        default_runtime: json.default_runtime,
        cdi_spec_dir: json.cdi_spec_dirs,
        log_level: json.log_level,
        debug: json.debug,
        label: json.labels,
        log_driver: json.log_driver,
        log_format: json.log_format,
        log_opt: json.log_opts.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        metrics_addr: json.metrics_addr,
        ..File::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dockers_keys_are_understood_and_others_named() {
        let text = r#"{"default-address-pools": [{"base": "10.80.0.0/16", "size": 24}], "live-restore": true, "storage-driver": "overlay2",
            "registry-mirrors": ["https://m.example"], "runtimes": {"own": {"path": "/r", "runtimeArgs": ["-x"]}}}"#;
        let file = read(text).expect("good");
        assert_eq!(
            (file.default_address_pool.as_slice(), file.registry_mirror.as_slice()),
            (["base=10.80.0.0/16,size=24".to_owned()].as_slice(), ["https://m.example".to_owned()].as_slice())
        );
        assert_eq!(file.runtimes["own"].runtime_args, ["-x"]);
        assert!(read("").is_ok());
        for (bad, word) in [(r#"{"userland-proxy": false}"#, "userland-proxy"), (r#"{"live-restore": false}"#, "outlive"), ("{", "EOF")] {
            let error = format!("{:#}", read(bad).expect_err("refused"));
            assert!(error.contains(word), "{error}");
        }
    }
}

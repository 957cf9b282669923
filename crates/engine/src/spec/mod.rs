//! From a container's record to what the runtime is told: the OCI specification and what goes beside it.

mod seccomp;
mod security;

use std::path::Path;

use runtime::oci;
use types::container::{Config, HostConfig, NamespaceMode};

use crate::container::Record;
use crate::mounts::{Planned, Source};
use crate::sandbox::{Mode, bad};
use crate::{Engine, Error, merge, resources};

pub(crate) use seccomp::{Cache as SeccompCache, Filter};
pub(crate) use security::{Seccomp, Security, exec_capabilities};

/// The exit code of a process that could not be started for the engine's or the machine's reasons.
pub(crate) const EXIT_CODE_FAILED: i32 = 128;

const OCI_VERSION: &str = "1.2.0";
const PATH_DEFAULT: &str = types::container::defaults::PATH_ENV;

/// Checks everything that the start would refuse, as far as it depends on the request alone.
pub(crate) fn validate(config: &Config, host: &HostConfig) -> Result<(), Error> {
    resources::validate(host)?;
    crate::cgroup_parent::validate(host)?;
    Security::parse(host)?;
    namespaces(host)?;
    if let Some(health) = &config.healthcheck {
        crate::health::validate(health)?;
    }
    if !config.stop_signal.is_empty() {
        crate::signal::parse(&config.stop_signal)?;
    }
    if !config.working_dir.is_empty() && !config.working_dir.starts_with('/') {
        return Err(bad("WorkingDir", &config.working_dir, "it must be an absolute path"));
    }
    for entry in &config.env {
        if entry.starts_with('=') || entry.contains('\0') {
            return Err(bad("Env", entry, "NAME=VALUE is expected"));
        }
    }
    match (host.restart_policy.name.as_str(), host.restart_policy.maximum_retry_count) {
        ("" | "no" | "always" | "unless-stopped", 0) | ("on-failure", 0..) => {}
        ("" | "no" | "always" | "unless-stopped", count) => {
            return Err(bad("RestartPolicy.MaximumRetryCount", &count.to_string(), "a number of retries is for on-failure"));
        }
        ("on-failure", count) => return Err(bad("RestartPolicy.MaximumRetryCount", &count.to_string(), "it cannot be negative")),
        (name, _) => return Err(bad("RestartPolicy.Name", name, "use no, always, unless-stopped or on-failure")),
    }
    if host.auto_remove && !matches!(host.restart_policy.name.as_str(), "" | "no") {
        return Err(bad(
            "AutoRemove",
            "true",
            "a container that is removed when it ends cannot be restarted: use either --rm or --restart",
        ));
    }
    Ok(())
}

impl Engine {
    /// The specification of a container. Binds are resolved and missing directories made: that is what a start does. Blocks.
    pub(crate) fn spec(&self, record: &Record, security: &Security, filter: Option<&Filter>) -> Result<oci::Spec, Error> {
        let (config, host) = (&record.config, &record.host);
        let mut linux = oci::Linux {
            namespaces: namespaces(host)?,
            masked_paths: host.masked_paths.to_vec(),
            readonly_paths: host.readonly_paths.to_vec(),
            sysctl: host
                .sysctls
                .iter()
                .filter(|(name, _)| !name.starts_with("net."))
                .map(|(name, value)| (name.clone(), value.clone()))
                .collect(),
            seccomp: filter.map(|filter| filter.profile.clone()),
            rootfs_propagation: propagation(&record.planned_mounts).to_owned(),
            ..oci::Linux::default()
        };
        let mut limits = resources::limits(host)?;
        if let Some(memory) = &mut limits.memory
            && !self.limits_swap()
        {
            // Told as a warning when the container was made.
            memory.swap = None;
        }
        devices(host, &mut linux, &mut limits)?;
        linux.resources = Some(limits);
        Ok(oci::Spec {
            oci_version: OCI_VERSION.to_owned(),
            root: Some(oci::Root { path: Path::new("rootfs").to_owned(), readonly: host.readonly_rootfs }),
            mounts: self.mounts(record, security)?,
            process: Some(process(record, security)?),
            hostname: if host.uts_mode == "host" { String::new() } else { config.hostname.clone() },
            domainname: if host.uts_mode == "host" { String::new() } else { config.domainname.clone() },
            annotations: host.annotations.clone().into_map(),
            linux,
            ..oci::Spec::default()
        })
    }

    /// The mounts of every container, the files that name hosts, and the container's own, outermost first.
    fn mounts(&self, record: &Record, security: &Security) -> Result<Vec<oci::Mount>, Error> {
        let host = &record.host;
        let mut mounts = runtime::default::mounts(host.shm_size.max(0) as u64, host.privileged);
        if security.writable_cgroups {
            for option in mounts
                .iter_mut()
                .filter(|mount| mount.kind == "cgroup")
                .flat_map(|mount| &mut mount.options)
                .filter(|option| *option == "ro")
            {
                "rw".clone_into(option);
            }
        }
        if host.ipc_mode == "none" {
            mounts.retain(|mount| mount.destination != Path::new("/dev/shm"));
        } else if let Some(shared) = self.shared_memory(host)? {
            mounts.retain(|mount| mount.destination != Path::new("/dev/shm"));
            mounts.push(bind("/dev/shm", &shared, &["rbind", "rprivate"]));
        }
        let folder = match Mode::parse(host) {
            Mode::Container(name) => self.layout.container(&self.joinable(&name)?.id),
            _ => self.layout.container(&record.id),
        };
        for name in ["resolv.conf", "hostname", "hosts"] {
            mounts.push(bind(&format!("/etc/{name}"), &folder.join(name).to_string_lossy(), &["rbind", "rprivate"]));
        }
        let own: Vec<oci::Mount> = record.planned_mounts.iter().map(|planned| self.mount(planned)).collect::<Result<_, _>>()?;
        // What the container says about a path takes the place of what every container has there.
        mounts.retain(|mount| !own.iter().any(|own| own.destination == mount.destination));
        mounts.extend(own);
        Ok(mounts)
    }

    fn mount(&self, planned: &Planned) -> Result<oci::Mount, Error> {
        let access = if planned.read_only { "ro" } else { "rw" };
        match &planned.source {
            Source::Bind { path, create, non_recursive } => {
                let source = Path::new(path);
                if !source.exists() {
                    if !create {
                        return Err(Error::BindSourceMissing { path: source.to_owned() });
                    }
                    std::fs::create_dir_all(source).map_err(|error| Error::File {
                        operation: "make the bind source",
                        path: source.to_owned(),
                        source: error,
                    })?;
                }
                let propagation = if planned.propagation.is_empty() { "rprivate" } else { &planned.propagation };
                let bind_kind = if *non_recursive { "bind" } else { "rbind" };
                // Read-only means all the way down, as Docker has it.
                let access = if planned.read_only && !non_recursive { "rro" } else { access };
                Ok(bind(&planned.destination, path, &[bind_kind, access, propagation]))
            }
            Source::Volume { name, subpath, .. } => {
                let mut source =
                    self.store.volume(name).map_err(|source| Error::Store { operation: "look up the volume", source })?.mountpoint.clone();
                if !subpath.is_empty() {
                    source = source.join(subpath);
                }
                Ok(bind(&planned.destination, &source.to_string_lossy(), &["rbind", access, "rprivate"]))
            }
            Source::Tmpfs { options } => {
                let mut options = options.clone();
                if planned.read_only {
                    options.push("ro".to_owned());
                }
                Ok(oci::Mount {
                    destination: planned.destination.clone().into(),
                    kind: "tmpfs".to_owned(),
                    source: "tmpfs".to_owned(),
                    options,
                    ..oci::Mount::default()
                })
            }
        }
    }

    /// Where /dev/shm comes from when it is not the container's own.
    fn shared_memory(&self, host: &HostConfig) -> Result<Option<String>, Error> {
        match NamespaceMode::parse(&host.ipc_mode) {
            NamespaceMode::Host => Ok(Some("/dev/shm".to_owned())),
            NamespaceMode::Container(name) => {
                let target = self.joinable(name)?;
                let record = target.record();
                if !matches!(record.host.ipc_mode.as_str(), "shareable" | "host") {
                    return Err(Error::JoinTarget {
                        target: name.to_owned(),
                        reason: "its IPC namespace is not shareable: make it with --ipc shareable".to_owned(),
                    });
                }
                Ok(Some(format!("/proc/{}/root/dev/shm", record.state.pid)))
            }
            _ => Ok(None),
        }
    }
}

/// The namespaces that a container does not share with the host.
fn namespaces(host: &HostConfig) -> Result<Vec<oci::Namespace>, Error> {
    let mut kinds = vec!["mount"];
    let own = |mode: &str, field: &'static str, words: &[&str]| match NamespaceMode::parse(mode) {
        NamespaceMode::Host => Ok(false),
        // Those of another container come in by descriptor at the start.
        NamespaceMode::Default | NamespaceMode::Container(_) => Ok(true),
        NamespaceMode::Other(word) if words.contains(&word) => Ok(true),
        NamespaceMode::Other(word) => Err(bad(field, word, "use private, host or container:NAME")),
    };
    if own(&host.ipc_mode, "IpcMode", &["private", "shareable", "none"])? {
        kinds.push("ipc");
    }
    if own(&host.pid_mode, "PidMode", &["private"])? {
        kinds.push("pid");
    }
    match host.uts_mode.as_str() {
        "" | "private" => kinds.push("uts"),
        "host" => {}
        other => return Err(bad("UTSMode", other, "use host, or nothing for an own one")),
    }
    match host.cgroupns_mode.as_str() {
        "private" => kinds.push("cgroup"),
        "" | "host" => {}
        other => return Err(bad("CgroupnsMode", other, "use private or host")),
    }
    // Joined by descriptor: the network's namespace is made before the container.
    if Mode::parse(host) != Mode::Host {
        kinds.push("network");
    }
    Ok(kinds.into_iter().map(|kind| oci::Namespace { kind: kind.to_owned(), path: None }).collect())
}

fn process(record: &Record, security: &Security) -> Result<oci::Process, Error> {
    let (config, host) = (&record.config, &record.host);
    let mut args = vec![record.path.clone()];
    args.extend(record.args.iter().cloned());
    let rows_columns = host.console_size;
    Ok(oci::Process {
        terminal: config.tty,
        console_size: Some(oci::ConsoleSize { height: rows_columns[0] as u16, width: rows_columns[1] as u16 })
            .filter(|size| size.height > 0 && size.width > 0),
        args,
        env: environment(config),
        cwd: if config.working_dir.is_empty() { "/".into() } else { config.working_dir.clone().into() },
        capabilities: Some(security.capability_sets()),
        rlimits: host.ulimits.iter().map(|limit| resources::rlimit(&limit.name, limit.soft, limit.hard)).collect::<Result<_, _>>()?,
        no_new_privileges: security.no_new_privileges,
        apparmor_profile: security.apparmor.clone().unwrap_or_default(),
        oom_score_adj: Some(host.oom_score_adj as i32).filter(|score| *score != 0),
        ..oci::Process::default()
    })
}

/// What every process gets, then what the container says, which wins.
pub(crate) fn environment(config: &Config) -> Vec<String> {
    let mut env = vec![PATH_DEFAULT.to_owned(), format!("HOSTNAME={}", config.hostname)];
    if config.tty {
        env.push("TERM=xterm".to_owned());
    }
    override_variables(&mut env, &config.env);
    env
}

/// Adds variables, replacing those of the same name. A name without a value takes the variable away.
pub(crate) fn override_variables(env: &mut Vec<String>, more: &[String]) {
    for entry in more {
        let name = merge::variable(entry);
        env.retain(|held| merge::variable(held) != name);
        if entry.contains('=') {
            env.push(entry.clone());
        }
    }
}

/// Adds nodes and rules of the devices asked for, besides those that every container has.
fn devices(host: &HostConfig, linux: &mut oci::Linux, limits: &mut oci::Resources) -> Result<(), Error> {
    let failed = |path: &str| {
        let path = path.to_owned();
        move |error: runtime::Error| bad("Devices", &path, &types::error::chain(&error))
    };
    if host.privileged {
        linux.devices = runtime::default::host_devices().map_err(failed("/dev"))?;
        limits.devices = runtime::default::device_rules_privileged();
    } else {
        limits.devices = runtime::default::device_rules();
    }
    for mapping in &host.devices {
        let inside = if mapping.path_in_container.is_empty() { &mapping.path_on_host } else { &mapping.path_in_container };
        let access = if mapping.cgroup_permissions.is_empty() { "rwm" } else { &mapping.cgroup_permissions };
        if access.chars().any(|letter| !"rwm".contains(letter)) {
            return Err(bad("Devices.CgroupPermissions", access, "only the letters r, w and m are known"));
        }
        for device in
            runtime::default::device(Path::new(&mapping.path_on_host), Path::new(inside)).map_err(failed(&mapping.path_on_host))?
        {
            limits.devices.push(oci::DeviceRule {
                allow: true,
                kind: if device.kind == "b" { "b".to_owned() } else { "c".to_owned() },
                major: Some(device.major),
                minor: Some(device.minor),
                access: access.to_owned(),
            });
            linux.devices.retain(|held| held.path != device.path);
            linux.devices.push(device);
        }
    }
    // Last, since the last rule that matches decides.
    for rule in &host.device_cgroup_rules {
        limits.devices.push(resources::device_rule(rule)?);
    }
    Ok(())
}

/// The root's propagation: as open as the most open bind needs it.
fn propagation(mounts: &[Planned]) -> &'static str {
    let any = |words: [&str; 2]| mounts.iter().any(|mount| words.contains(&mount.propagation.as_str()));
    if any(["shared", "rshared"]) {
        "shared"
    } else if any(["slave", "rslave"]) {
        "rslave"
    } else {
        "rprivate"
    }
}

fn bind(destination: &str, source: &str, options: &[&str]) -> oci::Mount {
    oci::Mount {
        destination: destination.into(),
        kind: "bind".to_owned(),
        source: source.to_owned(),
        options: options.iter().map(|option| (*option).to_owned()).collect(),
        ..oci::Mount::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_variables_win_and_a_bare_name_takes_away() {
        let config = Config {
            hostname: "h".into(),
            env: vec!["PATH=/x".to_owned(), "A=1".to_owned(), "HOSTNAME".to_owned()].into(),
            ..Config::default()
        };
        assert_eq!(environment(&config), ["PATH=/x", "A=1"]);
    }

    #[test]
    fn namespaces_follow_the_modes() {
        let kinds = |host: &HostConfig| namespaces(host).map(|list| list.into_iter().map(|namespace| namespace.kind).collect::<Vec<_>>());
        assert_eq!(kinds(&HostConfig::default()).expect("the default"), ["mount", "ipc", "pid", "uts", "network"]);
        let host = HostConfig {
            ipc_mode: "host".into(),
            pid_mode: "container:x".into(),
            uts_mode: "host".into(),
            network_mode: "host".into(),
            cgroupns_mode: "private".into(),
            ..HostConfig::default()
        };
        assert_eq!(kinds(&host).expect("hosts"), ["mount", "pid", "cgroup"]);
        assert!(kinds(&HostConfig { pid_mode: "what".into(), ..HostConfig::default() }).is_err());
    }

    #[test]
    fn impossible_requests_are_refused() {
        let check = |host: HostConfig| validate(&Config::default(), &host);
        assert!(check(HostConfig::default()).is_ok());
        let policy = |name: &str, count| types::container::RestartPolicy { name: name.into(), maximum_retry_count: count };
        assert!(check(HostConfig { restart_policy: policy("sometimes", 0), ..HostConfig::default() }).is_err());
        assert!(check(HostConfig { restart_policy: policy("always", 2), ..HostConfig::default() }).is_err());
        assert!(check(HostConfig { restart_policy: policy("always", 0), auto_remove: true, ..HostConfig::default() }).is_err());
        let config = Config { working_dir: "rel".into(), ..Config::default() };
        assert!(validate(&config, &HostConfig::default()).is_err());
    }
}

//! `spec`: a configuration to begin with.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;

use super::args::{Args, Flags};
use super::{Global, Outcome};
use crate::{config, default, oci};

const SHM_BYTES: u64 = 64 << 20;
const NOFILE: u64 = 1024;

/// A shell in namespaces of its own, with what Docker gives by default.
pub(crate) fn template() -> oci::Spec {
    let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect::<Vec<_>>();
    let capabilities = names(&default::CAPABILITIES);
    let sets = oci::Capabilities {
        bounding: capabilities.clone(),
        effective: capabilities.clone(),
        permitted: capabilities.clone(),
        ..oci::Capabilities::default()
    };
    let namespace = |kind: &&str| oci::Namespace { kind: (*kind).to_owned(), path: None };
    oci::Spec {
        oci_version: config::OCI_VERSION.into(),
        root: Some(oci::Root { path: "rootfs".into(), readonly: true }),
        mounts: default::mounts(SHM_BYTES, false),
        process: Some(oci::Process {
            terminal: true,
            args: names(&["sh"]),
            env: names(&["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "TERM=xterm"]),
            cwd: "/".into(),
            capabilities: Some(sets),
            rlimits: vec![oci::Rlimit { kind: "RLIMIT_NOFILE".into(), soft: NOFILE, hard: NOFILE }],
            no_new_privileges: true,
            ..oci::Process::default()
        }),
        hostname: "cais".into(),
        linux: oci::Linux {
            resources: Some(oci::Resources { devices: default::device_rules(), ..oci::Resources::default() }),
            namespaces: ["pid", "network", "ipc", "uts", "mount", "cgroup"].iter().map(namespace).collect(),
            masked_paths: names(&default::MASKED_PATHS),
            readonly_paths: names(&default::READONLY_PATHS),
            ..oci::Linux::default()
        },
        ..oci::Spec::default()
    }
}

/// Writes `config.json` where there is none.
pub(super) fn spec(_: &Global, args: &[OsString]) -> Outcome {
    let args = Args::parse(args, &Flags { values: &["b", "bundle"], switches: &["rootless"] })?;
    if args.has(&["rootless"]) {
        return Err(
            "--rootless is not supported: containers are made by root; give them users of their own by uidMappings and gidMappings".into(),
        );
    }
    let folder = args.any(&["b", "bundle"]).map_or(PathBuf::from("."), PathBuf::from);
    args.nothing_more()?;
    let path = folder.join("config.json");
    let text = serde_json::to_string_pretty(&template()).map_err(super::words)?;
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).open(&path).map_err(|error| match error.kind() {
        std::io::ErrorKind::AlreadyExists => format!("{} exists already: remove it first", path.display()),
        _ => format!("make {}: {error}", path.display()),
    })?;
    file.write_all(text.as_bytes()).and_then(|()| file.write_all(b"\n")).map_err(|error| format!("write {}: {error}", path.display()))?;
    Ok(0)
}

//! `features`: what this runtime and this machine can do, in the specification's form.

use std::ffi::OsString;

use serde_json::json;

use super::args::{Args, Flags};
use super::{Global, Outcome, print};
use crate::plan::capability_name;
use crate::{config, plan, seccomp};

pub(super) fn features(_: &Global, args: &[OsString]) -> Outcome {
    Args::parse(args, &Flags { values: &[], switches: &[] })?.nothing_more()?;
    let text = serde_json::to_string_pretty(&described()).map_err(super::words)?;
    print(&format!("{text}\n"));
    Ok(0)
}

fn described() -> serde_json::Value {
    let bounding = kernel::caps::bounding();
    let capabilities: Vec<String> = (0..64).filter(|number| bounding & (1 << number) != 0).filter_map(capability_name).collect();
    let supported_flags = seccomp::flag_names().filter(|(_, bit)| *bit == 0 || kernel::seccomp::knows_flag(*bit)).map(|(name, _)| name);
    json!({
        "ociVersionMin": config::OCI_VERSION_MIN,
        "ociVersionMax": config::OCI_VERSION,
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": plan::mount_options(),
        "linux": {
            "namespaces": plan::NAMESPACES.map(|(name, _)| name),
            "capabilities": capabilities,
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": seccomp::ACTIONS.map(|(name, _)| name),
                "operators": seccomp::OPERATORS.map(|(name, _)| name),
                "archs": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
                "knownFlags": seccomp::flag_names().map(|(name, _)| name).collect::<Vec<_>>(),
                "supportedFlags": supported_flags.collect::<Vec<_>>(),
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "memoryPolicy": {
                "modes": plan::MEMORY_MODES.map(|(name, _)| name),
                "flags": plan::MEMORY_FLAGS.map(|(name, _)| name),
            },
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
        "annotations": {"io.cais.version": env!("CARGO_PKG_VERSION")},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_what_is_accepted() {
        let described = described();
        let list = |pointer: &str| -> Vec<String> { serde_json::from_value(described.pointer(pointer).unwrap().clone()).unwrap() };
        for option in list("/mountOptions") {
            let mount = crate::oci::Mount {
                destination: "/x".into(),
                kind: if option == "tmpcopyup" { "tmpfs".into() } else { "bind".into() },
                source: "/".into(),
                options: vec![option.clone()],
                ..crate::oci::Mount::default()
            };
            let mut spec = crate::cli::template();
            spec.linux.namespaces.push(crate::oci::Namespace { kind: "user".into(), path: None });
            let map = crate::oci::IdMapping { container_id: 0, host_id: 0, size: 1 };
            (spec.linux.uid_mappings, spec.linux.gid_mappings) = (vec![map], vec![map]);
            spec.mounts = vec![mount];
            plan::plan(&spec, &plan::Given::default()).unwrap_or_else(|error| panic!("{option}: {error}"));
        }
        assert!(list("/linux/seccomp/actions").contains(&"SCMP_ACT_NOTIFY".to_owned()));
        assert!(list("/linux/seccomp/supportedFlags").contains(&"SECCOMP_FILTER_FLAG_LOG".to_owned()));
        assert_eq!(list("/linux/namespaces").len(), 8);
    }
}

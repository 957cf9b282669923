//! What a container may do: capabilities, seccomp, no-new-privileges.

use std::path::Path;

use runtime::oci;
use runtime::plan::{capability_name, capability_number};
use types::container::HostConfig;

use super::bad;
use crate::Error;

/// Where the kernel lists profiles when AppArmor is in force.
const APPARMOR: &str = "/sys/kernel/security/apparmor/profiles";
const KNOWN_OPTIONS: &str =
    "use no-new-privileges, seccomp=PROFILE|unconfined|builtin, apparmor=PROFILE|unconfined, label=disable or writable-cgroups";

/// A container's privileges.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Security {
    /// With `CAP_`, sorted.
    pub(crate) capabilities: Vec<String>,
    pub(crate) no_new_privileges: bool,
    pub(crate) seccomp: Seccomp,
    /// The profile of AppArmor.
    pub(crate) apparmor: Option<String>,
    /// /sys/fs/cgroup can be written.
    pub(crate) writable_cgroups: bool,
}

/// Which system calls are filtered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Seccomp {
    /// None.
    Unconfined,
    /// By Docker's default profile.
    Default,
    /// By the profile given, as JSON.
    Custom(String),
}

impl Security {
    pub(crate) fn parse(host: &HostConfig) -> Result<Self, Error> {
        let mut security = Self {
            capabilities: capabilities(host)?,
            no_new_privileges: false,
            seccomp: if host.privileged { Seccomp::Unconfined } else { Seccomp::Default },
            apparmor: None,
            writable_cgroups: false,
        };
        for option in &host.security_opt {
            let (name, value) = option.split_once(['=', ':']).unwrap_or((option, ""));
            match (name, value) {
                ("no-new-privileges", "" | "true") => security.no_new_privileges = true,
                ("no-new-privileges", "false") => security.no_new_privileges = false,
                ("seccomp", "unconfined") => security.seccomp = Seccomp::Unconfined,
                ("seccomp", "builtin") => security.seccomp = Seccomp::Default,
                ("seccomp", profile) if !profile.is_empty() => security.seccomp = Seccomp::Custom(profile.to_owned()),
                ("writable-cgroups", "" | "true") => security.writable_cgroups = true,
                ("writable-cgroups", "false") => security.writable_cgroups = false,
                // Nothing is confined by these unless it is asked for, so taking the confinement away is done already.
                ("apparmor", "unconfined") | ("label", "disable") => {}
                ("apparmor", profile) if !profile.is_empty() => {
                    if !Path::new(APPARMOR).exists() {
                        return Err(bad("SecurityOpt", option, "this machine's kernel has no AppArmor, or it is switched off"));
                    }
                    security.apparmor = Some(profile.to_owned());
                }
                ("label", _) => {
                    return Err(bad("SecurityOpt", option, "labels of SELinux are not supported: label=disable is all there is"));
                }
                _ => return Err(bad("SecurityOpt", option, KNOWN_OPTIONS)),
            }
        }
        if security.writable_cgroups && !host.privileged && host.cgroupns_mode != "private" {
            return Err(bad(
                "SecurityOpt",
                "writable-cgroups",
                "it needs a cgroup namespace of the container's own: use --cgroupns private",
            ));
        }
        Ok(security)
    }

    /// The sets for the runtime. The kernel takes effective and permitted away from a user other than root at execve.
    pub(crate) fn capability_sets(&self) -> oci::Capabilities {
        capability_sets(&self.capabilities)
    }
}

/// The sets of an exec: the container's, or for a privileged one all that this machine has.
pub(crate) fn exec_capabilities(container: &HostConfig, privileged: bool) -> Result<oci::Capabilities, Error> {
    if privileged {
        return Ok(capability_sets(&runtime::default::own_capabilities()));
    }
    Ok(Security::parse(container)?.capability_sets())
}

fn capability_sets(names: &[String]) -> oci::Capabilities {
    oci::Capabilities { bounding: names.to_vec(), effective: names.to_vec(), permitted: names.to_vec(), ..oci::Capabilities::default() }
}

fn capabilities(host: &HostConfig) -> Result<Vec<String>, Error> {
    let add = names("CapAdd", &host.cap_add)?;
    let drop = names("CapDrop", &host.cap_drop)?;
    let all = |list: &[String]| list.iter().any(|name| name == "ALL");
    let mut held = if host.privileged {
        runtime::default::own_capabilities()
    } else if all(&add) {
        runtime::default::own_capabilities().into_iter().filter(|name| !drop.contains(name)).collect()
    } else if all(&drop) {
        add
    } else {
        let base = runtime::default::CAPABILITIES.iter().map(|name| (*name).to_owned());
        base.filter(|name| !drop.contains(name)).chain(add).collect()
    };
    held.sort();
    held.dedup();
    Ok(held)
}

/// Names with `CAP_`, in capitals; `ALL` stays as it is.
fn names(field: &'static str, list: &[String]) -> Result<Vec<String>, Error> {
    list.iter()
        .map(|given| {
            if ["ALL", "CAP_ALL"].contains(&given.to_ascii_uppercase().as_str()) {
                return Ok("ALL".to_owned());
            }
            capability_number(given).and_then(capability_name).ok_or_else(|| bad(field, given, "there is no such capability"))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(add: &[&str], drop: &[&str]) -> Vec<String> {
        let list = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        capabilities(&HostConfig { cap_add: list(add), cap_drop: list(drop), ..HostConfig::default() }).expect("known names")
    }

    #[test]
    fn capabilities_are_added_and_dropped() {
        assert_eq!(held(&[], &[]).len(), 14);
        assert_eq!(held(&["net_admin"], &["ALL"]), ["CAP_NET_ADMIN"]);
        assert!(!held(&[], &["cap_chown"]).contains(&"CAP_CHOWN".to_owned()));
        assert!(names("CapAdd", &["CAP_NOPE".to_owned()]).is_err());
    }

    #[test]
    fn security_options_have_two_separators() {
        let parse = |option: &str| Security::parse(&HostConfig { security_opt: vec![option.to_owned()].into(), ..HostConfig::default() });
        assert!(parse("no-new-privileges").expect("known").no_new_privileges);
        assert!(parse("no-new-privileges:true").expect("known").no_new_privileges);
        assert_eq!(parse("seccomp=unconfined").expect("known").seccomp, Seccomp::Unconfined);
        assert_eq!(parse("seccomp={}").expect("known").seccomp, Seccomp::Custom("{}".into()));
        assert!(parse("selinux=x").is_err() && parse("seccomp=").is_err() && parse("apparmor=").is_err());
        assert!(parse("label=type:x").expect_err("no labels").to_string().contains("SELinux"));
        assert!(parse("label:disable").is_ok() && parse("apparmor:unconfined").is_ok());
    }

    #[test]
    fn cgroups_are_writable_in_a_namespace_of_their_own() {
        let host = |mode: &str| HostConfig {
            security_opt: vec!["writable-cgroups=true".to_owned()].into(),
            cgroupns_mode: mode.to_owned(),
            ..HostConfig::default()
        };
        assert!(Security::parse(&host("private")).expect("an own namespace").writable_cgroups);
        assert!(Security::parse(&host("host")).is_err());
    }
}

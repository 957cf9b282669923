//! Seccomp profiles: Docker's form of one translated for the runtime, compiled, and kept for the next container.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex};

use runtime::oci;
use rustix::fs::MemfdFlags;
use serde::Deserialize;

use crate::Error;
use crate::container::lock;

/// Compiled profiles are few kilobytes each; a client that sends ever new ones must not fill the memory.
const PROGRAMS_LEN_MAX: usize = 64;
/// What `archMap` and `includes.arches` call this machine.
const ARCH: &str = "amd64";

/// A profile that is ready for use.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    /// The profile in the runtime's form.
    pub(crate) profile: oci::Seccomp,
    /// Its program in a memfd: what every monitor that needs it maps.
    pub(crate) program: Arc<OwnedFd>,
}

/// Compiled profiles by the hash of what they were made from.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    filters: Mutex<HashMap<u64, Filter>>,
}

impl Cache {
    /// The filter of a profile: Docker's default where `custom` is absent. The capabilities decide which conditional rules apply.
    pub(crate) fn get(&self, custom: Option<&str>, capabilities: &[String]) -> Result<Filter, Error> {
        let mut hasher = DefaultHasher::new();
        (custom, capabilities).hash(&mut hasher);
        let key = hasher.finish();
        if let Some(filter) = lock(&self.filters).get(&key) {
            return Ok(filter.clone());
        }
        let profile = match custom {
            Some(text) => translate(text, capabilities)?,
            None => runtime::seccomp::docker_default(capabilities),
        };
        let program = runtime::seccomp::compile(&profile).map_err(|error| bad(&types::error::chain(&error)))?;
        let failed = |source: std::io::Error| Error::File { operation: "keep", path: "the seccomp program".into(), source };
        let memfd = rustix::fs::memfd_create(c"cais-seccomp", MemfdFlags::CLOEXEC).map_err(|errno| failed(errno.into()))?;
        std::io::Write::write_all(&mut std::fs::File::from(memfd.try_clone().map_err(failed)?), &program).map_err(failed)?;
        let filter = Filter { profile, program: Arc::new(memfd) };
        let mut filters = lock(&self.filters);
        if filters.len() >= PROGRAMS_LEN_MAX {
            filters.clear();
        }
        filters.insert(key, filter.clone());
        Ok(filter)
    }
}

/// Docker's form of a profile.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Profile {
    default_action: String,
    default_errno_ret: Option<u32>,
    architectures: Option<Vec<String>>,
    arch_map: Option<Vec<Architecture>>,
    flags: Option<Vec<String>>,
    syscalls: Option<Vec<Rule>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Architecture {
    architecture: String,
    sub_architectures: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Rule {
    name: String,
    names: Option<Vec<String>>,
    action: String,
    errno_ret: Option<u32>,
    args: Option<Vec<oci::SyscallArg>>,
    includes: Condition,
    excludes: Condition,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Condition {
    arches: Option<Vec<String>>,
    caps: Option<Vec<String>>,
    min_kernel: Option<String>,
}

fn translate(text: &str, capabilities: &[String]) -> Result<oci::Seccomp, Error> {
    let profile: Profile = serde_json::from_str(text).map_err(|error| bad(&format!("the profile is not valid JSON: {error}")))?;
    if profile.default_action.is_empty() {
        return Err(bad("the profile has no defaultAction"));
    }
    let mut architectures = profile.architectures.unwrap_or_default();
    for entry in profile.arch_map.into_iter().flatten().filter(|entry| entry.architecture == "SCMP_ARCH_X86_64") {
        architectures.push(entry.architecture);
        architectures.extend(entry.sub_architectures.into_iter().flatten());
    }
    let mut syscalls = Vec::new();
    for rule in profile.syscalls.into_iter().flatten() {
        if !rule.includes.holds_all(capabilities)? || rule.excludes.holds_any(capabilities)? {
            continue;
        }
        let mut names = rule.names.unwrap_or_default();
        if !rule.name.is_empty() {
            names.push(rule.name);
        }
        syscalls.push(oci::Syscalls { names, action: rule.action, errno_ret: rule.errno_ret, args: rule.args.unwrap_or_default() });
    }
    Ok(oci::Seccomp {
        default_action: profile.default_action,
        default_errno_ret: profile.default_errno_ret,
        architectures,
        flags: profile.flags.unwrap_or_default(),
        syscalls,
        ..oci::Seccomp::default()
    })
}

impl Condition {
    /// Every condition given must hold.
    fn holds_all(&self, capabilities: &[String]) -> Result<bool, Error> {
        let arches = self.arches.as_ref().is_none_or(|list| list.is_empty() || list.iter().any(|arch| arch == ARCH));
        let caps = self.caps.iter().flatten().all(|cap| capabilities.contains(cap));
        let kernel = match &self.min_kernel {
            Some(version) => kernel_at_least(version)?,
            None => true,
        };
        Ok(arches && caps && kernel)
    }

    /// One condition given is enough.
    fn holds_any(&self, capabilities: &[String]) -> Result<bool, Error> {
        let kernel = match &self.min_kernel {
            Some(version) => kernel_at_least(version)?,
            None => false,
        };
        let listed = |list: &Option<Vec<String>>, test: &dyn Fn(&String) -> bool| list.iter().flatten().any(test);
        Ok(kernel || listed(&self.arches, &|arch| arch == ARCH) || listed(&self.caps, &|cap| capabilities.contains(cap)))
    }
}

fn kernel_at_least(wanted: &str) -> Result<bool, Error> {
    let release = rustix::system::uname();
    let own = version(&release.release().to_string_lossy()).unwrap_or_default();
    version(wanted).map(|wanted| own >= wanted).ok_or_else(|| bad(&format!("minKernel {wanted:?} is not a version such as 4.8")))
}

/// The first two numbers of a kernel's release.
fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(['.', '-']).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn bad(reason: &str) -> Error {
    Error::BadField { field: "SecurityOpt", value: "seccomp".to_owned(), reason: reason.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PROFILE: &str = r#"{"defaultAction":"SCMP_ACT_ERRNO","archMap":[{"architecture":"SCMP_ARCH_X86_64","subArchitectures":["SCMP_ARCH_X86"]}],
        "syscalls":[{"names":["read","write"],"action":"SCMP_ACT_ALLOW","args":null,"includes":{},"excludes":{}},
        {"name":"mount","action":"SCMP_ACT_ALLOW","includes":{"caps":["CAP_SYS_ADMIN"]}},
        {"names":["ptrace"],"action":"SCMP_ACT_ALLOW","includes":{"minKernel":"4.8"}},
        {"names":["arm_x"],"action":"SCMP_ACT_ALLOW","includes":{"arches":["arm"]}},
        {"names":["clone"],"action":"SCMP_ACT_ALLOW","excludes":{"caps":["CAP_SYS_ADMIN"]}}]}"#;

    fn names(capabilities: &[&str]) -> Vec<String> {
        let capabilities: Vec<String> = capabilities.iter().map(|cap| (*cap).to_owned()).collect();
        let profile = translate(PROFILE, &capabilities).expect("a profile");
        profile.syscalls.into_iter().flat_map(|rule| rule.names).collect()
    }

    #[test]
    fn conditions_decide_which_rules_apply() {
        assert_eq!(names(&[]), ["read", "write", "ptrace", "clone"]);
        assert_eq!(names(&["CAP_SYS_ADMIN"]), ["read", "write", "mount", "ptrace"]);
    }

    #[test]
    fn a_broken_profile_is_refused() {
        assert!(translate("{", &[]).is_err() && translate("{}", &[]).is_err());
    }
}

//! Devices by description: specifications of the Container Device Interface (1.0), and GPUs found through them.
//!
//! <https://github.com/cncf-tags/container-device-interface/blob/main/SPEC.md>

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use runtime::oci;
use serde::Deserialize;
use types::container::DeviceRequest;

use crate::Error;
use crate::sandbox::bad;

/// A specification of a machine with many GPUs has a few hundred kilobytes.
const SPEC_BYTES_MAX: u64 = 4 << 20;
const SPECS_LEN_MAX: usize = 256;
const FIELD: &str = "DeviceRequests";

/// What the devices asked for change of a container.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Edits(Vec<ContainerEdits>);

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Specification {
    cdi_version: String,
    kind: String,
    devices: Vec<Device>,
    container_edits: ContainerEdits,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Device {
    name: String,
    container_edits: ContainerEdits,
}

#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ContainerEdits {
    env: Vec<String>,
    device_nodes: Vec<Node>,
    mounts: Vec<Mount>,
    hooks: Vec<Hook>,
    additional_gids: Vec<u32>,
    net_devices: Vec<serde_json::Value>,
    intel_rdt: Option<serde_json::Value>,
}

#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Node {
    path: String,
    host_path: String,
    #[serde(rename = "type")]
    kind: String,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: String,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(rename = "type")]
    kind: String,
    options: Vec<String>,
}

#[derive(Debug, Default, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Hook {
    hook_name: String,
    path: PathBuf,
    args: Vec<String>,
    env: Vec<String>,
    timeout: Option<i64>,
}

/// Finds what is asked for in the specifications of `directories`, of which the later ones win.
///
/// # Errors
/// A device that no specification describes, with those that there are. A specification that cannot be read counts only when something is missing.
pub(crate) fn resolve(directories: &[PathBuf], requests: &[DeviceRequest]) -> Result<Edits, Error> {
    if requests.is_empty() {
        return Ok(Edits::default());
    }
    let (specifications, broken) = load(directories);
    let mut names = Vec::new();
    for request in requests {
        let found = if request.driver == "cdi" { Ok(request.device_ids.to_vec()) } else { gpus(&specifications, request) };
        names.extend(found.map_err(|reason| refusal(&describe(request), &reason, directories, &broken))?);
    }
    let mut edits = Vec::new();
    let mut used: Vec<&Path> = Vec::new();
    for name in &names {
        let (specification, device) = find(&specifications, name).map_err(|reason| refusal(name, &reason, directories, &broken))?;
        if !used.contains(&specification.path.as_path()) {
            used.push(&specification.path);
            edits.push(specification.container_edits.clone());
        }
        edits.push(device.container_edits.clone());
    }
    for one in &edits {
        if !one.net_devices.is_empty() || one.intel_rdt.is_some() {
            return Err(bad(FIELD, &names.join(" "), "network devices and cache classes of CDI specifications are not supported"));
        }
    }
    Ok(Edits(edits))
}

impl Edits {
    /// Changes a specification; answers the groups that the process needs.
    pub(crate) fn apply(self, spec: &mut oci::Spec) -> Result<Vec<String>, Error> {
        let mut groups = Vec::new();
        for edits in self.0 {
            groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0).map(u32::to_string));
            if let Some(process) = &mut spec.process {
                crate::spec::override_variables(&mut process.env, &edits.env);
            }
            for node in &edits.device_nodes {
                add_node(node, &mut spec.linux)?;
            }
            for mount in edits.mounts {
                let kind = if mount.kind.is_empty() { "bind".to_owned() } else { mount.kind };
                let mut options = mount.options;
                if kind == "bind" && !options.iter().any(|option| option == "bind" || option == "rbind") {
                    options.push("rbind".to_owned());
                }
                spec.mounts.retain(|held| held.destination != Path::new(&mount.container_path));
                spec.mounts.push(oci::Mount {
                    destination: mount.container_path.into(),
                    kind,
                    source: mount.host_path,
                    options,
                    ..oci::Mount::default()
                });
            }
            for hook in edits.hooks {
                add_hook(hook, &mut spec.hooks)?;
            }
        }
        Ok(groups)
    }
}

fn add_node(node: &Node, linux: &mut oci::Linux) -> Result<(), Error> {
    let host = if node.host_path.is_empty() { &node.path } else { &node.host_path };
    let mut device = oci::Device {
        path: node.path.clone().into(),
        kind: node.kind.clone(),
        major: node.major.unwrap_or_default(),
        minor: node.minor.unwrap_or_default(),
        file_mode: node.file_mode,
        uid: node.uid,
        gid: node.gid,
    };
    if node.kind.is_empty() || node.major.is_none() {
        let found = runtime::default::device(Path::new(host), Path::new(&node.path));
        let found = found.map_err(|error| bad(FIELD, host, &types::error::chain(&error)))?;
        let [real] = found.as_slice() else { return Err(bad(FIELD, host, "it is not a device node")) };
        (device.kind, device.major, device.minor) = (real.kind.clone(), real.major, real.minor);
        device.file_mode = device.file_mode.or(real.file_mode);
        device.uid = device.uid.or(real.uid);
        device.gid = device.gid.or(real.gid);
    }
    let access = if node.permissions.is_empty() { "rwm" } else { &node.permissions };
    if device.kind != "p" {
        linux.resources.get_or_insert_default().devices.push(runtime::default::device_rule(&device, access));
    }
    linux.devices.retain(|held| held.path != device.path);
    linux.devices.push(device);
    Ok(())
}

fn add_hook(hook: Hook, hooks: &mut oci::Hooks) -> Result<(), Error> {
    let list = match hook.hook_name.as_str() {
        "prestart" => &mut hooks.prestart,
        "createRuntime" => &mut hooks.create_runtime,
        "createContainer" => &mut hooks.create_container,
        "startContainer" => &mut hooks.start_container,
        "poststart" => &mut hooks.poststart,
        "poststop" => &mut hooks.poststop,
        other => return Err(bad(FIELD, other, "there is no hook of this name")),
    };
    list.push(oci::Hook { path: hook.path, args: hook.args, env: hook.env, timeout: hook.timeout });
    Ok(())
}

/// Every specification of the directories, the strongest first, and what could not be read.
fn load(directories: &[PathBuf]) -> (Vec<Specification>, Vec<String>) {
    let (mut specifications, mut broken) = (Vec::new(), Vec::new());
    for directory in directories.iter().rev() {
        let Ok(entries) = std::fs::read_dir(directory) else { continue };
        let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        paths.retain(|path| path.extension().is_some_and(|ending| ["json", "yaml", "yml"].iter().any(|known| ending == *known)));
        paths.sort();
        for path in paths.into_iter().take(SPECS_LEN_MAX) {
            match read(&path) {
                Ok(specification) => specifications.push(Specification { path, ..specification }),
                Err(reason) => broken.push(format!("{}: {reason}", path.display())),
            }
        }
    }
    (specifications, broken)
}

fn read(path: &Path) -> Result<Specification, String> {
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    if !file.metadata().is_ok_and(|meta| meta.is_file() && meta.len() <= SPEC_BYTES_MAX) {
        return Err("it is no file, or too long".to_owned());
    }
    let mut text = String::new();
    file.take(SPEC_BYTES_MAX).read_to_string(&mut text).map_err(|error| error.to_string())?;
    parse(&text, path.extension().is_some_and(|ending| ending == "json"))
}

fn parse(text: &str, json: bool) -> Result<Specification, String> {
    let parsed: Specification = if json {
        serde_json::from_str(text).map_err(|error| error.to_string())?
    } else {
        serde_saphyr::from_str(text).map_err(|error| error.to_string())?
    };
    if parsed.cdi_version.is_empty() || !parsed.kind.contains('/') {
        return Err("cdiVersion or kind is missing".to_owned());
    }
    Ok(parsed)
}

/// The device of a full name, `vendor.com/class=name`.
fn find<'a>(specifications: &'a [Specification], name: &str) -> Result<(&'a Specification, &'a Device), String> {
    let (kind, device) = name.split_once('=').ok_or("a name such as vendor.com/class=name is expected")?;
    let mut found = specifications
        .iter()
        .filter(|specification| specification.kind == kind)
        .flat_map(|specification| specification.devices.iter().filter(|one| one.name == device).map(move |one| (specification, one)));
    let Some(first) = found.next() else {
        return Err(match known(specifications) {
            known if known.is_empty() => "no CDI specification describes it".to_owned(),
            known => format!("no CDI specification describes it: there are {}", known.join(", ")),
        });
    };
    // In one directory no specification is stronger than another.
    match found.find(|(other, _)| other.path.parent() == first.0.path.parent()) {
        Some((other, _)) => Err(format!("{} and {} both describe it", first.0.path.display(), other.path.display())),
        None => Ok(first),
    }
}

fn known(specifications: &[Specification]) -> Vec<String> {
    const SHOWN_LEN_MAX: usize = 16;
    let names = specifications.iter().flat_map(|one| one.devices.iter().map(move |device| format!("{}={}", one.kind, device.name)));
    names.take(SHOWN_LEN_MAX).collect()
}

/// The full names of the GPUs that a request means.
fn gpus(specifications: &[Specification], request: &DeviceRequest) -> Result<Vec<String>, String> {
    let wants_gpu = request.capabilities.iter().any(|all| all.iter().any(|one| one == "gpu"));
    if !wants_gpu {
        return Err("only the capability gpu and the driver cdi are served".to_owned());
    }
    let mut kinds: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for specification in specifications {
        let (vendor, class) = specification.kind.split_once('/').unwrap_or_default();
        let driver = request.driver.as_str();
        if class == "gpu" && (driver.is_empty() || vendor.split('.').next() == Some(driver)) {
            kinds.entry(&specification.kind).or_default().extend(specification.devices.iter().map(|device| device.name.as_str()));
        }
    }
    let (kind, mut devices) = match kinds.len() {
        0 => return Err("no CDI specification describes a GPU".to_owned()),
        1 => kinds.pop_first().unwrap_or_default(),
        _ => return Err(format!("there are GPUs of several kinds, name the driver: {}", kinds.into_keys().collect::<Vec<_>>().join(", "))),
    };
    devices.sort_by_key(|name| (name.parse::<u32>().unwrap_or(u32::MAX), *name));
    devices.dedup();
    let full = |name: &str| format!("{kind}={name}");
    if !request.device_ids.is_empty() {
        return Ok(request.device_ids.iter().map(|id| full(id)).collect());
    }
    if request.count == -1 && devices.contains(&"all") {
        return Ok(vec![full("all")]);
    }
    devices.retain(|name| *name != "all");
    // One card often has several names: its number counts.
    if devices.iter().any(|name| name.parse::<u32>().is_ok()) {
        devices.retain(|name| name.parse::<u32>().is_ok());
    }
    let wanted = match usize::try_from(request.count) {
        Ok(count) if count > devices.len() => return Err(format!("{count} GPUs are asked for, {} are there", devices.len())),
        Ok(count) => count,
        Err(_) => devices.len(),
    };
    Ok(devices.into_iter().take(wanted).map(full).collect())
}

fn describe(request: &DeviceRequest) -> String {
    let capabilities = request.capabilities.iter().map(|all| all.join("+")).collect::<Vec<_>>().join(" or ");
    if request.driver.is_empty() { capabilities } else { format!("{} of {}", capabilities, request.driver) }
}

fn refusal(subject: &str, reason: &str, directories: &[PathBuf], broken: &[String]) -> Error {
    let places = directories.iter().map(|directory| directory.display().to_string()).collect::<Vec<_>>().join(" and ");
    let mut text = format!("{reason} (specifications are looked for in {places})");
    for one in broken {
        text.push_str(&format!("; unreadable: {one}"));
    }
    bad(FIELD, subject, &text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPEC: &str = "cdiVersion: 0.6.0\nkind: nvidia.com/gpu\ncontainerEdits:\n  env: [ALL=1]\ndevices:\n- name: \"0\"\n  containerEdits:\n    deviceNodes:\n    - path: /dev/gpu0\n      hostPath: /dev/null\n      permissions: rw\n    additionalGids: [44]\n    mounts:\n    - {hostPath: /opt/lib, containerPath: /lib/gpu, options: [ro, nosuid]}\n    hooks:\n    - {hookName: createContainer, path: /bin/hook, args: [hook, x]}\n- name: \"1\"\n- name: all\n";

    fn directory(files: &[(&str, &str)]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let directory = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).expect("written");
        }
        let path = directory.path().to_owned();
        (directory, vec![path])
    }

    fn asks(driver: &str, ids: &[&str], count: i64) -> DeviceRequest {
        DeviceRequest {
            driver: driver.to_owned(),
            count,
            device_ids: ids.iter().map(|id| (*id).to_owned()).collect(),
            capabilities: vec![vec!["gpu".to_owned()]].into(),
            ..DeviceRequest::default()
        }
    }

    #[test]
    fn a_device_changes_the_container() {
        let (_keep, directories) = directory(&[("gpu.yaml", SPEC)]);
        let edits = resolve(&directories, &[asks("cdi", &["nvidia.com/gpu=0"], 0)]).expect("described");
        let mut spec = oci::Spec { process: Some(oci::Process::default()), ..oci::Spec::default() };
        assert_eq!(edits.apply(&mut spec).expect("applied"), ["44"]);
        assert_eq!(spec.process.expect("a process").env, ["ALL=1"]);
        let device = &spec.linux.devices[0];
        assert_eq!((device.path.as_path(), device.kind.as_str(), device.major, device.minor), (Path::new("/dev/gpu0"), "c", 1, 3));
        assert_eq!(spec.linux.resources.expect("rules").devices[0].access, "rw");
        assert_eq!(spec.mounts[0].options, ["ro", "nosuid", "rbind"]);
        assert_eq!(spec.hooks.create_container[0].path, Path::new("/bin/hook"));
    }

    #[test]
    fn gpus_are_counted_and_named() {
        let (_keep, directories) = directory(&[("gpu.yaml", SPEC)]);
        let specifications = load(&directories).0;
        let names = |request: DeviceRequest| gpus(&specifications, &request);
        assert_eq!(names(asks("", &[], -1)).expect("all"), ["nvidia.com/gpu=all"]);
        assert_eq!(names(asks("nvidia", &[], 2)).expect("two"), ["nvidia.com/gpu=0", "nvidia.com/gpu=1"]);
        assert_eq!(names(asks("", &["1"], 0)).expect("one"), ["nvidia.com/gpu=1"]);
        assert!(names(asks("", &[], 3)).expect_err("too many").contains("2 are there"));
        assert!(names(asks("amd", &[], 1)).expect_err("none").contains("no CDI specification"));
    }

    #[test]
    fn what_is_not_described_is_told() {
        let (_keep, directories) = directory(&[("gpu.yaml", SPEC), ("bad.json", "{"), ("ignored.txt", "x")]);
        let error = resolve(&directories, &[asks("cdi", &["nvidia.com/gpu=7"], 0)]).expect_err("not there").to_string();
        assert!(error.contains("nvidia.com/gpu=0") && error.contains("bad.json"), "{error}");
        assert!(resolve(&directories, &[asks("cdi", &["gpu"], 0)]).is_err());
        assert_eq!(resolve(&directories, &[]).expect("nothing"), Edits::default());
        let (_keep, directories) = directory(&[("a.yaml", SPEC), ("b.yaml", SPEC)]);
        let error = resolve(&directories, &[asks("cdi", &["nvidia.com/gpu=0"], 0)]).expect_err("two").to_string();
        assert!(error.contains("both describe"), "{error}");
    }

    #[test]
    fn later_directories_win() {
        let (_keep, mut directories) = directory(&[("gpu.yaml", SPEC)]);
        let stronger = r#"{"cdiVersion":"0.6.0","kind":"nvidia.com/gpu","devices":[{"name":"0","containerEdits":{"env":["STRONG=1"]}}]}"#;
        let (_keep_too, more) = directory(&[("gpu.json", stronger)]);
        directories.extend(more);
        let edits = resolve(&directories, &[asks("cdi", &["nvidia.com/gpu=0"], 0)]).expect("described");
        assert_eq!(edits.0[1].env, ["STRONG=1"]);
    }
}

//! Plans as text: what a change of the code changes in them shows here.

use super::*;

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn minimal() -> oci::Spec {
    let namespace = |kind: &&str| oci::Namespace { kind: (*kind).to_owned(), path: None };
    oci::Spec {
        process: Some(oci::Process { args: names(&["/bin/true"]), cwd: "/".into(), ..oci::Process::default() }),
        linux: oci::Linux {
            namespaces: ["pid", "mount", "uts", "ipc", "network"].iter().map(namespace).collect(),
            ..oci::Linux::default()
        },
        ..oci::Spec::default()
    }
}

fn plan_of(change: impl FnOnce(&mut oci::Spec)) -> Result<Plan> {
    let mut spec = minimal();
    change(&mut spec);
    plan(&spec, &Given::default())
}

fn refusal(change: impl FnOnce(&mut oci::Spec)) -> String {
    plan_of(change).unwrap_err().to_string()
}

#[test]
fn dockers_mounts_as_steps() {
    let plan = plan_of(|spec| spec.mounts = crate::default::mounts(64 << 20, false)).unwrap();
    let lines: Vec<String> = plan
        .mounts
        .iter()
        .map(|step| match &step.filesystem {
            Filesystem::New { parameters, .. } => {
                let parameters: Vec<String> =
                    parameters.iter().map(|(key, value)| value.as_ref().map_or(key.clone(), |value| format!("{key}={value}"))).collect();
                format!("{} [{}] +{:#x}", step.name(), parameters.join(","), step.set)
            }
            _ => format!("{} +{:#x}", step.name(), step.set),
        })
        .collect();
    assert_eq!(
        lines,
        [
            "mount proc on /proc [] +0xe",
            "mount tmpfs on /dev [mode=755,size=65536k] +0x22",
            "mount devpts on /dev/pts [newinstance,ptmxmode=0666,mode=0620,gid=5] +0xa",
            "mount sysfs on /sys [] +0xf",
            "mount the control groups on /sys/fs/cgroup +0xf",
            "mount mqueue on /dev/mqueue [] +0xe",
            "mount tmpfs on /dev/shm [mode=1777,size=67108864] +0xe",
        ]
    );
    let devices: Vec<&str> = plan.devices.iter().filter_map(|device| device.path.to_str()).collect();
    assert_eq!(devices, ["/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty"]);
    assert_eq!(plan.links[0], ("fd", "/proc/self/fd"));
}

#[test]
fn options_of_a_bind() {
    let bind = |options: &[&str]| {
        plan_of(|spec| {
            spec.mounts = vec![oci::Mount {
                destination: "/a//b/../c".into(),
                kind: "none".into(),
                source: "/host".into(),
                options: names(options),
                ..oci::Mount::default()
            }];
        })
        .map(|plan| plan.mounts[0].clone())
    };
    let step = bind(&["rbind", "ro", "nosuid", "rnoexec", "rslave"]).unwrap();
    assert_eq!(step.target, Path::new("/a/c"));
    assert_eq!(step.filesystem, Filesystem::Bind { source: "/host".into(), recursive: true, idmap: None });
    assert_eq!((step.set, step.set_recursive, step.propagation), (0x3, 0x8, Some((Propagation::Slave, true))));
    let changed = bind(&["bind", "ro", "rw", "noatime", "relatime"]).unwrap();
    assert_eq!((changed.set, changed.clear), (0, 0x1 | 0x70));
    assert!(bind(&["bind", "size=1"]).unwrap_err().to_string().contains("not an option of a bind mount"));
}

#[test]
fn namespaces_by_kind() {
    let plan = plan_of(|spec| {
        for (kind, path) in [("cgroup", None), ("time", None), ("user", None)] {
            spec.linux.namespaces.push(oci::Namespace { kind: kind.into(), path });
        }
        spec.linux.namespaces[4].path = Some("/proc/1/ns/net".into());
        let map = oci::IdMapping { container_id: 0, host_id: 1000, size: 1 };
        (spec.linux.uid_mappings, spec.linux.gid_mappings) = (vec![map], vec![map]);
        spec.linux.time_offsets.insert("monotonic".into(), oci::TimeOffset { secs: -1, nanosecs: 5 });
    })
    .unwrap();
    assert_eq!(plan.new_namespaces, namespace::PID | namespace::MOUNT | namespace::UTS | namespace::IPC | namespace::USER);
    assert_eq!(plan.late_namespaces, namespace::CGROUP | namespace::TIME);
    assert_eq!(plan.joined, [(namespace::NET, PathBuf::from("/proc/1/ns/net"))]);
    assert_eq!(plan.ids.unwrap().users, "0 1000 1\n");
    assert_eq!(plan.time_offsets, "monotonic -1 5\n");
    let given = super::plan(&minimal(), &Given { namespaces: namespace::NET, terminal: true }).unwrap();
    assert_eq!(given.new_namespaces & namespace::NET, 0);
    assert!(given.console);
}

#[test]
fn contradictions_are_told() {
    let push = |spec: &mut oci::Spec, kind: &str| spec.linux.namespaces.push(oci::Namespace { kind: kind.into(), path: None });
    assert_eq!(refusal(|spec| push(spec, "pid")), "linux.namespaces[5]: the pid namespace is listed twice");
    assert!(refusal(|spec| push(spec, "moon")).starts_with("linux.namespaces[5].type: \"moon\" is not a kind of namespace: cgroup, "));
    assert_eq!(refusal(|spec| spec.linux.namespaces.clear()), "linux.namespaces: a container needs a mount namespace of its own");
    assert!(refusal(|spec| push(spec, "user")).contains("uidMappings"));
    assert!(refusal(|spec| spec.process = None).contains("no process"));
    let without_uts = |spec: &mut oci::Spec| {
        spec.linux.namespaces.retain(|one| one.kind != "uts");
        spec.hostname = "name".into();
    };
    assert!(refusal(without_uts).contains("no UTS namespace"));
    assert!(refusal(|spec| spec.process.as_mut().unwrap().cwd = "relative".into()).contains("not an absolute path"));
    assert!(refusal(|spec| spec.process.as_mut().unwrap().apparmor_profile = "x".into()).contains("AppArmor"));
    assert!(refusal(|spec| spec.process.as_mut().unwrap().selinux_label = "x".into()).starts_with("process.selinuxLabel: "));
    assert!(refusal(|spec| spec.linux.intel_rdt = Some(serde_json::json!({}))).starts_with("linux.intelRdt: "));
    assert!(
        refusal(|spec| drop(spec.linux.net_devices.insert("eth0".into(), oci::NetDevice::default()))).starts_with("linux.netDevices: ")
    );
    assert!(refusal(|spec| spec.linux.mount_label = "x".into()).contains("SELinux"));
    assert!(refusal(|spec| spec.linux.rootfs_propagation = "sideways".into()).contains("propagation"));
    let rlimit = |kind: &str, soft, hard| oci::Rlimit { kind: kind.into(), soft, hard };
    assert!(refusal(|spec| spec.process.as_mut().unwrap().rlimits = vec![rlimit("RLIMIT_NOFILE", 2, 1)]).contains("above the hard limit"));
    assert!(refusal(|spec| spec.process.as_mut().unwrap().rlimits = vec![rlimit("RLIMIT_ODD", 1, 1)]).contains("not a resource limit"));
}

#[test]
fn sysctls_by_namespace() {
    let sysctl = |key: &str| plan_of(|spec| drop(spec.linux.sysctl.insert(key.into(), "1".into()))).map(|plan| plan.sysctls[0].0.clone());
    assert_eq!(sysctl("net.ipv4.conf.eth0/1.forwarding").unwrap(), Path::new("net/ipv4/conf/eth0.1/forwarding"));
    assert_eq!(sysctl("kernel/shmmax").unwrap(), Path::new("kernel/shmmax"));
    for bad in ["kernel.panic", "vm.swappiness", "net/../kernel/panic", "fs.file-max", ""] {
        assert!(sysctl(bad).is_err(), "{bad:?}");
    }
    let shared = plan_of(|spec| {
        spec.linux.namespaces.retain(|one| one.kind != "network");
        spec.linux.sysctl.insert("net.ipv4.ip_forward".into(), "1".into());
    });
    assert!(shared.unwrap_err().to_string().contains("shares that namespace with the host"));
}

#[test]
fn unknown_fields_and_nulls_are_read_over() {
    let text = r#"{"ociVersion":"1.3.0","vm":{"x":1},"process":{"args":["a"],"user":{"uid":1,"gid":2,"additionalGids":null},"cwd":"/","env":null},
        "linux":{"namespaces":[{"type":"mount"}],"resources":{"memory":{"limit":5},"blockIO":{"throttleReadIOPSDevice":[{"major":1,"minor":2,"rate":3}]}},
        "seccomp":{"defaultAction":"SCMP_ACT_NEW","syscalls":null}}}"#;
    let spec: oci::Spec = serde_json::from_str(text).unwrap();
    assert_eq!(spec.process.as_ref().unwrap().user.gid, 2);
    let resources = spec.linux.resources.as_ref().unwrap();
    assert_eq!(resources.block_io.as_ref().unwrap().throttle_read_iops_device[0].rate, 3);
    let again: oci::Spec = serde_json::from_str(&serde_json::to_string(&spec).unwrap()).unwrap();
    assert_eq!(again, spec);
    assert!(crate::seccomp::compile(spec.linux.seccomp.as_ref().unwrap()).is_err(), "only what uses it fails");
}

#[test]
fn capabilities_by_name() {
    assert_eq!(capability_number("CAP_NET_ADMIN"), Some(12));
    assert_eq!(capability_number("net_admin"), Some(12));
    assert_eq!(capability_number("CAP_FLY"), None);
    assert_eq!(capability_name(40).as_deref(), Some("CAP_CHECKPOINT_RESTORE"));
    assert_eq!(capability_name(41), None);
}

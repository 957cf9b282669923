//! Command lines of `run` and the request bodies that they become.

use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::flags;

fn body(line: &[&str]) -> Result<Value> {
    let args: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
    let matches = flags::parse(&[CONTAINER_FLAGS, RESOURCE_FLAGS, LIMIT_FLAGS, SETTINGS_FLAGS], false, &args)
        .map_err(|misuse| anyhow::anyhow!(misuse.0))?;
    let environment = |name: &str| (name == "HOME").then(|| "/root".to_owned());
    plan(&matches, false, &Surroundings { environment: &environment, directory: Path::new("/here/now") }).map(|plan| plan.body)
}

fn refused(line: &[&str]) -> String {
    body(line).expect_err("refused").to_string()
}

#[test]
fn nothing_but_an_image() {
    let expected = json!({
        "AttachStdin": false, "AttachStdout": true, "AttachStderr": true, "Tty": false, "OpenStdin": false, "StdinOnce": false, "Image": "busybox",
        "HostConfig": {"NetworkMode": "default", "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0}},
    });
    assert_eq!(body(&["busybox"]).expect("parses"), expected);
}

#[test]
fn ports_ranges_addresses_and_protocols() {
    let body = body(&[
        "-p",
        "80:80",
        "-p127.0.0.1::81/udp",
        "-p",
        "7000-7001:8000-8001",
        "-p",
        "[::1]:90:90",
        "-p",
        "9000-9010:99",
        "--expose",
        "100-101/udp",
        "x",
    ])
    .expect("parses");
    assert_eq!(
        body["HostConfig"]["PortBindings"],
        json!({
            "80/tcp": [{"HostIp": "", "HostPort": "80"}], "81/udp": [{"HostIp": "127.0.0.1", "HostPort": ""}],
            "8000/tcp": [{"HostIp": "", "HostPort": "7000"}], "8001/tcp": [{"HostIp": "", "HostPort": "7001"}],
            "90/tcp": [{"HostIp": "::1", "HostPort": "90"}], "99/tcp": [{"HostIp": "", "HostPort": "9000-9010"}],
        })
    );
    assert!(body["ExposedPorts"]["101/udp"].is_object());
    assert!(refused(&["-p", "x:y", "i"]).contains("invalid container port \"y\""));
    assert!(refused(&["-p", "1-3:1-2", "i"]).contains("differ in length"));
    assert!(refused(&["-p", "80/icmp", "i"]).contains("icmp"));
    assert!(refused(&["-p", "300.1.1.1:1:1", "i"]).contains("not an IP address"));
}

#[test]
fn volumes_and_mounts() {
    let body = body(&[
        "-v",
        "./rel:/z",
        "-v",
        "../up:/u:ro",
        "-v",
        "name:/n",
        "-v",
        "/abs:/y:ro,z",
        "-v",
        "/anon",
        "--mount",
        "type=bind,src=/a,dst=/b,readonly,bind-propagation=rshared",
        "--mount",
        "type=volume,dst=/v,volume-nocopy,volume-opt=a=b,volume-label=x=y,volume-driver=local",
        "--mount",
        "type=tmpfs,dst=/t,tmpfs-size=1m,tmpfs-mode=1777",
        "--tmpfs",
        "/q:size=4m",
        "--tmpfs",
        "/r",
        "i",
    ])
    .expect("parses");
    let host = &body["HostConfig"];
    assert_eq!(host["Binds"], json!(["/here/now/rel:/z", "/here/up:/u:ro", "name:/n", "/abs:/y:ro,z"]));
    assert_eq!(body["Volumes"], json!({"/anon": {}}));
    assert_eq!(host["Tmpfs"], json!({"/q": "size=4m", "/r": ""}));
    assert_eq!(
        host["Mounts"],
        json!([
            {"Type": "bind", "Source": "/a", "Target": "/b", "ReadOnly": true, "BindOptions": {"Propagation": "rshared"}},
            {"Type": "volume", "Target": "/v",
             "VolumeOptions": {"NoCopy": true, "DriverConfig": {"Options": {"a": "b"}, "Name": "local"}, "Labels": {"x": "y"}}},
            {"Type": "tmpfs", "Target": "/t", "TmpfsOptions": {"SizeBytes": 1_048_576, "Mode": 1023}},
        ])
    );
    assert!(refused(&["-v", "a:b:c:d:e", "i"]).contains("invalid volume specification"));
    assert!(refused(&["-v", "a:b", "i"]).contains("not absolute"));
    assert!(refused(&["-v", "/a:/", "i"]).contains("root"));
}

#[test]
fn limits_and_rights() {
    let body = body(&[
        "--cpus",
        "1.5",
        "-m",
        "64m",
        "--memory-swap",
        "-1",
        "--pids-limit",
        "9",
        "--cpu-shares",
        "5",
        "--cpuset-cpus",
        "0",
        "--shm-size",
        "32m",
        "--ulimit",
        "nofile=10:20",
        "--ulimit",
        "nproc=5",
        "--device",
        "/dev/fuse",
        "--device",
        "/dev/a:/dev/b:r",
        "--cap-add",
        "net_admin",
        "--cap-drop",
        "ALL",
        "--security-opt",
        "no-new-privileges",
        "--security-opt",
        "seccomp=unconfined",
        "--restart",
        "on-failure:3",
        "--init",
        "--stop-timeout",
        "5",
        "i",
    ])
    .expect("parses");
    assert_eq!(
        body["HostConfig"],
        json!({
            "CpuShares": 5, "NanoCpus": 1_500_000_000, "Memory": 67_108_864, "MemorySwap": -1, "PidsLimit": 9, "CpusetCpus": "0",
            "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3}, "NetworkMode": "default", "Init": true, "ShmSize": 33_554_432,
            "CapAdd": ["CAP_NET_ADMIN"], "CapDrop": ["ALL"], "SecurityOpt": ["no-new-privileges", "seccomp=unconfined"],
            "Devices": [{"PathOnHost": "/dev/fuse", "PathInContainer": "/dev/fuse", "CgroupPermissions": "rwm"},
                        {"PathOnHost": "/dev/a", "PathInContainer": "/dev/b", "CgroupPermissions": "r"}],
            "Ulimits": [{"Name": "nofile", "Hard": 20, "Soft": 10}, {"Name": "nproc", "Hard": 5, "Soft": 5}],
        })
    );
    assert!(refused(&["--ulimit", "nofile=20:10", "i"]).contains("above the hard limit"));
    assert!(refused(&["--ulimit", "files=1", "i"]).contains("not a limit"));
    assert!(refused(&["--restart", "foo", "i"]).contains("invalid restart policy"));
    assert!(refused(&["--restart", "always:3", "i"]).contains("only on-failure"));
    assert!(refused(&["--rm", "--restart", "always", "i"]).contains("conflicting options"));
    assert!(refused(&["--device", "fuse", "i"]).contains("slash"));
    assert!(refused(&["--security-opt", "seccomp=/no/such", "i"]).contains("seccomp profile /no/such"));
}

#[test]
fn names_and_environment() {
    let path = std::env::temp_dir().join(format!("cais-cli-env-{}", std::process::id()));
    std::fs::write(&path, "\u{feff}B=2 # kept\n# comment\n  C=3\nHOME\nUNSET\n\n").expect("written");
    let file = path.to_str().expect("a path").to_owned();
    let result = body(&[
        "-e",
        "A=1",
        "-e",
        "HOME",
        "-e",
        "NOPE",
        "--env-file",
        &file,
        "-h",
        "hh",
        "-u",
        "1:2",
        "-w",
        "/w",
        "--entrypoint",
        "",
        "--label",
        "a=b=c",
        "-l",
        "d",
        "--add-host",
        "a:1.2.3.4",
        "--add-host",
        "b=host-gateway",
        "--add-host",
        "c:::1",
        "--dns",
        "1.1.1.1",
        "--network",
        "container:x",
        "-it",
        "--rm",
        "-P",
        "i",
        "c",
        "-d",
    ]);
    std::fs::write(&path, "bad name=1\n").expect("written");
    let bad = refused(&["--env-file", &file, "i"]);
    std::fs::remove_file(&path).expect("removed");
    let body = result.expect("parses");
    assert_eq!(body["Env"], json!(["B=2 # kept", "C=3", "HOME=/root", "A=1", "HOME=/root", "NOPE"]));
    assert_eq!((&body["Hostname"], &body["User"], &body["WorkingDir"]), (&json!("hh"), &json!("1:2"), &json!("/w")));
    assert_eq!((&body["Entrypoint"], &body["Cmd"]), (&json!([""]), &json!(["c", "-d"])));
    assert_eq!(body["Labels"], json!({"a": "b=c", "d": ""}));
    assert_eq!(body["HostConfig"]["ExtraHosts"], json!(["a:1.2.3.4", "b:host-gateway", "c:::1"]));
    assert_eq!((&body["HostConfig"]["NetworkMode"], &body["HostConfig"]["AutoRemove"]), (&json!("container:x"), &json!(true)));
    assert_eq!(
        (&body["Tty"], &body["OpenStdin"], &body["StdinOnce"], &body["AttachStdin"]),
        (&json!(true), &json!(true), &json!(true), &json!(true))
    );
    assert!(bad.contains("no usable variable name"), "{bad}");
    assert!(refused(&["--add-host", "x:y", "i"]).contains("not an IP address"));
    assert!(refused(&["--dns", "x", "i"]).contains("not an IP address"));
}

#[test]
fn streams_follow_the_flags() {
    let body = body(&["-a", "stdout", "i"]).expect("parses");
    assert_eq!((&body["AttachStdin"], &body["AttachStdout"], &body["AttachStderr"]), (&json!(false), &json!(true), &json!(false)));
    assert!(refused(&["-a", "nope", "i"]).contains("STDIN"));
}

#[test]
fn networks_have_a_short_and_a_long_form() {
    let plain = body(&["--network", "front", "--network-alias", "www", "--ip", "10.0.0.5", "i"]).expect("parses");
    assert_eq!(plain["HostConfig"]["NetworkMode"], "front");
    assert_eq!(
        plain["NetworkingConfig"]["EndpointsConfig"],
        json!({"front": {"IPAMConfig": {"IPv4Address": "10.0.0.5"}, "Aliases": ["www"]}})
    );
    let long = body(&["--network", "name=front,alias=a,alias=b,gw-priority=-1", "--network", "back", "i"]).expect("parses");
    assert_eq!(long["HostConfig"]["NetworkMode"], "front");
    assert_eq!(long["NetworkingConfig"]["EndpointsConfig"], json!({"front": {"Aliases": ["a", "b"], "GwPriority": -1}, "back": {}}));
    let six = body(&["--network", "front", "--ip6", "fd00::5", "--link-local-ip", "fe80::7", "i"]).expect("parses");
    assert_eq!(
        six["NetworkingConfig"]["EndpointsConfig"]["front"],
        json!({"IPAMConfig": {"IPv6Address": "fd00::5", "LinkLocalIPs": ["fe80::7"]}})
    );
    let option = "name=front,ip=10.0.0.5,ip6=fd00::5,\"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.a=1,net.ipv4.conf.IFNAME.b=2\"";
    let options = body(&["--network", option, "i"]).expect("parses");
    assert_eq!(
        options["NetworkingConfig"]["EndpointsConfig"]["front"],
        json!({
            "IPAMConfig": {"IPv4Address": "10.0.0.5", "IPv6Address": "fd00::5"},
            "DriverOpts": {"com.docker.network.endpoint.sysctls": "net.ipv4.conf.IFNAME.a=1,net.ipv4.conf.IFNAME.b=2"},
        })
    );
    assert!(refused(&["--network", "name=x,driver-opt=y", "i"]).contains("NAME=VALUE"));
    let none = body(&["--network", "none", "i"]).expect("parses");
    assert_eq!((&none["HostConfig"]["NetworkMode"], &none["NetworkingConfig"]), (&json!("none"), &json!(null)));
    assert!(refused(&["--network", "host", "--network", "front", "i"]).contains("no other network"));
    assert!(refused(&["--network", "alias=x", "i"]).contains("name=… is missing"));
    assert!(refused(&["--network", "name=x,color=red", "i"]).contains("unexpected key"));
}

#[test]
fn settings_become_fields() {
    let words = |line: &str| body(&line.split(' ').collect::<Vec<_>>());
    let made = words(
        "--health-cmd true --health-interval 1m30s --health-retries 2 --sysctl net.core.somaxconn=5 --dns-search a.b --group-add 5 \
         --annotation x=y --log-opt max-size=1m --userns host --volumes-from web:ro img",
    )
    .expect("parses");
    assert_eq!(made["Healthcheck"], json!({"Test": ["CMD-SHELL", "true"], "Interval": 90_000_000_000_i64, "Retries": 2}));
    let host = &made["HostConfig"];
    assert_eq!(host["Sysctls"], json!({"net.core.somaxconn": "5"}));
    assert_eq!((&host["GroupAdd"], &host["VolumesFrom"], &host["UsernsMode"]), (&json!(["5"]), &json!(["web:ro"]), &json!("host")));
    assert_eq!(host["LogConfig"]["Config"]["max-size"], "1m");
    assert_eq!(words("--no-healthcheck img").expect("parses")["Healthcheck"]["Test"][0], "NONE");
    for bad in
        ["--no-healthcheck --health-cmd x img", "--health-interval soon img", "--sysctl x img", "--log-driver none --log-opt a=b img"]
    {
        assert!(words(bad).is_err(), "{bad}");
    }
}

#[test]
fn limits_of_devices_and_processors() {
    let line = [
        "--cpu-period",
        "50000",
        "--cpu-quota",
        "25000",
        "--cpu-rt-runtime",
        "95",
        "--cpuset-mems",
        "0",
        "--memory-swappiness",
        "0",
        "--oom-kill-disable",
        "--device-read-bps",
        "/dev/vda:1mb",
        "--device-write-iops",
        "/dev/vda:100",
        "--blkio-weight-device",
        "/dev/vda:300",
        "--device-cgroup-rule",
        "c 10:* rwm",
        "--cgroup-parent",
        "/quay",
        "busybox",
    ];
    let body = body(&line).expect("parses");
    let expected = json!({
        "CpuPeriod": 50000, "CpuQuota": 25000, "CpuRealtimeRuntime": 95, "CpusetMems": "0", "MemorySwappiness": 0, "OomKillDisable": true,
        "BlkioDeviceReadBps": [{"Path": "/dev/vda", "Rate": 1_048_576}], "BlkioDeviceWriteIOps": [{"Path": "/dev/vda", "Rate": 100}],
        "BlkioWeightDevice": [{"Path": "/dev/vda", "Weight": 300}], "DeviceCgroupRules": ["c 10:* rwm"], "CgroupParent": "/quay",
    });
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(body["HostConfig"][key], *value, "{key}");
    }
    for bad in [["--device-read-bps", "vda:1"], ["--device-write-iops", "/dev/vda:x"], ["--blkio-weight-device", "/dev/vda"]] {
        assert!(refused(&[bad[0], bad[1], "busybox"]).contains(bad[1]), "{bad:?}");
    }
}

#[test]
fn devices_by_description() {
    let requests = |line: &[&str]| body(&[line, &["busybox"]].concat()).expect("parses")["HostConfig"]["DeviceRequests"].clone();
    let gpus = |spec: &str| requests(&["--gpus", spec])[0].clone();
    assert_eq!(gpus("all"), json!({"Driver": "", "Count": -1, "DeviceIDs": [], "Capabilities": [["gpu"]], "Options": {}}));
    assert_eq!(gpus("2")["Count"], 2);
    let some = gpus("\"device=0,GPU-1\",capabilities=utility,driver=nvidia");
    assert_eq!((&some["DeviceIDs"], &some["Count"], &some["Driver"]), (&json!(["0", "GPU-1"]), &json!(0), &json!("nvidia")));
    assert_eq!(some["Capabilities"], json!([["gpu", "utility"]]));
    assert!(
        refused(&["--gpus", "some", "busybox"]).contains("some") && refused(&["--gpus", "count=1,count=2", "busybox"]).contains("twice")
    );
    let both = ["--device", "vendor.com/net=one", "--device", "/dev/null"];
    assert_eq!(requests(&both), json!([{"Driver": "cdi", "DeviceIDs": ["vendor.com/net=one"]}]));
    assert_eq!(body(&[&both[..], &["busybox"]].concat()).expect("parses")["HostConfig"]["Devices"][0]["PathOnHost"], "/dev/null");
}

#[test]
fn system_paths_are_shown_by_leaving_the_lists_empty() {
    let body = body(&["--security-opt", "systempaths=unconfined", "--security-opt", "label=disable", "busybox"]).expect("parses");
    let host = &body["HostConfig"];
    assert_eq!((&host["MaskedPaths"], &host["ReadonlyPaths"], &host["SecurityOpt"]), (&json!([]), &json!([]), &json!(["label=disable"])));
}

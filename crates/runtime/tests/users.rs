//! User namespaces: new and joined ones, and mounts whose ids are mapped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on ends here")]

mod common;

use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;

use common::{Bed, sh, usable, wait};
use runtime::{Launch, Root, oci};
use rustix::pipe::{PipeFlags, pipe_with};

const FIRST: u32 = 500_000;

fn map(container_id: u32, host_id: u32, size: u32) -> Vec<oci::IdMapping> {
    vec![oci::IdMapping { container_id, host_id, size }]
}

fn mapped(script: &str) -> oci::Spec {
    let mut spec = sh(script);
    spec.linux.namespaces.push(oci::Namespace { kind: "user".into(), path: None });
    (spec.linux.uid_mappings, spec.linux.gid_mappings) = (map(0, FIRST, 65_536), map(0, FIRST, 65_536));
    spec
}

fn map_root(launch: &mut Launch<'_>) {
    if let Root::Overlay { idmap, .. } = &mut launch.root {
        *idmap = true;
    }
}

fn bind(source: &Path, options: &[&str]) -> oci::Mount {
    oci::Mount {
        destination: "/mnt".into(),
        kind: "bind".into(),
        source: source.to_str().unwrap().into(),
        options: options.iter().map(|&option| option.to_owned()).collect(),
        ..oci::Mount::default()
    }
}

fn owner(path: &Path) -> (u32, u32) {
    let metadata = std::fs::symlink_metadata(path).unwrap();
    (metadata.uid(), metadata.gid())
}

#[test]
fn layers_are_shared_with_their_ids_as_they_are() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let file = bed.file("etc/web", "x");
    chown(file, Some(33), Some(34)).unwrap();
    let script = "stat -c %u:%g /etc/passwd /etc/web; touch /root/new; chown 33:34 /etc/passwd /root/new; mkdir /a; chown web /a; \
                  su web -s /bin/sh -c 'echo hi > /a/b && stat -c %u:%g /a/b'; cat /proc/self/uid_map | tr -s ' '";
    let outcome = bed.run_with(&mapped(script), map_root).unwrap();
    assert_eq!(outcome.text, format!("0:0\n33:34\n33:34\n 0 {FIRST} 65536\n"));
    let upper = |name: &str| owner(&bed.path.join("upper").join(name));
    assert_eq!((upper("root/new"), upper("etc/passwd"), upper("a/b")), ((33, 34), (33, 34), (33, 34)));
    // The layer is what it was, and another container finds it so.
    assert_eq!(owner(&bed.path.join("lower/etc/passwd")), (0, 0));
    assert_eq!(bed.run(&sh("stat -c %u /a/b")).unwrap().text, "33\n");
}

#[test]
fn binds_show_the_ids_that_are_asked_for() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let shared = bed.path.join("shared");
    std::fs::create_dir_all(&shared).unwrap();
    std::fs::write(shared.join("file"), "").unwrap();
    chown(shared.join("file"), Some(1000), Some(1001)).unwrap();

    let mut spec = mapped("stat -c %u:%g /mnt/file; touch /mnt/own");
    spec.mounts.push(bind(&shared, &["rbind", "idmap"]));
    assert_eq!(bed.run_with(&spec, map_root).unwrap().text, "1000:1001\n");
    assert_eq!(owner(&shared.join("own")), (0, 0));

    chown(&shared, Some(1000), Some(1001)).unwrap();
    // Maps of its own, without any user namespace: the host's user 1000 is root here.
    let mut spec = sh("stat -c %u:%g /mnt/file; touch /mnt/by-root");
    spec.mounts.push(oci::Mount { uid_mappings: map(1000, 0, 1), gid_mappings: map(1001, 0, 1), ..bind(&shared, &["bind", "ridmap"]) });
    assert_eq!(bed.run(&spec).unwrap().text, "0:0\n");
    assert_eq!(owner(&shared.join("by-root")), (1000, 1001));
    // Without a word in the options the maps count all the same, as runc has it.
    spec.mounts.last_mut().unwrap().options = vec!["bind".into()];
    assert_eq!(bed.run(&spec).unwrap().text, "0:0\n");
}

#[test]
fn a_tree_is_mapped_whole_or_at_its_top() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let tree = bed.path.join("tree");
    std::fs::create_dir_all(tree.join("below")).unwrap();
    let below = tree.join("below");
    rustix::mount::mount(c"tmpfs", &below, c"tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
    std::fs::write(below.join("file"), "").unwrap();
    let shown = |option: &str| {
        let mut spec = sh("stat -c %u /mnt /mnt/below/file");
        spec.mounts.push(oci::Mount { uid_mappings: map(0, 7, 1), gid_mappings: map(0, 7, 1), ..bind(&tree, &["rbind", option]) });
        bed.run(&spec).map(|outcome| outcome.text)
    };
    let (top, whole) = (shown("idmap"), shown("ridmap"));
    rustix::mount::unmount(&below, rustix::mount::UnmountFlags::DETACH).unwrap();
    assert_eq!((top.unwrap(), whole.unwrap()), ("7\n0\n".to_owned(), "7\n7\n".to_owned()));
}

#[test]
fn mappings_that_make_no_sense_are_refused() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let refused = |change: &dyn Fn(&mut oci::Spec)| {
        let mut spec = sh("true");
        change(&mut spec);
        bed.run(&spec).unwrap_err().to_string()
    };
    assert!(refused(&|spec| spec.mounts.push(bind(&bed.path, &["bind", "idmap"]))).contains("needs uidMappings"));
    assert!(
        refused(&|spec| spec.mounts.push(oci::Mount { uid_mappings: map(0, 1, 1), ..bind(&bed.path, &["bind"]) })).contains("gidMappings")
    );
    assert!(refused(&|spec| spec.mounts[1].options.push("idmap".into())).contains("only bind mounts"));
    let overlapping = || [map(0, 10, 5), map(4, 20, 5)].concat();
    assert!(
        refused(&|spec| spec.mounts.push(oci::Mount {
            uid_mappings: overlapping(),
            gid_mappings: map(0, 1, 1),
            ..bind(&bed.path, &["bind"])
        }))
        .contains("uidMappings[1]: it overlaps")
    );
    let with = |maps: Vec<oci::IdMapping>| {
        let mut spec = mapped("true");
        spec.linux.uid_mappings = maps;
        bed.run(&spec).unwrap_err().to_string()
    };
    assert!(with(map(u32::MAX, 1, 2)).contains("not possible"));
    assert!(with(map(0, 0, 0)).contains("not possible"));
    assert!(with(vec![map(0, 0, 1)[0]; 400]).contains("takes 340"));
    let error = bed.run_with(&sh("true"), map_root).unwrap_err().to_string();
    assert!(error.contains("no user namespace"), "{error}");
    // A filesystem that knows no mapped ids says so.
    let error = refused(&|spec| {
        let proc = bind(Path::new("/proc/sys/kernel"), &["bind"]);
        spec.mounts.push(oci::Mount { uid_mappings: map(0, 1, 1), gid_mappings: map(0, 1, 1), ..proc });
    });
    assert!(error.contains("the ids of /proc/sys/kernel cannot be mapped"), "{error}");
}

#[test]
fn a_user_namespace_is_joined_by_its_path() {
    if !usable() {
        return;
    }
    let (bed, other) = (Bed::new(), Bed::new());
    let (_reader, writer) = pipe_with(PipeFlags::CLOEXEC).unwrap();
    let first = bed.start(&mapped("sleep 60"), &writer, map_root).unwrap();
    let path = |kind: &str| format!("/proc/{}/ns/{kind}", first.pid.as_raw_nonzero());
    let mut spec = mapped(
        "readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u; stat -c %u /etc/passwd; touch /a; ls -d /sys/class/net/*; exit 5",
    );
    spec.linux.namespaces.last_mut().unwrap().path = Some(path("user").into());
    spec.linux.namespaces.iter_mut().find(|one| one.kind == "network").unwrap().path = Some(path("net").into());
    // Podman says this beside a namespace to join.
    (spec.linux.uid_mappings, spec.linux.gid_mappings) = (map(0, 0, 1), map(0, 0, 1));
    let outcome = other.run_with(&spec, map_root).unwrap();
    let link = |kind: &str| std::fs::read_link(path(kind)).unwrap().to_str().unwrap().to_owned();
    assert_eq!(outcome.text, format!("{}\n{}\n0\n0\n/sys/class/net/lo\n", link("user"), link("net")));
    assert_eq!(outcome.code, 5, "it is the caller's to reap");
    assert_eq!(owner(&other.path.join("upper/a")), (0, 0));

    let by_descriptor = std::fs::File::open(path("user")).unwrap();
    let mut spec = sh("readlink /proc/self/ns/user");
    spec.hostname = "joined".into();
    let outcome = other.run_with(&spec, |launch| {
        launch.namespaces.user = Some(by_descriptor.as_fd());
        map_root(launch);
    });
    assert_eq!(outcome.unwrap().text, format!("{}\n", link("user")));
    spec.linux.namespaces.push(oci::Namespace { kind: "user".into(), path: Some("/proc/self/ns/net".into()) });
    assert!(other.run(&spec).unwrap_err().to_string().contains("join the user namespace"));
    rustix::process::kill_process(first.pid, rustix::process::Signal::KILL).unwrap();
    assert_eq!(wait(&first), 137);
}

/// A container with users of its own may share what is the host's; /proc, /sys and the message queues show that then.
#[test]
fn namespaces_of_the_host_are_shown_in_a_user_namespace() {
    if !usable() {
        return;
    }
    let bed = Bed::new();
    let mut spec = mapped(
        "for n in net ipc pid; do readlink /proc/self/ns/$n; done; ls /sys/class/net | grep -c lo; ls /dev/mqueue | wc -l; ls -d /proc/$PPID",
    );
    spec.linux.namespaces.retain(|one| !matches!(one.kind.as_str(), "network" | "ipc" | "pid"));
    let outcome = bed.run_with(&spec, map_root).unwrap();
    let link = |kind: &str| std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap().to_str().unwrap().to_owned();
    let lines: Vec<&str> = outcome.text.lines().collect();
    assert_eq!(lines[..3], [link("net"), link("ipc"), link("pid")], "{}", outcome.text);
    assert_eq!(lines[3], "1");
    assert_eq!(lines[5], format!("/proc/{}", std::process::id()));
}

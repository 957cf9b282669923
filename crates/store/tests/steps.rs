//! Layers that steps of a build make: what they are, when they are durable, and what the build cache keeps.

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::symlink;
use std::sync::Arc;

use common::{is_root, shell};
use store::archive::recipe::rebuild;
use store::{CacheRecord, Options, Store};

const FILES: &str = "mkdir -p etc/deep; echo one > etc/deep/one; head -c 300000 /dev/zero > zeros; ln zeros etc/zeros; ln -s /x etc/link; chmod 2755 etc/deep; : > empty";

fn open(root: &std::path::Path) -> Store {
    Store::open(Options::new(root)).expect("opens")
}

fn record(key: &str, layer: Option<types::Digest>) -> CacheRecord {
    CacheRecord {
        key: key.to_owned(),
        layer,
        kind: "regular".to_owned(),
        description: "RUN x".to_owned(),
        created: "2020-01-01T00:00:00Z".to_owned(),
        last_used: "2020-01-01T00:00:00Z".to_owned(),
        uses: 0,
        size: 4,
        inputs: BTreeMap::new(),
        slot: "s".to_owned(),
    }
}

#[test]
fn a_filled_directory_becomes_the_layer_of_its_archive() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let store = open(directory.path());
    let make = || {
        let draft = store.draft().expect("makes");
        shell(FILES, &draft.fs_dir());
        shell("find . -exec touch -h -d @1000000000 {} +", &draft.fs_dir());
        store.adopt(draft).expect("adopts").expect("has files")
    };
    let hold = make();
    let layer = Arc::clone(hold.layer());
    assert_eq!(layer.size, 300_004);
    let path = directory.path().join("layers").join(&layer.key);
    let mut archive = Vec::new();
    let (digest, len) = rebuild(&path, &mut archive).expect("rebuilds");
    assert_eq!((&digest, len), (&layer.diff_id, layer.archive_size));
    // What is unpacked from it is the same layer.
    assert_eq!(store.unpack(&mut archive.as_slice()).expect("unpacks").diff_id(), &digest);
    // The same files again are the same layer, not another one.
    assert_eq!(make().layer().key, layer.key);
    assert_eq!(std::fs::read_dir(directory.path().join("staging")).expect("lists").count(), 0);
    assert!(store.adopt(store.draft().expect("makes")).expect("adopts").is_none(), "an empty directory is no layer");
}

#[test]
fn steps_survive_a_crash_once_they_are_kept() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let root = directory.path();
    let keys: Vec<types::Digest> = {
        let store = open(root);
        let layer = |text: &str| {
            let draft = store.draft().expect("makes");
            std::fs::write(draft.fs_dir().join("f"), text).expect("writes");
            store.adopt(draft).expect("adopts").expect("has a file").layer().diff_id.clone()
        };
        let kept = layer("kept");
        store.remember_step(record("a", Some(kept.clone())));
        store.remember_step(record("none", None));
        store.keep_steps().expect("keeps");
        let lost = layer("lost");
        store.remember_step(record("b", Some(lost.clone())));
        assert!(store.cached_step("b").is_some());
        vec![kept, lost]
    };
    let store = open(root);
    assert!(store.find_layer(&keys[0], &keys[0]).is_some() && store.find_layer(&keys[1], &keys[1]).is_none());
    assert!(store.cached_step("a").is_some() && store.cached_step("none").is_some() && store.cached_step("b").is_none());
    assert_eq!(store.cached_before("s").map(|record| record.uses > 0), Some(true));
    store.wait_for_removals();
    assert_eq!(std::fs::read_dir(root.join("layers")).expect("lists").count(), 1);
    // Without its record nothing needs the layer.
    assert_eq!(store.forget_steps(&["a".to_owned(), "none".to_owned()]).expect("forgets"), 4);
    store.wait_for_removals();
    assert_eq!(std::fs::read_dir(root.join("layers")).expect("lists").count(), 0);
}

#[test]
fn the_clean_up_of_mount_points_follows_no_link() {
    if !is_root() {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    let outside = tempfile::tempdir().expect("temporary directory");
    std::fs::create_dir(outside.path().join("victim")).expect("makes");
    std::fs::write(outside.path().join("empty"), "").expect("writes");
    let store = open(directory.path());
    let snapshot = store.create_snapshot_over("step", &[], None).expect("makes");
    shell("mkdir -p dev/pts etc mnt/cache kept; : > etc/hosts; echo x > etc/resolv.conf; mkdir sys proc", &snapshot.upper);
    symlink(outside.path(), snapshot.upper.join("away")).expect("links");
    let mounted = ["/away/victim", "/away/empty", "/mnt/cache"].map(str::to_owned);
    let draft = store.take_upper("step", &mounted).expect("takes");
    let mut left: Vec<_> = std::fs::read_dir(draft.fs_dir()).expect("lists").map(|entry| entry.expect("lists").file_name()).collect();
    left.sort();
    assert_eq!(left, ["away", "etc", "kept"]);
    assert!(draft.fs_dir().join("etc/resolv.conf").exists() && !draft.fs_dir().join("etc/hosts").exists());
    assert!(outside.path().join("victim").is_dir() && outside.path().join("empty").exists());
    store.remove_snapshot("step").expect("removes");
}

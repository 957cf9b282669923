//! Crashes at every fail point: what was acknowledged is there afterwards, nothing half is visible, nothing is left over.

mod common;

use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::Command;

use common::{Tar, is_root};
use store::{ImportOptions, NewVolume, Options, Records, Store};

const DIRECTORY: &str = "CAIS_TEST_CRASH_DIRECTORY";
const POINTS: [&str; 19] = [
    "store.layer.unpacked",
    "store.image.staged",
    "store.image.synced",
    "store.image.published",
    "store.image.recorded",
    "store.db.begin",
    "store.db.commit",
    "store.db.committed",
    "store.remove.begin",
    "store.remove.recorded",
    "store.layer.dropped",
    "store.volume.made",
    "store.volume.removed",
    "durable.dir.renamed",
    "durable.entombed:1",
    "durable.entombed:2",
    "store.db.commit:3",
    "store.db.commit:5",
    "store.db.committed:4",
];

fn import(store: &Store, content: &str, name: &str) {
    let options = ImportOptions { name: Some(name.parse().expect("name")), ..ImportOptions::default() };
    store.import(&mut Tar::default().file("f", content).end().as_slice(), &options).expect("imports");
}

/// What the process that crashes does; each step is acknowledged in a file.
fn work(root: &Path) {
    let store = Store::open(Options::new(root)).expect("opens");
    let done = |step: &str| std::fs::write(root.join(format!("done-{step}")), "").expect("notes");
    import(&store, "one", "one");
    done("one");
    store.create_volume(&NewVolume { name: Some("vol".to_owned()), ..NewVolume::default() }).expect("makes");
    done("vol");
    import(&store, "two", "two");
    done("two");
    let image = store.resolve("two").expect("is there");
    store.create_snapshot("container", &image).expect("makes");
    store.remove_snapshot("container").expect("removes");
    store.remove_image("one", false, false, &|_| Vec::new()).expect("removes");
    done("not-one");
    store.remove_volume("vol").expect("removes");
    done("not-vol");
}

/// Run by the test below in a process of its own, with a fail point armed.
#[test]
fn child() {
    if let Ok(root) = std::env::var(DIRECTORY) {
        work(Path::new(&root));
    }
}

#[test]
fn every_crash_leaves_a_whole_store() {
    if !is_root() {
        return;
    }
    for point in POINTS {
        let directory = tempfile::tempdir().expect("temporary directory");
        let root = directory.path().join("root");
        let mut child = Command::new(std::env::current_exe().expect("own path"));
        child.args(["--exact", "child", "--quiet"]).env(DIRECTORY, &root).env("CAIS_FAIL_POINT", point);
        let ended = child.output().expect("runs").status;
        assert_eq!(ended.signal(), Some(6), "{point}: the child is to crash, not to end with {ended}");
        audit(&root, point);
    }
}

fn audit(root: &Path, point: &str) {
    let store = Store::open(Options::new(root)).unwrap_or_else(|error| panic!("{point}: {}", types::error::chain(&error)));
    let done = |step: &str| root.join(format!("done-{step}")).exists();
    for (name, content) in [("one", "one"), ("two", "two")] {
        let image = store.resolve(name).ok();
        if done(name) && !(name == "one" && done("two")) {
            assert!(image.is_some(), "{point}: {name} was acknowledged");
        }
        if name == "one" && done("not-one") {
            assert!(image.is_none(), "{point}: the removal of one was acknowledged");
        }
        if let Some(image) = image {
            let file = store.lowerdirs(&image)[0].join("f");
            assert_eq!(std::fs::read_to_string(file).expect("is whole"), content, "{point}");
            store.content().read(&image.id).expect("has its configuration");
        }
    }
    assert!(!done("vol") || done("two") || store.volume("vol").is_ok(), "{point}: the volume was acknowledged");
    assert!(!done("not-vol") || store.volume("vol").is_err(), "{point}: the removal of the volume was acknowledged");
    for volume in store.volumes() {
        assert!(volume.mountpoint.is_dir(), "{point}");
    }
    // The engine removes the directories of containers that it has no record of.
    for id in store.snapshot_ids().expect("lists") {
        store.remove_snapshot(&id).expect("removes");
    }
    store.wait_for_removals();
    let count = |directory: &str| std::fs::read_dir(root.join(directory)).expect("lists").count();
    let images = store.images().len();
    assert_eq!((count("staging"), count("trash"), count("containers")), (0, 0, 0), "{point}");
    assert_eq!((count("layers"), count("content/sha256"), count("volumes")), (images, 2 * images, store.volumes().len()), "{point}");
    assert_eq!(store.db().scan_raw("layer").expect("scans").len(), images, "{point}");
    // And the store goes on.
    import(&store, "three", "three");
}

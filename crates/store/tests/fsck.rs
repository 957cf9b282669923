//! Damage is found, whatever it is, and only the damaged layer is put right.

mod common;

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;

use common::{Sandbox, Tar, is_root, top_layer};
use store::Layer;

fn archive() -> Vec<u8> {
    let tar = Tar::default().dir("d", 0o750).file("d/file", "content").file("empty", "").entry(b'2', "link", "d/file", b"");
    // Replaced by a later entry, and with a second name: neither is damage.
    tar.file("twice", "first").file("twice", "second").entry(b'1', "twin", "d/file", b"").file("d/.wh.gone", "").end()
}

fn record(sandbox: &Sandbox, key: &str) -> Arc<Layer> {
    Arc::clone(sandbox.store.catalog().layer(key).expect("is there"))
}

type Harm = fn(&Path);

#[test]
fn every_kind_of_damage_is_found_and_repaired() {
    if !is_root() {
        return;
    }
    let harms: [(&str, Harm, &str); 9] = [
        ("emptied, as by a power cut", |root| std::fs::write(root.join("d/file"), "").expect("writes"), "whole buffer"),
        ("changed", |root| std::fs::write(root.join("d/file"), "CONTENT").expect("writes"), "digest"),
        ("longer", |root| std::fs::write(root.join("d/file"), "content and more").expect("writes"), "another length"),
        ("gone", |root| std::fs::remove_file(root.join("empty")).expect("removes"), "missing"),
        ("mode", |root| std::fs::set_permissions(root.join("d"), PermissionsExt::from_mode(0o777)).expect("sets"), "another mode"),
        ("owner", |root| std::os::unix::fs::chown(root.join("twice"), Some(7), None).expect("sets"), "another owner"),
        (
            "link",
            |root| {
                std::fs::remove_file(root.join("link")).expect("removes");
                symlink("/etc/passwd", root.join("link")).expect("links");
            },
            "leads elsewhere",
        ),
        ("recipe", |root| std::fs::write(root.join("../recipe"), "x").expect("writes"), "rebuild"),
        ("everything", |root| std::fs::remove_dir_all(root.parent().expect("a layer")).expect("removes"), "rebuild"),
    ];
    let sandbox = Sandbox::new();
    let other = sandbox.import(&Tar::default().file("other", "1").end(), "other").expect("imports");
    let image = sandbox.import(&archive(), "image").expect("imports");
    let layer = record(&sandbox, &image.layers[0].key);
    assert!(sandbox.store.verify(&mut |_| true).expect("verifies").damaged.is_empty());
    for (what, harm, message) in harms {
        harm(&top_layer(&sandbox, &image));
        let found = sandbox.store.verify(&mut |_| true).expect("verifies");
        assert_eq!((found.layers, found.damaged.len()), (2, 1), "{what}");
        assert!(found.damaged[0].reason.contains(message), "{what}: {}", found.damaged[0].reason);
        assert_eq!(found.damaged[0].images, std::slice::from_ref(&image.id), "{what}");
        let staged = sandbox.store.unpack(&mut archive().as_slice()).expect("unpacks");
        sandbox.store.replace_layer(&layer, &staged).unwrap_or_else(|error| panic!("{what}: {error}"));
        drop(staged);
        assert!(sandbox.store.verify(&mut |_| true).expect("verifies").damaged.is_empty(), "{what}");
    }
    let wrong = sandbox.store.unpack(&mut Tar::default().file("x", "1").end().as_slice()).expect("unpacks");
    assert!(sandbox.store.replace_layer(&layer, &wrong).is_err(), "another layer");
    drop(wrong);
    sandbox.store.wait_for_removals();
    assert_eq!(std::fs::read_dir(sandbox.store.root().join("staging")).expect("lists").count(), 0);
    std::fs::write(sandbox.store.root().join("content/sha256").join(other.id.hex()), "{}").expect("damages");
    let found = sandbox.store.verify(&mut |_| true).expect("verifies");
    assert_eq!(found.documents_damaged, std::slice::from_ref(&other.id));
}

#[test]
fn a_layer_that_takes_from_those_below_is_repaired_over_them() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let below = Tar::default().dir("tmp", 0o1777).end();
    // It has no entry for tmp: its attributes are those of the layer below.
    let above = Tar::default().file("tmp/f", "1").end();
    let image = common::build(&sandbox.store, &[below.clone(), above.clone()], &["two"]).expect("makes");
    let layer = record(&sandbox, &image.layers[1].key);
    assert!(!layer.stands_alone);
    std::fs::write(top_layer(&sandbox, &image).join("tmp/f"), "2").expect("damages");
    assert_eq!(sandbox.store.verify(&mut |_| true).expect("verifies").damaged.len(), 1);
    let staged = sandbox.store.unpack(&mut above.as_slice()).expect("unpacks");
    sandbox.store.replace_layer(&layer, &staged).expect("replaces");
    let mode = std::fs::metadata(top_layer(&sandbox, &image).join("tmp")).expect("is there").permissions().mode();
    assert_eq!(mode & 0o7777, 0o1777);
    assert!(sandbox.store.verify(&mut |_| true).expect("verifies").damaged.is_empty());
}

#[test]
fn what_takes_space_adds_up_to_what_the_disk_says() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.import(&Tar::default().file("f", &"x".repeat(1 << 20)).end(), "image").expect("imports");
    let root = sandbox.store.root();
    let disk = sandbox.store.usage().expect("measures").disk;
    let text = String::from_utf8(common::output("du", &["-s", "--block-size=1", "."], root)).expect("text");
    let du: u64 = text.split_whitespace().next().and_then(|number| number.parse().ok()).expect("a number");
    assert!(disk.total.abs_diff(du) <= du / 100, "{disk:?} against {du}");
    assert!(disk.images > 1 << 20 && disk.images < disk.total);
    for private in ["layers", "volumes", "content", "staging"] {
        let mode = std::fs::metadata(root.join(private)).expect("is there").permissions().mode();
        assert_eq!(mode & 0o077, 0, "{private}: set-user-id programs of images are for nobody else on this machine");
    }
}

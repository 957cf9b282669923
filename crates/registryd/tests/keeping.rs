//! What is kept and what goes: collections beside pushes, checks and repairs, quotas, a full disk.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::{OCI_INDEX, OCI_MANIFEST, Registry, image, noise, sha256};
use registryd::{Collection, Options, Pattern, Problem};
use serde_json::json;

/// Takes everything that nothing names, however new it is.
const NOW: Collection = Collection { lease: Duration::ZERO, upload_age: Duration::ZERO, untagged_age: None };

fn files(registry: &Registry) -> usize {
    std::fs::read_dir(registry.dir.path().join("content/sha256")).expect("lists").count()
}

#[test]
fn a_collection_takes_what_nothing_names_and_nothing_else() {
    let registry = Registry::start();
    let kept = registry.image("a", "v1", "kept");
    let gone = registry.image("a", "v2", "gone");
    registry.image("b", "v1", "kept");
    let loose = registry.blob("a", b"loose");
    registry.ask("PATCH", &registry.begin("a"), &[], b"unfinished");
    let young = Collection::default();
    let collected = registry.store.collect(&young).expect("collects");
    assert_eq!((collected.files, collected.uploads, collected.links), (0, 0, 0), "all of it is new");
    assert_eq!(registry.delete(&format!("/v2/a/manifests/{}", gone.digest)).status, 202);
    let collected = registry.store.collect(&NOW).expect("collects");
    assert_eq!((collected.files, collected.uploads, collected.links), (4, 1, 3));
    assert_eq!(files(&registry), 3);
    for digest in [&loose, &gone.layer, &gone.config] {
        assert_eq!(registry.head(&format!("/v2/a/blobs/{digest}")).status, 404);
    }
    for repository in ["a", "b"] {
        assert_eq!(registry.get(&format!("/v2/{repository}/blobs/{}", kept.layer)).body, b"layer kept");
        assert_eq!(registry.get(&format!("/v2/{repository}/manifests/v1")).status, 200);
    }
    assert_eq!(registry.delete(&format!("/v2/a/manifests/{}", kept.digest)).status, 202);
    assert_eq!(registry.store.collect(&NOW).expect("collects").files, 0, "the other repository has it still");
    assert_eq!(registry.delete(&format!("/v2/b/manifests/{}", kept.digest)).status, 202);
    registry.store.collect(&NOW).expect("collects");
    assert_eq!(files(&registry), 0);
}

#[test]
fn manifests_without_a_tag_go_only_when_asked_and_unneeded() {
    let registry = Registry::start();
    let (one, two) = (registry.image("a", "one", "one"), registry.image("a", "two", "two"));
    let index = json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{ "mediaType": OCI_MANIFEST, "digest": one.digest, "size": 1 }] });
    assert_eq!(registry.put("a", "index", OCI_INDEX, &index).status, 201);
    let nested = sha256(index.to_string().as_bytes());
    let outer =
        json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [{ "mediaType": OCI_INDEX, "digest": nested, "size": 1 }] });
    assert_eq!(registry.put("a", "outer", OCI_INDEX, &outer).status, 201);
    let mut signature = image(&one.config, &one.layer);
    signature["subject"] = json!({ "mediaType": OCI_MANIFEST, "digest": one.digest, "size": 1 });
    let signature_digest = sha256(signature.to_string().as_bytes());
    assert_eq!(registry.put("a", &signature_digest, OCI_MANIFEST, &signature).status, 201);
    for tag in ["one", "two", "index"] {
        assert_eq!(registry.delete(&format!("/v2/a/manifests/{tag}")).status, 202);
    }
    assert_eq!(registry.store.collect(&NOW).expect("collects").manifests, 0);
    let with_untagged = Collection { untagged_age: Some(Duration::ZERO), ..NOW };
    assert_eq!(registry.store.collect(&with_untagged).expect("collects").manifests, 1);
    assert_eq!(registry.head(&format!("/v2/a/manifests/{}", two.digest)).status, 404);
    for digest in [&one.digest, &nested, &signature_digest] {
        assert_eq!(registry.head(&format!("/v2/a/manifests/{digest}")).status, 200, "{digest}");
    }
    assert_eq!(registry.delete("/v2/a/manifests/outer").status, 202);
    assert_eq!(registry.store.collect(&with_untagged).expect("collects").manifests, 4);
    assert_eq!(files(&registry), 0);
}

/// The same content is pushed, looked at and taken away again and again while collections run without a pause.
#[test]
fn collections_never_take_what_is_being_pushed() {
    const ROUNDS: u64 = 25;
    let registry = Registry::start();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let collector = scope.spawn(|| {
            while !done.load(Ordering::Acquire) {
                registry.store.collect(&Collection::default()).expect("collects");
            }
        });
        let pushers: Vec<_> = (0..3)
            .map(|pusher| {
                let registry = &registry;
                scope.spawn(move || {
                    for round in 0..ROUNDS {
                        let pushed = registry.image("shared", &format!("t{pusher}"), &format!("{}", round % 2));
                        assert_eq!(registry.get(&format!("/v2/shared/blobs/{}", pushed.layer)).status, 200);
                        let own = format!("own{pusher}");
                        let digest = registry.blob(&own, b"the same for all");
                        let target = format!("/v2/{own}/blobs/{digest}");
                        assert_eq!(registry.get(&target).body, b"the same for all");
                        assert_eq!(registry.delete(&target).status, 202);
                    }
                })
            })
            .collect();
        let ended: Vec<_> = pushers.into_iter().map(|pusher| pusher.join()).collect();
        done.store(true, Ordering::Release);
        collector.join().expect("collected");
        assert!(ended.iter().all(Result::is_ok));
    });
    assert_eq!(registry.store.check(true).expect("checks").problems, []);
}

#[test]
fn damage_is_found_forgotten_and_healed_by_a_push() {
    let registry = Registry::start();
    let images = ["missing", "short", "flipped"].map(|seed| registry.image("a", seed, seed));
    let checked = registry.store.check(true).expect("checks");
    assert_eq!((checked.problems.len(), checked.contents, checked.unnamed), (0, 9, 0));
    let path = |digest: &str| registry.dir.path().join("content/sha256").join(digest.strip_prefix("sha256:").expect("sha256"));
    std::fs::remove_file(path(&images[0].layer)).expect("removes");
    std::fs::write(path(&images[1].config), b"con").expect("shortens");
    let flipped = b"Layer flipped";
    std::fs::write(path(&images[2].layer), flipped).expect("flips");
    std::fs::write(path(&sha256(b"nobody's")), b"nobody's").expect("writes");
    let quick = registry.store.check(false).expect("checks");
    assert_eq!((quick.problems.len(), quick.unnamed), (2, 1));
    let checked = registry.store.check(true).expect("checks");
    let found = |digest: &str| checked.problems.iter().find(|problem| problem.to_string().starts_with(digest)).expect("is found").clone();
    assert!(matches!(found(&images[0].layer), Problem::Missing(_)));
    assert!(matches!(found(&images[1].config), Problem::Length { found: 3, .. }));
    assert!(matches!(found(&images[2].layer), Problem::Damaged(_)));
    registry.get(&format!("/v2/a/blobs/{}", images[0].layer)).refused(404, "BLOB_UNKNOWN");
    assert_eq!(registry.store.repair(&checked).expect("repairs").len(), 3);
    for seed in ["missing", "short", "flipped"] {
        registry.image("a", seed, seed);
    }
    assert_eq!(registry.store.check(true).expect("checks").problems, []);
}

#[test]
fn a_quota_holds_for_pushes_and_mounts() {
    let quotas = vec![(Pattern::parse("small/*").expect("pattern"), 100_000)];
    let registry = Registry::with(Options { quotas, ..Options::default() });
    let first = noise(60_000, 1);
    let digest = registry.blob("small/a", &first);
    let second = noise(50_000, 2);
    let second_digest = sha256(&second);
    let push = |repository: &str| registry.ask("PUT", &format!("{}?digest={second_digest}", registry.begin(repository)), &[], &second);
    push("small/a").refused(403, "DENIED");
    assert_eq!(registry.head(&format!("/v2/small/a/blobs/{second_digest}")).status, 404);
    assert_eq!(registry.blob("small/a", &first), digest, "what it has already costs nothing");
    assert_eq!(push("small/b").status, 201, "each repository has its own");
    let mount = format!("/v2/small/a/blobs/uploads/?mount={second_digest}&from=small/b");
    registry.ask("POST", &mount, &[], b"").refused(403, "DENIED");
    assert_eq!(registry.delete(&format!("/v2/small/a/blobs/{digest}")).status, 202);
    assert_eq!(push("small/a").status, 201);
    assert_eq!(push("large").status, 201);
}

#[test]
fn a_blob_has_a_largest_size() {
    let registry = Registry::with(Options { blob_bytes_max: 1000, ..Options::default() });
    registry.ask("PATCH", &registry.begin("a"), &[], &noise(1001, 1)).refused(413, "SIZE_INVALID");
    let upload = registry.begin("a");
    assert_eq!(registry.ask("PATCH", &upload, &[], &noise(900, 1)).status, 202);
    registry.ask("PATCH", &upload, &[], &noise(101, 1)).refused(413, "SIZE_INVALID");
    // One without an end is cut off at the same size.
    use std::io::Write;
    let mut endless = registry.connect();
    let head = format!("PATCH {} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n", registry.begin("a"));
    let _ = endless.write_all(head.as_bytes());
    for _ in 0..100 {
        if endless.write_all(b"40\r\n0123456789012345678901234567890123456789012345678901234567890123\r\n").is_err() {
            break;
        }
    }
    common::Answer::read(&mut endless, "PATCH").refused(413, "SIZE_INVALID");
}

/// A filesystem of a size of its own, until it is dropped.
struct Mounted(std::path::PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

#[test]
fn a_full_disk_refuses_and_loses_nothing() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("SKIP: not root");
        return;
    }
    let dir = tempfile::tempdir().expect("temporary directory");
    let root = dir.path().join("small");
    std::fs::create_dir(&root).expect("makes");
    let size = c"size=3m";
    rustix::mount::mount("tmpfs", &root, "tmpfs", rustix::mount::MountFlags::empty(), Some(size)).expect("mounts");
    let _mounted = Mounted(root.clone());
    let mut registry = Registry::at(&root, dir, Options::default());
    let pushed = registry.image("a", "v1", "kept");
    let large = noise(4_000_000, 1);
    let digest = sha256(&large);
    let upload = registry.begin("a");
    let answer = registry.ask("PUT", &format!("{upload}?digest={digest}"), &[], &large);
    answer.refused(507, "UNAVAILABLE");
    assert_eq!(registry.head(&format!("/v2/a/blobs/{digest}")).status, 404);
    assert_eq!(registry.delete(&upload).status, 204);
    assert_eq!(registry.get("/v2/a/manifests/v1").header("docker-content-digest"), Some(pushed.digest.as_str()));
    registry.image("a", "v2", "fits again");
    registry.stop();
    assert_eq!(registry.store.check(true).expect("checks").problems, []);
}

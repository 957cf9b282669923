//! Images from import to removal: names, shared layers, save and load, snapshots, volumes.

mod common;

use std::os::unix::fs::MetadataExt;

use common::{Sandbox, Tar, build, has, is_root, output, shell};
use store::{Error, ImageUser, NewVolume, Options, Removal, Store, chain_ids};
use types::{Classify, Digest, ErrorKind, ImageRef};

fn nobody(_: &Digest) -> Vec<ImageUser> {
    Vec::new()
}

fn name(text: &str) -> ImageRef {
    text.parse().expect(text)
}

#[test]
fn names_ids_and_prefixes_find_an_image() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let image = sandbox.import(&Tar::default().file("a", "1").end(), "user/app:v1").expect("imports");
    let hex = image.id.hex().to_owned();
    for text in ["user/app:v1", "docker.io/user/app:v1", &hex, &hex[..12], &format!("sha256:{hex}"), &format!("sha256:{}", &hex[..8])] {
        assert_eq!(sandbox.store.resolve(text).expect(text).id, image.id);
    }
    for (text, message) in [
        ("user/app", "No such image: user/app:latest"),
        ("nosuch:tag", "No such image: nosuch:tag"),
        ("sha256:00", "No such image: sha256:00"),
    ] {
        let error = sandbox.store.resolve(text).expect_err(text);
        assert_eq!((error.to_string().as_str(), error.kind()), (message, ErrorKind::NotFound));
    }
    // Sixteen more images: two of them begin with the same digit.
    for number in 0..16 {
        sandbox.import(&Tar::default().file("a", &format!("number {number}")).end(), &format!("n:{number}")).expect("imports");
    }
    let ambiguous = (0..16)
        .map(|digit| format!("sha256:{digit:x}"))
        .find_map(|prefix| sandbox.store.resolve(&prefix).err().filter(|error| error.kind() == ErrorKind::InvalidInput));
    assert!(matches!(ambiguous, Some(Error::AmbiguousImage { count: 2.., .. })));
}

#[test]
fn an_image_goes_with_its_last_name_and_takes_only_its_own_layers() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let base = Tar::default().dir("d", 0o755).file("d/base", "base").end();
    let top = Tar::default().file("top", "top").end();
    let first = build(store, std::slice::from_ref(&base), &["base:1"]).expect("builds");
    let second = build(store, &[base, top], &["child:1", "child:2"]).expect("builds");
    assert_eq!(first.layers[0], second.layers[0], "the layer is shared");
    let removed = store.remove_image("child:1", false, false, &nobody).expect("untags");
    assert_eq!(removed, [Removal::Untagged("child:1".to_owned())]);
    let removed = store.remove_image("child:2", false, false, &nobody).expect("removes");
    let chain = chain_ids(&[second.layers[0].diff_id.clone(), second.layers[1].diff_id.clone()]);
    assert_eq!(removed, [Removal::Untagged("child:2".to_owned()), Removal::Deleted(second.id.clone()), Removal::Deleted(chain[1].clone())]);
    assert!(store.lowerdirs(&first)[0].join("d/base").is_file());
    store.wait_for_removals();
    assert_eq!(std::fs::read_dir(store.root().join("layers")).expect("lists").count(), 1);
    store.remove_image(first.id.hex(), false, false, &nobody).expect("removes by id");
    store.wait_for_removals();
    for directory in ["layers", "trash", "staging", "content/sha256"] {
        assert_eq!(std::fs::read_dir(store.root().join(directory)).expect("lists").count(), 0, "{directory}");
    }
}

#[test]
fn removal_is_refused_as_docker_does() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let image = sandbox.import(&Tar::default().file("a", "1").end(), "a:1").expect("imports");
    let short = image.id.short();
    let container = "cc3f71f7e118d5b772338c10d18907347459fbde1a0a0fb0c88ca047430ba52f".to_owned();
    let stopped = |_: &Digest| vec![ImageUser { container: container.clone(), name: "box".to_owned(), running: false }];
    let running = |_: &Digest| vec![ImageUser { container: container.clone(), name: "box".to_owned(), running: true }];
    let refused = |reference: &str, force: bool, users: &dyn Fn(&Digest) -> Vec<ImageUser>| {
        let error = store.remove_image(reference, force, false, users).expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::Conflict);
        error.to_string()
    };
    assert_eq!(
        refused("a:1", false, &stopped),
        format!(
            "conflict: unable to remove repository reference \"a:1\" (must force) - container cc3f71f7e118 (box) is using its referenced image {short}"
        )
    );
    assert_eq!(
        refused(short, true, &running),
        format!("conflict: unable to delete {short} (cannot be forced) - image is being used by running container cc3f71f7e118 (box)")
    );
    assert_eq!(
        refused(short, false, &stopped),
        format!("conflict: unable to delete {short} (must be forced) - image is being used by stopped container cc3f71f7e118 (box)")
    );
    store.tag(&image.id, &name("b:2")).expect("tags");
    assert_eq!(
        refused(short, false, &nobody),
        format!("conflict: unable to delete {short} (must be forced) - image is referenced in multiple repositories: a:1, b:2")
    );
    assert!(store.remove_image(short, true, false, &nobody).is_ok());
    assert!(matches!(store.remove_image("a:1", false, false, &nobody), Err(Error::NoSuchImage(_))));
}

#[test]
fn a_container_keeps_the_layers_of_an_image_that_was_removed() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let root = sandbox.store.root().to_owned();
    let archive = Tar::default().dir("./", 0o1777).file("a", "1").end();
    let image = sandbox.import(&archive, "a").expect("imports");
    let snapshot = sandbox.store.create_snapshot("c1", &image).expect("makes");
    assert_eq!(snapshot.upper.metadata().expect("stat").mode() & 0o7777, 0o1777, "the root's mode is the image's");
    assert!(matches!(sandbox.store.create_snapshot("c1", &image), Err(Error::SnapshotExists(_))));
    sandbox.store.remove_image("a", true, false, &nobody).expect("removes");
    let directory = sandbox.directory;
    drop(sandbox.store);
    let store = Store::open(Options::new(&root)).expect("opens again");
    assert_eq!(store.snapshot("c1").expect("is there"), snapshot);
    assert!(snapshot.lower[0].join("a").is_file());
    std::fs::write(snapshot.upper.join("new"), "12345").expect("writes");
    assert_eq!(store.snapshot_size("c1").expect("sizes"), 5);
    assert_eq!(store.snapshot_ids().expect("lists"), ["c1"]);
    store.remove_snapshot("c1").expect("removes");
    store.remove_snapshot("c1").expect("absence is success");
    store.wait_for_removals();
    assert!(!snapshot.lower[0].exists() && !snapshot.upper.exists());
    assert!(matches!(store.snapshot("c1"), Err(Error::NoSuchSnapshot(_))));
    drop((store, directory));
}

#[test]
fn implied_directories_and_links_are_completed_from_below() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let base = Tar::default().dir("tmp", 0o1777).dir("etc", 0o750).file("etc/hosts", "hosts").file("gone", "x").end();
    let top = Tar::default().file("tmp/f", "f").entry(b'1', "etc/twin", "etc/hosts", b"").file(".wh.gone", "").end();
    let image = build(&sandbox.store, &[base.clone(), top.clone()], &["completed"]).expect("builds");
    let lower = sandbox.store.lowerdirs(&image);
    let mode = |path: &str| lower[0].join(path).metadata().expect(path).mode() & 0o7777;
    assert_eq!((mode("tmp"), mode("etc")), (0o1777, 0o750));
    let (hosts, twin) = (lower[0].join("etc/hosts").metadata().expect("copied"), lower[0].join("etc/twin").metadata().expect("linked"));
    assert_eq!(hosts.ino(), twin.ino());
    assert_eq!(lower[0].join("gone").metadata().expect("whiteout").rdev(), 0);
    // Over another base the same archive is another layer.
    let other = Tar::default().dir("tmp", 0o700).dir("etc", 0o755).file("etc/hosts", "other").end();
    let second = build(&sandbox.store, &[other, top.clone()], &["other"]).expect("builds");
    assert_eq!(sandbox.store.lowerdirs(&second)[0].join("tmp").metadata().expect("stat").mode() & 0o7777, 0o700);
    assert_ne!(image.layers[1].key, second.layers[1].key);
    // And without its base it can't be completed.
    let error = build(&sandbox.store, &[top], &[]).expect_err("dangling link");
    assert!(types::error::chain(&error).contains("a hard link to a file that is in no layer"), "{error}");
    // Saved, both archives come back.
    let mut saved = Vec::new();
    sandbox.store.save(&["completed".to_owned()], None, &mut saved).expect("saves");
}

#[test]
fn saved_images_come_back_with_their_ids() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let layers = [
        Tar::default().dir("d", 0o755).file("d/one", "1").end(),
        Tar::default().dir("d", 0o755).file("d/two", "2").file("d/.wh.one", "").end(),
    ];
    let image = build(&sandbox.store, &layers, &["app:1", "app:2", "localhost:5000/other/app:3"]).expect("builds");
    let single = sandbox.import(&Tar::default().file("a", "1").end(), "single").expect("imports");
    let mut saved = Vec::new();
    sandbox
        .store
        .save(&["app".to_owned(), "localhost:5000/other/app:3".to_owned(), single.id.to_string()], None, &mut saved)
        .expect("saves");
    let mut again = Vec::new();
    sandbox
        .store
        .save(&["app".to_owned(), "localhost:5000/other/app:3".to_owned(), single.id.to_string()], None, &mut again)
        .expect("saves");
    assert!(saved == again, "the same images give the same archive");

    let other = Sandbox::new();
    let compressed = zstd::encode_all(saved.as_slice(), 1).expect("compresses");
    for (round, archive) in [&saved, &saved, &compressed].into_iter().enumerate() {
        let loaded =
            other.store.load(&mut archive.as_slice(), None).unwrap_or_else(|error| panic!("{round}: {}", types::error::chain(&error)));
        assert_eq!(loaded.iter().map(|one| one.image.id.clone()).collect::<Vec<_>>(), [image.id.clone(), single.id.clone()]);
        assert_eq!(loaded[0].names, [name("app:1"), name("app:2"), name("localhost:5000/other/app:3")]);
        assert!(loaded[1].names.is_empty());
        assert_eq!(loaded[0].image.layers, image.layers);
        assert_eq!(loaded[1].image.manifest, single.manifest);
    }
    for cut in [saved.len() / 3, saved.len() / 2] {
        assert!(Sandbox::new().store.load(&mut &saved[..cut], None).is_err(), "truncated at {cut}");
    }
    // Other tools read it as an OCI layout.
    if has("skopeo") {
        std::fs::write(sandbox.directory.path().join("saved.tar"), &saved).expect("writes");
        shell(
            "mkdir layout; tar -xf saved.tar -C layout; skopeo inspect docker-archive:saved.tar:app:1 >/dev/null; skopeo copy -q oci:layout:3 oci-archive:out.tar:copied",
            sandbox.directory.path(),
        );
        let copied = std::fs::read(sandbox.directory.path().join("out.tar")).expect("reads");
        let loaded = Sandbox::new().store.load(&mut copied.as_slice(), None).expect("loads what skopeo wrote");
        assert_eq!(loaded[0].image.id, image.id);
    }
}

#[test]
fn old_archives_with_links_to_layers_load() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let layer = Tar::default().file("a", "1").end();
    let image = build(&sandbox.store, std::slice::from_ref(&layer), &[]).expect("builds");
    let config = sandbox.store.content().read(&image.id).expect("reads");
    let hex = image.id.hex();
    let archive = Tar::default()
        .entry(b'0', "one/layer.tar", "", &layer)
        .entry(b'2', "two/layer.tar", "../one/layer.tar", b"")
        .entry(b'0', "one/json", "", b"{}")
        .entry(b'0', &format!("{hex}.json"), "", &config)
        .entry(
            b'0',
            "manifest.json",
            "",
            format!(r#"[{{"Config":"{hex}.json","RepoTags":["old:1"],"Layers":["two/layer.tar"]}}]"#).as_bytes(),
        )
        .end();
    let loaded = Sandbox::new().store.load(&mut archive.as_slice(), None).expect("loads");
    assert_eq!((loaded[0].image.id.clone(), loaded[0].names.clone()), (image.id.clone(), vec![name("old:1")]));
    for (archive, message) in [
        (Tar::default().file("x", "y").end(), "neither manifest.json nor index.json"),
        (Tar::default().file("manifest.json", "[]").end(), "there is no image in it"),
        (Tar::default().file("manifest.json", "{").end(), "manifest.json can't be read"),
        (Tar::default().file("manifest.json", r#"[{"Config":"../x","Layers":[]}]"#).end(), "leads out of it"),
        (Tar::default().file("manifest.json", r#"[{"Config":"x.json","Layers":["l"]}]"#).end(), "\"x.json\" is missing"),
        (
            Tar::default().file(&format!("{hex}.json"), "{}").file("manifest.json", &format!(r#"[{{"Config":"{hex}.json"}}]"#)).end(),
            "has the digest",
        ),
        (b"rubbish".repeat(100), "this is no tar archive"),
    ] {
        let error = sandbox.store.load(&mut archive.as_slice(), None).expect_err(message);
        assert!(types::error::chain(&error).contains(message), "{message}: {}", types::error::chain(&error));
    }
}

#[test]
fn volumes_are_made_filled_and_removed() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let store = &sandbox.store;
    let volume = store.create_volume(&NewVolume { name: Some("data".to_owned()), ..NewVolume::default() }).expect("makes");
    assert_eq!(store.create_volume(&NewVolume { name: Some("data".to_owned()), ..NewVolume::default() }).expect("is idempotent"), volume);
    let anonymous = store.create_volume(&NewVolume::default()).expect("makes");
    assert!(
        anonymous.anonymous
            && anonymous.name.len() == 64
            && anonymous.labels.as_ref().is_some_and(|labels| labels.contains_key("com.docker.volume.anonymous"))
    );
    for bad in ["x", "-ab", "a/b", "../x", ".ab", "a b"] {
        assert_eq!(
            store.create_volume(&NewVolume { name: Some(bad.to_owned()), ..NewVolume::default() }).expect_err(bad).kind(),
            ErrorKind::InvalidInput
        );
    }
    let driver = store
        .create_volume(&NewVolume { name: Some("gw".to_owned()), driver: "nosuch".to_owned(), ..NewVolume::default() })
        .expect_err("driver");
    assert_eq!(driver.to_string(), "create gw: error looking up volume plugin nosuch: plugin \"nosuch\" not found");

    let base = Tar::default()
        .dir("srv", 0o755)
        .dir("srv/d", 0o2750)
        .file("srv/d/a", "a")
        .file("srv/d/b", "b")
        .entry(b'2', "link", "srv/d", b"")
        .end();
    let top = Tar::default().dir("srv", 0o755).dir("srv/d", 0o2755).file("srv/d/.wh.a", "").file("srv/d/c", "c").end();
    let image = build(store, &[base, top], &["img"]).expect("builds");
    let lower = store.lowerdirs(&image);
    assert!(!store.fill_volume("data", &lower, "/nowhere").expect("nothing there"));
    assert!(store.fill_volume("data", &lower, "/link/../d").expect("fills"));
    let mut names: Vec<_> = std::fs::read_dir(&volume.mountpoint).expect("lists").map(|entry| entry.expect("entry").file_name()).collect();
    names.sort();
    assert_eq!(names, ["b", "c"]);
    assert_eq!(volume.mountpoint.metadata().expect("stat").mode() & 0o7777, 0o2755);
    assert!(!store.fill_volume("data", &lower, "/link").expect("is not empty any more"));
    assert_eq!(store.volume_size("data").expect("sizes"), 2);
    store.remove_volume("data").expect("removes");
    assert_eq!(store.remove_volume("data").expect_err("gone").to_string(), "get data: no such volume");
    store.wait_for_removals();
    assert!(!volume.mountpoint.exists());
    assert_eq!(store.volumes().len(), 1);
}

#[test]
fn a_data_root_has_one_store() {
    let sandbox = Sandbox::new();
    assert!(matches!(Store::open(Options::new(sandbox.store.root())), Err(Error::Locked { .. })));
}

#[test]
fn an_overlay_of_the_layers_shows_the_image() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let base = Tar::default().dir("d", 0o755).file("d/a", "a").file("d/b", "b").dir("o", 0o755).file("o/x", "x").file("gone", "g").end();
    let top = Tar::default()
        .dir("d", 0o755)
        .file("d/.wh.a", "")
        .dir("o", 0o755)
        .file("o/.wh..wh..opq", "")
        .file("o/y", "y")
        .file(".wh.gone", "")
        .end();
    let image = build(&sandbox.store, &[base, top], &["img"]).expect("builds");
    let snapshot = sandbox.store.create_snapshot("c", &image).expect("makes");
    let lower: Vec<String> = snapshot.lower.iter().map(|path| path.display().to_string()).collect();
    let script = format!(
        "mkdir m; mount -t overlay overlay -o lowerdir={},upperdir={},workdir={} m; (cd m; find . | sort)",
        lower.join(":"),
        snapshot.upper.display(),
        snapshot.work.display()
    );
    let shown = output("unshare", &["-m", "sh", "-ec", &script], sandbox.directory.path());
    assert_eq!(String::from_utf8_lossy(&shown), ".\n./d\n./d/b\n./o\n./o/y\n");
}

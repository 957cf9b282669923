//! A corpus of some two hundred archives, made here by several programs from recipes: each is unpacked exactly as a reference unpacks it, and given back byte for byte.

mod common;

use std::path::Path;

use common::{Sandbox, describe, has, is_root, output, shell, top_layer};
use store::archive::recipe::rebuild;

/// A tree, and what it needs of a format.
struct Tree {
    name: &'static str,
    recipe: &'static str,
    /// Names, links, owners and times that the oldest formats have no room for.
    is_modern: bool,
    /// Extended attributes.
    has_attributes: bool,
}

const fn tree(name: &'static str, recipe: &'static str) -> Tree {
    Tree { name, recipe, is_modern: false, has_attributes: false }
}

const fn modern(name: &'static str, recipe: &'static str) -> Tree {
    Tree { name, recipe, is_modern: true, has_attributes: false }
}

const TREES: &[Tree] = &[
    tree(
        "files",
        "printf a > t/a; : > t/empty; head -c 511 /dev/zero > t/short; head -c 512 /dev/zero > t/block; head -c 70000 /dev/zero > t/more",
    ),
    tree("directories", "mkdir -p t/a/b/c/d t/empty t/x; chmod 700 t/a/b; chmod 1777 t/x; echo 1 > t/a/b/c/d/f"),
    tree("modes", "for m in 0 400 644 755 2755 4755 6711 7777; do echo $m > t/f$m; chmod $m t/f$m; done; mkdir t/d; chmod 2770 t/d"),
    tree("hard links", "mkdir t/d; echo one > t/a; ln t/a t/b; ln t/a t/d/c; : > t/e; ln t/e t/d/e"),
    tree(
        "links",
        "mkdir t/d; echo x > t/f; ln -s f t/rel; ln -s /f t/abs; ln -s nowhere t/dangling; ln -s d t/dir; ln -s ../f t/d/up; ln -s loop t/loop",
    ),
    tree(
        "owners",
        "echo 1 > t/a; chown 1:2 t/a; echo 2 > t/b; chown 65534:65534 t/b; mkdir t/d; chown 1000:1000 t/d; ln -s a t/l; chown -h 5:6 t/l",
    ),
    tree("nodes", "mknod t/null c 1 3; mknod t/tty c 5 0; mknod t/sda b 8 0; mknod t/high c 200 255; mkfifo t/fifo; chmod 640 t/sda"),
    tree("many", "i=0; while [ $i -lt 60 ]; do mkdir -p t/d$((i % 7)); echo $i > t/d$((i % 7))/f$i; i=$((i + 1)); done"),
    tree(
        "odd names",
        "echo 1 > 't/a b'; echo 2 > t/-dash; echo 3 > 't/quote\"'; echo 4 > t/.hidden; mkdir 't/...'; echo 5 > 't/back\\slash'; echo 6 > t/~",
    ),
    modern(
        "letters",
        "printf u > 't/ünïcode'; printf n > 't/new\nline'; mkdir 't/日本'; echo 1 > 't/日本/語'; printf 'x' > \"$(printf 't/raw\\377')\"",
    ),
    modern(
        "long names",
        "long=$(printf 'long-name-%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20); echo 1 > t/$long; mkdir t/d$long; echo 2 > t/d$long/$long; ln -s $long$long t/link; ln t/$long t/twin",
    ),
    modern(
        "large owners",
        "echo 1 > t/a; chown 3000000:4000000 t/a; mkdir t/d; chown 2097152:2097151 t/d; ln -s a t/l; chown -h 4000000000:1 t/l",
    ),
    modern(
        "times",
        "echo 1 > t/a; touch -d '1960-01-01' t/a; echo 2 > t/b; touch -d '2001-02-03 04:05:06' t/b; echo 3 > t/c; touch -d '2300-01-01' t/c; mkdir t/d; touch -d 2010-01-01 t/d",
    ),
    modern(
        "sparse",
        "truncate -s 3M t/hole; printf mid | dd of=t/hole bs=1 seek=1000000 conv=notrunc 2>/dev/null; truncate -s 1M t/all; printf end | dd of=t/end bs=1 seek=500000 2>/dev/null",
    ),
    Tree {
        name: "attributes",
        recipe: "echo 1 > t/a; setfattr -n user.note -v text t/a; cp /bin/true t/cap; setcap cap_net_raw+ep t/cap; mkdir t/d; setfattr -n user.dir -v x t/d; setfattr -n trusted.mark -v y t/a",
        is_modern: true,
        has_attributes: true,
    },
];

const XATTRS: [&str; 2] = ["--xattrs", "--xattrs-include=*"];

/// Makes each tree in a directory of its own, `<n>/t`.
fn trees(directory: &Path) {
    for (number, tree) in TREES.iter().enumerate() {
        let place = directory.join(number.to_string());
        std::fs::create_dir_all(place.join("t")).expect("makes");
        shell(tree.recipe, &place);
        // Whole seconds, so that every format has room for them; what has times of its own keeps them.
        if tree.name != "times" {
            shell("find t -exec touch -h -d '2015-05-05 05:05:05' {} +", &place);
        }
    }
}

/// Unpacks an archive here and by a reference, compares, and gives it back. Answers 1, to be counted.
fn check(sandbox: &Sandbox, what: &str, plain: &[u8], sent: &[u8], reference: &[&str]) -> usize {
    let directory = tempfile::tempdir().expect("temporary directory");
    let (root, path) = (directory.path().join("root"), directory.path().join("archive"));
    std::fs::create_dir(&root).expect("makes");
    std::fs::write(&path, plain).expect("writes");
    let arguments: Vec<&str> = reference[1..].iter().copied().chain([path.to_str().expect("text")]).collect();
    output(reference[0], &arguments, &root);
    let image = sandbox.import(sent, "corpus").unwrap_or_else(|error| panic!("{what}: {}", types::error::chain(&error)));
    let layer = top_layer(sandbox, &image);
    let (mut ours, mut theirs) = (describe(&layer), describe(&root));
    // The directory that it was unpacked into is the reference's own.
    ours.remove("");
    theirs.remove("");
    for (path, theirs) in &theirs {
        assert_eq!(ours.get(path), Some(theirs), "{what}: {path}");
    }
    assert_eq!(ours.len(), theirs.len(), "{what}");
    let mut again = Vec::new();
    let (digest, _) = rebuild(layer.parent().expect("has a parent"), &mut again).expect("rebuilds");
    assert_eq!(digest, image.layers[0].diff_id, "{what}");
    assert!(again == plain, "{what}: what is given back");
    let record = std::sync::Arc::clone(sandbox.store.catalog().layer(&image.layers[0].key).expect("is there"));
    sandbox.store.verify_layer(&record).unwrap_or_else(|error| panic!("{what}: {}", types::error::chain(&error)));
    1
}

fn gnu(format: &str, tree: &Tree, place: &Path) -> Vec<u8> {
    let format = format!("--format={format}");
    let mut arguments = vec!["-cf-", "--sort=name", "--numeric-owner", &format];
    if tree.name == "sparse" {
        arguments.push("-S");
    }
    if tree.has_attributes {
        arguments.extend(XATTRS);
    }
    arguments.extend(["-Ct", "."]);
    output("tar", &arguments, place)
}

fn unpacks(tree: &Tree) -> Vec<&'static str> {
    let mut reference = vec!["tar", "--numeric-owner"];
    if tree.has_attributes {
        reference.extend(XATTRS);
    }
    reference.push("-xpf");
    reference
}

/// GNU tar in its formats, plain and compressed in each way.
#[test]
fn gnu_tar() {
    if !is_root() || !has("setfattr") || !has("setcap") {
        return;
    }
    let (directory, sandbox) = (tempfile::tempdir().expect("temporary directory"), Sandbox::new());
    trees(directory.path());
    let mut count = 0;
    for (number, tree) in TREES.iter().enumerate() {
        let place = directory.path().join(number.to_string());
        for format in ["v7", "ustar", "oldgnu", "gnu", "pax"] {
            let is_old = matches!(format, "v7" | "ustar");
            let fits =
                !(is_old && tree.is_modern) && !(format == "v7" && tree.name == "nodes") && (format == "pax" || !tree.has_attributes);
            if !fits {
                continue;
            }
            let archive = gnu(format, tree, &place);
            count += check(&sandbox, &format!("{} {format}", tree.name), &archive, &archive, &unpacks(tree));
        }
        let archive = gnu("pax", tree, &place);
        std::fs::write(place.join("archive"), &archive).expect("writes");
        for program in ["gzip", "bzip2", "xz", "zstd"] {
            let sent = output(program, &["-c", "archive"], &place);
            count += check(&sandbox, &format!("{} {program}", tree.name), &archive, &sent, &unpacks(tree));
        }
    }
    assert!(count >= 115, "{count} archives");
}

/// bsdtar and Python's tarfile, each in its formats.
#[test]
fn bsdtar_and_python() {
    if !is_root() || !has("bsdtar") || !has("python3") || !has("setfattr") || !has("setcap") {
        return;
    }
    let (directory, sandbox) = (tempfile::tempdir().expect("temporary directory"), Sandbox::new());
    trees(directory.path());
    let mut count = 0;
    for (number, tree) in TREES.iter().enumerate().filter(|(_, tree)| !tree.has_attributes) {
        let place = directory.path().join(number.to_string());
        for format in ["ustar", "pax", "gnutar"] {
            // bsdtar keeps sparse files by maps of its own, and names that are no text as it sees fit.
            let is_own = matches!(tree.name, "letters" | "sparse") || (tree.name == "times" && format != "pax");
            if is_own || (format == "ustar" && tree.is_modern) || (format == "gnutar" && tree.name == "large owners") {
                continue;
            }
            let arguments = ["-cf-", "--no-xattrs", "--no-acls", "--no-fflags", "--numeric-owner", "--format", format, "-Ct", "."];
            let archive = output("bsdtar", &arguments, &place);
            count += check(&sandbox, &format!("{} bsdtar {format}", tree.name), &archive, &archive, &["bsdtar", "--numeric-owner", "-xpf"]);
        }
        for format in ["USTAR_FORMAT", "GNU_FORMAT", "PAX_FORMAT"] {
            if (format == "USTAR_FORMAT" && tree.is_modern) || tree.name == "sparse" {
                continue;
            }
            let script = format!(
                "import sys, tarfile; t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.{format}); t.add('t', '.'); t.close()"
            );
            let archive = output("python3", &["-c", &script], &place);
            count += check(&sandbox, &format!("{} python {format}", tree.name), &archive, &archive, &["tar", "--numeric-owner", "-xpf"]);
        }
    }
    assert!(count >= 65, "{count} archives");
}

/// Images made by umoci and buildah, and turned into other kinds of archives by skopeo: each loads, with the layer that its maker put in, and the same identifier however it came.
#[test]
fn image_tools() {
    if !is_root() || !has("umoci") || !has("skopeo") || !has("buildah") {
        return;
    }
    let (directory, sandbox) = (tempfile::tempdir().expect("temporary directory"), Sandbox::new());
    let place = directory.path();
    let mut count = 0;
    for (number, tree) in
        TREES.iter().enumerate().filter(|(_, tree)| !matches!(tree.name, "letters" | "large owners" | "times" | "sparse" | "attributes"))
    {
        let here = place.join(number.to_string());
        std::fs::create_dir_all(here.join("t")).expect("makes");
        shell(tree.recipe, &here);
        shell(
            "find t -exec touch -h -d '2015-05-05 05:05:05' {} +
             umoci init --layout oci; umoci new --image oci:1; umoci unpack --image oci:1 bundle; cp -a t/. bundle/rootfs/; umoci repack --image oci:1 bundle; tar -C oci -cf layout.tar .
             skopeo copy -q oci:oci:1 docker-archive:docker.tar:corpus/image:1; skopeo copy -q oci:oci:1 oci-archive:oci.tar:corpus/image:1",
            &here,
        );
        let expected = describe(&here.join("bundle/rootfs"));
        let mut ids = Vec::new();
        for file in ["layout.tar", "docker.tar", "oci.tar"] {
            let mut input = std::fs::File::open(here.join(file)).expect("opens");
            let loaded = sandbox
                .store
                .load(&mut input, None)
                .unwrap_or_else(|error| panic!("{} {file}: {}", tree.name, types::error::chain(&error)));
            let image = &loaded[0].image;
            let found = describe(&top_layer(&sandbox, image));
            for (path, text) in expected.iter().filter(|(path, text)| !path.is_empty() && !text.starts_with("directory")) {
                assert_eq!(found.get(path), Some(text), "{} {file}: {path}", tree.name);
            }
            ids.push(image.layers.last().map(|layer| layer.diff_id.clone()));
            count += 1;
        }
        assert!(ids.windows(2).all(|pair| pair[0] == pair[1]), "{}", tree.name);
    }
    let store = "--root=store --runroot=run --storage-driver=vfs";
    shell(
        &format!(
            "mkdir -p b/d; echo built > b/d/f; chmod 750 b/d; c=$(buildah {store} from scratch); buildah {store} copy -q $c b /; buildah {store} commit -q $c docker-archive:built.tar:corpus/built:1; buildah {store} rm $c"
        ),
        place,
    );
    let loaded = sandbox.store.load(&mut std::fs::File::open(place.join("built.tar")).expect("opens"), None).expect("loads");
    let layer = top_layer(&sandbox, &loaded[0].image);
    assert_eq!(std::fs::read_to_string(layer.join("d/f")).expect("is there"), "built\n");
    assert_eq!(loaded[0].names[0].familiar(), "corpus/built:1");
    assert!(count >= 27, "{count} archives");
}

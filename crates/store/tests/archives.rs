//! Archives of real programs, unpacked exactly as those programs unpack them, and given back byte for byte.

mod common;

use common::{Sandbox, Tar, describe, has, is_root, output, shell, top_layer};
use store::archive::recipe::rebuild;

/// A tree with everything that archives may hold.
const TREE: &str = r#"
mkdir -p tree/bin tree/etc/deep/er tree/dev tree/tmp tree/empty
printf hello > tree/etc/hello; : > tree/etc/none; head -c 1000000 /dev/urandom > tree/bin/big
long=$(printf 'long-name-%.0s' 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20)
echo long > "tree/etc/$long"; mkdir "tree/etc/dir-$long"; echo in > "tree/etc/dir-$long/$long"
ln tree/etc/hello tree/etc/hello-twin; ln tree/bin/big tree/etc/deep/er/big
ln -s ../etc/hello tree/bin/link; ln -s /absolute/target tree/etc/abs; ln -s nowhere tree/etc/dangling; ln -s "$long$long" tree/etc/longlink
mkfifo tree/tmp/fifo; mknod tree/dev/null c 1 3; mknod tree/dev/sda b 8 0
truncate -s 5M tree/etc/sparse; printf middle | dd of=tree/etc/sparse bs=1 seek=2000000 conv=notrunc 2>/dev/null
printf 'with\nnewline' > "tree/etc/new
line"; printf u > 'tree/etc/ünïcode'
chmod 4755 tree/bin/big; chmod 1777 tree/tmp; chmod 2750 tree/etc/deep; chmod 0 tree/etc/none
touch -d '2001-02-03 04:05:06.789' tree/etc/hello; touch -d '1960-01-01' tree/etc/none; touch -d '2010-01-01' tree/etc/deep tree/empty
"#;

/// Owners that need more than the old fields.
const OWNERS: &str = "chown 3000000:4000000 tree/etc/hello; chown -h 1:2 tree/bin/link; chown 7:8 tree/empty";
const ATTRIBUTES: &str = "setcap cap_net_raw+ep tree/bin/big";

/// Unpacks with us and with the program itself, compares, and rebuilds.
fn compare(name: &str, archive: &[u8], unpack: &[&str]) {
    let sandbox = Sandbox::new();
    let reference = sandbox.directory.path().join("reference");
    std::fs::create_dir(&reference).expect("makes");
    let path = sandbox.directory.path().join("archive");
    std::fs::write(&path, archive).expect("writes");
    let arguments: Vec<&str> = unpack[1..].iter().copied().chain([path.to_str().expect("text")]).collect();
    output(unpack[0], &arguments, &reference);
    let image = sandbox.import(archive, "made/by:tar").unwrap_or_else(|error| panic!("{name}: {}", types::error::chain(&error)));
    let layer = top_layer(&sandbox, &image);
    let (ours, theirs) = (describe(&layer), describe(&reference));
    for (path, theirs) in &theirs {
        if path.is_empty() {
            continue;
        }
        assert_eq!(ours.get(path), Some(theirs), "{name}: {path}");
    }
    assert_eq!(ours.len(), theirs.len(), "{name}");
    let mut again = Vec::new();
    let (digest, _) = rebuild(layer.parent().expect("has a parent"), &mut again).expect("rebuilds");
    assert_eq!(digest, image.layers[0].diff_id, "{name}: the archive given back");
    assert!(again == archive, "{name}: the archive given back");
}

#[test]
fn gnu_tar_in_every_format() {
    if !is_root() || !has("setcap") {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    shell(TREE, directory.path());
    let old = output(
        "tar",
        &["-cf-", "--format=v7", "--exclude=*long*", "--exclude=dev", "--exclude=fifo", "--exclude=none", "-Ctree", "."],
        directory.path(),
    );
    compare("v7", &old, &["tar", "-xpf"]);
    let ustar = output("tar", &["-cf-", "--format=ustar", "--exclude=*long*", "--exclude=none", "-Ctree", "."], directory.path());
    compare("ustar", &ustar, &["tar", "-xpf"]);
    shell(OWNERS, directory.path());
    compare("gnu", &output("tar", &["-cf-", "--format=gnu", "-Ctree", "."], directory.path()), &["tar", "-xpf"]);
    compare("oldgnu", &output("tar", &["-cf-", "--format=oldgnu", "-Ctree", "."], directory.path()), &["tar", "-xpf"]);
    compare("gnu sparse", &output("tar", &["-cSf-", "--format=gnu", "-Ctree", "."], directory.path()), &["tar", "-xpf"]);
    shell(ATTRIBUTES, directory.path());
    xattr::set(directory.path().join("tree/etc/deep"), "user.note", b"text\0with a NUL").expect("sets");
    let with = ["tar", "--xattrs", "--xattrs-include=*", "-xpf"];
    for sparse in ["0.0", "0.1", "1.0"] {
        let version = format!("--sparse-version={sparse}");
        let arguments = ["-cSf-", "--format=pax", "--xattrs", "--xattrs-include=*", version.as_str(), "-Ctree", "."];
        compare(&format!("pax {sparse}"), &output("tar", &arguments, directory.path()), &with);
    }
}

#[test]
fn bsdtar_and_python() {
    if !is_root() || !has("bsdtar") || !has("python3") {
        return;
    }
    let directory = tempfile::tempdir().expect("temporary directory");
    shell(TREE, directory.path());
    shell(OWNERS, directory.path());
    for format in ["pax", "gnutar"] {
        let archive =
            output("bsdtar", &["-cf-", "--no-xattrs", "--no-acls", "--no-fflags", "--format", format, "-Ctree", "."], directory.path());
        compare(&format!("bsdtar {format}"), &archive, &["bsdtar", "--numeric-owner", "-xpf"]);
    }
    for format in ["PAX_FORMAT", "GNU_FORMAT"] {
        let script = format!(
            "import sys, tarfile; t = tarfile.open(fileobj=sys.stdout.buffer, mode='w|', format=tarfile.{format}); t.add('tree', '.'); t.close()"
        );
        let archive = output("python3", &["-c", &script], directory.path());
        compare(&format!("python {format}"), &archive, &["tar", "--numeric-owner", "-xpf"]);
    }
}

#[test]
fn compressed_archives_are_the_same_layer() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = Tar::default().file("a", "text").end();
    let plain = sandbox.import(&archive, "plain").expect("imports");
    std::fs::write(sandbox.directory.path().join("a.tar"), &archive).expect("writes");
    for program in ["gzip", "xz", "zstd", "bzip2"] {
        if has(program) {
            let compressed = output(program, &["-c", "a.tar"], sandbox.directory.path());
            let image = sandbox.import(&compressed, program).unwrap_or_else(|error| panic!("{program}: {}", types::error::chain(&error)));
            assert_eq!(image.layers, plain.layers, "{program}");
            for cut in [compressed.len() / 2, compressed.len() - 1] {
                assert!(sandbox.import(&compressed[..cut], "cut").is_err(), "{program} truncated at {cut}");
            }
        }
    }
}

#[test]
fn later_entries_replace_earlier_ones_and_the_archive_comes_back() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let archive = Tar::default()
        .file("a", "first")
        .entry(b'1', "twin", "a", b"")
        .file("a", "second")
        .dir("d", 0o700)
        .file("d/x", "below")
        .file("d", "now a file")
        .entry(b'2', "l", "d2", b"")
        .dir("d2", 0o755)
        .file("l/through", "link")
        .entry(b'2', "l", "elsewhere", b"")
        .file("last", "one")
        .end();
    let image = sandbox.import(&archive, "replaced").expect("imports");
    let layer = top_layer(&sandbox, &image);
    let read = |name: &str| std::fs::read_to_string(layer.join(name)).expect(name);
    assert_eq!(
        (read("a").as_str(), read("twin").as_str(), read("d").as_str(), read("d2/through").as_str()),
        ("second", "first", "now a file", "link")
    );
    let mut again = Vec::new();
    rebuild(layer.parent().expect("has a parent"), &mut again).expect("rebuilds");
    assert!(again == archive);
}

#[test]
fn what_follows_the_end_belongs_to_the_archive() {
    if !is_root() {
        return;
    }
    let sandbox = Sandbox::new();
    let mut archive = Tar::default().file("a", "text").end();
    archive.resize(20 * 512, 0);
    archive.extend_from_slice(b"and some rubbish");
    let image = sandbox.import(&archive, "padded").expect("imports");
    let mut again = Vec::new();
    rebuild(top_layer(&sandbox, &image).parent().expect("has a parent"), &mut again).expect("rebuilds");
    assert!(again == archive);
}

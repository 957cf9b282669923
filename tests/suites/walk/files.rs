//! Files between containers, images and the host.

use anyhow::ensure;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use crate::both;
use crate::support::{SLEEP, code, has};
use tests::engine::BUSYBOX;

/// The text of a path.
fn text(path: &std::path::Path) -> &str {
    path.to_str().unwrap_or_default()
}

both! {
    /// Directories and files, into a container and back, running and stopped, with owners, modes and links.
    fn cp_both_ways(walk) {
        let folder = walk.engine.dir().join("files");
        fs::create_dir(&folder)?;
        let source = folder.join("tree");
        fs::create_dir_all(source.join("sub"))?;
        fs::write(source.join("sub/file"), "content\n")?;
        fs::set_permissions(source.join("sub/file"), fs::Permissions::from_mode(0o4750))?;
        fs::hard_link(source.join("sub/file"), source.join("hard"))?;
        symlink("/etc/passwd", source.join("link"))?;
        let name = walk.sleeper(&["-v", "/volume"])?;
        for stopped in [false, true] {
            if stopped {
                walk.ok(&["stop", "-t", "0", &name])?;
            }
            walk.ok(&["cp", text(&source), &format!("{name}:/volume/in{stopped}")])?;
            walk.ok(&["cp", text(&source), &format!("{name}:/root/in{stopped}")])?;
            let back = folder.join(format!("back{stopped}"));
            fs::create_dir(&back)?;
            walk.ok(&["cp", &format!("{name}:/volume/in{stopped}"), text(&back)])?;
            let made = back.join(format!("in{stopped}"));
            ensure!(fs::read_to_string(made.join("hard"))? == "content\n");
            ensure!(fs::metadata(made.join("hard"))?.ino() == fs::metadata(made.join("sub/file"))?.ino());
            ensure!(fs::metadata(made.join("hard"))?.mode() & 0o7777 == 0o4750);
            ensure!(fs::read_link(made.join("link"))?.as_os_str() == "/etc/passwd");
            walk.ok(&["cp", "-L", &format!("{name}:/volume/in{stopped}/link"), text(&back.join("followed"))])?;
            ensure!(fs::read_to_string(back.join("followed"))?.contains("root"));
        }
        walk.ok(&["start", &name])?;
        let found = walk.inside(&name, "find /volume /root -name file | sort")?;
        ensure!(found.lines().count() == 4, "{found}");
        code(&walk.run(&["cp", &format!("{name}:/nope"), "-"])?, 1)?;
        has(&walk.run(&["cp", &format!("{name}:/nope"), "-"])?.stderr, "Could not find the file /nope in container")?;
        walk.remove(&[&name])?;
    }

    /// What is read-only for the container is so for `cp`.
    fn cp_keeps_what_is_read_only(walk) {
        let folder = walk.engine.dir().join("files");
        fs::create_dir(&folder)?;
        let file = folder.join("file");
        fs::write(&file, "x")?;
        let name = walk.name();
        walk.ok(&["run", "-d", "--name", &name, "--read-only", "-v", "data:/ro:ro", "-v", "data:/rw", BUSYBOX, SLEEP[0], SLEEP[1]])?;
        for _ in 0..2 {
            for (path, words) in [("/tmp", "container rootfs is marked read-only"), ("/ro", "mounted volume is marked read-only")] {
                let done = walk.run(&["cp", text(&file), &format!("{name}:{path}/")])?;
                code(&done, 1)?;
                has(&done.stderr, words)?;
            }
            walk.ok(&["cp", text(&file), &format!("{name}:/rw/")])?;
            walk.ok(&["stop", "-t", "0", &name])?;
        }
        walk.remove(&[&name])?;
    }

    /// `diff`, `export` and `commit` agree on what a container changed.
    fn diff_export_and_commit(walk) {
        let script = "rm /bin/arch; echo new > /root/file; mkdir -p /srv/d; rm -r /home; mkdir /home; sleep 300";
        let name = walk.detached(&[], &["sh", "-c", script])?;
        tests::sh::eventually("the files are changed", 10, || walk.inside(&name, "test -d /home -a -d /srv/d && echo y").ok().filter(|out| out == "y"))?;
        let diff = walk.out(&["diff", &name])?;
        for line in ["C /bin", "D /bin/arch", "A /root/file", "A /srv/d"] {
            ensure!(diff.lines().any(|shown| shown == line), "{line:?} is not in {diff}");
        }
        ensure!(!diff.contains("/etc"), "{diff}");
        let folder = walk.engine.dir().join("files");
        fs::create_dir(&folder)?;
        let archive = folder.join("root.tar");
        walk.ok(&["export", "-o", text(&archive), &name])?;
        let listed = tests::sh::Cmd::new("tar").args(["tf", text(&archive)]).ok()?.stdout;
        ensure!(listed.lines().any(|line| line == "root/file") && !listed.lines().any(|line| line == "bin/arch"), "{listed}");
        walk.ok(&["commit", "-a", "me", "-m", "why", "-c", "CMD [\"cat\",\"/root/file\"]", &name, "made:v1"])?;
        ensure!(walk.out(&["run", "--rm", "made:v1"])? == "new");
        code(&walk.run(&["run", "--rm", "made:v1", "ls", "/bin/arch"])?, 1)?;
        ensure!(walk.inspect("made:v1", "{{.Author}} {{.Comment}} {{len .RootFS.Layers}}")? == "me why 2");
        walk.remove(&[&name])?;
        walk.ok(&["rmi", "made:v1"])?;
    }
}

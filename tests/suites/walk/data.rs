//! Data: named and anonymous volumes, bind mounts, tmpfs.

use crate::both;
use crate::support::{code, has};
use anyhow::ensure;
use std::fs;
use std::path::Path;
use tests::engine::BUSYBOX;

both! {
    /// A named volume is created, used, kept, and refused to `rm` while in use.
    fn named_volume(walk) {
        walk.ok(&["volume", "create", "--label", "w=1", "v1"])?;
        walk.ok(&["volume", "create", "v1"])?;
        walk.once(&["-v", "v1:/data"], &["sh", "-c", "echo kept > /data/f"])?;
        ensure!(walk.once(&["-v", "v1:/data:ro"], &["cat", "/data/f"])? == "kept");
        ensure!(walk.try_once(&["-v", "v1:/data:ro"], &["touch", "/data/g"])?.code != 0);
        ensure!(walk.out(&["volume", "ls", "-q", "--filter", "label=w=1"])? == "v1");
        let name = walk.sleeper(&["-v", "v1:/data"])?;
        let refused = walk.run(&["volume", "rm", "v1"])?;
        code(&refused, 1)?;
        has(&refused.stderr, "in use")?;
        walk.remove(&[&name])?;
        let place = walk.out(&["volume", "inspect", "-f", "{{.Mountpoint}}", "v1"])?;
        ensure!(Path::new(&place).join("f").exists());
        walk.ok(&["volume", "rm", "v1"])?;
        code(&walk.run(&["volume", "inspect", "v1"])?, 1)?;
    }

    /// A volume is filled from the image at its first use, unless `nocopy` says otherwise.
    fn volume_is_filled(walk) {
        has(&walk.once(&["-v", "v2:/etc"], &["cat", "/etc/passwd"])?, "root")?;
        ensure!(walk.once(&["-v", "v3:/etc:nocopy"], &["sh", "-c", "ls /etc/passwd 2>/dev/null | wc -l"])? == "0");
    }

    /// `volume prune` takes what is anonymous and unused; `rm -v` takes a container's own.
    fn anonymous_volume(walk) {
        let name = walk.sleeper(&["-v", "/anon"])?;
        ensure!(walk.out(&["volume", "ls", "-q"])?.len() == 64);
        walk.ok(&["rm", "-f", &name])?;
        ensure!(walk.out(&["volume", "ls", "-q"])?.len() == 64);
        walk.ok(&["volume", "create", "named"])?;
        walk.ok(&["volume", "prune", "-f"])?;
        ensure!(walk.out(&["volume", "ls", "-q"])? == "named");
        walk.ok(&["volume", "prune", "-a", "-f"])?;
        let name = walk.sleeper(&["-v", "/anon"])?;
        walk.remove(&[&name])?;
        ensure!(walk.out(&["volume", "ls", "-q"])?.is_empty());
    }

    /// `-v` makes a missing folder of the host; `--mount type=bind` refuses one; `:ro`; a single file.
    fn bind(walk) {
        let dir = walk.engine.dir().to_string_lossy().into_owned();
        walk.once(&["-v", &format!("{dir}/new:/in")], &["touch", "/in/x"])?;
        ensure!(Path::new(&dir).join("new/x").exists());
        let refused = walk.try_once(&["--mount", &format!("type=bind,source={dir}/missing,target=/in")], &["true"])?;
        code(&refused, 125)?;
        has(&refused.stderr, "missing")?;
        ensure!(!Path::new(&dir).join("missing").exists());
        ensure!(walk.try_once(&["-v", &format!("{dir}/new:/in:ro")], &["touch", "/in/y"])?.code != 0);
        fs::write(Path::new(&dir).join("one"), "1")?;
        ensure!(walk.once(&["--mount", &format!("type=bind,src={dir}/one,dst=/one,readonly")], &["cat", "/one"])? == "1");
        ensure!(walk.try_once(&["-v", &format!("{dir}/one:/one:ro")], &["sh", "-c", "echo 2 > /one"])?.code != 0);
    }

    /// tmpfs by `--mount` with its size, a volume by `--mount`.
    fn mounts(walk) {
        has(&walk.once(&["--mount", "type=tmpfs,dst=/t,tmpfs-size=1048576"], &["df", "-k", "/t"])?, "1024")?;
        walk.once(&["--mount", "type=volume,src=v4,dst=/d"], &["touch", "/d/f"])?;
        ensure!(walk.once(&["--mount", "type=volume,src=v4,dst=/d,readonly"], &["ls", "/d"])? == "f");
        let done = walk.run(&["run", "--rm", "--mount", "type=nothing,dst=/d", BUSYBOX, "true"])?;
        code(&done, 125)?;
    }
}

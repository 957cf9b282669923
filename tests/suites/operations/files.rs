//! Files of containers and volumes in odd situations.

use anyhow::{Context, Result, ensure};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;
use tests::engine::BUSYBOX;

use crate::with_engine;

/// A file whose name is that of a mark would remove another one wherever the image goes.
#[test]
fn a_name_that_is_a_mark_is_not_committed() -> Result<()> {
    with_engine("files-mark", |engine| {
        engine.ok(&["run", "--name", "one", BUSYBOX, "sh", "-c", "touch /root/.wh.passwd"])?;
        let refused = engine.run(&["commit", "one", "made"])?;
        ensure!(refused.code == 1 && refused.stderr.contains(".wh.passwd") && refused.stderr.contains("rename or remove it"), "{refused}");
        ensure!(engine.ok(&["images", "-q", "made"])?.text().is_empty());
        Ok(())
    })
}

/// A client that sends an archive slowly, or never to its end, does not keep a stopped container from its start.
#[test]
fn an_upload_that_hangs_does_not_hold_the_container() -> Result<()> {
    with_engine("files-upload", |engine| {
        engine.ok(&["create", "--name", "one", BUSYBOX, "sleep", "300"])?;
        let mut slow = UnixStream::connect(engine.socket())?;
        slow.write_all(b"PUT /v1.51/containers/one/archive?path=/root HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\nbegin")?;
        engine.ok(&["start", "one"])?;
        ensure!(engine.inspect("one", "{{.State.Running}}")? == "true");
        slow.shutdown(std::net::Shutdown::Write)?;
        slow.set_read_timeout(Some(Duration::from_secs(30)))?;
        let mut answer = String::new();
        // An answer or a reset: either way it is over.
        let _ = slow.read_to_string(&mut answer);
        ensure!(engine.ok(&["exec", "one", "ls", "/root"])?.text().is_empty());
        Ok(())
    })
}

/// What a creation that a crash interrupted has made of volumes goes with the next start.
#[test]
fn anonymous_volumes_of_an_interrupted_creation_go() -> Result<()> {
    with_engine("files-volumes", |engine| {
        let made = engine.api("POST", "/v1.51/volumes/create", "{}")?;
        let made: serde_json::Value = serde_json::from_str(&made.body)?;
        let lost = made["Name"].as_str().context("a volume has a name")?.to_owned();
        engine.ok(&["run", "--name", "one", "-v", "/kept", BUSYBOX, "true"])?;
        engine.ok(&["volume", "create", "named"])?;
        engine.kill()?;
        let folder = engine.data_root().join("containers").join("ab".repeat(32));
        fs::create_dir(&folder)?;
        fs::write(folder.join("anonymous-volumes"), format!("{lost}\nnamed\n"))?;
        engine.restart()?;
        let left = engine.ok(&["volume", "ls", "-q"])?.stdout;
        ensure!(!left.contains(&lost) && left.contains("named") && left.lines().count() == 2, "{left}");
        ensure!(!folder.exists());
        Ok(())
    })
}

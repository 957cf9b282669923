//! `--secret`: a file in memory that nothing shows.

use anyhow::{Result, ensure};
use std::fs;
use tests::engine::BUSYBOX;
use tests::sh::Cmd;

use crate::with_engine;

const WORDS: &str = "hush-quay-7319";

#[test]
fn a_secret_is_seen_by_its_container_alone() -> Result<()> {
    with_engine("secrets", |engine| {
        let file = engine.dir().join("token");
        fs::write(&file, WORDS)?;
        let flag = format!("source={},target=token,uid=33,mode=0440", file.display());
        engine.ok(&["run", "-d", "--name", "holder", "--secret", &flag, BUSYBOX, "sleep", "300"])?;
        let seen = "cat /run/secrets/token; stat -c ' %u %a' /run/secrets/token; grep ' /run/secrets ' /proc/mounts | cut -d' ' -f3,4";
        let shown = engine.ok(&["exec", "holder", "sh", "-c", seen])?.stdout;
        ensure!(shown.starts_with(&format!("{WORDS} 33 440\ntmpfs ro")), "{shown}");
        ensure!(engine.run(&["exec", "holder", "sh", "-c", "echo x > /run/secrets/token"])?.code == 1);

        // It is there again after a restart, of the container and of the engine.
        engine.ok(&["restart", "-t", "0", "holder"])?;
        engine.restart()?;
        engine.ok(&["stop", "-t", "0", "holder"])?;
        engine.ok(&["start", "holder"])?;
        ensure!(engine.ok(&["exec", "holder", "cat", "/run/secrets/token"])?.text() == WORDS);

        engine.ok(&["commit", "holder", "made"])?;
        ensure!(engine.run(&["run", "--rm", "made", "cat", "/run/secrets/token"])?.code != 0);
        let (archive, image) = (engine.dir().join("root.tar"), engine.dir().join("image.tar"));
        engine.cais().args(["export", "-o"]).arg(&archive).arg("holder").ok()?;
        engine.cais().args(["save", "-o"]).arg(&image).arg("made").ok()?;
        let events = engine.ok(&["events", "--since", "1", "--until", "0s", "--format", "{{json .}}"])?.stdout;
        for (what, text) in [
            ("inspect", engine.ok(&["inspect", "holder", "made"])?.stdout),
            ("diff", engine.ok(&["diff", "holder"])?.stdout),
            ("logs", engine.ok(&["logs", "holder"])?.stdout),
            ("events", events),
            ("the engine's log", engine.log()),
        ] {
            ensure!(!text.contains(WORDS) && !text.contains("aHVzaC1xdWF5"), "{what} has it");
        }
        ensure!(!engine.ok(&["diff", "holder"])?.stdout.contains("/run/secrets"));
        for file in [&archive, &image] {
            ensure!(Cmd::new("grep").args(["-c", WORDS]).arg(file).run()?.code == 1, "{} has it", file.display());
        }
        let refused = engine.run(&["run", "--rm", "--secret", "source=/no/such/file", BUSYBOX, "true"])?;
        ensure!(refused.code == 125 && refused.stderr.contains("/no/such/file"), "{refused}");
        let twice = engine.run(&["run", "--rm", "--secret", &flag, "--secret", &flag, BUSYBOX, "true"])?;
        ensure!(twice.code == 125 && twice.stderr.contains("two secrets"), "{twice}");
        engine.ok(&["rm", "-f", "holder"])?;
        let left = Cmd::new("grep").args(["-r", "-l", "aHVzaC1xdWF5"]).arg(engine.data_root().join("containers")).run()?;
        ensure!(left.code == 1, "{left:?}");
        Ok(())
    })
}

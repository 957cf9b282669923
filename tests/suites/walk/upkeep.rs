//! Keeping images whole: `system fsck`, `system df`, and lists of manifests for several platforms.

use crate::both;
use crate::images::Registry;
use crate::support::{Walk, code, has};
use anyhow::{Context, Result, ensure};
use std::fs;
use std::path::PathBuf;
use tests::engine::BUSYBOX;
use tests::image;
use tests::sh::Cmd;

/// A file of the only layer that there is.
fn layer_file(walk: &Walk, path: &str) -> Result<PathBuf> {
    let layers = walk.engine.data_root().join("layers");
    let layer = fs::read_dir(layers)?.next().context("there is a layer")??.path();
    Ok(layer.join("fs").join(path))
}

/// A damaged layer is found, fetched again from the registry that it came from, and runs; one that no registry has stays damaged, and is told.
#[test]
fn fsck() -> Result<()> {
    Walk::through("fsck", tests::Client::Cais, |walk| {
        let registry = Registry::start(walk.engine.dir())?;
        let digest = registry.publish("walk/bb", "1", &image::busybox()?, walk.engine.dir())?;
        let whole = walk.ok(&["system", "fsck"])?;
        has(&whole.stdout, "0 damaged")?;
        fs::write(layer_file(walk, "bin/busybox")?, "")?;
        let orphan = walk.run(&["system", "fsck"])?;
        code(&orphan, 1)?;
        has(&orphan.stdout, BUSYBOX.trim_end_matches(":latest"))?;
        has(&orphan.stdout, "no registry is known that has it")?;
        walk.ok(&["rmi", BUSYBOX])?;
        let name = format!("{}/walk/bb:1", registry.address);
        has(&walk.out(&["pull", &name])?, &digest)?;
        fs::write(layer_file(walk, "bin/busybox")?, "")?;
        let running = walk.run(&["system", "fsck", "--check", "-q"])?;
        code(&running, 1)?;
        has(&running.stdout, "not asked for")?;
        let repaired = walk.ok(&["system", "fsck"])?;
        has(&repaired.stdout, "repaired from")?;
        has(&repaired.stdout, "1 damaged, 1 repaired")?;
        ensure!(walk.out(&["run", "--rm", &name, "echo", "whole"])? == "whole");
        has(&walk.ok(&["system", "fsck", "-q"])?.stdout, "0 damaged")?;
        Ok(())
    })
}

/// Everything that `system df` tells adds up to what `du` says of the data root.
#[test]
fn df_adds_up() -> Result<()> {
    Walk::through("df", tests::Client::Cais, |walk| {
        walk.ok(&[
            "run",
            "--name",
            "writer",
            "-v",
            "kept:/kept",
            BUSYBOX,
            "sh",
            "-c",
            "head -c 3000000 /dev/urandom > /file; head -c 2000000 /dev/urandom > /kept/file; seq 20000",
        ])?;
        let table = walk.out(&["system", "df"])?;
        has(&table, "Logs and database")?;
        has(&walk.out(&["system", "df", "-v"])?, "Logs and database space usage: ")?;
        let answer = walk.engine.api("GET", "/v1.51/system/df?engine=1", "")?.body;
        let number = |key: &str| -> Result<u64> {
            let (_, rest) = answer.split_once(&format!("\"{key}\":")).with_context(|| format!("no {key} in {answer}"))?;
            Ok(rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse()?)
        };
        let told = number("LayersSize")? + number("ContainersSize")? + number("VolumesSize")? + number("LogsAndDatabaseSize")?;
        let du = Cmd::new("du").args(["-s", "--block-size=1"]).arg(walk.engine.data_root()).ok()?;
        let du: u64 = du.text().split_whitespace().next().context("du tells a number")?.parse()?;
        ensure!(told.abs_diff(du) <= du / 100, "told {told}, du {du}");
        ensure!(number("ContainersSize")? > 3_000_000 && number("VolumesSize")? > 2_000_000, "{answer}");
        walk.ok(&["rm", "writer"])?;
        walk.ok(&["volume", "rm", "kept"])?;
        Ok(())
    })
}

both! {
    /// A list for two platforms is made, annotated, pushed, looked at, and pulled by platform.
    fn manifests(walk) {
        let registry = Registry::start(walk.engine.dir())?;
        let name = |tag: &str| format!("{}/walk/multi:{tag}", registry.address);
        let (list, amd, arm) = (name("all"), name("amd"), name("arm"));
        for tag in [&amd, &arm] {
            walk.ok(&["tag", BUSYBOX, tag])?;
            walk.ok(&["push", tag])?;
        }
        // Of another repository of the same registry, so that it has to be brought over.
        let far = format!("{}/walk/far:1", registry.address);
        registry.publish("walk/far", "1", &image::busybox()?, walk.engine.dir())?;
        has(&walk.out(&["manifest", "create", "--insecure", &list, &amd, &far])?, "Created manifest list")?;
        code(&walk.run(&["manifest", "create", "--insecure", &list, &amd])?, 1)?;
        walk.ok(&["manifest", "annotate", "--os", "linux", "--arch", "arm64", "--variant", "v8", &list, &far])?;
        let wrong = walk.run(&["manifest", "annotate", "--os", "linux", "--arch", "toaster", &list, &far])?;
        code(&wrong, 1)?;
        has(&wrong.stderr, "unsupported os/arch")?;
        has(&walk.out(&["manifest", "inspect", &list])?, "\"architecture\": \"arm64\"")?;
        let digest = walk.out(&["manifest", "push", "--insecure", "--purge", &list])?;
        ensure!(digest.contains("sha256:"), "{digest}");
        code(&walk.run(&["manifest", "rm", &list])?, 1)?;
        let shown = walk.out(&["manifest", "inspect", "--insecure", &list])?;
        has(&shown, "\"variant\": \"v8\"")?;
        has(&walk.out(&["manifest", "inspect", "--insecure", "-v", &amd])?, "\"Descriptor\"")?;
        walk.ok(&["pull", "--platform", "linux/amd64", &list])?;
        // Pushed again, to another repository of the same registry, the list goes whole.
        let copy = format!("{}/walk/copy:all", registry.address);
        walk.ok(&["tag", &list, &copy])?;
        let said = walk.out(&["push", &copy])?;
        let digest = digest.lines().last().unwrap_or_default().trim();
        has(&said, digest)?;
        has(&walk.out(&["manifest", "inspect", "--insecure", &copy])?, "\"architecture\": \"arm64\"")?;
        let none = walk.run(&["pull", "--platform", "linux/s390x", &list])?;
        code(&none, 1)?;
        has(&none.stderr, "no matching manifest for linux/s390x")?;
    }
}

//! Events: their history, their filters, what they say.

use anyhow::{Result, ensure};
use serde_json::Value;
use tests::Engine;
use tests::engine::BUSYBOX;

use crate::with_engine;

/// Events of the past that these filters select.
fn past(engine: &Engine, filters: &[&str]) -> Result<Vec<Value>> {
    let mut args = vec!["events", "--since", "1", "--until", "0s", "--format", "{{json .}}"];
    for filter in filters {
        args.extend(["--filter", filter]);
    }
    engine.ok(&args)?.stdout.lines().map(|line| Ok(serde_json::from_str(line)?)).collect()
}

#[test]
fn the_history_outlives_the_engine() -> Result<()> {
    with_engine("events-history", |engine| {
        engine.ok(&["run", "--name", "told", "-v", "data:/data", "--label", "tier=front", BUSYBOX, "true"])?;
        engine.ok(&["volume", "ls"])?;
        // In order, so that the lines are on their way to the file: an engine that is asked to end writes what it has.
        engine.restart_gently()?;
        let actions = |filters: &[&str]| -> Result<Vec<String>> {
            Ok(past(engine, filters)?.iter().map(|event| event["Action"].as_str().unwrap_or_default().to_owned()).collect())
        };
        ensure!(actions(&["container=told"])?.starts_with(&["create".to_owned()]));
        ensure!(actions(&["type=container", "event=die"])? == ["die"]);
        ensure!(actions(&["type=volume", "volume=data"])? == ["create", "mount", "unmount"]);
        ensure!(actions(&["type=network"])? == ["connect", "disconnect"]);
        ensure!(actions(&["label=tier=front", "event=start"])? == ["start"]);
        let image = BUSYBOX.rsplit_once(':').map_or(BUSYBOX, |(name, _)| name);
        ensure!(actions(&[&format!("image={image}"), "event=start"])? == ["start"]);
        ensure!(actions(&["service=x"])?.is_empty());
        let died = &past(engine, &["event=die"])?[0];
        ensure!(died["Actor"]["Attributes"]["exitCode"] == "0" && died["from"] == BUSYBOX, "{died}");
        let mounted = &past(engine, &["event=mount"])?[0]["Actor"]["Attributes"];
        ensure!(mounted["destination"] == "/data" && mounted["read/write"] == "true" && mounted["driver"] == "local", "{mounted}");
        let refused = engine.run(&["events", "--until", "0s", "--filter", "nope=1"])?;
        ensure!(refused.code == 1 && refused.stderr.contains("invalid filter 'nope'"), "{refused}");
        Ok(())
    })
}

/// A short exec's end is never told before its start.
#[test]
fn an_exec_is_told_of_in_order() -> Result<()> {
    with_engine("events-exec", |engine| {
        engine.ok(&["run", "-d", "--name", "one", BUSYBOX, "sleep", "300"])?;
        engine.ok(&["exec", "one", "true"])?;
        engine.ok(&["top", "one"])?;
        let told = tests::sh::eventually("the exec's end is told", 30, || {
            let told = past(engine, &["container=one"]).ok()?;
            told.iter().any(|event| event["Action"] == "exec_die").then_some(told)
        })?;
        let told: Vec<&str> =
            told.iter().filter_map(|event| event["Action"].as_str()).filter(|action| action.starts_with("exec")).collect();
        ensure!(told == ["exec_create: true", "exec_start: true", "exec_die"], "{told:?}");
        Ok(())
    })
}

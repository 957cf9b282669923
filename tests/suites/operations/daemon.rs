//! The engine itself: its configuration, figures and log.

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use tests::engine::BUSYBOX;
use tests::http;
use tests::sh::eventually;
use tests::{Engine, image};

/// `daemon.json` is read, and read again at SIGHUP.
#[test]
fn daemon_json_is_read_again() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let folder = std::env::temp_dir().join(format!("cais-daemon-json-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let file = folder.join("daemon.json");
    fs::write(&file, r#"{"log-driver": "local", "log-opts": {"max-size": "1m"}, "labels": ["site=quay"]}"#)?;
    let engine = Engine::start_with("daemon-json", &["--config-file", &file.to_string_lossy(), "--log-format", "json"]);
    let outcome = engine.and_then(|engine| check(&engine, &file));
    fs::remove_dir_all(&folder)?;
    outcome
}

fn check(engine: &Engine, file: &std::path::Path) -> Result<()> {
    engine.cais().args(["import", "-c", r#"CMD ["sh"]"#]).arg(image::busybox()?).arg(BUSYBOX).ok()?;
    ensure!(engine.ok(&["info", "--format", "{{.LoggingDriver}} {{.Labels}}"])?.text() == "local [site=quay]");
    engine.ok(&["create", "--name", "first", BUSYBOX])?;
    ensure!(engine.inspect("first", "{{.HostConfig.LogConfig.Type}} {{.HostConfig.LogConfig.Config}}")? == "local map[max-size:1m]");
    let pid = engine.pid().and_then(|pid| Pid::from_raw(pid as i32)).context("the engine runs")?;
    fs::write(file, r#"{"log-driver": "nope"}"#)?;
    kill_process(pid, Signal::HUP)?;
    eventually("the bad configuration is refused", 30, || engine.log().contains("stays as it was").then_some(()))?;
    fs::write(file, r#"{"debug": true, "labels": ["site=pier"]}"#)?;
    kill_process(pid, Signal::HUP)?;
    eventually("the configuration is read again", 30, || {
        engine.ok(&["info", "--format", "{{.LoggingDriver}} {{.Labels}}"]).ok().filter(|done| done.text() == "json-file [site=pier]")
    })?;
    ensure!(engine.inspect("first", "{{.HostConfig.LogConfig.Type}}")? == "local");
    let told = engine.ok(&["events", "--since", "1", "--until", "0s", "--filter", "type=daemon", "--format", "{{.Action}}"])?;
    ensure!(told.text() == "reload", "{told}");
    for line in engine.log().lines() {
        let line: serde_json::Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        ensure!(line["level"].is_string() && line["timestamp"].is_string(), "{line}");
    }
    Ok(())
}

/// Figures in Prometheus' format, on a port of their own and from the API.
#[test]
fn figures_are_served() -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let port = http::free_port()?;
    let engine = Engine::start_with("figures", &["--metrics-addr", &format!("127.0.0.1:{port}")])?;
    engine.cais().args(["import", "-c", r#"CMD ["sh"]"#]).arg(image::busybox()?).arg(BUSYBOX).ok()?;
    engine.ok(&["run", "-d", BUSYBOX, "sleep", "300"])?;
    let page = http::get(([127, 0, 0, 1], port).into(), "/metrics")?;
    ensure!(page.status == 200 && page.head.contains("text/plain; version=0.0.4"), "{page:?}");
    for line in
        ["engine_daemon_container_states_containers{state=\"running\"} 1", "# TYPE engine_daemon_events_total counter", "cais_images 1"]
    {
        ensure!(page.body.lines().any(|shown| shown == line), "{line:?} is not in {}", page.body);
    }
    ensure!(http::get(([127, 0, 0, 1], port).into(), "/containers/json")?.status == 404);
    ensure!(engine.api("GET", "/metrics", "")?.body.contains("engine_daemon_engine_info{version="));
    Ok(())
}

//! Health checks that need no program in the container.

use anyhow::{Result, ensure};
use tests::Engine;
use tests::engine::BUSYBOX;
use tests::sh::eventually;

use crate::with_engine;

fn becomes(engine: &Engine, name: &str, health: &str) -> Result<()> {
    eventually(&format!("{name} is {health}"), 60, || {
        engine.inspect(name, "{{.State.Health.Status}}").ok().filter(|shown| shown == health)
    })?;
    Ok(())
}

#[test]
fn ports_and_pages_are_probed_from_inside() -> Result<()> {
    with_engine("health", |engine| {
        let often = ["--health-interval", "100ms", "--health-retries", "2", "--health-timeout", "20s"];
        // On the container's loopback alone.
        let serve = "mkdir -p /www; echo ok > /www/healthy; exec httpd -f -p 127.0.0.1:8080 -h /www";
        let page = "http://localhost:8080/healthy";
        engine.ok(&[&["run", "-d", "--name", "page", "--health-http", page], often.as_slice(), &[BUSYBOX, "sh", "-c", serve]].concat())?;
        engine.ok(&[&["run", "-d", "--name", "port", "--health-tcp", "8080"], often.as_slice(), &[BUSYBOX, "sh", "-c", serve]].concat())?;
        engine.ok(&[&["run", "-d", "--name", "none", "--health-tcp", "8080"], often.as_slice(), &[BUSYBOX, "sleep", "300"]].concat())?;
        becomes(engine, "page", "healthy")?;
        becomes(engine, "port", "healthy")?;
        becomes(engine, "none", "unhealthy")?;
        let shown = engine.inspect("none", "{{(index .State.Health.Log 0).Output}}")?;
        ensure!(shown.contains("connect to port 8080"), "{shown}");
        engine.ok(&["exec", "page", "rm", "/www/healthy"])?;
        becomes(engine, "page", "unhealthy")?;
        let log = engine.inspect("page", "{{json .State.Health.Log}}")?;
        ensure!(log.contains("HTTP status 404"), "{log}");
        ensure!(engine.ok(&["ps", "--filter", "health=unhealthy", "-q"])?.stdout.lines().count() == 2);
        for (flags, word) in [(["--health-http", "https://localhost/"], "URL"), (["--health-tcp", "0"], "port")] {
            let refused = engine.run(&[&["create"], flags.as_slice(), &[BUSYBOX]].concat())?;
            ensure!(refused.code != 0 && refused.stderr.contains(word), "{refused}");
        }
        let both = engine.run(&["create", "--health-cmd", "true", "--health-tcp", "80", BUSYBOX])?;
        ensure!(both.code != 0 && both.stderr.contains("use one or the other"), "{both}");
        Ok(())
    })
}

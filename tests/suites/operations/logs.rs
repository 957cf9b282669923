//! Logs: drivers, rotation, what followers see.

use anyhow::{Context, Result, ensure};
use std::io::{BufRead, BufReader, Read};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::net::UnixDatagram;
use std::time::Duration;
use tests::engine::BUSYBOX;
use tests::sh::eventually;
use tests::{Client, Engine};

use crate::with_engine;

const PATIENCE: Duration = Duration::from_secs(60);

/// Output, errors, a line without an end: with both clients, from every driver that keeps something.
#[test]
fn every_driver_keeps_what_was_written() -> Result<()> {
    with_engine("logs-drivers", |engine| {
        let collector = UdpSocket::bind("127.0.0.1:0")?;
        let address = format!("gelf-address=udp://{}", collector.local_addr()?);
        for (driver, option) in [("json-file", "compress=true"), ("local", "max-size=1m"), ("gelf", &address)] {
            let script = "echo out; echo err >&2; printf end";
            engine.ok(&["run", "--name", driver, "--log-driver", driver, "--log-opt", option, BUSYBOX, "sh", "-c", script])?;
            for client in [Client::Cais, Client::Docker] {
                let done = engine.client(client)?.args(["logs", driver]).ok()?;
                ensure!(done.stdout == "out\nend" && done.stderr == "err\n", "{driver}: {done:?}");
                let tail = engine.client(client)?.args(["logs", "--tail", "1", "-t", driver]).ok()?;
                ensure!(tail.stdout.contains("Z end") || tail.stderr.contains("Z err"), "{driver}: {tail:?}");
            }
            let path = engine.inspect(driver, "{{.HostConfig.LogConfig.Type}} {{.LogPath}}")?;
            ensure!(path.ends_with("-json.log") == (driver == "json-file"), "{path}");
        }
        engine.ok(&["run", "--name", "nothing", "--log-driver", "none", BUSYBOX, "echo", "x"])?;
        let refused = engine.run(&["logs", "nothing"])?;
        ensure!(refused.code == 1 && refused.stderr.contains("none"), "{refused}");
        Ok(())
    })
}

/// What comes over, with what the options say of the container.
#[test]
fn records_are_sent_to_collectors() -> Result<()> {
    with_engine("logs-sent", |engine| {
        let udp = UdpSocket::bind("127.0.0.1:0")?;
        udp.set_read_timeout(Some(PATIENCE))?;
        let address = format!("gelf-address=udp://{}", udp.local_addr()?);
        let flags = ["--log-driver", "gelf", "--log-opt", &address, "--log-opt", "gelf-compression-type=none", "--log-opt", "env=TIER"];
        engine.ok(&[&["run", "--rm", "--name", "graylog", "-e", "TIER=front"], flags.as_slice(), &[BUSYBOX, "echo", "by udp"]].concat())?;
        let mut datagram = [0; 9000];
        let length = udp.recv(&mut datagram)?;
        let message: serde_json::Value = serde_json::from_slice(&datagram[..length])?;
        ensure!(
            message["short_message"] == "by udp" && message["_TIER"] == "front" && message["_container_name"] == "graylog",
            "{message}"
        );

        let path = engine.dir().join("log.sock");
        let socket = UnixDatagram::bind(&path)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let address = format!("syslog-address=unix://{}", path.display());
        let flags = ["--log-driver", "syslog", "--log-opt", &address, "--log-opt", "tag={{.Name}}", "--log-opt", "syslog-facility=local0"];
        engine.ok(&[&["run", "--rm", "--name", "logger"], flags.as_slice(), &[BUSYBOX, "sh", "-c", "echo by datagram >&2"]].concat())?;
        let length = socket.recv(&mut datagram)?;
        let message = String::from_utf8_lossy(&datagram[..length]).into_owned();
        ensure!(message.starts_with("<131>") && message.contains("logger[") && message.ends_with("by datagram\n"), "{message:?}");

        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("fluentd-address={}", listener.local_addr()?);
        let flags = ["--log-driver", "fluentd", "--log-opt", &address, "--log-opt", "tag=quay"];
        engine.ok(&[&["run", "-d", "--name", "fluent"], flags.as_slice(), &[BUSYBOX, "echo", "by tcp"]].concat())?;
        let (mut stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut bytes = Vec::new();
        while !bytes.windows(6).any(|part| part == b"by tcp") {
            let length = stream.read(&mut datagram)?;
            ensure!(length > 0, "the stream ended: {bytes:?}");
            bytes.extend_from_slice(&datagram[..length]);
        }
        ensure!(bytes.starts_with(b"\x93\xa4quay"), "{bytes:?}");
        Ok(())
    })
}

/// A collector that is not there is told at the start, and leaves nothing half made.
#[test]
fn a_missing_collector_is_told() -> Result<()> {
    with_engine("logs-missing", |engine| {
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        for (driver, option) in
            [("fluentd", format!("fluentd-address={free}")), ("syslog", "syslog-address=unix:///no/such.sock".to_owned())]
        {
            for client in [Client::Cais, Client::Docker] {
                let done =
                    engine.client(client)?.args(["run", "--rm", "--log-driver", driver, "--log-opt", &option, BUSYBOX, "true"]).run()?;
                ensure!(done.code == 125 && done.stderr.contains(&format!("failed to initialize logging driver {driver}")), "{done}");
            }
        }
        eventually("the containers are gone", 30, || engine.ok(&["ps", "-aq"]).ok().filter(|done| done.text().is_empty()))?;
        for (driver, option, word) in [
            ("splunk", "a=b", "no log driver named 'splunk'"),
            ("local", "tag=x", "does not know"),
            ("json-file", "mode=x", "non-blocking"),
        ] {
            let done = engine.run(&["create", "--log-driver", driver, "--log-opt", option, BUSYBOX])?;
            ensure!(done.code == 1 || done.code == 125, "{done}");
            ensure!(done.stderr.contains(word), "{done}");
        }
        Ok(())
    })
}

/// However often the log is rotated, a follower gets each line once and in order, and so does who reads it afterwards, compressed parts included.
#[test]
fn followers_survive_rotation() -> Result<()> {
    with_engine("logs-rotation", |engine| {
        for (driver, files) in [("json-file", "1000"), ("local", "1000"), ("json-file", "1")] {
            let name = format!("{driver}-{files}");
            let options = ["--log-opt", "max-size=20k", "--log-opt", &format!("max-file={files}"), "--log-opt", "compress=true"];
            let script = "while [ ! -e /go ]; do sleep 0.1; done; for i in $(seq 1 5000); do echo line $i; done";
            engine.ok(
                &[&["run", "-d", "--name", &name, "--log-driver", driver], options.as_slice(), &[BUSYBOX, "sh", "-c", script]].concat()
            )?;
            let (reader, writer) = std::io::pipe()?;
            let mut follower = engine.cais().args(["logs", "-f", &name]).spawn(writer.try_clone()?.into(), std::process::Stdio::null())?;
            drop(writer);
            engine.ok(&["exec", &name, "touch", "/go"])?;
            let lines = BufReader::new(reader).lines().collect::<std::io::Result<Vec<_>>>()?;
            follower.wait()?;
            if files == "1" {
                // What is replaced before it is read is gone, but what comes is whole, in order, and goes on to the end.
                let numbers: Vec<u32> = lines.iter().filter_map(|line| line.strip_prefix("line ")?.parse().ok()).collect();
                ensure!(numbers.is_sorted_by(|a, b| a < b) && numbers.len() == lines.len() && numbers.last() == Some(&5000), "{lines:?}");
            } else {
                check_lines(&lines).with_context(|| format!("what a follower of {name} got"))?;
                let all = engine.ok(&["logs", &name])?.stdout;
                let lines: Vec<String> = all.lines().map(str::to_owned).collect();
                check_lines(&lines).with_context(|| format!("what {name} kept"))?;
                compressed(engine, &name)?;
                let again = engine.ok(&["logs", &name])?.stdout;
                ensure!(again == all, "compressed, {name} reads otherwise");
                ensure!(engine.ok(&["logs", "--tail", "3000", &name])?.stdout.lines().next() == Some("line 2001"));
            }
        }
        Ok(())
    })
}

fn check_lines(lines: &[String]) -> Result<()> {
    let wrong = lines.iter().enumerate().find(|(index, line)| **line != format!("line {}", index + 1));
    ensure!(wrong.is_none() && lines.len() == 5000, "{} lines, {wrong:?}", lines.len());
    Ok(())
}

/// Waits until rotated files are compressed.
fn compressed(engine: &Engine, name: &str) -> Result<()> {
    let id = engine.inspect(name, "{{.Id}}")?;
    let folder = engine.data_root().join("containers").join(id);
    eventually("rotated files are compressed", 60, || {
        let folders = [folder.clone(), folder.join("local-logs")];
        let files = folders.iter().filter_map(|folder| folder.read_dir().ok()).flatten().flatten();
        files.filter(|file| file.file_name().to_string_lossy().ends_with(".gz")).count().checked_sub(1)
    })?;
    Ok(())
}

/// `--details` shows what the options chose; torn records are left out and told of.
#[test]
fn details_are_shown_and_torn_records_left_out() -> Result<()> {
    with_engine("logs-details", |engine| {
        let options = ["--log-opt", "labels=tier", "--log-opt", "tag=a b", "--log-opt", "env=LEVEL"];
        engine
            .ok(&[&["run", "--name", "told", "-l", "tier=front", "-e", "LEVEL=1"], options.as_slice(), &[BUSYBOX, "echo", "hi"]].concat())?;
        for client in [Client::Cais, Client::Docker] {
            let shown = engine.client(client)?.args(["logs", "--details", "told"]).ok()?.stdout;
            ensure!(shown == "LEVEL=1,tag=a+b,tier=front hi\n", "{shown:?}");
        }
        let path = engine.inspect("told", "{{.LogPath}}")?;
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, format!("{{\"log\":\"half\n{text}garbage\n{text}"))?;
        ensure!(engine.ok(&["logs", "told"])?.stdout == "hi\nhi\n");
        eventually("the torn records are told of", 30, || engine.log().contains("torn").then_some(()))?;
        Ok(())
    })
}

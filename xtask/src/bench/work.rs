//! Rows about what containers leave behind: logs, files, images, and what watching them costs.

use super::{SETTLE, Size, remove_all, time, timed};
use crate::bench::peers::Peer;
use crate::bench::report::{Report, Row, Unit};
use anyhow::Result;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::Duration;

const LOGGER: &str = "logger";
/// How long many containers are watched.
const WATCHED: Duration = Duration::from_secs(10);
/// Of the kernel's clock in /proc/PID/stat.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn rows(size: &Size, dir: &Path, peers: &[Peer], report: &mut Report) -> Result<()> {
    logs(size, peers, report)?;
    files(size, dir, peers, report)?;
    commit(size, peers, report)?;
    stats(size, peers, report)
}

/// One container writes lines as fast as it can; then they are read back.
fn logs(size: &Size, peers: &[Peer], report: &mut Report) -> Result<()> {
    let mut written = Row::new(&format!("{} MB of log lines, written", size.log_megabytes), Unit::Milliseconds);
    let mut read = Row::new(&format!("{} MB of log lines, read back", size.log_megabytes), Unit::Milliseconds);
    println!("   {}", written.name());
    let line = "a line of a hundred characters, which is about what programs write when they have something to say";
    let script = format!("yes '{line}' | head -c {}000000", size.log_megabytes);
    for peer in peers {
        let started = time(peer.run(&["-d", "--name", LOGGER, "--log-opt", "max-size=1g"], &["sh", "-c", &script]));
        let took = started.and_then(|started| Ok(started + time(peer.cmd(&["wait", LOGGER]))?));
        match took {
            Ok(took) => {
                written.sample(peer.name(), took);
                read.sample(peer.name(), time(peer.cmd(&["logs", LOGGER]))?);
            }
            Err(error) => {
                eprintln!("   {}: {error:#}", peer.name());
                written.cannot(peer.name());
                read.cannot(peer.name());
            }
        }
        remove_all(peer)?;
    }
    report.add(written);
    report.add(read);
    Ok(())
}

/// A folder of many small files, into a container and out of it.
fn files(size: &Size, dir: &Path, peers: &[Peer], report: &mut Report) -> Result<()> {
    let folder = dir.join("many-files");
    for number in 0..size.copied {
        let sub = folder.join(format!("{:02}", number % 100));
        fs::create_dir_all(&sub)?;
        fs::write(sub.join(number.to_string()), format!("{number}\n").repeat(50))?;
    }
    for peer in peers {
        peer.run(&["-d", "--name", LOGGER], &["sleep", "3600"]).ok()?;
    }
    let path = folder.to_string_lossy().into_owned();
    let rounds = size.execs.min(5);
    let name = format!("cp of {} files into a container", size.copied);
    report.add(timed(&name, peers, rounds, |peer| peer.cmd(&["cp", &path, &format!("{LOGGER}:/root")])));
    let name = format!("cp of {} files out of a container", size.copied);
    report.add(timed(&name, peers, rounds, |peer| {
        let out = dir.join(format!("out-{}", peer.name()));
        drop(fs::remove_dir_all(&out));
        peer.cmd(&["cp", &format!("{LOGGER}:/root/many-files"), &out.to_string_lossy()])
    }));
    for peer in peers {
        remove_all(peer)?;
    }
    Ok(())
}

fn commit(size: &Size, peers: &[Peer], report: &mut Report) -> Result<()> {
    for peer in peers {
        let script = format!("dd if=/dev/urandom of=/root/blob bs=1M count={} 2>/dev/null", size.committed_megabytes);
        peer.run(&["--name", LOGGER], &["sh", "-c", &script]).timeout(Duration::from_secs(300)).ok()?;
    }
    let name = format!("commit of a layer of {} MB", size.committed_megabytes);
    report.add(timed(&name, peers, size.execs.min(3), |peer| peer.cmd(&["commit", LOGGER, "committed"])));
    for peer in peers {
        remove_all(peer)?;
        peer.cmd(&["rmi", "-f", "committed"]).ok()?;
    }
    Ok(())
}

/// What the engine's processes spend while one client watches many containers.
fn stats(size: &Size, peers: &[Peer], report: &mut Report) -> Result<()> {
    let mut row = Row::new(
        &format!("processor time of the engine, stats of {} containers for {} s", size.watched, WATCHED.as_secs()),
        Unit::Milliseconds,
    );
    println!("   {}", row.name());
    for peer in peers {
        for number in 0..size.watched {
            peer.run(&["-d", "--network", "none", "--name", &format!("watched{number}")], &["sleep", "3600"]).ok()?;
        }
        sleep(SETTLE);
        let pids = peer.engine_pids();
        if !pids.is_empty() {
            let mut client = peer.cmd(&["stats"]).spawn(Stdio::null(), Stdio::null())?;
            sleep(SETTLE);
            let before: f64 = pids.iter().filter_map(|pid| ticks(pid)).sum();
            sleep(WATCHED);
            let after: f64 = pids.iter().filter_map(|pid| ticks(pid)).sum();
            client.kill()?;
            client.wait()?;
            row.sample(peer.name(), (after - before) / TICKS_PER_SECOND * 1e3);
        }
        remove_all(peer)?;
    }
    report.add(row);
    Ok(())
}

/// User and system time of a process.
fn ticks(pid: &str) -> Option<f64> {
    let stat = fs::read_to_string(Path::new("/proc").join(pid).join("stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    Some(fields.get(11)?.parse::<f64>().ok()? + fields.get(12)?.parse::<f64>().ok()?)
}

//! `stats`: what containers use, live.

use std::collections::BTreeMap;
use std::io::BufReader;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use anyhow::Result;
use client::{Client, Request};
use serde_json::Value;

use super::container_path;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, switch, text};
use crate::list::text as field;
use crate::list::{Row, Style, int, short_id};
use crate::units::{binary_size, size};

const REDRAW: Duration = Duration::from_millis(500);
/// How many redraws pass until containers that came meanwhile are looked for.
const RELIST_EVERY: u32 = 2;
const UNKNOWN: &str = "--";

const FLAGS: &[Flag] = &[
    switch("all", Some('a'), "Show containers that do not run too"),
    text("format", None, "Show by a Go template, as table TEMPLATE, or json"),
    switch("no-stream", None, "Show once and end"),
    switch("no-trunc", None, "Cut nothing short"),
];

pub const COMMAND: Command = Command {
    paths: &["container stats", "stats"],
    usage: "[OPTIONS] [CONTAINER...]",
    about: "Show what containers use, live",
    flags: &[FLAGS],
    arity: Arity::AtLeast(0),
    run,
    ..Command::BASE
};

const HEADERS: &[(&str, &str)] = &[
    ("Container", "CONTAINER"),
    ("ID", "CONTAINER ID"),
    ("Name", "NAME"),
    ("CPUPerc", "CPU %"),
    ("MemUsage", "MEM USAGE / LIMIT"),
    ("MemPerc", "MEM %"),
    ("NetIO", "NET I/O"),
    ("BlockIO", "BLOCK I/O"),
    ("PIDs", "PIDS"),
];

/// The latest sample of each container by the name that was asked for; `None` before the first.
type Samples = Arc<Mutex<BTreeMap<String, Option<Value>>>>;

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let style = Style::parse(
        m.text("format"),
        "table {{.ID}}\t{{.Name}}\t{{.CPUPerc}}\t{{.MemUsage}}\t{{.MemPerc}}\t{{.NetIO}}\t{{.BlockIO}}\t{{.PIDs}}",
    )?;
    let client = context.client()?;
    let names = if m.positionals.is_empty() { list(client, m.on("all"))? } else { m.positionals.clone() };
    let full = m.on("no-trunc");
    if m.on("no-stream") {
        return once(context, client, &style, &names, full);
    }
    live(client, &style, names, m.positionals.is_empty(), m.on("all"), full)
}

fn list(client: &Client, all: bool) -> Result<Vec<String>> {
    let containers: Vec<Value> = client.send(Request::get("/containers/json").query_flag("all", all))?.json()?;
    Ok(containers.iter().map(|container| field(container, "/Id").to_owned()).collect())
}

/// One sample each, all at the same time: an engine needs a second or two for one.
fn once(context: &Context, client: &Client, style: &Style, names: &[String], full: bool) -> Result<i32> {
    let samples: Vec<Result<Value>> = thread::scope(|scope| {
        let threads: Vec<_> = names
            .iter()
            .map(|name| {
                scope.spawn(move || -> Result<Value> {
                    Ok(client.send(Request::get(container_path(name, "/stats")?).query("stream", "0"))?.json()?)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| Err(anyhow::anyhow!("a sample was lost")))).collect()
    });
    let mut rows = Vec::new();
    let mut code = 0;
    for (name, sample) in names.iter().zip(samples) {
        match sample {
            Ok(sample) => rows.push(row(name, Some(&sample), full)),
            Err(error) => {
                context.report(&error);
                code = 1;
            }
        }
    }
    if !rows.is_empty() || code == 0 {
        style.print(HEADERS, &rows)?;
    }
    Ok(code)
}

fn live(client: &Client, style: &Style, names: Vec<String>, relist: bool, all: bool, full: bool) -> Result<i32> {
    let samples = Samples::default();
    let mut order = names;
    for name in &order {
        // A name that is not there is an error at once, not an empty line for ever.
        client.send(Request::get(container_path(name, "/json")?))?.finish()?;
        follow(client, name, &samples);
    }
    let mut turn = 0u32;
    loop {
        thread::sleep(REDRAW);
        turn = turn.wrapping_add(1);
        if relist && turn.is_multiple_of(RELIST_EVERY) {
            let now = list(client, all)?;
            for name in now.iter().filter(|name| !order.contains(name)) {
                follow(client, name, &samples);
            }
            order = now;
        }
        let known = samples.lock().unwrap_or_else(|poison| poison.into_inner());
        if !relist && known.is_empty() {
            return Ok(0);
        }
        let rows: Vec<Row> = order.iter().filter_map(|name| known.get(name).map(|sample| row(name, sample.as_ref(), full))).collect();
        drop(known);
        // Home and clear what is below: drawing over the old table does not flicker.
        let table = style.render(HEADERS, &rows)?.replace('\n', "\x1b[K\n");
        print(&format!("\x1b[H{table}\x1b[J"))?;
    }
}

/// Keeps the container's sample up to date until its stream ends, then forgets the container.
fn follow(client: &Client, name: &str, samples: &Samples) {
    let (client, name, samples) = (client.clone(), name.to_owned(), samples.clone());
    let put = move |samples: &Samples, name: &str, sample: Option<Value>| {
        samples.lock().unwrap_or_else(|poison| poison.into_inner()).insert(name.to_owned(), sample);
    };
    put(&samples, &name, None);
    thread::spawn(move || {
        let stream = container_path(&name, "/stats").ok().and_then(|path| client.send(Request::get(path).query("stream", "1")).ok());
        if let Some(stream) = stream {
            for sample in serde_json::Deserializer::from_reader(BufReader::new(stream)).into_iter::<Value>() {
                let Ok(sample) = sample else { break };
                put(&samples, &name, Some(sample));
            }
        }
        samples.lock().unwrap_or_else(|poison| poison.into_inner()).remove(&name);
    });
}

fn row(asked: &str, sample: Option<&Value>, full: bool) -> Row {
    let Some(sample) = sample else {
        let id = if full { asked } else { short_id(asked) };
        return Row::new(
            HEADERS_EMPTY.map(|key| (key, if matches!(key, "Container" | "ID") { id.to_owned() } else { UNKNOWN.to_owned() })),
        );
    };
    let id = field(sample, "/id");
    let (used, limit) = (memory_used(sample), int(sample, "/memory_stats/limit") as f64);
    let (received, sent) = network(sample);
    let (read, written) = blocks(sample);
    Row::new([
        ("Container", asked.to_owned()),
        ("ID", if full { id.to_owned() } else { short_id(id).to_owned() }),
        ("Name", field(sample, "/name").trim_start_matches('/').to_owned()),
        ("CPUPerc", format!("{:.2}%", cpu_percent(sample))),
        ("MemUsage", format!("{} / {}", binary_size(used), binary_size(limit))),
        ("MemPerc", format!("{:.2}%", if limit > 0.0 { used / limit * 100.0 } else { 0.0 })),
        ("NetIO", format!("{} / {}", size(received), size(sent))),
        ("BlockIO", format!("{} / {}", size(read), size(written))),
        ("PIDs", int(sample, "/pids_stats/current").to_string()),
    ])
}

const HEADERS_EMPTY: [&str; 9] = ["Container", "ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs"];

/// Share of one CPU in percent between the two samples of the answer.
fn cpu_percent(sample: &Value) -> f64 {
    let of = |pointer: &str| sample.pointer(pointer).and_then(Value::as_f64).unwrap_or(0.0);
    let used = of("/cpu_stats/cpu_usage/total_usage") - of("/precpu_stats/cpu_usage/total_usage");
    let passed = of("/cpu_stats/system_cpu_usage") - of("/precpu_stats/system_cpu_usage");
    let per_cpu = sample.pointer("/cpu_stats/cpu_usage/percpu_usage").and_then(Value::as_array).map_or(1, Vec::len) as f64;
    let cpus = Some(of("/cpu_stats/online_cpus")).filter(|count| *count > 0.0).unwrap_or(per_cpu);
    if used > 0.0 && passed > 0.0 { used / passed * cpus * 100.0 } else { 0.0 }
}

/// Memory without the part of the page cache that can be dropped; its name differs between cgroup v1 and v2.
fn memory_used(sample: &Value) -> f64 {
    let used = int(sample, "/memory_stats/usage");
    let cache = ["/memory_stats/stats/total_inactive_file", "/memory_stats/stats/inactive_file"]
        .into_iter()
        .find_map(|pointer| sample.pointer(pointer)?.as_i64());
    cache.filter(|cache| *cache < used).map_or(used, |cache| used - cache) as f64
}

fn network(sample: &Value) -> (i64, i64) {
    let interfaces = || sample["networks"].as_object().into_iter().flat_map(|map| map.values());
    (interfaces().map(|link| int(link, "/rx_bytes")).sum(), interfaces().map(|link| int(link, "/tx_bytes")).sum())
}

fn blocks(sample: &Value) -> (i64, i64) {
    let entries = || sample["blkio_stats"]["io_service_bytes_recursive"].as_array().into_iter().flatten();
    let sum = |operation: &str| {
        entries().filter(|entry| field(entry, "/op").eq_ignore_ascii_case(operation)).map(|entry| int(entry, "/value")).sum()
    };
    (sum("read"), sum("write"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn samples_become_columns() {
        let sample = json!({
            "id": "0123456789abcdef", "name": "/web", "pids_stats": {"current": 3},
            "cpu_stats": {"cpu_usage": {"total_usage": 1500}, "system_cpu_usage": 12000, "online_cpus": 2},
            "precpu_stats": {"cpu_usage": {"total_usage": 1000}, "system_cpu_usage": 10000},
            "memory_stats": {"usage": 3145728, "limit": 67108864, "stats": {"inactive_file": 1048576}},
            "networks": {"eth0": {"rx_bytes": 1000, "tx_bytes": 2500}},
            "blkio_stats": {"io_service_bytes_recursive": [{"op": "Read", "value": 4096}, {"op": "write", "value": 0}]},
        });
        let row = row("web", Some(&sample), false);
        let shown: Vec<&str> = HEADERS.iter().map(|(key, _)| row.fields[*key].as_str().unwrap_or_default()).collect();
        assert_eq!(shown, ["web", "0123456789ab", "web", "50.00%", "2MiB / 64MiB", "3.12%", "1kB / 2.5kB", "4.1kB / 0B", "3"]);
        assert_eq!(super::row("web", None, false).fields["CPUPerc"], "--");
    }
}

//! `ps`: the containers.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Kind, Matches, list, switch, text, value};
use crate::list::text as field;
use crate::list::{Row, Style, filters, int, join_labels, short_id};
use crate::table::ellipsis;
use crate::units;

const COMMAND_WIDTH: usize = 20;
const MOUNT_WIDTH: usize = 15;

const FLAGS: &[Flag] = &[
    switch("all", Some('a'), "Show containers that do not run too"),
    list("filter", Some('f'), "Only those that match (name=…, status=…, label=…, ancestor=…, …)"),
    text("format", None, "Show by a Go template, as table TEMPLATE, or json"),
    value("last", Some('n'), Kind::Int, "Show the N containers made last, running or not"),
    switch("latest", Some('l'), "Show the container made last, running or not"),
    switch("no-trunc", None, "Cut nothing short"),
    switch("quiet", Some('q'), "Show ids only"),
    switch("size", Some('s'), "Show sizes"),
];

pub const COMMAND: Command = Command {
    paths: &["container ls", "container list", "container ps", "ps"],
    usage: "[OPTIONS]",
    about: "List containers",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

/// Columns and their titles.
const HEADERS: &[(&str, &str)] = &[
    ("ID", "CONTAINER ID"),
    ("Names", "NAMES"),
    ("Image", "IMAGE"),
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("RunningFor", "CREATED"),
    ("Ports", "PORTS"),
    ("State", "STATE"),
    ("Status", "STATUS"),
    ("Size", "SIZE"),
    ("Labels", "LABELS"),
    ("Mounts", "MOUNTS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Networks", "NETWORKS"),
];

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let default = if m.on("size") {
        "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}\t{{.Size}}"
    } else {
        "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}"
    };
    let style = Style::parse(m.text("format"), default)?;
    // Measuring a container's layer is work for the engine.
    let size = m.on("size") || (m.text("format").is_some() && style.mentions("Size") && m.text("format") != Some("json"));
    let limit = if m.on("latest") { Some(1) } else { m.int("last").filter(|count| *count > 0) };
    let request = Request::get("/containers/json")
        .query_flag("all", m.on("all"))
        .query_opt("limit", limit)
        .query_flag("size", size)
        .query_opt("filters", filters(&m.list("filter"))?);
    let containers: Vec<Value> = context.client()?.send(request)?.json()?;
    let full = m.on("no-trunc");
    if m.on("quiet") && m.text("format").is_none() {
        let ids: String = containers
            .iter()
            .map(|container| field(container, "/Id"))
            .map(|id| format!("{}\n", if full { id } else { short_id(id) }))
            .collect();
        print(&ids)?;
        return Ok(0);
    }
    let rows: Vec<Row> = containers.iter().map(|container| row(container, full)).collect();
    style.print(HEADERS, &rows)?;
    Ok(0)
}

/// The columns of a container as the list call describes it.
pub fn row(container: &Value, full: bool) -> Row {
    let id = field(container, "/Id");
    let created = int(container, "/Created");
    let mut command = field(container, "/Command").to_owned();
    if !full {
        command = ellipsis(&command, COMMAND_WIDTH);
    }
    let labels = container["Labels"].as_object();
    let mut networks: Vec<&str> =
        container["NetworkSettings"]["Networks"].as_object().into_iter().flat_map(|map| map.keys().map(String::as_str)).collect();
    networks.sort_unstable();
    let mounts = || container["Mounts"].as_array().into_iter().flatten();
    let local_volumes = mounts().filter(|mount| mount["Driver"] == "local").count();
    let mount_names: Vec<String> = mounts()
        .map(|mount| [field(mount, "/Name"), field(mount, "/Source")].into_iter().find(|name| !name.is_empty()).unwrap_or_default())
        .map(|name| if full { name.to_owned() } else { ellipsis(name, MOUNT_WIDTH) })
        .collect();
    let mut row = Row::new([
        ("ID", if full { id.to_owned() } else { short_id(id).to_owned() }),
        ("Names", names(container, full)),
        ("Image", image(container, full)),
        ("Command", format!("\"{}\"", command.escape_default().to_string().replace("\\'", "'").replace("\\u{2026}", "…"))),
        ("CreatedAt", units::local_moment(created)),
        ("RunningFor", units::ago(created)),
        ("Ports", ports(container)),
        ("State", field(container, "/State").to_owned()),
        ("Status", field(container, "/Status").to_owned()),
        ("Size", size(container)),
        ("Labels", join_labels(labels)),
        ("Mounts", mount_names.join(",")),
        ("LocalVolumes", local_volumes.to_string()),
        ("Networks", networks.join(",")),
    ]);
    row.labels = labels.cloned();
    row
}

/// Names without their slash; links of other containers (`/a/b`) are left out unless all is shown.
fn names(container: &Value, full: bool) -> String {
    let names =
        container["Names"].as_array().into_iter().flatten().filter_map(Value::as_str).map(|name| name.strip_prefix('/').unwrap_or(name));
    names.filter(|name| full || !name.contains('/')).collect::<Vec<_>>().join(",")
}

/// The image's name; a digest is cut short.
fn image(container: &Value, full: bool) -> String {
    let name = field(container, "/Image");
    if name.is_empty() {
        return "<no image>".to_owned();
    }
    let id = field(container, "/ImageID");
    if !full && (name == id || name.strip_prefix("sha256:").is_some()) {
        return short_id(name).to_owned();
    }
    match name.split_once('@') {
        Some((plain, _)) if !full => plain.to_owned(),
        _ => name.to_owned(),
    }
}

fn size(container: &Value) -> String {
    let own = units::size(int(container, "/SizeRw"));
    match container["SizeRootFs"].as_i64().filter(|bytes| *bytes > 0) {
        Some(all) => format!("{own} (virtual {})", units::size(all)),
        None => own,
    }
}

/// Published ports; neighbours that are published alike are joined to ranges.
fn ports(container: &Value) -> String {
    struct Range {
        address: String,
        protocol: String,
        first: u64,
        last: u64,
    }
    let mut list: Vec<(u64, String, u64, String)> = container["Ports"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|port| {
            let number = |key: &str| port[key].as_u64().unwrap_or(0);
            (number("PrivatePort"), field(port, "/IP").to_owned(), number("PublicPort"), field(port, "/Type").to_owned())
        })
        .collect();
    list.sort();
    let mut ranges: Vec<Range> = Vec::new();
    let mut others = Vec::new();
    for (inside, address, outside, protocol) in list {
        if !address.is_empty() && inside != outside {
            others.push(format!("{}->{inside}/{protocol}", bracketed(&address, &outside.to_string())));
            continue;
        }
        match ranges.iter_mut().find(|range| range.address == address && range.protocol == protocol && range.last + 1 == inside) {
            Some(range) => range.last = inside,
            None => ranges.push(Range { address, protocol, first: inside, last: inside }),
        }
    }
    let mut shown: Vec<String> = ranges
        .iter()
        .map(|range| {
            let span = if range.first == range.last { range.first.to_string() } else { format!("{}-{}", range.first, range.last) };
            if range.address.is_empty() {
                format!("{span}/{}", range.protocol)
            } else {
                format!("{}->{span}/{}", bracketed(&range.address, &span), range.protocol)
            }
        })
        .collect();
    shown.extend(others);
    shown.join(", ")
}

fn bracketed(address: &str, port: &str) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn container() -> Value {
        json!({
            "Id": "f06b0f5c97b42d723bddbcd8962a4b22ab5b8dd1e502e1cbd0381b50daf3664c", "Names": ["/web", "/other/alias"], "Image": "busybox:latest", "ImageID": "sha256:x",
            "Command": "sh -c 'echo \"out\"; sleep 300'", "Created": 0, "State": "running", "Status": "Up 1 second", "SizeRw": 102400, "SizeRootFs": 2000000,
            "Labels": {"b": "2", "a": "1"}, "NetworkSettings": {"Networks": {"bridge": {}}}, "Mounts": [{"Name": "vol", "Driver": "local"}, {"Source": "/a/very/long/path/here"}],
            "Ports": [
                {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}, {"IP": "::", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"},
                {"PrivatePort": 443, "Type": "tcp"}, {"IP": "0.0.0.0", "PrivatePort": 7000, "PublicPort": 7000, "Type": "udp"},
                {"IP": "0.0.0.0", "PrivatePort": 7001, "PublicPort": 7001, "Type": "udp"},
            ],
        })
    }

    #[test]
    fn columns_look_as_dockers() {
        let row = row(&container(), false);
        let shown = |key: &str| row.fields[key].as_str().unwrap_or_default().to_owned();
        assert_eq!(shown("ID"), "f06b0f5c97b4");
        assert_eq!(shown("Names"), "web");
        assert_eq!(shown("Command"), "\"sh -c 'echo \\\"out\\\"; …\"");
        assert_eq!(shown("Ports"), "443/tcp, 0.0.0.0:7000-7001->7000-7001/udp, 0.0.0.0:8080->80/tcp, [::]:8080->80/tcp");
        assert_eq!(shown("Size"), "102kB (virtual 2MB)");
        assert_eq!(shown("Labels"), "a=1,b=2");
        assert_eq!(shown("Mounts"), "vol,/a/very/long/p…");
        assert_eq!((shown("LocalVolumes"), shown("Networks")), ("1".to_owned(), "bridge".to_owned()));
    }
}

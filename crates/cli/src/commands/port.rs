//! `port`: where a container's ports are published.

use anyhow::{Result, bail};
use client::Request;
use serde_json::Value;

use super::container_path;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Matches};

pub const COMMAND: Command = Command {
    paths: &["container port", "port"],
    usage: "CONTAINER [PRIVATE_PORT[/PROTO]]",
    about: "Show where a container's ports are published",
    arity: Arity::Between(1, 2),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let name = &m.positionals[0];
    let container: Value = context.client()?.send(Request::get(container_path(name, "/json")?))?.json()?;
    let published = published(&container);
    let Some(wanted) = m.positional(1) else {
        let lines: String = published.iter().map(|(_, port, address)| format!("{port} -> {address}\n")).collect();
        print(&lines)?;
        return Ok(0);
    };
    let key = if wanted.contains('/') { wanted.to_lowercase() } else { format!("{wanted}/tcp") };
    let lines: String = published.iter().filter(|(_, port, _)| *port == key).map(|(_, _, address)| format!("{address}\n")).collect();
    if lines.is_empty() {
        bail!("no public port '{key}' published for {name}");
    }
    print(&lines)?;
    Ok(0)
}

/// Number, `80/tcp`, and `0.0.0.0:8080`, in order of the number.
fn published(container: &Value) -> Vec<(u16, String, String)> {
    let mut list = Vec::new();
    for (port, bindings) in container["NetworkSettings"]["Ports"].as_object().into_iter().flatten() {
        for binding in bindings.as_array().into_iter().flatten() {
            let (address, host_port) = (binding["HostIp"].as_str().unwrap_or_default(), binding["HostPort"].as_str().unwrap_or_default());
            let number = port.split('/').next().and_then(|digits| digits.parse().ok()).unwrap_or(0);
            let shown = if address.contains(':') { format!("[{address}]:{host_port}") } else { format!("{address}:{host_port}") };
            list.push((number, port.clone(), shown));
        }
    }
    list.sort();
    list
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    #[test]
    fn ports_are_listed_by_number() {
        let container = json!({"NetworkSettings": {"Ports": {
            "443/tcp": [{"HostIp": "0.0.0.0", "HostPort": "4430"}], "80/tcp": [{"HostIp": "0.0.0.0", "HostPort": "8080"}, {"HostIp": "::", "HostPort": "8080"}], "9/udp": null,
        }}});
        let lines: Vec<String> =
            super::published(&container).into_iter().map(|(_, port, address)| format!("{port} -> {address}")).collect();
        assert_eq!(lines, ["80/tcp -> 0.0.0.0:8080", "80/tcp -> [::]:8080", "443/tcp -> 0.0.0.0:4430"]);
    }
}

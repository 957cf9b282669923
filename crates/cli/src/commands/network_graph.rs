//! `network graph`: who is connected to what, as text or as a picture.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use anyhow::{Result, bail};
use client::Request;
use serde_json::Value;

use super::path;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, text};
use crate::list::text as field;

const FLAGS: &[Flag] = &[text("format", None, "Show as text or as svg")];

pub const COMMAND: Command = Command {
    paths: &["network graph"],
    usage: "[OPTIONS] [NETWORK...]",
    about: "Draw which containers are on which networks",
    flags: &[FLAGS],
    arity: Arity::AtLeast(0),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let draw = match m.text("format").unwrap_or("text") {
        "text" => as_text,
        "svg" => as_svg,
        other => bail!("unknown format {other:?}: text or svg is expected"),
    };
    let client = context.client()?;
    let mut names: Vec<String> = m.positionals.clone();
    if names.is_empty() {
        let mut all: Vec<Value> = client.send(Request::get("/networks"))?.json()?;
        all.sort_by(|a, b| field(a, "/Name").cmp(field(b, "/Name")));
        names.extend(all.iter().map(|network| field(network, "/Name").to_owned()));
    }
    let containers: Vec<Value> = client.send(Request::get("/containers/json"))?.json()?;
    let ports: BTreeMap<String, String> =
        containers.iter().map(|container| (field(container, "/Id").to_owned(), published(container))).collect();
    let mut networks = Vec::new();
    for name in &names {
        let network: Value = client.send(Request::get(path("networks", name, "")?))?.json()?;
        networks.push(Node::new(&network, &ports));
    }
    print(&draw(&networks))?;
    Ok(0)
}

/// A network with its containers.
#[derive(Debug)]
struct Node {
    name: String,
    about: String,
    members: Vec<Member>,
}

#[derive(Debug)]
struct Member {
    name: String,
    addresses: String,
    ports: String,
}

impl Node {
    fn new(network: &Value, ports: &BTreeMap<String, String>) -> Self {
        let mut about = vec![field(network, "/Driver").to_owned()];
        let pools = network["IPAM"]["Config"].as_array().into_iter().flatten();
        about.extend(pools.map(|pool| field(pool, "/Subnet").to_owned()));
        for (key, word) in [("Internal", "internal"), ("ConfigOnly", "configuration only")] {
            if network[key] == true {
                about.push(word.to_owned());
            }
        }
        let mut members: Vec<_> = network["Containers"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(id, member)| {
                let addresses = ["/IPv4Address", "/IPv6Address"].map(|key| field(member, key).split('/').next().unwrap_or_default());
                Member {
                    name: field(member, "/Name").to_owned(),
                    addresses: addresses.into_iter().filter(|address| !address.is_empty()).collect::<Vec<_>>().join(" "),
                    ports: ports.get(id).cloned().unwrap_or_default(),
                }
            })
            .collect();
        members.sort_by(|a, b| a.name.cmp(&b.name));
        Self { name: field(network, "/Name").to_owned(), about: about.join(", "), members }
    }
}

/// The ports of a container that lead in from outside, each once.
fn published(container: &Value) -> String {
    let ports = container["Ports"].as_array().into_iter().flatten().filter(|port| port["PublicPort"].is_u64());
    let mut shown: Vec<_> = ports.map(|port| format!("{}->{}/{}", port["PublicPort"], port["PrivatePort"], field(port, "/Type"))).collect();
    shown.sort();
    shown.dedup();
    shown.join(" ")
}

fn as_text(networks: &[Node]) -> String {
    let mut out = String::new();
    for network in networks {
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{} ({})", network.name, network.about);
        let width = |part: fn(&Member) -> &str| network.members.iter().map(|member| part(member).chars().count()).max().unwrap_or(0);
        let (names, addresses) = (width(|member| &member.name), width(|member| &member.addresses));
        for (at, member) in network.members.iter().enumerate() {
            let branch = if at + 1 == network.members.len() { "└─" } else { "├─" };
            let line = format!("{branch} {:names$}  {:addresses$}  {}", member.name, member.addresses, member.ports);
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
    out
}

/// Of the picture, in its own units.
const ROW: usize = 34;
const BOX_WIDTH: usize = 300;
const BOX_HEIGHT: usize = 26;
const RIGHT: usize = 520;

/// Networks on the left, containers on the right, and a line for each place that one has in the other.
fn as_svg(networks: &[Node]) -> String {
    let mut containers: BTreeMap<&str, (usize, &str)> = BTreeMap::new();
    for member in networks.iter().flat_map(|network| &network.members) {
        containers.entry(&member.name).or_insert((0, &member.ports));
    }
    for (row, place) in containers.values_mut().enumerate() {
        place.0 = row;
    }
    let rows = networks.len().max(containers.len()).max(1);
    let (width, height) = (RIGHT + BOX_WIDTH + 20, rows * ROW + 20);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\">\n<rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n"
    );
    let top = |row: usize| 10 + row * ROW;
    for (row, network) in networks.iter().enumerate() {
        for member in &network.members {
            let Some((to, _)) = containers.get(member.name.as_str()) else { continue };
            let (x1, y1, x2, y2) = (20 + BOX_WIDTH, top(row) + BOX_HEIGHT / 2, RIGHT, top(*to) + BOX_HEIGHT / 2);
            let _ = writeln!(
                out,
                "<line x1=\"{x1}\" y1=\"{y1}\" x2=\"{x2}\" y2=\"{y2}\" stroke=\"#4477aa\"><title>{}</title></line>",
                escape(&format!("{} on {}: {}", member.name, network.name, member.addresses))
            );
        }
    }
    for (row, network) in networks.iter().enumerate() {
        labelled(&mut out, (20, top(row)), "#dde8f4", &network.name, &network.about);
    }
    for (name, (row, ports)) in &containers {
        labelled(&mut out, (RIGHT, top(*row)), "#f4eedd", name, ports);
    }
    out + "</svg>\n"
}

fn labelled(out: &mut String, (x, y): (usize, usize), fill: &str, name: &str, about: &str) {
    let _ = writeln!(
        out,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{BOX_WIDTH}\" height=\"{BOX_HEIGHT}\" rx=\"4\" fill=\"{fill}\" stroke=\"#888888\"/>\
         <text x=\"{}\" y=\"{}\"><tspan font-weight=\"bold\">{}</tspan> {}</text>",
        x + 8,
        y + 17,
        escape(name),
        escape(about)
    );
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn networks() -> Vec<Node> {
        let front = json!({
            "Name": "front", "Driver": "bridge", "Internal": false, "ConfigOnly": false,
            "IPAM": {"Config": [{"Subnet": "10.1.0.0/24"}, {"Subnet": "fd00::/64"}]},
            "Containers": {
                "2": {"Name": "web", "IPv4Address": "10.1.0.2/24", "IPv6Address": "fd00::2/64"},
                "1": {"Name": "db", "IPv4Address": "10.1.0.3/24", "IPv6Address": ""},
            },
        });
        let back = json!({
            "Name": "back", "Driver": "bridge", "Internal": true, "ConfigOnly": false, "IPAM": {"Config": null},
            "Containers": {"1": {"Name": "db", "IPv4Address": "10.2.0.2/24", "IPv6Address": ""}},
        });
        let web = json!({"Ports": [
            {"IP": "0.0.0.0", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
            {"IP": "::", "PublicPort": 8080, "PrivatePort": 80, "Type": "tcp"},
            {"PrivatePort": 53, "Type": "udp"},
        ]});
        let ports = BTreeMap::from([("2".to_owned(), published(&web))]);
        vec![Node::new(&front, &ports), Node::new(&back, &ports)]
    }

    #[test]
    fn text_is_a_tree() {
        let expected = "front (bridge, 10.1.0.0/24, fd00::/64)\n\
            ├─ db   10.1.0.3\n\
            └─ web  10.1.0.2 fd00::2  8080->80/tcp\n\
            back (bridge, internal)\n\
            └─ db  10.2.0.2\n";
        assert_eq!(as_text(&networks()), expected);
    }

    #[test]
    fn the_picture_has_a_line_for_each_place_and_nothing_unescaped() {
        let mut networks = networks();
        networks[0].members[1].ports = "<b>&\"".to_owned();
        let picture = as_svg(&networks);
        assert_eq!(picture.matches("<line ").count(), 3);
        assert_eq!(picture.matches("font-weight").count(), 4, "two networks and two containers");
        assert!(picture.contains("&lt;b&gt;&amp;&quot;") && !picture.contains("<b>"));
        assert!(picture.starts_with("<svg ") && picture.ends_with("</svg>\n"));
        assert!(as_svg(&[]).contains("height=\"54\""));
    }
}

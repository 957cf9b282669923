//! `system prune`: remove everything that is not used.

use anyhow::{Result, bail};
use client::{Client, Request};
use serde_json::Value;

use super::rmi::deleted_lines;
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, list, switch};
use crate::list::{filters, int};
use crate::units::size4;

const FLAGS: &[Flag] = &[
    switch("all", Some('a'), "Remove all images that no container uses, not only those without a name"),
    list("filter", None, "Only those that match (until=…, label=…)"),
    switch("force", Some('f'), "Do not ask"),
    switch("volumes", None, "Remove anonymous volumes that no container uses, too"),
];

pub const COMMAND: Command = Command {
    paths: &["system prune"],
    usage: "[OPTIONS]",
    about: "Remove stopped containers, networks, images and build cache that are not used",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

/// One kind of object: the request that prunes it, and how its answer is shown.
struct Kind {
    path: &'static str,
    title: &'static str,
    removed: fn(&Value) -> String,
}

const CONTAINERS: Kind =
    Kind { path: "/containers/prune", title: "Deleted Containers", removed: |answer| names(&answer["ContainersDeleted"]) };
const NETWORKS: Kind = Kind { path: "/networks/prune", title: "Deleted Networks", removed: |answer| names(&answer["NetworksDeleted"]) };
const VOLUMES: Kind = Kind { path: "/volumes/prune", title: "Deleted Volumes", removed: |answer| names(&answer["VolumesDeleted"]) };
const IMAGES: Kind = Kind { path: "/images/prune", title: "Deleted Images", removed: |answer| deleted_lines(&answer["ImagesDeleted"]) };
const BUILD_CACHE: Kind =
    Kind { path: "/build/prune", title: "Deleted build cache objects", removed: |answer| names(&answer["CachesDeleted"]) };

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let given = m.list("filter");
    let (all, volumes) = (m.on("all"), m.on("volumes"));
    if volumes && given.iter().any(|filter| filter.trim_start().starts_with("until")) {
        bail!("the filter until does not fit --volumes: a volume has no age that counts; use `volume prune` by itself");
    }
    let common = filters(&given)?;
    if !m.on("force") && !context.confirm(&warning(all, volumes, &given))? {
        return Ok(1);
    }
    let dangling = if all { "dangling=false" } else { "dangling=true" };
    let image_filters = filters(&[given.as_slice(), &[dangling]].concat())?;
    let client = context.client()?;
    let mut freed = prune(client, &CONTAINERS, &[("filters", common.clone())])?;
    freed += prune(client, &NETWORKS, &[("filters", common.clone())])?;
    if volumes {
        freed += prune(client, &VOLUMES, &[("filters", common.clone())])?;
    }
    freed += prune(client, &IMAGES, &[("filters", image_filters)])?;
    freed += prune(client, &BUILD_CACHE, &[("filters", common), ("all", all.then(|| "1".to_owned()))])?;
    print(&format!("Total reclaimed space: {}\n", size4(freed)))?;
    Ok(0)
}

/// Prunes one kind, shows what went, and answers the bytes that are free now.
fn prune(client: &Client, kind: &Kind, query: &[(&'static str, Option<String>)]) -> Result<i64> {
    let request = query.iter().fold(Request::post(kind.path), |request, (name, value)| request.query_opt(name, value.as_deref()));
    let answer: Value = client.send(request)?.json()?;
    let lines = (kind.removed)(&answer);
    let lines = lines.trim_end();
    if !lines.is_empty() {
        print(&format!("{}:\n{lines}\n\n", kind.title))?;
    }
    Ok(int(&answer, "/SpaceReclaimed"))
}

fn names(list: &Value) -> String {
    let names: Vec<&str> = list.as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    names.join("\n")
}

fn warning(all: bool, volumes: bool, filters: &[&str]) -> String {
    let mut lines = vec!["all stopped containers", "all networks that no container is on"];
    if volumes {
        lines.push("all anonymous volumes that no container uses");
    }
    lines.push(if all { "all images that no container uses" } else { "all images without a name that no container uses" });
    lines.push(if all { "all build cache" } else { "build cache that nothing uses" });
    let mut text = String::from("This removes:");
    for line in lines {
        text.push_str("\n  - ");
        text.push_str(line);
    }
    if !filters.is_empty() {
        text.push_str(&format!("\nof these, what matches {}", filters.join(" and ")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_warning_names_what_goes() {
        let text = warning(false, false, &[]);
        assert!(!text.contains("volumes") && text.contains("images without a name"));
        let text = warning(true, true, &["until=24h"]);
        assert!(text.contains("anonymous volumes") && text.contains("all images that no container uses") && text.ends_with("until=24h"));
    }
}

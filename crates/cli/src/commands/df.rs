//! `system df`: what takes space.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use super::{images, ps, volume_ls};
use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, switch, text};
use crate::list::{Row, Style, int};
use crate::units::size4;

const FLAGS: &[Flag] = &[
    text("format", None, "Show by a Go template, as table TEMPLATE, or json"),
    switch("verbose", Some('v'), "Show each image, container and volume"),
];

pub const COMMAND: Command =
    Command { paths: &["system df"], usage: "[OPTIONS]", about: "Show what takes space", flags: &[FLAGS], run, ..Command::BASE };

const HEADERS: &[(&str, &str)] =
    &[("Type", "TYPE"), ("TotalCount", "TOTAL"), ("Active", "ACTIVE"), ("Size", "SIZE"), ("Reclaimable", "RECLAIMABLE")];

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let style = Style::parse(m.text("format"), "table {{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}")?;
    let usage: Value = context.client()?.send(Request::get("/system/df").query_flag("engine", true))?.json()?;
    if m.on("verbose") {
        print(&verbose(&usage)?)?;
        return Ok(0);
    }
    style.print(HEADERS, &summary(&usage))?;
    Ok(0)
}

fn items<'a>(usage: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    usage[key].as_array().into_iter().flatten()
}

fn summary(usage: &Value) -> Vec<Row> {
    let images_used = items(usage, "Images").filter(|image| int(image, "/Containers") > 0);
    let unused: i64 = items(usage, "Images")
        .filter(|image| int(image, "/Containers") == 0)
        .map(|image| int(image, "/Size") - int(image, "/SharedSize").max(0))
        .sum();
    let (count_used, layers) = (images_used.count(), int(usage, "/LayersSize"));
    let runs = |container: &Value| matches!(container["State"].as_str(), Some("running" | "paused" | "restarting"));
    let written = |all: bool| -> i64 {
        items(usage, "Containers").filter(|container| all || !runs(container)).map(|container| int(container, "/SizeRw")).sum()
    };
    let volume_size = |volume: &Value| int(volume, "/UsageData/Size").max(0);
    let held = |volume: &&Value| int(volume, "/UsageData/RefCount") > 0;
    let volumes: i64 = items(usage, "Volumes").map(volume_size).sum();
    let idle: i64 = items(usage, "Volumes").filter(|volume| !held(volume)).map(volume_size).sum();
    let cache: i64 = items(usage, "BuildCache").filter(|entry| entry["Shared"] != true).map(|entry| int(entry, "/Size")).sum();
    let cache_idle: i64 =
        items(usage, "BuildCache").filter(|entry| entry["InUse"] != true && entry["Shared"] != true).map(|entry| int(entry, "/Size")).sum();
    let row = |name: &str, total: usize, active: usize, bytes: i64, freed: i64| {
        Row::new([
            ("Type", name.to_owned()),
            ("TotalCount", total.to_string()),
            ("Active", active.to_string()),
            ("Size", size4(bytes)),
            ("Reclaimable", reclaimable(freed, bytes)),
        ])
    };
    let whole = |key: &str, sum: i64| if usage[key].is_null() { sum } else { int(usage, &format!("/{key}")) };
    let mut rows = vec![
        row("Images", items(usage, "Images").count(), count_used, layers, unused.clamp(0, layers.max(0))),
        row(
            "Containers",
            items(usage, "Containers").count(),
            items(usage, "Containers").filter(|container| runs(container)).count(),
            whole("ContainersSize", written(true)),
            written(false),
        ),
        row(
            "Local Volumes",
            items(usage, "Volumes").count(),
            items(usage, "Volumes").filter(held).count(),
            whole("VolumesSize", volumes),
            idle,
        ),
        row(
            "Build Cache",
            items(usage, "BuildCache").count(),
            items(usage, "BuildCache").filter(|entry| entry["InUse"] == true).count(),
            cache,
            cache_idle,
        ),
    ];
    // Logs, databases and what else belongs to the engine; another engine does not tell.
    if !usage["LogsAndDatabaseSize"].is_null() {
        rows.push(row("Logs and database", 1, 1, int(usage, "/LogsAndDatabaseSize"), 0));
    }
    rows
}

fn reclaimable(freed: i64, bytes: i64) -> String {
    if bytes > 0 { format!("{} ({}%)", size4(freed), freed * 100 / bytes) } else { size4(freed) }
}

fn verbose(usage: &Value) -> Result<String> {
    let render = |format: &str, headers: &[(&str, &str)], rows: Vec<Row>| Style::parse(Some(format), "")?.render(headers, &rows);
    let image_rows = items(usage, "Images").filter_map(|image| images::rows(image, false, false).into_iter().next()).collect();
    let container_rows = items(usage, "Containers")
        .map(|container| {
            let mut row = ps::row(container, false);
            // Here the size is the container's own; its image is counted above.
            row.fields.insert("Size".to_owned(), crate::units::size(int(container, "/SizeRw")).into());
            row
        })
        .collect();
    let container_headers = [
        ("ID", "CONTAINER ID"),
        ("Image", "IMAGE"),
        ("Command", "COMMAND"),
        ("LocalVolumes", "LOCAL VOLUMES"),
        ("Size", "SIZE"),
        ("RunningFor", "CREATED"),
        ("Status", "STATUS"),
        ("Names", "NAMES"),
    ];
    let mut text = format!(
        "Images space usage:\n\n{}",
        render(
            "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}\t{{.SharedSize}}\t{{.UniqueSize}}\t{{.Containers}}",
            images::HEADERS,
            image_rows
        )?
    );
    text += &format!(
        "\nContainers space usage:\n\n{}",
        render(
            "table {{.ID}}\t{{.Image}}\t{{.Command}}\t{{.LocalVolumes}}\t{{.Size}}\t{{.RunningFor}}\t{{.Status}}\t{{.Names}}",
            &container_headers,
            container_rows
        )?
    );
    text += &format!(
        "\nLocal Volumes space usage:\n\n{}",
        render("table {{.Name}}\t{{.Links}}\t{{.Size}}", volume_ls::HEADERS, items(usage, "Volumes").map(volume_ls::row).collect())?
    );
    if !usage["LogsAndDatabaseSize"].is_null() {
        text += &format!("\nLogs and database space usage: {}\n", size4(int(usage, "/LogsAndDatabaseSize")));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_row_per_kind_of_thing() {
        let usage = json!({
            "LayersSize": 2000, "Images": [{"Size": 1000, "SharedSize": 0, "Containers": 0}, {"Size": 1000, "SharedSize": 0, "Containers": 1}],
            "Containers": [{"State": "running", "SizeRw": 100}, {"State": "exited", "SizeRw": 300}],
            "Volumes": [{"Name": "v", "UsageData": {"Size": 50, "RefCount": 0}}], "BuildCache": [],
        });
        let shown: Vec<String> = summary(&usage)
            .iter()
            .map(|row| HEADERS.iter().map(|(key, _)| row.fields[*key].as_str().unwrap_or_default()).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            shown,
            ["Images 2 1 2kB 1kB (50%)", "Containers 2 1 400B 300B (75%)", "Local Volumes 1 0 50B 50B (100%)", "Build Cache 0 0 0B 0B"]
        );
        assert!(verbose(&usage).expect("renders").starts_with("Images space usage:\n\nREPOSITORY"));
    }
}

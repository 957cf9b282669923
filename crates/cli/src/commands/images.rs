//! `images`: the images that are here.

use anyhow::{Result, bail};
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Arity, Flag, Matches, list, switch, text};
use crate::list::text as field;
use crate::list::{Row, Style, filters, int, short_id};
use crate::units;

const NONE: &str = "<none>";

const FLAGS: &[Flag] = &[
    switch("all", Some('a'), "Show intermediate images too"),
    switch("digests", None, "Show digests"),
    list("filter", Some('f'), "Only those that match (dangling=…, label=…, before=…, since=…, reference=…)"),
    text("format", None, "Show by a Go template, as table TEMPLATE, or json"),
    switch("no-trunc", None, "Show whole ids"),
    switch("quiet", Some('q'), "Show ids only"),
    switch("tree", None, "Show each image with its names and platforms"),
];

pub const COMMAND: Command = Command {
    paths: &["image ls", "image list", "images"],
    usage: "[OPTIONS] [REPOSITORY[:TAG]]",
    about: "List images",
    flags: &[FLAGS],
    arity: Arity::AtMost(1),
    run,
    ..Command::BASE
};

/// Columns and their titles.
pub const HEADERS: &[(&str, &str)] = &[
    ("ID", "IMAGE ID"),
    ("Repository", "REPOSITORY"),
    ("Tag", "TAG"),
    ("Digest", "DIGEST"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("Size", "SIZE"),
    ("SharedSize", "SHARED SIZE"),
    ("UniqueSize", "UNIQUE SIZE"),
    ("VirtualSize", "SIZE"),
    ("Containers", "CONTAINERS"),
];

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let default = if m.on("digests") {
        "table {{.Repository}}\t{{.Tag}}\t{{.Digest}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    } else {
        "table {{.Repository}}\t{{.Tag}}\t{{.ID}}\t{{.CreatedSince}}\t{{.Size}}"
    };
    let style = Style::parse(m.text("format"), default)?;
    let mut given: Vec<String> = m.list("filter").iter().map(|filter| (*filter).to_owned()).collect();
    if let Some(reference) = m.positional(0) {
        if reference.is_empty() {
            bail!("the name of the repository is empty");
        }
        given.push(format!("reference={reference}"));
    }
    let filters = filters(&given.iter().map(String::as_str).collect::<Vec<_>>())?;
    if m.on("tree") {
        for other in ["no-trunc", "quiet", "digests"] {
            if m.on(other) {
                bail!("--tree and --{other} are mutually exclusive");
            }
        }
        if m.text("format").is_some() {
            bail!("--tree and --format are mutually exclusive");
        }
        let request =
            Request::get("/images/json").query_flag("all", m.on("all")).query_flag("manifests", true).query_opt("filters", filters);
        let images: Vec<Value> = context.client()?.send(request)?.json()?;
        print(&tree(&images))?;
        return Ok(0);
    }
    let images: Vec<Value> =
        context.client()?.send(Request::get("/images/json").query_flag("all", m.on("all")).query_opt("filters", filters))?.json()?;
    let digests = m.on("digests") || style.mentions("Digest");
    let rows: Vec<Row> = images.iter().flat_map(|image| rows(image, digests, m.on("no-trunc"))).collect();
    if m.on("quiet") && m.text("format").is_none() {
        let ids: String = rows.iter().map(|row| format!("{}\n", row.fields["ID"].as_str().unwrap_or_default())).collect();
        print(&ids)?;
        return Ok(0);
    }
    style.print(HEADERS, &rows)?;
    Ok(0)
}

/// Each image with all its names, and below them what they stand for. What is in brackets is at the registry only.
fn tree(images: &[Value]) -> String {
    let mut text = "IMAGE\tID\tDISK USAGE\tEXTRA\n".to_owned();
    for image in images {
        let names =
            |key: &str| image[key].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>();
        let mut names = if names("RepoTags").is_empty() { names("RepoDigests") } else { names("RepoTags") };
        names.sort_unstable();
        let used = if int(image, "/Containers") > 0 { "U" } else { "" };
        let first = if names.is_empty() { "<untagged>".to_owned() } else { names.remove(0) };
        text += &format!("{first}\t{}\t{}\t{used}\n", short_id(field(image, "/Id")), units::size(int(image, "/Size")));
        names.iter().for_each(|name| text += &format!("{name}\t\t\t\n"));
        let manifests: Vec<&Value> =
            image["Manifests"].as_array().into_iter().flatten().filter(|manifest| manifest["Kind"] == "image").collect();
        for (at, manifest) in manifests.iter().enumerate() {
            let branch = if at + 1 == manifests.len() { "└─" } else { "├─" };
            let of = |key: &str| field(manifest, &format!("/ImageData/Platform/{key}"));
            let platform = [of("os"), of("architecture"), of("variant")].into_iter().filter(|part| !part.is_empty());
            let platform = platform.collect::<Vec<_>>().join("/");
            let (shown, size) = match manifest["Available"] == true {
                true => (platform, units::size(int(manifest, "/ImageData/Size/Unpacked"))),
                false => (format!("({platform})"), "0B".to_owned()),
            };
            let users = manifest["ImageData"]["Containers"].as_array().is_some_and(|users| !users.is_empty());
            text += &format!("{branch} {shown}\t{}\t{size}\t{}\n", short_id(field(manifest, "/ID")), if users { "U" } else { "" });
        }
    }
    crate::table::align_text(&text)
}

/// A row per name of the image, or per digest where it has no names.
pub fn rows(image: &Value, digests: bool, full_ids: bool) -> Vec<Row> {
    let texts = |key: &str| -> Vec<&str> {
        image[key].as_array().into_iter().flatten().filter_map(Value::as_str).filter(|name| !name.starts_with("<none>")).collect()
    };
    let (tags, repo_digests) = (texts("RepoTags"), texts("RepoDigests"));
    let digest_of = |repository: &str| {
        repo_digests.iter().find_map(|name| name.split_once('@').filter(|(known, _)| *known == repository)).map(|(_, digest)| digest)
    };
    let mut names: Vec<(&str, &str, &str)> = Vec::new();
    for tag in &tags {
        let Some((repository, tag)) = tag.rsplit_once(':') else { continue };
        names.push((repository, tag, digest_of(repository).filter(|_| digests).unwrap_or(NONE)));
    }
    if names.is_empty() {
        for name in &repo_digests {
            let (repository, digest) = name.split_once('@').unwrap_or((name, NONE));
            names.push((repository, NONE, if digests { digest } else { NONE }));
        }
        // Without digests shown, several of one repository would be equal lines.
        names.dedup();
    }
    if names.is_empty() {
        names.push((NONE, NONE, NONE));
    }
    names.into_iter().map(|(repository, tag, digest)| row(image, [repository, tag, digest], full_ids)).collect()
}

fn row(image: &Value, [repository, tag, digest]: [&str; 3], full_ids: bool) -> Row {
    let id = field(image, "/Id");
    let (then, bytes, shared) = (int(image, "/Created"), int(image, "/Size"), int(image, "/SharedSize"));
    let count = image["Containers"].as_i64().filter(|count| *count >= 0);
    let known = |bytes: i64| if shared < 0 { "N/A".to_owned() } else { units::size4(bytes) };
    let mut row = Row::new([
        ("ID", if full_ids { id.to_owned() } else { short_id(id).to_owned() }),
        ("Repository", repository.to_owned()),
        ("Tag", tag.to_owned()),
        ("Digest", digest.to_owned()),
        ("CreatedSince", units::ago(then)),
        ("CreatedAt", units::local_moment(then)),
        ("Size", units::size(bytes)),
        ("SharedSize", known(shared)),
        ("UniqueSize", known(bytes - shared)),
        ("VirtualSize", units::size4(bytes)),
        ("Containers", count.map_or("N/A".to_owned(), |count| count.to_string())),
    ]);
    row.labels = image["Labels"].as_object().cloned();
    row
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_tree_shows_names_and_platforms() {
        let image = json!({"Id": "sha256:0123456789abcdef", "RepoTags": ["b:1", "a:1"], "Size": 1000, "Containers": 1, "Manifests": [
            {"ID": "sha256:aaaaaaaaaaaaaaaa", "Kind": "image", "Available": true,
             "ImageData": {"Platform": {"os": "linux", "architecture": "amd64"}, "Size": {"Unpacked": 1000}, "Containers": ["x"]}},
            {"ID": "sha256:bbbbbbbbbbbbbbbb", "Kind": "image", "Available": false, "ImageData": {"Platform": {"os": "linux", "architecture": "arm", "variant": "v7"}}},
            {"ID": "sha256:cccccccccccccccc", "Kind": "attestation"},
        ]});
        let shown: Vec<String> = tree(&[image]).lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        let expected = [
            "IMAGE ID DISK USAGE EXTRA",
            "a:1 0123456789ab 1kB U",
            "b:1",
            "├─ linux/amd64 aaaaaaaaaaaa 1kB U",
            "└─ (linux/arm/v7) bbbbbbbbbbbb 0B",
        ];
        assert_eq!(shown, expected);
    }

    #[test]
    fn an_image_has_a_row_per_name() {
        let image = json!({"Id": "sha256:0123456789abcdef", "RepoTags": ["a:1", "h:5000/b:2"], "RepoDigests": ["a@sha256:d"], "Size": 1000, "SharedSize": -1, "Containers": -1});
        let shown: Vec<String> = rows(&image, true, false)
            .iter()
            .map(|row| {
                ["Repository", "Tag", "Digest", "ID", "Size", "UniqueSize"]
                    .map(|key| row.fields[key].as_str().unwrap_or_default())
                    .join(" ")
            })
            .collect();
        assert_eq!(shown, ["a 1 sha256:d 0123456789ab 1kB N/A", "h:5000/b 2 <none> 0123456789ab 1kB N/A"]);
        let nameless = json!({"Id": "sha256:x", "RepoTags": null, "RepoDigests": []});
        assert_eq!(rows(&nameless, false, false)[0].fields["Repository"], "<none>");
    }
}

//! The rules that no compiler checks: who may use whom, how long a file gets, what no text says, where every link leads.

use crate::cargo;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use tests::sh::Cmd;

const FILE_LINES_MAX: usize = 1000;
/// Lines `path: reason` for files that are longer on purpose.
const LONG_FILES: &str = ".config/long-files";
const ARCHITECTURE: &str = "ARCHITECTURE.md";
const MAP_HEADING: &str = "## Map of the crates";
const SKIPS_HEADING: &str = "## Allowed skips";
/// The one crate that talks to the kernel without a safe wrapper in between.
const UNSAFE_CRATE: &str = "kernel";

/// Words that belong to a plan or to a place of work, not to a program. In two halves, or this file would hold them.
const FORBIDDEN: [(&str, &str); 8] = [
    ("TO", "DO"),
    ("FIX", "ME"),
    ("unimplemented", "!("),
    ("todo", "!("),
    ("issue", " #"),
    ("Issue", " #"),
    ("../", "shared"),
    (" of this ", "session"),
];

/// Checks them all and shows every breach.
pub fn run() -> Result<()> {
    let files = tracked()?;
    let mut bad = Vec::new();
    for path in &files {
        let Ok(text) = fs::read_to_string(path) else { continue };
        bad.extend(words(path, &text));
        if path.ends_with(".rs") {
            bad.extend(header(path, &text));
            bad.extend(unsafety(path, &text));
        }
        if path.ends_with(".md") {
            bad.extend(links(path, &text));
        }
    }
    bad.extend(lengths(&files)?);
    bad.extend(crates()?);
    allowed_skips()?;
    if bad.is_empty() {
        return Ok(());
    }
    bail!("{} things are not tidy:\n  {}", bad.len(), bad.join("\n  "))
}

/// The beginnings of reasons for which a test may be skipped, from the list in ARCHITECTURE.md.
pub fn allowed_skips() -> Result<Vec<String>> {
    let text = fs::read_to_string(ARCHITECTURE).with_context(|| format!("read {ARCHITECTURE}"))?;
    let section = section(&text, SKIPS_HEADING)?;
    Ok(table(section).filter_map(|cells| cells.first().and_then(|cell| unquoted(cell))).collect())
}

/// Every file that is, or could be, committed.
fn tracked() -> Result<Vec<String>> {
    let listed = Cmd::new("git").args(["ls-files", "--cached", "--others", "--exclude-standard"]).ok()?;
    Ok(listed.stdout.lines().filter(|path| Path::new(path).is_file()).map(str::to_owned).collect())
}

fn words(path: &str, text: &str) -> Vec<String> {
    let mut bad = Vec::new();
    for (number, line) in text.lines().enumerate() {
        let place = format!("{path}:{}", number + 1);
        for (first, second) in FORBIDDEN {
            let word = format!("{first}{second}");
            if contains_word(line, &word) {
                bad.push(format!("{place}: {word:?} does not belong here"));
            }
        }
        if names_workplace(line) {
            bad.push(format!("{place}: a path of one machine's workplace"));
        }
    }
    bad
}

/// `word` in `line`, and not as the tail of a longer one.
fn contains_word(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| !line[..at].chars().next_back().is_some_and(|c| c.is_ascii_alphanumeric() || c == '_'))
}

/// An absolute path into the folder `work` of the root; `…/work/…` further down is an overlay's.
fn names_workplace(line: &str) -> bool {
    let word = concat!("/wo", "rk/");
    line.match_indices(word).any(|(at, _)| matches!(line[..at].chars().next_back(), None | Some(' ' | '"' | '`' | '(' | '\'' | '=')))
}

fn header(path: &str, text: &str) -> Option<String> {
    let first = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
    (!first.starts_with("//!")).then(|| format!("{path}: does not begin with its purpose (`//!`)"))
}

fn unsafety(path: &str, text: &str) -> Option<String> {
    if path.starts_with(&format!("crates/{UNSAFE_CRATE}/")) {
        return None;
    }
    let starts = ["{", "fn ", "impl ", "extern "].map(|rest| ["unsafe", rest].join(" "));
    let found = text.lines().position(|line| !line.trim_start().starts_with("//") && starts.iter().any(|start| contains_word(line, start)));
    found.map(|at| format!("{path}:{}: unsafe code outside crates/{UNSAFE_CRATE}", at + 1))
}

/// Links to files of the checkout lead somewhere.
fn links(path: &str, text: &str) -> Vec<String> {
    let dir = Path::new(path).parent().unwrap_or(Path::new(""));
    let mut bad = Vec::new();
    for part in text.split("](").skip(1) {
        let Some(target) = part.split(')').next() else { continue };
        let file = target.split('#').next().unwrap_or_default();
        if !file.is_empty() && !file.contains("://") && !file.starts_with("mailto:") && !dir.join(file).exists() {
            bad.push(format!("{path}: the link to {target} leads nowhere"));
        }
    }
    bad
}

fn lengths(files: &[String]) -> Result<Vec<String>> {
    let reasons = fs::read_to_string(LONG_FILES).unwrap_or_default();
    let reasons: BTreeMap<_, _> = reasons.lines().filter_map(|line| line.split_once(": ")).collect();
    let mut bad = Vec::new();
    for path in files.iter().filter(|path| path.ends_with(".rs")) {
        let lines = fs::read_to_string(path)?.lines().count();
        match (lines > FILE_LINES_MAX, reasons.contains_key(path.as_str())) {
            (true, false) => bad.push(format!("{path}: {lines} lines, more than {FILE_LINES_MAX}, and {LONG_FILES} gives no reason")),
            (false, true) => bad.push(format!("{path}: {LONG_FILES} excuses a length that it no longer has")),
            _ => {}
        }
    }
    Ok(bad)
}

/// The map in ARCHITECTURE.md says what cargo's metadata say: every crate, its layer, and exactly the edges it has.
fn crates() -> Result<Vec<String>> {
    let metadata = cargo().args(["metadata", "--no-deps", "--offline", "--format-version", "1"]).ok()?;
    let metadata: Value = serde_json::from_str(&metadata.stdout).context("read cargo's metadata")?;
    let text = fs::read_to_string(ARCHITECTURE).with_context(|| format!("read {ARCHITECTURE}"))?;
    let map = map(section(&text, MAP_HEADING)?)?;
    let mut bad = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().context("cargo names no packages")? {
        let name = package["name"].as_str().unwrap_or_default();
        seen.insert(name.to_owned());
        match map.get(name) {
            None => bad.push(format!("{ARCHITECTURE}: the crate {name} is not in the map")),
            Some(entry) => bad.extend(edges(name, package, entry, &map)),
        }
        bad.extend(roots(name, package));
    }
    bad.extend(map.keys().filter(|name| !seen.contains(*name)).map(|name| format!("{ARCHITECTURE}: there is no crate {name}")));
    Ok(bad)
}

/// A row of the map: the layer (none for what is outside the product), and the crates that it may use.
struct Entry {
    layer: Option<u32>,
    uses: BTreeSet<String>,
}

fn map(section: &str) -> Result<BTreeMap<String, Entry>> {
    let mut map = BTreeMap::new();
    for cells in table(section) {
        let [name, layer, uses, ..] = cells[..] else { bail!("a row of the map of crates has too few cells: {cells:?}") };
        let Some(name) = unquoted(name) else { continue };
        let uses = uses.split([' ', ',']).filter_map(unquoted).collect();
        map.insert(name, Entry { layer: layer.parse().ok(), uses });
    }
    if map.is_empty() {
        bail!("{ARCHITECTURE}: the map of crates is empty");
    }
    Ok(map)
}

fn edges(name: &str, package: &Value, entry: &Entry, map: &BTreeMap<String, Entry>) -> Vec<String> {
    let dependencies = package["dependencies"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own = dependencies.iter().filter(|dependency| dependency["path"].is_string());
    let used: BTreeSet<_> = own.filter_map(|dependency| dependency["name"].as_str()).map(str::to_owned).collect();
    let mut bad: Vec<_> =
        used.difference(&entry.uses).map(|other| format!("crate {name} uses {other}, which {ARCHITECTURE} does not allow")).collect();
    bad.extend(entry.uses.difference(&used).map(|other| format!("{ARCHITECTURE}: {name} does not use {other} any more")));
    let upward = used.iter().filter(|other| map.get(*other).is_some_and(|other| other.layer > entry.layer && entry.layer.is_some()));
    bad.extend(upward.map(|other| format!("crate {name} uses {other} of a higher layer")));
    bad
}

/// The root files of a crate forbid what only `kernel` may do.
fn roots(name: &str, package: &Value) -> Vec<String> {
    let targets = package["targets"].as_array().map(Vec::as_slice).unwrap_or_default();
    let product = targets
        .iter()
        .filter(|target| target["kind"].as_array().is_some_and(|kinds| kinds.iter().any(|kind| kind == "lib" || kind == "bin")));
    let mut bad = Vec::new();
    for path in product.filter_map(|target| target["src_path"].as_str()) {
        let text = fs::read_to_string(path).unwrap_or_default();
        let path = path.rsplit_once("/crates/").map_or(path, |(_, inner)| inner);
        if name != UNSAFE_CRATE && !text.contains("#![forbid(unsafe_code)]") {
            bad.push(format!("{path}: has no #![forbid(unsafe_code)]"));
        }
    }
    bad
}

/// What stands between a heading and the next one of its rank.
fn section<'a>(text: &'a str, heading: &str) -> Result<&'a str> {
    let (_, rest) = text.split_once(&format!("{heading}\n")).with_context(|| format!("{ARCHITECTURE} has no section {heading:?}"))?;
    Ok(rest.split("\n## ").next().unwrap_or(rest))
}

/// The cells of each row of the tables in a section, the heads and rules aside.
fn table(section: &str) -> impl Iterator<Item = Vec<&str>> {
    let rows = section.lines().filter(|line| line.starts_with('|'));
    let cells = rows.map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>());
    cells.filter(|cells| cells.first().is_some_and(|cell| cell.starts_with('`')))
}

fn unquoted(cell: &str) -> Option<String> {
    cell.strip_prefix('`')?.strip_suffix('`').map(str::to_owned)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn words_are_found_and_their_likes_are_not() {
        assert!(contains_word(concat!("// TO", "DO: later"), concat!("TO", "DO")));
        assert!(!contains_word(concat!("MASTO", "DON"), concat!("TO", "DO")));
        assert!(names_workplace(concat!("see /wo", "rk/main")));
        assert!(!names_workplace(concat!("upper and {id}/wo", "rk/x")));
    }

    #[test]
    fn the_map_is_read_from_its_table() {
        let text = "## Map of the crates\n| crate | layer | may use | owns |\n|---|---|---|---|\n| `a` | 0 | – | x |\n| `b` | 1 | `a`, `c` | y |\n\n## Next\n| `z` | 0 | | |\n";
        let map = map(section(text, MAP_HEADING).unwrap()).unwrap();
        assert_eq!(map.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(map["b"].uses, BTreeSet::from(["a".to_owned(), "c".to_owned()]));
        assert_eq!(map["b"].layer, Some(1));
    }

    #[test]
    fn unsafe_is_for_one_crate() {
        let code = concat!("let x = unsa", "fe { y() };");
        assert!(unsafety("crates/store/src/lib.rs", code).is_some());
        assert!(unsafety("crates/kernel/src/lib.rs", code).is_none());
        assert!(unsafety("crates/store/src/lib.rs", concat!("// unsa", "fe { in words }")).is_none());
    }

    #[test]
    fn links_lead_somewhere() {
        assert!(links("README.md", "[a](https://x.invalid/y) [b](#c)").is_empty());
        assert_eq!(links("README.md", "[a](no/such.md)").len(), 1);
    }
}

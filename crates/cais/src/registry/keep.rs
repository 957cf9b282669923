//! Looking after a registry's folder, also while it is served: `ls`, `rm`, `df`, `gc`, `fsck`.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use cli::flags::Matches;
use cli::{table, units};
use registryd::{Collection, RepositoryName, Store, duration, is_tag};

use super::root;
use crate::serve::described;

/// Tags that are read at a time.
const PAGE_LEN: usize = 1000;
/// Exit code of a check that found something.
const DAMAGED: u8 = 1;

fn store(matches: &Matches) -> Result<Store> {
    Store::beside(&root(matches.text("root").map(Path::new))?).map_err(described)
}

fn size(bytes: u64) -> String {
    units::size(i64::try_from(bytes).unwrap_or(i64::MAX))
}

pub(super) fn ls(matches: &Matches) -> Result<ExitCode> {
    let store = store(matches)?;
    let rows = match matches.positionals.as_slice() {
        [] => repositories(&store)?,
        [name] => tags(&store, &repository(name)?)?,
        _ => bail!("one repository at most is expected"),
    };
    if matches.on("quiet") {
        rows.iter().skip(1).for_each(|row| println!("{}", row[0]));
    } else {
        print!("{}", table::align(&rows));
    }
    Ok(ExitCode::SUCCESS)
}

fn repositories(store: &Store) -> Result<Vec<Vec<String>>> {
    let mut rows = vec![["REPOSITORY", "TAGS", "MANIFESTS", "SIZE"].map(str::to_owned).to_vec()];
    for usage in store.repository_usage().map_err(described)? {
        rows.push(vec![usage.name, usage.tags.to_string(), usage.manifests.to_string(), size(usage.bytes)]);
    }
    Ok(rows)
}

fn tags(store: &Store, name: &RepositoryName) -> Result<Vec<Vec<String>>> {
    let mut rows = vec![["TAG", "DIGEST", "PUSHED", "SIZE"].map(str::to_owned).to_vec()];
    let mut last: Option<String> = None;
    loop {
        let page = store.tags_in_full(name, last.as_deref(), PAGE_LEN).map_err(described)?;
        let page = page.with_context(|| format!("there is no repository {name}"))?;
        for tag in &page.items {
            rows.push(vec![tag.name.clone(), tag.digest.clone(), units::ago(tag.updated), size(tag.size)]);
        }
        last = page.items.last().map(|tag| tag.name.clone());
        if !page.more {
            return Ok(rows);
        }
    }
}

fn repository(name: &str) -> Result<RepositoryName> {
    RepositoryName::parse(name).with_context(|| format!("{name:?} is no name of a repository"))
}

pub(super) fn rm(matches: &Matches) -> Result<ExitCode> {
    let store = store(matches)?;
    if matches.positionals.is_empty() {
        bail!("name what is to be removed: NAME:TAG, NAME@DIGEST, or NAME with --all");
    }
    for name in &matches.positionals {
        let removed = match (name.split_once('@'), name.rsplit_once(':')) {
            (Some((name, digest)), _) => {
                let digest = digest.parse().with_context(|| format!("{digest:?} is no digest"))?;
                store.remove_manifest(&repository(name)?, &digest)
            }
            (None, Some((name, tag))) if is_tag(tag) => store.remove_tag(&repository(name)?, tag),
            (None, None) if matches.on("all") => store.remove_repository(&repository(name)?),
            (None, None) => bail!("{name}: name a tag or a digest of it, or use --all to remove the whole repository"),
            (None, Some((_, tag))) => bail!("{tag:?} is no tag"),
        };
        if !removed.map_err(described)? {
            bail!("{name} is not there");
        }
        println!("removed {name}");
    }
    Ok(ExitCode::SUCCESS)
}

pub(super) fn df(matches: &Matches) -> Result<ExitCode> {
    let usage = store(matches)?.usage().map_err(described)?;
    let row = |kind: &str, count: u64, bytes: u64, free: u64| vec![kind.to_owned(), count.to_string(), size(bytes), size(free)];
    let rows = [
        ["TYPE", "TOTAL", "SIZE", "RECLAIMABLE"].map(str::to_owned).to_vec(),
        row("Content", usage.contents, usage.bytes, usage.loose_bytes),
        row("Uploads", usage.uploads, usage.upload_bytes, usage.upload_bytes),
    ];
    print!("{}", table::align(&rows));
    Ok(ExitCode::SUCCESS)
}

pub(super) fn gc(matches: &Matches) -> Result<ExitCode> {
    let kept = Collection::default();
    let time = |flag: &str| matches.text(flag).map(|text| duration(&format!("--{flag}"), text)).transpose().map_err(described);
    let collection = Collection {
        lease: time("lease")?.unwrap_or(kept.lease),
        upload_age: time("uploads")?.unwrap_or(kept.upload_age),
        untagged_age: time("untagged")?,
    };
    let collected = store(matches)?.collect(&collection).map_err(described)?;
    println!(
        "removed {} manifests, {} files and {} uploads: {} are free",
        collected.manifests,
        collected.files,
        collected.uploads,
        size(collected.bytes)
    );
    Ok(ExitCode::SUCCESS)
}

pub(super) fn fsck(matches: &Matches) -> Result<ExitCode> {
    let store = store(matches)?;
    let checked = store.check(!matches.on("quick")).map_err(described)?;
    checked.problems.iter().for_each(|problem| println!("{problem}"));
    println!("{} contents, {} problems, {} files that nothing names", checked.contents, checked.problems.len(), checked.unnamed);
    if checked.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    if matches.on("repair") {
        store.repair(&checked).map_err(described)?.iter().for_each(|done| println!("{done}"));
    } else {
        println!("`cais registry fsck --repair` forgets what is damaged, so that it can be pushed again");
    }
    Ok(ExitCode::from(DAMAGED))
}

//! The commands, one file each, and how a command line finds its own.

mod attach;
mod builder_prune;
mod commit;
mod container_prune;
mod cp;
mod create;
mod df;
mod diff;
mod events;
mod exec;
mod export;
mod fsck;
mod history;
mod image_prune;
mod images;
mod import;
mod info;
mod inspect;
mod kill;
mod load;
mod login;
mod logs;
mod manifest;
mod network_connect;
mod network_create;
mod network_disconnect;
mod network_graph;
mod network_ls;
mod network_prune;
mod network_rm;
mod pause;
mod port;
mod ps;
mod pull;
pub(crate) mod push;
mod rename;
mod restart;
mod rm;
mod rmi;
mod run;
pub(crate) mod save;
mod search;
mod session;
mod start;
mod stats;
mod stop;
mod system_prune;
mod tag;
mod top;
mod unpause;
mod update;
mod version;
mod volume_create;
mod volume_ls;
mod volume_prune;
mod volume_rm;
mod wait;

use anyhow::{Result, bail};
use client::{Client, Request, encode};

use crate::command::Command;

/// Every command.
pub const ALL: &[&Command] = &[
    &run::COMMAND,
    &exec::COMMAND,
    &ps::COMMAND,
    &crate::build::COMMAND,
    &builder_prune::COMMAND,
    &pull::COMMAND,
    &push::COMMAND,
    &images::COMMAND,
    &version::COMMAND,
    &info::COMMAND,
    &attach::COMMAND,
    &commit::COMMAND,
    &cp::COMMAND,
    &create::COMMAND,
    &diff::COMMAND,
    &events::COMMAND,
    &export::COMMAND,
    &history::COMMAND,
    &import::COMMAND,
    &inspect::COMMAND,
    &kill::COMMAND,
    &load::COMMAND,
    &login::COMMAND,
    &login::LOGOUT,
    &logs::COMMAND,
    &pause::COMMAND,
    &port::COMMAND,
    &rename::COMMAND,
    &restart::COMMAND,
    &rm::COMMAND,
    &rmi::COMMAND,
    &save::COMMAND,
    &search::COMMAND,
    &start::COMMAND,
    &stats::COMMAND,
    &stop::COMMAND,
    &tag::COMMAND,
    &top::COMMAND,
    &unpause::COMMAND,
    &update::COMMAND,
    &wait::COMMAND,
    &container_prune::COMMAND,
    &image_prune::COMMAND,
    &inspect::CONTAINER,
    &inspect::IMAGE,
    &inspect::VOLUME,
    &inspect::NETWORK,
    &volume_create::COMMAND,
    &volume_ls::COMMAND,
    &volume_prune::COMMAND,
    &volume_rm::COMMAND,
    &network_connect::COMMAND,
    &network_create::COMMAND,
    &network_disconnect::COMMAND,
    &network_graph::COMMAND,
    &network_ls::COMMAND,
    &network_prune::COMMAND,
    &network_rm::COMMAND,
    &df::COMMAND,
    &fsck::COMMAND,
    &manifest::INSPECT,
    &manifest::CREATE,
    &manifest::ANNOTATE,
    &manifest::PUSH,
    &manifest::REMOVE,
    &system_prune::COMMAND,
];

/// Words before other words, with one line about each.
pub const GROUPS: &[(&str, &str)] = &[
    ("builder", "Manage builds and what is kept of them"),
    ("buildx", "The same under the name of Docker's plugin"),
    ("container", "Manage containers"),
    ("image", "Manage images"),
    ("manifest", "Manage lists of images for several platforms"),
    ("network", "Manage networks"),
    ("system", "Manage the engine"),
    ("volume", "Manage volumes"),
];

/// The command that `words` begin with, and what follows its name.
pub fn find(words: &[String]) -> Option<(&'static Command, &[String])> {
    let first = words.first()?;
    let grouped = GROUPS.iter().any(|(name, _)| name == first);
    let count = if grouped { 2 } else { 1 };
    let path = words.get(..count)?.join(" ");
    let command = ALL.iter().find(|command| command.paths.contains(&path.as_str()))?;
    Some((command, &words[count..]))
}

/// `/KIND/NAME SUFFIX`, the name encoded as one segment.
fn path(kind: &str, name: &str, suffix: &str) -> Result<String> {
    if name.is_empty() || name == "." || name == ".." {
        bail!("{name:?} is not a name or id");
    }
    let name = encode(name).replace('/', "%2F");
    Ok(format!("/{kind}/{name}{suffix}"))
}

/// `/containers/NAME SUFFIX`.
pub(crate) fn container_path(name: &str, suffix: &str) -> Result<String> {
    path("containers", name.strip_prefix('/').unwrap_or(name), suffix)
}

/// `/images/NAME SUFFIX`; names of images keep their slashes.
pub(crate) fn image_path(name: &str, suffix: &str) -> Result<String> {
    if name.is_empty() || name.split('/').any(|part| part.is_empty() || part == "." || part == "..") {
        bail!("invalid reference format: {name:?}");
    }
    Ok(format!("/images/{}{suffix}", encode(name)))
}

/// A platform as the API has it in queries: JSON.
fn platform_query(text: Option<&str>) -> Result<Option<String>> {
    let platform = text.map(str::parse::<types::Platform>).transpose()?;
    Ok(platform.map(|platform| serde_json::to_string(&platform)).transpose()?)
}

/// Sends a request whose answer does not matter once it is a success.
pub(crate) fn act(client: &Client, request: Request<'_>) -> Result<()> {
    client.send(request)?.finish()?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(line: &str) -> Option<(&'static str, usize)> {
        let words: Vec<String> = line.split(' ').map(str::to_owned).collect();
        find(&words).map(|(command, rest)| (command.paths[0], rest.len()))
    }

    #[test]
    fn commands_are_found_by_all_their_names() {
        assert_eq!(found("ps -a"), Some(("container ls", 1)));
        assert_eq!(found("container list"), Some(("container ls", 0)));
        assert_eq!(found("image rm x y"), Some(("image rm", 2)));
        assert_eq!(found("rmi x"), Some(("image rm", 1)));
        assert_eq!(found("container"), None);
        assert_eq!(found("build ."), Some(("image build", 1)));
        assert_eq!(found("buildx build -t x ."), Some(("image build", 3)));
        assert_eq!(found("nonsense ."), None);
    }

    #[test]
    fn names_are_unique_and_flags_sane() {
        let mut paths: Vec<&str> = ALL.iter().flat_map(|command| command.paths.iter().copied()).collect();
        let count = paths.len();
        paths.sort_unstable();
        paths.dedup();
        assert_eq!(paths.len(), count);
        for command in ALL {
            let flags: Vec<_> = command.flags.iter().flat_map(|group| group.iter()).collect();
            for (at, flag) in flags.iter().enumerate() {
                let twice =
                    flags[at + 1..].iter().any(|other| other.long == flag.long || (flag.short.is_some() && other.short == flag.short));
                assert!(!twice, "{}: --{}", command.paths[0], flag.long);
                assert!(!flag.help.ends_with('.'), "--{}", flag.long);
            }
        }
    }

    #[test]
    fn hostile_names_stay_one_segment() {
        assert_eq!(container_path("../images/x", "/json").expect("a path"), "/containers/..%2Fimages%2Fx/json");
        assert!(container_path("", "/json").is_err());
        assert!(image_path("a/../b", "/json").is_err());
        assert_eq!(image_path("h:5000/a/b:1@sha256:0", "/json").expect("a path"), "/images/h:5000/a/b:1@sha256:0/json");
    }

    #[test]
    fn help_pages() {
        let pages: Vec<String> = ALL.iter().map(|command| command.help("cais", command.paths[0])).collect();
        let pages = pages.join("\n---\n");
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/src/commands/help.txt");
        if std::env::var_os("UPDATE_SNAPSHOTS").is_some() {
            std::fs::write(path, &pages).expect("written");
        }
        let snapshot = std::fs::read_to_string(path).expect("the snapshot");
        assert_eq!(pages, snapshot, "after a wanted change run the test again with UPDATE_SNAPSHOTS=1");
    }
}

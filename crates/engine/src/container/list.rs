//! Lists and inspections: from snapshots, waiting for no container.

use std::cmp::Reverse;
use std::sync::Arc;

use store::Snapshot;
use types::container::Status;

use super::{Container, Record};
use crate::request::{ContainerPaths, ContainerSize, ContainerView, ListContainers};
use crate::sandbox::Mode;
use crate::{Engine, Error, filter};

const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "expose",
    "exited",
    "health",
    "id",
    "isolation",
    "is-task",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

impl Engine {
    /// Containers, the latest made first.
    pub async fn list_containers(self: &Arc<Self>, request: ListContainers) -> Result<Vec<ContainerView>, Error> {
        filter::known(&request.filters, FILTERS)?;
        let selection = self.selection(&request)?;
        let mut containers = self.containers.all();
        containers.sort_by_cached_key(|container| (Reverse(container.record().created), container.id.clone()));
        let mut views = Vec::new();
        for container in containers {
            let record = container.record();
            if !selection.holds(&record, &request) {
                continue;
            }
            views.push(self.view(&container, record, request.size).await?);
            if request.limit == Some(views.len()) {
                break;
            }
        }
        Ok(views)
    }

    /// One container.
    pub async fn inspect_container(self: &Arc<Self>, name: &str, size: bool) -> Result<ContainerView, Error> {
        let container = self.find(name)?;
        let record = container.record();
        self.view(&container, record, size).await
    }

    async fn view(self: &Arc<Self>, container: &Container, record: Arc<Record>, size: bool) -> Result<ContainerView, Error> {
        let size = if size { Some(self.size(&record).await?) } else { None };
        let paths = self.paths(&record);
        Ok(ContainerView { exec_ids: self.execs.running_in(&container.id), record, size, paths })
    }

    async fn size(self: &Arc<Self>, record: &Arc<Record>) -> Result<ContainerSize, Error> {
        let (engine, record) = (self.clone(), record.clone());
        let measured = tokio::task::spawn_blocking(move || engine.measure(&record)).await?;
        measured.map_err(|source| Error::Store { operation: "measure the container's files", source })
    }

    fn paths(&self, record: &Record) -> ContainerPaths {
        let text = |path: std::path::PathBuf| path.to_string_lossy().into_owned();
        let folder = self.layout.container(&record.id);
        let snapshot = self.store.snapshot(record.id.as_str()).unwrap_or_else(|_| Snapshot {
            lower: Vec::new(),
            upper: Default::default(),
            work: Default::default(),
        });
        let shares = matches!(Mode::parse(&record.host), Mode::Container(_));
        let file = |name: &str| if record.state.started_at.is_none() || shares { String::new() } else { text(folder.join(name)) };
        let lower: Vec<String> = snapshot.lower.iter().map(|path| path.to_string_lossy().into_owned()).collect();
        ContainerPaths {
            resolv_conf: file("resolv.conf"),
            hostname: file("hostname"),
            hosts: file("hosts"),
            log: if record.host.log_config.kind == "json-file" { text(self.layout.log(&record.id)) } else { String::new() },
            lower: lower.join(":"),
            upper: text(snapshot.upper),
            work: text(snapshot.work),
            merged: if record.is_alive() { format!("/proc/{}/root", record.state.pid) } else { String::new() },
        }
    }

    /// Resolves the filters that name other objects.
    fn selection(&self, request: &ListContainers) -> Result<Selection, Error> {
        let one = |key: &str| match filter::values(&request.filters, key) {
            [] => Ok(None),
            [name, ..] => self.find(name).map(|container| Some(container.record().created)),
        };
        let status = filter::values(&request.filters, "status")
            .iter()
            .map(|word| {
                word.parse::<Status>().map_err(|_| bad("status", word, "created, restarting, running, removing, paused, exited or dead"))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let exited = filter::values(&request.filters, "exited")
            .iter()
            .map(|word| word.parse::<i32>().map_err(|_| bad("exited", word, "an exit code")))
            .collect::<Result<Vec<_>, _>>()?;
        let ancestors = filter::values(&request.filters, "ancestor")
            .iter()
            .map(|name| Ancestor { name: name.clone(), images: self.images.descendants(name).iter().map(ToString::to_string).collect() })
            .collect();
        Ok(Selection { before: one("before")?, since: one("since")?, status, exited, ancestors })
    }
}

/// An image whose containers are wanted.
struct Ancestor {
    name: String,
    /// Identifiers of the image itself and of those that contain all of its layers.
    images: Vec<String>,
}

struct Selection {
    before: Option<jiff::Timestamp>,
    since: Option<jiff::Timestamp>,
    status: Vec<Status>,
    exited: Vec<i32>,
    ancestors: Vec<Ancestor>,
}

impl Selection {
    fn holds(&self, record: &Record, request: &ListContainers) -> bool {
        let filters = &request.filters;
        let state = &record.state;
        let shown =
            request.all || request.limit.is_some() || state.status.is_active() || !self.status.is_empty() || !self.exited.is_empty();
        shown
            && self.before.is_none_or(|before| record.created < before)
            && self.since.is_none_or(|since| record.created > since)
            && (self.status.is_empty() || self.status.contains(&state.status))
            && (self.exited.is_empty() || state.status == Status::Exited && self.exited.contains(&state.exit_code))
            && (self.ancestors.is_empty() || self.ancestors.iter().any(|ancestor| ancestor.is_of(record)))
            && filter::labels_match(filters, &record.config.labels)
            && filter::any(filters, "id", |prefix| record.id.as_str().starts_with(prefix))
            && filter::any(filters, "name", |pattern| name_matches(&record.name, pattern))
            && filter::any(filters, "network", |network| {
                Mode::parse(&record.host) == Mode::Network(network.to_owned())
                    || record.networks.iter().any(|(name, endpoint)| name == network || endpoint.network_id.starts_with(network))
            })
            && filter::any(filters, "volume", |wanted| {
                record.mounts.iter().any(|mount| mount.name == wanted || mount.destination == wanted || mount.source == wanted)
            })
            && filter::any(filters, "expose", |wanted| record.config.exposed_ports.keys().any(|key| port_matches(key, wanted)))
            && filter::any(filters, "publish", |wanted| {
                record.ports.iter().any(|(key, bindings)| {
                    let protocol = key.split_once('/').map_or("tcp", |(_, protocol)| protocol);
                    bindings.iter().any(|binding| port_matches(&format!("{}/{protocol}", binding.host_port), wanted))
                })
            })
            && filter::any(filters, "health", |wanted| state.health.as_ref().map_or("none", |health| health.status.as_str()) == wanted)
            && filter::any(filters, "is-task", |wanted| wanted == "false")
            && filter::any(filters, "isolation", |wanted| wanted == "default")
    }
}

impl Ancestor {
    fn is_of(&self, record: &Record) -> bool {
        record.image == self.name || self.images.contains(&record.image_id)
    }
}

fn bad(key: &str, value: &str, expected: &'static str) -> Error {
    Error::BadFilter { key: key.to_owned(), value: value.to_owned(), expected }
}

/// Docker takes the filter for a regular expression that may match anywhere; of those, people use the anchors.
fn name_matches(name: &str, pattern: &str) -> bool {
    let (pattern, from_start) = pattern.strip_prefix('^').map_or((pattern, false), |rest| (rest, true));
    let (pattern, to_end) = pattern.strip_suffix('$').map_or((pattern, false), |rest| (rest, true));
    // Names are matched with and without the slash that the API puts before them.
    let pattern = pattern.strip_prefix('/').map_or((pattern, from_start), |rest| (rest, true));
    match pattern {
        (text, true) if to_end => name == text,
        (text, true) => name.starts_with(text),
        (text, false) if to_end => name.ends_with(text),
        (text, false) => name.contains(text),
    }
}

/// Whether `80/tcp` is wanted by `80`, `80/tcp` or `70-90/tcp`.
fn port_matches(key: &str, wanted: &str) -> bool {
    let (port, protocol) = key.split_once('/').unwrap_or((key, "tcp"));
    let (range, wanted_protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let number = |text: &str| text.parse::<u16>().ok();
    protocol == wanted_protocol
        && matches!((number(port), number(first), number(last)), (Some(port), Some(first), Some(last)) if (first..=last).contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_with_anchors() {
        for (pattern, matches) in
            [("web", true), ("^web", true), ("^/web-1$", true), ("1$", true), ("^eb", false), ("/web", true), ("/eb", false)]
        {
            assert_eq!(name_matches("web-1", pattern), matches, "{pattern}");
        }
    }

    #[test]
    fn ports_match_by_number_range_and_protocol() {
        for (wanted, matches) in [("80", true), ("80/tcp", true), ("70-90", true), ("80/udp", false), ("81-90", false), ("x", false)] {
            assert_eq!(port_matches("80/tcp", wanted), matches, "{wanted}");
        }
    }
}

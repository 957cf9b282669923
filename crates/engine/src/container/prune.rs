//! Removing all containers that do not run.

use std::sync::Arc;

use types::{Classify, ErrorKind};

use crate::request::{Filters, Pruned, RemoveContainer};
use crate::{Engine, Error, filter};

const FILTERS: &[&str] = &["label", "label!", "until"];

impl Engine {
    /// Removes stopped containers that the filters select.
    pub async fn prune_containers(self: &Arc<Self>, filters: Filters) -> Result<Pruned, Error> {
        filter::known(&filters, FILTERS)?;
        let until = match filter::values(&filters, "until") {
            [] => None,
            [text, ..] => Some(filter::moment("until", text)?),
        };
        let mut pruned = Pruned::default();
        for container in self.containers.all() {
            let record = container.record();
            if !prunable(&record, &filters, until) {
                continue;
            }
            let (store, id) = (self.store.clone(), record.id.clone());
            let size = tokio::task::spawn_blocking(move || store.snapshot_size(id.as_str())).await?.unwrap_or(0);
            match self.remove_container(record.id.as_str(), RemoveContainer::default()).await {
                Ok(()) => {
                    pruned.reclaimed += size;
                    pruned.deleted.push(record.id.to_string());
                }
                // Started or removed by somebody else meanwhile.
                Err(error) if matches!(error.kind(), ErrorKind::Conflict | ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
        self.pruned_event("container", pruned.reclaimed);
        Ok(pruned)
    }
}

/// Whether a container is among those to be pruned.
fn prunable(record: &super::Record, filters: &Filters, until: Option<jiff::Timestamp>) -> bool {
    !record.state.status.is_active()
        && until.is_none_or(|until| record.created < until)
        && filter::labels_match(filters, &record.config.labels)
}

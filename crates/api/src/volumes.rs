//! Volumes.

use std::sync::Arc;

use engine::request::CreateVolume;
use engine::{Engine, Volume};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use types::container::Map;
use types::lenient;

use crate::containers::bad_json;
use crate::error::Failure;
use crate::http::{self, Outcome, Request, no_content, ok, to_the_end};

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateBody {
    name: String,
    driver: String,
    driver_opts: Map<String>,
    labels: Map<String>,
    cluster_volume_spec: Option<Value>,
}

pub async fn list(engine: Arc<Engine>, request: Request) -> Outcome {
    let volumes = engine.list_volumes(request.query.filters()?).await?;
    ok(&json!({ "Volumes": volumes.iter().map(|volume| encode(volume)).collect::<Vec<_>>(), "Warnings": null }))
}

pub async fn create(engine: Arc<Engine>, request: Request) -> Outcome {
    let body: CreateBody = lenient::from_slice(&request.bytes().await?).map_err(bad_json)?;
    if body.cluster_volume_spec.is_some() {
        return Err(Failure::not_served("ClusterVolumeSpec"));
    }
    let labels = if body.labels.is_null() { None } else { Some(body.labels.into_map()) };
    let wanted = CreateVolume {
        name: Some(body.name).filter(|name| !name.is_empty()),
        driver: body.driver,
        options: body.driver_opts.into_map(),
        labels,
    };
    let volume = to_the_end(async move { engine.create_volume(wanted).await }).await?;
    http::json(StatusCode::CREATED, &encode(&volume))
}

pub async fn inspect(engine: Arc<Engine>, name: &str) -> Outcome {
    let volume = engine.inspect_volume(name)?;
    ok(&encode(&volume))
}

pub async fn remove(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (name, force) = (name.to_owned(), request.query.flag("force"));
    to_the_end(async move { engine.remove_volume(&name, force).await }).await?;
    no_content()
}

pub async fn prune(engine: Arc<Engine>, request: Request) -> Outcome {
    let mut filters = request.query.filters()?;
    // Below API 1.42 named volumes go, too.
    if !request.version.since(42) {
        filters.entry("all".to_owned()).or_insert_with(|| vec!["true".to_owned()]);
    }
    let pruned = to_the_end(async move { engine.prune_volumes(filters).await }).await?;
    ok(&json!({ "VolumesDeleted": pruned.deleted, "SpaceReclaimed": pruned.reclaimed }))
}

/// A volume as Docker shows it.
pub fn encode(volume: &Volume) -> Value {
    json!({
        "CreatedAt": volume.created,
        "Driver": "local",
        "Labels": volume.labels,
        "Mountpoint": volume.mountpoint,
        "Name": volume.name,
        "Options": null,
        "Scope": "local",
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn labels_that_were_not_given_are_null() {
        let mut volume = Volume {
            name: "v".to_owned(),
            created: "2026-11-22T10:51:33Z".to_owned(),
            labels: None,
            anonymous: false,
            mountpoint: "/data/v/_data".into(),
        };
        let expected = json!({
            "CreatedAt": "2026-11-22T10:51:33Z", "Driver": "local", "Labels": null, "Mountpoint": "/data/v/_data", "Name": "v",
            "Options": null, "Scope": "local",
        });
        assert_eq!(encode(&volume), expected);
        volume.labels = Some(BTreeMap::new());
        assert_eq!(encode(&volume)["Labels"], json!({}));
    }
}

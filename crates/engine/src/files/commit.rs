//! An image of a container.

use std::sync::Arc;

use serde_json::Value;
use store::CommitOptions;
use types::container::{Config, Status};
use types::image::{Healthcheck, RunConfig};
use types::{Digest, ImageRef};

use crate::container::Record;
use crate::request::Commit;
use crate::{Engine, Error};

impl Engine {
    /// Makes an image of a container's image and what the container changed, and answers the image's identifier.
    pub async fn commit(self: &Arc<Self>, request: Commit) -> Result<Digest, Error> {
        let container = self.find(&request.container)?;
        let record = container.record();
        let failed = |operation| move |source| Error::Store { operation, source };
        let name = image_name(&request)?;
        let parent = self.store.resolve(&record.image_id).map_err(failed("look up the container's image"))?;
        let mut run = request.config.as_ref().map_or_else(|| run_config(&record.config), run_config);
        store::apply_changes(&mut run, &request.changes).map_err(failed("apply the changes"))?;
        inherit(&mut run, &run_config(&record.config));
        let options = CommitOptions {
            name: name.clone(),
            run,
            author: request.author.clone(),
            comment: request.comment.clone(),
            created_by: record.config.cmd.join(" "),
        };
        let paused = request.pause && record.state.status == Status::Running && self.pause_for_commit(&record).await?;
        let (store, id) = (self.store.clone(), record.id.clone());
        let made = tokio::task::spawn_blocking(move || store.commit_container(id.as_str(), &parent, &options)).await;
        if paused && let Err(error) = self.unpause_container(record.id.as_str()).await {
            tracing::warn!(container = record.name, error = types::error::chain(&error), "it could not be unpaused after a commit");
        }
        let image = made?.map_err(failed("make an image of the container"))?;
        let mut attributes = record.attributes();
        attributes.insert("comment".to_owned(), request.comment);
        attributes.insert("imageID".to_owned(), image.id.to_string());
        attributes.insert("imageRef".to_owned(), name.map(|name| name.familiar()).unwrap_or_default());
        self.events.publish("container", "commit", record.id.as_str(), attributes);
        Ok(image.id.clone())
    }

    /// Holds a running container; one that ended or was paused meanwhile needs nothing.
    async fn pause_for_commit(self: &Arc<Self>, record: &Record) -> Result<bool, Error> {
        match self.pause_container(record.id.as_str()).await {
            Ok(()) => Ok(true),
            Err(Error::NotRunning { .. } | Error::AlreadyPaused { .. } | Error::Restarting { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn image_name(request: &Commit) -> Result<Option<ImageRef>, Error> {
    let (repository, tag) = (request.repository.as_str(), request.tag.as_str());
    if repository.is_empty() {
        return Ok(None);
    }
    let text = if tag.is_empty() { repository.to_owned() } else { format!("{repository}:{tag}") };
    let parsed: ImageRef = text.parse().map_err(|error: types::reference::InvalidReference| Error::BadField {
        field: "repo",
        value: text,
        reason: error.to_string(),
    })?;
    Ok(Some(parsed.with_default_tag()))
}

/// What an image keeps of a container's configuration.
fn run_config(config: &Config) -> RunConfig {
    let list = |list: &types::container::List<String>| Some(list.to_vec()).filter(|list| !list.is_empty());
    let set = |set: &types::container::Set| set.keys().map(|key| (key.clone(), Value::Object(Default::default()))).collect();
    let labels = config.labels.clone().into_map();
    RunConfig {
        user: config.user.clone(),
        exposed_ports: set(&config.exposed_ports),
        env: list(&config.env),
        entrypoint: list(&config.entrypoint),
        cmd: list(&config.cmd),
        volumes: set(&config.volumes),
        working_dir: config.working_dir.clone(),
        labels: Some(labels).filter(|labels| !labels.is_empty()),
        stop_signal: Some(config.stop_signal.clone()).filter(|signal| !signal.is_empty()),
        healthcheck: config.healthcheck.as_ref().map(|health| Healthcheck {
            test: list(&health.test),
            interval: health.interval,
            timeout: health.timeout,
            start_period: health.start_period,
            start_interval: health.start_interval,
            retries: health.retries,
        }),
        on_build: list(&config.on_build),
        shell: list(&config.shell),
        ..RunConfig::default()
    }
}

/// Fills in from the container what the request leaves open.
fn inherit(run: &mut RunConfig, container: &RunConfig) {
    if run.user.is_empty() {
        run.user.clone_from(&container.user);
    }
    if run.working_dir.is_empty() {
        run.working_dir.clone_from(&container.working_dir);
    }
    for (own, given) in [(&mut run.exposed_ports, &container.exposed_ports), (&mut run.volumes, &container.volumes)] {
        for (key, value) in given {
            own.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    for entry in container.env.iter().flatten() {
        let held = run.env.get_or_insert_default();
        if !held.iter().any(|own| crate::merge::variable(own) == crate::merge::variable(entry)) {
            held.push(entry.clone());
        }
    }
    for (key, value) in container.labels.iter().flatten() {
        run.labels.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
    }
    if run.entrypoint.is_none() {
        if run.cmd.is_none() {
            run.cmd.clone_from(&container.cmd);
        }
        run.entrypoint.clone_from(&container.entrypoint);
    }
    if run.healthcheck.is_none() {
        run.healthcheck.clone_from(&container.healthcheck);
    }
    if run.stop_signal.is_none() {
        run.stop_signal.clone_from(&container.stop_signal);
    }
    if run.shell.is_none() {
        run.shell.clone_from(&container.shell);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_wins_and_the_container_fills_in() {
        let container = run_config(&Config {
            env: vec!["A=container".to_owned(), "B=container".to_owned()].into(),
            cmd: vec!["sleep".to_owned()].into(),
            user: "nobody".to_owned(),
            ..Config::default()
        });
        let mut run = run_config(&Config { env: vec!["A=own".to_owned()].into(), ..Config::default() });
        inherit(&mut run, &container);
        assert_eq!(run.env, Some(vec!["A=own".to_owned(), "B=container".to_owned()]));
        assert_eq!((run.user.as_str(), run.cmd), ("nobody", Some(vec!["sleep".to_owned()])));
        let mut run = RunConfig { entrypoint: Some(vec!["serve".to_owned()]), ..RunConfig::default() };
        inherit(&mut run, &container);
        assert_eq!(run.cmd, None);
    }

    #[test]
    fn names_are_checked() {
        let named =
            |repository: &str, tag: &str| image_name(&Commit { repository: repository.into(), tag: tag.into(), ..Commit::default() });
        assert_eq!(named("me/c", "v1").expect("good").map(|name| name.familiar()), Some("me/c:v1".to_owned()));
        assert!(named("", "").expect("none").is_none());
        assert!(named("Me", "").is_err());
    }
}

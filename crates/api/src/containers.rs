//! Containers: their life cycle, their output, their list.

use std::sync::Arc;

use engine::Engine;
use engine::request::{Attach, Change, CreateContainer, ListContainers, ReadLogs, RemoveContainer, WaitCondition};
use futures_util::stream;
use hyper::StatusCode;
use jiff::Timestamp;
use serde_json::json;
use types::container::{CreateRequest, UpdateRequest};

use crate::container_json;
use crate::error::Failure;
use crate::hijack::Hijack;
use crate::http::{self, JSON, Outcome, Reply, Request, no_content, ok, received, streamed, to_the_end};
use crate::streams::{Shown, content_type, encode_records, json_line};

pub async fn list(engine: Arc<Engine>, request: Request) -> Outcome {
    let query = &request.query;
    let limit = query.number("limit")?.and_then(|limit| usize::try_from(limit).ok()).filter(|limit| *limit > 0);
    let wanted = ListContainers { all: query.flag("all"), limit, size: query.flag("size"), filters: query.filters()? };
    let views = engine.list_containers(wanted).await?;
    let now = Timestamp::now();
    ok(&views.iter().map(|view| container_json::summary(view, now)).collect::<Vec<_>>())
}

pub async fn inspect(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let view = engine.inspect_container(name, request.query.flag("size")).await?;
    ok(&container_json::inspect(&view))
}

pub async fn create(engine: Arc<Engine>, request: Request) -> Outcome {
    let text = |name: &str| request.query.get(name).map(str::to_owned);
    let (name, platform) = (text("name"), text("platform"));
    let body = request.bytes().await?;
    let asked = CreateRequest::from_slice(&body).map_err(bad_json)?;
    let name = name.map(|name| name.strip_prefix('/').map(str::to_owned).unwrap_or(name));
    let wanted = CreateContainer { name, platform, request: asked };
    let created = to_the_end(async move { engine.create_container(wanted).await }).await?;
    http::json(StatusCode::CREATED, &json!({ "Id": created.id, "Warnings": created.warnings }))
}

pub async fn start(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    if request.query.get("checkpoint").is_some() {
        return Err(Failure::not_served("starting from a checkpoint"));
    }
    let name = name.to_owned();
    if !request.query.flag("trace") {
        return changed(to_the_end(async move { engine.start_container(&name).await }).await?);
    }
    let (starting, started) = (engine.clone(), name.clone());
    to_the_end(async move { starting.start_container(&started).await }).await?;
    let steps = engine.start_trace(&name)?.steps();
    let steps: Vec<_> = steps.iter().map(|step| json!({ "Name": step.name, "At": step.at_ns })).collect();
    ok(&json!({ "Steps": steps }))
}

pub async fn stop(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (name, signal, timeout) = stop_parameters(name, &request)?;
    changed(to_the_end(async move { engine.stop_container(&name, signal.as_deref(), timeout).await }).await?)
}

pub async fn restart(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (name, signal, timeout) = stop_parameters(name, &request)?;
    to_the_end(async move { engine.restart_container(&name, signal.as_deref(), timeout).await }).await?;
    no_content()
}

fn stop_parameters(name: &str, request: &Request) -> Result<(String, Option<String>, Option<i64>), Failure> {
    Ok((name.to_owned(), request.query.get("signal").map(str::to_owned), request.query.number("t")?))
}

pub async fn kill(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (name, signal) = (name.to_owned(), request.query.get("signal").map(str::to_owned));
    to_the_end(async move { engine.kill_container(&name, signal.as_deref()).await }).await?;
    no_content()
}

pub async fn pause(engine: Arc<Engine>, name: &str) -> Outcome {
    let name = name.to_owned();
    to_the_end(async move { engine.pause_container(&name).await }).await?;
    no_content()
}

pub async fn unpause(engine: Arc<Engine>, name: &str) -> Outcome {
    let name = name.to_owned();
    to_the_end(async move { engine.unpause_container(&name).await }).await?;
    no_content()
}

pub async fn rename(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (name, new) = (name.to_owned(), request.query.get("name").unwrap_or_default().to_owned());
    to_the_end(async move { engine.rename_container(&name, new.strip_prefix('/').unwrap_or(&new)).await }).await?;
    no_content()
}

pub async fn update(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let body = request.bytes().await?;
    let asked = UpdateRequest::from_slice(&body).map_err(bad_json)?;
    let name = name.to_owned();
    let warnings = to_the_end(async move { engine.update_container(&name, asked).await }).await?;
    ok(&json!({ "Warnings": if warnings.is_empty() { None } else { Some(warnings) } }))
}

pub async fn resize(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let (rows, columns) = size(&request)?;
    engine.resize_container(name, rows, columns).await?;
    Ok(http::empty(StatusCode::OK))
}

/// A terminal's size.
pub fn size(request: &Request) -> Result<(u16, u16), Failure> {
    let side = |name: &str| {
        let number = request.query.number(name)?.unwrap_or_default();
        u16::try_from(number).map_err(|_| Failure::bad(format!("invalid size of a terminal: {name} = {number}")))
    };
    Ok((side("h")?, side("w")?))
}

pub async fn remove(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    if request.query.flag("link") {
        return Err(Failure::not_served("removing a link between containers"));
    }
    let how = RemoveContainer { force: request.query.flag("force"), volumes: request.query.flag("v") };
    let name = name.to_owned();
    to_the_end(async move { engine.remove_container(&name, how).await }).await?;
    no_content()
}

pub async fn prune(engine: Arc<Engine>, request: Request) -> Outcome {
    let filters = request.query.filters()?;
    let pruned = to_the_end(async move { engine.prune_containers(filters).await }).await?;
    let deleted = Some(pruned.deleted).filter(|deleted| !deleted.is_empty());
    ok(&json!({ "ContainersDeleted": deleted, "SpaceReclaimed": pruned.reclaimed }))
}

pub async fn top(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let processes = engine.top(name, request.query.get("ps_args")).await?;
    ok(&json!({ "Titles": processes.titles, "Processes": processes.rows }))
}

pub async fn logs(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let query = &request.query;
    let wanted = ReadLogs {
        follow: query.flag("follow"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        since: query.moment("since")?,
        until: query.moment("until")?,
        // "all" and what is no number mean everything.
        tail: query.get("tail").and_then(|tail| tail.parse().ok()),
    };
    let (timestamps, details) = (query.flag("timestamps"), query.flag("details"));
    let reader = engine.logs(name, wanted).await?;
    let tty = reader.tty;
    let shown = Shown { raw: tty, timestamps, details };
    let pieces = received(reader.records, move |records| Ok(encode_records(&records, shown)));
    Ok(streamed(content_type(request.version, tty), pieces))
}

/// The head goes out before the condition holds: clients start the container only when they have it.
pub async fn wait(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let condition = match request.query.get("condition").filter(|_| request.version.since(30)) {
        None | Some("not-running") => WaitCondition::NotRunning,
        Some("next-exit") => WaitCondition::NextExit,
        Some("removed") => WaitCondition::Removed,
        Some(other) => return Err(Failure::bad(format!("invalid condition: {other:?}: not-running, next-exit or removed is expected"))),
    };
    let exit = engine.wait_container(name, condition)?;
    let answer = async move {
        let exit = exit.await;
        // Whoever waits for the removal is told of the removal's failure only, not why the container did not start.
        match exit.error.filter(|_| condition != WaitCondition::Removed) {
            None => json_line(&json!({ "StatusCode": exit.code })),
            Some(message) => json_line(&json!({ "StatusCode": exit.code, "Error": { "Message": message } })),
        }
    };
    Ok(streamed(JSON, stream::once(answer)))
}

pub async fn attach(engine: Arc<Engine>, name: &str, request: Request) -> Result<Option<Reply>, Failure> {
    let ticket = engine.attach(name, attach_parameters(&request))?;
    let client = Hijack::of(&request).take(ticket.tty).await?;
    tokio::spawn(ticket.run(client));
    Ok(None)
}

/// The same through a websocket, whose frames tell nothing of streams: output and errors are one.
pub async fn attach_websocket(engine: Arc<Engine>, name: &str, request: Request) -> Result<Option<Reply>, Failure> {
    let accept = crate::websocket::accept(&request.headers)?;
    let ticket = engine.attach(name, Attach { raw: true, ..attach_parameters(&request) })?;
    let client = Hijack::of(&request).take_websocket(&accept).await?;
    let client = crate::websocket::unframed(client)
        .map_err(|error| Failure::new(types::ErrorKind::Internal, format!("take the websocket over: {error}")))?;
    tokio::spawn(ticket.run(client));
    Ok(None)
}

fn attach_parameters(request: &Request) -> Attach {
    let query = &request.query;
    Attach {
        raw: false,
        logs: query.flag("logs"),
        stream: query.flag("stream"),
        stdin: query.flag("stdin"),
        stdout: query.flag("stdout"),
        stderr: query.flag("stderr"),
        detach_keys: query.get("detachKeys").map(str::to_owned),
    }
}

/// A body that is no JSON, or not of the right shape.
pub fn bad_json(error: serde_json::Error) -> Failure {
    if error.is_eof() {
        return Failure::bad("invalid JSON: unexpected EOF");
    }
    Failure::bad(format!("invalid JSON: {error}"))
}

fn changed(change: Change) -> Outcome {
    match change {
        Change::Done => no_content(),
        Change::Already => Ok(http::empty(StatusCode::NOT_MODIFIED)),
    }
}

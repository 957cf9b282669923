//! From method and path to the handler.

use std::sync::Arc;

use engine::Engine;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::ORIGIN;
use types::ErrorKind;

use crate::error::Failure;
use crate::http::{self, Inflow, Outcome, Reply, Request};
use crate::query::{Query, segments};
use crate::version::{self, Unserved};
use crate::wire::Connection;
use crate::{build, containers, events, exec, files, images, networks, push, system, volumes};

/// What Docker says of everything about swarms on a machine that is in none.
const NO_SWARM: &str =
    "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.";

/// Answers a request. Nothing: its connection was taken over.
pub(crate) async fn answer(
    engine: Arc<Engine>,
    connection: Arc<Connection>,
    request: hyper::Request<Incoming>,
) -> Result<Option<Reply>, Failure> {
    let (parts, body) = request.into_parts();
    if connection.is_tcp() && parts.headers.contains_key(ORIGIN) {
        return Err(Failure::new(ErrorKind::Forbidden, "web pages may not use the engine"));
    }
    let path = segments(parts.uri.path());
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let (version, path) = match version::split(&path) {
        Ok(found) => found,
        Err(old @ Unserved::TooOld(_)) => {
            // Clients that old expect plain text.
            let reply = http::text(StatusCode::BAD_REQUEST, format!("{old}\n"));
            return Ok(Some(http::with_header(reply, "x-content-type-options", "nosniff")));
        }
        Err(new @ Unserved::TooNew(_)) => return Err(Failure::bad(new.to_string())),
    };
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let request = Request { method: parts.method, version, query, headers: parts.headers, body: Inflow::new(body), connection };
    match path {
        ["containers", rest @ ..] => container(engine, rest, request).await,
        ["exec", rest @ ..] => exec_instance(engine, rest, request).await,
        ["images", rest @ ..] => image(engine, rest, request).await.map(Some),
        ["volumes", rest @ ..] => volume(engine, rest, request).await.map(Some),
        ["networks", rest @ ..] => network(engine, rest, request).await.map(Some),
        _ => other(engine, path, request).await.map(Some),
    }
}

async fn container(engine: Arc<Engine>, path: &[&str], request: Request) -> Result<Option<Reply>, Failure> {
    let method = request.method.clone();
    let outcome = match (method.as_str(), path) {
        ("GET", ["json"]) => containers::list(engine, request).await,
        ("POST", ["create"]) => containers::create(engine, request).await,
        ("POST", ["prune"]) => containers::prune(engine, request).await,
        ("GET", [name, "json"]) => containers::inspect(engine, name, request).await,
        ("GET", [name, "top"]) => containers::top(engine, name, request).await,
        ("GET", [name, "logs"]) => containers::logs(engine, name, request).await,
        ("GET", [name, "stats"]) => crate::stats::stats(engine, name, request).await,
        ("POST", [name, "resize"]) => containers::resize(engine, name, request).await,
        ("POST", [name, "start"]) => containers::start(engine, name, request).await,
        ("POST", [name, "stop"]) => containers::stop(engine, name, request).await,
        ("POST", [name, "restart"]) => containers::restart(engine, name, request).await,
        ("POST", [name, "kill"]) => containers::kill(engine, name, request).await,
        ("POST", [name, "update"]) => containers::update(engine, name, request).await,
        ("POST", [name, "rename"]) => containers::rename(engine, name, request).await,
        ("POST", [name, "pause"]) => containers::pause(engine, name).await,
        ("POST", [name, "unpause"]) => containers::unpause(engine, name).await,
        ("POST", [name, "wait"]) => containers::wait(engine, name, request).await,
        ("POST", [name, "exec"]) => exec::create(engine, name, request).await,
        ("DELETE", [name]) => containers::remove(engine, name, request).await,
        ("POST", [name, "attach"]) => return containers::attach(engine, name, request).await,
        ("GET", [name, "attach", "ws"]) => return containers::attach_websocket(engine, name, request).await,
        ("GET", [name, "changes"]) => files::changes(engine, name).await,
        ("GET", [name, "export"]) => files::export(engine, name).await,
        ("HEAD", [name, "archive"]) => files::stat(engine, name, request).await,
        ("GET", [name, "archive"]) => files::get(engine, name, request).await,
        ("PUT", [name, "archive"]) => files::put(engine, name, request).await,
        _ => Err(Failure::no_page()),
    };
    outcome.map(Some)
}

async fn exec_instance(engine: Arc<Engine>, path: &[&str], request: Request) -> Result<Option<Reply>, Failure> {
    match (request.method.as_str(), path) {
        ("GET", [id, "json"]) => exec::inspect(engine, id).await.map(Some),
        ("POST", [id, "start"]) => exec::start(engine, id, request).await,
        ("POST", [id, "resize"]) => exec::resize(engine, id, request).await.map(Some),
        _ => Err(Failure::no_page()),
    }
}

/// Names of images have slashes: the segments between the first and the last are the name's.
async fn image(engine: Arc<Engine>, path: &[&str], request: Request) -> Outcome {
    let method = request.method.clone();
    match (method.as_str(), path) {
        ("GET", ["json"]) => images::list(engine, request).await,
        ("POST", ["create"]) => images::create(engine, request).await,
        ("POST", ["load"]) => images::load(engine, request).await,
        ("POST", ["prune"]) => images::prune(engine, request).await,
        ("GET", ["get"]) => images::save(engine, request.query.all("names"), request).await,
        ("GET", ["search"]) => images::search(engine, request).await,
        ("GET", [name @ .., "json"]) if !name.is_empty() => images::inspect(engine, &name.join("/"), request).await,
        ("GET", [name @ .., "history"]) if !name.is_empty() => images::history(engine, &name.join("/"), request).await,
        ("GET", [name @ .., "get"]) if !name.is_empty() => images::save(engine, vec![name.join("/")], request).await,
        ("POST", [name @ .., "tag"]) if !name.is_empty() => images::tag(engine, &name.join("/"), request).await,
        ("POST", [name @ .., "push"]) if !name.is_empty() => push::push(engine, &name.join("/"), request).await,
        ("DELETE", name) if !name.is_empty() => images::remove(engine, &name.join("/"), request).await,
        _ => Err(Failure::no_page()),
    }
}

async fn volume(engine: Arc<Engine>, path: &[&str], request: Request) -> Outcome {
    let method = request.method.clone();
    match (method.as_str(), path) {
        ("GET", []) => volumes::list(engine, request).await,
        ("POST", ["create"]) => volumes::create(engine, request).await,
        ("POST", ["prune"]) => volumes::prune(engine, request).await,
        ("GET", [name]) => volumes::inspect(engine, name).await,
        ("DELETE", [name]) => volumes::remove(engine, name, request).await,
        ("PUT", [_]) => Err(Failure::new(ErrorKind::Unavailable, NO_SWARM)),
        _ => Err(Failure::no_page()),
    }
}

async fn network(engine: Arc<Engine>, path: &[&str], request: Request) -> Outcome {
    let method = request.method.clone();
    match (method.as_str(), path) {
        ("GET", []) => networks::list(engine, request).await,
        ("GET", [name]) => networks::inspect(engine, name).await,
        ("POST", ["prune"]) => networks::prune(engine, request).await,
        ("POST", ["create"]) => networks::create(engine, request).await,
        ("DELETE", [name]) => networks::remove(engine, name).await,
        ("POST", [name, "connect"]) => networks::connect(engine, name, request).await,
        ("POST", [name, "disconnect"]) => networks::disconnect(engine, name, request).await,
        _ => Err(Failure::no_page()),
    }
}

async fn other(engine: Arc<Engine>, path: &[&str], request: Request) -> Outcome {
    match (request.method.as_str(), path) {
        ("GET" | "HEAD", ["_ping"]) => Ok(system::ping()),
        ("GET", ["version"]) => system::version(),
        ("GET", ["metrics"]) => Ok(system::metrics(&engine)),
        ("GET", ["info"]) => system::info(engine, request).await,
        ("GET", ["events"]) => events::events(engine, request),
        ("GET", ["system", "df"]) => system::disk_usage(engine, request).await,
        ("POST", ["system", "fsck"]) => crate::fsck::fsck(engine, request).await,
        ("GET", ["plugins"]) => http::ok(&[(); 0]),
        ("POST", ["build"]) => build::build(engine, request).await,
        ("POST", ["build", "prune"]) => build::prune(engine, request).await,
        ("POST", ["build", "cancel"]) => build::cancel(engine, request).await,
        ("POST", ["commit"]) => files::commit(engine, request).await,
        ("POST", ["auth"]) => push::login(engine, request).await,
        ("POST", ["session" | "grpc"]) => Err(Failure::not_served("BuildKit's protocol")),
        ("GET", ["distribution", name @ .., "json"]) if !name.is_empty() => images::distribution(engine, &name.join("/"), request).await,
        ("GET", ["plugins", name @ .., "json"]) => Err(Failure::new(ErrorKind::NotFound, format!("plugin {:?} not found", name.join("/")))),
        (_, ["plugins", ..]) => Err(Failure::not_served("plugins")),
        ("POST", ["swarm", "init" | "join"]) => Err(Failure::not_served("swarms")),
        (_, ["swarm" | "nodes" | "services" | "tasks" | "secrets" | "configs", ..]) => Err(Failure::new(ErrorKind::Unavailable, NO_SWARM)),
        _ => Err(Failure::no_page()),
    }
}

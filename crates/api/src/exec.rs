//! Commands in running containers.

use std::sync::Arc;

use engine::Engine;
use engine::request::{ExecConfig, ExecView};
use hyper::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use types::container::List;
use types::lenient;

use crate::containers::{bad_json, size};
use crate::error::Failure;
use crate::hijack::Hijack;
use crate::http::{self, Outcome, Reply, Request, ok, to_the_end};

/// The body of a request that makes an exec.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct CreateBody {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    detach_keys: String,
    tty: bool,
    env: List<String>,
    #[serde(deserialize_with = "types::nullable::text_or_list")]
    cmd: List<String>,
    privileged: bool,
    user: String,
    working_dir: String,
    console_size: Option<[u16; 2]>,
}

/// The body of a request that starts it.
#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct StartBody {
    detach: bool,
    console_size: Option<[u16; 2]>,
}

pub async fn create(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    let body: CreateBody = lenient::from_slice(&request.bytes().await?).map_err(bad_json)?;
    let config = ExecConfig {
        cmd: body.cmd.into_vec(),
        env: body.env.into_vec(),
        user: body.user,
        working_dir: body.working_dir,
        privileged: body.privileged,
        tty: body.tty,
        attach_stdin: body.attach_stdin,
        attach_stdout: body.attach_stdout,
        attach_stderr: body.attach_stderr,
        detach_keys: Some(body.detach_keys).filter(|keys| !keys.is_empty()),
        console_size: body.console_size.map(Into::into),
    };
    let id = engine.create_exec(name, config)?;
    http::json(StatusCode::CREATED, &json!({ "Id": id }))
}

pub async fn start(engine: Arc<Engine>, id: &str, request: Request) -> Result<Option<Reply>, Failure> {
    let hijack = Hijack::of(&request);
    let body: StartBody = lenient::from_slice(&request.bytes().await?).map_err(bad_json)?;
    let size = body.console_size.map(Into::into);
    let ticket = engine.start_exec(id, size)?;
    if body.detach {
        to_the_end(ticket.detached()).await?;
        return Ok(Some(http::empty(StatusCode::OK)));
    }
    let client = hijack.take(ticket.tty).await?;
    tokio::spawn(ticket.attached(client));
    Ok(None)
}

pub async fn resize(engine: Arc<Engine>, id: &str, request: Request) -> Outcome {
    let (rows, columns) = size(&request)?;
    engine.resize_exec(id, rows, columns).await?;
    Ok(http::empty(StatusCode::OK))
}

pub async fn inspect(engine: Arc<Engine>, id: &str) -> Outcome {
    ok(&encode(&engine.inspect_exec(id).await?))
}

fn encode(view: &ExecView) -> Value {
    let config = &view.config;
    let (program, arguments) = config.cmd.split_first().map_or(("", &[][..]), |(program, arguments)| (program.as_str(), arguments));
    let mut process = json!({ "tty": config.tty, "entrypoint": program, "arguments": arguments, "privileged": config.privileged });
    if !config.user.is_empty() {
        process["user"] = json!(config.user);
    }
    json!({
        "ID": view.id,
        "Running": view.running,
        "ExitCode": view.exit_code,
        "ProcessConfig": process,
        "OpenStdin": config.attach_stdin,
        "OpenStderr": config.attach_stderr,
        "OpenStdout": config.attach_stdout,
        "CanRemove": false,
        "ContainerID": view.container,
        "DetachKeys": config.detach_keys.as_deref().unwrap_or_default(),
        "Pid": view.pid,
    })
}

#[cfg(test)]
mod tests {
    use types::Id;

    use super::*;

    #[test]
    fn an_exec_is_shown_as_docker_shows_it() {
        let config = ExecConfig {
            cmd: ["sh", "-c", "echo hi; exit 3"].map(str::to_owned).to_vec(),
            attach_stdout: true,
            attach_stderr: true,
            ..ExecConfig::default()
        };
        let (id, container) = (Id::random(), Id::random());
        let mut view = ExecView { id: id.clone(), container: container.clone(), config, running: false, exit_code: None, pid: 0 };
        let expected = json!({
            "ID": id, "Running": false, "ExitCode": null,
            "ProcessConfig": {"tty": false, "entrypoint": "sh", "arguments": ["-c", "echo hi; exit 3"], "privileged": false},
            "OpenStdin": false, "OpenStderr": true, "OpenStdout": true, "CanRemove": false, "ContainerID": container, "DetachKeys": "", "Pid": 0,
        });
        assert_eq!(encode(&view), expected);
        view.exit_code = Some(3);
        view.config.user = "root".to_owned();
        assert_eq!((&encode(&view)["ExitCode"], &encode(&view)["ProcessConfig"]["user"]), (&json!(3), &json!("root")));
    }
}

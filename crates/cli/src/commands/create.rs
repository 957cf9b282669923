//! `create`: a container from an image, not started.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use client::{Client, Request};
use serde_json::Value;

use super::pull;
use crate::command::Command;
use crate::context::{Context, print};
use crate::create::{CONTAINER_FLAGS, LIMIT_FLAGS, Plan, RESOURCE_FLAGS, SETTINGS_FLAGS, Surroundings, plan};
use crate::flags::{Arity, Matches};
use crate::list::text;
use crate::terminal;

pub const COMMAND: Command = Command {
    paths: &["container create", "create"],
    usage: "[OPTIONS] IMAGE [COMMAND] [ARG...]",
    about: "Create a container without starting it",
    flags: &[CONTAINER_FLAGS, RESOURCE_FLAGS, LIMIT_FLAGS, SETTINGS_FLAGS],
    arity: Arity::AtLeast(1),
    interspersed: false,
    failure: 1,
    run,
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let plan = read(m, false)?;
    let id = create(context, m, &plan)?;
    print(&format!("{id}\n"))?;
    Ok(0)
}

/// Reads the flags of `run` and `create`; what is wrong with them is exit code 125 for both.
pub fn read(m: &Matches, detached: bool) -> Result<Plan> {
    let directory = std::env::current_dir().context("find the working directory")?;
    let environment = |name: &str| std::env::var(name).ok();
    let plan = plan(m, detached, &Surroundings { environment: &environment, directory: &directory });
    plan.and_then(|plan| {
        if let Some(policy) = m.text("pull")
            && !matches!(policy, "always" | "missing" | "never")
        {
            bail!("invalid pull policy {policy:?}: expected always, missing or never");
        }
        if let Some(path) = m.text("cidfile")
            && Path::new(path).exists()
        {
            bail!("the file {path} of --cidfile is there already: remove it, or name another");
        }
        Ok(plan)
    })
    .map_err(|error| crate::context::Exit::with(125, crate::context::describe(&error)))
}

/// Creates the container, pulling its image when the policy asks for it. Returns the id.
pub fn create(context: &Context, m: &Matches, plan: &Plan) -> Result<String> {
    let client = context.client()?;
    let policy = m.text("pull").unwrap_or("missing");
    let quiet = m.on("quiet");
    if policy == "always" {
        pull::for_run(context, &plan.image, plan.platform.as_deref(), quiet)?;
    }
    let answer = match send(client, plan) {
        Err(error) if policy == "missing" && is_missing_image(&error) => {
            if !quiet {
                context.warn(&format!("image {} is not here: pulling it", plan.image));
            }
            pull::for_run(context, &plan.image, plan.platform.as_deref(), quiet)?;
            send(client, plan)?
        }
        other => other?,
    };
    for warning in answer["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        context.warn(&format!("warning: {warning}"));
    }
    let id = text(&answer, "/Id").to_owned();
    if let Some(path) = m.text("cidfile")
        && let Err(error) = write_new(path, &id)
    {
        // A container whose id was promised to a file is of no use without it.
        let _ = super::act(client, Request::delete(super::container_path(&id, "")?).query("force", "1").query("v", "1"));
        return Err(error).with_context(|| format!("write the container's id to {path}"));
    }
    Ok(id)
}

fn send(client: &Client, plan: &Plan) -> Result<Value, client::Error> {
    let mut body = plan.body.clone();
    if plan.tty
        && let Some((rows, columns)) = terminal::size()
    {
        body["HostConfig"]["ConsoleSize"] = serde_json::json!([rows, columns]);
    }
    client
        .send(
            Request::post("/containers/create")
                .query_opt("name", plan.name.as_deref())
                .query_opt("platform", plan.platform.as_deref())
                .json(&body),
        )?
        .json()
}

/// 404 is also the answer for a missing network or a missing container to share with.
fn is_missing_image(error: &client::Error) -> bool {
    error.is_not_found() && error.to_string().to_lowercase().contains("image")
}

fn write_new(path: &str, text: &str) -> Result<()> {
    let mut file = std::fs::File::create_new(path)?;
    file.write_all(text.as_bytes())?;
    Ok(())
}

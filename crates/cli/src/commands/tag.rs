//! `tag`: give an image one more name.

use anyhow::Result;
use client::Request;
use types::reference::ImageRef;

use super::{act, image_path};
use crate::command::Command;
use crate::context::Context;
use crate::flags::{Arity, Matches};

pub const COMMAND: Command = Command {
    paths: &["image tag", "tag"],
    usage: "SOURCE_IMAGE[:TAG] TARGET_IMAGE[:TAG]",
    about: "Give an image one more name",
    arity: Arity::Exactly(2),
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let target: ImageRef = m.positionals[1].parse()?;
    let target = target.with_default_tag();
    let request =
        Request::post(image_path(&m.positionals[0], "/tag")?).query("repo", target.familiar_name()).query_opt("tag", target.tag());
    act(context.client()?, request)?;
    Ok(0)
}

//! `system fsck`: verify what images are made of, and repair what is damaged.

use std::io;

use anyhow::Result;
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, switch};
use crate::list::{int, text};
use crate::progress::{self, Target};
use crate::terminal;

const FLAGS: &[Flag] = &[switch("check", None, "Repair nothing"), switch("quiet", Some('q'), "Show the damage only, not how it goes")];

pub const COMMAND: Command = Command {
    paths: &["system fsck"],
    usage: "[OPTIONS]",
    about: "Verify every layer and manifest, and fetch what is damaged from its registry again",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let request = Request::post("/system/fsck").query_flag("check", m.on("check"));
    let response = context.client()?.send(request)?;
    let mut found = Value::Null;
    let mut target = Target { out: &mut io::stdout(), terminal: terminal::stdout_is_terminal(), quiet: m.on("quiet") };
    progress::show(response, &mut target, &mut |aux| found = aux.clone())?;
    let (shown, left) = report(&found);
    print(&shown)?;
    Ok(i32::from(left > 0))
}

/// What was found, and how much of it is still damaged.
fn report(found: &Value) -> (String, usize) {
    let mut shown = String::new();
    let mut left = 0;
    for damage in found["Damaged"].as_array().into_iter().flatten() {
        let names: Vec<&str> = damage["Images"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let outcome = match text(damage, "/RepairedFrom") {
            "" => {
                left += 1;
                format!("not repaired: {}", text(damage, "/NotRepaired"))
            }
            source => format!("repaired from {source}"),
        };
        shown += &format!("{} of {}: {}; {outcome}\n", text(damage, "/Digest"), names.join(", "), text(damage, "/Reason"));
    }
    let (layers, documents) = (int(found, "/Layers"), int(found, "/Documents"));
    let total = found["Damaged"].as_array().map_or(0, Vec::len);
    shown += &format!("{layers} layers and {documents} documents verified: {total} damaged, {} repaired\n", total - left);
    (shown, left)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_left_damaged_is_counted() {
        let found = json!({"Layers": 3, "Documents": 2, "Damaged": [
            {"Digest": "sha256:a", "Reason": "it is missing", "Images": ["x:1"], "RepairedFrom": "r.example/x", "NotRepaired": ""},
            {"Digest": "sha256:b", "Reason": "it has another mode", "Images": ["y:1", "z:1"], "RepairedFrom": "", "NotRepaired": "no registry"},
        ]});
        let (shown, left) = report(&found);
        assert_eq!(left, 1);
        assert_eq!(
            shown,
            "sha256:a of x:1: it is missing; repaired from r.example/x\nsha256:b of y:1, z:1: it has another mode; not repaired: no registry\n3 layers and 2 documents verified: 2 damaged, 1 repaired\n"
        );
    }
}

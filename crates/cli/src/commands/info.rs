//! `info`: what the engine is and what it has.

use anyhow::Result;
use client::Request;
use serde_json::Value;

use crate::command::Command;
use crate::context::{Context, print};
use crate::flags::{Flag, Matches, text};
use crate::list::{int, text as field};
use crate::template::Template;
use crate::units::binary_size;

const FLAGS: &[Flag] = &[text("format", Some('f'), "Show by a Go template, or json")];

pub const COMMAND: Command = Command {
    paths: &["system info", "info"],
    usage: "[OPTIONS]",
    about: "Show what the engine is and what it has",
    flags: &[FLAGS],
    run,
    ..Command::BASE
};

fn run(context: &Context, m: &Matches) -> Result<i32> {
    let info: Value = context.client()?.send(Request::get("/info"))?.json()?;
    let shown = match m.text("format").filter(|format| !format.is_empty()) {
        None => page(&info),
        Some(format) => format!("{}\n", Template::parse(if format == "json" { "{{json .}}" } else { format })?.run(&info)?),
    };
    print(&shown)?;
    for warning in info["Warnings"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        context.warn(warning);
    }
    Ok(0)
}

/// Lines of `Name: value`; what the engine does not tell is left out.
fn page(info: &Value) -> String {
    let mut text = format!("Client:\n Version: {}\n\nServer:\n", env!("CARGO_PKG_VERSION"));
    let mut line = |depth: usize, name: &str, value: String| {
        if !value.is_empty() {
            text.push_str(&format!("{}{name}: {value}\n", " ".repeat(depth)));
        }
    };
    let count = |pointer: &str| int(info, pointer).to_string();
    let word = |pointer: &str| field(info, pointer).to_owned();
    line(1, "Containers", count("/Containers"));
    line(2, "Running", count("/ContainersRunning"));
    line(2, "Paused", count("/ContainersPaused"));
    line(2, "Stopped", count("/ContainersStopped"));
    line(1, "Images", count("/Images"));
    line(1, "Server Version", word("/ServerVersion"));
    line(1, "Storage Driver", word("/Driver"));
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        line(2, field(pair, "/0"), field(pair, "/1").to_owned());
    }
    line(1, "Logging Driver", word("/LoggingDriver"));
    line(1, "Cgroup Driver", word("/CgroupDriver"));
    line(1, "Cgroup Version", word("/CgroupVersion"));
    let names = |pointer: &str| {
        info.pointer(pointer).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
    };
    line(1, "Volume Drivers", names("/Plugins/Volume"));
    line(1, "Network Drivers", names("/Plugins/Network"));
    let runtimes = info["Runtimes"].as_object().map(|map| map.keys().map(String::as_str).collect::<Vec<_>>().join(" "));
    line(1, "Runtimes", runtimes.unwrap_or_default());
    line(1, "Default Runtime", word("/DefaultRuntime"));
    line(1, "Security Options", names("/SecurityOptions"));
    line(1, "Kernel Version", word("/KernelVersion"));
    line(1, "Operating System", word("/OperatingSystem"));
    line(1, "OSType", word("/OSType"));
    line(1, "Architecture", word("/Architecture"));
    line(1, "CPUs", count("/NCPU"));
    line(1, "Total Memory", binary_size(int(info, "/MemTotal") as f64));
    line(1, "Name", word("/Name"));
    line(1, "ID", word("/ID"));
    line(1, "Data Root", word("/DockerRootDir"));
    line(1, "Live Restore Enabled", info["LiveRestoreEnabled"].as_bool().map(|set| set.to_string()).unwrap_or_default());
    text
}

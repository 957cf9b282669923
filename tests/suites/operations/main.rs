//! Operations on containers beyond the everyday: what is kept over a restart of the engine, log drivers, secrets, probes, pruning.

#![forbid(unsafe_code)]

mod attach;
mod daemon;
mod events;
mod files;
mod health;
mod logs;
mod monitors;
mod prune;
mod secrets;

use anyhow::Result;
use tests::Engine;

/// Runs a check against an engine that has the busybox image.
fn with_engine(name: &str, check: impl FnOnce(&mut Engine) -> Result<()>) -> Result<()> {
    if tests::skip_unless_root() {
        return Ok(());
    }
    let mut engine = Engine::with_busybox(name)?;
    let outcome = check(&mut engine);
    if outcome.is_err() {
        eprintln!("the engine said:\n{}", engine.log());
        engine.forgive_leaks();
    }
    outcome
}

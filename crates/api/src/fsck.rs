//! Verifying the store: a request of Cais's own.

use std::sync::Arc;

use engine::Engine;
use engine::image::{Checked, Damage};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use types::ErrorKind;

use crate::error::Failure;
use crate::http::{JSON, Outcome, Request, streamed};
use crate::images::{Bound, PROGRESS_QUEUE_LEN_MAX, error_line};
use crate::streams::progress_line;

type Task = Bound<engine::image::Result<Checked>>;

/// Lines that tell how it goes, then one that tells what was found. Ends when its client goes.
pub async fn fsck(engine: Arc<Engine>, request: Request) -> Outcome {
    let repair = !request.query.flag("check");
    let (sender, lines) = mpsc::channel(PROGRESS_QUEUE_LEN_MAX);
    let task: Task = Bound(tokio::spawn(async move { engine.images().fsck(repair, sender).await }));
    let lines = stream::unfold((lines, Some(task)), |(mut lines, mut task): (mpsc::Receiver<String>, Option<Task>)| async move {
        let line = match lines.recv().await {
            Some(line) => json!({ "status": line }),
            None => end(task.take()?).await,
        };
        Some((progress_line(&line), (lines, task)))
    });
    Ok(streamed(JSON, lines))
}

async fn end(mut task: Task) -> Value {
    match (&mut task.0).await {
        Ok(Ok(checked)) => json!({ "aux": encode(&checked) }),
        Ok(Err(error)) => error_line(&Failure::of(&error)),
        Err(error) => error_line(&Failure::new(ErrorKind::Internal, format!("the verification ended: {error}"))),
    }
}

fn encode(checked: &Checked) -> Value {
    let damage = |damage: &Damage| {
        json!({
            "Digest": damage.digest,
            "Reason": damage.reason,
            "Images": damage.images,
            "RepairedFrom": damage.repaired.as_deref().unwrap_or_default(),
            "NotRepaired": damage.repaired.as_ref().err().cloned().unwrap_or_default(),
        })
    };
    json!({ "Layers": checked.layers, "Documents": checked.documents, "Damaged": checked.damaged.iter().map(damage).collect::<Vec<_>>() })
}

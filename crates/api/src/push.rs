//! Pushing images, and checking the credentials for it.

use std::sync::Arc;

use engine::Engine;
use engine::image::{PushLine, Pushed};
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use types::ErrorKind;

use crate::error::Failure;
use crate::http::{JSON, Outcome, Request, ok, streamed};
use crate::images::{Bound, PROGRESS_QUEUE_LEN_MAX, encode_progress, error_line, reference};
use crate::registry_auth::{self, AuthConfig};
use crate::streams::progress_line;

type Task = Bound<engine::image::Result<Vec<Pushed>>>;

/// Sends a tag, or without one all tags of the repository. Ends when its client goes; what fails once it has begun is a line of the stream.
pub async fn push(engine: Arc<Engine>, name: &str, request: Request) -> Outcome {
    if request.query.get("platform").is_some() {
        return Err(Failure::not_served("choosing a platform to push"));
    }
    let credentials = registry_auth::credentials(&request.headers)?;
    let name = reference(name, request.query.get("tag"))?;
    engine.images().pushed_tags(&name, name.tag()).map_err(|error| Failure::of(&error))?;
    let (sender, lines) = mpsc::channel(PROGRESS_QUEUE_LEN_MAX);
    let task = tokio::spawn(async move { engine.images().push(&name, name.tag(), credentials.as_ref(), sender).await });
    let push: (mpsc::Receiver<PushLine>, Option<Task>) = (lines, Some(Bound(task)));
    let lines = stream::unfold(push, |(mut lines, mut task)| async move {
        let line = match lines.recv().await {
            Some(line) => encode(&line),
            None => error_line(&end(task.take()?).await?),
        };
        Some((progress_line(&line), (lines, task)))
    });
    Ok(streamed(JSON, lines))
}

/// Why it failed, if it did.
async fn end(mut task: Task) -> Option<Failure> {
    match (&mut task.0).await {
        Ok(Ok(_)) => None,
        Ok(Err(error)) => Some(Failure::of(&error)),
        Err(error) => Some(Failure::new(ErrorKind::Internal, format!("the push ended: {error}"))),
    }
}

fn encode(line: &PushLine) -> Value {
    match line {
        PushLine::Progress(progress) => encode_progress(progress),
        PushLine::Pushed(Pushed { tag, digest, size }) => {
            json!({ "progressDetail": {}, "aux": { "Tag": tag, "Digest": digest, "Size": size } })
        }
    }
}

/// Checks a user's password at a registry. Nothing is kept.
pub async fn login(engine: Arc<Engine>, request: Request) -> Outcome {
    let body = request.bytes().await?;
    let config: AuthConfig = serde_json::from_slice(&body).map_err(|error| Failure::bad(format!("invalid credentials: {error}")))?;
    let domain = config.domain();
    let Some(credentials) = config.credentials() else {
        return Err(Failure::bad("a user name and a password are needed"));
    };
    let identity = engine.images().login(&domain, &credentials).await.map_err(|error| Failure::of(&error))?;
    ok(&json!({ "Status": "Login Succeeded", "IdentityToken": identity.unwrap_or_default() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pushed_tag_is_told_as_docker_tells_it() {
        let digest: types::Digest = format!("sha256:{}", "0".repeat(64)).parse().expect("a digest");
        let line = encode(&PushLine::Pushed(Pushed { tag: "1".to_owned(), digest: digest.clone(), size: 7 }));
        assert_eq!(line, json!({ "progressDetail": {}, "aux": { "Tag": "1", "Digest": digest, "Size": 7 } }));
    }
}

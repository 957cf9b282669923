//! Events as they come, one line of JSON each.

use std::sync::Arc;

use engine::Engine;
use engine::request::{Event, ReadEvents};
use serde_json::{Value, json};

use crate::http::{JSON, Outcome, Request, received, streamed};
use crate::streams::json_line;

pub fn events(engine: Arc<Engine>, request: Request) -> Outcome {
    let query = &request.query;
    let wanted = ReadEvents { since: query.moment("since")?, until: query.moment("until")?, filters: query.filters()? };
    let events = engine.events(wanted)?;
    Ok(streamed(JSON, received(events, |event| json_line(&encode(&event)))))
}

/// An event with the older names of its fields beside the newer ones, where Docker has them.
fn encode(event: &Event) -> Value {
    let mut line = json!({
        "Type": event.kind,
        "Action": event.action,
        "Actor": { "ID": event.id, "Attributes": event.attributes },
        "scope": "local",
        "time": event.time.as_second(),
        "timeNano": i64::try_from(event.time.as_nanosecond()).unwrap_or(i64::MAX),
    });
    if matches!(event.kind, "container" | "image") {
        line["status"] = json!(event.action);
        line["id"] = json!(event.id);
    }
    if event.kind == "container" {
        line["from"] = json!(event.attributes.get("image").map_or("", String::as_str));
    }
    line
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn events_of_containers_and_images_have_the_older_names_too() {
        let mut event = Event {
            kind: "container",
            action: "start".to_owned(),
            id: "abc".to_owned(),
            attributes: BTreeMap::from([("image".to_owned(), "busybox:latest".to_owned()), ("name".to_owned(), "g1".to_owned())]),
            time: "2026-11-22T10:51:27.2000863Z".parse().expect("a time"),
        };
        let expected = json!({
            "Type": "container", "Action": "start", "Actor": {"ID": "abc", "Attributes": {"image": "busybox:latest", "name": "g1"}},
            "scope": "local", "time": 1_795_344_687, "timeNano": 1_795_344_687_200_086_300_i64,
            "status": "start", "id": "abc", "from": "busybox:latest",
        });
        assert_eq!(encode(&event), expected);
        event.kind = "network";
        let keys: Vec<String> = encode(&event).as_object().expect("an object").keys().cloned().collect();
        assert_eq!(keys, ["Type", "Action", "Actor", "scope", "time", "timeNano"]);
    }
}

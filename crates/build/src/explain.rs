//! Why a step's result is not known: what differs from the last time that the same step of the same build was carried out.

use std::collections::BTreeMap;

/// How many changed files are named.
const NAMED_MAX: usize = 3;

/// The instruction in a step's name: `RUN make` of `[build 2/5] RUN make`.
pub(crate) fn instruction(name: &str) -> &str {
    name.split_once("] ").map_or(name, |(_, instruction)| instruction)
}

/// Where in the Dockerfile a step's name says it is: `[build 2/5`.
pub(crate) fn place(name: &str) -> &str {
    name.split_once(']').map_or(name, |(place, _)| place)
}

/// What differs between the inputs of before and those of now.
pub(crate) fn miss(before: Option<&BTreeMap<String, String>>, now: &BTreeMap<String, String>) -> String {
    let Some(before) = before else { return "it was not built before".to_owned() };
    let differs = |name: &str| before.get(name) != now.get(name);
    let mut reasons = Vec::new();
    if differs("instruction") {
        reasons.push(format!("the instruction changed from {:?}", before.get("instruction").map_or("", String::as_str)));
    } else if differs("step") {
        reasons.push("the instruction's variables or options changed".to_owned());
    }
    if differs("base") {
        reasons.push("what it builds on changed".to_owned());
    }
    if differs("platform") {
        reasons.push("the platform changed".to_owned());
    }
    for name in settings(before).chain(settings(now)).collect::<std::collections::BTreeSet<_>>() {
        if differs(name) {
            reasons.push(format!("the {name} changed"));
        }
    }
    reasons.extend(files(before, now));
    match reasons.is_empty() {
        true => "its result was removed from the cache".to_owned(),
        false => reasons.join("; "),
    }
}

fn settings(inputs: &BTreeMap<String, String>) -> impl Iterator<Item = &str> {
    inputs.keys().map(String::as_str).filter(|name| name.starts_with("setting "))
}

fn files(before: &BTreeMap<String, String>, now: &BTreeMap<String, String>) -> Option<String> {
    let file = |name: &str| name.strip_prefix("file ").map(str::to_owned);
    let mut changes = Vec::new();
    for (name, hash) in now {
        let Some(path) = file(name) else { continue };
        match before.get(name) {
            None => changes.push(format!("{path} is new")),
            Some(old) if old != hash => changes.push(format!("{path} changed")),
            Some(_) => {}
        }
    }
    changes.extend(before.keys().filter(|name| !now.contains_key(*name)).filter_map(|name| Some(format!("{} is gone", file(name)?))));
    // A folder differs whenever something in it does.
    let more = changes.len().saturating_sub(NAMED_MAX);
    changes.truncate(NAMED_MAX);
    let mut text = changes.join(", ");
    if more > 0 {
        text.push_str(&format!(" and {more} more"));
    }
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
        pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn the_changed_input_is_named() {
        let before = inputs(&[("base", "b"), ("instruction", "COPY . ."), ("step", "s"), ("file a", "1"), ("file gone", "1")]);
        let now = inputs(&[("base", "b"), ("instruction", "COPY . ."), ("step", "s"), ("file a", "2"), ("file new", "1")]);
        assert_eq!(miss(Some(&before), &now), "a changed, new is new, gone is gone");
        assert_eq!(miss(Some(&now), &now), "its result was removed from the cache");
        assert_eq!(miss(None, &now), "it was not built before");
        let other = inputs(&[("base", "c"), ("instruction", "RUN x"), ("step", "t"), ("setting network", "host")]);
        let text = miss(Some(&inputs(&[("base", "b"), ("instruction", "RUN y"), ("step", "s"), ("setting network", "none")])), &other);
        assert_eq!(text, "the instruction changed from \"RUN y\"; what it builds on changed; the setting network changed");
    }

    #[test]
    fn names_of_steps_have_a_place_and_an_instruction() {
        assert_eq!(instruction("[build 2/5] RUN make [x] y"), "RUN make [x] y");
        assert_eq!(place("[build 2/5] RUN make"), "[build 2/5");
    }
}

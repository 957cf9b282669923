//! Names of containers: which are allowed, and how one is made up.

/// What a name looks like, for error messages.
pub(crate) const PATTERN: &str = "[a-zA-Z0-9][a-zA-Z0-9_.-]";

const FIRST: &[&str] = &[
    "amber", "ample", "autumn", "bold", "brave", "breezy", "bright", "brisk", "calm", "candid", "careful", "cheerful", "clear", "clever",
    "coastal", "copper", "crisp", "curious", "deft", "distant", "eager", "early", "earnest", "even", "fair", "faithful", "fleet", "fresh",
    "gentle", "glad", "golden", "graceful", "happy", "hardy", "honest", "humble", "jolly", "keen", "kind", "lively", "lofty", "loyal",
    "lucid", "mellow", "merry", "mighty", "misty", "modest", "nimble", "noble", "patient", "placid", "plucky", "polite", "proud", "quick",
    "quiet", "rapid", "ready", "robust", "rustic", "salty", "serene", "sharp", "silent", "silver", "simple", "sleek", "smooth", "snug",
    "sober", "solid", "spry", "steady", "stout", "sturdy", "sunny", "swift", "tidal", "tidy", "tranquil", "trusty", "upbeat", "valiant",
    "vivid", "warm", "wise", "witty", "young", "zesty",
];
const SECOND: &[&str] = &[
    "albatross",
    "anchor",
    "barge",
    "bay",
    "beacon",
    "berth",
    "boathook",
    "bollard",
    "bowsprit",
    "breakwater",
    "brig",
    "buoy",
    "canal",
    "capstan",
    "caravel",
    "clipper",
    "coaster",
    "compass",
    "cormorant",
    "crane",
    "current",
    "cutter",
    "dock",
    "dolphin",
    "estuary",
    "fender",
    "ferry",
    "fjord",
    "foghorn",
    "foremast",
    "frigate",
    "galleon",
    "gannet",
    "gull",
    "halyard",
    "harbour",
    "hawser",
    "heron",
    "hull",
    "inlet",
    "jetty",
    "kayak",
    "keel",
    "ketch",
    "lagoon",
    "lantern",
    "lighter",
    "lighthouse",
    "lugger",
    "mainsail",
    "marina",
    "mast",
    "mooring",
    "oar",
    "osprey",
    "otter",
    "packet",
    "pelican",
    "pier",
    "pilot",
    "porpoise",
    "quay",
    "reef",
    "rigging",
    "rudder",
    "sail",
    "schooner",
    "sextant",
    "shoal",
    "shore",
    "skiff",
    "sloop",
    "spar",
    "spinnaker",
    "strait",
    "tender",
    "tern",
    "tide",
    "tiller",
    "topsail",
    "trawler",
    "tug",
    "wharf",
    "winch",
    "windlass",
    "yawl",
];

/// Whether a text may be a container's name.
pub(crate) fn is_valid(name: &str) -> bool {
    let mut bytes = name.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.len() >= 2
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte))
}

/// A made-up name; from the fourth attempt on with a number, as all pairs may be taken.
pub(crate) fn made_up(attempt: u32) -> String {
    let pick = |words: &[&'static str], seed: u32| words[seed as usize % words.len()];
    let seed = getrandom::u64().unwrap_or_default();
    let name = format!("{}_{}", pick(FIRST, seed as u32), pick(SECOND, (seed >> 32) as u32));
    if attempt < 3 { name } else { format!("{name}{}", seed % 10_u64.saturating_pow(attempt.min(9))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn made_up_names_are_valid() {
        for attempt in 0..12 {
            assert!(is_valid(&made_up(attempt)));
        }
    }

    #[test]
    fn names_follow_the_pattern() {
        for good in ["ab", "a.b", "0_-.", "Web1"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in ["", "a", "-ab", "a b", "a/b", "ä1", ".x"] {
            assert!(!is_valid(bad), "{bad}");
        }
    }
}

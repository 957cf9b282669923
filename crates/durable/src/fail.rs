//! Named points at which a test can stop the program as a crash would.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// The variable that arms one point: `name` or `name:n`, n counting from 1.
const VARIABLE: &str = "CAIS_FAIL_POINT";

struct Armed {
    name: String,
    left: AtomicU32,
}

static ARMED: OnceLock<Option<Armed>> = OnceLock::new();

/// Aborts the process when the environment says `CAIS_FAIL_POINT=name:n` and this is the n-th time that the point of that name is reached.
/// Costs one load where nothing is armed.
pub fn fail_point(name: &str) {
    let Some(armed) = ARMED.get_or_init(read) else {
        return;
    };
    if armed.name == name && armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        std::process::abort();
    }
}

fn read() -> Option<Armed> {
    let text = std::env::var(VARIABLE).ok()?;
    let (name, count) = match text.rsplit_once(':') {
        Some((name, count)) => (name, count.parse().ok()?),
        None => (text.as_str(), 1),
    };
    Some(Armed { name: name.to_owned(), left: AtomicU32::new(count) })
}

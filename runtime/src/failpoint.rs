//! Named places at which a test kills the process. Without the environment variable a failpoint costs one load of a flag.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

struct Armed {
    name: String,
    hit: u64,
    seen: AtomicU64,
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED
        .get_or_init(|| {
            let spec = std::env::var("DROVER_FAILPOINT").ok()?;
            let (name, hit) = match spec.split_once(':') {
                Some((name, hit)) => (name.to_owned(), hit.parse().ok()?),
                None => (spec, 1),
            };
            Some(Armed { name, hit, seen: AtomicU64::new(0) })
        })
        .as_ref()
}

/// Ends the process at once, as SIGKILL would, if the environment says `DROVER_FAILPOINT=name` or `name:N` and this is the N-th
/// time that the place is passed. For tests.
pub fn failpoint(name: &str) {
    if let Some(process) = crate::process::current() {
        process.passes(name);
    }
    if let Some(armed) = armed()
        && armed.name == name
        && armed.seen.fetch_add(1, Ordering::Relaxed) + 1 == armed.hit
    {
        std::process::abort();
    }
}

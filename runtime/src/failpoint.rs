//! Named places at which a test ends the process or makes it stand still. Without the environment variable a failpoint costs one load of a
//! flag.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rustix::process::{Signal, getpid, kill_process};

#[derive(Debug)]
struct Armed {
    name: String,
    hit: u64,
    stops: bool,
    seen: AtomicU64,
}

/// `name`, `name:N` or `name:N:stop`.
fn parsed(spec: &str) -> Option<Armed> {
    let mut words = spec.split(':');
    let name = words.next()?.to_owned();
    let hit = words.next().map_or(Some(1), |hit| hit.parse().ok())?;
    let stops = words.next().is_some_and(|what| what == "stop");
    Some(Armed { name, hit, stops, seen: AtomicU64::new(0) })
}

fn armed() -> Option<&'static Armed> {
    static ARMED: OnceLock<Option<Armed>> = OnceLock::new();
    ARMED.get_or_init(|| parsed(&std::env::var("DROVER_FAILPOINT").ok()?)).as_ref()
}

/// Ends the process at once, as SIGKILL would, if the environment says `DROVER_FAILPOINT=name` or `name:N` and this is the N-th
/// time that the place is passed. With `name:N:stop` the process stands still there as by SIGSTOP, until it is killed or continued. For tests.
pub fn failpoint(name: &str) {
    if let Some(process) = crate::process::current() {
        process.passes(name);
    }
    if let Some(armed) = armed()
        && armed.name == name
        && armed.seen.fetch_add(1, Ordering::Relaxed) + 1 == armed.hit
    {
        // Without a signal there is no standing still: a test that waits for it then sees how the process ended.
        if !armed.stops || kill_process(getpid(), Signal::STOP).is_err() {
            std::process::abort();
        }
        // The signal is for the whole process: until it holds this thread it must not pass.
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ways_to_arm_a_failpoint() {
        for (spec, wanted) in [
            ("before-commit", Some(("before-commit", 1, false))),
            ("before-commit:3", Some(("before-commit", 3, false))),
            ("before-commit:3:stop", Some(("before-commit", 3, true))),
            ("before-commit:x", None),
        ] {
            let found = parsed(spec);
            let found = found.as_ref().map(|a| (a.name.as_str(), a.hit, a.stops));
            assert_eq!(found, wanted, "{spec}");
        }
    }
}

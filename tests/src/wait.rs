//! Waiting for conditions: a probe is asked again and again until it answers or the deadline has passed. The error then says
//! what was waited for and what was seen last, so that a failure in CI can be understood without running it again.

use std::fmt::Debug;
use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

/// Pause between two questions.
const INTERVAL: Duration = Duration::from_millis(20);

/// Asks `probe` until it gives a value. `Ok(None)` and errors both mean "not yet"; the last error is part of the message
/// when `within` has passed, so a probe best says what it saw: `Err(anyhow!("{n} rows"))`.
pub async fn until<T, F, Fut>(what: &str, within: Duration, mut probe: F) -> Result<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<Option<T>>>,
{
    let begin = Instant::now();
    let mut seen = String::from("nothing");
    loop {
        // A probe that hangs must not outlive the deadline either.
        let left = within.saturating_sub(begin.elapsed()).max(INTERVAL);
        match tokio::time::timeout(left, probe()).await {
            Ok(Ok(Some(value))) => return Ok(value),
            Ok(Ok(None)) => {}
            Ok(Err(error)) => seen = format!("{error:#}"),
            Err(_) => seen = format!("no answer to the last question within {left:?}; before: {seen}"),
        }
        if begin.elapsed() >= within {
            bail!("{what}: not within {within:?}; last seen: {seen}");
        }
        tokio::time::sleep(INTERVAL).await;
    }
}

/// Asks `probe` until it answers `expected`; on failure the message shows the last answer.
pub async fn until_eq<T, F, Fut>(what: &str, within: Duration, expected: T, mut probe: F) -> Result<()>
where
    T: PartialEq + Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T>>,
{
    let expected = &expected;
    until(what, within, || {
        let answer = probe();
        async move {
            let value = answer.await?;
            if value == *expected { Ok(Some(())) } else { Err(anyhow!("{value:?} in place of {expected:?}")) }
        }
    })
    .await
}

/// The pause between two looks of somebody who looks again and again by himself.
pub async fn pause() {
    tokio::time::sleep(INTERVAL).await;
}

/// Lets a fault last: so long a process stands still, or a network is deaf.
pub async fn lapse(time: Duration) {
    tokio::time::sleep(time).await;
}

/// The same as [`until`] for code that is not asynchronous (`Drop`); `false` when the deadline has passed.
pub(crate) fn blocking(within: Duration, mut probe: impl FnMut() -> bool) -> bool {
    let begin = Instant::now();
    loop {
        if probe() {
            return true;
        }
        if begin.elapsed() >= within {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

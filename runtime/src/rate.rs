//! Rate limits that can be changed while somebody waits for them.
//!
//! Guarantee: what [`Limiter::take`] lets through in any stretch of time is at most the rate times the stretch, plus what a tenth of a
//! second brings (so that a late wake-up costs nothing) and the one amount that was being waited for. An amount is paid before it passes,
//! however large; takers are served in the order in which they came.

use drover_model::MigrationId;
use drover_proto::order::{Rates, Share};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// So much of the rate may be saved up.
const SAVED: f64 = 0.1;
/// Nobody sleeps longer without looking again.
const LOOK: Duration = Duration::from_secs(1);
/// Nobody sleeps for less.
const LEAST: Duration = Duration::from_millis(1);

/// One measured quantity: all that was asked for, and how much of it has been granted by now.
#[derive(Debug)]
struct Flow {
    /// Per second; 0: unlimited.
    rate: f64,
    asked: f64,
    granted: f64,
}

impl Flow {
    fn pass(&mut self, seconds: f64) {
        self.granted = match self.rate > 0.0 {
            true => (self.granted + self.rate * seconds).min(self.asked + self.rate * SAVED),
            false => self.granted.max(self.asked),
        };
    }

    /// Seconds until so much is granted.
    fn wait(&self, until: f64) -> f64 {
        if self.granted >= until || self.rate <= 0.0 { 0.0 } else { (until - self.granted) / self.rate }
    }
}

#[derive(Debug)]
struct Flows {
    at: Instant,
    of: [Flow; 3],
}

impl Flows {
    fn pass(&mut self, now: Instant) {
        let seconds = now.duration_since(self.at).as_secs_f64();
        self.at = now;
        self.of.iter_mut().for_each(|f| f.pass(seconds));
    }
}

/// An amount to be let through.
#[derive(Debug, Clone, Copy, Default)]
pub struct Amount {
    pub queries: u64,
    pub rows: u64,
    pub bytes: u64,
}

/// Limits queries, rows and bytes per second together.
#[derive(Debug)]
pub struct Limiter {
    flows: Mutex<Flows>,
    changed: Notify,
}

impl Default for Limiter {
    /// Unlimited.
    fn default() -> Self {
        let flow = || Flow { rate: 0.0, asked: 0.0, granted: 0.0 };
        let flows = Flows { at: Instant::now(), of: [flow(), flow(), flow()] };
        Limiter { flows: Mutex::new(flows), changed: Notify::new() }
    }
}

impl Limiter {
    fn with<T>(&self, f: impl FnOnce(&mut Flows) -> T) -> T {
        let mut flows = self.flows.lock().unwrap_or_else(PoisonError::into_inner);
        flows.pass(Instant::now());
        f(&mut flows)
    }

    /// Sets the rates; who waits goes by them at once.
    pub fn set(&self, rates: Rates) {
        let new = [rates.queries, rates.rows, rates.bytes];
        let differs = self.with(|flows| {
            let differs = flows.of.iter().zip(new).any(|(f, rate)| f.rate != rate);
            flows.of.iter_mut().zip(new).for_each(|(f, rate)| f.rate = rate);
            differs
        });
        if differs {
            self.changed.notify_waiters();
        }
    }

    /// Whether anything is limited now.
    pub fn is_limited(&self) -> bool {
        self.with(|flows| flows.of.iter().any(|f| f.rate > 0.0))
    }

    /// Waits until this may pass. Cancelled, it has been paid for all the same.
    pub async fn take(&self, amount: Amount) {
        let amounts = [amount.queries as f64, amount.rows as f64, amount.bytes as f64];
        let until = self.with(|flows| {
            flows.of.iter_mut().zip(amounts).for_each(|(f, n)| f.asked += n);
            [0, 1, 2].map(|i| flows.of[i].asked)
        });
        loop {
            // Before looking, so that no change is missed.
            let changed = self.changed.notified();
            let wait = self.with(|flows| {
                // What is not taken of is not waited for.
                let waits = flows.of.iter().zip(until).zip(amounts).filter(|(_, n)| *n > 0.0);
                waits.map(|((f, until), _)| f.wait(until)).fold(0.0, f64::max)
            });
            if wait <= 0.0 {
                return;
            }
            // Not in steps so small that the sums cannot tell them: it would turn round and round without ever getting there.
            let at = Instant::now() + Duration::from_secs_f64(wait.clamp(LEAST.as_secs_f64(), LOOK.as_secs_f64()));
            tokio::select! {
                () = changed => {}
                () = sleep_until(at) => {}
            }
        }
    }
}

/// The limits of one migration in this process.
#[derive(Debug, Default)]
pub struct Pair {
    pub full: Limiter,
    pub incremental: Limiter,
}

/// This process's share of the limits of all migrations.
#[derive(Debug, Default)]
pub struct Limits(Mutex<HashMap<MigrationId, Arc<Pair>>>);

impl Limits {
    /// Those of one migration; unlimited if no share is known.
    pub fn of(&self, id: MigrationId) -> Arc<Pair> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(id).or_default().clone()
    }

    /// All shares as they are now; what is not named is unlimited.
    pub fn set(&self, shares: &[Share]) {
        for share in shares {
            let pair = self.of(share.migration);
            pair.full.set(share.full);
            pair.incremental.set(share.incremental);
        }
        let known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for (_, pair) in known.iter().filter(|(id, _)| !shares.iter().any(|s| s.migration == **id)) {
            pair.full.set(Rates::default());
            pair.incremental.set(Rates::default());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rate: f64) -> Rates {
        Rates { rows: rate, ..Rates::default() }
    }

    /// Counts what several takers get through in simulated time.
    async fn count(limiter: &Arc<Limiter>, takers: u64, each: Amount, time: Duration) -> u64 {
        let end = Instant::now() + time;
        let taker = |_| {
            let limiter = limiter.clone();
            async move {
                let mut n = 0;
                while tokio::time::timeout_at(end, limiter.take(each)).await.is_ok() {
                    n += 1;
                }
                n
            }
        };
        futures::future::join_all((0..takers).map(taker)).await.into_iter().sum()
    }

    #[tokio::test(start_paused = true)]
    async fn the_rate_holds_for_large_and_small_amounts_and_several_takers() {
        for (takers, each) in [(1, 1), (4, 7), (3, 900), (2, 25_000)] {
            let limiter = Arc::new(Limiter::default());
            limiter.set(rows(1000.0));
            let amount = Amount { rows: each, bytes: 1 << 30, queries: 1 };
            let passed = each * count(&limiter, takers, amount, Duration::from_secs(100)).await;
            let most = 100_000 + 100;
            assert!(passed <= most && passed + takers * each + each >= 100_000, "{takers} × {each}: {passed}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_scarcest_of_the_three_decides() {
        let limiter = Arc::new(Limiter::default());
        limiter.set(Rates { queries: 50.0, rows: 1000.0, bytes: 30_000.0 });
        let each = Amount { queries: 1, rows: 10, bytes: 1000 };
        let n = count(&limiter, 2, each, Duration::from_secs(60)).await;
        assert!((1790..=1803).contains(&n), "{n} in place of 30 a second");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_felt_by_who_waits_and_nothing_is_saved_up() {
        let limiter = Arc::new(Limiter::default());
        limiter.set(rows(1.0));
        tokio::time::sleep(Duration::from_secs(1000)).await;
        let began = Instant::now();
        let waiting = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.take(Amount { rows: 1_000_000, ..Amount::default() }).await }
        });
        tokio::time::sleep(Duration::from_secs(10)).await;
        limiter.set(rows(100_000.0));
        waiting.await.unwrap();
        let took = began.elapsed().as_secs_f64();
        assert!((19.9..20.2).contains(&took), "{took}");
        limiter.set(rows(1.0));
        let stuck = limiter.take(Amount { rows: 1000, ..Amount::default() });
        assert!(tokio::time::timeout(Duration::from_secs(5), stuck).await.is_err());
        limiter.set(Rates::default());
        let free = limiter.take(Amount { rows: 1 << 40, ..Amount::default() });
        assert!(tokio::time::timeout(Duration::from_millis(1), free).await.is_ok());
    }

    /// Sums of binary fractions may end a hair before what was asked for, where no time is left to wait for.
    #[tokio::test(start_paused = true)]
    async fn what_is_asked_for_is_granted_though_sums_are_not_exact() {
        let limiter = Arc::new(Limiter::default());
        for rate in [3.0, 7.0, 59.0, 367.0, 1e6 / 3.0] {
            limiter.set(rows(rate));
            for n in 1..200 {
                limiter.take(Amount { rows: n, ..Amount::default() }).await;
                tokio::time::advance(Duration::from_nanos(n * 333)).await;
            }
        }
    }

    #[test]
    fn a_migration_that_is_not_named_is_unlimited() {
        let limits = Limits::default();
        let (a, b) = (MigrationId::from_u128(1), MigrationId::from_u128(2));
        let share = |migration| Share { migration, full: rows(5.0), incremental: Rates::default() };
        limits.set(&[share(a), share(b)]);
        assert!(limits.of(a).full.is_limited() && limits.of(b).full.is_limited());
        limits.set(&[share(b)]);
        assert!(!limits.of(a).full.is_limited() && limits.of(b).full.is_limited());
    }
}

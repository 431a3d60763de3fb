//! What the buffers of this process hold, in one place. Guarantee: who takes bytes from an [`Account`] never gets more than its limit at once,
//! and what it has not given back is seen in [`held`]. Every queue of bytes has an account; the accounts are what `/metrics` shows.
//!
//! One thing that is larger than a limit has to pass all the same: it takes all of the limit, so it passes alone, and is counted as that.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use tokio::sync::Semaphore;

/// The bytes that one buffer may hold.
#[derive(Debug)]
pub struct Account {
    name: &'static str,
    limit: usize,
    free: Semaphore,
    most: AtomicUsize,
}

static ACCOUNTS: Mutex<Vec<Weak<Account>>> = Mutex::new(Vec::new());

fn accounts() -> MutexGuard<'static, Vec<Weak<Account>>> {
    ACCOUNTS.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Account {
    /// An account of `limit` bytes (at most 4 GiB), counted with the others of its name as long as it lives.
    pub fn new(name: &'static str, limit: usize) -> Arc<Account> {
        let limit = limit.min(u32::MAX as usize);
        let account = Arc::new(Account { name, limit, free: Semaphore::new(limit), most: AtomicUsize::new(0) });
        let mut all = accounts();
        all.retain(|a| a.strong_count() > 0);
        all.push(Arc::downgrade(&account));
        account
    }

    /// Takes so many bytes, all of the limit if they are more; waits in turn until they are free. Gives what was taken, for [`Account::give`].
    pub async fn take(&self, bytes: usize) -> usize {
        let bytes = bytes.min(self.limit);
        // Never closed; it ends with the account.
        if let Ok(permit) = self.free.acquire_many(bytes as u32).await {
            permit.forget();
        }
        self.note();
        bytes
    }

    /// Takes so many bytes if they are free now.
    pub fn try_take(&self, bytes: usize) -> bool {
        let Ok(count) = u32::try_from(bytes) else { return false };
        let Ok(permit) = self.free.try_acquire_many(count) else { return false };
        permit.forget();
        self.note();
        true
    }

    /// Like [`Account::take`], as something to keep beside what the bytes are for.
    pub async fn hold(self: &Arc<Self>, bytes: usize) -> Taken {
        let bytes = self.take(bytes).await;
        Taken { account: self.clone(), bytes }
    }

    /// So many bytes if they are free now, all of the limit if they are more.
    pub fn try_hold(self: &Arc<Self>, bytes: usize) -> Option<Taken> {
        let bytes = bytes.min(self.limit);
        self.try_take(bytes).then(|| Taken { account: self.clone(), bytes })
    }

    /// Gives bytes back that were taken.
    pub fn give(&self, bytes: usize) {
        self.free.add_permits(bytes);
    }

    /// Bytes that it may hold.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes taken and not given back.
    pub fn held(&self) -> usize {
        self.limit.saturating_sub(self.free.available_permits())
    }

    fn note(&self) {
        self.most.fetch_max(self.held(), Relaxed);
    }
}

/// Bytes taken from an account; they go back with it.
#[derive(Debug)]
pub struct Taken {
    account: Arc<Account>,
    bytes: usize,
}

impl Taken {
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes as many more as are missing to `bytes`, the size of one thing, if they are free now; more than the limit is as much as the limit.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let bytes = bytes.min(self.account.limit);
        let more = bytes.saturating_sub(self.bytes);
        let grown = more == 0 || self.account.try_take(more);
        if grown {
            self.bytes += more;
        }
        grown
    }
}

impl Taken {
    /// Sees that a buffer that grows to `bytes` is covered; takes in steps, so that it can be asked of each row. `taken` is what the buffer has.
    pub fn cover(taken: &mut Option<Taken>, account: &Arc<Account>, bytes: usize) -> bool {
        const STEP: usize = 64 << 10;
        let step = bytes.next_multiple_of(STEP);
        match taken {
            Some(taken) => bytes <= taken.bytes || taken.grow(step) || taken.grow(bytes),
            none => {
                *none = account.try_hold(step).or_else(|| account.try_hold(bytes));
                none.is_some()
            }
        }
    }

    /// Takes so many bytes more, for another thing, if they are free now.
    pub fn add(&mut self, bytes: usize) -> bool {
        let added = self.account.try_take(bytes);
        if added {
            self.bytes += bytes;
        }
        added
    }

    /// Gives back what is more than `bytes`.
    pub fn shrink(&mut self, bytes: usize) {
        let less = self.bytes.saturating_sub(bytes);
        self.bytes -= less;
        self.account.give(less);
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.account.give(self.bytes);
    }
}

/// What the accounts of one name hold, had at most, and may hold together, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    pub name: &'static str,
    pub now: usize,
    /// The sum of each one's own most.
    pub most: usize,
    pub limit: usize,
}

/// All accounts that live, by name.
pub fn held() -> Vec<Held> {
    let mut sums: Vec<Held> = Vec::new();
    for account in accounts().iter().filter_map(Weak::upgrade) {
        let (now, most, limit) = (account.held(), account.most.load(Relaxed), account.limit);
        match sums.iter_mut().find(|s| s.name == account.name) {
            Some(sum) => {
                (sum.now, sum.most, sum.limit) = (sum.now + now, sum.most + most, sum.limit + limit);
            }
            None => sums.push(Held { name: account.name, now, most, limit }),
        }
    }
    sums.sort_by_key(|s| s.name);
    sums
}

/// Resident memory of this process in bytes, now and at most (proc(5), `VmRSS` and `VmHWM`); `None` where the system does not tell.
pub fn resident() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let of = |name: &str| -> Option<u64> {
        let line = status.lines().find_map(|l| l.strip_prefix(name))?;
        Some(line.trim_start_matches(':').trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()? << 10)
    };
    Some((of("VmRSS")?, of("VmHWM")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn never_more_than_the_limit_and_nothing_is_lost() {
        let account = Account::new("test: one", 100);
        assert!(account.try_take(60) && !account.try_take(50));
        let waits = {
            let account = account.clone();
            tokio::spawn(async move { account.take(500).await })
        };
        tokio::task::yield_now().await;
        // Whoever waits for much is not overtaken by those who want little.
        assert!(!account.try_take(1));
        account.give(60);
        assert_eq!(waits.await.unwrap_or_default(), 100);
        let one = |name| held().into_iter().find(|h| h.name == name);
        assert_eq!(one("test: one"), Some(Held { name: "test: one", now: 100, most: 100, limit: 100 }));
        account.give(100);
        let other = Account::new("test: one", 10);
        assert!(other.try_take(4));
        assert_eq!(one("test: one").map(|h| (h.now, h.most, h.limit)), Some((4, 104, 110)));
        drop((account, other));
        assert_eq!(one("test: one"), None);
    }

    #[tokio::test]
    async fn what_is_kept_goes_back_with_its_keeper() {
        let account = Account::new("test: kept", 100);
        let mut kept = account.hold(30).await;
        assert!(kept.grow(20) && kept.bytes() == 30 && kept.grow(80) && account.held() == 80);
        assert!(account.try_hold(21).is_none() && account.try_hold(500).is_none());
        let other = account.try_hold(20);
        assert!(other.is_some() && !kept.grow(81) && kept.bytes() == 80);
        drop(other);
        // All that there is counts for one that is larger than that.
        assert!(kept.grow(1000) && kept.bytes() == 100);
        kept.shrink(10);
        assert!(!kept.add(91) && kept.add(60) && kept.bytes() == 70 && account.held() == 70);
        drop(kept);
        assert_eq!((account.held(), account.try_hold(500).map(|t| t.bytes())), (0, Some(100)));
    }

    #[test]
    fn a_buffer_that_grows_is_covered_until_there_is_no_more() {
        let account = Account::new("test: cover", 200 << 10);
        let (mut one, mut two) = (None, None);
        assert!(Taken::cover(&mut one, &account, 0) && account.held() == 0);
        assert!(Taken::cover(&mut one, &account, 1) && account.held() == 64 << 10);
        assert!(Taken::cover(&mut one, &account, 65 << 10) && account.held() == 128 << 10);
        assert!(Taken::cover(&mut two, &account, 10) && !Taken::cover(&mut two, &account, 73 << 10));
        // The last step may be short.
        assert!(Taken::cover(&mut two, &account, 72 << 10) && account.held() == 200 << 10);
        assert!(!Taken::cover(&mut one, &account, 129 << 10) && Taken::cover(&mut one, &account, 128 << 10));
        drop(two);
        // One that is larger than all there is has all of it.
        assert!(Taken::cover(&mut one, &account, 1 << 20) && account.held() == 200 << 10);
    }

    #[test]
    fn the_system_tells_of_memory() {
        let (now, most) = resident().unwrap_or_default();
        assert!(now > 0 && most >= now, "{now} {most}");
    }
}

//! Simulated processes: killed, they never run again; frozen, they stand still while time goes on.

use crate::{note, sim};
use drover_runtime::process::Process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Waker};
use std::time::Duration;
use tokio::sync::watch;

/// A process.
pub struct Node {
    pub name: String,
    state: Mutex<State>,
    dead: watch::Sender<bool>,
    /// Chance, in a million, that it dies at a failpoint, or stands still there.
    dies: u64,
    me: Weak<Node>,
}

#[derive(Default)]
struct State {
    frozen: bool,
    dead: bool,
    wakers: Vec<Waker>,
}

/// What unwinds a task that died at a failpoint.
struct Killed;

impl Node {
    pub fn new(name: String, dies: u64) -> Arc<Node> {
        let dead = watch::Sender::new(false);
        Arc::new_cyclic(|me| Node { name, state: Mutex::default(), dead, dies, me: me.clone() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends it, as SIGKILL does.
    pub fn kill(&self) {
        self.state().dead = true;
        self.dead.send_replace(true);
    }

    pub fn is_dead(&self) -> bool {
        self.state().dead
    }

    /// Waits for its death.
    pub async fn died(&self) {
        let mut dead = self.dead.subscribe();
        // The sender lives as long as the node.
        let _ = dead.wait_for(|dead| *dead).await;
    }

    /// Stops it for a while, as SIGSTOP does.
    pub fn freeze(&self, time: Duration) {
        self.state().frozen = true;
        let me = self.me.clone();
        tokio::spawn(async move {
            tokio::time::sleep(time).await;
            if let Some(node) = me.upgrade() {
                note!("{} goes on", node.name);
                node.thaw();
            }
        });
    }

    /// It goes on.
    pub fn thaw(&self) {
        let wakers = {
            let mut state = self.state();
            state.frozen = false;
            std::mem::take(&mut state.wakers)
        };
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl Process for Node {
    fn may_run(&self, context: &mut Context<'_>) -> bool {
        let mut state = self.state();
        if state.frozen && !state.dead {
            state.wakers.push(context.waker().clone());
        }
        !state.frozen && !state.dead
    }

    fn passes(&self, failpoint: &str) {
        sim::reach(failpoint);
        if sim::chance(self.dies) {
            sim::fault("frozen at a failpoint");
            let time = sim::ms(1_000, 40_000);
            note!("{} is frozen at {failpoint} for {time:?}", self.name);
            return self.freeze(time);
        }
        if sim::chance(self.dies) {
            sim::fault("killed at a failpoint");
            note!("{} dies at {failpoint}", self.name);
            self.kill();
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}

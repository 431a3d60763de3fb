//! Simulated processes: killed, they never run again; frozen, they stand still while time goes on.

use crate::{note, sim};
use drover_runtime::process::Process;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Waker};
use tokio::sync::watch;

/// A process.
pub struct Node {
    pub name: String,
    state: Mutex<State>,
    dead: watch::Sender<bool>,
    /// Chance, in a million, that it dies at a failpoint.
    dies: u64,
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
        Arc::new(Node { name, state: Mutex::default(), dead: watch::Sender::new(false), dies })
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
    pub fn freeze(&self) {
        self.state().frozen = true;
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
            sim::fault("killed at a failpoint");
            note!("{} dies at {failpoint}", self.name);
            self.kill();
            std::panic::resume_unwind(Box::new(Killed));
        }
    }
}

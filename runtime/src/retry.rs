//! Waiting between tries: doubling, bounded, with the window's end.

use std::time::{Duration, Instant};

/// The pauses of one retry window.
#[derive(Debug, Clone)]
pub struct Backoff {
    began: Instant,
    window: Duration,
    next: Duration,
    most: Duration,
}

impl Backoff {
    /// Pauses from `first`, doubling up to `most`, until `window` has passed since now.
    pub fn new(window: Duration, first: Duration, most: Duration) -> Self {
        Backoff { began: Instant::now(), window, next: first, most }
    }
    /// The next pause, or `None` when the window is over.
    pub fn pause(&mut self) -> Option<Duration> {
        if self.began.elapsed() >= self.window {
            return None;
        }
        let pause = self.next;
        self.next = (self.next * 2).min(self.most);
        Some(pause)
    }
}

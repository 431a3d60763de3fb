//! The simulated network: every call from a process to a database, the log or the coordinator crosses it, there and back. It delays,
//! loses, and is cut: then what was on its way is lost, and sessions that stood on the connection are gone.

use crate::node::Node;
use crate::{note, sim};
use drover_model::error::codes;
use drover_model::{Error, Fault, Result, Retry};
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

/// The other end of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Peer {
    Source,
    Destination,
    Log,
    Coordinator,
}

/// How bad the network is; chances are in a million.
#[derive(Debug, Clone, Copy, Default)]
pub struct Weather {
    /// A message is lost, and the call fails.
    pub lost: u64,
    /// A message takes up to a third of a second.
    pub slow: u64,
    /// A message takes seconds.
    pub very_slow: u64,
    /// The other side takes a while.
    pub slow_disk: u64,
    /// A call to the coordinator arrives once more, later.
    pub twice: u64,
}

/// The network.
pub struct Net {
    weather: Mutex<Weather>,
    cuts: Mutex<BTreeMap<(String, Peer), Instant>>,
    /// Raised whenever connections to a peer are cut, by process and peer.
    broken: watch::Sender<BTreeMap<(String, Peer), u64>>,
}

/// A process's way to a peer.
#[derive(Clone)]
pub struct Link {
    pub net: Arc<Net>,
    pub node: Arc<Node>,
    pub peer: Peer,
}

/// A connection: once it is cut it fails for good.
#[derive(Clone)]
pub struct Connection {
    pub link: Link,
    born: u64,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Net {
    pub fn new(weather: Weather) -> Arc<Net> {
        Arc::new(Net { weather: Mutex::new(weather), cuts: Mutex::default(), broken: watch::Sender::default() })
    }

    pub fn weather(&self) -> Weather {
        *lock(&self.weather)
    }

    /// Changes the weather.
    pub fn set(&self, weather: Weather) {
        *lock(&self.weather) = weather;
    }

    /// Nothing passes between a process and a peer for so long.
    pub fn cut(&self, node: &str, peer: Peer, time: Duration) {
        lock(&self.cuts).insert((node.to_owned(), peer), Instant::now() + time);
    }

    /// Connections between a process and a peer end.
    pub fn disconnect(&self, node: &str, peer: Peer) {
        self.broken.send_modify(|b| *b.entry((node.to_owned(), peer)).or_default() += 1);
    }

    /// Connections of all to a peer end.
    pub fn disconnect_all(&self, peer: Peer, nodes: &[String]) {
        for node in nodes {
            self.disconnect(node, peer);
        }
    }

    /// All is well again.
    pub fn heal(&self) {
        lock(&self.cuts).clear();
        self.set(Weather::default());
    }

    fn cut_until(&self, node: &str, peer: Peer) -> Option<Instant> {
        lock(&self.cuts).get(&(node.to_owned(), peer)).copied().filter(|until| *until > Instant::now())
    }

    fn generation(&self, node: &str, peer: Peer) -> u64 {
        self.broken.borrow().get(&(node.to_owned(), peer)).copied().unwrap_or_default()
    }
}

impl Link {
    /// A connection error of this way.
    pub fn lost(&self, what: &str) -> Error {
        let fault = match self.peer {
            Peer::Source => Fault::Source,
            Peer::Destination => Fault::Destination,
            Peer::Log => Fault::Log,
            Peer::Coordinator => Fault::Drover,
        };
        Error::new(codes::CONNECTION, fault, Retry::Connection, what)
    }

    /// A message crosses in one direction.
    pub async fn cross(&self) -> Result<()> {
        let weather = self.net.weather();
        if let Some(until) = self.net.cut_until(&self.node.name, self.peer) {
            // Either it heals in time or somebody's patience ends.
            let patience = Instant::now() + sim::ms(2_000, 12_000);
            tokio::time::sleep_until(until.min(patience)).await;
            if until > patience {
                return Err(self.lost("the network is cut"));
            }
        }
        let delay = if sim::chance(weather.very_slow) {
            sim::fault("message delayed for seconds");
            sim::ms(500, 4_000)
        } else if sim::chance(weather.slow) {
            sim::ms(10, 300)
        } else {
            sim::ms(0, 3)
        };
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if sim::chance(weather.lost) {
            sim::fault("message lost");
            return Err(self.lost("a message was lost"));
        }
        Ok(())
    }

    /// Opens a connection.
    pub async fn connect(&self) -> Result<Connection> {
        let born = self.net.generation(&self.node.name, self.peer);
        let connection = Connection { link: self.clone(), born };
        connection.cross().await?;
        Ok(connection)
    }
}

impl Connection {
    /// Whether it was cut.
    pub fn is_cut(&self) -> bool {
        self.link.net.generation(&self.link.node.name, self.link.peer) != self.born
    }

    /// Waits until it is cut.
    pub async fn cut(&self) {
        let mut broken = self.link.net.broken.subscribe();
        let key = (self.link.node.name.clone(), self.link.peer);
        // The network outlives all connections.
        let _ = broken.wait_for(|b| b.get(&key).copied().unwrap_or_default() != self.born).await;
    }

    /// A message crosses in one direction.
    pub async fn cross(&self) -> Result<()> {
        self.check()?;
        self.link.cross().await?;
        self.check()
    }

    fn check(&self) -> Result<()> {
        if self.is_cut() { Err(self.link.lost("the connection was lost")) } else { Ok(()) }
    }

    /// A call there and back. What it does is done by the other side: it happens also when the caller dies meanwhile, and its answer may
    /// get lost.
    pub async fn call<T: Send + 'static>(
        &self,
        what: &'static str,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) -> Result<T> {
        self.cross().await?;
        let slow = sim::chance(self.link.net.weather().slow_disk);
        let (done, answer) = oneshot::channel();
        let name = self.link.node.name.clone();
        // Not a task of the process: the other side carries it out.
        tokio::spawn(async move {
            if slow {
                sim::fault("slow disk");
                let hangs = sim::chance(100_000);
                tokio::time::sleep(if hangs { sim::ms(2_000, 25_000) } else { sim::ms(50, 2_000) }).await;
            }
            let result = work.await;
            match &result {
                Ok(_) => note!("{name}: {what}"),
                Err(error) => note!("{name}: {what}: {}", error.message),
            }
            // Nobody listens any more: the caller is gone.
            let _ = done.send(result);
        });
        let result = answer.await.unwrap_or_else(|_| Err(self.link.lost("the other side broke")))?;
        self.cross().await?;
        Ok(result)
    }
}

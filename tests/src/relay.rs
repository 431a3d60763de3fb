//! A TCP relay between drover and a server, at which a test cuts connections, or lets what is sent arrive and the answers get lost. It is a
//! peer's address for drover; tests themselves go to the server directly.

use std::sync::Arc;

use anyhow::{Context, Result};
use tokio::io::{AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::ports::Port;

/// What holds for all connections.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// How often all connections were cut: those of an earlier number end.
    cuts: u64,
    /// Answers are thrown away.
    deaf: bool,
}

/// A relay from a port of its own to another of 127.0.0.1. Connections end when it is dropped.
#[derive(Debug)]
pub struct Relay {
    port: Port,
    state: Arc<watch::Sender<State>>,
    accepting: JoinHandle<()>,
}

impl Relay {
    /// Relays to `target` from now on.
    pub async fn to(target: u16) -> Result<Relay> {
        let port = Port::reserve()?;
        let listener = TcpListener::bind(("127.0.0.1", port.number())).await.context("listen as a relay")?;
        let state = Arc::new(watch::Sender::new(State::default()));
        let shared = Arc::clone(&state);
        let accepting = tokio::spawn(async move {
            loop {
                // Out of descriptors, say: the next one may fare better.
                let Ok((client, _)) = listener.accept().await else {
                    crate::wait::pause().await;
                    continue;
                };
                tokio::spawn(carry(client, target, shared.subscribe()));
            }
        });
        Ok(Relay { port, state, accepting })
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port.number()
    }

    /// Ends all connections at once, in both directions. New ones are let through.
    pub fn cut(&self) {
        self.state.send_modify(|s| *s = State { cuts: s.cuts + 1, deaf: false });
    }

    /// From now on whatever is sent arrives and no answer comes back, until [`Relay::cut`].
    pub fn deafen(&self) {
        self.state.send_modify(|s| s.deaf = true);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut();
    }
}

/// One connection, until either side ends it, or it is cut.
async fn carry(mut client: TcpStream, target: u16, mut state: watch::Receiver<State>) {
    let born = state.borrow().cuts;
    let mut hearing = state.clone();
    // Nobody there: the client sees its connection end.
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let there = async {
        copy(&mut from_client, &mut to_server).await?;
        to_server.shutdown().await
    };
    let back = async {
        let deaf = async { hearing.wait_for(|s| s.deaf).await.is_ok() };
        tokio::select! {
            biased;
            // What has been read and not been written yet is lost with the rest.
            _ = deaf => {}
            copied = copy(&mut from_server, &mut to_client) => {
                copied?;
                return to_client.shutdown().await;
            }
        }
        copy(&mut from_server, &mut tokio::io::sink()).await?;
        std::future::pending().await
    };
    let cut = async { state.wait_for(|s| s.cuts != born).await.is_ok() };
    tokio::select! {
        _ = cut => {}
        // An error of either direction ends both.
        _ = async { tokio::try_join!(there, back) } => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt;

    #[tokio::test]
    async fn connections_are_carried_deafened_and_cut() -> Result<()> {
        let target = Port::reserve()?;
        let listener = TcpListener::bind(("127.0.0.1", target.number())).await?;
        let relay = Relay::to(target.number()).await?;
        let mut client = TcpStream::connect(("127.0.0.1", relay.port())).await?;
        let (mut server, _) = listener.accept().await?;
        let mut word = [0; 3];
        client.write_all(b"one").await?;
        server.read_exact(&mut word).await?;
        server.write_all(&word).await?;
        client.read_exact(&mut word).await?;
        assert_eq!(&word, b"one");
        relay.deafen();
        client.write_all(b"two").await?;
        server.read_exact(&mut word).await?;
        assert_eq!(&word, b"two");
        server.write_all(b"no!").await?;
        relay.cut();
        assert_eq!((client.read(&mut word).await.unwrap_or(0), server.read(&mut word).await.unwrap_or(0)), (0, 0));
        let mut client = TcpStream::connect(("127.0.0.1", relay.port())).await?;
        let (mut server, _) = listener.accept().await?;
        server.write_all(b"new").await?;
        client.read_exact(&mut word).await?;
        assert_eq!(&word, b"new");
        Ok(())
    }
}

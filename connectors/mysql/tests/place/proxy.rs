//! Something between drover and its server that can cut a connection at the worst moment.

use anyhow::Result;
use drover_runtime::task;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PASS: u8 = 0;
/// What the client asks next does not arrive.
const BEFORE: u8 = 1;
/// What the client asks next arrives and is answered, and the answer is lost.
const AFTER: u8 = 2;
/// Nothing is passed on any more, and nobody is told: a frozen client.
const FROZEN: u8 = 3;

/// The same two, once the client asks to commit.
const COMMIT_BEFORE: u8 = 4;
const COMMIT_AFTER: u8 = 5;
/// The connection that begins to load is cut before the server hears of it.
const LOAD_BEFORE: u8 = 6;

/// A port that leads to the server.
pub struct Proxy {
    pub port: u16,
    mode: Arc<AtomicU8>,
    _task: task::Owned<()>,
}

impl Proxy {
    pub async fn start(server: u16) -> Result<Proxy> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let mode = Arc::new(AtomicU8::new(PASS));
        let shared = mode.clone();
        let task = task::spawn("proxy", async move {
            let mut connections = Vec::new();
            while let Ok((client, _)) = listener.accept().await {
                let mode = shared.clone();
                connections.push(task::spawn("proxied", async move {
                    let _ = pass(client, server, &mode).await;
                }));
            }
        });
        Ok(Proxy { port, mode, _task: task })
    }

    /// Cuts the connection that asks next, before the server hears of it. Connections after it pass.
    pub fn cut_before(&self) {
        self.mode.store(BEFORE, Ordering::SeqCst);
    }
    /// Cuts the connection that asks next, when the server has answered.
    pub fn cut_after(&self) {
        self.mode.store(AFTER, Ordering::SeqCst);
    }
    /// Cuts the connection that commits next, before or after the server does.
    pub fn cut_commit_before(&self) {
        self.mode.store(COMMIT_BEFORE, Ordering::SeqCst);
    }
    pub fn cut_commit_after(&self) {
        self.mode.store(COMMIT_AFTER, Ordering::SeqCst);
    }
    /// Cuts the connection that asks to load next.
    pub fn cut_load(&self) {
        self.mode.store(LOAD_BEFORE, Ordering::SeqCst);
    }
    /// From now on all connections hang.
    pub fn freeze(&self) {
        self.mode.store(FROZEN, Ordering::SeqCst);
    }
}

async fn pass(mut client: TcpStream, server: u16, mode: &AtomicU8) -> Result<()> {
    let mut server = TcpStream::connect(("127.0.0.1", server)).await?;
    let (mut up, mut down) = (vec![0; 1 << 16], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            n = client.read(&mut up) => {
                let n = n?;
                if n == 0 {
                    return Ok(());
                }
                let has = |text: &[u8]| up[..n].windows(text.len()).any(|w| w == text);
                let now = match mode.load(Ordering::SeqCst) {
                    COMMIT_BEFORE if has(b"COMMIT") => BEFORE,
                    COMMIT_AFTER if has(b"COMMIT") => AFTER,
                    LOAD_BEFORE if has(b"LOAD DATA") => BEFORE,
                    other => other,
                };
                match now {
                    BEFORE => {
                        mode.store(PASS, Ordering::SeqCst);
                        return Ok(());
                    }
                    AFTER => {
                        mode.store(PASS, Ordering::SeqCst);
                        server.write_all(&up[..n]).await?;
                        let _ = server.read(&mut down).await?;
                        return Ok(());
                    }
                    FROZEN => std::future::pending::<()>().await,
                    _ => server.write_all(&up[..n]).await?,
                }
            }
            n = server.read(&mut down) => {
                let n = n?;
                if n == 0 {
                    return Ok(());
                }
                if mode.load(Ordering::SeqCst) == FROZEN {
                    std::future::pending::<()>().await;
                }
                client.write_all(&down[..n]).await?;
            }
        }
    }
}

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
                match mode.load(Ordering::SeqCst) {
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

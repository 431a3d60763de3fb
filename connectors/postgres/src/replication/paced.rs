//! A socket that can be left alone. Whoever waits for a socket in the usual way is woken for each packet, and so is the runtime's poller while nobody
//! waits: it is told of all that arrives. From a server that sends each message by itself this costs both sides more than the messages.
//! [`Paced::rest`] takes the socket from the poller until there is nothing to read any more; reading what is there needs none.

use std::io::{self, Read, Write};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Bytes of one read of a socket that rests.
const READ: usize = 128 * 1024;

/// A socket that can be taken from the runtime's poller and given back.
pub(super) trait Polled: AsyncRead + AsyncWrite + Unpin + Sized {
    /// The same, without poller.
    type Bare: Unpin;
    fn watch(bare: Self::Bare) -> io::Result<Self>;
    fn bare(self) -> io::Result<Self::Bare>;
    fn read(bare: &mut Self::Bare, into: &mut [u8]) -> io::Result<usize>;
    fn write(bare: &mut Self::Bare, data: &[u8]) -> io::Result<usize>;
}

macro_rules! polled {
    ($watched:ty, $bare:ty) => {
        impl Polled for $watched {
            type Bare = $bare;
            fn watch(bare: $bare) -> io::Result<Self> {
                Self::from_std(bare)
            }
            fn bare(self) -> io::Result<$bare> {
                self.into_std()
            }
            fn read(bare: &mut $bare, into: &mut [u8]) -> io::Result<usize> {
                bare.read(into)
            }
            fn write(bare: &mut $bare, data: &[u8]) -> io::Result<usize> {
                bare.write(data)
            }
        }
    };
}

polled!(TcpStream, std::net::TcpStream);
polled!(UnixStream, std::os::unix::net::UnixStream);

/// A socket that may rest.
pub(super) struct Paced<S: Polled> {
    io: Io<S>,
    scratch: Vec<u8>,
}

enum Io<S: Polled> {
    Watched(S),
    Resting(S::Bare),
    /// Between the two; stays so if the poller failed, and the connection is of no more use.
    Gone,
}

impl<S: Polled> Paced<S> {
    pub(super) fn new(socket: S) -> Self {
        Paced { io: Io::Watched(socket), scratch: Vec::new() }
    }

    /// Nobody is woken by what arrives, until a read has found nothing.
    ///
    /// # Errors
    /// The poller failed.
    pub(super) fn rest(&mut self) -> io::Result<()> {
        if let Io::Watched(socket) = std::mem::replace(&mut self.io, Io::Gone) {
            self.io = Io::Resting(socket.bare()?);
        }
        Ok(())
    }

    fn watched(&mut self) -> io::Result<Pin<&mut S>> {
        self.io = match std::mem::replace(&mut self.io, Io::Gone) {
            Io::Resting(socket) => Io::Watched(S::watch(socket)?),
            other => other,
        };
        match &mut self.io {
            Io::Watched(socket) => Ok(Pin::new(socket)),
            _ => Err(io::ErrorKind::NotConnected.into()),
        }
    }
}

/// What a socket that rests can do at once; `None`: it would block.
fn at_once(done: io::Result<usize>) -> Option<io::Result<usize>> {
    match done {
        Err(e) if matches!(e.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        done => Some(done),
    }
}

impl<S: Polled> AsyncRead for Paced<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if let Io::Resting(socket) = &mut this.io {
            this.scratch.resize(READ, 0);
            let room = out.remaining().min(READ);
            if let Some(read) = at_once(S::read(socket, &mut this.scratch[..room])) {
                return Poll::Ready(read.map(|n| out.put_slice(&this.scratch[..n])));
            }
        }
        this.watched()?.poll_read(cx, out)
    }
}

impl<S: Polled> AsyncWrite for Paced<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Io::Resting(socket) = &mut this.io
            && let Some(written) = at_once(S::write(socket, data))
        {
            return Poll::Ready(written);
        }
        this.watched()?.poll_write(cx, data)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Watched(socket) => Pin::new(socket).poll_flush(cx),
            _ => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().watched()?.poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    #[tokio::test]
    async fn what_arrives_while_it_rests_is_read_at_once_and_what_comes_later_is_waited_for() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let mut paced = Paced::new(ours);
        let mut buffer = [0; 8];
        assert!(paced.read(&mut buffer).now_or_never().is_none(), "nothing is there");
        for _ in 0..3 {
            paced.rest().unwrap();
            theirs.write_all(b"abc").await.unwrap();
            assert_eq!(paced.read(&mut buffer).now_or_never().unwrap().unwrap(), 3);
            let later = async {
                tokio::task::yield_now().await;
                theirs.write_all(b"de").await.unwrap();
            };
            let (read, ()) = tokio::join!(paced.read(&mut buffer), later);
            assert_eq!((read.unwrap(), &buffer[..2]), (2, &b"de"[..]));
        }
        paced.rest().unwrap();
        paced.write_all(b"back").await.unwrap();
        theirs.read_exact(&mut buffer[..4]).await.unwrap();
        assert_eq!(&buffer[..4], b"back");
        drop(theirs);
        assert_eq!(paced.read(&mut buffer).await.unwrap(), 0);
    }

    /// A socket that takes no more is waited for, also if it was resting.
    #[tokio::test]
    async fn a_full_socket_is_waited_for() {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let (mut ours, mut theirs) = (Paced::new(ours), Paced::new(theirs));
        ours.rest().unwrap();
        theirs.rest().unwrap();
        let data = vec![7; 4 << 20];
        let mut got = vec![0; data.len()];
        let (sent, read) = tokio::join!(ours.write_all(&data), theirs.read_exact(&mut got));
        sent.unwrap();
        read.unwrap();
        assert_eq!(got, data);
    }
}

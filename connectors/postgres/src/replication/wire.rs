//! The connection below a replication session: start-up, authentication, simple queries, and buffers.
//!
//! Guarantee: reading and writing are cancel safe at every await: what was read stays in the read buffer, and what was
//! queued stays queued until the socket took it. (A *command* dropped half-way leaves an answer outstanding; the
//! session refuses further use then.)

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{MakeTlsConnect, TlsConnect};

use super::paced::{Paced, Polled};
use super::{Endpoint, Error, ServerError};

/// Room kept for one read; a socket read takes as many messages as are there.
const READ_ROOM: usize = 256 * 1024;

trait Socket: AsyncRead + AsyncWrite + Unpin + Send + Sync {
    /// See [`Paced::rest`].
    fn rest(&mut self) -> io::Result<()>;
}

impl<S: Polled + Send + Sync> Socket for Paced<S>
where
    S::Bare: Send + Sync,
{
    fn rest(&mut self) -> io::Result<()> {
        Paced::rest(self)
    }
}

/// An encrypted connection.
struct Encrypted<T>(T);

impl<T: AsyncRead + AsyncWrite + Unpin + Send + Sync> Socket for Encrypted<T> {
    /// It does not.
    fn rest(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Encrypted<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Encrypted<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, data: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, data)
    }
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

pub(super) struct Wire {
    socket: Box<dyn Socket>,
    /// What was read and not yet taken.
    pub(super) input: BytesMut,
    /// What waits to be written.
    pub(super) output: BytesMut,
    pub(super) backend_pid: u32,
    pub(super) server_version: u32,
}

/// Names and values of one answer's rows.
pub(super) type Rows = Vec<Vec<Option<String>>>;

impl Wire {
    /// Connects, encrypts as asked, authenticates, and waits until the server takes commands.
    pub(super) async fn connect<T>(endpoint: &Endpoint, tls: Option<T>) -> Result<Self, Error>
    where
        T: MakeTlsConnect<TcpStream>,
        T::Stream: Send + Sync + 'static,
    {
        let (socket, encrypted) = open(endpoint, tls).await?;
        let mut wire =
            Wire { socket, input: BytesMut::new(), output: BytesMut::new(), backend_pid: 0, server_version: 0 };
        // The values of the change stream are written by this session's settings, whatever the role's or the
        // database's defaults are; and no time limit may end a wait for a snapshot, nor the snapshot itself.
        let parameters = [
            ("user", endpoint.user.as_str()),
            ("database", &endpoint.dbname),
            ("replication", "database"),
            ("application_name", &endpoint.application_name),
            ("client_encoding", "UTF8"),
            ("DateStyle", "ISO, YMD"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("extra_float_digits", "3"),
            ("bytea_output", "hex"),
            ("search_path", ""),
            ("statement_timeout", "0"),
            ("lock_timeout", "0"),
            ("idle_in_transaction_session_timeout", "0"),
        ];
        frontend::startup_message(parameters, &mut wire.output)?;
        wire.flush().await?;
        wire.authenticate(endpoint, encrypted).await?;
        // Servers that do not know a parameter refuse the session, and what they know is seen now only.
        for (since, limit) in [(140_000, "idle_session_timeout"), (170_000, "transaction_timeout")] {
            if wire.server_version >= since {
                wire.query(&format!("SET {limit} = 0")).await?;
            }
        }
        Ok(wire)
    }

    async fn authenticate(&mut self, endpoint: &Endpoint, encrypted: bool) -> Result<(), Error> {
        let password = || endpoint.password.as_deref().ok_or(Error::Authentication("the server asks for a password"));
        let mut scram: Option<sasl::ScramSha256> = None;
        // A server that proves itself (SCRAM) has to finish the proof: one that skips to "ok" may be an impostor.
        let mut proven = true;
        loop {
            let (tag, mut body) = self.message().await?;
            match tag {
                b'R' => match take_u32(&mut body)? {
                    0 if proven => {}
                    0 => return Err(Error::Authentication("the server left its proof out")),
                    3 if encrypted || endpoint.is_local() => {
                        frontend::password_message(password()?, &mut self.output)?;
                    }
                    3 => return Err(Error::Authentication("the server asks for the password in clear text")),
                    5 => {
                        let salt = take_u32(&mut body)?.to_be_bytes();
                        let hash = md5_hash(endpoint.user.as_bytes(), password()?, salt);
                        frontend::password_message(hash.as_bytes(), &mut self.output)?;
                    }
                    10 => {
                        if !body.split(|&b| b == 0).any(|mechanism| mechanism == sasl::SCRAM_SHA_256.as_bytes()) {
                            return Err(Error::Authentication("the server offers no SCRAM-SHA-256"));
                        }
                        // "Unsupported", not "unrequested": the TLS layer does not give its certificate's digest out.
                        let exchange = sasl::ScramSha256::new(password()?, sasl::ChannelBinding::unsupported());
                        frontend::sasl_initial_response(sasl::SCRAM_SHA_256, exchange.message(), &mut self.output)?;
                        scram = Some(exchange);
                        proven = false;
                    }
                    11 => {
                        let exchange = scram.as_mut().ok_or(Error::Authentication("SCRAM out of order"))?;
                        exchange.update(&body)?;
                        frontend::sasl_response(exchange.message(), &mut self.output)?;
                    }
                    12 => {
                        let exchange = scram.as_mut().ok_or(Error::Authentication("SCRAM out of order"))?;
                        exchange.finish(&body)?;
                        proven = true;
                    }
                    _ => return Err(Error::Authentication("the server asks for a method that is not supported")),
                },
                b'E' => return Err(server_error(&body)),
                b'S' => {
                    let mut parts = body.split(|&b| b == 0);
                    if let (Some(b"server_version"), Some(value)) = (parts.next(), parts.next()) {
                        self.server_version = version_number(value)?;
                    }
                }
                b'K' => self.backend_pid = take_u32(&mut body)?,
                b'Z' if proven => return Ok(()),
                b'N' | b'v' => {}
                _ => return Err(Error::Authentication("an unexpected message")),
            }
            self.flush().await?;
        }
    }

    /// One simple query; its rows as text. The last set of rows, where there are several.
    pub(super) async fn query(&mut self, sql: &str) -> Result<Rows, Error> {
        frontend::query(sql, &mut self.output)?;
        self.flush().await?;
        let mut rows = Rows::new();
        let mut failed = None;
        loop {
            let (tag, body) = self.message().await?;
            match tag {
                b'T' => rows.clear(),
                b'D' => rows.push(data_row(body)?),
                b'E' => failed = Some(server_error(&body)),
                b'Z' => return failed.map_or(Ok(rows), Err),
                // Notices, and what is left of a stream that was ended.
                _ => {}
            }
        }
    }

    /// Sends a command that shall turn the connection into a two-way copy.
    pub(super) async fn begin_copy(&mut self, sql: &str) -> Result<(), Error> {
        frontend::query(sql, &mut self.output)?;
        self.flush().await?;
        let mut failed = None;
        loop {
            let (tag, body) = self.message().await?;
            match (tag, failed.take()) {
                (b'W', None) => return Ok(()),
                (b'E', _) => failed = Some(server_error(&body)),
                (b'Z', Some(error)) => return Err(error),
                (b'N' | b'S', kept) => failed = kept,
                _ => return Err(Error::Protocol("no answer to START_REPLICATION".into())),
            }
        }
    }

    /// The next message as a whole: its kind and its body. Cancel safe.
    pub(super) async fn message(&mut self) -> Result<(u8, Bytes), Error> {
        loop {
            if let Some((tag, length)) = first(&self.input)?
                && self.input.len() >= length
            {
                let mut message = self.input.split_to(length).freeze();
                message.advance(5);
                return Ok((tag, message));
            }
            self.fill().await?;
        }
    }

    /// Reads once what is there, at least one byte, and writes meanwhile what is queued. Cancel safe.
    pub(super) async fn fill(&mut self) -> Result<(), Error> {
        if self.input.capacity() - self.input.len() < READ_ROOM / 4 {
            // Takes the old allocation back when nobody holds a block of it any more.
            self.input.reserve(READ_ROOM);
        }
        let read = poll_fn(|cx| {
            if let Err(error) = self.poll_write(cx) {
                return Poll::Ready(Err(error));
            }
            // `read_buf` keeps nothing between polls, so it may be made anew at each.
            let mut read = std::pin::pin!(self.socket.read_buf(&mut self.input));
            read.as_mut().poll(cx)
        })
        .await?;
        if read == 0 { Err(Error::Closed) } else { Ok(()) }
    }

    /// Nobody is woken by what arrives, until a read has found nothing.
    pub(super) fn rest(&mut self) -> Result<(), Error> {
        Ok(self.socket.rest()?)
    }

    /// Writes as much of the queue as the socket takes now.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.output.is_empty() {
            match Pin::new(&mut self.socket).poll_write(cx, &self.output)? {
                Poll::Ready(0) => return Err(io::ErrorKind::WriteZero.into()),
                Poll::Ready(written) => self.output.advance(written),
                Poll::Pending => return Ok(()),
            }
        }
        match Pin::new(&mut self.socket).poll_flush(cx) {
            Poll::Ready(result) => result,
            Poll::Pending => Ok(()),
        }
    }

    /// Writes as much as the socket takes without waiting; never pending, so nothing can be lost by a cancellation.
    pub(super) async fn write_now(&mut self) -> io::Result<()> {
        poll_fn(|cx| Poll::Ready(self.poll_write(cx))).await
    }

    /// Writes all that is queued. Cancel safe: the rest stays queued.
    pub(super) async fn flush(&mut self) -> Result<(), Error> {
        while !self.output.is_empty() {
            self.socket.write_buf(&mut self.output).await?;
        }
        Ok(self.socket.flush().await?)
    }
}

/// Kind and whole length of the first message, when its head is there.
#[inline]
pub(super) fn first(bytes: &[u8]) -> Result<Option<(u8, usize)>, Error> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<5>() else { return Ok(None) };
    match usize::try_from(i32::from_be_bytes([a, b, c, d])) {
        Ok(length) if length >= 4 => Ok(Some((tag, length + 1))),
        _ => Err(Error::Protocol("a message with an impossible length".into())),
    }
}

async fn open<T>(endpoint: &Endpoint, tls: Option<T>) -> Result<(Box<dyn Socket>, bool), Error>
where
    T: MakeTlsConnect<TcpStream>,
    T::Stream: Send + Sync + 'static,
{
    if endpoint.is_local() {
        let path = Path::new(&endpoint.host).join(format!(".s.PGSQL.{}", endpoint.port));
        return Ok((Box::new(Paced::new(UnixStream::connect(path).await?)), false));
    }
    let mut socket = TcpStream::connect((endpoint.host.as_str(), endpoint.port)).await?;
    socket.set_nodelay(true)?;
    let refused = || Error::Tls("the connection has to be encrypted and cannot be".into());
    let required = !matches!(endpoint.ssl_mode, SslMode::Disable | SslMode::Prefer);
    let Some(mut tls) = tls.filter(|_| endpoint.ssl_mode != SslMode::Disable) else {
        return if required { Err(refused()) } else { Ok((Box::new(Paced::new(socket)), false)) };
    };
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    socket.write_all(&request).await?;
    // Exactly one byte: more in clear text behind it would be somebody's injection, and stays for the handshake to refuse.
    match socket.read_u8().await? {
        b'S' => {
            let connector = tls.make_tls_connect(&endpoint.host).map_err(|e| Error::Tls(e.into()))?;
            let stream = connector.connect(socket).await.map_err(|e| Error::Tls(e.into()))?;
            Ok((Box::new(Encrypted(stream)), true))
        }
        _ if required => Err(refused()),
        _ => Ok((Box::new(Paced::new(socket)), false)),
    }
}

fn short() -> Error {
    Error::Protocol("a message that ends too early".into())
}

fn take_u32(body: &mut Bytes) -> Result<u32, Error> {
    body.try_get_u32().map_err(|_| short())
}

fn data_row(mut body: Bytes) -> Result<Vec<Option<String>>, Error> {
    let count = body.try_get_u16().map_err(|_| short())?;
    let mut row = Vec::with_capacity(count.into());
    for _ in 0..count {
        row.push(match take_u32(&mut body)? {
            u32::MAX => None,
            length if length as usize <= body.len() => {
                Some(String::from_utf8_lossy(&body.split_to(length as usize)).into_owned())
            }
            _ => return Err(short()),
        });
    }
    Ok(row)
}

/// Reads an ErrorResponse's fields (manual, "Error and Notice Message Fields").
pub(super) fn server_error(body: &[u8]) -> Error {
    let mut error = ServerError::default();
    for field in body.split(|&b| b == 0) {
        let Some((&tag, text)) = field.split_first() else { continue };
        let text = || String::from_utf8_lossy(text).into_owned();
        match tag {
            b'V' => error.severity = text(),
            b'C' => error.code = text(),
            b'M' => error.message = text(),
            b'D' => error.detail = Some(text()),
            b'H' => error.hint = Some(text()),
            _ => {}
        }
    }
    Error::Server(Box::new(error))
}

/// `15.13 (Debian …)`, `18beta1`, `9.6.24` as `server_version_num` gives them: 150013, 180000, 90624.
fn version_number(text: &[u8]) -> Result<u32, Error> {
    let text = String::from_utf8_lossy(text);
    let digits = text.split(|c: char| !c.is_ascii_digit() && c != '.').next().unwrap_or_default();
    let mut parts = digits.split('.').map(|part| part.parse::<u32>().ok());
    let (major, minor, patch) = (parts.next().flatten(), parts.next().flatten(), parts.next().flatten());
    match major {
        Some(major @ 10..=999) => Ok(major * 10_000 + minor.unwrap_or(0)),
        Some(major @ 1..10) => Ok(major * 10_000 + minor.unwrap_or(0) * 100 + patch.unwrap_or(0)),
        _ => Err(Error::Protocol(format!("an unreadable server version {text:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let of = |text: &str| version_number(text.as_bytes()).unwrap();
        assert_eq!(
            [of("15.13 (Debian 15.13-0+deb12u1)"), of("18beta1"), of("9.6.24"), of("10.4")],
            [150013, 180000, 90624, 100004]
        );
        assert!(version_number(b"x").is_err());
    }
}

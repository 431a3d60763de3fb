//! How a session begins: the handshake, encryption and authentication.

use super::{Broken, Stream, Wire};
use crate::connect::{Dialer, TlsMode};
use crate::errors::unknown_login;
use crate::flavor::Version;
use bytes::BytesMut;
use drover_model::error::codes;
use drover_model::{Error, Fault, Retry};
use mysql_common::constants::{CapabilityFlags, StatusFlags};
use mysql_common::crypto;
use mysql_common::io::ParseBuf;
use mysql_common::packets::{AuthPlugin, AuthSwitchRequest, HandshakePacket, HandshakeResponse, SslRequest};
use mysql_common::proto::MySerialize;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::pin::Pin;
use std::sync::Arc;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

type Result<T> = std::result::Result<T, Broken>;

/// utf8mb4_general_ci, which every version knows. Statements say what they need.
const COLLATION: u8 = 45;
/// The largest packet that a server may send: that of the protocol.
const MAX_PACKET: u32 = 1 << 30;

fn refused(why: impl Into<String>, remedy: &str) -> Broken {
    let mut error = Error::new(codes::CONFIGURATION, Fault::User, Retry::Never, why);
    error.remedy = Some(remedy.to_owned());
    Broken::Ours(error)
}

async fn dial(dialer: &Dialer) -> Result<Pin<Box<dyn Stream>>> {
    let s = dialer.settings();
    if s.host.starts_with('/') {
        return Ok(Box::pin(UnixStream::connect(&s.host).await.map_err(Broken::Io)?));
    }
    let stream = TcpStream::connect((s.host.as_str(), s.port)).await.map_err(Broken::Io)?;
    stream.set_nodelay(true).map_err(Broken::Io)?;
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(std::time::Duration::from_secs(30))
        .with_interval(std::time::Duration::from_secs(10));
    socket2::SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(Broken::Io)?;
    Ok(Box::pin(stream))
}

/// A session that has logged in, without any setting yet.
pub(super) async fn open(dialer: &Dialer, purpose: &str) -> Result<Wire> {
    let s = dialer.settings();
    let mut wire = Wire {
        stream: dial(dialer).await?,
        buffer: BytesMut::new(),
        joined: Vec::new(),
        sequence: 0,
        capabilities: CapabilityFlags::empty(),
        status: StatusFlags::empty(),
        stage: super::Stage::Idle,
        last_error: None,
        id: 0,
        version: Version { flavor: crate::flavor::Flavor::MySql, number: 0, text: String::new() },
        fault: s.fault,
        at: format!("{}:{}", s.host, s.port),
    };
    let greeting = wire.packet().await?;
    let greeting = ParseBuf(&greeting).parse::<HandshakePacket<'_>>(()).map_err(Broken::Io)?;
    let text = greeting.server_version_str().into_owned();
    wire.version = Version::parse(&text)
        .ok_or_else(|| refused(format!("{text:?} is no version of this family"), "name a server of this family"))?;
    wire.id = greeting.connection_id();
    let mut wanted = CapabilityFlags::CLIENT_LONG_PASSWORD
        | CapabilityFlags::CLIENT_LONG_FLAG
        | CapabilityFlags::CLIENT_FOUND_ROWS
        | CapabilityFlags::CLIENT_PROTOCOL_41
        | CapabilityFlags::CLIENT_TRANSACTIONS
        | CapabilityFlags::CLIENT_SECURE_CONNECTION
        | CapabilityFlags::CLIENT_MULTI_STATEMENTS
        | CapabilityFlags::CLIENT_MULTI_RESULTS
        | CapabilityFlags::CLIENT_PS_MULTI_RESULTS
        | CapabilityFlags::CLIENT_PLUGIN_AUTH
        | CapabilityFlags::CLIENT_PLUGIN_AUTH_LENENC_CLIENT_DATA
        | CapabilityFlags::CLIENT_CONNECT_ATTRS
        | CapabilityFlags::CLIENT_DEPRECATE_EOF;
    let encrypted = s.tls.mode != TlsMode::Off && !s.host.starts_with('/');
    if encrypted {
        wanted |= CapabilityFlags::CLIENT_SSL;
    }
    // A MariaDB leaves the first bit out to say that it has more of its own; it is harmless.
    wire.capabilities =
        wanted & (greeting.capabilities() | CapabilityFlags::CLIENT_LONG_PASSWORD | CapabilityFlags::CLIENT_FOUND_ROWS);
    let mut nonce = greeting.scramble_1_ref().to_vec();
    nonce.extend_from_slice(greeting.scramble_2_ref().unwrap_or_default());
    nonce.resize(20, 0);
    let plugin = greeting.auth_plugin().map_or(AuthPlugin::MysqlNativePassword, AuthPlugin::into_owned);
    if encrypted {
        if !wire.capabilities.contains(CapabilityFlags::CLIENT_SSL) {
            let why = format!("{}:{} does not encrypt connections", s.host, s.port);
            return Err(refused(why, "switch TLS on at the server, or write tls = { mode = \"off\" }"));
        }
        let mut request = Vec::new();
        SslRequest::new(wire.capabilities, MAX_PACKET, COLLATION).serialize(&mut request);
        wire.send(&request).await?;
        wire = encrypt(wire, dialer).await?;
    }
    // The server may prefer a plugin that this account does not have; it says so then.
    let plugin = if known(&plugin) { plugin } else { AuthPlugin::MysqlNativePassword };
    let answer = {
        let data = plugin.gen_data(s.password.as_deref(), &nonce);
        let attributes = HashMap::from([
            ("program_name".to_owned(), dialer.program_name(purpose)),
            ("_client_name".to_owned(), "drover".to_owned()),
        ]);
        let version = (greeting.server_version_parsed()).unwrap_or((5, 5, 3));
        let response = HandshakeResponse::new(
            data.as_deref(),
            version,
            Some(s.user.as_bytes()),
            None::<&[u8]>,
            Some(plugin.borrow()),
            wire.capabilities,
            wire.capabilities.contains(CapabilityFlags::CLIENT_CONNECT_ATTRS).then_some(attributes),
            MAX_PACKET,
        );
        let mut bytes = Vec::new();
        response.serialize(&mut bytes);
        bytes
    };
    wire.send(&answer).await?;
    authenticate(&mut wire, dialer, nonce, encrypted || s.host.starts_with('/')).await?;
    Ok(wire)
}

fn known(plugin: &AuthPlugin<'_>) -> bool {
    matches!(plugin, AuthPlugin::MysqlNativePassword | AuthPlugin::CachingSha2Password | AuthPlugin::Ed25519)
}

async fn encrypt(mut wire: Wire, dialer: &Dialer) -> Result<Wire> {
    let s = dialer.settings();
    let config = drover_runtime::tls::client_config(&s.tls).map_err(Broken::Ours)?;
    let name = ServerName::try_from(s.host.clone()).map_err(|_| {
        refused(format!("{:?} is no name that a certificate can have", s.host), "name the host otherwise")
    })?;
    let stream = TlsConnector::from(Arc::new(config)).connect(name, wire.stream).await.map_err(Broken::Io)?;
    wire.stream = Box::pin(stream);
    Ok(wire)
}

/// Answers until the server is content. `private`: nobody else can read along.
async fn authenticate(wire: &mut Wire, dialer: &Dialer, mut nonce: Vec<u8>, private: bool) -> Result<()> {
    let password = dialer.settings().password.as_deref();
    // Each plugin needs a few rounds at most.
    for _ in 0..8 {
        let packet = wire.packet().await?;
        match packet.first() {
            Some(0x00) => return wire.take_ok(&packet),
            Some(0xfe) if packet.len() > 1 => {
                let switch = ParseBuf(&packet).parse::<AuthSwitchRequest<'_>>(()).map_err(Broken::Io)?;
                let plugin = switch.auth_plugin().into_owned();
                nonce = switch.plugin_data().to_vec();
                let socket =
                    matches!(&plugin, AuthPlugin::Other(name) if matches!(&**name, b"auth_socket" | b"unix_socket"));
                if !known(&plugin) && !socket {
                    let name = String::from_utf8_lossy(plugin.as_bytes());
                    return Err(Broken::Ours(unknown_login(wire.fault, &name)));
                }
                let data = plugin.gen_data(password, &nonce).map(|d| d.to_vec()).unwrap_or_default();
                wire.send(&data).await?;
            }
            Some(0xfe) => {
                return Err(refused(
                    "the account's password is stored in the form of servers before 4.1",
                    "set the password anew",
                ));
            }
            // More is wanted: only caching_sha2_password asks, unless its cache knows the password.
            Some(0x01) => match packet.get(1) {
                Some(0x03) => {}
                Some(0x04) => {
                    let mut secret = password.unwrap_or_default().as_bytes().to_vec();
                    secret.push(0);
                    if !private {
                        wire.send(&[0x02]).await?;
                        let key = wire.packet().await?;
                        let key = key.get(1..).unwrap_or_default();
                        if !key.starts_with(b"-----BEGIN") || nonce.is_empty() {
                            return Err(Broken::protocol("the server gave no key for the password"));
                        }
                        for (byte, mask) in secret.iter_mut().zip(nonce.iter().cycle()) {
                            *byte ^= mask;
                        }
                        secret = crypto::encrypt(&secret, key);
                    }
                    wire.send(&secret).await?;
                }
                _ => return Err(Broken::protocol("authentication went on in an unknown way")),
            },
            _ => return Err(Broken::protocol("authentication went on in an unknown way")),
        }
    }
    Err(Broken::protocol("authentication does not come to an end"))
}

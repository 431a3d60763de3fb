//! Which address of this machine a connection would come from. Guarantee: nothing is sent.

use std::net::IpAddr;
use tokio::net::UdpSocket;

/// The address by which this machine reaches `host`, a name or an address: what an allow list or a firewall there has to let in, as long as nothing in between
/// translates addresses. `None` for a local socket (a path), an unknown name, or without a route.
///
/// A UDP socket that is connected asks the routing table alone (connect(2): no datagram is sent by it).
pub async fn address(host: &str) -> Option<IpAddr> {
    if host.starts_with('/') {
        return None;
    }
    // Any port will do.
    for there in tokio::net::lookup_host((host, 9)).await.ok()? {
        let any = if there.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let Ok(socket) = UdpSocket::bind(any).await else { continue };
        if socket.connect(there).await.is_ok()
            && let Ok(here) = socket.local_addr()
        {
            return Some(here.ip());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_address_of_this_machine_or_none() {
        assert_eq!(address("127.0.0.1").await, Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(address("/run/database").await, None);
        assert_eq!(address("no.such.host.invalid").await, None);
    }
}

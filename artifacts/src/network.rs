//! What the servers of both programs share: how they listen where IPv4, IPv6 or both are, how a host stands in a URL, how long a
//! connection is kept, and which bodies there is room for. It knows no route.

pub mod bodies;
mod serve;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tokio::net::TcpListener;

pub use serve::serve;

/// Listens on `address`. `[::]` means all addresses, of IPv4 too; where the machine has no IPv6, all of IPv4.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) => match instead(address, &error) {
            Some(address) => TcpListener::bind(address).await,
            None => Err(error),
        },
    }
}

/// Listens on `port` of `host`, an address (without brackets) or a name; [`listen`] says what `::` means.
pub async fn listen_on(host: &str, port: u16) -> io::Result<TcpListener> {
    match host.parse::<IpAddr>() {
        Ok(address) => listen(SocketAddr::new(address, port)).await,
        Err(_) => TcpListener::bind((host, port)).await,
    }
}

/// A host as a URL has it: an IPv6 address in brackets, anything else as it is.
pub fn host_in_url(host: &str) -> String {
    if host.contains(':') && !host.starts_with('[') {
        format!("[{host}]")
    } else {
        host.to_owned()
    }
}

/// Where to listen if `address` could not be listened on for want of IPv6: a kernel that lacks it knows not even `::`.
fn instead(address: SocketAddr, error: &io::Error) -> Option<SocketAddr> {
    let everywhere = address.is_ipv6() && address.ip().is_unspecified();
    let answers_for_the_port = matches!(
        error.kind(),
        io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied
    );
    (everywhere && !answers_for_the_port)
        .then(|| SocketAddr::from((Ipv4Addr::UNSPECIFIED, address.port())))
}

#[cfg(test)]
mod tests {
    use std::net::Ipv6Addr;

    use super::*;

    #[tokio::test]
    async fn who_listens_everywhere_is_reached_by_ipv4_and_where_there_is_ipv6_by_it_too() {
        let listener = listen_on("::", 0).await.unwrap();
        let address = listener.local_addr().unwrap();
        let port = address.port();
        let (by_v4, _) = tokio::join!(
            tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)),
            listener.accept()
        );
        by_v4.unwrap();
        // Whether the machine has IPv6 is told by another socket than the one under test.
        if TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).await.is_ok() {
            assert!(address.is_ipv6());
            let (by_v6, _) = tokio::join!(
                tokio::net::TcpStream::connect((Ipv6Addr::LOCALHOST, port)),
                listener.accept()
            );
            by_v6.unwrap();
        }
    }

    #[test]
    fn a_kernel_without_ipv6_is_listened_on_by_ipv4_and_a_taken_port_stays_an_error() {
        let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, 8480));
        let no_family = io::Error::from_raw_os_error(97);
        let taken = io::Error::from(io::ErrorKind::AddrInUse);
        assert_eq!(
            instead(everywhere, &no_family),
            Some("0.0.0.0:8480".parse().unwrap())
        );
        assert_eq!(instead(everywhere, &taken), None);
        assert_eq!(instead("[::1]:8480".parse().unwrap(), &no_family), None);
        assert_eq!(instead("127.0.0.1:8480".parse().unwrap(), &no_family), None);
    }

    #[test]
    fn an_ipv6_address_stands_in_brackets_in_a_url() {
        assert_eq!(host_in_url("fd00::7"), "[fd00::7]");
        assert_eq!(host_in_url("[fd00::7]"), "[fd00::7]");
        assert_eq!(host_in_url("10.0.0.7"), "10.0.0.7");
        assert_eq!(host_in_url("engine.svc"), "engine.svc");
    }
}

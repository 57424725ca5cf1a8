//! Which of a sandbox's connections others have made.

use std::collections::BTreeSet;

use crate::model::port::BoundSocket;

/// How many of the sandbox's TCP sockets are connections to one of its listeners, other than from
/// within. Those that are being made count, and those of which one side is not closed yet.
pub(super) fn from_others(sockets: &[BoundSocket]) -> usize {
    let listeners: BTreeSet<u16> = sockets
        .iter()
        .filter(|socket| socket.listens)
        .map(|socket| socket.port)
        .collect();
    let connections = sockets.iter().filter(|socket| !socket.listens);
    connections
        .filter(|socket| !socket.address.to_canonical().is_loopback())
        .filter(|socket| listeners.contains(&socket.port))
        .count()
}

#[cfg(test)]
mod tests {
    use api::net::Protocol;

    use super::*;

    #[test]
    fn only_connections_to_listeners_from_elsewhere_count() {
        let socket = |address: &str, listens| {
            let address: std::net::SocketAddr = address.parse().unwrap();
            BoundSocket {
                protocol: Protocol::Tcp,
                address: address.ip(),
                port: address.port(),
                listens,
                inode: 0,
            }
        };
        let sockets = [
            socket("[::]:80", true),
            socket("10.0.0.2:80", false),
            socket("[::ffff:10.0.0.2]:80", false),
            socket("127.0.0.1:80", false),
            // Its own connection to somebody.
            socket("10.0.0.2:40000", false),
        ];
        assert_eq!(from_others(&sockets), 2);
    }
}

//! From an address to a connected stream: the only place that resolves names and connects.

use std::{
    io,
    net::{SocketAddr, TcpStream, ToSocketAddrs},
    time::{Duration, Instant},
};

use super::deadline::Deadline;

/// Resolves `address` anew and tries everything it resolves to, in turn, within `timeout` apart from the resolver's own
/// time. Blocks.
pub(super) fn dial(address: &str, timeout: Duration) -> io::Result<TcpStream> {
    let addresses = resolve(address)?;
    let deadline = Deadline::after(timeout);
    let mut last_error = None;
    for (tried, candidate) in addresses.iter().enumerate() {
        let left = u32::try_from(addresses.len() - tried).unwrap_or(u32::MAX);
        // What is left is shared out, so that one address that drops packets leaves time for the next.
        let share = deadline.remaining(Instant::now()) / left;
        match TcpStream::connect_timeout(candidate, share.max(Duration::from_millis(1))) {
            Ok(stream) if is_itself(&stream) => last_error = Some(io::ErrorKind::ConnectionRefused.into()),
            Ok(stream) => return Ok(stream),
            Err(error) => last_error = Some(error),
        }
    }
    Err(last_error
        .unwrap_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name resolves to no address")))
}

/// Whether a stream is connected to itself. A port of this machine on which nobody listens may be given to the very socket
/// that dials it, and TCP lets that connect: the producer would then talk to itself instead of being refused.
fn is_itself(stream: &TcpStream) -> bool {
    match (stream.local_addr(), stream.peer_addr()) {
        (Ok(local), Ok(peer)) => local == peer,
        _ => false,
    }
}

/// All addresses that a name stands for now. Blocks for as long as the resolver likes.
pub(crate) fn resolve(address: &str) -> io::Result<Vec<SocketAddr>> {
    Ok(address.to_socket_addrs()?.collect())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_name_is_resolved_and_connected_to() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("localhost:{}", listener.local_addr().unwrap().port());
        assert!(dial(&address, Duration::from_secs(3)).is_ok());
    }

    #[test]
    fn what_cannot_be_resolved_is_an_error() {
        assert!(dial("no-port", Duration::from_secs(3)).is_err());
        assert!(dial("host.invalid:1", Duration::from_secs(3)).is_err());
    }
}

//! Who this producer is, and the ids that it gives its messages.

use std::{
    hash::{BuildHasher, RandomState},
    net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket},
    process,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use crate::{
    message::MessageId,
    net::sync::{AtomicU64, Ordering},
    wire::id::{UniqueKeyPrefix, id_milliseconds},
};

/// Makes message ids (4.7.0 `MessageClientIDSetter`). Unlike 4.7.0 tag and counter belong to the producer, not to the
/// process: a forked child that starts a producer makes other ids than its parent. It cannot go on with its parent's, whose
/// threads it does not have.
#[derive(Debug)]
pub(crate) struct IdMaker {
    prefix: UniqueKeyPrefix,
    counter: AtomicU64,
}

impl IdMaker {
    pub(crate) fn new(ip: IpAddr) -> Self {
        let random = RandomState::new().hash_one(process::id());
        let tag = u32::try_from(random >> 32).unwrap_or_default();
        Self {
            prefix: UniqueKeyPrefix::new(ip, low_16(process::id().into()), tag),
            counter: AtomicU64::new(random & 0xFFFF),
        }
    }

    pub(crate) fn next(&self, unix_ms: u64) -> MessageId {
        let counter = low_16(self.counter.fetch_add(1, Ordering::Relaxed));
        self.prefix.key(id_milliseconds(unix_ms), counter)
    }
}

fn low_16(value: u64) -> u16 {
    u16::try_from(value & 0xFFFF).unwrap_or_default()
}

/// Milliseconds since 1970 by the wall clock, which is used for born times and ids only, never for timeouts.
pub(super) fn unix_milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// `ip@instance` (4.7.0 `ClientConfig.buildMQClientId`).
pub(super) fn client_id(ip: IpAddr, instance_name: &str) -> Arc<str> {
    match ip {
        IpAddr::V4(ip) => format!("{ip}@{instance_name}").into(),
        IpAddr::V6(ip) => format!("[{ip}]@{instance_name}").into(),
    }
}

/// A name that no other producer has, in this process or another: brokers push replies to whoever has the name.
pub(super) fn unique_instance_name() -> String {
    let random = RandomState::new().hash_one(unix_milliseconds());
    format!("{}#{random:016x}", process::id())
}

/// The address of this machine as the name server sees it, or a best guess. Sends nothing: connecting a datagram socket
/// only asks the operating system for the route. Host names are not resolved here, since that may take long.
pub(super) fn local_ip(name_servers: &[Arc<str>]) -> IpAddr {
    let literals = name_servers
        .iter()
        .filter_map(|address| address.parse::<SocketAddr>().ok());
    // Any address outside will do to find the interface of the default route.
    let outside = SocketAddr::from((Ipv4Addr::new(198, 51, 100, 1), 9));
    literals
        .chain([outside])
        .find_map(source_address)
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn source_address(target: SocketAddr) -> Option<IpAddr> {
    let any = if target.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any.to_socket_addrs().ok()?.next()?).ok()?;
    socket.connect(target).ok()?;
    socket
        .local_addr()
        .ok()
        .map(|address| address.ip())
        .filter(|ip| !ip.is_unspecified())
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn ids_of_one_millisecond_differ_and_so_do_those_of_two_producers() {
        let ip = IpAddr::V4(Ipv4Addr::LOCALHOST);
        let makers = [IdMaker::new(ip), IdMaker::new(ip)];
        let ids: HashSet<_> = makers
            .iter()
            .flat_map(|maker| (0..60_000).map(|_| maker.next(1_700_000_000_000)))
            .collect();
        assert_eq!(ids.len(), 120_000);
        assert!(ids.iter().all(|id| id.as_str().len() == 32));
    }

    #[test]
    fn the_client_id_is_written_as_java_writes_it() {
        assert_eq!(
            &*client_id(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 5)), "a"),
            "10.0.0.5@a"
        );
        assert_eq!(&*client_id("::1".parse().unwrap(), "a"), "[::1]@a");
        assert_ne!(unique_instance_name(), unique_instance_name());
    }

    #[test]
    fn a_local_name_server_sees_the_loopback_address() {
        assert_eq!(
            local_ip(&["127.0.0.1:9876".into()]),
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        );
    }
}

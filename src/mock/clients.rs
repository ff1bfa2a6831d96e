//! The clients that have registered at the brokers by heartbeat.
//!
//! A registration belongs to the connection that it came on and ends with it, as in `ProducerManager`. Rule: the lock
//! is never held while another lock is taken.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::wire::request::heartbeat::ReceivedHeartbeat;
use crate::wire::request::unregister::ReceivedUnregister;

/// A client that is registered at a broker of the embedded cluster.
///
/// ```
/// use rocketmq_producer::mock::MockCluster;
///
/// let cluster = MockCluster::start(2)?;
/// assert!(cluster.clients().is_empty(), "no client has sent a heartbeat yet");
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MockClient {
    /// The broker where it is registered; a client of two brokers is listed twice.
    pub broker_name: String,
    /// What it calls itself, usually `address@instance`.
    pub client_id: String,
    /// Its producer groups, sorted, without those it has taken back.
    pub producer_groups: Vec<String>,
    /// Its consumer groups, the same.
    pub consumer_groups: Vec<String>,
    /// Its end of the connection that the registration belongs to.
    pub address: SocketAddr,
    /// The release that it claims, as the number that the protocol uses (513 is 5.5.0).
    pub version: i32,
    /// Heartbeats received on this connection.
    pub heartbeats: u64,
}

/// Where a request came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Origin {
    pub(super) broker: usize,
    pub(super) connection: u64,
}

#[derive(Debug)]
struct Registration {
    address: SocketAddr,
    version: i32,
    heartbeats: u64,
    producer_groups: BTreeSet<String>,
    consumer_groups: BTreeSet<String>,
}

/// All registrations at all brokers.
#[derive(Debug, Default)]
pub(super) struct Clients {
    heartbeats: AtomicU64,
    registered: Mutex<BTreeMap<(Origin, String), Registration>>,
    /// By broker and client id: the connection that replies are pushed on.
    reply_to: Mutex<BTreeMap<(usize, String), u64>>,
}

impl Clients {
    /// Takes a heartbeat in. Groups are added: a heartbeat never takes one back.
    pub(super) fn heartbeat(
        &self,
        origin: Origin,
        address: SocketAddr,
        version: i32,
        heartbeat: ReceivedHeartbeat,
    ) {
        self.heartbeats.fetch_add(1, Ordering::Relaxed);
        self.note_reply_connection(origin, &heartbeat);
        let mut registered = self.registered.lock();
        let registration = registered
            .entry((origin, heartbeat.client_id))
            .or_insert_with(|| Registration {
                address,
                version,
                heartbeats: 0,
                producer_groups: BTreeSet::new(),
                consumer_groups: BTreeSet::new(),
            });
        registration.version = version;
        registration.heartbeats += 1;
        registration.producer_groups.extend(heartbeat.producer_groups);
        registration.consumer_groups.extend(heartbeat.consumer_groups);
        drop(registered);
    }

    /// As `ProducerManager.registerProducer` of all releases: only the first heartbeat of a group on a connection says where
    /// its client is.
    fn note_reply_connection(&self, origin: Origin, heartbeat: &ReceivedHeartbeat) {
        let key = (origin, heartbeat.client_id.clone());
        let registered = self.registered.lock();
        let known = registered.get(&key).map(|known| &known.producer_groups);
        let is_new = |group: &String| known.is_none_or(|known| !known.contains(group));
        let is_first = heartbeat.producer_groups.iter().any(is_new);
        drop(registered);
        if is_first {
            self.reply_to
                .lock()
                .insert((origin.broker, key.1), origin.connection);
        }
    }

    /// The connection that a broker pushes a client's replies on.
    pub(super) fn reply_connection(&self, broker: usize, client_id: &str) -> Option<u64> {
        let reply_to = self.reply_to.lock();
        reply_to.get(&(broker, client_id.to_owned())).copied()
    }

    /// As real brokers, which forget where a client is when any of its producer groups is taken back or any of its connections
    /// ends, another connection's too.
    fn forget_reply_connection(&self, broker: usize, client_id: &str) {
        self.reply_to.lock().remove(&(broker, client_id.to_owned()));
    }

    /// Takes back the named groups; a client without any is gone.
    pub(super) fn unregister(&self, origin: Origin, request: &ReceivedUnregister<'_>) {
        if request.producer_group.is_some() {
            self.forget_reply_connection(origin.broker, &request.client_id);
        }
        let key = (origin, request.client_id.clone().into_owned());
        let mut registered = self.registered.lock();
        let Some(registration) = registered.get_mut(&key) else {
            return;
        };
        if let Some(group) = request.producer_group.as_deref() {
            registration.producer_groups.remove(group);
        }
        if let Some(group) = request.consumer_group.as_deref() {
            registration.consumer_groups.remove(group);
        }
        if registration.producer_groups.is_empty() && registration.consumer_groups.is_empty() {
            registered.remove(&key);
        }
    }

    /// The connections of the producers of a group at a broker, in the order in which they were made.
    pub(super) fn producers(&self, broker: usize, group: &str) -> Vec<u64> {
        let registered = self.registered.lock();
        let of_group = registered.iter().filter(|((origin, _), registration)| {
            origin.broker == broker && registration.producer_groups.contains(group)
        });
        of_group.map(|((origin, _), _)| origin.connection).collect()
    }

    /// The connection is closed.
    pub(super) fn closed(&self, origin: Origin) {
        let mut gone = Vec::new();
        self.registered.lock().retain(|(known, client_id), _| {
            let stays = *known != origin;
            if !stays {
                gone.push(client_id.clone());
            }
            stays
        });
        for client_id in gone {
            self.forget_reply_connection(origin.broker, &client_id);
        }
    }

    /// Heartbeats of all clients at all brokers so far.
    pub(super) fn heartbeats(&self) -> u64 {
        self.heartbeats.load(Ordering::Relaxed)
    }

    /// All registrations, by broker and in the order of their connections.
    pub(super) fn list(&self, broker_name: impl Fn(usize) -> String) -> Vec<MockClient> {
        let registered = self.registered.lock();
        let client = |((origin, client_id), registration): (&(Origin, String), &Registration)| MockClient {
            broker_name: broker_name(origin.broker),
            client_id: client_id.clone(),
            producer_groups: registration.producer_groups.iter().cloned().collect(),
            consumer_groups: registration.consumer_groups.iter().cloned().collect(),
            address: registration.address,
            version: registration.version,
            heartbeats: registration.heartbeats,
        };
        registered.iter().map(client).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heartbeat(clients: &Clients, origin: Origin, client_id: &str, groups: &[&str]) {
        let heartbeat = ReceivedHeartbeat {
            client_id: client_id.to_owned(),
            producer_groups: groups.iter().map(|group| (*group).to_owned()).collect(),
            consumer_groups: Vec::new(),
        };
        clients.heartbeat(origin, "127.0.0.1:1".parse().unwrap(), 513, heartbeat);
    }

    fn unregister(clients: &Clients, origin: Origin, client_id: &str, group: &str) {
        let request = ReceivedUnregister {
            client_id: client_id.into(),
            producer_group: Some(group.into()),
            consumer_group: None,
        };
        clients.unregister(origin, &request);
    }

    #[test]
    fn registrations_come_with_heartbeats_and_go_with_their_groups_or_connection() {
        let clients = Clients::default();
        let first = Origin {
            broker: 0,
            connection: 1,
        };
        let second = Origin {
            broker: 1,
            connection: 2,
        };
        heartbeat(&clients, first, "c", &["b", "a"]);
        heartbeat(&clients, first, "c", &["c"]);
        heartbeat(&clients, second, "c", &["a"]);
        let listed = clients.list(|broker| format!("broker {broker}"));
        assert_eq!(listed.len(), 2);
        assert_eq!(listed[0].producer_groups, ["a", "b", "c"]);
        assert_eq!((listed[0].heartbeats, &*listed[0].broker_name), (2, "broker 0"));
        assert_eq!(clients.heartbeats(), 3);

        unregister(&clients, first, "other", "a");
        unregister(&clients, first, "c", "a");
        unregister(&clients, first, "c", "b");
        assert_eq!(clients.list(|_| String::new())[0].producer_groups, ["c"]);
        unregister(&clients, first, "c", "c");
        assert_eq!(clients.list(|_| String::new()).len(), 1);
        clients.closed(second);
        assert!(clients.list(|_| String::new()).is_empty());
        assert_eq!(clients.heartbeats(), 3);
    }
}

//! What the servers of one embedded cluster have in common. Data only; each part has a lock of its own.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

use super::clients::Clients;
use super::delays::Delays;
use super::dialect::ServerVersion;
use super::events::Events;
use super::request_reply::Repliers;
use super::rules::Faults;
use super::store::Store;
use super::topics::Topics;
use super::transactions::{CheckTimes, Transactions};

/// The cluster that every broker belongs to, as brokers name it by default.
pub(super) const CLUSTER_NAME: &str = "DefaultCluster";

/// The region that every broker names by default.
pub(super) const REGION_ID: &str = "DefaultRegion";

/// A broker as the others know it.
#[derive(Debug)]
pub(super) struct BrokerPlace {
    pub(super) name: Arc<str>,
    port: AtomicU16,
    is_hidden: AtomicBool,
}

impl BrokerPlace {
    pub(super) fn new(name: Arc<str>, port: u16) -> BrokerPlace {
        BrokerPlace {
            name,
            port: AtomicU16::new(port),
            is_hidden: AtomicBool::new(false),
        }
    }

    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.load(Ordering::SeqCst)).into()
    }

    pub(super) fn moved_to(&self, port: u16) {
        self.port.store(port, Ordering::SeqCst);
    }

    /// Whether name servers leave it out.
    pub(super) fn is_hidden(&self) -> bool {
        self.is_hidden.load(Ordering::SeqCst)
    }

    pub(super) fn hide(&self, is_hidden: bool) {
        self.is_hidden.store(is_hidden, Ordering::SeqCst);
    }
}

/// State of the cluster.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) version: ServerVersion,
    pub(super) max_message_size: usize,
    /// Whether brokers take timer messages back (`BrokerConfig.recallMessageEnable`).
    pub(super) recalls: bool,
    /// By broker index.
    pub(super) brokers: Vec<BrokerPlace>,
    pub(super) topics: Topics,
    pub(super) store: Store,
    pub(super) transactions: Transactions,
    pub(super) delays: Delays,
    pub(super) clients: Clients,
    pub(super) events: Events,
    pub(super) faults: Faults,
    pub(super) repliers: Repliers,
    next_queue: AtomicU32,
    next_unique_key: AtomicU32,
}

impl Shared {
    pub(super) fn new(
        version: ServerVersion,
        max_message_size: usize,
        recalls: bool,
        brokers: Vec<BrokerPlace>,
        topics: Topics,
        store: Store,
        check_times: CheckTimes,
    ) -> Shared {
        Shared {
            version,
            max_message_size,
            recalls,
            brokers,
            topics,
            store,
            transactions: Transactions::new(check_times),
            delays: Delays::default(),
            clients: Clients::default(),
            events: Events::default(),
            faults: Faults::default(),
            repliers: Repliers::default(),
            next_queue: AtomicU32::new(0),
            next_unique_key: AtomicU32::new(0),
        }
    }

    /// Whose turn it is when a broker chooses the queue; wraps.
    pub(super) fn next_queue(&self) -> u32 {
        self.next_queue.fetch_add(1, Ordering::Relaxed)
    }

    /// Tells apart the unique keys that brokers make up; wraps.
    pub(super) fn next_unique_key(&self) -> u32 {
        self.next_unique_key.fetch_add(1, Ordering::Relaxed)
    }
}

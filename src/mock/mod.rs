//! An embedded RocketMQ cluster for tests and demonstrations: name servers and brokers on loopback sockets, in this
//! process.
//!
//! It speaks the wire protocol of a chosen release, [`ServerVersion`], to any client: this library, Apache's own
//! producers, or a test that writes frames by hand. Nothing is faked on the client's side: there are real sockets on
//! free ports, and threads that end when the [`MockCluster`] is dropped.
//!
//! ```
//! use std::time::Duration;
//! use rocketmq_producer::mock::MockCluster;
//!
//! let cluster = MockCluster::start(2)?;
//! cluster.create_topic("orders", 4);
//! // Hand `cluster.name_servers()` to a producer, or to a child process as NAMESRV_ADDR, and send. Then look:
//! let sent = cluster.wait_until(Duration::from_millis(1), |cluster| cluster.message_count("orders") == 1);
//! assert!(!sent, "nobody has sent anything here");
//! assert!(cluster.messages("orders").is_empty());
//! # Ok::<(), std::io::Error>(())
//! ```
//!
//! # What it does
//!
//! It answers `GET_ROUTEINFO_BY_TOPIC`, `GET_BROKER_CLUSTER_INFO`, `SEND_MESSAGE`, `SEND_MESSAGE_V2`,
//! `SEND_BATCH_MESSAGE`, `SEND_REPLY_MESSAGE` and its V2, `RECALL_MESSAGE`, `END_TRANSACTION`, `HEART_BEAT` and
//! `UNREGISTER_CLIENT`, and the queries of producers: `GET_MIN_OFFSET`, `GET_MAX_OFFSET`, `SEARCH_OFFSET_BY_TIMESTAMP`,
//! `GET_EARLIEST_MSG_STORETIME`, `VIEW_MESSAGE_BY_ID`, `QUERY_MESSAGE` and `UPDATE_AND_CREATE_TOPIC`; topics are created by
//! sends, batches are unpacked, messages wait for their delay level or timer, half messages are kept out of sight and asked
//! about, and refusals carry the codes and remarks of the release. Any other request is treated as one that the release
//! does not know.
//!
//! # What goes wrong on demand
//!
//! A test tells a server what to do with which requests: how often, before or after they have their effect.
//!
//! ```
//! use std::time::Duration;
//! use rocketmq_producer::{Delivery, Message, Producer, RequestCode, ResponseCode, mock::MockCluster};
//!
//! let cluster = MockCluster::start(1)?;
//! let producer = Producer::builder("group").name_servers(cluster.name_servers()).retries(0).start()?;
//! let sends = || cluster.broker("broker-a").on(RequestCode::SEND_MESSAGE_V2);
//! // Refused once.
//! sends().once().reply(ResponseCode::SYSTEM_BUSY, "[PC_SYNCHRONIZED]broker busy");
//! let error = producer.send(&Message::new("orders", "first")?).expect_err("the broker is busy");
//! assert_eq!(error.delivery(), Delivery::Refused);
//! // Stored, and the connection is reset before the answer.
//! sends().once().after_store().reset();
//! let error = producer.send(&Message::new("orders", "second")?).expect_err("the answer is lost");
//! assert_eq!(error.delivery(), Delivery::Unknown);
//! assert_eq!(cluster.message_count("orders"), 1);
//! // Silent until told otherwise.
//! let silence = cluster.name_server(0).on(RequestCode::GET_ROUTEINFO_BY_TOPIC).always().silence();
//! silence.clear();
//! cluster.assert_no_rule_left();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! | a test says | of |
//! |---|---|
//! | which requests, how often, at which moment, and what happens | [`MockRuleBuilder`] |
//! | what happens, step by step, or by a closure | [`MockAction`], [`MockRuleBuilder::respond_with`] |
//! | down, paused, unreachable, going away, moved, out of the routes; other queues and permissions | [`MockServer`] |
//! | a request to the clients | [`MockServer::push`] |
//! | replies to requests | [`MockCluster::reply_with`] |
//!
//! What became of it is seen in [`MockCluster::messages`], [`MockCluster::copies_by_message_id`],
//! [`MockCluster::request_log`] and [`MockRule::taken`]; [`MockCluster::wait_until`] waits for it. Nothing here is left to
//! chance: the same script and the same requests in the same order give the same answers. Times are kept by threads of
//! their own, and a cluster that is dropped waits for none of them. A cluster without a script is not slowed down by the
//! possibility.
//!
//! # What it does not do
//!
//! - All that consumers and administrators send is unknown to it.
//! - Each half message is asked about by its own clock; real brokers look at all of them now and then. One that only the
//!   system flag calls half is stored like any other.
//! - A broker answers a reply as soon as it has pushed it; real ones wait up to 10 s for the requester to take it.
//! - Each broker is a master without slaves. There is no access control and no TLS.
//! - A message is in the index at once, and the smallest offset of a queue is always 0. No topic is static.
//! - A new topic is in the route at once; real brokers take a moment to tell the name servers.
//! - For a negative queue id a queue is chosen in turn. A 4.7.0 broker may store a negative id.
//! - A broker does not close a connection that sends no heartbeat.
//! - Routes name a broker that is down until it is hidden from them. Topics have one permission and number of queues
//!   per broker, and name servers never disagree, but by a rule with a route of its own.
//! - A paused broker may have read one buffer more of each connection than one that is halted by a signal.
//! - A broker that is taken down loses nothing that it had answered: there is no disk to lose it.
//! - A batch of more than about 30 000 messages is stored, but its answer is over this library's limit for headers:
//!   the connection is closed instead.

// Imports `wire`, `message` and `code` only: what tests the client must not be built from it.

mod action;
mod broker;
mod builder;
mod checker;
mod clients;
mod connection;
mod controls;
mod delays;
mod dialect;
mod events;
mod line;
mod message;
mod name_server;
mod push;
mod queries;
mod reply;
mod request_reply;
mod requests;
mod rule_builder;
mod rules;
mod scripted;
mod send_message;
mod server;
mod shared;
mod store;
mod topics;
mod transactions;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

pub use self::action::MockAction;
pub use self::builder::MockClusterBuilder;
pub use self::clients::MockClient;
pub use self::connection::MockConnection;
pub use self::controls::MockServer;
pub use self::dialect::ServerVersion;
pub use self::message::MockMessage;
pub use self::push::{MockAnswer, MockPush, MockPushBuilder};
pub use self::requests::MockRequest;
pub use self::rule_builder::MockRuleBuilder;
pub use self::rules::MockRule;

use self::checker::Checker;
use self::server::RunningServer;
use self::shared::Shared;
use crate::code::RequestCode;
use crate::message::property;
use crate::wire::properties;

/// A running embedded cluster. Dropping it ends every connection and thread and frees the ports.
///
/// ```
/// use rocketmq_producer::mock::MockCluster;
///
/// let cluster = MockCluster::start(1)?;
/// let address = cluster.broker_address("broker-a").expect("there is one broker");
/// assert!(address.ip().is_loopback());
/// drop(cluster);
/// assert!(std::net::TcpStream::connect(address).is_err());
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct MockCluster {
    shared: Arc<Shared>,
    name_servers: Vec<RunningServer>,
    brokers: Vec<RunningServer>,
    checker: Option<Checker>,
    /// Delivers what has waited.
    clock: Option<JoinHandle<()>>,
}

impl MockCluster {
    /// Starts one name server and `brokers` brokers that speak like 5.5.0, with automatic creation of topics.
    ///
    /// # Errors
    ///
    /// See [`MockClusterBuilder::start`].
    pub fn start(brokers: usize) -> io::Result<MockCluster> {
        MockCluster::builder().brokers(brokers).start()
    }

    /// Starts from the default settings to change some.
    pub fn builder() -> MockClusterBuilder {
        MockClusterBuilder::new()
    }

    /// The release that the servers behave like.
    pub fn version(&self) -> ServerVersion {
        self.shared.version
    }

    /// The name servers' addresses as producers take them: `127.0.0.1:40001;127.0.0.1:40002`.
    #[doc(alias = "NAMESRV_ADDR")]
    pub fn name_servers(&self) -> String {
        let addresses: Vec<String> = self
            .name_servers
            .iter()
            .map(|server| server.address().to_string())
            .collect();
        addresses.join(";")
    }

    /// Names of the brokers, in alphabetical order.
    pub fn broker_names(&self) -> Vec<String> {
        self.shared
            .brokers
            .iter()
            .map(|broker| broker.name.to_string())
            .collect()
    }

    /// The address of a broker. `None`: there is no broker of this name.
    pub fn broker_address(&self, broker_name: &str) -> Option<SocketAddr> {
        self.shared
            .brokers
            .iter()
            .find(|broker| *broker.name == *broker_name)
            .map(shared::BrokerPlace::address)
    }

    /// Creates a topic on every broker, readable and writable, or changes the number of its queues. Any name is
    /// taken, also one that brokers refuse in a send.
    pub fn create_topic(&self, topic: &str, queues_per_broker: u32) {
        self.shared.topics.create(topic, queues_per_broker);
        self.shared.events.happened();
    }

    /// Deletes a topic with its messages. Unless automatic creation is off, the next send creates it again.
    pub fn delete_topic(&self, topic: &str) {
        self.shared.topics.delete(topic);
        self.shared.store.delete(topic);
        self.shared.delays.forget(topic);
        self.shared.events.happened();
    }

    /// The messages that the brokers have stored for a topic, in the order in which they came. Elements of a batch
    /// are messages of their own.
    pub fn messages(&self, topic: &str) -> Vec<MockMessage> {
        let records = self.shared.store.records(topic);
        records
            .iter()
            .map(|record| MockMessage::new(&self.shared, topic, record))
            .collect()
    }

    /// How many copies of each message the brokers have stored for a topic, by the sender's message id (`UNIQ_KEY`). More
    /// than 1: it was sent again after its first copy was stored. Messages without an id are left out.
    ///
    /// ```
    /// use rocketmq_producer::{Message, Producer, mock::MockCluster};
    ///
    /// let cluster = MockCluster::start(1)?;
    /// let producer = Producer::builder("group").name_servers(cluster.name_servers()).start()?;
    /// let result = producer.send(&Message::new("orders", "first")?)?;
    /// assert_eq!(cluster.copies_by_message_id("orders")[result.message_id.as_str()], 1);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn copies_by_message_id(&self, topic: &str) -> BTreeMap<String, usize> {
        let mut copies = BTreeMap::new();
        for record in self.shared.store.records(topic) {
            let rules = self.shared.version.reading_rules();
            if let Some(id) = properties::find(record.properties(), property::UNIQ_KEY, rules) {
                *copies.entry(id.to_owned()).or_default() += 1;
            }
        }
        copies
    }

    /// How many messages the brokers have stored for a topic. Costs nothing, unlike counting [`Self::messages`].
    pub fn message_count(&self, topic: &str) -> u64 {
        self.shared.store.count(topic)
    }

    /// How many messages wait for their delay level or timer before they go into this topic.
    pub fn waiting_messages(&self, topic: &str) -> usize {
        self.shared.delays.count(topic)
    }

    /// Puts the brokers' clock forward, so that what waits for its delay level or timer need not be waited for. When this
    /// returns, what is due is in its topic. Timestamps of the brokers are by this clock too; nothing else is.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rocketmq_producer::{Message, Producer, mock::MockCluster};
    ///
    /// let cluster = MockCluster::start(1)?;
    /// let producer = Producer::builder("group").name_servers(cluster.name_servers()).start()?;
    /// let in_an_hour = Message::builder("orders").delay(Duration::from_secs(60 * 60)).body("pay!").build()?;
    /// producer.send(&in_an_hour)?;
    /// assert_eq!((cluster.message_count("orders"), cluster.waiting_messages("orders")), (0, 1));
    /// cluster.let_time_pass(Duration::from_secs(60 * 60 + 1));
    /// assert_eq!((cluster.message_count("orders"), cluster.waiting_messages("orders")), (1, 0));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn let_time_pass(&self, by: Duration) {
        self.shared.delays.advance(&self.shared, by);
    }

    /// Waits until `condition` holds, and says whether it did within the given time.
    ///
    /// The condition is asked at once, and again whenever something has happened to the cluster: a request, a
    /// connection opened or closed, a topic created or deleted. Nothing is polled.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rocketmq_producer::mock::MockCluster;
    ///
    /// let cluster = MockCluster::start(1)?;
    /// let second = Duration::from_secs(1);
    /// assert!(cluster.wait_until(second, |cluster| cluster.connections().is_empty()));
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn wait_until(&self, within: Duration, mut condition: impl FnMut(&MockCluster) -> bool) -> bool {
        self.shared.events.wait_until(within, || condition(self))
    }

    /// The clients that are registered at brokers at this moment, by broker.
    pub fn clients(&self) -> Vec<MockClient> {
        let name = |index: usize| {
            self.shared
                .brokers
                .get(index)
                .map(|broker| broker.name.to_string())
        };
        self.shared.clients.list(|index| name(index).unwrap_or_default())
    }

    /// How many heartbeats the brokers have received.
    pub fn heartbeats(&self) -> u64 {
        self.shared.clients.heartbeats()
    }

    /// The connections that are open at this moment, to brokers first.
    pub fn connections(&self) -> Vec<MockConnection> {
        self.servers()
            .flat_map(|running| running.server.list_connections())
            .collect()
    }

    /// How many requests with this code all servers together have received: well-formed ones, whether they were
    /// answered or not, one-way ones included.
    pub fn requests(&self, code: RequestCode) -> u64 {
        self.servers()
            .map(|running| running.server.requests(code.value()))
            .sum()
    }

    /// The same for one server: a broker by its name, or a name server as `name-server-1`, `name-server-2`, …
    pub fn requests_to(&self, server_name: &str, code: RequestCode) -> u64 {
        let named = self
            .servers()
            .filter(|running| running.server.name() == server_name);
        named.map(|running| running.server.requests(code.value())).sum()
    }

    fn servers(&self) -> impl Iterator<Item = &RunningServer> {
        self.brokers.iter().chain(&self.name_servers)
    }
}

impl Drop for MockCluster {
    fn drop(&mut self) {
        // It sends to those that end next.
        drop(self.checker.take());
        // All are told before the first is waited for.
        for running in self.servers() {
            running.begin_stop();
        }
        for running in self.servers() {
            running.stop(false);
        }
        self.shared.delays.stop();
        if let Some(clock) = self.clock.take() {
            // It runs nothing that could panic but what a poisoned test would show anyway.
            drop(clock.join());
        }
    }
}

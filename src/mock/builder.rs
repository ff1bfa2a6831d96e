//! How a cluster is to be, and its start: sockets first, so that every address is known, then the threads.

use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::sync::Arc;
use std::thread::Builder;
use std::time::Duration;

use crate::message::reply::reply_topic;

use super::MockCluster;
use super::checker::Checker;
use super::dialect::ServerVersion;
use super::rules::ServerId;
use super::server::RunningServer;
use super::shared::{BrokerPlace, CLUSTER_NAME, Shared};
use super::store::Store;
use super::topics::Topics;
use super::transactions::CheckTimes;

/// Brokers are called `broker-a` to `broker-z`.
const MAX_BROKERS: usize = 26;

/// Far more than anyone runs.
const MAX_NAME_SERVERS: usize = 16;

/// Queues of the template topic on each broker (`BrokerConfig.defaultTopicQueueNums`).
const DEFAULT_QUEUES_PER_TOPIC: u32 = 8;

/// `MessageStoreConfig.maxMessageSize`.
const DEFAULT_MAX_MESSAGE_SIZE: usize = 4 << 20;

/// Room for a few million small messages.
const DEFAULT_STORE_LIMIT: u64 = 1 << 30;

/// `transactionTimeOut`, `transactionCheckInterval` and `transactionCheckMax` of 4.7.0.
const DEFAULT_CHECK_TIMES: CheckTimes = CheckTimes {
    first_after: Duration::from_secs(6),
    interval: Duration::from_secs(60),
    most: 15,
};

/// Settings of an embedded cluster.
///
/// ```
/// use rocketmq_producer::mock::{MockCluster, ServerVersion};
///
/// let cluster = MockCluster::builder()
///     .brokers(2)
///     .name_servers(2)
///     .auto_create_topics(false)
///     .speaks(ServerVersion::V4_9_7)
///     .start()?;
/// assert_eq!(cluster.broker_names(), ["broker-a", "broker-b"]);
/// assert_eq!(cluster.name_servers().split(';').count(), 2);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "nothing runs before start() is called"]
pub struct MockClusterBuilder {
    brokers: usize,
    name_servers: usize,
    queues_per_topic: u32,
    auto_create_topics: bool,
    version: ServerVersion,
    max_message_size: usize,
    store_limit: u64,
    keep_messages: bool,
    check_times: CheckTimes,
    recalls: bool,
}

impl MockClusterBuilder {
    pub(super) fn new() -> MockClusterBuilder {
        MockClusterBuilder {
            brokers: 1,
            name_servers: 1,
            queues_per_topic: DEFAULT_QUEUES_PER_TOPIC,
            auto_create_topics: true,
            version: ServerVersion::default(),
            max_message_size: DEFAULT_MAX_MESSAGE_SIZE,
            store_limit: DEFAULT_STORE_LIMIT,
            keep_messages: true,
            check_times: DEFAULT_CHECK_TIMES,
            recalls: false,
        }
    }

    /// Sets how many brokers there are, named `broker-a`, `broker-b`, … Default 1, at most 26; 0 is allowed.
    pub fn brokers(mut self, brokers: usize) -> MockClusterBuilder {
        self.brokers = brokers;
        self
    }

    /// Sets how many name servers there are. All know the same. Default 1, at least 1, at most 16.
    pub fn name_servers(mut self, name_servers: usize) -> MockClusterBuilder {
        self.name_servers = name_servers;
        self
    }

    /// Sets the number of queues of the template topic `TBW102`: the most that a topic gets on a broker that creates
    /// it by itself. The sender's own wish, usually 4, may be lower. Default 8, as on real brokers.
    pub fn queues_per_topic(mut self, queues: u32) -> MockClusterBuilder {
        self.queues_per_topic = queues;
        self
    }

    /// Sets whether a broker creates the topic of a message that it does not know. Default true, as on real brokers.
    pub fn auto_create_topics(mut self, enabled: bool) -> MockClusterBuilder {
        self.auto_create_topics = enabled;
        self
    }

    /// Sets the release to behave like. Default 5.5.0.
    pub fn speaks(mut self, version: ServerVersion) -> MockClusterBuilder {
        self.version = version;
        self
    }

    /// Sets the largest message in bytes: of its record for 4.7.0 (body, topic, properties and 91 bytes), of its body
    /// for later releases. Larger ones get code 13. Default 4 MiB, as on real brokers.
    pub fn max_message_size(mut self, bytes: usize) -> MockClusterBuilder {
        self.max_message_size = bytes;
        self
    }

    /// Sets how many bytes of messages all brokers together keep, each message counted with its topic, its properties
    /// and 91 bytes. Beyond that sends get code 14, as from a broker whose disk is full, until a topic is deleted.
    /// The memory in use may be up to three times as much for small messages. Default 1 GiB.
    pub fn store_limit(mut self, bytes: u64) -> MockClusterBuilder {
        self.store_limit = bytes;
        self
    }

    /// Sets whether messages are kept for [`MockCluster::messages`]. Without, they are answered, get their ids and are
    /// counted, and the store is never full: for measurements that last. Default true.
    pub fn keep_messages(mut self, keep: bool) -> MockClusterBuilder {
        self.keep_messages = keep;
        self
    }

    /// Sets when producers are asked about a half message that nobody has ended: how old it is the first time, how long it
    /// takes until the next, and how often they are asked before it is given up. Default 6 s, 60 s and 15 times, as brokers
    /// of 4.7.0 do. See also [`MockCluster::check_transactions`].
    ///
    /// ```
    /// use std::time::Duration;
    /// use rocketmq_producer::mock::MockCluster;
    ///
    /// let (first_after, interval) = (Duration::from_millis(100), Duration::from_millis(500));
    /// let cluster = MockCluster::builder().transaction_checks(first_after, interval, 3).start()?;
    /// assert_eq!(cluster.open_transactions(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn transaction_checks(
        mut self,
        first_after: Duration,
        interval: Duration,
        most: u32,
    ) -> MockClusterBuilder {
        self.check_times = CheckTimes {
            first_after,
            interval,
            most,
        };
        self
    }

    /// Sets whether brokers that speak like 5.5.0 take timer messages back before their time. Default false, as on real
    /// brokers (`recallMessageEnable`), which refuse it with code 16.
    pub fn recalls(mut self, enabled: bool) -> MockClusterBuilder {
        self.recalls = enabled;
        self
    }

    /// Starts the cluster on free ports of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::InvalidInput`] for numbers that are not allowed, and whatever the operating system says when
    /// it gives no port or no thread.
    pub fn start(self) -> io::Result<MockCluster> {
        if self.brokers > MAX_BROKERS || !(1..=MAX_NAME_SERVERS).contains(&self.name_servers) {
            let allowed = format!("at most {MAX_BROKERS} brokers and 1 to {MAX_NAME_SERVERS} name servers");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, allowed));
        }
        let name_servers = listen(self.name_servers)?;
        let brokers = listen(self.brokers)?;
        let places: Vec<BrokerPlace> = ('a'..='z')
            .zip(&brokers)
            .map(|(letter, listener)| {
                let port = listener.local_addr()?.port();
                Ok(BrokerPlace::new(format!("broker-{letter}").into(), port))
            })
            .collect::<io::Result<_>>()?;
        let names: Vec<Arc<str>> = places.iter().map(|place| Arc::clone(&place.name)).collect();
        let template_queues = self.auto_create_topics.then_some(self.queues_per_topic);
        let topics = Topics::new(self.brokers, template_queues);
        // Brokers create it when they start (`TopicConfigManager`).
        topics.create(&reply_topic(CLUSTER_NAME), 1);
        let shared = Arc::new(Shared::new(
            self.version,
            self.max_message_size,
            self.recalls,
            places,
            topics,
            Store::new(self.keep_messages.then_some(self.store_limit)),
            self.check_times,
        ));
        // Dropped on an error below, it ends the servers that run by then.
        let mut cluster = MockCluster {
            shared: Arc::clone(&shared),
            name_servers: Vec::new(),
            brokers: Vec::new(),
            checker: None,
            clock: None,
        };
        let keeper = Arc::clone(&shared);
        let clock = Builder::new().name("mock-clock".to_owned());
        cluster.clock = Some(clock.spawn(move || keeper.delays.run(&keeper))?);
        for (index, (name, listener)) in names.into_iter().zip(brokers).enumerate() {
            let shared = Arc::clone(&shared);
            cluster.brokers.push(RunningServer::start(
                name,
                ServerId::Broker(index),
                listener,
                shared,
            )?);
        }
        let servers = cluster.brokers.iter().map(|running| Arc::clone(&running.server));
        cluster.checker = Some(Checker::start(&shared, servers.collect())?);
        for (index, listener) in name_servers.into_iter().enumerate() {
            let name = format!("name-server-{}", index + 1).into();
            let shared = Arc::clone(&shared);
            cluster.name_servers.push(RunningServer::start(
                name,
                ServerId::NameServer(index),
                listener,
                shared,
            )?);
        }
        Ok(cluster)
    }
}

/// Opens this many listening sockets on free ports.
fn listen(count: usize) -> io::Result<Vec<TcpListener>> {
    (0..count)
        .map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)))
        .collect()
}

//! The settings of a producer, one documented method each.

use std::{collections::HashMap, net::IpAddr, sync::Arc, time::Duration};

use super::{Producer, shared::Shared};
use crate::{
    code::ResponseCode,
    config::{AddressMap, EndTransactions, FaultTable, HeaderSerialization, ProducerConfig, Redelivery},
    error::Error,
    message::CompressionType,
};

/// Collects the settings of a [`Producer`] and starts it.
///
/// ```
/// use std::time::Duration;
/// use rocketmq_producer::Producer;
///
/// let producer = Producer::builder("orders")
///     .name_servers("127.0.0.1:9876;127.0.0.2:9876")
///     .send_timeout(Duration::from_secs(5))
///     .retries(3)
///     .start()?;
/// # drop(producer);
/// # Ok::<(), rocketmq_producer::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a producer runs after start()"]
pub struct ProducerBuilder {
    config: ProducerConfig,
}

impl ProducerBuilder {
    pub(super) fn new(producer_group: String) -> Self {
        Self {
            config: ProducerConfig::new(producer_group),
        }
    }

    /// Sets the name servers: `host:port`, several separated by `;`, IPv6 literals in brackets. Default: the environment
    /// variable `NAMESRV_ADDR`, as in Java.
    ///
    /// Host names are resolved anew for every connection.
    #[doc(alias = "namesrvAddr")]
    pub fn name_servers(mut self, addresses: impl Into<String>) -> Self {
        self.config.name_servers = Some(addresses.into());
        self
    }

    /// Sets the second part of the client id, `ip@instance name`. Default: process id and a random number, so that no
    /// two producers share one; brokers confuse producers that do.
    pub fn instance_name(mut self, name: impl Into<String>) -> Self {
        self.config.instance_name = Some(name.into());
        self
    }

    /// Sets the address that the client id and the message ids carry. Default: the local address from which the first
    /// name server is reached.
    pub fn client_ip(mut self, ip: IpAddr) -> Self {
        self.config.client_ip = Some(ip);
        self
    }

    /// Sets how long a whole send may take: look-ups, connecting, waiting for room and all attempts together. Default
    /// 3 s, as `sendMsgTimeout`; at least 1 ms.
    #[doc(alias = "sendMsgTimeout")]
    pub fn send_timeout(mut self, timeout: Duration) -> Self {
        self.config.send_timeout = timeout;
        self
    }

    /// Sets how many attempts a blocking send may make after the first. Default 2, as `retryTimesWhenSendFailed`; at most
    /// 15. Sends to a [`Target`](super::Target) make one attempt unless they are [ordered](super::Aimed::ordered), one-way sends
    /// always.
    ///
    /// A send whose outcome is unknown is sent again too, under the same message id: at least once, not exactly once.
    #[doc(alias = "retryTimesWhenSendFailed")]
    pub fn retries(mut self, after_the_first: u32) -> Self {
        self.config.retries = after_the_first;
        self
    }

    /// Sets how many attempts an asynchronous send may make after the first. Default 2, as
    /// `retryTimesWhenSendAsyncFailed`; at most 15.
    #[doc(alias = "retryTimesWhenSendAsyncFailed")]
    pub fn async_retries(mut self, after_the_first: u32) -> Self {
        self.config.async_retries = after_the_first;
        self
    }

    /// Whether a message that is stored, but not flushed or replicated in time, is sent to another broker too. Default
    /// `false`, as `retryAnotherBrokerWhenNotStoreOK`, since it makes a second copy.
    #[doc(alias = "retryAnotherBrokerWhenNotStoreOK")]
    pub fn retry_another_broker_when_not_store_ok(mut self, retry: bool) -> Self {
        self.config.retry_another_broker_when_not_store_ok = retry;
        self
    }

    /// Sets whether a message that may be stored already is sent again. Default [`Redelivery::AtLeastOnce`].
    /// [`Aimed::redelivery`](super::Aimed::redelivery) chooses for single sends.
    pub fn redelivery(mut self, redelivery: Redelivery) -> Self {
        self.config.redelivery = redelivery;
        self
    }

    /// Sets the first and the longest pause before a busy broker is asked again. Each is twice as long as the one before,
    /// less a random part of up to half of it. Default 20 ms and 1 s. There is no pause while another broker can be asked,
    /// nor after a connection was refused.
    pub fn back_off(mut self, first: Duration, longest: Duration) -> Self {
        self.config.back_off = (first, longest);
        self
    }

    /// Keeps trying for so long, through an outage of all brokers or name servers. Default: not set, and a send ends with
    /// its send timeout; at least the send timeout.
    ///
    /// With it the send timeout is the time of one round of attempts, and rounds follow one another, with pauses as
    /// [`Self::back_off`] sets, until the message is stored, a broker refuses it for good, or this time is over. What is
    /// held meanwhile counts against [`Self::max_async_in_flight`] and [`Self::max_async_bytes`]. A time given for a single
    /// send takes its place. One-way sends, and sends to a target that are not ordered, are never repeated and keep the send
    /// timeout.
    #[doc(alias = "message.timeout.ms")]
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.config.delivery_timeout = Some(timeout);
        self
    }

    /// Sets the codes of a broker's refusal after which another attempt is made. Default: 17, 14, 1, 16, 204 and 205 as
    /// in 4.7.0, and 2 and 1500 as 5.x added. A refusal of access is never retried, whatever its code.
    #[doc(alias = "retryResponseCodes")]
    pub fn retry_response_codes(mut self, codes: impl IntoIterator<Item = ResponseCode>) -> Self {
        self.config.retry_response_codes = codes.into_iter().collect();
        self
    }

    /// Sets the largest stored record in bytes: body, topic, properties and 91 bytes of overhead, as a 4.7.0 broker
    /// counts it. Default 4 MiB, which is what brokers accept unless configured otherwise; at most 15 MiB.
    #[doc(alias = "maxMessageSize")]
    pub fn max_message_size(mut self, bytes: usize) -> Self {
        self.config.max_message_size = bytes;
        self
    }

    /// Sets how many bytes the properties of a message may take, tags, keys and message id included. Default 32,000,
    /// which leaves room for what 5.x brokers add; at most 32,767.
    pub fn max_properties_size(mut self, bytes: usize) -> Self {
        self.config.max_properties_size = bytes;
        self
    }

    /// Compresses bodies on their way, with zlib as every release since 4.x reads it, or as only 5.x does. Default: none is
    /// compressed, whatever features this crate is built with, unlike in Java, which uses zlib. Needs the feature of its name.
    ///
    /// A body is compressed once per send, on the caller's thread, if it is [long enough](Self::compress_from), and goes out
    /// compressed if that is smaller (Java sends it either way). The message is not changed, and
    /// [`Self::max_message_size`] counts its body as it is, as Java's limit does. The compressed copy counts against
    /// [`Self::max_async_bytes`] too. Consumers see the body as it was.
    ///
    /// ```
    /// # #[cfg(feature = "zlib")] {
    /// use rocketmq_producer::{CompressionType, Producer};
    ///
    /// let producer = Producer::builder("orders")
    ///     .name_servers("127.0.0.1:9876")
    ///     .compression(CompressionType::Zlib)
    ///     .compress_from(16 * 1024)
    ///     .start()?;
    /// # drop(producer);
    /// # }
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "compressType")]
    pub fn compression(mut self, compression: CompressionType) -> Self {
        self.config.compression = Some(compression);
        self
    }

    /// Sets from how many bytes on a body is compressed. Default 4096, as `compressMsgBodyOverHowmuch`; small bodies hardly
    /// shrink. Without effect unless [`Self::compression`] is set.
    #[doc(alias = "compressMsgBodyOverHowmuch")]
    pub fn compress_from(mut self, bytes: usize) -> Self {
        self.config.compress_from = bytes;
        self
    }

    /// Sets how hard the algorithm tries: 1 to 9 for zlib, 1 to 22 for zstd; LZ4 has no levels. Default 5, as
    /// `rocketmq.message.compressLevel`. Without effect unless [`Self::compression`] is set.
    #[doc(alias = "rocketmq.message.compressLevel")]
    pub fn compression_level(mut self, level: u32) -> Self {
        self.config.compression_level = level;
        self
    }

    /// Sets how many asynchronous sends may be unfinished at once. Beyond it [`Producer::send_async`] waits. Default 1024,
    /// as `backPressureForAsyncSendNum`.
    pub fn max_async_in_flight(mut self, sends: usize) -> Self {
        self.config.max_async_in_flight = sends;
        self
    }

    /// Sets how many bytes the messages of unfinished asynchronous sends may take together. Beyond it
    /// [`Producer::send_async`] waits; a message that is larger by itself goes alone. Default 100 MiB, as
    /// `backPressureForAsyncSendSize`.
    pub fn max_async_bytes(mut self, bytes: usize) -> Self {
        self.config.max_async_bytes = bytes;
        self
    }

    /// Sets how many threads may run callbacks. They start when they are needed. Default: one per core, as
    /// `clientCallbackExecutorThreads`; at most 1024.
    #[doc(alias = "clientCallbackExecutorThreads")]
    pub fn callback_threads(mut self, threads: usize) -> Self {
        self.config.callback_threads = threads;
        self
    }

    /// Sets the topic that brokers create new topics from. Default `TBW102`. As in 5.x it only goes to the broker; the
    /// route that stands in for a new topic is that of `TBW102`.
    #[doc(alias = "createTopicKey")]
    pub fn create_topic_key(mut self, topic: impl Into<String>) -> Self {
        self.config.create_topic_key = topic.into();
        self
    }

    /// Sets how many queues per broker a topic gets that its first message creates. Default 4, as
    /// `defaultTopicQueueNums`; brokers give at most what their template topic has, which is 8.
    #[doc(alias = "defaultTopicQueueNums")]
    pub fn default_topic_queue_nums(mut self, queues: u32) -> Self {
        self.config.default_topic_queue_nums = queues;
        self
    }

    /// Sets how long one connection attempt may take, all addresses of a host name together. Default 3 s. A send that
    /// waits for it waits no longer than its own time.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.config.connect_timeout = timeout;
        self
    }

    /// Sets how long one look-up of a topic route may take, all name servers together: the time is shared out, so that a
    /// silent one leaves time for the next. Default 3 s, as `mqClientApiTimeout`.
    pub fn name_server_timeout(mut self, timeout: Duration) -> Self {
        self.config.name_server_timeout = timeout;
        self
    }

    /// Sets how often topic routes are looked up again. Default 30 s, as `pollNameServerInterval`.
    #[doc(alias = "pollNameServerInterval")]
    pub fn route_refresh_interval(mut self, interval: Duration) -> Self {
        self.config.route_refresh_interval = interval;
        self
    }

    /// Sets how often brokers are told that this producer lives. Default 30 s, as `heartbeatBrokerInterval`; brokers
    /// close a connection after 120 s without.
    #[doc(alias = "heartbeatBrokerInterval")]
    pub fn heartbeat_interval(mut self, interval: Duration) -> Self {
        self.config.heartbeat_interval = interval;
        self
    }

    /// Whether brokers that were slow or failing are passed over for a while, for all topics, as long as another broker is
    /// left. Default `false`, as `sendLatencyFaultEnable`: then only the brokers that the same send has tried already are
    /// passed over.
    ///
    /// A send takes a broker that is available and that it has not tried; else one that can at least be reached; else any.
    /// [`fault_table`](Self::fault_table) says for how long a broker is not available after how slow an answer. A refusal
    /// that another broker would repeat, as of an illegal message, is not the broker's fault. Sends to a
    /// [`Target`](super::Target) are booked too, but go where they are aimed.
    ///
    /// ```
    /// use rocketmq_producer::{FaultTable, Producer};
    ///
    /// let producer = Producer::builder("orders")
    ///     .name_servers("127.0.0.1:9876")
    ///     .latency_fault_tolerance(true)
    ///     .fault_table(FaultTable::V4_7_0)
    ///     .start()?;
    /// # drop(producer);
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "sendLatencyFaultEnable")]
    pub fn latency_fault_tolerance(mut self, enabled: bool) -> Self {
        self.config.latency_fault_tolerance = enabled;
        self
    }

    /// Sets for how long slow or failing brokers are passed over. Default [`FaultTable::V5`], since 4.7.0 gives a broker up
    /// for ten minutes after one failure. Without effect unless
    /// [`latency_fault_tolerance`](Self::latency_fault_tolerance) is on; see there for an example.
    #[doc(alias = "latencyMax")]
    #[doc(alias = "notAvailableDuration")]
    pub fn fault_table(mut self, table: FaultTable) -> Self {
        self.config.fault_table = table;
        self
    }

    /// Whether brokers that were slow or failing are asked in the background whether they can be reached, as the detector of
    /// 5.x does: every 3 s, each at most every 2 s, giving them 200 ms. A broker that does not answer is taken only when
    /// every other is unreachable too. Default `false`, as `startDetectorEnable`; needs
    /// [`latency_fault_tolerance`](Self::latency_fault_tolerance).
    ///
    /// ```
    /// use rocketmq_producer::Producer;
    ///
    /// let producer = Producer::builder("orders")
    ///     .name_servers("127.0.0.1:9876")
    ///     .latency_fault_tolerance(true)
    ///     .reachability_detector(true)
    ///     .start()?;
    /// # drop(producer);
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "startDetectorEnable")]
    pub fn reachability_detector(mut self, enabled: bool) -> Self {
        self.config.reachability_detector = enabled;
        self
    }

    /// Sets a closure that says which address to dial for the one that a broker advertises: for brokers in containers and
    /// behind NAT, whose addresses mean nothing here. `None` keeps the advertised address. Default: all are dialled as
    /// they are.
    ///
    /// The closure is called whenever a broker is dialled, on the thread that dials, so it may look something up, but
    /// holds up the connection while it does. What it gives must be `host:port`; else the advertised address is dialled,
    /// and a warning is logged once. Logs and errors name the advertised address. Name servers are not mapped.
    ///
    /// ```
    /// use rocketmq_producer::Producer;
    ///
    /// let producer = Producer::builder("orders")
    ///     .name_servers("127.0.0.1:9876")
    ///     .address_map(|advertised| {
    ///         let port = advertised.strip_prefix("172.17.0.2:")?;
    ///         Some(format!("localhost:{port}"))
    ///     })
    ///     .start()?;
    /// # drop(producer);
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    pub fn address_map(mut self, dial_as: impl Fn(&str) -> Option<String> + Send + Sync + 'static) -> Self {
        self.config.address_map = Some(AddressMap(Arc::new(dial_as)));
        self
    }

    /// Sets which addresses to dial for those that brokers advertise, as a table: see [`address_map`](Self::address_map),
    /// in whose place it takes.
    ///
    /// ```
    /// use rocketmq_producer::Producer;
    ///
    /// let producer = Producer::builder("orders")
    ///     .name_servers("127.0.0.1:9876")
    ///     .address_table([("172.17.0.2:10911", "localhost:10911"), ("172.17.0.3:10911", "localhost:20911")])
    ///     .start()?;
    /// # drop(producer);
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    pub fn address_table<From: Into<String>, To: Into<String>>(
        self,
        table: impl IntoIterator<Item = (From, To)>,
    ) -> Self {
        let table: HashMap<String, String> = table
            .into_iter()
            .map(|(advertised, dialled)| (advertised.into(), dialled.into()))
            .collect();
        self.address_map(move |advertised| table.get(advertised).cloned())
    }

    /// Sets how the headers of requests are written. Default JSON, as in Java.
    #[doc(alias = "rocketmq.serialize.type")]
    pub fn header_serialization(mut self, serialization: HeaderSerialization) -> Self {
        self.config.header_serialization = serialization;
        self
    }

    /// Sets the version that this client claims to be, as a number of `MQVersion`. Default 513, which is 5.5.0: name
    /// servers answer versions from 401 on in standard JSON, and brokers that shut down tell versions above 475.
    pub fn claimed_version(mut self, version: i32) -> Self {
        self.config.claimed_version = version;
        self
    }

    /// Sets the language that this client claims, as a number of `LanguageCode`. Default 7, `OTHER`, which all versions
    /// know; 12 is `RUST`, which 4.x does not know.
    pub fn language_code(mut self, code: u8) -> Self {
        self.config.language_code = code;
        self
    }

    /// Sets how a [`TransactionProducer`](super::TransactionProducer) tells brokers how a transaction ended. Default
    /// [`EndTransactions::Acknowledged`], which unlike Java's says whether it arrived.
    ///
    /// ```
    /// use rocketmq_producer::{EndTransactions, Producer};
    ///
    /// let builder = Producer::builder("payments").end_transactions(EndTransactions::OneWay);
    /// # drop(builder);
    /// ```
    pub fn end_transactions(mut self, how: EndTransactions) -> Self {
        self.config.end_transactions = how;
        self
    }

    /// Sets how many threads may ask the [listener](super::TransactionListener::check) of a transactional producer about
    /// transactions at once. They start when they are needed. Default 4, where Java has 1 (`checkThreadPoolMaxSize`), so that
    /// one slow answer does not hold up all others; at most 1024. Up to 2000 questions or 64 MiB of them wait; what comes
    /// beyond that is dropped, and asked again by the broker.
    #[doc(alias = "checkThreadPoolMaxSize")]
    pub fn transaction_check_threads(mut self, threads: usize) -> Self {
        self.config.transaction_check_threads = threads;
        self
    }

    /// Sets for how long a commit that no broker has confirmed is not sent again, whatever brokers ask. Default 10 s, since a
    /// broker of 5.x asks up to some seconds after it has received a commit, and publishes a message as often as it is
    /// committed. A commit that was lost is sent again at the first question after that time, unless
    /// [`Self::redelivery`] wants no duplicates.
    pub fn unconfirmed_commit_pause(mut self, pause: Duration) -> Self {
        self.config.unconfirmed_commit_pause = pause;
        self
    }

    pub(super) fn into_config(self) -> ProducerConfig {
        self.config
    }

    /// Checks the settings and starts the producer. Nothing is sent yet: routes and connections are made when they are
    /// first needed.
    ///
    /// # Errors
    /// - [`Error::InvalidConfig`] for a setting that cannot work, named with its rule and value.
    /// - [`Error::Thread`] when the operating system refuses the timer thread.
    pub fn start(self) -> Result<Producer, Error> {
        Shared::start(self.config, None).map(Producer::new)
    }
}

//! Every setting of a producer as plain data: each default is a named constant with its reason, and everything is checked
//! once, at start.

use std::{fmt, net::IpAddr, sync::Arc, time::Duration};

use crate::{
    code::ResponseCode,
    error::Error,
    message::{CompressionType, names},
};

/// The whole send, all attempts and look-ups together (`DefaultMQProducer.sendMsgTimeout`).
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(3);

/// Attempts after the first (`retryTimesWhenSendFailed`, `retryTimesWhenSendAsyncFailed`).
pub(crate) const RETRIES: u32 = 2;

/// More attempts than this cannot help, and each is kept in the account of the send.
pub(crate) const MOST_RETRIES: u32 = 15;

/// 4.7.0 brokers refuse a stored record over 4 MiB (`maxMessageSize`).
pub(crate) const MAX_MESSAGE_SIZE: usize = 4 * 1024 * 1024;

/// Frames end at 16 MiB; a record needs room for its header.
const MOST_MESSAGE_SIZE: usize = 15 * 1024 * 1024;

/// 5.5.0 adds up to some hundred bytes of its own to the properties and refuses what is then over 32,767.
pub(crate) const MAX_PROPERTIES_SIZE: usize = 32_000;

/// What a stored record has room for.
const MOST_PROPERTIES_SIZE: usize = 32_767;

/// Bodies from this length on are compressed (`compressMsgBodyOverHowmuch`).
pub(crate) const COMPRESS_FROM: usize = 4096;

/// `rocketmq.message.compressLevel`.
pub(crate) const COMPRESSION_LEVEL: u32 = 5;

/// Asynchronous sends that are not finished (5.x `backPressureForAsyncSendNum`).
pub(crate) const MAX_ASYNC_IN_FLIGHT: usize = 1024;

/// Bytes of asynchronous sends that are not finished (5.x `backPressureForAsyncSendSize`).
pub(crate) const MAX_ASYNC_BYTES: usize = 100 * 1024 * 1024;

/// More would need opaques that wrap within one timeout.
const MOST_ASYNC_IN_FLIGHT: usize = 1 << 22;

/// Room for requests of blocked threads in each connection's table, beside the asynchronous ones.
pub(crate) const BLOCKING_IN_FLIGHT: usize = 1024;

/// One connection attempt, all addresses of the name together (`connectTimeoutMillis`).
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// One look-up of a route, all name servers together (`mqClientApiTimeout`).
pub(crate) const NAME_SERVER_TIMEOUT: Duration = Duration::from_secs(3);

/// `pollNameServerInterval`.
pub(crate) const ROUTE_REFRESH_INTERVAL: Duration = Duration::from_secs(30);

/// `heartbeatBrokerInterval`. Brokers forget a producer after 120 s.
pub(crate) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);

/// How long a heartbeat may take at least (4.7.0 `mqClientApiTimeout`).
pub(crate) const HEARTBEAT_TIMEOUT: Duration = Duration::from_secs(3);

/// Queues per broker of a topic that is created by its first message (`defaultTopicQueueNums`).
pub(crate) const DEFAULT_TOPIC_QUEUE_NUMS: u32 = 4;

/// What dropping the last handle waits for sends that are on their way.
pub(crate) const DROP_TIMEOUT: Duration = Duration::from_secs(3);

/// `MQVersion` of 5.5.0. From 401 on name servers send standard JSON, above 475 a broker that shuts down says so.
pub(crate) const CLAIMED_VERSION: i32 = 513;

/// `LanguageCode.OTHER`: known to all versions, while 4.7.0 does not know `RUST`.
pub(crate) const LANGUAGE_CODE: u8 = 7;

/// The highest code that `LanguageCode` of 5.5.0 knows.
const LAST_LANGUAGE_CODE: u8 = 13;

/// The pause before a busy broker is asked again: a tenth of the time that brokers let a send wait in their queue (200 ms)
/// before they shed it.
pub(crate) const FIRST_BACK_OFF: Duration = Duration::from_millis(20);

/// The longest pause, so that a broker that is back is found within about a second.
pub(crate) const LONGEST_BACK_OFF: Duration = Duration::from_secs(1);

/// Threads that ask the listener about transactions. Java has one (`checkThreadPoolMaxSize`), so that a single slow look-up
/// holds up all others.
pub(crate) const TRANSACTION_CHECK_THREADS: usize = 4;

/// Questions about transactions that may wait (`checkRequestHoldMax`). Brokers repeat what is left unanswered.
pub(crate) const CHECK_QUEUE: usize = 2000;

/// Bytes of the half messages in these questions: a small part of what full-sized ones would take.
pub(crate) const CHECK_BYTES: usize = 64 * 1024 * 1024;

/// How long the end of a transaction may take, all tries together (the 3000 ms of 4.7.0
/// `DefaultMQProducerImpl.checkTransactionState`).
pub(crate) const END_TRANSACTION_TIMEOUT: Duration = Duration::from_secs(3);

/// 5.x notes up to 3 s late that a half message is done (`transactionOpBatchInterval`), and a round of checks takes a while.
pub(crate) const UNCONFIRMED_COMMIT_PAUSE: Duration = Duration::from_secs(10);

/// Codes after which another attempt may succeed: those of 4.7.0 (`sendDefaultImpl`) and what 5.x added
/// (`retryResponseCodes`: 2 and 1500).
pub(crate) const RETRY_RESPONSE_CODES: &[ResponseCode] = &[
    ResponseCode::TOPIC_NOT_EXIST,
    ResponseCode::SERVICE_NOT_AVAILABLE,
    ResponseCode::SYSTEM_ERROR,
    ResponseCode::NO_PERMISSION,
    ResponseCode::NO_BUYER_ID,
    ResponseCode::NOT_IN_CURRENT_UNIT,
    ResponseCode::SYSTEM_BUSY,
    ResponseCode::GO_AWAY,
];

/// How the headers of requests are written. Both are understood by all brokers from 4.7.0 to 5.5.0; answers are read by
/// what they are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum HeaderSerialization {
    /// JSON, what `DefaultMQProducer` sends by default.
    #[default]
    Json,
    /// RocketMQ's own binary form, which is shorter and quicker to read (`rocketmq.serialize.type=ROCKETMQ`).
    Binary,
}

/// For how long a broker is passed over after a slow or failed attempt, with
/// [`latency_fault_tolerance`](crate::ProducerBuilder::latency_fault_tolerance).
///
/// | latency from | `V4_7_0` passes it over for | | latency from | `V5` |
/// |---|---|---|---|---|
/// | 550 ms | 30 s | | 550 ms | 2 s |
/// | 1 s | 60 s | | 1.8 s | 5 s |
/// | 2 s | 120 s | | 3 s | 6 s |
/// | 3 s | 180 s | | 5 s | 10 s |
/// | 15 s | 600 s | | 15 s | 30 s |
/// | a failure | 600 s | | a failure | 10 s |
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum FaultTable {
    /// The numbers of 4.7.0. A later success is booked instead, so a broker that answers quickly is back at once.
    V4_7_0,
    /// The numbers of 5.x. A time that runs is never shortened.
    #[default]
    V5,
}

/// How the end of a transaction is sent.
///
/// Java sends it one-way, so nobody hears whether it arrived. Brokers of all releases answer when they are asked to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum EndTransactions {
    /// The broker answers, and the send waits for it: what became of the transaction is known. The default.
    #[default]
    Acknowledged,
    /// As `TransactionMQProducer`: one-way. It is quicker by one round trip, and an end that is lost is made up for by the
    /// broker's check only.
    OneWay,
}

/// A user's map from advertised addresses to those to dial.
#[derive(Clone)]
pub(crate) struct AddressMap(pub(crate) Arc<AddressClosure>);

pub(crate) type AddressClosure = dyn Fn(&str) -> Option<String> + Send + Sync;

impl fmt::Debug for AddressMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AddressMap(…)")
    }
}

/// Whether a message that may be stored already is sent again. RocketMQ stores whatever it is sent, so a second copy is only
/// avoided by not sending it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Redelivery {
    /// A message whose outcome is unknown is sent again: it is stored at least once if any broker can be reached, and
    /// maybe twice. What `DefaultMQProducer` does, and the default.
    #[default]
    AtLeastOnce,
    /// Only what is certainly not stored is sent again: an attempt that never left as a whole, or that a broker refused. An
    /// unknown outcome ends the send.
    NoDuplicates,
    /// Only what no broker has seen as a whole is sent again: even a refusal ends the send.
    AtMostOnce,
}

/// The settings of a producer, as the builder collects them.
#[derive(Clone, Debug)]
pub(crate) struct ProducerConfig {
    pub(crate) producer_group: String,
    pub(crate) name_servers: Option<String>,
    pub(crate) instance_name: Option<String>,
    pub(crate) client_ip: Option<IpAddr>,
    pub(crate) send_timeout: Duration,
    pub(crate) retries: u32,
    pub(crate) async_retries: u32,
    pub(crate) retry_another_broker_when_not_store_ok: bool,
    pub(crate) redelivery: Redelivery,
    pub(crate) back_off: (Duration, Duration),
    pub(crate) delivery_timeout: Option<Duration>,
    pub(crate) retry_response_codes: Arc<[ResponseCode]>,
    pub(crate) max_message_size: usize,
    pub(crate) max_properties_size: usize,
    pub(crate) compression: Option<CompressionType>,
    pub(crate) compress_from: usize,
    pub(crate) compression_level: u32,
    pub(crate) max_async_in_flight: usize,
    pub(crate) max_async_bytes: usize,
    pub(crate) callback_threads: usize,
    pub(crate) create_topic_key: String,
    pub(crate) default_topic_queue_nums: u32,
    pub(crate) connect_timeout: Duration,
    pub(crate) name_server_timeout: Duration,
    pub(crate) route_refresh_interval: Duration,
    pub(crate) heartbeat_interval: Duration,
    pub(crate) latency_fault_tolerance: bool,
    pub(crate) fault_table: FaultTable,
    pub(crate) reachability_detector: bool,
    pub(crate) address_map: Option<AddressMap>,
    pub(crate) header_serialization: HeaderSerialization,
    pub(crate) claimed_version: i32,
    pub(crate) language_code: u8,
    pub(crate) end_transactions: EndTransactions,
    pub(crate) transaction_check_threads: usize,
    pub(crate) unconfirmed_commit_pause: Duration,
}

impl ProducerConfig {
    pub(crate) fn new(producer_group: String) -> Self {
        Self {
            producer_group,
            name_servers: None,
            instance_name: None,
            client_ip: None,
            send_timeout: SEND_TIMEOUT,
            retries: RETRIES,
            async_retries: RETRIES,
            retry_another_broker_when_not_store_ok: false,
            redelivery: Redelivery::default(),
            back_off: (FIRST_BACK_OFF, LONGEST_BACK_OFF),
            delivery_timeout: None,
            retry_response_codes: RETRY_RESPONSE_CODES.into(),
            max_message_size: MAX_MESSAGE_SIZE,
            max_properties_size: MAX_PROPERTIES_SIZE,
            compression: None,
            compress_from: COMPRESS_FROM,
            compression_level: COMPRESSION_LEVEL,
            max_async_in_flight: MAX_ASYNC_IN_FLIGHT,
            max_async_bytes: MAX_ASYNC_BYTES,
            // As `clientCallbackExecutorThreads`: one per core.
            callback_threads: std::thread::available_parallelism().map_or(1, usize::from),
            create_topic_key: names::TEMPLATE_TOPIC.to_owned(),
            default_topic_queue_nums: DEFAULT_TOPIC_QUEUE_NUMS,
            connect_timeout: CONNECT_TIMEOUT,
            name_server_timeout: NAME_SERVER_TIMEOUT,
            route_refresh_interval: ROUTE_REFRESH_INTERVAL,
            heartbeat_interval: HEARTBEAT_INTERVAL,
            // As `sendLatencyFaultEnable` and `startDetectorEnable`.
            latency_fault_tolerance: false,
            fault_table: FaultTable::default(),
            reachability_detector: false,
            address_map: None,
            header_serialization: HeaderSerialization::default(),
            claimed_version: CLAIMED_VERSION,
            language_code: LANGUAGE_CODE,
            end_transactions: EndTransactions::default(),
            transaction_check_threads: TRANSACTION_CHECK_THREADS,
            unconfirmed_commit_pause: UNCONFIRMED_COMMIT_PAUSE,
        }
    }

    /// Checks what can be checked without the network.
    pub(crate) fn check(&self) -> Result<(), Error> {
        let invalid = |setting, reason| Err(Error::InvalidConfig { setting, reason });
        if let Err(reason) = names::check_group(&self.producer_group) {
            return invalid("producer_group", reason);
        }
        if let Some(reason) = self.instance_name.as_deref().and_then(instance_name_fault) {
            return invalid("instance_name", reason);
        }
        for (setting, value) in [
            ("send_timeout", self.send_timeout),
            ("connect_timeout", self.connect_timeout),
            ("name_server_timeout", self.name_server_timeout),
            ("route_refresh_interval", self.route_refresh_interval),
            ("heartbeat_interval", self.heartbeat_interval),
        ] {
            if value < Duration::from_millis(1) {
                return invalid(setting, format!("{value:?} is too short; the least is 1ms"));
            }
        }
        for (setting, value, least, most) in [
            ("retries", count(self.retries), 0, count(MOST_RETRIES)),
            ("async_retries", count(self.async_retries), 0, count(MOST_RETRIES)),
            ("max_message_size", self.max_message_size, 1, MOST_MESSAGE_SIZE),
            (
                "max_properties_size",
                self.max_properties_size,
                64,
                MOST_PROPERTIES_SIZE,
            ),
            (
                "max_async_in_flight",
                self.max_async_in_flight,
                1,
                MOST_ASYNC_IN_FLIGHT,
            ),
            ("callback_threads", self.callback_threads, 1, 1024),
            (
                "transaction_check_threads",
                self.transaction_check_threads,
                1,
                1024,
            ),
            (
                "default_topic_queue_nums",
                count(self.default_topic_queue_nums),
                1,
                65_536,
            ),
            (
                "language_code",
                usize::from(self.language_code),
                0,
                usize::from(LAST_LANGUAGE_CODE),
            ),
        ] {
            if value < least || value > most {
                return invalid(setting, format!("{value} is not from {least} to {most}"));
            }
        }
        if self.max_async_bytes == 0 {
            return invalid("max_async_bytes", "0 is too small; the least is 1".to_owned());
        }
        if !(0..=32_767).contains(&self.claimed_version) {
            let version = self.claimed_version;
            return invalid("claimed_version", format!("{version} is not from 0 to 32767"));
        }
        self.check_together()
    }

    /// Checks what depends on more than one value.
    fn check_together(&self) -> Result<(), Error> {
        let invalid = |setting, reason| Err(Error::InvalidConfig { setting, reason });
        if self.back_off.0.is_zero() || self.back_off.0 > self.back_off.1 {
            let (first, longest) = self.back_off;
            return invalid(
                "back_off",
                format!(
                    "the first pause is {first:?} and the longest {longest:?}; the first must be over zero and not longer \
                     than the longest"
                ),
            );
        }
        if let Some(delivery) = self
            .delivery_timeout
            .filter(|delivery| *delivery < self.send_timeout)
        {
            let reason = format!(
                "{delivery:?} is shorter than the send timeout of {:?}, which is the time of one round of attempts",
                self.send_timeout
            );
            return invalid("delivery_timeout", reason);
        }
        if self.reachability_detector && !self.latency_fault_tolerance {
            let reason = "nobody asks the detector unless latency_fault_tolerance is on";
            return invalid("reachability_detector", reason.to_owned());
        }
        self.check_compression()
            .or_else(|reason| invalid("compression", reason))?;
        if self.create_topic_key.trim().is_empty() {
            return invalid("create_topic_key", "the template topic is blank".to_owned());
        }
        Ok(())
    }
}

impl ProducerConfig {
    fn check_compression(&self) -> Result<(), String> {
        let Some(compression) = self.compression else {
            return Ok(());
        };
        if !compression.is_built_in() {
            let feature = compression.feature();
            return Err(format!("{compression} needs the feature {feature} of this crate"));
        }
        match compression.levels() {
            Some(levels) if !levels.contains(&self.compression_level) => Err(format!(
                "compression_level {} is not from {} to {}, which are the levels of {compression}",
                self.compression_level,
                levels.start(),
                levels.end()
            )),
            _ => Ok(()),
        }
    }
}

fn instance_name_fault(name: &str) -> Option<String> {
    const LONGEST: usize = 255;
    if name.trim().is_empty() {
        return Some("it is blank".to_owned());
    }
    if name.len() > LONGEST {
        return Some(format!("it has {} bytes; the limit is {LONGEST}", name.len()));
    }
    name.chars()
        .any(|c| c.is_control() || c == '@')
        .then(|| format!("{name:?} contains '@' or a control character"))
}

fn count(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(change: impl FnOnce(&mut ProducerConfig)) -> String {
        let mut config = ProducerConfig::new("group".to_owned());
        change(&mut config);
        config.check().unwrap_err().to_string()
    }

    #[test]
    fn the_defaults_are_valid() {
        assert!(ProducerConfig::new("group".to_owned()).check().is_ok());
    }

    #[test]
    fn a_bad_setting_is_named_with_its_rule_and_value() {
        assert_eq!(
            fault(|c| c.retries = 16),
            "invalid setting retries: 16 is not from 0 to 15"
        );
        assert!(
            fault(|c| c.producer_group = "a b".to_owned()).contains("producer group \"a b\" contains ' '")
        );
        assert!(fault(|c| c.send_timeout = Duration::ZERO).contains("send_timeout: 0ns is too short"));
        assert!(fault(|c| c.max_message_size = 0).contains("max_message_size"));
        assert!(fault(|c| c.max_properties_size = 40_000).contains("40000 is not from 64 to 32767"));
        assert!(fault(|c| c.callback_threads = 0).contains("callback_threads"));
        assert!(fault(|c| c.instance_name = Some("a@b".to_owned())).contains("instance_name"));
        assert!(fault(|c| c.reachability_detector = true).contains("latency_fault_tolerance is on"));
        assert!(fault(|c| c.language_code = 14).contains("language_code"));
        assert!(fault(|c| c.claimed_version = -1).contains("-1 is not from 0 to 32767"));
        #[cfg(not(feature = "zstd"))]
        assert_eq!(
            fault(|c| c.compression = Some(CompressionType::Zstd)),
            "invalid setting compression: ZSTD needs the feature zstd of this crate"
        );
        #[cfg(feature = "zlib")]
        assert_eq!(
            fault(|c| (c.compression, c.compression_level) = (Some(CompressionType::Zlib), 10)),
            "invalid setting compression: compression_level 10 is not from 1 to 9, which are the levels of ZLIB"
        );
        assert!(fault(|c| c.max_async_bytes = 0).contains("max_async_bytes"));
        assert!(fault(|c| c.back_off = (Duration::ZERO, Duration::ZERO)).contains("must be over zero"));
    }
}

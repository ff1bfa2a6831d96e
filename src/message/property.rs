//! Reserved property names, once, and the rules for the names and values that a user may set.

/// Index keys, separated by one space (4.7.0 `MessageConst`).
pub(crate) const KEYS: &str = "KEYS";
/// The tag that consumers filter by.
pub(crate) const TAGS: &str = "TAGS";
/// `false`: do not wait for flush and replication. Absent means `true`.
pub(crate) const WAIT: &str = "WAIT";
/// The client's message id.
pub(crate) const UNIQ_KEY: &str = "UNIQ_KEY";
/// `true`: a half message. This is what brokers look at, not the system flag.
pub(crate) const TRAN_MSG: &str = "TRAN_MSG";
/// The group whose producers may be asked what became of a half message.
pub(crate) const PGROUP: &str = "PGROUP";
/// The topic that a half or delayed message is for, set by the broker.
pub(crate) const REAL_TOPIC: &str = "REAL_TOPIC";
/// Its queue.
pub(crate) const REAL_QID: &str = "REAL_QID";
/// How often a broker has asked about a half message, set by the broker.
pub(crate) const TRANSACTION_CHECK_TIMES: &str = "TRANSACTION_CHECK_TIMES";

/// What delays a message: the level of all releases, and the timers of 5.x.
pub(crate) const DELAYS: &[&str] = &[DELAY, TIMER_DELAY_SEC, TIMER_DELAY_MS, TIMER_DELIVER_MS];

/// The delay level, from 1.
pub(crate) const DELAY: &str = "DELAY";
/// The same in seconds, which Java may send.
pub(crate) const TIMER_DELAY_SEC: &str = "TIMER_DELAY_SEC";
/// 5.x: delivered so many milliseconds after it was stored.
pub(crate) const TIMER_DELAY_MS: &str = "TIMER_DELAY_MS";
/// 5.x: delivered at this time, in milliseconds since 1970.
pub(crate) const TIMER_DELIVER_MS: &str = "TIMER_DELIVER_MS";
/// 5.4.0 and later: decides the queue, from 0 for the lowest.
pub(crate) const PRIORITY: &str = "_SYS_MSG_PRIORITY_";
/// Which request a reply belongs to.
pub(crate) const CORRELATION_ID: &str = "CORRELATION_ID";
/// The client id that a reply is pushed to.
pub(crate) const REPLY_TO_CLIENT: &str = "REPLY_TO_CLIENT";
/// How long the sender of a request waits for the reply, in milliseconds.
pub(crate) const TTL: &str = "TTL";
/// `reply` for a reply, which is sent with a request code of its own.
pub(crate) const MSG_TYPE: &str = "MSG_TYPE";
/// The cluster that a message is stored in: a reply goes to the reply topic of that cluster.
pub(crate) const CLUSTER: &str = "CLUSTER";
/// When a reply came to the client that waited for it, in milliseconds since 1970.
pub(crate) const ARRIVE_TIME: &str = "ARRIVE_TIME";
/// When a broker pushed a reply, in milliseconds since 1970.
pub(crate) const PUSH_REPLY_TIME: &str = "PUSH_REPLY_TIME";

/// What separates a name from its value in the property text, so neither may contain it.
pub(crate) const NAME_VALUE_SEPARATOR: char = '\u{1}';
/// What separates one property from the next.
pub(crate) const PROPERTY_SEPARATOR: char = '\u{2}';
/// What separates keys from one another inside `KEYS`.
pub(crate) const KEY_SEPARATOR: char = ' ';

/// Names that clients and brokers use for themselves: the system set of 4.7.0's `MessageConst` and what 5.x added to
/// it. A user who set one of them would change how the message is stored or found.
const RESERVED: &[&str] = &[
    KEYS,
    TAGS,
    WAIT,
    UNIQ_KEY,
    DELAY,
    PRIORITY,
    "__LITE_TOPIC",
    "RETRY_TOPIC",
    REAL_TOPIC,
    REAL_QID,
    TRAN_MSG,
    PGROUP,
    "MIN_OFFSET",
    "MAX_OFFSET",
    "BUYER_ID",
    "ORIGIN_MESSAGE_ID",
    "TRANSFER_FLAG",
    "CORRECTION_FLAG",
    "MQ2_FLAG",
    "RECONSUME_TIME",
    "MSG_REGION",
    "TRACE_ON",
    "MAX_RECONSUME_TIMES",
    "CONSUME_START_TIME",
    "INSTANCE_ID",
    CORRELATION_ID,
    REPLY_TO_CLIENT,
    TTL,
    MSG_TYPE,
    CLUSTER,
    ARRIVE_TIME,
    PUSH_REPLY_TIME,
    "EXTEND_UNIQ_INFO",
    "INNER_NUM",
    "INNER_BASE",
    "DUP_INFO",
    "POP_CK",
    "POP_CK_OFFSET",
    "1ST_POP_TIME",
    "__SHARDINGKEY",
    "PROPERTY_FORWARD_QUEUE_ID",
    "REDIRECT",
    "INNER_MULTI_DISPATCH",
    "INNER_MULTI_QUEUE_OFFSET",
    "TRACE_CONTEXT",
    TIMER_DELAY_SEC,
    TIMER_DELAY_MS,
    TIMER_DELIVER_MS,
    "TIMER_ENQUEUE_MS",
    "TIMER_DEQUEUE_MS",
    "TIMER_ROLL_TIMES",
    "TIMER_OUT_MS",
    "TIMER_DEL_UNIQKEY",
    "TIMER_DELAY_LEVEL",
    "__BORNHOST",
    "BORN_TIMESTAMP",
    "__CRC32#",
    "DLQ_ORIGIN_TOPIC",
    "DLQ_ORIGIN_MESSAGE_ID",
    "TRAN_PREPARED_QUEUE_OFFSET",
    TRANSACTION_CHECK_TIMES,
    "CHECK_IMMUNITY_TIME_IN_SECONDS",
    "__transactionId__",
];

/// Prefix of properties that 5.x brokers drop when they store a message.
const TRANSIENT_PREFIX: &str = "__RMQ.TRANSIENT.";

/// Whether `name` belongs to RocketMQ itself.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with(TRANSIENT_PREFIX)
}

/// Checks a property of the user's. `Err` says which rule is broken; the value itself is not repeated, since it may be
/// confidential.
pub(crate) fn check(name: &str, value: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("a property name is blank".to_owned());
    }
    if has_separator(name) {
        return Err(format!(
            "property name {name:?} contains a separator character (U+0001 or U+0002)"
        ));
    }
    if is_reserved(name) {
        let instead = match name {
            KEYS => "use MessageBuilder::keys",
            TAGS => "use MessageBuilder::tags",
            WAIT => "use MessageBuilder::wait_store_ok",
            DELAY => "use MessageBuilder::delay_level",
            TIMER_DELAY_MS | TIMER_DELAY_SEC => "use MessageBuilder::delay",
            TIMER_DELIVER_MS => "use MessageBuilder::deliver_at",
            PRIORITY => "use MessageBuilder::priority",
            CORRELATION_ID | REPLY_TO_CLIENT | TTL | MSG_TYPE => "use Producer::request or Message::reply_to",
            _ => "choose another",
        };
        return Err(format!(
            "property name {name:?} is reserved by RocketMQ; {instead}"
        ));
    }
    if value.trim().is_empty() {
        // Readers drop properties with an empty value, so the property would be lost without a word.
        return Err(format!("the value of property {name:?} is blank"));
    }
    if has_separator(value) {
        return Err(format!(
            "the value of property {name:?} contains a separator character (U+0001 or U+0002)"
        ));
    }
    Ok(())
}

/// Whether `text` contains a character that the property text uses as a separator.
pub(crate) fn has_separator(text: &str) -> bool {
    text.contains([NAME_VALUE_SEPARATOR, PROPERTY_SEPARATOR])
}

/// Bytes that a property takes in the property text: name, value and both separators.
pub(crate) fn encoded_length(name: &str, value: &str) -> usize {
    name.len() + value.len() + 2
}

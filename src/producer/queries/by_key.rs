//! Messages that the brokers' indexes hold for a key.
//!
//! An index knows hashes of `topic#key`, so brokers also give messages that have the hash by chance: what is not wanted
//! is left out here.

use std::{
    collections::HashSet,
    ops::Bound,
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Query,
    ask::{Question, broken},
    check_topic, invalid,
    offsets::{milliseconds, store_time},
};
use crate::{
    cluster::{call::Answer, query_route::QueryRoute},
    code::{RequestCode, ResponseCode},
    error::{BrokerFailure, Error, FailedOnBrokers},
    message::{StoredMessage, property},
    net::deadline::Deadline,
    producer::shared::Shared,
    wire::{
        request::query_message::{INDEXED_UNTIL, QueryMessage, StoredRecords},
        stored_message::stored_message,
    },
};

/// How much earlier than wanted an index is asked: it keeps store times as whole seconds since its first message
/// (`IndexFile.putKey`), cut, so that a message may seem up to a second older than it is.
const INDEX_ROUNDING_MS: i64 = 1_000;

/// What brokers give at most for a sender's id whatever is asked (`defaultQueryMaxNum`).
const MOST_COPIES: u32 = 32;

/// What a [query by key](crate::Producer::query_messages) found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FoundMessages {
    /// The messages, in the order in which they were stored.
    pub messages: Vec<StoredMessage>,
    /// When the last message was stored that the indexes have; the earliest of the brokers that found something.
    /// `None`: none found anything.
    pub indexed_until: Option<SystemTime>,
    /// The brokers that could not be asked, each with what happened: what they hold is missing.
    pub failed: Vec<BrokerFailure>,
}

/// Which messages are wanted.
pub(super) struct Wanted {
    topic: Arc<str>,
    key: Arc<str>,
    most: u32,
    begin_ms: i64,
    end_ms: i64,
    is_unique_key: bool,
}

impl Wanted {
    /// All copies of the message with a sender's id, however old. Unlike 4.7.0, which goes back to the time in the id,
    /// and 5.x, which goes back three days.
    pub(super) fn unique_key(topic: &Arc<str>, key: &str) -> Self {
        Self {
            topic: Arc::clone(topic),
            key: key.into(),
            most: MOST_COPIES,
            begin_ms: 0,
            end_ms: i64::MAX,
            is_unique_key: true,
        }
    }

    /// Whether a broker has given what was asked for, and not what has the same hash.
    fn is_met_by(&self, message: &StoredMessage) -> bool {
        let has_key = if self.is_unique_key {
            message.property(property::UNIQ_KEY) == Some(&*self.key)
        } else {
            message.keys().any(|key| key == &*self.key)
        };
        let stored = message.store_timestamp_ms();
        has_key && message.topic() == &*self.topic && (self.begin_ms..=self.end_ms).contains(&stored)
    }

    fn question(&self) -> Question {
        let (topic, key) = (Arc::clone(&self.topic), Arc::clone(&self.key));
        let begin_ms = self.begin_ms.saturating_sub(INDEX_ROUNDING_MS).max(0);
        let (most, end_ms, is_unique_key) = (self.most, self.end_ms, self.is_unique_key);
        Question::new(RequestCode::QUERY_MESSAGE, move |writer| {
            let request = QueryMessage {
                topic: &topic,
                key: &key,
                most,
                begin_ms,
                end_ms,
                is_unique_key,
            };
            request.write(writer);
        })
    }
}

/// What all brokers together gave.
pub(super) struct Given {
    /// Each message once, in no order.
    pub(super) messages: Vec<StoredMessage>,
    indexed_until_ms: Option<i64>,
    /// The brokers that have answered.
    pub(super) asked: Vec<Arc<str>>,
    pub(super) failed: Vec<BrokerFailure>,
}

pub(super) fn query(
    query: &Query<'_>,
    topic: &str,
    key: &str,
    most: u32,
    stored: (Bound<SystemTime>, Bound<SystemTime>),
) -> Result<FoundMessages, Error> {
    let topic = check_topic(topic)?;
    check_key(key).map_err(invalid)?;
    if most == 0 {
        return Err(invalid("at most 0 messages are wanted".to_owned()));
    }
    let (begin_ms, end_ms) = range(stored)?;
    let wanted = Wanted {
        topic,
        key: key.into(),
        // Java's field is a signed number.
        most: most.min(i32::MAX.unsigned_abs()),
        begin_ms,
        end_ms,
        is_unique_key: false,
    };
    let route = query
        .shared
        .routes
        .wait_for_query(&wanted.topic, &query.deadline)?;
    let given = messages_of(query, &route, &wanted);
    if given.asked.is_empty() && !given.failed.is_empty() {
        let what = format!("looking for key {key} in topic {}", wanted.topic);
        let failed = FailedOnBrokers::new(what, given.asked, given.failed);
        return Err(Error::FailedOnBrokers(Box::new(failed)));
    }
    let mut messages = given.messages;
    // Of the messages that were stored at the same time on one broker, those that lie behind each other in its log.
    messages.sort_by_key(|message| (message.store_timestamp_ms(), message.commit_log_offset()));
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let surplus = messages.len().saturating_sub(most);
    messages.drain(..surplus);
    Ok(FoundMessages {
        messages,
        indexed_until: given.indexed_until_ms.and_then(store_time),
        failed: given.failed,
    })
}

/// Asks all brokers of a topic at the same time and keeps what is wanted of what they give.
pub(super) fn messages_of(query: &Query<'_>, route: &QueryRoute, wanted: &Wanted) -> Given {
    let reachable = route.brokers.iter().filter_map(|broker| {
        let address = broker.addresses.first()?;
        Some((Arc::clone(&broker.name), Arc::clone(address)))
    });
    let (names, addresses): (Vec<_>, Vec<_>) = reachable.unzip();
    let answers = query.ask_all(&route.topic, &addresses, &wanted.question());
    let mut given = Given {
        messages: Vec::new(),
        indexed_until_ms: None,
        asked: Vec::new(),
        failed: Vec::new(),
    };
    for ((broker_name, address), answer) in names.into_iter().zip(addresses).zip(answers) {
        match answer.and_then(|answer| read(&broker_name, &address, &answer, wanted)) {
            Ok((messages, indexed_until_ms)) => {
                given.messages.extend(messages);
                given.indexed_until_ms = match (given.indexed_until_ms, indexed_until_ms) {
                    (Some(one), Some(other)) => Some(one.min(other)),
                    (one, other) => one.or(other),
                };
                given.asked.push(broker_name);
            }
            Err(error) => given.failed.push(BrokerFailure { broker_name, error }),
        }
    }
    given
}

/// What one broker gave, and how far its index reaches if it says so.
fn read(
    broker_name: &Arc<str>,
    address: &Arc<str>,
    answer: &Answer,
    wanted: &Wanted,
) -> Result<(Vec<StoredMessage>, Option<i64>), Error> {
    if answer.code == ResponseCode::QUERY_NOT_FOUND {
        return Ok((Vec::new(), None));
    }
    answer.check(address)?;
    let mut messages = Vec::new();
    // A message that has a key twice is in the index twice.
    let mut seen = HashSet::new();
    for record in StoredRecords::new(&answer.body) {
        let message = record
            .and_then(|record| stored_message(&record, Arc::clone(broker_name)))
            .map_err(|error| broken(address, error))?;
        if wanted.is_met_by(&message) && seen.insert(message.commit_log_offset()) {
            messages.push(message);
        }
    }
    let indexed_until_ms = answer.field(INDEXED_UNTIL).and_then(|text| text.parse().ok());
    Ok((messages, indexed_until_ms))
}

/// Whether the index of one broker has a message of this topic with this id of its sender. An index may be some moments
/// behind.
pub(in crate::producer) fn is_indexed(
    shared: &Arc<Shared>,
    address: &Arc<str>,
    topic: &str,
    unique_key: &str,
    timeout: Duration,
) -> Result<bool, Error> {
    let query = Query {
        shared,
        deadline: Deadline::after(timeout),
    };
    let wanted = Wanted::unique_key(&Arc::from(topic), unique_key);
    let answer = query.ask_any(&wanted.topic, address, &wanted.question())?;
    let (messages, _) = read(address, address, &answer, &wanted)?;
    Ok(!messages.is_empty())
}

/// A key that a message can have: brokers split the keys of a message at spaces.
fn check_key(key: &str) -> Result<(), String> {
    if key.is_empty() {
        return Err("the key is empty".to_owned());
    }
    if key.contains(property::KEY_SEPARATOR) {
        return Err(format!(
            "key {key:?} contains a space, which separates the keys of a message; ask for one key"
        ));
    }
    Ok(())
}

/// First and last millisecond of a range of times.
fn range((begin, end): (Bound<SystemTime>, Bound<SystemTime>)) -> Result<(i64, i64), Error> {
    let begin_ms = match begin {
        Bound::Unbounded => 0,
        Bound::Included(time) => milliseconds(time),
        Bound::Excluded(time) => milliseconds(time).saturating_add(1),
    };
    let end_ms = match end {
        Bound::Unbounded => i64::MAX,
        // A time between two milliseconds excludes the later one only.
        Bound::Excluded(time) if is_whole(time) => milliseconds(time).saturating_sub(1),
        Bound::Included(time) | Bound::Excluded(time) => milliseconds(time),
    };
    let is_turned_round = match (begin, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(begin) | Bound::Excluded(begin), Bound::Included(end) | Bound::Excluded(end)) => {
            begin > end
        }
    };
    if is_turned_round {
        return Err(invalid(format!(
            "the range of store times ends before it begins: from {begin_ms} to {end_ms} ms since 1970"
        )));
    }
    Ok((begin_ms, end_ms))
}

fn is_whole(time: SystemTime) -> bool {
    store_time(milliseconds(time)) == Some(time)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::wire::message::StoredRecord;

    fn at(micros: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(micros)
    }

    #[test]
    fn ranges_are_whole_milliseconds_that_hold_all_of_them() {
        use Bound::{Excluded, Included, Unbounded};
        let range = |begin, end| range((begin, end)).unwrap();
        assert_eq!(range(Unbounded, Unbounded), (0, i64::MAX));
        assert_eq!(range(Included(at(5_000)), Included(at(7_000))), (5, 7));
        assert_eq!(range(Excluded(at(5_000)), Excluded(at(7_000))), (6, 6));
        assert_eq!(range(Included(at(5_900)), Excluded(at(7_100))), (5, 7));
        assert_eq!(range(Included(at(5_000)), Included(at(5_000))), (5, 5));
        // Rust's empty range is no mistake.
        assert_eq!(range(Included(at(5_000)), Excluded(at(5_000))), (5, 4));
    }

    #[test]
    fn a_range_turned_round_and_a_key_that_none_has_are_mistakes() {
        let error = range((Bound::Included(at(7_000)), Bound::Excluded(at(5_000)))).unwrap_err();
        assert_eq!(
            error.to_string(),
            "invalid query: the range of store times ends before it begins: from 7 to 4 ms since 1970"
        );
        assert_eq!(check_key("").unwrap_err(), "the key is empty");
        assert!(check_key("a b").unwrap_err().contains("\"a b\" contains a space"));
        assert_eq!(check_key("Schlüssel-鍵"), Ok(()));
    }

    /// A record of topic `t` with these properties.
    fn record(topic: &'static str, properties: &'static str, offset: i64) -> StoredRecord<'static> {
        StoredRecord {
            body_crc: 0,
            queue_id: 0,
            flag: 0,
            queue_offset: offset,
            physical_offset: offset,
            sys_flag: 0,
            born_timestamp_ms: 0,
            born_host: ([127, 0, 0, 1], 1).into(),
            store_timestamp_ms: 1_000 + offset,
            store_host: ([127, 0, 0, 1], 2).into(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            topic: topic.into(),
            properties: properties.into(),
        }
    }

    #[test]
    fn what_has_the_same_hash_by_chance_is_left_out() {
        let mut body = Vec::new();
        for record in [
            record("t", "KEYS\u{1}a k\u{2}UNIQ_KEY\u{1}U1\u{2}", 1),
            record("t", "KEYS\u{1}a k\u{2}UNIQ_KEY\u{1}U1\u{2}", 1),
            record("t", "KEYS\u{1}kk\u{2}UNIQ_KEY\u{1}U2\u{2}", 2),
            record("other", "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}U1\u{2}", 3),
            record("t", "", 4),
            record("t", "KEYS\u{1}k\u{2}UNIQ_KEY\u{1}U5\u{2}", 5),
        ] {
            record.encode(&mut body).unwrap();
        }
        let answer = Answer {
            code: ResponseCode::SUCCESS,
            remark: None,
            fields: vec![(INDEXED_UNTIL.to_owned(), "1005".to_owned())],
            body,
        };
        let (broker_name, address) = ("a".into(), "10.0.0.1:10911".into());
        let offsets = |wanted: &Wanted| {
            let (messages, until) = read(&broker_name, &address, &answer, wanted).unwrap();
            assert_eq!(until, Some(1_005));
            let offsets = messages.iter().map(StoredMessage::queue_offset);
            offsets.collect::<Vec<_>>()
        };
        let by_key = Wanted {
            is_unique_key: false,
            ..Wanted::unique_key(&"t".into(), "k")
        };
        assert_eq!(offsets(&by_key), [1, 5]);
        assert_eq!(
            offsets(&Wanted {
                end_ms: 1_004,
                ..by_key
            }),
            [1]
        );
        assert_eq!(offsets(&Wanted::unique_key(&"t".into(), "U1")), [1]);
        assert!(offsets(&Wanted::unique_key(&"t".into(), "k")).is_empty());
    }
}

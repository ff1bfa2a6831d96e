//! Half messages: stored out of sight, published when they are committed, asked about when nobody says what became of them
//! (`TransactionalMessageServiceImpl`, `EndTransactionProcessor`).
//!
//! As a real broker does: a half message is written anew before its producers are asked about it, so its offsets are others
//! each time; and one that is committed twice is published twice. Unlike a real broker, which looks at all half messages
//! now and then, each has a time of its own at which it is asked about, so that tests need not wait.
//!
//! Rule: the lock is never held while another lock is taken.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use crate::code::ResponseCode;
use crate::message::property;
use crate::wire::id::offset_message_id;
use crate::wire::message::StoredRecord;
use crate::wire::properties;
use crate::wire::request::check_transaction::CheckTransaction;
use crate::wire::request::end_transaction::{ReceivedEndTransaction, Verdict};

use super::dialect::ServerVersion;
use super::reply::{Reply, ReplyFields};
use super::shared::Shared;
use super::store::{Full, Incoming, Item, Place};

/// Where half messages are kept (`TopicValidator.RMQ_SYS_TRANS_HALF_TOPIC`), in queue 0.
const HALF_TOPIC: &str = "RMQ_SYS_TRANS_HALF_TOPIC";

/// Where those go that were asked about in vain too often (`TopicValidator.RMQ_SYS_TRANS_CHECK_MAX_TIME_TOPIC`).
const GIVEN_UP_TOPIC: &str = "TRANS_CHECK_MAX_TIME_TOPIC";

/// The transaction bits of the system flag (`MessageSysFlag`).
const TRANSACTION_BITS: i32 = 12;

/// Half messages that are kept, done ones included, which can still be ended a second time.
const MOST_HALVES: usize = 100_000;

/// Bytes of their bodies.
const MOST_HALF_BYTES: usize = 1 << 30;

/// When producers are asked.
#[derive(Clone, Copy, Debug)]
pub(super) struct CheckTimes {
    /// How old a half message is when it is asked about for the first time (`transactionTimeOut`).
    pub(super) first_after: Duration,
    /// How long until it is asked about again (`transactionCheckInterval`).
    pub(super) interval: Duration,
    /// How often it is asked about (`transactionCheckMax`).
    pub(super) most: u32,
}

/// A half message.
#[derive(Clone, Debug)]
struct Half {
    queue_offset: u64,
    producer_group: Arc<str>,
    topic: Arc<str>,
    queue_id: u32,
    flag: i32,
    sys_flag: i32,
    reconsume_times: i32,
    born_timestamp_ms: i64,
    born_host: SocketAddr,
    store_timestamp_ms: i64,
    broker_port: u16,
    /// With those that the broker adds to a half message.
    properties: Vec<(String, String)>,
    body: Arc<[u8]>,
    next_check: Instant,
    /// Ended, or written anew.
    is_done: bool,
}

/// A broker, and the place in its commit log.
type Key = (usize, u64);

#[derive(Debug, Default)]
struct State {
    halves: BTreeMap<Key, Half>,
    /// In the order in which they came.
    order: VecDeque<Key>,
    bytes: usize,
    is_stopping: bool,
    /// When the thread that asks looks again, if it knows.
    wakes_at: Option<Instant>,
    asked: u64,
}

/// All half messages of a cluster.
#[derive(Debug)]
pub(super) struct Transactions {
    times: CheckTimes,
    state: Mutex<State>,
    changed: Condvar,
}

/// A question that is to be sent to a producer.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) broker: usize,
    pub(super) producer_group: Arc<str>,
    pub(super) fields: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Takes turns among the producers of a group.
    pub(super) turn: u64,
}

impl Transactions {
    pub(super) fn new(times: CheckTimes) -> Transactions {
        Transactions {
            times,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    /// Whether a message with these properties is a half message. The system flag is not looked at.
    pub(super) fn is_half(version: ServerVersion, properties_text: &str) -> bool {
        if !properties_text.contains(property::TRAN_MSG) {
            // Nearly all: not to be slowed down.
            return false;
        }
        let found = properties::find(properties_text, property::TRAN_MSG, version.reading_rules());
        found.is_some_and(|value| value.eq_ignore_ascii_case("true"))
    }

    /// Half messages that nobody has ended.
    pub(super) fn open(&self) -> usize {
        let state = self.state.lock();
        state.halves.values().filter(|half| !half.is_done).count()
    }

    /// Waits until half messages are due, and says which, up to what moment. `None`: it is over.
    pub(super) fn wait_for_due(&self) -> Option<Instant> {
        let mut state = self.state.lock();
        loop {
            if state.is_stopping {
                return None;
            }
            let pending = state.halves.values().filter(|half| !half.is_done);
            let due = pending.map(|half| half.next_check).min();
            state.wakes_at = due;
            match due {
                None => self.changed.wait(&mut state),
                Some(due) if due <= Instant::now() => return Some(Instant::now()),
                Some(due) => {
                    // The loop looks at the clock again.
                    let _timed_out = self.changed.wait_until(&mut state, due);
                }
            }
        }
    }

    pub(super) fn stop(&self) {
        self.state.lock().is_stopping = true;
        self.changed.notify_all();
    }

    /// Stores a half message. The fields are those of a send to `incoming.topic` and its queue.
    pub(super) fn prepare(
        &self,
        shared: &Shared,
        incoming: &Incoming<'_>,
        item: &Item<'_>,
    ) -> Result<Place, Full> {
        let rules = shared.version.reading_rules();
        let mut list = properties::parse(item.properties, rules);
        set(&mut list, property::REAL_TOPIC, incoming.topic);
        set(&mut list, property::REAL_QID, &incoming.queue_id.to_string());
        let half = Half {
            queue_offset: 0,
            producer_group: find(&list, property::PGROUP).unwrap_or_default().into(),
            topic: Arc::clone(incoming.topic),
            queue_id: incoming.queue_id,
            flag: item.flag,
            sys_flag: incoming.sys_flag & !TRANSACTION_BITS,
            reconsume_times: incoming.reconsume_times,
            born_timestamp_ms: incoming.born_timestamp_ms,
            born_host: incoming.born_host,
            store_timestamp_ms: incoming.store_timestamp_ms,
            broker_port: incoming.broker_port,
            properties: list,
            body: item.body.into(),
            next_check: later(self.times.first_after),
            is_done: false,
        };
        self.keep(shared, incoming.broker, half)
    }

    /// Writes a half message, for the first time or anew. Gives back its place.
    fn keep(&self, shared: &Shared, broker: usize, mut half: Half) -> Result<Place, Full> {
        self.make_room(half.body.len())?;
        let text = encode(&half.properties);
        let place = put(shared, broker, HALF_TOPIC, &half, &text)?;
        half.queue_offset = place.queue_offset;
        let key = (broker, place.physical_offset);
        let mut state = self.state.lock();
        let is_first = state.wakes_at.is_none_or(|at| half.next_check < at);
        state.bytes += half.body.len();
        state.order.push_back(key);
        state.halves.insert(key, half);
        drop(state);
        if is_first {
            self.changed.notify_all();
        }
        Ok(place)
    }

    /// Forgets the oldest that are done, if there are too many.
    fn make_room(&self, bytes: usize) -> Result<(), Full> {
        let mut state = self.state.lock();
        while state.halves.len() >= MOST_HALVES || state.bytes.saturating_add(bytes) > MOST_HALF_BYTES {
            let is_done = |key: &Key| state.halves.get(key).is_none_or(|half| half.is_done);
            let Some(oldest) = state.order.iter().position(is_done) else {
                return Err(Full);
            };
            if let Some(half) = state
                .order
                .remove(oldest)
                .and_then(|key| state.halves.remove(&key))
            {
                state.bytes -= half.body.len();
            }
        }
        drop(state);
        Ok(())
    }

    /// What a broker answers to the end of a transaction. To an unknown it says nothing, as all releases.
    pub(super) fn end(
        &self,
        shared: &Shared,
        broker: usize,
        request: &ReceivedEndTransaction<'_>,
    ) -> Option<Reply> {
        let verdict = request.verdict.filter(|verdict| *verdict != Verdict::Unknown)?;
        let refuse = |remark| {
            Some(Reply::refusal(
                ResponseCode::SYSTEM_ERROR,
                remark,
                ReplyFields::None,
            ))
        };
        let key = (broker, request.commit_log_offset);
        let found = self.state.lock().halves.get(&key).cloned();
        let Some(half) = found else {
            return refuse("Find prepared transaction message failed");
        };
        if *half.producer_group != *request.producer_group {
            return refuse("The producer group wrong");
        }
        if half.queue_offset != request.queue_offset {
            return refuse("The transaction state table offset wrong");
        }
        if verdict == Verdict::Commit && !publish(shared, broker, &half) {
            let (code, remark) = shared.version.disk_full();
            return Some(Reply::refusal(code, remark, ReplyFields::None));
        }
        self.done(key);
        Some(match verdict {
            Verdict::Rollback => Reply::refusal(
                ResponseCode::SUCCESS,
                "not set any response code",
                ReplyFields::None,
            ),
            _ => Reply::success(ReplyFields::None),
        })
    }

    fn done(&self, key: Key) {
        if let Some(half) = self.state.lock().halves.get_mut(&key) {
            half.is_done = true;
        }
    }

    /// Writes those anew that are due and whose broker is up, and gives the questions about them. `None`: all that are open
    /// are due. Those that were asked about often enough are given up instead.
    pub(super) fn round(
        &self,
        shared: &Shared,
        due: Option<Instant>,
        is_up: impl Fn(usize) -> bool,
    ) -> Vec<Question> {
        let mut state = self.state.lock();
        let mut chosen = Vec::new();
        for (key, half) in &mut state.halves {
            if half.is_done || due.is_some_and(|due| half.next_check > due) {
                continue;
            }
            if is_up(key.0) {
                chosen.push((*key, half.clone()));
            } else {
                half.next_check = later(self.times.interval);
            }
        }
        drop(state);
        let questions = chosen
            .into_iter()
            .filter_map(|(key, half)| self.write_anew(shared, key, half));
        questions.collect()
    }

    fn write_anew(&self, shared: &Shared, key: Key, mut half: Half) -> Option<Question> {
        let times = find(&half.properties, property::TRANSACTION_CHECK_TIMES);
        let times: u32 = times.and_then(|times| times.parse().ok()).unwrap_or(0);
        if times >= self.times.most {
            // Refused by a full disk, it is forgotten all the same.
            drop(put(
                shared,
                key.0,
                GIVEN_UP_TOPIC,
                &half,
                &encode(&half.properties),
            ));
            self.done(key);
            return None;
        }
        let counted = (times + 1).to_string();
        set(&mut half.properties, property::TRANSACTION_CHECK_TIMES, &counted);
        set(&mut half.properties, property::WAIT, "false");
        half.next_check = later(self.times.interval);
        let place = self.keep(shared, key.0, half.clone()).ok()?;
        self.done(key);
        half.queue_offset = place.queue_offset;
        let turn = {
            let mut state = self.state.lock();
            state.asked += 1;
            state.asked
        };
        question(shared, key.0, &half, place.physical_offset, turn)
    }
}

/// The question about a half message that was written there.
fn question(
    shared: &Shared,
    broker: usize,
    half: &Half,
    commit_log_offset: u64,
    turn: u64,
) -> Option<Question> {
    let broker_address = SocketAddr::from(([127, 0, 0, 1], half.broker_port));
    let text = encode(&half.properties);
    let signed = |offset: u64| i64::try_from(offset).unwrap_or(i64::MAX);
    let record = StoredRecord {
        body_crc: 0,
        // The queue and the topic are those that it was sent to.
        queue_id: i32::try_from(half.queue_id).unwrap_or(i32::MAX),
        flag: half.flag,
        queue_offset: signed(half.queue_offset),
        physical_offset: signed(commit_log_offset),
        sys_flag: half.sys_flag,
        born_timestamp_ms: half.born_timestamp_ms,
        born_host: half.born_host,
        store_timestamp_ms: half.store_timestamp_ms,
        store_host: broker_address,
        reconsume_times: half.reconsume_times,
        prepared_transaction_offset: 0,
        body: &half.body,
        topic: (&*half.topic).into(),
        properties: text.as_str().into(),
    };
    let mut body = Vec::new();
    record.encode(&mut body).ok()?;
    let id = find(&half.properties, property::UNIQ_KEY);
    let offset_id = offset_message_id(broker_address, commit_log_offset);
    let is_5x = shared.version == ServerVersion::V5_5_0;
    let name = shared.brokers.get(broker).map(|broker| &*broker.name);
    let check = CheckTransaction {
        queue_offset: half.queue_offset,
        commit_log_offset,
        message_id: id.map(Into::into),
        transaction_id: id.map(Into::into),
        offset_message_id: Some(offset_id.as_str().into()),
        broker_name: name.filter(|_| is_5x).map(Into::into),
        half_topic: is_5x.then_some(HALF_TOPIC.into()),
    };
    let fields = check
        .fields()
        .map(|(name, value)| (name.to_owned(), value.into_owned()))
        .collect();
    Some(Question {
        broker,
        producer_group: Arc::clone(&half.producer_group),
        fields,
        body,
        turn,
    })
}

/// Makes a message of a half message. One with a delay is never delivered, though its commit succeeds (4.7.0 to 5.5.0).
fn publish(shared: &Shared, broker: usize, half: &Half) -> bool {
    if property::DELAYS
        .iter()
        .any(|name| find(&half.properties, name).is_some())
    {
        return true;
    }
    let committed = Half {
        sys_flag: half.sys_flag | Verdict::Commit.number(),
        ..half.clone()
    };
    let text = encode(&half.properties);
    put(shared, broker, &half.topic, &committed, &text).is_ok()
}

/// Stores a message under a topic: in the queue that it was sent to if that is its own, else in queue 0.
fn put(
    shared: &Shared,
    broker: usize,
    topic: &str,
    half: &Half,
    properties_text: &str,
) -> Result<Place, Full> {
    let is_own = topic == &*half.topic;
    let incoming = Incoming {
        broker,
        broker_port: half.broker_port,
        topic: &if is_own {
            Arc::clone(&half.topic)
        } else {
            topic.into()
        },
        queue_id: if is_own { half.queue_id } else { 0 },
        sys_flag: half.sys_flag,
        reconsume_times: half.reconsume_times,
        born_timestamp_ms: half.born_timestamp_ms,
        born_host: half.born_host,
        store_timestamp_ms: half.store_timestamp_ms,
        producer_group: &half.producer_group,
    };
    let item = Item {
        flag: half.flag,
        body: &half.body,
        properties: properties_text,
    };
    shared.store.put(&incoming, &[item])
}

fn later(after: Duration) -> Instant {
    let now = Instant::now();
    // A time that no clock can count never comes within a test.
    now.checked_add(after)
        .unwrap_or_else(|| now + Duration::from_secs(86_400))
}

fn find<'a>(list: &'a [(String, String)], name: &str) -> Option<&'a str> {
    list.iter()
        .find(|property| property.0 == name)
        .map(|property| property.1.as_str())
}

fn set(list: &mut Vec<(String, String)>, name: &str, value: &str) {
    match list.iter_mut().find(|property| property.0 == name) {
        Some(property) => value.clone_into(&mut property.1),
        None => list.push((name.to_owned(), value.to_owned())),
    }
}

fn encode(list: &[(String, String)]) -> String {
    let mut text = String::new();
    properties::append(
        &mut text,
        list.iter().map(|property| (&*property.0, &*property.1)),
    );
    text
}

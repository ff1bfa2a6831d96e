//! What the brokers keep: messages in memory, with the offsets that a commit log and its queues would give them.
//!
//! Bounded: the records' bytes, counted as a commit log counts them, never pass the limit; sends are then refused as
//! by a full disk. Which sends are let in, and with which properties, is decided in `send_message`.
//!
//! Rule: copies of bodies are made before the lock is taken and parsed after it is given back.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;

use crate::wire::message::RECORD_OVERHEAD;

/// Records of a topic are kept in pieces of this many, so that growth never moves more than one piece.
const RECORDS_PER_SEGMENT: usize = 4_096;

/// One message as it is kept. The bytes are the body and, behind it, the property text.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) broker: usize,
    /// Where the broker was then.
    broker_port: u16,
    pub(super) queue_id: u32,
    pub(super) queue_offset: u64,
    pub(super) physical_offset: u64,
    pub(super) flag: i32,
    pub(super) sys_flag: i32,
    pub(super) reconsume_times: i32,
    pub(super) born_timestamp_ms: i64,
    pub(super) born_host: SocketAddr,
    pub(super) store_timestamp_ms: i64,
    pub(super) producer_group: Arc<str>,
    body_length: usize,
    bytes: Arc<[u8]>,
}

impl Record {
    pub(super) fn body(&self) -> &[u8] {
        self.bytes.get(..self.body_length).unwrap_or_default()
    }

    /// The address of the broker when it stored the message.
    pub(super) fn broker_address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.broker_port).into()
    }

    /// Property text.
    pub(super) fn properties(&self) -> &str {
        let text = self.bytes.get(self.body_length..).unwrap_or_default();
        std::str::from_utf8(text).unwrap_or_default()
    }
}

/// What all messages of one send have in common.
#[derive(Debug)]
pub(super) struct Incoming<'a> {
    pub(super) broker: usize,
    pub(super) broker_port: u16,
    pub(super) topic: &'a Arc<str>,
    pub(super) queue_id: u32,
    pub(super) sys_flag: i32,
    pub(super) reconsume_times: i32,
    pub(super) born_timestamp_ms: i64,
    pub(super) born_host: SocketAddr,
    pub(super) store_timestamp_ms: i64,
    pub(super) producer_group: &'a Arc<str>,
}

/// One message of a send: the only one, or an element of a batch.
#[derive(Debug)]
pub(super) struct Item<'a> {
    pub(super) flag: i32,
    pub(super) body: &'a [u8],
    /// Property text as the broker keeps it.
    pub(super) properties: &'a str,
}

/// Where a send ended up.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// Offset of the first message in its queue; the others follow.
    pub(super) queue_offset: u64,
    /// Offset of the first message in the commit log.
    pub(super) physical_offset: u64,
}

/// The limit would be passed: nothing was stored.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Full;

/// All messages of a cluster.
#[derive(Debug)]
pub(super) struct Store {
    /// Most bytes of records. `None`: nothing is kept, offsets are still given out.
    limit: Option<u64>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept_bytes: u64,
    /// End of each broker's commit log.
    log_ends: HashMap<usize, u64>,
    topics: HashMap<Arc<str>, TopicLog>,
}

#[derive(Debug, Default)]
struct TopicLog {
    count: u64,
    bytes: u64,
    /// Next offset by broker and queue.
    next_offsets: HashMap<(usize, u32), u64>,
    /// In the order of arrival, over all brokers and queues.
    segments: Vec<Vec<Record>>,
}

impl TopicLog {
    fn push(&mut self, record: Record) {
        match self.segments.last_mut() {
            Some(last) if last.len() < RECORDS_PER_SEGMENT => last.push(record),
            _ => {
                let mut segment = Vec::with_capacity(RECORDS_PER_SEGMENT);
                segment.push(record);
                self.segments.push(segment);
            }
        }
    }
}

impl Store {
    pub(super) fn new(limit: Option<u64>) -> Store {
        Store {
            limit,
            state: Mutex::new(State::default()),
        }
    }

    /// Bytes that a message takes in a commit log. Loopback hosts are IPv4.
    pub(super) fn record_length(topic: &str, body_length: usize, properties_length: usize) -> usize {
        RECORD_OVERHEAD
            .saturating_add(topic.len())
            .saturating_add(body_length)
            .saturating_add(properties_length)
    }

    /// Keeps all items of a send, or none.
    pub(super) fn put(&self, incoming: &Incoming<'_>, items: &[Item<'_>]) -> Result<Place, Full> {
        let length = |item: &Item<'_>| {
            let length = Store::record_length(incoming.topic, item.body.len(), item.properties.len());
            u64::try_from(length).unwrap_or(u64::MAX)
        };
        let total = items.iter().map(length).fold(0_u64, u64::saturating_add);
        let kept: Vec<(Arc<[u8]>, u64)> = match self.limit {
            Some(_) => items.iter().map(|item| (bytes_of(item), length(item))).collect(),
            None => Vec::new(),
        };

        let mut state = self.state.lock();
        let State {
            kept_bytes,
            log_ends,
            topics,
        } = &mut *state;
        if let Some(limit) = self.limit {
            let after = kept_bytes.saturating_add(total);
            if after > limit {
                return Err(Full);
            }
            *kept_bytes = after;
        }
        let log_end = log_ends.entry(incoming.broker).or_default();
        let physical_offset = *log_end;
        *log_end = log_end.saturating_add(total);
        let log = topics.entry(Arc::clone(incoming.topic)).or_default();
        let next = log
            .next_offsets
            .entry((incoming.broker, incoming.queue_id))
            .or_default();
        let queue_offset = *next;
        let count = u64::try_from(items.len()).unwrap_or(u64::MAX);
        *next = next.saturating_add(count);
        log.count = log.count.saturating_add(count);
        if self.limit.is_some() {
            log.bytes = log.bytes.saturating_add(total);
        }
        let mut place = Place {
            queue_offset,
            physical_offset,
        };
        for (item, (bytes, length)) in items.iter().zip(kept) {
            log.push(Record {
                broker: incoming.broker,
                broker_port: incoming.broker_port,
                queue_id: incoming.queue_id,
                queue_offset: place.queue_offset,
                physical_offset: place.physical_offset,
                flag: item.flag,
                sys_flag: incoming.sys_flag,
                reconsume_times: incoming.reconsume_times,
                born_timestamp_ms: incoming.born_timestamp_ms,
                born_host: incoming.born_host,
                store_timestamp_ms: incoming.store_timestamp_ms,
                producer_group: Arc::clone(incoming.producer_group),
                body_length: item.body.len(),
                bytes,
            });
            place.queue_offset += 1;
            place.physical_offset += length;
        }
        drop(state);
        Ok(Place {
            queue_offset,
            physical_offset,
        })
    }

    /// The messages of a topic in the order in which they arrived.
    pub(super) fn records(&self, topic: &str) -> Vec<Record> {
        let state = self.state.lock();
        state
            .topics
            .get(topic)
            .map_or_else(Vec::new, |log| log.segments.iter().flatten().cloned().collect())
    }

    /// The message of a topic at this broker, queue and offset.
    pub(super) fn find(&self, topic: &str, place: (usize, u32, u64)) -> Option<Record> {
        let state = self.state.lock();
        let mut records = state.topics.get(topic)?.segments.iter().flatten().rev();
        let is_there = |record: &&Record| (record.broker, record.queue_id, record.queue_offset) == place;
        records.find(is_there).cloned()
    }

    /// The offset that the next message of a queue gets.
    pub(super) fn next_offset(&self, topic: &str, broker: usize, queue_id: u32) -> u64 {
        let state = self.state.lock();
        let log = state.topics.get(topic);
        let next = log.and_then(|log| log.next_offsets.get(&(broker, queue_id)));
        next.copied().unwrap_or(0)
    }

    /// All messages of a broker with their topics, in the order of its commit log.
    pub(super) fn of_broker(&self, broker: usize) -> Vec<(Arc<str>, Record)> {
        let state = self.state.lock();
        let of_topic = |(topic, log): (&Arc<str>, &TopicLog)| {
            let records = log.segments.iter().flatten();
            let of_broker = records.filter(|record| record.broker == broker);
            of_broker
                .map(|record| (Arc::clone(topic), record.clone()))
                .collect::<Vec<_>>()
        };
        let mut all: Vec<_> = state.topics.iter().flat_map(of_topic).collect();
        drop(state);
        all.sort_by_key(|(_, record)| record.physical_offset);
        all
    }

    /// How many messages of a topic were stored, kept or not.
    pub(super) fn count(&self, topic: &str) -> u64 {
        self.state.lock().topics.get(topic).map_or(0, |log| log.count)
    }

    /// Forgets a topic: its messages are gone, and its queues begin at 0 again.
    pub(super) fn delete(&self, topic: &str) {
        let mut state = self.state.lock();
        let removed = state.topics.remove(topic);
        if let Some(log) = &removed {
            state.kept_bytes = state.kept_bytes.saturating_sub(log.bytes);
        }
        drop(state);
        // Freeing many messages takes a while: not under the lock.
        drop(removed);
    }
}

fn bytes_of(item: &Item<'_>) -> Arc<[u8]> {
    let mut bytes = Vec::with_capacity(item.body.len() + item.properties.len());
    bytes.extend_from_slice(item.body);
    bytes.extend_from_slice(item.properties.as_bytes());
    bytes.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(
        store: &Store,
        broker: usize,
        topic: &str,
        queue_id: u32,
        bodies: &[&[u8]],
    ) -> Result<Place, Full> {
        let (topic, producer_group) = (Arc::from(topic), Arc::from("g"));
        let incoming = Incoming {
            broker,
            broker_port: 0,
            topic: &topic,
            queue_id,
            sys_flag: 0,
            reconsume_times: 0,
            born_timestamp_ms: 0,
            born_host: "127.0.0.1:1".parse().unwrap(),
            store_timestamp_ms: 0,
            producer_group: &producer_group,
        };
        let items: Vec<_> = bodies
            .iter()
            .map(|body| Item {
                flag: 0,
                body,
                properties: "a\u{1}b\u{2}",
            })
            .collect();
        store.put(&incoming, &items)
    }

    #[test]
    fn offsets_grow_by_queue_and_by_broker() {
        let store = Store::new(Some(1 << 20));
        let record = 91 + 1 + 4;
        let at = |queue_offset, physical_offset| {
            Ok(Place {
                queue_offset,
                physical_offset,
            })
        };
        assert_eq!(put(&store, 0, "t", 0, &[b"xy"]), at(0, 0));
        assert_eq!(put(&store, 0, "t", 0, &[b"1", b"2", b"3"]), at(1, record + 2));
        assert_eq!(put(&store, 0, "t", 1, &[b""]), at(0, 4 * record + 5));
        assert_eq!(put(&store, 0, "u", 1, &[b""]), at(0, 5 * record + 5));
        assert_eq!(put(&store, 1, "t", 0, &[b""]), at(0, 0));
        let records = store.records("t");
        let seen: Vec<_> = records
            .iter()
            .map(|r| (r.broker, r.queue_id, r.queue_offset, r.body()))
            .collect();
        let expected: [(usize, u32, u64, &[u8]); 6] = [
            (0, 0, 0, b"xy"),
            (0, 0, 1, b"1"),
            (0, 0, 2, b"2"),
            (0, 0, 3, b"3"),
            (0, 1, 0, b""),
            (1, 0, 0, b""),
        ];
        assert_eq!(seen, expected);
        assert_eq!(records[2].physical_offset, record + 2 + record + 1);
        assert_eq!(records[2].properties(), "a\u{1}b\u{2}");
        assert_eq!((store.count("t"), store.count("absent")), (6, 0));
    }

    #[test]
    fn a_full_store_refuses_whole_sends_and_deletion_makes_room() {
        let store = Store::new(Some(2 * 97));
        assert!(put(&store, 0, "t", 0, &[b"1"]).is_ok());
        assert_eq!(put(&store, 0, "t", 0, &[b"2", b"3"]), Err(Full));
        assert!(put(&store, 0, "t", 0, &[b"4"]).is_ok());
        assert_eq!(put(&store, 0, "t", 0, &[b""]), Err(Full));
        assert_eq!(store.count("t"), 2);
        store.delete("t");
        assert_eq!(store.count("t"), 0);
        assert_eq!(put(&store, 0, "t", 0, &[b"5"]).unwrap().queue_offset, 0);
    }

    #[test]
    fn a_store_that_keeps_nothing_still_counts() {
        let store = Store::new(None);
        for sent in 0..10 {
            assert_eq!(
                put(&store, 0, "t", 0, &[b"1", b"2"]).unwrap().queue_offset,
                2 * sent
            );
        }
        assert_eq!(store.count("t"), 20);
        assert!(store.records("t").is_empty());
    }

    #[test]
    fn more_messages_than_a_segment_holds_stay_in_order() {
        let store = Store::new(Some(1 << 30));
        let count = RECORDS_PER_SEGMENT * 2 + 1;
        for number in 0..count {
            put(&store, 0, "t", 0, &[number.to_string().as_bytes()]).unwrap();
        }
        let records = store.records("t");
        assert_eq!(records.len(), count);
        assert!(
            records
                .iter()
                .enumerate()
                .all(|(number, r)| r.body() == number.to_string().as_bytes())
        );
    }
}

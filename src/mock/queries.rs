//! What a broker answers to queries: positions of queues, stored messages by place and by key, new topics.
//!
//! A query by place or key walks over everything that the broker keeps: fine for tests, too slow for measurements.

use std::sync::Arc;

use crate::code::{RequestCode, ResponseCode};
use crate::message::property;
use crate::wire::WireError;
use crate::wire::header::Header;
use crate::wire::message::StoredRecord;
use crate::wire::properties;
use crate::wire::request::create_topic::ReceivedCreateTopic;
use crate::wire::request::query_message::ReceivedQueryMessage;
use crate::wire::request::queue_query::ReceivedQueueQuery;
use crate::wire::request::view_message::received_offset;

use super::dialect::ServerVersion;
use super::reply::{Reply, ReplyFields};
use super::shared::Shared;
use super::store::Record;
use super::topics::TopicSettings;

/// `MessageStoreConfig.maxMsgsNumBatch`: most messages of one query.
const MOST_MESSAGES: usize = 64;

/// `MessageStoreConfig.defaultQueryMaxNum`: what a query by unique key gets whatever it asks for.
const MOST_COPIES: i32 = 32;

/// The remark of a query that finds nothing.
const NOTHING_FOUND: &str = "can not find message, maybe time range not correct";

/// The answer of the broker with this index, if the request is a query.
pub(super) fn answer(shared: &Shared, broker: usize, header: &Header<'_>) -> Option<Reply> {
    let answered = match RequestCode::new(header.code) {
        RequestCode::GET_MIN_OFFSET => queue(header).map(|_| Reply::success(ReplyFields::Offset(0))),
        RequestCode::GET_MAX_OFFSET => max_offset(shared, broker, header),
        RequestCode::SEARCH_OFFSET_BY_TIMESTAMP => search_offset(shared, broker, header),
        RequestCode::GET_EARLIEST_MSG_STORETIME => earliest_store_time(shared, broker, header),
        RequestCode::VIEW_MESSAGE_BY_ID => view_message(shared, broker, header),
        RequestCode::QUERY_MESSAGE => query_message(shared, broker, header),
        RequestCode::UPDATE_AND_CREATE_TOPIC => create_topic(shared, broker, header),
        _ => return None,
    };
    Some(answered.unwrap_or_else(|_| {
        let (code, remark) = shared.version.number_missing(None);
        Reply::refusal(code, remark, ReplyFields::None)
    }))
}

fn queue<'h>(header: &Header<'h>) -> Result<ReceivedQueueQuery<'h>, WireError> {
    ReceivedQueueQuery::decode(header)
}

/// A queue or a topic that does not exist is at 0.
fn max_offset(shared: &Shared, broker: usize, header: &Header<'_>) -> Result<Reply, WireError> {
    let query = queue(header)?;
    let queue_id = u32::try_from(query.queue_id).unwrap_or(u32::MAX);
    let next = shared.store.next_offset(&query.topic, broker, queue_id);
    let next = i64::try_from(next).unwrap_or(i64::MAX);
    Ok(Reply::success(ReplyFields::Offset(next)))
}

fn search_offset(shared: &Shared, broker: usize, header: &Header<'_>) -> Result<Reply, WireError> {
    let query = queue(header)?;
    let wanted = query
        .timestamp_ms
        .ok_or_else(|| WireError::new("search without a time"))?;
    let times = store_times(shared, broker, &query);
    let found = match shared.version {
        ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => nearest(&times, wanted),
        ServerVersion::V5_5_0 if query.is_upper => last_until(&times, wanted),
        ServerVersion::V5_5_0 => times.partition_point(|time| *time < wanted),
    };
    let found = i64::try_from(found).unwrap_or(i64::MAX);
    Ok(Reply::success(ReplyFields::Offset(found)))
}

/// The place of the last one at the time or earlier; 0 if there is none.
fn last_until(times: &[i64], wanted: i64) -> usize {
    times.partition_point(|time| *time <= wanted).saturating_sub(1)
}

/// As `ConsumeQueue.getOffsetInQueueByTime` of 4.x: whichever is nearer, the earlier one of two that are as near.
///
/// Of several stored at the very time it gives the first; 4.x gives the one that it meets first.
fn nearest(times: &[i64], wanted: i64) -> usize {
    let right = times.partition_point(|time| *time < wanted);
    let left = right.saturating_sub(1);
    match (times.get(left), times.get(right)) {
        (_, None) => left,
        (Some(before), Some(behind)) if behind.abs_diff(wanted) >= before.abs_diff(wanted) => left,
        _ => right,
    }
}

fn earliest_store_time(shared: &Shared, broker: usize, header: &Header<'_>) -> Result<Reply, WireError> {
    let times = store_times(shared, broker, &queue(header)?);
    let earliest = times.first().copied().unwrap_or(-1);
    Ok(Reply::success(ReplyFields::Timestamp(earliest)))
}

/// When the messages of a queue were stored, in the order of their offsets.
fn store_times(shared: &Shared, broker: usize, query: &ReceivedQueueQuery<'_>) -> Vec<i64> {
    let records = shared.store.records(&query.topic);
    let of_queue =
        |record: &&Record| record.broker == broker && i64::from(record.queue_id) == i64::from(query.queue_id);
    records
        .iter()
        .filter(of_queue)
        .map(|record| record.store_timestamp_ms)
        .collect()
}

fn view_message(shared: &Shared, broker: usize, header: &Header<'_>) -> Result<Reply, WireError> {
    let offset = received_offset(header)?;
    let is_it = |record: &Record| i64::try_from(record.physical_offset) == Ok(offset);
    let all = shared.store.of_broker(broker);
    if let Some((topic, record)) = all.iter().find(|(_, record)| is_it(record)) {
        let mut body = Vec::new();
        append(&mut body, topic, record)?;
        return Ok(Reply::with_body(body));
    }
    let remark = format!("can not find message by the offset, {offset}");
    Ok(Reply::refusal(
        ResponseCode::SYSTEM_ERROR,
        remark,
        ReplyFields::None,
    ))
}

fn query_message(shared: &Shared, broker: usize, header: &Header<'_>) -> Result<Reply, WireError> {
    let query = ReceivedQueryMessage::decode(header)?;
    let most = if query.is_unique_key {
        MOST_COPIES
    } else {
        query.most
    };
    let most = usize::try_from(most).unwrap_or(0).min(MOST_MESSAGES);
    let all = shared.store.of_broker(broker);
    let mut found = found_in_index(shared, &all, &query, most);
    found.reverse();
    let mut body = Vec::new();
    for (topic, record) in found {
        append(&mut body, topic, record)?;
    }
    let last = all.last().filter(|_| !body.is_empty());
    let place = |record: &Record| i64::try_from(record.physical_offset).unwrap_or(i64::MAX);
    let fields = ReplyFields::Index {
        until_ms: last.map_or(0, |(_, record)| record.store_timestamp_ms),
        offset: last.map_or(0, |(_, record)| place(record)),
    };
    if body.is_empty() {
        return Ok(Reply::refusal(
            ResponseCode::QUERY_NOT_FOUND,
            NOTHING_FOUND,
            fields,
        ));
    }
    Ok(Reply {
        body,
        ..Reply::success(fields)
    })
}

/// The newest messages that have the key, the newest first; one that has it twice comes twice. The index keeps whole
/// seconds since its first message (`IndexFile`).
fn found_in_index<'r>(
    shared: &Shared,
    all: &'r [(Arc<str>, Record)],
    query: &ReceivedQueryMessage<'_>,
    most: usize,
) -> Vec<(&'r str, &'r Record)> {
    let first = all.first().map_or(0, |(_, record)| record.store_timestamp_ms);
    let rules = shared.version.reading_rules();
    let mut found = Vec::new();
    for (topic, record) in all.iter().rev() {
        let seconds = (record.store_timestamp_ms - first) / 1_000;
        let time = first + seconds * 1_000;
        if **topic != *query.topic || !(query.begin_ms..=query.end_ms).contains(&time) {
            continue;
        }
        let find = |name| properties::find(record.properties(), name, rules);
        let keys = find(property::KEYS).unwrap_or_default();
        let words = keys
            .split(property::KEY_SEPARATOR)
            .chain(find(property::UNIQ_KEY));
        let times = words.filter(|word| *word == query.key).count();
        found.extend(std::iter::repeat_n((&**topic, record), times));
        found.truncate(most);
    }
    found
}

/// Appends a message as the commit log has it.
fn append(out: &mut Vec<u8>, topic: &str, record: &Record) -> Result<(), WireError> {
    let number = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let stored = StoredRecord {
        body_crc: 0,
        queue_id: i32::try_from(record.queue_id).unwrap_or(i32::MAX),
        flag: record.flag,
        queue_offset: number(record.queue_offset),
        physical_offset: number(record.physical_offset),
        sys_flag: record.sys_flag,
        born_timestamp_ms: record.born_timestamp_ms,
        born_host: record.born_host,
        store_timestamp_ms: record.store_timestamp_ms,
        store_host: record.broker_address(),
        reconsume_times: record.reconsume_times,
        prepared_transaction_offset: 0,
        body: record.body(),
        topic: topic.into(),
        properties: record.properties().into(),
    };
    stored.encode(out)
}

fn create_topic(shared: &Shared, broker: usize, header: &Header<'_>) -> Result<Reply, WireError> {
    let request = ReceivedCreateTopic::decode(header)?;
    if let Err((code, remark)) = shared.version.check_new_topic(&request.topic) {
        return Ok(Reply::refusal(code, remark, ReplyFields::None));
    }
    let settings = TopicSettings {
        read_queue_nums: request.read_queue_nums,
        write_queue_nums: request.write_queue_nums,
        perm: request.perm,
        topic_sys_flag: i32::try_from(request.topic_sys_flag).unwrap_or_default(),
    };
    shared.topics.put(broker, &request.topic, settings);
    shared.events.happened();
    let remark = match shared.version {
        ServerVersion::V4_7_0 => None,
        // The remark of `RemotingCommand.createResponseCommand`, which nobody has overwritten.
        ServerVersion::V4_9_7 | ServerVersion::V5_5_0 => Some("not set any response code".into()),
    };
    Ok(Reply {
        remark,
        ..Reply::success(ReplyFields::None)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_found_as_each_release_finds_it() {
        let times = [10, 10, 30, 30];
        let lower = |wanted| times.partition_point(|time| *time < wanted);
        for (wanted, nearest_is, lower_is, upper_is) in [
            (0, 0, 0, 0),
            (10, 0, 0, 1),
            (20, 1, 2, 1),
            (21, 2, 2, 1),
            (30, 2, 2, 3),
            (40, 3, 4, 3),
        ] {
            let found = (nearest(&times, wanted), lower(wanted), last_until(&times, wanted));
            assert_eq!(found, (nearest_is, lower_is, upper_is), "{wanted}");
        }
        assert_eq!((nearest(&[], 5), last_until(&[], 5)), (0, 0));
    }
}

//! The queries of real clients and what real brokers answered.

use std::borrow::Cow;
use std::collections::BTreeMap;

use super::frames::written;
use super::{Checked, reason, same};
use crate::code::RequestCode;
use crate::wire::frame::Serialization;
use crate::wire::header::Header;
use crate::wire::message::StoredRecord;
use crate::wire::request::create_topic::{CreateTopic, ReceivedCreateTopic};
use crate::wire::request::query_message::{INDEXED_UNTIL, QueryMessage, ReceivedQueryMessage, StoredRecords};
use crate::wire::request::queue_query::{
    OFFSET, QueueQuery, ReceivedQueueQuery, SearchTime, TIMESTAMP, read_number,
};
use crate::wire::request::view_message::{ViewMessage, received_offset};

/// What 5.x clients send and a broker does not look at, for a producer.
const NOT_SENT: [&str; 6] = [
    "attributes",
    "force",
    "committed",
    "ReqT",
    "AccessKey",
    "Signature",
];

/// What we send and clients of some release do not.
const SENT_BESIDE: [&str; 4] = ["boundaryType", "topic", "indexType", "bname"];

/// Checks a request or its reply, if it is one of a query. Gives back what it is called in the tally.
pub(super) fn check(code: RequestCode, header: &Header<'_>, body: &[u8]) -> Option<(&'static str, Checked)> {
    let is_reply = header.is_response();
    Some(match code {
        RequestCode::SEARCH_OFFSET_BY_TIMESTAMP
        | RequestCode::GET_MAX_OFFSET
        | RequestCode::GET_MIN_OFFSET
        | RequestCode::GET_EARLIEST_MSG_STORETIME
            if is_reply =>
        {
            ("reply to a query of a queue", check_number(code, header))
        }
        RequestCode::SEARCH_OFFSET_BY_TIMESTAMP
        | RequestCode::GET_MAX_OFFSET
        | RequestCode::GET_MIN_OFFSET
        | RequestCode::GET_EARLIEST_MSG_STORETIME => ("query of a queue", check_queue_query(header)),
        RequestCode::UPDATE_AND_CREATE_TOPIC if !is_reply => ("create topic", check_create(header)),
        RequestCode::VIEW_MESSAGE_BY_ID if !is_reply => ("view message", check_view(header)),
        RequestCode::QUERY_MESSAGE if !is_reply => ("query message", check_query(header)),
        RequestCode::VIEW_MESSAGE_BY_ID if header.code == 0 => ("viewed message", check_viewed(body)),
        RequestCode::QUERY_MESSAGE if header.code == 0 => ("queried messages", check_queried(header, body)),
        _ => return None,
    })
}

fn check_number(code: RequestCode, header: &Header<'_>) -> Checked {
    if header.code != 0 {
        return Ok(());
    }
    let field = if code == RequestCode::GET_EARLIEST_MSG_STORETIME {
        TIMESTAMP
    } else {
        OFFSET
    };
    read_number(field, header.field(field).as_deref())
        .map(|_| ())
        .map_err(reason)
}

fn fields(header: &Header<'_>, left_out: &[&str]) -> BTreeMap<String, String> {
    let pairs = header.fields.iter();
    let kept = pairs.filter(|(name, _)| !left_out.contains(&&**name));
    kept.map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

/// What we write in the place of a request must be the same, field by field.
fn check_ours(theirs: &Header<'_>, ours: &Header<'_>) -> Checked {
    let beside: Vec<&str> = SENT_BESIDE
        .into_iter()
        .filter(|name| theirs.field(name).is_none())
        .collect();
    same("our fields", &fields(ours, &beside), &fields(theirs, &NOT_SENT))
}

fn check_queue_query(header: &Header<'_>) -> Checked {
    let read = ReceivedQueueQuery::decode(header).map_err(reason)?;
    let request = QueueQuery {
        topic: &read.topic,
        queue_id: u32::try_from(read.queue_id).map_err(|error| error.to_string())?,
        broker_name: read.broker_name.as_deref(),
        search: read.timestamp_ms.map(|timestamp_ms| SearchTime {
            timestamp_ms,
            boundary: if read.is_upper { "UPPER" } else { "LOWER" },
        }),
    };
    in_both_forms(header, |writer| request.write(writer))
}

fn check_create(header: &Header<'_>) -> Checked {
    let read = ReceivedCreateTopic::decode(header).map_err(reason)?;
    let request = CreateTopic {
        topic: &read.topic,
        default_topic: &read.default_topic,
        read_queue_nums: read.read_queue_nums,
        write_queue_nums: read.write_queue_nums,
        perm: read.perm,
        topic_sys_flag: read.topic_sys_flag,
        order: read.order,
    };
    in_both_forms(header, |writer| request.write(writer))
}

fn check_view(header: &Header<'_>) -> Checked {
    let request = ViewMessage {
        topic: &header.field("topic").unwrap_or(Cow::Borrowed("t")),
        physical_offset: received_offset(header).map_err(reason)?,
    };
    in_both_forms(header, |writer| request.write(writer))
}

fn check_query(header: &Header<'_>) -> Checked {
    let read = ReceivedQueryMessage::decode(header).map_err(reason)?;
    let request = QueryMessage {
        topic: &read.topic,
        key: &read.key,
        most: u32::try_from(read.most).map_err(|error| error.to_string())?,
        begin_ms: read.begin_ms,
        end_ms: read.end_ms,
        is_unique_key: read.is_unique_key,
    };
    in_both_forms(header, |writer| request.write(writer))
}

fn in_both_forms(header: &Header<'_>, write: impl Fn(&mut crate::wire::header::FieldWriter<'_>)) -> Checked {
    for serialization in [Serialization::Json, Serialization::Binary] {
        written(header, serialization, &write, |ours| check_ours(header, ours))?;
    }
    Ok(())
}

fn check_viewed(body: &[u8]) -> Checked {
    let (_, used) = StoredRecord::decode(body).map_err(reason)?;
    same("length of the record", &used, &body.len())
}

fn check_queried(header: &Header<'_>, body: &[u8]) -> Checked {
    let records: Result<Vec<_>, _> = StoredRecords::new(body).collect();
    let records = records.map_err(reason)?;
    same("no record", &records.is_empty(), &false)?;
    let reached = read_number(INDEXED_UNTIL, header.field(INDEXED_UNTIL).as_deref()).map_err(reason)?;
    let newest = records.iter().map(|record| record.store_timestamp_ms).max();
    same("a record newer than its index", &(newest > Some(reached)), &false)
}

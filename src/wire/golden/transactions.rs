//! Requests that end transactions and that ask for their state, of real clients and brokers.

use std::collections::BTreeMap;

use super::frames::{BOTH_FORMS, written};
use super::{Checked, reason, same};
use crate::wire::header::Header;
use crate::wire::message::StoredRecord;
use crate::wire::request::check_transaction::CheckTransaction;
use crate::wire::request::end_transaction::{EndTransaction, ReceivedEndTransaction};
use crate::wire::stored_message::stored_message;

fn fields(header: &Header<'_>) -> BTreeMap<String, String> {
    header
        .fields
        .iter()
        .map(|(name, value)| (name.into_owned(), value.into_owned()))
        .collect()
}

pub(super) fn check_end(header: &Header<'_>) -> Checked {
    let received = ReceivedEndTransaction::decode(header).map_err(reason)?;
    let verdict = received.verdict.ok_or("a verdict that brokers do not take")?;
    let request = EndTransaction {
        producer_group: &received.producer_group,
        queue_offset: received.queue_offset,
        commit_log_offset: received.commit_log_offset,
        verdict,
        from_check: received.from_check,
        message_id: &received.message_id,
        transaction_id: received.transaction_id.as_deref(),
        topic: received.topic.as_deref().unwrap_or("orders"),
        broker_name: received.broker_name.as_deref().unwrap_or("broker-a"),
    };
    // 4.x clients know neither of the two.
    let mut expected = fields(header);
    for (name, value) in [("topic", request.topic), ("bname", request.broker_name)] {
        expected.entry(name.to_owned()).or_insert(value.to_owned());
    }
    for serialization in BOTH_FORMS {
        written(
            header,
            serialization,
            |writer| request.write(writer),
            |ours| same("our fields", &fields(ours), &expected),
        )?;
    }
    Ok(())
}

pub(super) fn check_check(header: &Header<'_>, body: &[u8]) -> Checked {
    let check = CheckTransaction::decode(header).map_err(reason)?;
    for serialization in BOTH_FORMS {
        written(
            header,
            serialization,
            |writer| check.write(writer),
            |ours| same("our fields", &fields(ours), &fields(header)),
        )?;
    }
    let (record, length) = StoredRecord::decode(body).map_err(reason)?;
    same("length of the record", &length, &body.len())?;
    let message = stored_message(&record, "broker-a".into()).map_err(reason)?;
    same(
        "the id in the record",
        &Some(message.message_id().as_str()),
        &check.message_id.as_deref(),
    )?;
    same(
        "the broker's id in the record",
        &Some(message.offset_message_id().as_str()),
        &check.offset_message_id.as_deref(),
    )?;
    same(
        "offsets of the record",
        &(message.queue_offset(), message.commit_log_offset()),
        &(check.queue_offset, check.commit_log_offset),
    )?;
    same(
        "the topic that it was sent to",
        &message.property("REAL_TOPIC"),
        &Some(message.topic()),
    )?;
    message
        .property("PGROUP")
        .map(|_| ())
        .ok_or("a half message without a group".to_owned())
}

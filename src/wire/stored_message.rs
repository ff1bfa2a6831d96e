//! From a stored record to the message that a user is shown.

use std::sync::Arc;

use super::{
    WireError,
    compression::decompress,
    id::offset_message_id,
    message::StoredRecord,
    properties::{self, ReadingRules},
};
use crate::message::{MessageQueue, StoredMessage, stored::StoredContent};

/// Makes the message of a record. Records do not say which broker they are of, so that is passed in.
///
/// A body that is compressed is decompressed, within the bound of `compression`. One that cannot be stays as it is, and the
/// message says so: one bad body must not hide the others of an answer.
///
/// # Errors
/// When a number that counts something is negative.
pub(crate) fn stored_message(
    record: &StoredRecord<'_>,
    broker_name: Arc<str>,
) -> Result<StoredMessage, WireError> {
    let (body, still_compressed) = match decompress(record.sys_flag, record.body) {
        Ok(body) => (body.into_owned(), None),
        Err(error) => (record.body.to_vec(), Some(error.to_string())),
    };
    let commit_log_offset = positive("physical offset", record.physical_offset)?;
    let queue_id =
        u32::try_from(record.queue_id).map_err(|_| negative("queue id", record.queue_id.into()))?;
    Ok(StoredMessage::new(StoredContent {
        queue: MessageQueue::new(&*record.topic, broker_name, queue_id),
        queue_offset: positive("queue offset", record.queue_offset)?,
        commit_log_offset,
        offset_message_id: offset_message_id(record.store_host, commit_log_offset),
        flag: record.flag,
        sys_flag: record.sys_flag,
        body,
        still_compressed,
        // As 5.x reads them, which keeps a value that holds a separator.
        properties: properties::parse(&record.properties, ReadingRules::V4_9),
        born_timestamp_ms: record.born_timestamp_ms,
        born_host: record.born_host,
        store_timestamp_ms: record.store_timestamp_ms,
        store_host: record.store_host,
        reconsume_times: record.reconsume_times,
    }))
}

fn positive(part: &str, number: i64) -> Result<u64, WireError> {
    u64::try_from(number).map_err(|_| negative(part, number))
}

fn negative(part: &str, number: i64) -> WireError {
    WireError::new(format!("a stored record has {part} {number}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        message::CompressionType,
        wire::compression::{compress, sys_flag},
    };

    fn record() -> StoredRecord<'static> {
        StoredRecord {
            body_crc: 0,
            queue_id: 3,
            flag: 7,
            queue_offset: 41,
            physical_offset: 0x126,
            sys_flag: 4,
            born_timestamp_ms: 1_700_000_000_000,
            born_host: "192.0.2.1:50000".parse().unwrap(),
            store_timestamp_ms: 1_700_000_000_001,
            store_host: "127.0.0.1:10911".parse().unwrap(),
            reconsume_times: 2,
            prepared_transaction_offset: 0,
            body: b"secret",
            topic: "orders".into(),
            properties: "TAGS\u{1}t\u{2}KEYS\u{1}a b\u{2}UNIQ_KEY\u{1}7F00000100\u{2}TAGS\u{1}paid\u{2}"
                .into(),
        }
    }

    #[test]
    fn every_part_of_a_record_can_be_asked_for() {
        let message = stored_message(&record(), "broker-a".into()).unwrap();
        assert_eq!(message.queue(), &MessageQueue::new("orders", "broker-a", 3));
        assert_eq!((message.topic(), message.body()), ("orders", &b"secret"[..]));
        assert_eq!(message.tags(), Some("paid"), "the last value of a name counts");
        assert_eq!(message.keys().collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(message.properties().count(), 3);
        assert_eq!(message.message_id().as_str(), "7F00000100");
        assert_eq!(
            message.offset_message_id().as_str(),
            "7F00000100002A9F0000000000000126"
        );
        assert_eq!((message.queue_offset(), message.commit_log_offset()), (41, 0x126));
        assert_eq!(
            (message.flag(), message.sys_flag(), message.reconsume_times()),
            (7, 4, 2)
        );
        assert_eq!(message.born_timestamp_ms() + 1, message.store_timestamp_ms());
        assert_eq!(message.born_host().port(), 50_000);
        assert_eq!(message.store_host().port(), 10_911);
        assert!(!format!("{message:?}").contains("secret"));
    }

    #[test]
    fn without_an_id_of_the_sender_there_is_the_brokers() {
        let anonymous = StoredRecord {
            properties: "".into(),
            ..record()
        };
        let message = stored_message(&anonymous, "broker-a".into()).unwrap();
        assert_eq!(
            message.message_id().as_str(),
            message.offset_message_id().as_str()
        );
        assert_eq!((message.tags(), message.keys().count()), (None, 0));
    }

    #[test]
    fn a_body_is_decompressed_or_said_not_to_be() {
        let plain = "Hello RocketMQ ".repeat(50);
        if let Some(body) = compress(CompressionType::Zlib, 5, plain.as_bytes()) {
            let compressed = StoredRecord {
                sys_flag: sys_flag(CompressionType::Zlib),
                body: &body,
                ..record()
            };
            let message = stored_message(&compressed, "b".into()).unwrap();
            assert_eq!(
                (message.body(), message.still_compressed()),
                (plain.as_bytes(), None)
            );
            assert_eq!(message.sys_flag() & 1, 1, "as it is stored");
        }
        let untrue = StoredRecord {
            sys_flag: sys_flag(CompressionType::Zlib),
            ..record()
        };
        let message = stored_message(&untrue, "b".into()).unwrap();
        assert_eq!(message.body(), b"secret");
        let reason = message.still_compressed().expect("it cannot be decompressed");
        // Without the feature that is the reason.
        assert!(reason.to_lowercase().contains("zlib"), "{reason}");
        assert_eq!(
            stored_message(&record(), "b".into()).unwrap().still_compressed(),
            None
        );
    }

    #[test]
    fn a_record_with_negative_counts_is_refused() {
        let refused = |record: StoredRecord<'_>, expected: &str| {
            let error = stored_message(&record, "b".into()).unwrap_err();
            assert_eq!(error.reason(), expected);
        };
        let queue_id = -1;
        refused(
            StoredRecord { queue_id, ..record() },
            "a stored record has queue id -1",
        );
        let queue_offset = -2;
        refused(
            StoredRecord {
                queue_offset,
                ..record()
            },
            "a stored record has queue offset -2",
        );
        let physical_offset = i64::MIN;
        refused(
            StoredRecord {
                physical_offset,
                ..record()
            },
            "a stored record has physical offset -9223372036854775808",
        );
    }
}

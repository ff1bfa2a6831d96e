//! `QUERY_MESSAGE` (12): the messages that a broker's index holds for a key (`QueryMessageRequestHeader`). The reply's
//! body is stored records, one behind the other.

use std::borrow::Cow;

use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};
use crate::wire::message::StoredRecord;

/// `MixAll.UNIQUE_MSG_QUERY_FLAG`. It stands beside the fields of the header's class, so 4.x leaves it out of the reply.
const UNIQUE_KEY_QUERY: &str = "_UNIQUE_KEY_QUERY";

/// The reply's field that says how far the index reaches.
pub(crate) const INDEXED_UNTIL: &str = "indexLastUpdateTimestamp";

/// The fields of the request; there is no body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryMessage<'a> {
    pub(crate) topic: &'a str,
    pub(crate) key: &'a str,
    /// Of which brokers give at most 64, by `maxMsgsNumBatch`.
    pub(crate) most: u32,
    pub(crate) begin_ms: i64,
    pub(crate) end_ms: i64,
    /// Whether the key is the client's message id. Brokers then give at most 32, by `defaultQueryMaxNum`.
    pub(crate) is_unique_key: bool,
}

impl QueryMessage<'_> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("topic", self.topic);
        writer.text("key", self.key);
        writer.number("maxNum", self.most.into());
        writer.number("beginTimestamp", self.begin_ms);
        writer.number("endTimestamp", self.end_ms);
        writer.boolean(UNIQUE_KEY_QUERY, self.is_unique_key);
        // 5.5.0 (`MessageConst.INDEX_UNIQUE_TYPE`, `INDEX_KEY_TYPE`).
        writer.text("indexType", if self.is_unique_key { "U" } else { "K" });
    }
}

/// The request as a broker reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedQueryMessage<'a> {
    pub(crate) topic: Cow<'a, str>,
    pub(crate) key: Cow<'a, str>,
    pub(crate) most: i32,
    pub(crate) begin_ms: i64,
    pub(crate) end_ms: i64,
    pub(crate) is_unique_key: bool,
}

impl<'a> ReceivedQueryMessage<'a> {
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        Ok(Self {
            topic: header.required("topic")?,
            key: header.required("key")?,
            most: header.required_number("maxNum")?,
            begin_ms: header.required_number("beginTimestamp")?,
            end_ms: header.required_number("endTimestamp")?,
            is_unique_key: header.field(UNIQUE_KEY_QUERY).as_deref() == Some("true"),
        })
    }
}

/// The records of a reply, in their order. Ends after the first error.
#[derive(Clone, Debug)]
pub(crate) struct StoredRecords<'a> {
    rest: &'a [u8],
}

impl<'a> StoredRecords<'a> {
    pub(crate) fn new(body: &'a [u8]) -> StoredRecords<'a> {
        StoredRecords { rest: body }
    }
}

impl<'a> Iterator for StoredRecords<'a> {
    type Item = Result<StoredRecord<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let read = StoredRecord::decode(self.rest);
        let used = read.as_ref().map_or(self.rest.len(), |(_, used)| *used);
        self.rest = self.rest.get(used..).unwrap_or_default();
        Some(read.map(|(record, _)| record))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Serialization;

    #[test]
    fn a_request_without_one_of_its_fields_is_an_error() {
        let all = [
            ("topic", "t"),
            ("key", "k"),
            ("maxNum", "1"),
            ("beginTimestamp", "0"),
            ("endTimestamp", "9"),
        ];
        let decode = |left_out: &str| {
            let fields: Vec<String> = all
                .iter()
                .filter(|(name, _)| *name != left_out)
                .map(|(name, value)| format!(r#""{name}":"{value}""#))
                .collect();
            let json = format!(r#"{{"code":12,"opaque":1,"extFields":{{{}}}}}"#, fields.join(","));
            let header = Header::decode(Serialization::Json, json.as_bytes()).unwrap();
            ReceivedQueryMessage::decode(&header).map(|read| (read.most, read.is_unique_key))
        };
        assert_eq!(decode(""), Ok((1, false)));
        for (name, _) in all {
            assert!(decode(name).is_err(), "{name}");
        }
    }

    #[test]
    fn records_are_read_until_one_is_broken() {
        let record = StoredRecord {
            body_crc: 0,
            queue_id: 1,
            flag: 0,
            queue_offset: 0,
            physical_offset: 0,
            sys_flag: 0,
            born_timestamp_ms: 1,
            born_host: "10.0.0.1:1".parse().unwrap(),
            store_timestamp_ms: 2,
            store_host: "10.0.0.2:2".parse().unwrap(),
            reconsume_times: 0,
            prepared_transaction_offset: 0,
            body: b"body",
            topic: "t".into(),
            properties: "".into(),
        };
        let mut body = Vec::new();
        for queue_offset in 0..3 {
            StoredRecord {
                queue_offset,
                ..record.clone()
            }
            .encode(&mut body)
            .unwrap();
        }
        let offsets = |body: &[u8]| {
            let read: Vec<_> = StoredRecords::new(body)
                .map(|read| read.map(|record| record.queue_offset).ok())
                .collect();
            read
        };
        assert_eq!(offsets(&body), [Some(0), Some(1), Some(2)]);
        assert_eq!(offsets(&body[..body.len() - 1]), [Some(0), Some(1), None]);
        assert_eq!(offsets(b""), []);
        assert_eq!(offsets(b"\0"), [None]);
    }
}

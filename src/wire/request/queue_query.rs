//! What is asked of one queue: `SEARCH_OFFSET_BY_TIMESTAMP` (29), `GET_MAX_OFFSET` (30), `GET_MIN_OFFSET` (31) and
//! `GET_EARLIEST_MSG_STORETIME` (32). The four differ in what the one number of the reply means.

use std::borrow::Cow;

use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header, parse_number};

/// The reply's field of the first three.
pub(crate) const OFFSET: &str = "offset";

/// The reply's field of `GET_EARLIEST_MSG_STORETIME`: -1 for a queue without messages.
pub(crate) const TIMESTAMP: &str = "timestamp";

/// The fields of the request (`SearchOffsetRequestHeader`, `GetMaxOffsetRequestHeader`, …); there is no body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueQuery<'a> {
    pub(crate) topic: &'a str,
    pub(crate) queue_id: u32,
    /// Sent by 5.x clients, for proxies; brokers do not look at it.
    pub(crate) broker_name: Option<&'a str>,
    /// Of `SEARCH_OFFSET_BY_TIMESTAMP` alone.
    pub(crate) search: Option<SearchTime<'a>>,
}

/// Which message is searched for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SearchTime<'a> {
    pub(crate) timestamp_ms: i64,
    /// `BoundaryType` of 5.1.1, `LOWER` or `UPPER`; older brokers do not know the field.
    pub(crate) boundary: &'a str,
}

impl QueueQuery<'_> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("topic", self.topic);
        writer.number("queueId", self.queue_id.into());
        if let Some(broker_name) = self.broker_name {
            writer.text("bname", broker_name);
        }
        if let Some(search) = &self.search {
            writer.number("timestamp", search.timestamp_ms);
            writer.text("boundaryType", search.boundary);
        }
    }
}

/// The request as a broker reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedQueueQuery<'a> {
    pub(crate) topic: Cow<'a, str>,
    pub(crate) queue_id: i32,
    pub(crate) broker_name: Option<Cow<'a, str>>,
    pub(crate) timestamp_ms: Option<i64>,
    /// `BoundaryType.getType`: whatever is not `upper`, in any case, is the lower one.
    pub(crate) is_upper: bool,
}

impl<'a> ReceivedQueueQuery<'a> {
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        let boundary = header.field("boundaryType");
        Ok(Self {
            topic: header.required("topic")?,
            queue_id: header.required_number("queueId")?,
            broker_name: header.field("bname"),
            timestamp_ms: header.number("timestamp")?,
            is_upper: boundary.is_some_and(|boundary| boundary.eq_ignore_ascii_case("upper")),
        })
    }
}

/// The number that the reply is about.
pub(crate) fn read_number(field: &str, value: Option<&str>) -> Result<i64, WireError> {
    match value {
        Some(value) => parse_number(field, value),
        None => Err(WireError::new(format!("the reply has no {field}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Serialization, split_frame};
    use crate::wire::header::{Envelope, Language, encode_frame};

    fn received(request: &QueueQuery<'_>, check: impl Fn(&Header<'_>)) {
        for serialization in [Serialization::Json, Serialization::Binary] {
            let envelope = Envelope {
                code: 29,
                opaque: 1,
                flag: 0,
                language: Language::OTHER,
                version: 513,
                remark: None,
                serialization,
            };
            let mut out = Vec::new();
            encode_frame(&mut out, &envelope, |writer| request.write(writer), b"").unwrap();
            let (frame, _) = split_frame(&out).unwrap().unwrap();
            check(&frame.header().unwrap());
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let plain = QueueQuery {
            topic: "orders",
            queue_id: 3,
            broker_name: Some("broker-a"),
            search: None,
        };
        received(&plain, |header| {
            let expected = ReceivedQueueQuery {
                topic: "orders".into(),
                queue_id: 3,
                broker_name: Some("broker-a".into()),
                timestamp_ms: None,
                is_upper: false,
            };
            assert_eq!(ReceivedQueueQuery::decode(header).unwrap(), expected);
        });
        let search = SearchTime {
            timestamp_ms: 1_795_418_919_478,
            boundary: "UPPER",
        };
        let with_time = QueueQuery {
            broker_name: None,
            search: Some(search),
            ..plain
        };
        received(&with_time, |header| {
            let read = ReceivedQueueQuery::decode(header).unwrap();
            assert_eq!(
                (read.broker_name, read.timestamp_ms, read.is_upper),
                (None, Some(1_795_418_919_478), true)
            );
        });
    }

    #[test]
    fn what_is_missing_or_no_number_is_an_error() {
        let decode = |fields: &str| {
            let json = format!(r#"{{"code":30,"opaque":1,"extFields":{{{fields}}}}}"#);
            let header = Header::decode(Serialization::Json, json.as_bytes()).unwrap();
            ReceivedQueueQuery::decode(&header).map(|read| read.queue_id)
        };
        assert_eq!(decode(r#""topic":"t","queueId":"-1""#), Ok(-1));
        for fields in [
            r#""topic":"t""#,
            r#""queueId":"0""#,
            r#""topic":"t","queueId":"x""#,
        ] {
            assert!(decode(fields).is_err(), "{fields}");
        }
        assert_eq!(read_number(OFFSET, Some("7")), Ok(7));
        assert_eq!(read_number(OFFSET, Some("-1")), Ok(-1));
        assert!(read_number(OFFSET, Some("7 ")).is_err());
        assert_eq!(
            read_number(TIMESTAMP, None).unwrap_err().reason(),
            "the reply has no timestamp"
        );
    }
}

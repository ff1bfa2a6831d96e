//! `SEND_MESSAGE` (10), `SEND_MESSAGE_V2` (310) and `SEND_BATCH_MESSAGE` (320), and the reply to all of them.
//!
//! The fields are those of `SendMessageRequestHeader` (long names) and `SendMessageRequestHeaderV2` (one letter each).
//! `SEND_REPLY_MESSAGE` (324) and its V2 (325) have the same headers. What the body holds is not looked at here.

use std::borrow::Cow;
use std::str::FromStr;
use std::sync::OnceLock;

use crate::code::{RequestCode, ResponseCode};
use crate::message::id::{MessageId, OffsetMessageId};
use crate::wire::WireError;
use crate::wire::header::{
    Envelope, FieldWriter, Header, encode_frame, missing, parse_boolean, parse_number,
};
use crate::wire::template::{Filler, Template};

/// The region that every broker names unless it is told another one (`MixAll.DEFAULT_TRACE_REGION_ID`).
pub(crate) const DEFAULT_REGION: &str = "DefaultRegion";

/// Properties of a message in two parts, so that a send can add its own without copying the message's.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct PropertyList<'a> {
    pub(crate) own: &'a [(Box<str>, Box<str>)],
    pub(crate) added: &'a [(&'a str, &'a str)],
}

impl<'a> PropertyList<'a> {
    /// The message's own properties, then the added ones. Readers let the last of equal names win.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&'a str, &'a str)> + use<'a> {
        let own = self.own.iter().map(|(name, value)| (&**name, &**value));
        own.chain(self.added.iter().copied())
    }

    /// Bytes of the property string, with its last 0x02.
    pub(crate) fn encoded_len(&self) -> usize {
        self.iter()
            .map(|(name, value)| name.len() + value.len() + 2)
            .sum()
    }
}

/// The header fields of a send.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SendMessage<'a> {
    pub(crate) producer_group: &'a str,
    pub(crate) topic: &'a str,
    /// The topic whose settings a new topic gets.
    pub(crate) default_topic: &'a str,
    pub(crate) default_topic_queue_nums: i32,
    pub(crate) queue_id: i32,
    pub(crate) sys_flag: i32,
    pub(crate) born_timestamp_ms: i64,
    pub(crate) flag: i32,
    pub(crate) properties: PropertyList<'a>,
    pub(crate) reconsume_times: i32,
    pub(crate) unit_mode: bool,
    /// Only for `%RETRY%` topics.
    pub(crate) max_reconsume_times: Option<i32>,
    /// Decides whether the body is a batch; the request code does not.
    pub(crate) batch: bool,
    /// For the 5.x proxy and static topics; ordinary brokers ignore it.
    pub(crate) broker_name: Option<&'a str>,
}

impl SendMessage<'_> {
    /// Writes the fields with their long names, for code 10.
    pub(crate) fn write_v1(&self, writer: &mut FieldWriter<'_>) {
        self.write(writer, &LONG_NAMES);
    }

    /// Writes the fields with their one-letter names, for codes 310 and 320.
    pub(crate) fn write_v2(&self, writer: &mut FieldWriter<'_>) {
        self.write(writer, &SHORT_NAMES);
    }

    fn write(&self, writer: &mut FieldWriter<'_>, names: &FieldNames) {
        let [
            producer_group,
            topic,
            default_topic,
            default_topic_queue_nums,
            queue_id,
            sys_flag,
            born_timestamp,
            flag,
            properties,
            reconsume_times,
            unit_mode,
            max_reconsume_times,
            batch,
            broker_name,
        ] = names;
        writer.text(producer_group, self.producer_group);
        writer.text(topic, self.topic);
        writer.text(default_topic, self.default_topic);
        writer.number(default_topic_queue_nums, self.default_topic_queue_nums.into());
        writer.number(sys_flag, self.sys_flag.into());
        writer.number(flag, self.flag.into());
        writer.number(reconsume_times, self.reconsume_times.into());
        writer.boolean(unit_mode, self.unit_mode);
        if let Some(times) = self.max_reconsume_times {
            writer.number(max_reconsume_times, times.into());
        }
        writer.boolean(batch, self.batch);
        if let Some(name) = self.broker_name {
            writer.text(broker_name, name);
        }
        // What differs from message to message comes last: `append_from` relies on this order.
        writer.stamp(born_timestamp, self.born_timestamp_ms);
        writer.varying_number(queue_id, self.queue_id.into());
        writer.varying_properties(properties, self.properties.iter());
    }
}

impl SendMessage<'_> {
    /// Appends one send with code 310, made from what all sends of the topic have in common. That is encoded into
    /// `common` when the first is sent. A message with flags of its own is encoded for itself.
    #[inline]
    pub(crate) fn append_from(
        &self,
        common: &OnceLock<Template>,
        out: &mut Vec<u8>,
        envelope: &Envelope<'_>,
        body: &[u8],
    ) -> Result<(), WireError> {
        if self.flag == 0 && self.sys_flag == 0 {
            if common.get().is_none() {
                let template = Template::new(envelope, |writer| self.write_v2(writer))?;
                // Another sender may have been quicker, with the same.
                common.set(template).ok();
            }
            let fill = |filler: &mut Filler<'_>| {
                filler.number(self.queue_id.into());
                filler.properties(self.properties.iter());
            };
            let stamps = (envelope.opaque, self.born_timestamp_ms);
            let appended = common
                .get()
                .and_then(|template| template.append(out, stamps, fill, body));
            if let Some(appended) = appended {
                return appended;
            }
        }
        encode_frame(out, envelope, |writer| self.write_v2(writer), body)
    }
}

/// What the fields are called in one of the two headers; both lists are in the order of the letters.
type FieldNames = [&'static str; 14];

const LONG_NAMES: FieldNames = [
    "producerGroup",
    "topic",
    "defaultTopic",
    "defaultTopicQueueNums",
    "queueId",
    "sysFlag",
    "bornTimestamp",
    "flag",
    "properties",
    "reconsumeTimes",
    "unitMode",
    "maxReconsumeTimes",
    "batch",
    // The field that every 5.x request header inherits (`RpcRequestHeader`).
    "bname",
];

const SHORT_NAMES: FieldNames = [
    "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m", "n",
];

/// The header fields of a send as a broker reads them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedSend<'a> {
    pub(crate) producer_group: Cow<'a, str>,
    pub(crate) topic: Cow<'a, str>,
    pub(crate) default_topic: Cow<'a, str>,
    pub(crate) default_topic_queue_nums: i32,
    pub(crate) queue_id: i32,
    pub(crate) sys_flag: i32,
    pub(crate) born_timestamp_ms: i64,
    pub(crate) flag: i32,
    /// The property string as it came; empty when there was none.
    pub(crate) properties: Cow<'a, str>,
    pub(crate) reconsume_times: i32,
    pub(crate) unit_mode: bool,
    pub(crate) max_reconsume_times: Option<i32>,
    pub(crate) batch: bool,
    pub(crate) broker_name: Option<Cow<'a, str>>,
}

impl<'a> ReceivedSend<'a> {
    /// Decodes the header of a request with one of the codes 10, 310, 320, 324 and 325.
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        let names = match RequestCode::new(header.code) {
            RequestCode::SEND_MESSAGE | RequestCode::SEND_REPLY_MESSAGE => &LONG_NAMES,
            RequestCode::SEND_MESSAGE_V2
            | RequestCode::SEND_BATCH_MESSAGE
            | RequestCode::SEND_REPLY_MESSAGE_V2 => &SHORT_NAMES,
            other => return Err(WireError::new(format!("request code {other} is no send"))),
        };
        let mut fields = names.map(|name| ReceivedField { name, value: None });
        // One pass over the header, where asking for each name would take fourteen.
        for (name, value) in header.fields.iter() {
            if let Some(field) = fields.iter_mut().find(|field| field.name == name) {
                field.value = Some(value);
            }
        }
        Self::from_fields(fields)
    }

    fn from_fields(fields: [ReceivedField<'a>; 14]) -> Result<Self, WireError> {
        let [
            producer_group,
            topic,
            default_topic,
            default_topic_queue_nums,
            queue_id,
            sys_flag,
            born_timestamp,
            flag,
            properties,
            reconsume_times,
            unit_mode,
            max_reconsume_times,
            batch,
            broker_name,
        ] = fields;
        Ok(Self {
            producer_group: producer_group.required()?,
            topic: topic.required()?,
            default_topic: default_topic.required()?,
            default_topic_queue_nums: default_topic_queue_nums.required_number()?,
            queue_id: queue_id.required_number()?,
            sys_flag: sys_flag.required_number()?,
            born_timestamp_ms: born_timestamp.required_number()?,
            flag: flag.required_number()?,
            properties: properties.value.unwrap_or_default(),
            reconsume_times: reconsume_times.number()?.unwrap_or(0),
            unit_mode: unit_mode.boolean(),
            max_reconsume_times: max_reconsume_times.number()?,
            batch: batch.boolean(),
            broker_name: broker_name.value,
        })
    }
}

/// A field by its name, with its value if it has come.
struct ReceivedField<'a> {
    name: &'static str,
    value: Option<Cow<'a, str>>,
}

impl<'a> ReceivedField<'a> {
    fn required(self) -> Result<Cow<'a, str>, WireError> {
        self.value.ok_or_else(|| missing(self.name))
    }

    fn number<T: FromStr>(&self) -> Result<Option<T>, WireError> {
        self.value
            .as_deref()
            .map(|text| parse_number(self.name, text))
            .transpose()
    }

    fn required_number<T: FromStr>(&self) -> Result<T, WireError> {
        self.number()?.ok_or_else(|| missing(self.name))
    }

    fn boolean(&self) -> bool {
        self.value.as_deref().is_some_and(parse_boolean)
    }
}

/// What a broker says about a stored message (`SendMessageResponseHeader`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SendReply {
    /// Where the message was stored; of a batch, its first message.
    pub(crate) offset_message_id: OffsetMessageId,
    pub(crate) queue_id: u32,
    /// Of a batch, the offset of its first message; the others follow.
    pub(crate) queue_offset: u64,
    /// The unique key again; only 5.x brokers send it.
    pub(crate) transaction_id: Option<MessageId>,
    /// `None` for `DefaultRegion`, so that the usual reply needs no allocation.
    pub(crate) region_id: Option<Box<str>>,
    pub(crate) trace_on: bool,
    /// Boxed: it must not cost the others room.
    pub(crate) rare: Option<Box<RareParts>>,
}

/// What the reply to a single message that is delivered at once does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct RareParts {
    /// Of a batch, the ids of all its messages, comma-separated. `None` for one id.
    pub(crate) all_ids: Option<Box<str>>,
    /// Only of a timer message at a broker of 5.3.2 or later.
    pub(crate) recall_handle: Option<Box<str>>,
}

impl SendReply {
    /// Decodes the header of a success: code 0, or 10, 11 or 12, with which the message is stored as well.
    ///
    /// # Errors
    /// On any other code, and when one of the ids and offsets is missing or no number: they are never made up.
    pub(crate) fn decode(header: &Header<'_>) -> Result<Self, WireError> {
        let code = ResponseCode::new(header.code);
        if !matches!(
            code,
            ResponseCode::SUCCESS
                | ResponseCode::FLUSH_DISK_TIMEOUT
                | ResponseCode::SLAVE_NOT_AVAILABLE
                | ResponseCode::FLUSH_SLAVE_TIMEOUT
        ) {
            return Err(WireError::new(format!(
                "response code {code} does not say that a message was stored"
            )));
        }
        let mut offset_message_id = None;
        let mut queue_id = None;
        let mut queue_offset = None;
        let mut transaction_id = None;
        let mut region_id = None;
        let mut trace_on = true;
        let mut rare = None::<Box<RareParts>>;
        // One pass over the fields, where asking for each by name would take six.
        header.fields.for_each(|name, value| match name {
            "msgId" => {
                offset_message_id = first_id(value);
                let all_ids = all_of(value);
                if all_ids.is_some() || rare.is_some() {
                    rare.get_or_insert_default().all_ids = all_ids;
                }
            }
            "queueId" => queue_id = read_digits(value).and_then(|number| number.try_into().ok()),
            "queueOffset" => queue_offset = read_digits(value),
            "transactionId" => transaction_id = MessageId::from_bytes(value),
            "MSG_REGION" if value == DEFAULT_REGION.as_bytes() || value.is_empty() => region_id = None,
            "MSG_REGION" => region_id = text(value),
            // As `MQClientAPIImpl.processSendResponse`: only a written `false` turns it off.
            "TRACE_ON" => trace_on = value != b"false",
            "recallHandle" => rare.get_or_insert_default().recall_handle = text(value),
            _ => {}
        });
        match (offset_message_id, queue_id, queue_offset) {
            (Some(offset_message_id), Some(queue_id), Some(queue_offset)) => Ok(Self {
                offset_message_id,
                queue_id,
                queue_offset,
                transaction_id,
                region_id,
                trace_on,
                rare,
            }),
            _ => Err(unusable_reply(header)),
        }
    }

    /// Writes the fields as a broker does.
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        let ids = self.all_ids().unwrap_or(self.offset_message_id.as_str());
        writer.text("msgId", ids);
        writer.number("queueId", self.queue_id.into());
        writer.text("queueOffset", &self.queue_offset.to_string());
        if let Some(transaction_id) = &self.transaction_id {
            writer.text("transactionId", transaction_id.as_str());
        }
        writer.text("MSG_REGION", self.region_id.as_deref().unwrap_or(DEFAULT_REGION));
        writer.boolean("TRACE_ON", self.trace_on);
        if let Some(handle) = self.recall_handle() {
            writer.text("recallHandle", handle);
        }
    }

    pub(crate) fn all_ids(&self) -> Option<&str> {
        self.rare.as_ref()?.all_ids.as_deref()
    }

    pub(crate) fn recall_handle(&self) -> Option<&str> {
        self.rare.as_ref()?.recall_handle.as_deref()
    }
}

fn text(value: &[u8]) -> Option<Box<str>> {
    std::str::from_utf8(value).ok().map(Into::into)
}

/// The id, or the first of the comma-separated ids that answer a batch.
fn first_id(text: &[u8]) -> Option<OffsetMessageId> {
    let first = text.split(|byte| *byte == b',').next()?;
    OffsetMessageId::from_bytes(first)
}

/// The comma-separated ids that answer a batch. `None` for one id.
fn all_of(text: &[u8]) -> Option<Box<str>> {
    let text = std::str::from_utf8(text).ok()?;
    text.contains(',').then(|| text.into())
}

/// A number of nothing but digits.
fn read_digits(text: &[u8]) -> Option<u64> {
    let digit = |byte: &u8| byte.checked_sub(b'0').filter(|digit| *digit < 10);
    let append = |number: u64, byte| number.checked_mul(10)?.checked_add(digit(byte)?.into());
    text.first()?;
    text.iter().try_fold(0, append)
}

#[cold]
fn unusable_reply(header: &Header<'_>) -> WireError {
    let shown = |name| header.field(name).unwrap_or(Cow::Borrowed("missing"));
    WireError::new(format!(
        "reply to a send without a usable place of the message: msgId {:.80}, queueId {:.40}, queueOffset {:.40}",
        shown("msgId"),
        shown("queueId"),
        shown("queueOffset"),
    ))
}

#[cfg(test)]
mod tests {
    use super::{PropertyList, ReceivedSend, SendMessage, SendReply};
    use crate::wire::command::Command;
    use crate::wire::frame::{Serialization, split_frame};
    use crate::wire::header::{Envelope, FieldWriter, Header, Language, encode_frame};

    fn envelope(code: i32) -> Envelope<'static> {
        Envelope {
            code,
            opaque: 7,
            flag: 0,
            language: Language::OTHER,
            version: 513,
            remark: None,
            serialization: Serialization::Json,
        }
    }

    fn frame(code: i32, serialization: Serialization, write: impl FnOnce(&mut FieldWriter<'_>)) -> Vec<u8> {
        let mut out = Vec::new();
        encode_frame(
            &mut out,
            &Envelope {
                serialization,
                ..envelope(code)
            },
            write,
            b"body",
        )
        .unwrap();
        out
    }

    fn command(frame: &[u8]) -> Command {
        Command::decode(split_frame(frame).unwrap().unwrap().0).unwrap()
    }

    fn own() -> Vec<(Box<str>, Box<str>)> {
        vec![("TAGS".into(), "TagA".into()), ("k\u{e9}".into(), "v\"".into())]
    }

    fn message(own: &[(Box<str>, Box<str>)]) -> SendMessage<'_> {
        SendMessage {
            producer_group: "PG",
            topic: "TopicTest",
            default_topic: "TBW102",
            default_topic_queue_nums: 4,
            queue_id: 3,
            sys_flag: 1,
            born_timestamp_ms: 1_795_423_244_454,
            flag: -2,
            properties: PropertyList {
                own,
                added: &[("UNIQ_KEY", "FD00"), ("WAIT", "true")],
            },
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
            broker_name: None,
        }
    }

    const PROPERTIES: &str = "TAGS\u{1}TagA\u{2}k\u{e9}\u{1}v\"\u{2}UNIQ_KEY\u{1}FD00\u{2}WAIT\u{1}true\u{2}";

    #[test]
    fn what_sends_of_a_topic_have_in_common_changes_no_byte() {
        let own = own();
        for serialization in [Serialization::Json, Serialization::Binary] {
            let common = std::sync::OnceLock::new();
            for (opaque, born_timestamp_ms) in [(7, 1_795_423_244_454), (8, 0), (70, 1_795_423_244_455)] {
                for (queue_id, sys_flag, flag) in [(0, 0, 0), (3, 1, 0), (4, 0, -2), (11, 4, i32::MAX)] {
                    let sent = SendMessage {
                        queue_id,
                        sys_flag,
                        born_timestamp_ms,
                        flag,
                        ..message(&own)
                    };
                    let envelope = Envelope {
                        opaque,
                        serialization,
                        ..envelope(310)
                    };
                    let (mut found, mut expected) = (Vec::new(), Vec::new());
                    sent.append_from(&common, &mut found, &envelope, b"body").unwrap();
                    encode_frame(&mut expected, &envelope, |writer| sent.write_v2(writer), b"body").unwrap();
                    assert_eq!(found, expected);
                }
            }
        }
    }

    #[test]
    fn fields_have_the_names_of_their_version() {
        let own = own();
        let sent = message(&own);
        let long = command(&frame(10, Serialization::Json, |writer| sent.write_v1(writer))).fields;
        let expected = [
            ("producerGroup", "PG"),
            ("topic", "TopicTest"),
            ("defaultTopic", "TBW102"),
            ("defaultTopicQueueNums", "4"),
            ("sysFlag", "1"),
            ("flag", "-2"),
            ("reconsumeTimes", "0"),
            ("unitMode", "false"),
            ("batch", "false"),
            ("bornTimestamp", "1795423244454"),
            ("queueId", "3"),
            ("properties", PROPERTIES),
        ];
        let owned = |pair: (&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        assert_eq!(long, expected.map(owned));
        let short = command(&frame(310, Serialization::Binary, |writer| sent.write_v2(writer))).fields;
        let letters = ["a", "b", "c", "d", "f", "h", "j", "k", "m", "g", "e", "i"];
        let values = expected.map(|(_, value)| value);
        let expected: Vec<_> = letters.into_iter().zip(values).map(owned).collect();
        assert_eq!(short, expected);
    }

    #[test]
    fn what_is_sent_is_received_in_both_versions_and_forms() {
        let own = own();
        let plain = message(&own);
        let full = SendMessage {
            queue_id: -1,
            unit_mode: true,
            batch: true,
            reconsume_times: 2,
            max_reconsume_times: Some(16),
            broker_name: Some("broker-a"),
            ..plain
        };
        for sent in [plain, full] {
            for (code, serialization) in [
                (10, Serialization::Json),
                (324, Serialization::Binary),
                (310, Serialization::Json),
                (320, Serialization::Binary),
                (325, Serialization::Json),
            ] {
                let bytes = frame(code, serialization, |writer| {
                    if matches!(code, 10 | 324) {
                        sent.write_v1(writer);
                    } else {
                        sent.write_v2(writer);
                    }
                });
                let (found, _) = split_frame(&bytes).unwrap().unwrap();
                let received = ReceivedSend::decode(&found.header().unwrap()).unwrap();
                assert_eq!(
                    (
                        &*received.producer_group,
                        &*received.topic,
                        &*received.default_topic
                    ),
                    ("PG", "TopicTest", "TBW102")
                );
                assert_eq!(
                    (received.default_topic_queue_nums, received.queue_id),
                    (4, sent.queue_id)
                );
                assert_eq!(
                    (received.sys_flag, received.born_timestamp_ms, received.flag),
                    (1, 1_795_423_244_454, -2)
                );
                assert_eq!(received.properties, PROPERTIES);
                assert_eq!(
                    (received.reconsume_times, received.max_reconsume_times),
                    (sent.reconsume_times, sent.max_reconsume_times)
                );
                assert_eq!((received.unit_mode, received.batch), (sent.unit_mode, sent.batch));
                assert_eq!(received.broker_name.as_deref(), sent.broker_name);
            }
        }
    }

    #[test]
    fn the_length_of_properties_is_that_of_their_text() {
        assert_eq!(message(&own()).properties.encoded_len(), PROPERTIES.len());
        assert_eq!(PropertyList::default().encoded_len(), 0);
        assert_eq!(PropertyList::default().iter().count(), 0);
    }

    #[test]
    fn a_send_without_what_it_must_have_is_refused() {
        let sound = r#""a":"g","b":"t","c":"T","d":"4","e":"0","f":"0","g":"1","h":"0""#;
        let decode = |fields: &str, code: i32| {
            let json = format!(r#"{{"code":{code},"opaque":1,"extFields":{{{fields}}}}}"#);
            let header = Header::decode(Serialization::Json, json.as_bytes()).unwrap();
            ReceivedSend::decode(&header)
                .map(|send| send.topic.into_owned())
                .map_err(|error| error.to_string())
        };
        assert_eq!(decode(sound, 310), Ok("t".to_owned()));
        assert_eq!(
            decode(&sound.replace(r#""b":"t","#, ""), 310),
            Err("header field b is missing".to_owned())
        );
        assert_eq!(
            decode(&sound.replace(r#","h":"0""#, ""), 310),
            Err("header field h is missing".to_owned())
        );
        let error = decode(&sound.replace(r#""e":"0""#, r#""e":"abc""#), 310).unwrap_err();
        assert_eq!(error, "header field e is not a number that fits: abc");
        assert!(decode(&format!(r#"{sound},"j":"x""#), 310).is_err());
        assert_eq!(
            decode(sound, 10),
            Err("header field producerGroup is missing".to_owned())
        );
        assert_eq!(
            decode(sound, 34),
            Err("request code 34 HEART_BEAT is no send".to_owned())
        );
    }

    fn reply(json: &str) -> Result<SendReply, String> {
        let header = Header::decode(Serialization::Json, json.as_bytes()).unwrap();
        SendReply::decode(&header).map_err(|error| error.to_string())
    }

    const FIELDS: &str = r#""queueId":"3","transactionId":"FD00","msgId":"7F0000010000465A00000000000079DE","TRACE_ON":"true","MSG_REGION":"DefaultRegion","queueOffset":"9""#;

    fn reply_with(code: i32, fields: &str) -> Result<SendReply, String> {
        reply(&format!(
            r#"{{"code":{code},"extFields":{{{fields}}},"flag":1,"opaque":7}}"#
        ))
    }

    #[test]
    fn replies_to_stored_messages_are_read() {
        for code in [0, 10, 11, 12] {
            let reply = reply_with(code, FIELDS).unwrap();
            assert_eq!(
                reply.offset_message_id.as_str(),
                "7F0000010000465A00000000000079DE"
            );
            assert_eq!((reply.queue_id, reply.queue_offset), (3, 9));
            assert_eq!(
                reply.transaction_id.map(|id| id.to_string()).as_deref(),
                Some("FD00")
            );
            assert_eq!((reply.region_id.clone(), reply.trace_on), (None, true));
            for serialization in [Serialization::Json, Serialization::Binary] {
                let bytes = frame(code, serialization, |writer| reply.write(writer));
                let (found, _) = split_frame(&bytes).unwrap().unwrap();
                assert_eq!(SendReply::decode(&found.header().unwrap()).unwrap(), reply);
            }
        }
    }

    #[test]
    fn optional_parts_of_a_reply_have_their_defaults() {
        let reply = reply_with(
            0,
            r#""queueId":0,"msgId":"7F0000010000465A00000000000079DE","queueOffset":18446744073709551615"#,
        )
        .unwrap();
        assert_eq!((reply.queue_id, reply.queue_offset), (0, u64::MAX));
        assert_eq!(
            (reply.transaction_id, reply.region_id, reply.trace_on),
            (None, None, true)
        );
        let odd = reply_with(
            0,
            &FIELDS
                .replace("\"true\"", "\"false\"")
                .replace("DefaultRegion", "hangzhou")
                .replace("FD00", ""),
        );
        let odd = odd.unwrap();
        assert_eq!(
            (odd.region_id.as_deref(), odd.trace_on, odd.transaction_id),
            (Some("hangzhou"), false, None)
        );
    }

    #[test]
    fn a_reply_to_a_batch_gives_all_its_ids() {
        let ids = "7F0000010000465A0000000000000001,7F0000010000465A0000000000000002";
        let reply = reply_with(0, &format!(r#""msgId":"{ids}","queueId":"1","queueOffset":"5""#)).unwrap();
        assert_eq!(
            reply.offset_message_id.as_str(),
            "7F0000010000465A0000000000000001"
        );
        assert_eq!(reply.all_ids(), Some(ids));
    }

    #[test]
    fn nothing_is_made_up() {
        let unusable = |fields: &str, expected: &str| {
            let error = reply_with(0, fields).unwrap_err();
            assert!(
                error.starts_with("reply to a send without a usable place of the message"),
                "{error}"
            );
            assert!(error.contains(expected), "{error}");
        };
        unusable("", "msgId missing, queueId missing, queueOffset missing");
        unusable(&FIELDS.replace("\"queueId\":\"3\",", ""), "queueId missing");
        unusable(&FIELDS.replace("\"3\"", "\"-1\""), "queueId -1");
        unusable(&FIELDS.replace("\"3\"", "\"\""), "queueId ,");
        unusable(&FIELDS.replace("\"9\"", "\"nine\""), "queueOffset nine");
        unusable(&FIELDS.replace("\"9\"", "\"-1\""), "queueOffset -1");
        unusable(&FIELDS.replace("7F0000010000465A00000000000079DE", ""), "msgId ,");
        unusable(
            &FIELDS.replace("7F0000010000465A00000000000079DE", &"A".repeat(63)),
            "msgId AAA",
        );
        unusable(
            &FIELDS.replace(
                "\"queueOffset\":\"9\"",
                "\"queueOffset\":\"9\",\"queueOffset\":\"x\"",
            ),
            "queueOffset x",
        );
    }

    #[test]
    fn other_codes_are_no_success() {
        for code in [1, 2, 13, 14, 16, 17, 9999, -1] {
            assert!(
                reply_with(code, FIELDS)
                    .unwrap_err()
                    .contains("does not say that a message was stored")
            );
        }
        assert!(
            reply(r#"{"code":2,"flag":1,"opaque":7,"remark":"busy"}"#)
                .unwrap_err()
                .starts_with("response code 2 SYSTEM_BUSY")
        );
    }
}

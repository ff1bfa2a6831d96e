//! `SEND_MESSAGE` (10), `SEND_MESSAGE_V2` (310) and `SEND_BATCH_MESSAGE` (320), and the reply to all of them.
//!
//! The fields are those of `SendMessageRequestHeader` (long names) and `SendMessageRequestHeaderV2` (one letter each).
//! `SEND_REPLY_MESSAGE` (324) and its V2 (325) have the same headers. What the body holds is not looked at here.

use std::borrow::Cow;
use std::str::FromStr;

use crate::code::{RequestCode, ResponseCode};
use crate::message::id::{MessageId, OffsetMessageId};
use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header, parse_boolean, parse_number};

/// The region that every broker names unless it is told another one (`MixAll.DEFAULT_TRACE_REGION_ID`).
const DEFAULT_REGION: &str = "DefaultRegion";

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
        writer.number(queue_id, self.queue_id.into());
        writer.number(sys_flag, self.sys_flag.into());
        writer.number(born_timestamp, self.born_timestamp_ms);
        writer.number(flag, self.flag.into());
        writer.properties(properties, self.properties.iter());
        writer.number(reconsume_times, self.reconsume_times.into());
        writer.boolean(unit_mode, self.unit_mode);
        if let Some(times) = self.max_reconsume_times {
            writer.number(max_reconsume_times, times.into());
        }
        writer.boolean(batch, self.batch);
        if let Some(name) = self.broker_name {
            writer.text(broker_name, name);
        }
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
    fn missing(&self) -> WireError {
        WireError::new(format!("header field {} is missing", self.name))
    }

    fn required(self) -> Result<Cow<'a, str>, WireError> {
        match self.value {
            Some(value) => Ok(value),
            None => Err(self.missing()),
        }
    }

    fn number<T: FromStr>(&self) -> Result<Option<T>, WireError> {
        self.value
            .as_deref()
            .map(|text| parse_number(self.name, text))
            .transpose()
    }

    fn required_number<T: FromStr>(&self) -> Result<T, WireError> {
        self.number()?.ok_or_else(|| self.missing())
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
        // One pass over the fields, where asking for each by name would take six.
        header.fields.for_each(|name, value| match name {
            "msgId" => offset_message_id = first_id(value),
            "queueId" => queue_id = value.parse().ok(),
            "queueOffset" => queue_offset = value.parse().ok(),
            "transactionId" => transaction_id = MessageId::from_text(value),
            "MSG_REGION" if value == DEFAULT_REGION || value.is_empty() => region_id = None,
            "MSG_REGION" => region_id = Some(value.into()),
            // As `MQClientAPIImpl.processSendResponse`: only a written `false` turns it off.
            "TRACE_ON" => trace_on = value != "false",
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
            }),
            _ => Err(unusable_reply(header)),
        }
    }

    /// Writes the fields as a broker does.
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("msgId", self.offset_message_id.as_str());
        writer.number("queueId", self.queue_id.into());
        writer.text("queueOffset", &self.queue_offset.to_string());
        if let Some(transaction_id) = &self.transaction_id {
            writer.text("transactionId", transaction_id.as_str());
        }
        writer.text("MSG_REGION", self.region_id.as_deref().unwrap_or(DEFAULT_REGION));
        writer.boolean("TRACE_ON", self.trace_on);
    }
}

/// The id, or the first of the comma-separated ids that answer a batch.
fn first_id(text: &str) -> Option<OffsetMessageId> {
    OffsetMessageId::from_text(text.split_once(',').map_or(text, |(first, _)| first))
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

//! `CHECK_TRANSACTION_STATE` (39): a broker asks what became of a half message
//! (`CheckTransactionStateRequestHeader`). The body is the half message as a stored record, with the topic and the queue id
//! that it was sent to.
//!
//! Before it asks, a broker writes the half message anew, so the offsets are others each time; the answer names those of
//! the question. 5.5.0 adds the broker's name, and as the topic that of its own half messages.

use std::borrow::Cow;

use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};

/// The fields of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CheckTransaction<'a> {
    pub(crate) queue_offset: u64,
    pub(crate) commit_log_offset: u64,
    /// The client's id of the message, if it has one.
    pub(crate) message_id: Option<Cow<'a, str>>,
    /// The same.
    pub(crate) transaction_id: Option<Cow<'a, str>>,
    /// The broker's id of the half message that was written anew.
    pub(crate) offset_message_id: Option<Cow<'a, str>>,
    /// Only 5.x says it.
    pub(crate) broker_name: Option<Cow<'a, str>>,
    /// Not the topic that the message was sent to. Only 5.x says it.
    pub(crate) half_topic: Option<Cow<'a, str>>,
}

impl<'a> CheckTransaction<'a> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        self.fields().for_each(|(name, value)| writer.text(name, &value));
    }

    /// The fields that are there, by name.
    pub(crate) fn fields(&self) -> impl Iterator<Item = (&'static str, Cow<'_, str>)> {
        let offsets = [
            ("tranStateTableOffset", self.queue_offset),
            ("commitLogOffset", self.commit_log_offset),
        ];
        let texts = [
            ("msgId", &self.message_id),
            ("transactionId", &self.transaction_id),
            ("offsetMsgId", &self.offset_message_id),
            ("bname", &self.broker_name),
            ("topic", &self.half_topic),
        ];
        let offsets = offsets.map(|(name, offset)| (name, Cow::Owned(offset.to_string())));
        let texts = texts
            .into_iter()
            .filter_map(|(name, text)| Some((name, Cow::Borrowed(text.as_deref()?))));
        offsets.into_iter().chain(texts)
    }

    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        Ok(Self {
            queue_offset: header.required_number("tranStateTableOffset")?,
            commit_log_offset: header.required_number("commitLogOffset")?,
            message_id: header.field("msgId"),
            transaction_id: header.field("transactionId"),
            offset_message_id: header.field("offsetMsgId"),
            broker_name: header.field("bname"),
            half_topic: header.field("topic"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Serialization;

    fn decode(fields: &str) -> Result<CheckTransaction<'static>, String> {
        let json = format!(r#"{{"code":39,"opaque":1,"extFields":{{{fields}}}}}"#).leak();
        let header = Header::decode(Serialization::Json, json.as_bytes()).unwrap();
        CheckTransaction::decode(&header).map_err(|error| error.to_string())
    }

    #[test]
    fn only_the_offsets_must_be_there() {
        let check = decode(r#""tranStateTableOffset":"13","commitLogOffset":"29971""#).unwrap();
        assert_eq!((check.queue_offset, check.commit_log_offset), (13, 29_971));
        assert_eq!((check.message_id, check.broker_name), (None, None));
        assert!(
            decode(r#""tranStateTableOffset":"13""#)
                .unwrap_err()
                .contains("commitLogOffset is missing")
        );
        assert!(
            decode(r#""tranStateTableOffset":"x","commitLogOffset":"1""#)
                .unwrap_err()
                .contains("tranStateTableOffset")
        );
    }
}

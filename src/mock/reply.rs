//! The answer to one request, from its parts to a frame. What is answered is decided in `broker` and `name_server`.

use std::borrow::Cow;

use crate::code::ResponseCode;
use crate::wire::WireError;
use crate::wire::frame::Serialization;
use crate::wire::header::{Envelope, FLAG_RESPONSE, FieldWriter, Header, Language, encode_frame};

use super::dialect::ServerVersion;
use super::shared::REGION_ID;

/// An answer, before it is known to whom.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) code: ResponseCode,
    pub(super) remark: Option<Cow<'static, str>>,
    pub(super) fields: ReplyFields,
    pub(super) body: Vec<u8>,
}

/// The header fields of an answer.
#[derive(Debug)]
pub(super) enum ReplyFields {
    None,
    /// Region and trace switch, which a broker sets before it looks at a send.
    Region,
    /// What 5.5.0 says to a heartbeat.
    Heartbeat,
    Stored(StoredFields),
    /// Of a query of a queue.
    Offset(i64),
    /// Of the query of a queue's oldest message; -1: there is none.
    Timestamp(i64),
    /// How far the index reaches, of a query by key.
    Index {
        until_ms: i64,
        offset: i64,
    },
}

/// What the answer to a stored send says (`SendMessageResponseHeader`).
#[derive(Debug)]
pub(super) struct StoredFields {
    /// Offset message ids, comma-separated for a batch.
    pub(super) message_ids: String,
    pub(super) queue_id: u32,
    pub(super) queue_offset: u64,
    pub(super) transaction_id: Option<String>,
}

impl Reply {
    pub(super) fn success(fields: ReplyFields) -> Reply {
        Reply {
            code: ResponseCode::SUCCESS,
            remark: None,
            fields,
            body: Vec::new(),
        }
    }

    pub(super) fn with_body(body: Vec<u8>) -> Reply {
        Reply {
            body,
            ..Reply::success(ReplyFields::None)
        }
    }

    pub(super) fn refusal(
        code: ResponseCode,
        remark: impl Into<Cow<'static, str>>,
        fields: ReplyFields,
    ) -> Reply {
        Reply {
            code,
            remark: Some(remark.into()),
            fields,
            body: Vec::new(),
        }
    }

    /// Appends the answer to `request` as a frame.
    pub(super) fn encode(
        &self,
        version: ServerVersion,
        request: &Header<'_>,
        request_serialization: Serialization,
        out: &mut Vec<u8>,
    ) -> Result<(), WireError> {
        let envelope = Envelope {
            code: self.code.value(),
            opaque: request.opaque,
            flag: FLAG_RESPONSE,
            language: Language::JAVA,
            version: version.ordinal(),
            remark: self.remark.as_deref(),
            serialization: version.reply_serialization(request_serialization),
        };
        encode_frame(out, &envelope, |writer| self.fields.write(writer), &self.body)
    }
}

impl ReplyFields {
    fn write(&self, writer: &mut FieldWriter<'_>) {
        match self {
            ReplyFields::None => {}
            ReplyFields::Region => write_region(writer),
            ReplyFields::Offset(offset) => writer.number("offset", *offset),
            ReplyFields::Timestamp(timestamp_ms) => writer.number("timestamp", *timestamp_ms),
            ReplyFields::Index { until_ms, offset } => {
                writer.number("indexLastUpdateTimestamp", *until_ms);
                writer.number("indexLastUpdatePhyoffset", *offset);
            }
            ReplyFields::Heartbeat => {
                writer.boolean("IS_SUPPORT_HEART_BEAT_V2", true);
                writer.boolean("IS_SUB_CHANGE", true);
            }
            ReplyFields::Stored(stored) => {
                writer.number("queueId", stored.queue_id.into());
                if let Some(transaction_id) = &stored.transaction_id {
                    writer.text("transactionId", transaction_id);
                }
                writer.text("msgId", &stored.message_ids);
                write_region(writer);
                writer.number(
                    "queueOffset",
                    i64::try_from(stored.queue_offset).unwrap_or(i64::MAX),
                );
            }
        }
    }
}

fn write_region(writer: &mut FieldWriter<'_>) {
    writer.boolean("TRACE_ON", true);
    writer.text("MSG_REGION", REGION_ID);
}

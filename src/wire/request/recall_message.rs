//! `RECALL_MESSAGE` (370): takes a timer message back before its time has come (`RecallMessageRequestHeader` of 5.3.2).

use std::borrow::Cow;

use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};

/// The fields of the request; there is no body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RecallMessage<'a> {
    pub(crate) producer_group: &'a str,
    pub(crate) topic: &'a str,
    pub(crate) recall_handle: &'a str,
    /// The broker that the handle names; proxies go by it.
    pub(crate) broker_name: &'a str,
}

impl RecallMessage<'_> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("producerGroup", self.producer_group);
        writer.text("topic", self.topic);
        writer.text("recallHandle", self.recall_handle);
        writer.text("bname", self.broker_name);
    }
}

/// The request as a broker reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedRecall<'a> {
    pub(crate) topic: Cow<'a, str>,
    pub(crate) recall_handle: Cow<'a, str>,
}

impl<'a> ReceivedRecall<'a> {
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        match (header.field("topic"), header.field("recallHandle")) {
            (Some(topic), Some(recall_handle)) => Ok(Self { topic, recall_handle }),
            _ => Err(WireError::new(
                "request to recall a message lacks topic or recallHandle",
            )),
        }
    }
}

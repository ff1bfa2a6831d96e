//! `UPDATE_AND_CREATE_TOPIC` (17): creates a topic on one broker, or changes it there (`CreateTopicRequestHeader`).

use std::borrow::Cow;

use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};

/// `TopicFilterType`: the only one that anything uses.
const SINGLE_TAG: &str = "SINGLE_TAG";

/// The fields of the request; there is no body.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CreateTopic<'a> {
    pub(crate) topic: &'a str,
    /// The key topic. Brokers do not look at it.
    pub(crate) default_topic: &'a str,
    pub(crate) read_queue_nums: u32,
    pub(crate) write_queue_nums: u32,
    /// Bits of `PermName`: 4 read, 2 write.
    pub(crate) perm: u32,
    /// Bits of `TopicSysFlag`: 1 unit, 2 subscribed by units.
    pub(crate) topic_sys_flag: u32,
    pub(crate) order: bool,
}

impl CreateTopic<'_> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("topic", self.topic);
        writer.text("defaultTopic", self.default_topic);
        writer.number("readQueueNums", self.read_queue_nums.into());
        writer.number("writeQueueNums", self.write_queue_nums.into());
        writer.number("perm", self.perm.into());
        writer.text("topicFilterType", SINGLE_TAG);
        writer.number("topicSysFlag", self.topic_sys_flag.into());
        writer.boolean("order", self.order);
    }
}

/// The request as a broker reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedCreateTopic<'a> {
    pub(crate) topic: Cow<'a, str>,
    pub(crate) default_topic: Cow<'a, str>,
    pub(crate) read_queue_nums: u32,
    pub(crate) write_queue_nums: u32,
    pub(crate) perm: u32,
    pub(crate) topic_sys_flag: u32,
    pub(crate) order: bool,
}

impl<'a> ReceivedCreateTopic<'a> {
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        Ok(Self {
            topic: header.required("topic")?,
            default_topic: header.required("defaultTopic")?,
            read_queue_nums: header.required_number("readQueueNums")?,
            write_queue_nums: header.required_number("writeQueueNums")?,
            perm: header.required_number("perm")?,
            topic_sys_flag: header.number("topicSysFlag")?.unwrap_or(0),
            order: header.boolean("order").unwrap_or(false),
        })
    }
}

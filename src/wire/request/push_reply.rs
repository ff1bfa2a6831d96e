//! `PUSH_REPLY_MESSAGE_TO_CLIENT` (326): a broker hands a reply to the client that waits for it
//! (`ReplyMessageRequestHeader`). The body is the reply's, compressed if its system flag says so.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::message::stored::StoredContent;
use crate::message::{MessageQueue, StoredMessage, property};
use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};
use crate::wire::id::offset_message_id;
use crate::wire::properties::{self, ReadingRules};

/// Who has sent or stored a reply, if the broker does not say it in a form that can be read.
const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// The header fields, as brokers write them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PushReply<'a> {
    pub(crate) producer_group: Cow<'a, str>,
    pub(crate) topic: Cow<'a, str>,
    pub(crate) default_topic: Cow<'a, str>,
    pub(crate) default_topic_queue_nums: i32,
    pub(crate) queue_id: i32,
    pub(crate) sys_flag: i32,
    pub(crate) born_timestamp_ms: i64,
    pub(crate) flag: i32,
    pub(crate) properties: Cow<'a, str>,
    pub(crate) reconsume_times: i32,
    pub(crate) unit_mode: bool,
    /// `/127.0.0.1:50940` from 4.7.0, without the slash from later releases.
    pub(crate) born_host: Cow<'a, str>,
    pub(crate) store_host: Cow<'a, str>,
    pub(crate) store_timestamp_ms: i64,
}

impl<'a> PushReply<'a> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("producerGroup", &self.producer_group);
        writer.text("topic", &self.topic);
        writer.text("defaultTopic", &self.default_topic);
        writer.number("defaultTopicQueueNums", self.default_topic_queue_nums.into());
        writer.number("queueId", self.queue_id.into());
        writer.number("sysFlag", self.sys_flag.into());
        writer.number("bornTimestamp", self.born_timestamp_ms);
        writer.number("flag", self.flag.into());
        writer.text("properties", &self.properties);
        writer.number("reconsumeTimes", self.reconsume_times.into());
        writer.boolean("unitMode", self.unit_mode);
        writer.text("bornHost", &self.born_host);
        writer.text("storeHost", &self.store_host);
        writer.number("storeTimestamp", self.store_timestamp_ms);
    }

    /// Decodes the header. Only the topic must be there: a reply that lacks a time is a reply all the same.
    ///
    /// # Errors
    /// Without a topic, and when a number is none.
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        let text = |name| header.field(name).unwrap_or_default();
        Ok(Self {
            producer_group: text("producerGroup"),
            topic: header
                .field("topic")
                .ok_or_else(|| WireError::new("a pushed reply has no topic"))?,
            default_topic: text("defaultTopic"),
            default_topic_queue_nums: header.number("defaultTopicQueueNums")?.unwrap_or(0),
            queue_id: header.number("queueId")?.unwrap_or(0),
            sys_flag: header.number("sysFlag")?.unwrap_or(0),
            born_timestamp_ms: header.number("bornTimestamp")?.unwrap_or(0),
            flag: header.number("flag")?.unwrap_or(0),
            properties: text("properties"),
            reconsume_times: header.number("reconsumeTimes")?.unwrap_or(0),
            unit_mode: text("unitMode") == "true",
            born_host: text("bornHost"),
            store_host: text("storeHost"),
            store_timestamp_ms: header.number("storeTimestamp")?.unwrap_or(0),
        })
    }

    /// Which request it replies to.
    pub(crate) fn correlation_id(&self) -> Option<&str> {
        properties::find(&self.properties, property::CORRELATION_ID, ReadingRules::V4_9)
    }

    /// The reply as a user is shown it. A broker pushes it before it stores it, so its offsets are 0. `arrived_ms` is noted
    /// as property `ARRIVE_TIME`, as `ClientRemotingProcessor.receiveReplyMessage` does.
    pub(crate) fn message(&self, body: Vec<u8>, broker_name: Arc<str>, arrived_ms: u64) -> StoredMessage {
        let mut properties = properties::parse(&self.properties, ReadingRules::V4_9);
        properties.retain(|(name, _)| name != property::ARRIVE_TIME);
        properties.push((property::ARRIVE_TIME.to_owned(), arrived_ms.to_string()));
        let store_host = host(&self.store_host);
        StoredMessage::new(StoredContent {
            // A broker that was left to choose the queue tells -1.
            queue: MessageQueue::new(
                &*self.topic,
                broker_name,
                u32::try_from(self.queue_id).unwrap_or_default(),
            ),
            queue_offset: 0,
            commit_log_offset: 0,
            offset_message_id: offset_message_id(store_host, 0),
            flag: self.flag,
            sys_flag: self.sys_flag,
            body,
            still_compressed: None,
            properties,
            born_timestamp_ms: self.born_timestamp_ms,
            born_host: host(&self.born_host),
            store_timestamp_ms: self.store_timestamp_ms,
            store_host,
            reconsume_times: self.reconsume_times,
        })
    }
}

/// `ip:port`, behind `/` or `name/` as `InetSocketAddress.toString` writes it (4.7.0), IPv6 with or without brackets.
fn host(text: &str) -> SocketAddr {
    let address = text.rsplit_once('/').map_or(text, |(_, address)| address);
    let read = || -> Option<SocketAddr> {
        let (ip, port) = address.rsplit_once(':')?;
        let ip = ip.trim_start_matches('[').trim_end_matches(']');
        Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
    };
    read().unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Serialization;

    fn header(json: &[u8]) -> Header<'_> {
        Header::decode(Serialization::Json, json).unwrap()
    }

    #[test]
    fn hosts_are_read_as_all_releases_write_them() {
        for (text, expected) in [
            ("/127.0.0.1:50940", "127.0.0.1:50940"),
            ("127.0.0.1:53102", "127.0.0.1:53102"),
            ("replier.example/10.0.0.7:1", "10.0.0.7:1"),
            ("/[0:0:0:0:0:0:0:1]:8", "[::1]:8"),
            ("0:0:0:0:0:0:0:1:8", "[::1]:8"),
            ("replier:80", "0.0.0.0:0"),
            ("", "0.0.0.0:0"),
        ] {
            assert_eq!(host(text), expected.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn a_reply_shows_what_was_sent_and_when_it_came() {
        let json = br#"{"code":326,"opaque":1,"extFields":{"topic":"DefaultCluster_REPLY_TOPIC","queueId":"-1",
            "flag":"7","sysFlag":"1","storeTimestamp":"12","bornTimestamp":"11","bornHost":"/10.0.0.1:5",
            "storeHost":"/10.0.0.2:10911","properties":"CORRELATION_ID\u0001c-1\u0002UNIQ_KEY\u00017F00\u0002ARRIVE_TIME\u00011\u0002"}}"#;
        let push = PushReply::decode(&header(json)).unwrap();
        assert_eq!(push.correlation_id(), Some("c-1"));
        let message = push.message(b"yes".to_vec(), "broker-a".into(), 13);
        assert_eq!(
            message.queue(),
            &MessageQueue::new("DefaultCluster_REPLY_TOPIC", "broker-a", 0)
        );
        assert_eq!(
            (message.body(), message.flag(), message.sys_flag()),
            (&b"yes"[..], 7, 1)
        );
        assert_eq!(message.message_id().as_str(), "7F00");
        assert_eq!(message.property("ARRIVE_TIME"), Some("13"));
        assert_eq!(
            (message.born_timestamp_ms(), message.store_timestamp_ms()),
            (11, 12)
        );
        assert_eq!(message.born_host(), "10.0.0.1:5".parse().unwrap());
        assert_eq!(message.store_host(), "10.0.0.2:10911".parse().unwrap());
    }

    #[test]
    fn what_is_no_reply_is_refused() {
        for json in [
            &br#"{"code":326,"opaque":1,"extFields":{}}"#[..],
            br#"{"code":326,"opaque":1,"extFields":{"topic":"t","sysFlag":"x"}}"#,
        ] {
            assert!(PushReply::decode(&header(json)).is_err());
        }
        let bare = br#"{"code":326,"opaque":1,"extFields":{"topic":"t"}}"#;
        assert_eq!(PushReply::decode(&header(bare)).unwrap().correlation_id(), None);
    }
}

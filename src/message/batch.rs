//! Several messages that travel in one request. Checked when it is made, like a message: what a broker cannot store as a
//! batch never becomes one.

use std::fmt;

use super::{Message, id::USUAL_ID_LENGTH, property};
use crate::error::Error;

/// Bytes of a stored record with IPv4 hosts beside body, topic and properties. 4.7.0 counts them when it compares a
/// message or a batch with its limit (`CommitLog.calMsgLength`).
pub(crate) const RECORD_OVERHEAD: usize = 91;

/// Most messages in one batch. The broker answers with an id of up to 56 digits for each, and the header of an answer must
/// stay under 1 MiB.
pub(crate) const MOST_MESSAGES: usize = 16_384;

/// Properties with which a broker does something else than store the message where it was sent to: such messages go alone.
/// 4.7.0 `MessageBatch` refuses a delay level; brokers refuse or ignore the others inside a batch.
const ALONE: &[(&str, &str)] = &[
    (property::DELAY, "a delay level"),
    (property::TIMER_DELAY_SEC, "a delay"),
    (property::TIMER_DELAY_MS, "a delay"),
    (property::TIMER_DELIVER_MS, "a delivery time"),
    (property::PRIORITY, "a priority"),
    (property::TRAN_MSG, "a transaction"),
];

/// Topics that brokers keep for repeated deliveries (`MixAll.RETRY_GROUP_TOPIC_PREFIX`).
const RETRY_TOPIC_PREFIX: &str = "%RETRY%";

/// Messages of one topic that a broker stores in one act, all or none, one behind the other in one queue.
///
/// A batch costs one request, whatever its length, so it is the quickest way to send many small messages. Each message
/// stays a message of its own, with its own id, tags, keys and properties; consumers see no difference.
///
/// A batch can be sent once it exists: it holds at least one message and at most 16,384, all of the same topic and with the
/// same `wait_store_ok`, none with a delay, a delivery time, a priority or a transaction, and the topic is no retry topic.
/// Whether it is small enough depends on the producer's `max_message_size`; [`Batch::split`] makes batches that are. It is
/// immutable and cheap to clone.
///
/// ```
/// use rocketmq_producer::{Batch, Message};
///
/// let messages = (0..3).map(|i| Message::new("orders", format!("order {i}"))).collect::<Result<Vec<_>, _>>()?;
/// let batch = Batch::new(messages)?;
/// assert_eq!((batch.topic(), batch.len()), ("orders", 3));
/// # Ok::<(), rocketmq_producer::Error>(())
/// ```
#[derive(Clone, PartialEq, Eq)]
#[doc(alias = "MessageBatch")]
pub struct Batch {
    messages: std::sync::Arc<[Message]>,
    size: usize,
}

impl Batch {
    /// Makes a batch of messages, which keep their order.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`], naming the message by its index, when there is no message or more than 16,384, when topics
    /// or `wait_store_ok` differ, when a message has a delay, a delivery time, a priority or a transaction, and for a retry
    /// topic: the rules of 4.7.0's `MessageBatch` and what 5.x brokers add.
    pub fn new(messages: impl Into<Vec<Message>>) -> Result<Self, Error> {
        let messages: Vec<Message> = messages.into();
        check(&messages)?;
        if messages.len() > MOST_MESSAGES {
            return Err(invalid(format!(
                "the batch for topic {} has {} messages; the most is {MOST_MESSAGES}, since the broker's answer names each",
                topic_of(&messages),
                messages.len()
            )));
        }
        Ok(Self::checked(messages))
    }

    /// Makes batches of at most `max_bytes` each, as [`Batch::size`] counts, which together hold all messages in their order.
    /// Few, for each is as large as may be.
    ///
    /// With the producer's `max_message_size` (4 MiB unless set) each of them can be sent to 4.7.0 and later brokers.
    /// [`Producer::send_all`](crate::Producer::send_all) splits and sends in one call.
    ///
    /// # Errors
    /// Those of [`Batch::new`] but for the number of messages, and [`Error::InvalidMessage`] for a message that is larger by
    /// itself.
    ///
    /// ```
    /// use rocketmq_producer::{Batch, Message};
    ///
    /// let messages = vec![Message::new("orders", vec![7; 1000])?; 10];
    /// let batches = Batch::split(messages, 4 * 1024)?;
    /// assert_eq!(batches.iter().map(Batch::len).collect::<Vec<_>>(), [3, 3, 3, 1]);
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    pub fn split(messages: impl Into<Vec<Message>>, max_bytes: usize) -> Result<Vec<Self>, Error> {
        Self::split_counting(messages.into(), max_bytes, added_bytes(USUAL_ID_LENGTH))
    }

    /// [`Self::split`] where each message takes so many bytes beside topic, body and its own properties.
    pub(crate) fn split_counting(
        messages: Vec<Message>,
        max_bytes: usize,
        added: usize,
    ) -> Result<Vec<Self>, Error> {
        check(&messages)?;
        let mut batches = Vec::new();
        let mut part = Vec::new();
        let mut part_bytes = 0_usize;
        for (index, message) in messages.into_iter().enumerate() {
            let bytes = content_bytes(&message).saturating_add(added);
            if bytes > max_bytes {
                return Err(invalid(format!(
                    "message {index} (counted from 0) of the batch for topic {} takes {bytes} bytes as a stored record; \
                     the limit is {max_bytes}",
                    message.topic()
                )));
            }
            if part_bytes.saturating_add(bytes) > max_bytes || part.len() >= MOST_MESSAGES {
                batches.push(Self::checked(std::mem::take(&mut part)));
                part_bytes = 0;
            }
            part_bytes += bytes;
            part.push(message);
        }
        batches.push(Self::checked(part));
        Ok(batches)
    }

    fn checked(messages: Vec<Message>) -> Self {
        let size = messages.iter().map(content_bytes).sum();
        Self {
            messages: messages.into(),
            size,
        }
    }

    /// The messages, in their order.
    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// How many messages it holds; never 0.
    #[allow(clippy::len_without_is_empty, reason = "it is never empty")]
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// The topic of all its messages.
    pub fn topic(&self) -> &str {
        topic_of(&self.messages)
    }

    /// Whether the broker answers only when the messages are flushed and replicated as it is configured to do.
    pub fn wait_store_ok(&self) -> bool {
        self.messages.first().is_none_or(waits)
    }

    /// What it takes as stored records, in bytes: body, topic, properties, message id and 91 bytes of overhead for each
    /// message. That is what 4.7.0 brokers compare with their `maxMessageSize`; later ones count less.
    ///
    /// Exact for a producer with an IPv4 address. For one with an IPv6 address each message takes 48 bytes more.
    pub fn size(&self) -> usize {
        self.size_counting(added_bytes(USUAL_ID_LENGTH))
    }

    /// [`Self::size`] where each message takes so many bytes beside topic, body and its own properties.
    pub(crate) fn size_counting(&self, added: usize) -> usize {
        self.size.saturating_add(self.len().saturating_mul(added))
    }

    /// The first message, which stands for all where only the topic matters.
    pub(crate) fn first(&self) -> Option<&Message> {
        self.messages.first()
    }
}

impl fmt::Debug for Batch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("topic", &self.topic())
            .field("messages", &self.len())
            .field("size", &self.size())
            .finish_non_exhaustive()
    }
}

/// What one message of a batch takes as a record beside topic, body and its own properties. Records of IPv6 hosts are
/// longer, and so are the ids that a producer makes which has such an address.
pub(crate) fn added_bytes(id_length: usize) -> usize {
    const MORE_FOR_IPV6_HOSTS: usize = 24;
    let hosts = if id_length > USUAL_ID_LENGTH {
        MORE_FOR_IPV6_HOSTS
    } else {
        0
    };
    // Name, value and two separators.
    RECORD_OVERHEAD + hosts + property::UNIQ_KEY.len() + id_length + 2
}

/// Topic, body and own properties.
pub(crate) fn content_bytes(message: &Message) -> usize {
    message.topic().len() + message.body().len() + message.properties_length()
}

/// Why a message must be sent by itself, if it must.
pub(crate) fn why_alone(message: &Message) -> Option<String> {
    if message.topic().starts_with(RETRY_TOPIC_PREFIX) {
        return Some(format!("topic {} is a retry topic", message.topic()));
    }
    if message.is_reply() {
        return Some("it is a reply".to_owned());
    }
    let mut names = message.properties().map(|(name, _)| name);
    names.find_map(|name| {
        let (_, what) = ALONE.iter().find(|(known, _)| *known == name)?;
        Some(format!("it has {what}"))
    })
}

/// Whether the message asks the broker to wait for flush and replication.
pub(crate) fn waits(message: &Message) -> bool {
    message.property(property::WAIT) != Some("false")
}

fn topic_of(messages: &[Message]) -> &str {
    messages.first().map_or("", Message::topic)
}

fn check(messages: &[Message]) -> Result<(), Error> {
    let Some(first) = messages.first() else {
        return Err(invalid("the batch is empty".to_owned()));
    };
    for (index, message) in messages.iter().enumerate() {
        let fault = if message.topic() != first.topic() {
            Some(format!("its topic is {}", message.topic()))
        } else if waits(message) != waits(first) {
            Some(format!(
                "its wait_store_ok is {}, unlike that of message 0",
                waits(message)
            ))
        } else {
            why_alone(message)
        };
        if let Some(fault) = fault {
            return Err(invalid(format!(
                "message {index} (counted from 0) cannot be in the batch for topic {}: {fault}",
                first.topic()
            )));
        }
    }
    Ok(())
}

fn invalid(reason: String) -> Error {
    Error::InvalidMessage { reason }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{Content, timing::Timing};

    fn message(body_length: usize) -> Message {
        Message::new("topic", vec![7; body_length]).unwrap()
    }

    fn fault(messages: Vec<Message>) -> String {
        let [made, split] = [
            Batch::new(messages.clone()).map(|_| ()),
            Batch::split(messages, 4096).map(|_| ()),
        ];
        let text = made.unwrap_err().to_string();
        assert_eq!(text, split.unwrap_err().to_string());
        text
    }

    /// A message with a property that only brokers and other kinds of sends use.
    fn with_property(name: &str) -> Message {
        let content = Content {
            topic: "topic".into(),
            flag: 0,
            body: vec![7],
            properties: vec![(name.into(), "1".into())],
            properties_length: name.len() + 3,
            timing: Timing::AtOnce,
            requirement: None,
            is_reply: false,
        };
        Message {
            content: Arc::new(content),
        }
    }

    #[test]
    fn what_cannot_be_a_batch_is_refused_and_the_message_named() {
        assert!(fault(vec![]).contains("the batch is empty"));
        let other = Message::new("other", "x").unwrap();
        assert!(fault(vec![message(1), message(1), other]).contains("message 2 (counted from 0)"));
        let hasty = Message::builder("topic")
            .body("x")
            .wait_store_ok(false)
            .build()
            .unwrap();
        let text = fault(vec![message(1), hasty]);
        assert!(
            text.contains("message 1") && text.contains("wait_store_ok is false"),
            "{text}"
        );
        let again = Message::new("%RETRY%group", "x").unwrap();
        assert!(fault(vec![again]).contains("retry topic"));
        for (name, what) in ALONE {
            let text = fault(vec![message(1), with_property(name)]);
            assert!(text.contains("message 1") && text.contains(what), "{text}");
        }
    }

    #[test]
    fn more_messages_than_an_answer_can_name_are_refused_or_split() {
        let messages = vec![message(1); MOST_MESSAGES + 1];
        let text = Batch::new(messages.clone()).unwrap_err().to_string();
        assert!(text.contains("16385 messages"), "{text}");
        let batches = Batch::split(messages, usize::MAX).unwrap();
        assert_eq!(
            batches.iter().map(Batch::len).collect::<Vec<_>>(),
            [MOST_MESSAGES, 1]
        );
    }

    #[test]
    fn the_size_is_that_of_the_records() {
        let tagged = Message::builder("topic").tags("t").body("body").build().unwrap();
        let plain = message(10);
        // Each: overhead, topic, body, own properties, and the message id with its name and separators.
        let expected = (91 + 5 + 4 + 7 + 42) + (91 + 5 + 10 + 42);
        let batch = Batch::new(vec![tagged, plain]).unwrap();
        assert_eq!(batch.size(), expected);
        assert_eq!(batch.size_counting(added_bytes(56)), expected + 2 * 48);
    }

    #[test]
    fn parts_are_as_large_as_may_be_and_no_larger() {
        let one = Batch::new(vec![message(100)]).unwrap().size();
        let lengths = |most: usize| {
            let parts = Batch::split(vec![message(100); 7], most).unwrap();
            assert!(parts.iter().all(|part| part.size() <= most));
            parts.iter().map(Batch::len).collect::<Vec<_>>()
        };
        assert_eq!(lengths(3 * one), [3, 3, 1]);
        assert_eq!(lengths(3 * one - 1), [2, 2, 2, 1]);
        assert_eq!(lengths(one), [1; 7]);
        assert_eq!(lengths(usize::MAX), [7]);
        let text = Batch::split(vec![message(1), message(100)], one - 1)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("message 1") && text.contains(&format!("takes {one} bytes")),
            "{text}"
        );
    }

    #[test]
    fn the_bodies_are_not_shown_by_debug() {
        let secret = Message::builder("topic")
            .body("secret")
            .property("p", "hidden")
            .build()
            .unwrap();
        let shown = format!("{:?}", Batch::new(vec![secret]).unwrap());
        assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    }
}

//! Building and checking a message. After `build` there is no unsendable message but one that a producer's own size
//! limits refuse.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    Content, Message, names, property,
    reply::Addressee,
    timing::{self, Wishes},
};
use crate::error::Error;

/// Most bytes that the properties may take as one text: records keep the length in a signed 16-bit number (4.7.0
/// `CommitLog`). A producer's own limit is lower, see `ProducerBuilder::max_properties_size`.
const MAX_PROPERTIES_LENGTH: usize = 32_767;

/// Builds a [`Message`]; made by [`Message::builder`].
///
/// ```
/// use rocketmq_producer::Message;
///
/// let message = Message::builder("orders").keys(["a", "b"]).body(vec![1, 2, 3]).build()?;
/// assert_eq!(message.keys().collect::<Vec<_>>(), ["a", "b"]);
/// # Ok::<(), rocketmq_producer::Error>(())
/// ```
#[derive(Clone, Debug)]
#[must_use = "a message exists after build()"]
pub struct MessageBuilder {
    topic: String,
    body: Vec<u8>,
    tags: String,
    keys: Vec<String>,
    user_properties: Vec<(String, String)>,
    flag: i32,
    wait_store_ok: bool,
    wishes: Wishes,
    /// Whom it replies to, if it does.
    pub(super) addressee: Option<Addressee>,
}

impl MessageBuilder {
    pub(super) fn new(topic: String) -> Self {
        Self {
            topic,
            body: Vec::new(),
            tags: String::new(),
            keys: Vec::new(),
            user_properties: Vec::new(),
            flag: 0,
            wait_store_ok: true,
            wishes: Wishes::default(),
            addressee: None,
        }
    }

    /// Sets the body. It must not be empty: 5.5.0 brokers answer an empty one with an internal error.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the tag that consumers filter by; empty text means none.
    pub fn tags(mut self, tags: impl Into<String>) -> Self {
        self.tags = tags.into();
        self
    }

    /// Sets the keys under which tools find the message. A key must not contain a space, which separates keys on the
    /// wire.
    pub fn keys<K: AsRef<str>>(mut self, keys: impl IntoIterator<Item = K>) -> Self {
        self.keys = keys.into_iter().map(|key| key.as_ref().to_owned()).collect();
        self
    }

    /// Adds a property of the user's own. Setting a name again replaces its value.
    pub fn property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        let (name, value) = (name.into(), value.into());
        match self.user_properties.iter_mut().find(|(known, _)| *known == name) {
            Some((_, old)) => *old = value,
            None => self.user_properties.push((name, value)),
        }
        self
    }

    /// Sets the user's flag, 0 by default. RocketMQ stores it and never looks at it.
    pub fn flag(mut self, flag: i32) -> Self {
        self.flag = flag;
        self
    }

    /// Whether the broker answers only when the message is flushed and replicated as it is configured to do. Default
    /// `true`, as in `DefaultMQProducer`; `false` answers earlier, and a synchronous-flush or synchronous-master broker
    /// may lose the message when it dies.
    #[doc(alias = "waitStoreMsgOK")]
    pub fn wait_store_ok(mut self, wait: bool) -> Self {
        self.wait_store_ok = wait;
        self
    }

    /// Has consumers see the message after the delay that the brokers have configured for this level, on all releases. As
    /// shipped, level 1 to 18 are 1s 5s 10s 30s 1m 2m 3m 4m 5m 6m 7m 8m 9m 10m 20m 30m 1h 2h (`messageDelayLevel`).
    ///
    /// Until then the message lies in a topic of the broker's, and queue offset and broker's id in the result are of that
    /// copy. Messages of one queue with different levels overtake one another.
    ///
    /// Sends fail with [`Error::InvalidMessage`] if the level is over the producer's
    /// [`max_delay_level`](crate::ProducerBuilder::max_delay_level): brokers would lower it in silence.
    ///
    /// ```
    /// use rocketmq_producer::Message;
    ///
    /// let in_ten_seconds = Message::builder("orders").delay_level(3).body("cancel unless paid").build()?;
    /// assert_eq!(in_ten_seconds.property("DELAY"), Some("3"));
    /// assert!(Message::builder("orders").delay_level(0).body("x").build().is_err());
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "setDelayTimeLevel")]
    pub fn delay_level(mut self, level: u8) -> Self {
        self.wishes.level = Some(level);
        self
    }

    /// Has consumers see the message so long after a broker has stored it: a timer message of 5.x (`TIMER_DELAY_MS`). A part
    /// of a millisecond counts as one. The broker counts in steps of its `timerPrecisionMs`, a second unless configured, so the
    /// message comes up to a step late, and not early.
    ///
    /// Older brokers would deliver it at once, so it is not sent to them: the send fails with [`Error::NotSupported`]. Sends
    /// also fail with [`Error::InvalidMessage`] if the delay is over the producer's
    /// [`max_timer_delay`](crate::ProducerBuilder::max_timer_delay), three days unless set.
    ///
    /// What is said of the result in [`Self::delay_level`] holds here too. A broker that can
    /// [recall](crate::Producer::recall) the message gives a handle for it in the result.
    ///
    /// ```
    /// use std::time::Duration;
    /// use rocketmq_producer::Message;
    ///
    /// let reminder = Message::builder("orders").delay(Duration::from_secs(90)).body("pay!").build()?;
    /// assert_eq!(reminder.property("TIMER_DELAY_MS"), Some("90000"));
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "setDelayTimeMs")]
    #[doc(alias = "setDelayTimeSec")]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.wishes.delay = Some(delay);
        self
    }

    /// Has consumers see the message at this time by the broker's clock: a timer message of 5.x (`TIMER_DELIVER_MS`). All that
    /// is said of [`Self::delay`] holds here too.
    ///
    /// A time that has passed when the message is sent is an error, by this machine's clock. Unlike in Java, which sends it
    /// and has it delivered at once: such a time is usually a wrong one, in seconds or of another zone.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use rocketmq_producer::Message;
    ///
    /// let tomorrow = SystemTime::now() + Duration::from_secs(24 * 60 * 60);
    /// let message = Message::builder("orders").deliver_at(tomorrow).body("good morning").build()?;
    /// assert!(message.property("TIMER_DELIVER_MS").is_some());
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "setDeliverTimeMs")]
    pub fn deliver_at(mut self, time: SystemTime) -> Self {
        self.wishes.deliver_at = Some(time);
        self
    }

    /// Gives the message a priority, from 0 for the lowest (`_SYS_MSG_PRIORITY_`). A broker of 5.4.0 or later puts it into
    /// the queue of that number, or into the topic's last one, whichever queue it was sent to; consumers that pop messages
    /// take the later queues first. Older brokers would ignore it, so the send fails with [`Error::NotSupported`].
    ///
    /// ```
    /// use rocketmq_producer::Message;
    ///
    /// let urgent = Message::builder("orders").priority(3).body("now").build()?;
    /// assert_eq!(urgent.property("_SYS_MSG_PRIORITY_"), Some("3"));
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "setPriority")]
    pub fn priority(mut self, priority: u32) -> Self {
        self.wishes.priority = Some(priority);
        self
    }

    /// Checks everything and makes the message.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`], naming the rule and the value, when
    /// - the topic is blank, longer than 127 bytes, holds a character other than `a-z A-Z 0-9 % | _ -`, or belongs to
    ///   the brokers;
    /// - the body is empty;
    /// - tags, a key, or a property name or value hold a separator character (U+0001, U+0002), a key is blank or holds
    ///   a space, or a property name or value is blank;
    /// - a property name is reserved by RocketMQ;
    /// - the delay level or the delay is 0, more than one of delay level, delay and delivery time is set, or one of them or
    ///   the priority is more than a broker can count;
    /// - the properties take more than 32,767 bytes together.
    pub fn build(self) -> Result<Message, Error> {
        let invalid = |reason| Error::InvalidMessage { reason };
        self.check().map_err(invalid)?;
        let timing = self.wishes.timing().map_err(invalid)?;
        let priority = self.wishes.priority().map_err(invalid)?;
        let mut properties: Vec<(Box<str>, Box<str>)> = Vec::with_capacity(self.user_properties.len() + 3);
        let mut push = |name: &str, value: &str| properties.push((name.into(), value.into()));
        if !self.keys.is_empty() {
            push(
                property::KEYS,
                &self.keys.join(&property::KEY_SEPARATOR.to_string()),
            );
        }
        if !self.tags.is_empty() {
            push(property::TAGS, &self.tags);
        }
        // Unlike 4.7.0, WAIT is sent only when it says something: absent means true to every broker.
        if !self.wait_store_ok {
            push(property::WAIT, "false");
        }
        if let Some((name, value)) = timing.property() {
            push(name, &value);
        }
        if let Some(priority) = priority {
            push(property::PRIORITY, &priority.to_string());
        }
        for (name, value) in self.addressee.iter().flat_map(Addressee::properties) {
            push(name, value);
        }
        for (name, value) in &self.user_properties {
            push(name, value);
        }
        let properties_length = properties
            .iter()
            .map(|(name, value)| property::encoded_length(name, value))
            .sum();
        if properties_length > MAX_PROPERTIES_LENGTH {
            return Err(Error::InvalidMessage {
                reason: format!(
                    "the properties (keys and tags included) take {properties_length} bytes; brokers store at most \
                     {MAX_PROPERTIES_LENGTH}"
                ),
            });
        }
        let content = Content {
            topic: Arc::from(self.topic),
            flag: self.flag,
            body: self.body,
            properties,
            properties_length,
            timing,
            // It is of the later release.
            requirement: priority
                .map(|_| &timing::PRIORITY)
                .or_else(|| timing.requirement()),
            is_reply: self.addressee.is_some(),
        };
        Ok(Message {
            content: Arc::new(content),
        })
    }

    fn check(&self) -> Result<(), String> {
        names::check_topic(&self.topic)?;
        if self.body.is_empty() {
            return Err(format!(
                "the body of the message for topic {:?} is empty",
                self.topic
            ));
        }
        if property::has_separator(&self.tags) {
            return Err(format!(
                "tags {:?} contain a separator character (U+0001 or U+0002)",
                self.tags
            ));
        }
        for key in &self.keys {
            if key.trim().is_empty() {
                return Err("a key is blank".to_owned());
            }
            if key.contains(property::KEY_SEPARATOR) {
                return Err(format!(
                    "key {key:?} contains a space, which separates keys; give them one by one"
                ));
            }
            if property::has_separator(key) {
                return Err(format!(
                    "key {key:?} contains a separator character (U+0001 or U+0002)"
                ));
            }
        }
        self.user_properties
            .iter()
            .try_for_each(|(name, value)| property::check(name, value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(builder: MessageBuilder) -> String {
        match builder.build() {
            Err(Error::InvalidMessage { reason }) => reason,
            other => panic!("expected InvalidMessage, got {other:?}"),
        }
    }

    fn valid() -> MessageBuilder {
        Message::builder("topic").body("x")
    }

    #[test]
    fn properties_are_sent_in_a_fixed_order() {
        let message = valid()
            .property("b", "2")
            .property("a", "1")
            .tags("t")
            .keys(["k1", "k2"])
            .build()
            .unwrap();
        let pairs: Vec<_> = message.properties().collect();
        assert_eq!(pairs, [("KEYS", "k1 k2"), ("TAGS", "t"), ("b", "2"), ("a", "1")]);
        assert_eq!(message.properties_length(), 4 + 5 + 2 + 4 + 1 + 2 + 4 + 4);
    }

    #[test]
    fn a_property_set_twice_keeps_the_last_value() {
        let message = valid().property("a", "1").property("a", "2").build().unwrap();
        assert_eq!(message.property("a"), Some("2"));
    }

    #[test]
    fn empty_tags_mean_none_and_wait_is_sent_only_when_false() {
        assert_eq!(valid().tags("").build().unwrap().properties().count(), 0);
        assert_eq!(
            valid().wait_store_ok(false).build().unwrap().property("WAIT"),
            Some("false")
        );
    }

    #[test]
    fn bad_input_is_refused_with_rule_and_value() {
        assert!(
            reason(Message::builder("topic")).contains("body of the message for topic \"topic\" is empty")
        );
        assert!(reason(valid().property("a\u{1}", "x")).contains("separator"));
        assert!(reason(valid().property("a", "x\u{2}")).contains("value of property \"a\""));
        assert!(reason(valid().property("", "x")).contains("name is blank"));
        assert!(reason(valid().property("a", "")).contains("value of property \"a\" is blank"));
        assert!(reason(valid().property("UNIQ_KEY", "x")).contains("reserved"));
        assert!(reason(valid().property("__RMQ.TRANSIENT.a", "x")).contains("reserved"));
        assert!(reason(valid().tags("a\u{1}b")).contains("tags"));
        assert!(reason(valid().keys(["a b"])).contains("contains a space"));
        assert!(reason(valid().keys([""])).contains("key is blank"));
        assert!(reason(valid().property("a", "x".repeat(32_767))).contains("brokers store at most 32767"));
    }

    #[test]
    fn the_body_is_not_shown_by_debug() {
        let message = valid()
            .body("secret")
            .property("password", "hidden")
            .build()
            .unwrap();
        let shown = format!("{message:?}");
        assert!(!shown.contains("secret") && !shown.contains("hidden"), "{shown}");
    }
}

//! A message that replies to a request: where it goes, and what tells the broker whom to hand it to.

use super::{Message, MessageBuilder, property};
use crate::error::Error;

/// What `MSG_TYPE` says of a reply (4.7.0 `MixAll.REPLY_MESSAGE_FLAG`).
pub(crate) const REPLY: &str = "reply";

/// The topic that the replies of a cluster go to (4.7.0 `MixAll.getReplyTopic`). Brokers create it when they start.
pub(crate) fn reply_topic(cluster: &str) -> String {
    format!("{cluster}_REPLY_TOPIC")
}

/// Whom a reply is for, as the request says it.
#[derive(Clone, Debug)]
pub(crate) struct Addressee {
    correlation_id: String,
    reply_to_client: String,
    ttl: Option<String>,
}

impl Addressee {
    /// The properties that a reply carries (`MessageUtil.createReplyMessage`).
    pub(super) fn properties(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let always = [
            (property::MSG_TYPE, REPLY),
            (property::CORRELATION_ID, &*self.correlation_id),
            (property::REPLY_TO_CLIENT, &*self.reply_to_client),
        ];
        always
            .into_iter()
            .chain(self.ttl.as_deref().map(|ttl| (property::TTL, ttl)))
    }
}

impl Message {
    /// Begins the reply to a request, from the request's properties, as whoever consumed it has them. The reply is sent like
    /// any message: the broker hands it to the producer that waits in [`Producer::request`](crate::Producer::request), and
    /// answers when that has it.
    ///
    /// It goes to the reply topic of the cluster that stored the request, `<cluster>_REPLY_TOPIC`, and takes over
    /// `CORRELATION_ID`, `REPLY_TO_CLIENT` and `TTL`, as `MessageUtil.createReplyMessage` of 4.7.0 does. Body, tags, keys
    /// and properties are the replier's own.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`] when the properties are not those of a request: `CLUSTER`, `CORRELATION_ID` or
    /// `REPLY_TO_CLIENT` is missing. 4.7.0 brokers do not add `CLUSTER`, so requests of Java's 4.7.0 producers to them
    /// cannot be replied to; those of this library can.
    ///
    /// ```
    /// use rocketmq_producer::Message;
    ///
    /// let request = [("CLUSTER", "DefaultCluster"), ("CORRELATION_ID", "c-1"), ("REPLY_TO_CLIENT", "10.0.0.1@7")];
    /// let reply = Message::reply_to(request)?.body("42").build()?;
    /// assert_eq!(reply.topic(), "DefaultCluster_REPLY_TOPIC");
    /// assert!(Message::reply_to([("TAGS", "no request")]).is_err());
    /// # Ok::<(), rocketmq_producer::Error>(())
    /// ```
    #[doc(alias = "createReplyMessage")]
    pub fn reply_to<'p>(
        request: impl IntoIterator<Item = (&'p str, &'p str)>,
    ) -> Result<MessageBuilder, Error> {
        let (mut cluster, mut correlation_id, mut reply_to_client, mut ttl) = (None, None, None, None);
        for (name, value) in request {
            match name {
                property::CLUSTER => cluster = Some(value),
                property::CORRELATION_ID => correlation_id = Some(value.to_owned()),
                property::REPLY_TO_CLIENT => reply_to_client = Some(value.to_owned()),
                property::TTL => ttl = Some(value.to_owned()),
                _ => {}
            }
        }
        let needed = [
            (property::CLUSTER, cluster),
            (property::CORRELATION_ID, correlation_id.as_deref()),
            (property::REPLY_TO_CLIENT, reply_to_client.as_deref()),
        ];
        for (name, value) in needed {
            check(name, value)?;
        }
        let (Some(cluster), Some(correlation_id), Some(reply_to_client)) =
            (cluster, correlation_id, reply_to_client)
        else {
            return Err(not_a_request(property::CLUSTER));
        };
        let mut builder = Message::builder(reply_topic(cluster));
        builder.addressee = Some(Addressee {
            correlation_id,
            reply_to_client,
            ttl: ttl.filter(|ttl| !property::has_separator(ttl)),
        });
        Ok(builder)
    }
}

fn check(name: &str, value: Option<&str>) -> Result<(), Error> {
    match value {
        None => Err(not_a_request(name)),
        Some(value) if value.trim().is_empty() || property::has_separator(value) => {
            Err(Error::InvalidMessage {
                reason: format!("the request cannot be replied to: its property {name} is {value:.100?}"),
            })
        }
        Some(_) => Ok(()),
    }
}

fn not_a_request(missing: &str) -> Error {
    let reason = format!(
        "what was consumed cannot be replied to: property {missing} is missing. It is not the message of a request, or a \
         4.7.0 broker stored it, which adds no CLUSTER"
    );
    Error::InvalidMessage { reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REQUEST: [(&str, &str); 4] = [
        ("CLUSTER", "c1"),
        ("CORRELATION_ID", "c-1"),
        ("REPLY_TO_CLIENT", "10.0.0.1@7"),
        ("TTL", "3000"),
    ];

    #[test]
    fn a_reply_takes_over_what_tells_whom_it_is_for() {
        let reply = Message::reply_to(REQUEST)
            .unwrap()
            .tags("t")
            .property("a", "b")
            .body("yes")
            .build()
            .unwrap();
        assert_eq!(reply.topic(), "c1_REPLY_TOPIC");
        assert!(reply.is_reply());
        let pairs: Vec<_> = reply.properties().collect();
        assert_eq!(
            pairs,
            [
                ("TAGS", "t"),
                ("MSG_TYPE", "reply"),
                ("CORRELATION_ID", "c-1"),
                ("REPLY_TO_CLIENT", "10.0.0.1@7"),
                ("TTL", "3000"),
                ("a", "b"),
            ]
        );
        assert!(!Message::new("t", "x").unwrap().is_reply());
    }

    #[test]
    fn what_is_no_request_cannot_be_replied_to() {
        for missing in ["CLUSTER", "CORRELATION_ID", "REPLY_TO_CLIENT"] {
            let without = REQUEST.into_iter().filter(|(name, _)| *name != missing);
            let error = Message::reply_to(without).unwrap_err().to_string();
            assert!(error.contains(missing), "{error}");
        }
        let bad = [("CLUSTER", "c\u{1}"), REQUEST[1], REQUEST[2]];
        assert!(
            Message::reply_to(bad)
                .unwrap_err()
                .to_string()
                .contains("CLUSTER")
        );
        assert!(
            Message::reply_to(REQUEST.into_iter().take(3)).is_ok(),
            "TTL may be missing"
        );
    }
}

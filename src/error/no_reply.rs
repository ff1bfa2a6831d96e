//! The account of a request that was sent and got no reply.

use std::{fmt, sync::Arc, time::Duration};

use super::{Delivery, Error};

/// A request that was sent, and that no reply came to.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct NoReply {
    topic: Arc<str>,
    correlation_id: Arc<str>,
    waited: Duration,
    ttl: Duration,
    cause: NoReplyCause,
    send_error: Option<Error>,
}

/// Why no reply is waited for any more.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum NoReplyCause {
    /// The time of the request is over.
    TimeOver,
    /// The producer was shut down meanwhile.
    ShutDown,
    /// A reply came whose body cannot be read; the text says why.
    Unreadable(Arc<str>),
}

impl NoReply {
    pub(crate) fn new(
        topic: Arc<str>,
        correlation_id: Arc<str>,
        (waited, ttl): (Duration, Duration),
        cause: NoReplyCause,
        send_error: Option<Error>,
    ) -> Self {
        Self {
            topic,
            correlation_id,
            waited,
            ttl,
            cause,
            send_error,
        }
    }

    /// The topic of the request.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The id that the reply would have had in its property `CORRELATION_ID`: the replier's log may know it.
    pub fn correlation_id(&self) -> &str {
        &self.correlation_id
    }

    /// How long the whole request took.
    pub fn waited(&self) -> Duration {
        self.waited
    }

    /// How long the replier was told that the reply is waited for: the timeout of the request.
    pub fn ttl(&self) -> Duration {
        self.ttl
    }

    /// Why the wait ended.
    pub fn cause(&self) -> &NoReplyCause {
        &self.cause
    }

    /// Why it is not known whether the request is stored, if that is not known.
    pub fn send_error(&self) -> Option<&Error> {
        self.send_error.as_ref()
    }

    /// What may have become of the request: [`Delivery::Stored`], or [`Delivery::Unknown`] if no broker gave a verdict.
    pub fn delivery(&self) -> Delivery {
        self.send_error.as_ref().map_or(Delivery::Stored, Error::delivery)
    }
}

impl fmt::Display for NoReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            correlation_id,
            waited,
            ttl,
            ..
        } = self;
        match &self.cause {
            NoReplyCause::TimeOver => {
                write!(f, "no reply to the request to topic {topic} came in {waited:.1?}")
            }
            NoReplyCause::ShutDown => write!(
                f,
                "the producer was shut down while the request to topic {topic} waited for its reply ({waited:.1?})"
            ),
            NoReplyCause::Unreadable(reason) => {
                write!(
                    f,
                    "the reply to the request to topic {topic} cannot be read: {reason}"
                )
            }
        }?;
        write!(
            f,
            " (correlation id {correlation_id}, TTL {} ms); ",
            ttl.as_millis()
        )?;
        match (&self.send_error, &self.cause) {
            (Some(error), _) => write!(f, "the request itself: {error}"),
            (None, NoReplyCause::TimeOver) => f.write_str(
                "the request is stored, so look whether a consumer of the topic runs, and replies, within that time",
            ),
            (None, _) => f.write_str("the request is stored"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Written;

    fn no_reply(cause: NoReplyCause, send_error: Option<Error>) -> Error {
        let times = (Duration::from_secs(3), Duration::from_secs(3));
        let no_reply = NoReply::new("prices".into(), "c-1".into(), times, cause, send_error);
        Error::NoReply(Box::new(no_reply))
    }

    #[test]
    fn it_says_whether_the_request_is_stored() {
        let stored = no_reply(NoReplyCause::TimeOver, None);
        assert_eq!((stored.delivery(), stored.is_timeout()), (Delivery::Stored, true));
        assert!(!stored.delivery().is_not_stored());
        assert_eq!(
            stored.to_string(),
            "no reply to the request to topic prices came in 3.0s (correlation id c-1, TTL 3000 ms); the request is stored, \
             so look whether a consumer of the topic runs, and replies, within that time"
        );
        let lost = Error::Protocol {
            address: "a:1".into(),
            written: Written::All,
            reason: "no frame".into(),
        };
        let unknown = no_reply(NoReplyCause::ShutDown, Some(lost));
        assert_eq!(
            (unknown.delivery(), unknown.is_timeout()),
            (Delivery::Unknown, false)
        );
        assert!(
            unknown
                .to_string()
                .contains("the request itself: a:1 broke the protocol")
        );
    }
}

//! The account of a send that was attempted and failed: one line per attempt.

use std::{fmt, sync::Arc, time::Duration};

use super::{Delivery, Error};

/// One try to hand a message to a broker.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Attempt {
    /// The name of the broker that was chosen.
    pub broker_name: Arc<str>,
    /// The queue on that broker.
    pub queue_id: u32,
    /// How long the attempt took, or had taken when the send ended.
    pub took: Duration,
    /// What happened.
    pub error: Error,
}

impl Attempt {
    pub(crate) fn new(broker_name: Arc<str>, queue_id: u32, took: Duration, error: Error) -> Self {
        Self {
            broker_name,
            queue_id,
            took,
            error,
        }
    }
}

impl fmt::Display for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            broker_name,
            queue_id,
            took,
            error,
        } = self;
        write!(f, "{broker_name}#{queue_id} in {took:.1?}: {error}")
    }
}

/// A send that was attempted at least once and failed.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FailedSend {
    topic: Arc<str>,
    elapsed: Duration,
    reason: &'static str,
    attempts: Vec<Attempt>,
    /// Attempts in all, of which not all are listed if there were very many.
    begun: u32,
    forgotten_unknown: bool,
}

impl FailedSend {
    /// `reason` says why no further attempt was made.
    pub(crate) fn new(
        topic: Arc<str>,
        elapsed: Duration,
        reason: &'static str,
        attempts: Vec<Attempt>,
    ) -> Self {
        let begun = u32::try_from(attempts.len()).unwrap_or(u32::MAX);
        Self {
            topic,
            elapsed,
            reason,
            attempts,
            begun,
            forgotten_unknown: false,
        }
    }

    /// Says that there were more attempts than are listed, and whether one of those may have stored the message.
    pub(crate) fn with_forgotten(self, begun: u32, forgotten_unknown: bool) -> Self {
        Self {
            begun,
            forgotten_unknown,
            ..self
        }
    }

    /// The topic of the message.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// How long the whole send took.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    /// How many attempts were begun.
    pub fn attempts_begun(&self) -> u32 {
        self.begun
    }

    /// Every attempt, in the order in which they were begun. Of a send with a delivery timeout, which can have hundreds, the
    /// first and the latest ones.
    pub fn attempts(&self) -> &[Attempt] {
        &self.attempts
    }

    /// What the last attempt ended with.
    pub fn last_error(&self) -> Option<&Error> {
        self.attempts.last().map(|attempt| &attempt.error)
    }

    /// What may have become of the message: unknown if any attempt leaves it open, else refused if any broker refused
    /// it, else not stored.
    pub fn delivery(&self) -> Delivery {
        let verdicts = || self.attempts.iter().map(|attempt| attempt.error.delivery());
        if self.forgotten_unknown || verdicts().any(|verdict| verdict == Delivery::Unknown) {
            Delivery::Unknown
        } else if verdicts().any(|verdict| verdict == Delivery::Refused) {
            Delivery::Refused
        } else {
            Delivery::NotStored
        }
    }
}

impl fmt::Display for FailedSend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            topic,
            elapsed,
            reason,
            attempts,
            begun,
            ..
        } = self;
        let plural = if *begun == 1 { "" } else { "s" };
        write!(
            f,
            "sending to topic {topic} failed after {elapsed:.1?} and {begun} attempt{plural} ({}; {reason}):",
            self.delivery()
        )?;
        attempts.iter().enumerate().try_for_each(|(number, attempt)| {
            write!(
                f,
                "{} [{}] {attempt}",
                if number == 0 { "" } else { ";" },
                number + 1
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{code::ResponseCode, error::Written};

    fn attempt(error: Error) -> Attempt {
        Attempt::new("broker-a".into(), 1, Duration::from_millis(20), error)
    }

    #[test]
    fn the_whole_send_is_unknown_if_any_attempt_is() {
        let address: Arc<str> = "10.0.0.1:10911".into();
        let busy = || Error::refused(&address, ResponseCode::SYSTEM_BUSY, Some("busy"));
        let lost = || Error::Protocol {
            address: Arc::clone(&address),
            written: Written::All,
            reason: "the reply has no queueOffset".into(),
        };
        let send = |attempts| {
            FailedSend::new(
                "t".into(),
                Duration::from_millis(40),
                "no attempt is left",
                attempts,
            )
        };
        assert_eq!(
            send(vec![attempt(busy()), attempt(busy())]).delivery(),
            Delivery::Refused
        );
        assert_eq!(
            send(vec![attempt(lost()), attempt(busy())]).delivery(),
            Delivery::Unknown
        );
        assert_eq!(
            send(vec![attempt(busy())]).to_string(),
            "sending to topic t failed after 40.0ms and 1 attempt (refused, not stored; no attempt is left): \
             [1] broker-a#1 in 20.0ms: 10.0.0.1:10911 answered 2 SYSTEM_BUSY: busy"
        );
    }
}

//! When a message is to be delivered, and from which release on brokers heed what it asks for.

use std::time::{Duration, SystemTime};

use super::property;

/// When consumers are to see a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Timing {
    #[default]
    AtOnce,
    /// After the time that the brokers have configured for this level.
    Level(u8),
    /// So many milliseconds after a broker has stored it.
    AfterMs(u64),
    /// At this time, in milliseconds since 1970.
    AtMs(u64),
}

/// Something that brokers before a release ignore without a word, so that it must not be sent to them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Requirement {
    /// What it is, for an error.
    pub(crate) what: &'static str,
    /// The first release that heeds it.
    pub(crate) since: &'static str,
    /// That release as an ordinal of `MQVersion.Version`.
    pub(crate) ordinal: i32,
}

/// Older brokers keep the properties and deliver at once.
pub(crate) const TIMER: Requirement = Requirement {
    what: "a timer message",
    since: "5.0.0",
    ordinal: 413,
};

/// Older brokers keep the property and use the queue that was asked for.
pub(crate) const PRIORITY: Requirement = Requirement {
    what: "a message with a priority",
    since: "5.4.0",
    ordinal: 493,
};

/// 4.7.0 brokers do not even answer.
pub(crate) const RECALL: Requirement = Requirement {
    what: "a recall",
    since: "5.3.2",
    ordinal: 477,
};

/// What was asked for of a message, as the builder collects it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Wishes {
    pub(super) level: Option<u8>,
    pub(super) delay: Option<Duration>,
    pub(super) deliver_at: Option<SystemTime>,
    pub(super) priority: Option<u32>,
}

impl Wishes {
    /// The one timing that was asked for. What depends on the producer's settings, or on what time it is, is checked when
    /// the message is sent.
    pub(super) fn timing(&self) -> Result<Timing, String> {
        match (self.level, self.delay, self.deliver_at) {
            (None, None, None) => Ok(Timing::AtOnce),
            (Some(0), None, None) => {
                Err("delay level 0 is no delay: levels begin at 1; leave it out".to_owned())
            }
            (Some(level), None, None) => Ok(Timing::Level(level)),
            (None, Some(delay), None) => after(delay),
            (None, None, Some(time)) => at(time),
            _ => Err(
                "more than one of delay_level, delay and deliver_at is set; brokers would heed one"
                    .to_owned(),
            ),
        }
    }

    pub(super) fn priority(&self) -> Result<Option<u32>, String> {
        match self.priority {
            // A Java `int`.
            Some(priority) if i32::try_from(priority).is_err() => {
                Err(format!("priority {priority} is over {}", i32::MAX))
            }
            other => Ok(other),
        }
    }
}

fn after(delay: Duration) -> Result<Timing, String> {
    // A part of a millisecond is a millisecond: never earlier than asked for.
    let whole = u64::try_from(delay.as_nanos().div_ceil(1_000_000));
    match whole {
        Ok(0) => Err("a delay of 0 is none; leave it out".to_owned()),
        Ok(milliseconds) if i64::try_from(milliseconds).is_ok() => Ok(Timing::AfterMs(milliseconds)),
        _ => Err(format!("a delay of {delay:?} is more than brokers can count")),
    }
}

fn at(time: SystemTime) -> Result<Timing, String> {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH);
    let milliseconds = since_1970
        .ok()
        .and_then(|since| u64::try_from(since.as_nanos().div_ceil(1_000_000)).ok())
        .filter(|milliseconds| i64::try_from(*milliseconds).is_ok());
    milliseconds
        .map(Timing::AtMs)
        .ok_or_else(|| format!("the delivery time {time:?} cannot be told to a broker"))
}

impl Timing {
    /// The property that tells a broker.
    pub(super) fn property(self) -> Option<(&'static str, String)> {
        match self {
            Self::AtOnce => None,
            Self::Level(level) => Some((property::DELAY, level.to_string())),
            Self::AfterMs(milliseconds) => Some((property::TIMER_DELAY_MS, milliseconds.to_string())),
            Self::AtMs(milliseconds) => Some((property::TIMER_DELIVER_MS, milliseconds.to_string())),
        }
    }

    /// What brokers must be able to do. All know delay levels.
    pub(super) fn requirement(self) -> Option<&'static Requirement> {
        match self {
            Self::AtOnce | Self::Level(_) => None,
            Self::AfterMs(_) | Self::AtMs(_) => Some(&TIMER),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{error::Error, message::Message};

    fn reason(
        change: impl FnOnce(crate::message::MessageBuilder) -> crate::message::MessageBuilder,
    ) -> String {
        match change(Message::builder("topic").body("x")).build() {
            Err(Error::InvalidMessage { reason }) => reason,
            other => panic!("expected InvalidMessage, got {other:?}"),
        }
    }

    fn built(
        change: impl FnOnce(crate::message::MessageBuilder) -> crate::message::MessageBuilder,
    ) -> Message {
        change(Message::builder("topic").body("x")).build().unwrap()
    }

    #[test]
    fn each_timing_has_the_property_that_java_sets() {
        let second = Duration::from_secs(1);
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(1_795_422_676_001);
        for (message, name, value, requirement) in [
            (built(|m| m.delay_level(3)), "DELAY", "3", None),
            (built(|m| m.delay(second)), "TIMER_DELAY_MS", "1000", Some(&TIMER)),
            (
                built(|m| m.delay(Duration::from_micros(1500))),
                "TIMER_DELAY_MS",
                "2",
                Some(&TIMER),
            ),
            (
                built(|m| m.deliver_at(time)),
                "TIMER_DELIVER_MS",
                "1795422676001",
                Some(&TIMER),
            ),
            (
                built(|m| m.priority(7)),
                "_SYS_MSG_PRIORITY_",
                "7",
                Some(&PRIORITY),
            ),
        ] {
            assert_eq!(message.properties().collect::<Vec<_>>(), [(name, value)]);
            assert_eq!(message.requirement(), requirement);
        }
        let both = built(|m| m.priority(0).delay(second));
        assert_eq!(
            both.requirement(),
            Some(&PRIORITY),
            "the later release is the requirement"
        );
        assert_eq!(built(|m| m).timing(), Timing::AtOnce);
        assert_eq!(built(|m| m).requirement(), None);
    }

    #[test]
    fn timings_that_contradict_or_mean_nothing_are_refused() {
        let second = Duration::from_secs(1);
        let past = SystemTime::UNIX_EPOCH - second;
        assert!(reason(|m| m.delay_level(0)).contains("delay level 0"));
        assert!(reason(|m| m.delay(Duration::ZERO)).contains("a delay of 0"));
        assert!(reason(|m| m.delay(Duration::MAX)).contains("more than brokers can count"));
        assert!(reason(|m| m.deliver_at(past)).contains("cannot be told to a broker"));
        assert!(reason(|m| m.priority(1 << 31)).contains("priority 2147483648 is over 2147483647"));
        for contradicting in [
            reason(|m| m.delay_level(1).delay(second)),
            reason(|m| m.delay_level(1).deliver_at(SystemTime::now())),
            reason(|m| m.delay(second).deliver_at(SystemTime::now())),
        ] {
            assert!(contradicting.contains("more than one of"), "{contradicting}");
        }
        assert!(reason(|m| m.property("DELAY", "1")).contains("use MessageBuilder::delay_level"));
    }
}

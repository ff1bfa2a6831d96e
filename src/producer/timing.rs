//! Whether a message may be sent now, as far as its delivery time goes: what depends on the producer's settings and on what
//! time it is.

use std::time::Duration;

use crate::{
    config::ProducerConfig,
    error::Error,
    message::{Message, timing::Timing},
};

/// Checks the delivery time of a message that is sent at `unix_ms`.
pub(super) fn check(config: &ProducerConfig, message: &Message, unix_ms: u64) -> Result<(), Error> {
    let fault = match message.timing() {
        Timing::AtOnce => return Ok(()),
        Timing::Level(level) => level_fault(config, level),
        Timing::AfterMs(milliseconds) => delay_fault(config, milliseconds),
        Timing::AtMs(time) => match time.checked_sub(unix_ms) {
            None | Some(0) => {
                let passed = Duration::from_millis(unix_ms.saturating_sub(time));
                Some(format!(
                    "its delivery time passed {passed:?} ago, by this machine's clock"
                ))
            }
            Some(milliseconds) => delay_fault(config, milliseconds),
        },
    };
    match fault {
        None => Ok(()),
        Some(fault) => Err(Error::InvalidMessage {
            reason: format!(
                "the message for topic {} cannot be delivered as wished: {fault}",
                message.topic()
            ),
        }),
    }
}

fn level_fault(config: &ProducerConfig, level: u8) -> Option<String> {
    let most = config.max_delay_level;
    (level > most).then(|| format!("delay level {level} is over the limit max_delay_level of {most}"))
}

fn delay_fault(config: &ProducerConfig, milliseconds: u64) -> Option<String> {
    let (delay, most) = (Duration::from_millis(milliseconds), config.max_timer_delay);
    (delay > most)
        .then(|| format!("it is to wait {delay:?}, which is over the limit max_timer_delay of {most:?}"))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    const NOW: u64 = 1_795_422_676_000;

    fn at(milliseconds: u64) -> Message {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(milliseconds);
        Message::builder("orders")
            .deliver_at(time)
            .body("x")
            .build()
            .unwrap()
    }

    fn fault(message: &Message) -> String {
        let config = ProducerConfig::new("group".to_owned());
        check(&config, message, NOW).unwrap_err().to_string()
    }

    #[test]
    fn a_delivery_time_that_has_passed_is_refused_and_the_next_millisecond_is_not() {
        let config = ProducerConfig::new("group".to_owned());
        assert_eq!(
            fault(&at(NOW - 1500)),
            "invalid message: the message for topic orders cannot be delivered as wished: its delivery time passed 1.5s \
             ago, by this machine's clock"
        );
        assert!(fault(&at(NOW)).contains("passed 0ns ago"));
        assert!(check(&config, &at(NOW + 1), NOW).is_ok());
    }

    #[test]
    fn three_days_are_the_limit_unless_set() {
        const THREE_DAYS: u64 = 3 * 24 * 60 * 60 * 1000;
        let mut config = ProducerConfig::new("group".to_owned());
        let late = |milliseconds| {
            let delay = Duration::from_millis(milliseconds);
            Message::builder("orders").delay(delay).body("x").build().unwrap()
        };
        assert!(check(&config, &at(NOW + THREE_DAYS), NOW).is_ok());
        assert!(check(&config, &late(THREE_DAYS), NOW).is_ok());
        assert!(fault(&at(NOW + THREE_DAYS + 1)).contains("max_timer_delay of 259200s"));
        assert!(fault(&late(THREE_DAYS + 1)).contains("max_timer_delay of 259200s"));
        config.max_timer_delay = Duration::from_millis(THREE_DAYS + 1);
        assert!(check(&config, &late(THREE_DAYS + 1), NOW).is_ok());
    }

    #[test]
    fn eighteen_levels_are_the_limit_unless_set() {
        let mut config = ProducerConfig::new("group".to_owned());
        let level = |level| {
            Message::builder("orders")
                .delay_level(level)
                .body("x")
                .build()
                .unwrap()
        };
        assert!(check(&config, &level(18), NOW).is_ok());
        assert!(fault(&level(19)).contains("delay level 19 is over the limit max_delay_level of 18"));
        config.max_delay_level = 19;
        assert!(check(&config, &level(19), NOW).is_ok());
    }
}

//! The positions of one queue: smallest, next, and that of a time.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::{
    Query,
    ask::{Question, broken},
    check_topic, invalid,
};
use crate::{
    code::RequestCode,
    error::Error,
    message::MessageQueue,
    wire::request::queue_query::{OFFSET, QueueQuery, SearchTime, TIMESTAMP, read_number},
};

/// Which side of a time is searched for, since 5.1.1. Of messages stored at 1, 1, 3 and 3, with offsets 0 to 3:
///
/// | time | `Lower` | `Upper` |
/// |---|---|---|
/// | 0 | 0 | 0 |
/// | 1 | 0 | 1 |
/// | 2 | 2 | 1 |
/// | 3 | 2 | 3 |
/// | 4 | 4 | 3 |
///
/// So the messages of a closed range of times are those from its begin's `Lower` to its end's `Upper`, unless the
/// range lies before or behind all messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[doc(alias = "BoundaryType")]
pub enum Boundary {
    /// The first message stored at the time or later; the next offset if there is none.
    Lower,
    /// The last message stored at the time or earlier; 0 if there is none.
    Upper,
}

impl Boundary {
    /// As `BoundaryType` is written.
    fn as_text(self) -> &'static str {
        match self {
            Self::Lower => "LOWER",
            Self::Upper => "UPPER",
        }
    }
}

pub(super) fn min(query: &Query<'_>, queue: &MessageQueue) -> Result<u64, Error> {
    offset(query, RequestCode::GET_MIN_OFFSET, queue, None)
}

pub(super) fn max(query: &Query<'_>, queue: &MessageQueue) -> Result<u64, Error> {
    offset(query, RequestCode::GET_MAX_OFFSET, queue, None)
}

pub(super) fn search(
    query: &Query<'_>,
    queue: &MessageQueue,
    time: SystemTime,
    boundary: Boundary,
) -> Result<u64, Error> {
    let search = SearchTime {
        timestamp_ms: milliseconds(time),
        boundary: boundary.as_text(),
    };
    let code = RequestCode::SEARCH_OFFSET_BY_TIMESTAMP;
    offset(query, code, queue, Some(search))
}

pub(super) fn earliest_store_time(
    query: &Query<'_>,
    queue: &MessageQueue,
) -> Result<Option<SystemTime>, Error> {
    let code = RequestCode::GET_EARLIEST_MSG_STORETIME;
    let (address, timestamp_ms) = number(query, code, queue, None, TIMESTAMP)?;
    match timestamp_ms {
        -1 => Ok(None),
        _ => store_time(timestamp_ms)
            .map(Some)
            .ok_or_else(|| broken(&address, format!("timestamp {timestamp_ms}"))),
    }
}

fn offset(
    query: &Query<'_>,
    code: RequestCode,
    queue: &MessageQueue,
    search: Option<SearchTime<'static>>,
) -> Result<u64, Error> {
    let (address, offset) = number(query, code, queue, search, OFFSET)?;
    u64::try_from(offset).map_err(|_| broken(&address, format!("offset {offset}")))
}

/// The one number that a broker answers about a queue, and the broker's address.
fn number(
    query: &Query<'_>,
    code: RequestCode,
    queue: &MessageQueue,
    search: Option<SearchTime<'static>>,
    field: &str,
) -> Result<(Arc<str>, i64), Error> {
    let topic = check_topic(queue.topic())?;
    let (broker_name, address) = query.holder(&topic, queue)?;
    let queue_id = queue.queue_id();
    let asked_topic = Arc::clone(&topic);
    let question = Question::new(code, move |writer| {
        let query = QueueQuery {
            topic: &asked_topic,
            queue_id,
            broker_name: Some(&broker_name),
            search,
        };
        query.write(writer);
    });
    let answer = query.ask(&topic, &address, &question)?;
    let number = read_number(field, answer.field(field)).map_err(|error| broken(&address, error))?;
    Ok((address, number))
}

impl Query<'_> {
    /// Name and master's address of the broker that holds a queue. Where messages can be sent is known; about all else
    /// the name servers are asked.
    fn holder(&self, topic: &Arc<str>, queue: &MessageQueue) -> Result<(Arc<str>, Arc<str>), Error> {
        let routes = &self.shared.routes;
        if let Some(route) = routes.known(topic).filter(|route| !route.from_template) {
            if let Some(known) = route.find(queue) {
                return Ok((Arc::clone(&known.broker.name), Arc::clone(&known.broker.address)));
            }
        }
        let route = routes.wait_for_query(topic, &self.deadline)?;
        let broker = route.holder(queue).map_err(invalid)?;
        match &broker.master {
            Some(address) => Ok((Arc::clone(&broker.name), Arc::clone(address))),
            None => Err(Error::NoRoute {
                topic: Arc::clone(topic),
                reason: format!(
                    "broker {} has no master now, and only a master knows the end of a queue",
                    crate::error::printable(&broker.name)
                )
                .into(),
            }),
        }
    }
}

/// Milliseconds since 1970; negative before.
pub(super) fn milliseconds(time: SystemTime) -> i64 {
    let whole = |duration: Duration| i64::try_from(duration.as_millis()).unwrap_or(i64::MAX);
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => whole(since),
        Err(before) => whole(before.duration()).saturating_neg(),
    }
}

/// The time of so many milliseconds since 1970, if there is such a time.
pub(super) fn store_time(timestamp_ms: i64) -> Option<SystemTime> {
    let since = Duration::from_millis(u64::try_from(timestamp_ms).ok()?);
    UNIX_EPOCH.checked_add(since)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_milliseconds_since_1970() {
        let time = |ms| UNIX_EPOCH + Duration::from_millis(ms);
        assert_eq!(milliseconds(UNIX_EPOCH), 0);
        assert_eq!(milliseconds(time(5) + Duration::from_micros(900)), 5);
        assert_eq!(milliseconds(UNIX_EPOCH - Duration::from_millis(7)), -7);
        assert_eq!(store_time(7), Some(time(7)));
        assert_eq!(store_time(-2), None);
        let last = store_time(i64::MAX).map(milliseconds);
        assert!(last.is_none_or(|ms| ms == i64::MAX));
    }
}

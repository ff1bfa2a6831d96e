//! One message by its id, of either kind.
//!
//! Both kinds have the same form. A broker's id holds the broker's address, and an address from an id is never connected
//! to: it only chooses among the brokers that the name servers list for the topic.

use std::{net::SocketAddr, sync::Arc};

use super::{
    Query,
    ask::{Question, broken},
    by_key::{Wanted, messages_of},
    check_topic, invalid,
};
use crate::{
    code::{RequestCode, ResponseCode},
    error::{Error, FailedOnBrokers},
    message::{MessageId, OffsetMessageId, StoredMessage},
    wire::{
        id::parse_offset_message_id, message::StoredRecord, request::view_message::ViewMessage,
        stored_message::stored_message,
    },
};

/// How brokers begin the remark of code 1 when nothing begins at an offset (`QueryMessageProcessor.viewMessageById`).
const NOTHING_THERE: &str = "can not find message by the offset";

/// Digits of a sender's id: 16 bytes, 28 with an IPv6 address, 17 from the senders of a 5.x proxy.
const SENDERS_ID_DIGITS: [usize; 3] = [32, 56, 34];

/// A message id of either kind, to [look the message up](crate::Producer::view_message).
///
/// As text an id does not say which kind it is; as [`MessageId`] or [`OffsetMessageId`] it does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AnyMessageId(Kind);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Kind {
    Senders(MessageId),
    Brokers(OffsetMessageId),
    Either(String),
}

impl From<MessageId> for AnyMessageId {
    fn from(id: MessageId) -> Self {
        Self(Kind::Senders(id))
    }
}

impl From<OffsetMessageId> for AnyMessageId {
    fn from(id: OffsetMessageId) -> Self {
        Self(Kind::Brokers(id))
    }
}

impl From<&str> for AnyMessageId {
    fn from(text: &str) -> Self {
        Self(Kind::Either(text.to_owned()))
    }
}

impl From<String> for AnyMessageId {
    fn from(text: String) -> Self {
        Self(Kind::Either(text))
    }
}

/// A broker's id, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Place {
    broker: SocketAddr,
    offset: i64,
}

pub(super) fn view(
    query: &Query<'_>,
    topic: &str,
    id: &AnyMessageId,
) -> Result<Option<StoredMessage>, Error> {
    let topic = check_topic(topic)?;
    let (place, key) = match &id.0 {
        Kind::Senders(id) => (None, Some(senders_id(id.as_str()).map_err(invalid)?)),
        Kind::Brokers(id) => (Some(place_of(id.as_str()).map_err(invalid)?), None),
        Kind::Either(text) => {
            let key = senders_id(text).map_err(invalid)?;
            (place_of(text).ok(), Some(key))
        }
    };
    let route = query.shared.routes.wait_for_query(&topic, &query.deadline)?;
    if let Some(place) = place {
        if let Some((broker, address)) = route.with_address(place.broker) {
            return look_into_log(query, &topic, (&broker.name, address), place.offset);
        }
        if key.is_none() {
            return Err(invalid(format!(
                "the offset message id names {}, which is not the address of a broker of topic {topic} ({}); \
                 view_message_on() asks a broker by its name",
                place.broker,
                route.broker_names()
            )));
        }
    }
    let Some(key) = key else { return Ok(None) };
    by_senders_id(query, &route, key)
}

pub(super) fn view_on(
    query: &Query<'_>,
    broker_name: &str,
    topic: &str,
    id: OffsetMessageId,
) -> Result<Option<StoredMessage>, Error> {
    let topic = check_topic(topic)?;
    let place = place_of(id.as_str()).map_err(invalid)?;
    let route = query.shared.routes.wait_for_query(&topic, &query.deadline)?;
    let broker = route.broker(broker_name);
    let Some((broker, address)) = broker.and_then(|it| Some((it, it.addresses.first()?))) else {
        return Err(invalid(format!(
            "there is no broker {broker_name:?} for topic {topic}, which is on {}",
            route.broker_names()
        )));
    };
    look_into_log(query, &topic, (&broker.name, address), place.offset)
}

/// Asks a broker for what begins at a place in its log.
fn look_into_log(
    query: &Query<'_>,
    topic: &Arc<str>,
    (broker_name, address): (&Arc<str>, &Arc<str>),
    offset: i64,
) -> Result<Option<StoredMessage>, Error> {
    let asked_topic = Arc::clone(topic);
    let question = Question::new(RequestCode::VIEW_MESSAGE_BY_ID, move |writer| {
        let request = ViewMessage {
            topic: &asked_topic,
            physical_offset: offset,
        };
        request.write(writer);
    });
    let answer = query.ask_any(topic, address, &question)?;
    let remark = answer.remark.as_deref().unwrap_or_default();
    match answer.code {
        ResponseCode::SUCCESS => {}
        ResponseCode::SYSTEM_ERROR if remark.starts_with(NOTHING_THERE) => return Ok(None),
        code => return Err(Error::refused(address, code, answer.remark.as_deref())),
    }
    let (record, _) = StoredRecord::decode(&answer.body).map_err(|error| broken(address, error))?;
    if record.physical_offset != offset {
        let other = record.physical_offset;
        return Err(broken(
            address,
            format!("the message of offset {other} for that of offset {offset}"),
        ));
    }
    let message = stored_message(&record, Arc::clone(broker_name)).map_err(|error| broken(address, error))?;
    Ok(Some(message))
}

/// Has all brokers of the topic look into their index.
fn by_senders_id(
    query: &Query<'_>,
    route: &crate::cluster::query_route::QueryRoute,
    key: &str,
) -> Result<Option<StoredMessage>, Error> {
    let wanted = Wanted::unique_key(&route.topic, key);
    let found = messages_of(query, route, &wanted);
    let first = found
        .messages
        .into_iter()
        .min_by_key(StoredMessage::store_timestamp_ms);
    if first.is_some() || found.failed.is_empty() {
        return Ok(first);
    }
    let what = format!("looking for message {key} of topic {}", route.topic);
    let failed = FailedOnBrokers::new(what, found.asked, found.failed);
    Err(Error::FailedOnBrokers(Box::new(failed)))
}

/// Checks that text may be a sender's id. `Err` names the rule and the value.
fn senders_id(text: &str) -> Result<&str, String> {
    let is_hexadecimal = text.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hexadecimal && SENDERS_ID_DIGITS.contains(&text.len()) {
        return Ok(text);
    }
    Err(format!(
        "{:?} is no message id: those have 32, 34 or 56 hexadecimal digits",
        excerpt(text)
    ))
}

/// Takes a broker's id apart. `Err` names the rule and the value.
fn place_of(text: &str) -> Result<Place, String> {
    let no_id = |rule: &dyn std::fmt::Display| format!("{:?} is no offset message id: {rule}", excerpt(text));
    let (broker, offset) = parse_offset_message_id(text).map_err(|error| no_id(&error))?;
    if broker.port() == 0 {
        return Err(no_id(&"it names port 0"));
    }
    let offset = i64::try_from(offset).map_err(|_| no_id(&format!("it names offset {offset}")))?;
    Ok(Place { broker, offset })
}

/// The beginning of a text, so that an error stays readable whatever it was given.
fn excerpt(text: &str) -> String {
    const SHOWN: usize = 70;
    let mut shown: String = text.chars().take(SHOWN).collect();
    if shown.len() < text.len() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;

    const IPV4: &str = "7F00000100002A9F0000000000000126";
    const IPV6: &str = "FD00000000000000000000000000000200002A9F0000000000000126";

    #[test]
    fn brokers_ids_are_taken_apart() {
        let place = |broker: &str| Place {
            broker: broker.parse().unwrap(),
            offset: 0x126,
        };
        assert_eq!(place_of(IPV4), Ok(place("127.0.0.1:10911")));
        assert_eq!(place_of(IPV6), Ok(place("[fd00::2]:10911")));
    }

    #[test]
    fn what_is_no_id_is_told_with_the_rule() {
        for (text, rule) in [
            (&IPV4[1..], "an offset message id has 32 or 56 digits, not 31"),
            ("7F00000100000000000000000000126X", "no hexadecimal digit"),
            ("7F000001000100000000000000000126", "names port 65536"),
            ("7F000001000000000000000000000126", "names port 0"),
            (
                "7F00000100002A9F8000000000000000",
                "names offset 9223372036854775808",
            ),
        ] {
            let error = place_of(text).unwrap_err();
            assert!(error.contains(rule) && error.contains(text), "{error}");
        }
        for text in [
            "",
            "x",
            &IPV4[1..],
            "7F00000100002A9F00000000000001 6",
            &"é".repeat(16),
        ] {
            let error = senders_id(text).unwrap_err();
            assert!(error.contains("32, 34 or 56 hexadecimal digits"), "{error}");
        }
        for digits in SENDERS_ID_DIGITS {
            assert!(senders_id(&"aF".repeat(digits / 2)).is_ok());
        }
        assert!(senders_id(&"A".repeat(100_000)).unwrap_err().len() < 200);
    }
}

//! What a broker does with a message or a batch: checks in the order of `SendMessageProcessor`, the properties that
//! it adds, the store, the reply. Refusals' texts are in `dialect`.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::code::{RequestCode, ResponseCode};
use crate::message::property::{self, CLUSTER};
use crate::wire::header::Header;
use crate::wire::id::{UniqueKeyPrefix, id_milliseconds, offset_message_id};
use crate::wire::message::{BatchElements, MAX_PROPERTIES_LENGTH};
use crate::wire::properties;
use crate::wire::request::send_message::ReceivedSend;

use super::broker::Session;
use super::delays::{self, Wait, Waiting};
use super::dialect::ServerVersion;
use super::reply::{Reply, ReplyFields, StoredFields};
use super::shared::{BrokerPlace, CLUSTER_NAME, REGION_ID, Shared};
use super::store::{Incoming, Item, Store};
use super::topics::TopicSettings;
use super::transactions::Transactions;

/// The region that stored it (`MessageConst.PROPERTY_MSG_REGION`).
const MSG_REGION: &str = "MSG_REGION";

/// Whether its way is traced (`MessageConst.PROPERTY_TRACE_SWITCH`).
const TRACE_ON: &str = "TRACE_ON";

/// The answer to a send, stored or refused.
pub(super) fn answer(shared: &Shared, session: &mut Session, header: &Header<'_>, body: &[u8]) -> Reply {
    let stored = decode(shared, session, header, body).and_then(|send| store(shared, session, &send, body));
    match stored {
        Ok(stored) => Reply::success(ReplyFields::Stored(stored)),
        Err(refusal) => refusal,
    }
}

/// The header of a send or of a reply.
pub(super) fn decode<'a>(
    shared: &Shared,
    session: &mut Session,
    header: &Header<'a>,
    body: &[u8],
) -> Result<ReceivedSend<'a>, Reply> {
    let Ok(send) = ReceivedSend::decode(header) else {
        return Err(bad_header(shared.version, header));
    };
    if body.is_empty() && shared.version == ServerVersion::V5_5_0 {
        // It takes the length of an absent body, before any other check.
        let remark = "java.lang.NullPointerException: Cannot read the array length because the return value of \
                      \"org.apache.rocketmq.remoting.protocol.RemotingCommand.getBody()\" is null";
        return Err(Reply::refusal(
            ResponseCode::SYSTEM_ERROR,
            remark,
            ReplyFields::None,
        ));
    }
    if *session.producer_group != *send.producer_group {
        session.producer_group = Arc::from(&*send.producer_group);
    }
    Ok(send)
}

/// A header that lacks a field or has text in the place of a number.
fn bad_header(version: ServerVersion, header: &Header<'_>) -> Reply {
    let (topic, numbers) = if header.code == RequestCode::SEND_MESSAGE.value() {
        (
            "topic",
            [
                "defaultTopicQueueNums",
                "queueId",
                "sysFlag",
                "bornTimestamp",
                "flag",
                "reconsumeTimes",
            ],
        )
    } else {
        ("b", ["d", "e", "f", "g", "h", "j"])
    };
    let is_no_number = |text: &Cow<'_, str>| text.parse::<i64>().is_err();
    let wrong = numbers
        .iter()
        .filter_map(|name| header.field(name))
        .find(is_no_number);
    // 4.7.0 takes a wrong number for an absent one, and looks at the topic first.
    let looks_at_topic = wrong.is_none() || version == ServerVersion::V4_7_0;
    if looks_at_topic && header.field(topic).is_none() {
        let (code, remark, with_region) = version.topic_missing();
        let fields = if with_region {
            ReplyFields::Region
        } else {
            ReplyFields::None
        };
        return Reply::refusal(code, remark, fields);
    }
    let (code, remark) = version.number_missing(wrong.as_deref());
    Reply::refusal(code, remark, ReplyFields::None)
}

/// Checks a send and stores it.
fn store(
    shared: &Shared,
    session: &Session,
    send: &ReceivedSend<'_>,
    body: &[u8],
) -> Result<StoredFields, Reply> {
    let broker = broker_of(shared, session)?;
    let target = check_target(shared, session, send)?;
    let target = priority_queue(shared, session, send, &target.0).map_or(target.clone(), |id| (target.0, id));
    let now = shared.delays.now_ms();
    let (mut owned, transaction_id) = items(shared, broker, send, body, now)?;
    check_size(shared, send, &target.0, body, &owned)?;
    let is_half =
        matches!(&*owned, [only] if !send.batch && Transactions::is_half(shared.version, &only.properties));
    let wait = match &mut *owned {
        [only] if !send.batch && !is_half => {
            only.wait(shared.version, send.sys_flag, &target.0, target.1, now)?
        }
        _ => None,
    };
    let topic = Arc::clone(&target.0);
    let stored = keep(shared, session, send, target, &owned, (now, wait))?;
    let recall_handle =
        wait.and_then(|wait| wait.recall_handle(&topic, &broker.name, transaction_id.as_deref()));
    Ok(StoredFields {
        transaction_id: transaction_id.map(Into::into),
        recall_handle: recall_handle.map(Box::new),
        ..stored
    })
}

/// Stores a reply with these properties.
pub(super) fn keep_reply(
    shared: &Shared,
    session: &Session,
    send: &ReceivedSend<'_>,
    body: &[u8],
    text: &str,
) -> Result<StoredFields, Reply> {
    let target = check_target(shared, session, send)?;
    let owned = [OwnedItem {
        flag: send.flag,
        body,
        properties: Cow::Borrowed(text),
    }];
    check_size(shared, send, &target.0, body, &owned)?;
    keep(
        shared,
        session,
        send,
        target,
        &owned,
        (shared.delays.now_ms(), None),
    )
}

fn broker_of<'a>(shared: &'a Shared, session: &Session) -> Result<&'a BrokerPlace, Reply> {
    let broker = shared.brokers.get(session.origin.broker);
    broker.ok_or_else(|| Reply::refusal(ResponseCode::SYSTEM_ERROR, "no such broker", ReplyFields::None))
}

fn keep(
    shared: &Shared,
    session: &Session,
    send: &ReceivedSend<'_>,
    (topic, queue_id): (Arc<str>, u32),
    owned: &[OwnedItem<'_>],
    (now, wait): (u64, Option<Wait>),
) -> Result<StoredFields, Reply> {
    let broker_address = broker_of(shared, session)?.address();
    let (log_topic, log_queue_id) = wait.map_or_else(|| (Arc::clone(&topic), queue_id), Wait::place);
    let incoming = Incoming {
        broker: session.origin.broker,
        broker_port: broker_address.port(),
        topic: &log_topic,
        queue_id: log_queue_id,
        sys_flag: send.sys_flag,
        reconsume_times: send.reconsume_times,
        born_timestamp_ms: send.born_timestamp_ms,
        born_host: session.client,
        store_timestamp_ms: i64::try_from(now).unwrap_or(i64::MAX),
        producer_group: &session.producer_group,
    };
    let items: Vec<Item<'_>> = owned.iter().map(OwnedItem::lend).collect();
    let disk_full = |_| refuse(shared.version.disk_full());
    let place = match items.as_slice() {
        [item] if !send.batch && Transactions::is_half(shared.version, item.properties) => shared
            .transactions
            .prepare(shared, &incoming, item)
            .map_err(disk_full)?,
        items => shared.store.put(&incoming, items).map_err(disk_full)?,
    };
    if let (Some(wait), [item]) = (wait, &*items) {
        let waiting = waiting(&incoming, item, &topic, queue_id);
        if !shared.delays.hold(wait, waiting) {
            return Err(refuse(shared.version.disk_full()));
        }
    }
    Ok(StoredFields {
        message_ids: message_ids(broker_address, &log_topic, place.physical_offset, &items),
        queue_id,
        queue_offset: place.queue_offset,
        transaction_id: None,
        recall_handle: None,
    })
}

/// A message as it is to be stored when its time has come.
fn waiting(incoming: &Incoming<'_>, item: &Item<'_>, topic: &Arc<str>, queue_id: u32) -> Waiting {
    Waiting {
        broker: incoming.broker,
        broker_port: incoming.broker_port,
        topic: Arc::clone(topic),
        queue_id,
        sys_flag: incoming.sys_flag,
        reconsume_times: incoming.reconsume_times,
        born_timestamp_ms: incoming.born_timestamp_ms,
        born_host: incoming.born_host,
        producer_group: Arc::clone(incoming.producer_group),
        flag: item.flag,
        body: item.body.to_vec(),
        properties: item.properties.to_owned(),
    }
}

/// The queue that a priority chooses, from 5.4.0 on.
fn priority_queue(shared: &Shared, session: &Session, send: &ReceivedSend<'_>, topic: &str) -> Option<u32> {
    // Nearly all sends have none: not to be slowed down.
    if shared.version != ServerVersion::V5_5_0 || send.batch || !send.properties.contains(property::PRIORITY)
    {
        return None;
    }
    let priority = properties::find(
        &send.properties,
        property::PRIORITY,
        shared.version.reading_rules(),
    )?;
    let (_, settings) = shared.topics.find(session.origin.broker, topic)?;
    let last = settings.write_queue_nums.checked_sub(1)?;
    Some(priority.parse::<u32>().ok()?.min(last))
}

/// A refusal from behind the point where the broker names its region.
fn refuse((code, remark): (ResponseCode, String)) -> Reply {
    Reply::refusal(code, remark, ReplyFields::Region)
}

/// The topic, which may be created now, and the queue.
fn check_target(
    shared: &Shared,
    session: &Session,
    send: &ReceivedSend<'_>,
) -> Result<(Arc<str>, u32), Reply> {
    shared.version.check_topic(&send.topic).map_err(refuse)?;
    if send.batch && shared.version == ServerVersion::V5_5_0 && send.topic.starts_with("%RETRY%") {
        let remark = format!("batch request does not support retry group {}", send.topic);
        return Err(refuse((ResponseCode::MESSAGE_ILLEGAL, remark)));
    }
    let found = shared.topics.find_or_create(
        session.origin.broker,
        &send.topic,
        &send.default_topic,
        send.default_topic_queue_nums,
        send.unit_mode,
    );
    let (topic, settings) = found.ok_or_else(|| {
        refuse((
            ResponseCode::TOPIC_NOT_EXIST,
            shared.version.no_topic(&send.topic),
        ))
    })?;
    let queue_id = choose_queue(shared, session, send, settings)?;
    Ok((topic, queue_id))
}

/// The messages of a send as they are to be kept, and the transaction id to answer with: 5.5.0 echoes the unique key,
/// of a batch that of its header.
fn items<'a>(
    shared: &Shared,
    broker: &BrokerPlace,
    send: &'a ReceivedSend<'_>,
    body: &'a [u8],
    now: u64,
) -> Result<(Vec<OwnedItem<'a>>, Option<String>), Reply> {
    let version = shared.version;
    if send.batch {
        let unique_key = match version {
            ServerVersion::V4_7_0 | ServerVersion::V4_9_7 => None,
            ServerVersion::V5_5_0 => {
                properties::find(&send.properties, property::UNIQ_KEY, version.reading_rules())
            }
        };
        return Ok((batch_items(version, send, body)?, unique_key.map(str::to_owned)));
    }
    let (properties, unique_key) = stored_properties(shared, broker, &send.properties, now);
    Ok((
        vec![OwnedItem {
            flag: send.flag,
            body,
            properties,
        }],
        unique_key,
    ))
}

/// Refuses what is too large: 4.7.0 compares the whole record with the limit (`CommitLog`), later releases only the
/// body, and all of them a batch's body. 4.7.0 also compares all records of a batch together.
fn check_size(
    shared: &Shared,
    send: &ReceivedSend<'_>,
    topic: &str,
    body: &[u8],
    items: &[OwnedItem<'_>],
) -> Result<(), Reply> {
    if send.batch {
        let records = items.iter().map(|item| {
            let properties = item.properties.len();
            Store::record_length(topic, item.body.len(), properties)
        });
        let records = records.fold(0_usize, usize::saturating_add);
        let limit = shared.max_message_size;
        if let Some((code, remark)) = shared.version.batch_too_large(body.len(), records, limit) {
            return Err(Reply::refusal(code, remark, ReplyFields::None));
        }
    }
    let longest = items.iter().map(|item| item.properties.len()).max().unwrap_or(0);
    let size = match shared.version {
        ServerVersion::V4_7_0 if !send.batch => Store::record_length(topic, body.len(), longest),
        _ => body.len(),
    };
    if size > shared.max_message_size || longest > MAX_PROPERTIES_LENGTH {
        return Err(refuse(shared.version.message_illegal(shared.max_message_size)));
    }
    Ok(())
}

/// The queue that was asked for, or one of the broker's choice for a negative id.
///
/// Unlike 4.7.0, which may choose and even store a negative id: no test should depend on that.
fn choose_queue(
    shared: &Shared,
    session: &Session,
    send: &ReceivedSend<'_>,
    settings: TopicSettings,
) -> Result<u32, Reply> {
    let queues = settings.read_queue_nums.max(settings.write_queue_nums);
    match u32::try_from(send.queue_id) {
        Ok(queue_id) if queue_id < queues => Ok(queue_id),
        Ok(_) => {
            let (code, remark) =
                shared
                    .version
                    .illegal_queue(send.queue_id, &send.topic, settings, session.client);
            Err(Reply::refusal(code, remark, ReplyFields::Region))
        }
        Err(_) => shared
            .next_queue()
            .checked_rem(settings.write_queue_nums)
            .ok_or_else(|| {
                let remark = "java.lang.ArithmeticException: / by zero";
                Reply::refusal(ResponseCode::SYSTEM_ERROR, remark, ReplyFields::None)
            }),
    }
}

/// One message of a send with the properties that the broker keeps.
struct OwnedItem<'a> {
    flag: i32,
    body: &'a [u8],
    properties: Cow<'a, str>,
}

impl OwnedItem<'_> {
    /// What it has to wait for, if it has to; the properties then say where it belongs.
    fn wait(
        &mut self,
        version: ServerVersion,
        sys_flag: i32,
        topic: &str,
        queue_id: u32,
        now_ms: u64,
    ) -> Result<Option<Wait>, Reply> {
        let wait = delays::wanted(version, sys_flag, &self.properties, now_ms).map_err(refuse)?;
        if let Some(wait) = wait {
            let mut list = properties::parse(&self.properties, version.reading_rules());
            for (name, value) in wait.properties(topic, queue_id) {
                set(&mut list, name, &value);
            }
            self.properties = Cow::Owned(encode(version, &list));
        }
        Ok(wait)
    }

    fn lend(&self) -> Item<'_> {
        Item {
            flag: self.flag,
            body: self.body,
            properties: &self.properties,
        }
    }
}

/// The elements of a batch. 4.7.0 and 5.5.0 keep their properties as they are; 4.9.7 appends those of the batch.
fn batch_items<'a>(
    version: ServerVersion,
    send: &ReceivedSend<'_>,
    body: &'a [u8],
) -> Result<Vec<OwnedItem<'a>>, Reply> {
    let appended = match version {
        ServerVersion::V4_7_0 | ServerVersion::V5_5_0 => String::new(),
        ServerVersion::V4_9_7 => {
            let mut list = properties::parse(&send.properties, version.reading_rules());
            set(&mut list, CLUSTER, CLUSTER_NAME);
            encode(version, &list)
        }
    };
    let elements: Result<Vec<_>, _> = BatchElements::new(body).collect();
    match elements {
        Ok(elements) if !elements.is_empty() => Ok(elements
            .into_iter()
            .map(|element| OwnedItem {
                flag: element.flag,
                body: element.body,
                properties: append(element.properties, &appended),
            })
            .collect()),
        _ => {
            let remark = "java.nio.BufferUnderflowException";
            Err(Reply::refusal(
                ResponseCode::SYSTEM_ERROR,
                remark,
                ReplyFields::None,
            ))
        }
    }
}

fn append<'a>(own: &'a str, more: &str) -> Cow<'a, str> {
    if more.is_empty() {
        return Cow::Borrowed(own);
    }
    let separator = property::PROPERTY_SEPARATOR;
    let needs_separator = !own.is_empty() && !own.ends_with(separator);
    let mut all = String::with_capacity(own.len() + more.len() + 1);
    all.push_str(own);
    if needs_separator {
        all.push(separator);
    }
    all.push_str(more);
    Cow::Owned(all)
}

/// The properties of a single message as this release keeps them, and the unique key if it answers with it.
fn stored_properties<'a>(
    shared: &Shared,
    broker: &BrokerPlace,
    sent: &'a str,
    now: u64,
) -> (Cow<'a, str>, Option<String>) {
    let version = shared.version;
    match version {
        ServerVersion::V4_7_0 => (Cow::Borrowed(sent), None),
        ServerVersion::V4_9_7 => {
            let mut list = properties::parse(sent, version.reading_rules());
            set(&mut list, CLUSTER, CLUSTER_NAME);
            // It waits as asked, and saves the nine bytes.
            list.retain(|property| property.0 != property::WAIT);
            (Cow::Owned(encode(version, &list)), None)
        }
        ServerVersion::V5_5_0 => {
            let mut list = properties::parse(sent, version.reading_rules());
            let given = list.iter().find(|property| property.0 == property::UNIQ_KEY);
            let unique_key =
                given.map_or_else(|| brokers_unique_key(shared, broker, now), |key| key.1.clone());
            set(&mut list, property::UNIQ_KEY, &unique_key);
            set(&mut list, MSG_REGION, REGION_ID);
            set(&mut list, TRACE_ON, "true");
            set(&mut list, CLUSTER, CLUSTER_NAME);
            (Cow::Owned(encode(version, &list)), Some(unique_key))
        }
    }
}

/// Properties with the region and trace switch of 5.5.0.
pub(super) fn with_region(version: ServerVersion, sent: &str) -> String {
    let mut list = properties::parse(sent, version.reading_rules());
    set(&mut list, MSG_REGION, REGION_ID);
    set(&mut list, TRACE_ON, "true");
    encode(version, &list)
}

fn set(list: &mut Vec<(String, String)>, name: &str, value: &str) {
    match list.iter_mut().find(|property| property.0 == name) {
        Some(property) => value.clone_into(&mut property.1),
        None => list.push((name.to_owned(), value.to_owned())),
    }
}

/// Property text as this release writes it.
fn encode(version: ServerVersion, list: &[(String, String)]) -> String {
    let mut text = String::new();
    properties::append(
        &mut text,
        list.iter().map(|property| (&*property.0, &*property.1)),
    );
    if version == ServerVersion::V4_9_7 {
        // `MessageDecoder.messageProperties2String` of 4.9.7 leaves out the last separator.
        text.pop();
    }
    text
}

/// The unique key that a 5.5.0 broker gives to a message without one.
fn brokers_unique_key(shared: &Shared, broker: &BrokerPlace, now: u64) -> String {
    unique_key_at(shared, broker.address(), now)
}

/// The unique key of a message that the cluster itself sends.
pub(super) fn unique_key_of(shared: &Shared, address: SocketAddr) -> String {
    unique_key_at(shared, address, shared.delays.now_ms())
}

fn unique_key_at(shared: &Shared, address: SocketAddr, now: u64) -> String {
    let [.., high, low] = std::process::id().to_be_bytes();
    let [.., counter_high, counter_low] = shared.next_unique_key().to_be_bytes();
    let pid = u16::from_be_bytes([high, low]);
    let counter = u16::from_be_bytes([counter_high, counter_low]);
    let tag = u32::from(address.port());
    UniqueKeyPrefix::new(address.ip(), pid, tag)
        .key(id_milliseconds(now), counter)
        .as_str()
        .to_owned()
}

/// Offset message ids of records that lie one behind the other, comma-separated.
fn message_ids(broker_address: SocketAddr, topic: &str, first_offset: u64, items: &[Item<'_>]) -> String {
    let mut offset = first_offset;
    let mut ids = String::with_capacity(items.len().saturating_mul(33));
    for item in items {
        if !ids.is_empty() {
            ids.push(',');
        }
        ids.push_str(offset_message_id(broker_address, offset).as_str());
        let length = Store::record_length(topic, item.body.len(), item.properties.len());
        offset = offset.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }
    ids
}

//! One attempt: from a message and a queue to a request, and from a reply to a result.

use std::sync::Arc;

use super::{
    options::{AddedProperty, Options},
    plan::Destination,
    result::{SendResult, SendStatus},
    shared::Shared,
};
use crate::{
    code::{RequestCode, ResponseCode},
    error::{Error, Written, is_busy_refusal},
    message::{Message, MessageId, MessageQueue, property},
    net::{
        connection::{Alarm, Connection, Manner, Request, Waiting},
        meter::Answered,
        waiter::Waiter,
    },
    wire::{
        compression,
        header::{FieldWriter, Header},
        message::RECORD_OVERHEAD,
        request::send_message::{PropertyList, SendMessage, SendReply},
    },
};

/// A message as it goes out: the same for every attempt, so that copies can be told as copies.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    pub(super) message: Message,
    pub(super) message_id: MessageId,
    pub(super) born_timestamp_ms: i64,
    added: Option<Arc<[AddedProperty]>>,
    /// What goes out in place of the body, if that is smaller.
    compressed: Option<Arc<Compressed>>,
}

/// A body as it goes out, and what tells readers so.
#[derive(Debug)]
struct Compressed {
    body: Vec<u8>,
    sys_flag: i32,
}

/// What a broker answered to an attempt: stored, and how, or not.
pub(super) type Verdict = Result<(SendStatus, SendReply), Error>;

impl Prepared {
    /// Checks the sizes and gives the message its id. The message itself is not changed.
    pub(super) fn new(shared: &Shared, message: &Message, options: &Options) -> Result<Self, Error> {
        let unix_ms = super::ids::unix_milliseconds();
        let message_id = shared.ids.next(unix_ms);
        let more = options.added.iter().flat_map(|added| added.iter());
        let more: usize = more
            .map(|(name, value)| property::encoded_length(name, value))
            .sum();
        let added = more + property::encoded_length(property::UNIQ_KEY, message_id.as_str());
        let properties = message.properties_length() + added;
        let most = shared.config.max_properties_size;
        if properties > most {
            return Err(Error::InvalidMessage {
                reason: format!(
                    "the properties of the message for topic {} take {properties} bytes (with the {added} of the message \
                     id); the limit max_properties_size is {most}",
                    message.topic()
                ),
            });
        }
        let record = message.body().len() + message.topic().len() + properties + RECORD_OVERHEAD;
        let most = shared.config.max_message_size;
        if record > most {
            return Err(Error::InvalidMessage {
                reason: format!(
                    "the message for topic {} takes {record} bytes as a stored record (body {}, properties {properties}); \
                     the limit max_message_size is {most}",
                    message.topic(),
                    message.body().len()
                ),
            });
        }
        let born_timestamp_ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
        Ok(Self {
            message: message.clone(),
            message_id,
            born_timestamp_ms,
            added: options.added.clone(),
            compressed: compressed(shared, message),
        })
    }

    /// The body as it goes out.
    fn body(&self) -> &[u8] {
        match &self.compressed {
            Some(compressed) => &compressed.body,
            None => self.message.body(),
        }
    }

    /// What the system flag says of the body.
    fn sys_flag(&self) -> i32 {
        self.compressed
            .as_ref()
            .map_or(0, |compressed| compressed.sys_flag)
    }

    /// What the message takes while it is held, in both forms.
    pub(super) fn size(&self) -> usize {
        let compressed = self
            .compressed
            .as_ref()
            .map_or(0, |compressed| compressed.body.len());
        self.message.body().len() + compressed + self.message.properties_length() + RECORD_OVERHEAD
    }
}

/// The compressed body, if the producer compresses and the body is long enough and becomes smaller.
fn compressed(shared: &Shared, message: &Message) -> Option<Arc<Compressed>> {
    let algorithm = shared.config.compression?;
    let body = message.body();
    if body.len() < shared.config.compress_from {
        return None;
    }
    let body = compression::compress(algorithm, shared.config.compression_level, body)?;
    let sys_flag = compression::sys_flag(algorithm);
    Some(Arc::new(Compressed { body, sys_flag }))
}

/// Sends the message to a broker and registers who waits for the verdict.
pub(super) fn send(
    shared: &Shared,
    prepared: &Prepared,
    to: &Destination,
    connection: &Arc<Connection>,
    waiting: &Waiting<'_>,
    manner: Manner,
) -> Result<i32, Error> {
    with_request(shared, prepared, to, |code, write_fields| {
        let request = Request {
            code,
            write_fields,
            body: prepared.body(),
        };
        connection.request(request, waiting, manner)
    })
}

/// Hands a one-way message over.
pub(super) fn send_oneway(
    shared: &Shared,
    prepared: &Prepared,
    to: &Destination,
    connection: &Arc<Connection>,
    until: std::time::Instant,
) -> Result<(), Error> {
    with_request(shared, prepared, to, |code, write_fields| {
        connection.oneway(
            Request {
                code,
                write_fields,
                body: prepared.body(),
            },
            until,
        )
    })
}

/// Who waits for an attempt's verdict, and whether the timer keeps the time.
pub(super) fn waiting(waiter: &Arc<dyn Waiter>, ticket: u32, alarm: Option<Alarm>) -> Waiting<'_> {
    Waiting {
        waiter,
        ticket,
        alarm,
    }
}

fn with_request<R>(
    shared: &Shared,
    prepared: &Prepared,
    to: &Destination,
    send: impl FnOnce(RequestCode, &dyn Fn(&mut FieldWriter<'_>)) -> Result<R, Error>,
) -> Result<R, Error> {
    let id = (property::UNIQ_KEY, prepared.message_id.as_str());
    let (usual, with_more);
    let added: &[(&str, &str)] = match &prepared.added {
        None => {
            usual = [id];
            &usual
        }
        Some(more) => {
            let more = more.iter().map(|(name, value)| (*name, &**value));
            with_more = [id].into_iter().chain(more).collect::<Vec<_>>();
            &with_more
        }
    };
    let invalid = |what: &str| Error::InvalidMessage {
        reason: format!("{what} does not fit a 32-bit number"),
    };
    let header = SendMessage {
        producer_group: &shared.config.producer_group,
        topic: prepared.message.topic(),
        default_topic: &shared.config.create_topic_key,
        default_topic_queue_nums: i32::try_from(shared.config.default_topic_queue_nums)
            .map_err(|_| invalid("default_topic_queue_nums"))?,
        queue_id: i32::try_from(to.queue.queue_id()).map_err(|_| invalid("the queue id"))?,
        sys_flag: prepared.sys_flag(),
        born_timestamp_ms: prepared.born_timestamp_ms,
        flag: prepared.message.flag(),
        properties: PropertyList {
            own: prepared.message.property_pairs(),
            added,
        },
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        // Unlike 5.x clients: only proxies and static topics read it, and those are not sent to.
        broker_name: None,
    };
    let code = if prepared.message.is_reply() {
        RequestCode::SEND_REPLY_MESSAGE_V2
    } else {
        RequestCode::SEND_MESSAGE_V2
    };
    send(code, &|writer| header.write_v2(writer))
}

/// Reads the answer to an attempt.
pub(super) fn read_reply(address: &Arc<str>, header: &Header<'_>) -> Verdict {
    let code = ResponseCode::new(header.code);
    let Some(status) = SendStatus::from_code(code) else {
        return Err(Error::refused(address, code, header.remark.as_deref()));
    };
    match SendReply::decode(header) {
        Ok(reply) => Ok((status, reply)),
        // The broker says stored, but not where: nothing is made up.
        Err(error) => Err(Error::Protocol {
            address: Arc::clone(address),
            written: Written::All,
            reason: format!("the broker answered {code} without what that must contain: {error}").into(),
        }),
    }
}

/// What the answer to an attempt is counted as.
pub(super) fn judge(code: ResponseCode, remark: &str) -> Answered {
    if SendStatus::from_code(code).is_some() {
        Answered::Done
    } else if is_busy_refusal(code, remark) {
        Answered::Busy
    } else {
        Answered::Refused
    }
}

/// Makes the result of an attempt that is stored.
pub(super) fn result(
    shared: &Shared,
    prepared: &Prepared,
    to: &Destination,
    stored: (SendStatus, SendReply),
) -> SendResult {
    let (status, reply) = stored;
    let queue = if reply.queue_id == to.queue.queue_id() {
        Arc::clone(&to.queue)
    } else {
        // The broker has the last word on where it put the message.
        let topic = Arc::clone(prepared.message.shared_topic());
        Arc::new(MessageQueue::new(
            topic,
            Arc::clone(to.queue.shared_broker_name()),
            reply.queue_id,
        ))
    };
    SendResult {
        status,
        message_id: prepared.message_id,
        offset_message_id: reply.offset_message_id,
        queue,
        queue_offset: reply.queue_offset,
        transaction_id: reply.transaction_id,
        region_id: reply
            .region_id
            .map_or_else(|| Arc::clone(&shared.default_region), Arc::from),
        trace_on: reply.trace_on,
        attempts: 1,
        may_be_duplicated: false,
    }
}

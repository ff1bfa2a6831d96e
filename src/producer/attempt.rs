//! One attempt: from a message and a queue to a request, and from a reply to a result.

use std::{
    sync::{Arc, OnceLock},
    time::Instant,
};

use super::{
    batch::BatchBody,
    plan::{Destination, Finished},
    release,
    result::{SendResult, SendStatus},
    shared::Shared,
    timing,
};
use crate::{
    code::{RequestCode, ResponseCode},
    error::{Error, Written, is_busy_refusal},
    message::{Message, MessageId, MessageQueue, property},
    net::{
        connection::{Alarm, Connection, Frame, Manner, Waiting},
        deadline::Deadline,
        meter::Answered,
        waiter::Waiter,
    },
    wire::{
        WireError, compression,
        header::{Envelope, Header, encode_frame},
        message::RECORD_OVERHEAD,
        request::send_message::{PropertyList, SendMessage, SendReply},
        template::Template,
    },
};

/// `MessageSysFlag.TRANSACTION_PREPARED_TYPE`.
const SYS_FLAG_PREPARED: i32 = 4;

/// A message as it goes out: the same for every attempt, so that copies can be told as copies.
#[derive(Clone, Debug)]
pub(super) struct Prepared {
    /// Of a batch, the first.
    pub(super) message: Message,
    pub(super) message_id: MessageId,
    pub(super) born_timestamp_ms: i64,
    /// All messages of a batch, as they go out.
    pub(super) batch: Option<Arc<BatchBody>>,
    /// What goes out in place of the body, if that is smaller.
    pub(super) compressed: Option<Arc<Compressed>>,
    pub(super) kind: Kind,
}

/// What a message gets beside its own properties and its id.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Usual,
    /// Stored out of sight until its transaction ends.
    Half,
    /// These tell a consumer whom to reply to.
    Request(Arc<[AddedProperty]>),
}

/// A property that a message gets on its way, and that its sender does not see.
pub(super) type AddedProperty = (&'static str, Box<str>);

/// A body as it goes out, and what tells readers so.
#[derive(Debug)]
pub(super) struct Compressed {
    body: Vec<u8>,
    sys_flag: i32,
}

/// What a broker answered to an attempt: stored, how and where.
pub(super) type Stored = (SendStatus, SendReply);

/// What became of an attempt.
pub(super) type Verdict = Result<Stored, Error>;

impl Prepared {
    /// Checks the sizes and gives the message its id. The message itself is not changed.
    pub(super) fn new(shared: &Shared, message: &Message) -> Result<Self, Error> {
        Self::checked(shared, message, Kind::Usual)
    }

    /// The same for a message of a transaction.
    pub(super) fn half(shared: &Shared, message: &Message) -> Result<Self, Error> {
        Self::checked(shared, message, Kind::Half)
    }

    /// The same for a request with these properties.
    pub(super) fn request(
        shared: &Shared,
        message: &Message,
        added: Vec<AddedProperty>,
    ) -> Result<Self, Error> {
        Self::checked(shared, message, Kind::Request(added.into()))
    }

    fn checked(shared: &Shared, message: &Message, kind: Kind) -> Result<Self, Error> {
        let unix_ms = super::ids::unix_milliseconds();
        timing::check(&shared.config, message, unix_ms)?;
        let message_id = shared.ids.next(unix_ms);
        let length = |(name, value): &(&str, &str)| property::encoded_length(name, value);
        let added = Added::new(&shared.config.producer_group, &message_id, &kind);
        let added: usize = added.of(&kind).iter().map(length).sum();
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
            batch: None,
            compressed: compressed(shared, message),
            kind,
        })
    }

    /// Whether it gets no properties but its id.
    pub(super) fn is_usual(&self) -> bool {
        matches!(self.kind, Kind::Usual)
    }

    /// The body as it goes out.
    fn body(&self) -> &[u8] {
        match (&self.batch, &self.compressed) {
            (Some(batch), _) => &batch.bytes,
            (None, Some(compressed)) => &compressed.body,
            (None, None) => self.message.body(),
        }
    }

    /// What the system flag says of the body, and of a transaction.
    fn sys_flag(&self) -> i32 {
        if let Some(batch) = &self.batch {
            return batch.sys_flag;
        }
        let body = self
            .compressed
            .as_ref()
            .map_or(0, |compressed| compressed.sys_flag);
        match self.kind {
            Kind::Half => body | SYS_FLAG_PREPARED,
            Kind::Usual | Kind::Request(_) => body,
        }
    }

    /// What a send of it adds to the properties.
    fn added<'a>(&'a self, shared: &'a Shared) -> Added<'a> {
        Added::new(&shared.config.producer_group, &self.message_id, &self.kind)
    }

    /// What the message takes while it is held, in both forms.
    pub(super) fn size(&self) -> usize {
        if let Some(batch) = &self.batch {
            return batch.bytes.len() + RECORD_OVERHEAD;
        }
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

/// Sends the message to a broker and registers who waits for the verdict. `now` is a moment ago.
pub(super) fn send(
    shared: &Shared,
    prepared: &Prepared,
    to: &Destination,
    connection: &Arc<Connection>,
    waiting: &Waiting<'_>,
    (manner, now): (Manner, Instant),
) -> Result<i32, Error> {
    release::check(prepared, connection)?;
    let added = prepared.added(shared);
    let frame = SendFrame::new(shared, prepared, to, &added, &to.templates.send)?;
    connection.request(frame, waiting, manner, now)
}

/// Hands a one-way message over.
pub(super) fn send_oneway(
    shared: &Shared,
    prepared: &Prepared,
    to: &Destination,
    connection: &Arc<Connection>,
    deadline: &Deadline,
) -> Result<(), Error> {
    release::check(prepared, connection)?;
    let added = prepared.added(shared);
    let frame = SendFrame::new(shared, prepared, to, &added, &to.templates.oneway)?;
    connection.oneway(frame, deadline.at(), deadline.began())
}

/// Who waits for an attempt's verdict, and whether the timer keeps the time.
pub(super) fn waiting(waiter: &Arc<dyn Waiter>, ticket: u32, alarm: Option<Alarm>) -> Waiting<'_> {
    Waiting {
        waiter,
        ticket,
        alarm,
    }
}

/// What messages get beside their own properties.
struct Added<'a> {
    /// Its id, and what makes it a half message.
    usual: [(&'a str, &'a str); 3],
    /// All of a request, its id too; empty for every other message.
    of_request: Vec<(&'a str, &'a str)>,
}

impl<'a> Added<'a> {
    fn new(producer_group: &'a str, message_id: &'a MessageId, kind: &'a Kind) -> Self {
        let id = (property::UNIQ_KEY, message_id.as_str());
        let of_request = match kind {
            Kind::Usual | Kind::Half => Vec::new(),
            Kind::Request(added) => {
                let added = added.iter().map(|(name, value)| (*name, &**value));
                [id].into_iter().chain(added).collect()
            }
        };
        Self {
            usual: [
                id,
                (property::TRAN_MSG, "true"),
                (property::PGROUP, producer_group),
            ],
            of_request,
        }
    }

    /// What a message of this kind gets: usually its id alone.
    fn of(&self, kind: &Kind) -> &[(&'a str, &'a str)] {
        match kind {
            Kind::Usual => self.usual.split_at(1).0,
            Kind::Half => &self.usual,
            Kind::Request(_) => &self.of_request,
        }
    }
}

/// The frame of one attempt.
struct SendFrame<'a> {
    header: SendMessage<'a>,
    /// `None` for a reply, which has a request code of its own.
    common: Option<&'a OnceLock<Template>>,
    body: &'a [u8],
}

impl<'a> SendFrame<'a> {
    fn new(
        shared: &'a Shared,
        prepared: &'a Prepared,
        to: &Destination,
        added: &'a Added<'a>,
        common: &'a OnceLock<Template>,
    ) -> Result<Self, Error> {
        let invalid = |what: &str| Error::InvalidMessage {
            reason: format!("{what} does not fit a 32-bit number"),
        };
        let (flag, properties) = match &prepared.batch {
            None => {
                let own = prepared.message.property_pairs();
                let added = added.of(&prepared.kind);
                (prepared.message.flag(), PropertyList { own, added })
            }
            Some(batch) => (0, batch.properties()),
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
            flag,
            properties,
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: prepared.batch.is_some(),
            // Unlike 5.x clients: only proxies and static topics read it, and those are not sent to.
            broker_name: None,
        };
        Ok(Self {
            header,
            common: Some(common).filter(|_| !prepared.message.is_reply()),
            body: prepared.body(),
        })
    }
}

impl Frame for SendFrame<'_> {
    fn code(&self) -> RequestCode {
        match self.common {
            _ if self.header.batch => RequestCode::SEND_BATCH_MESSAGE,
            Some(_) => RequestCode::SEND_MESSAGE_V2,
            None => RequestCode::SEND_REPLY_MESSAGE_V2,
        }
    }

    fn size(&self) -> usize {
        self.body.len()
    }

    fn encode(self, out: &mut Vec<u8>, envelope: &Envelope<'_>) -> Result<(), WireError> {
        match self.common {
            // A batch is so large that there is nothing to be gained from what headers have in common.
            Some(common) if !self.header.batch => self.header.append_from(common, out, envelope, self.body),
            _ => encode_frame(out, envelope, |writer| self.header.write_v2(writer), self.body),
        }
    }
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

/// Makes the result of a send that is stored.
pub(super) fn result(shared: &Shared, prepared: &Prepared, finished: Finished) -> SendResult {
    let Finished {
        to,
        stored: (status, reply),
        attempts,
        may_be_duplicated,
    } = finished;
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
        rare: reply.rare,
        attempts,
        may_be_duplicated,
    }
}

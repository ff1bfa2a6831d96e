//! Batches: from many messages to one body, and from one answer to a result for each message.

use std::{fmt, sync::Arc};

use super::{
    Producer, admission,
    attempt::{Kind, Prepared},
    blocking, oneway,
    options::Options,
    result::{SendResult, SendStatus},
    shared::Shared,
};
use crate::{
    error::{Error, Written},
    message::{
        Batch, Message, MessageId, MessageQueue, OffsetMessageId,
        batch::{added_bytes, waits},
        property,
    },
    wire::{compression, message::append_batch_element, request::send_message::PropertyList},
};

/// A batch that is stored: a result for each of its messages, in their order.
///
/// They lie one behind the other in one queue, so the queue offsets follow one another.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchResult {
    /// One for each message: its ids and its place.
    ///
    /// Where a 5.x topic stores batches as one record (its attribute `queue.type` is `BatchCQ` and the broker chose so), the
    /// broker names that record only, and all messages have its `offset_message_id`.
    pub results: Vec<SendResult>,
    /// How safely they are stored.
    pub status: SendStatus,
    /// The queue that they are in.
    pub queue: Arc<MessageQueue>,
    /// How many attempts were begun.
    pub attempts: u32,
    /// An earlier attempt ended without a verdict, so there may be a second copy of each message under the same id.
    pub may_be_duplicated: bool,
}

impl fmt::Display for BatchResult {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            results,
            status,
            queue,
            ..
        } = self;
        write!(f, "{status} {} messages at {queue}", results.len())?;
        match results.first() {
            Some(first) => write!(f, " from offset {} on", first.queue_offset),
            None => Ok(()),
        }
    }
}

impl IntoIterator for BatchResult {
    type Item = SendResult;
    type IntoIter = std::vec::IntoIter<SendResult>;

    fn into_iter(self) -> Self::IntoIter {
        self.results.into_iter()
    }
}

/// An asynchronous send of a batch that failed. The batch comes back, so nobody has to keep a copy.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct BatchFailure {
    /// The batch, unchanged.
    pub batch: Batch,
    /// Why it failed. All its messages have this outcome: brokers store all of a batch or nothing.
    pub error: Error,
}

impl fmt::Display for BatchFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error.fmt(f)
    }
}

impl std::error::Error for BatchFailure {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.error)
    }
}

/// What became of each message of [`Producer::send_all`](super::Producer::send_all).
#[derive(Clone, Debug)]
#[must_use = "some messages may have failed"]
#[non_exhaustive]
pub struct Outcomes {
    /// One for each message, in the order in which the messages were given.
    pub outcomes: Vec<Result<SendResult, Error>>,
}

impl Outcomes {
    /// Whether every message is stored.
    pub fn all_stored(&self) -> bool {
        self.outcomes.iter().all(Result::is_ok)
    }

    /// The messages that failed: the index of each, from 0, and why. [`Error::delivery`] says what may have become of it.
    pub fn failures(&self) -> impl Iterator<Item = (usize, &Error)> {
        let outcomes = self.outcomes.iter().enumerate();
        outcomes.filter_map(|(index, outcome)| Some((index, outcome.as_ref().err()?)))
    }
}

impl fmt::Display for Outcomes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.outcomes.len();
        let failed = self.failures().count();
        write!(f, "{} of {all} messages stored", all - failed)?;
        match self.failures().next() {
            Some((index, error)) => write!(f, "; the first failure is message {index}: {error}"),
            None => Ok(()),
        }
    }
}

impl IntoIterator for Outcomes {
    type Item = Result<SendResult, Error>;
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.outcomes.into_iter()
    }
}

impl Producer {
    /// Sends a batch and waits until a broker has stored it: all of its messages, or none. Blocks, repeats failed attempts
    /// and counts as [`Producer::send`] does; each message gets its own id and its own result. Unlike in
    /// Java, bodies in a batch are compressed, all or none, if the producer [compresses](super::ProducerBuilder::compression) and
    /// they are long enough and become smaller together.
    ///
    /// # Errors
    /// Those of [`Producer::send`]; [`Error::InvalidMessage`] also for a batch that is larger than `max_message_size` (4 MiB
    /// unless set) as [`Batch::size`] counts, with which nothing was sent. All messages have the outcome that
    /// [`Error::delivery`] tells.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::{Batch, Message};
    ///
    /// let messages = [Message::new("orders", "first")?, Message::new("orders", "second")?];
    /// let stored = producer.send_batch(&Batch::new(messages)?)?;
    /// assert_eq!(stored.results[1].queue_offset, stored.results[0].queue_offset + 1);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_batch(&self, batch: &Batch) -> Result<BatchResult, Error> {
        self.plain().send_batch(batch)
    }

    /// Sends a batch and calls `on_done` with the outcome: exactly once, on a worker thread, whatever happens. On failure the
    /// batch comes back. Otherwise as [`Producer::send_async`]: blocks only for room, for which it counts as one send of its
    /// size.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::{Batch, Message};
    ///
    /// let batch = Batch::new([Message::new("orders", "first")?, Message::new("orders", "second")?])?;
    /// producer.send_batch_async(batch, |outcome| match outcome {
    ///     Ok(stored) => println!("{stored}"),
    ///     Err(failure) => println!("{} of {:?}", failure.error, failure.batch),
    /// });
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_batch_async(
        &self,
        batch: Batch,
        on_done: impl FnOnce(Result<BatchResult, BatchFailure>) + Send + 'static,
    ) {
        self.plain().send_batch_async(batch, on_done);
    }

    /// Hands a batch to the connection of a broker and does not wait for an answer; the broker gives none. `Ok` says what it
    /// says for [`Producer::send_oneway`].
    ///
    /// # Errors
    /// Those of [`Producer::send_oneway`], and [`Error::InvalidMessage`] for a batch that is too large.
    pub fn send_batch_oneway(&self, batch: &Batch) -> Result<(), Error> {
        self.plain().send_batch_oneway(batch)
    }

    /// Sends any number of messages of one topic in as few batches as their sizes allow, one after another, and says of
    /// each message what became of it. No message at all is sent in no batch.
    ///
    /// When a batch fails the later ones are still sent. Blocks for at most the send timeout (3 s unless set) for each batch;
    /// a batch holds up to `max_message_size` (4 MiB unless set). Without a target each batch goes to the next queue in turn.
    ///
    /// # Errors
    /// [`Error::InvalidMessage`], naming the message by its index, for messages that cannot be in one batch (see
    /// [`Batch::new`]) and for one that is too large by itself. Nothing was sent then. What happens later is in the
    /// [`Outcomes`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(1)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use rocketmq_producer::Message;
    ///
    /// let messages = vec![Message::new("orders", vec![7; 1_000_000])?; 10];
    /// let sent = producer.send_all(messages)?;
    /// for (index, error) in sent.failures() {
    ///     println!("message {index}: {error}");
    /// }
    /// assert!(sent.all_stored(), "{sent}");
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn send_all(&self, messages: impl Into<Vec<Message>>) -> Result<Outcomes, Error> {
        self.plain().send_all(messages)
    }
}

/// All messages of a batch as they go out.
#[derive(Debug)]
pub(super) struct BatchBody {
    pub(super) bytes: Vec<u8>,
    pub(super) wait_store_ok: bool,
    /// How all bodies are compressed, if they are.
    pub(super) sys_flag: i32,
}

impl BatchBody {
    /// The properties of the batch itself, in the header. No unique key: 4.9.7 would give it to every message, and 5.x
    /// would store a topic's batch as one record (`SendMessageProcessor.sendBatchMessage`).
    pub(super) fn properties(&self) -> PropertyList<'static> {
        const NONE: &[(&str, &str)] = &[];
        const DO_NOT_WAIT: &[(&str, &str)] = &[(property::WAIT, "false")];
        PropertyList {
            own: &[],
            added: if self.wait_store_ok { NONE } else { DO_NOT_WAIT },
        }
    }
}

/// Appends a message to a batch body, with its id.
pub(super) fn append(out: &mut Vec<u8>, message: &Message, id: &MessageId) -> Result<(), Error> {
    append_with(out, message, message.body(), id)
}

/// The same with another form of its body.
fn append_with(out: &mut Vec<u8>, message: &Message, body: &[u8], id: &MessageId) -> Result<(), Error> {
    let own = message.property_pairs().iter();
    let added = [(property::UNIQ_KEY, id.as_str())];
    let properties = own.map(|(name, value)| (&**name, &**value)).chain(added);
    append_batch_element(out, message.flag(), body, properties).map_err(|error| Error::InvalidMessage {
        reason: format!(
            "a message for topic {} cannot be in a batch: {error}",
            message.topic()
        ),
    })
}

/// The compressed bodies of a batch, if the producer compresses, they are long enough together and become smaller. Brokers
/// store each with the flag of the request (`MessageExtBatchEncoder`), so consumers read each as a message of its own.
fn compressed_bodies(shared: &Shared, batch: &Batch) -> Option<Vec<Vec<u8>>> {
    let compression = shared.config.compression?;
    let bodies = || batch.messages().iter().map(Message::body);
    if bodies().map(<[u8]>::len).sum::<usize>() < shared.config.compress_from {
        return None;
    }
    compression::compress_all(compression, shared.config.compression_level, bodies())
}

/// The ids of the messages of a batch that is on its way.
type Ids = Arc<[MessageId]>;

impl Prepared {
    /// Checks the sizes, gives each message its id and makes them one body.
    fn of_batch(shared: &Shared, batch: &Batch) -> Result<(Self, Ids), Error> {
        let invalid = |reason| Error::InvalidMessage { reason };
        let id_length = shared.ids.id_length();
        let size = batch.size_counting(added_bytes(id_length));
        let most = shared.config.max_message_size;
        if size > most {
            return Err(invalid(format!(
                "the batch of {} messages for topic {} takes {size} bytes as stored records; the limit max_message_size is \
                 {most}: split it",
                batch.len(),
                batch.topic()
            )));
        }
        let unix_ms = super::ids::unix_milliseconds();
        let compressed = compressed_bodies(shared, batch);
        let room = if compressed.is_some() { size / 2 } else { size };
        let mut bytes = Vec::with_capacity(room);
        let mut ids = Vec::with_capacity(batch.len());
        for (index, message) in batch.messages().iter().enumerate() {
            let id = shared.ids.next(unix_ms);
            let properties =
                message.properties_length() + property::encoded_length(property::UNIQ_KEY, id.as_str());
            let most = shared.config.max_properties_size;
            if properties > most {
                return Err(invalid(format!(
                    "the properties of message {index} (counted from 0) of the batch for topic {} take {properties} bytes \
                     with the message id; the limit max_properties_size is {most}",
                    batch.topic()
                )));
            }
            let small = compressed.as_ref().and_then(|all| all.get(index));
            append_with(
                &mut bytes,
                message,
                small.map_or(message.body(), Vec::as_slice),
                &id,
            )?;
            ids.push(id);
        }
        let (Some(first), Some(message_id)) = (batch.first(), ids.first()) else {
            return Err(invalid("the batch is empty".to_owned()));
        };
        let prepared = Self {
            message: first.clone(),
            message_id: *message_id,
            born_timestamp_ms: i64::try_from(unix_ms).unwrap_or(i64::MAX),
            batch: Some(Arc::new(BatchBody {
                bytes,
                wait_store_ok: waits(first),
                sys_flag: match shared.config.compression {
                    Some(compression) if compressed.is_some() => compression::sys_flag(compression),
                    _ => 0,
                },
            })),
            compressed: None,
            kind: Kind::Usual,
        };
        Ok((prepared, ids.into()))
    }
}

/// Where each message of a stored batch is, from the one answer of the broker.
#[derive(Clone, Debug)]
pub(super) struct Places {
    /// That of the first message.
    first: SendResult,
    offset_ids: Option<Box<str>>,
    /// What lies between the starts of two ids, if all are equally long.
    stride: Option<usize>,
}

impl Places {
    /// Reads the answer to a batch of so many messages.
    ///
    /// # Errors
    /// [`Error::Protocol`] when the broker says stored, but names another number of messages: nothing is made up.
    pub(super) fn new(mut first: SendResult, count: usize) -> Result<Self, Error> {
        let offset_ids = first.rare.take().and_then(|rare| rare.all_ids);
        let named = offset_ids.as_ref().map_or(1, |ids| ids.split(',').count());
        // One id for many is that of a batch that is kept as one record.
        if named != count && named != 1 {
            return Err(Error::Protocol {
                address: Arc::clone(first.queue.shared_broker_name()),
                written: Written::All,
                reason: format!("the broker stored a batch of {count} messages and named {named}").into(),
            });
        }
        let stride = offset_ids.as_deref().and_then(|ids| {
            let stride = ids.find(',')? + 1;
            let is_even = ids.split(',').all(|id| id.len() + 1 == stride);
            is_even.then_some(stride)
        });
        Ok(Self {
            first,
            offset_ids,
            stride,
        })
    }

    /// The result of the message at `index`, which has this id.
    pub(super) fn result(&self, index: usize, message_id: MessageId) -> SendResult {
        SendResult {
            message_id,
            offset_message_id: self.offset_id(index).unwrap_or(self.first.offset_message_id),
            queue_offset: self
                .first
                .queue_offset
                .saturating_add(u64::try_from(index).unwrap_or(u64::MAX)),
            ..self.first.clone()
        }
    }

    fn offset_id(&self, index: usize) -> Option<OffsetMessageId> {
        let ids = self.offset_ids.as_deref()?;
        let id = match self.stride {
            Some(stride) => ids.get(stride * index..stride * (index + 1) - 1),
            None => ids.split(',').nth(index),
        };
        OffsetMessageId::from_text(id?)
    }
}

fn batch_result(first: SendResult, ids: &[MessageId]) -> Result<BatchResult, Error> {
    let places = Places::new(first, ids.len())?;
    let results = ids
        .iter()
        .enumerate()
        .map(|(index, id)| places.result(index, *id))
        .collect();
    let SendResult {
        status,
        queue,
        attempts,
        may_be_duplicated,
        ..
    } = places.first;
    Ok(BatchResult {
        results,
        status,
        queue,
        attempts,
        may_be_duplicated,
    })
}

/// Sends a batch and blocks until it is over.
pub(super) fn send(shared: &Arc<Shared>, batch: &Batch, options: &Options) -> Result<BatchResult, Error> {
    let send = || {
        options.check()?;
        let deadline = options.deadline(&shared.config);
        let _inside = shared.gate.enter()?;
        let (prepared, ids) = Prepared::of_batch(shared, batch)?;
        let first = blocking::send_prepared(shared, batch.messages(), prepared, options, deadline)?;
        batch_result(first, &ids)
    };
    let outcome = send();
    shared.tally.ended_together(outcome.as_ref().err(), batch.len());
    outcome
}

/// Begins a send of a batch; see `admission::send`.
pub(super) fn send_async(
    shared: &Arc<Shared>,
    batch: Batch,
    options: &Options,
    on_done: impl FnOnce(Result<BatchResult, BatchFailure>) + Send + 'static,
) {
    let Some(first) = batch.first().cloned() else {
        // A batch is never empty.
        return;
    };
    // Made before there is room for it: nobody can tell the outcome of a batch without its ids.
    let prepared = Prepared::of_batch(shared, &batch);
    let (prepared, ids) = match prepared {
        Ok((prepared, ids)) => (Ok(prepared), ids),
        Err(error) => (Err(error), Ids::default()),
    };
    let returned = batch.clone();
    let on_first_done = move |outcome: Result<SendResult, super::SendFailure>| {
        let outcome = match outcome {
            Ok(first) => batch_result(first, &ids),
            Err(failure) => Err(failure.error),
        };
        on_done(outcome.map_err(|error| BatchFailure {
            batch: returned,
            error,
        }));
    };
    admission::send_prepared(
        shared,
        first,
        Some(batch),
        options,
        Box::new(on_first_done),
        |_| prepared,
    );
}

/// Hands a batch over without waiting for an answer.
pub(super) fn send_oneway(shared: &Arc<Shared>, batch: &Batch, options: &Options) -> Result<(), Error> {
    oneway::send_prepared(shared, options, || {
        Prepared::of_batch(shared, batch).map(|(prepared, _)| prepared)
    })
}

/// Sends any number of messages in as many batches as it takes, one after another.
pub(super) fn send_all(
    shared: &Arc<Shared>,
    messages: Vec<Message>,
    options: &Options,
) -> Result<Outcomes, Error> {
    options.check()?;
    if messages.is_empty() {
        let outcomes = Vec::new();
        return Ok(Outcomes { outcomes });
    }
    let added = added_bytes(shared.ids.id_length());
    let parts = Batch::split_counting(messages, shared.config.max_message_size, added)?;
    let mut outcomes = Vec::new();
    for part in parts {
        match send(shared, &part, options) {
            Ok(stored) => outcomes.extend(stored.into_iter().map(Ok)),
            Err(error) => outcomes.extend(std::iter::repeat_n(Err(error), part.len())),
        }
    }
    Ok(Outcomes { outcomes })
}

//! One socket: an outgoing buffer, one reader thread, at most one writer thread, one table of requests, one end.
//!
//! 1. The reader thread is the only one that reads. It decodes a frame in place, takes the waiter out by the opaque and
//!    completes it. It holds no lock while it reads or completes, and runs no user code.
//! 2. Requests of the broker are recognised by the flag, before any look-up: both sides number on their own.
//! 3. The connection ends once, whatever the cause: end of stream, error, a frame that is none, a panic of the reader.
//!    The first cause counts; everybody waiting is told, and later requests are refused.
//! 4. What was on its way at the end is reported by how much of it was written.

use std::{
    io::{self, Read},
    net::{Shutdown, TcpStream},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

pub(crate) use super::{in_flight::Alarm, outgoing::Manner};
use super::{
    in_flight::{Due, Entry, InFlight, Moment, ONEWAY_OPAQUE, Refusal},
    outgoing::{Next, Outgoing, Owner, Rejected, Remains, WRITE_TICK},
    sync::{AtomicU64, Mutex, Ordering},
    waiter::{Outcome, Waiter},
};
use crate::{
    code::{RequestCode, ResponseCode},
    error::{Error, Phase, Written, printable},
    wire::{
        WireError,
        frame::{FrameBuffer, FrameRef, Serialization},
        header::{Envelope, FLAG_ONEWAY, FLAG_RESPONSE, FieldWriter, Header, Language, encode_frame},
    },
};

/// What every connection of a producer has in common.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionSettings {
    pub(crate) language: Language,
    pub(crate) version: i32,
    pub(crate) serialization: Serialization,
    /// Requests that may wait for their reply at once.
    pub(crate) in_flight_limit: usize,
    /// A connection that has received nothing for so long after a request, or only part of a frame, is given up: its peer
    /// may be gone without a word.
    pub(crate) half_open_after: Duration,
}

/// What a connection tells the producer about itself.
pub(crate) trait Events: Send + Sync {
    /// A request was registered that the timer has to look at.
    fn alarm_set(&self, at: Instant);
    /// The connection has ended. Called once, before its waiters are told.
    fn ended(&self, connection: &Connection, cause: &EndCause, oneway_unwritten: usize);
}

/// Why a connection ended.
#[derive(Clone, Debug)]
pub(crate) enum EndCause {
    /// The operating system or the peer ended it.
    Io(Arc<io::Error>),
    /// The peer sent something that is not the protocol.
    Protocol(Arc<str>),
    /// The producer closed it.
    Closed,
}

/// A request to send.
pub(crate) struct Request<'a, F> {
    pub(crate) code: RequestCode,
    pub(crate) write_fields: F,
    pub(crate) body: &'a [u8],
}

/// Who waits for the answer of a request, and how long.
pub(crate) struct Waiting<'a> {
    pub(crate) waiter: &'a Arc<dyn Waiter>,
    pub(crate) ticket: u32,
    /// `None`: the waiter keeps its own time and calls [`Connection::cancel`].
    pub(crate) alarm: Option<Alarm>,
}

/// What became of a request that its owner gave up.
pub(crate) enum Cancelled {
    /// It was still waiting. No answer will be handed to anyone.
    Waiting(Written),
    /// Its outcome has been handed out already, or is about to be.
    TooLate,
}

/// Replies that nobody waited for, and other things worth counting.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Replies to requests that were given up, repeated replies, or numbers never given out.
    pub(crate) unmatched_replies: AtomicU64,
    /// Requests of the broker.
    pub(crate) inbound_requests: AtomicU64,
}

/// A live or ended connection.
pub(crate) struct Connection {
    address: Arc<str>,
    stream: TcpStream,
    settings: ConnectionSettings,
    events: Arc<dyn Events>,
    epoch: Instant,
    outgoing: Outgoing,
    in_flight: InFlight,
    cause: OnceLock<EndCause>,
    /// Microseconds since `epoch` when a byte came last.
    received: AtomicU64,
    /// Microseconds since `epoch` when the frame began whose rest has not come, `u64::MAX` if there is none.
    frame_began: AtomicU64,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    reader: Mutex<Option<thread::JoinHandle<()>>>,
    counters: Counters,
}

/// Why a request was not put into the outgoing buffer.
enum Unwritten {
    Full,
    Ended,
    Wire(WireError),
}

impl Connection {
    /// Takes over a connected stream and starts its reader thread.
    pub(super) fn start(
        stream: TcpStream,
        address: Arc<str>,
        settings: ConnectionSettings,
        events: Arc<dyn Events>,
    ) -> io::Result<Arc<Self>> {
        // Requests are small and wait for an answer: never for company.
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_TICK))?;
        let epoch = Instant::now();
        let connection = Arc::new(Self {
            address,
            stream,
            epoch,
            outgoing: Outgoing::new(),
            in_flight: InFlight::new(epoch, settings.in_flight_limit),
            settings,
            events,
            cause: OnceLock::new(),
            received: AtomicU64::new(0),
            frame_began: AtomicU64::new(u64::MAX),
            writer: Mutex::new(None),
            reader: Mutex::new(None),
            counters: Counters::default(),
        });
        let reader = Arc::clone(&connection);
        let name = format!("rmq-reader {}", connection.address);
        // The handle is stored under the lock, so whoever joins later finds it.
        let mut slot = connection.reader.lock();
        *slot = Some(
            thread::Builder::new()
                .name(name)
                .spawn(move || reader.run_reader())?,
        );
        drop(slot);
        Ok(connection)
    }

    pub(crate) fn address(&self) -> &Arc<str> {
        &self.address
    }

    pub(crate) fn is_live(&self) -> bool {
        self.cause.get().is_none()
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Requests that wait for their reply.
    pub(crate) fn waiting(&self) -> usize {
        self.in_flight.waiting()
    }

    pub(crate) fn oneway_unwritten(&self) -> usize {
        self.outgoing.oneway_unwritten()
    }

    /// Blocks until all one-way messages are written, the connection has ended, or `until` is over.
    pub(crate) fn wait_until_written(&self, until: Instant) {
        self.outgoing.wait_until_written(until);
    }

    /// Registers and sends a request. After `Ok` its waiter is completed exactly once, maybe before this returns; after
    /// `Err` never.
    pub(crate) fn request<F: FnOnce(&mut FieldWriter<'_>)>(
        self: &Arc<Self>,
        request: Request<'_, F>,
        waiting: &Waiting<'_>,
        manner: Manner,
    ) -> Result<i32, Error> {
        let now = Instant::now();
        let mut opaque = 0;
        let next = self.outgoing.append(manner, request.body.len(), |out| {
            opaque = self
                .in_flight
                .register(waiting.waiter, waiting.ticket, waiting.alarm, now)
                .map_err(|refusal| match refusal {
                    Refusal::Ended => Unwritten::Ended,
                    Refusal::Full => Unwritten::Full,
                })?;
            let encoded = self.encode(
                out,
                request.code.value(),
                opaque,
                0,
                None,
                request.write_fields,
                request.body,
            );
            encoded.map_err(|error| {
                drop(self.in_flight.take(opaque));
                Unwritten::Wire(error)
            })?;
            Ok(Owner::Request(opaque))
        });
        match next {
            Ok(next) => {
                if let Some(alarm) = waiting.alarm {
                    self.events.alarm_set(alarm.share.min(alarm.until));
                }
                self.carry_out(next);
                Ok(opaque)
            }
            Err(rejected) => Err(self.rejection(rejected, now)),
        }
    }

    /// Sends a request that is never answered. `Ok` means that the connection has taken it over, not that it is written.
    pub(crate) fn oneway<F: FnOnce(&mut FieldWriter<'_>)>(
        self: &Arc<Self>,
        request: Request<'_, F>,
        until: Instant,
    ) -> Result<(), Error> {
        let now = Instant::now();
        let next = self
            .outgoing
            .append(Manner::Queued { until }, request.body.len(), |out| {
                self.encode(
                    out,
                    request.code.value(),
                    ONEWAY_OPAQUE,
                    FLAG_ONEWAY,
                    None,
                    request.write_fields,
                    request.body,
                )
                .map_err(Unwritten::Wire)?;
                Ok(Owner::Oneway)
            });
        match next {
            Ok(next) => {
                self.carry_out(next);
                Ok(())
            }
            Err(rejected) => Err(self.rejection(rejected, now)),
        }
    }

    /// Gives a request up. If it was still waiting, the waiter will not be completed any more.
    pub(crate) fn cancel(self: &Arc<Self>, opaque: i32) -> Cancelled {
        let Some(entry) = self.in_flight.take(opaque) else {
            return Cancelled::TooLate;
        };
        let written = self.outgoing.withdraw(opaque);
        self.suspect(&entry, written);
        Cancelled::Waiting(written)
    }

    /// When the timer has to call [`Self::look_at_alarms`], at the latest.
    pub(crate) fn next_alarm(&self) -> Option<Instant> {
        self.in_flight.next_alarm()
    }

    /// Tells those whose time is over.
    pub(crate) fn look_at_alarms(self: &Arc<Self>, now: Instant) {
        for due in self.in_flight.due(now) {
            match due {
                Due::Share(waiter, ticket) => waiter.complete(ticket, Outcome::Overdue),
                Due::Over(entry) => {
                    let written = self.outgoing.withdraw(entry.opaque);
                    self.suspect(&entry, written);
                    let waited = entry.registered.until(Moment::new(self.epoch, now));
                    let error = self.timeout(written, waited);
                    entry.waiter.complete(entry.ticket, Outcome::Failed(error));
                }
            }
        }
    }

    /// What a waiter that keeps its own time reports when that is over.
    pub(crate) fn timeout(&self, written: Written, waited: Duration) -> Error {
        let phase = if written == Written::All {
            Phase::Reply
        } else {
            Phase::Write
        };
        Error::Timeout {
            phase,
            target: Arc::clone(&self.address),
            waited,
            written,
        }
    }

    /// Ends the connection from this side.
    pub(crate) fn close(&self) {
        self.end(EndCause::Closed);
    }

    /// Waits until both threads have ended, which they do at once after [`Self::close`]. Does nothing on those threads
    /// themselves.
    pub(crate) fn join(&self) {
        for slot in [&self.reader, &self.writer] {
            let handle = slot.lock().take();
            if let Some(handle) = handle {
                if handle.thread().id() != thread::current().id() {
                    // A panic of the thread has ended the connection already, which is all there is to do about it.
                    drop(handle.join());
                }
            }
        }
    }

    #[expect(
        clippy::too_many_arguments,
        reason = "the parts of a frame, which exist only here"
    )]
    fn encode(
        &self,
        out: &mut Vec<u8>,
        code: i32,
        opaque: i32,
        flag: i32,
        remark: Option<&str>,
        write_fields: impl FnOnce(&mut FieldWriter<'_>),
        body: &[u8],
    ) -> Result<(), WireError> {
        let ConnectionSettings {
            language,
            version,
            serialization,
            ..
        } = self.settings;
        let envelope = Envelope {
            code,
            opaque,
            flag,
            language,
            version,
            remark,
            serialization,
        };
        encode_frame(out, &envelope, write_fields, body)
    }

    fn carry_out(self: &Arc<Self>, next: Next) {
        match next {
            Next::Nothing => {}
            Next::WriterThread => self.ensure_writer(),
            Next::Write(piece) => match self.outgoing.write(&self.stream, piece) {
                Ok(false) => {}
                Ok(true) => self.ensure_writer(),
                Err(error) => self.end(EndCause::Io(Arc::new(error))),
            },
        }
    }

    fn ensure_writer(self: &Arc<Self>) {
        let mut slot = self.writer.lock();
        if slot.is_some() || !self.is_live() {
            return;
        }
        let writer = Arc::clone(self);
        let name = format!("rmq-writer {}", self.address);
        let spawned = thread::Builder::new().name(name).spawn(move || {
            if let Err(error) = writer.outgoing.run_writer(&writer.stream) {
                writer.end(EndCause::Io(Arc::new(error)));
            }
        });
        match spawned {
            Ok(handle) => *slot = Some(handle),
            Err(error) => {
                drop(slot);
                // Nobody would ever write what is pending.
                self.end(EndCause::Io(Arc::new(error)));
            }
        }
    }

    fn run_reader(self: Arc<Self>) {
        /// Ends the connection even if decoding panics, so that nobody waits for ever.
        struct Guard<'a>(&'a Connection, Option<EndCause>);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                let cause = self
                    .1
                    .take()
                    .unwrap_or_else(|| EndCause::Protocol("the reader thread panicked".into()));
                self.0.end(cause);
            }
        }
        let mut guard = Guard(&self, None);
        let cause = self.read_until_the_end();
        guard.1 = Some(cause);
    }

    fn read_until_the_end(self: &Arc<Self>) -> EndCause {
        let mut buffer = FrameBuffer::new();
        loop {
            let count = match (&self.stream).read(buffer.space()) {
                Ok(0) => {
                    let message = "the peer closed the connection";
                    return EndCause::Io(Arc::new(io::Error::new(io::ErrorKind::UnexpectedEof, message)));
                }
                Ok(count) => count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return EndCause::Io(Arc::new(error)),
            };
            let elapsed = u64::try_from(self.epoch.elapsed().as_micros()).unwrap_or(u64::MAX);
            self.received.store(elapsed, Ordering::Relaxed);
            buffer.filled(count);
            let mut is_new = self.frame_began.load(Ordering::Relaxed) == u64::MAX;
            loop {
                match buffer.next_frame() {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        is_new = true;
                        if let Err(error) = self.take_in(&frame) {
                            return EndCause::Protocol(error.to_string().into());
                        }
                    }
                    Err(error) => return EndCause::Protocol(error.to_string().into()),
                }
            }
            if !buffer.is_within_frame() {
                self.frame_began.store(u64::MAX, Ordering::Relaxed);
            } else if is_new {
                self.frame_began.store(elapsed, Ordering::Relaxed);
            }
        }
    }

    fn take_in(self: &Arc<Self>, frame: &FrameRef<'_>) -> Result<(), WireError> {
        let header = frame.header()?;
        if !header.is_response() {
            self.counters.inbound_requests.fetch_add(1, Ordering::Relaxed);
            self.decline(&header, frame.serialization);
            return Ok(());
        }
        match self.in_flight.take(header.opaque) {
            Some(entry) => {
                let outcome = Outcome::Reply {
                    address: &self.address,
                    header: &header,
                    body: frame.body,
                };
                entry.waiter.complete(entry.ticket, outcome);
            }
            None => {
                self.counters.unmatched_replies.fetch_add(1, Ordering::Relaxed);
                log::debug!(
                    "{}: dropped a reply that nobody waits for (opaque {})",
                    self.address,
                    header.opaque
                );
            }
        }
        Ok(())
    }

    /// Answers a request of the broker that this client does not serve, unless it is one-way. What consumers are asked
    /// for, a producer does not have either.
    fn decline(self: &Arc<Self>, header: &Header<'_>, serialization: Serialization) {
        log::debug!(
            "{}: the broker asked for {}, which is not served",
            self.address,
            RequestCode::new(header.code)
        );
        if header.is_oneway() {
            return;
        }
        let remark = format!(" request type {} not supported", header.code);
        let ConnectionSettings {
            language, version, ..
        } = self.settings;
        let envelope = Envelope {
            code: ResponseCode::REQUEST_CODE_NOT_SUPPORTED.value(),
            opaque: header.opaque,
            flag: FLAG_RESPONSE,
            language,
            version,
            remark: Some(&remark),
            serialization,
        };
        // The reader must not wait for room: a peer that floods us with requests and reads no answer gets none.
        let until = Instant::now();
        let next = self
            .outgoing
            .append(Manner::Queued { until }, remark.len(), |out| {
                encode_frame(out, &envelope, |_| {}, &[]).map(|()| Owner::Nobody)
            });
        match next {
            Ok(next) => self.carry_out(next),
            Err(_) => log::debug!("{}: no room for the answer to the broker's request", self.address),
        }
    }

    /// A request that got no answer in time may mean that the peer is gone without a word. If not one byte came since it
    /// was written, or the rest of a frame does not come, the connection is given up, and the next send gets a new one.
    fn suspect(&self, entry: &Entry, written: Written) {
        let now = Moment::new(self.epoch, Instant::now());
        let waited = entry.registered.until(now);
        let patience = self.settings.half_open_after;
        if written != Written::All || waited < patience {
            return;
        }
        let within_frame = Moment::from_micros(self.frame_began.load(Ordering::Relaxed)).until(now);
        if !self.has_heard_since(entry.registered) {
            self.give_up(format!(
                "no byte came for {waited:.1?} after a request, so the peer may be gone"
            ));
        } else if within_frame >= patience / 2 {
            // An answer is written at once: what has not followed by now never will.
            self.give_up(format!(
                "the rest of an answer has not come for {within_frame:.1?}"
            ));
        }
    }

    /// Gives the connection up if not one byte has come since then.
    pub(crate) fn give_up_if_silent(&self, since: Instant) {
        if !self.has_heard_since(Moment::new(self.epoch, since)) {
            let waited = since.elapsed();
            self.give_up(format!(
                "no byte came for {waited:.1?} after a request, so the peer may be gone"
            ));
        }
    }

    fn has_heard_since(&self, since: Moment) -> bool {
        Moment::from_micros(self.received.load(Ordering::Relaxed)) >= since
    }

    fn give_up(&self, reason: String) {
        if self.is_live() {
            let error = io::Error::new(io::ErrorKind::TimedOut, reason);
            self.end(EndCause::Io(Arc::new(error)));
        }
    }

    fn end(&self, cause: EndCause) {
        if self.cause.set(cause).is_err() {
            return;
        }
        let Some(cause) = self.cause.get() else { return };
        // Unblocks the reader, and a writer in a system call. An error means that the socket is closed already.
        drop(self.stream.shutdown(Shutdown::Both));
        let Remains {
            mut unfinished,
            oneway,
        } = self.outgoing.end();
        unfinished.sort_unstable_by_key(|(opaque, _)| *opaque);
        let entries = self.in_flight.end();
        self.events.ended(self, cause, oneway);
        let now = Moment::new(self.epoch, Instant::now());
        for entry in entries {
            let known = unfinished.binary_search_by_key(&entry.opaque, |(opaque, _)| *opaque);
            let known = known.ok().and_then(|index| unfinished.get(index));
            let written = known.map_or(Written::All, |(_, written)| *written);
            let error = self.lost(cause, written, entry.registered.until(now));
            entry.waiter.complete(entry.ticket, Outcome::Failed(error));
        }
    }

    fn lost(&self, cause: &EndCause, written: Written, waited: Duration) -> Error {
        let address = Arc::clone(&self.address);
        match cause {
            EndCause::Io(source) => Error::ConnectionLost {
                address,
                written,
                waited,
                source: Arc::clone(source),
            },
            EndCause::Protocol(reason) => Error::Protocol {
                address,
                written,
                reason: printable(reason).into(),
            },
            EndCause::Closed => {
                let source = io::Error::new(io::ErrorKind::ConnectionAborted, "closed by this producer");
                Error::ConnectionLost {
                    address,
                    written,
                    waited,
                    source: Arc::new(source),
                }
            }
        }
    }

    fn rejection(&self, rejected: Rejected<Unwritten>, since: Instant) -> Error {
        let waited = since.elapsed();
        match rejected {
            Rejected::Ended | Rejected::Frame(Unwritten::Ended) => {
                let cause = self.cause.get().unwrap_or(&EndCause::Closed);
                self.lost(cause, Written::Nothing, waited)
            }
            Rejected::NoRoom | Rejected::Frame(Unwritten::Full) => self.timeout(Written::Nothing, waited),
            Rejected::Frame(Unwritten::Wire(error)) => Error::InvalidMessage {
                reason: error.to_string(),
            },
        }
    }
}

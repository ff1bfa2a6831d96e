//! One socket: an outgoing buffer, one reader thread, at most one writer thread, one table of requests, one end.
//!
//! 1. The reader thread is the only one that reads. It decodes a frame in place, takes the waiter out by the opaque and
//!    completes it. It holds no lock while it reads or completes, and runs no user code.
//! 2. Requests of the broker are recognised by the flag, before any look-up: both sides number on their own.
//! 3. The connection ends once, whatever the cause: end of stream, error, a frame that is none, a panic of the reader.
//!    The first cause counts; everybody waiting is told, and later requests are refused.
//! 4. What was on its way at the end is reported by how much of it was written.

use std::{
    io,
    net::{Shutdown, TcpStream},
    sync::{Arc, OnceLock},
    thread,
    time::{Duration, Instant},
};

mod reader;

use super::{
    company::Company,
    in_flight::{AtomicMoment, Due, Entry, InFlight, Moment, ONEWAY_OPAQUE, Refusal},
    inbound::{Handled, InboundRequest},
    meter::Meter,
    outgoing::{Next, Outgoing, Rejected, Remains, WRITE_TICK},
    sync::{AtomicBool, AtomicI32, AtomicU64, Mutex, Ordering},
    waiter::{Outcome, Waiter, WakeUps},
};
pub(crate) use super::{end_cause::EndCause, in_flight::Alarm, outgoing::Manner};
use crate::{
    code::RequestCode,
    error::{Error, Phase, Written},
    wire::{
        WireError,
        frame::Serialization,
        header::{Envelope, FLAG_ONEWAY, FieldWriter, Language, encode_frame},
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
    /// A connection that has received nothing for so long since it was asked something is given up when a request gets no
    /// answer: its peer may be gone without a word.
    pub(crate) half_open_after: Duration,
}

impl ConnectionSettings {
    /// What every request begins with.
    pub(crate) fn envelope(&self, code: RequestCode, opaque: i32, flag: i32) -> Envelope<'static> {
        Envelope {
            code: code.value(),
            opaque,
            flag,
            language: self.language,
            version: self.version,
            remark: None,
            serialization: self.serialization,
        }
    }
}

/// What a connection tells the producer about itself.
pub(crate) trait Events: Send + Sync {
    /// A request was registered that the timer has to look at.
    fn alarm_set(&self, at: Instant);
    /// The broker has sent a request. Called on the reader thread.
    fn requested(&self, request: &InboundRequest<'_>) -> Handled;
    /// The connection has ended. Called once, before its waiters are told.
    fn ended(&self, connection: &Connection, cause: &EndCause, oneway_unwritten: usize);
}

/// What can be sent as one frame.
pub(crate) trait Frame {
    fn code(&self) -> RequestCode;

    /// An estimate of its bytes.
    fn size(&self) -> usize;

    /// Appends the frame.
    fn encode(self, out: &mut Vec<u8>, envelope: &Envelope<'_>) -> Result<(), WireError>;
}

/// A request to send.
pub(crate) struct Request<'a, F> {
    pub(crate) code: RequestCode,
    pub(crate) write_fields: F,
    pub(crate) body: &'a [u8],
}

impl<F: FnOnce(&mut FieldWriter<'_>)> Frame for Request<'_, F> {
    fn code(&self) -> RequestCode {
        self.code
    }

    fn size(&self) -> usize {
        self.body.len()
    }

    fn encode(self, out: &mut Vec<u8>, envelope: &Envelope<'_>) -> Result<(), WireError> {
        encode_frame(out, envelope, self.write_fields, self.body)
    }
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
    /// It was still waiting, and no answer will be handed to anyone. The error says for how long.
    Waiting(Error),
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
    company: Company,
    in_flight: InFlight,
    cause: OnceLock<EndCause>,
    /// When the first request was taken in since a whole frame came last, or when the frame began that is not whole yet.
    unheard_since: AtomicMoment,
    /// The peer has sent a frame.
    spoken: AtomicBool,
    /// The release that the peer names in its first frame, as an ordinal of `MQVersion`; negative before that.
    peer_version: AtomicI32,
    /// The broker has said that it shuts down, and takes no more requests here.
    going_away: AtomicBool,
    /// Another connection takes its place: it is not handed out any more.
    retired: AtomicBool,
    writer: Mutex<Option<thread::JoinHandle<()>>>,
    reader: Mutex<Option<thread::JoinHandle<()>>>,
    counters: Counters,
    meter: Arc<Meter>,
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
        meter: Arc<Meter>,
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
            company: Company::new(epoch),
            in_flight: InFlight::new(epoch, settings.in_flight_limit),
            settings,
            events,
            cause: OnceLock::new(),
            unheard_since: AtomicMoment::new(Moment::NEVER),
            spoken: AtomicBool::new(false),
            peer_version: AtomicI32::new(-1),
            going_away: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            writer: Mutex::new(None),
            reader: Mutex::new(None),
            counters: Counters::default(),
            meter,
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

    /// Whether requests may still be sent on it.
    pub(super) fn is_handed_out(&self) -> bool {
        self.is_live() && !self.retired.load(Ordering::Relaxed)
    }

    pub(super) fn set_retired(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether the broker wants to be asked on another connection (`GO_AWAY` of 5.x).
    pub(crate) fn is_going_away(&self) -> bool {
        self.going_away.load(Ordering::Relaxed)
    }

    pub(crate) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn meter(&self) -> &Meter {
        &self.meter
    }

    /// Bytes that are not written yet.
    pub(crate) fn unwritten_bytes(&self) -> usize {
        self.outgoing.unwritten_bytes()
    }

    /// Whether nothing is on its way, in either direction.
    pub(crate) fn is_idle(&self) -> bool {
        self.in_flight.waiting() == 0 && self.outgoing.is_empty()
    }

    /// Whether the peer has shown that it speaks the protocol.
    pub(super) fn has_spoken(&self) -> bool {
        self.spoken.load(Ordering::Relaxed)
    }

    /// The peer's release, as an ordinal of `MQVersion`, once it has sent anything.
    pub(crate) fn peer_version(&self) -> Option<i32> {
        let version = self.peer_version.load(Ordering::Relaxed);
        (version >= 0).then_some(version)
    }

    pub(super) fn age(&self) -> Duration {
        self.epoch.elapsed()
    }

    /// How a request is handed over by someone who must not wait.
    pub(crate) fn immediately(&self) -> Manner {
        Manner::Immediate {
            alone: self.in_flight.waiting() == 0,
        }
    }

    /// Blocks until all frames that are here now are written, the connection has ended, or `until` is over. Gives back how
    /// many one-way ones are not written then.
    pub(crate) fn wait_until_written(&self, until: Instant) -> usize {
        self.outgoing.wait_until_written(until)
    }

    /// Registers and sends a request. After `Ok` its waiter is completed exactly once, maybe before this returns; after
    /// `Err` never.
    pub(crate) fn request(
        self: &Arc<Self>,
        frame: impl Frame,
        waiting: &Waiting<'_>,
        manner: Manner,
        now: Instant,
    ) -> Result<i32, Error> {
        let mut opaque = 0;
        let is_attempt = waiting.waiter.judge().is_some();
        let next = self.outgoing.append(manner, frame.size(), now, |out| {
            opaque = self
                .in_flight
                .register(waiting.waiter, waiting.ticket, waiting.alarm, now)
                .map_err(|refusal| match refusal {
                    Refusal::Ended => Unwritten::Ended,
                    Refusal::Full => Unwritten::Full,
                })?;
            let envelope = self.settings.envelope(frame.code(), opaque, 0);
            frame.encode(out, &envelope).map_err(|error| {
                drop(self.in_flight.take(opaque));
                Unwritten::Wire(error)
            })?;
            if is_attempt {
                self.meter.begun();
            }
            self.unheard_since.set_if_never(Moment::new(self.epoch, now));
            Ok(Some(opaque))
        });
        match next {
            Ok(next) => {
                if let Some(alarm) = waiting.alarm {
                    self.events.alarm_set(alarm.share.min(alarm.until));
                }
                self.carry_out(next);
                Ok(opaque)
            }
            Err(rejected) => {
                let error = self.rejection(rejected, now);
                if is_attempt && !matches!(error, Error::InvalidMessage { .. }) {
                    self.meter.turned_away(&error);
                }
                Err(error)
            }
        }
    }

    /// Sends a request that is never answered. `Ok` means that the connection has taken it over, not that it is written.
    pub(crate) fn oneway(
        self: &Arc<Self>,
        frame: impl Frame,
        until: Instant,
        now: Instant,
    ) -> Result<(), Error> {
        let next = self.append_oneway(frame, None, until, now)?;
        self.meter.oneway_accepted();
        self.carry_out(next);
        Ok(())
    }

    /// The same for a request that carries no message: nothing is lost if it dies, so it is not counted.
    pub(crate) fn notify(self: &Arc<Self>, frame: impl Frame, until: Instant) -> Result<(), Error> {
        // Known by the number that nobody waits for, so it is not among the lost messages.
        let next = self.append_oneway(frame, Some(ONEWAY_OPAQUE), until, Instant::now())?;
        self.carry_out(next);
        Ok(())
    }

    fn append_oneway(
        &self,
        frame: impl Frame,
        opaque: Option<i32>,
        until: Instant,
        now: Instant,
    ) -> Result<Next, Error> {
        self.outgoing
            .append(Manner::Queued { until }, frame.size(), now, |out| {
                let envelope = self.settings.envelope(frame.code(), ONEWAY_OPAQUE, FLAG_ONEWAY);
                frame.encode(out, &envelope).map_err(Unwritten::Wire)?;
                Ok(opaque)
            })
            .map_err(|rejected| self.rejection(rejected, now))
    }

    /// Gives a request up. If it was still waiting, the waiter will not be completed any more.
    pub(crate) fn cancel(self: &Arc<Self>, opaque: i32) -> Cancelled {
        let Some(entry) = self.in_flight.take(opaque) else {
            return Cancelled::TooLate;
        };
        let written = self.outgoing.withdraw(opaque);
        let waited = entry.registered.until(Moment::new(self.epoch, Instant::now()));
        let error = self.timeout(written, waited);
        self.count_unanswered(&entry, &error);
        if written == Written::All {
            self.suspect();
        }
        Cancelled::Waiting(error)
    }

    /// When the timer has to call [`Self::look_at_alarms`], at the latest.
    pub(crate) fn next_alarm(&self) -> Option<Instant> {
        self.in_flight.next_alarm()
    }

    /// Tells those whose time is over.
    pub(crate) fn look_at_alarms(self: &Arc<Self>, now: Instant) {
        let due = self.in_flight.due(now);
        // All are withdrawn before the first is told, so that what the first does about it spoils no other's verdict.
        let withdraw = |due: &Due| match due {
            Due::Share(..) => None,
            Due::Over(entry) => Some(self.outgoing.withdraw(entry.opaque)),
        };
        let written: Vec<_> = due.iter().map(withdraw).collect();
        if written.contains(&Some(Written::All)) {
            self.suspect();
        }
        let mut wake_ups = WakeUps::default();
        for (due, written) in due.into_iter().zip(written) {
            match due {
                Due::Share(waiter, ticket) => waiter.complete(ticket, Outcome::Overdue, &mut wake_ups),
                Due::Over(entry) => {
                    let waited = entry.registered.until(Moment::new(self.epoch, now));
                    let error = self.timeout(written.unwrap_or(Written::All), waited);
                    self.count_unanswered(&entry, &error);
                    entry
                        .waiter
                        .complete(entry.ticket, Outcome::Failed(error), &mut wake_ups);
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
        self.end(EndCause::Closed, false);
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

    /// When several requests are in flight, some senders may be about to send again: they are let through first, and all
    /// go out in one system call. Alone, nobody is waited for.
    fn let_others_through(&self) {
        if self.in_flight.waiting() > 1 {
            self.company.let_through();
        }
    }

    fn carry_out(self: &Arc<Self>, next: Next) {
        match next {
            Next::Nothing => {}
            Next::WriterThread => self.ensure_writer(),
            Next::Write => {
                self.let_others_through();
                let Some(piece) = self.outgoing.begin_write() else {
                    return;
                };
                match self.outgoing.write(&self.stream, piece) {
                    Ok(false) => {}
                    Ok(true) => self.ensure_writer(),
                    Err(error) => self.end(EndCause::Io(Arc::new(error)), true),
                }
            }
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
            let gather = || writer.let_others_through();
            if let Err(error) = writer.outgoing.run_writer(&writer.stream, gather) {
                writer.end(EndCause::Io(Arc::new(error)), true);
            }
        });
        match spawned {
            Ok(handle) => *slot = Some(handle),
            Err(error) => {
                drop(slot);
                // Nobody would ever write what is pending.
                self.end(EndCause::Io(Arc::new(error)), false);
            }
        }
    }

    /// A request that got no answer in time may mean that the peer is gone without a word. If not one byte came for long
    /// although it was asked, the connection is given up, and the next send gets a new one. A peer that does not read is
    /// the writer's business.
    fn suspect(&self) {
        self.give_up_if_silent(self.settings.half_open_after);
    }

    /// Gives the connection up if no frame has come for so long although something was asked.
    pub(crate) fn give_up_if_silent(&self, patience: Duration) {
        let now = Moment::new(self.epoch, Instant::now());
        let silent = self.unheard_since.get().until(now);
        if silent >= patience && self.is_live() && !self.outgoing.is_stalled() {
            let reason = format!("no byte came for {silent:.1?} after a request, so the peer may be gone");
            let source = io::Error::new(io::ErrorKind::TimedOut, reason);
            self.end(EndCause::Io(Arc::new(source)), false);
        }
    }

    fn end(&self, cause: EndCause, by_writer: bool) {
        if self.cause.set(cause).is_err() {
            return;
        }
        let Some(cause) = self.cause.get() else { return };
        // Unblocks the reader, and a writer in a system call. An error means that the socket is closed already.
        drop(self.stream.shutdown(Shutdown::Both));
        let Remains {
            mut unfinished,
            oneway,
        } = self.outgoing.end(by_writer);
        unfinished.sort_unstable_by_key(|(opaque, _)| *opaque);
        let entries = self.in_flight.end();
        self.events.ended(self, cause, oneway);
        if !matches!(cause, EndCause::Closed) {
            self.meter
                .remember(cause.error(&self.address, Written::Nothing, self.epoch.elapsed()));
        }
        let now = Moment::new(self.epoch, Instant::now());
        let mut wake_ups = WakeUps::default();
        for entry in entries {
            let known = unfinished.binary_search_by_key(&entry.opaque, |(opaque, _)| *opaque);
            let known = known.ok().and_then(|index| unfinished.get(index));
            let written = known.map_or(Written::All, |(_, written)| *written);
            let error = cause.error(&self.address, written, entry.registered.until(now));
            self.count_unanswered(&entry, &error);
            entry
                .waiter
                .complete(entry.ticket, Outcome::Failed(error), &mut wake_ups);
        }
    }

    fn count_unanswered(&self, entry: &Entry, error: &Error) {
        if entry.waiter.judge().is_some() {
            self.meter.unanswered(error);
        }
    }

    fn rejection(&self, rejected: Rejected<Unwritten>, since: Instant) -> Error {
        let waited = since.elapsed();
        match rejected {
            Rejected::Ended | Rejected::Frame(Unwritten::Ended) => {
                let cause = self.cause.get().unwrap_or(&EndCause::Closed);
                cause.error(&self.address, Written::Nothing, waited)
            }
            Rejected::NoRoom | Rejected::Frame(Unwritten::Full) => self.timeout(Written::Nothing, waited),
            Rejected::Frame(Unwritten::Wire(error)) => Error::InvalidMessage {
                reason: error.to_string(),
            },
        }
    }
}

#[cfg(test)]
#[path = "connection_tests.rs"]
mod tests;

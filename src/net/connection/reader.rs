//! The life of a reader thread: bytes to frames, frames to the waiters that they answer. It holds no lock while it reads or
//! completes, and runs no user code.

use std::{
    io::{self, Read},
    sync::Arc,
    time::Instant,
};

use super::{Connection, ConnectionSettings, EndCause, Handled, InboundRequest, Manner};
use crate::{
    code::{RequestCode, ResponseCode},
    net::{
        in_flight::{Moment, ONEWAY_OPAQUE},
        inbound::Answer,
        sync::Ordering,
        waiter::{Outcome, WakeUps},
    },
    wire::{
        WireError,
        frame::{FrameBuffer, FrameRef, Serialization},
        header::{Envelope, FLAG_RESPONSE, FieldWriter, Header, encode_frame},
        reply_shape::ReplyShape,
    },
};

impl Connection {
    pub(super) fn run_reader(self: Arc<Self>) {
        /// Ends the connection even if decoding panics, so that nobody waits for ever.
        struct Guard<'a>(&'a Connection, Option<EndCause>);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                let cause = self
                    .1
                    .take()
                    .unwrap_or_else(|| EndCause::Protocol("the reader thread panicked".into()));
                self.0.end(cause, false);
            }
        }
        let mut guard = Guard(&self, None);
        let cause = self.read_until_the_end();
        guard.1 = Some(cause);
    }

    fn read_until_the_end(self: &Arc<Self>) -> EndCause {
        let mut buffer = FrameBuffer::new();
        let mut wake_ups = WakeUps::default();
        let mut shape = ReplyShape::default();
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
            buffer.filled(count);
            // One look at the clock for all frames of one read.
            let received = Moment::new(self.epoch, Instant::now());
            loop {
                match buffer.next_frame() {
                    Ok(None) => break,
                    Ok(Some(frame)) => {
                        // Before it is handed on: who gets it may ask the next thing at once.
                        self.unheard_since.set(Moment::NEVER);
                        if let Err(error) = self.take_in(&frame, &mut shape, received, &mut wake_ups) {
                            return EndCause::Protocol(error.to_string().into());
                        }
                    }
                    Err(error) => return EndCause::Protocol(error.to_string().into()),
                }
            }
            wake_ups.wake();
            // Half an answer is none: its rest may never come.
            if buffer.is_within_frame() {
                self.unheard_since.set_if_never(received);
            }
        }
    }

    fn take_in(
        self: &Arc<Self>,
        frame: &FrameRef<'_>,
        shape: &mut ReplyShape,
        received: Moment,
        wake_ups: &mut WakeUps,
    ) -> Result<(), WireError> {
        if let Some(header) = shape.read(frame.serialization, frame.header) {
            self.hand_out(frame, &header, received, wake_ups);
            shape.hit();
            return Ok(());
        }
        let header = frame.header()?;
        shape.learn(frame.serialization, frame.header, &header);
        self.hand_out(frame, &header, received, wake_ups);
        Ok(())
    }

    fn hand_out(
        self: &Arc<Self>,
        frame: &FrameRef<'_>,
        header: &Header<'_>,
        received: Moment,
        wake_ups: &mut WakeUps,
    ) {
        if !self.has_spoken() {
            self.spoken.store(true, Ordering::Relaxed);
        }
        if !header.is_response() {
            self.counters.inbound_requests.fetch_add(1, Ordering::Relaxed);
            self.serve(header, frame);
            return;
        }
        let Some(entry) = self.in_flight.take(header.opaque) else {
            self.counters.unmatched_replies.fetch_add(1, Ordering::Relaxed);
            log::debug!(
                "{}: dropped a reply that nobody waits for (opaque {})",
                self.address,
                header.opaque
            );
            return;
        };
        if let Some(judge) = entry.waiter.judge() {
            let took = entry.registered.until(received);
            self.meter.answered(judge, &self.address, header, took);
        }
        if header.code == ResponseCode::GO_AWAY.value() {
            self.going_away.store(true, Ordering::Relaxed);
        }
        let outcome = Outcome::Reply {
            address: &self.address,
            header,
            body: frame.body,
        };
        entry.waiter.complete(entry.ticket, outcome, wake_ups);
    }

    /// Hands a request of the broker on, and answers it unless it is one-way or was taken over. What nobody serves is
    /// declined: what consumers are asked for, a producer does not have.
    fn serve(self: &Arc<Self>, header: &Header<'_>, frame: &FrameRef<'_>) {
        let request = InboundRequest {
            connection: self,
            header,
            body: frame.body,
        };
        let answer = match self.events.requested(&request) {
            Handled::TakenOver => return,
            Handled::Answered(answer) => answer,
            Handled::NotServed => {
                log::debug!(
                    "{}: the broker asked for {}, which is not served",
                    self.address,
                    RequestCode::new(header.code)
                );
                Answer::not_supported(header.code)
            }
        };
        if !header.is_oneway() {
            self.answer(header.opaque, &answer, frame.serialization);
        }
    }

    fn answer(self: &Arc<Self>, opaque: i32, answer: &Answer, serialization: Serialization) {
        let ConnectionSettings {
            language, version, ..
        } = self.settings;
        let envelope = Envelope {
            code: answer.code.value(),
            opaque,
            flag: FLAG_RESPONSE,
            language,
            version,
            remark: answer.remark.as_deref(),
            serialization,
        };
        let write_fields = |writer: &mut FieldWriter<'_>| {
            for (name, value) in &answer.fields {
                writer.text(name, value);
            }
        };
        // Known by the number that nobody waits for: it is no message that could be lost.
        // The reader must not wait for room: a peer that floods us with requests and reads no answer gets none.
        let until = Instant::now();
        let next = self
            .outgoing
            .append(Manner::Queued { until }, answer.size(), until, |out| {
                encode_frame(out, &envelope, write_fields, &[]).map(|()| Some(ONEWAY_OPAQUE))
            });
        if let Ok(next) = next {
            self.carry_out(next);
        } else {
            log::debug!("{}: no room for the answer to the broker's request", self.address);
        }
    }
}

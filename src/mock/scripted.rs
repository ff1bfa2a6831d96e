//! How a request meets its rule: the slow way of a request, on a cluster for which a script was ever written.
//!
//! The late thread of a connection does what is to be done by the clock, so that a request that waits holds up no other.

use std::sync::Arc;
use std::time::Instant;

use crate::code::{RequestCode, ResponseCode};
use crate::wire::WireError;
use crate::wire::frame::{FrameRef, Serialization};
use crate::wire::header::Header;

use super::action::{End, MockAction};
use super::broker::Session;
use super::line::{Line, Outgoing, Postponed, Work};
use super::requests::MockRequest;
use super::rules::{Holding, Taken};
use super::server::Server;

/// What a server that is about to stop says to those who are still there (`NettyRemotingAbstract` 5.x).
const GO_AWAY_REMARK: &str = "please go away";

/// Whether the requests behind one are still to be acted on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flow {
    GoOn,
    /// What else comes on this connection is thrown away.
    Discard,
}

/// One request on its way, in parts.
pub(super) struct Incoming<'a> {
    pub(super) header: &'a Header<'a>,
    pub(super) serialization: Serialization,
    pub(super) header_bytes: &'a [u8],
    pub(super) body: &'a [u8],
}

/// Answers one request by the first rule that matches it. What can be written at once is appended to `answers`.
pub(super) fn answer(
    server: &Arc<Server>,
    line: &Arc<Line>,
    session: &mut Session,
    incoming: &Incoming<'_>,
    answers: &mut Vec<u8>,
) -> Result<Flow, WireError> {
    if !line.may_act() {
        return Ok(Flow::Discard);
    }
    let faults = &server.shared().faults;
    let mut request = None;
    let mut describe = || Arc::clone(request.get_or_insert_with(|| describe(server, line, incoming)));
    if faults.is_recording() {
        faults.record(&describe());
    }
    let Taken { action, holding } = faults
        .take(server.id(), incoming.header, describe)
        .unwrap_or_default();
    if action.is_some() {
        server.shared().events.happened();
    }
    let action = match action {
        Some(action) => action,
        None if is_sent_away(line, incoming.header) => MockAction::usual()
            .not_carried_out()
            .reply(ResponseCode::GO_AWAY, GO_AWAY_REMARK),
        None => MockAction::usual(),
    };
    if action.wait.is_zero() {
        return carry_out(
            server,
            line,
            session,
            incoming,
            &action,
            holding.as_deref(),
            answers,
        );
    }
    let due = Instant::now().checked_add(action.wait);
    let postponed = Postponed {
        serialization: incoming.serialization,
        header: incoming.header_bytes.to_vec(),
        body: incoming.body.to_vec(),
        action,
        holding,
    };
    // A time that no clock can count never comes.
    if let Some(due) = due {
        queue(server, line, due, Work::CarryOut(Box::new(postponed)));
    }
    Ok(Flow::GoOn)
}

fn is_sent_away(line: &Line, header: &Header<'_>) -> bool {
    header.code != RequestCode::HEART_BEAT.value() && line.is_going_away()
}

fn describe(server: &Server, line: &Line, incoming: &Incoming<'_>) -> Arc<MockRequest> {
    Arc::new(MockRequest::new(
        server.name(),
        line.id,
        line.client,
        incoming.header,
        incoming.body,
    ))
}

/// Everything but the wait at the beginning.
fn carry_out(
    server: &Arc<Server>,
    line: &Arc<Line>,
    session: &mut Session,
    incoming: &Incoming<'_>,
    action: &MockAction,
    holding: Option<&Holding>,
    answers: &mut Vec<u8>,
) -> Result<Flow, WireError> {
    let usual = if action.is_carried_out {
        server.answer(session, incoming.header, incoming.body)
    } else {
        None
    };
    let version = server.shared().version;
    let bytes = action.answer(usual, version, incoming.header, incoming.serialization)?;
    if let Some(holding) = holding {
        start_late(server, line);
        holding.hold(line, bytes);
    } else if action.is_plain() {
        answers.extend_from_slice(&bytes);
    } else {
        // What was answered before goes first.
        flush(line, answers);
        let outgoing = Outgoing {
            bytes,
            drip: action.drip,
            end: action.end,
        };
        if let Some(due) = Instant::now().checked_add(action.answer_wait) {
            queue(server, line, due, Work::Write(outgoing));
        }
    }
    if !action.stop_reading.is_zero() {
        flush(line, answers);
        // Over early or not, the next read tells.
        let _in_time = line.wait(action.stop_reading);
    }
    let ends_now = action.end != End::Stay && action.answer_wait.is_zero();
    Ok(if ends_now { Flow::Discard } else { Flow::GoOn })
}

fn flush(line: &Line, answers: &mut Vec<u8>) {
    if !answers.is_empty() {
        // A client that has gone is noticed by the next read.
        let _written = line.write(answers);
        answers.clear();
    }
}

/// Makes sure that there is a thread for what is queued.
fn start_late(server: &Arc<Server>, line: &Arc<Line>) {
    queue(server, line, Instant::now(), Work::Write(Outgoing::default()));
}

/// Gives work to the late thread of a connection.
pub(super) fn queue(server: &Arc<Server>, line: &Arc<Line>, due: Instant, work: Work) {
    if line.push(due, work) {
        let (serving, its_line) = (Arc::clone(server), Arc::clone(line));
        if !server.spawn_late(line, move || run(&serving, &its_line)) {
            // Without a thread nothing queued would ever happen: the client is to see that.
            line.cut();
        }
    }
}

/// The late thread of one connection.
fn run(server: &Arc<Server>, line: &Arc<Line>) {
    let mut session = Session::new(server.origin(line.id), line.client);
    while let Some(work) = line.next_work() {
        match work {
            Work::Write(outgoing) => line.write_late(&outgoing),
            Work::CarryOut(postponed) => carry_out_late(server, line, &mut session, &postponed),
        }
        server.shared().events.happened();
    }
    // A heartbeat may have come behind the end of its connection.
    server.shared().clients.closed(server.origin(line.id));
}

fn carry_out_late(server: &Arc<Server>, line: &Arc<Line>, session: &mut Session, postponed: &Postponed) {
    let frame = FrameRef {
        serialization: postponed.serialization,
        header: &postponed.header,
        body: &postponed.body,
    };
    // It was decoded once before.
    let Ok(header) = frame.header() else {
        return;
    };
    let incoming = Incoming {
        header: &header,
        serialization: postponed.serialization,
        header_bytes: &postponed.header,
        body: &postponed.body,
    };
    let mut bytes = Vec::new();
    let holding = postponed.holding.as_deref();
    let done = carry_out(
        server,
        line,
        session,
        &incoming,
        &postponed.action,
        holding,
        &mut bytes,
    );
    match done {
        Ok(_) if bytes.is_empty() => {}
        Ok(_) => line.write_late(&Outgoing {
            bytes,
            ..Outgoing::default()
        }),
        // An answer that cannot be encoded ends the connection, as it does without a script.
        Err(_) => line.cut(),
    }
}

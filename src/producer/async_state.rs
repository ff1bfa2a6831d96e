//! What an asynchronous send is at: its plan, its open attempts, and what it waits for.

use std::sync::Arc;

use super::{
    admission::Closing,
    lanes::Turn,
    plan::{Destination, SendPlan},
};
use crate::{
    cluster::topic_route::TopicRoute,
    error::Error,
    message::MessageQueue,
    net::{connection::Connection, timer::TimerKey},
};

/// An attempt that is registered with a connection.
pub(super) struct Open {
    pub(super) number: u32,
    pub(super) connection: Arc<Connection>,
    pub(super) opaque: i32,
}

/// What a parked send waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Parked {
    ForRoute,
    /// For the ordered messages before it.
    ForTurn,
    ForConnection {
        number: u32,
    },
    /// For nothing but time, before it looks for the route again.
    BeforeRoute,
    /// For nothing but time, before the next attempt.
    BeforeAttempt,
}

pub(super) struct State {
    pub(super) plan: SendPlan,
    pub(super) route: Option<(Arc<TopicRoute>, Option<Destination>)>,
    /// Nearly every send has one open attempt, so only further ones need memory.
    pub(super) open: Option<Open>,
    pub(super) more_open: Vec<Open>,
    /// The timer's key is missing for a moment, while the job is handed to it.
    pub(super) parked: Option<(Parked, Option<TimerKey>)>,
    /// The line that it stands in, and the number to give up with.
    pub(super) line: Option<(MessageQueue, u64)>,
    /// Held until the send has its place in the line of its queue.
    pub(super) entrance: Option<Turn>,
    /// The right to send to an ordered queue, held until the outcome is known.
    pub(super) turn: Option<Turn>,
    /// It has its one outcome: from here on nothing that comes counts.
    pub(super) finished: bool,
    /// Why it failed, if it did. Else the plan has the place where the message is stored.
    pub(super) failure: Option<Error>,
    /// What the closure needs; taken by the worker that runs it.
    pub(super) closing: Option<Closing>,
}

impl State {
    pub(super) fn new(plan: SendPlan, closing: Closing) -> Self {
        Self {
            plan,
            route: None,
            open: None,
            more_open: Vec::new(),
            parked: None,
            line: None,
            entrance: None,
            turn: None,
            finished: false,
            failure: None,
            closing: Some(closing),
        }
    }

    pub(super) fn add_open(&mut self, open: Open) {
        match self.open {
            None => self.open = Some(open),
            Some(_) => self.more_open.push(open),
        }
    }

    pub(super) fn remove_open(&mut self, number: u32) {
        self.open.take_if(|open| open.number == number);
        self.more_open.retain(|open| open.number != number);
    }

    pub(super) fn has_loose_ends(&self) -> bool {
        self.open.is_some() || !self.more_open.is_empty() || self.parked.is_some()
    }
}

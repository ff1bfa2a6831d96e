//! Ordered sends: one message on its way per queue, the others behind it.
//!
//! 1. A queue has a lane while somebody is in it. Whoever comes later waits behind, in the order of coming.
//! 2. Whoever leaves with an outcome lets the next one in. Whoever leaves without knowing whether his message is stored ends
//!    the order: all who wait behind him are told, and nothing of theirs is sent.
//! 3. Before its queue is known, an ordered send stands in the line of its topic's *entrance*, and leaves that when it has
//!    its place in the line of its queue. So whoever finds the route at once does not overtake who is still looking.
//! 4. The next one is let in where the one before leaves. So that a thousand who fail at once do not stack up, a thread that
//!    is letting somebody in puts the next into a list and comes to it when it is done.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Instant,
};

use crate::{
    error::{Delivery, Error, Phase, Written},
    message::MessageQueue,
    net::{
        deadline::Deadline,
        sync::{AtomicU64, Mutex, Ordering, channel},
    },
};

/// The id of the queue that stands for the entrance of a topic. Queues of routes have far smaller ones.
const ENTRANCE: u32 = u32::MAX;

type Enter = Box<dyn FnOnce(Result<Turn, Error>) + Send>;

struct Waiting {
    number: u64,
    enter: Enter,
}

#[derive(Default)]
pub(super) struct Lanes {
    /// A queue is in the map while somebody is in its lane.
    lines: Mutex<HashMap<MessageQueue, VecDeque<Waiting>>>,
    next_number: AtomicU64,
    no_broker: Arc<str>,
}

/// A place in a line, for a thread that waits there.
pub(super) struct Place {
    lanes: Arc<Lanes>,
    queue: MessageQueue,
    number: u64,
    began: Instant,
    turn: channel::Receiver<Result<Turn, Error>>,
}

/// The right to send to a queue. Dropping it without [`Turn::end`] ends the order, unless it is that of an entrance, where
/// nothing is sent.
pub(super) struct Turn {
    lanes: Arc<Lanes>,
    queue: Option<MessageQueue>,
}

type LetIn = (Enter, Result<Turn, Error>);

thread_local! {
    /// Those whom this thread is about to let in; `None` when it is not at it.
    static LETTING_IN: RefCell<Option<VecDeque<LetIn>>> = const { RefCell::new(None) };
}

impl Lanes {
    /// What ordered sends to a topic line up for until they know their queue.
    pub(super) fn entrance(&self, topic: &Arc<str>) -> MessageQueue {
        MessageQueue::new(Arc::clone(topic), Arc::clone(&self.no_broker), ENTRANCE)
    }

    /// A number to line up with, and to give up with.
    pub(super) fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }

    /// Calls `enter` when it is the caller's turn: now, or on the thread where the one before leaves.
    pub(super) fn take_turn(self: &Arc<Self>, queue: &MessageQueue, number: u64, enter: Enter) {
        let mut lanes = self.lines.lock();
        if let Some(waiting) = lanes.get_mut(queue) {
            return waiting.push_back(Waiting { number, enter });
        }
        lanes.insert(queue.clone(), VecDeque::new());
        drop(lanes);
        let_in(enter, Ok(self.turn(queue)));
    }

    /// Gets in line, for [`Place::wait`].
    pub(super) fn line_up(self: &Arc<Self>, queue: &MessageQueue) -> Place {
        let (sender, turn) = channel::bounded(1);
        let number = self.number();
        // The receiver may have gone when its deadline was over: then the turn goes on to the next one.
        self.take_turn(
            queue,
            number,
            Box::new(move |turn| {
                if let Err(channel::TrySendError::Disconnected(Ok(turn))) = sender.try_send(turn) {
                    turn.end(None);
                }
            }),
        );
        Place {
            lanes: Arc::clone(self),
            queue: queue.clone(),
            number,
            began: Instant::now(),
            turn,
        }
    }

    /// Takes back a wish for a turn. False if it has been granted, or is about to be.
    pub(super) fn give_up(&self, queue: &MessageQueue, number: u64) -> bool {
        let mut lanes = self.lines.lock();
        let Some(waiting) = lanes.get_mut(queue) else {
            return false;
        };
        let before = waiting.len();
        waiting.retain(|other| other.number != number);
        waiting.len() < before
    }

    fn turn(self: &Arc<Self>, queue: &MessageQueue) -> Turn {
        Turn {
            lanes: Arc::clone(self),
            queue: Some(queue.clone()),
        }
    }

    fn next(self: &Arc<Self>, queue: &MessageQueue) {
        let mut lanes = self.lines.lock();
        let next = lanes.get_mut(queue).and_then(VecDeque::pop_front);
        if next.is_none() {
            lanes.remove(queue);
        }
        drop(lanes);
        if let Some(next) = next {
            let_in(next.enter, Ok(self.turn(queue)));
        }
    }

    fn break_order(&self, queue: &MessageQueue) {
        let waiting = self.lines.lock().remove(queue).unwrap_or_default();
        for behind in waiting {
            let_in(
                behind.enter,
                Err(Error::OrderEnded {
                    queue: queue.to_string().into(),
                }),
            );
        }
    }
}

impl Place {
    /// Blocks until it is the caller's turn or the deadline is over.
    pub(super) fn wait(self, deadline: &Deadline) -> Result<Turn, Error> {
        if let Ok(turn) = self.turn.recv_deadline(deadline.at()) {
            return turn;
        }
        let late = || Err(late(&self.queue, self.began));
        if self.lanes.give_up(&self.queue, self.number) {
            return late();
        }
        // It is being handed over at this moment.
        self.turn.recv().unwrap_or_else(|_| late())
    }
}

impl Turn {
    /// Leaves with what became of the message: `None` if it is stored.
    pub(super) fn end(mut self, failure: Option<Delivery>) {
        let Some(queue) = self.queue.take() else { return };
        match failure {
            None | Some(Delivery::NotStored | Delivery::Refused) => self.lanes.next(&queue),
            Some(_) => self.lanes.break_order(&queue),
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        match self.queue.take() {
            Some(queue) if queue.queue_id() == ENTRANCE => self.lanes.next(&queue),
            Some(queue) => self.lanes.break_order(&queue),
            None => {}
        }
    }
}

/// What whoever waited for his turn too long reports.
pub(super) fn late(queue: &MessageQueue, since: Instant) -> Error {
    let target = if queue.queue_id() == ENTRANCE {
        format!("topic {}", queue.topic())
    } else {
        format!("queue {queue}")
    };
    Error::Timeout {
        phase: Phase::Order,
        target: target.into(),
        waited: since.elapsed(),
        written: Written::Nothing,
    }
}

/// Those who are left when letting somebody in panics are dropped, which ends their turns.
struct Done;
impl Drop for Done {
    fn drop(&mut self) {
        drop(LETTING_IN.take());
    }
}

fn let_in(enter: Enter, turn: Result<Turn, Error>) {
    let first = LETTING_IN.with_borrow_mut(|list| {
        if let Some(list) = list {
            list.push_back((enter, turn));
            return None;
        }
        *list = Some(VecDeque::new());
        Some((enter, turn))
    });
    if first.is_none() {
        return;
    }
    let _done = Done;
    let mut next = first;
    while let Some((enter, turn)) = next {
        enter(turn);
        next = LETTING_IN.with_borrow_mut(|list| list.as_mut().and_then(VecDeque::pop_front));
    }
}

#[cfg(test)]
mod tests {
    use std::{thread, time::Duration};

    use super::*;

    fn soon() -> Deadline {
        Deadline::after(Duration::from_millis(20))
    }

    fn queue() -> MessageQueue {
        MessageQueue::new("t", "a", 0)
    }

    #[test]
    fn one_at_a_time_in_the_order_of_coming() {
        let lanes = Arc::new(Lanes::default());
        let first = lanes.line_up(&queue()).wait(&soon()).unwrap();
        assert!(
            lanes
                .line_up(&queue())
                .wait(&soon())
                .is_err_and(|error| error.is_timeout())
        );
        assert!(
            lanes
                .line_up(&MessageQueue::new("t", "a", 1))
                .wait(&soon())
                .is_ok(),
            "another queue is free"
        );
        let (sender, entered) = channel::unbounded();
        for number in 0..3 {
            let sender = sender.clone();
            lanes.take_turn(
                &queue(),
                lanes.number(),
                Box::new(move |turn| {
                    sender.send(number).unwrap();
                    turn.unwrap().end(None);
                }),
            );
        }
        assert!(entered.is_empty());
        first.end(Some(Delivery::NotStored));
        assert_eq!(entered.try_iter().collect::<Vec<_>>(), [0, 1, 2]);
        assert!(lanes.lines.lock().is_empty());
    }

    #[test]
    fn an_unknown_outcome_ends_the_order_for_those_behind() {
        let lanes = Arc::new(Lanes::default());
        let first = lanes.line_up(&queue()).wait(&soon()).unwrap();
        let behind = {
            let lanes = Arc::clone(&lanes);
            let (sender, receiver) = channel::bounded(1);
            lanes.take_turn(
                &queue(),
                lanes.number(),
                Box::new(move |turn| drop(sender.try_send(turn.err()))),
            );
            receiver
        };
        first.end(Some(Delivery::Unknown));
        assert!(matches!(behind.recv().unwrap(), Some(Error::OrderEnded { .. })));
        assert!(
            lanes.line_up(&queue()).wait(&soon()).is_ok(),
            "a new order can begin"
        );
    }

    #[test]
    fn a_long_line_that_fails_at_once_does_not_stack_up() {
        let lanes = Arc::new(Lanes::default());
        let first = lanes.line_up(&queue()).wait(&soon()).unwrap();
        let (sender, entered) = channel::unbounded();
        for _ in 0..100_000 {
            let sender = sender.clone();
            lanes.take_turn(
                &queue(),
                lanes.number(),
                Box::new(move |turn| {
                    turn.unwrap().end(Some(Delivery::Refused));
                    sender.send(()).unwrap();
                }),
            );
        }
        thread::spawn(move || first.end(None)).join().unwrap();
        assert_eq!(entered.len(), 100_000);
    }
}

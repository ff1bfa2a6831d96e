//! A gathered batch on its way, and its end. It goes as an asynchronous send like any other.
//!
//! 1. The end of a batch is told where it is seen: blocked threads are woken, closures go to the workers.
//! 2. A batch that ends while another is being sent off on the same thread leaves what follows to the timer, so that threads
//!    which fail at once do not stack up.

use std::{cell::Cell, sync::Arc, time::Instant};

use super::{
    admission::Closing,
    attempt::Prepared,
    auto_batch::{Line, gathered_too_long, outcome},
    background::AsyncSend,
    batch::{BatchBody, Places},
    gather::{Ending, Gathered, How, Load, Member},
    plan::SendPlan,
    result::{SendFailure, SendResult},
    shared::Shared,
};
use crate::{
    code::ResponseCode,
    config::Redelivery,
    error::{Error, is_size_refusal},
    net::{
        sync::Mutex,
        workers::{Task, Workers},
    },
};

thread_local! {
    static IS_SENDING_OFF: Cell<bool> = const { Cell::new(false) };
}

/// Sends a batch off. Never blocks.
pub(super) fn depart(shared: &Arc<Shared>, line: &Arc<Line>, gathered: Gathered<Closing>) {
    if IS_SENDING_OFF.with(Cell::get) {
        let (of, line) = (Arc::clone(shared), Arc::clone(line));
        let later = move || send_off(&of, &line, gathered);
        shared.timer.at(Instant::now(), later);
    } else {
        send_off(shared, line, gathered);
    }
}

fn send_off(shared: &Arc<Shared>, line: &Arc<Line>, mut gathered: Gathered<Closing>) {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            IS_SENDING_OFF.with(|sending| sending.set(self.0));
        }
    }
    let _restore = Restore(IS_SENDING_OFF.with(|sending| sending.replace(true)));
    let now = Instant::now();
    for member in gathered.take_out_late(now) {
        close_late(shared, member);
    }
    let left = gathered.left();
    let Gathered {
        load,
        body,
        members,
        deadline,
        held_bytes,
        ..
    } = gathered;
    let count = members.len() - left.len();
    let departed = Departed {
        shared: Arc::clone(shared),
        line: Arc::clone(line),
        load,
        held_bytes,
        left,
        count,
    };
    let Some(first) = members.iter().flatten().next() else {
        return departed.end(How::Failed(Error::ShutDown), members);
    };
    let batch = BatchBody {
        bytes: body,
        wait_store_ok: line.kind.wait_store_ok,
        sys_flag: 0,
    };
    let prepared = Prepared {
        // A message that is alone goes as one.
        batch: (count > 1).then(|| Arc::new(batch)),
        ..first.prepared.clone()
    };
    let plan = SendPlan::new(Arc::clone(&line.rules), Arc::clone(&line.kind.topic), deadline);
    let on_done = move |outcome: Result<SendResult, Error>| {
        let how = match outcome.and_then(|first| Places::new(first, departed.count)) {
            Ok(places) => How::Stored(Box::new(places)),
            Err(error) if departed.may_scatter() && is_about_a_message(&error) => How::Scattered,
            Err(error) => How::Failed(error),
        };
        departed.end(how, members);
    };
    let closing = Closing::of_gathered(Box::new(on_done));
    AsyncSend::new(shared, prepared, line.kind.to.aim(), false, plan, closing).start();
}

/// Whether a broker refused a batch for what is in it or for being one, so that its messages may still be taken one by one.
fn is_about_a_message(error: &Error) -> bool {
    let last = match error {
        Error::Failed(failed) => failed.last_error(),
        other => Some(other),
    };
    let is_about = matches!(last, Some(Error::Refused { code, remark, .. })
        if matches!(*code, ResponseCode::MESSAGE_ILLEGAL | ResponseCode::REQUEST_CODE_NOT_SUPPORTED)
            || is_size_refusal(*code, remark));
    is_about && error.delivery().is_not_stored()
}

/// A batch on its way.
struct Departed {
    shared: Arc<Shared>,
    line: Arc<Line>,
    load: Arc<Load>,
    held_bytes: usize,
    left: Vec<usize>,
    count: usize,
}

impl Departed {
    /// Whether its messages may be sent again one by one: not where even a refusal is to end a send.
    fn may_scatter(&self) -> bool {
        self.count > 1 && self.line.rules.redelivery != Redelivery::AtMostOnce
    }

    /// Tells all who are in the batch, and lets the next one go.
    fn end(self, how: How, members: Vec<Option<Member<Closing>>>) {
        let Self {
            shared,
            line,
            load,
            held_bytes,
            left,
            ..
        } = self;
        let ending = Arc::new(Ending { how, left });
        load.end(Arc::clone(&ending));
        if let Some(batcher) = &shared.auto_batch {
            batcher.room.release(held_bytes);
        }
        let closures = members.iter().flatten().filter(|member| member.closing.is_some());
        match (closures.count(), &ending.how) {
            (0, _) => {}
            (_, How::Scattered) => {
                for member in members.into_iter().flatten() {
                    if member.closing.is_some() {
                        send_alone(&shared, member, &line);
                    }
                }
            }
            (closures, _) => Delivery::submit(&shared, ending, members, closures),
        }
        if let Some(next) = line.group.ended() {
            depart(&shared, &line, next);
        }
    }
}

/// Sends a message by itself after all.
pub(super) fn send_alone(shared: &Arc<Shared>, member: Member<Closing>, line: &Line) {
    let Member {
        prepared,
        deadline,
        closing,
        ..
    } = member;
    let Some(closing) = closing else { return };
    let plan = SendPlan::new(Arc::clone(&line.rules), Arc::clone(&line.kind.topic), deadline);
    AsyncSend::new(shared, prepared, line.kind.to.aim(), false, plan, closing).start();
}

/// Tells the closure of a message whose time was over before its batch went. A blocked thread finds it out itself.
fn close_late(shared: &Arc<Shared>, member: Member<Closing>) {
    if member.closing.is_some() {
        let how = How::Failed(gathered_too_long(&member.prepared, &member.deadline));
        let left = Vec::new();
        Delivery::submit(shared, Arc::new(Ending { how, left }), vec![Some(member)], 1);
    }
}

/// The closures of a batch. As many workers as are free run them, each taking the next one, so that a closure that blocks
/// holds up no other.
struct Delivery {
    shared: Arc<Shared>,
    ending: Arc<Ending>,
    members: Mutex<std::iter::Enumerate<std::vec::IntoIter<Option<Member<Closing>>>>>,
}

impl Delivery {
    fn submit(
        shared: &Arc<Shared>,
        ending: Arc<Ending>,
        members: Vec<Option<Member<Closing>>>,
        closures: usize,
    ) {
        let delivery = Arc::new(Self {
            shared: Arc::clone(shared),
            ending,
            members: Mutex::new(members.into_iter().enumerate()),
        });
        let run = |_| -> Arc<dyn Task> { Arc::<Self>::clone(&delivery) };
        let mut tasks = (0..closures.min(shared.config.callback_threads))
            .map(run)
            .collect();
        shared.workers.submit_all(&mut tasks);
    }

    fn next(&self) -> Option<(usize, Member<Closing>)> {
        let mut members = self.members.lock();
        members.find_map(|(index, member)| Some((index, member.filter(|member| member.closing.is_some())?)))
    }
}

impl Task for Delivery {
    fn run(self: Arc<Self>) {
        /// If a closure panics, the others are still run.
        struct Rest(Option<Arc<Delivery>>);
        impl Drop for Rest {
            fn drop(&mut self) {
                if let Some(delivery) = self.0.take() {
                    let shared = Arc::clone(&delivery.shared);
                    shared.workers.submit(delivery);
                }
            }
        }
        let mut rest = Rest(Some(Arc::clone(&self)));
        while let Some((index, member)) = self.next() {
            let Some(outcome) = outcome(&self.ending, index, &member.prepared, &member.deadline) else {
                continue;
            };
            let message = member.prepared.message;
            if let Some(closing) = member.closing {
                closing.run(
                    &self.shared,
                    outcome.map_err(|error| SendFailure::new(message, error)),
                );
            }
        }
        rest.0 = None;
    }

    fn pool(&self) -> &Workers {
        &self.shared.workers
    }
}

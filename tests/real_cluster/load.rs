//! Senders that write into a ledger: several threads, in all the ways that give an outcome.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use rocketmq_producer::{Producer, Redelivery, Target};

use crate::ledger::{Bodies, Ledger};

/// Between two messages of a lane: together the lanes send some hundred a second, which leaves a small machine time for
/// the servers.
const PACE: Duration = Duration::from_millis(8);

/// Asynchronous messages come in bursts, so that several are under way when a fault begins.
const BURST: u32 = 8;

/// How a lane sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Blocking,
    /// Blocking, and never a second copy.
    Once,
    Asynchronous,
    /// Asynchronous, with large bodies.
    AsynchronousLarge,
    /// Asynchronous, in order, to one queue.
    Ordered,
}

/// The senders of one producer. They stop when this goes.
pub(crate) struct Load {
    producer: Producer,
    ledger: Arc<Ledger>,
    stop: Arc<AtomicBool>,
    lanes: Vec<JoinHandle<()>>,
}

impl Load {
    /// Three blocking threads, one of them with `NoDuplicates`, and one that sends asynchronously.
    pub(crate) fn start(producer: &Producer, ledger: &Arc<Ledger>) -> Self {
        let load = Self {
            producer: producer.clone(),
            ledger: Arc::clone(ledger),
            stop: Arc::default(),
            lanes: Vec::new(),
        };
        load.lane("sync1", Manner::Blocking)
            .lane("sync2", Manner::Blocking)
            .lane("once", Manner::Once)
            .lane("async", Manner::Asynchronous)
    }

    /// One more that sends ordered messages.
    pub(crate) fn and_ordered(self) -> Self {
        self.lane("ordered", Manner::Ordered)
    }

    /// One more that sends large messages asynchronously.
    pub(crate) fn and_large(self) -> Self {
        self.lane("large", Manner::AsynchronousLarge)
    }

    fn lane(mut self, name: &'static str, manner: Manner) -> Self {
        let (producer, ledger, stop) = (
            self.producer.clone(),
            Arc::clone(&self.ledger),
            Arc::clone(&self.stop),
        );
        let run = move || {
            let mut number = 0;
            while !stop.load(Ordering::Relaxed) {
                let at_once = if manner == Manner::Asynchronous { BURST } else { 1 };
                for _ in 0..at_once {
                    send_one(&producer, &ledger, name, number, manner);
                    number += 1;
                }
                thread::sleep(PACE * at_once);
            }
        };
        let thread = thread::Builder::new().name(name.to_owned()).spawn(run).unwrap();
        self.lanes.push(thread);
        self
    }

    /// Ends the senders and waits for the outcomes of everything that they sent.
    #[track_caller]
    pub(crate) fn finish(mut self, within: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        for lane in self.lanes.drain(..) {
            lane.join().expect("a sender does not panic");
        }
        self.producer.flush(within).expect("every send has an outcome");
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

fn send_one(producer: &Producer, ledger: &Arc<Ledger>, lane: &str, number: usize, manner: Manner) {
    let redelivery = match manner {
        Manner::Once => Redelivery::NoDuplicates,
        _ => Redelivery::AtLeastOnce,
    };
    let bodies = match manner {
        Manner::AsynchronousLarge => Bodies::Large,
        _ => Bodies::Mixed,
    };
    let (entry, message) = ledger.begin(lane, number, bodies, redelivery);
    if matches!(manner, Manner::Blocking | Manner::Once) {
        let outcome = if manner == Manner::Once {
            producer
                .timeout(ledger.timeout)
                .redelivery(redelivery)
                .send(&message)
        } else {
            producer.send(&message)
        };
        return ledger.end(entry, outcome.as_ref());
    }
    let closing = Arc::clone(ledger);
    let on_done = move |outcome: Result<_, rocketmq_producer::SendFailure>| {
        closing.end(entry, outcome.as_ref().map_err(|failure| &failure.error));
    };
    if manner == Manner::Ordered {
        producer
            .to(Target::key("order"))
            .ordered(true)
            .send_async(message, on_done);
    } else {
        producer.send_async(message, on_done);
    }
}

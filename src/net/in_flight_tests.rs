//! Tests of the in-flight table: against a map as the oracle, and in races that are repeated.

use std::{collections::HashMap, sync::Barrier, thread};

use super::*;
use crate::net::waiter::{Outcome, WakeUps};

/// Counts how often each ticket was completed.
#[derive(Default)]
struct Counting {
    completed: Mutex<HashMap<u32, u32>>,
}

impl Waiter for Counting {
    fn complete(self: Arc<Self>, ticket: u32, _: Outcome<'_>, _: &mut WakeUps) {
        *self.completed.lock().entry(ticket).or_default() += 1;
    }
}

fn waiter() -> (Arc<Counting>, Arc<dyn Waiter>) {
    let counting = Arc::new(Counting::default());
    let waiter: Arc<dyn Waiter> = Arc::<Counting>::clone(&counting);
    (counting, waiter)
}

#[test]
fn every_request_is_found_once_by_its_whole_opaque() {
    let table = InFlight::new(Instant::now(), 4);
    let (_, waiter) = waiter();
    let opaque = table.register(&waiter, 7, None, Instant::now()).unwrap();
    assert!(table.take(opaque + 4).is_none(), "same slot, other opaque");
    assert_eq!(table.take(opaque).map(|entry| entry.ticket), Some(7));
    assert!(table.take(opaque).is_none());
    assert_eq!(table.waiting(), 0);
}

#[test]
fn a_full_table_refuses_and_recovers() {
    let table = InFlight::new(Instant::now(), 4);
    let (_, waiter) = waiter();
    let opaques: Vec<_> = (0..4)
        .map(|n| table.register(&waiter, n, None, Instant::now()).unwrap())
        .collect();
    assert_eq!(
        table.register(&waiter, 9, None, Instant::now()),
        Err(Refusal::Full)
    );
    assert!(table.take(opaques[2]).is_some());
    assert!(table.register(&waiter, 9, None, Instant::now()).is_ok());
}

#[test]
fn the_numbers_wrap_and_skip_what_is_taken() {
    let table = InFlight::new(Instant::now(), 8);
    table.next.store(OPAQUES - 3, Ordering::Relaxed);
    let (_, waiter) = waiter();
    let long_running = table.register(&waiter, 0, None, Instant::now()).unwrap();
    for ticket in 1..100 {
        let opaque = table.register(&waiter, ticket, None, Instant::now()).unwrap();
        assert_eq!(table.take(opaque).map(|entry| entry.ticket), Some(ticket));
    }
    assert_eq!(table.take(long_running).map(|entry| entry.ticket), Some(0));
}

#[test]
fn the_table_agrees_with_a_map() {
    let table = InFlight::new(Instant::now(), 64);
    let (_, waiter) = waiter();
    let mut oracle = HashMap::new();
    let mut random = 0x9E37_79B9_7F4A_7C15_u64;
    for ticket in 0..20_000_u32 {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        if random % 3 != 0 && oracle.len() < 60 {
            let opaque = table.register(&waiter, ticket, None, Instant::now()).unwrap();
            assert_eq!(oracle.insert(opaque, ticket), None);
        } else if let Some(opaque) = oracle.keys().next().copied() {
            assert_eq!(
                table.take(opaque).map(|entry| entry.ticket),
                oracle.remove(&opaque)
            );
        }
        assert_eq!(table.waiting(), oracle.len());
    }
    let mut left: Vec<_> = table
        .end()
        .into_iter()
        .map(|entry| (entry.opaque, entry.ticket))
        .collect();
    let mut expected: Vec<_> = oracle.into_iter().collect();
    left.sort_unstable();
    expected.sort_unstable();
    assert_eq!(left, expected);
    assert_eq!(
        table.register(&waiter, 0, None, Instant::now()),
        Err(Refusal::Ended)
    );
}

#[test]
fn alarms_come_once_for_the_share_and_once_for_the_end() {
    let epoch = Instant::now();
    let table = InFlight::new(epoch, 8);
    let (_, waiter) = waiter();
    let at = |milliseconds| epoch + Duration::from_millis(milliseconds);
    let alarm = Alarm {
        share: at(10),
        until: at(30),
    };
    let opaque = table.register(&waiter, 1, Some(alarm), epoch).unwrap();
    table.register(&waiter, 2, None, epoch).unwrap();
    assert_eq!(table.next_alarm(), Some(at(10)));
    assert!(table.due(at(9)).is_empty());
    assert!(matches!(table.due(at(10)).as_slice(), [Due::Share(_, 1)]));
    assert!(table.due(at(29)).is_empty());
    assert!(matches!(table.due(at(31)).as_slice(), [Due::Over(entry)] if entry.opaque == opaque));
    assert_eq!(
        table.waiting(),
        1,
        "a waiter that keeps its own time is never touched"
    );
    assert_eq!(table.next_alarm(), None);
}

/// Reply, expiry and the end of the connection race for the same requests: each is completed exactly once.
#[test]
fn in_a_race_every_request_ends_exactly_once() {
    const REQUESTS: u32 = 64;
    for round in 0..300 {
        let epoch = Instant::now();
        let table = InFlight::new(epoch, 128);
        let (counting, waiter) = waiter();
        let alarm = Alarm {
            share: epoch,
            until: epoch,
        };
        let opaques: Vec<_> = (0..REQUESTS)
            .map(|n| table.register(&waiter, n, Some(alarm), epoch).unwrap())
            .collect();
        let start = Barrier::new(3);
        let complete = |entry: Entry| {
            entry
                .waiter
                .complete(entry.ticket, Outcome::Overdue, &mut WakeUps::default());
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                start.wait();
                opaques
                    .iter()
                    .filter_map(|opaque| table.take(*opaque))
                    .for_each(complete);
            });
            scope.spawn(|| {
                start.wait();
                for due in table.due(Instant::now() + Duration::from_secs(1)) {
                    if let Due::Over(entry) = due {
                        complete(entry);
                    }
                }
            });
            scope.spawn(|| {
                start.wait();
                if round % 2 == 0 {
                    table.end().into_iter().for_each(complete);
                }
            });
        });
        let completed = counting.completed.lock();
        assert_eq!(completed.len(), REQUESTS as usize, "round {round}");
        assert!(completed.values().all(|times| *times == 1), "round {round}");
    }
}

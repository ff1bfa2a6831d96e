//! Tests of what stays behind: nothing. No server listens, so every send fails.

use std::thread;

use super::*;
use crate::{
    config::AutoBatch,
    net::sync::{Ordering, channel},
    producer::{admission, blocking, result::SendFailure, shutdown},
};

const PATIENCE: Duration = Duration::from_secs(20);

fn shared(auto_batch: AutoBatch) -> Arc<Shared> {
    let mut config = ProducerConfig::new("group".to_owned());
    // Nobody listens there.
    config.name_servers = Some("127.0.0.1:1".to_owned());
    config.auto_batch = Some(auto_batch);
    Shared::start(config, None).unwrap()
}

fn message(topic: &str) -> Message {
    Message::new(topic, "body").unwrap()
}

/// Waits for what ends a moment after its senders have been told.
fn eventually(condition: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < until);
        thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn lines_that_are_idle_are_forgotten_and_all_room_is_given_back() {
    let shared = shared(AutoBatch::default());
    let batcher = shared.auto_batch.clone().unwrap();
    let (told, outcomes) = channel::unbounded();
    for number in 0..300 {
        let told = told.clone();
        let on_done = Box::new(move |outcome: Result<SendResult, SendFailure>| {
            told.send(outcome.is_err()).unwrap();
        });
        let message = message(&format!("topic-{}", number % 30));
        admission::send(&shared, message, &Options::default(), on_done);
    }
    let blocked = blocking::send(&shared, &message("topic-1"), &Options::default());
    assert!(blocked.unwrap_err().delivery().is_not_stored());
    for _ in 0..300 {
        assert!(outcomes.recv_timeout(PATIENCE).unwrap());
    }
    eventually(|| batcher.lines.lock().is_empty() && batcher.held_bytes() == 0);
    // A batch that does not even wait for the timer leaves a line too.
    let blocked = blocking::send(&shared, &message("topic-1"), &Options::default());
    assert!(blocked.is_err());
    eventually(|| batcher.lines.lock().is_empty() && batcher.held_bytes() == 0);
    drop(shutdown::shut_down(&shared, PATIENCE));
    assert!(outcomes.try_recv().is_err());
}

#[test]
fn a_shutdown_ends_what_is_gathered() {
    let shared = shared(AutoBatch::default().hold(Duration::from_secs(1)));
    let batcher = shared.auto_batch.clone().unwrap();
    let (told, outcomes) = channel::unbounded();
    for _ in 0..10 {
        let told = told.clone();
        let on_done = Box::new(move |outcome: Result<SendResult, SendFailure>| {
            told.send(outcome.is_err()).unwrap();
        });
        admission::send(&shared, message("topic"), &Options::default(), on_done);
    }
    assert!(batcher.held_bytes() > 0);
    let began = Instant::now();
    let report = shutdown::shut_down(&shared, PATIENCE);
    assert_eq!((report.not_stored, report.ended_early), (10, 0), "{report}");
    assert!(began.elapsed() < PATIENCE);
    assert_eq!(outcomes.try_iter().count(), 10);
    assert_eq!(batcher.held_bytes(), 0);
    assert!(batcher.lines.lock().is_empty());
}

#[test]
fn room_is_bounded_and_whoever_waits_for_it_is_woken() {
    let room = Arc::new(Room::new(100));
    let soon = || Instant::now() + Duration::from_millis(10);
    assert!(room.acquire(60, soon()));
    assert!(!room.acquire(60, soon()));
    assert!(room.acquire(40, soon()));
    let waiting = {
        let room = Arc::clone(&room);
        thread::spawn(move || room.acquire(50, Instant::now() + PATIENCE))
    };
    eventually(|| room.waiting.load(Ordering::SeqCst) == 1);
    room.release(60);
    assert!(waiting.join().unwrap());
    room.release(90);
    assert_eq!(room.held(), 0);
}

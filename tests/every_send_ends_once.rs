//! Every asynchronous send ends once and truly, however the threads meet: the sender, the reader, the timer, the workers.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::Duration,
};

use rocketmq_producer::{Message, Producer, mock::MockCluster};

const SENDERS: usize = 4;
const SENDS: usize = 1500;

/// The answer may come before the sending thread has come back from the socket: both then find the send at its end.
#[test]
fn a_stored_message_is_never_reported_as_anything_else() {
    let cluster = MockCluster::builder()
        .brokers(2)
        .keep_messages(false)
        .start()
        .unwrap();
    let producer = Producer::builder("group")
        .name_servers(cluster.name_servers())
        .send_timeout(Duration::from_secs(60))
        .start()
        .unwrap();
    let calls: Arc<Vec<AtomicUsize>> = Arc::new((0..SENDERS * SENDS).map(|_| AtomicUsize::new(0)).collect());
    let (sender, failures) = mpsc::channel();
    thread::scope(|scope| {
        for number in 0..SENDERS {
            let (producer, calls, sender) = (producer.clone(), Arc::clone(&calls), sender.clone());
            scope.spawn(move || {
                for send in 0..SENDS {
                    let (calls, sender) = (Arc::clone(&calls), sender.clone());
                    producer.send_async(Message::new("t", "x").unwrap(), move |outcome| {
                        calls[number * SENDS + send].fetch_add(1, Ordering::SeqCst);
                        if let Err(failure) = outcome {
                            sender.send(failure.error.to_string()).unwrap();
                        }
                    });
                }
            });
        }
    });
    drop(sender);
    let report = producer.shutdown(Duration::from_secs(60));
    assert!(report.is_clean(), "{report}");
    assert_eq!(failures.try_iter().collect::<Vec<_>>(), Vec::<String>::new());
    assert!(calls.iter().all(|calls| calls.load(Ordering::SeqCst) == 1));
}

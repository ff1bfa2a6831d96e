//! What the tests of promises share: a deadline for every test, ready-made producers and messages, and the fake servers.
//! Nothing here is a test.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod fake_server;

use std::{
    fmt::Display,
    panic::{self, AssertUnwindSafe},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use rocketmq_producer::{Error, Message, Producer, ProducerBuilder, SendFailure, SendResult};

/// Longer than anything here takes on a busy machine, shorter than anyone's patience.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A send that ends at its deadline must be back within 100 ms after it; ten times that is allowed here.
pub(crate) const GRACE: Duration = Duration::from_secs(1);

pub(crate) const GROUP: &str = "test_group";

/// What a callback is given.
pub(crate) type Outcome = Result<SendResult, SendFailure>;

/// Gives a test its own deadline: runs it on a thread of its own, and fails if it has not ended in time. Some is added to
/// the limit, so that whatever waits for as long inside the test can say first what it has waited for.
pub(crate) fn within(limit: Duration, body: impl FnOnce() + Send + 'static) {
    let limit = limit + PATIENCE / 2;
    let (done, ended) = mpsc::channel();
    let name = thread::current().name().unwrap_or("test").to_owned();
    let run = move || {
        let outcome = panic::catch_unwind(AssertUnwindSafe(body));
        done.send(outcome).expect("the test has given up");
    };
    let thread = thread::Builder::new().name(name).spawn(run).unwrap();
    match ended.recv_timeout(limit) {
        Ok(Ok(())) => thread.join().unwrap(),
        Ok(Err(panicked)) => panic::resume_unwind(panicked),
        Err(error) => panic!("the test has not ended within {limit:?}: {error}"),
    }
}

/// A producer of [`GROUP`] for these name servers.
pub(crate) fn producer_for(name_servers: impl Display) -> ProducerBuilder {
    Producer::builder(GROUP).name_servers(name_servers.to_string())
}

pub(crate) fn message(topic: &str) -> Message {
    Message::new(topic, "Hello RocketMQ").unwrap()
}

pub(crate) fn milliseconds(count: u64) -> Duration {
    Duration::from_millis(count)
}

/// Runs something and says how long it took.
pub(crate) fn timed<R>(run: impl FnOnce() -> R) -> (R, Duration) {
    let began = Instant::now();
    let result = run();
    (result, began.elapsed())
}

/// Fails unless `took` lies between the two. The lower bound leaves out the coarseness of timers.
#[track_caller]
pub(crate) fn assert_took(took: Duration, least: Duration, most: Duration) {
    assert!(
        took + milliseconds(5) >= least && took <= most,
        "it took {took:?}, which is not between {least:?} and {most:?}"
    );
}

/// Fails unless a scenario keeps a short promise about time at least once in three tries; each gives back how long it took.
/// For promises that are so short that a busy machine alone can break one.
#[track_caller]
pub(crate) fn assert_soon(promise: Duration, mut scenario: impl FnMut() -> Duration) {
    let mut all = Vec::new();
    while all.len() < 3 {
        let took = scenario();
        if took <= promise {
            return;
        }
        all.push(took);
    }
    panic!("it took {all:?}, never within {promise:?}");
}

/// Fails unless the text of the error holds all of these, so that its reader learns where, what and how long.
#[track_caller]
pub(crate) fn assert_says(error: &Error, parts: &[&str]) {
    let text = error.to_string();
    for part in parts {
        assert!(
            text.contains(part),
            "{part:?} is not in: {text}\nwhich is {error:?}"
        );
    }
}

/// Sends asynchronously and waits for the callback, which must come.
pub(crate) fn send_async_and_wait(producer: &Producer, message: Message) -> Outcome {
    let (done, outcome) = mpsc::channel();
    producer.send_async(message, move |result| done.send(result).unwrap());
    outcome.recv_timeout(PATIENCE).expect("the callback did not come")
}

/// The same failure as it comes to a blocking caller and to a callback.
pub(crate) fn both_ways(producer: &Producer, message: &Message) -> [Error; 2] {
    let blocking = producer.send(message).expect_err("the blocking send must fail");
    let failure =
        send_async_and_wait(producer, message.clone()).expect_err("the asynchronous send must fail");
    assert_eq!(
        &failure.message, message,
        "the message comes back with the failure"
    );
    [blocking, failure.error]
}

//! Ends a producer without losing what is under way, and reads the report.

mod support;

use std::{
    error::Error,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rocketmq_producer::{Message, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;
    let stored = Arc::new(AtomicUsize::new(0));
    for number in 0..1000 {
        let stored = Arc::clone(&stored);
        let message = Message::new("TopicTest", format!("message {number}"))?;
        producer.send_async(message, move |outcome| match outcome {
            Ok(_) => {
                stored.fetch_add(1, Ordering::Relaxed);
            }
            // The message comes back with the error: keep it for the next start, if it was not stored.
            Err(failure) => println!("{failure}; keeping {:?}", failure.message),
        });
    }
    // Waits for all of them, says goodbye to the brokers, and ends every thread. After it, every closure has run.
    let report = producer.shutdown(Duration::from_secs(10));
    println!("{report}; {} of 1000 stored", stored.load(Ordering::Relaxed));

    // A producer that is shut down refuses to send.
    match producer.send(&Message::new("TopicTest", "too late")?) {
        Err(error) => println!("as expected: {error}"),
        Ok(result) => return Err(format!("stored after the shutdown: {result}").into()),
    }
    if report.is_clean() {
        Ok(())
    } else {
        Err("something was left behind".into())
    }
}

//! Sends 100 messages without waiting in between; a closure prints what became of each.

mod support;

use std::{
    error::Error,
    sync::mpsc,
    time::{Duration, Instant},
};

use rocketmq_producer::{Message, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .async_retries(0)
        .start()?;
    let (done, all_done) = mpsc::channel();
    for index in 0..100 {
        let message = Message::builder("TopicTest")
            .tags("TagA")
            .keys(["OrderID188"])
            .body("Hello world")
            .build()?;
        let done = done.clone();
        producer.send_async(message, move |outcome| {
            match outcome {
                Ok(result) => println!("{index:<10} OK {}", result.message_id),
                Err(failure) => println!("{index:<10} Exception {failure}"),
            }
            // Nobody listens any more if main has given up.
            done.send(()).ok();
        });
    }
    let until = Instant::now() + Duration::from_secs(5);
    for finished in 0..100 {
        let left = until.saturating_duration_since(Instant::now());
        all_done
            .recv_timeout(left)
            .map_err(|_| format!("only {finished} of 100 were done after 5 s"))?;
    }
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

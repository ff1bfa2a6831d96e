//! Sends 100 messages in a few requests: as one batch, as a list of any length, and as a batch with a closure.

mod support;

use std::{error::Error, sync::mpsc, time::Duration};

use rocketmq_producer::{Batch, Message, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;
    let messages = |numbers: std::ops::Range<usize>| {
        numbers
            .map(|i| {
                Message::builder("TopicTest")
                    .tags("TagA")
                    .body(format!("Hello batch {i}"))
                    .build()
            })
            .collect::<Result<Vec<_>, _>>()
    };

    // One batch: stored by one broker in one queue, all of it or nothing.
    let stored = producer.send_batch(&Batch::new(messages(0..20)?)?)?;
    println!("{stored}");
    for result in stored {
        println!("{result}");
    }

    // Any number of messages, in as few batches as their sizes allow; each message has its own outcome.
    let sent = producer.send_all(messages(20..80)?)?;
    println!("{sent}");
    for (index, error) in sent.failures() {
        println!("message {index} failed: {error}");
    }

    let (done, outcome) = mpsc::channel();
    producer.send_batch_async(Batch::new(messages(80..100)?)?, move |result| {
        // Nobody listens any more if main has given up.
        done.send(result).ok();
    });
    println!("{}", outcome.recv_timeout(Duration::from_secs(5))??);
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

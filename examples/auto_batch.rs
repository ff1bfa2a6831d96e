//! Sends 100 messages one by one, which the producer gathers into a few requests. Each sender gets its own result.

mod support;

use std::{error::Error, thread, time::Duration};

use rocketmq_producer::{AutoBatch, Message, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .auto_batch(
            AutoBatch::default()
                .hold(Duration::from_millis(5))
                .max_bytes(64 * 1024),
        )
        .start()?;
    let message = |i: usize| {
        let message = Message::builder("TopicTest").tags("TagA");
        message.body(format!("Hello auto-batch {i}")).build()
    };

    for i in 0..60 {
        producer.send_async(message(i)?, move |outcome| match outcome {
            Ok(result) => println!("{i:<10} OK {result}"),
            Err(failure) => println!("{i:<10} Exception {failure}"),
        });
    }
    // Threads that wait for their own results share batches too.
    thread::scope(|scope| {
        for thread in 0..4 {
            let (producer, message) = (&producer, &message);
            scope.spawn(move || {
                for i in 60 + thread * 10..70 + thread * 10 {
                    match message(i).and_then(|message| producer.send(&message)) {
                        Ok(result) => println!("{i:<10} OK {result}"),
                        Err(error) => println!("{i:<10} Exception {error}"),
                    }
                }
            });
        }
    });
    // What is still being gathered goes at once.
    producer.flush(Duration::from_secs(5))?;
    let stats = producer.stats();
    let requests: u64 = stats.brokers.iter().map(|broker| broker.attempts).sum();
    println!("{} messages stored with {requests} requests", stats.sends.stored);
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

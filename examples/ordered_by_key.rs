//! Keeps the messages of each order in sequence: equal keys go to the same queue, one after another.

mod support;

use std::{error::Error, time::Duration};

use rocketmq_producer::{Message, Producer, Target};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;
    for step in ["created", "paid", "shipped"] {
        for order in ["order-1", "order-2", "order-3"] {
            let message = Message::builder("TopicTest")
                .tags(step)
                .keys([order])
                .body(step)
                .build()?;
            // Java's SelectMessageQueueByHash chooses the same queue for the same key.
            let result = producer.to(Target::key(order)).send(&message)?;
            println!(
                "{order} {step:<8} {} offset {}",
                result.queue, result.queue_offset
            );
        }
    }
    // A closure may choose instead: it is given the queues in the order in which every client numbers them.
    let first = Target::select(|_queues, _message| 0);
    println!(
        "{}",
        producer
            .to(first)
            .send(&Message::new("TopicTest", "to the first queue")?)?
    );
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

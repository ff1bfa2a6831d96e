//! Asks brokers: makes a topic, sends an order's messages, and finds them again by position, key, time and id.

mod support;

use std::{
    error::Error,
    thread,
    time::{Duration, SystemTime},
};

use rocketmq_producer::{Boundary, Message, NewTopic, Producer, Target};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;

    // The topic with a cluster's name is on all brokers of that cluster, so the new topic gets there too.
    let created = producer.create_topic(&NewTopic::new("orders", 4).where_topic("DefaultCluster"))?;
    println!("topic orders is on {}", created.brokers.join(", "));

    let began = SystemTime::now();
    let mut last = None;
    for step in ["created", "paid", "shipped"] {
        let message = Message::builder("orders").keys(["order-1"]).body(step).build()?;
        last = Some(producer.to(Target::key("order-1")).send(&message)?);
    }
    let last = last.ok_or("nothing was sent")?;

    let queue = &*last.queue;
    let (from, to) = (producer.min_offset(queue)?, producer.max_offset(queue)?);
    let of_began = producer.search_offset(queue, began, Boundary::Lower)?;
    println!("{queue} keeps offsets {from} to {to}, and stood at {of_began} when this began");
    let earliest = producer.earliest_store_time(queue)?;
    println!("its oldest message was stored at {earliest:?}");

    // Real brokers put a message into their index a moment after they have confirmed it.
    let mut found = producer.query_messages("orders", "order-1", 32, began..)?;
    for _ in 0..50 {
        if found.messages.len() >= 3 {
            break;
        }
        thread::sleep(Duration::from_millis(100));
        found = producer.query_messages("orders", "order-1", 32, began..)?;
    }
    for message in &found.messages {
        println!(
            "{} {:?}",
            message.message_id(),
            String::from_utf8_lossy(message.body())
        );
    }
    let by_senders_id = producer.view_message("orders", last.message_id)?;
    let by_brokers_id = producer.view_message("orders", last.offset_message_id)?;
    println!("same by both ids: {}", by_senders_id == by_brokers_id);
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

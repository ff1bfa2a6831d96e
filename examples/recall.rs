//! Takes a timer message back before its time has come: a reminder to pay, when the order is paid.
//!
//! Needs brokers of 5.3.2 or later with `recallMessageEnable=true`.

mod support;

use std::{error::Error, time::Duration};

use rocketmq_producer::{Message, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;
    let reminder = Message::builder("TopicTest")
        .keys(["order-4711"])
        .delay(Duration::from_secs(5))
        .body("please pay for order 4711")
        .build()?;
    let result = producer.send(&reminder)?;
    println!("reminder in 5 s: {result}");
    // The handle is text: keep it with the order. Any producer may recall by it.
    let handle = result
        .recall_handle()
        .ok_or("the broker cannot recall messages")?;
    let recalled = producer.recall("TopicTest", handle)?;
    println!("paid, so {recalled} will not come");
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

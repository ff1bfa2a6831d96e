//! Sends 100 messages one after another and prints each result: the first program of RocketMQ's quick start.

mod support;

use std::{error::Error, time::Duration};

use rocketmq_producer::{Message, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;
    for number in 0..100 {
        let body = format!("Hello RocketMQ {number}");
        let message = Message::builder("TopicTest").tags("TagA").body(body).build()?;
        let result = producer.send(&message)?;
        println!("{result}");
    }
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

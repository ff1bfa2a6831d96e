//! Messages that consumers see later: after a delay level, after a time, at a time.

mod support;

use std::{
    error::Error,
    time::{Duration, SystemTime},
};

use rocketmq_producer::{Message, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;
    // All releases: level 1 is one second, unless the brokers are configured otherwise.
    let level = Message::builder("TopicTest")
        .tags("TagA")
        .delay_level(1)
        .body("after level 1")
        .build()?;
    println!("level 1: {}", producer.send(&level)?);
    // Brokers of 5.0.0 and later: any time up to three days.
    let delay = Message::builder("TopicTest")
        .tags("TagA")
        .delay(Duration::from_millis(2500))
        .body("after 2.5 s")
        .build()?;
    let deliver_at = Message::builder("TopicTest")
        .tags("TagA")
        .deliver_at(SystemTime::now() + Duration::from_secs(4))
        .body("at a time")
        .build()?;
    for (what, message) in [("delay", delay), ("deliver_at", deliver_at)] {
        match producer.send(&message) {
            Ok(result) => println!("{what}: {result}"),
            // Older brokers would deliver it at once, so it is not sent.
            Err(error) => println!("{what}: {error}"),
        }
    }
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

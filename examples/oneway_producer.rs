//! Sends 100 messages that no broker answers: the quickest way, for messages that may be lost.

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
        producer.send_oneway(&Message::builder("TopicTest").tags("TagA").body(body).build()?)?;
    }
    // The report says whether every message left this process.
    let report = producer.shutdown(Duration::from_secs(5));
    println!("{report}");
    if report.is_clean() {
        Ok(())
    } else {
        Err("not all messages were written".into())
    }
}

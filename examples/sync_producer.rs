//! Sends 100 messages one after another and prints each result: the quick start of RocketMQ's documentation.

use std::{error::Error, time::Duration};

use rocketmq_producer::{Message, Producer, mock::MockCluster};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;
    for number in 0..100 {
        let message = Message::builder("TopicTest")
            .tags("TagA")
            .body(format!("Hello RocketMQ {number}"))
            .build()?;
        let result = producer.send(&message)?;
        println!("{result}");
    }
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

/// The name servers of the environment, or an embedded cluster, which lives as long as it is held.
fn name_servers() -> Result<(String, Option<MockCluster>), Box<dyn Error>> {
    if let Ok(name_servers) = std::env::var("NAMESRV_ADDR") {
        return Ok((name_servers, None));
    }
    let cluster = MockCluster::start(1)?;
    println!(
        "NAMESRV_ADDR is not set: sending to an embedded cluster at {}",
        cluster.name_servers()
    );
    Ok((cluster.name_servers(), Some(cluster)))
}

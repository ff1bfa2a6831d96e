//! Sends a large body compressed. Consumers of all releases read zlib and see the body as it was.

mod support;

use std::{error::Error, time::Duration};

use rocketmq_producer::{CompressionType, Message, Producer};

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .compression(CompressionType::Zlib)
        .start()?;
    let body = "{\"order\": 4711, \"state\": \"paid\"}\n".repeat(1000);
    println!("the body has {} bytes", body.len());
    let message = Message::builder("TopicTest").tags("TagA").body(body).build()?;
    println!("{}", producer.send(&message)?);
    // Below 4096 bytes (compress_from) a body goes out as it is.
    println!("{}", producer.send(&Message::new("TopicTest", "a short one")?)?);
    for stored in cluster.iter().flat_map(|cluster| cluster.messages("TopicTest")) {
        println!(
            "stored as {} bytes, system flag {}",
            stored.body.len(),
            stored.sys_flag
        );
    }
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

//! What is broken, if anything, and what has happened so far: `diagnose TOPIC`.

mod support;

use std::{env, error::Error, process::ExitCode, time::Duration};

use rocketmq_producer::{Message, Producer};

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let topic = env::args().nth(1).unwrap_or_else(|| "TopicTest".to_owned());
    let (name_servers, cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;

    // Every step from the name of the name server to the broker's access control. No message is sent.
    let diagnosis = producer.diagnose(&topic);
    println!("{diagnosis}");
    if let Some(broken) = diagnosis.first_failure() {
        println!("mend this first: {broken}");
        return Ok(ExitCode::FAILURE);
    }

    // Look-ups, connections and heartbeats before the first send needs them.
    producer.warm_up(&[&topic])?;
    // Some messages for the numbers below, but only to the embedded cluster.
    if cluster.is_some() {
        for _ in 0..100 {
            producer.send(&Message::new(topic.as_str(), "Hello RocketMQ")?)?;
        }
    }
    let stats = producer.stats();
    println!("{stats}");
    for broker in &stats.brokers {
        println!(
            "99 of 100 answers of {} within {:?}",
            broker.address, broker.latency.p99
        );
    }
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(ExitCode::SUCCESS)
}

//! Asks a question and waits for the reply of a consumer: blocking, and with a closure. On a real cluster it needs one that
//! replies, such as `ResponseConsumer` of RocketMQ's examples, to topic `RequestTopic`.

mod support;

use std::{env, error::Error as StdError, time::Duration};

use rocketmq_producer::{Error, Message, Producer, mock::MockCluster};

const TOPIC: &str = "RequestTopic";
const TIMEOUT: Duration = Duration::from_secs(3);

/// Consumers that reply, unless the cluster has its own.
fn reply(cluster: &MockCluster) {
    cluster.reply_with(TOPIC, |request| {
        let question = String::from_utf8_lossy(&request.body);
        Some(format!("the answer to {question:?} is 42").into_bytes())
    });
}

fn main() -> Result<(), Box<dyn StdError>> {
    let (name_servers, cluster) = support::name_servers()?;
    cluster.iter().for_each(reply);
    let topic = env::var("TOPIC").unwrap_or_else(|_| TOPIC.to_owned());
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;

    let question = Message::new(&*topic, "how much is a shirt?")?;
    match producer.request(&question, TIMEOUT) {
        Ok(reply) => println!("{reply}: {}", String::from_utf8_lossy(reply.body())),
        // The request may be stored, and be answered later: nobody listens any more.
        Err(Error::NoReply(no_reply)) => println!("{no_reply}"),
        Err(error) => return Err(error.into()),
    }

    let question = Message::new(&*topic, "and a hat?")?;
    producer.request_async(question, TIMEOUT, |outcome| match outcome {
        Ok(reply) => println!("{reply}: {}", String::from_utf8_lossy(reply.body())),
        Err(failure) => println!("{}", failure.error),
    });
    // Waits for the reply too.
    producer.flush(2 * TIMEOUT)?;
    println!("{}", producer.stats().requests);
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

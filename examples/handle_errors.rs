//! What to do with each outcome of a send: the error says what became of the message.

mod support;

use std::{error::Error as StdError, time::Duration};

use rocketmq_producer::{Delivery, Error, Message, Producer, SendStatus};

fn main() -> Result<(), Box<dyn StdError>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start()?;
    send_and_tell(&producer, &Message::new("TopicTest", "Hello RocketMQ")?);
    // Too large: refused here, before anything is sent.
    send_and_tell(&producer, &Message::new("TopicTest", vec![0; 5 * 1024 * 1024])?);

    // Nobody listens there: no message can have been stored.
    let lonely = Producer::builder("please_rename_unique_group_name")
        .name_servers("127.0.0.1:1")
        .start()?;
    send_and_tell(&lonely, &Message::new("TopicTest", "Hello?")?);
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

fn send_and_tell(producer: &Producer, message: &Message) {
    match producer.send(message) {
        Ok(result) if result.status == SendStatus::SendOk => println!("stored: {result}"),
        // Stored too, but not yet on disk or on the slave: do not send again.
        Ok(result) => println!("stored, less safely than configured: {result}"),
        // The message or the setting is wrong: sending again cannot help.
        Err(error @ (Error::InvalidMessage { .. } | Error::InvalidConfig { .. })) => {
            println!("mend it: {error}");
        }
        Err(error) => match error.delivery() {
            // Certainly not stored: it can be sent again, or kept for later, without making a second copy.
            Delivery::NotStored => println!("not stored: {error}"),
            // A broker said no. The code tells whether later or elsewhere may help.
            Delivery::Refused => println!("refused with {:?}: {error}", error.response_code()),
            // The answer was lost: sending again may store a second copy, under another message id. Either consumers
            // can bear that, or look the message up by its keys first.
            _ => println!("unknown: {error}"),
        },
    }
}

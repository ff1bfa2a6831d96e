//! Delivers a message if, and only if, the local transaction commits. Here a set of order numbers stands for the database.

mod support;

use std::{collections::BTreeSet, error::Error, sync::Mutex, time::Duration};

use rocketmq_producer::LocalTransaction::{self, Commit, Rollback};
use rocketmq_producer::{Message, Producer, SendResult, StoredMessage, TransactionListener};

#[derive(Default)]
struct Orders {
    paid: Mutex<BTreeSet<String>>,
}

impl TransactionListener for Orders {
    /// Runs after the message was stored out of sight: the place for a database transaction.
    fn execute(&self, message: &Message, _half: &SendResult) -> LocalTransaction {
        let (Some(order), Ok(mut paid)) = (message.keys().next(), self.paid.lock()) else {
            return Rollback;
        };
        let is_paid = order != "order-3" && paid.insert(order.to_owned());
        if is_paid { Commit } else { Rollback }
    }

    /// Runs when the broker has not heard how a transaction ended, maybe in another process: what counts is the database.
    fn check(&self, message: &StoredMessage) -> LocalTransaction {
        match (message.keys().next(), self.paid.lock()) {
            (Some(order), Ok(paid)) if paid.contains(order) => Commit,
            _ => Rollback,
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let (name_servers, _cluster) = support::name_servers()?;
    let producer = Producer::builder("please_rename_unique_group_name")
        .name_servers(name_servers)
        .start_transactional(Orders::default())?;
    for order in ["order-1", "order-2", "order-3"] {
        let message = Message::builder("TopicTest").keys([order]).body("paid").build()?;
        println!("{order}: {}", producer.send(&message)?);
    }
    // The local part may be a closure that borrows what it needs.
    let total = 12;
    let message = Message::new("TopicTest", "a large order")?;
    let result = producer.send_with(&message, |_half| if total > 100 { Commit } else { Rollback })?;
    println!("too small: {result}");
    // Brokers may ask from now on about transactions that another process of the group has left open.
    producer.register(&["TopicTest"])?;
    println!("{}", producer.shutdown(Duration::from_secs(5)));
    Ok(())
}

//! A test of your own code against brokers that fail on demand. In your project the feature `mock` belongs to the
//! dev-dependencies, and `main` is a `#[test]`.

use std::error::Error as StdError;

use rocketmq_producer::mock::MockCluster;
use rocketmq_producer::{Delivery, Error, Message, Producer, RequestCode, ResponseCode, SendResult};

/// The code under test: tells the warehouse about an order.
fn place_order(producer: &Producer, number: u32) -> Result<SendResult, Error> {
    let message = Message::builder("orders")
        .keys([format!("order-{number}")])
        .body("two shirts")
        .build()?;
    producer.send(&message)
}

fn main() -> Result<(), Box<dyn StdError>> {
    let cluster = MockCluster::start(1)?;
    cluster.create_topic("orders", 4);
    let producer = Producer::builder("shop")
        .name_servers(cluster.name_servers())
        .start()?;
    let sends = || cluster.broker("broker-a").on(RequestCode::SEND_MESSAGE_V2);

    // A broker that is busy once: the order arrives all the same, and only once.
    sends()
        .once()
        .reply(ResponseCode::SYSTEM_BUSY, "[PC_SYNCHRONIZED]broker busy");
    let result = place_order(&producer, 1)?;
    assert_eq!(result.attempts, 2);
    assert_eq!(cluster.message_count("orders"), 1);
    assert!(
        cluster
            .messages("orders")
            .iter()
            .all(|message| message.keys == ["order-1"])
    );

    // A broker that refuses for good: nothing arrives, and the error says so.
    let refusal = sends()
        .always()
        .reply(ResponseCode::MESSAGE_ILLEGAL, "no orders today");
    let Err(error) = place_order(&producer, 2) else {
        return Err("the broker did not refuse".into());
    };
    assert_eq!(error.delivery(), Delivery::Refused);
    assert_eq!(cluster.message_count("orders"), 1);
    refusal.clear();

    // The answer is lost behind the store: the second attempt makes a second copy under the same message id.
    sends().once().after_store().reset();
    let result = place_order(&producer, 3)?;
    assert!(result.may_be_duplicated);
    let copies = cluster.copies_by_message_id("orders");
    assert_eq!(copies.get(result.message_id.as_str()), Some(&2));
    println!("busy once, refusing, an answer lost: all as expected");
    cluster.assert_no_rule_left();
    Ok(())
}

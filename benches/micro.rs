//! What single steps of a send take: `cargo bench --bench micro`, or one of them with `-- NAME`.
//!
//! The rooms of the library are compiled into this program, so that what is not public can be measured without being made
//! so. It is the same source, but another crate: calls across crates are inlined here as they are within the library.

#![allow(
    dead_code,
    unused_imports,
    unreachable_pub,
    missing_docs,
    reason = "the rooms are here whole, and nothing is exported"
)]

#[path = "../src/cluster/mod.rs"]
mod cluster;
#[path = "../src/code.rs"]
mod code;
#[path = "../src/config.rs"]
mod config;
#[path = "../src/error/mod.rs"]
mod error;
#[path = "../src/message/mod.rs"]
mod message;
#[path = "../src/net/mod.rs"]
mod net;
#[path = "../src/producer/mod.rs"]
mod producer;
#[path = "../src/wire/mod.rs"]
mod wire;

// As `lib.rs` has them.
pub use code::{RequestCode, ResponseCode};
pub use config::{FaultTable, HeaderSerialization, Redelivery};
pub use error::{Attempt, Delivery, Error, FailedSend, Phase, Written};
pub use message::{Message, MessageBuilder, MessageId, MessageQueue, OffsetMessageId};
pub use producer::{Aimed, Producer, ProducerBuilder, SendFailure, SendResult, SendStatus, Stats, Target};

use std::{net::Ipv4Addr, sync::Arc, time::Instant};

use divan::{Bencher, black_box, counter::BytesCount};

use net::{
    in_flight::InFlight,
    waiter::{Outcome, Waiter},
};
use producer::ids::IdMaker;
use wire::{
    frame::{Serialization, split_frame},
    header::{Envelope, Language, encode_frame},
    request::send_message::{PropertyList, SendMessage, SendReply},
};

fn main() {
    divan::main();
}

const FORMS: [Serialization; 2] = [Serialization::Json, Serialization::Binary];
const ID: &str = "7F00000138D10FEFDAB50000000A0000";

fn envelope(serialization: Serialization, flag: i32) -> Envelope<'static> {
    Envelope {
        code: if flag == 1 { 0 } else { 310 },
        opaque: 100_000,
        flag,
        language: Language::OTHER,
        version: 513,
        remark: None,
        serialization,
    }
}

fn send_message(properties: PropertyList<'_>) -> SendMessage<'_> {
    SendMessage {
        producer_group: "bench",
        topic: "Bench",
        default_topic: "TBW102",
        default_topic_queue_nums: 4,
        queue_id: 3,
        sys_flag: 0,
        born_timestamp_ms: 1_700_000_000_000,
        flag: 0,
        properties,
        reconsume_times: 0,
        unit_mode: false,
        max_reconsume_times: None,
        batch: false,
        broker_name: None,
    }
}

fn properties() -> Vec<(Box<str>, Box<str>)> {
    [("TAGS", "TagA"), ("KEYS", "order-4711"), ("WAIT", "true")]
        .map(|(name, value)| (name.into(), value.into()))
        .into()
}

/// A whole request with a body of 128 bytes, into a buffer that has room.
#[divan::bench(args = FORMS)]
fn encode_send(bencher: Bencher<'_, '_>, form: Serialization) {
    let (own, body) = (properties(), [b'x'; 128]);
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        let header = send_message(PropertyList {
            own: black_box(&own),
            added: &[("UNIQ_KEY", ID)],
        });
        encode_frame(
            &mut out,
            &envelope(form, 0),
            |writer| header.write_v2(writer),
            black_box(&body),
        )
    });
}

/// The answer of a broker: the frame is found, its header checked, its fields taken out.
#[divan::bench(args = FORMS)]
fn decode_reply(bencher: Bencher<'_, '_>, form: Serialization) {
    let mut frame = Vec::new();
    let written = encode_frame(
        &mut frame,
        &envelope(form, 1),
        |writer| {
            writer.text("queueId", "3");
            writer.text("transactionId", ID);
            writer.boolean("TRACE_ON", true);
            writer.text("MSG_REGION", "DefaultRegion");
            writer.text("msgId", "7F00000100002A9F00000000000000F0");
            writer.number("queueOffset", 4711);
        },
        b"",
    );
    assert!(written.is_ok(), "a reply of a broker can be encoded");
    let decode = |frame: &[u8]| {
        let (frame, _) = split_frame(frame).ok()??;
        SendReply::decode(&frame.header().ok()?).ok()
    };
    assert!(decode(&frame).is_some(), "and decoded");
    bencher.bench_local(|| decode(black_box(&frame)));
}

struct Nobody;

impl Waiter for Nobody {
    fn complete(self: Arc<Self>, _: u32, _: Outcome<'_>) {}
}

/// A request comes into the table and out again, while so many others wait in it.
#[divan::bench(args = [0, 1000])]
fn in_flight(bencher: Bencher<'_, '_>, others: usize) {
    let now = Instant::now();
    let table = InFlight::new(now, 2048);
    let waiter: Arc<dyn Waiter> = Arc::new(Nobody);
    for _ in 0..others {
        assert!(table.register(&waiter, 0, None, now).is_ok(), "there is room");
    }
    bencher.bench_local(|| {
        let opaque = table.register(black_box(&waiter), 0, None, now).ok()?;
        table.take(opaque)
    });
}

/// The next queue of a route with so many brokers, of 8 queues each.
#[divan::bench(args = [1, 64])]
fn choose_queue(bencher: Bencher<'_, '_>, brokers: usize) {
    let route = route(brokers);
    let now = Instant::now();
    bencher.bench_local(|| {
        producer::choose::in_turn(black_box(&route), now, |_| false).map(|queue| queue.queue.queue_id())
    });
}

fn route(brokers: usize) -> cluster::topic_route::TopicRoute {
    use cluster::topic_route::{PublishQueue, RouteBroker, TopicRoute};
    let topic: Arc<str> = "Bench".into();
    let mut route = TopicRoute {
        topic: Arc::clone(&topic),
        queues: Vec::new(),
        listed: Vec::new(),
        brokers: Vec::new(),
        from_template: false,
        cursor: Arc::default(),
        health: None,
    };
    for number in 0..brokers {
        let broker = Arc::new(RouteBroker {
            name: format!("broker-{number}").into(),
            address: format!("127.0.0.1:{number}").into(),
        });
        for queue_id in 0..8 {
            let queue = MessageQueue::new(Arc::clone(&topic), Arc::clone(&broker.name), queue_id);
            route.listed.push(queue.clone());
            route.queues.push(PublishQueue {
                queue: Arc::new(queue),
                broker: Arc::clone(&broker),
            });
        }
        route.brokers.push(broker);
    }
    route
}

#[divan::bench]
fn message_id(bencher: Bencher<'_, '_>) {
    let ids = IdMaker::new(Ipv4Addr::LOCALHOST.into());
    bencher.bench_local(|| ids.next(black_box(1_700_000_000_000)));
}

/// Tags, keys and message id as the one text that travels, in either form of the header.
#[divan::bench(args = FORMS)]
fn property_text(bencher: Bencher<'_, '_>, form: Serialization) {
    let own = properties();
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        let list = PropertyList {
            own: black_box(&own),
            added: &[("UNIQ_KEY", ID)],
        };
        encode_frame(
            &mut out,
            &envelope(form, 0),
            |writer| writer.properties("i", list.iter()),
            b"",
        )
    });
}

/// A new message with a body of so many bytes, which are copied.
#[divan::bench(args = [128, 4096])]
fn build_message(bencher: Bencher<'_, '_>, size: usize) {
    let body = vec![b'x'; size];
    bencher
        .counter(BytesCount::new(size))
        .bench_local(|| Message::new("Bench", black_box(&*body)));
}

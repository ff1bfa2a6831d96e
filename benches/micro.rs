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

use std::{
    net::Ipv4Addr,
    sync::{Arc, OnceLock},
    time::Instant,
};

use divan::{Bencher, black_box, counter::BytesCount};

use cluster::topic_route::TopicRoute;
use net::{
    in_flight::InFlight,
    waiter::{Outcome, Waiter, WakeUps},
};
use producer::ids::IdMaker;
use wire::{
    WireError,
    frame::{Serialization, split_frame},
    header::{Envelope, FieldWriter, Language, encode_frame},
    reply_shape::ReplyShape,
    request::{
        route::{BrokerData, QueueData, RouteData},
        send_message::{PropertyList, SendMessage, SendReply},
    },
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

/// A whole request with a body of 128 bytes, into a buffer that has room: the first of a topic.
#[divan::bench(args = FORMS)]
fn encode_first_send(bencher: Bencher<'_, '_>, form: Serialization) {
    bench_encode(bencher, form, |header, out, envelope, body| {
        encode_frame(out, envelope, |writer| header.write_v2(writer), body)
    });
}

/// The same for all others of the topic.
#[divan::bench(args = FORMS)]
fn encode_send(bencher: Bencher<'_, '_>, form: Serialization) {
    let common = OnceLock::new();
    bench_encode(bencher, form, move |header, out, envelope, body| {
        header.append_from(&common, out, envelope, body)
    });
}

fn bench_encode(
    bencher: Bencher<'_, '_>,
    form: Serialization,
    encode: impl Fn(&SendMessage<'_>, &mut Vec<u8>, &Envelope<'_>, &[u8]) -> Result<(), WireError>,
) {
    let (own, body) = (properties(), [b'x'; 128]);
    let mut out = Vec::with_capacity(4096);
    bencher.bench_local(|| {
        out.clear();
        let header = send_message(PropertyList {
            own: black_box(&own),
            added: &[("UNIQ_KEY", ID)],
        });
        encode(&header, &mut out, &envelope(form, 0), black_box(&body))
    });
}

/// The answer of a broker: the frame is found, its header checked, its fields taken out.
#[divan::bench(args = FORMS)]
fn decode_first_reply(bencher: Bencher<'_, '_>, form: Serialization) {
    let frame = reply(form);
    let decode = |frame: &[u8]| {
        let (frame, _) = split_frame(frame).ok()??;
        SendReply::decode(&frame.header().ok()?).ok()
    };
    assert!(decode(&frame).is_some(), "a reply can be decoded");
    bencher.bench_local(|| decode(black_box(&frame)));
}

/// The same when it looks like the one before.
#[divan::bench]
fn decode_reply(bencher: Bencher<'_, '_>) {
    let bytes = reply(Serialization::Json);
    let mut shape = ReplyShape::default();
    if let Ok(Some((frame, _))) = split_frame(&bytes) {
        if let Ok(header) = frame.header() {
            shape.learn(frame.serialization, frame.header, &header);
        }
    }
    let decode = |bytes: &[u8]| {
        let (frame, _) = split_frame(bytes).ok()??;
        SendReply::decode(&shape.read(frame.serialization, frame.header)?).ok()
    };
    assert!(decode(&bytes).is_some(), "the shape is known");
    bencher.bench_local(|| decode(black_box(&bytes)));
}

/// What a 5.5.0 broker answers.
fn reply(form: Serialization) -> Vec<u8> {
    let mut frame = Vec::new();
    let write_fields = |writer: &mut FieldWriter<'_>| {
        writer.text("queueId", "3");
        writer.text("transactionId", ID);
        writer.boolean("TRACE_ON", true);
        writer.text("MSG_REGION", "DefaultRegion");
        writer.text("msgId", "7F00000100002A9F00000000000000F0");
        writer.number("queueOffset", 4711);
    };
    let written = encode_frame(&mut frame, &envelope(form, 1), write_fields, b"");
    assert!(written.is_ok(), "a reply can be encoded");
    frame
}

struct Nobody;

impl Waiter for Nobody {
    fn complete(self: Arc<Self>, _: u32, _: Outcome<'_>, _: &mut WakeUps) {}
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
    let Some(route) = route(brokers) else {
        unreachable!("a route with brokers has queues");
    };
    let now = Instant::now();
    bencher.bench_local(|| {
        producer::choose::in_turn(black_box(&route), now, |_| false).map(|queue| queue.queue.queue_id())
    });
}

fn route(brokers: usize) -> Option<TopicRoute> {
    let mut data = RouteData::default();
    for number in 0..brokers {
        data.broker_datas.push(BrokerData {
            cluster: "DefaultCluster".to_owned(),
            broker_name: format!("broker-{number}"),
            broker_addresses: [(0, format!("127.0.0.1:{number}"))].into(),
        });
        data.queue_datas.push(QueueData {
            broker_name: format!("broker-{number}"),
            read_queue_nums: 8,
            write_queue_nums: 8,
            perm: 6,
            topic_sys_flag: 0,
        });
    }
    TopicRoute::from_data(&"Bench".into(), &data, Arc::default())
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

//! The driver of this library: one producer, and senders that do nothing but send.

use std::{
    sync::{Arc, LazyLock},
    thread,
    time::Duration,
};

use rocketmq_producer::{Error, HeaderSerialization, Message, Producer, SendFailure, SendResult, SendStatus};

use super::{
    Failure,
    arguments::Arguments,
    child::SinkProcess,
    meter::{Lane, Meter},
};

/// How long the end of a run may take.
const END: Duration = Duration::from_secs(20);
/// Most messages that take turns, so that their counts of references are not one hot cache line.
const TURNS: usize = 64;
/// Most bytes that their bodies may take together.
const TURNS_BYTES: usize = 64 << 10;

/// Callbacks run on threads that the library starts: they find their meter here, and carry nothing but a time.
static METER: LazyLock<Meter> = LazyLock::new(Meter::new);

thread_local! {
    static LANE: Arc<Lane> = METER.lane();
}

/// Does what the arguments say and prints the closing line.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let callback_pause = arguments.number("--callback-us")?.map(Duration::from_micros);
    let topics = arguments.number("--topics")?.unwrap_or(1);
    let sink = SinkProcess::unless(arguments.name_server.as_deref())?;
    let name_server = arguments
        .name_server
        .as_deref()
        .or(sink.as_ref().map(|sink| &*sink.name_server));
    let mut builder = Producer::builder("bench")
        .name_servers(name_server.unwrap_or_default())
        .max_async_in_flight(arguments.window.max(1));
    if arguments.has("--binary") {
        builder = builder.header_serialization(HeaderSerialization::Binary);
    }
    if let Some(interval) = arguments.number("--refresh-ms")? {
        builder = builder.route_refresh_interval(Duration::from_millis(interval));
    }
    let producer = builder.start()?;
    let messages = Messages::new(arguments, topics)?;
    match arguments.mode.as_str() {
        "hello" => return hello(&producer, arguments, &messages),
        "topics" => return many_topics(&producer, arguments, &messages),
        _ => {}
    }
    let window = thread::scope(|scope| {
        for _ in 0..arguments.threads {
            match arguments.mode.as_str() {
                "sync" => scope.spawn(|| send(&producer, &messages)),
                "async" => scope.spawn(|| send_async(&producer, &messages, callback_pause)),
                "oneway" => scope.spawn(|| send_oneway(&producer, &messages)),
                other => return Err(format!("there is no mode {other}")),
            };
        }
        Ok(METER.run(arguments))
    })?;
    if let Err(unflushed) = producer.flush(END) {
        METER.failed(&unflushed);
    }
    let report = producer.shutdown(END);
    if !report.is_clean() {
        METER.failed(&report);
    }
    println!("{}", METER.closing_line("product", arguments, &window));
    Ok(())
}

/// Sends one message to each of so many topics, says so, and idles: their routes are refreshed.
fn many_topics(producer: &Producer, arguments: &Arguments, messages: &Messages) -> Result<(), Failure> {
    let began = METER.now();
    for message in &messages.ready {
        producer.send(message)?;
    }
    super::say_hello(arguments, METER.now() - began)
}

/// What is sent: messages that are built once, or with `--fresh` one for each send.
struct Messages {
    ready: Vec<Message>,
    fresh: bool,
}

impl Messages {
    fn new(arguments: &Arguments, topics: u64) -> Result<Self, Failure> {
        let body = vec![b'x'; arguments.size];
        let topic = |number: u64| match topics {
            1 => arguments.topic.clone(),
            _ => format!("{}-{number}", arguments.topic),
        };
        let turns = (TURNS_BYTES / arguments.size.max(1)).clamp(1, TURNS);
        let turns = match topics {
            1 => u64::try_from(turns)?,
            _ => topics,
        };
        let ready = (0..turns)
            .map(|turn| Message::new(topic(turn % topics), &*body))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            ready,
            fresh: arguments.has("--fresh"),
        })
    }

    /// One message after the other, for ever.
    fn each(&self) -> impl Iterator<Item = &Message> {
        self.ready.iter().cycle()
    }

    fn to_own(&self, message: &Message) -> Result<Message, Error> {
        if self.fresh {
            Message::new(message.topic(), message.body())
        } else {
            Ok(message.clone())
        }
    }
}

/// Sends one message, says so, and idles.
fn hello(producer: &Producer, arguments: &Arguments, messages: &Messages) -> Result<(), Failure> {
    let message = messages.each().next().ok_or("no message")?;
    if arguments.has("--warm-up") {
        producer.warm_up(&[message.topic()])?;
    }
    let began = METER.now();
    producer.send(message)?;
    super::say_hello(arguments, METER.now() - began)
}

/// One clock reading a message: the end of a send is the beginning of the next.
fn send(producer: &Producer, messages: &Messages) {
    let lane = METER.lane();
    let mut began = METER.now();
    for message in messages.each() {
        if METER.is_stopped() {
            return;
        }
        let sent = if messages.fresh {
            messages
                .to_own(message)
                .and_then(|message| producer.send(&message))
        } else {
            producer.send(message)
        };
        let ended = METER.now();
        match sent {
            Ok(result) if result.status == SendStatus::SendOk => METER.done(&lane, 1, began, ended),
            Ok(result) => METER.failed(&result),
            Err(error) => METER.failed(&error),
        }
        began = ended;
    }
}

/// The library itself holds the window: `send_async` waits for room.
fn send_async(producer: &Producer, messages: &Messages, pause: Option<Duration>) {
    for message in messages.each() {
        if METER.is_stopped() {
            return;
        }
        let began = METER.now();
        match messages.to_own(message) {
            Ok(message) => producer.send_async(message, move |outcome| finish(began, &outcome, pause)),
            Err(error) => METER.failed(&error),
        }
    }
}

fn finish(began: u64, outcome: &Result<SendResult, SendFailure>, pause: Option<Duration>) {
    match outcome {
        Ok(result) if result.status == SendStatus::SendOk => {
            LANE.with(|lane| METER.done(lane, 1, began, METER.now()));
        }
        Ok(result) => METER.failed(result),
        Err(failure) => METER.failed(&failure.error),
    }
    if let Some(pause) = pause {
        // A callback that computes, not one that sleeps: sleeping is no finer than 50 us.
        let until = METER.now() + u64::try_from(pause.as_nanos()).unwrap_or(u64::MAX);
        while METER.now() < until {
            std::hint::spin_loop();
        }
    }
}

fn send_oneway(producer: &Producer, messages: &Messages) {
    let lane = METER.lane();
    let mut began = METER.now();
    for message in messages.each() {
        if METER.is_stopped() {
            return;
        }
        let sent = if messages.fresh {
            messages
                .to_own(message)
                .and_then(|message| producer.send_oneway(&message))
        } else {
            producer.send_oneway(message)
        };
        let ended = METER.now();
        match sent {
            Ok(()) => METER.done(&lane, 1, began, ended),
            Err(error) => METER.failed(&error),
        }
        began = ended;
    }
}

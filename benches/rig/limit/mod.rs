//! What the sockets allow: ready-made frames, no client.
//!
//! - `sync`: a ping-pong per thread, each on its own connection;
//! - `sync --wake channel|park|condvar`: one connection for all threads, and a reader that wakes them, as a client must;
//! - `async`: one thread writes, one counts the answers, at most `--window` are in flight;
//! - `oneway`: one thread writes.

mod shared;

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpStream},
    thread,
    time::Instant,
};

use super::{
    Failure,
    arguments::Arguments,
    child::SinkProcess,
    frames::Frames,
    meter::{Meter, Window},
};

/// Bytes that are written at once.
const MOST_AT_ONCE: usize = 1 << 20;

/// Does what the arguments say and prints the closing line.
pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let sink = SinkProcess::unless(arguments.name_server.as_deref())?;
    let name_server = arguments
        .name_server
        .as_deref()
        .or(sink.as_ref().map(|sink| &*sink.name_server));
    let broker = ask_broker(name_server.unwrap_or_default(), &arguments.topic)?;
    let meter = Meter::new();
    let wake = arguments.text("--wake")?;
    let (name, window) = match (arguments.mode.as_str(), wake.as_deref()) {
        ("hello", _) => return hello(arguments, &broker),
        ("sync", None) => ("limit".to_owned(), own_connections(arguments, &broker, &meter)?),
        ("sync", Some(wake)) => (
            format!("limit-{wake}"),
            shared::run(arguments, &broker, &meter, wake)?,
        ),
        ("async", _) => ("limit".to_owned(), pipeline(arguments, &broker, &meter)?),
        ("oneway", _) => ("limit".to_owned(), one_way(arguments, &broker, &meter)?),
        (other, _) => return Err(format!("there is no mode {other}").into()),
    };
    println!("{}", meter.closing_line(&name, arguments, &window));
    Ok(())
}

/// One request as this library writes it. `opaque` has six digits.
fn frame(arguments: &Arguments, opaque: usize) -> Vec<u8> {
    let flag = if arguments.mode == "oneway" { 2 } else { 0 };
    let header = format!(
        concat!(
            r#"{{"code":310,"extFields":{{"a":"bench","b":"{}","c":"TBW102","d":"4","e":"0","f":"0","#,
            r#""g":"1700000000000","h":"0","i":"UNIQ_KEY\u00017F00000138D10FEFDAB50000000A0000\u0002WAIT\u0001true","#,
            r#""j":"0","k":"false","m":"false"}},"flag":{},"language":"OTHER","opaque":{},"#,
            r#""serializeTypeCurrentRPC":"JSON","version":513}}"#
        ),
        arguments.topic, flag, opaque
    );
    wrap(&header, &vec![b'x'; arguments.size])
}

fn wrap(header: &str, body: &[u8]) -> Vec<u8> {
    let word = |number: usize| u32::try_from(number).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = word(4 + header.len() + body.len()).to_vec();
    frame.extend_from_slice(&word(header.len()));
    frame.extend_from_slice(header.as_bytes());
    frame.extend_from_slice(body);
    frame
}

fn connect(address: &str) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address).map_err(|error| format!("{address}: {error}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The first broker of the route; for a topic that does not exist, of the topic that new ones are made from.
fn ask_broker(name_server: &str, topic: &str) -> Result<String, Failure> {
    let mut stream = connect(name_server)?;
    for topic in [topic, "TBW102"] {
        let header = format!(
            concat!(
                r#"{{"code":105,"extFields":{{"topic":"{}"}},"flag":0,"language":"OTHER","opaque":1,"#,
                r#""serializeTypeCurrentRPC":"JSON","version":513}}"#
            ),
            topic
        );
        stream.write_all(&wrap(&header, b""))?;
        let mut length = [0; 4];
        stream.read_exact(&mut length)?;
        let mut answer = vec![0; usize::try_from(u32::from_be_bytes(length))?];
        stream.read_exact(&mut answer)?;
        let answer = String::from_utf8_lossy(&answer);
        // {"brokerAddrs":{"0":"127.0.0.1:10911"}, and 4.7.0 writes 0 without quotes.
        let first = answer.split("\"brokerAddrs\":{").nth(1).and_then(|rest| {
            let (_, address) = rest.split_once(":\"")?;
            address.split('"').next()
        });
        if let Some(address) = first {
            return Ok(address.to_owned());
        }
    }
    Err(format!("no route for {topic}").into())
}

fn hello(arguments: &Arguments, broker: &str) -> Result<(), Failure> {
    let mut stream = connect(broker)?;
    let began = Instant::now();
    exchange(&mut stream, &mut Frames::new(), &frame(arguments, 100_000))?;
    super::say_hello(arguments, u64::try_from(began.elapsed().as_nanos())?)
}

fn exchange(stream: &mut TcpStream, frames: &mut Frames, request: &[u8]) -> Result<(), Failure> {
    stream.write_all(request)?;
    while frames.next().is_none() {
        if frames.read(&mut *stream)? == 0 {
            return Err("the connection was closed".into());
        }
    }
    Ok(())
}

fn own_connections(arguments: &Arguments, broker: &str, meter: &Meter) -> Result<Window, Failure> {
    let request = frame(arguments, 100_000);
    let streams: Vec<_> = (0..arguments.threads)
        .map(|_| connect(broker))
        .collect::<Result<_, _>>()?;
    Ok(thread::scope(|scope| {
        for mut stream in streams {
            let request = &request;
            scope.spawn(move || {
                let (lane, mut frames) = (meter.lane(), Frames::new());
                let mut began = meter.now();
                while !meter.is_stopped() {
                    if let Err(error) = exchange(&mut stream, &mut frames, request) {
                        return meter.failed(&error);
                    }
                    let ended = meter.now();
                    meter.done(&lane, 1, began, ended);
                    began = ended;
                }
            });
        }
        meter.run(arguments)
    }))
}

/// Frames go out in runs of a quarter of the window; a run is in flight until all its answers are there.
fn pipeline(arguments: &Arguments, broker: &str, meter: &Meter) -> Result<Window, Failure> {
    let one = frame(arguments, 100_000);
    let run = (arguments.window / 4).clamp(1, (MOST_AT_ONCE / one.len()).max(1));
    let out = one.repeat(run);
    let stream = connect(broker)?;
    let (sent, in_flight) = crossbeam_channel::bounded((arguments.window / run).max(1));
    Ok(thread::scope(|scope| {
        scope.spawn(|| {
            let sent = sent;
            while !meter.is_stopped() {
                if sent.send(meter.now()).is_err() {
                    return;
                }
                if let Err(error) = (&stream).write_all(&out) {
                    return meter.failed(&error);
                }
            }
            // The sink answers everything that it has been sent, and then closes.
            stream.shutdown(Shutdown::Write).ok();
        });
        scope.spawn(|| {
            let (lane, mut frames) = (meter.lane(), Frames::new());
            let (mut answers, messages) = (0, u64::try_from(run).unwrap_or(0));
            loop {
                match frames.read(&stream) {
                    Ok(0) => return,
                    Ok(_) => {}
                    Err(error) => return meter.failed(&error),
                }
                while frames.next().is_some() {
                    answers += 1;
                    if answers == run {
                        answers = 0;
                        if let Ok(began) = in_flight.recv() {
                            meter.done(&lane, messages, began, meter.now());
                        }
                    }
                }
            }
        });
        meter.run(arguments)
    }))
}

fn one_way(arguments: &Arguments, broker: &str, meter: &Meter) -> Result<Window, Failure> {
    let one = frame(arguments, 100_000);
    let run = ((128 << 10) / one.len()).max(1);
    let (out, messages) = (one.repeat(run), u64::try_from(run)?);
    let mut stream = connect(broker)?;
    Ok(thread::scope(|scope| {
        scope.spawn(|| {
            let lane = meter.lane();
            let mut began = meter.now();
            while !meter.is_stopped() {
                if let Err(error) = stream.write_all(&out) {
                    return meter.failed(&error);
                }
                let ended = meter.now();
                meter.done(&lane, messages, began, ended);
                began = ended;
            }
        });
        meter.run(arguments)
    }))
}

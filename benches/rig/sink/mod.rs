//! A name server and brokers that answer like real ones and do nothing else.
//!
//! Every port answers every request. A thread per connection: a ping-pong costs one read and one write, and a client that
//! sends much at once gets all answers to one read in one write. Answers are those of a 5.5.0 broker; their form, JSON or
//! binary, is that of the request.

mod reply;
mod request;

use std::{
    io::{self, BufRead, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    ops::AddAssign,
    sync::Arc,
    thread,
};

use parking_lot::Mutex;
use serde_json::json;

use super::{Failure, arguments::value, frames::Frames, process};
use reply::Reply;
use request::{Finders, Request};

const GET_ROUTE: i32 = 105;
const HEART_BEAT: i32 = 34;
const UNREGISTER: i32 = 35;
const SEND_MESSAGE: i32 = 10;
const SEND_MESSAGE_V2: i32 = 310;
const SEND_BATCH_MESSAGE: i32 = 320;

/// What arrived at one port.
#[derive(Clone, Copy, Default)]
struct Tally {
    connections: u64,
    reads: u64,
    bytes_in: u64,
    bytes_out: u64,
    frames: u64,
    messages: u64,
    one_way: u64,
    body_bytes: u64,
    routes: u64,
    heartbeats: u64,
    unknown: u64,
    bad: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, more: Self) {
        self.connections += more.connections;
        self.reads += more.reads;
        self.bytes_in += more.bytes_in;
        self.bytes_out += more.bytes_out;
        self.frames += more.frames;
        self.messages += more.messages;
        self.one_way += more.one_way;
        self.body_bytes += more.body_bytes;
        self.routes += more.routes;
        self.heartbeats += more.heartbeats;
        self.unknown += more.unknown;
        self.bad += more.bad;
    }
}

/// A sink that runs in this process.
pub(crate) struct Sink {
    /// Where the name server listens.
    pub(crate) name_server: String,
    /// The name server first.
    ports: Vec<Arc<Mutex<Tally>>>,
}

impl Sink {
    /// Starts `brokers` brokers with `queues` queues for every topic; `port` is the name server's, 0 for any.
    pub(crate) fn start(port: u16, brokers: usize, queues: u32) -> Result<Self, Failure> {
        let name_server = listen(port)?;
        let brokers: Vec<_> = (0..brokers).map(|_| listen(0)).collect::<Result<_, _>>()?;
        let route: Arc<[u8]> = route(&brokers, queues)?.into();
        let address = name_server.local_addr()?.to_string();
        let ports = std::iter::once(name_server)
            .chain(brokers)
            .map(|listener| accept(listener, &route))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            name_server: address,
            ports,
        })
    }

    /// All counts, the messages by broker, and what the name server saw.
    fn stats(&self) -> serde_json::Value {
        let mut sum = Tally::default();
        for port in &self.ports {
            sum += *port.lock();
        }
        let by_port: Vec<_> = self
            .ports
            .iter()
            .skip(1)
            .map(|port| port.lock().messages)
            .collect();
        let name_server = self.ports.first().map(|port| *port.lock()).unwrap_or_default();
        json!({
            "connections": sum.connections, "reads": sum.reads, "frames": sum.frames,
            "bytes_in": sum.bytes_in, "bytes_out": sum.bytes_out,
            "messages": sum.messages, "one_way": sum.one_way, "body_bytes": sum.body_bytes,
            "routes": sum.routes, "heartbeats": sum.heartbeats, "unknown": sum.unknown, "bad": sum.bad,
            "cpu_us": u64::try_from(process::cpu().as_micros()).unwrap_or(u64::MAX),
            "messages_by_broker": by_port,
            "name_server_bytes_in": name_server.bytes_in, "name_server_bytes_out": name_server.bytes_out,
        })
    }
}

/// The sink as a program: says where it is, then answers `stats` lines on its standard input. At the end of the input it
/// goes on, unless it was told otherwise.
pub(crate) fn program(mut words: impl Iterator<Item = String>) -> Result<(), Failure> {
    let (mut port, mut brokers, mut queues, mut until_end) = (49876, 1, 8, false);
    while let Some(word) = words.next() {
        match word.as_str() {
            "--namesrv" => port = value(&word, &mut words)?,
            "--brokers" => brokers = value(&word, &mut words)?,
            "--queues" => queues = value(&word, &mut words)?,
            "--until-end-of-input" => until_end = true,
            "--bench" => {}
            _ => return Err(format!("the sink does not know {word}").into()),
        }
    }
    let sink = Sink::start(port, brokers, queues)?;
    let mut out = io::stdout();
    writeln!(out, "ready {}", sink.name_server)?;
    for line in io::stdin().lock().lines() {
        if line?.trim() == "stats" {
            writeln!(out, "{}", sink.stats())?;
            out.flush()?;
        }
    }
    if until_end {
        return Ok(());
    }
    loop {
        thread::park();
    }
}

fn listen(port: u16) -> io::Result<TcpListener> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port))
}

/// The route of every topic, as a 5.5.0 name server writes it.
fn route(brokers: &[TcpListener], queues: u32) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    let mut queue_data = Vec::new();
    for (number, broker) in brokers.iter().enumerate() {
        let name = format!("broker-{number}");
        data.push(json!({
            "brokerAddrs": { "0": broker.local_addr()?.to_string() }, "brokerName": name,
            "cluster": "DefaultCluster", "enableActingMaster": false,
        }));
        queue_data.push(json!({
            "brokerName": name, "perm": 6, "readQueueNums": queues, "topicSysFlag": 0, "writeQueueNums": queues,
        }));
    }
    let route = json!({ "brokerDatas": data, "filterServerTable": {}, "queueDatas": queue_data });
    Ok(route.to_string().into_bytes())
}

fn accept(listener: TcpListener, route: &Arc<[u8]>) -> io::Result<Arc<Mutex<Tally>>> {
    let tally = Arc::new(Mutex::new(Tally::default()));
    let (port, route) = (Arc::clone(&tally), Arc::clone(route));
    thread::Builder::new().stack_size(128 << 10).spawn(move || {
        for stream in listener.incoming().flatten() {
            let (port, route) = (Arc::clone(&port), Arc::clone(&route));
            let thread = thread::Builder::new().stack_size(256 << 10);
            if let Err(error) = thread.spawn(move || serve(&stream, &port, &route)) {
                eprintln!("sink: {error}");
            }
        }
    })?;
    Ok(tally)
}

fn serve(mut stream: &TcpStream, port: &Mutex<Tally>, route: &[u8]) {
    // What is not set costs time only.
    stream.set_nodelay(true).ok();
    let finders = Finders::new();
    let mut frames = Frames::new();
    let mut out = Vec::with_capacity(512 << 10);
    let mut offset = 0;
    port.lock().connections += 1;
    loop {
        let count = match frames.read(stream) {
            Ok(count) if count > 0 => count,
            _ => return,
        };
        let mut tally = Tally {
            reads: 1,
            bytes_in: u64::try_from(count).unwrap_or(0),
            ..Tally::default()
        };
        while let Some(frame) = frames.next() {
            tally.frames += 1;
            match Request::read(frame, &finders) {
                Some(request) => answer(&request, route, &mut offset, &mut tally, &mut out),
                None => tally.bad += 1,
            }
        }
        tally.bytes_out = u64::try_from(out.len()).unwrap_or(0);
        *port.lock() += tally;
        if !out.is_empty() && stream.write_all(&out).is_err() {
            return;
        }
        out.clear();
    }
}

fn answer(request: &Request<'_>, route: &[u8], offset: &mut u64, tally: &mut Tally, out: &mut Vec<u8>) {
    if request.is_response() {
        return;
    }
    let mut reply = Reply::to(request);
    match request.code {
        SEND_MESSAGE | SEND_MESSAGE_V2 | SEND_BATCH_MESSAGE => {
            let messages = if request.code == SEND_BATCH_MESSAGE {
                request::messages_in(request.body)
            } else {
                1
            };
            tally.messages += messages;
            tally.one_way += u64::from(request.is_one_way());
            tally.body_bytes += u64::try_from(request.body.len()).unwrap_or(0);
            reply.stored = Some((*offset, messages));
            *offset += messages;
        }
        GET_ROUTE => {
            tally.routes += 1;
            reply.body = route;
        }
        HEART_BEAT => tally.heartbeats += 1,
        UNREGISTER => {}
        _ => {
            tally.unknown += 1;
            reply.refuse();
        }
    }
    if !request.is_one_way() {
        reply.write(out);
    }
}

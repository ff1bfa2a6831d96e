//! Tests of the table of connections: dialling again, retiring, dialling another address than the one that is named.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::{
    code::RequestCode,
    net::{
        connection::{Request, Waiting},
        sync::channel::{Receiver, Sender},
        waiter::{Outcome, Waiter, WakeUps},
    },
    wire::{
        frame::Serialization,
        header::{Envelope, FLAG_RESPONSE, FieldWriter, Language, encode_frame},
    },
};

const PATIENCE: Duration = Duration::from_secs(20);

struct Net {
    connections: Arc<Connections>,
    timer: Arc<Timer>,
}

impl Net {
    fn new() -> Self {
        let settings = ConnectionSettings {
            language: Language::from_code(7),
            version: 513,
            serialization: Serialization::Json,
            in_flight_limit: 16,
            half_open_after: PATIENCE,
        };
        let timer = Arc::new(Timer::new());
        let connections = Connections::new(settings, PATIENCE, Arc::clone(&timer));
        let looked_at = Arc::clone(&connections);
        timer.start(move |now| looked_at.look_at_alarms(now)).unwrap();
        Self { connections, timer }
    }

    fn connect(&self, address: &Arc<str>) -> Result<Arc<Connection>, Error> {
        self.connections.wait(address, &Deadline::after(PATIENCE))
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.connections.close();
        self.timer.stop();
    }
}

/// An address that refuses connections for as long as the stream lives, which has the port.
fn refusing() -> (Arc<str>, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let holder = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (holder.local_addr().unwrap().to_string().into(), holder)
}

fn listener() -> (Arc<str>, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    (listener.local_addr().unwrap().to_string().into(), listener)
}

fn text(result: Result<Arc<Connection>, Error>) -> String {
    match result {
        Ok(_) => panic!("connected"),
        Err(error) => error.to_string(),
    }
}

/// Waits for an answer and says whether one came.
struct Asking(Sender<bool>);

impl Waiter for Asking {
    fn complete(self: Arc<Self>, _ticket: u32, outcome: Outcome<'_>, _: &mut WakeUps) {
        self.0.send(matches!(outcome, Outcome::Reply { .. })).unwrap();
    }
}

fn ask(connection: &Arc<Connection>) -> Receiver<bool> {
    let (sender, receiver) = channel::bounded(1);
    let waiter: Arc<dyn Waiter> = Arc::new(Asking(sender));
    let request = Request {
        code: RequestCode::HEART_BEAT,
        write_fields: |_: &mut FieldWriter<'_>| {},
        body: &[],
    };
    let waiting = Waiting {
        waiter: &waiter,
        ticket: 0,
        alarm: None,
    };
    connection
        .request(request, &waiting, connection.immediately(), Instant::now())
        .unwrap();
    receiver
}

/// Reads the first request of a connection, and answers it as the first one that a connection makes.
fn answer_the_first(stream: &mut TcpStream) {
    let mut length = [0; 4];
    stream.read_exact(&mut length).unwrap();
    let mut frame = vec![0; usize::try_from(u32::from_be_bytes(length)).unwrap()];
    stream.read_exact(&mut frame).unwrap();
    let envelope = Envelope {
        code: 0,
        opaque: crate::net::in_flight::FIRST_OPAQUE,
        flag: FLAG_RESPONSE,
        language: Language::from_code(0),
        version: 0,
        remark: None,
        serialization: Serialization::Json,
    };
    let mut out = Vec::new();
    encode_frame(&mut out, &envelope, |_| {}, &[]).unwrap();
    stream.write_all(&out).unwrap();
}

/// Blocks until the other end has closed the connection.
fn wait_for_the_end(stream: &mut TcpStream) {
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut rest = [0; 1024];
    while stream.read(&mut rest).unwrap() > 0 {}
}

#[test]
fn a_refused_address_is_left_alone_for_a_while_and_then_dialled_again() {
    let net = Net::new();
    let (address, _holder) = refusing();
    assert!(net.connections.when_worth_dialling(&address).is_none());
    assert!(!text(net.connect(&address)).contains("remembered"));
    for _ in 0..3 {
        let error = text(net.connect(&address));
        let Some(at) = net.connections.when_worth_dialling(&address) else {
            // This machine was too slow to see it.
            continue;
        };
        assert!(error.contains(&*address), "{error}");
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        assert!(!text(net.connect(&address)).contains("remembered"));
    }
}

#[test]
fn within_the_pause_the_error_of_the_last_dial_is_remembered() {
    let net = Net::new();
    let (address, _holder) = refusing();
    let mut errors = Vec::new();
    // Pauses become long enough to be met.
    while !errors
        .last()
        .is_some_and(|error: &String| error.contains("remembered"))
    {
        errors.push(text(net.connect(&address)));
    }
    let error = errors.pop().unwrap();
    assert!(error.contains("refused"), "{error}");
    assert!(net.connections.when_worth_dialling(&address).is_some() || errors.len() > 1);
}

#[test]
fn a_peer_that_accepts_and_closes_without_a_word_is_left_alone_too() {
    let net = Net::new();
    let (address, listener) = listener();
    drop(net.connect(&address).unwrap());
    drop(listener.accept().unwrap());
    let until = Instant::now() + PATIENCE;
    while !net.connections.current().is_empty() {
        assert!(Instant::now() < until, "its end was not seen");
        std::thread::yield_now();
    }
    assert!(
        net.connections
            .state
            .lock()
            .redials
            .addresses()
            .contains(&address)
    );
    // A peer that has spoken is dialled again at once, whatever was before.
    let until = Instant::now() + PATIENCE;
    let connection = loop {
        if let Ok(connection) = net.connect(&address) {
            break connection;
        }
        assert!(Instant::now() < until, "it is never dialled again");
        std::thread::sleep(Duration::from_millis(5));
    };
    let (mut stream, _) = listener.accept().unwrap();
    let answer = ask(&connection);
    answer_the_first(&mut stream);
    assert_eq!(answer.recv_timeout(PATIENCE), Ok(true));
    drop(stream);
    while !net.connections.current().is_empty() {
        assert!(Instant::now() < until, "its end was not seen");
        std::thread::yield_now();
    }
    assert!(net.connections.state.lock().redials.addresses().is_empty());
    assert!(net.connect(&address).is_ok());
}

#[test]
fn a_retired_connection_still_answers_while_a_new_one_is_used_and_is_closed_then() {
    let net = Net::new();
    let (address, listener) = listener();
    let old = net.connect(&address).unwrap();
    let (mut old_peer, _) = listener.accept().unwrap();
    let answer = ask(&old);
    net.connections.retire(&old);
    net.connections.retire(&old);
    assert!(net.connections.live(&address).is_none());
    assert_eq!(net.connections.all().len(), 1);
    assert!(net.connections.current().is_empty());
    let new = net.connect(&address).unwrap();
    assert!(!Arc::ptr_eq(&old, &new));
    std::thread::sleep(2 * RETIRED_LOOK);
    assert!(old.is_live(), "something still waits on it");
    answer_the_first(&mut old_peer);
    assert_eq!(answer.recv_timeout(PATIENCE), Ok(true));
    wait_for_the_end(&mut old_peer);
    assert!(new.is_live());
    let until = Instant::now() + PATIENCE;
    while net.connections.all().len() > 1 {
        assert!(Instant::now() < until, "the old one is still listed");
        std::thread::yield_now();
    }
}

#[test]
fn another_address_may_be_dialled_than_the_one_that_names_the_connection() {
    let net = Net::new();
    let (reachable, listener) = listener();
    let (refused, _holder) = refusing();
    net.connections.set_dial_as(Box::new(move |address| {
        (address == "container:10911")
            .then(|| reachable.to_string())
            .or_else(|| (address == "other:10911").then(|| refused.to_string()))
    }));
    let connection = net.connect(&"container:10911".into()).unwrap();
    assert_eq!(&**connection.address(), "container:10911");
    listener.accept().unwrap();
    let error = text(net.connect(&"other:10911".into()));
    assert!(error.contains("cannot connect to other:10911"), "{error}");
    assert!(error.contains("dialled as 127.0.0.1:"), "{error}");
}

#[test]
fn what_nobody_wants_is_closed_and_forgotten() {
    let net = Net::new();
    let (refused, _holder) = refusing();
    let (address, listener) = listener();
    drop(net.connect(&refused));
    drop(net.connect(&address).unwrap());
    let (mut peer, _) = listener.accept().unwrap();
    net.connections.retain(|_| true);
    assert_eq!(net.connections.state.lock().redials.addresses(), [refused]);
    net.connections.retain(|_| false);
    assert!(net.connections.state.lock().redials.addresses().is_empty());
    wait_for_the_end(&mut peer);
}

//! A server that does what a test tells it: answers, waits, is silent, closes, or writes any bytes.
//!
//! It shares no code with the library, so that both cannot be wrong in the same way: frames are cut and made here by hand,
//! and headers are plain JSON.
//!
//! - [`FakeServer::start`] gives every request to a closure together with the [`Peer`] that sent it. The closure runs on
//!   the thread of its connection, so it must not block; to answer later, it hands request and peer to the test.
//! - [`FakeServer::raw`] gives every accepted connection to a closure that reads and writes as it likes.
//! - [`FakeServer::name_server`] and [`FakeServer::broker`] are the two usual servers, the latter with a closure for sends.
//!
//! Everything that happens is logged; [`FakeServer::wait_until`] waits for events, never for time. Dropping the server
//! closes its sockets and joins its threads.

use std::{
    collections::HashMap,
    io::{Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Condvar, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

pub(crate) const SEND_MESSAGE_V2: i64 = 310;
pub(crate) const HEART_BEAT: i64 = 34;
pub(crate) const UNREGISTER_CLIENT: i64 = 35;
pub(crate) const GET_ROUTE: i64 = 105;
pub(crate) const TOPIC_NOT_EXIST: i64 = 17;

/// Queues of every topic on every broker of [`route_body`].
pub(crate) const QUEUES: u32 = 4;

/// One request, with its header as it came.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    /// Number of the connection, in the order in which they were accepted.
    pub(crate) connection: usize,
    pub(crate) header: Value,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn code(&self) -> i64 {
        self.header["code"].as_i64().expect("a request has a code")
    }

    pub(crate) fn opaque(&self) -> i64 {
        self.header["opaque"].as_i64().expect("a request has an opaque")
    }

    pub(crate) fn is_oneway(&self) -> bool {
        self.flag() & 2 != 0
    }

    /// Whether it is no request at all, but the answer to one of the server's own.
    pub(crate) fn is_response(&self) -> bool {
        self.flag() & 1 != 0
    }

    /// A header field, the empty text if there is none.
    pub(crate) fn field(&self, name: &str) -> &str {
        self.header["extFields"][name].as_str().unwrap_or("")
    }

    fn flag(&self) -> i64 {
        self.header["flag"].as_i64().unwrap_or(0)
    }
}

/// The other end of one connection. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    stream: Arc<TcpStream>,
    writing: Arc<Mutex<()>>,
}

impl Peer {
    /// The peer of a connection that a raw server serves.
    pub(crate) fn new(stream: &TcpStream) -> Peer {
        Peer {
            stream: Arc::new(stream.try_clone().unwrap()),
            writing: Arc::default(),
        }
    }

    /// Writes raw bytes. That the client is gone is no error here: some tests are about just that.
    pub(crate) fn write(&self, bytes: &[u8]) {
        let _one_at_a_time = lock(&self.writing);
        drop((&*self.stream).write_all(bytes));
    }

    /// Ends the connection in both directions.
    pub(crate) fn close(&self) {
        drop(self.stream.shutdown(Shutdown::Both));
    }

    /// Answers with a code, header fields and a body.
    pub(crate) fn answer(&self, request: &Request, code: i64, fields: &Value, body: &[u8]) {
        self.write(&answer(request.opaque(), code, "", fields, body));
    }

    /// Refuses with a code and a remark.
    pub(crate) fn refuse(&self, request: &Request, code: i64, remark: &str) {
        self.write(&answer(request.opaque(), code, remark, &json!({}), b""));
    }

    /// Answers a send: stored at this offset.
    pub(crate) fn stored(&self, request: &Request, queue_offset: u64) {
        self.write(&stored(request, queue_offset));
    }
}

/// One whole frame with a JSON header.
pub(crate) fn frame(header: &Value, body: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let header_length = u32::try_from(header.len()).unwrap();
    let length = 4 + header_length + u32::try_from(body.len()).unwrap();
    [
        &length.to_be_bytes()[..],
        &header_length.to_be_bytes(),
        header.as_bytes(),
        body,
    ]
    .concat()
}

/// The frame of an answer.
pub(crate) fn answer(opaque: i64, code: i64, remark: &str, fields: &Value, body: &[u8]) -> Vec<u8> {
    let header = json!({
        "code": code, "language": "JAVA", "version": 355, "opaque": opaque, "flag": 1, "remark": remark,
        "extFields": fields
    });
    frame(&header, body)
}

/// The frame that says that a send is stored.
pub(crate) fn stored(request: &Request, queue_offset: u64) -> Vec<u8> {
    answer(
        request.opaque(),
        0,
        "",
        &stored_fields(request, queue_offset),
        b"",
    )
}

/// The header fields of a stored answer.
pub(crate) fn stored_fields(request: &Request, queue_offset: u64) -> Value {
    json!({
        "msgId": format!("7F00000100002A9F{queue_offset:016X}"),
        "queueId": request.field("e"), "queueOffset": queue_offset.to_string()
    })
}

/// The body of a route: these brokers, each a master with [`QUEUES`] queues that may be read and written.
pub(crate) fn route_body(brokers: &[(&str, SocketAddr)]) -> Vec<u8> {
    let broker_datas: Vec<_> = brokers
        .iter()
        .map(|(name, address)| {
            json!({"cluster": "c", "brokerName": name, "brokerAddrs": {"0": address.to_string()}})
        })
        .collect();
    let queue_datas: Vec<_> = brokers
        .iter()
        .map(|(name, _)| {
            json!({
                "brokerName": name, "readQueueNums": QUEUES, "writeQueueNums": QUEUES, "perm": 6, "topicSysFlag": 0
            })
        })
        .collect();
    json!({"brokerDatas": broker_datas, "queueDatas": queue_datas})
        .to_string()
        .into_bytes()
}

/// What has happened at a server.
#[derive(Debug, Default)]
pub(crate) struct Log {
    /// Connections accepted so far.
    pub(crate) accepted: usize,
    /// Connections that the client or the server has ended.
    pub(crate) ended: usize,
    /// All requests, answers to the server's own requests included.
    pub(crate) requests: Vec<Request>,
}

impl Log {
    /// How many requests with this code have come.
    pub(crate) fn count(&self, code: i64) -> usize {
        self.of(code).count()
    }

    /// The requests with this code.
    pub(crate) fn of(&self, code: i64) -> impl Iterator<Item = &Request> {
        let is_it = move |request: &&Request| request.code() == code && !request.is_response();
        self.requests.iter().filter(is_it)
    }
}

struct Inner {
    stopping: AtomicBool,
    log: Mutex<Log>,
    changed: Condvar,
    streams: Mutex<HashMap<usize, Arc<TcpStream>>>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

type Serve = dyn Fn(usize, &Arc<TcpStream>, &Inner) + Send + Sync;

/// A server on a free port of 127.0.0.1.
pub(crate) struct FakeServer {
    address: SocketAddr,
    inner: Arc<Inner>,
    accepting: Option<JoinHandle<()>>,
}

impl FakeServer {
    /// Gives every request to `script`.
    pub(crate) fn start(script: impl Fn(&Request, &Peer) + Send + Sync + 'static) -> FakeServer {
        Self::serving(Arc::new(move |connection, stream, inner: &Inner| {
            let peer = Peer {
                stream: Arc::clone(stream),
                writing: Arc::default(),
            };
            while let Some((header, body)) = read_frame(stream) {
                let request = Request {
                    connection,
                    header,
                    body,
                };
                inner.note(|log| log.requests.push(request.clone()));
                script(&request, &peer);
            }
        }))
    }

    /// Gives every connection to `serve`, which may read and write as it likes; the connection ends when it returns.
    pub(crate) fn raw(serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> FakeServer {
        Self::serving(Arc::new(move |_, stream, _| serve(stream)))
    }

    /// A server that reads the first bytes of whoever connects, writes these, and then closes or only waits.
    pub(crate) fn writing(bytes: impl Into<Vec<u8>>, then_closes: bool) -> FakeServer {
        let bytes = bytes.into();
        Self::raw(move |mut stream| {
            let mut first = [0; 1024];
            if !matches!(stream.read(&mut first), Ok(1..)) {
                return;
            }
            drop(stream.write_all(&bytes));
            while !then_closes && matches!(stream.read(&mut first), Ok(1..)) {}
        })
    }

    /// A server that reads and never says a word.
    pub(crate) fn silent() -> FakeServer {
        Self::start(|_, _| {})
    }

    /// A name server that knows these brokers for every topic.
    pub(crate) fn name_server(brokers: &[(&str, SocketAddr)]) -> FakeServer {
        let body = route_body(brokers);
        Self::start(move |request, peer| peer.answer(request, 0, &json!({}), &body))
    }

    /// A broker that answers heartbeats and farewells, and gives sends to `on_send`.
    pub(crate) fn broker(on_send: impl Fn(&Request, &Peer) + Send + Sync + 'static) -> FakeServer {
        Self::start(move |request, peer| match request.code() {
            _ if request.is_response() => {}
            HEART_BEAT | UNREGISTER_CLIENT => peer.answer(request, 0, &json!({}), b""),
            _ => on_send(request, peer),
        })
    }

    /// A broker that stores everything; one-way messages are not answered.
    pub(crate) fn healthy_broker() -> FakeServer {
        Self::broker(|request, peer| {
            if !request.is_oneway() {
                peer.stored(request, 7);
            }
        })
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Looks at what has happened.
    pub(crate) fn log<R>(&self, look: impl FnOnce(&Log) -> R) -> R {
        look(&lock(&self.inner.log))
    }

    /// How many sends have come.
    pub(crate) fn sends(&self) -> usize {
        self.log(|log| log.count(SEND_MESSAGE_V2))
    }

    /// Waits for events until `condition` holds; fails if it does not within that time.
    #[track_caller]
    pub(crate) fn wait_until(&self, limit: Duration, condition: impl Fn(&Log) -> bool) {
        let until = Instant::now() + limit;
        let mut log = lock(&self.inner.log);
        while !condition(&log) {
            let left = until.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "it has not happened within {limit:?}: {log:#?}");
            log = self.inner.changed.wait_timeout(log, left).unwrap().0;
        }
        drop(log);
    }

    /// Ends all connections that are open now; new ones are accepted.
    pub(crate) fn close_connections(&self) {
        for stream in lock(&self.inner.streams).values() {
            drop(stream.shutdown(Shutdown::Both));
        }
    }

    fn serving(serve: Arc<Serve>) -> FakeServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let inner = Arc::new(Inner {
            stopping: AtomicBool::new(false),
            log: Mutex::default(),
            changed: Condvar::new(),
            streams: Mutex::default(),
            threads: Mutex::default(),
        });
        let shared = Arc::clone(&inner);
        let accepting = thread::spawn(move || {
            for number in 0.. {
                let stream = Arc::new(listener.accept().unwrap().0);
                if shared.stopping.load(Ordering::SeqCst) {
                    return;
                }
                stream.set_nodelay(true).unwrap();
                lock(&shared.streams).insert(number, Arc::clone(&stream));
                shared.note(|log| log.accepted += 1);
                let (serve, inner) = (Arc::clone(&serve), Arc::clone(&shared));
                let run = move || {
                    serve(number, &stream, &inner);
                    // A peer that a test holds on to must not keep the connection open.
                    drop(stream.shutdown(Shutdown::Both));
                    lock(&inner.streams).remove(&number);
                    inner.note(|log| log.ended += 1);
                };
                lock(&shared.threads).push(thread::spawn(run));
            }
        });
        FakeServer {
            address,
            inner,
            accepting: Some(accepting),
        }
    }
}

impl Drop for FakeServer {
    fn drop(&mut self) {
        self.inner.stopping.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        drop(TcpStream::connect(self.address));
        if let Some(accepting) = self.accepting.take() {
            drop(accepting.join());
        }
        self.close_connections();
        let threads = std::mem::take(&mut *lock(&self.inner.threads));
        for thread in threads {
            drop(thread.join());
        }
    }
}

impl Inner {
    fn note(&self, change: impl FnOnce(&mut Log)) {
        change(&mut lock(&self.log));
        self.changed.notify_all();
    }
}

/// An address that refuses connections for as long as this lives: the port is taken, by the near end of a connection, so
/// nobody else can come to listen there.
pub(crate) struct RefusingAddress {
    address: SocketAddr,
    _near_end: TcpStream,
    _listener: TcpListener,
}

impl RefusingAddress {
    pub(crate) fn new() -> RefusingAddress {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near_end = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        RefusingAddress {
            address: near_end.local_addr().unwrap(),
            _near_end: near_end,
            _listener: listener,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }
}

/// The next frame, `None` at the end of the stream. Only JSON headers are understood.
pub(crate) fn read_frame(mut stream: &TcpStream) -> Option<(Value, Vec<u8>)> {
    let mut prefix = [0; 8];
    stream.read_exact(&mut prefix).ok()?;
    let [l0, l1, l2, l3, serialization, h1, h2, h3] = prefix;
    assert_eq!(serialization, 0, "a fake server reads JSON headers only");
    let length = u32::from_be_bytes([l0, l1, l2, l3]) as usize;
    let header_length = u32::from_be_bytes([0, h1, h2, h3]) as usize;
    let mut header = vec![0; header_length];
    stream.read_exact(&mut header).ok()?;
    let mut body = vec![0; length - 4 - header_length];
    stream.read_exact(&mut body).ok()?;
    Some((serde_json::from_slice(&header).unwrap(), body))
}

/// A script that panicked has failed its test already; others may go on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

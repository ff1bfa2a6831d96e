//! A listening socket with its threads: the life of a name server or broker, not what it says.
//!
//! Rules:
//! 1. One thread accepts, one thread serves each connection, and a late one joins it if there is something to do by the
//!    clock. The accepting thread joins the others; whoever stops the server joins the accepting thread. So nothing is
//!    left when [`RunningServer::stop`] returns.
//! 2. To stop: `stopping` is set and every connection cut under the lock of `connections`, which ends reads, writes and
//!    waits; the accepting thread is woken by a connection from here. A connection is entered under the same lock, and
//!    not after `stopping`.
//! 3. No lock is held during a system call that may block, but for `life`, which whoever starts and stops holds.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::wire::header::Header;

use super::broker::{self, Session};
use super::clients::Origin;
use super::connection::{self, MockConnection};
use super::line::Line;
use super::name_server;
use super::push::Pushes;
use super::reply::Reply;
use super::rules::ServerId;
use super::shared::Shared;

/// How long to wait before accepting again after an error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How long the connection that wakes the accepting thread may take. On loopback it takes microseconds.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// A connection that has not been made after this time never is. On loopback it takes microseconds.
const FULL_AFTER: Duration = Duration::from_millis(100);

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 1024;

/// One server of the cluster.
#[derive(Debug)]
pub(super) struct Server {
    name: Arc<str>,
    id: ServerId,
    port: AtomicU16,
    shared: Arc<Shared>,
    connections: Mutex<Connections>,
    stop_begins: Condvar,
    /// Requests by code.
    requests: Mutex<BTreeMap<i32, u64>>,
    pub(super) pushes: Pushes,
    late: Mutex<Vec<(Weak<Line>, JoinHandle<()>)>>,
}

#[derive(Debug, Default)]
struct Connections {
    stopping: bool,
    is_paused: bool,
    next_id: u64,
    open: BTreeMap<u64, Arc<Line>>,
}

impl Server {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn id(&self) -> ServerId {
        self.id
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    pub(super) fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port.load(Ordering::SeqCst)).into()
    }

    /// The answer to a request, its effects included. `None`: this release says nothing.
    pub(super) fn answer(
        self: &Arc<Server>,
        session: &mut Session,
        header: &Header<'_>,
        body: &[u8],
    ) -> Option<Reply> {
        match self.id {
            ServerId::NameServer(_) => name_server::answer(&self.shared, header),
            ServerId::Broker(_) => broker::answer(self, session, header, body),
        }
    }

    /// A client has answered something.
    pub(super) fn received_answer(&self, line: &Line, header: &Header<'_>, body: &[u8]) {
        self.pushes.answered(self, line, header, body);
    }

    pub(super) fn count_request(&self, code: i32) {
        *self.requests.lock().entry(code).or_default() += 1;
    }

    /// How many requests with this code have come, answered or not.
    pub(super) fn requests(&self, code: i32) -> u64 {
        self.requests.lock().get(&code).copied().unwrap_or(0)
    }

    /// Whether it runs at all.
    pub(super) fn is_up(&self) -> bool {
        let connections = self.connections.lock();
        !connections.stopping && !connections.is_paused
    }

    /// The connections that are open.
    pub(super) fn lines(&self) -> Vec<Arc<Line>> {
        let open: Vec<_> = self.connections.lock().open.values().cloned().collect();
        open.into_iter().filter(|line| line.is_listed()).collect()
    }

    pub(super) fn list_connections(&self) -> Vec<MockConnection> {
        let listed = |line: Arc<Line>| MockConnection {
            server_name: self.name.to_string(),
            client_address: line.client,
        };
        self.lines().into_iter().map(listed).collect()
    }

    pub(super) fn origin(&self, connection: u64) -> Origin {
        match self.id {
            // Name servers register no clients; the index only has to differ from every broker's.
            ServerId::NameServer(_) => Origin {
                broker: usize::MAX,
                connection,
            },
            ServerId::Broker(broker) => Origin { broker, connection },
        }
    }

    /// Stops or continues everything that this server does, connections to come included.
    pub(super) fn pause(&self, is_paused: bool) {
        let mut connections = self.connections.lock();
        connections.is_paused = is_paused;
        for line in connections.open.values() {
            line.pause(is_paused);
        }
    }

    /// Starts the late thread of a connection. False: there is no thread to be had.
    pub(super) fn spawn_late(&self, line: &Arc<Line>, work: impl FnOnce() + Send + 'static) -> bool {
        let name = format!("mock {} {} late", self.address().port(), line.id);
        let mut late = self.late.lock();
        late.retain(|(_, thread)| !thread.is_finished());
        match Builder::new().name(name).spawn(work) {
            Ok(thread) => {
                late.push((Arc::downgrade(line), thread));
                true
            }
            Err(_) => false,
        }
    }

    fn accept(self: &Arc<Server>, listener: &TcpListener) {
        let mut threads: Vec<JoinHandle<()>> = Vec::new();
        loop {
            let accepted = listener.accept();
            threads.retain(|thread| !thread.is_finished());
            let mut connections = self.connections.lock();
            if connections.stopping {
                break;
            }
            match accepted {
                Ok((stream, client)) => {
                    let id = connections.next_id;
                    connections.next_id += 1;
                    let line = Arc::new(Line::new(id, client, stream, connections.is_paused));
                    connections.open.insert(id, Arc::clone(&line));
                    drop(connections);
                    self.shared.events.happened();
                    let open = OpenConnection {
                        server: Arc::clone(self),
                        line,
                    };
                    // Without a thread the connection is closed again, by the drop of `open`.
                    let name = format!("mock {} {id}", self.address().port());
                    threads.extend(Builder::new().name(name).spawn(move || open.serve()));
                }
                Err(_) => {
                    // Waking up early or late are both fine: the loop looks at `stopping` again.
                    let _timed_out = self.stop_begins.wait_for(&mut connections, ACCEPT_PAUSE);
                }
            }
        }
        // A panic has told of itself already.
        for thread in threads {
            drop(thread.join());
        }
        // Now nobody starts another. Those whose client had left first have not been cut yet.
        let late = std::mem::take(&mut *self.late.lock());
        for (line, thread) in late {
            if let Some(line) = line.upgrade() {
                line.cut();
            }
            drop(thread.join());
        }
    }
}

/// A connection for as long as its thread lives; closes and forgets it when dropped, after a panic too.
struct OpenConnection {
    server: Arc<Server>,
    line: Arc<Line>,
}

impl OpenConnection {
    fn serve(self) {
        self.line.set_no_delay();
        let origin = self.server.origin(self.line.id);
        let mut session = Session::new(origin, self.line.client);
        connection::serve(&self.server, &self.line, &mut session);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.line.leave();
        self.server.connections.lock().open.remove(&self.line.id);
        self.server
            .shared
            .clients
            .closed(self.server.origin(self.line.id));
        self.server.shared.events.happened();
    }
}

/// A server whose threads run, or that is down for a while.
#[derive(Debug)]
pub(super) struct RunningServer {
    pub(super) server: Arc<Server>,
    life: Mutex<Life>,
}

#[derive(Debug)]
enum Life {
    Up(JoinHandle<()>),
    /// The socket keeps the port, so that nobody else gets it. It does not listen: connections are refused.
    Down(Option<Socket>),
    /// It listens, and the connections have filled its queue, so that further ones get no answer.
    Deaf {
        _listening: Socket,
        _queue: Vec<TcpStream>,
    },
}

impl RunningServer {
    pub(super) fn start(
        name: Arc<str>,
        id: ServerId,
        listener: TcpListener,
        shared: Arc<Shared>,
    ) -> io::Result<RunningServer> {
        let port = listener.local_addr()?.port();
        let server = Arc::new(Server {
            name,
            id,
            port: AtomicU16::new(port),
            shared,
            connections: Mutex::new(Connections::default()),
            stop_begins: Condvar::new(),
            requests: Mutex::new(BTreeMap::new()),
            pushes: Pushes::default(),
            late: Mutex::default(),
        });
        let life = Mutex::new(Life::Up(accepting(&server, listener)?));
        Ok(RunningServer { server, life })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Ends all connections and makes all threads end.
    pub(super) fn begin_stop(&self) {
        let mut connections = self.server.connections.lock();
        connections.stopping = true;
        for line in connections.open.values() {
            line.cut();
        }
        drop(connections);
        self.server.stop_begins.notify_all();
    }

    /// Stops and waits for all threads to end. The port is kept if it is wanted again.
    pub(super) fn stop(&self, keeps_port: bool) {
        let mut life = self.life.lock();
        self.begin_stop();
        let before = std::mem::replace(&mut *life, Life::Down(None));
        let kept = match before {
            Life::Up(accepting) => {
                self.join(accepting);
                // If it fails, the port is free and probably still is when it is wanted again.
                keeps_port
                    .then(|| bind(self.server.address().port()).ok())
                    .flatten()
            }
            Life::Down(kept) => kept.filter(|_| keeps_port),
            Life::Deaf { .. } => None,
        };
        *life = Life::Down(kept);
        drop(life);
        self.server.shared.events.happened();
    }

    /// Listens again: on the port that it had, or on another. Nothing happens if it does already.
    pub(super) fn start_again(&self, on_same_port: bool) -> io::Result<()> {
        let mut life = self.life.lock();
        let kept = match &mut *life {
            Life::Up(_) => return Ok(()),
            Life::Down(kept) => kept.take(),
            Life::Deaf { .. } => {
                *life = Life::Down(None);
                None
            }
        };
        let socket = match kept {
            Some(socket) if on_same_port => socket,
            None if on_same_port => bind(self.server.address().port())?,
            // The old port is held till here, and so not chosen.
            _ => bind(0)?,
        };
        socket.listen(BACKLOG)?;
        let listener = TcpListener::from(socket);
        let port = listener.local_addr()?.port();
        self.server.port.store(port, Ordering::SeqCst);
        let mut connections = self.server.connections.lock();
        connections.stopping = false;
        connections.is_paused = false;
        drop(connections);
        *life = Life::Up(accepting(&self.server, listener)?);
        drop(life);
        self.server.shared.events.happened();
        Ok(())
    }

    /// Makes a server that is down take no notice of those who want to connect.
    pub(super) fn turn_deaf(&self) -> io::Result<()> {
        let mut life = self.life.lock();
        if let Life::Down(kept) = &mut *life {
            let listening = match kept.take() {
                Some(socket) => socket,
                None => bind(self.server.address().port())?,
            };
            listening.listen(0)?;
            let mut queue = Vec::new();
            while let Ok(stream) = TcpStream::connect_timeout(&self.server.address(), FULL_AFTER) {
                queue.push(stream);
            }
            *life = Life::Deaf {
                _listening: listening,
                _queue: queue,
            };
        }
        drop(life);
        Ok(())
    }

    fn join(&self, accepting: JoinHandle<()>) {
        let woken = TcpStream::connect_timeout(&self.server.address(), WAKE_TIMEOUT);
        // Refused: the accepting thread has ended and closed its socket. Any other failure means that it may sit in
        // its call for ever, and one thread too many is better than a drop that never returns.
        let ends = match &woken {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        };
        if ends {
            drop(accepting.join());
        }
    }
}

fn accepting(server: &Arc<Server>, listener: TcpListener) -> io::Result<JoinHandle<()>> {
    let server = Arc::clone(server);
    Builder::new()
        .name(format!("mock {}", server.address().port()))
        .spawn(move || server.accept(&listener))
}

/// A socket with this port, or with a free one for 0.
fn bind(port: u16) -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // As `TcpListener::bind`: elsewhere the option means something else.
    socket.set_reuse_address(cfg!(unix))?;
    let address: SocketAddr = (Ipv4Addr::LOCALHOST, port).into();
    socket.bind(&SockAddr::from(address))?;
    Ok(socket)
}

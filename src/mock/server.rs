//! A listening socket with its threads: the life of a name server or broker, not what it says.
//!
//! Rules:
//! 1. One thread accepts, and one thread serves each connection. The accepting thread joins the others; whoever stops
//!    the server joins the accepting thread. So nothing is left when [`RunningServer::join`] returns.
//! 2. To stop: `stopping` is set and every open socket shut down under the lock of `connections`, which ends reads and
//!    writes; the accepting thread is woken by a connection from here. A connection is entered under the same lock,
//!    and not after `stopping`.
//! 3. No lock is held during a system call that may block.

use std::collections::BTreeMap;
use std::io;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use crate::wire::header::Header;

use super::broker::{self, Session};
use super::clients::Origin;
use super::connection::{self, MockConnection};
use super::name_server;
use super::reply::Reply;
use super::shared::Shared;

/// How long to wait before accepting again after an error, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(10);

/// How long the connection that wakes the accepting thread may take. On loopback it takes microseconds.
const WAKE_TIMEOUT: Duration = Duration::from_secs(1);

/// What a server is.
#[derive(Clone, Copy, Debug)]
pub(super) enum Role {
    NameServer,
    /// With the index of the broker.
    Broker(usize),
}

/// One server of the cluster.
#[derive(Debug)]
pub(super) struct Server {
    name: Arc<str>,
    role: Role,
    address: SocketAddr,
    shared: Arc<Shared>,
    connections: Mutex<Connections>,
    stop_begins: Condvar,
    /// Requests by code.
    requests: Mutex<BTreeMap<i32, u64>>,
}

#[derive(Debug, Default)]
struct Connections {
    stopping: bool,
    next_id: u64,
    open: BTreeMap<u64, (Arc<TcpStream>, SocketAddr)>,
}

impl Server {
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// The answer to a request, its effects included. `None`: this release says nothing.
    pub(super) fn answer(&self, session: &mut Session, header: &Header<'_>, body: &[u8]) -> Option<Reply> {
        match self.role {
            Role::NameServer => name_server::answer(&self.shared, header),
            Role::Broker(_) => broker::answer(&self.shared, session, header, body),
        }
    }

    pub(super) fn count_request(&self, code: i32) {
        *self.requests.lock().entry(code).or_default() += 1;
    }

    /// How many requests with this code have come, answered or not.
    pub(super) fn requests(&self, code: i32) -> u64 {
        self.requests.lock().get(&code).copied().unwrap_or(0)
    }

    pub(super) fn list_connections(&self) -> Vec<MockConnection> {
        let listed = |(_, client_address): &(Arc<TcpStream>, SocketAddr)| MockConnection {
            server_name: self.name.to_string(),
            client_address: *client_address,
        };
        self.connections.lock().open.values().map(listed).collect()
    }

    fn origin(&self, connection: u64) -> Origin {
        match self.role {
            // Name servers register no clients; the index only has to differ from every broker's.
            Role::NameServer => Origin {
                broker: usize::MAX,
                connection,
            },
            Role::Broker(broker) => Origin { broker, connection },
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
                    let stream = Arc::new(stream);
                    connections.open.insert(id, (Arc::clone(&stream), client));
                    drop(connections);
                    self.shared.events.happened();
                    let open = OpenConnection {
                        server: Arc::clone(self),
                        id,
                        stream,
                        client,
                    };
                    // Without a thread the connection is closed again, by the drop of `open`.
                    let name = format!("mock {} {id}", self.address.port());
                    threads.extend(Builder::new().name(name).spawn(move || open.serve()));
                }
                Err(_) => {
                    // Waking up early or late are both fine: the loop looks at `stopping` again.
                    let _timed_out = self.stop_begins.wait_for(&mut connections, ACCEPT_PAUSE);
                }
            }
        }
        for thread in threads {
            // A panic has told of itself already.
            drop(thread.join());
        }
    }
}

/// A connection for as long as its thread lives; closes and forgets it when dropped, after a panic too.
struct OpenConnection {
    server: Arc<Server>,
    id: u64,
    stream: Arc<TcpStream>,
    client: SocketAddr,
}

impl OpenConnection {
    fn serve(self) {
        // Answers go out whole, so there is nothing to wait for. A socket that refuses this works all the same.
        drop(self.stream.set_nodelay(true));
        let mut session = Session::new(self.server.origin(self.id), self.client);
        connection::serve(&self.server, &self.stream, &mut session);
    }
}

impl Drop for OpenConnection {
    fn drop(&mut self) {
        self.server.connections.lock().open.remove(&self.id);
        self.server.shared.clients.closed(self.server.origin(self.id));
        // The client may have closed it first.
        drop(self.stream.shutdown(Shutdown::Both));
        self.server.shared.events.happened();
    }
}

/// A server whose threads run.
#[derive(Debug)]
pub(super) struct RunningServer {
    pub(super) server: Arc<Server>,
    accepting: JoinHandle<()>,
}

impl RunningServer {
    pub(super) fn start(
        name: Arc<str>,
        role: Role,
        listener: TcpListener,
        shared: Arc<Shared>,
    ) -> io::Result<RunningServer> {
        let address = listener.local_addr()?;
        let server = Arc::new(Server {
            name,
            role,
            address,
            shared,
            connections: Mutex::new(Connections::default()),
            stop_begins: Condvar::new(),
            requests: Mutex::new(BTreeMap::new()),
        });
        let accepting = {
            let server = Arc::clone(&server);
            let name = format!("mock {}", address.port());
            Builder::new()
                .name(name)
                .spawn(move || server.accept(&listener))?
        };
        Ok(RunningServer { server, accepting })
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.server.address
    }

    /// Ends all connections and makes all threads end.
    pub(super) fn begin_stop(&self) {
        let mut connections = self.server.connections.lock();
        connections.stopping = true;
        for (stream, _) in connections.open.values() {
            // The client may have closed it first.
            drop(stream.shutdown(Shutdown::Both));
        }
        drop(connections);
        self.server.stop_begins.notify_all();
    }

    /// Waits for all threads to end; the port is free then.
    pub(super) fn join(self) {
        let woken = TcpStream::connect_timeout(&self.server.address, WAKE_TIMEOUT);
        // Refused: the accepting thread has ended and closed its socket. Any other failure means that it may sit in
        // its call for ever, and one thread too many is better than a drop that never returns.
        let ends = match &woken {
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::ConnectionRefused,
        };
        if ends {
            drop(self.accepting.join());
        }
    }
}

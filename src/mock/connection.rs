//! One connection to a server: bytes in, whole frames out of them, answers back in one write.
//!
//! This is the one place where a request meets its answer, see [`answer_frame`]. What is answered is decided in
//! `broker` and `name_server`, and in `scripted` if a test wants it otherwise.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::wire::WireError;
use crate::wire::frame::{FrameBuffer, FrameRef};

use super::broker::Session;
use super::line::Line;
use super::scripted::{self, Flow, Incoming};
use super::server::Server;

/// Answers are written when no whole request is left, or when this many bytes have gathered.
const WRITE_AT: usize = 256 << 10;

/// What the answer buffer may keep between writes.
const KEEP_AT_MOST: usize = 1 << 20;

/// A client's connection to a server of the embedded cluster.
///
/// ```
/// use std::net::TcpStream;
/// use std::time::Duration;
/// use rocketmq_producer::mock::MockCluster;
///
/// let cluster = MockCluster::start(1)?;
/// let address = cluster.broker_address("broker-a").expect("the broker has an address");
/// let stream = TcpStream::connect(address)?;
/// assert!(cluster.wait_until(Duration::from_secs(5), |cluster| cluster.connections().len() == 1));
/// let connections = cluster.connections();
/// assert_eq!(connections[0].server_name, "broker-a");
/// assert_eq!(connections[0].client_address, stream.local_addr()?);
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MockConnection {
    /// The broker's name, or `name-server-1`, `name-server-2`, … for a name server.
    pub server_name: String,
    /// The client's end.
    pub client_address: SocketAddr,
}

/// Serves a connection until either side ends it, or the client sends what is no frame.
pub(super) fn serve(server: &Arc<Server>, line: &Arc<Line>, session: &mut Session) {
    let mut received = FrameBuffer::new();
    let mut answers = Vec::new();
    let mut is_listening = true;
    let mut flow = Flow::GoOn;
    loop {
        match line.read(received.space()) {
            Ok(0) => return,
            // Nobody asks for them any more.
            Ok(_) if flow == Flow::Discard => continue,
            Ok(count) => received.filled(count),
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return,
        }
        loop {
            let answered = answer_next(server, line, session, &mut received, &mut answers);
            let is_last = !matches!(answered, Ok(Some(Flow::GoOn)));
            if is_last {
                // Before the write, which may take as long as the client likes.
                server.shared().events.happened();
            }
            if (is_last || answers.len() >= WRITE_AT) && !answers.is_empty() {
                // A client that has left may have left requests behind: one-way sends do not wait. They are carried
                // out, as by a real server.
                is_listening = is_listening && line.write(&answers);
                answers.clear();
                answers.shrink_to(KEEP_AT_MOST);
            }
            match answered {
                Ok(Some(Flow::GoOn)) => {}
                Ok(None) => break,
                Ok(Some(Flow::Discard)) => {
                    flow = Flow::Discard;
                    break;
                }
                // As every release does: a client that sends what is no frame is cut off without a word.
                Err(_) => return,
            }
        }
    }
}

/// Answers the next whole request, if there is one.
fn answer_next(
    server: &Arc<Server>,
    line: &Arc<Line>,
    session: &mut Session,
    received: &mut FrameBuffer,
    answers: &mut Vec<u8>,
) -> Result<Option<Flow>, WireError> {
    match received.next_frame()? {
        Some(frame) => answer_frame(server, line, session, frame, answers).map(Some),
        None => Ok(None),
    }
}

/// Answers one request.
///
/// Everything that a test may want to go wrong with a request goes wrong here, by its code and by server: before
/// [`Server::answer`] nothing has happened yet, after it the message is stored and only the answer can be lost.
fn answer_frame(
    server: &Arc<Server>,
    line: &Arc<Line>,
    session: &mut Session,
    frame: FrameRef<'_>,
    answers: &mut Vec<u8>,
) -> Result<Flow, WireError> {
    let header = frame.header()?;
    if header.is_response() {
        server.received_answer(line, &header, frame.body);
        return Ok(Flow::GoOn);
    }
    server.count_request(header.code);
    if server.shared().faults.is_active() {
        let incoming = Incoming {
            header: &header,
            serialization: frame.serialization,
            header_bytes: frame.header,
            body: frame.body,
        };
        return scripted::answer(server, line, session, &incoming, answers);
    }
    let reply = server.answer(session, &header, frame.body);
    match reply {
        Some(reply) if !header.is_oneway() => {
            reply.encode(server.shared().version, &header, frame.serialization, answers)?;
        }
        _ => {}
    }
    Ok(Flow::GoOn)
}

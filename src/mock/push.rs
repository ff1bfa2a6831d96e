//! Requests that a server sends to its clients, as brokers do, and what the clients answer.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;

use crate::code::{RequestCode, ResponseCode};
use crate::wire::command::Command;
use crate::wire::frame::Serialization;
use crate::wire::header::{FLAG_ONEWAY, Header, Language};

use super::connection::MockConnection;
use super::controls::MockServer;
use super::line::{Line, Outgoing, Work};
use super::scripted;
use super::server::Server;

/// A request from a server to its clients, not sent yet: see [`MockServer::push`].
#[derive(Debug)]
#[must_use = "nothing is sent before send()"]
pub struct MockPushBuilder<'a> {
    server: MockServer<'a>,
    code: RequestCode,
    is_oneway: bool,
    fields: Vec<(String, String)>,
    body: Vec<u8>,
}

/// A request that was sent to clients, and what they answered.
#[derive(Clone, Debug)]
pub struct MockPush {
    sent_to: Vec<MockConnection>,
    answers: Arc<Mutex<Vec<MockAnswer>>>,
}

/// What a client answered to a request of its server.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MockAnswer {
    /// The server that had asked.
    pub server_name: String,
    /// The client's end of the connection.
    pub client_address: SocketAddr,
    /// How it answered.
    pub code: ResponseCode,
    /// Its remark.
    pub remark: Option<String>,
    /// The header fields, in the order of the wire.
    pub fields: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// Requests of one server that clients may still answer.
#[derive(Debug, Default)]
pub(super) struct Pushes {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    next_opaque: i32,
    sent: BTreeMap<i32, Arc<Mutex<Vec<MockAnswer>>>>,
}

impl<'a> MockPushBuilder<'a> {
    pub(super) fn new(server: MockServer<'a>, code: RequestCode) -> MockPushBuilder<'a> {
        MockPushBuilder {
            server,
            code,
            is_oneway: false,
            fields: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Adds a header field.
    pub fn field(mut self, name: impl Into<String>, value: impl Into<String>) -> MockPushBuilder<'a> {
        self.fields.push((name.into(), value.into()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> MockPushBuilder<'a> {
        self.body = body.into();
        self
    }

    /// Wants no answer.
    pub fn oneway(mut self) -> MockPushBuilder<'a> {
        self.is_oneway = true;
        self
    }

    /// Sends the request on every connection that is open now. The answers come later.
    pub fn send(self) -> MockPush {
        let answers = Arc::default();
        let mut sent_to = Vec::new();
        for running in self.server.running() {
            let server = &running.server;
            let opaque = server.pushes.next(self.is_oneway, &answers);
            let command = Command {
                code: self.code.value(),
                language: Language::JAVA,
                version: server.shared().version.ordinal(),
                opaque,
                flag: if self.is_oneway { FLAG_ONEWAY } else { 0 },
                remark: None,
                fields: self.fields.clone(),
                serialization: Serialization::Json,
                body: self.body.clone(),
            };
            let mut bytes = Vec::new();
            if command.encode(&mut bytes).is_err() {
                // Larger than a frame can be: nobody gets it.
                continue;
            }
            for line in server.lines() {
                sent_to.push(MockConnection {
                    server_name: server.name().to_owned(),
                    client_address: line.client,
                });
                let outgoing = Outgoing {
                    bytes: bytes.clone(),
                    ..Outgoing::default()
                };
                scripted::queue(server, &line, Instant::now(), Work::Write(outgoing));
            }
        }
        MockPush { sent_to, answers }
    }
}

impl MockPush {
    /// The connections that it was sent on.
    pub fn sent_to(&self) -> &[MockConnection] {
        &self.sent_to
    }

    /// What has been answered so far. [`MockCluster::wait_until`](super::MockCluster::wait_until) looks again whenever
    /// there is more.
    pub fn answers(&self) -> Vec<MockAnswer> {
        self.answers.lock().clone()
    }
}

impl Pushes {
    /// The number for the next request; brokers count their own, from 0.
    fn next(&self, is_oneway: bool, answers: &Arc<Mutex<Vec<MockAnswer>>>) -> i32 {
        let opaque = self.number();
        if !is_oneway {
            self.state.lock().sent.insert(opaque, Arc::clone(answers));
        }
        opaque
    }

    /// The number for a request whose answer nobody looks at.
    pub(super) fn number(&self) -> i32 {
        let mut state = self.state.lock();
        let opaque = state.next_opaque;
        state.next_opaque = opaque.wrapping_add(1);
        opaque
    }

    /// The number for a request that is not answered.
    pub(super) fn next_oneway(&self) -> i32 {
        self.next(true, &Arc::default())
    }

    /// Takes a client's answer in.
    pub(super) fn answered(&self, server: &Server, line: &Line, header: &Header<'_>, body: &[u8]) {
        let answers = self.state.lock().sent.get(&header.opaque).cloned();
        if let Some(answers) = answers {
            answers.lock().push(MockAnswer {
                server_name: server.name().to_owned(),
                client_address: line.client,
                code: ResponseCode::new(header.code),
                remark: header.remark.as_deref().map(str::to_owned),
                fields: header
                    .fields
                    .iter()
                    .map(|(name, value)| (name.into_owned(), value.into_owned()))
                    .collect(),
                body: body.to_vec(),
            });
        }
    }
}

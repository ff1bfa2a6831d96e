//! The self-check: walks the way of a message, step by step, and stops where nothing further can be checked.
//!
//! 1. It runs on the caller's thread and starts everything by the library's own means: the same connections, the same
//!    questions. Nothing is sent that a broker could store.
//! 2. The targets of one step are checked at the same time. Each step has a bound of its own and the whole has one, so
//!    that nothing that hangs keeps the caller.

use std::{
    net::SocketAddr,
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use super::{
    Producer,
    diagnosis::{Check, CheckOutcome, Diagnosis, DiagnosisStep},
    shared::Shared,
};
use crate::{
    cluster::{
        advertised,
        ask_route::{RouteAnswer, ask_route},
        route_faults,
        topic_route::TopicRoute,
    },
    code::ResponseCode,
    error::{Error, is_access_refusal},
    message::names::check_topic,
    net::{connection::Connection, deadline::Deadline, dial, sync::channel},
    wire::request::route::RouteData,
};

/// The whole takes at most so many send timeouts. Each step takes at most one.
const SEND_TIMEOUTS: u32 = 4;

/// Told once what a check of one target brought.
type Reply<R> = Box<dyn FnOnce(R) + Send>;

/// What a name server said of the topic.
type Asked = (Arc<str>, Arc<Connection>, RouteAnswer);

struct Walk<'a> {
    shared: &'a Arc<Shared>,
    topic: Arc<str>,
    deadline: Deadline,
    steps: Vec<DiagnosisStep>,
}

impl Producer {
    /// Walks the way that a message to this topic takes and says what is in order and what is broken: names of name servers
    /// resolve; each can be connected to and answers like one; the topic has a route, or would be created; its brokers have
    /// a master and give write permission; the address that each advertises can be connected to from here; it answers a
    /// heartbeat; access control lets this client in.
    ///
    /// No message is sent. Access control that allows the heartbeat may still refuse the topic: only a send can tell.
    ///
    /// Blocks for at most four send timeouts (12 s unless set), each step for at most one. Needs no working route and
    /// disturbs no send; connections that it makes are the producer's own and are used by later sends. The chapter
    /// [`guide::diagnosing`](crate::guide::diagnosing) says what to do about each step.
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::start(2)?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// let diagnosis = producer.diagnose("orders");
    /// if let Some(broken) = diagnosis.first_failure() {
    ///     eprintln!("broken: {broken}");
    /// }
    /// println!("{diagnosis}");
    /// # assert!(diagnosis.is_healthy());
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn diagnose(&self, topic: &str) -> Diagnosis {
        let shared = &self.handle.shared;
        let whole = shared.config.send_timeout.saturating_mul(SEND_TIMEOUTS);
        let mut walk = Walk {
            shared,
            topic: topic.into(),
            deadline: Deadline::after(whole),
            steps: Vec::new(),
        };
        let inside = shared.gate.enter().map_err(|error| error.to_string());
        match inside.and_then(|inside| check_topic(topic).map(|()| inside)) {
            Ok(_inside) => walk.walk(),
            Err(reason) => walk.note(
                Check::Precondition,
                topic,
                CheckOutcome::Failed(reason),
                Duration::ZERO,
            ),
        }
        Diagnosis {
            topic: topic.to_owned(),
            steps: walk.steps,
            took: walk.deadline.waited(),
        }
    }
}

impl Walk<'_> {
    fn walk(&mut self) {
        let resolved = self.resolve_name_servers();
        let connected = self.connect(Check::ConnectNameServer, &resolved);
        let asked = self.ask_name_servers(&connected);
        let Some(route) = self.find_route(asked) else {
            return;
        };
        let brokers: Vec<_> = route
            .brokers
            .iter()
            .map(|broker| Arc::clone(&broker.address))
            .collect();
        let connected = self.connect(Check::ConnectBroker, &brokers);
        self.greet(&connected);
    }

    fn note(&mut self, step: Check, target: &str, outcome: CheckOutcome, took: Duration) {
        self.steps.push(DiagnosisStep {
            step,
            target: crate::error::printable(target),
            outcome,
            took,
        });
    }

    /// When a step that begins now must be over.
    fn step_end(&self) -> Instant {
        Deadline::after(self.shared.config.send_timeout)
            .at()
            .min(self.deadline.at())
    }

    fn resolve_name_servers(&mut self) -> Vec<Arc<str>> {
        let servers = self.shared.name_servers.in_order();
        let results = gather(&servers, self.step_end(), |address, reply| {
            resolve(address, reply);
        });
        let mut resolved = Vec::new();
        for (address, (result, took)) in servers.iter().zip(results) {
            let outcome = match result {
                None => CheckOutcome::Failed(format!("the resolver has not answered within {took:.1?}")),
                Some(Err(error)) => CheckOutcome::Failed(format!("the name does not resolve: {error}")),
                Some(Ok(addresses)) => {
                    resolved.push(Arc::clone(address));
                    CheckOutcome::Passed(addresses)
                }
            };
            self.note(Check::ResolveNameServer, address, outcome, took);
        }
        resolved
    }

    fn connect(&mut self, check: Check, addresses: &[Arc<str>]) -> Vec<Arc<Connection>> {
        let connections = Arc::clone(&self.shared.connections);
        let results = gather(addresses, self.step_end(), |address, reply| {
            connections.when_ready(address, reply);
        });
        let mut connected = Vec::new();
        for (address, (result, took)) in addresses.iter().zip(results) {
            let failure = match result {
                Some(Ok(connection)) => {
                    connected.push(connection);
                    None
                }
                Some(Err(error)) => Some(error.to_string()),
                None => Some(format!("not connected within {took:.1?}")),
            };
            let outcome = match failure {
                None => CheckOutcome::Passed(match connections.dialled_as(address) {
                    Some(other) => format!("connected, dialled as {other}"),
                    None => "connected".to_owned(),
                }),
                Some(failure) => CheckOutcome::Failed(match hint(check, address) {
                    Some(hint) => format!("{failure}; {hint}"),
                    None => failure,
                }),
            };
            self.note(check, address, outcome, took);
        }
        connected
    }

    fn ask_name_servers(&mut self, connected: &[Arc<Connection>]) -> Vec<Asked> {
        let topic = Arc::clone(&self.topic);
        let until = self.step_end();
        let results = gather(connected, until, |connection, reply| {
            ask_route(
                connection,
                &topic,
                until.saturating_duration_since(Instant::now()),
                reply,
            );
        });
        let mut asked = Vec::new();
        for (connection, (result, took)) in connected.iter().zip(results) {
            let address = connection.address();
            let (check, outcome) = match result {
                Some(Ok(answer)) => {
                    let text = match answer {
                        RouteAnswer::Route(_) => "knows the topic",
                        RouteAnswer::Unknown(_) => "does not know the topic",
                    };
                    asked.push((Arc::clone(address), Arc::clone(connection), answer));
                    (Check::AskNameServer, CheckOutcome::Passed(text.to_owned()))
                }
                Some(Err(error)) => not_a_name_server(&error),
                None => (Check::AskNameServer, silent(took)),
            };
            self.note(check, address, outcome, took);
        }
        asked
    }

    fn find_route(&mut self, asked: Vec<Asked>) -> Option<TopicRoute> {
        let topic = Arc::clone(&self.topic);
        let (knowing, ignorant): (Vec<_>, Vec<_>) = asked
            .into_iter()
            .partition(|(_, _, answer)| matches!(answer, RouteAnswer::Route(_)));
        if let Some((_, _, RouteAnswer::Route(data))) = knowing.first() {
            let ignorant: Vec<_> = ignorant.iter().map(|(address, ..)| &**address).collect();
            let (route, outcome) = read_route(&topic, data, &ignorant);
            self.note(Check::Route, &topic, outcome, Duration::ZERO);
            return route;
        }
        let (address, connection, answer) = ignorant.first()?;
        let RouteAnswer::Unknown(remark) = answer else {
            return None;
        };
        let (route, outcome, took) = self.ask_for_template(address, connection, remark);
        self.note(Check::Route, &topic, outcome, took);
        route
    }

    /// The topic is unknown: would a broker create it?
    fn ask_for_template(
        &self,
        address: &str,
        connection: &Arc<Connection>,
        remark: &str,
    ) -> (Option<TopicRoute>, CheckOutcome, Duration) {
        let template = self.shared.routes.template();
        let until = self.step_end();
        let results = gather(&[connection], until, |connection, reply| {
            let timeout = until.saturating_duration_since(Instant::now());
            ask_route(connection, &template.name, timeout, reply);
        });
        let (answer, took) = results.into_iter().next().unwrap_or((None, Duration::ZERO));
        let route = match answer {
            Some(Ok(RouteAnswer::Route(data))) => {
                TopicRoute::from_template(&self.topic, &data, template.most_queues, Arc::default())
            }
            Some(Ok(RouteAnswer::Unknown(_))) => None,
            Some(Err(error)) => return (None, CheckOutcome::Failed(error.to_string()), took),
            None => return (None, silent(took), took),
        };
        let outcome = match &route {
            Some(route) => CheckOutcome::Warning(format!(
                "it does not exist yet; its first message would create it: {}",
                queues_of(route)
            )),
            None => CheckOutcome::Failed(route_faults::unknown_topic(address, remark, &template.name)),
        };
        (route, outcome, took)
    }

    fn greet(&mut self, connected: &[Arc<Connection>]) {
        let until = self.step_end();
        let housekeeping = Arc::clone(&self.shared.housekeeping);
        let results = gather(connected, until, |connection, reply| {
            housekeeping.heartbeat_then(connection, until.saturating_duration_since(Instant::now()), reply);
        });
        let mut access = Vec::new();
        for (connection, (result, took)) in connected.iter().zip(results) {
            let address = connection.address();
            let outcome = match result {
                Some(Ok(())) => {
                    access.push((address, allowed(), took));
                    CheckOutcome::Passed("accepted".to_owned())
                }
                Some(Err(error)) => match access_refusal(&error) {
                    Some(refusal) => {
                        access.push((address, refusal, took));
                        continue;
                    }
                    None => CheckOutcome::Failed(error.to_string()),
                },
                None => silent(took),
            };
            self.note(Check::Heartbeat, address, outcome, took);
        }
        for (address, outcome, took) in access {
            self.note(Check::AccessControl, address, outcome, took);
        }
    }
}

/// Starts one thing for each target at once and collects what comes back until then, with how long each took.
fn gather<T, R: Send + 'static>(
    targets: &[T],
    until: Instant,
    start: impl Fn(&T, Reply<R>),
) -> Vec<(Option<R>, Duration)> {
    let began = Instant::now();
    let (sender, replies) = channel::unbounded();
    for (index, target) in targets.iter().enumerate() {
        let sender = sender.clone();
        // The receiver has gone when the time was over.
        let reply = move |result: R| drop(sender.send((index, result, began.elapsed())));
        start(target, Box::new(reply));
    }
    drop(sender);
    let mut results: Vec<_> = targets.iter().map(|_| (None, Duration::ZERO)).collect();
    while results.iter().any(|(result, _)| result.is_none()) {
        let Ok((index, result, took)) = replies.recv_deadline(until) else {
            break;
        };
        if let Some(slot) = results.get_mut(index) {
            *slot = (Some(result), took);
        }
    }
    let waited = began.elapsed();
    for (result, took) in &mut results {
        if result.is_none() {
            *took = waited;
        }
    }
    results
}

/// Resolves on a thread of its own, since a resolver may hang.
fn resolve(address: &Arc<str>, reply: Reply<Result<String, String>>) {
    if address.parse::<SocketAddr>().is_ok() {
        return reply(Ok("it is an address, not a name".to_owned()));
    }
    let name = Arc::clone(address);
    let run = move || {
        let found = dial::resolve(&name).map_err(|error| error.to_string());
        reply(found.and_then(|found| {
            let ips: Vec<_> = found.iter().map(|address| address.ip().to_string()).collect();
            if ips.is_empty() {
                Err("it has no address".to_owned())
            } else {
                Ok(ips.join(", "))
            }
        }));
    };
    // Without a thread the reply is dropped, and the target counts as one that did not answer.
    if let Err(error) = thread::Builder::new()
        .name(format!("rmq-resolve {address}"))
        .spawn(run)
    {
        log::warn!("cannot start a thread to resolve {address}: {error}");
    }
}

fn hint(check: Check, address: &str) -> Option<String> {
    match check {
        Check::ConnectBroker => advertised::hint(address),
        _ => None,
    }
}

fn silent(took: Duration) -> CheckOutcome {
    CheckOutcome::Failed(format!(
        "it takes connections, but has not answered within {took:.1?}"
    ))
}

fn not_a_name_server(error: &Error) -> (Check, CheckOutcome) {
    if let Some(refusal) = access_refusal(error) {
        return (Check::AccessControl, refusal);
    }
    let text = match error {
        Error::Refused { code, .. } if *code == ResponseCode::REQUEST_CODE_NOT_SUPPORTED => {
            format!("{error}; it is no name server: is this the address of a broker?")
        }
        Error::Protocol { .. } => format!("{error}; is this the address of a name server?"),
        _ => error.to_string(),
    };
    (Check::AskNameServer, CheckOutcome::Failed(text))
}

fn access_refusal(error: &Error) -> Option<CheckOutcome> {
    match error {
        Error::Refused { code, remark, .. } if is_access_refusal(*code, remark) => {
            Some(CheckOutcome::Failed(format!("this client is refused: {error}")))
        }
        _ => None,
    }
}

fn allowed() -> CheckOutcome {
    CheckOutcome::Passed(
        "the heartbeat was not refused; whether the topic may be written only a send can tell".to_owned(),
    )
}

fn read_route(topic: &Arc<str>, data: &RouteData, ignorant: &[&str]) -> (Option<TopicRoute>, CheckOutcome) {
    let Some(route) = TopicRoute::from_data(topic, data, Arc::default()) else {
        return (None, CheckOutcome::Failed(route_faults::no_queue(data)));
    };
    let mut text = queues_of(&route);
    let faults = route_faults::broker_faults(data);
    if !faults.is_empty() {
        text = format!("{text}; but {}", route_faults::listed(&faults));
    }
    if !ignorant.is_empty() {
        text = format!("{text}; but name server {} does not know it", ignorant.join(", "));
    }
    let outcome = if faults.is_empty() && ignorant.is_empty() {
        CheckOutcome::Passed(text)
    } else {
        CheckOutcome::Warning(text)
    };
    (Some(route), outcome)
}

fn queues_of(route: &TopicRoute) -> String {
    let brokers: Vec<_> = route
        .brokers
        .iter()
        .map(|broker| format!("{} at {}", broker.name, broker.address))
        .collect();
    format!(
        "{} queues on {}",
        route.queues.len(),
        route_faults::listed(&brokers)
    )
}

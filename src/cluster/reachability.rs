//! Asks brokers that were slow or failing whether they can be reached (5.x `LatencyFaultToleranceImpl.startDetector`).
//!
//! Driven by the timer and by completions; nothing waits. Unlike 5.x, which only ever notes that a broker can be reached,
//! it notes the other too.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use super::{broker_health::BrokerHealth, call::call, routes::Routes, topic_route::PublishQueue};
use crate::{
    code::RequestCode,
    net::{
        connection::{Connection, Request},
        connections::Connections,
        sync::{AtomicBool, Ordering},
        timer::Timer,
    },
    wire::{header::FieldWriter, request::queue_query::QueueQuery},
};

/// How often brokers are looked at (5.x: the period of its scheduled task). Each is asked less often: see `broker_health`.
pub(super) const DETECTOR_INTERVAL: Duration = Duration::from_secs(3);

/// A broker that has not answered by then cannot be reached, connecting included (5.x `detectTimeout`).
const DETECT_TIMEOUT: Duration = Duration::from_millis(200);

pub(crate) struct Detector {
    pub(crate) health: Arc<BrokerHealth>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) routes: Arc<Routes>,
    pub(crate) timer: Arc<Timer>,
}

/// One question to one broker. The first answer counts.
struct Check {
    health: Arc<BrokerHealth>,
    broker_name: Arc<str>,
    is_decided: AtomicBool,
}

impl Detector {
    /// Asks all brokers whose turn it is.
    pub(super) fn round(&self) {
        for broker_name in self.health.due_for_a_check(Instant::now()) {
            if let Some(queue) = self.routes.queue_of(&broker_name) {
                self.check(queue);
            }
        }
    }

    fn check(&self, asked: Arc<PublishQueue>) {
        let check = Arc::new(Check {
            health: Arc::clone(&self.health),
            broker_name: Arc::clone(&asked.broker.name),
            is_decided: AtomicBool::new(false),
        });
        let late = Arc::clone(&check);
        self.timer
            .at(Instant::now() + DETECT_TIMEOUT, move || late.decide(false));
        let address = Arc::clone(&asked.broker.address);
        let then = move |ready| match ready {
            Ok(connection) => ask(&connection, &asked, check),
            Err(_) => check.decide(false),
        };
        self.connections.when_ready(&address, Box::new(then));
    }
}

impl Check {
    fn decide(&self, reachable: bool) {
        if !self.is_decided.swap(true, Ordering::Relaxed) {
            log::debug!("broker {} can be reached: {reachable}", self.broker_name);
            self.health.checked(&self.broker_name, reachable);
        }
    }
}

/// As 5.x, for the end of a queue: cheap for a broker, and known to all versions. Any answer will do.
fn ask(connection: &Arc<Connection>, asked: &PublishQueue, check: Arc<Check>) {
    let query = QueueQuery {
        topic: asked.queue.topic(),
        queue_id: asked.queue.queue_id(),
        broker_name: None,
        search: None,
    };
    let request = Request {
        code: RequestCode::GET_MAX_OFFSET,
        write_fields: |writer: &mut FieldWriter<'_>| query.write(writer),
        body: &[],
    };
    call(connection, request, DETECT_TIMEOUT, move |answer| {
        check.decide(answer.is_ok());
    });
}

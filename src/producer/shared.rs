//! What all handles, sends and threads of one producer share, and how it comes into being. Two producers share nothing.

use std::{fmt, sync::Arc, time::Instant};

use super::{
    auto_batch::AutoBatcher,
    gate::Gate,
    ids::{IdMaker, client_id, local_ip, unique_instance_name},
    inbound::Served,
    lanes::Lanes,
    options::usual_rules,
    permits::Permits,
    plan::{RetryOf, Rules},
    replies::Replies,
    shutdown::{LastOutcomes, ShutdownReport},
    tally::Tally,
    transaction::Transactions,
};
use crate::{
    cluster::{
        address_map::AddressMap,
        broker_health::{BrokerHealth, FAULT_RULES_V4_7_0, FAULT_RULES_V5, Failure},
        housekeeping::{Housekeeping, Identity, Intervals},
        name_servers::NameServers,
        reachability::Detector,
        reply_path::ReplyPath,
        routes::{Routes, TemplateTopic},
        topic_route::RouteBroker,
    },
    code::{RequestCode, ResponseCode},
    config::{BLOCKING_IN_FLIGHT, FaultTable, HEARTBEAT_TIMEOUT, HeaderSerialization, ProducerConfig},
    error::{Error, Phase, is_access_refusal},
    message::names::TEMPLATE_TOPIC,
    net::{
        connection::ConnectionSettings, connections::Connections, sync::Mutex, timer::Timer, workers::Workers,
    },
    wire::{frame::Serialization, header::Language, request::send_message::DEFAULT_REGION},
};

/// The variable that Java's client reads its name servers from.
const NAME_SERVERS_VARIABLE: &str = "NAMESRV_ADDR";

pub(crate) struct Shared {
    pub(super) config: ProducerConfig,
    pub(super) client_id: Arc<str>,
    pub(super) default_region: Arc<str>,
    pub(super) ids: IdMaker,
    pub(super) started: Instant,
    pub(super) tally: Tally,
    pub(super) gate: Arc<Gate>,
    pub(super) permits: Arc<Permits>,
    /// Room for the closures of sends that could not be begun.
    pub(super) refusals: Arc<Permits>,
    /// Room for blocked requests.
    pub(super) requesters: Arc<Permits>,
    /// Requests that wait for their reply.
    pub(super) replies: Arc<Replies>,
    pub(super) reply_path: Arc<ReplyPath>,
    /// What blocking sends may do, and what asynchronous ones may, unless they wish otherwise.
    pub(super) blocking_rules: Arc<Rules>,
    pub(super) async_rules: Arc<Rules>,
    pub(super) lanes: Arc<Lanes>,
    pub(super) timer: Arc<Timer>,
    pub(super) workers: Workers,
    pub(super) connections: Arc<Connections>,
    pub(super) name_servers: Arc<NameServers>,
    pub(super) routes: Arc<Routes>,
    pub(super) housekeeping: Arc<Housekeeping>,
    /// `None` unless latency fault tolerance is on.
    pub(super) health: Option<Arc<BrokerHealth>>,
    /// `None` unless messages are gathered into batches.
    pub(super) auto_batch: Option<Arc<AutoBatcher>>,
    /// `None` unless the producer is transactional.
    pub(super) transactions: Option<Transactions>,
    pub(super) last_outcomes: Mutex<LastOutcomes>,
    /// Held while somebody shuts the producer down; `Some` when that is done.
    pub(super) shut_down: Mutex<Option<ShutdownReport>>,
}

impl Shared {
    /// Checks the settings and starts the timer, the only thread that a producer has before its first send.
    pub(super) fn start(
        config: ProducerConfig,
        transactions: Option<Transactions>,
    ) -> Result<Arc<Self>, Error> {
        config.check()?;
        let name_servers = Arc::new(name_servers(&config)?);
        let guess = || local_ip(&name_servers.in_order());
        let ip = config.client_ip.unwrap_or_else(guess);
        let instance_name = config.instance_name.clone();
        let client_id = client_id(ip, &instance_name.unwrap_or_else(unique_instance_name));
        let permits = Permits::new(config.max_async_in_flight, config.max_async_bytes);
        let timer = Arc::new(Timer::new());
        let connections = Connections::new(
            connection_settings(&config),
            config.connect_timeout,
            Arc::clone(&timer),
        );
        let health = broker_health(&config);
        let routes = Routes::new(
            Arc::clone(&connections),
            Arc::clone(&timer),
            Arc::clone(&name_servers),
            config.name_server_timeout,
            template_topic(&config),
            health.clone(),
        );
        map_addresses(&config, &connections, &name_servers);
        let replies = Arc::<Replies>::default();
        connections.set_inbound(served(&replies, &routes, transactions.as_ref()));
        start_timer(&timer, &connections)?;
        let housekeeping = Housekeeping::start(
            identity(&config, &client_id),
            intervals(&config),
            Arc::clone(&connections),
            Arc::clone(&name_servers),
            Arc::clone(&routes),
            Arc::clone(&timer),
            detector(&config, health.as_ref(), &connections, &routes, &timer),
        );
        let shared = Arc::new(Self {
            auto_batch: AutoBatcher::new(&config, ip),
            ids: IdMaker::new(ip),
            client_id,
            default_region: DEFAULT_REGION.into(),
            started: Instant::now(),
            tally: Tally::default(),
            gate: Arc::default(),
            permits: Arc::clone(&permits),
            refusals: Permits::new(config.max_async_in_flight, usize::MAX),
            requesters: Permits::new(BLOCKING_IN_FLIGHT, usize::MAX),
            replies,
            reply_path: ReplyPath::new(&connections, &routes, &housekeeping, &timer),
            blocking_rules: usual_rules(&config, config.retries),
            async_rules: usual_rules(&config, config.async_retries),
            lanes: Arc::default(),
            workers: Workers::new(config.callback_threads, Box::new(move || permits.wake())),
            timer,
            connections,
            name_servers,
            routes,
            housekeeping,
            health,
            transactions,
            last_outcomes: Mutex::default(),
            shut_down: Mutex::new(None),
            config,
        });
        shared.started();
        Ok(shared)
    }

    fn started(self: &Arc<Self>) {
        if let Some(transactions) = &self.transactions {
            transactions.started(self);
        }
        log::info!(
            "producer {} of group {} started",
            self.client_id,
            self.config.producer_group
        );
    }

    /// An attempt is begun that follows another.
    pub(super) fn note_retry(&self, retried: Option<RetryOf>) {
        if let Some((address, reason)) = retried {
            self.connections.meters.of(&address).retried(reason);
        }
    }

    /// Counts an attempt that could not be begun, since there was no connection. All others are counted where their
    /// connection is.
    fn note_not_connected(&self, error: &Error) {
        let (Error::Connect { address, .. }
        | Error::Timeout {
            phase: Phase::Connect,
            target: address,
            ..
        }) = error
        else {
            return;
        };
        self.connections.meters.of(address).not_connected(error);
    }

    /// An attempt failed: if that means that the route is out of date, it is looked up again in the background; and the
    /// broker may be passed over for a while.
    pub(super) fn learn_from_failure(&self, topic: &Arc<str>, broker: Option<&RouteBroker>, error: &Error) {
        self.note_not_connected(error);
        self.doubt_route(topic, error);
        if let (Some(health), Some(broker)) = (&self.health, broker) {
            if let Some(failure) = self.broker_failure(error) {
                health.failed(&broker.name, failure, Instant::now());
            }
        }
    }

    /// Looks a route up again if the error means that it is out of date, and leaves a connection that the broker wants to
    /// be rid of.
    pub(super) fn doubt_route(&self, topic: &Arc<str>, error: &Error) {
        if let Error::Refused {
            address,
            code: ResponseCode::GO_AWAY,
            ..
        } = error
        {
            // The next attempt gets a new connection; what is on its way on the old one may still be answered.
            let going = self
                .connections
                .live(address)
                .filter(|connection| connection.is_going_away());
            if let Some(connection) = going {
                self.connections.retire(&connection);
            }
        }
        let stale = match error {
            Error::Connect { .. } | Error::ConnectionLost { .. } => true,
            Error::Refused { code, .. } => matches!(
                *code,
                ResponseCode::TOPIC_NOT_EXIST
                    | ResponseCode::NO_PERMISSION
                    | ResponseCode::SERVICE_NOT_AVAILABLE
                    | ResponseCode::NOT_LEADER_FOR_QUEUE
            ),
            _ => false,
        };
        if stale && !self.gate.is_closed() {
            self.routes.refresh(topic);
        }
    }

    /// A broker answered an attempt that was begun then: stored.
    pub(super) fn learn_from_success(&self, broker: &RouteBroker, began: Instant) {
        if let Some(health) = &self.health {
            let now = Instant::now();
            health.succeeded(&broker.name, now.saturating_duration_since(began), now);
        }
    }

    /// A broker has not answered within the share of an attempt.
    pub(super) fn learn_from_silence(&self, broker: &RouteBroker) {
        if let Some(health) = &self.health {
            health.failed(&broker.name, Failure::NoAnswer, Instant::now());
        }
    }

    /// What an error says about the broker, if it is the broker's fault. Unlike 4.7.0 and 5.x, a refusal that no other
    /// broker would answer otherwise is not: else one illegal message would isolate all brokers.
    fn broker_failure(&self, error: &Error) -> Option<Failure> {
        match error {
            Error::Connect { .. } | Error::ConnectionLost { .. } | Error::Protocol { .. } => {
                Some(Failure::NoAnswer)
            }
            Error::Timeout {
                phase: Phase::Connect | Phase::Write | Phase::Reply,
                ..
            } => Some(Failure::NoAnswer),
            Error::Refused { code, remark, .. }
                if self.config.retry_response_codes.contains(code) && !is_access_refusal(*code, remark) =>
            {
                Some(Failure::Refusal)
            }
            _ => None,
        }
    }

    /// Replaces the list of name servers.
    pub(super) fn set_name_servers(&self, list: &str) -> Result<(), Error> {
        let _inside = self.gate.enter()?;
        let name_servers = NameServers::parse(list).map_err(|reason| Error::InvalidConfig {
            setting: "name_servers",
            reason,
        })?;
        self.housekeeping.set_name_servers(name_servers);
        Ok(())
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("client_id", &self.client_id)
            .finish_non_exhaustive()
    }
}

fn start_timer(timer: &Arc<Timer>, connections: &Arc<Connections>) -> Result<(), Error> {
    let looked_at = Arc::clone(connections);
    timer
        .start(move |now| looked_at.look_at_alarms(now))
        .map_err(|error| Error::Thread {
            purpose: "the timer",
            source: Arc::new(error),
        })
}

/// Which requests of brokers are served.
fn served(replies: &Arc<Replies>, routes: &Arc<Routes>, transactions: Option<&Transactions>) -> Arc<Served> {
    let code = RequestCode::PUSH_REPLY_MESSAGE_TO_CLIENT;
    let served = Served::default().with(code, replies.serve(routes));
    Arc::new(match transactions {
        Some(transactions) => transactions.serve(served),
        None => served,
    })
}

fn detector(
    config: &ProducerConfig,
    health: Option<&Arc<BrokerHealth>>,
    connections: &Arc<Connections>,
    routes: &Arc<Routes>,
    timer: &Arc<Timer>,
) -> Option<Detector> {
    let asked = health.filter(|_| config.reachability_detector);
    asked.map(|health| Detector {
        health: Arc::clone(health),
        connections: Arc::clone(connections),
        routes: Arc::clone(routes),
        timer: Arc::clone(timer),
    })
}

fn template_topic(config: &ProducerConfig) -> TemplateTopic {
    TemplateTopic {
        // As 5.x, which asks for this topic whatever the create topic key is; 4.7.0 asks for the key.
        name: TEMPLATE_TOPIC.into(),
        most_queues: config.default_topic_queue_nums,
    }
}

fn identity(config: &ProducerConfig, client_id: &Arc<str>) -> Identity {
    Identity {
        client_id: Arc::clone(client_id),
        producer_group: config.producer_group.as_str().into(),
    }
}

fn intervals(config: &ProducerConfig) -> Intervals {
    Intervals {
        route_refresh: config.route_refresh_interval,
        heartbeat: config.heartbeat_interval,
        heartbeat_timeout: HEARTBEAT_TIMEOUT.max(config.send_timeout),
    }
}

fn broker_health(config: &ProducerConfig) -> Option<Arc<BrokerHealth>> {
    let rules = match config.fault_table {
        FaultTable::V4_7_0 => FAULT_RULES_V4_7_0,
        FaultTable::V5 => FAULT_RULES_V5,
    };
    let new = || BrokerHealth::new(rules, config.reachability_detector, Instant::now());
    config.latency_fault_tolerance.then(|| Arc::new(new()))
}

/// Has brokers dialled where the user's map says. Name servers are where the user has said already.
fn map_addresses(config: &ProducerConfig, connections: &Connections, name_servers: &Arc<NameServers>) {
    if let Some(map) = &config.address_map {
        let map = Arc::clone(&map.0);
        let map = AddressMap::new(Box::new(move |advertised| map(advertised)));
        let name_servers = Arc::clone(name_servers);
        connections.set_dial_as(Box::new(move |address| {
            (!name_servers.contains(address))
                .then(|| map.dialled_as(address))
                .flatten()
        }));
    }
}

fn name_servers(config: &ProducerConfig) -> Result<NameServers, Error> {
    let invalid = |reason| Error::InvalidConfig {
        setting: "name_servers",
        reason,
    };
    if let Some(list) = &config.name_servers {
        return NameServers::parse(list).map_err(invalid);
    }
    let variable = std::env::var(NAME_SERVERS_VARIABLE).map_err(|_| {
        invalid(format!(
            "none is given, and the environment variable {NAME_SERVERS_VARIABLE} is not set"
        ))
    })?;
    NameServers::parse(&variable).map_err(|reason| {
        invalid(format!(
            "in the environment variable {NAME_SERVERS_VARIABLE}: {reason}"
        ))
    })
}

fn connection_settings(config: &ProducerConfig) -> ConnectionSettings {
    ConnectionSettings {
        language: Language::from_code(config.language_code),
        version: config.claimed_version,
        serialization: match config.header_serialization {
            HeaderSerialization::Json => Serialization::Json,
            HeaderSerialization::Binary => Serialization::Binary,
        },
        in_flight_limit: config.max_async_in_flight.saturating_add(BLOCKING_IN_FLIGHT),
        // A send has used up a little of its time before its request is written.
        half_open_after: config.send_timeout / 8 * 7,
    }
}

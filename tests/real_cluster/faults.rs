//! Brokers and name servers that die, freeze and come back while messages are sent. After each the senders' account is
//! reconciled with what Apache's Java client reads.
//!
//! These tests run one after the other, each with a whole cluster to itself.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use parking_lot::{MappedMutexGuard, Mutex, MutexGuard};
use rocketmq_producer::{Delivery, Message, Producer, Redelivery};

use crate::{
    builder,
    ledger::{Bodies, Ledger},
    load::Load,
    shut_down,
    support::{RealCluster, wait_until},
};

/// The time of a send unless a test is about another.
const SEND_TIMEOUT: Duration = Duration::from_secs(3);

/// For what takes no longer than a send.
const PATIENCE: Duration = Duration::from_secs(30);

/// Queues of each topic on each broker.
const QUEUES: usize = 2;

/// How many messages show that all goes well, before a fault and after it.
const SOME: usize = 400;

/// A cluster and how many brokers it has.
struct Victim {
    cluster: RealCluster,
    brokers: usize,
}

#[derive(Default)]
struct Victims {
    lone: Option<Victim>,
    pair: Option<Victim>,
}

static VICTIMS: Mutex<Victims> = Mutex::new(Victims {
    lone: None,
    pair: None,
});

/// One name server and one broker that creates no topics by itself.
fn lone(version: &str) -> MappedMutexGuard<'static, Victim> {
    taken(
        version,
        |victims| &mut victims.lone,
        1,
        &["--conf", "autoCreateTopicEnable=false"],
    )
}

/// Two name servers and two brokers.
fn pair(version: &str) -> MappedMutexGuard<'static, Victim> {
    taken(version, |victims| &mut victims.pair, 2, &["--nameservers", "2"])
}

fn taken(
    version: &str,
    slot: fn(&mut Victims) -> &mut Option<Victim>,
    brokers: usize,
    options: &[&str],
) -> MappedMutexGuard<'static, Victim> {
    MutexGuard::map(VICTIMS.lock(), |victims| {
        let is_old =
            |victim: &Option<Victim>| victim.as_ref().is_some_and(|it| it.cluster.version != version);
        if is_old(&victims.lone) || is_old(&victims.pair) {
            *victims = Victims::default();
        }
        let slot = slot(victims);
        if let Some(victim) = slot {
            victim.heal();
        }
        slot.get_or_insert_with(|| {
            let count = brokers.to_string();
            let options = [options, &["--brokers", &count]].concat();
            let cluster = RealCluster::start_as(version, &options);
            Victim { cluster, brokers }
        })
    })
}

impl Victim {
    /// Wakes and starts what a test that failed half way has left stopped or dead.
    fn heal(&self) {
        for node in self.cluster.nodes() {
            match &*self.cluster.node(&node, "status") {
                "paused" => drop(self.cluster.node(&node, "resume")),
                "stopped" => drop(self.cluster.node(&node, "start")),
                _ => {}
            }
        }
    }

    /// Creates a topic on all brokers, which may still be on their way into the route.
    #[track_caller]
    fn create_topic(&self, topic: &str) {
        wait_until(&format!("{topic} is created"), || {
            let created = self.cluster.try_java(&format!("create {topic} {QUEUES}"));
            created.is_ok_and(|brokers| brokers.len() == self.brokers)
        });
        self.wait_for_route(topic);
    }

    #[track_caller]
    fn wait_for_route(&self, topic: &str) {
        wait_until(&format!("{topic} is in the route on all brokers"), || {
            self.cluster.queues(topic).len() == self.brokers * QUEUES
        });
    }

    /// A new topic and the account of what is sent to it.
    #[track_caller]
    fn ledger(&self, topic: &str, timeout: Duration) -> Arc<Ledger> {
        self.create_topic(topic);
        Arc::new(Ledger::new(topic, timeout))
    }

    /// Kills a broker under load, leaves it dead for so long and starts it again.
    #[track_caller]
    fn kill_for(&self, outage: Duration, ledger: &Ledger) {
        ledger.trouble_begins();
        self.cluster.node("broker-a", "kill");
        thread::sleep(outage);
        self.cluster.node("broker-a", "start");
        self.wait_for_route(&ledger.topic);
        ledger.trouble_ends();
    }
}

/// Sends one message to a topic that the producer does not know yet.
#[track_caller]
fn first_send(producer: &Producer, topic: &str, ledgers: &mut Vec<Ledger>) {
    let ledger = Ledger::new(topic, SEND_TIMEOUT);
    let (entry, message) = ledger.begin("first", 0, Bodies::Mixed, Redelivery::AtLeastOnce);
    let outcome = producer.send(&message);
    ledger.end(entry, outcome.as_ref());
    outcome.unwrap_or_else(|error| panic!("the first send to {topic}: {error}"));
    ledgers.push(ledger);
}

/// The only broker is dead for a while. Whoever gave the messages time loses none, in order where asked for.
pub(crate) fn a_killed_broker_costs_nothing_with_a_delivery_timeout(version: &str) {
    // A container that is moved to another machine takes about 18 s; once is enough to see that it makes no difference.
    let outage = Duration::from_secs(if version == "4.7.0" { 18 } else { 4 });
    let victim = lone(version);
    let ledger = victim.ledger("outage_patient", Duration::from_secs(60));
    let producer = builder(&victim.cluster, "outage_patient")
        .send_timeout(SEND_TIMEOUT)
        .delivery_timeout(ledger.timeout)
        .start()
        .unwrap();
    let load = Load::start(&producer, &ledger).and_ordered();
    ledger.wait_for_acknowledged(SOME);
    victim.kill_for(outage, &ledger);
    ledger.wait_for_acknowledged(SOME);
    load.finish(ledger.timeout);
    shut_down(&producer);

    ledger.reconcile(&victim.cluster, "killed, with a delivery timeout");
    let failed = ledger.failures(Redelivery::AtLeastOnce);
    assert!(failed.is_empty(), "{} failed: {:?}", failed.len(), failed.first());
    // What was under way when the broker died may not be sent again without leave for a second copy.
    for (delivery, text) in ledger.failures(Redelivery::NoDuplicates) {
        assert_eq!(delivery, Delivery::Unknown, "{text}");
    }
    for (queue, offsets) in ledger.offsets("ordered") {
        assert!(offsets.is_sorted(), "out of order in {queue:?}: {offsets:?}");
    }
}

/// The same without time for it: many sends fail, and each is told truly what became of its message.
pub(crate) fn a_killed_broker_costs_no_truth(version: &str) {
    let victim = lone(version);
    let ledger = victim.ledger("outage_hasty", Duration::from_secs(1));
    let producer = builder(&victim.cluster, "outage_hasty")
        .send_timeout(ledger.timeout)
        .start()
        .unwrap();
    let load = Load::start(&producer, &ledger);
    ledger.wait_for_acknowledged(SOME);
    victim.kill_for(Duration::from_secs(2), &ledger);
    ledger.wait_for_acknowledged(SOME);
    load.finish(PATIENCE);
    shut_down(&producer);

    let account = ledger.reconcile(&victim.cluster, "killed, without");
    assert!(account.not_stored > 0, "nobody noticed the outage: {account}");
}

/// The only broker accepts what is sent and is silent, until its connection takes no more, and then wakes.
pub(crate) fn a_stopped_broker_keeps_nobody_waiting(version: &str) {
    let victim = lone(version);
    let ledger = victim.ledger("stopped", Duration::from_secs(2));
    let producer = builder(&victim.cluster, "stopped")
        .send_timeout(ledger.timeout)
        .start()
        .unwrap();
    let load = Load::start(&producer, &ledger).and_large();
    ledger.wait_for_acknowledged(SOME);
    ledger.trouble_begins();
    victim.cluster.node("broker-a", "pause");
    thread::sleep(Duration::from_secs(5));
    victim.cluster.node("broker-a", "resume");
    ledger.wait_for_acknowledged(1);
    ledger.trouble_ends();
    ledger.wait_for_acknowledged(SOME);
    load.finish(PATIENCE);
    shut_down(&producer);

    let account = ledger.reconcile(&victim.cluster, "stopped");
    assert!(account.unknown > 0, "nobody noticed the silence: {account}");
}

/// With a second broker there is hardly anything to notice: first one is killed, then the other one is stopped.
pub(crate) fn one_of_two_brokers_killed_and_one_stopped(version: &str) {
    let victim = pair(version);
    let ledger = victim.ledger("one_of_two", SEND_TIMEOUT);
    let producer = builder(&victim.cluster, "one_of_two")
        .send_timeout(ledger.timeout)
        .route_refresh_interval(Duration::from_secs(1))
        // Which broker is chosen must make no difference to the account.
        .latency_fault_tolerance(version == "4.9.7")
        .start()
        .unwrap();
    let load = Load::start(&producer, &ledger);
    ledger.wait_for_acknowledged(SOME);
    let mut shares = Vec::new();
    for (broker, fault, cure) in [("broker-b", "kill", "start"), ("broker-a", "pause", "resume")] {
        ledger.trouble_begins();
        victim.cluster.node(broker, fault);
        let began = Instant::now();
        thread::sleep(Duration::from_secs(4));
        victim.cluster.node(broker, cure);
        shares.push((fault, began + Duration::from_secs(1), Instant::now()));
        victim.wait_for_route(&ledger.topic);
        ledger.trouble_ends();
        // Those who send know it too by now.
        thread::sleep(Duration::from_secs(2));
    }
    ledger.wait_for_acknowledged(SOME);
    load.finish(PATIENCE);
    shut_down(&producer);

    ledger.reconcile(&victim.cluster, "one of two killed, one stopped");
    for (fault, from, to) in shares {
        let (stored, sent) = ledger.share_acknowledged(from, to);
        assert!(sent > 50, "{fault}: only {sent} sends");
        assert!(
            stored * 100 >= sent * 99,
            "{fault}: {stored} of {sent} were acknowledged"
        );
    }
}

/// Topics that were never sent to have to be looked up while a name server does not answer.
pub(crate) fn one_of_two_name_servers_stopped_and_one_killed(version: &str) {
    let victim = pair(version);
    let ledger = victim.ledger("name_servers", SEND_TIMEOUT);
    let topics = ["while_stopped", "after_stopped", "while_killed"];
    for topic in topics {
        victim.create_topic(topic);
    }
    let producer = builder(&victim.cluster, "name_servers")
        .send_timeout(ledger.timeout)
        .route_refresh_interval(Duration::from_secs(1))
        .start()
        .unwrap();
    let load = Load::start(&producer, &ledger);
    ledger.wait_for_acknowledged(SOME);
    let mut firsts = Vec::new();
    // The first of the list is in use, and the second one as soon as the first is silent. No send may fail.
    victim.cluster.node("namesrv", "pause");
    first_send(&producer, "while_stopped", &mut firsts);
    victim.cluster.node("namesrv", "resume");
    first_send(&producer, "after_stopped", &mut firsts);
    victim.cluster.node("namesrv-1", "kill");
    first_send(&producer, "while_killed", &mut firsts);
    // One that nobody knows yet, neither.
    let brand_new = Message::new("brand_new_while_killed", "new").unwrap();
    producer.timeout(PATIENCE).send(&brand_new).unwrap();
    ledger.wait_for_acknowledged(SOME);
    load.finish(PATIENCE);
    shut_down(&producer);

    victim.cluster.node("namesrv-1", "start");
    ledger.reconcile(&victim.cluster, "name servers");
    for ledger in firsts {
        ledger.reconcile(&victim.cluster, "name servers, first send");
    }
    drop(victim);
    // The name server that came back knows nothing for up to 30 s. Whoever needs such a cluster starts a new one.
    VICTIMS.lock().pair = None;
}

/// An administrator deletes the topic that is being sent to, and creates it again.
pub(crate) fn a_topic_deleted_and_created_again(version: &str) {
    let victim = lone(version);
    let ledger = victim.ledger("deleted", SEND_TIMEOUT);
    let producer = builder(&victim.cluster, "deleted")
        .send_timeout(ledger.timeout)
        .start()
        .unwrap();
    let load = Load::start(&producer, &ledger);
    ledger.wait_for_acknowledged(SOME);
    ledger.trouble_begins();
    victim.cluster.java("delete deleted");
    ledger.swept_away();
    thread::sleep(Duration::from_secs(2));
    victim.create_topic("deleted");
    ledger.trouble_ends();
    ledger.wait_for_acknowledged(SOME);
    load.finish(PATIENCE);
    shut_down(&producer);

    let account = ledger.reconcile(&victim.cluster, "topic deleted and created again");
    assert!(
        account.refused + account.not_stored > 0,
        "nobody noticed: {account}"
    );
    for (_, text) in ledger.failures(Redelivery::AtLeastOnce) {
        assert!(
            text.contains("deleted"),
            "the error does not name the topic: {text}"
        );
    }
}

//! The self-check names the first thing that is broken on the way of a message, within its time, and sends none. The error of
//! a send gives the same reason.

#![cfg(feature = "mock")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

#[path = "support/harness.rs"]
mod support;

use std::fmt::Display;

use rocketmq_producer::{
    Check, CheckOutcome, Diagnosis, DiagnosisStep, Error, Producer, RequestCode, mock::MockCluster,
};
use serde_json::json;
use support::{
    GRACE, PATIENCE, assert_took,
    fake_server::{FakeServer, HEART_BEAT, RefusingAddress, TOPIC_NOT_EXIST, UNREGISTER_CLIENT},
    message, milliseconds, producer_for, timed, within,
};

fn short(name_servers: impl Display) -> Producer {
    producer_for(name_servers)
        .send_timeout(milliseconds(300))
        .start()
        .unwrap()
}

/// The first failure is this one, of this target, and says all of this.
#[track_caller]
fn assert_broken(diagnosis: &Diagnosis, check: Check, target: impl Display, says: &[&str]) {
    let broken: &DiagnosisStep = diagnosis.first_failure().unwrap_or_else(|| panic!("{diagnosis}"));
    assert_eq!(
        (broken.step, &broken.target),
        (check, &target.to_string()),
        "{diagnosis}"
    );
    for part in says {
        assert!(
            broken.outcome.text().contains(part),
            "{part:?} is not in:\n{diagnosis}"
        );
    }
    assert!(!diagnosis.is_healthy());
    assert!(
        diagnosis
            .to_string()
            .contains(&format!("broken at: {check} {target}")),
        "{diagnosis}"
    );
}

fn checks(diagnosis: &Diagnosis) -> Vec<Check> {
    diagnosis.steps.iter().map(|step| step.step).collect()
}

/// A name server that gives this route for every topic.
fn name_server_with(route: &serde_json::Value) -> FakeServer {
    let body = route.to_string().into_bytes();
    FakeServer::start(move |request, peer| peer.answer(request, 0, &json!({}), &body))
}

/// A route with one broker.
fn route(addresses: &serde_json::Value, perm: u32) -> serde_json::Value {
    json!({
        "brokerDatas": [{"cluster": "c", "brokerName": "broker-a", "brokerAddrs": addresses}],
        "queueDatas": [{
            "brokerName": "broker-a", "readQueueNums": 4, "writeQueueNums": 4, "perm": perm, "topicSysFlag": 0
        }]
    })
}

/// The error of a send says why in the words of the diagnosis.
#[track_caller]
fn assert_same_reason(producer: &Producer, diagnosis: &Diagnosis) {
    let error = producer.send(&message("orders")).expect_err("no route");
    let Error::NoRoute { reason, .. } = error else {
        panic!("{error:?}")
    };
    assert_eq!(diagnosis.first_failure().unwrap().outcome.text(), &*reason);
}

#[test]
fn a_healthy_way_passes_every_check_and_sends_nothing() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        cluster.create_topic("orders", 4);
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let diagnosis = producer.diagnose("orders");
        assert!(diagnosis.is_healthy(), "{diagnosis}");
        let all_passed = |step: &DiagnosisStep| matches!(step.outcome, CheckOutcome::Passed(_));
        assert!(diagnosis.steps.iter().all(all_passed), "{diagnosis}");
        assert_eq!(
            checks(&diagnosis),
            [
                Check::ResolveNameServer,
                Check::ConnectNameServer,
                Check::AskNameServer,
                Check::Route,
                Check::ConnectBroker,
                Check::ConnectBroker,
                Check::Heartbeat,
                Check::Heartbeat,
                Check::AccessControl,
                Check::AccessControl,
            ]
        );
        assert_eq!(cluster.requests(RequestCode::SEND_MESSAGE_V2), 0);
        assert!(
            diagnosis
                .to_string()
                .contains("8 queues on broker-a at 127.0.0.1:"),
            "{diagnosis}"
        );
        producer.send(&message("orders")).unwrap();
    });
}

#[test]
fn a_topic_that_would_be_created_is_worth_a_look_and_no_failure() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        let diagnosis = producer.diagnose("new");
        assert!(diagnosis.is_healthy(), "{diagnosis}");
        let route = diagnosis
            .steps
            .iter()
            .find(|step| step.step == Check::Route)
            .unwrap();
        assert!(
            matches!(&route.outcome, CheckOutcome::Warning(text) if text.contains("does not exist yet") && text.contains("4 queues")),
            "{diagnosis}"
        );
        assert_eq!(checks(&diagnosis).last(), Some(&Check::AccessControl));
    });
}

#[test]
fn a_name_that_does_not_resolve() {
    within(PATIENCE, || {
        let producer = short("name-server.invalid:9876");
        let diagnosis = producer.diagnose("orders");
        assert_broken(
            &diagnosis,
            Check::ResolveNameServer,
            "name-server.invalid:9876",
            &["resolve"],
        );
        assert_eq!(checks(&diagnosis), [Check::ResolveNameServer]);
    });
}

#[test]
fn name_servers_that_are_down_silent_or_something_else() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        let diagnosis = short(down.address()).diagnose("orders");
        assert_broken(&diagnosis, Check::ConnectNameServer, down.address(), &["refused"]);

        let silent = FakeServer::silent();
        let producer = short(silent.address());
        let (diagnosis, took) = timed(|| producer.diagnose("orders"));
        assert_broken(&diagnosis, Check::AskNameServer, silent.address(), &[]);
        assert_took(took, milliseconds(300), milliseconds(1200) + GRACE);

        let broker = FakeServer::start(|request, peer| {
            peer.refuse(request, 3, " request type 105 not supported");
        });
        let diagnosis = short(broker.address()).diagnose("orders");
        assert_broken(
            &diagnosis,
            Check::AskNameServer,
            broker.address(),
            &["address of a broker?"],
        );

        let web = FakeServer::writing("HTTP/1.1 400 Bad Request\r\n\r\n", true);
        let diagnosis = short(web.address()).diagnose("orders");
        assert_broken(&diagnosis, Check::AskNameServer, web.address(), &["HTTP"]);
    });
}

#[test]
fn one_name_server_of_two_is_named_and_the_rest_is_checked() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let good = FakeServer::name_server(&[("broker-a", broker.address())]);
        let ignorant = FakeServer::start(|request, peer| peer.refuse(request, TOPIC_NOT_EXIST, "unknown"));
        let down = RefusingAddress::new();
        let list = format!("{};{};{}", down.address(), ignorant.address(), good.address());
        let diagnosis = short(list).diagnose("orders");
        assert_broken(&diagnosis, Check::ConnectNameServer, down.address(), &["refused"]);
        assert_eq!(
            checks(&diagnosis).last(),
            Some(&Check::AccessControl),
            "{diagnosis}"
        );
        let text = format!("name server {} does not know it", ignorant.address());
        assert!(diagnosis.to_string().contains(&text), "{diagnosis}");
    });
}

#[test]
fn a_topic_that_nobody_creates() {
    within(PATIENCE, || {
        let ignorant = FakeServer::start(|request, peer| {
            peer.refuse(request, TOPIC_NOT_EXIST, "No topic route info in name server");
        });
        let producer = short(ignorant.address());
        let diagnosis = producer.diagnose("orders");
        assert_broken(
            &diagnosis,
            Check::Route,
            "orders",
            &["does not know it", "TBW102"],
        );
        assert_same_reason(&producer, &diagnosis);
    });
}

#[test]
fn a_topic_without_write_permission_or_master() {
    within(PATIENCE, || {
        let read_only = name_server_with(&route(&json!({"0": "127.0.0.1:1"}), 4));
        let producer = short(read_only.address());
        let diagnosis = producer.diagnose("orders");
        let says = ["broker-a has no write permission (perm 4)"];
        assert_broken(&diagnosis, Check::Route, "orders", &says);
        assert_same_reason(&producer, &diagnosis);

        let slaves = name_server_with(&route(&json!({"1": "127.0.0.1:1"}), 6));
        let producer = short(slaves.address());
        let diagnosis = producer.diagnose("orders");
        assert_broken(&diagnosis, Check::Route, "orders", &["broker-a has no master"]);
        assert_same_reason(&producer, &diagnosis);
    });
}

#[test]
fn an_advertised_address_that_is_not_reachable_from_here() {
    within(PATIENCE, || {
        let down = RefusingAddress::new();
        let name_server = FakeServer::name_server(&[("broker-a", down.address())]);
        let diagnosis = short(name_server.address()).diagnose("orders");
        let says = [
            "refused",
            "the broker advertises 127.0.0.1",
            "loopback",
            "brokerIP1",
        ];
        assert_broken(&diagnosis, Check::ConnectBroker, down.address(), &says);

        let named = name_server_with(&route(&json!({"0": "broker-0.brokers.invalid:10911"}), 6));
        let diagnosis = short(named.address()).diagnose("orders");
        let says = ["the name broker-0.brokers.invalid, which must resolve here"];
        assert_broken(
            &diagnosis,
            Check::ConnectBroker,
            "broker-0.brokers.invalid:10911",
            &says,
        );
    });
}

#[test]
fn a_broker_that_is_silent_or_does_not_let_this_client_in() {
    within(PATIENCE, || {
        let silent = FakeServer::silent();
        let name_server = FakeServer::name_server(&[("broker-a", silent.address())]);
        let diagnosis = short(name_server.address()).diagnose("orders");
        assert_broken(&diagnosis, Check::Heartbeat, silent.address(), &[]);
        assert_took(diagnosis.took, milliseconds(300), milliseconds(1200) + GRACE);

        for (code, remark) in [
            (
                1,
                "org.apache.rocketmq.acl.common.AclException: No accessKey is configured",
            ),
            (16, "User:x has no permission to access"),
        ] {
            let guarded = FakeServer::start(move |request, peer| match request.code() {
                HEART_BEAT => peer.refuse(request, code, remark),
                UNREGISTER_CLIENT => peer.answer(request, 0, &json!({}), b""),
                other => panic!("nothing else may be sent: {other}"),
            });
            let name_server = FakeServer::name_server(&[("broker-a", guarded.address())]);
            let diagnosis = short(name_server.address()).diagnose("orders");
            assert_broken(&diagnosis, Check::AccessControl, guarded.address(), &[remark]);
        }
    });
}

#[test]
fn what_cannot_even_be_begun() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        assert_broken(&producer.diagnose("no good"), Check::Precondition, "no good", &[]);
        assert!(producer.shutdown(PATIENCE).is_clean());
        assert_broken(
            &producer.diagnose("orders"),
            Check::Precondition,
            "orders",
            &["shut down"],
        );
    });
}

#[test]
fn a_mapped_address_is_checked_where_it_is_dialled() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let inner = "172.17.0.2:10911";
        let name_server = name_server_with(&route(&json!({"0": inner}), 6));
        let reachable = broker.address().to_string();
        let mapped = reachable.clone();
        let producer = producer_for(name_server.address())
            .address_map(move |advertised| (advertised == inner).then(|| mapped.clone()))
            .start()
            .unwrap();
        let diagnosis = producer.diagnose("orders");
        assert!(diagnosis.is_healthy(), "{diagnosis}");
        assert!(
            diagnosis.to_string().contains(&format!("dialled as {reachable}")),
            "{diagnosis}"
        );
        let stats = producer.stats();
        assert_eq!(&*stats.brokers[0].address, inner, "{stats}");
    });
}

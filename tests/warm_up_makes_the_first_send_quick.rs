//! After `warm_up` the first send needs no look-up and no new connection; what cannot be warmed is named.

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

use rocketmq_producer::{Error, Phase, RequestCode, mock::MockCluster};
use serde_json::json;
use support::{
    GRACE, GROUP, PATIENCE, assert_took,
    fake_server::{FakeServer, HEART_BEAT, RefusingAddress, TOPIC_NOT_EXIST, route_body},
    message, milliseconds, producer_for, timed, within,
};

/// How often a route was asked for, and how many connections are open.
fn seen(cluster: &MockCluster) -> (u64, usize) {
    (
        cluster.requests(RequestCode::GET_ROUTEINFO_BY_TOPIC),
        cluster.connections().len(),
    )
}

#[test]
fn the_first_sends_after_it_look_nothing_up_and_connect_nowhere() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(3).unwrap();
        cluster.create_topic("orders", 4);
        cluster.create_topic("payments", 1);
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        producer.warm_up(&["orders", "payments"]).unwrap();
        // Every broker knows the group already.
        let clients = cluster.clients();
        assert_eq!(clients.len(), 3, "{clients:?}");
        assert!(clients.iter().all(|client| client.producer_groups == [GROUP]));
        let before = seen(&cluster);
        assert_eq!(before, (2, 4), "one look-up per topic, one connection per server");
        for _ in 0..12 {
            producer.send(&message("orders")).unwrap();
            producer.send(&message("payments")).unwrap();
        }
        assert_eq!(seen(&cluster), before);
        let stats = producer.stats();
        assert!(stats.brokers.iter().all(|broker| broker.connects == 1), "{stats}");
        // Warm already: nothing is looked up or connected again.
        producer.warm_up(&["orders"]).unwrap();
        assert_eq!(seen(&cluster), before);
    });
}

#[test]
fn a_topic_that_does_not_exist_yet_is_warmed_where_it_would_be_created() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(2).unwrap();
        let producer = producer_for(cluster.name_servers()).start().unwrap();
        producer.warm_up(&["new"]).unwrap();
        assert_eq!(cluster.clients().len(), 2);
        let connections = cluster.connections().len();
        producer.send(&message("new")).unwrap();
        assert_eq!(cluster.connections().len(), connections);
    });
}

#[test]
fn a_broker_that_refuses_connections_is_named_and_the_others_stay_warm() {
    within(PATIENCE, || {
        let healthy = FakeServer::healthy_broker();
        let refusing = RefusingAddress::new();
        let name_server =
            FakeServer::name_server(&[("broker-a", refusing.address()), ("broker-b", healthy.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let error = producer.warm_up(&["orders"]).expect_err("broker-a refuses");
        let Error::Connect { address, .. } = &error else {
            panic!("{error:?}")
        };
        assert_eq!(**address, refusing.address().to_string());
        assert_eq!(
            healthy.log(|log| (log.accepted, log.count(HEART_BEAT) >= 1)),
            (1, true)
        );
        producer.send(&message("orders")).unwrap();
        assert_eq!(healthy.log(|log| log.accepted), 1);
    });
}

#[test]
fn a_topic_without_a_route_is_named_and_the_others_stay_warm() {
    within(PATIENCE, || {
        let broker = FakeServer::healthy_broker();
        let body = route_body(&[("broker-a", broker.address())]);
        let name_server = FakeServer::start(move |request, peer| match request.field("topic") {
            "orders" => peer.answer(request, 0, &json!({}), &body),
            _ => peer.refuse(request, TOPIC_NOT_EXIST, "No topic route info"),
        });
        let producer = producer_for(name_server.address()).start().unwrap();
        let error = producer.warm_up(&["unknown", "orders"]).expect_err("unknown");
        assert!(
            matches!(&error, Error::NoRoute { topic, .. } if &**topic == "unknown"),
            "{error:?}"
        );
        assert_eq!(broker.log(|log| log.accepted), 1);
        let error = producer.warm_up(&["orders", "no good"]).expect_err("illegal");
        assert!(matches!(error, Error::InvalidMessage { .. }), "{error:?}");
    });
}

#[test]
fn a_silent_server_costs_the_send_timeout_and_no_more() {
    within(PATIENCE, || {
        let silent = FakeServer::silent();
        let name_server = FakeServer::name_server(&[("broker-a", silent.address())]);
        for (name_servers, phase, target) in [
            (name_server.address(), Phase::Reply, silent.address().to_string()),
            (silent.address(), Phase::Route, "orders".to_owned()),
        ] {
            let producer = producer_for(name_servers)
                .send_timeout(milliseconds(1000))
                .start()
                .unwrap();
            let (error, took) = timed(|| producer.warm_up(&["orders"]).expect_err("silent"));
            assert_took(took, milliseconds(1000), milliseconds(1000) + GRACE);
            assert!(
                matches!(&error, Error::Timeout { phase: found, target: at, .. } if *found == phase && at.contains(&target)),
                "{error:?}"
            );
        }
    });
}

#[test]
fn a_refused_heartbeat_is_the_brokers_refusal() {
    within(PATIENCE, || {
        let refusing = FakeServer::start(|request, peer| {
            peer.refuse(
                request,
                1,
                "org.apache.rocketmq.acl.common.AclException: No accessKey is configured",
            );
        });
        let name_server = FakeServer::name_server(&[("broker-a", refusing.address())]);
        let producer = producer_for(name_server.address()).start().unwrap();
        let error = producer.warm_up(&["orders"]).expect_err("refused");
        assert!(
            matches!(&error, Error::Refused { remark, .. } if remark.contains("accessKey")),
            "{error:?}"
        );
        assert!(producer.shutdown(PATIENCE).is_clean());
        assert!(matches!(producer.warm_up(&["orders"]), Err(Error::ShutDown)));
    });
}

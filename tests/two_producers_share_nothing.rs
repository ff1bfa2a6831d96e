//! Two producers in one process, to two clusters or of two groups to one, do not disturb each other, whatever happens to
//! one of them.

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

use std::{collections::BTreeSet, sync::mpsc, thread, time::Duration};

use rocketmq_producer::{Producer, mock::MockCluster};
use support::{
    GRACE, PATIENCE, assert_took,
    fake_server::{FakeServer, RefusingAddress},
    message, milliseconds, producer_for, send_async_and_wait, timed, within,
};

#[test]
fn each_sends_to_its_own_cluster() {
    within(PATIENCE, || {
        let clusters = [MockCluster::start(1).unwrap(), MockCluster::start(2).unwrap()];
        let producers = clusters
            .each_ref()
            .map(|cluster| producer_for(cluster.name_servers()).start().unwrap());
        thread::scope(|scope| {
            for (producer, count) in producers.iter().zip([30, 40]) {
                scope.spawn(move || {
                    for _ in 0..count {
                        producer.send(&message("orders")).unwrap();
                        send_async_and_wait(producer, message("orders")).unwrap();
                    }
                });
            }
        });
        let counts = clusters.each_ref().map(|cluster| cluster.message_count("orders"));
        assert_eq!(counts, [60, 80]);
        for (cluster, producer) in clusters.iter().zip(&producers) {
            let ids: BTreeSet<_> = cluster
                .clients()
                .into_iter()
                .map(|client| client.client_id)
                .collect();
            assert_eq!(ids, BTreeSet::from([producer.client_id().to_owned()]));
        }
    });
}

#[test]
fn two_groups_of_one_cluster_are_two_clients() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let start = |group: &str| {
            Producer::builder(group)
                .name_servers(cluster.name_servers())
                .start()
                .unwrap()
        };
        let producers = [
            start("orders_group"),
            start("invoices_group"),
            start("orders_group"),
        ];
        for producer in &producers {
            producer.send(&message("orders")).unwrap();
        }
        let ids: BTreeSet<_> = producers.iter().map(|p| p.client_id().to_owned()).collect();
        assert_eq!(ids.len(), 3, "even of one group: {ids:?}");
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.clients().len() == 3));
        for producer in &producers {
            let clients = cluster.clients();
            let mine = clients
                .iter()
                .find(|client| client.client_id == producer.client_id());
            assert_eq!(mine.unwrap().producer_groups, [producer.producer_group()]);
        }
        let [first, second, third] = producers;
        assert!(first.shutdown(PATIENCE).is_clean());
        second.send(&message("orders")).expect("it is not shut down");
        third.send(&message("orders")).expect("it is not shut down");
        assert!(cluster.wait_until(PATIENCE, |cluster| cluster.clients().len() == 2));
    });
}

#[test]
fn message_ids_of_two_producers_never_meet() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let producers = [(); 4].map(|()| producer_for(cluster.name_servers()).start().unwrap());
        thread::scope(|scope| {
            for producer in &producers {
                for _ in 0..2 {
                    scope.spawn(|| (0..250).for_each(|_| drop(producer.send(&message("orders")).unwrap())));
                }
            }
        });
        let ids: BTreeSet<_> = cluster
            .messages("orders")
            .into_iter()
            .map(|message| message.message_id.unwrap().to_string())
            .collect();
        assert_eq!(ids.len(), 2000);
    });
}

#[test]
fn the_end_of_one_does_not_touch_the_other() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let steady = producer_for(cluster.name_servers()).start().unwrap();
        steady.send(&message("orders")).unwrap();
        thread::scope(|scope| {
            let sending = scope.spawn(|| {
                for _ in 0..300 {
                    steady.send(&message("orders")).expect("it goes on");
                }
            });
            while !sending.is_finished() {
                let brief = producer_for(cluster.name_servers()).start().unwrap();
                brief.send(&message("orders")).unwrap();
                drop(brief);
            }
            sending.join().unwrap();
        });
    });
}

#[test]
fn a_dead_cluster_of_one_costs_the_other_no_time() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let healthy = producer_for(cluster.name_servers()).start().unwrap();
        healthy.send(&message("orders")).unwrap();
        let silent = FakeServer::silent();
        let down = RefusingAddress::new();
        thread::scope(|scope| {
            for address in [silent.address(), down.address()] {
                scope.spawn(move || {
                    let producer = producer_for(address)
                        .send_timeout(milliseconds(300))
                        .start()
                        .unwrap();
                    for _ in 0..3 {
                        producer
                            .send(&message("orders"))
                            .expect_err("its cluster is dead");
                    }
                });
            }
            for _ in 0..100 {
                let (result, took) = timed(|| healthy.send(&message("orders")));
                result.expect("its cluster is well");
                assert_took(took, Duration::ZERO, GRACE);
            }
        });
    });
}

#[test]
fn a_blocked_callback_and_a_full_house_of_one_do_not_hold_up_the_other() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let start = || {
            producer_for(cluster.name_servers())
                .callback_threads(1)
                .max_async_in_flight(1)
                .start()
                .unwrap()
        };
        let (blocked, free) = (start(), start());
        let (release, wait) = mpsc::channel::<()>();
        let (entered, is_in) = mpsc::channel();
        blocked.send_async(message("orders"), move |_| {
            entered.send(()).unwrap();
            wait.recv().expect_err("nothing is sent");
        });
        is_in.recv_timeout(PATIENCE).unwrap();
        for _ in 0..20 {
            let (outcome, took) = timed(|| send_async_and_wait(&free, message("orders")));
            outcome.expect("it has a worker and a permit of its own");
            assert_took(took, Duration::ZERO, GRACE);
        }
        drop(release);
    });
}

#[test]
fn a_callback_of_one_may_use_the_other() {
    within(PATIENCE, || {
        let cluster = MockCluster::start(1).unwrap();
        let [first, second] = [(); 2].map(|()| {
            producer_for(cluster.name_servers())
                .callback_threads(1)
                .max_async_in_flight(1)
                .start()
                .unwrap()
        });
        let (done, outcomes) = mpsc::channel();
        let inner = second.clone();
        first.send_async(message("orders"), move |outcome| {
            outcome.unwrap();
            inner.send(&message("orders")).unwrap();
            inner.send_async(message("orders"), move |outcome| done.send(outcome).unwrap());
        });
        outcomes
            .recv_timeout(PATIENCE)
            .expect("the callback comes")
            .unwrap();
        assert!(first.shutdown(PATIENCE).is_clean());
        assert!(second.shutdown(PATIENCE).is_clean());
        assert_eq!(cluster.message_count("orders"), 3);
    });
}

//! The library against real RocketMQ clusters, read back by Apache's own Java client.
//!
//! Here: which tests run with which releases, the clusters they share, and what they all do. The tests lie in
//! the rooms beside this file. A test that cannot run on this machine says so, see `support`.
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::significant_drop_tightening,
    reason = "all of this is test code, called from the generated tests; a cluster starts under its lock"
)]

mod aims;
mod batches;
mod clusters;
mod compressed;
mod control;
mod examples;
mod faults;
mod ledger;
mod load;
mod queries;
mod refusals;
mod requests;
mod sends;
#[path = "../support/mod.rs"]
mod support;
mod timed;
mod transactions;

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use rocketmq_producer::{Producer, ProducerBuilder, SendResult};
use support::{ReadMessage, RealCluster, require_real_cluster};

/// One module of tests per release, so that a name says what was run with what.
macro_rules! on_every_version {
    ($($room:ident::$test:ident),* $(,)?) => {
        on_every_version!(v4_7_0 "4.7.0": $($room::$test),*);
        on_every_version!(v4_9_7 "4.9.7": $($room::$test),*);
        on_every_version!(v5_5_0 "5.5.0": $($room::$test),*);
    };
    ($version_module:ident $version:literal: $($room:ident::$test:ident),*) => {
        mod $version_module {
            $(#[test]
            fn $test() {
                let name = concat!("real_cluster ", stringify!($version_module), "::", stringify!($test));
                if crate::require_real_cluster(name, $version).is_some() {
                    crate::$room::$test($version);
                }
            })*
        }
    };
}

on_every_version! {
    aims::a_given_queue_is_used,
    aims::a_key_picks_the_queue_that_java_picks,
    aims::a_selector_picks_the_queue,
    batches::every_message_of_a_batch_is_read_back,
    batches::a_batch_is_taken_up_to_the_limit_and_refused_beyond_it,
    batches::a_long_list_is_sent_in_parts,
    batches::gathered_messages_are_read_back_and_each_sender_has_its_own_result,
    batches::a_topic_that_keeps_batches_as_one_record_keeps_ours_apart,
    aims::keys_move_when_the_number_of_queues_changes,
    clusters::a_killed_broker_does_not_stop_sends,
    clusters::a_new_topic_gets_four_queues_on_each_broker_used,
    clusters::producers_register_and_sign_off,
    clusters::two_clusters_do_not_disturb_each_other,
    clusters::two_groups_do_not_disturb_each_other,
    compressed::a_compressed_batch_is_read_by_all_releases,
    compressed::lz4_and_zstd_are_read_by_5_x,
    compressed::zlib_is_read_by_all_releases,
    control::apache_producer_is_read_back,
    examples::quick_start_examples,
    examples::request_reply_example,
    faults::a_killed_broker_costs_nothing_with_a_delivery_timeout,
    faults::a_killed_broker_costs_no_truth,
    faults::a_stopped_broker_keeps_nobody_waiting,
    faults::one_of_two_brokers_killed_and_one_stopped,
    faults::one_of_two_name_servers_stopped_and_one_killed,
    faults::a_topic_deleted_and_created_again,
    queries::queries_are_answered_as_java_is,
    queries::the_example_finds_its_messages,
    queries::topics_made_here_are_there_for_java,
    refusals::a_body_over_the_brokers_limit_is_refused_with_code_13,
    refusals::a_body_over_the_own_limit_is_not_sent,
    refusals::a_missing_slave_is_told_and_the_message_stored,
    refusals::a_topic_that_cannot_be_created_has_no_route,
    requests::a_java_consumer_replies_in_every_way_of_asking,
    requests::a_lost_connection_is_made_anew_before_the_reply,
    requests::a_reply_of_this_library_comes_to_its_request,
    requests::a_request_without_a_replier_is_stored_and_times_out,
    sends::async_sends_are_read_back_equal,
    sends::messages_are_found_by_their_ids,
    sends::oneway_sends_are_read_back_after_shutdown,
    sends::sync_sends_are_read_back_equal,
    transactions::a_broker_that_is_killed_before_the_end_asks_when_it_is_back,
    transactions::a_question_that_crosses_the_commit_makes_no_second_message,
    transactions::an_heir_answers_for_a_process_that_is_gone,
    transactions::only_what_is_committed_is_read_back,
    timed::a_priority_chooses_the_queue,
    timed::a_recalled_message_never_comes,
    timed::delayed_messages_come_after_their_level,
    timed::timer_messages_come_at_their_time_or_are_refused,
}

// What 4.x does not have.
on_every_version!(v5_5_0_alone "5.5.0": queries::a_static_topic_is_sent_to_and_asked);

/// A cluster that several tests of one release share.
#[derive(Clone, Copy)]
enum Shared {
    /// Two brokers that create topics by themselves and recall messages.
    Open,
    /// broker-a and broker-b create no topics and take at most 64 KiB; broker-b waits for a slave, which it lacks.
    Strict,
}

impl Shared {
    /// A release's clusters go when the first test of another release asks for its own, and with the process.
    /// libtest runs tests in the order of their names, so no release is started twice.
    fn of(self, version: &str) -> Arc<RealCluster> {
        type Slot = Mutex<Option<(String, Option<Arc<RealCluster>>)>>;
        static SLOTS: [Slot; 2] = [const { Mutex::new(None) }; 2];
        let mut slot = SLOTS[self as usize].lock();
        if slot.as_ref().is_none_or(|(started, _)| started != version) {
            // What stays behind when the start panics: the next test need not try again for two minutes.
            *slot = Some((version.to_owned(), None));
            *slot = Some((version.to_owned(), Some(Arc::new(self.start(version)))));
        }
        let (_, cluster) = slot.as_ref().unwrap();
        cluster
            .clone()
            .unwrap_or_else(|| panic!("the shared cluster {version} did not start, see above"))
    }

    fn start(self, version: &str) -> RealCluster {
        match self {
            // 5.x recalls messages only where it is told to.
            Self::Open => RealCluster::start_with(version, 2, &["recallMessageEnable=true"]),
            // 5.x counts replicas where 4.x looks at the role alone.
            Self::Strict => RealCluster::start_with(
                version,
                2,
                &[
                    "autoCreateTopicEnable=false",
                    "maxMessageSize=65536",
                    "broker-b:brokerRole=SYNC_MASTER",
                    "broker-b:inSyncReplicas=2",
                    "broker-b:totalReplicas=2",
                    "broker-b:slaveTimeout=200",
                ],
            ),
        }
    }
}

/// A busy machine may take seconds for what takes milliseconds; no test here is about time.
const PATIENCE: Duration = Duration::from_secs(15);

fn builder(cluster: &RealCluster, group: &str) -> ProducerBuilder {
    Producer::builder(group)
        .name_servers(cluster.name_servers.as_str())
        .send_timeout(PATIENCE)
}

fn producer(cluster: &RealCluster, group: &str) -> Producer {
    builder(cluster, group).start().unwrap()
}

/// Ends a producer and demands that nothing was left behind.
#[track_caller]
fn shut_down(producer: &Producer) {
    let report = producer.shutdown(PATIENCE);
    assert!(report.is_clean(), "{report:?}");
}

/// The one message that a result speaks of, which must lie where the result says and came from this machine.
#[track_caller]
fn find<'r>(read: &'r [ReadMessage], result: &SendResult) -> &'r ReadMessage {
    let id = result.message_id.as_str();
    let found: Vec<_> = read.iter().filter(|message| message.message_id == id).collect();
    assert_eq!(
        found.len(),
        1,
        "copies of {id} among {} messages: {found:?}",
        read.len()
    );
    let message = found[0];
    assert_eq!(message.topic, result.queue.topic());
    assert_eq!(message.broker_name, result.queue.broker_name());
    assert_eq!(message.queue_id, result.queue.queue_id());
    assert_eq!(message.queue_offset, result.queue_offset);
    assert_eq!(message.offset_message_id, result.offset_message_id.as_str());
    assert_eq!(message.born_host, "127.0.0.1");
    message
}

/// That exactly the messages of these results are there, each once and where its result says.
#[track_caller]
fn find_all(read: &[ReadMessage], results: &[SendResult]) {
    assert_eq!(read.len(), results.len());
    for result in results {
        find(read, result);
    }
}

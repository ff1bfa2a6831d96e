//! The three programs that every RocketMQ user knows from the quick start, and those for batches, run as processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    process::Command,
    sync::OnceLock,
    time::Duration,
};

use serde_json::Value;

use crate::{
    Shared,
    support::{ReadMessage, RealCluster, Replier, read_all, run, wait_until},
};

const TOPIC: &str = "TopicTest";

pub(crate) fn quick_start_examples(version: &str) {
    let cluster = Shared::Open.of(version);
    let mut known = BTreeSet::new();
    let hello: BTreeSet<_> = (0..100).map(|i| format!("Hello RocketMQ {i}")).collect();

    let (said, sent) = run_and_read(&cluster, "sync_producer", &mut known);
    assert_eq!(texts(&sent), hello);
    assert!(
        sent.iter()
            .all(|message| message.tags.as_deref() == Some("TagA") && message.keys.is_none())
    );
    for message in &sent {
        assert!(
            said.contains(&message.message_id),
            "{} is not in the output:\n{said}",
            message.message_id
        );
    }

    let (said, sent) = run_and_read(&cluster, "async_producer", &mut known);
    assert_eq!(texts(&sent), BTreeSet::from(["Hello world".to_owned()]));
    assert!(
        sent.iter()
            .all(|message| message.keys.as_deref() == Some("OrderID188"))
    );
    assert!(sent.iter().all(|message| message.tags.as_deref() == Some("TagA")));
    for message in &sent {
        assert!(
            said.contains(&message.message_id),
            "{} is not in the output:\n{said}",
            message.message_id
        );
    }

    let (_, sent) = run_and_read(&cluster, "oneway_producer", &mut known);
    assert_eq!(texts(&sent), hello);
    assert!(sent.iter().all(|message| message.tags.as_deref() == Some("TagA")));

    for (example, hello) in [("batch", "Hello batch"), ("auto_batch", "Hello auto-batch")] {
        let (said, sent) = run_and_read(&cluster, example, &mut known);
        assert_eq!(texts(&sent), (0..100).map(|i| format!("{hello} {i}")).collect());
        assert!(sent.iter().all(|message| message.tags.as_deref() == Some("TagA")));
        assert!(!said.contains("Exception") && !said.contains("failed"), "{said}");
    }
    later_and_compressed_examples(&cluster, &mut known);
}

/// Three more that send to the same topic.
fn later_and_compressed_examples(cluster: &RealCluster, known: &mut BTreeSet<String>) {
    let has_timers = cluster.version.starts_with('5');
    let late = if has_timers { 3 } else { 1 };
    let (said, sent) = run_and_read_some(cluster, "delayed", late, known);
    let mut expected = BTreeSet::from(["after level 1".to_owned()]);
    if has_timers {
        expected.extend(["after 2.5 s".to_owned(), "at a time".to_owned()]);
    } else {
        let refused = said
            .lines()
            .filter(|line| line.contains("needs brokers of 5.0.0 or later"));
        assert_eq!(refused.count(), 2, "{said}");
    }
    assert_eq!(texts(&sent), expected);
    if has_timers {
        let (said, _) = run_and_read_some(cluster, "recall", 0, known);
        assert!(said.contains("will not come"), "{said}");
    }
    let (_, sent) = run_and_read_some(cluster, "compressed", 2, known);
    let mut lengths: Vec<_> = sent
        .iter()
        .map(|message| (message.body.len(), message.sys_flag))
        .collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [(11, 0), (33_000, 1)]);
}

/// The example against a consumer that replies.
pub(crate) fn request_reply_example(version: &str) {
    let cluster = Shared::Open.of(version);
    cluster.create_topic("RequestTopic", 1);
    let _replier = Replier::start(version, &cluster.name_servers, "RequestTopic", "example_repliers");
    // A consumer needs a moment until it has its queues; the example waits three seconds for a reply.
    wait_until("the consumer replies to both questions", || {
        let mut command = Command::new(&programs()["request_reply"]);
        command.env("NAMESRV_ADDR", &cluster.name_servers);
        let said = run(&mut command, Duration::from_secs(60))
            .or_panic("request_reply")
            .stdout;
        [
            "re: how much is a shirt?",
            "re: and a hat?",
            "2 replied, 0 unanswered",
        ]
        .iter()
        .all(|part| said.contains(part))
    });
}

fn texts(messages: &[ReadMessage]) -> BTreeSet<String> {
    messages.iter().map(|message| message.text().to_owned()).collect()
}

/// Runs one example against the cluster; returns what it said and the exactly 100 messages that it added.
fn run_and_read(
    cluster: &RealCluster,
    example: &str,
    known: &mut BTreeSet<String>,
) -> (String, Vec<ReadMessage>) {
    run_and_read_some(cluster, example, 100, known)
}

/// The same with so many messages.
fn run_and_read_some(
    cluster: &RealCluster,
    example: &str,
    count: usize,
    known: &mut BTreeSet<String>,
) -> (String, Vec<ReadMessage>) {
    let said = run_one(cluster, example);
    let expected = known.len() + count;
    let mut read = read_all(cluster, &[TOPIC], expected);
    assert_eq!(
        read.len(),
        expected,
        "messages after {example}, which said:\n{said}"
    );
    read.retain(|message| known.insert(message.message_id.clone()));
    assert_eq!(read.len(), count, "message ids were given out twice");
    assert!(read.iter().all(|message| message.born_host == "127.0.0.1"));
    (said, read)
}

/// Runs one example against the cluster; returns what it said.
pub(crate) fn run_one(cluster: &RealCluster, example: &str) -> String {
    let mut command = Command::new(&programs()[example]);
    command.env("NAMESRV_ADDR", &cluster.name_servers);
    run(&mut command, Duration::from_secs(60))
        .or_panic(example)
        .stdout
}

/// The built examples. After `cargo test --all-features` this has nothing left to build.
pub(crate) fn programs() -> &'static BTreeMap<String, PathBuf> {
    static PROGRAMS: OnceLock<BTreeMap<String, PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(env!("CARGO_MANIFEST_DIR")).args([
            "build",
            "--quiet",
            "--examples",
            "--all-features",
            "--message-format=json",
        ]);
        let told = run(&mut cargo, Duration::from_secs(600))
            .or_panic("cargo build --examples")
            .stdout;
        let artifacts = told
            .lines()
            .filter_map(|line| serde_json::from_str::<Value>(line).ok());
        artifacts
            .filter_map(|artifact| {
                let name = artifact["target"]["name"].as_str()?;
                Some((name.to_owned(), artifact["executable"].as_str()?.into()))
            })
            .collect()
    })
}

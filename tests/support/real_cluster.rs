//! A real RocketMQ cluster that belongs to this test process: started by `tests/cluster/start`, stopped when
//! dropped, and by its guard when this process ends in any other way.

use std::{
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::Value;

use super::{
    java::{JavaClient, READER_VERSION, ReadMessage},
    left_out,
    process::run,
};

/// Long enough for a machine that is busy with everything else: nothing here is timed by it.
const PATIENCE: Duration = Duration::from_secs(60);
/// `start` gives up on its own after 120 s; the first start of a release also fetches its jars.
const START_LIMIT: Duration = Duration::from_secs(1400);

/// Whether `test` can run with real servers of `version`. `None` after having said so loudly; in CI it panics.
pub(crate) fn require_real_cluster(test: &str, version: &str) -> Option<()> {
    left_out::may_run(test, version).then_some(())
}

/// Every message that the topics hold, read by Apache's Java client from all their queues once these hold
/// `expected` messages together and have held still for a moment. When they do not come to hold that many,
/// returns what is there.
#[track_caller]
pub(crate) fn read_all(cluster: &RealCluster, topics: &[&str], expected: usize) -> Vec<ReadMessage> {
    let wait = Duration::from_secs(20).as_millis();
    let lines = cluster.java(&format!("read {} {expected} {wait}", topics.join(",")));
    lines.iter().map(ReadMessage::parse).collect()
}

/// Asks again and again until `condition` holds. Panics with `what` when it does not within a minute.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {what}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[derive(Debug)]
pub(crate) struct RealCluster {
    pub(crate) version: String,
    /// `127.0.0.1:port`, several separated by `;`.
    pub(crate) name_servers: String,
    folder: PathBuf,
    java: Mutex<Option<JavaClient>>,
}

impl RealCluster {
    /// One name server and so many brokers (`broker-a`, `broker-b`, …).
    #[track_caller]
    pub(crate) fn start(version: &str, brokers: u32) -> Self {
        Self::start_with(version, brokers, &[])
    }

    /// `settings` are lines for broker.conf; `broker-b:name=value` is meant for that broker alone.
    #[track_caller]
    pub(crate) fn start_with(version: &str, brokers: u32, settings: &[&str]) -> Self {
        let brokers = brokers.to_string();
        let mut options = vec!["--brokers", &brokers];
        for setting in settings {
            options.extend(["--conf", setting]);
        }
        Self::start_as(version, &options)
    }

    /// With options of `tests/cluster/start`.
    #[track_caller]
    pub(crate) fn start_as(version: &str, options: &[&str]) -> Self {
        let mut command = Command::new(script("start"));
        command.arg(version).args(options);
        command.args(["--owner", &std::process::id().to_string()]);
        let told = run(&mut command, START_LIMIT)
            .or_panic("tests/cluster/start")
            .stdout;
        let value = |name: &str| {
            let found = told
                .lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            found
                .unwrap_or_else(|| panic!("no {name} in what start said: {told}"))
                .to_owned()
        };
        Self {
            version: version.to_owned(),
            name_servers: value("namesrv"),
            folder: value("dir").into(),
            java: Mutex::new(None),
        }
    }

    /// Does something to one process: `kill`, `term`, `pause`, `resume`, `start`, `status` (see `tests/cluster/node`).
    /// Returns what it says.
    #[track_caller]
    pub(crate) fn node(&self, name: &str, action: &str) -> String {
        let told = run(
            Command::new(script("node"))
                .arg(&self.folder)
                .args([name, action]),
            PATIENCE,
        )
        .or_panic(&format!("tests/cluster/node {name} {action}"));
        told.stdout.trim().to_owned()
    }

    /// The names of all processes: name servers, then brokers.
    #[track_caller]
    pub(crate) fn nodes(&self) -> Vec<String> {
        let listed = std::fs::read_to_string(self.folder.join("nodes")).expect("start wrote it");
        let names = listed.lines().filter_map(|line| line.split(' ').next());
        names.map(str::to_owned).collect()
    }

    /// Whether some line of a node's logs contains all of these.
    pub(crate) fn log_tells(&self, node: &str, parts: &[&str]) -> bool {
        let mut folders = vec![self.folder.join(node).join("logs")];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
            {
                if entry.is_dir() {
                    folders.push(entry);
                    continue;
                }
                let text = std::fs::read_to_string(&entry).unwrap_or_default();
                if text
                    .lines()
                    .any(|line| parts.iter().all(|part| line.contains(part)))
                {
                    return true;
                }
            }
        }
        false
    }

    /// A folder of the cluster's own for what a test leaves behind.
    #[track_caller]
    pub(crate) fn scratch(&self) -> PathBuf {
        let folder = self.folder.join("scratch");
        std::fs::create_dir_all(&folder).expect("the cluster's folder is writable");
        folder
    }

    /// Gives one command to the cluster's Java client (`tests/java/ReadAll.java` lists them).
    #[track_caller]
    pub(crate) fn java(&self, command: &str) -> Vec<Value> {
        self.try_java(command)
            .unwrap_or_else(|error| panic!("Java on {}: {error}", self.version))
    }

    /// As `java`, for an answer that may be a refusal.
    #[track_caller]
    pub(crate) fn try_java(&self, command: &str) -> Result<Vec<Value>, String> {
        let mut client = self.java.lock();
        let client =
            client.get_or_insert_with(|| JavaClient::start(READER_VERSION, &self.name_servers, &self.folder));
        client.ask(command, 2 * PATIENCE)
    }

    /// Creates the topic on every broker and waits until the name server tells of all its queues.
    #[track_caller]
    pub(crate) fn create_topic(&self, topic: &str, queues: usize) {
        let brokers = self.java(&format!("create {topic} {queues}")).len();
        wait_until(
            &format!("{topic} has {queues} queues on {brokers} broker(s)"),
            || {
                self.try_java(&format!("queues {topic}"))
                    .is_ok_and(|found| found.len() == brokers * queues)
            },
        );
    }

    /// The queues that the topic's route offers for reading, as (broker name, queue id); none without a route.
    pub(crate) fn queues(&self, topic: &str) -> Vec<(String, u64)> {
        let lines = self.try_java(&format!("queues {topic}")).unwrap_or_default();
        let queue = |line: &Value| {
            Some((
                line["broker_name"].as_str()?.to_owned(),
                line["queue_id"].as_u64()?,
            ))
        };
        lines
            .iter()
            .map(|line| queue(line).expect("a queue has a name and an id"))
            .collect()
    }

    /// The index that Java's `SelectMessageQueueByHash` picks for a key among so many queues.
    #[track_caller]
    pub(crate) fn java_hash(&self, key: &str, queues: usize) -> usize {
        let hex = key
            .bytes()
            .fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"));
        let lines = self.java(&format!("hash {queues} {hex}"));
        usize::try_from(lines[0]["index"].as_u64().expect("an index")).expect("a small one")
    }

    /// The client ids registered as producers of a group, by broker name.
    #[track_caller]
    pub(crate) fn producers(&self, group: &str) -> Vec<(String, Vec<String>)> {
        let lines = self.java(&format!("producers {group}"));
        let text = |line: &Value, name: &str| line[name].as_str().expect("text").to_owned();
        lines
            .iter()
            .map(|line| {
                let ids = text(line, "client_ids");
                (
                    text(line, "broker_name"),
                    ids.split_whitespace().map(str::to_owned).collect(),
                )
            })
            .collect()
    }
}

impl Drop for RealCluster {
    fn drop(&mut self) {
        drop(self.java.lock().take());
        // Its guard is left with the work when this fails.
        drop(Command::new(script("stop")).arg(&self.folder).status());
    }
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/cluster")
        .join(name)
}

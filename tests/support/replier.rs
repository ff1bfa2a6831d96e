//! Apache's Java consumer as the replier: one JVM runs `tests/java/Replier.java` and ends with its standard input, so it
//! cannot outlive the test process.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, ChildStdin, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use super::{
    java::class_path,
    left_out,
    process::{kill_group, wait},
};

/// Starting a JVM and a consumer on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A running consumer of one topic that replies to requests.
#[derive(Debug)]
pub(crate) struct Replier {
    child: Child,
    input: Option<ChildStdin>,
    lines: mpsc::Receiver<String>,
    log: PathBuf,
}

impl Replier {
    /// With the client jars of `version`; its logs go to a folder of the build.
    pub(crate) fn start(version: &str, name_servers: &str, topic: &str, group: &str) -> Self {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("replier-{version}-{topic}"));
        std::fs::create_dir_all(&folder).expect("the build folder is writable");
        let log = folder.join("replier.out");
        let mut child = Command::new(left_out::program("java").expect("java"))
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"])
            .args([
                "--add-opens=java.base/java.nio=ALL-UNNAMED",
                "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
            ])
            .arg(format!("-Duser.home={}", folder.display()))
            .arg(format!("-Drocketmq.client.logRoot={}", folder.display()))
            .args(["-cp", &class_path(version, "Replier"), "Replier"])
            .args([name_servers, topic, group])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("the build folder is writable"))
            .spawn()
            .expect("java starts");
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut replier = Self {
            input: child.stdin.take(),
            child,
            lines,
            log,
        };
        let first = replier.lines.recv_timeout(START_LIMIT);
        if first.as_deref() != Ok("ready") {
            kill_group(&mut replier.child);
            let said = std::fs::read_to_string(&replier.log).unwrap_or_default();
            panic!("the replier did not start ({first:?}): {said}");
        }
        replier
    }

    /// What it says about its next replies, as (correlation id, what became of it): `SEND_OK` when the broker had handed it
    /// over.
    #[track_caller]
    pub(crate) fn said(&self, replies: usize, within: Duration) -> Vec<(String, String)> {
        let line = |_| {
            let line = self
                .lines
                .recv_timeout(within)
                .expect("the replier says something");
            let mut words = line.splitn(3, ' ').skip(1).map(str::to_owned);
            let id = words.next().expect("a correlation id");
            (id, words.next().expect("a status or a reason"))
        };
        (0..replies).map(line).collect()
    }
}

impl Drop for Replier {
    fn drop(&mut self) {
        drop(self.input.take());
        if wait(&mut self.child, Instant::now() + Duration::from_secs(5)).is_none() {
            kill_group(&mut self.child);
        }
    }
}

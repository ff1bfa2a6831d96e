//! Apache's Java client as the reader: one JVM per cluster runs `tests/java/ReadAll.java` and answers commands
//! on its standard input. It ends with that input, so it cannot outlive the test process.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        atomic::{AtomicU32, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use super::{
    left_out,
    process::{kill_group, run, wait},
};

/// The client that reads: its jars read from every release of the servers.
pub(crate) const READER_VERSION: &str = "4.7.0";

/// A stored message as Apache's Java client shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReadMessage {
    pub(crate) topic: String,
    pub(crate) broker_name: String,
    pub(crate) queue_id: u32,
    pub(crate) queue_offset: u64,
    /// `UNIQ_KEY`; empty when the message has none.
    pub(crate) message_id: String,
    pub(crate) offset_message_id: String,
    pub(crate) body: Vec<u8>,
    pub(crate) tags: Option<String>,
    /// As stored: several are separated by spaces.
    pub(crate) keys: Option<String>,
    pub(crate) flag: i32,
    pub(crate) sys_flag: i32,
    pub(crate) properties: BTreeMap<String, String>,
    pub(crate) born_host: String,
    pub(crate) born_timestamp_ms: u64,
    pub(crate) store_timestamp_ms: u64,
}

impl ReadMessage {
    pub(crate) fn parse(line: &Value) -> Self {
        let text = |name: &str| line[name].as_str().map(str::to_owned);
        let number = |name: &str| {
            line[name]
                .as_u64()
                .unwrap_or_else(|| panic!("no {name} in {line}"))
        };
        let flag = |name: &str| {
            let value = line[name]
                .as_i64()
                .unwrap_or_else(|| panic!("no {name} in {line}"));
            i32::try_from(value).expect("a Java int")
        };
        let properties = line["properties"].as_object().expect("properties are an object");
        Self {
            topic: text("topic").expect("topic"),
            broker_name: text("broker_name").expect("broker_name"),
            queue_id: u32::try_from(number("queue_id")).expect("queue id"),
            queue_offset: number("queue_offset"),
            message_id: text("message_id").unwrap_or_default(),
            offset_message_id: text("offset_message_id").expect("offset_message_id"),
            body: bytes(line["body"].as_str().expect("body")),
            tags: text("tags"),
            keys: text("keys"),
            flag: flag("flag"),
            sys_flag: flag("sys_flag"),
            properties: properties
                .iter()
                .map(|(name, value)| (name.clone(), value.as_str().expect("text").to_owned()))
                .collect(),
            born_host: text("born_host").expect("born_host"),
            born_timestamp_ms: number("born_timestamp_ms"),
            store_timestamp_ms: number("store_timestamp_ms"),
        }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> = hex
        .chars()
        .map(|digit| u8::try_from(digit.to_digit(16).expect("a hex digit")).expect("below 16"))
        .collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

/// A running `ReadAll` bound to one cluster, real or not.
#[derive(Debug)]
pub(crate) struct JavaClient {
    child: Child,
    commands: Option<ChildStdin>,
    answers: mpsc::Receiver<String>,
    log: PathBuf,
}

impl JavaClient {
    /// With the client jars of `version`. `folder` takes its logs: Apache's client would otherwise write into the
    /// user's home.
    pub(crate) fn start(version: &str, name_servers: &str, folder: &Path) -> Self {
        let log = folder.join("java-client.out");
        let mut child = Command::new(left_out::program("java").expect("java"))
            .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx512m"])
            .args([
                "--add-opens=java.base/java.nio=ALL-UNNAMED",
                "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
            ])
            .arg(format!("-Duser.home={}", folder.display()))
            .args(["-cp", &class_path(version, "ReadAll"), "ReadAll", name_servers])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("the cluster's folder is writable"))
            .spawn()
            .expect("java starts");
        let output = BufReader::new(child.stdout.take().expect("stdout is piped"));
        let (sender, answers) = mpsc::channel();
        thread::spawn(move || {
            for line in output.lines() {
                let Ok(line) = line else { return };
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            commands: child.stdin.take(),
            child,
            answers,
            log,
        }
    }

    /// Sends one command and returns its lines. `Err` holds what Java said against it.
    pub(crate) fn ask(&mut self, command: &str, within: Duration) -> Result<Vec<Value>, String> {
        let commands = self.commands.as_mut().expect("open until dropped");
        if let Err(error) = writeln!(commands, "{command}").and_then(|()| commands.flush()) {
            panic!("the Java client is gone ({error}): {}", self.said());
        }
        let deadline = Instant::now() + within;
        let mut lines = Vec::new();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let line = self.answers.recv_timeout(left).unwrap_or_else(|error| {
                // What comes later would be taken for the next command's answer.
                kill_group(&mut self.child);
                panic!(
                    "no answer to {command:?} within {within:?} ({error}): {}",
                    self.said()
                )
            });
            let line: Value = serde_json::from_str(&line).expect("ReadAll answers in JSON");
            if line.get("end").is_some() {
                assert_eq!(
                    line["count"].as_u64(),
                    u64::try_from(lines.len()).ok(),
                    "{command}: lines lost"
                );
                return Ok(lines);
            }
            if let Some(error) = line["error"].as_str() {
                return Err(error.to_owned());
            }
            lines.push(line);
        }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for JavaClient {
    fn drop(&mut self) {
        drop(self.commands.take());
        if wait(&mut self.child, Instant::now() + Duration::from_secs(5)).is_none() {
            kill_group(&mut self.child);
        }
    }
}

/// The jars of a release as Java's wildcard.
fn jars(version: &str) -> String {
    let get = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/cluster/get");
    let told = run(Command::new(get).arg(version), Duration::from_secs(1300)).or_panic("tests/cluster/get");
    format!("{}/*", told.stdout.trim())
}

/// A command that runs a class of a release's own jars, to which arguments can be added.
pub(crate) fn java_command(version: &str, class: &str) -> Command {
    let mut command = Command::new(left_out::program("java").expect("java"));
    command
        .args(["-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xmx256m"])
        .arg(format!("-Duser.home={}", env!("CARGO_TARGET_TMPDIR")))
        .args(["-cp", &jars(version), class]);
    command
}

/// Compiles a program of `tests/java` into the build folder unless it lies there already, and returns the class path.
pub(super) fn class_path(version: &str, program: &str) -> String {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let source = tests.join(format!("java/{program}.java"));
    let jars = jars(version);
    let classes = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("java-{version}"));
    if age(&classes.join(format!("{program}.class"))) >= age(&source) {
        // Built elsewhere and then put in place, for another thread or process may do the same.
        static BUILDS: AtomicU32 = AtomicU32::new(0);
        let build = BUILDS.fetch_add(1, Ordering::Relaxed);
        let fresh = classes.with_extension(format!("{}-{build}", std::process::id()));
        let mut javac = Command::new(left_out::program("javac").expect("javac"));
        javac
            .args(["-nowarn", "-cp", &jars, "-d"])
            .arg(&fresh)
            .arg(source);
        run(&mut javac, Duration::from_secs(120)).or_panic("javac");
        std::fs::create_dir_all(&classes).expect("the build folder is writable");
        for class in std::fs::read_dir(&fresh).expect("javac made it").flatten() {
            std::fs::rename(class.path(), classes.join(class.file_name()))
                .expect("the build folder is writable");
        }
        drop(std::fs::remove_dir_all(&fresh));
    }
    format!("{}:{jars}", classes.display())
}

/// How long ago a file was written; for ever when there is none.
fn age(file: &Path) -> Duration {
    let written = std::fs::metadata(file).and_then(|data| data.modified()).ok();
    written.map_or(Duration::MAX, |time| time.elapsed().unwrap_or_default())
}

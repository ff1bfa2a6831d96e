//! Allocations and instructions per message, which are steady where times are not.
//!
//! ```text
//! cargo bench --bench counts -- [--ceilings FILE] [--without-instructions] [--messages N]
//! ```
//!
//! Each mode runs in a process of its own against a sink in another, with one broker, one queue and one sending thread.
//! Everything in the client's process counts, its own threads included, after a warm-up. Instructions are those that
//! valgrind's callgrind counts in user mode: the difference between a run of N and one of 2N messages.

mod rig;

use std::{
    alloc::System,
    collections::BTreeMap,
    fs,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use rig::{Failure, arguments::value, child, child::SinkProcess};
use rocketmq_producer::{Message, Producer, SendFailure, SendResult};
use stats_alloc::{Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: StatsAlloc<System> = StatsAlloc::system();

const MODES: [&str; 3] = ["sync", "async", "oneway"];
/// Sends that bring every buffer to its size.
const WARM_UP: u64 = 2000;
/// Asynchronous sends in flight.
const WINDOW: usize = 64;
/// Of so many runs the least counts: what disturbs a run only adds.
const RUNS: usize = 3;
const END: Duration = Duration::from_secs(60);
/// How long a whole run may take, on a machine that does much else.
const MOST: Duration = Duration::from_secs(600);
/// Under this share of its ceiling, a count asks for a lower one.
const LOW: f64 = 0.8;

/// What a message costs, by what is counted.
type Counts = BTreeMap<&'static str, f64>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let result = match rig::play(&words) {
        Some(result) => result.map(|()| true),
        None if words.first().is_some_and(|word| word == "send") => send(&words).map(|()| true),
        None => count(&words),
    };
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Counts in all modes. `Ok(false)` when something is over its ceiling.
fn count(words: &[String]) -> Result<bool, Failure> {
    let (mut ceilings, mut with_instructions, mut messages) = (None, true, 5000);
    let mut words = words.iter().cloned();
    while let Some(word) = words.next() {
        match word.as_str() {
            "--ceilings" => ceilings = Some(read_ceilings(&value::<String>(&word, &mut words)?)?),
            "--without-instructions" => with_instructions = false,
            "--messages" => messages = value(&word, &mut words)?,
            "--bench" => {}
            _ => return Err(format!("counts does not know {word}").into()),
        }
    }
    let sink = SinkProcess::start(1, 1)?;
    println!("| mode | what | a message | ceiling | |\n|---|---|---|---|---|");
    let mut all_are_under = true;
    for mode in MODES {
        let mut counts = allocations(mode, messages * 4, &sink)?;
        if with_instructions {
            counts.insert("instructions", instructions(mode, messages, &sink)?);
        }
        for (what, count) in counts {
            let ceiling = match &ceilings {
                Some(ceilings) => Some(
                    *ceilings
                        .get(&(mode.to_owned(), what.to_owned()))
                        .ok_or_else(|| format!("no ceiling for {mode} {what}"))?,
                ),
                None => None,
            };
            let verdict = match ceiling {
                Some(ceiling) if count > ceiling => "OVER",
                // Bytes follow the allocations, and less than one of them is an accident.
                Some(ceiling) if what != "bytes" && ceiling > 1.0 && count < ceiling * LOW => {
                    "far below: lower the ceiling"
                }
                _ => "",
            };
            all_are_under &= verdict != "OVER";
            let ceiling = ceiling.map_or_else(String::new, |ceiling| ceiling.to_string());
            println!("| {mode} | {what} | {count:.2} | {ceiling} | {verdict} |");
        }
    }
    if !all_are_under {
        eprintln!(
            "error: a message costs more than its ceiling allows. Find out what added it; raise the ceiling only with a reason."
        );
    }
    Ok(all_are_under)
}

/// Lines of a mode, what is counted, and the most that it may be.
fn read_ceilings(path: &str) -> Result<BTreeMap<(String, String), f64>, Failure> {
    let text = fs::read_to_string(path).map_err(|error| format!("{path}: {error}"))?;
    let lines = text
        .lines()
        .filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    lines
        .map(|line| {
            let parts: Vec<_> = line.split_whitespace().collect();
            match parts[..] {
                [mode, what, most] => Ok(((mode.to_owned(), what.to_owned()), most.parse()?)),
                _ => Err(format!("{path}: not three words: {line}").into()),
            }
        })
        .collect()
}

fn words(mode: &str, messages: u64, sink: &SinkProcess) -> [String; 3] {
    [mode.to_owned(), messages.to_string(), sink.name_server.clone()]
}

#[expect(clippy::cast_precision_loss, reason = "a measurement is no exact number")]
fn ratio(count: u64, messages: u64) -> f64 {
    count as f64 / messages as f64
}

fn allocations(mode: &str, messages: u64, sink: &SinkProcess) -> Result<Counts, Failure> {
    let mut counts = Counts::from([("allocations", f64::INFINITY), ("bytes", f64::INFINITY)]);
    for _ in 0..RUNS {
        let line = child::closing_line("send", &words(mode, messages, sink), MOST)?;
        for (what, least) in &mut counts {
            let count = line
                .get(what)
                .and_then(serde_json::Value::as_u64)
                .ok_or("no count")?;
            *least = least.min(ratio(count, messages));
        }
    }
    Ok(counts)
}

fn instructions(mode: &str, messages: u64, sink: &SinkProcess) -> Result<f64, Failure> {
    let (mut once, mut twice) = (u64::MAX, u64::MAX);
    for _ in 0..RUNS {
        once = once.min(callgrind(&words(mode, messages, sink))?);
        twice = twice.min(callgrind(&words(mode, messages * 2, sink))?);
    }
    Ok(ratio(twice.saturating_sub(once), messages))
}

/// All instructions of one run.
fn callgrind(words: &[String]) -> Result<u64, Failure> {
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--fair-sched=yes", "--callgrind-out-file=/dev/null"])
        .arg(std::env::current_exe()?)
        .arg("send")
        .args(words)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| {
            format!("valgrind cannot be run: {error}. Install it, or leave the instructions out: --without-instructions")
        })?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text
        .lines()
        .find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    match collected {
        Some(count) if output.status.success() => Ok(count),
        _ => Err(format!("valgrind: {}: {text}", output.status).into()),
    }
}

/// The role of the child: sends so many messages and says what they took.
fn send(words: &[String]) -> Result<(), Failure> {
    let [_, mode, messages, name_server] = words else {
        return Err("send MODE MESSAGES NAME_SERVER".into());
    };
    let producer = Producer::builder("bench")
        .name_servers(name_server)
        .max_async_in_flight(WINDOW)
        .callback_threads(1)
        .start()?;
    let message = Message::new("Bench", vec![b'x'; 128])?;
    let send_many = |count: u64| -> Result<(), Failure> {
        for _ in 0..count {
            match mode.as_str() {
                "sync" => drop(producer.send(&message)?),
                "async" => producer.send_async(message.clone(), finish),
                "oneway" => producer.send_oneway(&message)?,
                other => return Err(format!("there is no mode {other}").into()),
            }
        }
        producer.flush(END).map_err(Into::into)
    };
    send_many(WARM_UP)?;
    let region = Region::new(&ALLOCATOR);
    send_many(messages.parse()?)?;
    let taken = region.change();
    println!(
        r#"{{"allocations":{},"bytes":{}}}"#,
        taken.allocations + taken.reallocations,
        taken.bytes_allocated
    );
    let report = producer.shutdown(END);
    if report.is_clean() {
        Ok(())
    } else {
        Err(report.to_string().into())
    }
}

/// A failure would not count what a success does, so it ends the run.
fn finish(outcome: Result<SendResult, SendFailure>) {
    if let Err(failure) = outcome {
        eprintln!("error: {}", failure.error);
        std::process::exit(1);
    }
}

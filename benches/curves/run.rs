//! One run of a driver or of the limit, and what came of it.

use std::{
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::{
    Options,
    rig::{
        Failure,
        child::{SinkProcess, closing_line},
    },
};

/// Beside the time of measuring.
const MOST: Duration = Duration::from_secs(90);
/// How long what is on its way may take to arrive at the sink.
const ARRIVAL: Duration = Duration::from_secs(5);

/// What a driver said at its end.
#[derive(Clone, Default)]
pub(crate) struct Sample {
    pub(crate) per_second: f64,
    pub(crate) p50: f64,
    pub(crate) p99: f64,
    pub(crate) cpu: f64,
    /// MiB at the peak.
    pub(crate) memory: f64,
    pub(crate) errors: f64,
    /// Said to be sent and never arrived; below 0 for what arrived twice.
    pub(crate) lost: f64,
}

/// Runs `role` against the sink with these words of its own.
pub(crate) fn against(
    sink: &mut SinkProcess,
    options: &Options,
    role: &str,
    words: &[&str],
) -> Result<Sample, Failure> {
    let before = arrived(sink)?;
    let line = one(&sink.name_server, options, role, words)?;
    let total = field(&line, "total_ok");
    let until = Instant::now() + ARRIVAL;
    // One-way messages may still be on their way.
    while arrived(sink)? - before < total && Instant::now() < until {
        thread::sleep(Duration::from_millis(10));
    }
    Ok(Sample {
        lost: total - (arrived(sink)? - before),
        ..sample(&line)
    })
}

/// Runs `role` against whatever is behind the name server.
pub(crate) fn at(
    name_server: &str,
    options: &Options,
    role: &str,
    words: &[&str],
) -> Result<Sample, Failure> {
    Ok(sample(&one(name_server, options, role, words)?))
}

fn one(name_server: &str, options: &Options, role: &str, words: &[&str]) -> Result<Value, Failure> {
    let (seconds, warm_up) = (options.seconds.to_string(), options.warm_up.to_string());
    let common = [
        "--namesrv",
        name_server,
        "--seconds",
        &seconds,
        "--warmup",
        &warm_up,
    ];
    let words: Vec<String> = words
        .iter()
        .chain(&common)
        .map(|word| (*word).to_owned())
        .collect();
    let within = Duration::from_secs_f64(options.seconds + options.warm_up) + MOST;
    let line = closing_line(role, &words, within)?;
    eprintln!("  {line}");
    Ok(line)
}

fn arrived(sink: &mut SinkProcess) -> Result<f64, Failure> {
    Ok(field(&sink.stats()?, "messages"))
}

/// A number of a JSON object; what is missing is 0.
pub(crate) fn field(line: &Value, name: &str) -> f64 {
    line.get(name).and_then(Value::as_f64).unwrap_or(0.0)
}

fn sample(line: &Value) -> Sample {
    Sample {
        per_second: field(line, "msgs_per_s"),
        p50: field(line, "p50_us"),
        p99: field(line, "p99_us"),
        cpu: field(line, "cpu_us_per_msg"),
        memory: field(line, "rss_kib") / 1024.0,
        errors: field(line, "total_errors"),
        lost: 0.0,
    }
}

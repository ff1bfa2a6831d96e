//! Curves of one number that grows.

use crate::{
    Options,
    report::{Line, Panel, Report, number},
    rig::{Failure, child::SinkProcess},
    run::{Sample, against},
};

/// Samples along one axis, of this library or of the limit.
struct Series {
    name: &'static str,
    samples: Vec<(f64, Sample)>,
}

/// What is run for each value of the axis: a name, the role, and the words, in which `{}` is the value.
type Runner = (&'static str, &'static str, &'static str);

const BODIES: [u64; 10] = [
    16,
    64,
    256,
    1024,
    4096,
    16_384,
    65_536,
    262_144,
    1_048_576,
    LARGEST_BODY,
];
/// With topic, properties and the record's own fields it is just within the 4 MiB of a broker.
const LARGEST_BODY: u64 = (4 << 20) - 1024;

pub(crate) fn threads(options: &Options) -> Result<Report, Failure> {
    grow(
        options,
        "Threads that send synchronously",
        "threads",
        &[1, 2, 4, 8, 16, 32, 64, 128, 256],
        &[
            ("product", "load", "--mode sync --threads {}"),
            (
                "limit, one connection",
                "limit",
                "--mode sync --wake condvar --threads {}",
            ),
            ("limit, one each", "limit", "--mode sync --threads {}"),
        ],
    )
}

pub(crate) fn in_flight(options: &Options) -> Result<Report, Failure> {
    grow(
        options,
        "Asynchronous messages in flight",
        "in flight",
        &[1, 3, 10, 30, 100, 300, 1000, 3000, 10_000, 30_000, 100_000],
        &[
            ("product", "load", "--mode async --window {}"),
            ("limit", "limit", "--mode async --window {}"),
        ],
    )
}

pub(crate) fn bodies_sync(options: &Options) -> Result<Report, Failure> {
    grow(
        options,
        "Bodies, sent synchronously by one thread",
        "bytes",
        &BODIES,
        &[
            ("product", "load", "--mode sync --size {}"),
            ("limit", "limit", "--mode sync --size {}"),
        ],
    )
}

pub(crate) fn bodies_async(options: &Options) -> Result<Report, Failure> {
    grow(
        options,
        "Bodies, sent asynchronously, 1024 or 100 MiB in flight",
        "bytes",
        &BODIES,
        &[
            ("product", "load", "--mode async --size {}"),
            ("limit", "limit", "--mode async --size {}"),
        ],
    )
}

pub(crate) fn callbacks(options: &Options) -> Result<Report, Failure> {
    grow(
        options,
        "Callbacks that compute",
        "µs in the callback",
        &[0, 1, 10, 100, 1000, 10_000],
        &[("product", "load", "--mode async --callback-us {}")],
    )
}

pub(crate) fn brokers(options: &Options) -> Result<Report, Failure> {
    let counts = [1, 2, 4, 8, 16, 32, 64];
    let runners = [
        ("async, 1024 in flight", "load", "--mode async"),
        ("sync, 16 threads", "load", "--mode sync --threads 16"),
    ];
    let mut series: Vec<_> = runners.map(|(name, ..)| empty(name)).into();
    for count in counts {
        for (series, (_, role, words)) in series.iter_mut().zip(runners) {
            let mut sink = SinkProcess::start(usize::try_from(count)?, 8)?;
            let words: Vec<_> = words.split(' ').collect();
            series
                .samples
                .push((float(count), against(&mut sink, options, role, &words)?));
        }
    }
    Ok(report("Brokers of the topic, 8 queues each", "brokers", &series))
}

fn grow(
    options: &Options,
    title: &'static str,
    across: &'static str,
    values: &[u64],
    runners: &[Runner],
) -> Result<Report, Failure> {
    let mut series: Vec<_> = runners.iter().map(|(name, ..)| empty(name)).collect();
    for value in values {
        let text = value.to_string();
        for (series, (_, role, words)) in series.iter_mut().zip(runners) {
            let mut sink = SinkProcess::start(1, 8)?;
            let words: Vec<_> = words
                .split(' ')
                .map(|word| if word == "{}" { &text } else { word })
                .collect();
            series
                .samples
                .push((float(*value), against(&mut sink, options, role, &words)?));
        }
    }
    Ok(report(title, across, &series))
}

fn empty(name: &'static str) -> Series {
    Series {
        name,
        samples: Vec::new(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "no value is so large")]
fn float(value: u64) -> f64 {
    value as f64
}

fn report(title: &'static str, across: &'static str, series: &[Series]) -> Report {
    let mut rows = Vec::new();
    for position in 0..series
        .iter()
        .map(|series| series.samples.len())
        .max()
        .unwrap_or(0)
    {
        for series in series {
            let Some((value, sample)) = series.samples.get(position) else {
                continue;
            };
            rows.push(vec![
                number(*value),
                series.name.to_owned(),
                number(sample.per_second),
                number(sample.p50),
                number(sample.p99),
                number(sample.cpu),
                number(sample.memory),
                number(sample.errors),
                number(sample.lost),
            ]);
        }
    }
    let lines = |suffix: &str, is_dashed, pick: fn(&Sample) -> f64| -> Vec<Line> {
        let points = |series: &Series| {
            series
                .samples
                .iter()
                .map(|(value, sample)| (*value, pick(sample)))
                .collect()
        };
        series
            .iter()
            .enumerate()
            .map(|(number, series)| Line {
                name: format!("{}{suffix}", series.name),
                series: number,
                is_dashed,
                points: points(series),
            })
            .collect()
    };
    let panel = |title, pick| Panel {
        title,
        lines: lines("", false, pick),
    };
    let mut latency = panel("p50 and p99 (dashed), µs", |sample| sample.p50);
    latency.lines.extend(lines(", p99", true, |sample| sample.p99));
    Report {
        title,
        columns: vec![
            across,
            "what",
            "messages/s",
            "p50 µs",
            "p99 µs",
            "CPU µs a message",
            "peak memory MiB",
            "errors",
            "lost",
        ],
        rows,
        across,
        panels: vec![
            panel("messages/s", |sample| sample.per_second),
            latency,
            panel("CPU µs a message", |sample| sample.cpu),
            panel("peak memory, MiB", |sample| sample.memory),
        ],
    }
}

//! The cells of the table that all clients are compared in, for this library and the limit, in turns.

use std::collections::BTreeMap;

use crate::{
    Options,
    report::{Report, median},
    rig::{Failure, child::SinkProcess},
    run::{Sample, against, at},
};

/// Cell, client, role, words. The limit of blocked threads on one connection comes in three ways of waking them.
const CELLS: &[(&str, &str, &str, &str)] = &[
    ("sync, 1 thread", "product", "load", "--mode sync"),
    ("sync, 1 thread", "limit", "limit", "--mode sync"),
    (
        "sync, 1 thread",
        "limit with a reader, channel",
        "limit",
        "--mode sync --wake channel",
    ),
    (
        "sync, 1 thread",
        "limit with a reader, park",
        "limit",
        "--mode sync --wake park",
    ),
    (
        "sync, 1 thread",
        "limit with a reader, condvar",
        "limit",
        "--mode sync --wake condvar",
    ),
    ("sync, 16 threads", "product", "load", "--mode sync --threads 16"),
    (
        "sync, 16 threads",
        "limit, 16 connections",
        "limit",
        "--mode sync --threads 16",
    ),
    (
        "sync, 16 threads",
        "limit with a reader, channel",
        "limit",
        "--mode sync --threads 16 --wake channel",
    ),
    (
        "sync, 16 threads",
        "limit with a reader, park",
        "limit",
        "--mode sync --threads 16 --wake park",
    ),
    (
        "sync, 16 threads",
        "limit with a reader, condvar",
        "limit",
        "--mode sync --threads 16 --wake condvar",
    ),
    (
        "sync, 1 thread, 4000 bytes",
        "product",
        "load",
        "--mode sync --size 4000",
    ),
    (
        "sync, 1 thread, 4000 bytes",
        "limit",
        "limit",
        "--mode sync --size 4000",
    ),
    ("async, 1024 in flight", "product", "load", "--mode async"),
    (
        "async, 1024 in flight",
        "product, a new message each time",
        "load",
        "--mode async --fresh",
    ),
    (
        "async, 1024 in flight",
        "product, binary header",
        "load",
        "--mode async --binary",
    ),
    ("async, 1024 in flight", "limit", "limit", "--mode async"),
    (
        "async, 1024 in flight, 1 KiB",
        "product",
        "load",
        "--mode async --size 1024",
    ),
    (
        "async, 1024 in flight, 1 KiB",
        "limit",
        "limit",
        "--mode async --size 1024",
    ),
    ("one-way", "product", "load", "--mode oneway"),
    ("one-way", "limit", "limit", "--mode oneway"),
];

const REAL_CELLS: &[(&str, &str, &str, &str)] = &[
    ("real broker, sync, 1 thread", "product", "load", "--mode sync"),
    ("real broker, sync, 1 thread", "limit", "limit", "--mode sync"),
    (
        "real broker, async, 1024 in flight",
        "product",
        "load",
        "--mode async",
    ),
    (
        "real broker, async, 1024 in flight",
        "limit",
        "limit",
        "--mode async",
    ),
];

pub(crate) fn measure(options: &Options) -> Result<Report, Failure> {
    let mut samples: BTreeMap<usize, Vec<Sample>> = BTreeMap::new();
    let real: &[_] = if options.real.is_some() { REAL_CELLS } else { &[] };
    for _ in 0..options.rounds {
        let mut sink = SinkProcess::start(1, 8)?;
        for (number, (_, _, role, words)) in CELLS.iter().chain(real).enumerate() {
            let words: Vec<_> = words.split(' ').collect();
            let sample = match &options.real {
                Some(name_server) if number >= CELLS.len() => at(name_server, options, role, &words)?,
                _ => against(&mut sink, options, role, &words)?,
            };
            samples.entry(number).or_default().push(sample);
        }
    }
    let rows = CELLS
        .iter()
        .chain(real)
        .zip(samples.values())
        .map(|((cell, client, ..), samples)| {
            let column = |pick: fn(&Sample) -> f64| median(samples.iter().map(pick).collect());
            vec![
                (*cell).to_owned(),
                (*client).to_owned(),
                column(|sample| sample.per_second),
                column(|sample| sample.p50),
                column(|sample| sample.p99),
                column(|sample| sample.cpu),
                column(|sample| sample.memory),
                column(|sample| sample.errors),
                column(|sample| sample.lost),
            ]
        })
        .collect();
    Ok(Report {
        title: "This library and the limit of the sockets",
        columns: vec![
            "cell",
            "client",
            "messages/s",
            "p50 µs",
            "p99 µs",
            "CPU µs a message",
            "peak memory MiB",
            "errors",
            "lost",
        ],
        rows,
        across: "",
        panels: Vec::new(),
    })
}

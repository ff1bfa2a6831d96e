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
    let cells: Vec<_> = CELLS
        .iter()
        .chain(real)
        .zip(samples.into_values())
        .map(|((place, client, ..), samples)| Cell {
            place,
            client,
            samples,
        })
        .collect();
    let rows = cells.iter().map(|cell| cell.row(&cells)).collect();
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
            "against the limit: messages/s, p50, CPU",
            "against the limit with a reader",
        ],
        rows,
        across: "",
        panels: Vec::new(),
    })
}

type Pick = fn(&Sample) -> f64;

/// One client in one cell, in all rounds.
struct Cell {
    place: &'static str,
    client: &'static str,
    samples: Vec<Sample>,
}

impl Cell {
    fn row(&self, all: &[Self]) -> Vec<String> {
        let columns: [Pick; 7] = [
            |sample| sample.per_second,
            |sample| sample.p50,
            |sample| sample.p99,
            |sample| sample.cpu,
            |sample| sample.memory,
            |sample| sample.errors,
            |sample| sample.lost,
        ];
        let mut row = vec![self.place.to_owned(), self.client.to_owned()];
        row.extend(columns.map(|pick| median(self.samples.iter().map(pick).collect())));
        row.push(self.against(all, false));
        row.push(self.against(all, true));
        row
    }

    /// How often the limit of the same cell goes into this client: the plain limit, or the quickest with a reader.
    fn against(&self, all: &[Self], with_reader: bool) -> String {
        let limit = all
            .iter()
            .filter(|other| other.place == self.place && other.client.starts_with("limit"))
            .filter(|other| other.client.contains("with a reader") == with_reader)
            .max_by(|a, b| {
                let speed = |cell: &Self| cell.middle(|sample| sample.per_second);
                speed(a).total_cmp(&speed(b))
            });
        let Some(limit) = limit.filter(|_| self.client.starts_with("product")) else {
            return String::new();
        };
        let picks: [Pick; 3] = [
            |sample| sample.per_second,
            |sample| sample.p50,
            |sample| sample.cpu,
        ];
        picks
            .map(|pick| format!("{:.2}", self.middle(pick) / limit.middle(pick)))
            .join(", ")
    }

    fn middle(&self, pick: Pick) -> f64 {
        let mut values: Vec<_> = self.samples.iter().map(pick).collect();
        values.sort_by(f64::total_cmp);
        values.get(values.len() / 2).copied().unwrap_or(0.0)
    }
}

//! Many topics: what their first sends take, what they hold, and what refreshing their routes costs.

use std::{thread, time::Duration};

use crate::{
    Options,
    report::{Line, Panel, Report, number},
    rig::{
        Failure,
        child::{Idle, SinkProcess},
        process,
    },
    run::field,
    start::resident,
};

const TOPICS: [u32; 5] = [1, 10, 100, 1000, 10_000];
/// In place of 30 s, so that a run is short.
const REFRESH: Duration = Duration::from_secs(3);
/// How many refreshes are watched.
const ROUNDS: u32 = 2;

/// What one number of topics cost.
struct Point {
    topics: f64,
    /// Look-up and send, µs a topic.
    first: f64,
    /// MiB.
    memory: f64,
    queries: f64,
    kib: f64,
    /// ms a refresh.
    cpu: f64,
}

pub(crate) fn measure(_: &Options) -> Result<Report, Failure> {
    let points: Vec<_> = TOPICS.into_iter().map(point).collect::<Result<_, _>>()?;
    let rows = points.iter().map(|point| {
        [
            point.topics,
            point.first,
            point.memory,
            point.queries,
            point.kib,
            point.cpu,
        ]
        .map(number)
        .into()
    });
    let panel = |title, pick: fn(&Point) -> f64| Panel {
        title,
        lines: vec![Line {
            name: "product".to_owned(),
            series: 0,
            is_dashed: false,
            points: points.iter().map(|point| (point.topics, pick(point))).collect(),
        }],
    };
    Ok(Report {
        title: "Topics that one producer sends to",
        columns: vec![
            "topics",
            "first send µs a topic",
            "memory MiB",
            "route queries a refresh",
            "KiB at the name server a refresh",
            "CPU ms a refresh",
        ],
        rows: rows.collect(),
        across: "topics",
        panels: vec![
            panel("first send, µs a topic", |point| point.first),
            panel("memory, MiB", |point| point.memory),
            panel("route queries a refresh", |point| point.queries),
            panel("CPU ms a refresh", |point| point.cpu),
        ],
    })
}

fn point(topics: u32) -> Result<Point, Failure> {
    let mut sink = SinkProcess::start(1, 8)?;
    let words = [
        "--mode",
        "topics",
        "--namesrv",
        &sink.name_server,
        "--topics",
        &topics.to_string(),
        "--refresh-ms",
        &REFRESH.as_millis().to_string(),
        "--seconds",
        "120",
    ]
    .map(str::to_owned);
    let idle = Idle::start("load", &words)?;
    // The refresh that is under way is not watched.
    thread::sleep(REFRESH / 2);
    let (before, busy) = (sink.stats()?, process::cpu_of(&idle.id()));
    thread::sleep(REFRESH * ROUNDS);
    let (after, busy) = (sink.stats()?, process::cpu_of(&idle.id()).saturating_sub(busy));
    let a_round = |name| (field(&after, name) - field(&before, name)) / f64::from(ROUNDS);
    let point = Point {
        topics: topics.into(),
        first: idle.send_took.as_secs_f64() * 1e6 / f64::from(topics),
        memory: resident(&idle),
        queries: a_round("routes"),
        kib: (a_round("name_server_bytes_in") + a_round("name_server_bytes_out")) / 1024.0,
        cpu: busy.as_secs_f64() * 1e3 / f64::from(ROUNDS),
    };
    eprintln!(
        "  {topics} topics: {} MiB, {} queries a refresh",
        point.memory, point.queries
    );
    Ok(point)
}

//! From the start of a process to its first acknowledged message, and what it holds when it idles.

use std::{thread, time::Duration};

use crate::{
    Options,
    report::{Report, median},
    rig::{
        Failure,
        child::{Idle, SinkProcess},
        process,
    },
};

/// Until a process that has just sent holds what it will hold.
const SETTLE: Duration = Duration::from_millis(500);
const IDLE: Duration = Duration::from_secs(2);

const STARTS: &[(&str, &str, &[&str])] = &[
    ("product", "load", &[]),
    ("product, with warm_up", "load", &["--warm-up"]),
    ("limit", "limit", &[]),
];

pub(crate) fn measure(options: &Options) -> Result<Report, Failure> {
    let sink = SinkProcess::start(1, 8)?;
    let mut rows = Vec::new();
    for (name, role, extra) in STARTS {
        let words: Vec<String> = [
            "--namesrv",
            &sink.name_server,
            "--mode",
            "hello",
            "--seconds",
            "60",
        ]
        .iter()
        .chain(*extra)
        .map(|word| (*word).to_owned())
        .collect();
        let mut measured: [Vec<f64>; 5] = Default::default();
        for _ in 0..options.rounds {
            let idle = Idle::start(role, &words)?;
            thread::sleep(SETTLE);
            let busy = process::cpu_of(&idle.id());
            thread::sleep(IDLE);
            let busy = process::cpu_of(&idle.id()).saturating_sub(busy);
            let figures = [
                idle.took.as_secs_f64() * 1e3,
                idle.send_took.as_secs_f64() * 1e6,
                threads(&idle),
                resident(&idle),
                busy.as_secs_f64() * 1e3 / IDLE.as_secs_f64(),
            ];
            for (all, figure) in measured.iter_mut().zip(figures) {
                all.push(figure);
            }
        }
        let mut row = vec![(*name).to_owned()];
        row.extend(measured.map(median));
        eprintln!("  {}", row.join(" | "));
        rows.push(row);
    }
    Ok(Report {
        title: "From the start of the process to the first acknowledged message",
        columns: vec![
            "client",
            "to the acknowledgement ms",
            "of that the send µs",
            "threads when idle",
            "memory when idle MiB",
            "CPU when idle ms/s",
        ],
        rows,
        across: "",
        panels: Vec::new(),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a measurement is no exact number")]
fn threads(idle: &Idle) -> f64 {
    process::status(&idle.id(), "Threads") as f64
}

/// MiB.
#[expect(clippy::cast_precision_loss, reason = "a measurement is no exact number")]
pub(crate) fn resident(idle: &Idle) -> f64 {
    process::status(&idle.id(), "VmRSS") as f64 / 1024.0
}

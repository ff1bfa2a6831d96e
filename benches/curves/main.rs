//! How cost grows: with threads, messages in flight, bodies, brokers, topics, slow callbacks; and what a start costs.
//!
//! ```text
//! cargo bench --bench curves -- [--only NAME,...] [--seconds S] [--warmup S] [--rounds N] [--real HOST:PORT] [--out DIR]
//! ```
//!
//! Each point is a short run in a process of its own against a sink in another. Writes `DIR/curves.md` and a plot
//! `DIR/NAME.svg` for each curve; the default is `target/curves`.

mod cells;
mod growth;
mod plot;
mod report;
mod run;
mod start;
mod topics;

#[path = "../rig/mod.rs"]
mod rig;

use std::{fs, path::PathBuf};

use report::Report;
use rig::{Failure, arguments::value};

/// What one call is to measure, and how.
struct Options {
    only: Vec<String>,
    seconds: f64,
    warm_up: f64,
    /// Runs of a cell and starts of a process, of which the median counts.
    rounds: usize,
    /// A real name server.
    real: Option<String>,
    out: PathBuf,
}

/// Measures one thing.
type Measure = fn(&Options) -> Result<Report, Failure>;

const REPORTS: &[(&str, Measure)] = &[
    ("cells", cells::measure),
    ("start", start::measure),
    ("threads", growth::threads),
    ("in-flight", growth::in_flight),
    ("bodies-sync", growth::bodies_sync),
    ("bodies-async", growth::bodies_async),
    ("brokers", growth::brokers),
    ("topics", topics::measure),
    ("callbacks", growth::callbacks),
];

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let Some(result) = rig::play(&words) {
        return result;
    }
    let options = options(words.into_iter())?;
    fs::create_dir_all(&options.out)?;
    let mut markdown = String::new();
    for (name, measure) in REPORTS {
        if !options.only.is_empty() && !options.only.iter().any(|wanted| wanted == name) {
            continue;
        }
        eprintln!("{name}:");
        let report = measure(&options)?;
        if let Some(plot) = plot::draw(&report) {
            fs::write(options.out.join(format!("{name}.svg")), plot)?;
        }
        let text = report.markdown(name);
        println!("{text}");
        markdown += &text;
        // What has been measured is kept, whatever becomes of the rest.
        fs::write(options.out.join("curves.md"), &markdown)?;
    }
    Ok(())
}

fn options(mut words: impl Iterator<Item = String>) -> Result<Options, Failure> {
    let mut options = Options {
        only: Vec::new(),
        seconds: 2.0,
        warm_up: 0.5,
        rounds: 3,
        real: None,
        out: PathBuf::from("target/curves"),
    };
    while let Some(word) = words.next() {
        match word.as_str() {
            "--only" => {
                let names: String = value(&word, &mut words)?;
                options.only = names.split(',').map(str::to_owned).collect();
            }
            "--seconds" => options.seconds = value(&word, &mut words)?,
            "--warmup" => options.warm_up = value(&word, &mut words)?,
            "--rounds" => options.rounds = value(&word, &mut words)?,
            "--real" => options.real = Some(value(&word, &mut words)?),
            "--out" => options.out = value(&word, &mut words)?,
            "--bench" => {}
            _ => return Err(format!("curves does not know {word}").into()),
        }
    }
    let known = |name: &String| REPORTS.iter().any(|(known, _)| known == name);
    match options.only.iter().find(|name| !known(name)) {
        Some(name) => Err(format!("there is no {name}").into()),
        None => Ok(options),
    }
}

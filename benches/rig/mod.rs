//! What the programs in `benches/` are made of.

#![allow(dead_code, reason = "no program uses every part")]

pub(crate) mod arguments;
pub(crate) mod child;
pub(crate) mod driver;
pub(crate) mod frames;
pub(crate) mod histogram;
pub(crate) mod limit;
pub(crate) mod meter;
pub(crate) mod process;
pub(crate) mod sink;

use std::{io::Write, thread, time::Duration};

use arguments::Arguments;

/// Whatever ends a program early; `main` prints it.
pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// The roles that each of these programs can play, so that it can start itself as another process. `None` when the first
/// word is no role.
pub(crate) fn play(words: &[String]) -> Option<Result<(), Failure>> {
    let (role, words) = words.split_first()?;
    let words = words.iter().cloned();
    Some(match role.as_str() {
        "load" => Arguments::parse(words).and_then(|arguments| driver::run(&arguments)),
        "limit" => Arguments::parse(words).and_then(|arguments| limit::run(&arguments)),
        "sink" => sink::program(words),
        _ => return None,
    })
}

/// Says that the first message was acknowledged, and how many nanoseconds its send took, and idles.
fn say_hello(arguments: &Arguments, took: u64) -> Result<(), Failure> {
    println!("ACK\n{took}");
    std::io::stdout().flush()?;
    thread::sleep(Duration::from_secs_f64(arguments.seconds));
    Ok(())
}

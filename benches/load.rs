//! One load on one producer; the last line that it prints is one JSON object. See `benches/README.md`.
//!
//! ```text
//! cargo bench --bench load -- [--namesrv HOST:PORT] [--topic T] [--mode sync|async|oneway|hello]
//!     [--threads N] [--window W] [--size BYTES] [--seconds S] [--warmup S]
//!     [--fresh] [--warm-up] [--binary] [--topics N] [--callback-us N]
//! cargo bench --bench load -- limit [the same] [--wake channel|park|condvar]
//! cargo bench --bench load -- sink [--namesrv PORT] [--brokers N] [--queues N]
//! ```
//!
//! Without `--namesrv` it starts a sink of its own.

mod rig;

use rig::{Failure, arguments::Arguments, driver};

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match rig::play(&words) {
        Some(result) => result,
        None => driver::run(&Arguments::parse(words.into_iter())?),
    }
}

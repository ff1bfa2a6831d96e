//! One load on one producer; the last line that it prints is one JSON object. See `benches/README.md`.
//!
//! ```text
//! cargo bench --bench load -- --namesrv HOST:PORT --topic T --mode sync|async|oneway|hello
//!     --threads N --window W --size BYTES --seconds S --warmup S [--fresh] [--warm-up]
//! ```

mod rig;

use rig::{Failure, arguments::Arguments, driver};

fn main() -> Result<(), Failure> {
    driver::run(&Arguments::parse(std::env::args().skip(1))?)
}

//! What the tests against real RocketMQ clusters share: clusters, Apache's Java client as the reader, child
//! processes with a deadline, and the rule that nothing is left out in silence. Knows nothing of the library
//! under test.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "test support: a broken harness must stop the test, and not every test uses all of it"
)]

mod java;
mod left_out;
mod process;
mod real_cluster;

pub(crate) use java::ReadMessage;
pub(crate) use process::{Finished, run};
pub(crate) use real_cluster::{RealCluster, read_all, require_real_cluster, wait_until};

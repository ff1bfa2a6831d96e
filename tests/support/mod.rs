//! What the tests against real RocketMQ clusters share: clusters, Apache's Java client as the reader, child
//! processes with a deadline, and the rule that nothing is left out in silence. Knows nothing of the library
//! under test.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::significant_drop_tightening,
    reason = "a broken harness must stop the test; not every test uses all of this; locks are held on purpose"
)]

mod java;
mod left_out;
mod process;
mod real_cluster;
mod replier;

pub(crate) use java::{JavaClient, ReadMessage, java_command};
pub(crate) use process::run;
pub(crate) use real_cluster::{RealCluster, read_all, require_real_cluster, wait_until};
pub(crate) use replier::Replier;

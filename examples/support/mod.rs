//! Where the examples send to.

use std::{env, io};

use rocketmq_producer::mock::MockCluster;

/// The name servers in `NAMESRV_ADDR`, the variable that Java's client reads; without it those of an embedded cluster,
/// which lives as long as it is held.
pub(crate) fn name_servers() -> io::Result<(String, Option<MockCluster>)> {
    if let Ok(name_servers) = env::var("NAMESRV_ADDR") {
        return Ok((name_servers, None));
    }
    let cluster = MockCluster::builder().brokers(2).recalls(true).start()?;
    println!(
        "NAMESRV_ADDR is not set: sending to an embedded cluster at {}",
        cluster.name_servers()
    );
    Ok((cluster.name_servers(), Some(cluster)))
}

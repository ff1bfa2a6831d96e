//! What is known of the cluster: name servers, topic routes, which brokers to greet. Sends nothing but route queries,
//! heartbeats and the farewell.
//!
//! Nothing in this room blocks but the functions named `wait` and those that say until when.

pub(crate) mod address_map;
pub(crate) mod advertised;
pub(crate) mod ask_route;
pub(crate) mod broker_health;
pub(crate) mod call;
pub(crate) mod housekeeping;
mod logical_queues;
pub(crate) mod name_servers;
pub(crate) mod query_route;
pub(crate) mod reachability;
mod refresh;
pub(crate) mod route_faults;
mod route_query;
pub(crate) mod routes;
pub(crate) mod topic_route;

//! Why a topic has no usable route, in words: for the error of a send and for the self-check alike.

use super::topic_route::{MASTER_ID, PERM_WRITE};
use crate::wire::request::route::{QueueData, RouteData};

/// Brokers whose faults are listed; more would fill the screen.
const MOST_LISTED: usize = 8;

/// A name server does not know the topic, and there is no template topic to create it from.
pub(crate) fn unknown_topic(name_server: &str, remark: &str, template: &str) -> String {
    let remark = crate::error::printable(remark);
    format!(
        "name server {name_server} does not know it ({remark}), and no broker creates topics by itself (there is no \
         route for {template} either); create the topic first, or look whether the brokers are registered there"
    )
}

/// A name server does not know a topic that was asked about.
pub(crate) fn not_there(name_server: &str, remark: &str) -> String {
    let remark = crate::error::printable(remark);
    format!("name server {name_server} does not know it ({remark}), so there is no broker to ask")
}

/// The topic has a route, but no queue takes messages.
pub(crate) fn no_queue(data: &RouteData) -> String {
    let faults = broker_faults(data);
    if faults.is_empty() {
        return "the topic exists, but its route names no queue on a broker with a master and write permission".to_owned();
    }
    format!(
        "the topic exists, but none of its {} brokers has both a master and write permission for it: {}",
        data.queue_datas.len(),
        listed(&faults)
    )
}

/// What keeps each broker of a route from taking messages, in words; brokers that take some are left out.
pub(crate) fn broker_faults(data: &RouteData) -> Vec<String> {
    data.queue_datas
        .iter()
        .filter_map(|queues| {
            Some(format!(
                "{} {}",
                crate::error::printable(&queues.broker_name),
                fault(data, queues)?
            ))
        })
        .collect()
}

/// Several faults in one line.
pub(crate) fn listed(faults: &[String]) -> String {
    let shown = faults.iter().take(MOST_LISTED).map(String::as_str);
    let text = shown.collect::<Vec<_>>().join(", ");
    match faults.len().checked_sub(MOST_LISTED) {
        None | Some(0) => text,
        Some(more) => format!("{text} and {more} more"),
    }
}

fn fault(data: &RouteData, queues: &QueueData) -> Option<String> {
    if queues.perm & PERM_WRITE == 0 {
        return Some(format!("has no write permission (perm {})", queues.perm));
    }
    if queues.write_queue_nums == 0 {
        return Some("has no write queue".to_owned());
    }
    let broker = data
        .broker_datas
        .iter()
        .find(|broker| broker.broker_name == queues.broker_name);
    let Some(broker) = broker else {
        return Some("is not registered".to_owned());
    };
    if broker.broker_addresses.contains_key(&MASTER_ID) {
        return None;
    }
    Some(match broker.broker_addresses.len() {
        0 => "has no address".to_owned(),
        slaves => format!("has no master, only {slaves} with other ids"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::request::route::BrokerData;

    fn broker(name: &str, ids: &[i64]) -> BrokerData {
        BrokerData {
            cluster: "c".to_owned(),
            broker_name: name.to_owned(),
            broker_addresses: ids.iter().map(|id| (*id, format!("10.0.0.{id}:10911"))).collect(),
        }
    }

    fn queues(name: &str, write_queue_nums: u32, perm: u32) -> QueueData {
        QueueData {
            broker_name: name.to_owned(),
            read_queue_nums: 4,
            write_queue_nums,
            perm,
            topic_sys_flag: 0,
        }
    }

    #[test]
    fn each_broker_says_what_it_lacks() {
        let data = RouteData {
            broker_datas: vec![
                broker("ro", &[0]),
                broker("slaves", &[1, 2]),
                broker("zero", &[0]),
                broker("ok", &[0]),
            ],
            queue_datas: vec![
                queues("ro", 4, 4),
                queues("slaves", 4, 6),
                queues("zero", 0, 6),
                queues("gone", 4, 6),
                queues("ok", 4, 6),
            ],
            ..RouteData::default()
        };
        let faults = broker_faults(&data);
        assert_eq!(
            faults,
            [
                "ro has no write permission (perm 4)",
                "slaves has no master, only 2 with other ids",
                "zero has no write queue",
                "gone is not registered",
            ]
        );
        assert!(no_queue(&data).ends_with(&listed(&faults)));
    }

    #[test]
    fn many_faults_are_cut() {
        let faults: Vec<_> = (0..10).map(|number| format!("b{number} x")).collect();
        assert!(
            listed(&faults).ends_with("b7 x and 2 more"),
            "{}",
            listed(&faults)
        );
    }
}

//! What a name server answers: routes and the list of brokers.
//!
//! The JSON is written here rather than by `wire`, so that what the library reads is not of its own making.

use crate::code::{RequestCode, ResponseCode};
use crate::wire::header::Header;
use crate::wire::json_text::{write_integer, write_string};
use crate::wire::request::route::ReceivedGetRoute;

use super::dialect::ServerVersion;
use super::reply::{Reply, ReplyFields};
use super::shared::{BrokerPlace, CLUSTER_NAME, Shared};
use super::topics::TopicSettings;

/// The answer to a request. `None`: a name server of this release says nothing.
pub(super) fn answer(shared: &Shared, header: &Header<'_>) -> Option<Reply> {
    match RequestCode::new(header.code) {
        RequestCode::GET_ROUTEINFO_BY_TOPIC => Some(route(shared, header)),
        RequestCode::GET_BROKER_CLUSTER_INFO => Some(Reply::with_body(cluster_info(&shared.brokers))),
        _ => shared
            .version
            .name_server_answers_unknown_codes()
            .then(|| unsupported(header.code)),
    }
}

/// What a server says to a request code that it does not know, if it says anything.
pub(super) fn unsupported(code: i32) -> Reply {
    // The blank at the front is the servers'.
    let remark = format!(" request type {code} not supported");
    Reply::refusal(
        ResponseCode::REQUEST_CODE_NOT_SUPPORTED,
        remark,
        ReplyFields::None,
    )
}

fn route(shared: &Shared, header: &Header<'_>) -> Reply {
    let version = shared.version;
    let no_route = |topic| {
        Reply::refusal(
            ResponseCode::TOPIC_NOT_EXIST,
            version.no_route(topic),
            ReplyFields::None,
        )
    };
    let Ok(request) = ReceivedGetRoute::decode(header) else {
        return no_route(None);
    };
    let queues: Vec<(&BrokerPlace, TopicSettings)> = shared
        .topics
        .by_broker(&request.topic)
        .into_iter()
        .filter_map(|(broker, settings)| Some((shared.brokers.get(broker)?, settings)))
        .filter(|(broker, _)| !broker.is_hidden())
        .collect();
    if queues.is_empty() {
        return no_route(Some(&request.topic));
    }
    let standard_json = version.standard_route_json(header.version, request.accept_standard_json_only);
    Reply::with_body(route_data(version, standard_json, &queues))
}

/// `TopicRouteData` as this release writes it, keys in alphabetical order.
fn route_data(
    version: ServerVersion,
    standard_json: bool,
    queues: &[(&BrokerPlace, TopicSettings)],
) -> Vec<u8> {
    let mut out = b"{\"brokerDatas\":[".to_vec();
    for (position, (broker, _)) in queues.iter().enumerate() {
        comma(&mut out, position);
        let master = if standard_json { "\"0\"" } else { "0" };
        write_broker(&mut out, broker, master);
        if version == ServerVersion::V5_5_0 {
            out.extend_from_slice(b",\"enableActingMaster\":false");
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"filterServerTable\":{},\"queueDatas\":[");
    for (position, (broker, settings)) in queues.iter().enumerate() {
        comma(&mut out, position);
        out.extend_from_slice(b"{\"brokerName\":");
        write_string(&mut out, &broker.name);
        let sys_flag = if version == ServerVersion::V4_7_0 {
            "topicSynFlag"
        } else {
            "topicSysFlag"
        };
        for (name, value) in [
            ("perm", i64::from(settings.perm)),
            ("readQueueNums", i64::from(settings.read_queue_nums)),
            (sys_flag, i64::from(settings.topic_sys_flag)),
            ("writeQueueNums", i64::from(settings.write_queue_nums)),
        ] {
            out.push(b',');
            write_string(&mut out, name);
            out.push(b':');
            write_integer(&mut out, value);
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}

/// `ClusterInfo`: integer keys are bare on every release.
fn cluster_info(brokers: &[BrokerPlace]) -> Vec<u8> {
    let mut out = b"{\"brokerAddrTable\":{".to_vec();
    for (position, broker) in listed(brokers).enumerate() {
        comma(&mut out, position);
        write_string(&mut out, &broker.name);
        out.push(b':');
        write_broker(&mut out, broker, "0");
        out.push(b'}');
    }
    out.extend_from_slice(b"},\"clusterAddrTable\":{");
    write_string(&mut out, CLUSTER_NAME);
    out.extend_from_slice(b":[");
    for (position, broker) in listed(brokers).enumerate() {
        comma(&mut out, position);
        write_string(&mut out, &broker.name);
    }
    out.extend_from_slice(b"]}}");
    out
}

fn listed(brokers: &[BrokerPlace]) -> impl Iterator<Item = &BrokerPlace> {
    brokers.iter().filter(|broker| !broker.is_hidden())
}

/// `BrokerData` without its closing brace.
fn write_broker(out: &mut Vec<u8>, broker: &BrokerPlace, master: &str) {
    out.extend_from_slice(b"{\"brokerAddrs\":{");
    out.extend_from_slice(master.as_bytes());
    out.push(b':');
    write_string(out, &broker.address().to_string());
    out.extend_from_slice(b"},\"brokerName\":");
    write_string(out, &broker.name);
    out.extend_from_slice(b",\"cluster\":");
    write_string(out, CLUSTER_NAME);
}

fn comma(out: &mut Vec<u8>, position: usize) {
    if position > 0 {
        out.push(b',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn broker(name: &str, port: u16) -> BrokerPlace {
        BrokerPlace::new(name.into(), port)
    }

    #[test]
    fn routes_are_written_as_each_release_writes_them() {
        let place = broker("broker-a", 18010);
        let settings = TopicSettings {
            read_queue_nums: 4,
            write_queue_nums: 4,
            perm: 6,
            topic_sys_flag: 0,
        };
        let written = |version, standard_json| {
            String::from_utf8(route_data(version, standard_json, &[(&place, settings)])).unwrap()
        };
        // Name server 4.7.0.
        assert_eq!(
            written(ServerVersion::V4_7_0, false),
            r#"{"brokerDatas":[{"brokerAddrs":{0:"127.0.0.1:18010"},"brokerName":"broker-a","cluster":"DefaultCluster"}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSynFlag":0,"writeQueueNums":4}]}"#
        );
        // Name server 5.5.0 to Java 5.5.0 and to Java 4.7.0.
        assert_eq!(
            written(ServerVersion::V5_5_0, true),
            r#"{"brokerDatas":[{"brokerAddrs":{"0":"127.0.0.1:18010"},"brokerName":"broker-a","cluster":"DefaultCluster","enableActingMaster":false}],"filterServerTable":{},"queueDatas":[{"brokerName":"broker-a","perm":6,"readQueueNums":4,"topicSysFlag":0,"writeQueueNums":4}]}"#
        );
        assert_eq!(
            written(ServerVersion::V5_5_0, false),
            written(ServerVersion::V5_5_0, true).replace("\"0\":", "0:")
        );
        // Name server 4.9.7.
        assert_eq!(
            written(ServerVersion::V4_9_7, false),
            written(ServerVersion::V4_7_0, false).replace("topicSynFlag", "topicSysFlag")
        );
    }

    #[test]
    fn the_list_of_brokers_has_bare_keys() {
        // Name server 4.7.0, which has one broker.
        assert_eq!(
            String::from_utf8(cluster_info(&[broker("broker-a", 18010)])).unwrap(),
            r#"{"brokerAddrTable":{"broker-a":{"brokerAddrs":{0:"127.0.0.1:18010"},"brokerName":"broker-a","cluster":"DefaultCluster"}},"clusterAddrTable":{"DefaultCluster":["broker-a"]}}"#
        );
        let two = cluster_info(&[broker("broker-a", 1), broker("broker-b", 2)]);
        assert!(
            String::from_utf8(two)
                .unwrap()
                .ends_with(r#":["broker-a","broker-b"]}}"#)
        );
    }
}

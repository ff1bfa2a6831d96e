//! The control: what Apache's own producer sends is read back by the same reader. If this fails, the harness
//! is broken and the other tests say nothing.

use crate::{Shared, support::read_all};

pub(crate) fn apache_producer_is_read_back(version: &str) {
    let cluster = Shared::Open.of(version);
    let results = cluster.java("send control 40");
    let read = read_all(&cluster, &["control"], 40);
    assert_eq!(read.len(), 40);
    for (i, result) in results.iter().enumerate() {
        let id = result["message_id"].as_str().unwrap();
        let message = read.iter().find(|message| message.message_id == id).unwrap();
        assert_eq!(message.text(), format!("Hello RocketMQ {i}"));
        assert_eq!(message.tags.as_deref(), Some("TagA"));
        assert_eq!(message.keys.as_deref(), Some(format!("key {i}").as_str()));
        assert_eq!(message.born_host, "127.0.0.1");
        assert_eq!(result["broker_name"], message.broker_name.as_str());
        assert_eq!(result["queue_id"], message.queue_id);
        assert_eq!(result["queue_offset"], message.queue_offset);
        assert_eq!(result["offset_message_id"], message.offset_message_id.as_str());
    }
}

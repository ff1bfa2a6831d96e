//! What topics and groups may be called (4.7.0 `Validators`, 5.x `TopicValidator`).

/// Longest topic name in bytes: stored records keep the length in one signed byte (4.7.0 `SendMessageProcessor`).
pub(crate) const MAX_TOPIC_LENGTH: usize = 127;

/// Longest group name in bytes: 5.x's limit. Unlike 4.7.0, which allows 255, because a group that 5.x refuses would
/// break on the day of the upgrade.
pub(crate) const MAX_GROUP_LENGTH: usize = 120;

/// The template topic that brokers create new topics from (`AUTO_CREATE_TOPIC_KEY_TOPIC`).
pub(crate) const TEMPLATE_TOPIC: &str = "TBW102";

/// 4.7.0 refuses this group at start, since it is every forgetful user's.
const DEFAULT_GROUP: &str = "DEFAULT_PRODUCER";

/// Topics that only brokers may write to: 5.x `TopicValidator.NOT_ALLOWED_SEND_TOPIC_SET`. 4.7.0's brokers would take
/// such a message and break.
const SYSTEM_TOPICS: &[&str] = &[
    TEMPLATE_TOPIC,
    "SCHEDULE_TOPIC_XXXX",
    "RMQ_SYS_TRANS_HALF_TOPIC",
    "RMQ_SYS_TRANS_OP_HALF_TOPIC",
    "TRANS_CHECK_MAX_TIME_TOPIC",
    "SELF_TEST_TOPIC",
    "OFFSET_MOVED_EVENT",
];

/// Topics that only brokers may create, besides those: 5.x `TopicValidator.SYSTEM_TOPIC_SET`.
const MORE_SYSTEM_TOPICS: &[&str] = &["BenchmarkTest", "RMQ_SYS_TRACE_TOPIC", "CHECKPOINT_TOPIC"];

/// 5.x `TopicValidator.SYSTEM_TOPIC_PREFIX`.
const SYSTEM_TOPIC_PREFIX: &str = "rmq_sys_";

/// Checks a topic that is asked about, which may be a broker's own. `Err` names the rule and the value.
pub(crate) fn check_known_topic(topic: &str) -> Result<(), String> {
    check_name("topic", topic, MAX_TOPIC_LENGTH)
}

/// Checks a topic that is to be created. `Err` names the rule and the value.
pub(crate) fn check_new_topic(topic: &str) -> Result<(), String> {
    check_known_topic(topic)?;
    let is_system_topic = SYSTEM_TOPICS.contains(&topic)
        || MORE_SYSTEM_TOPICS.contains(&topic)
        || topic.starts_with(SYSTEM_TOPIC_PREFIX);
    if is_system_topic {
        return Err(format!(
            "topic {topic:?} belongs to the brokers; it cannot be created"
        ));
    }
    Ok(())
}

/// Checks a topic that messages are sent to. `Err` names the rule and the value.
pub(crate) fn check_topic(topic: &str) -> Result<(), String> {
    check_name("topic", topic, MAX_TOPIC_LENGTH)?;
    if SYSTEM_TOPICS.contains(&topic) {
        return Err(format!(
            "topic {topic:?} belongs to the brokers; messages cannot be sent to it"
        ));
    }
    Ok(())
}

/// Checks a producer group. `Err` names the rule and the value.
pub(crate) fn check_group(group: &str) -> Result<(), String> {
    check_name("producer group", group, MAX_GROUP_LENGTH)?;
    if group == DEFAULT_GROUP {
        return Err(format!(
            "producer group {group:?} is the unset default; choose a name of your own"
        ));
    }
    Ok(())
}

fn check_name(what: &str, name: &str, longest: usize) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err(format!("the {what} is blank"));
    }
    if let Some(stranger) = name.chars().find(|c| !is_name_character(*c)) {
        return Err(format!(
            "{what} {:?} contains {stranger:?}; allowed are letters a-z A-Z, digits, '%', '|', '_' and '-'",
            excerpt(name)
        ));
    }
    if name.len() > longest {
        return Err(format!(
            "{what} {:?} has {} bytes; the limit is {longest}",
            excerpt(name),
            name.len()
        ));
    }
    Ok(())
}

fn is_name_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '%' | '|' | '_' | '-')
}

/// The beginning of a name, so that an error stays readable whatever it was given.
fn excerpt(name: &str) -> String {
    const SHOWN: usize = 140;
    if name.chars().count() <= SHOWN {
        name.to_owned()
    } else {
        name.chars().take(SHOWN).chain("…".chars()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_brokers_take_pass() {
        for topic in ["T", "%RETRY%group", "a-b_c|d%1", &"x".repeat(MAX_TOPIC_LENGTH)] {
            assert_eq!(check_topic(topic), Ok(()), "{topic}");
        }
        assert_eq!(check_group(&"g".repeat(MAX_GROUP_LENGTH)), Ok(()));
    }

    #[test]
    fn the_error_names_rule_and_value() {
        assert_eq!(check_topic(" ").unwrap_err(), "the topic is blank");
        assert!(check_topic("a b").unwrap_err().contains("\"a b\" contains ' '"));
        assert!(check_topic("bücher").unwrap_err().contains("'ü'"));
        assert!(
            check_topic(&"x".repeat(128))
                .unwrap_err()
                .contains("has 128 bytes; the limit is 127")
        );
        assert!(
            check_topic("TBW102")
                .unwrap_err()
                .contains("belongs to the brokers")
        );
        assert!(
            check_group("DEFAULT_PRODUCER")
                .unwrap_err()
                .contains("unset default")
        );
        assert!(
            check_group(&"x".repeat(121))
                .unwrap_err()
                .contains("the limit is 120")
        );
    }
}

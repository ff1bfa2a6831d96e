//! The property text of a message: `name 0x01 value 0x02`, repeated.
//!
//! Only the text. Which names are reserved is `message::property`'s knowledge; which properties a broker adds, the
//! mock's. Nothing here can fail or allocate more than a multiple of what it was given: readers of RocketMQ skip an
//! item that they do not understand, and so do these.

use std::collections::HashMap;

// The separators of `MessageDecoder`. Java 4.9.7 leaves out the last property separator.
use crate::message::property::{NAME_VALUE_SEPARATOR, PROPERTY_SEPARATOR};

/// How a release reads an item that a well-behaved producer would not write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReadingRules {
    /// `MessageDecoder.string2messageProperties` of 4.7.0: an item counts when it splits into exactly two parts, where
    /// trailing separators are ignored (`String.split`). So a value that holds 0x01 and an empty value are dropped,
    /// an empty name is kept.
    V4_7,
    /// The same method of 4.9.7 and 5.x: the name ends at the first 0x01, the value is all the rest; neither may be empty.
    V4_9,
}

/// The properties of `text` in their order, duplicates included. Readers let the last one of a name win.
pub(crate) fn pairs(text: &str, rules: ReadingRules) -> impl Iterator<Item = (&str, &str)> + Clone {
    text.split(PROPERTY_SEPARATOR)
        .filter_map(move |item| pair(item, rules))
}

fn pair(item: &str, rules: ReadingRules) -> Option<(&str, &str)> {
    match rules {
        ReadingRules::V4_7 => {
            let (name, value) = item
                .trim_end_matches(NAME_VALUE_SEPARATOR)
                .split_once(NAME_VALUE_SEPARATOR)?;
            (!value.contains(NAME_VALUE_SEPARATOR)).then_some((name, value))
        }
        ReadingRules::V4_9 => {
            let (name, value) = item.split_once(NAME_VALUE_SEPARATOR)?;
            (!name.is_empty() && !value.is_empty()).then_some((name, value))
        }
    }
}

/// The properties of `text`, one per name: the last value wins, in the place of the first.
pub(crate) fn parse(text: &str, rules: ReadingRules) -> Vec<(String, String)> {
    let mut places: HashMap<&str, usize> = HashMap::new();
    let mut unique: Vec<(&str, &str)> = Vec::new();
    for (name, value) in pairs(text, rules) {
        let place = *places.entry(name).or_insert(unique.len());
        match unique.get_mut(place) {
            Some(earlier) => earlier.1 = value,
            None => unique.push((name, value)),
        }
    }
    unique
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The value of `name` in `text`: the last one.
pub(crate) fn find<'a>(text: &'a str, name: &str, rules: ReadingRules) -> Option<&'a str> {
    pairs(text, rules)
        .filter(|pair| pair.0 == name)
        .map(|pair| pair.1)
        .last()
}

/// Appends the text of `properties`, each ended by 0x02, as Java 4.7.0 and 5.5.0 write it.
///
/// Names and values are taken as they are: that they hold no separator was checked when the message was built.
pub(crate) fn append<'a>(out: &mut String, properties: impl IntoIterator<Item = (&'a str, &'a str)>) {
    for (name, value) in properties {
        out.push_str(name);
        out.push(NAME_VALUE_SEPARATOR);
        out.push_str(value);
        out.push(PROPERTY_SEPARATOR);
    }
}

/// Bytes that [`append`] would add.
pub(crate) fn encoded_len<'a>(properties: impl IntoIterator<Item = (&'a str, &'a str)>) -> usize {
    properties.into_iter().fold(0_usize, |sum, (name, value)| {
        sum.saturating_add(name.len()).saturating_add(value.len() + 2)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owned(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn texts_of_real_clients_are_read_alike_by_both_rules() {
        for (text, expected) in [
            // Java 5.5.0
            (
                "KEYS\u{1}zk\u{2}UNIQ_KEY\u{1}FD0000000000000000000000000000027CA05FFD2B27731FEA830011\u{2}WAIT\u{1}true\u{2}TAGS\u{1}TagZ\u{2}",
                &[
                    ("KEYS", "zk"),
                    (
                        "UNIQ_KEY",
                        "FD0000000000000000000000000000027CA05FFD2B27731FEA830011",
                    ),
                    ("WAIT", "true"),
                    ("TAGS", "TagZ"),
                ][..],
            ),
            // Java 4.9.7 leaves out the last separator.
            (
                "UNIQ_KEY\u{1}FD0000000000000000000000000000023E735FFD2B277330D6670000\u{2}WAIT\u{1}true",
                &[
                    (
                        "UNIQ_KEY",
                        "FD0000000000000000000000000000023E735FFD2B277330D6670000",
                    ),
                    ("WAIT", "true"),
                ],
            ),
            // Go 2.1.2
            (
                "SHARDING_KEY\u{1}sk-1\u{2}UNIQ_KEY\u{1}C000020237A800000000732df6400005\u{2}",
                &[
                    ("SHARDING_KEY", "sk-1"),
                    ("UNIQ_KEY", "C000020237A800000000732df6400005"),
                ],
            ),
            ("", &[]),
        ] {
            assert_eq!(parse(text, ReadingRules::V4_7), owned(expected));
            assert_eq!(parse(text, ReadingRules::V4_9), owned(expected));
            let mut again = String::new();
            append(&mut again, expected.iter().copied());
            assert_eq!(again.trim_end_matches('\u{2}'), text.trim_end_matches('\u{2}'));
            assert_eq!(encoded_len(expected.iter().copied()), again.len());
        }
    }

    #[test]
    fn odd_items_are_read_as_each_release_reads_them() {
        for (item, v4_7, v4_9) in [
            ("a", None, None),
            ("\u{1}", None, None),
            ("a\u{1}", None, None),
            ("\u{1}b", Some(("", "b")), None),
            ("a\u{1}b\u{1}", Some(("a", "b")), Some(("a", "b\u{1}"))),
            ("a\u{1}b\u{1}c", None, Some(("a", "b\u{1}c"))),
            ("a\u{1}\u{1}c", None, Some(("a", "\u{1}c"))),
            ("\u{1}\u{1}c", None, None),
            ("é\u{1}ü", Some(("é", "ü")), Some(("é", "ü"))),
        ] {
            assert_eq!(pairs(item, ReadingRules::V4_7).next(), v4_7, "{item:?}");
            assert_eq!(pairs(item, ReadingRules::V4_9).next(), v4_9, "{item:?}");
        }
    }

    #[test]
    fn the_last_value_of_a_name_wins() {
        let text = "a\u{1}1\u{2}b\u{1}2\u{2}\u{2}a\u{1}3\u{2}";
        assert_eq!(parse(text, ReadingRules::V4_9), owned(&[("a", "3"), ("b", "2")]));
        assert_eq!(find(text, "a", ReadingRules::V4_7), Some("3"));
        assert_eq!(find(text, "c", ReadingRules::V4_7), None);
    }
}

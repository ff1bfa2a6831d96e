//! `END_TRANSACTION` (37): commits or rolls back a half message, or says that it is not known yet
//! (`EndTransactionRequestHeader`). There is no body.
//!
//! Sent two-way, brokers answer a commit and a rollback, and never an unknown (4.7.0 to 5.5.0).

use std::borrow::Cow;

use crate::wire::WireError;
use crate::wire::header::{FieldWriter, Header};

/// What is to become of a half message: the transaction bits of the system flag (`MessageSysFlag`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Unknown,
    Commit,
    Rollback,
}

impl Verdict {
    pub(crate) const fn number(self) -> i32 {
        match self {
            Self::Unknown => 0,
            Self::Commit => 8,
            Self::Rollback => 12,
        }
    }

    /// `None` for a number that brokers do not take: they answer nothing to it.
    pub(crate) fn from_number(number: i32) -> Option<Self> {
        [Self::Unknown, Self::Commit, Self::Rollback]
            .into_iter()
            .find(|verdict| verdict.number() == number)
    }
}

/// The fields of the request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EndTransaction<'a> {
    /// Must be the group that the half message names.
    pub(crate) producer_group: &'a str,
    /// Of the half message, in the queue of the broker's own topic.
    pub(crate) queue_offset: u64,
    /// Of the half message.
    pub(crate) commit_log_offset: u64,
    pub(crate) verdict: Verdict,
    /// The answer to a check.
    pub(crate) from_check: bool,
    /// The client's id of the message (`UNIQ_KEY`).
    pub(crate) message_id: &'a str,
    /// 4.7.0 has none for a message that it has just stored.
    pub(crate) transaction_id: Option<&'a str>,
    /// The topic that the message was sent to; 5.x checks the right to write to it. Unlike 5.x clients, which send the
    /// broker's own topic in the answer to a check, as its header names that one.
    pub(crate) topic: &'a str,
    /// For the 5.x proxy; 4.x has no such field and ignores it.
    pub(crate) broker_name: &'a str,
}

impl EndTransaction<'_> {
    pub(crate) fn write(&self, writer: &mut FieldWriter<'_>) {
        writer.text("producerGroup", self.producer_group);
        writer.text("tranStateTableOffset", &self.queue_offset.to_string());
        writer.text("commitLogOffset", &self.commit_log_offset.to_string());
        writer.number("commitOrRollback", self.verdict.number().into());
        writer.boolean("fromTransactionCheck", self.from_check);
        writer.text("msgId", self.message_id);
        if let Some(id) = self.transaction_id {
            writer.text("transactionId", id);
        }
        writer.text("topic", self.topic);
        writer.text("bname", self.broker_name);
    }
}

/// The request as a broker reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ReceivedEndTransaction<'a> {
    pub(crate) producer_group: Cow<'a, str>,
    pub(crate) queue_offset: u64,
    pub(crate) commit_log_offset: u64,
    /// See [`Verdict::from_number`].
    pub(crate) verdict: Option<Verdict>,
    pub(crate) from_check: bool,
    pub(crate) message_id: Cow<'a, str>,
    pub(crate) transaction_id: Option<Cow<'a, str>>,
    pub(crate) topic: Option<Cow<'a, str>>,
    pub(crate) broker_name: Option<Cow<'a, str>>,
}

impl<'a> ReceivedEndTransaction<'a> {
    pub(crate) fn decode(header: &Header<'a>) -> Result<Self, WireError> {
        let verdict: i32 = header.required_number("commitOrRollback")?;
        Ok(Self {
            producer_group: header.required("producerGroup")?,
            queue_offset: header.required_number("tranStateTableOffset")?,
            commit_log_offset: header.required_number("commitLogOffset")?,
            verdict: Verdict::from_number(verdict),
            from_check: header.boolean("fromTransactionCheck").unwrap_or(false),
            message_id: header.required("msgId")?,
            transaction_id: header.field("transactionId"),
            topic: header.field("topic"),
            broker_name: header.field("bname"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::{Serialization, split_frame};
    use crate::wire::header::{Envelope, Language, encode_frame};

    fn request(transaction_id: Option<&'static str>) -> EndTransaction<'static> {
        EndTransaction {
            producer_group: "PG_txn",
            queue_offset: 3,
            commit_log_offset: u64::MAX >> 1,
            verdict: Verdict::Commit,
            from_check: true,
            message_id: "7F0000010A5C",
            transaction_id,
            topic: "orders",
            broker_name: "broker-a",
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for (serialization, transaction_id) in [
            (Serialization::Json, None),
            (Serialization::Binary, Some("7F0000010A5C")),
        ] {
            let envelope = Envelope {
                code: 37,
                opaque: 1,
                flag: 2,
                language: Language::OTHER,
                version: 513,
                remark: None,
                serialization,
            };
            let mut out = Vec::new();
            let request = request(transaction_id);
            encode_frame(&mut out, &envelope, |writer| request.write(writer), b"").unwrap();
            let (frame, _) = split_frame(&out).unwrap().unwrap();
            let expected = ReceivedEndTransaction {
                producer_group: "PG_txn".into(),
                queue_offset: 3,
                commit_log_offset: u64::MAX >> 1,
                verdict: Some(Verdict::Commit),
                from_check: true,
                message_id: "7F0000010A5C".into(),
                transaction_id: transaction_id.map(Cow::from),
                topic: Some("orders".into()),
                broker_name: Some("broker-a".into()),
            };
            let header = frame.header().unwrap();
            assert_eq!(ReceivedEndTransaction::decode(&header).unwrap(), expected);
        }
    }

    #[test]
    fn what_is_missing_is_named_and_a_strange_verdict_is_none() {
        let decode = |fields: &str| {
            let json = format!(r#"{{"code":37,"opaque":1,"extFields":{{{fields}}}}}"#);
            let header = Header::decode(Serialization::Json, json.as_bytes()).unwrap();
            ReceivedEndTransaction::decode(&header)
                .map(|received| received.verdict)
                .map_err(|error| error.to_string())
        };
        let fields = |verdict: &str| {
            format!(
                r#""producerGroup":"g","tranStateTableOffset":"1","commitLogOffset":"2","msgId":"m","commitOrRollback":"{verdict}""#
            )
        };
        assert_eq!(decode(&fields("12")), Ok(Some(Verdict::Rollback)));
        assert_eq!(decode(&fields("0")), Ok(Some(Verdict::Unknown)));
        assert_eq!(decode(&fields("4")), Ok(None));
        assert!(decode(&fields("eight")).unwrap_err().contains("commitOrRollback"));
        assert!(decode(r#""producerGroup":"g""#).unwrap_err().contains("missing"));
        assert!(
            decode(&fields("8").replace("\"2\"", "\"-2\""))
                .unwrap_err()
                .contains("commitLogOffset")
        );
    }
}

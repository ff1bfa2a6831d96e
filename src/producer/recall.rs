//! Taking a timer message back: one request to the broker that holds it.

use std::{sync::Arc, time::Instant};

use super::{Producer, release, shared::Shared};
use crate::{
    cluster::call::call_and_wait,
    code::RequestCode,
    error::Error,
    message::{MessageId, names, timing},
    net::{connection::Request, deadline::Deadline},
    wire::{header::FieldWriter, recall_handle::RecallHandle, request::recall_message::RecallMessage},
};

impl Producer {
    /// Takes a timer message back before its time has come. `topic` is where it was sent to, `handle` what
    /// [`SendResult::recall_handle`](crate::SendResult::recall_handle) gave; it may be kept, and used by another producer.
    /// Gives back the id of the message.
    ///
    /// Needs brokers of 5.3.2 or later with `recallMessageEnable=true`, which is not how they are shipped. `Ok` says that the
    /// broker has noted not to deliver it (`RecallMessageProcessor`). A recall may be repeated. If the
    /// [result](crate::SendResult::may_be_duplicated) said that there may be a second copy, that one is not recalled when it
    /// is on another broker.
    ///
    /// Blocks for at most the send timeout: for the route, the connection and the answer. It is not retried.
    ///
    /// # Errors
    /// - [`Error::InvalidQuery`]: the handle is none, or of another topic. Nothing was sent.
    /// - [`Error::NotSupported`]: the broker is older. Nothing was sent.
    /// - [`Error::NoRoute`]: the broker that the handle names is not in the route of the topic. Nothing was sent.
    /// - [`Error::Refused`] with code 16 if recalls are not enabled, and 604 if the time has come.
    /// - Others as [`Producer::send`].
    ///
    /// ```
    /// # #[cfg(feature = "mock")] {
    /// # let cluster = rocketmq_producer::mock::MockCluster::builder().recalls(true).start()?;
    /// # let producer = rocketmq_producer::Producer::builder("g").name_servers(cluster.name_servers()).start()?;
    /// use std::time::Duration;
    /// use rocketmq_producer::Message;
    ///
    /// let reminder = Message::builder("orders").delay(Duration::from_secs(60)).body("pay!").build()?;
    /// let result = producer.send(&reminder)?;
    /// let handle = result.recall_handle().expect("the broker can recall it");
    /// // Paid meanwhile:
    /// assert_eq!(producer.recall("orders", handle)?, result.message_id);
    /// # }
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[doc(alias = "recallMessage")]
    pub fn recall(&self, topic: &str, handle: &str) -> Result<MessageId, Error> {
        recall(&self.handle.shared, topic, handle)
    }
}

fn recall(shared: &Arc<Shared>, topic: &str, handle: &str) -> Result<MessageId, Error> {
    let deadline = Deadline::after(shared.config.send_timeout);
    let _inside = shared.gate.enter()?;
    let (named, message_id) = check(topic, handle).map_err(|reason| Error::InvalidQuery { reason })?;
    let route = shared.routes.wait(&Arc::from(topic), &deadline)?;
    let broker = route
        .brokers
        .iter()
        .find(|broker| *broker.name == *named.broker_name);
    let broker = broker.ok_or_else(|| Error::NoRoute {
        topic: Arc::clone(&route.topic),
        reason: format!(
            "broker {}, which holds the message to be recalled, is not in it",
            named.broker_name
        )
        .into(),
    })?;
    let connection = shared.connections.wait(&broker.address, &deadline)?;
    release::wait(shared, &connection, deadline.at())?;
    release::demand(&timing::RECALL, &connection)?;
    let header = RecallMessage {
        producer_group: &shared.config.producer_group,
        topic,
        recall_handle: handle,
        broker_name: &named.broker_name,
    };
    let request = Request {
        code: RequestCode::RECALL_MESSAGE,
        write_fields: |writer: &mut FieldWriter<'_>| header.write(writer),
        body: &[],
    };
    let timeout = deadline.remaining(Instant::now());
    let answer = call_and_wait(&connection, request, timeout, deadline.at())?;
    answer.check(&broker.address).map(|()| message_id)
}

/// What the handle names, and the id of the message.
fn check(topic: &str, handle: &str) -> Result<(RecallHandle, MessageId), String> {
    names::check_topic(topic)?;
    let named = RecallHandle::decode(handle).map_err(|error| {
        format!("the text {handle:.80?} is no recall handle, which SendResult::recall_handle gives: {error}")
    })?;
    if named.topic != topic {
        return Err(format!(
            "the recall handle is of a message for topic {:.200?}, not for {topic:?}",
            named.topic
        ));
    }
    let message_id = MessageId::from_text(&named.message_id).ok_or_else(|| {
        format!(
            "the recall handle names {:.80?}, which is no message id",
            named.message_id
        )
    })?;
    Ok((named, message_id))
}

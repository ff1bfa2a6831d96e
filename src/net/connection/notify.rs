//! One-way requests that carry no message: nothing is lost if one dies, so none is counted as one-way messages are.

use std::{sync::Arc, time::Instant};

use super::{Connection, FLAG_ONEWAY, Frame, Manner, Unwritten};
use crate::{error::Error, net::in_flight::ONEWAY_OPAQUE};

impl Connection {
    /// Sends a request that is never answered. `Ok` means that the connection has taken it over, not that it is written.
    pub(crate) fn notify(self: &Arc<Self>, frame: impl Frame, until: Instant) -> Result<(), Error> {
        let now = Instant::now();
        let next = self
            .outgoing
            .append(Manner::Queued { until }, frame.size(), now, |out| {
                let envelope = self.settings.envelope(frame.code(), ONEWAY_OPAQUE, FLAG_ONEWAY);
                frame.encode(out, &envelope).map_err(Unwritten::Wire)?;
                // Known by the number that nobody waits for, so it is not among the lost messages.
                Ok(Some(ONEWAY_OPAQUE))
            });
        match next {
            Ok(next) => {
                self.carry_out(next);
                Ok(())
            }
            Err(rejected) => Err(self.rejection(rejected, now)),
        }
    }
}

//! How the outcome of an asynchronous send reaches whoever waits for it.

use std::sync::Arc;

use super::AsyncSend;
use crate::{
    net::workers::Task,
    producer::{admission::Closing, result::SendFailure},
};

impl AsyncSend {
    pub(super) fn run_closure(self: &Arc<Self>) {
        let task: Arc<dyn Task> = Arc::<Self>::clone(self);
        let is_internal = self
            .state
            .lock()
            .closing
            .as_ref()
            .is_some_and(Closing::is_internal);
        if is_internal {
            task.run();
        } else {
            self.shared.workers.submit(task);
        }
    }
}

impl Task for AsyncSend {
    fn run(self: Arc<Self>) {
        let mut state = self.state.lock();
        let taken = state.closing.take().zip(state.outcome.take());
        drop(state);
        let Some((closing, outcome)) = taken else { return };
        let outcome = outcome.map_err(|error| SendFailure::new(self.prepared.message.clone(), error));
        closing.run(&self.shared, outcome);
    }
}

//! Waiting for a container to end or to be gone.

use std::future::Future;

use crate::request::{Exit, WaitCondition};
use crate::{Engine, Error};

impl Engine {
    /// Looks the container up at once; the future completes when the condition holds.
    pub fn wait_container(
        &self,
        name: &str,
        condition: WaitCondition,
    ) -> Result<impl Future<Output = Exit> + Send + 'static + use<>, Error> {
        let container = self.find(name)?;
        let mut record = container.watch();
        let mut gone = container.gone.subscribe();
        let exits = record.borrow_and_update().exits;
        Ok(async move {
            loop {
                let now = record.borrow_and_update().clone();
                let is_gone = *gone.borrow_and_update();
                let holds = match condition {
                    WaitCondition::NotRunning => !now.state.status.is_active(),
                    WaitCondition::NextExit => now.exits > exits,
                    WaitCondition::Removed => false,
                };
                if holds || is_gone {
                    let error = Some(now.state.error.clone()).filter(|error| !error.is_empty());
                    return Exit { code: i64::from(now.state.exit_code), error };
                }
                // Both senders live as long as the container, which this future keeps alive.
                tokio::select! {
                    _ = record.changed() => {}
                    _ = gone.changed() => {}
                }
                let _ = &container;
            }
        })
    }
}

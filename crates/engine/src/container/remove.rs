//! Removing a container: a state that is recorded first, then steps that can be taken up again.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use monitor::Request;
use types::container::Status;

use super::{Container, lock};
use crate::request::RemoveContainer;
use crate::signal::SIGKILL;
use crate::{Engine, Error};

const KILL_TIMEOUT: Duration = Duration::from_secs(20);

impl Engine {
    /// Removes a container; on return its name, address and ports are free.
    pub async fn remove_container(self: &Arc<Self>, name: &str, request: RemoveContainer) -> Result<(), Error> {
        let container = self.find(name)?;
        self.remove_found(&container, request).await
    }

    pub(super) async fn remove_found(self: &Arc<Self>, container: &Arc<Container>, request: RemoveContainer) -> Result<(), Error> {
        let (_operation, killed) = match container.operation.try_lock() {
            Ok(operation) => (operation, false),
            Err(_) => {
                // A stop may wait for its deadline, or for ever: what is forced goes at once.
                let killed = request.force && self.kill_now(container).await;
                (container.operation.lock().await, killed)
            }
        };
        let record = container.record();
        if *container.gone.borrow() && killed {
            return Ok(());
        }
        if *container.gone.borrow() {
            return Err(Error::NoSuchContainer { name: record.name.clone() });
        }
        if record.is_alive() {
            if !request.force {
                return Err(Error::RemoveRunning { name: record.name.clone(), status: record.state.status.as_str() });
            }
            self.kill_for_removal(container).await?;
        }
        drop(container.settling.lock().await);
        // Recorded before anything goes: a crash from here on ends in a removed container, not in half of one.
        self.change(container, |record| {
            record.state.status = Status::Removing;
            record.removes_volumes = request.volumes;
        });
        container.policy_wake.notify_waiters();
        if !record.is_ephemeral() {
            self.save(container).await?;
        }
        self.remove_files(container).await.inspect_err(|_| {
            self.change(container, |record| record.state.status = Status::Dead);
            self.save_later(container);
        })
    }

    /// The steps of a removal: each may have been done before. Readable by whoever takes a removal up again.
    pub(crate) async fn remove_files(self: &Arc<Self>, container: &Arc<Container>) -> Result<(), Error> {
        let record = container.record();
        self.execs.container_removed(&record.id);
        // Clients that wait for a start that will not come.
        lock(&container.waiting).clear();
        self.drain_log(container).await;
        let (engine, removed) = (self.clone(), record.clone());
        let standby = lock(&container.standby).take();
        tokio::task::spawn_blocking(move || {
            if let Some(parts) = standby.and_then(crate::standby::Standby::take) {
                engine.discard_standby(parts);
            }
            let _ = std::fs::remove_dir_all(engine.layout.run(&removed.id));
            let gone = engine.store.remove_snapshot(removed.id.as_str());
            gone.map_err(|source| Error::Store { operation: "remove the container's files", source })
        })
        .await??;
        if record.removes_volumes {
            self.drop_anonymous_volumes(&record).await;
        }
        // Last: a crash before this ends in the same steps again.
        let (engine, removed) = (self.clone(), record.clone());
        tokio::task::spawn_blocking(move || engine.forget(&removed)).await??;
        self.containers.remove(&record.id);
        self.stats.forget(&record.id);
        container.gone.send_replace(true);
        self.events.publish("container", "destroy", record.id.as_str(), record.attributes());
        Ok(())
    }

    /// Kills a container that another operation holds. Whether there was one to kill.
    async fn kill_now(&self, container: &Container) -> bool {
        let Some(link) = container.link().filter(|_| container.record().is_alive()) else { return false };
        container.stopping.store(true, Ordering::Release);
        link.order(Request::Signal { signal: SIGKILL, exec: None }, &[]).await.is_ok()
    }

    async fn kill_for_removal(&self, container: &Arc<Container>) -> Result<(), Error> {
        container.stopping.store(true, Ordering::Release);
        // Removed by hand: `--rm` has nothing left to do at the end.
        container.keep.store(true, Ordering::Release);
        let Some(link) = container.link() else { return Ok(()) };
        match link.order(Request::Signal { signal: SIGKILL, exec: None }, &[]).await {
            Ok(()) => {}
            // It may have ended by itself in the meantime.
            Err(error) if container.record().is_alive() => {
                container.keep.store(false, Ordering::Release);
                return Err(error);
            }
            Err(_) => {}
        }
        self.ended_within(container, KILL_TIMEOUT).await
    }
}

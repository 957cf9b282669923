//! Standby sandboxes: monitors that wait for their container with its network namespace, interface and control groups ready, so that a start only has to
//! mount and execute.
//!
//! A standby brings the container's identifier with it, since control groups cannot be renamed; so it is bound when a container is made, and given up when
//! that container is not started soon. Only containers of the default bridge without wishes of their own qualify; all others start cold. The pool is
//! filled only while containers come, is emptied when none have come for a while, and leaves nothing behind: an engine that is killed takes the
//! namespaces with it, the monitors end by themselves, and the next engine removes the rest with all stray runs.

use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex, Weak};
use std::time::Duration;

use monitor::{Handle, Request};
use net::{Endpoint, EndpointRequest, Netns};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use types::Id;
use types::container::{EndpointSettings, HostConfig, NetworkingConfig};

use crate::container::lock;
use crate::sandbox::Mode;
use crate::{Engine, Error};

/// How long a container that was made and not started keeps its standby.
const BOUND_MAX: Duration = Duration::from_secs(5);
/// How long the pool stays full after the last start.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How long the end of a monitor that is not needed is waited for.
const END_SECS_MAX: i64 = 10;
const NETWORK: &str = "bridge";
/// The number of the request that has a monitor prepare; nobody waits for the answer.
const PREPARE_ID: u64 = 0;

/// Sandboxes that wait.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    state: Mutex<State>,
    wake: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: VecDeque<Standby>,
    filling: bool,
    closed: bool,
}

/// One of them. Dropped, it gives everything back.
#[derive(Debug)]
pub(crate) struct Standby {
    parts: Option<Parts>,
    engine: Weak<Engine>,
}

/// What it is made of.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) id: Id,
    pub(crate) handle: Handle,
    pub(crate) netns: Netns,
    pub(crate) endpoint: Endpoint,
}

impl Standby {
    /// The identifier of the container that it is for.
    pub(crate) fn id(&self) -> Option<Id> {
        self.parts.as_ref().map(|parts| parts.id.clone())
    }

    /// Takes it for a start.
    pub(crate) fn take(mut self) -> Option<Parts> {
        self.parts.take()
    }
}

impl Drop for Standby {
    fn drop(&mut self) {
        if let (Some(parts), Some(engine)) = (self.parts.take(), self.engine.upgrade()) {
            match tokio::runtime::Handle::try_current() {
                // It may be the last look at the engine: nothing is waited for on the way out of an async task.
                Ok(runtime) => drop(runtime.spawn_blocking(move || engine.discard_standby(parts))),
                Err(_) => engine.discard_standby(parts),
            }
        }
    }
}

/// Whether a container of this description can start in a standby.
pub(crate) fn qualifies(host: &HostConfig, networking: &NetworkingConfig) -> bool {
    let plain = |(name, asked): (&String, &EndpointSettings)| name == NETWORK && *asked == EndpointSettings::default();
    Mode::parse(host) == Mode::Network(NETWORK.to_owned())
        && networking.endpoints_config.iter().all(plain)
        && host.cgroup_parent.is_empty()
        && host.cpu_realtime_runtime == 0
        && !host.sysctls.keys().any(|name| name.starts_with("net"))
        && host.links.is_empty()
}

impl Engine {
    /// A standby for a container that is being made, if it qualifies and one is ready.
    pub(crate) fn bind_standby(&self, host: &HostConfig, networking: &NetworkingConfig) -> Option<Standby> {
        if self.config.sandbox.standby == 0 || !qualifies(host, networking) {
            return None;
        }
        lock(&self.standbys.state).ready.pop_front()
    }

    /// Gives the standby of a container up that is not started soon.
    pub(crate) fn watch_bound(self: &Arc<Self>, container: &Arc<crate::container::Container>) {
        let (container, engine) = (Arc::downgrade(container), Arc::downgrade(self));
        tokio::spawn(async move {
            tokio::time::sleep(BOUND_MAX).await;
            let Some(container) = container.upgrade() else { return };
            // Not while it starts: both would work on the same control group.
            let _operation = container.operation.lock().await;
            let standby = lock(&container.standby).take();
            if let (Some(parts), Some(engine)) = (standby.and_then(Standby::take), engine.upgrade()) {
                // Only a panic can fail here, which has been told already.
                let _ = tokio::task::spawn_blocking(move || engine.discard_standby(parts)).await;
            }
        });
    }

    /// A container has started that could have used a standby: sees that there are some for the next ones.
    pub(crate) fn fill_standbys(self: &Arc<Self>) {
        if self.config.sandbox.standby == 0 {
            return;
        }
        self.standbys.wake.notify_one();
        {
            let mut state = lock(&self.standbys.state);
            if state.filling || state.closed {
                return;
            }
            state.filling = true;
        }
        tokio::spawn(keep_full(Arc::downgrade(self)));
    }

    /// Gives all standbys back, for good. Blocks.
    pub(crate) fn close_standbys(&self) {
        let mut waiting = {
            let mut state = lock(&self.standbys.state);
            state.closed = true;
            std::mem::take(&mut state.ready)
        };
        waiting.extend(self.containers.all().iter().filter_map(|container| lock(&container.standby).take()));
        for standby in waiting {
            if let Some(parts) = standby.take() {
                self.discard_standby(parts);
            }
        }
        self.standbys.wake.notify_one();
    }

    /// Makes one. Blocks.
    fn make_standby(self: &Arc<Self>) -> Result<Standby, Error> {
        let failed = |operation| move |source| Error::Net { operation, source };
        let id = Id::random();
        let run = self.layout.run(&id);
        std::fs::create_dir_all(&run).map_err(|source| Error::File { operation: "make the run directory", path: run.clone(), source })?;
        let made = (|| {
            let link = |source| Error::Link { name: id.short().to_owned(), source };
            let netns = Netns::create(&crate::sandbox::sysctls(&HostConfig::default())).map_err(failed("make a network namespace"))?;
            let handle = self.monitors.standby(id.as_str(), &self.layout.monitor_socket(&id)).map_err(link)?;
            let cgroup = std::path::Path::new(&self.layout.cgroup_root).join(id.as_str());
            // Sent before the interface is made, so that both are worked on at once.
            handle.send(PREPARE_ID, Request::Prepare { cgroup: cgroup.to_string_lossy().into_owned() }, &[]).map_err(link)?;
            let mut request = EndpointRequest::new(id.clone(), "a container to come", NETWORK);
            request.ifname = Some("eth0".to_owned());
            match self.net.attach(&netns, &request).map_err(failed("connect a standby to its network")) {
                Ok(endpoint) => Ok(Parts { id: id.clone(), handle, netns, endpoint }),
                Err(error) => {
                    self.end_monitor(&handle);
                    Err(error)
                }
            }
        })();
        match made {
            Ok(parts) => Ok(Standby { parts: Some(parts), engine: Arc::downgrade(self) }),
            Err(error) => {
                let _ = std::fs::remove_dir_all(&run);
                Err(error)
            }
        }
    }

    /// Gives back what a standby has. Blocks.
    pub(crate) fn discard_standby(&self, parts: Parts) {
        let Parts { id, handle, netns, endpoint } = parts;
        if let Err(error) = crate::sandbox::give_back(&self.net, &id, std::slice::from_ref(&endpoint)) {
            tracing::warn!(error = types::error::chain(&error), "the network of a standby could not be given back");
        }
        drop(netns);
        self.end_monitor(&handle);
        drop(handle);
        self.remove_standby_group(&id);
        // Where the container stays, only its next start needs the folder, and makes it.
        let _ = std::fs::remove_dir_all(self.layout.run(&id));
    }

    fn remove_standby_group(&self, id: &Id) {
        let group = cgroup::Group::open(&self.cgroups, &std::path::Path::new(&self.layout.cgroup_root).join(id.as_str()));
        if let Err(error) = group.remove() {
            tracing::warn!(error = types::error::chain(&error), "the control group of a standby could not be removed");
        }
    }

    /// Ends a monitor that has no container, and takes it off the process table.
    fn end_monitor(&self, handle: &Handle) {
        let Some(pidfd) = handle.pidfd() else { return };
        // It may have ended by itself.
        let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        let timeout = Timespec { tv_sec: END_SECS_MAX, tv_nsec: 0 };
        let _ = rustix::io::retry_on_intr(|| poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], Some(&timeout)));
        handle.reap();
    }
}

/// The monitor of a standby on its way into a start; dropped, it ends.
pub(crate) struct Waiting<'e> {
    engine: &'e Engine,
    id: Id,
    handle: Option<Handle>,
}

impl<'e> Waiting<'e> {
    pub(crate) fn new(engine: &'e Engine, id: Id, handle: Handle) -> Self {
        Self { engine, id, handle: Some(handle) }
    }

    /// Tells it what to launch.
    pub(crate) fn launch(mut self, request: &monitor::LaunchRequest, fds: &monitor::LaunchFds<'_>) -> Result<Handle, monitor::Error> {
        let handle = self.handle.take().ok_or_else(|| monitor::Error::Spawn(std::io::ErrorKind::NotFound.into()))?;
        match handle.launch(request, fds) {
            Ok(()) => Ok(handle),
            Err(error) => {
                self.handle = Some(handle);
                Err(error)
            }
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(handle) = self.handle.take() {
            self.engine.end_monitor(&handle);
            self.engine.remove_standby_group(&self.id);
        }
    }
}

impl Parts {
    /// Whether its monitor still waits.
    pub(crate) fn is_alive(&self) -> bool {
        let Some(pidfd) = self.handle.pidfd() else { return false };
        let now = Timespec { tv_sec: 0, tv_nsec: 0 };
        matches!(poll(&mut [PollFd::new(&pidfd.as_fd(), PollFlags::IN)], Some(&now)), Ok(0))
    }
}

/// Fills the pool whenever something was taken, until nothing has been for a while.
async fn keep_full(engine: Weak<Engine>) {
    loop {
        let Some(strong) = engine.upgrade() else { return };
        let wanted = strong.config.sandbox.standby;
        let lacks = {
            let state = lock(&strong.standbys.state);
            !state.closed && state.ready.len() < wanted
        };
        if lacks {
            let maker = strong.clone();
            let made = tokio::task::spawn_blocking(move || maker.make_standby()).await;
            match made {
                Ok(Ok(standby)) => {
                    let mut state = lock(&strong.standbys.state);
                    if !state.closed {
                        state.ready.push_back(standby);
                        continue;
                    }
                    drop(state);
                    drop(standby);
                }
                Ok(Err(error)) => tracing::debug!(error = types::error::chain(&error), "no standby could be made"),
                Err(_) => {}
            }
        }
        let idle = tokio::time::timeout(IDLE_MAX, strong.standbys.wake.notified()).await.is_err();
        let mut state = lock(&strong.standbys.state);
        if idle || state.closed {
            state.filling = false;
            let ready = std::mem::take(&mut state.ready);
            drop(state);
            // Each gives itself back.
            drop(ready);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_containers_of_the_default_bridge_qualify() {
        let networking = |name: &str, settings: EndpointSettings| NetworkingConfig {
            endpoints_config: [(name.to_owned(), settings)].into_iter().collect(),
        };
        let none = NetworkingConfig::default;
        let host = |mode: &str| HostConfig { network_mode: mode.to_owned(), ..HostConfig::default() };
        assert!(qualifies(&host("bridge"), &none()) && qualifies(&host("default"), &networking("bridge", EndpointSettings::default())));
        for mode in ["host", "none", "container:x", "mine"] {
            assert!(!qualifies(&host(mode), &none()), "{mode}");
        }
        let mac = EndpointSettings { mac_address: "02:00:00:00:00:01".to_owned(), ..EndpointSettings::default() };
        assert!(!qualifies(&host("bridge"), &networking("bridge", mac)));
        assert!(!qualifies(&host("bridge"), &networking("mine", EndpointSettings::default())));
        let sysctl = [("net.ipv4.ip_forward".to_owned(), "1".to_owned())].into_iter().collect();
        assert!(!qualifies(&HostConfig { sysctls: sysctl, ..host("bridge") }, &none()));
        assert!(!qualifies(&HostConfig { cgroup_parent: "/x".to_owned(), ..host("bridge") }, &none()));
    }
}

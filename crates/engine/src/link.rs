//! The way to one monitor: requests and their answers, and what the monitor tells by itself.

use std::collections::HashMap;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use monitor::{Arrival, Handle, LAUNCH_ID, Reply, Request};
use tokio::io::unix::AsyncFd;
use tokio::sync::{mpsc, oneshot};

use crate::container::lock;
use crate::{Error, ready};

/// A monitor that does not answer within this time is broken: all it does for an answer takes milliseconds.
const REPLY_TIMEOUT: Duration = Duration::from_secs(30);

/// What a monitor tells by itself.
#[derive(Debug)]
pub(crate) enum Notice {
    /// Something happened in the container.
    Event(monitor::Event),
    /// The monitor is gone.
    Lost,
}

/// Told of an exec's end before any later answer of the monitor is handed on.
pub(crate) type ExecEnd = Box<dyn Fn(&monitor::ExecExit) + Send + Sync>;

/// A connection to a monitor.
pub(crate) struct Link {
    name: String,
    exec_end: ExecEnd,
    handle: AsyncFd<Handle>,
    next: AtomicU64,
    /// `None` once the connection is closed.
    waiting: Mutex<Option<HashMap<u64, oneshot::Sender<Reply>>>>,
}

/// An answer that is under way.
pub(crate) struct Answer {
    name: String,
    receiver: oneshot::Receiver<Reply>,
}

impl Link {
    /// Takes over a handle. The answer is that to the launch for a monitor that was just started, or the state that a connection is told first.
    pub(crate) fn open(
        name: String,
        handle: Handle,
        exec_end: ExecEnd,
    ) -> Result<(Arc<Self>, Answer, mpsc::UnboundedReceiver<Notice>), Error> {
        let first = if handle.pid().is_some() { LAUNCH_ID } else { 0 };
        let failed = |source| Error::Monitor { name: name.clone(), what: format!("cannot be waited for: {source}") };
        let handle = ready::watched(handle).map_err(failed)?;
        let (sender, receiver) = oneshot::channel();
        let waiting = Mutex::new(Some(HashMap::from([(first, sender)])));
        let link = Arc::new(Self { name: name.clone(), exec_end, handle, next: AtomicU64::new(LAUNCH_ID + 1), waiting });
        let (notices, notified) = mpsc::unbounded_channel();
        tokio::spawn(link.clone().receive(notices));
        Ok((link, Answer { name, receiver }, notified))
    }

    /// Asks, and waits for the answer. A failure that the monitor reports comes back as its reply.
    pub(crate) async fn request(&self, request: Request, clients: &[BorrowedFd<'_>]) -> Result<Reply, Error> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        match lock(&self.waiting).as_mut() {
            Some(waiting) => waiting.insert(id, sender),
            None => return Err(self.lost()),
        };
        if let Err(source) = self.handle.get_ref().send(id, request, clients) {
            lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&id));
            return Err(Error::Link { name: self.name.clone(), source });
        }
        Answer { name: self.name.clone(), receiver }.get().await
    }

    /// Asks for something that has no answer but success.
    pub(crate) async fn order(&self, request: Request, clients: &[BorrowedFd<'_>]) -> Result<(), Error> {
        match self.request(request, clients).await? {
            Reply::Failed { text, .. } => Err(Error::Monitor { name: self.name.clone(), what: text }),
            _ => Ok(()),
        }
    }

    async fn receive(self: Arc<Self>, notices: mpsc::UnboundedSender<Notice>) {
        'connection: while let Ok(mut ready) = self.handle.readable().await {
            loop {
                match self.handle.get_ref().try_recv() {
                    Ok(Arrival::Reply(id, reply)) => {
                        if let Some(sender) = lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&id)) {
                            // The asker may have given up.
                            let _ = sender.send(reply);
                        }
                    }
                    Ok(Arrival::Event(event)) => {
                        if let monitor::Event::ExecExited(exit) = &event {
                            (self.exec_end)(exit);
                        }
                        let _ = notices.send(Notice::Event(event));
                    }
                    Ok(Arrival::Unknown(id)) => {
                        lock(&self.waiting).as_mut().and_then(|waiting| waiting.remove(&id));
                    }
                    Ok(Arrival::Empty) => break ready.clear_ready(),
                    Ok(Arrival::Closed) => break 'connection,
                    Err(error) => {
                        tracing::error!(container = self.name, error = types::error::chain(&error), "the monitor's message cannot be read");
                        break 'connection;
                    }
                }
            }
        }
        // Dropping the senders wakes who still waits.
        lock(&self.waiting).take();
        let _ = notices.send(Notice::Lost);
        self.reap().await;
    }

    /// Takes the ended monitor off the process table.
    async fn reap(&self) {
        let Some(pidfd) = self.handle.get_ref().pidfd().and_then(|fd| fd.try_clone_to_owned().ok()) else { return };
        let Ok(pidfd) = ready::watched(pidfd) else { return };
        while !self.handle.get_ref().reap() {
            match pidfd.readable().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
        }
    }

    /// Ends a monitor that this engine started and that does not answer; its container goes with it.
    pub(crate) fn kill_monitor(&self) {
        if let Some(pidfd) = self.handle.get_ref().pidfd() {
            // It may have ended by itself.
            let _ = rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::KILL);
        }
    }

    fn lost(&self) -> Error {
        Error::Monitor { name: self.name.clone(), what: "is gone".to_owned() }
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "Link({})", self.name)
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.handle.get_ref().as_fd()
    }
}

impl Answer {
    /// Waits for it however long it takes, as long as the monitor is there.
    pub(crate) async fn get_at_last(self) -> Result<Reply, Error> {
        self.receiver.await.map_err(|_| Error::Monitor { name: self.name, what: "ended before it answered".to_owned() })
    }

    /// Waits for it.
    pub(crate) async fn get(self) -> Result<Reply, Error> {
        let failed = |what: &str| Error::Monitor { name: self.name.clone(), what: what.to_owned() };
        match tokio::time::timeout(REPLY_TIMEOUT, self.receiver).await {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(failed("ended before it answered")),
            Err(_) => Err(failed("does not answer")),
        }
    }
}

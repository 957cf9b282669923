//! Stopping a build: told once, and heard by whoever works on it.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use crate::{Error, Result};

type Listener = Box<dyn FnOnce() + Send>;

/// Whether a build is to stop. Clones mean the same build.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    cancelled: bool,
    listeners: Vec<Listener>,
}

impl Cancel {
    /// Stops the build.
    pub fn cancel(&self) {
        let listeners = {
            let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            state.cancelled = true;
            std::mem::take(&mut state.listeners)
        };
        listeners.into_iter().for_each(|listener| listener());
    }

    /// Whether the build is to stop.
    pub fn is_cancelled(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).cancelled
    }

    /// An error if the build is to stop.
    pub fn check(&self) -> Result<()> {
        match self.is_cancelled() {
            true => Err(Error::Cancelled),
            false => Ok(()),
        }
    }

    /// Calls `listener` when the build is to stop, at once if it is already. It must not block.
    pub fn listen(&self, listener: impl FnOnce() + Send + 'static) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match state.cancelled {
            true => {
                drop(state);
                listener();
            }
            false => state.listeners.push(Box::new(listener)),
        }
    }
}

impl fmt::Debug for Cancel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Cancel({})", self.is_cancelled())
    }
}

//! When each step of making and starting a container was done: for whoever wants to know where the time goes.

use std::borrow::Cow;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::container::lock;
use crate::{Engine, Error};

/// A start has a dozen steps; a container that is started again begins anew.
const STEPS_LEN_MAX: usize = 64;

/// The steps of one start.
#[derive(Debug, Default, Clone)]
pub struct Trace(Vec<Step>);

/// One step, and when it was done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// What was done.
    pub name: Cow<'static, str>,
    /// When, in nanoseconds of Unix time.
    pub at_ns: i64,
}

impl Trace {
    /// Notes that a step is done now.
    pub(crate) fn done(&mut self, name: &'static str) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos());
        self.add(name.into(), i64::try_from(now).unwrap_or(i64::MAX));
    }

    /// Notes a step of somebody else.
    pub(crate) fn add(&mut self, name: Cow<'static, str>, at_ns: i64) {
        if self.0.len() < STEPS_LEN_MAX {
            self.0.push(Step { name, at_ns });
        }
    }

    /// Forgets all.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }

    /// The steps in the order of time.
    pub fn steps(&self) -> Vec<Step> {
        let mut steps = self.0.clone();
        steps.sort_by_key(|step| step.at_ns);
        steps
    }
}

impl Engine {
    /// The steps of a container's latest start, those of its making included if it was the first.
    pub fn start_trace(&self, name: &str) -> Result<Trace, Error> {
        Ok(lock(&self.find(name)?.trace).clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_in_order_and_bounded() {
        let mut trace = Trace::default();
        trace.add("late".into(), i64::MAX);
        trace.done("now");
        assert_eq!(trace.steps().iter().map(|step| step.name.as_ref()).collect::<Vec<_>>(), ["now", "late"]);
        (0..1000).for_each(|_| trace.done("more"));
        assert_eq!(trace.steps().len(), STEPS_LEN_MAX);
        trace.clear();
        assert!(trace.steps().is_empty());
    }
}

//! Rates: so many requests per second from each address, with a burst.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Addresses that are told apart at a time.
const ADDRESSES_MAX: usize = 100_000;
/// The burst that is allowed, as a time of the allowed rate.
const BURST_SECONDS: f64 = 5.0;

/// Requests per second and address.
#[derive(Debug)]
pub struct Limiter {
    per_second: f64,
    buckets: Mutex<HashMap<IpAddr, (f64, Instant)>>,
}

impl Limiter {
    /// A limit; the burst is that of five seconds.
    pub fn new(per_second: u32) -> Self {
        Self { per_second: f64::from(per_second), buckets: Mutex::default() }
    }

    /// Counts a request. Answers how long to wait if it is one too many.
    pub fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let full = self.per_second * BURST_SECONDS;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        if buckets.len() >= ADDRESSES_MAX {
            // Those that have been quiet long enough to have a full bucket again need no entry.
            buckets.retain(|_, (_, since)| now.saturating_duration_since(*since).as_secs_f64() < BURST_SECONDS);
        }
        let (left, since) = buckets.entry(address).or_insert((full, now));
        *left = (*left + now.saturating_duration_since(*since).as_secs_f64() * self.per_second).min(full);
        *since = now;
        match *left >= 1.0 {
            true => {
                *left -= 1.0;
                Ok(())
            }
            false => Err(Duration::from_secs_f64((1.0 - *left) / self.per_second)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_then_the_rate() {
        let limiter = Limiter::new(2);
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let begun = Instant::now();
        assert_eq!((0..20).filter(|_| limiter.take(one, begun).is_ok()).count(), 10);
        assert!(limiter.take(other, begun).is_ok());
        let wait = limiter.take(one, begun).expect_err("is empty");
        assert_eq!(wait, Duration::from_millis(500));
        assert!(limiter.take(one, begun + wait).is_ok() && limiter.take(one, begun + wait).is_err());
        assert_eq!((0..20).filter(|_| limiter.take(one, begun + Duration::from_secs(60)).is_ok()).count(), 10);
    }
}

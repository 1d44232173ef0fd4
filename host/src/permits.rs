//! Permits: how many calls may run at once, counted where they run.
//!
//! A permit is taken without waiting and given back when it is dropped. It rides in the body of an answer, so a slow
//! download counts for as long as it lasts.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
};

/// A bound on what runs at once. Clones share the count.
#[derive(Debug, Clone)]
pub struct Permits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    limit: usize,
    in_use: AtomicUsize,
    refused: AtomicU64,
}

impl Permits {
    /// At most `limit` permits at once.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Inner { limit, in_use: AtomicUsize::new(0), refused: AtomicU64::new(0) }))
    }

    /// Takes a permit, or counts a refusal. Never waits.
    pub fn try_acquire(&self) -> Option<Permit> {
        let taken = self.0.in_use.fetch_add(1, Ordering::AcqRel);
        // From here on the count is given back, whatever happens.
        let permit = Permit(self.0.clone());
        if taken < self.0.limit {
            return Some(permit);
        }
        self.0.refused.fetch_add(1, Ordering::Relaxed);
        None
    }

    /// Permits taken now.
    pub fn in_use(&self) -> usize {
        self.0.in_use.load(Ordering::Acquire)
    }

    /// Permits that were refused so far.
    pub fn refused(&self) -> u64 {
        self.0.refused.load(Ordering::Relaxed)
    }

    /// Most permits at once.
    pub fn limit(&self) -> usize {
        self.0.limit
    }
}

/// One of a bounded number; given back when dropped.
#[derive(Debug)]
pub struct Permit(Arc<Inner>);

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.in_use.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_than_the_limit_and_each_comes_back() {
        let permits = Permits::new(2);
        let first = permits.try_acquire().expect("room");
        let second = permits.try_acquire().expect("room");
        assert!(permits.try_acquire().is_none());
        assert_eq!((permits.in_use(), permits.refused()), (2, 1));
        drop(first);
        let third = permits.try_acquire().expect("room again");
        drop((second, third));
        assert_eq!(permits.in_use(), 0);
    }
}

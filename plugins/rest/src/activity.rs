//! What a connection is doing, for its times: whether calls run, since when a head is on its way, since when nothing is.
//!
//! hyper has a timer of its own for heads, but it also runs while a connection is idle, and it allocates anew for each
//! request. Here a call costs two looks at the clock, and the connection has one timer that is set only when it is due.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// The state of one connection. Its fields guard no other memory, so relaxed order is enough; on HTTP/1 they are all
/// touched by one task anyway.
#[derive(Debug)]
pub(crate) struct Activity {
    began: Instant,
    calls: AtomicUsize,
    /// Microseconds since `began`.
    idle_since: AtomicU64,
    /// Microseconds since `began`, plus one; 0 if no head has begun.
    head_since: AtomicU64,
    cut: AtomicBool,
    unread: AtomicBool,
    /// Bytes outside of calls begin a head on HTTP/1. On HTTP/2 they may be a ping.
    multiplexed: AtomicBool,
}

/// When a connection has waited long enough, and for what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Due {
    /// A head must be complete by then.
    Head(Instant),
    /// A new call must have begun by then.
    Idle(Instant),
}

impl Due {
    pub(crate) fn at(self) -> Instant {
        let (Due::Head(at) | Due::Idle(at)) = self;
        at
    }
}

impl Activity {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            calls: AtomicUsize::new(0),
            idle_since: AtomicU64::new(0),
            head_since: AtomicU64::new(0),
            cut: AtomicBool::new(false),
            unread: AtomicBool::new(false),
            multiplexed: AtomicBool::new(false),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX - 1)
    }

    /// The connection speaks HTTP/2.
    pub(crate) fn multiplexed(&self) {
        self.multiplexed.store(true, Relaxed);
        self.head_since.store(0, Relaxed);
    }

    /// Bytes came from the caller.
    pub(crate) fn bytes_came(&self) {
        if self.calls.load(Relaxed) == 0
            && self.head_since.load(Relaxed) == 0
            && !self.multiplexed.load(Relaxed)
        {
            self.head_since.store(self.now() + 1, Relaxed);
        }
    }

    /// A head is complete: its call runs until the guard is dropped.
    pub(crate) fn begin(self: &Arc<Self>) -> Running {
        self.calls.fetch_add(1, Relaxed);
        self.head_since.store(0, Relaxed);
        Running(self.clone())
    }

    /// When to stop waiting, `None` while calls run: their times are the routes' matter.
    pub(crate) fn due(&self, head: Duration, idle: Duration) -> Option<Due> {
        if self.calls.load(Relaxed) > 0 {
            return None;
        }
        Some(match self.head_since.load(Relaxed) {
            0 => Due::Idle(self.began + Duration::from_micros(self.idle_since.load(Relaxed)) + idle),
            since => Due::Head(self.began + Duration::from_micros(since - 1) + head),
        })
    }

    /// An answer was cut whose end is told by nothing but the end of the connection: it must end with a reset, or the
    /// caller would take what it has for all of it.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Relaxed);
    }

    pub(crate) fn is_cut(&self) -> bool {
        self.cut.load(Relaxed)
    }

    /// A request was answered that was not read to its end; its caller may still be sending.
    pub(crate) fn unread(&self) {
        self.unread.store(true, Relaxed);
    }

    pub(crate) fn has_unread(&self) -> bool {
        self.unread.load(Relaxed)
    }
}

/// A call that runs, until dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<Activity>);

impl Running {
    /// See [`Activity::cut`].
    pub(crate) fn cut(&self) {
        self.0.cut();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The stamp first: whoever sees no call sees the time, too.
        self.0.idle_since.store(self.0.now(), Relaxed);
        self.0.calls.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Duration = Duration::from_secs(10);
    const IDLE: Duration = Duration::from_secs(75);

    /// Whether this is `span` after some moment since `start`, to the microsecond that is kept.
    fn is_since(at: Instant, start: Instant, span: Duration) -> bool {
        at + Duration::from_micros(1) >= start + span && at <= Instant::now() + span
    }

    #[test]
    fn a_head_has_its_own_time_and_a_call_none() {
        let start = Instant::now();
        let activity = Arc::new(Activity::new());
        assert!(matches!(activity.due(HEAD, IDLE), Some(Due::Idle(at)) if is_since(at, start, IDLE)));
        let start = Instant::now();
        activity.bytes_came();
        let due = activity.due(HEAD, IDLE);
        assert!(matches!(due, Some(Due::Head(at)) if is_since(at, start, HEAD)));
        std::thread::sleep(Duration::from_millis(2));
        activity.bytes_came();
        assert_eq!(activity.due(HEAD, IDLE), due, "more bytes don't make it later");
        let (first, second) = (activity.begin(), activity.begin());
        activity.bytes_came();
        assert_eq!(activity.due(HEAD, IDLE), None);
        drop(first);
        assert_eq!(activity.due(HEAD, IDLE), None);
        let start = Instant::now();
        drop(second);
        assert!(matches!(activity.due(HEAD, IDLE), Some(Due::Idle(at)) if is_since(at, start, IDLE)));
    }

    #[test]
    fn bytes_between_calls_begin_no_head_on_http2() {
        let activity = Arc::new(Activity::new());
        activity.bytes_came();
        activity.multiplexed();
        activity.bytes_came();
        assert!(matches!(activity.due(HEAD, IDLE), Some(Due::Idle(_))));
    }
}

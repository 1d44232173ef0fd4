//! The tasks of one connector: connections, what HTTP/2 runs beside them, uploads after an upgrade, the pool's broom.
//!
//! All of them end with the connector at the latest; none is joined before, as none has a result.

use std::{
    fmt,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::task::{AbortHandle, JoinSet};

/// Owns tasks. Clones share them.
#[derive(Clone)]
pub(crate) struct Tasks(Arc<Mutex<Option<JoinSet<()>>>>);

impl Tasks {
    pub(crate) fn new() -> Self {
        Self(Arc::new(Mutex::new(Some(JoinSet::new()))))
    }

    /// Runs a task until it ends or [`stop`](Self::stop) is called. `None`, and the future is dropped, after that and
    /// outside of a runtime.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) -> Option<AbortHandle> {
        tokio::runtime::Handle::try_current().ok()?;
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let set = set.as_mut()?;
        // Those that ended would otherwise stay until the connector goes.
        while set.try_join_next().is_some() {}
        Some(set.spawn(task))
    }

    /// Aborts all tasks, and takes no new ones.
    pub(crate) fn stop(&self) {
        // Tasks are dropped outside of the lock: they may spawn in their drop.
        let set = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(set);
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

/// What HTTP/2 runs beside its connections: one small task for each call.
impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}

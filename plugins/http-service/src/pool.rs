//! Connections to one service, kept for the next call.
//!
//! ```text
//!            ┌────────────── idle (a stack: the warmest first) ◀─────────────┐ exchange over, connection ready
//! acquire ───┤                                                              │
//!            └─ none idle ─▶ dial, within `connections` ──▶ one exchange ───┼──▶ finishing: the answer is complete,
//!                                                             │             │    the upload still flows
//!                                      dropped in the middle ▼             └── ready again
//!                                                    closed at once
//! ```
//! HTTP/2 connections are shared instead: a call takes a place on the first that has one; if none has, one connection
//! is dialled for all that wait.
//!
//! Idle connections are swept by a task that lives only as long as there are some. Dropping the pool's owner stops all
//! tasks, and with them every connection.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicU8, Ordering},
    },
    time::{Duration, Instant},
};

use edgeway_plugin::{Fault, FaultCode};
use hyper::client::conn::{http1::Builder as Http1Builder, http2::Builder as Http2Builder};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    task::AbortHandle,
};
use tracing::{Instrument, debug_span};

use crate::{
    config::PoolSettings,
    dial::{Dialer, Protocol},
    fault,
    http1::{self, Http1},
    http2::{self, Http2, Http2Set, Stream},
    tasks::Tasks,
};

/// When a caller that met the limit of connections may come back: calls are short against it.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often a call follows a service that changes its protocol from one connection to the next.
const MAX_TURNS: usize = 4;

/// What a call is sent on.
#[derive(Debug)]
pub(crate) enum Connection {
    Http1(Http1),
    Http2(Stream),
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Pool {
    settings: PoolSettings,
    dialer: Dialer,
    http1: Http1Builder,
    http2: Http2Builder<Tasks>,
    slots: Arc<Semaphore>,
    tasks: Tasks,
    /// The protocol of the last connection, for a service that has a choice.
    learned: AtomicU8,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    closed: bool,
    /// Ready ones, in the order in which they fell idle.
    idle: Vec<Http1>,
    /// Those whose exchange has an answer, but whose request is still on its way.
    finishing: Vec<Http1>,
    http2: Http2Set,
    /// The dial that calls wait for.
    dialling: Option<watch::Receiver<Option<Result<(), Fault>>>>,
    sweep: Option<AbortHandle>,
}

const UNKNOWN: u8 = 0;
const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

impl Pool {
    pub(crate) fn new(settings: PoolSettings, dialer: Dialer) -> Arc<Self> {
        let tasks = Tasks::new();
        let learned = match dialer.fixed_protocol() {
            None => UNKNOWN,
            Some(Protocol::Http1) => HTTP1,
            Some(Protocol::Http2) => HTTP2,
        };
        Arc::new(Self {
            settings,
            dialer,
            http1: http1::builder(&settings),
            http2: http2::builder(&settings, &tasks),
            slots: Arc::new(Semaphore::new(settings.connections)),
            tasks,
            learned: AtomicU8::new(learned),
            state: Mutex::default(),
        })
    }

    pub(crate) fn settings(&self) -> &PoolSettings {
        &self.settings
    }

    pub(crate) fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    pub(crate) fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// A connection for one exchange. `only_http1` for what HTTP/2 has not, `fresh` for one that no call has used.
    ///
    /// # Errors
    /// [`FaultCode::ServiceRefused`] if none can be made, [`FaultCode::Overloaded`] at the limit,
    /// [`FaultCode::Unsupported`] if HTTP/1.1 is asked of an h2c service.
    ///
    /// # Cancel safety
    /// Nothing is lost: a dial of its own is dropped, a shared one goes on for the others.
    pub(crate) async fn acquire(
        self: &Arc<Self>,
        only_http1: bool,
        fresh: bool,
    ) -> Result<Connection, Fault> {
        if only_http1 && self.dialer.fixed_protocol() == Some(Protocol::Http2) {
            return Err(Fault::with_detail(FaultCode::Unsupported, "an h2c service can't switch protocols"));
        }
        let mut turns = 0;
        while turns < MAX_TURNS {
            if only_http1 || self.learned.load(Ordering::Acquire) == HTTP1 {
                if !fresh && let Some(connection) = self.checkout() {
                    return Ok(Connection::Http1(connection));
                }
                match self.open(only_http1).await? {
                    Opened::Http1(connection) => return Ok(Connection::Http1(connection)),
                    Opened::Http2(connection) => {
                        self.share(connection);
                        turns += 1;
                    }
                }
            } else {
                if let Some(stream) = self.state().http2.enter() {
                    return Ok(Connection::Http2(stream));
                }
                // Ends at the latest with the limit of connections: each turn takes one.
                self.dial_for_all().await?;
                if self.learned.load(Ordering::Acquire) == HTTP1 {
                    turns += 1;
                }
            }
        }
        Err(fault::nonsense("the service changes its protocol from one connection to the next"))
    }

    /// Takes a connection back whose answer is complete.
    pub(crate) fn release(self: &Arc<Self>, mut connection: Http1) {
        if connection.sender.is_closed() {
            return;
        }
        connection.reused = true;
        connection.since = Instant::now();
        let mut state = self.state();
        if state.closed {
            return;
        }
        if !connection.sender.is_ready() {
            state.finishing.push(connection);
        } else if connection.reusable && state.idle.len() < self.settings.idle {
            state.idle.push(connection);
        } else {
            return;
        }
        self.start_sweeping(&mut state);
    }

    /// Stops all tasks and closes all connections.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let connections = (std::mem::take(&mut state.idle), std::mem::take(&mut state.finishing));
        let shared = std::mem::take(&mut state.http2);
        drop(state);
        drop((connections, shared));
        self.tasks.stop();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // State is whole between any two statements that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn checkout(&self) -> Option<Http1> {
        let now = Instant::now();
        let mut state = self.state();
        loop {
            while let Some(connection) = state.idle.pop() {
                if connection.sender.is_ready() && now - connection.since < self.settings.idle_timeout {
                    return Some(connection);
                }
            }
            state.settle(self.settings.idle.max(1), now);
            if state.idle.is_empty() {
                return None;
            }
        }
    }

    async fn open(&self, only_http1: bool) -> Result<Opened, Fault> {
        let slot = self.slot()?;
        let (wire, protocol) = self.dialer.dial(only_http1).await?;
        let opened = match protocol {
            Protocol::Http1 => {
                Http1::start(wire, &self.http1, &self.tasks, slot).await.map(|c| c.map(Opened::Http1))
            }
            Protocol::Http2 => {
                Http2::start(wire, &self.http2, &self.tasks, slot).await.map(|c| c.map(Opened::Http2))
            }
        };
        opened.map_err(|error| fault::no_answer(&error, &self.settings))?.ok_or_else(closing)
    }

    fn slot(&self) -> Result<OwnedSemaphorePermit, Fault> {
        let slot = Arc::clone(&self.slots).try_acquire_owned().or_else(|full| {
            // Those that the service closed while they were finishing still hold theirs.
            self.state().settle(self.settings.idle, Instant::now());
            Arc::clone(&self.slots).try_acquire_owned().map_err(|_| full)
        });
        slot.map_err(|_| {
            let limit = self.settings.connections;
            Fault::overloaded(format!("all {limit} connections to the service are in use"), RETRY_AFTER)
        })
    }

    fn share(self: &Arc<Self>, connection: Http2) {
        self.learned.store(HTTP2, Ordering::Release);
        let mut state = self.state();
        if !state.closed {
            state.http2.add(connection);
            self.start_sweeping(&mut state);
        }
    }

    /// Waits for a connection that is dialled once for all that wait.
    async fn dial_for_all(self: &Arc<Self>) -> Result<(), Fault> {
        let mut dialling = {
            let mut state = self.state();
            match &state.dialling {
                // Without its sender the dial was aborted, as when its runtime ended.
                Some(dialling) if dialling.has_changed().is_ok() => dialling.clone(),
                _ => {
                    let (outcome, dialling) = watch::channel(None);
                    let dial = Dial { pool: Arc::clone(self), outcome };
                    self.tasks.spawn(dial.run().instrument(debug_span!("dial"))).ok_or_else(closing)?;
                    state.dialling = Some(dialling.clone());
                    dialling
                }
            }
        };
        match dialling.wait_for(Option::is_some).await {
            Ok(outcome) => outcome.clone().unwrap_or(Ok(())),
            Err(_) => Err(closing()),
        }
    }

    fn start_sweeping(self: &Arc<Self>, state: &mut State) {
        // A runtime that ended has taken its tasks along; those of another go on.
        if state.sweep.as_ref().is_none_or(AbortHandle::is_finished) {
            let sweep = Sweep(Arc::downgrade(self));
            let timeout = self.settings.idle_timeout;
            state.sweep = self.tasks.spawn(sweep.run(timeout).instrument(debug_span!("idle_connections")));
        }
    }

    /// Lets go of what was idle for too long. When to look again, `None` if there is nothing left.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let timeout = self.settings.idle_timeout;
        let mut state = self.state();
        let old = state
            .idle
            .partition_point(|connection| now.saturating_duration_since(connection.since) >= timeout);
        let mut gone: Vec<Http1> = state.idle.drain(..old).collect();
        gone.extend(state.idle.extract_if(.., |connection| connection.sender.is_closed()));
        state.settle(self.settings.idle, now);
        state.http2.expire(now, timeout);
        if state.idle.is_empty() && state.finishing.is_empty() && state.http2.is_empty() {
            state.sweep = None;
            return None;
        }
        let oldest = state.idle.first().map_or(now, |connection| connection.since);
        Some(oldest + timeout)
    }
}

impl State {
    /// Moves what has finished to the idle ones, and drops what was closed.
    fn settle(&mut self, most: usize, now: Instant) {
        let mut at = 0;
        while let Some(connection) = self.finishing.get(at) {
            if connection.sender.is_closed() {
                self.finishing.swap_remove(at);
            } else if connection.sender.is_ready() {
                let mut connection = self.finishing.swap_remove(at);
                if connection.reusable && self.idle.len() < most {
                    connection.since = now;
                    self.idle.push(connection);
                }
            } else {
                at += 1;
            }
        }
    }
}

fn closing() -> Fault {
    Fault::with_detail(FaultCode::ServiceRefused, "the connector is closing")
}

enum Opened {
    Http1(Http1),
    Http2(Http2),
}

/// A dial for all that wait.
struct Dial {
    pool: Arc<Pool>,
    outcome: watch::Sender<Option<Result<(), Fault>>>,
}

impl Dial {
    async fn run(self) {
        let outcome = match self.pool.open(false).await {
            Err(fault) => Err(fault),
            Ok(Opened::Http2(connection)) => {
                self.pool.share(connection);
                Ok(())
            }
            Ok(Opened::Http1(connection)) => {
                self.pool.learned.store(HTTP1, Ordering::Release);
                self.pool.release(connection);
                Ok(())
            }
        };
        self.pool.state().dialling = None;
        self.outcome.send_replace(Some(outcome));
    }
}

/// Looks for connections that were idle for too long, as long as there are any.
struct Sweep(Weak<Pool>);

impl Sweep {
    async fn run(self, timeout: Duration) {
        let mut next = Instant::now() + timeout;
        loop {
            tokio::time::sleep_until(next.into()).await;
            let Some(pool) = self.0.upgrade() else { return };
            match pool.expire(Instant::now()) {
                Some(at) => next = at,
                None => return,
            }
        }
    }
}

//! The services that a connector talks to, as its author supplies them to the suite.

use std::{
    any::Any,
    fmt,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use http::{
    Request,
    header::{CONTENT_LENGTH, HOST},
};
use serde_json::Value;

use crate::Body;

/// What a [`LocalService`] is to do with every call or pipe that it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ServiceBehaviour {
    /// Gives back what comes, each piece as soon as it has come. A pipe's end is given back, too.
    Echo,
    /// Echoes this many bytes, then keeps the connection and says nothing more. What is shorter is echoed whole. With 0
    /// the call is taken and not even a head is sent.
    StallAfter(usize),
    /// Echoes this many bytes, then breaks the connection off, as a process that dies does: a TCP connection with a
    /// reset. What is shorter is echoed whole; of what has exactly this length, the end is missing. Declare no length.
    /// With 0 no head is sent.
    CutAfter(usize),
    /// Nothing listens where the section leads.
    Refuse,
}

/// What the suite needs to know of the services that a connector talks to: how to start one.
pub trait LocalService: Send + Sync {
    /// Whether the connector takes calls. If not, they must be refused as unsupported.
    const CALLS: bool = true;
    /// Whether the connector opens pipes. If not, they must be refused as unsupported.
    const PIPES: bool = false;
    /// Whether an answer may flow while the request still comes.
    const STREAMS: bool = true;

    /// Starts a service on an address of its own. `None` if services of this kind can't behave so; [`Echo`] must be.
    ///
    /// [`Echo`]: ServiceBehaviour::Echo
    fn start(&self, behaviour: ServiceBehaviour) -> impl Future<Output = Option<StartedService>> + Send;

    /// A request that such a service takes, with this body.
    fn request(&self, body: Body) -> Request<Body> {
        let mut request = Request::post("/").header(HOST, "conformance").body(body).expect("a valid request");
        let length = http_body::Body::size_hint(request.body()).exact();
        if let Some(length) = length {
            request.headers_mut().insert(CONTENT_LENGTH, length.into());
        }
        request
    }
}

/// A service that runs until this is dropped.
pub struct StartedService {
    pub(super) section: Value,
    pub(super) tally: Option<Tally>,
    _running: Box<dyn Any + Send + Sync>,
}

impl StartedService {
    /// A service that a connector with this section reaches. It ends when `running` is dropped.
    pub fn new(section: Value, running: impl Any + Send + Sync) -> Self {
        Self { section, tally: None, _running: Box::new(running) }
    }

    /// The same with what the service counts.
    #[must_use]
    pub fn with_tally(mut self, tally: Tally) -> Self {
        self.tally = Some(tally);
        self
    }
}

impl fmt::Debug for StartedService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StartedService").field("tally", &self.tally).finish_non_exhaustive()
    }
}

/// What a local service counts, so that the suite sees from the far side what a connector did. Clones are the same.
///
/// For each call or pipe take an entry with [`begin`](Self::begin) and keep it for as long as the call is served.
#[derive(Debug, Clone, Default)]
pub struct Tally {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    begun: AtomicUsize,
    requests_completed: AtomicUsize,
    abandoned: AtomicUsize,
}

impl Tally {
    /// A call or pipe begins.
    pub fn begin(&self) -> TallyEntry {
        self.counts.begun.fetch_add(1, Ordering::SeqCst);
        TallyEntry { tally: self.clone(), answered: false }
    }

    pub(super) fn begun(&self) -> usize {
        self.counts.begun.load(Ordering::SeqCst)
    }

    pub(super) fn requests_completed(&self) -> usize {
        self.counts.requests_completed.load(Ordering::SeqCst)
    }

    pub(super) fn abandoned(&self) -> usize {
        self.counts.abandoned.load(Ordering::SeqCst)
    }
}

/// One call or pipe at a local service. Dropped before [`answered`](Self::answered), it counts as abandoned by the
/// connector: drop it when the connection is seen to close or break.
#[derive(Debug)]
pub struct TallyEntry {
    tally: Tally,
    answered: bool,
}

impl TallyEntry {
    /// The request's true end was seen.
    pub fn request_completed(&self) {
        self.tally.counts.requests_completed.fetch_add(1, Ordering::SeqCst);
    }

    /// The answer was sent to its end, or broken off as the behaviour demands.
    pub fn answered(mut self) {
        self.answered = true;
    }
}

impl Drop for TallyEntry {
    fn drop(&mut self) {
        if !self.answered {
            self.tally.counts.abandoned.fetch_add(1, Ordering::SeqCst);
        }
    }
}

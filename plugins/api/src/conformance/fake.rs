//! [`FakeEdge`]: an edge that a test scripts and watches.

use std::{
    collections::HashMap,
    fmt,
    future::Future,
    sync::{
        Arc, LazyLock, Mutex, PoisonError, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, UPGRADE},
};
use tokio::sync::watch;

use super::{
    record::{Call, End, Progress, Recorder, Side},
    script::{Begun, Behaviour, EchoPipe, Interrupts, Shape, Shaped, Signal, session_lost},
    verdict::patience,
};
use crate::{Body, BoxFuture, BoxPipe, CallContext, Destination, Edge, Fault, FaultCode, NodeView};

/// An edge without a tunnel: it answers by a script, records every call, and sees callers leave. A cheap handle: clones
/// are the same edge.
///
/// ```
/// use edgeway_plugin::{Body, CallContext, Edge, Fault, FaultCode, Request, Response};
/// use edgeway_plugin::conformance::{Behaviour, FakeEdge};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let edge = FakeEdge::echo();
/// let request = Request::post("/orders").header("host", "example.com").body(Body::full("two")).unwrap();
/// let answer = edge.call(request, CallContext::new()).await.unwrap();
/// assert_eq!(answer.into_body().collect(100).await.unwrap(), "two");
/// assert_eq!(edge.calls()[0].request.uri(), "/orders");
///
/// edge.behave(Behaviour::Fault(FaultCode::NoRoute));
/// edge.answer_with(|request, _cx| async move {
///     if request.uri() == "/teapot" {
///         return Err(Fault::with_detail(FaultCode::Unsupported, "no coffee"));
///     }
///     Ok(Response::new(Body::full("hello")))
/// });
/// # }
/// ```
#[derive(Clone)]
pub struct FakeEdge {
    shared: Arc<Shared>,
}

struct Shared {
    id: u64,
    state: watch::Sender<State>,
}

pub(super) struct State {
    script: Script,
    nodes: Vec<NodeView>,
    pub(super) calls: Vec<Call>,
    /// How often `release` was called, and `lose_session`.
    released: u64,
    lost: u64,
}

type Answer = BoxFuture<'static, Result<Response<Body>, Fault>>;

#[derive(Clone)]
enum Script {
    Behaviour(Behaviour),
    Custom(Arc<dyn Fn(Request<Body>, CallContext) -> Answer + Send + Sync>),
}

/// Fakes by their number, for [`FakeServiceFactory`](super::FakeServiceFactory), which is made from a config.
static FAKES: LazyLock<Mutex<HashMap<u64, Weak<Shared>>>> = LazyLock::new(Mutex::default);

impl FakeEdge {
    /// An edge that echoes.
    pub fn echo() -> Self {
        Self::behaving(Behaviour::Echo)
    }

    /// An edge that behaves like this.
    pub fn behaving(behaviour: Behaviour) -> Self {
        Self::with_script(Script::Behaviour(behaviour))
    }

    /// An edge that answers calls with what `answer` returns. Pipes are echoed.
    pub fn answering<F, A>(answer: F) -> Self
    where
        F: Fn(Request<Body>, CallContext) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response<Body>, Fault>> + Send + 'static,
    {
        let edge = Self::echo();
        edge.answer_with(answer);
        edge
    }

    fn with_script(script: Script) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let state = State { script, nodes: Vec::new(), calls: Vec::new(), released: 0, lost: 0 };
        let shared = Arc::new(Shared { id, state: watch::Sender::new(state) });
        let mut fakes = FAKES.lock().unwrap_or_else(PoisonError::into_inner);
        fakes.retain(|_, fake| fake.strong_count() > 0);
        fakes.insert(id, Arc::downgrade(&shared));
        Self { shared }
    }

    /// Its number within this process, which a [`FakeServiceConfig`](super::FakeServiceConfig) names.
    pub fn id(&self) -> u64 {
        self.shared.id
    }

    pub(super) fn of_id(id: u64) -> Option<Self> {
        let fakes = FAKES.lock().unwrap_or_else(PoisonError::into_inner);
        fakes.get(&id).and_then(Weak::upgrade).map(|shared| Self { shared })
    }

    /// Behaves like this from now on. Calls in flight go on as they began.
    pub fn behave(&self, behaviour: Behaviour) {
        self.modify(|state| state.script = Script::Behaviour(behaviour));
    }

    /// Answers calls that begin from now on with what `answer` returns.
    pub fn answer_with<F, A>(&self, answer: F)
    where
        F: Fn(Request<Body>, CallContext) -> A + Send + Sync + 'static,
        A: Future<Output = Result<Response<Body>, Fault>> + Send + 'static,
    {
        let script = Script::Custom(Arc::new(move |request, cx| Box::pin(answer(request, cx))));
        self.modify(|state| state.script = script);
    }

    /// Lets every call that is stalled now go on as an echo.
    pub fn release(&self) {
        self.modify(|state| state.released += 1);
    }

    /// Cuts every call in flight with [`FaultCode::SessionLost`].
    pub fn lose_session(&self) {
        self.modify(|state| state.lost += 1);
    }

    /// What [`Edge::nodes`] chooses from.
    pub fn set_nodes(&self, nodes: impl Into<Vec<NodeView>>) {
        let nodes = nodes.into();
        self.modify(|state| state.nodes = nodes);
    }

    /// Every call so far, in the order in which they began.
    pub fn calls(&self) -> Vec<Call> {
        self.shared.state.borrow().calls.clone()
    }

    /// Calls in flight now.
    pub fn in_flight(&self) -> usize {
        self.shared.state.borrow().calls.iter().filter(|call| call.in_flight()).count()
    }

    /// Waits until the calls so far satisfy `condition`, and returns them.
    ///
    /// # Panics
    /// After [`patience`], with `what` was waited for.
    pub async fn wait_for(&self, what: &str, condition: impl Fn(&[Call]) -> bool + Send) -> Vec<Call> {
        match tokio::time::timeout(patience(), self.until(condition)).await {
            Ok(calls) => calls,
            Err(_) => panic!("{what}: not within {:?}; the fake edge saw {:#?}", patience(), self.calls()),
        }
    }

    /// [`wait_for`](Self::wait_for) without a bound.
    pub(super) async fn until(&self, condition: impl Fn(&[Call]) -> bool + Send) -> Vec<Call> {
        let mut state = self.shared.state.subscribe();
        let reached = state.wait_for(move |state| condition(&state.calls)).await;
        reached.expect("the sender is in self").calls.clone()
    }

    /// Waits until this many calls have begun.
    ///
    /// # Panics
    /// After [`patience`].
    pub async fn wait_calls(&self, count: usize) -> Vec<Call> {
        self.wait_for(&format!("{count} calls reach the edge"), |calls| calls.len() >= count).await
    }

    /// Waits until this many calls are in flight.
    ///
    /// # Panics
    /// After [`patience`].
    pub async fn wait_in_flight(&self, count: usize) -> Vec<Call> {
        let in_flight = |calls: &[Call]| calls.iter().filter(|call| call.in_flight()).count() == count;
        self.wait_for(&format!("{count} calls are in flight"), in_flight).await
    }

    /// Waits until this many calls were cancelled by their callers.
    ///
    /// # Panics
    /// After [`patience`].
    pub async fn wait_cancelled(&self, count: usize) -> Vec<Call> {
        let cancelled = |calls: &[Call]| calls.iter().filter(|call| call.cancelled()).count() >= count;
        self.wait_for(&format!("{count} calls are cancelled"), cancelled).await
    }

    pub(super) fn modify(&self, change: impl FnOnce(&mut State)) {
        self.shared.state.send_modify(change);
    }

    /// Resolves once `condition` holds, for as long as this edge lives.
    fn signal(&self, condition: impl Fn(&State) -> bool + Send + 'static) -> Signal {
        let mut state = self.shared.state.subscribe();
        Signal::new(async move {
            if state.wait_for(condition).await.is_err() {
                std::future::pending().await
            }
        })
    }

    /// What may interrupt a call, once for its head and once for its body. Taken before the call is seen in the record,
    /// so that a test which acts on the record interrupts it for certain.
    fn interrupts(&self) -> (Signal, Interrupts) {
        let (losses, releases) = {
            let state = self.shared.state.borrow();
            (state.lost, state.released)
        };
        let lost = || self.signal(move |state| state.lost > losses);
        let released = self.signal(move |state| state.released > releases);
        (lost(), Interrupts { lost: lost(), released })
    }

    /// Begins a record, and says what to do.
    fn begin(
        &self,
        request: Request<()>,
        cx: CallContext,
        to: Option<Destination>,
    ) -> (Recorder, Recorder, Script) {
        let mut begun = None;
        self.modify(|state| {
            begun = Some((state.calls.len(), state.script.clone()));
            let open = Progress { bytes: 0, end: End::Open };
            state.calls.push(Call { request, cx, destination: to, upload: open.clone(), answer: open });
        });
        let (index, script) = begun.expect("modify calls its closure");
        let recorder = |side| Recorder::new(self.clone(), index, side);
        (recorder(Side::Upload), recorder(Side::Answer), script)
    }

    async fn answer(self, request: Request<Body>, cx: CallContext) -> Result<Response<Body>, Fault> {
        let (lost, interrupts) = self.interrupts();
        let (head, body) = request.into_parts();
        let (upload, mut answer, script) =
            self.begin(Request::from_parts(head.clone(), ()), cx.clone(), None);
        let body = upload.watch(body, &head.headers);
        let request = Request::from_parts(head, body);
        let result = tokio::select! {
            biased; // a lost session ends even a call that could be answered now
            () = lost => Err(session_lost()),
            result = async move {
                match script {
                    Script::Behaviour(behaviour) => behaved(behaviour, request, interrupts).await,
                    Script::Custom(answer) => {
                        let response = answer(request, cx).await?;
                        Ok(response.map(|body| Body::new(Shaped::new(body, Shape::Whole, interrupts))))
                    }
                }
            } => result,
        };
        match result {
            Ok(response) => {
                let (head, body) = response.into_parts();
                let body = answer.watch(body, &head.headers);
                Ok(Response::from_parts(head, body))
            }
            Err(fault) => {
                answer.end(End::Fault(fault.clone()));
                Err(fault)
            }
        }
    }

    async fn pipe(self, to: Destination, cx: CallContext) -> Result<BoxPipe, Fault> {
        let (_, mut interrupts) = self.interrupts();
        let (mut upload, mut answer, script) = self.begin(Request::default(), cx, Some(to));
        let shape = match script {
            Script::Behaviour(Behaviour::Fault(code)) => {
                let fault = scripted_fault(code);
                upload.end(End::Fault(fault.clone()));
                answer.end(End::Fault(fault.clone()));
                return Err(fault);
            }
            Script::Behaviour(Behaviour::Stall) => {
                tokio::select! {
                    biased; // as in `answer`
                    () = &mut interrupts.lost => {
                        answer.end(End::Fault(session_lost()));
                        return Err(session_lost());
                    }
                    () = &mut interrupts.released => Shape::Whole,
                }
            }
            Script::Behaviour(behaviour) => shape_of(&behaviour),
            Script::Custom(_) => Shape::Whole,
        };
        Ok(Box::new(EchoPipe::new(shape, interrupts, upload, answer)))
    }
}

fn scripted_fault(code: FaultCode) -> Fault {
    match code {
        FaultCode::Overloaded => Fault::overloaded("the fake edge is full", Duration::from_secs(1)),
        code => Fault::with_detail(code, "the fake edge was told to refuse"),
    }
}

fn shape_of(behaviour: &Behaviour) -> Shape {
    match behaviour {
        Behaviour::StallAfter(bytes) => Shape::StallAfter(*bytes),
        Behaviour::CutAfter(bytes) => Shape::CutAfter(*bytes),
        Behaviour::Slow(piece) => Shape::Slow(*piece),
        Behaviour::Echo | Behaviour::Stall | Behaviour::Fault(_) => Shape::Whole,
    }
}

async fn behaved(
    behaviour: Behaviour,
    request: Request<Body>,
    mut interrupts: Interrupts,
) -> Result<Response<Body>, Fault> {
    match behaviour {
        Behaviour::Fault(code) => return Err(scripted_fault(code)),
        Behaviour::Stall => (&mut interrupts.released).await,
        _ => {}
    }
    let shape = shape_of(&behaviour);
    let (head, mut body) = request.into_parts();
    if head.headers.contains_key(EXPECT) {
        // The first poll is what tells the caller to go on; an echo has nothing to say before.
        let first = body.frame().await;
        body = match first {
            Some(first) => Body::new(Begun { first: Some(first), rest: body }),
            None => Body::empty(),
        };
    }
    let mut response = Response::new(());
    let headers = response.headers_mut();
    let mut keep = vec![CONTENT_TYPE];
    if !matches!(shape, Shape::StallAfter(_) | Shape::CutAfter(_)) {
        keep.push(CONTENT_LENGTH);
    }
    for name in keep {
        if let Some(value) = head.headers.get(&name) {
            headers.insert(name, value.clone());
        }
    }
    if let Some(protocol) = head.headers.get(UPGRADE) {
        headers.insert(UPGRADE, protocol.clone());
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    }
    Ok(response.map(|()| Body::new(Shaped::new(body, shape, interrupts))))
}

impl Default for FakeEdge {
    fn default() -> Self {
        Self::echo()
    }
}

impl fmt::Debug for FakeEdge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeEdge").field("id", &self.shared.id).finish_non_exhaustive()
    }
}

impl Edge for FakeEdge {
    fn call(&self, request: Request<Body>, cx: CallContext) -> BoxFuture<'_, Result<Response<Body>, Fault>> {
        Box::pin(self.clone().answer(request, cx))
    }

    fn open(&self, to: Destination, cx: CallContext) -> BoxFuture<'_, Result<BoxPipe, Fault>> {
        Box::pin(self.clone().pipe(to, cx))
    }

    fn nodes(&self, to: &Destination) -> Vec<NodeView> {
        let selected = |node: &&NodeView| {
            to.nodes.name.as_ref().is_none_or(|name| *name == node.name)
                && to.nodes.match_labels.iter().all(|(key, value)| node.labels.get(key) == Some(value))
        };
        self.shared.state.borrow().nodes.iter().filter(selected).cloned().collect()
    }
}

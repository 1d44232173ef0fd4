//! A connector with at most one defect, and services for it.

use std::{
    io,
    marker::PhantomData,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use super::{
    super::{
        FakeAgent, Feeder, LocalService, ServiceBehaviour, StartedService, Tally, TallyEntry,
        connector::{ConnectorPromise, Subject},
        feed, json,
    },
    each_breaks,
    framing::{Piece, read_piece, write_piece},
};
use crate::{
    Body, BoxPipe, CallContext, ConfigError, Connector, ConnectorFactory, Fault, FaultCode, Health,
    conformance,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Defect {
    ProbesBlindly,
    LosesAByte,
    CollectsRequests,
    RefusesWithoutReason,
    ReportsCutsAsComplete,
    BlamesTheSession,
    EndsCutRequests,
    IgnoresLeaving,
    ServesOneAtATime,
    ForgetsToShutDown,
    EndsCutPipes,
    KeepsPipesOpen,
    LosesAByteOfPipes,
}

/// Each promise of a connector and a defect that breaks it.
const DEFECTS: &[(ConnectorPromise, Defect)] = &[
    (ConnectorPromise::ProbesTellTheTruth, Defect::ProbesBlindly),
    (ConnectorPromise::AnswersArriveIntact, Defect::LosesAByte),
    (ConnectorPromise::BodiesStream, Defect::CollectsRequests),
    (ConnectorPromise::RefusedIsToldApart, Defect::RefusesWithoutReason),
    (ConnectorPromise::CutAnswersAreNeverComplete, Defect::ReportsCutsAsComplete),
    (ConnectorPromise::CutAnswersAreNeverComplete, Defect::BlamesTheSession),
    (ConnectorPromise::CutRequestsAreNeverComplete, Defect::EndsCutRequests),
    (ConnectorPromise::LeavingIsSeen, Defect::IgnoresLeaving),
    (ConnectorPromise::StallsDelayNobody, Defect::ServesOneAtATime),
    (ConnectorPromise::PipesCarryAll, Defect::ForgetsToShutDown),
    (ConnectorPromise::PipesCarryAll, Defect::LosesAByteOfPipes),
    (ConnectorPromise::RefusedPipesAreToldApart, Defect::RefusesWithoutReason),
    (ConnectorPromise::CutPipesAreNeverComplete, Defect::EndsCutPipes),
    (ConnectorPromise::ClosingIsSeen, Defect::KeepsPipesOpen),
    (ConnectorPromise::StalledPipesDelayNobody, Defect::ServesOneAtATime),
];

/// A connector of framed calls and raw pipes; the first byte of a connection says which.
struct Framed {
    address: SocketAddr,
    defect: Option<Defect>,
    one_at_a_time: Arc<Semaphore>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    address: SocketAddr,
    defect: Option<Defect>,
}

struct StrictFactory;

impl ConnectorFactory for StrictFactory {
    const NAME: &'static str = "framed";
    type Config = Strict;
    type Connector = Framed;

    fn build(Strict { address, defect }: Strict) -> Result<Framed, ConfigError> {
        Ok(Framed { address, defect, one_at_a_time: Arc::new(Semaphore::new(1)) })
    }
}

/// Takes unknown fields.
#[derive(Debug, Deserialize)]
struct Lax {
    address: SocketAddr,
}

struct LaxFactory;

impl ConnectorFactory for LaxFactory {
    const NAME: &'static str = "lax";
    type Config = Lax;
    type Connector = Framed;

    fn build(config: Lax) -> Result<Framed, ConfigError> {
        StrictFactory::build(Strict { address: config.address, defect: None })
    }
}

impl Framed {
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }

    async fn connect(&self, kind: u8) -> Result<TcpStream, Fault> {
        let refused = if self.has(Defect::RefusesWithoutReason) {
            FaultCode::Internal
        } else {
            FaultCode::ServiceRefused
        };
        let mut stream = TcpStream::connect(self.address).await.map_err(|_| Fault::new(refused))?;
        stream.write_u8(kind).await.map_err(|_| Fault::new(FaultCode::ServiceReset))?;
        Ok(stream)
    }

    async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        if !self.has(Defect::ServesOneAtATime) {
            return None;
        }
        self.one_at_a_time.clone().acquire_owned().await.ok()
    }
}

impl Connector for Framed {
    async fn call(&self, request: Request<Body>, _cx: CallContext) -> Result<Response<Body>, Fault> {
        let turn = self.turn().await;
        let stream = self.connect(b'C').await?;
        let (head, answered) = oneshot::channel();
        let (feeder, body) = feed();
        let exchange = tokio::spawn(exchange(stream, request.into_body(), head, feeder, self.defect));
        let body = body.with_guard(turn);
        let body = match self.defect {
            Some(Defect::IgnoresLeaving) => body,
            _ => body.with_guard(AbortOnDropHandle::new(exchange)),
        };
        match answered.await {
            Ok(()) => Ok(Response::new(body)),
            Err(_) if self.has(Defect::BlamesTheSession) => Err(Fault::new(FaultCode::SessionLost)),
            Err(_) => Err(Fault::new(FaultCode::ServiceReset)),
        }
    }

    async fn open(&self, _cx: CallContext) -> Result<BoxPipe, Fault> {
        let turn = self.turn().await;
        let stream = Some(self.connect(b'P').await?);
        Ok(Box::new(Raw { stream, defect: self.defect, _turn: turn }))
    }

    async fn probe(&self) -> Health {
        match TcpStream::connect(self.address).await {
            Err(error) if !self.has(Defect::ProbesBlindly) => Health::Failed(error.to_string()),
            _ => Health::Ready,
        }
    }
}

/// Carries one call: the request up, the answer down, at the same time.
async fn exchange(
    mut stream: TcpStream,
    mut request: Body,
    head: oneshot::Sender<()>,
    feeder: Feeder,
    defect: Option<Defect>,
) {
    let (mut reader, mut writer) = stream.split();
    let up = async {
        let mut collected = Vec::new();
        loop {
            let piece = match request.frame().await {
                None => Piece::End,
                Some(Err(_)) if defect == Some(Defect::EndsCutRequests) => Piece::End,
                Some(Err(_)) => return,
                Some(Ok(frame)) => Piece::Data(frame.into_data().unwrap_or_default()),
            };
            let last = piece == Piece::End;
            collected.push(piece);
            if last || defect != Some(Defect::CollectsRequests) {
                for piece in collected.drain(..) {
                    if write_piece(&mut writer, &piece).await.is_err() {
                        return std::future::pending().await; // how the service broke off is read below
                    }
                }
            }
            if last {
                return std::future::pending().await;
            }
        }
    };
    let down = async {
        if reader.read_u8().await.is_err() {
            return;
        }
        let _ = head.send(());
        let mut first = true;
        loop {
            match read_piece(&mut reader).await {
                Piece::Data(mut data) => {
                    if std::mem::take(&mut first) && defect == Some(Defect::LosesAByte) && !data.is_empty() {
                        let _ = data.split_to(1);
                    }
                    if !feeder.send(data).await && defect != Some(Defect::IgnoresLeaving) {
                        return;
                    }
                }
                Piece::End => return feeder.end(),
                _ if defect == Some(Defect::ReportsCutsAsComplete) => return feeder.end(),
                _ => {
                    feeder.cut(Fault::new(FaultCode::ServiceReset)).await;
                    return;
                }
            }
        }
    };
    tokio::select! {
        biased; // an answer that ended is whole, whatever becomes of the request
        () = down => {}
        () = up => {}
    }
}

/// A pipe that is a TCP stream.
struct Raw {
    stream: Option<TcpStream>,
    defect: Option<Defect>,
    _turn: Option<OwnedSemaphorePermit>,
}

impl Raw {
    fn stream(&mut self) -> Pin<&mut TcpStream> {
        Pin::new(self.stream.as_mut().expect("there until it is dropped"))
    }
}

impl AsyncRead for Raw {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let result = ready!(self.stream().poll_read(cx, out));
        Poll::Ready(if self.defect == Some(Defect::EndsCutPipes) { Ok(()) } else { result })
    }
}

impl AsyncWrite for Raw {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        if self.defect == Some(Defect::LosesAByteOfPipes) && !bytes.is_empty() {
            return self.stream().poll_write(cx, &bytes[1..]).map_ok(|written| written + 1);
        }
        self.stream().poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.defect {
            Some(Defect::ForgetsToShutDown) => Poll::Ready(Ok(())),
            _ => self.stream().poll_shutdown(cx),
        }
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        if self.defect == Some(Defect::KeepsPipesOpen) {
            let kept = self.stream.take();
            tokio::spawn(async move {
                std::future::pending::<()>().await;
                drop(kept);
            });
        }
    }
}

/// Starts services of both kinds, and puts the defect into the connector's section.
struct Services {
    defect: Option<Defect>,
}

impl LocalService for Services {
    const PIPES: bool = true;

    async fn start(&self, behaviour: ServiceBehaviour) -> Option<StartedService> {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a port");
        let address = listener.local_addr().expect("a bound listener");
        let section = json!({"address": address, "defect": self.defect.map(|defect| format!("{defect:?}"))});
        if behaviour == ServiceBehaviour::Refuse {
            return Some(StartedService::new(section, ()));
        }
        let tally = Tally::default();
        let counted = tally.clone();
        let running = tokio::spawn(async move {
            let mut callers = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                callers.spawn(serve(stream, behaviour, counted.clone()));
            }
        });
        Some(StartedService::new(section, AbortOnDropHandle::new(running)).with_tally(tally))
    }
}

async fn serve(mut stream: TcpStream, behaviour: ServiceBehaviour, tally: Tally) {
    match stream.read_u8().await {
        Ok(b'C') => answer_call(stream, behaviour, tally.begin()).await,
        Ok(_) => echo_pipe(stream, behaviour, tally.begin()).await,
        Err(_) => {} // a probe
    }
}

/// How many bytes are echoed before the behaviour says otherwise.
fn limit_of(behaviour: ServiceBehaviour) -> usize {
    match behaviour {
        ServiceBehaviour::StallAfter(limit) | ServiceBehaviour::CutAfter(limit) => limit,
        ServiceBehaviour::Echo | ServiceBehaviour::Refuse => usize::MAX,
    }
}

async fn answer_call(mut stream: TcpStream, behaviour: ServiceBehaviour, entry: TallyEntry) {
    let mut left = limit_of(behaviour);
    if left > 0 && stream.write_u8(b'H').await.is_err() {
        return;
    }
    loop {
        if left == 0 {
            return stop_short(stream, behaviour, entry).await;
        }
        match read_piece(&mut stream).await {
            Piece::Data(mut data) => {
                data.truncate(left);
                left -= data.len();
                if write_piece(&mut stream, &Piece::Data(data)).await.is_err() {
                    return;
                }
            }
            Piece::End => {
                entry.request_completed();
                if write_piece(&mut stream, &Piece::End).await.is_ok() {
                    entry.answered();
                }
                return;
            }
            _ => return,
        }
    }
}

async fn echo_pipe(mut stream: TcpStream, behaviour: ServiceBehaviour, entry: TallyEntry) {
    let mut left = limit_of(behaviour);
    let mut buffer = vec![0; 16 * 1024];
    loop {
        if left == 0 {
            return stop_short(stream, behaviour, entry).await;
        }
        match stream.read(&mut buffer).await {
            Ok(0) => {
                entry.request_completed();
                if stream.shutdown().await.is_ok() {
                    entry.answered();
                }
                return;
            }
            Ok(read) => {
                let echoed = read.min(left);
                left -= echoed;
                if stream.write_all(&buffer[..echoed]).await.is_err() {
                    return;
                }
            }
            Err(_) => return,
        }
    }
}

/// Nothing more is echoed: waits for the caller to leave, or breaks off.
async fn stop_short(mut stream: TcpStream, behaviour: ServiceBehaviour, entry: TallyEntry) {
    if let ServiceBehaviour::CutAfter(_) = behaviour {
        stream.set_zero_linger().expect("the stream is open"); // a reset, not an end
        return entry.answered();
    }
    let mut buffer = [0; 1024];
    while stream.read(&mut buffer).await.is_ok_and(|read| read > 0) {}
}

/// As if the connector had been written for calls only.
struct CallsOnly(Services);

impl LocalService for CallsOnly {
    const STREAMS: bool = false;

    async fn start(&self, behaviour: ServiceBehaviour) -> Option<StartedService> {
        match behaviour {
            ServiceBehaviour::Echo => self.0.start(behaviour).await,
            _ => None,
        }
    }
}

#[tokio::test]
async fn a_good_connector_keeps_every_promise() {
    let verdict = conformance::connector::<StrictFactory, _>(Services { defect: None }).await;
    // It offers everything.
    assert_eq!(verdict.skipped, [ConnectorPromise::RefusesTheUnsupported.text()]);
    assert_eq!(verdict.kept.len(), ConnectorPromise::ALL.len() - 1);
}

#[test]
fn every_defect_of_a_connector_is_seen() {
    each_breaks(DEFECTS.iter().map(|&(promise, defect)| {
        let service = Services { defect: Some(defect) };
        let subject = Subject { service, world: PhantomData::<fn() -> FakeAgent<StrictFactory>> };
        (promise.text(), async move { subject.check(promise).await })
    }));
}

#[test]
fn every_promise_of_a_connector_has_a_defect_that_breaks_it() {
    for promise in ConnectorPromise::ALL {
        let elsewhere = [ConnectorPromise::RefusesUnknownFields, ConnectorPromise::RefusesTheUnsupported];
        let broken = DEFECTS.iter().any(|(broken, _)| broken == promise) || elsewhere.contains(promise);
        assert!(broken, "nothing shows that {promise:?} is checked");
    }
}

#[test]
fn a_connector_that_takes_unknown_fields_is_seen() {
    let subject =
        Subject { service: Services { defect: None }, world: PhantomData::<fn() -> FakeAgent<LaxFactory>> };
    let promise = ConnectorPromise::RefusesUnknownFields;
    each_breaks([(promise.text(), async move { subject.check(promise).await })]);
}

#[test]
fn a_connector_that_opens_pipes_unannounced_is_seen() {
    let service = CallsOnly(Services { defect: None });
    let subject = Subject { service, world: PhantomData::<fn() -> FakeAgent<StrictFactory>> };
    let promise = ConnectorPromise::RefusesTheUnsupported;
    each_breaks([(promise.text(), async move { subject.check(promise).await })]);
}

#[tokio::test]
async fn what_a_service_cannot_do_is_skipped() {
    let service = CallsOnly(Services { defect: None });
    let subject = Subject { service, world: PhantomData::<fn() -> FakeAgent<StrictFactory>> };
    for promise in [
        ConnectorPromise::ProbesTellTheTruth,
        ConnectorPromise::BodiesStream,
        ConnectorPromise::CutAnswersAreNeverComplete,
        ConnectorPromise::PipesCarryAll,
    ] {
        assert!(subject.check(promise).await.is_err(), "{promise:?} was not skipped");
    }
}

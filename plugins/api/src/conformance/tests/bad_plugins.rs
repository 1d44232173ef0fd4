//! A plugin with at most one defect.

use std::{
    io,
    marker::PhantomData,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{Bytes, BytesMut};
use http::{Request, header::HOST};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{
    super::{
        Driver, FakeHub, Outcome, PluginWorld, json,
        plugin::{PluginPromise, Subject},
    },
    each_breaks,
    framing::{Piece, read_piece, write_piece},
};
use crate::{
    Body, CallContext, ConfigError, FaultCode, Plugin, PluginContext, PluginError, PluginFactory, conformance,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
enum Defect {
    SpawnsInBuild,
    NeverBinds,
    EndsEarly,
    FailsAtStop,
    LeavesATask,
    LosesAByte,
    CallsTwice,
    ReportsFaultsAsAnswers,
    ReportsCutsAsComplete,
    PassesOnCutRequests,
    ServesOneAtATime,
    IgnoresLeaving,
    IgnoresLeavingMidway,
    WaitsForTheIdle,
    CutsOnStop,
    AcceptsAfterStop,
    StartsOnce,
    SpawnsLoosely,
    DiesOfManyFaults,
    NeverForgetsALostSession,
}

/// Each promise of a plugin and a defect that breaks it.
const DEFECTS: &[(PluginPromise, Defect)] = &[
    (PluginPromise::ServesUntilStopped, Defect::NeverBinds),
    (PluginPromise::ServesUntilStopped, Defect::EndsEarly),
    (PluginPromise::ServesUntilStopped, Defect::FailsAtStop),
    (PluginPromise::ServesUntilStopped, Defect::LeavesATask),
    (PluginPromise::AnswersArriveIntact, Defect::LosesAByte),
    (PluginPromise::AnswersArriveIntact, Defect::CallsTwice),
    (PluginPromise::FaultsAreRefusals, Defect::ReportsFaultsAsAnswers),
    (PluginPromise::CutAnswersAreNeverComplete, Defect::ReportsCutsAsComplete),
    (PluginPromise::CutRequestsAreNeverComplete, Defect::PassesOnCutRequests),
    (PluginPromise::StallsDelayNobody, Defect::ServesOneAtATime),
    (PluginPromise::LeavingCancels, Defect::IgnoresLeaving),
    (PluginPromise::LeavingCancels, Defect::IgnoresLeavingMidway),
    (PluginPromise::IdleStops, Defect::WaitsForTheIdle),
    (PluginPromise::StopDrains, Defect::CutsOnStop),
    (PluginPromise::StopDrains, Defect::AcceptsAfterStop),
    (PluginPromise::StartsAgain, Defect::StartsOnce),
    (PluginPromise::DroppingRunEndsAll, Defect::SpawnsLoosely),
    (PluginPromise::SurvivesFaults, Defect::DiesOfManyFaults),
    (PluginPromise::SurvivesLostSessions, Defect::NeverForgetsALostSession),
];

struct Framed {
    listen: SocketAddr,
    defect: Option<Defect>,
    runs: AtomicUsize,
    faults: Arc<AtomicUsize>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Strict {
    listen: SocketAddr,
    defect: Option<Defect>,
}

struct StrictFactory;

impl PluginFactory for StrictFactory {
    const NAME: &'static str = "framed";
    type Config = Strict;
    type Plugin = Framed;

    fn build(config: Strict) -> Result<Framed, ConfigError> {
        if config.defect == Some(Defect::SpawnsInBuild) {
            tokio::spawn(std::future::pending::<()>());
        }
        let (runs, faults) = Default::default();
        Ok(Framed { listen: config.listen, defect: config.defect, runs, faults })
    }
}

/// Takes unknown fields.
#[derive(Debug, Deserialize)]
struct Lax {
    listen: SocketAddr,
}

struct LaxFactory;

impl PluginFactory for LaxFactory {
    const NAME: &'static str = "lax";
    type Config = Lax;
    type Plugin = Framed;

    fn build(config: Lax) -> Result<Framed, ConfigError> {
        StrictFactory::build(Strict { listen: config.listen, defect: None })
    }
}

impl Framed {
    fn has(&self, defect: Defect) -> bool {
        self.defect == Some(defect)
    }
}

impl Plugin for Framed {
    async fn run(&self, cx: PluginContext) -> Result<(), PluginError> {
        if self.runs.fetch_add(1, Ordering::SeqCst) > 0 && self.has(Defect::StartsOnce) {
            return Err(PluginError::other("it ran already", "once"));
        }
        let bind = |source| PluginError::Bind { address: self.listen, source };
        let listener = TcpListener::bind(self.listen).await.map_err(bind)?;
        if !self.has(Defect::NeverBinds) {
            cx.bound(listener.local_addr().expect("a bound listener"));
        }
        if self.has(Defect::LeavesATask) {
            tokio::spawn(std::future::pending::<()>());
        }
        let mut callers = JoinSet::new();
        loop {
            let stream = tokio::select! {
                biased; // stop comes before new callers
                () = cx.stop.cancelled(), if !self.has(Defect::AcceptsAfterStop) || callers.is_empty() => break,
                _ = callers.join_next(), if !callers.is_empty() => {
                    if self.has(Defect::EndsEarly) {
                        return Ok(());
                    }
                    continue;
                }
                accepted = listener.accept() => accepted.expect("loopback accepts").0,
            };
            let caller = serve(stream, cx.clone(), self.defect, self.faults.clone());
            match self.defect {
                Some(Defect::ServesOneAtATime) => caller.await,
                Some(Defect::SpawnsLoosely) => {
                    let loose = tokio::spawn(caller);
                    callers.spawn(async { loose.await.expect("no panic") });
                }
                _ => {
                    callers.spawn(caller);
                }
            }
        }
        drop(listener);
        if self.has(Defect::CutsOnStop) {
            callers.shutdown().await;
        }
        while callers.join_next().await.is_some() {}
        if self.has(Defect::FailsAtStop) { Err(PluginError::other("it can't stop", "ever")) } else { Ok(()) }
    }
}

/// One exchange of one caller.
async fn serve(mut stream: TcpStream, cx: PluginContext, defect: Option<Defect>, faults: Arc<AtomicUsize>) {
    let has = |wanted| defect == Some(wanted);
    let Some(request) = read_request(&mut stream, &cx, defect).await else { return };
    let (mut reader, mut writer) = stream.split();
    let worn_out = faults.load(Ordering::SeqCst) >= 50 && has(Defect::DiesOfManyFaults);
    let haunted = faults.load(Ordering::SeqCst) > 0 && has(Defect::NeverForgetsALostSession);
    if worn_out || haunted {
        let _ = write_piece(&mut writer, &Piece::Refused).await;
        return;
    }
    if has(Defect::CallsTwice) {
        let _ = cx.edge.call(request_of(Bytes::new()), CallContext::new()).await;
    }
    let watched = !has(Defect::IgnoresLeaving);
    let call = cx.edge.call(request_of(request), CallContext::new());
    let answer = match unless_left(watched, &mut reader, call).await {
        None => return,
        Some(Ok(answer)) => answer.into_body(),
        Some(Err(fault)) => {
            if !has(Defect::NeverForgetsALostSession) || fault.code() == FaultCode::SessionLost {
                faults.fetch_add(1, Ordering::SeqCst);
            }
            let end = if has(Defect::ReportsFaultsAsAnswers) { Piece::End } else { Piece::Refused };
            let _ = write_piece(&mut writer, &end).await;
            return;
        }
    };
    let watched = watched && !has(Defect::IgnoresLeavingMidway);
    let _ = unless_left(watched, &mut reader, relay(answer, &mut writer, defect)).await;
}

async fn read_request(stream: &mut TcpStream, cx: &PluginContext, defect: Option<Defect>) -> Option<Bytes> {
    let mut request = BytesMut::new();
    loop {
        let piece = tokio::select! {
            biased; // what has come is read, even if stop fires
            piece = read_piece(stream) => piece,
            () = cx.stop.cancelled(), if defect != Some(Defect::WaitsForTheIdle) => return None,
        };
        match piece {
            Piece::Data(data) => request.extend_from_slice(&data),
            Piece::Closed if defect != Some(Defect::PassesOnCutRequests) => return None,
            _ => return Some(request.freeze()),
        }
    }
}

async fn relay(
    mut answer: Body,
    writer: &mut (impl AsyncWrite + Unpin),
    defect: Option<Defect>,
) -> io::Result<()> {
    let mut first = true;
    while let Some(frame) = answer.frame().await {
        let Ok(frame) = frame else {
            let complete = defect == Some(Defect::ReportsCutsAsComplete);
            return write_piece(writer, if complete { &Piece::End } else { &Piece::Closed }).await;
        };
        let mut data = frame.into_data().unwrap_or_default();
        if std::mem::take(&mut first) && defect == Some(Defect::LosesAByte) {
            let _ = data.split_to(1);
        }
        write_piece(writer, &Piece::Data(data)).await?;
    }
    write_piece(writer, &Piece::End).await
}

/// What `future` gives, `None` if the caller closes first. Callers send nothing after their request.
async fn unless_left<T>(
    watched: bool,
    reader: &mut (impl AsyncRead + Unpin),
    future: impl Future<Output = T>,
) -> Option<T> {
    tokio::select! {
        biased; // what has ended is not cancelled
        output = future => Some(output),
        _ = reader.read_u8(), if watched => None,
    }
}

fn request_of(body: Bytes) -> Request<Body> {
    Request::post("/").header(HOST, "framed").body(Body::full(body)).expect("a valid request")
}

struct FramedDriver;

impl Driver for FramedDriver {
    async fn exchange(&self, address: SocketAddr, request: Bytes) -> Outcome {
        let mut stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        if write_piece(&mut stream, &Piece::Data(request)).await.is_err()
            || write_piece(&mut stream, &Piece::End).await.is_err()
        {
            return Outcome::Truncated;
        }
        let mut answer = BytesMut::new();
        loop {
            match read_piece(&mut stream).await {
                Piece::Data(data) => answer.extend_from_slice(&data),
                Piece::End => return Outcome::Complete(answer.freeze()),
                Piece::Refused => return Outcome::Refused("by the plugin".into()),
                Piece::Closed => return Outcome::Truncated,
            }
        }
    }

    async fn leave_midway(&self, address: SocketAddr, request: Bytes) -> bool {
        let mut stream = TcpStream::connect(address).await.expect("the plugin listens");
        write_piece(&mut stream, &Piece::Data(request)).await.expect("the plugin reads");
        true
    }
}

#[tokio::test]
async fn a_good_plugin_keeps_every_promise() {
    let section = json!({"listen": "127.0.0.1:0"});
    let verdict = conformance::plugin::<StrictFactory, _>(section, FramedDriver).await;
    assert_eq!(verdict.skipped, [""; 0]);
    assert_eq!(verdict.kept.len(), PluginPromise::ALL.len());
    assert!(
        verdict.to_string().contains("kept     an answer arrives as the service gave it, for one call\n")
    );
}

#[tokio::test]
async fn a_closure_is_a_driver_and_what_it_cannot_do_is_reported_as_skipped() {
    let exchange = |address, request| async move { FramedDriver.exchange(address, request).await };
    let verdict = conformance::plugin::<StrictFactory, _>(json!({"listen": "127.0.0.1:0"}), exchange).await;
    assert_eq!(verdict.skipped, [PluginPromise::CutRequestsAreNeverComplete.text()]);
}

#[test]
fn every_defect_of_a_plugin_is_seen() {
    each_breaks(DEFECTS.iter().map(|&(promise, defect)| {
        let section = json!({"listen": "127.0.0.1:0", "defect": format!("{defect:?}")});
        let subject =
            Subject { section, driver: FramedDriver, world: PhantomData::<fn() -> FakeHub<StrictFactory>> };
        (promise.text(), async move { subject.check(promise).await })
    }));
}

#[test]
fn every_promise_of_a_plugin_has_a_defect_that_breaks_it() {
    for promise in PluginPromise::ALL {
        let broken = DEFECTS.iter().any(|(broken, _)| broken == promise);
        assert!(
            broken || *promise == PluginPromise::RefusesUnknownFields,
            "nothing shows that {promise:?} is checked"
        );
    }
}

#[test]
fn a_plugin_that_takes_unknown_fields_is_seen() {
    let section = json!({"listen": "127.0.0.1:0"});
    let subject =
        Subject { section, driver: FramedDriver, world: PhantomData::<fn() -> FakeHub<LaxFactory>> };
    let promise = PluginPromise::RefusesUnknownFields;
    each_breaks([(promise.text(), async move { subject.check(promise).await })]);
}

#[tokio::test]
#[should_panic = "promise broken: build opens nothing and spawns nothing"]
async fn a_plugin_that_spawns_in_build_is_seen() {
    let section = json!({"listen": "127.0.0.1:0", "defect": "SpawnsInBuild"});
    let _ = FakeHub::<StrictFactory>::load(section).await;
}

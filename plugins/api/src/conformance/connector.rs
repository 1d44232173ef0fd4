//! The promises of a connector.

use std::{future::Future, marker::PhantomData, pin::pin, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use http::Response;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    ConnectorWorld, FakeAgent, LocalService, ServiceBehaviour, StartedService, Verdict, feed,
    verdict::{Checked, Promise, Skipped, difference, patience, payload, promises},
    world::destination,
};
use crate::{Body, BoxPipe, CallContext, ConnectorFactory, Edge, Fault, FaultCode, Health};

/// Holds the connector that `F` makes to every promise, called directly, in front of services that `service` starts.
///
/// # Panics
/// With the first promise that is broken.
pub async fn connector<F: ConnectorFactory, S: LocalService>(service: S) -> Verdict {
    connector_in::<FakeAgent<F>, S>(service).await
}

/// The same in another world, which is made anew for each promise.
///
/// # Panics
/// With the first promise that is broken.
pub async fn connector_in<W: ConnectorWorld, S: LocalService>(service: S) -> Verdict {
    let subject = Subject { service, world: PhantomData::<fn() -> W> };
    let mut verdict = Verdict::default();
    for &promise in ConnectorPromise::ALL {
        verdict.note(promise.text(), subject.check(promise).await);
    }
    verdict
}

promises! {
    /// What every connector promises.
    ConnectorPromise:
    RefusesUnknownFields = "a section with an unknown field is refused",
    RefusesTheUnsupported = "what it does not offer is refused as unsupported",
    ProbesTellTheTruth = "a probe is ready while the service is there, and failed while it is not",
    AnswersArriveIntact = "an answer arrives as the service gave it",
    BodiesStream = "an answer flows while the request still comes",
    RefusedIsToldApart = "a service that is not there is the fault service_refused",
    CutAnswersAreNeverComplete = "an answer that was cut ends with the fault service_reset, never as complete",
    CutRequestsAreNeverComplete = "a request that was cut is never passed on as complete",
    LeavingIsSeen = "a caller that leaves is seen by the service",
    StallsDelayNobody = "a stalled call delays no other",
    PipesCarryAll = "a pipe carries all bytes both ways, and the end of each",
    RefusedPipesAreToldApart = "a pipe to a service that is not there is the fault service_refused",
    CutPipesAreNeverComplete = "a pipe that was cut ends with an error, never with a clean end",
    ClosingIsSeen = "a pipe that is dropped is seen by the service",
    StalledPipesDelayNobody = "a stalled pipe delays no other",
}

pub(super) struct Subject<W, S> {
    pub(super) service: S,
    pub(super) world: PhantomData<fn() -> W>,
}

/// A connector and the service it talks to.
struct Scene<W> {
    world: W,
    edge: Arc<dyn Edge>,
    service: StartedService,
}

impl<W: ConnectorWorld, S: LocalService> Subject<W, S> {
    pub(super) async fn check(&self, promise: ConnectorPromise) -> Checked {
        let under = Promise(promise.text());
        match promise {
            ConnectorPromise::RefusesUnknownFields => self.refuses_unknown_fields(under).await,
            ConnectorPromise::RefusesTheUnsupported => self.refuses_the_unsupported(under).await,
            ConnectorPromise::ProbesTellTheTruth => self.probes_tell_the_truth(under).await,
            ConnectorPromise::AnswersArriveIntact => self.answers_arrive_intact(under).await,
            ConnectorPromise::BodiesStream => self.bodies_stream(under).await,
            ConnectorPromise::RefusedIsToldApart => self.refused_is_told_apart(under).await,
            ConnectorPromise::CutAnswersAreNeverComplete => self.cut_answers_are_never_complete(under).await,
            ConnectorPromise::CutRequestsAreNeverComplete => {
                self.cut_requests_are_never_complete(under).await
            }
            ConnectorPromise::LeavingIsSeen => self.leaving_is_seen(under).await,
            ConnectorPromise::StallsDelayNobody => self.stalls_delay_nobody(under).await,
            ConnectorPromise::PipesCarryAll => self.pipes_carry_all(under).await,
            ConnectorPromise::RefusedPipesAreToldApart => self.refused_pipes_are_told_apart(under).await,
            ConnectorPromise::CutPipesAreNeverComplete => self.cut_pipes_are_never_complete(under).await,
            ConnectorPromise::ClosingIsSeen => self.closing_is_seen(under).await,
            ConnectorPromise::StalledPipesDelayNobody => self.stalled_pipes_delay_nobody(under).await,
        }
    }

    async fn refuses_unknown_fields(&self, promise: Promise) -> Checked {
        let scene = self.scene(promise, ServiceBehaviour::Echo).await?;
        let mut section = scene.service.section.clone();
        match section.as_object_mut() {
            Some(fields) => fields.insert("aFieldThatNobodyKnows".into(), Value::Bool(true)),
            None => promise.broken("the section given to the suite is no object"),
        };
        promise.holds(W::load(section).await.is_err(), || "it was taken".into());
        scene.world.close().await;
        Ok(())
    }

    async fn refuses_the_unsupported(&self, promise: Promise) -> Checked {
        if S::CALLS && S::PIPES {
            return Err(Skipped);
        }
        let scene = self.scene(promise, ServiceBehaviour::Echo).await?;
        if !S::CALLS {
            let result = self.call(promise, &scene, Body::full("unsupported")).await;
            expect_code(promise, "a call", result.err(), FaultCode::Unsupported);
        }
        if !S::PIPES {
            let result = open(promise, &scene).await;
            expect_code(promise, "a pipe", result.err(), FaultCode::Unsupported);
        }
        scene.world.close().await;
        Ok(())
    }

    async fn probes_tell_the_truth(&self, promise: Promise) -> Checked {
        let scene = self.scene(promise, ServiceBehaviour::Echo).await?;
        let health = promise.within("a probe ends", scene.world.probe()).await.ok_or(Skipped)?;
        promise.holds(health == Health::Ready, || {
            format!("in front of a service that is there it is {health:?}")
        });
        scene.world.close().await;
        let scene = self.scene(promise, ServiceBehaviour::Refuse).await?;
        let health = promise.within("a probe ends", scene.world.probe()).await.ok_or(Skipped)?;
        promise
            .holds(matches!(health, Health::Failed(_)), || format!("with no service there it is {health:?}"));
        scene.world.close().await;
        Ok(())
    }

    async fn answers_arrive_intact(&self, promise: Promise) -> Checked {
        self.needs_calls()?;
        let scene = self.scene(promise, ServiceBehaviour::Echo).await?;
        for size in [0, 1, 1_000, 1024 * 1024] {
            self.echoes(promise, &scene, size).await;
        }
        self.echoes_body(promise, &scene, Body::empty(), Bytes::new()).await;
        for size in [1, 300_000] {
            let (feeder, body) = feed();
            let request = payload(size);
            let feeding = async {
                for piece in request.chunks(10_000) {
                    feeder.send(Bytes::copy_from_slice(piece)).await;
                }
                feeder.end();
            };
            tokio::join!(feeding, self.echoes_body(promise, &scene, body, request.clone()));
        }
        scene.world.close().await;
        Ok(())
    }

    async fn bodies_stream(&self, promise: Promise) -> Checked {
        self.needs_calls()?;
        if !S::STREAMS {
            return Err(Skipped);
        }
        let scene = self.scene(promise, ServiceBehaviour::Echo).await?;
        let (feeder, body) = feed();
        let first = payload(1_000);
        let call = self.call(promise, &scene, body);
        let (sent, answer) = tokio::join!(feeder.send(first.clone()), call);
        promise.holds(sent, || "the request's body was dropped".into());
        let mut body = accepted(promise, answer).into_body();
        read_exactly(promise, &mut body, &first).await;
        for size in [2_000, 3_000] {
            let piece = payload(size);
            feeder.send(piece.clone()).await;
            read_exactly(promise, &mut body, &piece).await;
        }
        feeder.end();
        match promise.within("the answer ends after the request", read(body)).await {
            (rest, None) => promise.holds(rest.is_empty(), || "the answer has more than the request".into()),
            (_, Some(fault)) => promise.broken(format_args!("the answer ended with {fault}")),
        }
        scene.world.close().await;
        Ok(())
    }

    async fn refused_is_told_apart(&self, promise: Promise) -> Checked {
        self.needs_calls()?;
        let scene = self.scene(promise, ServiceBehaviour::Refuse).await?;
        let result = self.call(promise, &scene, Body::full("is anybody there")).await;
        expect_code(promise, "the call", result.err(), FaultCode::ServiceRefused);
        scene.world.close().await;
        Ok(())
    }

    async fn cut_answers_are_never_complete(&self, promise: Promise) -> Checked {
        self.needs_calls()?;
        for (size, cut) in [(1_000, 0), (1_000, 1), (1_000, 700), (1_000, 1_000), (200_000, 60_000)] {
            let scene = self.scene(promise, ServiceBehaviour::CutAfter(cut)).await?;
            let request = payload(size);
            let answer = self.call(promise, &scene, Body::full(request.clone())).await;
            let fault = match answer {
                Err(fault) => fault,
                Ok(answer) => match promise.within("the answer ends", read(answer.into_body())).await {
                    (bytes, Some(fault)) => {
                        promise
                            .holds(request.starts_with(&bytes), || "what came before the cut differs".into());
                        fault
                    }
                    (bytes, None) => promise.broken(format_args!(
                        "{size} bytes that were cut after {cut} were seen as a complete answer of {}",
                        bytes.len()
                    )),
                },
            };
            expect_code(promise, "the answer", Some(fault), FaultCode::ServiceReset);
            scene.world.close().await;
        }
        Ok(())
    }

    async fn cut_requests_are_never_complete(&self, promise: Promise) -> Checked {
        self.needs_calls()?;
        let scene = self.scene(promise, ServiceBehaviour::Echo).await?;
        for size in [0, 5_000] {
            let (feeder, body) = feed();
            let cutting = async {
                if size > 0 {
                    feeder.send(payload(size)).await;
                }
                feeder.cut(Fault::with_detail(FaultCode::Cancelled, "the suite cut the request")).await;
            };
            let answering = async {
                match self.call(promise, &scene, body).await {
                    Err(_) => false,
                    Ok(answer) => read(answer.into_body()).await.1.is_none(),
                }
            };
            let ((), complete) =
                promise.within("a call whose request was cut ends", both(cutting, answering)).await;
            promise.holds(!complete, || {
                format!("a request that was cut after {size} bytes got a complete answer")
            });
        }
        self.echoes(promise, &scene, 1_000).await;
        if let Some(tally) = &scene.service.tally {
            let completed = tally.requests_completed();
            promise.holds(completed == 1, || {
                format!("the service saw {completed} requests end, one was sent whole")
            });
        }
        scene.world.close().await;
        Ok(())
    }

    async fn leaving_is_seen(&self, promise: Promise) -> Checked {
        self.needs_calls()?;
        for stall in [0, 500] {
            let scene = self.scene(promise, ServiceBehaviour::StallAfter(stall)).await?;
            let tally = scene.service.tally.clone().ok_or(Skipped)?;
            {
                let mut call = pin!(self.call(promise, &scene, Body::full(payload(1_000))));
                if stall == 0 {
                    tokio::select! {
                        biased; // the service holds its answer
                        answer = &mut call => promise.broken(format_args!("a stalled call ended with {answer:?}")),
                        () = eventually(promise, "the call reaches the service", || tally.begun() == 1) => {}
                    }
                } else {
                    let mut body = accepted(promise, call.await).into_body();
                    read_exactly(promise, &mut body, &payload(1_000)[..stall]).await;
                }
                promise
                    .holds(tally.abandoned() == 0, || "the call was given up while its caller waited".into());
            }
            let when = if stall == 0 { "before the answer" } else { "in the middle of the answer" };
            let what = format!("the service sees a caller leave {when}");
            eventually(promise, &what, || tally.abandoned() == 1).await;
            scene.world.close().await;
        }
        Ok(())
    }

    async fn stalls_delay_nobody(&self, promise: Promise) -> Checked {
        self.needs_calls()?;
        let scene = self.scene(promise, ServiceBehaviour::StallAfter(4_000)).await?;
        let long = payload(50_000);
        let mut stalled = Vec::new();
        for _ in 0..3 {
            let mut body =
                accepted(promise, self.call(promise, &scene, Body::full(long.clone())).await).into_body();
            read_exactly(promise, &mut body, &long[..4_000]).await;
            stalled.push(body);
        }
        for _ in 0..3 {
            self.echoes(promise, &scene, 1_000).await;
        }
        drop(stalled);
        scene.world.close().await;
        Ok(())
    }

    async fn pipes_carry_all(&self, promise: Promise) -> Checked {
        self.needs_pipes()?;
        let scene = self.scene(promise, ServiceBehaviour::Echo).await?;
        for size in [0, 1, 1_000, 1024 * 1024] {
            pipe_echoes(promise, &scene, size).await;
        }
        scene.world.close().await;
        Ok(())
    }

    async fn refused_pipes_are_told_apart(&self, promise: Promise) -> Checked {
        self.needs_pipes()?;
        let scene = self.scene(promise, ServiceBehaviour::Refuse).await?;
        let result = open(promise, &scene).await;
        expect_code(promise, "the pipe", result.err(), FaultCode::ServiceRefused);
        scene.world.close().await;
        Ok(())
    }

    async fn cut_pipes_are_never_complete(&self, promise: Promise) -> Checked {
        self.needs_pipes()?;
        for cut in [1, 700, 1_000] {
            let scene = self.scene(promise, ServiceBehaviour::CutAfter(cut)).await?;
            let mut pipe = opened(promise, &scene).await;
            let mut answer = Vec::new();
            // The cut may come before all is written, or before it is read: either is an error of the pipe.
            let exchange = async {
                pipe.write_all(&payload(1_000)).await?;
                pipe.read_to_end(&mut answer).await
            };
            let result = promise.within("a pipe that is cut ends", exchange).await;
            promise.holds(result.is_err(), || {
                format!("cut after {cut} bytes it ended cleanly after {}", answer.len())
            });
            scene.world.close().await;
        }
        Ok(())
    }

    async fn closing_is_seen(&self, promise: Promise) -> Checked {
        self.needs_pipes()?;
        let scene = self.scene(promise, ServiceBehaviour::StallAfter(500)).await?;
        let tally = scene.service.tally.clone().ok_or(Skipped)?;
        let mut pipe = opened(promise, &scene).await;
        pipe_reads(promise, &mut pipe, &payload(1_000), 500).await;
        promise.holds(tally.abandoned() == 0, || "the pipe was given up while its caller kept it".into());
        drop(pipe);
        eventually(promise, "the service sees the pipe close", || tally.abandoned() == 1).await;
        scene.world.close().await;
        Ok(())
    }

    async fn stalled_pipes_delay_nobody(&self, promise: Promise) -> Checked {
        self.needs_pipes()?;
        let scene = self.scene(promise, ServiceBehaviour::StallAfter(4_000)).await?;
        let mut stalled = Vec::new();
        for _ in 0..3 {
            let mut pipe = opened(promise, &scene).await;
            pipe_reads(promise, &mut pipe, &payload(5_000), 4_000).await;
            stalled.push(pipe);
        }
        pipe_echoes(promise, &scene, 1_000).await;
        drop(stalled);
        scene.world.close().await;
        Ok(())
    }

    fn needs_calls(&self) -> Checked {
        if S::CALLS { Ok(()) } else { Err(Skipped) }
    }

    fn needs_pipes(&self) -> Checked {
        if S::PIPES { Ok(()) } else { Err(Skipped) }
    }

    async fn scene(&self, promise: Promise, behaviour: ServiceBehaviour) -> Result<Scene<W>, Skipped> {
        let service = promise.within("the service starts", self.service.start(behaviour)).await;
        let service = match service {
            Some(service) => service,
            None if behaviour == ServiceBehaviour::Echo => {
                promise.broken("the service given to the suite can't echo")
            }
            None => return Err(Skipped),
        };
        match promise.within("the world is made", W::load(service.section.clone())).await {
            Ok(world) => Ok(Scene { edge: world.edge(), world, service }),
            Err(error) => promise.broken(format_args!("the section given to the suite is refused: {error}")),
        }
    }

    async fn call(&self, promise: Promise, scene: &Scene<W>, body: Body) -> Result<Response<Body>, Fault> {
        let call = scene.edge.call(self.service.request(body), CallContext::new());
        promise.within("a call ends", call).await
    }

    async fn echoes(&self, promise: Promise, scene: &Scene<W>, size: usize) {
        let request = payload(size);
        self.echoes_body(promise, scene, Body::full(request.clone()), request).await;
    }

    async fn echoes_body(&self, promise: Promise, scene: &Scene<W>, body: Body, expected: Bytes) {
        let answer = accepted(promise, self.call(promise, scene, body).await);
        match promise.within("an answer ends", read(answer.into_body())).await {
            (answer, None) => promise.holds(answer == expected, || {
                format!("the answer is not what the service gave: {}", difference(&expected, &answer))
            }),
            (_, Some(fault)) => promise.broken(format_args!("the answer ended with {fault}")),
        }
    }
}

/// The answer, if it is one of success.
fn accepted(promise: Promise, answer: Result<Response<Body>, Fault>) -> Response<Body> {
    match answer {
        Ok(answer) if answer.status().is_success() => answer,
        Ok(answer) => promise.broken(format_args!("the service answered with status {}", answer.status())),
        Err(fault) => promise.broken(format_args!("the call failed with {fault}")),
    }
}

fn expect_code(promise: Promise, what: &str, fault: Option<Fault>, expected: FaultCode) {
    match fault {
        Some(fault) if fault.code() == expected => {}
        Some(fault) => promise.broken(format_args!("{what} ended with {fault} instead of {expected}")),
        None => promise.broken(format_args!("{what} was taken, {expected} was expected")),
    }
}

/// All bytes of a body, and the fault that cut it.
async fn read(mut body: Body) -> (Bytes, Option<Fault>) {
    let mut bytes = BytesMut::new();
    loop {
        match body.frame().await {
            None => return (bytes.freeze(), None),
            Some(Err(fault)) => return (bytes.freeze(), Some(fault)),
            Some(Ok(frame)) => bytes.extend(frame.into_data().ok()),
        }
    }
}

/// Reads until `expected` was read, which must be all that is there.
async fn read_exactly(promise: Promise, body: &mut Body, expected: &[u8]) {
    let mut bytes = BytesMut::new();
    let reading = async {
        while bytes.len() < expected.len() {
            match body.frame().await {
                None => promise.broken(format_args!("the answer ended after {} bytes", bytes.len())),
                Some(Err(fault)) => promise.broken(format_args!("the answer ended with {fault}")),
                Some(Ok(frame)) => bytes.extend(frame.into_data().ok()),
            }
        }
    };
    promise.within("the service's bytes arrive as they come", reading).await;
    promise.holds(bytes == expected, || difference(expected, &bytes));
}

async fn open<W>(promise: Promise, scene: &Scene<W>) -> Result<BoxPipe, Fault> {
    promise.within("a pipe opens", scene.edge.open(destination(), CallContext::new())).await
}

async fn opened<W>(promise: Promise, scene: &Scene<W>) -> BoxPipe {
    match open(promise, scene).await {
        Ok(pipe) => pipe,
        Err(fault) => promise.broken(format_args!("the pipe was refused with {fault}")),
    }
}

/// Writes all, ends the writing half, reads all, and sees the other end.
async fn pipe_echoes<W>(promise: Promise, scene: &Scene<W>, size: usize) {
    let sent = payload(size);
    let (mut reader, mut writer) = tokio::io::split(opened(promise, scene).await);
    let mut answer = Vec::new();
    let writing = async {
        writer.write_all(&sent).await?;
        writer.shutdown().await
    };
    let exchange = both(writing, reader.read_to_end(&mut answer));
    let (written, read) = promise.within("a pipe carries all and ends", exchange).await;
    if let Err(error) = written.and(read.map(drop)) {
        promise.broken(format_args!("the pipe failed: {error}"));
    }
    promise.holds(answer == sent, || difference(&sent, &answer));
}

/// Writes all of `sent` and reads back as much as `expected`.
async fn pipe_reads(promise: Promise, pipe: &mut BoxPipe, sent: &[u8], expected: usize) {
    let mut answer = vec![0; expected];
    let exchange = async {
        pipe.write_all(sent).await?;
        pipe.flush().await?;
        pipe.read_exact(&mut answer).await
    };
    if let Err(error) = promise.within("bytes come through the pipe", exchange).await {
        promise.broken(format_args!("the pipe failed: {error}"));
    }
    promise.holds(answer == sent[..expected], || difference(&sent[..expected], &answer));
}

async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    tokio::join!(one, other)
}

/// Waits for what a service counts: it lives outside of anything that could wake us.
async fn eventually(promise: Promise, what: &str, condition: impl Fn() -> bool + Send) {
    let reached = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    if tokio::time::timeout(patience(), reached).await.is_err() {
        promise.broken(format_args!("{what}: not within {:?}", patience()));
    }
}

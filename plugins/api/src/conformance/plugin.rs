//! The promises of a plugin.

use std::{
    future::Future,
    net::SocketAddr,
    pin::{Pin, pin},
    time::Duration,
};

use bytes::Bytes;
use serde_json::Value;

use super::{
    Behaviour, Call, End, FakeEdge, FakeHub, PluginWorld, Verdict,
    verdict::{Checked, Promise, Skipped, difference, payload, promises},
};
use crate::{FaultCode, PluginFactory};

/// How one exchange went, seen by the caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The protocol says that this is the whole answer. Only its payload, without the protocol's own words.
    Complete(Bytes),
    /// The plugin said no, in the protocol's words or by not accepting the connection: why.
    Refused(String),
    /// An answer began, or might have, and did not reach its end.
    Truncated,
}

/// What the suite needs to know of a plugin's protocol: how a caller makes one exchange through it.
///
/// An async function or closure that takes the address and the payload is a driver, too.
pub trait Driver: Send + Sync {
    /// Connects to the plugin, sends `request` as the payload of one call, and reads the answer to its end.
    ///
    /// Payloads are letters, digits, `-` and `_`, without white space. Send and receive at the same time: the answer to
    /// a large payload begins before the payload is all sent. Wait for as long as it takes; the suite has a bound.
    ///
    /// # Cancel safety
    /// The suite drops the future to play a caller that leaves, so the connection must close with it.
    fn exchange(&self, address: SocketAddr, request: Bytes) -> impl Future<Output = Outcome> + Send;

    /// Begins an exchange, sends a true part of `request`, and leaves. `false` if the protocol has no such thing.
    fn leave_midway(&self, address: SocketAddr, request: Bytes) -> impl Future<Output = bool> + Send {
        let _ = (address, request);
        async { false }
    }

    /// The sizes of payloads that are exchanged. Leave some out where the protocol can't carry them.
    fn sizes(&self) -> Vec<usize> {
        vec![0, 1, 1000, 1024 * 1024]
    }
}

impl<F, E> Driver for F
where
    F: Fn(SocketAddr, Bytes) -> E + Send + Sync,
    E: Future<Output = Outcome> + Send,
{
    fn exchange(&self, address: SocketAddr, request: Bytes) -> impl Future<Output = Outcome> + Send {
        self(address, request)
    }
}

/// Holds the plugin that `F` makes from `section` to every promise, on a fake edge. A port in the section must be 0.
/// Run it in a test of its own: it counts the runtime's tasks to see whether one outlives `run`.
///
/// ```no_run
/// # use edgeway_plugin::{PluginFactory, conformance};
/// # use std::net::SocketAddr;
/// # async fn exchange(address: SocketAddr, request: bytes::Bytes) -> conformance::Outcome {
/// #     conformance::Outcome::Complete(request)
/// # }
/// # async fn example<MyFactory: PluginFactory>() {
/// let section = conformance::json!({"listen": "127.0.0.1:0"});
/// let verdict = conformance::plugin::<MyFactory, _>(section, exchange).await;
/// println!("{verdict}");
/// # }
/// ```
///
/// # Panics
/// With the first promise that is broken.
pub async fn plugin<F: PluginFactory, D: Driver>(section: Value, driver: D) -> Verdict {
    plugin_in::<FakeHub<F>, D>(section, driver).await
}

/// The same in another world, which is made anew for each promise.
///
/// # Panics
/// With the first promise that is broken.
pub async fn plugin_in<W: PluginWorld, D: Driver>(section: Value, driver: D) -> Verdict {
    let subject = Subject { section, driver, world: std::marker::PhantomData::<fn() -> W> };
    let mut verdict = Verdict::default();
    for &promise in PluginPromise::ALL {
        verdict.note(promise.text(), subject.check(promise).await);
    }
    verdict
}

promises! {
    /// What every plugin promises.
    PluginPromise:
    RefusesUnknownFields = "a section with an unknown field is refused",
    ServesUntilStopped = "run reports where it listens, serves until it is told to stop, and leaves nothing behind",
    AnswersArriveIntact = "an answer arrives as the service gave it, for one call",
    FaultsAreRefusals = "a fault is a refusal, never an answer",
    CutAnswersAreNeverComplete = "an answer that was cut is never reported complete",
    CutRequestsAreNeverComplete = "a request that was cut is never passed on as complete",
    StallsDelayNobody = "a stalled exchange delays no other",
    LeavingCancels = "a caller that leaves cancels its call",
    IdleStops = "run returns soon after stop with nothing in flight, even if a caller stays connected",
    StopDrains = "on stop, what is in flight is finished and nothing new is taken",
    StartsAgain = "run may be called again on the same value",
    DroppingRunEndsAll = "dropping run ends all that it started",
    SurvivesFaults = "a storm of faults leaves it serving",
    SurvivesLostSessions = "a lost session cuts its calls, and the next ones succeed",
}

pub(super) struct Subject<W, D> {
    pub(super) section: Value,
    pub(super) driver: D,
    pub(super) world: std::marker::PhantomData<fn() -> W>,
}

impl<W: PluginWorld, D: Driver> Subject<W, D> {
    pub(super) async fn check(&self, promise: PluginPromise) -> Checked {
        let under = Promise(promise.text());
        match promise {
            PluginPromise::RefusesUnknownFields => self.refuses_unknown_fields(under).await,
            PluginPromise::ServesUntilStopped => self.serves_until_stopped(under).await,
            PluginPromise::AnswersArriveIntact => self.answers_arrive_intact(under).await,
            PluginPromise::FaultsAreRefusals => self.faults_are_refusals(under).await,
            PluginPromise::CutAnswersAreNeverComplete => self.cut_answers_are_never_complete(under).await,
            PluginPromise::CutRequestsAreNeverComplete => self.cut_requests_are_never_complete(under).await,
            PluginPromise::StallsDelayNobody => self.stalls_delay_nobody(under).await,
            PluginPromise::LeavingCancels => self.leaving_cancels(under).await,
            PluginPromise::IdleStops => self.idle_stops(under).await,
            PluginPromise::StopDrains => self.stop_drains(under).await,
            PluginPromise::StartsAgain => self.starts_again(under).await,
            PluginPromise::DroppingRunEndsAll => self.dropping_run_ends_all(under).await,
            PluginPromise::SurvivesFaults => self.survives_faults(under).await,
            PluginPromise::SurvivesLostSessions => self.survives_lost_sessions(under).await,
        }
    }

    async fn refuses_unknown_fields(&self, promise: Promise) -> Checked {
        self.load(promise).await;
        let mut section = self.section.clone();
        match section.as_object_mut() {
            Some(fields) => fields.insert("aFieldThatNobodyKnows".into(), Value::Bool(true)),
            None => promise.broken("the section given to the suite is no object"),
        };
        promise.holds(W::load(section).await.is_err(), || "it was taken".into());
        Ok(())
    }

    async fn serves_until_stopped(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        self.echoes(promise, address, 100).await;
        // An early end would show as soon as the tasks had their turn.
        tokio::time::sleep(Duration::from_millis(20)).await;
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn answers_arrive_intact(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        let sizes = self.driver.sizes();
        promise.holds(!sizes.is_empty(), || "the driver names no size to exchange".into());
        for (exchanges, size) in sizes.into_iter().enumerate() {
            self.echoes(promise, address, size).await;
            let calls = world.edge().calls().len();
            promise
                .holds(calls == exchanges + 1, || format!("{} exchanges made {calls} calls", exchanges + 1));
        }
        world.edge().behave(Behaviour::Slow(100));
        self.echoes(promise, address, 2_000).await;
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn faults_are_refusals(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        for &code in FaultCode::ALL.iter().filter(|&&code| code != FaultCode::Cancelled) {
            world.edge().behave(Behaviour::Fault(code));
            let outcome = self.exchange(promise, address, payload(100)).await;
            promise
                .holds(matches!(outcome, Outcome::Refused(_)), || format!("{code} was seen as {outcome:?}"));
        }
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn cut_answers_are_never_complete(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        // The last of each: all bytes are there, only the end is not.
        for (size, cuts) in [(1_000, [0, 1, 700, 1_000]), (200_000, [1, 60_000, 199_999, 200_000])] {
            for cut in cuts {
                world.edge().behave(Behaviour::CutAfter(cut));
                let outcome = self.exchange(promise, address, payload(size)).await;
                promise.holds(!matches!(outcome, Outcome::Complete(_)), || {
                    format!("{size} bytes that were cut after {cut} were seen as a complete answer")
                });
            }
        }
        world.edge().behave(Behaviour::Echo);
        self.echoes(promise, address, 1_000).await;
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn cut_requests_are_never_complete(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        let leave = self.driver.leave_midway(address, payload(10_000));
        if !promise.within("the driver leaves midway", leave).await {
            return Err(Skipped);
        }
        self.echoes(promise, address, 100).await;
        // Once it has stopped, whatever it made of the cut request is on record.
        self.stop(promise, &world).await;
        let complete = world.edge().calls().iter().filter(|call| call.upload.end == End::Complete).count();
        promise.holds(complete == 1, || format!("{complete} requests were complete, one was sent whole"));
        Ok(())
    }

    async fn stalls_delay_nobody(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        for (behaviour, bytes) in [(Behaviour::Stall, 0), (Behaviour::StallAfter(500), 500)] {
            world.edge().behave(behaviour);
            let mut stalled = pin!(self.exchange(promise, address, payload(1_000)));
            reaches(promise, stalled.as_mut(), world.edge(), bytes).await;
            world.edge().behave(Behaviour::Echo);
            self.echoes(promise, address, 1_000).await;
            world.edge().release();
            let outcome = stalled.await;
            promise.holds(outcome == Outcome::Complete(payload(1_000)), || {
                format!("once it could go on, the stalled exchange ended as {}", brief(&outcome))
            });
        }
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn leaving_cancels(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        for (left, (behaviour, bytes)) in
            [(Behaviour::Stall, 0), (Behaviour::StallAfter(500), 500)].into_iter().enumerate()
        {
            world.edge().behave(behaviour);
            {
                let mut leaving = pin!(self.exchange(promise, address, payload(1_000)));
                reaches(promise, leaving.as_mut(), world.edge(), bytes).await;
            }
            let cancelled = |calls: &[Call]| calls.iter().filter(|call| call.cancelled()).count() > left;
            let when = if bytes == 0 { "before the answer" } else { "in the middle of the answer" };
            promise
                .within(&format!("the call of a caller that left {when} ends"), world.edge().until(cancelled))
                .await;
        }
        world.edge().behave(Behaviour::Echo);
        self.echoes(promise, address, 1_000).await;
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn idle_stops(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        // Someone who connected and says nothing. Not every plugin listens on TCP. Who does takes callers in turn, so that
        // after the exchange the silent one has been taken, too.
        let silent = tokio::net::TcpStream::connect(address).await;
        self.echoes(promise, address, 100).await;
        self.stop(promise, &world).await;
        drop(silent);
        let outcome = self.exchange(promise, address, payload(100)).await;
        promise.holds(!matches!(outcome, Outcome::Complete(_)), || {
            "it still answers after run has returned".into()
        });
        Ok(())
    }

    async fn stop_drains(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        world.edge().behave(Behaviour::StallAfter(500));
        let mut held = pin!(self.exchange(promise, address, payload(1_000)));
        reaches(promise, held.as_mut(), world.edge(), 500).await;
        world.edge().behave(Behaviour::Echo);
        let meanwhile = async {
            let refused = async {
                while let Outcome::Complete(_) = self.exchange(promise, address, payload(100)).await {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            promise.within("new exchanges are refused after stop", refused).await;
            world.edge().release();
            let outcome = held.await;
            promise.holds(outcome == Outcome::Complete(payload(1_000)), || {
                format!("what was in flight ended as {}", brief(&outcome))
            });
        };
        tokio::join!(self.stop(promise, &world), meanwhile);
        Ok(())
    }

    async fn starts_again(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        for _ in 0..3 {
            let address = self.start(promise, &world).await;
            self.echoes(promise, address, 100).await;
            self.stop(promise, &world).await;
        }
        Ok(())
    }

    async fn dropping_run_ends_all(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        world.edge().behave(Behaviour::StallAfter(500));
        let mut held = pin!(self.exchange(promise, address, payload(1_000)));
        reaches(promise, held.as_mut(), world.edge(), 500).await;
        let aborted = async {
            match promise.within("all ends", world.abort()).await {
                None => {
                    world.edge().release();
                    Err(Skipped)
                }
                Some(Ok(())) => Ok(()),
                Some(Err(left)) => promise.broken(left),
            }
        };
        let (aborted, outcome) = tokio::join!(aborted, held);
        aborted?;
        promise.holds(!matches!(outcome, Outcome::Complete(_)), || {
            "the exchange that was cut off was seen as complete".into()
        });
        let gone = |calls: &[Call]| calls.iter().all(|call| !call.in_flight());
        promise.within("the call in flight ends", world.edge().until(gone)).await;
        world.edge().behave(Behaviour::Echo);
        let address = self.start(promise, &world).await;
        self.echoes(promise, address, 100).await;
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn survives_faults(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        for round in 0..100 {
            world.edge().behave(match round % 2 {
                0 => Behaviour::Fault(FaultCode::ServiceReset),
                _ => Behaviour::CutAfter(500),
            });
            let outcome = self.exchange(promise, address, payload(1_000)).await;
            promise
                .holds(!matches!(outcome, Outcome::Complete(_)), || "a fault was seen as an answer".into());
        }
        world.edge().behave(Behaviour::Echo);
        self.soon_echoes(promise, address).await;
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn survives_lost_sessions(&self, promise: Promise) -> Checked {
        let world = self.load(promise).await;
        let address = self.start(promise, &world).await;
        for (behaviour, bytes) in [(Behaviour::Stall, 0), (Behaviour::StallAfter(500), 500)] {
            world.edge().behave(behaviour);
            let mut held = pin!(self.exchange(promise, address, payload(1_000)));
            reaches(promise, held.as_mut(), world.edge(), bytes).await;
            let ((), outcome) = tokio::join!(promise.within("the session is back", world.restart()), held);
            promise.holds(!matches!(outcome, Outcome::Complete(_)), || {
                "a lost call was seen as complete".into()
            });
            world.edge().behave(Behaviour::Echo);
            self.soon_echoes(promise, address).await;
        }
        self.stop(promise, &world).await;
        Ok(())
    }

    async fn load(&self, promise: Promise) -> W {
        match promise.within("the world is made", W::load(self.section.clone())).await {
            Ok(world) => world,
            Err(error) => promise.broken(format_args!("the section given to the suite is refused: {error}")),
        }
    }

    async fn start(&self, promise: Promise, world: &W) -> SocketAddr {
        match promise.within("the plugin starts and calls bound()", world.start()).await {
            Ok(address) => address,
            Err(error) => promise.broken(error),
        }
    }

    async fn stop(&self, promise: Promise, world: &W) {
        if let Err(error) = promise.within("run returns after stop", world.stop()).await {
            promise.broken(error);
        }
    }

    async fn exchange(&self, promise: Promise, address: SocketAddr, request: Bytes) -> Outcome {
        let exchange = self.driver.exchange(address, request);
        promise.within("an exchange ends", exchange).await
    }

    async fn echoes(&self, promise: Promise, address: SocketAddr, size: usize) {
        let request = payload(size);
        match self.exchange(promise, address, request.clone()).await {
            Outcome::Complete(answer) => {
                promise.holds(answer == request, || {
                    format!("the answer is not what the service gave: {}", difference(&request, &answer))
                });
            }
            other => promise.broken(format_args!("an exchange of {size} bytes ended as {}", brief(&other))),
        }
    }

    /// After a fault has healed: within a bound, not at once.
    async fn soon_echoes(&self, promise: Promise, address: SocketAddr) {
        let request = payload(100);
        let succeeds = async {
            while self.exchange(promise, address, request.clone()).await != Outcome::Complete(request.clone())
            {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        promise.within("an exchange succeeds again", succeeds).await;
    }
}

/// Drives `exchange` until its call is in flight at the service and `bytes` of its answer have gone by.
async fn reaches<E>(promise: Promise, exchange: Pin<&mut E>, edge: &FakeEdge, bytes: u64)
where
    E: Future<Output = Outcome> + Send,
{
    let before = edge.calls().len();
    let there = edge.until(move |calls| {
        calls.iter().skip(before).any(|call| call.in_flight() && call.answer.bytes >= bytes)
    });
    tokio::select! {
        biased; // the exchange may not end before the answer does
        outcome = exchange => {
            promise.broken(format_args!("the exchange ended as {} while the service held its answer", brief(&outcome)))
        }
        _ = promise.within("the exchange reaches the service", there) => {}
    }
}

fn brief(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Complete(bytes) => format!("complete with {} bytes", bytes.len()),
        Outcome::Refused(why) => format!("refused ({why})"),
        Outcome::Truncated => "truncated".into(),
    }
}

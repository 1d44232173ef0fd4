//! The uplink: dial a hub, serve its calls, and when the session ends, dial again.
//!
//! ```text
//!   resolve ─▶ dial ─▶ Hello/Welcome ─▶ serve ─▶ ended
//!      ▲        │ failed                          │
//!      └─ pause ◀─────────────────────────────────┘
//! ```
//!
//! Hubs are tried in turn, and so are all addresses of a name, which is resolved anew each time. The pause grows
//! exponentially with full jitter, starts over after a session that lasted, and gives way to what a hub asked for. After
//! three failures on one socket a new one is opened: a NAT may have forgotten it, or a route may have changed.

use std::{
    net::SocketAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use edgeway_host::logs::Chain;
use edgeway_proto::{Close, CloseCode, wire};
use edgeway_tunnel::{
    identity::Identity,
    link::{Link, LinkEnd, RecvHalf, SendHalf},
    session::{Control, ControlEvent, open_session},
    transport::{Budgets, Dialler},
};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{config::HubAddress, dispatch::Dispatch, metrics::AgentMetrics};

/// Failures on one socket after which a new one is opened.
const SOCKET_FAILURES: u32 = 3;
/// A session that lasted this long shows that the way is good: the pause starts over.
const GOOD_SESSION: Duration = Duration::from_secs(10);

/// What the agent is connected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum UplinkState {
    Connecting(Option<String>),
    Connected(String),
    Stopped,
}

/// The loop, and what it needs.
pub(crate) struct Uplink {
    pub(crate) identity: Arc<Identity>,
    pub(crate) budgets: Budgets,
    pub(crate) hubs: Vec<HubAddress>,
    pub(crate) backoff: Backoff,
    pub(crate) hello: wire::Hello,
    pub(crate) dispatch: Arc<Dispatch>,
    pub(crate) metrics: Arc<AgentMetrics>,
    pub(crate) drain: Duration,
    pub(crate) state: watch::Sender<UplinkState>,
}

/// Exponential back-off with full jitter: each pause is random between zero and a bound that doubles.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    least: Duration,
    most: Duration,
    bound: Duration,
}

impl Backoff {
    pub(crate) fn new(least: Duration, most: Duration) -> Self {
        Self { least, most, bound: least }
    }

    fn reset(&mut self) {
        self.bound = self.least;
    }

    fn pause(&mut self) -> Duration {
        let bound = self.bound;
        self.bound = (bound * 2).min(self.most);
        bound.mul_f64(rand::random_range(0.0..=1.0))
    }
}

/// Whose turn it is, and after which pause.
struct Turns {
    hubs: usize,
    turn: usize,
    backoff: Backoff,
    /// The longest wait that a hub asked for since all of them were tried last.
    asked: Duration,
}

impl Turns {
    fn new(hubs: usize, backoff: Backoff) -> Self {
        Self { hubs, turn: 0, backoff, asked: Duration::ZERO }
    }

    /// The hub to dial now.
    fn next(&mut self) -> usize {
        let hub = self.turn % self.hubs;
        self.turn += 1;
        hub
    }

    /// The pause after a session.
    fn after_session(&mut self, ended: &Ended) -> Duration {
        let elsewhere = ended.leaving && self.hubs > 1;
        if ended.lasted >= GOOD_SESSION {
            self.backoff.reset();
            if !elsewhere {
                // The same hub first: it was fine.
                self.turn -= 1;
            }
        }
        let asked = ended.retry_after.filter(|_| !elsewhere).unwrap_or_default();
        // Jitter on top, or a thousand agents would come back at the same moment.
        asked + self.backoff.pause()
    }

    /// The pause after a failed attempt: none before all hubs were tried, then what was asked for, with jitter on top.
    fn after_failure(&mut self, retry_after: Option<Duration>) -> Duration {
        self.asked = self.asked.max(retry_after.unwrap_or_default());
        if !self.turn.is_multiple_of(self.hubs) {
            return Duration::ZERO;
        }
        std::mem::take(&mut self.asked) + self.backoff.pause()
    }
}

/// How one session ended.
struct Ended {
    lasted: Duration,
    retry_after: Option<Duration>,
    /// The hub said that it goes, or wants us elsewhere: the next one is tried first, and at once.
    leaving: bool,
}

impl Uplink {
    /// Runs until `stop` fires; then drains: the hub is told, calls that run get until the deadline.
    ///
    /// # Cancel safety
    /// Dropping the future ends the session; calls that run are reset.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut sockets = Sockets::new(self.identity.clone(), self.budgets.clone());
        let mut turns = Turns::new(self.hubs.len(), self.backoff.clone());
        while !stop.is_cancelled() {
            let hub = self.hubs[turns.next()].clone();
            let attempt = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                connected = self.connect(&mut sockets, &hub) => connected,
            };
            let pause = match attempt {
                Ok((link, control)) => {
                    let ended = self.session(link, control, &stop).await;
                    turns.after_session(&ended)
                }
                Err((why, retry_after)) => {
                    self.metrics.dial_failed();
                    self.state.send_replace(UplinkState::Connecting(Some(why.clone())));
                    let pause = turns.after_failure(retry_after);
                    warn!(hub = %hub, error = why, pause_ms = pause.as_millis() as u64, "no session");
                    pause
                }
            };
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        sockets.close().await;
        self.state.send_replace(UplinkState::Stopped);
    }

    async fn connect(
        &self,
        sockets: &mut Sockets,
        hub: &HubAddress,
    ) -> Result<(Link, Control), (String, Option<Duration>)> {
        let resolved = tokio::net::lookup_host((hub.host(), hub.port())).await;
        let addresses: Vec<SocketAddr> = match resolved {
            Ok(addresses) => addresses.collect(),
            Err(error) => return Err((format!("can't resolve {}: {error}", hub.host()), None)),
        };
        let mut why = format!("{} has no address", hub.host());
        let mut retry_after = None;
        for address in addresses {
            match self.connect_to(sockets, hub, address).await {
                Ok(connected) => return Ok(connected),
                Err((error, hint)) => {
                    debug!(%address, error, "attempt failed");
                    (why, retry_after) = (error, hint.or(retry_after));
                }
            }
        }
        Err((why, retry_after))
    }

    async fn connect_to(
        &self,
        sockets: &mut Sockets,
        hub: &HubAddress,
        address: SocketAddr,
    ) -> Result<(Link, Control), (String, Option<Duration>)> {
        let dialler = sockets.dialler(address.is_ipv6()).map_err(|error| (error, None))?;
        let dialled = dialler.dial(address, hub.server_name()).await;
        let (link, name) = match dialled {
            Ok(dialled) => dialled,
            Err(error) => {
                sockets.failed(address.is_ipv6());
                return Err((Chain(&error).to_string(), None));
            }
        };
        match open_session(&link, &self.hello).await {
            Ok((control, welcome)) => {
                sockets.worked(address.is_ipv6());
                info!(hub = %name, %address, generation = welcome.generation, version = welcome.hub_version, "connected");
                self.state.send_replace(UplinkState::Connected(name.to_string()));
                Ok((link, control))
            }
            Err(error) => {
                link.close(&error.close());
                let retry_after = match link.end() {
                    Some(LinkEnd::Peer(close)) => close.retry_after,
                    _ => None,
                };
                link.finish().await;
                Err((Chain(&error).to_string(), retry_after))
            }
        }
    }

    /// Serves calls until the session ends, or, after `stop`, until all calls are done or the drain's time is up.
    async fn session(&self, link: Link, mut control: Control, stop: &CancellationToken) -> Ended {
        let started = Instant::now();
        self.metrics.connected.set(1);
        let calls = TaskTracker::new();
        let mut retry_after = None;
        let mut leaving = false;
        let end = loop {
            tokio::select! {
                biased; // a stop comes before what the hub still wants
                () = stop.cancelled() => {
                    self.drain(&link, &mut control, &calls).await;
                    break link.closed().await;
                }
                event = control.next() => match event {
                    Ok(ControlEvent::Drain { reason, retry_after: hint }) => {
                        info!(reason, "hub drains");
                        retry_after = hint;
                        leaving = true;
                    }
                    Ok(_) => {}
                    Err(error) => {
                        link.close(&error.close());
                        break link.closed().await;
                    }
                },
                accepted = link.accept() => match accepted {
                    Ok((send, recv)) => {
                        self.start(&calls, send, recv);
                    }
                    Err(end) => break end,
                },
            }
        };
        self.metrics.connected.set(0);
        self.metrics.session_ended(end.name());
        if let LinkEnd::Peer(Close { retry_after: Some(after), .. }) = &end {
            retry_after = Some(*after);
            leaving = true;
        }
        info!(cause = %end, lasted_s = started.elapsed().as_secs(), "session ended");
        self.state.send_replace(UplinkState::Connecting(Some(end.to_string())));
        // Streams broke with the link, so what still runs ends by itself, and the services see their callers leave.
        calls.close();
        calls.wait().await;
        link.finish().await;
        Ended { lasted: started.elapsed(), retry_after, leaving }
    }

    /// Boxed: a task is moved a few times until it runs, and this one is large.
    fn start(&self, calls: &TaskTracker, send: SendHalf, recv: RecvHalf) {
        calls.spawn(Box::pin(self.dispatch.clone().serve(send, recv)));
    }

    /// Tells the hub, serves what is still on its way, and waits for the hub to close: only the hub knows when the last
    /// byte of the last answer has come. At the deadline what is left is cut, and named.
    async fn drain(&self, link: &Link, control: &mut Control, calls: &TaskTracker) {
        let deadline = tokio::time::sleep(self.drain);
        tokio::pin!(deadline);
        // Told first, refused after: a hub that heard it sends nothing more, and what crosses on the wire is served.
        let _ = control.drain("the agent is shutting down", None).await;
        info!(in_flight = calls.len(), limit_s = self.drain.as_secs(), "draining");
        let settle = tokio::time::sleep(link.stats().rtt * 2 + Duration::from_millis(20));
        tokio::pin!(settle);
        let mut settled = false;
        loop {
            tokio::select! {
                biased; // the end of patience, then the end of the link, then what still comes
                () = &mut deadline => {
                    for (name, service) in &self.dispatch.services {
                        if service.permits.in_use() > 0 {
                            warn!(service = %name, calls = service.permits.in_use(), "cut at the end of the drain");
                        }
                    }
                    break;
                }
                () = &mut settle, if !settled => {
                    settled = true;
                    self.dispatch.draining.store(true, Ordering::Release);
                }
                accepted = link.accept() => match accepted {
                    Ok((send, recv)) => self.start(calls, send, recv),
                    Err(_) => break,
                },
            }
        }
        link.close(&Close::new(CloseCode::Shutdown, "the agent is shutting down"));
    }
}

/// The sockets in use, one for each address family, replaced after failures.
struct Sockets {
    identity: Arc<Identity>,
    budgets: Budgets,
    families: [Option<(Dialler, u32)>; 2],
}

impl Sockets {
    fn new(identity: Arc<Identity>, budgets: Budgets) -> Self {
        Self { identity, budgets, families: [None, None] }
    }

    fn dialler(&mut self, ipv6: bool) -> Result<&Dialler, String> {
        let socket = &mut self.families[usize::from(ipv6)];
        if socket.as_ref().is_some_and(|(_, failures)| *failures >= SOCKET_FAILURES) {
            info!("a new socket, the old one failed {SOCKET_FAILURES} times");
            *socket = None;
        }
        if socket.is_none() {
            let dialler = Dialler::bind(self.identity.clone(), &self.budgets, ipv6)
                .map_err(|error| Chain(&error).to_string())?;
            *socket = Some((dialler, 0));
        }
        Ok(&socket.as_ref().expect("it was just made").0)
    }

    fn failed(&mut self, ipv6: bool) {
        if let Some((_, failures)) = &mut self.families[usize::from(ipv6)] {
            *failures += 1;
        }
    }

    fn worked(&mut self, ipv6: bool) {
        if let Some((_, failures)) = &mut self.families[usize::from(ipv6)] {
            *failures = 0;
        }
    }

    /// Lets the last packets out, for a moment at most.
    async fn close(&mut self) {
        for (dialler, _) in self.families.iter().flatten() {
            let _ = tokio::time::timeout(Duration::from_secs(1), dialler.wait_idle()).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn turns(hubs: usize) -> Turns {
        Turns::new(hubs, Backoff::new(Duration::from_millis(200), SECOND))
    }

    fn ended(lasted: Duration, retry_after: Option<Duration>, leaving: bool) -> Ended {
        Ended { lasted, retry_after, leaving }
    }

    #[test]
    fn a_hubs_retry_hint_is_obeyed() {
        let mut one = turns(1);
        one.next();
        assert!(one.after_failure(Some(5 * SECOND)) >= 5 * SECOND);
        one.next();
        assert!(one.after_session(&ended(SECOND, Some(5 * SECOND), true)) >= 5 * SECOND);
        one.next();
        assert!(one.after_failure(None) <= SECOND, "a hint counts once");
    }

    #[test]
    fn no_hubs_hint_keeps_an_agent_from_another_hub() {
        let mut two = turns(2);
        assert_eq!(two.next(), 0);
        assert_eq!(two.after_failure(Some(5 * SECOND)), Duration::ZERO);
        assert_eq!(two.next(), 1);
        assert!(two.after_failure(None) >= 5 * SECOND, "both were tried, and one asked for time");
        assert_eq!(two.next(), 0);
        assert!(two.after_session(&ended(60 * SECOND, Some(5 * SECOND), true)) <= SECOND);
        assert_eq!(two.next(), 1, "the other one, as the first is leaving");
        two.after_session(&ended(60 * SECOND, None, false));
        assert_eq!(two.next(), 1, "the same one, as it was fine");
    }

    #[test]
    fn the_pause_is_random_below_a_bound_that_doubles_up_to_the_most() {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(1));
        for bound in [200, 400, 800, 1000, 1000] {
            assert!(backoff.pause() <= Duration::from_millis(bound));
        }
        backoff.reset();
        assert!(backoff.pause() <= Duration::from_millis(200));
    }
}

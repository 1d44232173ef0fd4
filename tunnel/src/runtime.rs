//! A runtime for quinn whose connection drivers let the tasks that are ready run first.
//!
//! As it comes, a connection's driver wakes for every write of every stream, and on a runtime with several workers it
//! sends one small datagram each. [`Deferred`] wraps each driver so that a wake first yields once: what other tasks are
//! about to write rides in the same datagrams. Measured (2 cores, small calls): 1.3 datagrams per call become 0.25, and
//! the CPU per call a quarter, for 20 to 30 us of latency where nothing else is in flight. With one worker the order is
//! the natural one, so nothing is gained or lost, and the wrapper is left out.

use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use quinn::{AsyncTimer, AsyncUdpSocket, Runtime, TokioRuntime};
use tokio_util::sync::ReusableBoxFuture;

/// quinn's runtime on tokio, with deferred connection drivers.
#[derive(Debug)]
pub(crate) struct Deferred {
    /// False while the endpoint is made: its own driver, which only hands datagrams on, is not deferred.
    connections: AtomicBool,
}

impl Deferred {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self { connections: AtomicBool::new(false) })
    }

    /// From now on everything spawned is a connection's driver.
    pub(crate) fn endpoint_is_made(&self) {
        self.connections.store(true, Ordering::Relaxed);
    }
}

impl Runtime for Deferred {
    fn new_timer(&self, at: Instant) -> Pin<Box<dyn AsyncTimer>> {
        TokioRuntime.new_timer(at)
    }

    fn spawn(&self, driver: Pin<Box<dyn Future<Output = ()> + Send>>) {
        if self.connections.load(Ordering::Relaxed) {
            let pause = ReusableBoxFuture::new(std::future::ready(()));
            tokio::spawn(YieldFirst { driver, pause, paused: false });
        } else {
            tokio::spawn(driver);
        }
    }

    fn wrap_udp_socket(&self, socket: std::net::UdpSocket) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        TokioRuntime.wrap_udp_socket(socket)
    }
}

/// Polls the driver only once the worker has nothing else that is ready.
struct YieldFirst {
    driver: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// A `yield_now` whose allocation is used again for each wake.
    pause: ReusableBoxFuture<'static, ()>,
    paused: bool,
}

impl Future for YieldFirst {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let this = &mut *self;
        if !this.paused {
            this.pause.set(tokio::task::yield_now());
            this.paused = true;
        }
        ready!(this.pause.poll(cx));
        this.paused = false;
        this.driver.as_mut().poll(cx)
    }
}

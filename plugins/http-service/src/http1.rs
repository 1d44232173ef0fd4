//! One HTTP/1.1 connection: what sends on it, and what ends it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use http::{Extensions, Request, StatusCode};
use hyper::client::conn::http1::{Builder, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::{sync::OwnedSemaphorePermit, task::AbortHandle};
use tracing::{Instrument, debug, debug_span};

use crate::{
    config::PoolSettings,
    socket::Wire,
    tasks::Tasks,
    upload::{Exchange, Upload},
};

/// Most 1xx answers before the final one. Real services send one or two; without a bound one could send them for ever.
pub(crate) const MAX_INTERIM: u32 = 32;

/// A connection, owned by the pool or by the one exchange that uses it.
///
/// Dropped while an exchange is on it, it is closed at once, so that the service sees that nobody waits any more.
/// Dropped when idle, it is shut down in order.
#[derive(Debug)]
pub(crate) struct Http1 {
    pub(crate) sender: SendRequest<Upload>,
    /// It has served a call before, so that the service may just now be closing it.
    pub(crate) reused: bool,
    /// It may serve another call.
    pub(crate) reusable: bool,
    /// Since when it is idle.
    pub(crate) since: Instant,
    driver: AbortHandle,
    interim: Arc<Interim>,
    /// The extensions that each request carries: made once, as they are the same each time.
    extensions: Extensions,
    slot: Option<OwnedSemaphorePermit>,
}

/// Counts the 1xx answers of the current exchange.
#[derive(Debug, Default)]
struct Interim {
    seen: AtomicU32,
    driver: OnceLock<AbortHandle>,
}

impl Interim {
    fn count(&self) {
        if self.seen.fetch_add(1, Ordering::AcqRel) == MAX_INTERIM
            && let Some(driver) = self.driver.get()
        {
            driver.abort();
        }
    }
}

/// The settings of all connections of a pool.
pub(crate) fn builder(settings: &PoolSettings) -> Builder {
    let mut builder = Builder::new();
    builder.max_headers(settings.header_count).max_header_size(settings.header_bytes as usize);
    builder
}

impl Http1 {
    /// Starts HTTP/1.1 on a wire. `None` once the connector is gone.
    pub(crate) async fn start(
        wire: Wire,
        builder: &Builder,
        tasks: &Tasks,
        slot: OwnedSemaphorePermit,
    ) -> hyper::Result<Option<Self>> {
        let (sender, connection) = builder.handshake::<_, Upload>(TokioIo::new(wire)).await?;
        let drive = async move {
            if let Err(error) = connection.with_upgrades().await {
                debug!(%error, "connection to the service ended");
            }
        };
        let Some(driver) = tasks.spawn(drive.instrument(debug_span!("http1_connection"))) else {
            return Ok(None);
        };
        let interim = Arc::new(Interim::default());
        let _ = interim.driver.set(driver.clone());
        let mut request = Request::new(());
        hyper::ext::on_informational(&mut request, {
            let interim = Arc::clone(&interim);
            move |_| interim.count()
        });
        Ok(Some(Self {
            sender,
            reused: false,
            reusable: true,
            since: Instant::now(),
            driver,
            interim,
            extensions: request.into_parts().0.extensions,
            slot: Some(slot),
        }))
    }

    /// Prepares connection and request for each other.
    pub(crate) fn attach(&mut self, request: &mut Request<Upload>) {
        self.interim.seen.store(0, Ordering::Release);
        match request.body().exchange() {
            Some(exchange) if request.body().waits() => self.attach_waiting(request, exchange),
            _ => *request.extensions_mut() = self.extensions.clone(),
        }
    }

    fn attach_waiting(&self, request: &mut Request<Upload>, exchange: Arc<Exchange>) {
        let interim = Arc::clone(&self.interim);
        request.extensions_mut().clear();
        hyper::ext::on_informational(request, move |answer| {
            interim.count();
            if answer.status() == StatusCode::CONTINUE {
                exchange.go_on();
            }
        });
    }

    /// Whether the service sent 1xx answers until it was cut off.
    pub(crate) fn endless_interim(&self) -> bool {
        self.interim.seen.load(Ordering::Acquire) > MAX_INTERIM
    }

    /// Takes the slot out, for the connection to go on as something else than HTTP.
    pub(crate) fn into_slot(mut self) -> Option<OwnedSemaphorePermit> {
        self.slot.take()
    }
}

impl Drop for Http1 {
    fn drop(&mut self) {
        if !self.sender.is_ready() {
            self.driver.abort();
        }
    }
}

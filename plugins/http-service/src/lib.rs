//! Connector `http`: calls to a local HTTP service.
//!
//! A service of the agent with an `http` section is reached through one [`HttpService`]: over HTTP/1.1 (`http`), HTTP/2
//! (`h2c`) or whichever of the two the service prefers (`https`), at a TCP address or a Unix socket.
//!
//! ```yaml
//! services:
//! - name: orders
//!   http:
//!     url: http://127.0.0.1:9000
//! ```
//!
//! It owns the connections to its service and their tasks. [`HttpServiceFactory::build`] checks the config and starts
//! nothing; the first call makes the first connection; dropping the connector closes all of them, and cuts the calls that
//! still run on them.
//!
//! What it holds to:
//!
//! - Bodies are streamed both ways, each pulled by whoever takes it. Only what the connections buffer is in memory.
//! - A body that was cut is never passed on as complete, in either direction.
//! - A call is sent a second time only if a connection from the pool was closed before any byte of it was written.
//! - A service's own error status is an answer like any other.
//!
//! What it deliberately does not do: retries, redirects, cookies, caching, decompression, deadlines (the host's), and
//! interim answers such as `103 Early Hints`, which are counted and dropped. Over HTTP/2 interim answers can't be seen:
//! a body that waits for `100 Continue` is sent after a second, or not at all if the answer comes first. Trailers of a
//! request to an HTTP/1.1 service must be announced in `trailer`.

mod answer;
mod call;
mod config;
mod dial;
mod fault;
mod head;
mod http1;
mod http2;
mod pool;
mod socket;
mod switch;
mod tasks;
mod upload;

use std::{fmt, sync::Arc};

use edgeway_plugin::{
    Body, CallContext, ConfigError, Connector, ConnectorFactory, Fault, Health, Request, Response,
};

use crate::{config::Settings, dial::Dialer, pool::Pool};
pub use edgeway_plugin::units::{Period, Size};

pub use crate::config::{HttpServiceConfig, LimitsConfig, PoolConfig, TimeoutsConfig, TlsConfig};

/// Talks to one local HTTP service. See the [crate].
pub struct HttpService {
    settings: Settings,
    pool: Arc<Pool>,
}

impl HttpService {
    /// Makes a connector from its section, as [`HttpServiceFactory::build`] does.
    ///
    /// # Errors
    /// Every problem of the section, each with its path.
    pub fn new(config: HttpServiceConfig) -> Result<Self, ConfigError> {
        let mut settings = Settings::validate(config)?;
        let dialer = Dialer::new(
            settings.scheme,
            settings.address.clone(),
            settings.connect_timeout,
            settings.tls.take(),
        );
        let pool = Pool::new(settings.pool, dialer);
        Ok(Self { settings, pool })
    }
}

impl Connector for HttpService {
    async fn call(&self, request: Request<Body>, _cx: CallContext) -> Result<Response<Body>, Fault> {
        call::call(&self.pool, &self.settings, request).await
    }

    /// Connects and closes again, within 2 s. A service counts no request.
    async fn probe(&self) -> Health {
        self.pool.dialer().probe().await
    }
}

impl Drop for HttpService {
    fn drop(&mut self) {
        self.pool.close();
    }
}

impl fmt::Debug for HttpService {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpService").field("address", &self.settings.address).finish_non_exhaustive()
    }
}

/// Makes [`HttpService`]s from the `http` sections of the agent's services.
#[derive(Debug)]
pub enum HttpServiceFactory {}

impl ConnectorFactory for HttpServiceFactory {
    const NAME: &'static str = "http";
    type Config = HttpServiceConfig;
    type Connector = HttpService;

    fn build(config: HttpServiceConfig) -> Result<HttpService, ConfigError> {
        HttpService::new(config)
    }
}

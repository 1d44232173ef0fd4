//! Plugin `rest`: HTTP calls into the tunnel.
//!
//! It listens for HTTP/1.1 and HTTP/2, with or without TLS, and turns each request into a call on the edge. Method, path,
//! query, headers, bodies and trailers pass as they are, both ways and as they come; what concerns the caller's
//! connection alone is removed, and `Forwarded`, `X-Forwarded-*`, `Via` and `traceparent` are set. Faults become
//! `application/problem+json` with the header `edgeway-fault`; a service's own errors pass untouched.
//!
//! It starts with [`Plugin::run`], which binds every listener before it reports any. It stops when its context says so:
//! the listeners close, idle connections end, calls that run are finished. Dropped, all of it dies: listeners own
//! connections, connections own the streams of HTTP/2, and there is no other task.
//!
//! It does not choose routes, count calls or set deadlines: the hub does. It does not retry, cache or compress.
//!
//! | file | idea |
//! |---|---|
//! | `config`, `units`, `tls` | the section of the config, and its files |
//! | `listener` | accepting, and the limit of connections |
//! | `connection`, `activity`, `transport` | one connection: protocol, times, drain, end |
//! | `call`, `headers`, `body` | one call over the border |
//! | `upgrade` | calls that leave HTTP |
//! | `fault` | faults as callers see them |

mod activity;
mod body;
mod call;
mod config;
mod connection;
mod fault;
mod headers;
mod listener;
mod tls;
mod transport;
mod units;
mod upgrade;

use std::sync::Arc;

use edgeway_plugin::{ConfigError, Plugin, PluginContext, PluginError, PluginFactory};
use tokio::task::JoinSet;
use tracing::Instrument;

pub use config::{LimitsConfig, ListenerConfig, RestConfig, TimeoutsConfig, TlsConfig};
pub use units::{Size, Span};

use crate::{
    config::Settings,
    connection::Shared,
    listener::{Listening, Places},
};

/// The plugin. Made by [`RestFactory`].
#[derive(Debug)]
pub struct RestPlugin {
    settings: Arc<Settings>,
}

/// Makes the plugin from its section of the hub's config, [`RestConfig`].
#[derive(Debug)]
pub struct RestFactory;

impl PluginFactory for RestFactory {
    const NAME: &'static str = "rest";
    type Config = RestConfig;
    type Plugin = RestPlugin;

    fn build(config: RestConfig) -> Result<RestPlugin, ConfigError> {
        Ok(RestPlugin { settings: Arc::new(config.validate()?) })
    }
}

impl Plugin for RestPlugin {
    async fn run(&self, cx: PluginContext) -> Result<(), PluginError> {
        let shared = Arc::new(Shared::new(self.settings.clone(), cx.edge.clone()));
        let places = Places::new(self.settings.connections);
        let mut opened = Vec::with_capacity(self.settings.listeners.len());
        for settings in &self.settings.listeners {
            let bind = |source| PluginError::Bind { address: settings.address, source };
            let listener = listener::bind(settings.address).map_err(bind)?;
            let address = listener.local_addr().map_err(bind)?;
            let tls = settings.tls.clone().map(Into::into);
            let listening = Listening { listener, tls, places: places.clone(), shared: shared.clone() };
            opened.push((address, listening));
        }
        let mut listeners = JoinSet::new();
        for (address, listening) in opened {
            let span = tracing::info_span!("listener", plugin = %cx.name, %address);
            listeners.spawn(listening.run(cx.stop.clone()).instrument(span));
            cx.bound(address);
        }
        while let Some(result) = listeners.join_next().await {
            result.map_err(|panic| PluginError::other("a listener panicked", panic))?;
        }
        Ok(())
    }
}

//! The built-in plugins and connectors, and one of a stranger, keep every promise of the conformance suite: through a
//! real hub and a real agent with QUIC between them, where peers are slow, cut bodies and restart. (On fakes they do so in
//! their own crates.)
//!
//! `world.rs` is what a real hub and agent look like to the suite; the other files know how to talk to each plugin and
//! how to be the service behind each connector. One suite a test: it counts the tasks of its runtime.

#![allow(missing_docs)]

mod http;
mod lines;
mod stranger;
mod world;

use edgeway_echo::{EchoConnectorFactory, EchoPluginFactory};
use edgeway_http_service::HttpServiceFactory;
use edgeway_plugin::conformance::{self, LocalService, ServiceBehaviour, StartedService, Verdict, json};
use edgeway_rest::RestFactory;
use edgeway_tcp_service::TcpServiceFactory;
use http::{Caller, HttpServices, TcpServices};
use lines::Lines;
use stranger::ShoutFactory;
use world::{RealAgent, RealHub};

/// A suite that kept nothing tested nothing.
fn kept(verdict: &Verdict, least: usize) {
    println!("{verdict}");
    assert!(verdict.kept.len() >= least, "{verdict}");
}

#[tokio::test]
async fn rest_keeps_every_promise_in_a_real_hub() {
    let section = json!({"listeners": [{"address": "127.0.0.1:0"}]});
    kept(&conformance::plugin_in::<RealHub<RestFactory>, _>(section, Caller).await, 14);
}

#[tokio::test]
async fn the_echo_plugin_keeps_every_promise_in_a_real_hub() {
    let section = json!({"listen": "127.0.0.1:0", "maxLine": "2MiB"});
    kept(&conformance::plugin_in::<RealHub<EchoPluginFactory>, _>(section, Lines).await, 14);
}

#[tokio::test]
async fn a_strangers_plugin_keeps_every_promise_in_a_hub_of_its_own() {
    let section = json!({"listen": "127.0.0.1:0"});
    kept(&conformance::plugin_in::<RealHub<ShoutFactory>, _>(section, Lines).await, 14);
}

#[tokio::test]
async fn the_http_connector_keeps_every_promise_behind_a_real_agent() {
    kept(&conformance::connector_in::<RealAgent<HttpServiceFactory>, _>(HttpServices).await, 8);
}

#[tokio::test]
async fn the_tcp_connector_keeps_every_promise_behind_a_real_agent() {
    kept(&conformance::connector_in::<RealAgent<TcpServiceFactory>, _>(TcpServices).await, 6);
}

#[tokio::test]
async fn the_echo_connector_keeps_every_promise_behind_a_real_agent() {
    /// The echo connector is its own service.
    struct NoService;

    impl LocalService for NoService {
        const PIPES: bool = true;

        async fn start(&self, behaviour: ServiceBehaviour) -> Option<StartedService> {
            (behaviour == ServiceBehaviour::Echo).then(|| StartedService::new(json!({}), ()))
        }
    }
    kept(&conformance::connector_in::<RealAgent<EchoConnectorFactory>, _>(NoService).await, 5);
}

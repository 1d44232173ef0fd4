//! What the hub counts, for `/metrics`.
//!
//! Counters of the hot path are looked up once for each route, when routes are compiled, and held by the route. Gauges
//! are read from their source at each scrape, so that no second count can drift from the first.

use std::{fmt, sync::Arc};

use edgeway_host::permits::Permits;
use edgeway_plugin::FaultCode;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::ConstGauge,
    },
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    plugin: String,
    route: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    plugin: String,
    route: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PluginLabels {
    plugin: String,
}

/// The hub's counters.
#[derive(Debug, Default)]
pub(crate) struct HubMetrics {
    calls: Family<RouteLabels, Counter>,
    faults: Family<FaultLabels, Counter>,
    sessions_ended: Family<CauseLabels, Counter>,
    handshakes_refused: Family<CauseLabels, Counter>,
    sessions_refused: Counter,
    plugin_failures: Family<PluginLabels, Counter>,
    retries: Counter,
}

/// The counters of one route, resolved once.
#[derive(Debug)]
pub(crate) struct RouteCounters {
    calls: Counter,
    faults: Box<[Counter]>,
}

impl RouteCounters {
    /// A call was matched.
    pub(crate) fn call(&self) {
        self.calls.inc();
    }

    /// A call ended with a fault, before or after its answer's head.
    pub(crate) fn fault(&self, code: FaultCode) {
        // Numbers of codes start at 1 and have no gap: a test holds the table to it.
        if let Some(counter) = self.faults.get(code.number() as usize - 1) {
            counter.inc();
        }
    }
}

impl HubMetrics {
    /// Registers all counters.
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("edgeway_hub_calls", "Calls that matched a route", self.calls.clone());
        registry.register(
            "edgeway_hub_faults",
            "Calls that ended with a fault, by code",
            self.faults.clone(),
        );
        registry.register(
            "edgeway_hub_sessions_ended",
            "Sessions that ended, by cause",
            self.sessions_ended.clone(),
        );
        registry.register(
            "edgeway_hub_handshakes_refused",
            "Connections that became no session, by cause",
            self.handshakes_refused.clone(),
        );
        registry.register(
            "edgeway_hub_sessions_refused",
            "Sessions refused because the hub is full",
            self.sessions_refused.clone(),
        );
        registry.register(
            "edgeway_hub_plugin_failures",
            "Times a plugin ended by itself or panicked",
            self.plugin_failures.clone(),
        );
        registry.register(
            "edgeway_hub_retries",
            "Calls sent to another node, or again",
            self.retries.clone(),
        );
    }

    /// The counters of a route; of calls without one where `route` is empty.
    pub(crate) fn route(&self, plugin: &str, route: &str) -> RouteCounters {
        let labels = RouteLabels { plugin: plugin.into(), route: route.into() };
        let faults = FaultCode::ALL.iter().map(|code| {
            let labels = FaultLabels { plugin: plugin.into(), route: route.into(), code: code.name() };
            self.faults.get_or_create_owned(&labels)
        });
        RouteCounters { calls: self.calls.get_or_create_owned(&labels), faults: faults.collect() }
    }

    pub(crate) fn session_ended(&self, cause: &'static str) {
        self.sessions_ended.get_or_create(&CauseLabels { cause }).inc();
    }

    pub(crate) fn handshake_refused(&self, cause: &'static str) {
        self.handshakes_refused.get_or_create(&CauseLabels { cause }).inc();
    }

    pub(crate) fn session_refused(&self) {
        self.sessions_refused.inc();
    }

    pub(crate) fn plugin_failed(&self, plugin: &str) {
        self.plugin_failures.get_or_create(&PluginLabels { plugin: plugin.into() }).inc();
    }

    pub(crate) fn retried(&self) {
        self.retries.inc();
    }
}

/// What the gauges are read from at a scrape.
pub(crate) trait Gauges: fmt::Debug + Send + Sync + 'static {
    /// Sessions that live.
    fn sessions(&self) -> usize;
    /// Handshakes in progress.
    fn handshakes(&self) -> usize;
    /// Nodes known, connected or not.
    fn nodes(&self) -> usize;
    /// Every bound on calls: scope, name, and its permits.
    fn permits(&self) -> Vec<(&'static str, String, Permits)>;
}

/// Reads the gauges at each scrape.
#[derive(Debug)]
pub(crate) struct GaugeCollector<G>(pub(crate) Arc<G>);

impl<G: Gauges> Collector for GaugeCollector<G> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: usize| {
            let gauge = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        gauge("edgeway_hub_sessions", "Sessions that live", self.0.sessions())?;
        gauge("edgeway_hub_handshakes", "Handshakes in progress", self.0.handshakes())?;
        gauge("edgeway_hub_nodes", "Nodes known since the start, connected or not", self.0.nodes())?;
        let permits = self.0.permits();
        let labels =
            |scope: &&'static str, name: &String| [("scope", (*scope).to_owned()), ("name", name.clone())];
        let kind = prometheus_client::metrics::MetricType::Gauge;
        let mut family = encoder.encode_descriptor(
            "edgeway_hub_calls_in_flight",
            "Permits in use; on the node scope each is a stream of a session",
            None,
            kind,
        )?;
        for (scope, name, permits) in &permits {
            let value = ConstGauge::new(i64::try_from(permits.in_use()).unwrap_or(i64::MAX));
            value.encode(family.encode_family(&labels(scope, name))?)?;
        }
        let mut family = encoder.encode_descriptor(
            "edgeway_hub_limit_refusals",
            "Calls refused at a limit",
            None,
            prometheus_client::metrics::MetricType::Counter,
        )?;
        for (scope, name, permits) in &permits {
            let value = ConstCounter::new(permits.refused());
            value.encode(family.encode_family(&labels(scope, name))?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_code_has_its_counter() {
        for (at, code) in FaultCode::ALL.iter().enumerate() {
            assert_eq!(code.number() as usize, at + 1, "counters are found by number");
        }
        let metrics = HubMetrics::default();
        let route = metrics.route("rest", "orders");
        route.fault(FaultCode::Deadline);
        let labels = FaultLabels { plugin: "rest".into(), route: "orders".into(), code: "deadline" };
        assert_eq!(metrics.faults.get_or_create(&labels).get(), 1);
    }
}

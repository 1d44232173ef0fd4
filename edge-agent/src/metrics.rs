//! What the agent counts, for `/metrics`.

use std::fmt;

use edgeway_host::permits::Permits;
use edgeway_plugin::FaultCode;
use edgeway_tunnel::serve::CallEnd;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
    },
    registry::Registry,
};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ServiceLabels {
    service: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct FaultLabels {
    service: String,
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

/// The agent's counters.
#[derive(Debug, Default)]
pub(crate) struct AgentMetrics {
    calls: Family<ServiceLabels, Counter>,
    faults: Family<FaultLabels, Counter>,
    sessions_ended: Family<CauseLabels, Counter>,
    dials_failed: Counter,
    bad_calls: Counter,
    /// 1 while a session lives.
    pub(crate) connected: Gauge,
}

/// The counters of one service, resolved once.
#[derive(Debug)]
pub(crate) struct ServiceCounters {
    calls: Counter,
    faults: Box<[Counter]>,
}

impl ServiceCounters {
    pub(crate) fn call(&self, end: &CallEnd) {
        self.calls.inc();
        let code = match end {
            CallEnd::Fault(fault) => fault.code(),
            CallEnd::Cancelled => FaultCode::Cancelled,
            _ => return,
        };
        if let Some(counter) = self.faults.get(code.number() as usize - 1) {
            counter.inc();
        }
    }
}

impl AgentMetrics {
    pub(crate) fn register(&self, registry: &mut Registry) {
        registry.register("edgeway_agent_calls", "Calls that ended, by service", self.calls.clone());
        registry.register(
            "edgeway_agent_faults",
            "Calls that ended with a fault, or whose caller left, by code",
            self.faults.clone(),
        );
        registry.register("edgeway_agent_connected", "1 while a session lives", self.connected.clone());
        registry.register(
            "edgeway_agent_sessions_ended",
            "Sessions that ended, by cause",
            self.sessions_ended.clone(),
        );
        registry.register(
            "edgeway_agent_dials_failed",
            "Attempts that became no session",
            self.dials_failed.clone(),
        );
        registry.register(
            "edgeway_agent_bad_calls",
            "Streams that held no valid call",
            self.bad_calls.clone(),
        );
    }

    pub(crate) fn service(&self, service: &str) -> ServiceCounters {
        let faults = FaultCode::ALL.iter().map(|code| {
            self.faults.get_or_create_owned(&FaultLabels { service: service.into(), code: code.name() })
        });
        ServiceCounters {
            calls: self.calls.get_or_create_owned(&ServiceLabels { service: service.into() }),
            faults: faults.collect(),
        }
    }

    pub(crate) fn session_ended(&self, cause: &'static str) {
        self.sessions_ended.get_or_create(&CauseLabels { cause }).inc();
    }

    pub(crate) fn dial_failed(&self) {
        self.dials_failed.inc();
    }

    pub(crate) fn bad_call(&self) {
        self.bad_calls.inc();
    }
}

/// Reads the permits at each scrape.
#[derive(Debug)]
pub(crate) struct PermitCollector(pub(crate) Vec<(&'static str, String, Permits)>);

impl Collector for PermitCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let labels =
            |scope: &&'static str, name: &String| [("scope", (*scope).to_owned()), ("name", name.clone())];
        let help = "Permits in use; each is a stream of the session";
        let mut family =
            encoder.encode_descriptor("edgeway_agent_calls_in_flight", help, None, MetricType::Gauge)?;
        for (scope, name, permits) in &self.0 {
            let value = ConstGauge::new(i64::try_from(permits.in_use()).unwrap_or(i64::MAX));
            value.encode(family.encode_family(&labels(scope, name))?)?;
        }
        let help = "Calls refused at a limit";
        let mut family =
            encoder.encode_descriptor("edgeway_agent_limit_refusals", help, None, MetricType::Counter)?;
        for (scope, name, permits) in &self.0 {
            ConstCounter::new(permits.refused()).encode(family.encode_family(&labels(scope, name))?)?;
        }
        Ok(())
    }
}

use std::fs;

use edgeway_plugin::{Body, CallContext, ConfigError, Connector, ConnectorFactory, Fault, Request, Response};

use super::*;

/// Answers nothing.
struct Mute;

impl Connector for Mute {
    async fn call(&self, _: Request<Body>, _: CallContext) -> Result<Response<Body>, Fault> {
        Err(Fault::unsupported())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct HttpSection {
    url: String,
}

struct HttpFactory;

impl ConnectorFactory for HttpFactory {
    const NAME: &'static str = "http";
    type Config = HttpSection;
    type Connector = Mute;

    fn build(config: HttpSection) -> Result<Mute, ConfigError> {
        if config.url.starts_with("http://") {
            Ok(Mute)
        } else {
            Err(ConfigError::at("url", "must be http://…"))
        }
    }
}

struct EchoFactory;

impl ConnectorFactory for EchoFactory {
    const NAME: &'static str = "echo";
    type Config = BTreeMap<String, String>;
    type Connector = Mute;

    fn build(_: Self::Config) -> Result<Mute, ConfigError> {
        Ok(Mute)
    }
}

fn load(content: &str) -> Result<AgentConfig, Vec<String>> {
    let mut registry = ConnectorRegistry::new();
    registry.register::<HttpFactory>();
    registry.register::<EchoFactory>();
    let folder = tempfile::tempdir().expect("a folder");
    for file in IDENTITY_FILES {
        fs::write(folder.path().join(file), "content").expect("written");
    }
    let file = folder.path().join("agent.yaml");
    fs::write(&file, format!("apiVersion: edgeway.dev/v1alpha1\nkind: AgentConfig\n{content}"))
        .expect("written");
    AgentConfig::load(&file, &registry)
        .map_err(|report| report.problems.iter().map(ToString::to_string).collect())
}

const REQUIRED: &str = "hubs: [hub.example.com:7443]\nidentity: {trustDomain: example.com, directory: .}\n";

#[test]
fn the_smallest_config_takes_every_default() {
    let config = load(REQUIRED).expect("a config");
    assert_eq!(config.hubs, [HubAddress::new("hub.example.com:7443").expect("an address")]);
    assert_eq!(config.node, NodeConfig::default());
    assert_eq!(config.admin, Some("127.0.0.1:7490".parse().expect("an address")));
    let uplink = config.uplink;
    assert_eq!(
        (uplink.backoff_min, uplink.backoff_max),
        (Duration::from_millis(200), Duration::from_secs(30))
    );
    let keep_alive = uplink.keep_alive;
    assert_eq!(
        (keep_alive.interval, keep_alive.idle_timeout),
        (Duration::from_secs(5), Duration::from_secs(15))
    );
    let limits = &config.limits;
    assert_eq!((limits.calls, limits.calls_per_service, limits.stream_window), (1024, 512, 512 * 1024));
    assert_eq!((limits.heads.headers, limits.heads.bytes), (128, 64 * 1024));
    assert_eq!((config.udp, config.drain), (Udp::default(), Duration::from_secs(30)));
    assert!(config.services.is_empty());
}

#[test]
fn a_full_config_is_taken_as_written() {
    let config = load(
        "
hubs:
- hub.example.com:7443
- {address: '[::1]:7443', serverName: hub.example.com}
node: {name: berlin-1, labels: {site: berlin}}
identity: {trustDomain: example.com, directory: .}
admin: {enabled: false}
uplink: {backoff: {min: 1s, max: 1s}, keepAlive: 100ms, idleTimeout: 1s}
limits: {calls: 1, callsPerService: 2, streamWindow: 16KiB, headerCount: 3, headerBytes: 1KiB}
udp: {gso: false}
drain: 1m
services:
- name: orders
  http: {url: 'http://127.0.0.1:9000'}
- name: mirror
  echo:
",
    )
    .expect("a config");
    assert_eq!(config.hubs[1].server_name(), "hub.example.com");
    assert_eq!(config.node.name.as_ref().map(NodeName::as_str), Some("berlin-1"));
    assert_eq!(config.node.labels["site"], "berlin");
    assert_eq!(config.admin, None);
    assert_eq!(
        (config.limits.calls, config.limits.calls_per_service, config.limits.stream_window),
        (1, 2, 16_384)
    );
    assert_eq!(config.udp, Udp { gso: false, mtu_discovery: true });
    assert_eq!(config.drain, Duration::from_secs(60));
    let services: Vec<_> =
        config.services.iter().map(|service| (service.name.as_str(), service.kind)).collect();
    assert_eq!(services, [("orders", "http"), ("mirror", "echo")]);
}

#[test]
fn one_report_names_every_problem_of_a_bad_config() {
    let problems = load(
        "
hub: hub.example.com:7443
hubs: [hub.example.com, 'hub:0', 'a:1', 'a:1', {serverName: x}]
node: {name: Berlin, labels: {'a b': c}}
identity: {trustDomain: example.com}
admin: {listen: '192.0.2.1:7490'}
uplink: {backoff: {min: 1m}, keepAlive: 0s, idleTimeout: 2h}
limits: {calls: 0, headerBytes: 1MiB}
drain: [1s]
services:
- {name: a, http: {url: 'ftp://x'}}
- {name: a, echo: {}}
- {name: b}
- {http: {url: 'http://x', proxy: y}, echo: {}}
- {name: c, htpp: {url: x}}
- {name: 7, http: {}}
- orders
",
    )
    .expect_err("problems");
    let expected = [
        "node.name: node name 'Berlin' must consist of lower-case letters, digits, '-' and '.', and start and end \
         with a letter or digit",
        "identity.directory: is missing",
        "uplink.keepAlive: must be longer than zero",
        "drain: found a list, expected a duration such as 500ms, 5s, 1m30s or 2h",
        "hub: unknown field, allowed are: hubs, node, identity, admin, uplink, limits, udp, drain, services",
        "hubs[0]: 'hub.example.com' is no address: write host:port, such as hub.example.com:7443, 192.0.2.1:7443 or \
         [2001:db8::1]:7443",
        "hubs[1]: '0' is no port: 1 to 65535 are allowed",
        "hubs[3]: a:1 stands there twice",
        "hubs[4].address: is missing",
        "node.labels: label key 'a b' must consist of at most 63 letters, digits, '-', '_' and '.', start and end \
         with a letter or digit, and may have a DNS name and '/' before it",
        "admin.listen: 192.0.2.1:7490 can be reached by other machines, and the admin pages need no login: use a \
         loopback address such as 127.0.0.1:7490, or set admin.allowRemote to true",
        "uplink.backoff.min: is 60s, at most uplink.backoff.max (30s) is allowed",
        "uplink.idleTimeout: is 7200s, at most 1h is allowed: that long a dead node would seem alive",
        "limits.calls: is 0, 1 to 1000000 are allowed",
        "limits.headerBytes: is 1048576, 1024 to 98304 are allowed",
        "services[0].http.url: must be http://…",
        "services[1].name: 'a' is the name of services[0] already; names are unique",
        "services[2]: a service without a target: it needs one of echo, http",
        "services[3].name: is missing",
        "services[3]: has 2 targets (http, echo), one is allowed",
        "services[3].http.proxy: unknown field, allowed is only: url",
        "services[4].htpp: unknown field, allowed are: name, and one of echo, http",
        "services[5].name: expected a string",
        "services[5].http.url: is missing",
        "services[6]: expected a mapping, such as {name: orders, http: {url: http://127.0.0.1:9000}}",
    ];
    for (found, expected) in problems.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn an_agent_without_a_hub_is_refused() {
    let identity = "identity: {trustDomain: example.com, directory: .}\n";
    assert_eq!(load(identity).expect_err("no hubs"), ["hubs: is missing"]);
    for empty in ["hubs: []\n", "hubs: hub:7443\n", "hubs:\n"] {
        assert_eq!(
            load(&format!("{identity}{empty}")).expect_err("no hubs"),
            ["hubs: expected a list of at least one address, such as [hub.example.com:7443]"]
        );
    }
}

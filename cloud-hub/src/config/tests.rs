use std::{collections::BTreeMap, fs};

use edgeway_plugin::{ConfigError, Plugin, PluginContext, PluginError, PluginFactory};
use tempfile::TempDir;

use super::*;
use crate::routes::Hostname;

/// Listens nowhere.
struct Idle;

impl Plugin for Idle {
    async fn run(&self, cx: PluginContext) -> Result<(), PluginError> {
        cx.stop.cancelled().await;
        Ok(())
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct IdleSection {
    listeners: Vec<SocketAddr>,
    #[serde(default)]
    broken: bool,
}

struct IdleFactory;

impl PluginFactory for IdleFactory {
    const NAME: &'static str = "rest";
    type Config = IdleSection;
    type Plugin = Idle;

    fn build(config: IdleSection) -> Result<Idle, ConfigError> {
        let mut error = ConfigError::new();
        if config.listeners.is_empty() {
            error.push("listeners", "is empty");
        }
        if config.broken {
            error.push("", "is broken");
        }
        error.or(Idle)
    }
}

struct EchoFactory;

impl PluginFactory for EchoFactory {
    const NAME: &'static str = "echo";
    type Config = BTreeMap<String, String>;
    type Plugin = Idle;

    fn build(_: Self::Config) -> Result<Idle, ConfigError> {
        Ok(Idle)
    }
}

fn registry() -> PluginRegistry {
    let mut registry = PluginRegistry::new();
    registry.register::<IdleFactory>();
    registry.register::<EchoFactory>();
    registry
}

/// A folder with identity files, and `hub.yaml` with `content` behind the two fields of every config.
fn folder(content: &str) -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for file in IDENTITY_FILES {
        fs::write(folder.path().join(file), "content").expect("written");
    }
    let text = format!("apiVersion: edgeway.dev/v1alpha1\nkind: HubConfig\n{content}");
    fs::write(folder.path().join("hub.yaml"), text).expect("written");
    folder
}

fn load(content: &str) -> Result<HubConfig, Vec<String>> {
    let folder = folder(content);
    HubConfig::load(&folder.path().join("hub.yaml"), &registry())
        .map_err(|report| report.problems.iter().map(ToString::to_string).collect())
}

const IDENTITY: &str = "identity: {trustDomain: example.com, directory: .}\n";

#[test]
fn the_smallest_config_takes_every_default() {
    let config = load(IDENTITY).expect("a config");
    assert_eq!(config.name, None);
    assert_eq!(config.tunnel.listen, "0.0.0.0:7443".parse().expect("an address"));
    assert_eq!(config.admin, Some("127.0.0.1:7480".parse().expect("an address")));
    let limits = &config.tunnel.limits;
    let counts = [limits.calls_per_node, limits.calls_per_plugin, limits.handshakes, limits.sessions];
    assert_eq!(counts, [1024, 8192, 256, 10_000]);
    assert_eq!(
        (limits.stream_window, limits.heads.headers, limits.heads.bytes),
        (512 * 1024, 128, 64 * 1024)
    );
    let keep_alive = config.tunnel.keep_alive;
    assert_eq!(
        (keep_alive.interval, keep_alive.idle_timeout),
        (Duration::from_secs(5), Duration::from_secs(15))
    );
    assert_eq!(config.tunnel.udp, Udp { gso: true, mtu_discovery: true });
    assert_eq!(config.drain, Duration::from_secs(30));
    assert!(config.workers >= 1);
    assert!(config.plugins.is_empty() && config.routes.is_empty());
}

#[test]
fn a_full_config_is_taken_as_written() {
    let config = load(
        "
hub: {name: hub-1}
tunnel:
  listen: 127.0.0.1:0
  keepAlive: 1s
  idleTimeout: 4s
  limits:
    callsPerNode: 1
    callsPerPlugin: 2
    streamWindow: 64KiB
    handshakes: 3
    sessions: 4
    headerCount: 5
    headerBytes: 2KiB
  udp: {gso: false, mtuDiscovery: false}
identity: {trustDomain: example.com, directory: .}
admin: {listen: '[::1]:0'}
drain: 0s
runtime: {workers: 3}
plugins:
  rest: {listeners: ['0.0.0.0:8080']}
  echo:
routes:
- name: orders
  plugin: rest
  hostnames: [API.example.com, api.example.com]
  matches:
  - path: {type: PathPrefix, value: /orders}
    method: GET
  - path: {type: Exact, value: /health}
  to: {service: orders, nodes: {matchLabels: {site: berlin}}, balance: LeastRequests}
  timeouts: {request: 5s, idle: 0s}
  idempotent: true
  limits: {calls: 7}
- name: any-node
  plugin: rest
  matches: [{path: {type: Template, value: '/nodes/{node}/{service}'}}]
  to: {service: '{service}', nodes: {name: '{node}'}}
- name: rest-of-it
  plugin: echo
  to: {service: echo, nodes: {name: berlin-1}}
",
    )
    .expect("a config");
    assert_eq!(config.name.as_ref().map(HubName::as_str), Some("hub-1"));
    assert_eq!(config.admin, Some("[::1]:0".parse().expect("an address")));
    assert_eq!((config.drain, config.workers), (Duration::ZERO, 3));
    let limits = &config.tunnel.limits;
    assert_eq!(
        [limits.calls_per_node, limits.calls_per_plugin, limits.handshakes, limits.sessions],
        [1, 2, 3, 4]
    );
    assert_eq!((limits.stream_window, limits.heads.headers, limits.heads.bytes), (65_536, 5, 2048));
    assert_eq!(config.tunnel.udp, Udp { gso: false, mtu_discovery: false });
    assert_eq!(config.plugins.iter().map(|plugin| plugin.name).collect::<Vec<_>>(), ["rest", "echo"]);

    let [orders, any_node, rest_of_it] = config.routes.as_slice() else { panic!("three routes") };
    assert_eq!(orders.hostnames.iter().map(Hostname::as_str).collect::<Vec<_>>(), ["api.example.com"]);
    assert_eq!((orders.matches.len(), orders.matches[0].method.clone()), (2, Some(http::Method::GET)));
    assert_eq!(orders.timeouts, RouteTimeouts { request: Some(Duration::from_secs(5)), idle: None });
    assert_eq!((orders.idempotent, orders.limits.calls), (true, 7));
    assert_eq!(orders.to.match_labels["site"], "berlin");
    assert_eq!(any_node.to.service, Word::Capture("service".into()));
    assert_eq!(any_node.to.node, Some(Word::Capture("node".into())));
    assert_eq!(any_node.limits.calls, 4096);
    let default =
        RouteTimeouts { request: Some(Duration::from_secs(30)), idle: Some(Duration::from_secs(300)) };
    assert_eq!(rest_of_it.timeouts, default);
    assert_eq!(rest_of_it.matches[0].path.to_string(), "/");
    assert_eq!(rest_of_it.origin, "routes[2]");
}

#[test]
fn one_report_names_every_problem_of_a_bad_config() {
    let problems = load(
        "
tunel: {}
hub: {name: Hub 1}
tunnel:
  listen: localhost:7443
  keepAlive: 10s
  limits: {callsPerNode: 0, streamWindow: 1KiB, callsPerService: 1}
  udp: [true]
identity: {trustDomain: example.com, directory: missing}
admin: {listen: 0.0.0.0:7480}
drain: soon
runtime: {workers: many}
plugins:
  rest: {listeners: [], broken: true}
  mqtt: {}
  echo: {a: 1}
routes:
- name: orders
  plugin: rest
  hostnames: ['*.example.com', 'a:1', 'good.example']
  matches: [{path: {type: PathPrefix, value: '/a?b'}, method: get}, {path: {type: Regex, value: x}}]
  to: {service: Orders, nodes: {name: 'x-{node}', matchLabels: {site: 'a b'}}, balance: Random}
  timeouts: {request: 5, idel: 1s}
- plugin: smpp
  matches: [{path: {type: PathPrefix}}, {path: {value: /x}}]
- {name: first, plugin: rest, matches: [{path: {type: Exact, value: /same}}], to: {service: a}}
- {name: first, plugin: rest, matches: [{path: {type: Exact, value: /same}}], to: {service: b}, limits: {calls: 0}}
- {name: unused, plugin: rest, matches: [{path: {type: Template, value: '/{x}'}}], to: {service: b}}
- {name: unheard, plugin: rest, matches: [{path: {type: Template, value: '/n/{x}'}}], to: {service: '{y}'}}
- 7
",
    )
    .expect_err("problems");
    let expected = [
        "hub.name: hub name 'Hub 1' must consist of lower-case letters, digits, '-' and '.', and start and end with a \
         letter or digit",
        "tunnel.listen: not an address with a port: write an IP address and a port, such as 127.0.0.1:8080 or \
         [::1]:8080",
        "tunnel.limits.callsPerService: unknown field, allowed are: callsPerNode, callsPerPlugin, streamWindow, \
         handshakes, sessions, headerCount, headerBytes",
        "tunnel.udp: found a list, expected a mapping",
        "runtime.workers: found a string, expected a whole number",
        "drain: 'soon' is no duration: write whole numbers with a unit, such as 500ms, 5s, 1m30s or 2h",
        "tunel: unknown field, allowed are: hub, tunnel, identity, admin, plugins, routes, drain, runtime",
        "tunnel.limits.callsPerNode: is 0, 1 to 1000000 are allowed",
        "tunnel.keepAlive: is 10s, at most half of idleTimeout (15s) is allowed, or one lost packet ends a session",
        "tunnel.limits.streamWindow: is 1024, 16384 to 67108864 are allowed",
        "identity.directory: can't read FOLDER/missing/ca.crt: No such file or directory",
        "identity.directory: can't read FOLDER/missing/hub.crt: No such file or directory",
        "identity.directory: can't read FOLDER/missing/hub.key: No such file or directory",
        "admin.listen: 0.0.0.0:7480 can be reached by other machines, and the admin pages need no login: use a \
         loopback address such as 127.0.0.1:7480, or set admin.allowRemote to true",
        "plugins.rest.listeners: is empty",
        "plugins.rest: is broken",
        "plugins.mqtt: no such plugin, there are: echo, rest",
        "plugins.echo.a: found a number, expected a string",
        "routes[0].matches[1].path.type: 'Regex' is not known, allowed are: Exact, PathPrefix, Template",
        "routes[0].to.balance: 'Random' is not known, allowed are: LeastRequests",
        "routes[0].timeouts.request: found a number, expected a duration such as 500ms, 5s, 1m30s or 2h",
        "routes[0].timeouts.idel: unknown field, allowed are: request, idle",
        "routes[0].hostnames[0]: '*.example.com' has a wildcard; write out each host, or no hostnames to take every \
         host",
        "routes[0].hostnames[1]: 'a:1' has a port; write the host alone, which matches on every port",
        "routes[0].matches[0].path.value: '/a?b' must have neither '?' nor '#': routes match the path only",
        "routes[0].matches[0].method: 'get' is no method: write one in capitals, such as GET",
        "routes[0].to.service: service name 'Orders' must consist of lower-case letters, digits, '-' and '.', and \
         start and end with a letter or digit",
        "routes[0].to.nodes.name: 'x-{node}' mixes text and captures: a capture such as {node} stands alone",
        "routes[0].to.nodes.matchLabels.site: label value 'a b' must consist of at most 63 letters, digits, '-', '_' \
         and '.', and start and end with a letter or digit",
        "routes[1].name: is missing",
        "routes[1].plugin: 'smpp' has no section under plugins; those that have one: rest, mqtt, echo",
        "routes[1].matches[0].path.value: is missing",
        "routes[1].matches[1].path.type: is missing",
        "routes[1].to: is missing",
        "routes[3].limits.calls: is 0, 1 to 1000000 are allowed",
        "routes[3].name: 'first' is the name of routes[2] already; names are unique",
        "routes[4].matches[0].path.type: a template of which no capture is used: use one in to.service or \
         to.nodes.name, or make the type PathPrefix",
        "routes[5].matches[0].path.value: '/n/{x}' has no capture {y}, which to.service uses",
        "routes[5].matches[0].path.type: a template of which no capture is used: use one in to.service or \
         to.nodes.name, or make the type PathPrefix",
        "routes[6]: found a number, expected a mapping",
        "routes[3].matches[0]: route 'first' takes the same calls as route 'first' (routes[2].matches[0]): every \
         method on every host, Exact /same",
    ];
    let problems: Vec<String> = problems
        .iter()
        .map(|problem| match problem.split_once("can't read ") {
            Some((at, file)) => {
                let within = &file[file.find("/missing").expect("the folder's path")..];
                format!("{at}can't read FOLDER{within}")
            }
            None => problem.clone(),
        })
        .collect();
    for (found, expected) in problems.iter().zip(expected) {
        assert_eq!(found, expected);
    }
    assert_eq!(problems.len(), expected.len(), "{problems:#?}");
}

#[test]
fn sections_of_the_wrong_kind_are_told() {
    let problems =
        load("identity: here\nplugins: [rest]\nroutes: {a: b}\ntunnel: 7\n").expect_err("problems");
    assert_eq!(
        problems,
        [
            "tunnel: found a number, expected a mapping",
            "identity: found a string, expected a mapping",
            "plugins: expected a mapping from the names of plugins to their sections",
            "routes: expected a list of routes",
        ]
    );
    let problems = load("").expect_err("no identity");
    assert_eq!(problems, ["identity.trustDomain: is missing", "identity.directory: is missing"]);
}

#[test]
fn a_wrong_match_does_not_make_a_route_collide() {
    let problems = load(&format!(
        "{IDENTITY}plugins: {{rest: {{listeners: ['0.0.0.0:80']}}}}
routes:
- {{name: a, plugin: rest, to: {{service: a}}}}
- {{name: b, plugin: rest, hostnames: api.example.com, to: {{service: a}}}}
"
    ))
    .expect_err("a problem");
    assert_eq!(problems, ["routes[1].hostnames: found a string, expected a list"]);
}

#[test]
fn the_identitys_folder_starts_at_the_configs_folder() {
    let folder = folder("identity: {trustDomain: example.com, directory: keys}\n");
    fs::create_dir(folder.path().join("keys")).expect("made");
    for file in IDENTITY_FILES {
        fs::rename(folder.path().join(file), folder.path().join("keys").join(file)).expect("moved");
    }
    let config = HubConfig::load(&folder.path().join("hub.yaml"), &registry()).expect("a config");
    assert_eq!(config.identity.directory, folder.path().join("keys"));
}

#[test]
fn a_plugin_that_is_registered_again_replaces_the_earlier_one() {
    struct Other;
    impl PluginFactory for Other {
        const NAME: &'static str = "rest";
        type Config = BTreeMap<String, u8>;
        type Plugin = Idle;
        fn build(_: Self::Config) -> Result<Idle, ConfigError> {
            Ok(Idle)
        }
    }
    let mut registry = registry();
    registry.register::<Other>();
    assert_eq!(registry.names().collect::<Vec<_>>(), ["echo", "rest"]);
    let mut problems = Vec::new();
    let section = serde_yaml::from_str("{anything: 1}").expect("YAML");
    assert!(registry.build("rest", section, &mut problems).is_some_and(|(name, _)| name == "rest"));
    assert_eq!(problems, []);
}

//! A hub and agents of one test, in this process, with certificates and configs of their own and no fixed port.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use cloud_hub::{Hub, RunningHub};
use edge_agent::{Agent, RunningAgent};
use edgeway_plugin::NodeView;
use edgeway_proto::{HubName, NodeName, TrustDomain};
use edgeway_tunnel::identity::{Authority, Identity, write_secret};
use tempfile::TempDir;

/// The trust domain of every world.
pub(crate) const TRUST_DOMAIN: &str = "e2e.test";

/// How long anything may take that has no reason to take long. Reaching it is a failure, so it costs nothing to be
/// generous to a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// Every node by name, any node by service.
const ROUTES: &str = r#"
- name: node
  plugin: rest
  matches: [{path: {type: Template, value: "/nodes/{node}/{service}"}}]
  to: {service: "{service}", nodes: {name: "{node}"}}
- name: any
  plugin: rest
  matches: [{path: {type: Template, value: "/any/{service}"}}]
  to: {service: "{service}"}
"#;

/// What a world is to be.
pub(crate) struct Plan {
    /// Further fields of `tunnel`, such as `keepAlive: 1s`.
    pub(crate) tunnel: String,
    /// Further fields of the listener of plugin `rest`.
    pub(crate) listener: String,
    /// Further fields of plugin `rest`.
    pub(crate) rest: String,
    /// Routes, as in the file.
    pub(crate) routes: String,
    /// `drain` of hub and agents.
    pub(crate) drain: Duration,
    pub(crate) nodes: Vec<Node>,
}

pub(crate) struct Node {
    name: String,
    services: String,
    /// Further sections of the agent's config.
    more: String,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            tunnel: String::new(),
            listener: String::new(),
            rest: String::new(),
            routes: ROUTES.into(),
            drain: Duration::from_secs(5),
            nodes: Vec::new(),
        }
    }
}

impl Plan {
    /// A node with these services, as in the file.
    pub(crate) fn node(self, name: &str, services: impl Into<String>) -> Self {
        self.node_with(name, services, "")
    }

    /// A node with services and further sections of its config.
    pub(crate) fn node_with(mut self, name: &str, services: impl Into<String>, more: &str) -> Self {
        self.nodes.push(Node { name: name.into(), services: services.into(), more: more.into() });
        self
    }

    /// Starts it all, and waits until every agent has its session.
    pub(crate) async fn start(self) -> World {
        let mut world = self.start_hub().await;
        for node in std::mem::take(&mut world.planned) {
            let agent = world.start_agent(&node.name, &node.services, &node.more).await;
            world.agents.insert(node.name, agent);
        }
        world
    }

    async fn start_hub(self) -> World {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let domain = TrustDomain::new(TRUST_DOMAIN).expect("a domain");
        let authority = Authority::generate(&domain).expect("an authority");
        let names = ["localhost".into(), "127.0.0.1".into()];
        let issued =
            authority.issue_hub(&HubName::new("hub-1").expect("a name"), &names).expect("a certificate");
        let identity = directory.path().join("hub");
        write_identity(&identity, "hub", &authority, &issued.certificate_pem, &issued.key_pem);
        let mut world = World {
            tunnel: ([127, 0, 0, 1], 0).into(),
            rest: ([127, 0, 0, 1], 0).into(),
            directory,
            authority,
            hub: None,
            agents: BTreeMap::new(),
            planned: Vec::new(),
            plan: Arc::new(self),
        };
        let plan = Arc::get_mut(&mut world.plan).expect("nobody else has it yet");
        world.planned = std::mem::take(&mut plan.nodes);
        world.start_hub().await;
        world
    }
}

/// A hub and its agents. Dropped, all of it stops at once.
pub(crate) struct World {
    /// Where agents dial; the same over a restart.
    pub(crate) tunnel: SocketAddr,
    /// Where callers go; the same over a restart.
    pub(crate) rest: SocketAddr,
    pub(crate) authority: Authority,
    hub: Option<RunningHub>,
    agents: BTreeMap<String, RunningAgent>,
    planned: Vec<Node>,
    plan: Arc<Plan>,
    directory: TempDir,
}

impl World {
    /// Starts the hub, again on the ports that it had.
    pub(crate) async fn start_hub(&mut self) {
        let file = self.directory.path().join("hub.yaml");
        let plan = &self.plan;
        let config = format!(
            "apiVersion: edgeway.dev/v1alpha1
kind: HubConfig
tunnel: {{listen: \"{tunnel}\", {more}}}
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {identity}}}
admin: {{listen: \"127.0.0.1:0\"}}
drain: {drain}ms
plugins:
  rest: {{listeners: [{{address: \"{rest}\", {listener}}}], {more_rest}}}
routes:
{routes}",
            tunnel = self.tunnel,
            more = plan.tunnel,
            identity = self.directory.path().join("hub").display(),
            drain = plan.drain.as_millis(),
            rest = self.rest,
            listener = plan.listener,
            more_rest = plan.rest,
            routes = plan.routes,
        );
        fs::write(&file, config).expect("written");
        let hub = within("the hub starts", async {
            loop {
                let hub = Hub::builder().with_builtin_plugins().load(&file);
                match hub.unwrap_or_else(|report| panic!("{report}")).start().await {
                    Ok(hub) => return hub,
                    // A port that is taken again right after its release; a process of its own would not be so quick.
                    Err(error) => eprintln!("the hub does not start: {error:?}"),
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        self.tunnel = hub.tunnel_address();
        self.rest = hub.plugin_addresses("rest")[0];
        self.hub = Some(hub);
    }

    /// Starts one more agent, and waits for its session. An agent of the same name is not stopped.
    pub(crate) async fn start_agent(&self, name: &str, services: &str, more: &str) -> RunningAgent {
        let agent = self.start_agent_at(self.tunnel, name, services, more).await;
        within("the agent connects", agent.wait_connected()).await;
        self.until(&format!("{name} is there"), |nodes| {
            nodes.iter().any(|node| node.name.as_str() == name && node.connected)
        })
        .await;
        agent
    }

    /// Starts an agent that dials `hub`, and waits for nothing.
    pub(crate) async fn start_agent_at(
        &self,
        hub: SocketAddr,
        name: &str,
        services: &str,
        more: &str,
    ) -> RunningAgent {
        let identity = self.identity_of(name);
        let mut config = format!(
            "apiVersion: edgeway.dev/v1alpha1
kind: AgentConfig
hubs: [\"127.0.0.1:{port}\"]
node: {{name: {name}, labels: {{site: {name}}}}}
identity: {{trustDomain: {TRUST_DOMAIN}, directory: {identity}}}
admin: {{listen: \"127.0.0.1:0\"}}
drain: {drain}ms
services:
{services}
{more}
",
            port = hub.port(),
            identity = identity.display(),
            drain = self.plan.drain.as_millis(),
        );
        if !more.contains("uplink:") {
            let _ = writeln!(config, "uplink: {{backoff: {{min: 50ms, max: 500ms}}}}");
        }
        let file = tempfile::NamedTempFile::new_in(self.directory.path()).expect("a file");
        fs::write(file.path(), config).expect("written");
        let agent = Agent::builder().with_builtin_connectors().load(file.path());
        let agent = agent.unwrap_or_else(|report| panic!("{report}"));
        agent.start().await.expect("the agent starts")
    }

    /// The directory with the identity of a node, issued at the first call.
    pub(crate) fn identity_of(&self, name: &str) -> PathBuf {
        let identity = self.directory.path().join("nodes").join(name);
        if !identity.exists() {
            let issued =
                self.authority.issue_node(&NodeName::new(name).expect("a name")).expect("a certificate");
            write_identity(&identity, "node", &self.authority, &issued.certificate_pem, &issued.key_pem);
        }
        identity
    }

    /// The identity of a node, for tests that play its agent.
    pub(crate) fn node_identity(&self, name: &str) -> Arc<Identity> {
        let domain = TrustDomain::new(TRUST_DOMAIN).expect("a domain");
        Arc::new(Identity::load_node(&self.identity_of(name), &domain).expect("an identity").0)
    }

    /// A path in the directory of this world.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The hub, which must be running.
    pub(crate) fn hub(&self) -> &RunningHub {
        self.hub.as_ref().expect("the hub runs")
    }

    /// Takes the hub out, to shut it down.
    pub(crate) fn take_hub(&mut self) -> RunningHub {
        self.hub.take().expect("the hub runs")
    }

    /// An agent of the plan.
    pub(crate) fn agent(&self, name: &str) -> &RunningAgent {
        &self.agents[name]
    }

    /// Takes an agent of the plan out, to shut it down.
    pub(crate) fn take_agent(&mut self, name: &str) -> RunningAgent {
        self.agents.remove(name).expect("an agent of the plan")
    }

    /// Waits until the hub's nodes are as they should be.
    pub(crate) async fn until(&self, what: &str, mut holds: impl FnMut(&[NodeView]) -> bool) {
        eventually(what, || holds(&self.hub().nodes())).await;
    }

    /// What a `/metrics` page says of one series, 0 where it does not say anything.
    pub(crate) async fn metric(&self, admin: SocketAddr, series: &str) -> f64 {
        let page = crate::raw::get(admin, "/metrics").await;
        let text = String::from_utf8(page.body).expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.map_or(0.0, |value| value.trim().parse().expect("a number"))
    }

    /// Calls `GET /nodes/{node}/{service}` until it is answered with 200: what was broken has healed.
    pub(crate) async fn until_served(&self, node: &str, service: &str) {
        let path = format!("/nodes/{node}/{service}");
        let healed = async {
            while crate::raw::get(self.rest, &path).await.status != 200 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        within(&format!("{path} is served"), healed).await;
    }

    /// Stops everything in order.
    pub(crate) async fn shutdown(mut self) {
        for (_, agent) in std::mem::take(&mut self.agents) {
            within("the agent stops", agent.shutdown()).await;
        }
        if let Some(hub) = self.hub.take() {
            within("the hub stops", hub.shutdown()).await;
        }
    }
}

/// Writes the three files of an identity.
pub(crate) fn write_identity(
    directory: &Path,
    role: &str,
    authority: &Authority,
    certificate: &str,
    key: &str,
) {
    for (file, content) in [
        ("ca.crt".to_owned(), authority.certificate_pem()),
        (format!("{role}.crt"), certificate),
        (format!("{role}.key"), key),
    ] {
        write_secret(&directory.join(file), content).expect("written");
    }
}

/// A service of kind `http` at an address, as in the file.
pub(crate) fn http(name: &str, address: SocketAddr) -> String {
    format!("- {{name: {name}, http: {{url: \"http://{address}\"}}}}\n")
}

/// The built-in echo.
pub(crate) const ECHO: &str = "- {name: echo, echo: {}}\n";

/// Waits for something that should happen soon; panics with its name if it does not.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Waits until a state is reached that nothing announces.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    within(what, async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

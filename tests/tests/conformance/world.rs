//! The conformance suite's worlds, made of a real hub and a real agent that talk QUIC over loopback.

use std::{
    fs,
    marker::PhantomData,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use cloud_hub::{Hub, RunningHub};
use edge_agent::{Agent, RunningAgent};
use edgeway_plugin::{
    ConnectorFactory, Edge, Health, NodeName, PluginFactory,
    conformance::{
        ConnectorWorld, FakeEdge, FakeServiceFactory, PluginWorld, SERVICE, Tap, TapFactory, Value, json,
    },
};
use edgeway_proto::{HubName, TrustDomain};
use edgeway_tunnel::identity::{Authority, write_secret};
use tempfile::TempDir;

const NODE: &str = "node-1";

/// A directory with certificates and configs for one hub and one node.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let domain: TrustDomain = "example.com".parse().expect("a name");
        let authority = Authority::generate(&domain).expect("an authority");
        let hub = authority
            .issue_hub(&HubName::new("hub-1").expect("a name"), &["127.0.0.1".into()])
            .expect("a certificate");
        let node = authority.issue_node(&NodeName::new(NODE).expect("a name")).expect("a certificate");
        for (who, issued) in [("hub", hub), ("node", node)] {
            let of_whom = directory.path().join(who);
            fs::create_dir(&of_whom).expect("a directory");
            fs::write(of_whom.join("ca.crt"), authority.certificate_pem()).expect("a file");
            fs::write(of_whom.join(format!("{who}.crt")), &issued.certificate_pem).expect("a file");
            write_secret(&of_whom.join(format!("{who}.key")), &issued.key_pem).expect("a file");
        }
        Self { directory }
    }

    /// JSON is YAML.
    fn write(&self, name: &str, config: &Value) -> PathBuf {
        let path = self.directory.path().join(name);
        fs::write(&path, config.to_string()).expect("a file");
        path
    }

    fn hub(&self, plugin: &str, section: &Value) -> PathBuf {
        self.write(
            "hub.yaml",
            &json!({
                "apiVersion": "edgeway.dev/v1alpha1",
                "kind": "HubConfig",
                "tunnel": {"listen": "127.0.0.1:0"},
                "identity": {"trustDomain": "example.com", "directory": self.directory.path().join("hub")},
                "admin": {"listen": "127.0.0.1:0"},
                "plugins": {plugin: section},
                "routes": [{
                    "name": "all",
                    "plugin": plugin,
                    "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                    "to": {"service": SERVICE, "nodes": {"name": NODE}},
                }],
            }),
        )
    }

    fn agent(&self, hub: SocketAddr, connector: &str, section: &Value) -> PathBuf {
        self.write(
            "agent.yaml",
            &json!({
                "apiVersion": "edgeway.dev/v1alpha1",
                "kind": "AgentConfig",
                "hubs": [hub.to_string()],
                "node": {"name": NODE},
                "identity": {"trustDomain": "example.com", "directory": self.directory.path().join("node")},
                "admin": {"listen": "127.0.0.1:0"},
                "services": [{"name": SERVICE, connector: section}],
            }),
        )
    }
}

async fn start_agent<F: ConnectorFactory>(config: &Path) -> RunningAgent {
    let agent = Agent::builder().connector::<F>().load(config).expect("a valid config");
    let agent = agent.start().await.expect("the agent starts");
    agent.wait_connected().await;
    agent
}

/// A plugin in a real hub; behind it a real agent whose service a [`FakeEdge`] plays.
pub(crate) struct RealHub<F> {
    files: Files,
    config: PathBuf,
    edge: FakeEdge,
    running: Mutex<Option<(RunningHub, RunningAgent)>>,
    plugin: PhantomData<fn() -> F>,
}

impl<F: PluginFactory> RealHub<F> {
    fn agent_config(&self, hub: &RunningHub) -> PathBuf {
        self.files.agent(hub.tunnel_address(), FakeServiceFactory::NAME, &json!({"edge": self.edge.id()}))
    }

    fn take(&self) -> Option<(RunningHub, RunningAgent)> {
        self.running.lock().expect("no panic").take()
    }
}

impl<F: PluginFactory> PluginWorld for RealHub<F> {
    async fn load(section: Value) -> Result<Self, String> {
        let files = Files::new();
        let config = files.hub(F::NAME, &section);
        Hub::builder().plugin::<F>().load(&config).map_err(|report| report.to_string())?;
        Ok(Self { files, config, edge: FakeEdge::echo(), running: Mutex::default(), plugin: PhantomData })
    }

    fn edge(&self) -> &FakeEdge {
        &self.edge
    }

    async fn start(&self) -> Result<SocketAddr, String> {
        let hub = Hub::builder().plugin::<F>().load(&self.config).map_err(|report| report.to_string())?;
        let hub = hub.start().await.map_err(|error| error.to_string())?;
        let address = *hub.plugin_addresses(F::NAME).first().ok_or("the plugin listens nowhere")?;
        let agent = start_agent::<FakeServiceFactory>(&self.agent_config(&hub)).await;
        *self.running.lock().expect("no panic") = Some((hub, agent));
        Ok(address)
    }

    async fn stop(&self) -> Result<(), String> {
        let (hub, agent) = self.take().ok_or("it was not started")?;
        hub.shutdown().await;
        agent.shutdown().await;
        Ok(())
    }

    async fn abort(&self) -> Option<Result<(), String>> {
        self.take(); // both stop at once
        Some(Ok(()))
    }

    async fn restart(&self) {
        let (hub, agent) = self.take().expect("it was started");
        drop(agent); // as a crash: no word to the hub but the end of the connection
        let agent = start_agent::<FakeServiceFactory>(&self.agent_config(&hub)).await;
        *self.running.lock().expect("no panic") = Some((hub, agent));
    }
}

/// A connector behind a real agent, called through a real hub.
pub(crate) struct RealAgent<F> {
    _files: Files,
    hub: RunningHub,
    agent: RunningAgent,
    edge: Arc<dyn Edge>,
    connector: PhantomData<fn() -> F>,
}

impl<F: ConnectorFactory> ConnectorWorld for RealAgent<F> {
    async fn load(section: Value) -> Result<Self, String> {
        let files = Files::new();
        let tap = Tap::new();
        let config = files.hub(TapFactory::NAME, &json!({"id": tap.id()}));
        let hub = Hub::builder().plugin::<TapFactory>().load(&config).expect("a valid config");
        let hub = hub.start().await.expect("the hub starts");
        let config = files.agent(hub.tunnel_address(), F::NAME, &section);
        let agent = Agent::builder().connector::<F>().load(&config).map_err(|report| report.to_string())?;
        let agent = agent.start().await.expect("the agent starts");
        agent.wait_connected().await;
        let edge = tap.edge().await;
        Ok(Self { _files: files, hub, agent, edge, connector: PhantomData })
    }

    fn edge(&self) -> Arc<dyn Edge> {
        self.edge.clone()
    }

    async fn probe(&self) -> Option<Health> {
        None
    }

    async fn close(self) {
        self.hub.shutdown().await;
        self.agent.shutdown().await;
    }
}

//! `edgeway demo`: everything at work in one process, over real QUIC on loopback.
//!
//! ```text
//! curl ──HTTP──▶ hub-1 ══ QUIC ══ berlin-1 ──▶ echo, clock, files, chat
//!                      ══ QUIC ══ tokyo-1  ──▶ echo, clock, files, chat
//! ```
//! Certificates and configs are those of `edgeway init`, in a temporary directory that goes with the demo. It starts in
//! the order services, hub, agents, and stops the services first: clocks and chats end then, so that agents and hub
//! seldom have anything left to wait for. `--once` makes the suggested calls itself.

mod check;
mod examples;
mod guide;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::Path,
    time::Duration,
};

use cloud_hub::{Hub, RunningHub};
use edge_agent::{Agent, RunningAgent};
use edgeway_host::{Report, signals::Signals};
use edgeway_proto::{HubName, NodeName, TrustDomain};
use tokio::time::{Instant, sleep, timeout};

use crate::{
    arguments::DemoArguments,
    init::{HubPlan, NodePlan, Plan, WriteError, agent_config, identities, node_directory, site},
    print::say,
    services::{self, Kind, ListenError, RunningService},
};

/// The nodes of the demo. The suggested calls name them.
const NODES: [&str; 2] = ["berlin-1", "tokyo-1"];

/// How long the start may take before it counts as failed. It takes well under a second; this is for a busy machine.
const START_LIMIT: Duration = Duration::from_secs(15);

/// How long tasks may take to notice that what they worked for is gone.
const TASKS_LIMIT: Duration = Duration::from_secs(2);

/// How often a state is looked at while the demo waits for it.
const POLL: Duration = Duration::from_millis(2);

/// Any free port on loopback.
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// Why the demo did not run to its end.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DemoError {
    /// Somebody else listens where the hub should take calls.
    #[error("can't listen on 127.0.0.1:{port} for HTTP calls; --rest-port takes another port, 0 a free one")]
    RestPort {
        /// The port.
        port: u16,
        /// Why not.
        source: io::Error,
    },
    /// A local service did not start.
    #[error(transparent)]
    Service(#[from] ListenError),
    /// The temporary directory could not be made.
    #[error("can't make a temporary directory")]
    Directory(#[source] io::Error),
    /// Certificates or configs could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
    /// A config of ours is wrong, which is a bug.
    #[error("a config of the demo is not valid")]
    Config(#[from] Report),
    /// The hub did not start.
    #[error("the hub did not start")]
    Hub(#[from] cloud_hub::StartError),
    /// An agent did not start.
    #[error("the agent of {node} did not start")]
    Agent {
        /// Whose.
        node: NodeName,
        /// Why.
        source: edge_agent::StartError,
    },
    /// Everything started, but did not come together.
    #[error("the demo was not ready within {} s: {missing}; EDGEWAY_LOG=info shows the logs", START_LIMIT.as_secs())]
    NotReady {
        /// What is missing.
        missing: String,
    },
    /// The operating system hands out no signals.
    #[error("can't wait for Ctrl-C")]
    Signals(#[source] io::Error),
    /// Some answers of `--once` were not right.
    #[error("{wrong} of {all} answers were wrong")]
    Wrong {
        /// How many were.
        wrong: usize,
        /// Of how many.
        all: usize,
    },
    /// Something kept running.
    #[error("{0} tasks were still there after everything had stopped")]
    TasksLeft(usize),
}

/// Runs the demo to its end.
///
/// # Errors
/// It did not start, an answer of `--once` was wrong, or something did not stop.
pub async fn run(arguments: &DemoArguments) -> Result<(), DemoError> {
    let begin = Instant::now();
    let mut signals = Signals::catch().map_err(DemoError::Signals)?;
    let started = tokio::select! {
        biased; // whoever wants to stop is not kept waiting
        _ = signals.next() => return Ok(()),
        started = timeout(START_LIMIT, Demo::start(arguments.rest_port)) => started,
    };
    let late = |_| DemoError::NotReady { missing: "the hub or an agent did not come up".into() };
    let demo = started.map_err(late)??;
    say(&guide::overview(&demo, begin.elapsed()));
    let result = if arguments.once {
        tokio::select! {
            biased; // as above
            _ = signals.next() => Ok(()),
            result = once(&demo) => result,
        }
    } else {
        say(&guide::suggestions(&demo, arguments.seconds));
        let seconds = arguments.seconds.map(|seconds| Duration::from_secs(seconds.into()));
        tokio::select! {
            biased; // as above
            _ = signals.next() => {}
            () = sleep_or_never(seconds) => {}
        }
        Ok(())
    };
    say("Stopping.");
    signals.unless_impatient(demo.shutdown()).await;
    let left = tasks_left().await;
    result?;
    if left > 0 {
        return Err(DemoError::TasksLeft(left));
    }
    say("Stopped; no task is left.");
    Ok(())
}

async fn sleep_or_never(time: Option<Duration>) {
    match time {
        Some(time) => sleep(time).await,
        None => std::future::pending().await,
    }
}

/// Tasks of this runtime that live on although everything has stopped. A task that was told to end needs a moment.
async fn tasks_left() -> usize {
    let alive = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let until = Instant::now() + TASKS_LIMIT;
    while alive() > 0 && Instant::now() < until {
        sleep(POLL).await;
    }
    alive()
}

/// Makes the suggested calls one after another, shows what came back and says what is wrong with it.
async fn once(demo: &Demo) -> Result<(), DemoError> {
    let base = format!("http://{}", demo.rest);
    let mut wrong = 0;
    for example in examples::EXAMPLES {
        let begin = Instant::now();
        let outcome = check::check(example, demo.rest).await;
        wrong += usize::from(!outcome.wrong.is_empty());
        say(&guide::outcome(example, &base, &outcome, begin.elapsed()));
    }
    let all = examples::EXAMPLES.len();
    if wrong > 0 {
        return Err(DemoError::Wrong { wrong, all });
    }
    say(&format!("All {all} answers are right."));
    Ok(())
}

/// What runs.
struct Demo {
    plan: Plan,
    rest: SocketAddr,
    services: Vec<(NodeName, RunningService)>,
    agents: Vec<RunningAgent>,
    hub: RunningHub,
    /// Removed with everything in it when the demo is dropped.
    _directory: tempfile::TempDir,
}

impl Demo {
    /// Starts everything and waits until calls would succeed.
    async fn start(rest_port: u16) -> Result<Self, DemoError> {
        let rest = SocketAddr::from((Ipv4Addr::LOCALHOST, rest_port));
        // The hub would try again and again, as it should in production; here somebody waits for the reason.
        drop(TcpListener::bind(rest).map_err(|source| DemoError::RestPort { port: rest_port, source })?);
        let directory =
            tempfile::Builder::new().prefix("edgeway-demo-").tempdir().map_err(DemoError::Directory)?;

        let mut services = Vec::new();
        let mut nodes = Vec::new();
        for name in NODES {
            let name = NodeName::new(name).expect("the demo's nodes have valid names");
            let mut addresses = [ANY_PORT; 4];
            for kind in Kind::ALL {
                let service = services::start(kind, &name, ANY_PORT).await?;
                addresses[kind as usize] = service.address();
                services.push((name.clone(), service));
            }
            nodes.push(NodePlan {
                site: site(&name),
                name,
                // Known when the hub runs.
                hubs: Vec::new(),
                admin: ANY_PORT,
                services: addresses,
            });
        }
        let hub = HubPlan {
            name: HubName::new("hub-1").expect("a valid name"),
            addresses: vec![Ipv4Addr::LOCALHOST.to_string()],
            tunnel: ANY_PORT,
            rest,
            admin: ANY_PORT,
        };
        let trust_domain = TrustDomain::new("example.com").expect("a valid domain");
        // Somebody pressed Ctrl-C and watches.
        let mut plan = Plan { trust_domain, hub, nodes, drain: "1s" };

        identities(directory.path(), &plan)?;
        let hub = Hub::builder().with_builtin_plugins().load(&directory.path().join("hub.yaml"))?;
        let hub = hub.start().await?;
        let tunnel = hub.tunnel_address().to_string();
        for node in &mut plan.nodes {
            node.hubs = vec![tunnel.clone()];
        }
        let mut agents = Vec::new();
        for node in &plan.nodes {
            agents.push(start_agent(directory.path(), &plan, node).await?);
        }
        while !all_there(&hub) {
            sleep(POLL).await;
        }
        let rest = hub.plugin_addresses("rest").first().copied();
        let rest =
            rest.ok_or_else(|| DemoError::NotReady { missing: "the plugin rest does not listen".into() })?;
        Ok(Self { plan, rest, services, agents, hub, _directory: directory })
    }

    /// Stops everything. What still runs after the hub's drain time is cut.
    async fn shutdown(self) {
        let services = self.services.into_iter().map(|(_, service)| service.shutdown());
        futures_util::future::join_all(services).await;
        // Together: each waits for calls of the other's.
        let agents = futures_util::future::join_all(self.agents.into_iter().map(RunningAgent::shutdown));
        tokio::join!(agents, self.hub.shutdown());
    }
}

/// Whether the hub would find every node with every service.
fn all_there(hub: &RunningHub) -> bool {
    let nodes = hub.nodes();
    let there = nodes.iter().filter(|node| node.connected && node.services.len() == Kind::ALL.len());
    there.count() == NODES.len() && hub.not_ready().is_empty()
}

async fn start_agent(directory: &Path, plan: &Plan, node: &NodePlan) -> Result<RunningAgent, DemoError> {
    let path = node_directory(directory, &node.name).join("agent.yaml");
    std::fs::write(&path, agent_config(plan, node))
        .map_err(|source| WriteError::File { path: path.clone(), source })?;
    let agent = Agent::builder().with_builtin_connectors().load(&path)?;
    agent.start().await.map_err(|source| DemoError::Agent { node: node.name.clone(), source })
}

//! The agent as a process.

use std::path::Path;

use edgeway_host::{Report, command::Process};

use crate::agent::{Agent, AgentBuilder, RunningAgent, StartError};

impl Process for AgentBuilder {
    const NAME: &'static str = "edge-agent";
    const ABOUT: &'static str =
        "The agent of Edgeway: dials a hub from behind NAT and hands its calls to local services";
    type Loaded = Agent;
    type Running = RunningAgent;
    type StartError = StartError;

    fn load(self, config: &Path) -> Result<Agent, Report> {
        AgentBuilder::load(self, config)
    }

    /// One: a node has better things to do with its processors, and one carries tens of thousands of calls a second.
    fn workers(_: &Agent) -> usize {
        1
    }

    async fn start(agent: Agent) -> Result<RunningAgent, StartError> {
        agent.start().await
    }

    async fn shutdown(agent: RunningAgent) {
        agent.shutdown().await;
    }
}

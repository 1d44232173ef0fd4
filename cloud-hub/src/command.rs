//! The hub as a process.

use std::path::Path;

use edgeway_host::{Report, command::Process};

use crate::hub::{Hub, HubBuilder, RunningHub, StartError};

impl Process for HubBuilder {
    const NAME: &'static str = "cloud-hub";
    const ABOUT: &'static str =
        "The hub of Edgeway: hosts plugins in the cloud and routes their calls to nodes at the edge";
    type Loaded = Hub;
    type Running = RunningHub;
    type StartError = StartError;

    fn load(self, config: &Path) -> Result<Hub, Report> {
        HubBuilder::load(self, config)
    }

    fn workers(hub: &Hub) -> usize {
        hub.workers()
    }

    async fn start(hub: Hub) -> Result<RunningHub, StartError> {
        hub.start().await
    }

    async fn shutdown(hub: RunningHub) {
        hub.shutdown().await;
    }
}

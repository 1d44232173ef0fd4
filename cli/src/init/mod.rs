//! `edgeway init DIR`: an authority, certificates and commented configs for one hub and its nodes.
//!
//! ```text
//! DIR/hub.yaml                                   config of the hub
//! DIR/hub/{ca.crt, hub.crt, hub.key}             the hub's identity
//! DIR/<node>/agent.yaml                          config of a node's agent
//! DIR/<node>/{ca.crt, node.crt, node.key}        the node's identity
//! DIR/ca/{ca.crt, ca.key}                        the authority; needed to issue more, by nobody who runs
//! ```
//! A node's directory is all that its machine needs. Nothing is overwritten unless it is said so: a new authority makes
//! every earlier certificate worthless. Enrolling nodes by token, without copying keys, is not done here.

mod plan;
mod write;

use std::path::Path;

pub(crate) use plan::site;
pub use plan::{HubPlan, MAX_NODES, NodePlan, Plan, PlanError};
pub use write::{WriteError, agent_config, identities, node_directory, write_all};

use crate::{arguments::InitArguments, print::say, services::Kind};

/// Why `init` did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// What was asked makes no sense.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// A file could not be written.
    #[error(transparent)]
    Write(#[from] WriteError),
}

/// Writes everything and says what to do next.
///
/// # Errors
/// Names that collide, files that are there already, or a directory that can't be written.
pub fn run(arguments: &InitArguments) -> Result<(), InitError> {
    let plan = Plan::of(arguments)?;
    write_all(&arguments.directory, &plan, arguments.force)?;
    say(&next_steps(&arguments.directory, &plan));
    Ok(())
}

/// What was written, and the commands that start it.
fn next_steps(directory: &Path, plan: &Plan) -> String {
    let path = |below: &str| quoted(&directory.join(below));
    let mut out = format!("Wrote {}.\n\n", quoted(directory));
    out.push_str(&format!("The hub:\n  cloud-hub run --config {}\n\n", path("hub.yaml")));
    for node in &plan.nodes {
        let (name, first) = (&node.name, node.address(Kind::Echo));
        out.push_str(&format!(
            "Node {name}: four local services to try with, and the agent\n  edgeway service all --node {name} --listen \
             {first} &\n  edge-agent run --config {}\n\n",
            path(&format!("{name}/agent.yaml"))
        ));
    }
    let node = &plan.nodes[0].name;
    let rest = plan.hub.rest;
    out.push_str(&format!("Then:\n  curl -sS http://{rest}/nodes/{node}/echo/hello\n"));
    out
}

/// A path as a shell takes it.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string();
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        text
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests;

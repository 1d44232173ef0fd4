//! The agent as it is shipped, for tests that kill its process.

use std::process::ExitCode;

fn main() -> ExitCode {
    edge_agent::Agent::builder().with_builtin_connectors().run()
}

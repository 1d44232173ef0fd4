//! The agent with the built-in connectors.

use std::process::ExitCode;

/// Many small buffers of all sizes: measured 5 to 10 % faster than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    edge_agent::Agent::builder().with_builtin_connectors().run()
}

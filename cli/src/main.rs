//! The binary `edgeway`: see [`edgeway::run`].

/// As in the hub and the agent, whose work the demo does.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    edgeway::run(std::env::args_os())
}

//! The hub with the built-in plugins.

use std::process::ExitCode;

/// Many small buffers of all sizes: measured 5 to 10 % faster than the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    cloud_hub::Hub::builder().with_builtin_plugins().run()
}

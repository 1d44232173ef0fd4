//! The smallest plugin and the smallest connector, to copy from. `README.md` beside this crate walks through both.
//!
//! - [`EchoPlugin`] runs in a hub: every line that a caller sends over TCP becomes a call, and the answer comes back as a
//!   line.
//! - [`EchoConnector`] runs on an agent: it answers every call with the call's own body, and needs no service.
//!
//! Each keeps the promises of the conformance suite; `tests/conformance.rs` is all that takes. What they deliberately
//! lack is what every protocol does in its own way: TLS, authentication, keep-alive, metrics of their own.

mod connector;
mod plugin;

pub use connector::{EchoConnector, EchoConnectorConfig, EchoConnectorFactory};
pub use plugin::{EchoPlugin, EchoPluginConfig, EchoPluginFactory};

#[cfg(test)]
mod tests {
    /// Blocks of the page that begin with the name of a file must be in that file as they are.
    #[test]
    fn the_walk_through_shows_the_code_as_it_is() {
        let files = [
            ("src/plugin.rs", include_str!("plugin.rs")),
            ("src/connector.rs", include_str!("connector.rs")),
            ("tests/conformance.rs", include_str!("../tests/conformance.rs")),
        ];
        let page = include_str!("../README.md");
        let mut shown = 0;
        for block in page.split("```rust\n// ").skip(1) {
            let block = block.split("```").next().expect("a split has a first part");
            let (file, code) = block.split_once('\n').expect("a block has lines");
            let (_, text) = files.iter().find(|(name, _)| *name == file).expect("a file of this crate");
            assert!(text.contains(code), "{file} has no such lines:\n{code}");
            shown += 1;
        }
        assert!(shown >= 8, "the page shows {shown} pieces of code");
    }
}

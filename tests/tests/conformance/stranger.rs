//! A plugin that Edgeway does not know, as a third party would bring it: its own name, config and type, in a hub that has
//! no built-in plugin at all. What it does with a caller it borrows from the echo plugin.

use std::net::SocketAddr;

use edgeway_echo::{EchoPlugin, EchoPluginConfig, EchoPluginFactory};
use edgeway_plugin::{ConfigError, Health, Plugin, PluginContext, PluginError, PluginFactory};
use serde::Deserialize;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct ShoutConfig {
    listen: SocketAddr,
}

#[derive(Debug)]
pub(crate) struct ShoutFactory;

pub(crate) struct Shout(EchoPlugin);

impl PluginFactory for ShoutFactory {
    const NAME: &'static str = "shout";
    type Config = ShoutConfig;
    type Plugin = Shout;

    fn build(config: ShoutConfig) -> Result<Shout, ConfigError> {
        let section = EchoPluginConfig { listen: config.listen, max_line: Some("2MiB".into()) };
        EchoPluginFactory::build(section).map(Shout)
    }
}

impl Plugin for Shout {
    async fn run(&self, cx: PluginContext) -> Result<(), PluginError> {
        self.0.run(cx).await
    }

    fn health(&self) -> Health {
        self.0.health()
    }
}

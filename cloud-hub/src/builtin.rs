//! The one file that names the built-in plugins.

use crate::registry::PluginRegistry;

pub(crate) fn register(registry: &mut PluginRegistry) {
    registry.register::<edgeway_rest::RestFactory>();
    registry.register::<edgeway_echo::EchoPluginFactory>();
}

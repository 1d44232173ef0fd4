//! The plugins that a hub knows, by name; built-in ones and those of whoever builds its own hub.

use std::{collections::BTreeMap, fmt, sync::Arc};

use edgeway_host::{Problem, report::join, yaml};
use edgeway_plugin::{DynPlugin, PluginFactory};
use serde_yaml::Value;

/// A factory without its types: decodes a section, builds the plugin, reports with paths.
type Build = fn(Value, &str, &mut Vec<Problem>) -> Option<Arc<dyn DynPlugin>>;

/// Which plugins there are. Holds factories only; nothing is made before a config asks for it.
#[derive(Clone, Default)]
pub struct PluginRegistry {
    factories: BTreeMap<&'static str, Build>,
}

impl PluginRegistry {
    /// No plugin at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a plugin. One of the same name gives way to it, so a built-in can be replaced.
    pub fn register<F: PluginFactory>(&mut self) {
        self.factories.insert(F::NAME, build::<F>);
    }

    /// The names of all plugins, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &'static str> {
        self.factories.keys().copied()
    }

    /// Makes the plugin `name` from its section, and reports every problem with it at `plugins.<name>`. `None` if there
    /// is any. Opens no socket and spawns nothing.
    pub fn build(
        &self,
        name: &str,
        section: Value,
        problems: &mut Vec<Problem>,
    ) -> Option<(&'static str, Arc<dyn DynPlugin>)> {
        let path = join("plugins", name);
        let Some((name, build)) = self.factories.get_key_value(name) else {
            let known: Vec<&str> = self.names().collect();
            problems.push(Problem::new(path, format!("no such plugin, there are: {}", known.join(", "))));
            return None;
        };
        build(section, &path, problems).map(|plugin| (*name, plugin))
    }
}

impl fmt::Debug for PluginRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

fn build<F: PluginFactory>(
    section: Value,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<Arc<dyn DynPlugin>> {
    yaml::decode_and_make(section, path, problems, |config| match F::build(config) {
        Ok(plugin) => Ok(Arc::new(plugin) as Arc<dyn DynPlugin>),
        Err(error) => Err(error.problems().to_vec()),
    })
}

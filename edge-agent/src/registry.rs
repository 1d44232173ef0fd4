//! The connectors that an agent knows, by name; built-in ones and those of whoever builds its own agent.

use std::{collections::BTreeMap, fmt, sync::Arc};

use edgeway_host::{Problem, yaml};
use edgeway_plugin::{ConnectorFactory, DynConnector};
use serde_yaml::Value;

/// A factory without its types: decodes a section, builds the connector, reports with paths.
type Build = fn(Value, &str, &mut Vec<Problem>) -> Option<Arc<dyn DynConnector>>;

/// Which connectors there are. Holds factories only; nothing is made before a config asks for it.
#[derive(Clone, Default)]
pub struct ConnectorRegistry {
    factories: BTreeMap<&'static str, Build>,
}

impl ConnectorRegistry {
    /// No connector at all.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a connector. One of the same name gives way to it, so a built-in can be replaced.
    pub fn register<F: ConnectorFactory>(&mut self) {
        self.factories.insert(F::NAME, build::<F>);
    }

    /// The names of all connectors, in order.
    pub fn names(&self) -> impl ExactSizeIterator<Item = &'static str> {
        self.factories.keys().copied()
    }

    /// The connector's name as it was registered, `None` if there is none of that name.
    pub fn name_of(&self, name: &str) -> Option<&'static str> {
        self.factories.get_key_value(name).map(|(name, _)| *name)
    }

    /// Makes the connector `name` from a service's section at `path`, and reports every problem with it. `None` if
    /// there is any. Connects to nothing and spawns nothing.
    pub fn build(
        &self,
        name: &str,
        section: Value,
        path: &str,
        problems: &mut Vec<Problem>,
    ) -> Option<Arc<dyn DynConnector>> {
        let Some(build) = self.factories.get(name) else {
            let known: Vec<&str> = self.names().collect();
            problems.push(Problem::new(path, format!("no such connector, there are: {}", known.join(", "))));
            return None;
        };
        build(section, path, problems)
    }
}

impl fmt::Debug for ConnectorRegistry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

fn build<F: ConnectorFactory>(
    section: Value,
    path: &str,
    problems: &mut Vec<Problem>,
) -> Option<Arc<dyn DynConnector>> {
    yaml::decode_and_make(section, path, problems, |config| match F::build(config) {
        Ok(connector) => Ok(Arc::new(connector) as Arc<dyn DynConnector>),
        Err(error) => Err(error.problems().to_vec()),
    })
}

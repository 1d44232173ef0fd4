//! Plugins: ways into the tunnel.

use std::{error::Error, fmt, future::Future, io, net::SocketAddr, sync::Arc};

use serde::de::DeserializeOwned;

use crate::{BoxFuture, PluginContext};

/// One way into the tunnel. Everything but [`run`](Self::run) has a default.
pub trait Plugin: Send + Sync + 'static {
    /// Serves until `cx.stop` fires, then takes nothing new, finishes what runs, and returns.
    ///
    /// # Errors
    /// Returning early, with or without an error, is a failure: the host reports it, and calls `run` again after a
    /// back-off.
    ///
    /// # Cancel safety
    /// The host drops the future at the end of its drain deadline; nothing that it spawned may outlive it.
    fn run(&self, cx: PluginContext) -> impl Future<Output = Result<(), PluginError>> + Send;

    /// How the plugin is. Asked often; reads memory only.
    fn health(&self) -> Health {
        Health::Ready
    }
}

/// Makes a plugin from its section of the hub's config.
pub trait PluginFactory: Send + Sync + 'static {
    /// The key of its section under `plugins`, and the name that routes use.
    const NAME: &'static str;
    /// Its section. Use `#[serde(rename_all = "camelCase", deny_unknown_fields)]`.
    type Config: DeserializeOwned + Send;
    /// What is made.
    type Plugin: Plugin;

    /// Checks the section and makes the plugin. Opens no socket, spawns no task; the only I/O allowed is to read files
    /// that the section names, so that `check` can vouch for them.
    ///
    /// # Errors
    /// Every problem that was found, each with its path within the section.
    fn build(config: Self::Config) -> Result<Self::Plugin, ConfigError>;
}

/// The boxed twin of [`Plugin`], for the host's table. Authors write [`Plugin`].
pub trait DynPlugin: Send + Sync + 'static {
    /// [`Plugin::run`].
    fn run(self: Arc<Self>, cx: PluginContext) -> BoxFuture<'static, Result<(), PluginError>>;
    /// [`Plugin::health`].
    fn health(&self) -> Health;
}

impl<P: Plugin> DynPlugin for P {
    fn run(self: Arc<Self>, cx: PluginContext) -> BoxFuture<'static, Result<(), PluginError>> {
        Box::pin(async move { Plugin::run(&*self, cx).await })
    }

    fn health(&self) -> Health {
        Plugin::health(self)
    }
}

/// How a plugin or service is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Health {
    /// Not yet able to work.
    Starting,
    /// Working.
    Ready,
    /// Not working, and why.
    Failed(String),
}

/// Why a plugin's `run` ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PluginError {
    /// A listener could not be opened.
    #[error("can't listen on {address}")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// Anything else.
    #[error("{what}")]
    Other {
        /// What failed, in one sentence.
        what: String,
        /// Why, if there is more to say.
        source: Option<Box<dyn Error + Send + Sync>>,
    },
}

impl PluginError {
    /// A failure with a sentence and its cause.
    pub fn other(what: impl Into<String>, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Other { what: what.into(), source: Some(source.into()) }
    }
}

/// What is wrong with a section of the config: every problem, with its path within the section.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConfigError {
    problems: Vec<(String, String)>,
}

impl ConfigError {
    /// No problem yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// One problem. `path` is like `listeners[0].address`; `message` says what is wrong and what is allowed, and
    /// repeats no secret.
    pub fn at(path: impl Into<String>, message: impl Into<String>) -> Self {
        let mut error = Self::new();
        error.push(path, message);
        error
    }

    /// Adds a problem.
    pub fn push(&mut self, path: impl Into<String>, message: impl Into<String>) {
        self.problems.push((path.into(), message.into()));
    }

    /// Path and message of each problem.
    pub fn problems(&self) -> &[(String, String)] {
        &self.problems
    }

    /// `Ok(value)` if there is no problem.
    ///
    /// # Errors
    /// Itself, if there is one.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.problems.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, (path, message)) in self.problems.iter().enumerate() {
            let line_feed = if at == 0 { "" } else { "\n" };
            write!(f, "{line_feed}{path}: {message}")?;
        }
        Ok(())
    }
}

impl Error for ConfigError {}

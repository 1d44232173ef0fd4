//! Plugins at run time: started, watched, and started again when they fail.
//!
//! ```text
//!   starting ─▶ running ─▶ stopped            (the hub shuts down)
//!      ▲           │ ended or panicked
//!      └ back-off ◀┘ failed: reported, counted
//! ```

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use edgeway_host::logs::Chain;
use edgeway_plugin::{DynPlugin, Health, PluginContext, PluginError};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, error, info, info_span};

use crate::{metrics::HubMetrics, router::PluginEdge};

/// First pause before a failed plugin runs again; doubled each time, up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// A plugin that ran this long is taken to have been well: the next pause is the first again.
const WELL_AFTER: Duration = Duration::from_secs(60);
/// A plugin that listens nowhere counts as running after this long.
const QUIET_START: Duration = Duration::from_millis(500);

/// How a plugin is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PluginState {
    Starting,
    Running,
    Failed(String),
    Stopped,
}

/// A plugin of a running hub.
pub(crate) struct Supervised {
    pub(crate) edge: Arc<PluginEdge>,
    pub(crate) plugin: Arc<dyn DynPlugin>,
    addresses: Mutex<Vec<SocketAddr>>,
    state: watch::Sender<PluginState>,
}

impl Supervised {
    pub(crate) fn new(edge: Arc<PluginEdge>, plugin: Arc<dyn DynPlugin>) -> Arc<Self> {
        let state = watch::Sender::new(PluginState::Starting);
        Arc::new(Self { edge, plugin, addresses: Mutex::default(), state })
    }

    pub(crate) fn name(&self) -> &'static str {
        self.edge.plugin()
    }

    /// Where it listens now.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.addresses.lock().expect("no holder of this lock panics").clone()
    }

    pub(crate) fn state(&self) -> watch::Receiver<PluginState> {
        self.state.subscribe()
    }

    /// Why it is not ready, if it is not.
    pub(crate) fn not_ready(&self) -> Option<String> {
        let name = self.name();
        match &*self.state.borrow() {
            PluginState::Starting => Some(format!("plugin {name} is starting")),
            PluginState::Failed(why) => Some(format!("plugin {name} failed: {why}")),
            PluginState::Stopped => Some(format!("plugin {name} has stopped")),
            PluginState::Running => match self.plugin.health() {
                Health::Ready => None,
                Health::Starting => Some(format!("plugin {name} is starting")),
                Health::Failed(why) => Some(format!("plugin {name} failed: {why}")),
                _ => None,
            },
        }
    }

    /// Runs the plugin until `stop` fires, again and again if need be.
    ///
    /// # Cancel safety
    /// Dropping the future drops the plugin's.
    pub(crate) async fn run(self: Arc<Self>, stop: CancellationToken, metrics: Arc<HubMetrics>) {
        let mut pause = FIRST_PAUSE;
        while !stop.is_cancelled() {
            let started = Instant::now();
            let ended = self.run_once(&stop).await;
            self.addresses.lock().expect("no holder of this lock panics").clear();
            if stop.is_cancelled() {
                if let Err(why) = ended {
                    error!(plugin = self.name(), why, "plugin failed while it stopped");
                }
                break;
            }
            let why = ended.err().unwrap_or_else(|| "it returned before it was told to stop".into());
            metrics.plugin_failed(self.name());
            if started.elapsed() >= WELL_AFTER {
                pause = FIRST_PAUSE;
            }
            error!(plugin = self.name(), why, restart_ms = pause.as_millis() as u64, "plugin failed");
            self.state.send_replace(PluginState::Failed(why));
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
        self.state.send_replace(PluginState::Stopped);
    }

    /// One run. A panic is an error here, as the run has a task of its own.
    async fn run_once(self: &Arc<Self>, stop: &CancellationToken) -> Result<(), String> {
        // A plugin that failed stays failed to the eye until it listens again.
        self.state.send_if_modified(|state| {
            let fresh = !matches!(state, PluginState::Failed(_) | PluginState::Starting);
            if fresh {
                *state = PluginState::Starting;
            }
            fresh
        });
        let me = self.clone();
        let bound = move |address: SocketAddr| {
            info!(plugin = me.name(), %address, "listening");
            me.addresses.lock().expect("no holder of this lock panics").push(address);
            me.state.send_replace(PluginState::Running);
        };
        let cx = PluginContext::new(self.name(), self.edge.clone(), stop.clone(), bound);
        let running = self.plugin.clone().run(cx).instrument(info_span!("plugin", name = self.name()));
        let mut task = AbortOnDrop(tokio::spawn(running));
        let quiet = tokio::time::sleep(QUIET_START);
        tokio::pin!(quiet);
        let mut waiting = true;
        loop {
            tokio::select! {
                biased; // its end counts more than that it has been quiet
                ended = &mut task.0 => return match ended {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(error)) => Err(describe(&error)),
                    Err(join) if join.is_panic() => Err(panic_text(join.into_panic())),
                    Err(_) => Err("it was aborted".into()),
                },
                () = &mut quiet, if waiting => {
                    waiting = false;
                    if self.addresses().is_empty() {
                        self.state.send_replace(PluginState::Running);
                    }
                }
            }
        }
    }
}

fn describe(error: &PluginError) -> String {
    Chain(error).to_string()
}

/// What a panic said.
pub(crate) fn panic_text(panic: Box<dyn std::any::Any + Send>) -> String {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    format!("it panicked: {}", text.unwrap_or_else(|| "no message".into()))
}

struct AbortOnDrop<T>(tokio::task::JoinHandle<T>);

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

//! Starting the plugin, and speaking to it.

use std::{
    future::Future,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use edgeway_plugin::{ConfigError, Plugin, PluginContext, PluginError, PluginFactory, conformance::FakeEdge};
use edgeway_rest::{RestConfig, RestFactory, RestPlugin};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// Nothing here takes this long; what does hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// `future`, or a panic that says what did not happen.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(output) => output,
        Err(_) => panic!("{what}: not within {PATIENCE:?}"),
    }
}

/// Waits until `condition` holds.
pub(crate) async fn until(what: &str, condition: impl Fn() -> bool) {
    within(what, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

pub(crate) fn build(config: Value) -> Result<RestPlugin, ConfigError> {
    let config: RestConfig = serde_json::from_value(config).expect("of the right form");
    RestFactory::build(config)
}

/// A running plugin.
pub(crate) struct Rest {
    pub(crate) address: SocketAddr,
    pub(crate) stop: CancellationToken,
    pub(crate) task: JoinHandle<Result<(), PluginError>>,
}

impl Rest {
    /// With one plain listener and nothing else said.
    pub(crate) async fn start(edge: &FakeEdge) -> Self {
        Self::with(edge, json!({})).await
    }

    /// With one plain listener, if `config` names none.
    pub(crate) async fn with(edge: &FakeEdge, mut config: Value) -> Self {
        let defaults = json!([{"address": "127.0.0.1:0"}]);
        config.as_object_mut().unwrap().entry("listeners").or_insert(defaults);
        Self::run(edge, Arc::new(build(config).expect("a valid config"))).await
    }

    pub(crate) async fn run(edge: &FakeEdge, plugin: Arc<RestPlugin>) -> Self {
        let (bound, mut addresses) = mpsc::unbounded_channel();
        let bound = Mutex::new(bound);
        let stop = CancellationToken::new();
        let cx = PluginContext::new("rest", Arc::new(edge.clone()), stop.clone(), move |address| {
            bound.lock().unwrap().send(address).unwrap();
        });
        let task = tokio::spawn(async move { plugin.run(cx).await });
        let address = within("a listener is reported", addresses.recv()).await.expect("an address");
        Self { address, stop, task }
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        within("the listener accepts", TcpStream::connect(self.address)).await.unwrap()
    }

    /// Sends bytes and returns all that comes back until the connection ends.
    pub(crate) async fn raw(&self, bytes: impl AsRef<[u8]>) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes.as_ref()).await.unwrap();
        read_all(&mut stream).await
    }

    /// Stops and waits for the plugin to return.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        within("run returns after stop", self.task).await.unwrap().unwrap();
    }
}

/// All bytes until the end. A reset is an error, and fails the test.
pub(crate) async fn read_all(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    within("the connection ends", stream.read_to_end(&mut bytes)).await.expect("no reset");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until what came ends with `end`.
pub(crate) async fn read_until(stream: &mut TcpStream, end: &str) -> String {
    let mut bytes = Vec::new();
    within(end, async {
        while !bytes.ends_with(end.as_bytes()) {
            let byte = stream.read_u8().await.unwrap_or_else(|error| {
                panic!("{error} instead of {end:?} after {:?}", String::from_utf8_lossy(&bytes))
            });
            bytes.push(byte);
        }
    })
    .await;
    String::from_utf8(bytes).unwrap()
}

/// Asserts that this is one answer with this fault and nothing behind it.
pub(crate) fn assert_fault(answer: &str, status: u16, code: &str) {
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer but {answer:?}"));
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
    assert!(head.contains(&format!("\r\nedgeway-fault: {code}\r\n")), "{answer}");
    assert!(head.contains("\r\ncontent-type: application/problem+json\r\n"), "{answer}");
    let problem: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error} in {answer}"));
    assert_eq!(problem["code"], code);
    assert_eq!(problem["status"], status);
}

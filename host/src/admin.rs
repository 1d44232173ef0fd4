//! The admin listener: `/healthz`, `/readyz` and `/metrics` over HTTP/1.1.
//!
//! It is meant for probes and scrapers on loopback or behind an operator's proxy, so it is small and strict: one request
//! a connection, a few connections at once, a few seconds each. [`AdminListener::serve`] owns every task it starts and
//! returns after the last one has ended. It knows nothing of hubs or agents: what to say comes in [`AdminPages`].

use std::{convert::Infallible, fmt, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info_span, warn};

/// Connections at once. Probes and scrapers need two or three; more wait in the kernel's queue, for at most
/// [`LIFETIME`].
const CONNECTIONS: usize = 64;

/// A connection's whole life, so that neither a slow sender nor a slow reader holds one of [`CONNECTIONS`] for ever.
const LIFETIME: Duration = Duration::from_secs(10);

/// How long a request's head may take.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// How long running answers may take after the stop.
const STOP_TIME: Duration = Duration::from_secs(1);

/// Pause after a failed accept: it mostly means that file descriptors ran out, and trying at once would only spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// hyper's read buffer, and with it the longest head. 8 KiB is hyper's least, and enough for any probe.
const HEAD_BYTES: usize = 8 * 1024;

/// Header fields of a request.
const HEADERS: usize = 64;

/// The content type of OpenMetrics (specification 1.0, section on transport).
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the pages say.
pub struct AdminPages {
    not_ready: Box<dyn Fn() -> Vec<String> + Send + Sync>,
    metrics: Arc<Registry>,
}

impl AdminPages {
    /// `not_ready` says why the process is not ready, one reason each, and nothing if it is ready. It is asked on every
    /// request for `/readyz`: let it read memory only.
    pub fn new(not_ready: impl Fn() -> Vec<String> + Send + Sync + 'static, metrics: Arc<Registry>) -> Self {
        Self { not_ready: Box::new(not_ready), metrics }
    }

    fn answer<B>(&self, request: &Request<B>) -> Response<Full<Bytes>> {
        let path = request.uri().path();
        if !matches!(path, "/healthz" | "/readyz" | "/metrics") {
            return page(
                StatusCode::NOT_FOUND,
                "text/plain",
                "not found; there are /healthz, /readyz and /metrics\n",
            );
        }
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut response = page(StatusCode::METHOD_NOT_ALLOWED, "text/plain", "only GET and HEAD\n");
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match path {
            "/healthz" => page(StatusCode::OK, "text/plain", "ok\n"),
            "/readyz" => self.readiness(),
            _ => self.metrics(),
        }
    }

    fn readiness(&self) -> Response<Full<Bytes>> {
        let reasons = (self.not_ready)();
        let status = if reasons.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        let body = serde_json::json!({ "ready": reasons.is_empty(), "reasons": reasons });
        page(status, "application/json", format!("{body}\n"))
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let mut text = String::new();
        match prometheus_client::encoding::text::encode(&mut text, &self.metrics) {
            Ok(()) => page(StatusCode::OK, OPEN_METRICS, text),
            // A collector of ours failed; half a page must not look like a whole one.
            Err(fmt::Error) => {
                page(StatusCode::INTERNAL_SERVER_ERROR, "text/plain", "a metric can't be written\n")
            }
        }
    }
}

impl fmt::Debug for AdminPages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AdminPages").finish_non_exhaustive()
    }
}

fn page(status: StatusCode, kind: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    // Each answer is of its moment.
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The admin listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address} for admin pages")]
pub struct AdminError {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub source: io::Error,
}

/// A socket that listens but is not served yet; connections wait in the kernel's queue.
#[derive(Debug)]
pub struct AdminListener {
    listener: TcpListener,
    address: SocketAddr,
}

impl AdminListener {
    /// Listens on `address`; port 0 takes any free one.
    ///
    /// # Errors
    /// The address can't be used.
    pub async fn bind(address: SocketAddr) -> Result<Self, AdminError> {
        let listener = TcpListener::bind(address).await.map_err(|source| AdminError { address, source })?;
        Self::from_listener(listener).map_err(|source| AdminError { address, source })
    }

    /// Takes a socket that listens already.
    ///
    /// # Errors
    /// The socket has no address.
    pub fn from_listener(listener: TcpListener) -> io::Result<Self> {
        let address = listener.local_addr()?;
        Ok(Self { listener, address })
    }

    /// Where it listens, with the real port.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Answers until `stop` fires, then finishes running answers, for a second at most. Spawn it, and join it.
    ///
    /// # Cancel safety
    /// Dropping the future closes the socket and cuts running answers; no task is left.
    pub async fn serve(self, pages: AdminPages, stop: CancellationToken) {
        let pages = Arc::new(pages);
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                // The stop first: a stream of connections must not put it off.
                biased;
                () = stop.cancelled() => break,
                Some(_) = connections.join_next() => {}
                accepted = self.listener.accept(), if connections.len() < CONNECTIONS => match accepted {
                    Ok((stream, peer)) => {
                        let span = info_span!("admin", %peer);
                        connections.spawn(serve_connection(stream, Arc::clone(&pages)).instrument(span));
                    }
                    Err(error) => {
                        warn!(%error, "admin listener can't accept");
                        let _ = timeout(ACCEPT_PAUSE, stop.cancelled()).await;
                    }
                },
            }
        }
        drop(self.listener);
        let finish = async { while connections.join_next().await.is_some() {} };
        let _ = timeout(STOP_TIME, finish).await;
        connections.shutdown().await;
    }
}

async fn serve_connection(stream: TcpStream, pages: Arc<AdminPages>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = pages.answer(&request);
        async move { Ok::<_, Infallible>(response) }
    });
    let connection = http1::Builder::new()
        .keep_alive(false)
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADERS)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(LIFETIME, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => debug!(%error, "admin connection failed"),
        Err(_) => debug!("admin connection took too long"),
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    struct Running {
        address: SocketAddr,
        stop: CancellationToken,
        task: tokio::task::JoinHandle<()>,
    }

    async fn start(not_ready: Vec<String>) -> Running {
        let mut registry = Registry::default();
        let counter: Counter = Counter::default();
        registry.register("calls", "Calls", counter.clone());
        counter.inc_by(3);
        let listener = AdminListener::bind(([127, 0, 0, 1], 0).into()).await.expect("a free port");
        let address = listener.address();
        let stop = CancellationToken::new();
        let pages = AdminPages::new(move || not_ready.clone(), Arc::new(registry));
        let task = tokio::spawn(listener.serve(pages, stop.clone()));
        Running { address, stop, task }
    }

    impl Running {
        async fn send(&self, request: &str) -> String {
            let mut stream = TcpStream::connect(self.address).await.expect("connected");
            stream.write_all(request.as_bytes()).await.expect("written");
            let mut answer = String::new();
            timeout(Duration::from_secs(20), stream.read_to_string(&mut answer))
                .await
                .expect("an end in time")
                .expect("an answer");
            answer
        }

        async fn get(&self, path: &str) -> String {
            self.send(&format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await
        }

        async fn stop(self) {
            self.stop.cancel();
            timeout(Duration::from_secs(5), self.task).await.expect("an end in time").expect("no panic");
        }
    }

    #[tokio::test]
    async fn the_three_pages_answer() {
        let running = start(Vec::new()).await;
        let healthy = running.get("/healthz?verbose").await;
        assert!(healthy.starts_with("HTTP/1.1 200 OK\r\n") && healthy.ends_with("\r\n\r\nok\n"), "{healthy}");
        let ready = running.get("/readyz").await;
        assert!(ready.starts_with("HTTP/1.1 200 OK\r\n"), "{ready}");
        assert!(ready.ends_with("{\"ready\":true,\"reasons\":[]}\n"), "{ready}");
        let metrics = running.get("/metrics").await;
        assert!(metrics.contains("content-type: application/openmetrics-text; version=1.0.0"), "{metrics}");
        assert!(metrics.contains("calls_total 3\n") && metrics.ends_with("# EOF\n"), "{metrics}");
        running.stop().await;
    }

    #[tokio::test]
    async fn a_process_that_is_not_ready_says_why() {
        let running = start(vec!["no \"session\"".into(), "draining".into()]).await;
        let answer = running.get("/readyz").await;
        assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
        let expected = r#"{"ready":false,"reasons":["no \"session\"","draining"]}"#;
        assert_eq!(answer.lines().last(), Some(expected));
        assert!(running.get("/healthz").await.starts_with("HTTP/1.1 200 "));
        running.stop().await;
    }

    #[tokio::test]
    async fn everything_else_is_refused() {
        let running = start(Vec::new()).await;
        assert!(running.get("/").await.starts_with("HTTP/1.1 404 "));
        assert!(running.get("/healthz/").await.starts_with("HTTP/1.1 404 "));
        let post = running.send("POST /healthz HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nhi").await;
        assert!(post.starts_with("HTTP/1.1 405 ") && post.contains("\r\nallow: GET, HEAD\r\n"), "{post}");
        let head = running.send("HEAD /healthz HTTP/1.1\r\nhost: a\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 ") && head.ends_with("\r\n\r\n"), "{head}");
        let garbage = running.send("\u{1}\u{2} nonsense\r\n\r\n").await;
        assert!(garbage.is_empty() || garbage.starts_with("HTTP/1.1 400 "), "{garbage}");
        let long = running.get(&format!("/{}", "x".repeat(2 * HEAD_BYTES))).await;
        assert!(long.starts_with("HTTP/1.1 4"), "{long}");
        running.stop().await;
    }

    #[tokio::test]
    async fn a_caller_that_sends_nothing_does_not_hold_up_the_stop() {
        let running = start(Vec::new()).await;
        let silent = TcpStream::connect(running.address).await.expect("connected");
        assert!(running.get("/healthz").await.starts_with("HTTP/1.1 200 "));
        running.stop().await;
        drop(silent);
    }

    #[tokio::test]
    async fn an_address_that_is_taken_is_named() {
        let running = start(Vec::new()).await;
        let error = AdminListener::bind(running.address).await.expect_err("the port is taken");
        assert_eq!(error.to_string(), format!("can't listen on {} for admin pages", running.address));
        running.stop().await;
    }
}

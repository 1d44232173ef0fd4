//! Local services that do what a test wants, down to the byte.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::task::AbortOnDropHandle;

use crate::raw::{contains, is_end};

/// A service that runs a script for each connection. Dropped, it and its connections are gone.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    _task: AbortOnDropHandle<()>,
}

impl Service {
    /// Runs `script` on each connection; it ends when the script does.
    pub(crate) async fn start<S, F>(script: S) -> Self
    where
        S: Fn(Connection) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = requests.clone();
        let task = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                tokio::select! {
                    biased; // ended connections first, or the set would grow
                    Some(_) = connections.join_next() => {}
                    accepted = listener.accept() => {
                        let Ok((stream, _)) = accepted else { return };
                        let _ = stream.set_nodelay(true);
                        let connection =
                            Connection { stream, buffer: Vec::new(), requests: counted.clone() };
                        connections.spawn(script(connection));
                    }
                }
            }
        });
        Self { address, requests, _task: AbortOnDropHandle::new(task) }
    }

    /// Answers every request with these bytes, and keeps the connection.
    pub(crate) async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer = Arc::new(answer.into());
        Self::start(move |mut connection| {
            let answer = answer.clone();
            async move {
                while connection.request().await.is_some() {
                    connection.send(&*answer).await;
                }
            }
        })
        .await
    }

    /// Answers every request with the request itself, as it came on the wire, in a body of known length.
    pub(crate) async fn mirror() -> Self {
        Self::start(|mut connection| async move {
            while let Some(request) = connection.request().await {
                let seen = request.raw();
                connection.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", seen.len())).await;
                connection.send(seen).await;
            }
        })
        .await
    }

    /// Answers nothing, ever.
    pub(crate) async fn silent() -> Self {
        Self::start(|mut connection| async move { while connection.request().await.is_some() {} }).await
    }

    /// Requests whose head has come.
    pub(crate) fn requests(&self) -> usize {
        self.requests.load(Ordering::Acquire)
    }
}

/// A connection that the service was dialled on.
pub(crate) struct Connection {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
    requests: Arc<AtomicUsize>,
}

/// A request, with its body in the form it had on the wire.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    /// From the request line to the empty line, each byte as the character of its number.
    pub(crate) head: String,
    /// Chunks with their sizes where it was chunked.
    pub(crate) body: Vec<u8>,
}

impl Request {
    fn raw(&self) -> Vec<u8> {
        self.head.chars().map(|byte| byte as u8).chain(self.body.iter().copied()).collect()
    }
}

impl Connection {
    /// The next request as a whole; `None` once the connection is over.
    pub(crate) async fn request(&mut self) -> Option<Request> {
        let head = self.head().await?;
        let lower = head.to_ascii_lowercase();
        let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).map(str::to_owned);
        let body = if lower.contains("\r\ntransfer-encoding: chunked\r\n") {
            while chunked_end(&self.buffer).is_none() {
                self.fill().await?;
            }
            self.exactly(chunked_end(&self.buffer).expect("it was waited for")).await?
        } else {
            self.exactly(length.map_or(0, |length| length.parse().expect("a length"))).await?
        };
        Some(Request { head, body })
    }

    /// The head of the next request. What a script reads after it is up to the script.
    pub(crate) async fn head(&mut self) -> Option<String> {
        while !contains(&self.buffer, b"\r\n\r\n") {
            self.fill().await?;
        }
        let end =
            self.buffer.windows(4).position(|window| window == b"\r\n\r\n").expect("it was waited for") + 4;
        self.requests.fetch_add(1, Ordering::AcqRel);
        let head: Vec<u8> = self.buffer.drain(..end).collect();
        Some(head.into_iter().map(char::from).collect())
    }

    async fn exactly(&mut self, size: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < size {
            self.fill().await?;
        }
        Some(self.buffer.drain(..size).collect())
    }

    async fn fill(&mut self) -> Option<()> {
        let mut piece = [0; 16 * 1024];
        let read = self.stream.read(&mut piece).await;
        if is_end(&read) {
            return None;
        }
        self.buffer.extend_from_slice(&piece[..read.expect("not the end")]);
        Some(())
    }

    /// Some bytes of what follows; `None` once the connection is over.
    pub(crate) async fn some(&mut self) -> Option<Vec<u8>> {
        if self.buffer.is_empty() {
            self.fill().await?;
        }
        Some(std::mem::take(&mut self.buffer))
    }

    /// Waits until the other side has ended or broken off the connection.
    pub(crate) async fn gone(&mut self) {
        while self.some().await.is_some() {}
    }

    /// Sends bytes; the other side may be gone.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }
}

/// Where a chunked body ends, trailers and last empty line included, if all of it is there.
fn chunked_end(bytes: &[u8]) -> Option<usize> {
    let line =
        |from: usize| bytes[from..].windows(2).position(|window| window == b"\r\n").map(|end| from + end);
    let mut at = 0;
    loop {
        let end = line(at)?;
        let size =
            std::str::from_utf8(&bytes[at..end]).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
        at = end + 2;
        match size.expect("a chunk size") {
            0 => break,
            size => at += size + 2,
        }
        if at > bytes.len() {
            return None;
        }
    }
    // Trailers, up to an empty line.
    loop {
        let end = line(at)?;
        if end == at {
            return Some(end + 2);
        }
        at = end + 2;
    }
}

//! A caller that puts exactly the bytes of a test on the wire, and reads an HTTP/1.1 answer without any library's
//! leniency: whether it is complete is what many tests are about.

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::world::within;

/// An answer as it came.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Names in lower case, values as bytes, in order.
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Vec<(String, Vec<u8>)>,
    /// Whether the body ended as its framing says.
    pub(crate) complete: bool,
    /// Interim answers before this one.
    pub(crate) interim: Vec<u16>,
}

impl Answer {
    /// The value of a header as text, empty where it is absent.
    pub(crate) fn header(&self, name: &str) -> &str {
        let value = self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_slice());
        std::str::from_utf8(value.unwrap_or_default()).expect("a header of text")
    }

    /// The body as text.
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Asserts that this is the fault `code` in full form (requirement C6).
    pub(crate) fn assert_fault(&self, status: u16, code: &str) {
        assert_eq!((self.status, self.header("edgeway-fault")), (status, code), "{self:?}");
        assert_eq!(self.header("content-type"), "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["code"], code);
        assert_eq!(problem["status"], status);
        for field in ["type", "title", "detail"] {
            assert!(problem[field].as_str().is_some_and(|text| !text.is_empty()), "{field}: {problem}");
        }
        assert!(self.complete);
    }
}

/// One connection of a caller.
pub(crate) struct Caller {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

impl Caller {
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("an open socket");
        Self { stream, buffer: Vec::new() }
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the other side reads");
    }

    /// The final answer. `None` if the connection ended before one began.
    pub(crate) async fn answer(&mut self) -> Option<Answer> {
        within("an answer", self.read_answer(false)).await
    }

    /// The final answer to a HEAD.
    pub(crate) async fn answer_to_head(&mut self) -> Option<Answer> {
        within("an answer", self.read_answer(true)).await
    }

    /// The head of the next answer, interim or not; its body is left on the connection.
    pub(crate) async fn head(&mut self) -> Option<Answer> {
        within("the head of an answer", self.read_head()).await
    }

    /// Reads raw bytes until `wanted` is among them.
    pub(crate) async fn until(&mut self, wanted: &[u8]) -> Vec<u8> {
        within(&format!("{:?}", String::from_utf8_lossy(wanted)), async {
            while !contains(&self.buffer, wanted) {
                assert!(
                    self.fill().await,
                    "the connection ended after {:?}",
                    String::from_utf8_lossy(&self.buffer)
                );
            }
            std::mem::take(&mut self.buffer)
        })
        .await
    }

    /// Everything until the connection ends, however it does.
    pub(crate) async fn rest(mut self) -> Vec<u8> {
        within("the end of the connection", async { while self.fill().await {} }).await;
        self.buffer
    }

    /// False at the end of the connection, clean or not.
    async fn fill(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        match self.stream.read(&mut piece).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.buffer.extend_from_slice(&piece[..count]);
                true
            }
        }
    }

    async fn line(&mut self) -> Option<Vec<u8>> {
        loop {
            if let Some(end) = self.buffer.windows(2).position(|window| window == b"\r\n") {
                let mut line: Vec<u8> = self.buffer.drain(..end + 2).collect();
                line.truncate(end);
                return Some(line);
            }
            if !self.fill().await {
                return None;
            }
        }
    }

    async fn fields(&mut self) -> Option<Vec<(String, Vec<u8>)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(fields);
            }
            let colon = line.iter().position(|&byte| byte == b':').expect("a field has a colon");
            let name = std::str::from_utf8(&line[..colon]).expect("a name is ASCII").to_ascii_lowercase();
            fields.push((name, line[colon + 1..].trim_ascii().to_vec()));
        }
    }

    async fn read_head(&mut self) -> Option<Answer> {
        let line = String::from_utf8(self.line().await?).expect("a status line is ASCII");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("{line:?} is no status line"));
        Some(Answer { status, headers: self.fields().await?, ..Answer::default() })
    }

    async fn read_answer(&mut self, to_head: bool) -> Option<Answer> {
        let mut interim = Vec::new();
        let mut answer = loop {
            let head = self.read_head().await?;
            if head.status >= 200 || head.status == 101 {
                break head;
            }
            interim.push(head.status);
        };
        answer.interim = interim;
        if to_head || matches!(answer.status, 101 | 204 | 304) {
            answer.complete = true;
        } else if answer.header("transfer-encoding") == "chunked" {
            self.chunked(&mut answer).await;
        } else if let Ok(length) = answer.header("content-length").parse::<usize>() {
            self.at_least(length).await;
            answer.complete = self.buffer.len() >= length;
            answer.body = self.buffer.drain(..length.min(self.buffer.len())).collect();
        } else {
            while self.fill().await {}
            answer.body = std::mem::take(&mut self.buffer);
            // Such a body may end anywhere: nothing can tell whether it is whole.
            answer.complete = false;
        }
        Some(answer)
    }

    async fn chunked(&mut self, answer: &mut Answer) {
        loop {
            let Some(line) = self.line().await else { return };
            let size = std::str::from_utf8(&line).ok().and_then(|line| usize::from_str_radix(line, 16).ok());
            let size = size.unwrap_or_else(|| panic!("{line:?} is no chunk size"));
            if size == 0 {
                if let Some(trailers) = self.fields().await {
                    answer.trailers = trailers;
                    answer.complete = true;
                }
                return;
            }
            self.at_least(size + 2).await;
            answer.body.extend(self.buffer.drain(..size.min(self.buffer.len())));
            if self.buffer.len() < 2 {
                return;
            }
            self.buffer.drain(..2);
        }
    }

    async fn at_least(&mut self, size: usize) {
        while self.buffer.len() < size && self.fill().await {}
    }
}

/// Sends one request and returns its answer.
pub(crate) async fn call(address: SocketAddr, request: impl AsRef<[u8]>) -> Answer {
    let mut caller = Caller::connect(address).await;
    caller.send(request).await;
    caller.answer().await.expect("an answer")
}

/// `GET path`.
pub(crate) async fn get(address: SocketAddr, path: &str) -> Answer {
    call(address, format!("GET {path} HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n")).await
}

/// `POST path` with a body of known length.
pub(crate) async fn post(address: SocketAddr, path: &str, body: &[u8]) -> Answer {
    let head = format!(
        "POST {path} HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    call(address, [head.as_bytes(), body].concat()).await
}

pub(crate) fn contains(bytes: &[u8], wanted: &[u8]) -> bool {
    bytes.windows(wanted.len()).any(|window| window == wanted)
}

/// Whether reading says that the other side has ended or broken off the connection.
pub(crate) fn is_end(read: &io::Result<usize>) -> bool {
    matches!(read, Ok(0) | Err(_))
}

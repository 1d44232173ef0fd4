//! Makes the call of an example and judges the answer: what `--once` does instead of curl.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use edgeway_host::Chain;
use futures_util::{SinkExt, StreamExt, stream};
use http::{Request, Uri};
use http_body::Frame;
use http_body_util::{Empty, Full, StreamBody};
use sha2::{Digest, Sha256};
use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{self, Message};

use super::examples::{Ask, Content, Example, Expected};
use crate::{
    client::{CallError, Outgoing, Reply, call, outgoing},
    services::{CHECKSUM_HEADER, SERVED_BY, hexadecimal},
};

/// An answer that takes longer is wrong. The slowest is the clock with two seconds; the rest is for a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// How far from its second a tick may arrive. Wide enough for a busy machine; an answer that is held back until it is
/// whole lies further off.
const JITTER: Duration = Duration::from_millis(700);

/// Lines of an answer that are shown.
const SHOWN_LINES: usize = 24;

/// What came back, and what is wrong with it.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) shown: Vec<String>,
    pub(super) wrong: Vec<String>,
}

impl Outcome {
    fn show(&mut self, text: &str) {
        self.shown.extend(text.lines().take(SHOWN_LINES).map(str::to_owned));
    }

    /// Notes what is wrong unless `found` is `expected`.
    fn same<T: PartialEq + std::fmt::Debug>(&mut self, what: &str, found: T, expected: T) {
        if found != expected {
            self.wrong.push(format!("{what} is {found:?}, expected {expected:?}"));
        }
    }

    fn require(&mut self, holds: bool, otherwise: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(otherwise());
        }
    }
}

/// Why there is no answer to judge.
#[derive(Debug, thiserror::Error)]
enum CheckError {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("can't connect to {0}")]
    Connect(SocketAddr, #[source] std::io::Error),
    #[error("the WebSocket failed")]
    WebSocket(#[from] tungstenite::Error),
    #[error("the answer is no JSON")]
    Json(#[from] serde_json::Error),
}

/// Makes the call to `rest` and judges the answer. Takes no longer than [`PATIENCE`].
pub(super) async fn check(example: &Example, rest: SocketAddr) -> Outcome {
    let mut outcome = Outcome::default();
    match timeout(PATIENCE, judge(example, rest, &mut outcome)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => outcome.wrong.push(Chain(&error).to_string()),
        Err(_) => outcome.wrong.push(format!("not done within {} s", PATIENCE.as_secs())),
    }
    outcome
}

async fn judge(example: &Example, rest: SocketAddr, outcome: &mut Outcome) -> Result<(), CheckError> {
    if let Expected::Chat { node } = example.expected {
        return chat(&example.ask, rest, node, outcome).await;
    }
    let begin = Instant::now();
    let reply = call(rest, example.ask.protocol, request(&example.ask)).await?;
    match example.expected {
        Expected::Echo { nodes, method, path, body } => {
            outcome.same("the status", reply.head.status.as_u16(), 200);
            let text = reply.text().await?;
            outcome.show(&text);
            let echo: serde_json::Value = serde_json::from_str(&text)?;
            let node = echo["node"].as_str().unwrap_or_default();
            outcome.require(nodes.contains(&node), || format!("node '{node}' answered, expected {nodes:?}"));
            outcome.same("the method", &echo["method"], &method.into());
            outcome.same("the path", &echo["path"], &path.into());
            outcome.same("the body's size", &echo["body"]["bytes"], &body.len().into());
            outcome.same("the body's sum", &echo["body"]["sha256"], &sum_of(body.as_bytes()).into());
        }
        Expected::Ticks { node, count } => ticks(reply, begin, node, count, outcome).await?,
        Expected::Download { node, bytes, trailer } => download(reply, node, bytes, trailer, outcome).await?,
        Expected::Upload { node } => {
            outcome.same("the status", reply.head.status.as_u16(), 200);
            let text = reply.text().await?;
            outcome.show(&text);
            let intake: serde_json::Value = serde_json::from_str(&text)?;
            let (bytes, sum) = sum_of_content(example.ask.content);
            outcome.same("the node", &intake["node"], &node.into());
            outcome.same("the size", &intake["bytes"], &bytes.into());
            outcome.same("the sum", &intake["sha256"], &sum.into());
        }
        Expected::Fault { status, code } => {
            let header = reply.header("edgeway-fault").map(str::to_owned);
            let kind = reply.header("content-type").map(str::to_owned);
            outcome.same("the status", reply.head.status.as_u16(), status);
            outcome.same("the header edgeway-fault", header.as_deref(), Some(code));
            outcome.same("the content type", kind.as_deref(), Some("application/problem+json"));
            outcome.show(&format!("{} edgeway-fault: {}", reply.head.status, header.unwrap_or_default()));
            let text = reply.text().await?;
            outcome.show(&text);
            let problem: serde_json::Value = serde_json::from_str(&text)?;
            outcome.same("the code", &problem["code"], &code.into());
        }
        Expected::Chat { .. } => unreachable!("a chat was judged above"),
    }
    Ok(())
}

async fn ticks(
    mut reply: Reply,
    begin: Instant,
    node: &str,
    count: usize,
    outcome: &mut Outcome,
) -> Result<(), CheckError> {
    outcome.same("the content type", reply.header("content-type"), Some("text/event-stream"));
    let (mut text, mut seen) = (String::new(), 0);
    while let Some(frame) = reply.frame().await? {
        let Ok(data) = frame.into_data() else { continue };
        text.push_str(&String::from_utf8_lossy(&data));
        // An event ends with an empty line.
        while let Some(end) = text.find("\n\n") {
            let event: String = text.drain(..end + 2).collect();
            let (due, arrived) = (Duration::from_secs(seen), begin.elapsed());
            outcome.show(&format!("{:4} ms  {}", arrived.as_millis(), event.trim_end().replace('\n', "  ")));
            outcome.require(arrived.abs_diff(due) < JITTER, || {
                format!(
                    "tick {} arrived after {} ms, due after {} ms",
                    seen + 1,
                    arrived.as_millis(),
                    due.as_millis()
                )
            });
            outcome.require(event.contains(&format!("\"node\":\"{node}\"")), || {
                format!("tick of another node: {event}")
            });
            seen += 1;
        }
    }
    outcome.same("the number of ticks", seen, count as u64);
    Ok(())
}

async fn download(
    mut reply: Reply,
    node: &str,
    bytes: u64,
    trailer: bool,
    outcome: &mut Outcome,
) -> Result<(), CheckError> {
    outcome.same("the status", reply.head.status.as_u16(), 200);
    outcome.same("the header served-by", reply.header(SERVED_BY), Some(node));
    let ahead = reply.header(CHECKSUM_HEADER).map(str::to_owned);
    let (mut received, mut hash, mut behind) = (0, Sha256::new(), None);
    while let Some(frame) = reply.frame().await? {
        match frame.into_data() {
            Ok(data) => {
                received += data.len() as u64;
                hash.update(&data);
            }
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                behind = trailers.get(CHECKSUM_HEADER).and_then(|sum| sum.to_str().ok()).map(str::to_owned);
            }
        }
    }
    let sum = hexadecimal(&hash.finalize());
    outcome.show(&format!("{received} bytes, sha256 {sum}"));
    outcome.same("the size", received, bytes);
    let promised = if trailer { ("the trailer", behind) } else { ("the header", ahead) };
    outcome.show(&format!("{} {CHECKSUM_HEADER}: {}", promised.0, promised.1.as_deref().unwrap_or("absent")));
    outcome.same(&format!("{} {CHECKSUM_HEADER}", promised.0), promised.1, Some(sum));
    Ok(())
}

async fn chat(ask: &Ask, rest: SocketAddr, node: &str, outcome: &mut Outcome) -> Result<(), CheckError> {
    let stream = TcpStream::connect(rest).await.map_err(|source| CheckError::Connect(rest, source))?;
    // Without the query, by which the service would close in the middle.
    let path = ask.target.split('?').next().unwrap_or_default();
    let (mut socket, response) =
        tokio_tungstenite::client_async(format!("ws://{rest}{path}"), stream).await?;
    outcome.show(&response.status().to_string());
    outcome.same("the status", response.status().as_u16(), 101);
    let served_by = response.headers().get(SERVED_BY).and_then(|node| node.to_str().ok());
    outcome.same("the header served-by", served_by, Some(node));
    for said in
        [Message::text("hello"), Message::binary(vec![0, 1, 254, 255]), Message::text("x".repeat(100_000))]
    {
        socket.send(said.clone()).await?;
        let heard = socket.next().await.transpose()?;
        outcome.show(&match &said {
            Message::Text(text) if text.len() < 80 => format!("said '{text}'"),
            other => format!("said {} bytes", other.len()),
        });
        outcome.require(heard.as_ref() == Some(&said), || format!("heard {heard:.80?} after {said:.80?}"));
    }
    socket.close(None).await?;
    while let Some(rest) = socket.next().await {
        let rest = rest?;
        outcome.require(rest.is_close(), || format!("heard {rest:?} after the close"));
    }
    Ok(())
}

fn request(ask: &Ask) -> Request<Outgoing> {
    let body = match ask.content {
        Content::Nothing => outgoing(Empty::new()),
        Content::Text(text) => outgoing(Full::from(text)),
        Content::Numbers(last) => {
            let pieces = numbers(last).map(|piece| Ok::<_, std::convert::Infallible>(Frame::data(piece)));
            outgoing(StreamBody::new(stream::iter(pieces)))
        }
    };
    let mut request = Request::new(body);
    *request.method_mut() = ask.method.clone();
    *request.uri_mut() = Uri::from_static(ask.target);
    for (name, value) in ask.headers {
        request.headers_mut().insert(*name, http::HeaderValue::from_static(value));
    }
    request
}

/// What `seq` prints, in pieces of a thousand numbers.
fn numbers(last: u64) -> impl Iterator<Item = Bytes> + Send {
    (1..=last).step_by(1000).map(move |first| {
        (first..=last.min(first + 999)).map(|number| format!("{number}\n")).collect::<String>().into()
    })
}

fn sum_of(bytes: &[u8]) -> String {
    hexadecimal(&Sha256::digest(bytes))
}

/// Size and sum of what a request carries.
fn sum_of_content(content: Content) -> (u64, String) {
    match content {
        Content::Nothing => (0, sum_of(b"")),
        Content::Text(text) => (text.len() as u64, sum_of(text.as_bytes())),
        Content::Numbers(last) => {
            let (mut bytes, mut hash) = (0, Sha256::new());
            for piece in numbers(last) {
                bytes += piece.len() as u64;
                hash.update(&piece);
            }
            (bytes, hexadecimal(&hash.finalize()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::examples::EXAMPLES, *};
    use crate::services::{self, Kind};

    #[tokio::test]
    async fn no_example_takes_the_answer_of_another_node_for_right() {
        let node = edgeway_proto::NodeName::new("elsewhere-1").unwrap();
        let service =
            services::start(Kind::Echo, &node, (std::net::Ipv4Addr::LOCALHOST, 0).into()).await.unwrap();
        for example in EXAMPLES {
            let outcome = check(example, service.address()).await;
            assert!(!outcome.wrong.is_empty(), "{}: {:?}", example.title, outcome.shown);
        }
    }

    #[tokio::test]
    async fn an_answer_that_does_not_come_is_wrong() {
        let unused = tokio::net::TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = unused.local_addr().unwrap();
        drop(unused);
        for example in EXAMPLES {
            let outcome = check(example, address).await;
            assert!(outcome.wrong[0].starts_with("can't connect to 127.0.0.1:"), "{:?}", outcome.wrong);
        }
    }

    #[test]
    fn numbers_are_those_of_seq() {
        let text: Vec<u8> = numbers(1001).flatten().collect();
        let text = String::from_utf8(text).unwrap();
        assert!(text.starts_with("1\n2\n3\n") && text.ends_with("\n999\n1000\n1001\n"));
        assert_eq!(text.lines().count(), 1001);
    }
}

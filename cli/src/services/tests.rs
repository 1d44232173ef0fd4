//! The services as a caller sees them, over real connections.

use std::{net::Ipv4Addr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use http::Request;
use http_body_util::{Empty, Full};
use sha2::{Digest, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{Message, protocol::CloseFrame};

use super::*;
use crate::client::{Outgoing, Protocol, Reply, call, outgoing};

/// Far beyond what anything here takes; a test that waits so long has found a hang.
const BOUND: Duration = Duration::from_secs(10);

async fn running(kind: Kind) -> RunningService {
    let node = NodeName::new("berlin-1").unwrap();
    start(kind, &node, (Ipv4Addr::LOCALHOST, 0).into()).await.unwrap()
}

fn get(target: &str) -> Request<Outgoing> {
    Request::builder().uri(target).body(outgoing(Empty::new())).unwrap()
}

fn put(target: &str, body: impl Into<Bytes>) -> Request<Outgoing> {
    Request::builder().method("PUT").uri(target).body(outgoing(Full::new(body.into()))).unwrap()
}

async fn ask(service: &RunningService, protocol: Protocol, request: Request<Outgoing>) -> Reply {
    timeout(BOUND, call(service.address(), protocol, request)).await.unwrap().unwrap()
}

async fn json(reply: Reply) -> serde_json::Value {
    serde_json::from_str(&reply.text().await.unwrap()).unwrap()
}

#[tokio::test]
async fn echo_shows_the_request_as_it_arrived() {
    let service = running(Kind::Echo).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let request = Request::builder()
            .method("PATCH")
            .uri("/a%20b/..//%2F?x=1&&x=%zz")
            .header("x-first", "one")
            .header("x-second", "caf\u{e9}".as_bytes())
            .header("x-first", "two \"quoted\"")
            .body(outgoing(Full::new(Bytes::from_static(b"abc"))))
            .unwrap();
        let reply = ask(&service, protocol, request).await;
        assert_eq!(reply.header(SERVED_BY), Some("berlin-1"));
        let answer = json(reply).await;
        assert_eq!(answer["node"], "berlin-1");
        assert_eq!(answer["method"], "PATCH");
        assert_eq!(answer["path"], "/a%20b/..//%2F?x=1&&x=%zz");
        assert_eq!(answer["body"]["bytes"], 3);
        assert_eq!(
            answer["body"]["sha256"],
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        let headers: Vec<_> = answer["headers"].as_array().unwrap().iter().collect();
        let firsts: Vec<_> =
            headers.iter().filter(|pair| pair[0] == "x-first").map(|pair| pair[1].clone()).collect();
        assert_eq!(firsts, ["one", "two \"quoted\""]);
        assert!(headers.iter().any(|pair| pair[0] == "x-second" && pair[1] == "caf\u{c3}\u{a9}"));
        assert!(headers.iter().any(|pair| pair[0] == "host" && pair[1] == service.address().to_string()));
    }
}

#[tokio::test]
async fn the_clock_ticks_at_once_and_then_each_second() {
    let service = running(Kind::Clock).await;
    let begin = Instant::now();
    let mut reply = ask(&service, Protocol::Http1, get("/?ticks=2")).await;
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let mut arrivals = Vec::new();
    while let Some(frame) = timeout(BOUND, reply.frame()).await.unwrap().unwrap() {
        let event = String::from_utf8(frame.into_data().unwrap().to_vec()).unwrap();
        arrivals.push(begin.elapsed());
        assert!(event.starts_with(&format!("event: tick\nid: {}\ndata: {{", arrivals.len())), "{event}");
        assert!(event.ends_with("}\n\n"), "{event}");
    }
    assert_eq!(arrivals.len(), 2);
    assert!(arrivals[1] - arrivals[0] > Duration::from_millis(700), "{arrivals:?}");
    assert!(arrivals[0] < Duration::from_millis(900), "{arrivals:?}");
}

#[tokio::test]
async fn a_download_matches_its_checksum_in_header_and_trailer() {
    let service = running(Kind::Files).await;
    for protocol in [Protocol::Http1, Protocol::Http2] {
        for trailers in [false, true] {
            let mut request = get("/300KiB");
            if trailers {
                request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
            }
            let mut reply = ask(&service, protocol, request).await;
            assert_eq!(reply.header("content-length").is_some(), !trailers);
            let ahead = reply.header(CHECKSUM_HEADER).unwrap().to_owned();
            let (mut bytes, mut hash, mut behind) = (0, Sha256::new(), None);
            while let Some(frame) = reply.frame().await.unwrap() {
                match frame.into_data() {
                    Ok(data) => {
                        bytes += data.len();
                        hash.update(&data);
                    }
                    Err(frame) => behind = Some(frame.into_trailers().unwrap()[CHECKSUM_HEADER].clone()),
                }
            }
            assert_eq!(bytes, 300 << 10);
            assert_eq!(hexadecimal(&hash.finalize()), ahead);
            assert_eq!(behind, trailers.then(|| HeaderValue::from_str(&ahead).unwrap()));
        }
    }
}

#[tokio::test]
async fn head_says_what_get_would_send() {
    let service = running(Kind::Files).await;
    let mut request = get("/70000");
    *request.method_mut() = http::Method::HEAD;
    let reply = ask(&service, Protocol::Http1, request).await;
    assert_eq!(reply.header("content-length"), Some("70000"));
    assert_eq!(reply.header(CHECKSUM_HEADER), Some(checksum(70_000).as_str()));
    assert_eq!(reply.text().await.unwrap(), "");
}

#[tokio::test]
async fn an_upload_is_counted_and_hashed() {
    let service = running(Kind::Files).await;
    let bytes: Bytes = pattern(200_000).flatten().collect();
    let answer = json(ask(&service, Protocol::Http1, put("/", bytes)).await).await;
    assert_eq!(answer["bytes"], 200_000);
    assert_eq!(answer["sha256"], checksum(200_000).as_str());
}

#[tokio::test]
async fn a_cut_upload_is_never_reported_complete() {
    for kind in [Kind::Files, Kind::Echo] {
        let service = running(kind).await;
        let mut stream = TcpStream::connect(service.address()).await.unwrap();
        stream
            .write_all(b"PUT / HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\nonly a part")
            .await
            .unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = String::new();
        timeout(BOUND, stream.read_to_string(&mut answer)).await.unwrap().unwrap();
        assert!(!answer.contains("sha256"), "{answer}");
    }
}

#[tokio::test]
async fn nonsense_gets_a_clear_refusal() {
    let service = running(Kind::Files).await;
    for target in ["/", "/ten", "/10MB", "/1025GiB", "/-1", "/1/2"] {
        let reply = ask(&service, Protocol::Http1, get(target)).await;
        assert_eq!(reply.head.status, StatusCode::BAD_REQUEST, "{target}");
        assert!(reply.text().await.unwrap().contains("GET /10MiB"));
    }
    let mut request = get("/10");
    *request.method_mut() = http::Method::DELETE;
    let reply = ask(&service, Protocol::Http1, request).await;
    assert_eq!(reply.head.status, StatusCode::METHOD_NOT_ALLOWED);
    assert_eq!(reply.header("allow"), Some("GET, HEAD, POST, PUT"));
    let clock = running(Kind::Clock).await;
    let reply = ask(&clock, Protocol::Http1, get("/?ticks=many")).await;
    assert_eq!(reply.head.status, StatusCode::BAD_REQUEST);
    let chat = running(Kind::Chat).await;
    let reply = ask(&chat, Protocol::Http1, get("/")).await;
    assert_eq!(reply.head.status, StatusCode::UPGRADE_REQUIRED);
}

#[tokio::test]
async fn chat_says_texts_and_binaries_back() {
    let service = running(Kind::Chat).await;
    let stream = TcpStream::connect(service.address()).await.unwrap();
    let url = format!("ws://{}/", service.address());
    let (mut socket, response) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    assert_eq!(response.headers()[SERVED_BY], "berlin-1");
    for message in [Message::text("gr\u{fc}\u{df} Gott"), Message::binary(vec![0, 255, 7]), Message::text("")]
    {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(timeout(BOUND, socket.next()).await.unwrap().unwrap().unwrap(), message);
    }
    socket.close(None).await.unwrap();
    while let Some(rest) = timeout(BOUND, socket.next()).await.unwrap() {
        assert!(rest.unwrap().is_close());
    }
}

async fn farewell_of(service: &RunningService, target: &str) -> impl Future<Output = CloseFrame> + use<> {
    let stream = TcpStream::connect(service.address()).await.unwrap();
    let url = format!("ws://{}{target}", service.address());
    let (mut socket, _) = tokio_tungstenite::client_async(url, stream).await.unwrap();
    async move {
        let Message::Close(Some(farewell)) = timeout(BOUND, socket.next()).await.unwrap().unwrap().unwrap()
        else {
            panic!("no close");
        };
        while timeout(BOUND, socket.next()).await.unwrap().is_some() {}
        farewell
    }
}

#[tokio::test]
async fn chat_closes_when_its_time_is_up() {
    let service = running(Kind::Chat).await;
    let farewell = farewell_of(&service, "/?seconds=0").await.await;
    assert_eq!(farewell.reason.as_str(), "time is up at berlin-1");
}

#[tokio::test]
async fn shutdown_ends_clocks_and_chats_cleanly() {
    let (clock, chat) = (running(Kind::Clock).await, running(Kind::Chat).await);
    let mut ticks = ask(&clock, Protocol::Http1, get("/")).await;
    assert!(ticks.frame().await.unwrap().is_some());
    let farewell = tokio::spawn(farewell_of(&chat, "/").await);
    timeout(BOUND, async { tokio::join!(clock.shutdown(), chat.shutdown()) }).await.unwrap();
    assert!(ticks.frame().await.unwrap().is_none(), "the clock's stream was cut");
    assert_eq!(farewell.await.unwrap().reason.as_str(), "berlin-1 is stopping");
}

#[tokio::test]
async fn shutdown_does_not_wait_for_a_reader_that_sleeps() {
    let service = running(Kind::Files).await;
    let reply = ask(&service, Protocol::Http1, get("/1024GiB")).await;
    timeout(BOUND, service.shutdown()).await.unwrap();
    drop(reply);
}

#[tokio::test]
async fn an_address_in_use_is_named() {
    let service = running(Kind::Echo).await;
    let node = NodeName::new("berlin-1").unwrap();
    let error = start(Kind::Clock, &node, service.address()).await.unwrap_err();
    assert_eq!(error.to_string(), format!("can't listen on {} for the service clock", service.address()));
}

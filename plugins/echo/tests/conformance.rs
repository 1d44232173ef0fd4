//! The promises of every plugin and every connector, held by this one; and what only this protocol promises.

use std::net::SocketAddr;

use bytes::Bytes;
use edgeway_echo::{EchoConnectorFactory, EchoPluginFactory};
use edgeway_plugin::{
    Body, FaultCode, Response,
    conformance::{
        self, Behaviour, Driver, End, FakeHub, LocalService, Outcome, PluginWorld, ServiceBehaviour,
        StartedService, json,
    },
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A caller of the plugin.
struct Lines;

impl Driver for Lines {
    async fn exchange(&self, address: SocketAddr, request: Bytes) -> Outcome {
        let stream = match TcpStream::connect(address).await {
            Ok(stream) => stream,
            Err(error) => return Outcome::Refused(error.to_string()),
        };
        let (mut reader, mut writer) = stream.into_split();
        let send = async {
            // The plugin may close before it has read all; what it said is read below.
            let _ = writer.write_all(&request).await;
            let _ = writer.write_all(b"\n").await;
        };
        let receive = async {
            let mut answer = Vec::new();
            let mut buffer = vec![0; 64 * 1024];
            while !answer.ends_with(b"\n") {
                match reader.read(&mut buffer).await {
                    Ok(read) if read > 0 => answer.extend_from_slice(&buffer[..read]),
                    _ => return Outcome::Truncated,
                }
            }
            answer.pop();
            match answer.strip_prefix(b"fault: ") {
                Some(code) => Outcome::Refused(String::from_utf8_lossy(code).into_owned()),
                None => Outcome::Complete(answer.into()),
            }
        };
        tokio::join!(send, receive).1
    }

    async fn leave_midway(&self, address: SocketAddr, request: Bytes) -> bool {
        let mut stream = TcpStream::connect(address).await.expect("the plugin listens");
        stream.write_all(&request).await.expect("the plugin reads");
        true // the line has no end
    }
}

#[tokio::test]
async fn the_plugin_keeps_every_promise() {
    let section = json!({"listen": "127.0.0.1:0", "maxLine": "2MiB"});
    let verdict = conformance::plugin::<EchoPluginFactory, _>(section, Lines).await;
    assert!(verdict.skipped.is_empty(), "{verdict}");
}

/// The connector needs no service, so there is none that could stall or break off.
struct NoService;

impl LocalService for NoService {
    const PIPES: bool = true;

    async fn start(&self, behaviour: ServiceBehaviour) -> Option<StartedService> {
        (behaviour == ServiceBehaviour::Echo).then(|| StartedService::new(json!({}), ()))
    }
}

#[tokio::test]
async fn the_connector_keeps_every_promise_that_concerns_it() {
    let verdict = conformance::connector::<EchoConnectorFactory, _>(NoService).await;
    for promise in [
        "a section with an unknown field is refused",
        "an answer arrives as the service gave it",
        "an answer flows while the request still comes",
        "a request that was cut is never passed on as complete",
        "a pipe carries all bytes both ways, and the end of each",
    ] {
        assert!(verdict.kept.contains(&promise), "{verdict}");
    }
}

async fn start(max_line: &str) -> (FakeHub<EchoPluginFactory>, TcpStream) {
    let section = json!({"listen": "127.0.0.1:0", "maxLine": max_line});
    let hub = FakeHub::load(section).await.expect("a valid section");
    let caller = TcpStream::connect(hub.start().await.expect("it starts")).await.expect("it listens");
    (hub, caller)
}

async fn say(caller: &mut TcpStream, line: &str, length: usize) -> String {
    caller.write_all(line.as_bytes()).await.expect("it reads");
    let mut answer = vec![0; length];
    caller.read_exact(&mut answer).await.expect("an answer of this length");
    String::from_utf8(answer).expect("text")
}

#[tokio::test]
async fn every_line_of_a_connection_is_a_call_that_routes_can_match() {
    let (hub, mut caller) = start("64KiB").await;
    assert_eq!(say(&mut caller, "one\n", 4).await, "one\n");
    assert_eq!(say(&mut caller, "two\r\nthree\n", 10).await, "two\nthree\n");
    let calls = hub.edge().calls();
    assert_eq!(calls.len(), 3);
    for call in calls {
        assert_eq!(call.request.method(), "POST");
        assert_eq!(call.request.uri(), "/");
        assert_eq!(call.request.headers()["host"], "echo");
        assert_eq!((call.upload.end, call.answer.end), (End::Complete, End::Complete));
    }
    hub.stop().await.expect("it stops");
}

#[tokio::test]
async fn a_fault_is_a_line_and_the_next_line_is_served() {
    let (hub, mut caller) = start("64KiB").await;
    hub.edge().behave(Behaviour::Fault(FaultCode::NodeOffline));
    assert_eq!(say(&mut caller, "one\n", 20).await, "fault: node_offline\n");
    hub.edge().behave(Behaviour::Echo);
    assert_eq!(say(&mut caller, "one\n", 4).await, "one\n");
}

#[tokio::test]
async fn a_line_over_the_limit_is_a_fault_that_makes_no_call_and_the_next_line_is_served() {
    let (hub, mut caller) = start("4B").await;
    let fault = "fault: request_too_large\n";
    assert_eq!(say(&mut caller, "fives\n", fault.len()).await, fault);
    let long = format!("{}\n", "x".repeat(1_000_000));
    assert_eq!(say(&mut caller, &long, fault.len()).await, fault);
    assert!(hub.edge().calls().is_empty());
    assert_eq!(say(&mut caller, "four\n", 5).await, "four\n");
}

#[tokio::test]
async fn an_answer_that_is_no_line_has_no_end() {
    let (hub, mut caller) = start("64KiB").await;
    hub.edge().answer_with(|_, _| async { Ok(Response::new(Body::full("two\nlines"))) });
    caller.write_all(b"one\n").await.expect("it reads");
    let mut answer = String::new();
    caller.read_to_string(&mut answer).await.expect("the connection closes");
    assert_eq!(answer, "");
}

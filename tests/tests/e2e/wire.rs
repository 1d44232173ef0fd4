//! Bad input on the wire: a hub or an agent that breaks the protocol harms its own call at most, and is told so. The
//! peer here has a valid certificate: nobody else gets that far.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::{BufMut, Bytes, BytesMut};
use edgeway_proto::{
    Fault, FaultCode, HubName, ServiceName, TrustDomain,
    frame::{FrameLimits, FrameReader, FrameType, put_frame, put_message},
    head::{CallInfo, HeadLimits, decode_reply, put_http_head, put_reply_head, put_trailers},
    wire,
};
use edgeway_tunnel::{
    call,
    identity::Identity,
    link::{Link, RecvHalf, SendHalf, StreamEnd},
    session::{Control, accept_session, open_session, welcome},
    transport::{Budgets, Dialler, Listener},
};
use http::{HeaderMap, Request, StatusCode};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    raw::{self, Caller, contains},
    service::Service,
    world::{ECHO, PATIENCE, Plan, TRUST_DOMAIN, World, http as http_service, within},
};

/// How a peer goes on after its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Then {
    Finish,
    Reset,
    /// Says nothing more and keeps the stream.
    Wait,
}

fn frame(kind: FrameType, payload: &[u8]) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_frame(&mut out, kind, payload);
    out.to_vec()
}

fn reply(status: u16, headers: &[(&'static str, &str)]) -> Vec<u8> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.append(*name, value.parse().expect("a value"));
    }
    let mut out = BytesMut::new();
    put_reply_head(&mut out, StatusCode::from_u16(status).expect("a status"), &map, true);
    out.to_vec()
}

/// A reply's head that no limit of a sender held back.
fn wire_reply(status: u32, headers: Vec<wire::Header>) -> Vec<u8> {
    let mut out = BytesMut::new();
    put_message(&mut out, FrameType::Head, &wire::ReplyHead { status, headers, no_body: false });
    out.to_vec()
}

fn header(name: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) -> wire::Header {
    wire::Header { name: name.into().into(), value: value.into().into() }
}

fn end() -> Vec<u8> {
    let mut out = BytesMut::new();
    put_trailers(&mut out, None);
    out.to_vec()
}

/// A frame's header that declares 2^62 - 1 bytes.
fn endless(kind: u8) -> Vec<u8> {
    let mut out = vec![kind];
    out.put_u64(u64::MAX);
    out
}

/// Frames of types that nobody knows yet.
fn unknown() -> Vec<u8> {
    vec![0x3f, 0x03, 1, 2, 3, 0xfe, 0x00, 0x05, 0x01, 0xff]
}

/// An agent that answers every call with bytes of the test's choice.
struct Rogue {
    says: Arc<Mutex<(Vec<u8>, Then)>>,
    _task: AbortOnDropHandle<()>,
}

impl Rogue {
    async fn join(world: &World) -> Self {
        let dialler =
            Dialler::bind(world.node_identity("rogue-1"), &Budgets::default(), false).expect("a socket");
        let (link, _) =
            within("the handshake", dialler.dial(world.tunnel, "localhost")).await.expect("a link");
        let hello = wire::Hello {
            services: vec![wire::Service { name: "rogue".into(), kind: "http".into() }],
            max_calls: 100,
            labels: BTreeMap::new(),
            agent_version: "rogue".into(),
        };
        let (control, _) = within("the session", open_session(&link, &hello)).await.expect("a session");
        let says = Arc::new(Mutex::new((Vec::new(), Then::Finish)));
        let task = tokio::spawn(answer(dialler, link, control, says.clone()));
        world
            .until("the rogue is there", |nodes| {
                nodes.iter().any(|node| node.connected && node.name.as_str() == "rogue-1")
            })
            .await;
        Self { says, _task: AbortOnDropHandle::new(task) }
    }

    fn says(&self, bytes: &[&[u8]], then: Then) {
        *self.says.lock().expect("no panic") = (bytes.concat(), then);
    }
}

async fn answer(_dialler: Dialler, link: Link, _control: Control, says: Arc<Mutex<(Vec<u8>, Then)>>) {
    let mut kept: Vec<(SendHalf, RecvHalf)> = Vec::new();
    while let Ok((mut send, mut recv)) = link.accept().await {
        let _ = recv.read().await;
        let (bytes, then) = says.lock().expect("no panic").clone();
        let _ = send.write(Bytes::from(bytes)).await;
        match then {
            Then::Finish => send.finish(),
            Then::Reset => {
                // What was written is to arrive first: a reset overtakes it.
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
                send.reset(FaultCode::Internal);
            }
            Then::Wait => {}
        }
        kept.push((send, recv));
    }
}

async fn assert_serving(world: &World) {
    let answer = raw::post(world.rest, "/nodes/berlin-1/echo", b"still here").await;
    assert_eq!((answer.status, answer.text()), (200, "still here"));
}

#[tokio::test]
async fn frames_of_unknown_types_are_skipped_wherever_they_are() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let rogue = Rogue::join(&world).await;
    let data = frame(FrameType::Data, b"hello");
    rogue.says(
        &[&unknown(), &reply(200, &[]), &unknown(), &data, &unknown(), &data, &unknown(), &end()],
        Then::Finish,
    );
    let answer = raw::get(world.rest, "/any/rogue").await;
    assert_eq!((answer.status, answer.text(), answer.complete), (200, "hellohello", true));
    world.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_breaks_the_protocol_before_a_head_gives_its_caller_a_fault() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let rogue = Rogue::join(&world).await;
    let many = (0..10_000).map(|at| header(format!("x-{at}"), "y")).collect();
    let cases: Vec<(&str, Vec<u8>)> = vec![
        ("nothing", vec![]),
        ("half a header", vec![0x01]),
        ("half a head", reply(200, &[("x", "y")])[..5].to_vec()),
        ("DATA before HEAD", frame(FrameType::Data, b"x")),
        ("TRAILERS before HEAD", end()),
        ("Hello on a call stream", frame(FrameType::Hello, b"")),
        ("no protobuf", frame(FrameType::Head, &[0xff; 40])),
        ("an empty head", frame(FrameType::Head, b"")),
        ("status 99", wire_reply(99, vec![])),
        ("status 1000", wire_reply(1000, vec![])),
        ("status 2^32 - 1", wire_reply(u32::MAX, vec![])),
        ("2^62 bytes of HEAD", endless(0x01)),
        ("2^62 bytes of DATA", endless(0x02)),
        ("2^62 bytes of FAULT", endless(0x04)),
        ("2^62 bytes of an unknown frame", endless(0x3f)),
        ("10,000 headers", wire_reply(200, many)),
        ("a header of 1 MB", wire_reply(200, vec![header("x", vec![b'y'; 1 << 20])])),
        ("a header of 100 KB", wire_reply(200, vec![header("x", vec![b'y'; 100_000])])),
        ("a name that is none", wire_reply(200, vec![header("x y", "z")])),
        ("a value that splits", wire_reply(200, vec![header("x", "y\r\nset-cookie: z")])),
        ("interim heads for ever", reply(103, &[]).repeat(1000)),
    ];
    for (what, bytes) in cases {
        for then in [Then::Finish, Then::Reset] {
            rogue.says(&[&bytes], then);
            let answer = raw::get(world.rest, "/any/rogue").await;
            assert!(matches!(answer.status, 500 | 502), "{what}, {then:?}: {answer:?}");
            assert_ne!(answer.header("edgeway-fault"), "", "{what}, {then:?}");
        }
    }
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_breaks_off_after_the_head_never_completes_an_answer() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let rogue = Rogue::join(&world).await;
    let data = frame(FrameType::Data, b"hello");
    let chunked = reply(200, &[]);
    let known = reply(200, &[("content-length", "1000")]);
    let mut fault = BytesMut::new();
    put_message(&mut fault, FrameType::Fault, &Fault::new(FaultCode::ServiceReset).to_wire());
    for head in [&chunked, &known] {
        let cases: Vec<(&str, Vec<u8>, Then)> = vec![
            ("an end without TRAILERS", vec![], Then::Finish),
            ("an end without TRAILERS after DATA", data.clone(), Then::Finish),
            ("an end within DATA", data[..4].to_vec(), Then::Finish),
            ("a reset", vec![], Then::Reset),
            ("a reset after DATA", data.clone(), Then::Reset),
            ("a reset within DATA", data[..4].to_vec(), Then::Reset),
            ("FAULT after DATA", [&data[..], &fault].concat(), Then::Finish),
            ("HEAD twice", [&data[..], &chunked].concat(), Then::Finish),
            ("2^62 bytes of DATA", endless(0x02), Then::Wait),
            ("2^62 bytes of TRAILERS", endless(0x03), Then::Wait),
            ("TRAILERS that are none", frame(FrameType::Trailers, &[0xff; 9]), Then::Finish),
            ("Welcome in a body", frame(FrameType::Welcome, b""), Then::Finish),
        ];
        for (what, bytes, then) in cases {
            rogue.says(&[head, &bytes], then);
            let answer = raw::get(world.rest, "/any/rogue").await;
            // Whether the head was out already is a matter of time.
            if answer.status == 200 {
                assert!(!answer.complete, "{what}: reported complete: {answer:?}");
            } else {
                assert_ne!(answer.header("edgeway-fault"), "", "{what}: {answer:?}");
            }
        }
    }
    // Less than was declared is no end either.
    rogue.says(&[&known, &data, &end()], Then::Finish);
    let answer = raw::get(world.rest, "/any/rogue").await;
    assert!(answer.status != 200 || !answer.complete, "5 of 1000 bytes were reported complete");
    // More than was declared never reaches the caller as a second answer.
    let short = reply(200, &[("content-length", "2")]);
    let more = frame(FrameType::Data, b"okHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n");
    rogue.says(&[&short, &more, &end()], Then::Finish);
    let mut caller = Caller::connect(world.rest).await;
    caller.send("GET /any/rogue HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
    if let Some(answer) = caller.answer().await {
        assert!(answer.status != 200 || answer.body == b"ok" || !answer.complete, "{answer:?}");
    }
    caller.send("GET /nodes/berlin-1/echo HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n").await;
    let rest = caller.rest().await;
    assert!(!contains(&rest, b"content-length: 0\r\n\r\nHTTP"), "{:?}", String::from_utf8_lossy(&rest));
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn faults_that_an_agent_makes_up_are_faults_and_nothing_else() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let rogue = Rogue::join(&world).await;
    for (fault, status, code) in [
        (wire::Fault { code: 7, ..Default::default() }, 502, "service_refused"),
        (wire::Fault { code: 0, ..Default::default() }, 500, "internal"),
        (wire::Fault { code: u32::MAX, ..Default::default() }, 500, "internal"),
        (
            wire::Fault { code: 7, detail: "x\r\nset-cookie: y\0".into(), ..Default::default() },
            502,
            "service_refused",
        ),
        (wire::Fault { code: 7, detail: "é".repeat(100_000), ..Default::default() }, 502, "service_refused"),
        (
            wire::Fault {
                code: 6,
                retry_after_ms: Some(u64::MAX),
                since_unix_ms: Some(u64::MAX),
                ..Default::default()
            },
            503,
            "overloaded",
        ),
    ] {
        let mut out = BytesMut::new();
        put_message(&mut out, FrameType::Fault, &fault);
        rogue.says(&[&out], Then::Finish);
        let answer = raw::get(world.rest, "/any/rogue").await;
        answer.assert_fault(status, code);
        assert_eq!(answer.header("set-cookie"), "");
        assert!(answer.body.len() < 4096, "{} bytes", answer.body.len());
    }
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn an_agent_that_stalls_holds_up_its_own_call_alone() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let rogue = Rogue::join(&world).await;
    for bytes in [vec![], vec![0x01], reply(200, &[])[..3].to_vec()] {
        rogue.says(&[&bytes], Then::Wait);
        let mut caller = Caller::connect(world.rest).await;
        caller.send("GET /any/rogue HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
        for _ in 0..20 {
            assert_serving(&world).await;
        }
    }
    world.until("no call is left in flight", |nodes| nodes.iter().all(|node| node.in_flight == 0)).await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_session_that_opens_with_garbage_is_closed_with_a_reason() {
    let world = Plan::default().node("berlin-1", ECHO).start().await;
    let labels: BTreeMap<String, String> = (0..10_000).map(|at| (format!("l{at}"), "x".into())).collect();
    let mut flood = BytesMut::new();
    put_message(&mut flood, FrameType::Hello, &wire::Hello { labels, ..Default::default() });
    let mut nameless = BytesMut::new();
    let service = wire::Service { name: "Not A Name".into(), kind: "http".into() };
    put_message(
        &mut nameless,
        FrameType::Hello,
        &wire::Hello { services: vec![service], ..Default::default() },
    );
    for bytes in [
        frame(FrameType::Data, b"x"),
        frame(FrameType::Head, b""),
        frame(FrameType::Hello, &[0xff; 9]),
        endless(0x10),
        flood.to_vec(),
        nameless.to_vec(),
    ] {
        let dialler =
            Dialler::bind(world.node_identity("rogue-1"), &Budgets::default(), false).expect("a socket");
        let (link, _) =
            within("the handshake", dialler.dial(world.tunnel, "localhost")).await.expect("a link");
        let (mut send, _recv) = link.open().await.expect("a stream");
        send.write(bytes.clone().into()).await.expect("sent");
        let end = within("the hub closes", link.closed()).await;
        assert_eq!(end.name(), "protocol_error", "{bytes:?}: {end}");
    }
    assert!(world.hub().nodes().iter().all(|node| node.name.as_str() == "berlin-1" || !node.connected));
    assert_serving(&world).await;
    world.shutdown().await;
}

/// A hub of the test's making, and the link of the agent that dialled it.
struct RogueHub {
    link: Link,
    _control: Control,
    _listener: Listener,
}

impl RogueHub {
    /// Starts an agent with these services, which takes this for its hub.
    async fn start(world: &World, services: &str) -> (Self, edge_agent::RunningAgent) {
        let directory = world.path("rogue-hub");
        let name = HubName::new("rogue").expect("a name");
        let issued = world.authority.issue_hub(&name, &["127.0.0.1".into()]).expect("issued");
        crate::world::write_identity(
            &directory,
            "hub",
            &world.authority,
            &issued.certificate_pem,
            &issued.key_pem,
        );
        let domain = TrustDomain::new(TRUST_DOMAIN).expect("a domain");
        let identity = Arc::new(Identity::load_hub(&directory, &domain).expect("an identity").0);
        let listener =
            Listener::bind(([127, 0, 0, 1], 0).into(), identity, &Budgets::default()).expect("a port");
        let address = listener.local_address().expect("an address");
        let agent = world.start_agent_at(address, "berlin-1", services, "").await;
        let opened = async {
            let handshake = listener.accept().await.expect("the agent dials");
            let (link, _) = handshake.finish().await.expect("a link");
            let (mut control, _) = accept_session(&link).await.expect("a session");
            let greeting = wire::Welcome { hub: "rogue".into(), hub_version: "0".into(), generation: 1 };
            welcome(&mut control, &greeting).await.expect("sent");
            (link, control)
        };
        let (link, control) = within("the agent dials", opened).await;
        (Self { link, _control: control, _listener: listener }, agent)
    }

    /// Opens a stream, says these bytes, and returns all that comes back.
    async fn say(&self, bytes: &[u8], then: Then) -> Result<Vec<u8>, StreamEnd> {
        let (mut send, mut recv) = self.link.open().await.expect("a stream");
        let _ = send.write(Bytes::copy_from_slice(bytes)).await;
        match then {
            Then::Finish => send.finish(),
            Then::Reset => send.reset(FaultCode::Cancelled),
            Then::Wait => {}
        }
        let mut said = Vec::new();
        let whole = within("the agent answers", async {
            while let Some(bytes) = recv.read().await? {
                said.extend_from_slice(&bytes);
            }
            Ok(())
        })
        .await;
        whole.map(|()| said)
    }

    /// The agent answers an honest call on the same session.
    async fn assert_serving(&self) {
        let stream = self.link.open().await.expect("a stream");
        let mut request = Request::new(edgeway_plugin::Body::empty());
        *request.uri_mut() = "/".parse().expect("a path");
        request.headers_mut().insert("host", "e2e".parse().expect("a value"));
        let info = info("echo");
        let answer = call::call(&self.link, stream, &info, request, HeadLimits::default());
        assert_eq!(within("an answer", answer).await.expect("an answer").status(), 200);
    }
}

fn info(service: &str) -> CallInfo {
    CallInfo {
        id: 1,
        parent: 0,
        plugin: "test".into(),
        route: "test".into(),
        service: ServiceName::new(service).expect("a name"),
        remaining_ms: Some(PATIENCE.as_millis() as u64),
        priority: 0,
    }
}

fn call_head(service: &str, has_body: bool) -> Vec<u8> {
    let request = Request::post("/").header("host", "e2e").body(()).expect("a request");
    let mut out = BytesMut::new();
    put_http_head(&mut out, &info(service), &request.into_parts().0, has_body);
    out.to_vec()
}

/// A call's head that no limit of a sender held back.
fn wire_call(service: &str, target: Vec<u8>, headers: Vec<wire::Header>) -> Vec<u8> {
    let http = wire::HttpHead { method: "GET".into(), target: target.into(), headers, no_body: true };
    let head = wire::CallHead {
        service: service.into(),
        kind: Some(wire::call_head::Kind::Http(http)),
        ..Default::default()
    };
    let mut out = BytesMut::new();
    put_message(&mut out, FrameType::Head, &head);
    out.to_vec()
}

/// The fault, if that is all that was said.
fn fault_in(said: &[u8]) -> Option<Fault> {
    let mut reader = FrameReader::new(FrameLimits::default());
    reader.push(Bytes::copy_from_slice(said));
    let frame = reader.next().ok()??;
    let message: wire::Fault = prost::Message::decode(frame.payload).ok()?;
    (frame.kind == FrameType::Fault).then(|| Fault::from_wire(message))
}

#[tokio::test]
async fn a_hub_that_breaks_the_protocol_is_told_and_runs_no_service() {
    let mirror = Service::mirror().await;
    let world = Plan::default().start().await;
    let services = [ECHO.to_owned(), http_service("mirror", mirror.address)].concat();
    let (hub, agent) = RogueHub::start(&world, &services).await;
    let many = (0..10_000).map(|at| header(format!("x-{at}"), "y")).collect();
    let cases: Vec<(&str, Vec<u8>, &str)> = vec![
        ("DATA before HEAD", frame(FrameType::Data, b"x"), "bad_request"),
        ("TRAILERS before HEAD", end(), "bad_request"),
        ("no protobuf", frame(FrameType::Head, &[0xff; 40]), "bad_request"),
        ("an empty head", frame(FrameType::Head, b""), "bad_request"),
        ("2^62 bytes of HEAD", endless(0x01), "bad_request"),
        ("2^62 bytes of an unknown frame", endless(0x3f), "bad_request"),
        ("10,000 headers", wire_call("mirror", b"/".into(), many), "bad_request"),
        (
            "1 MB of header",
            wire_call("mirror", b"/".into(), vec![header("x", vec![b'y'; 1 << 20])]),
            "bad_request",
        ),
        ("1 MB of target", wire_call("mirror", vec![b'/'; 1 << 20], vec![]), "bad_request"),
        (
            "100 KB of header",
            wire_call("mirror", b"/".into(), vec![header("x", vec![b'y'; 100_000])]),
            "bad_request",
        ),
        ("a target that splits", wire_call("mirror", b"/ HTTP/1.1\r\nx: y".into(), vec![]), "bad_request"),
        ("a service that is none", wire_call("../etc", b"/".into(), vec![]), "bad_request"),
        ("a service that is not here", wire_call("nothing", b"/".into(), vec![]), "unknown_service"),
    ];
    for (what, bytes, code) in cases {
        let said = hub.say(&bytes, Then::Finish).await.unwrap_or_else(|end| panic!("{what}: {end:?}"));
        let fault = fault_in(&said).unwrap_or_else(|| panic!("{what}: {:?}", String::from_utf8_lossy(&said)));
        assert_eq!(fault.code().name(), code, "{what}: {fault}");
    }
    for bytes in [vec![], vec![0x01], call_head("mirror", true)[..9].to_vec()] {
        for then in [Then::Finish, Then::Reset] {
            // Told or reset: nothing runs, and nothing hangs.
            let said = hub.say(&bytes, then).await;
            assert!(said.is_err() || fault_in(&said.unwrap_or_default()).is_some(), "{bytes:?}, {then:?}");
        }
    }
    assert_eq!(mirror.requests(), 0, "a malformed call reached the service");
    hub.assert_serving().await;
    agent.shutdown().await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_request_that_a_hub_cuts_in_any_state_never_completes_at_the_service() {
    let mirror = Service::mirror().await;
    let world = Plan::default().start().await;
    let services = [ECHO.to_owned(), http_service("mirror", mirror.address)].concat();
    let (hub, agent) = RogueHub::start(&world, &services).await;
    let head = call_head("mirror", true);
    let data = frame(FrameType::Data, b"hello");
    for (what, bytes, then) in [
        ("a reset after HEAD", vec![], Then::Reset),
        ("an end after HEAD", vec![], Then::Finish),
        ("a reset after DATA", data.clone(), Then::Reset),
        ("an end without TRAILERS", data.clone(), Then::Finish),
        ("an end within DATA", data[..4].to_vec(), Then::Finish),
        ("HEAD twice", [&data[..], &head].concat(), Then::Finish),
        ("2^62 bytes of DATA", endless(0x02), Then::Wait),
        ("TRAILERS that are none", frame(FrameType::Trailers, &[0xff; 9]), Then::Finish),
    ] {
        match hub.say(&[&head[..], &bytes].concat(), then).await {
            Err(_) => {}
            Ok(said) if fault_in(&said).is_some() => {}
            Ok(said) => {
                let mut reader = FrameReader::new(FrameLimits::default());
                reader.push(said.into());
                let frame = reader.next().expect("frames").expect("a frame");
                let (status, ..) = decode_reply(frame.payload, &HeadLimits::default()).expect("a head");
                panic!("{what}: the service answered {status} to a request that was cut");
            }
        }
    }
    let whole = hub.say(&[&head[..], &data, &end()].concat(), Then::Finish).await.expect("an answer");
    assert!(contains(&whole, b"POST / HTTP/1.1") && contains(&whole, b"hello"), "an honest call is answered");
    hub.assert_serving().await;
    agent.shutdown().await;
    world.shutdown().await;
}

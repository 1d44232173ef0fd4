//! Bad input from callers: each gets the status of C6 or a refusal in HTTP's own terms, and everything goes on.

use std::time::{Duration, Instant};

use crate::{
    raw::{self, Answer, Caller},
    service::Service,
    world::{ECHO, Plan, World, http, within},
};

async fn world_of_mirror() -> (World, Service) {
    let mirror = Service::mirror().await;
    let services = [ECHO.to_owned(), http("mirror", mirror.address)].concat();
    (Plan::default().node("berlin-1", services).start().await, mirror)
}

/// Sends bytes and returns the first answer, if there is one before the connection ends.
async fn first(world: &World, bytes: impl AsRef<[u8]>) -> Option<Answer> {
    let mut caller = Caller::connect(world.rest).await;
    caller.send(bytes).await;
    caller.answer().await
}

async fn assert_serving(world: &World) {
    let answer = raw::post(world.rest, "/any/echo", b"still here").await;
    assert_eq!((answer.status, answer.text()), (200, "still here"));
}

#[tokio::test]
async fn smuggling_shapes_are_refused_and_reach_no_service() {
    let (world, mirror) = world_of_mirror().await;
    let smuggled = "GET /any/mirror/smuggled HTTP/1.1\r\nHost: e2e\r\n\r\n";
    for headers in [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 99999999999999999999999\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: gzip\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding:\x0bchunked\r\n",
        " Transfer-Encoding: chunked\r\n",
        "X: y\r\n folded: z\r\n",
        "X: a\rb\r\n",
        "X: a\0b\r\n",
        "X y: z\r\n",
        ": empty\r\n",
    ] {
        let mut caller = Caller::connect(world.rest).await;
        caller
            .send(format!("POST /any/mirror/ HTTP/1.1\r\nHost: e2e\r\n{headers}\r\n0\r\n\r\n{smuggled}"))
            .await;
        match caller.answer().await {
            None => {}
            Some(answer) => assert_eq!(answer.status, 400, "{headers:?}: {answer:?}"),
        }
        let rest = within("the connection is closed", caller.rest()).await;
        assert!(
            !raw::contains(&rest, b"HTTP/1.1 200"),
            "{headers:?} went on: {:?}",
            String::from_utf8_lossy(&rest)
        );
    }
    assert_eq!(mirror.requests(), 0, "a malformed request reached the service");
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_length_beside_chunked_counts_for_nobody() {
    let (world, mirror) = world_of_mirror().await;
    for headers in [
        "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 50\r\n",
    ] {
        let before = mirror.requests();
        let smuggled = "GET /any/mirror/smuggled HTTP/1.1\r\nHost: e2e\r\n\r\n";
        let mut caller = Caller::connect(world.rest).await;
        caller
            .send(format!("POST /any/mirror/ HTTP/1.1\r\nHost: e2e\r\n{headers}\r\n0\r\n\r\n{smuggled}"))
            .await;
        let answer = caller.answer().await.expect("an answer");
        // Refused, or taken as chunked alone and the connection closed behind it (RFC 9112, section 6.3).
        if answer.status != 400 {
            assert_eq!((answer.status, answer.header("connection")), (200, "close"));
            assert!(!answer.text().to_ascii_lowercase().contains("content-length"), "{answer:?}");
        }
        assert!(caller.rest().await.is_empty(), "what was smuggled was answered");
        assert!(mirror.requests() <= before + 1, "what was smuggled reached the service");
    }
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn garbage_and_wrong_protocols_are_refused() {
    let (world, mirror) = world_of_mirror().await;
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"\x00\x00\x00\x00",
        b"GET\r\n\r\n",
        b"GET / HTTP/9.9\r\nHost: e2e\r\n\r\n",
        b"GET /any/mirror/a b HTTP/1.1\r\nHost: e2e\r\n\r\n",
        b"GET /any/mirror/\xff\xfe\x01 HTTP/1.1\r\nHost: e2e\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\ngarbage that is no frame at all, for long enough to be read",
    ] {
        let mut caller = Caller::connect(world.rest).await;
        caller.send(bytes).await;
        // Ours is over: whoever waits for more than this gets no answer out of it.
        tokio::io::AsyncWriteExt::shutdown(&mut caller.stream).await.expect("an open socket");
        let rest = caller.rest().await;
        assert!(!raw::contains(&rest, b" 200 "), "{bytes:?}: {:?}", String::from_utf8_lossy(&rest));
    }
    assert_eq!(mirror.requests(), 0);
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn requests_that_http_forbids_are_bad_requests() {
    let (world, mirror) = world_of_mirror().await;
    for request in [
        "GET /any/mirror/ HTTP/1.1\r\n\r\n",
        "GET /any/mirror/ HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
        "GET /any/mirror/ HTTP/1.1\r\nHost: a b\r\n\r\n",
    ] {
        let answer = first(&world, request).await.expect("an answer");
        assert_eq!(answer.status, 400, "{request:?}: {answer:?}");
    }
    let connect = "CONNECT db.internal:5432 HTTP/1.1\r\nHost: db.internal:5432\r\n\r\n";
    first(&world, connect).await.expect("an answer").assert_fault(501, "unsupported");
    assert_eq!(mirror.requests(), 0);
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn floods_of_headers_are_refused() {
    let (world, mirror) = world_of_mirror().await;
    let many: String = (0..10_000).map(|at| format!("x-{at}: y\r\n")).collect();
    let long = format!("x-long: {}\r\n", "y".repeat(1 << 20));
    for headers in [many, long] {
        let mut caller = Caller::connect(world.rest).await;
        // The hub may close before it has read all of it.
        let request = format!("GET /any/mirror/ HTTP/1.1\r\nHost: e2e\r\n{headers}\r\n");
        let _ = tokio::io::AsyncWriteExt::write_all(&mut caller.stream, request.as_bytes()).await;
        if let Some(answer) = caller.answer().await {
            assert!(matches!(answer.status, 400 | 431), "{answer:?}");
        }
    }
    let long_path = format!("GET /any/mirror/{} HTTP/1.1\r\nHost: e2e\r\n\r\n", "a".repeat(1 << 20));
    let mut caller = Caller::connect(world.rest).await;
    let _ = tokio::io::AsyncWriteExt::write_all(&mut caller.stream, long_path.as_bytes()).await;
    if let Some(answer) = caller.answer().await {
        assert!(matches!(answer.status, 400 | 414 | 431), "{answer:?}");
    }
    assert_eq!(mirror.requests(), 0);
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_service_that_floods_with_headers_is_a_broken_service() {
    let many: String = (0..10_000).map(|at| format!("x-{at}: y\r\n")).collect();
    let many = Service::answering(format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n")).await;
    let long = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(1 << 20));
    let long = Service::answering(long).await;
    let services = [ECHO.to_owned(), http("many", many.address), http("long", long.address)].concat();
    let world = Plan::default().node("berlin-1", services).start().await;
    for service in ["many", "long"] {
        raw::get(world.rest, &format!("/any/{service}")).await.assert_fault(502, "service_reset");
    }
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn interim_answers_for_ever_end_in_a_fault() {
    let service = Service::start(|mut connection| async move {
        connection.request().await;
        let interim = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n";
        while tokio::io::AsyncWriteExt::write_all(&mut connection.stream, interim.as_bytes()).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let services = [ECHO.to_owned(), http("chatty", service.address)].concat();
    let world = Plan::default().node("berlin-1", services).start().await;
    raw::get(world.rest, "/any/chatty").await.assert_fault(502, "service_reset");
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn a_caller_that_dawdles_over_its_head_is_let_go() {
    let plan = Plan { rest: "timeouts: {requestHead: 300ms}".into(), ..Plan::default() };
    let world = plan.node("berlin-1", ECHO).start().await;
    let began = Instant::now();
    let mut caller = Caller::connect(world.rest).await;
    caller.send("GET /any/echo HTTP/1.1\r\nHos").await;
    let rest = caller.rest().await;
    assert!(began.elapsed() < Duration::from_secs(5), "it was kept for {:?}", began.elapsed());
    assert!(!raw::contains(&rest, b" 200 "));
    assert_serving(&world).await;
    world.shutdown().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (world, _mirror) = world_of_mirror().await;
    let mut caller = Caller::connect(world.rest).await;
    let requests: String =
        (0..5).map(|at| format!("GET /any/mirror/{at} HTTP/1.1\r\nHost: e2e\r\n\r\n")).collect();
    caller.send(requests).await;
    for at in 0..5 {
        let answer = caller.answer().await.expect("an answer");
        assert!(answer.text().starts_with(&format!("GET /{at} HTTP/1.1")), "{answer:?}");
    }
    world.shutdown().await;
}

//! What is no request, what could be taken for two, and what is too much.

use std::time::{Duration, Instant};

use edgeway_plugin::conformance::FakeEdge;
use serde_json::json;
use tokio::io::AsyncWriteExt;

use crate::support::{Rest, assert_fault, read_all, read_until};

/// After all of it, the next caller is served.
async fn assert_serving(rest: Rest) {
    let answer = rest.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    rest.stop().await;
}

#[tokio::test]
async fn requests_that_two_readers_could_read_differently_are_refused() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
    let shapes = [
        "Content-Length: 5\r\nContent-Length: 6\r\n",
        "Content-Length: 5, 6\r\n",
        "Content-Length: 5, 5\r\n",
        "Content-Length: +5\r\n",
        "Content-Length: -5\r\n",
        "Content-Length: 0x5\r\n",
        "Content-Length: 5 5\r\n",
        "Content-Length: \r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length : 5\r\n",
        " Content-Length: 5\r\n",
        "X-Folded: 1\r\n Content-Length: 5\r\n",
        "X-Folded: 1\r\n\tTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Content-Length: 5\r\nTransfer-Encoding: identity\r\n",
        "X-Bare\rContent-Length: 5\r\n",
        "X-Nul: a\0b\r\n",
        "No-Colon\r\n",
        "Bad(Name): 1\r\n",
        ": empty name\r\n",
    ];
    for shape in shapes {
        let answer = rest.raw(format!("POST / HTTP/1.1\r\nHost: a\r\n{shape}\r\n{smuggled}")).await;
        assert!(answer.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{shape:?}: {answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{shape:?}: {answer}");
    }
    let answer = rest
        .raw(format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n{smuggled}"))
        .await;
    assert_fault(&answer, 501, "unsupported");
    assert!(edge.calls().is_empty(), "{:?}", edge.calls());
    assert_serving(rest).await;
}

#[tokio::test]
async fn a_length_beside_chunked_is_dropped_and_the_connection_ends_after_it() {
    // RFC 9112, section 6.3: chunked wins. hyper drops the length before anybody sees it; nothing that follows on the
    // connection is read as a request, and the tunnel frames the body anew, so nobody behind can take it otherwise.
    for lengths in [
        "Content-Length: 40\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 40\r\n",
    ] {
        let edge = FakeEdge::echo();
        let rest = Rest::start(&edge).await;
        let request = format!(
            "POST / HTTP/1.1\r\nHost: a\r\n{lengths}\r\n3\r\nabc\r\n0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
        );
        let answer = rest.raw(request).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{answer}");
        assert!(answer.ends_with("3\r\nabc\r\n0\r\n\r\n"), "{answer}");
        let calls = edge.calls();
        assert_eq!(calls.len(), 1, "{calls:?}");
        assert!(!calls[0].request.headers().contains_key("content-length"));
        assert!(!calls[0].request.headers().contains_key("transfer-encoding"));
        assert_eq!(calls[0].upload.bytes, 3);
        assert_serving(rest).await;
    }
}

#[tokio::test]
async fn a_length_given_twice_and_equal_is_one_length() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let request = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nContent-Length: 3\r\nConnection: close\r\n\r\nabc";
    let answer = rest.raw(request).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.ends_with("\r\n\r\nabc"), "{answer}");
    let calls = edge.calls();
    assert_eq!(calls[0].request.headers().get_all("content-length").iter().collect::<Vec<_>>(), ["3"]);
    assert_serving(rest).await;
}

#[tokio::test]
async fn what_follows_a_refused_request_is_not_taken_for_one() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    for refused in ["GET / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"] {
        let answer = rest.raw(format!("{refused}GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n")).await;
        assert_fault(&answer, 400, "bad_request");
        assert!(answer.contains("\r\nconnection: close\r\n"), "{answer}");
    }
    assert!(edge.calls().is_empty());
    assert_serving(rest).await;
}

#[tokio::test]
async fn requests_that_do_not_say_where_they_go_are_refused() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    for head in [
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a b\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\"b\r\n\r\n",
        "GET http://user:pass@a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        "GET * HTTP/1.1\r\nHost: a\r\n\r\n",
    ] {
        assert_fault(&rest.raw(head).await, 400, "bad_request");
    }
    let answer = rest.raw("CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n").await;
    assert_fault(&answer, 501, "unsupported");
    assert!(edge.calls().is_empty());
    assert_serving(rest).await;
}

#[tokio::test]
async fn what_is_no_http_is_refused_and_nothing_breaks() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    for garbage in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
        b"GET / HTTP/9.9\r\nHost: a\r\n\r\n",
        b"GET /\xff\xfe HTTP/1.1\r\nHost: a\r\n\r\n",
        b"G@T / HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET  /  HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nand then nothing that is a frame",
        b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0",
    ] {
        let mut stream = rest.connect().await;
        stream.write_all(garbage).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut answer = Vec::new();
        // A reset will do.
        let _ =
            crate::support::within("it ends", tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut answer))
                .await;
        assert!(!answer.starts_with(b"HTTP/1.1 2"), "{:?}", String::from_utf8_lossy(garbage));
    }
    assert!(edge.calls().is_empty());
    assert_serving(rest).await;
}

#[tokio::test]
async fn heads_over_a_limit_are_refused() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"limits": {"headerCount": 20, "headerBytes": "8KiB"}})).await;
    let lines = |count: usize| (0..count).map(|at| format!("X-{at}: 1\r\n")).collect::<String>();
    let request = |lines: &str| format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{lines}\r\n");
    assert!(rest.raw(request(&lines(18))).await.starts_with("HTTP/1.1 200 "), "twenty in all");
    for too_much in [
        lines(19),
        lines(10_000),
        format!("X-Large: {}\r\n", "x".repeat(8 << 10)),
        format!("X-Larger: {}\r\n", "x".repeat(1 << 20)),
    ] {
        let answer = rest.raw(request(&too_much)).await;
        assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    }
    let answer = rest.raw(format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(70_000))).await;
    assert!(answer.starts_with("HTTP/1.1 414 ") || answer.starts_with("HTTP/1.1 431 "), "{answer}");
    assert_eq!(edge.calls().len(), 1);
    assert_serving(rest).await;
}

#[tokio::test]
async fn a_head_that_does_not_come_to_its_end_is_not_waited_for() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"timeouts": {"requestHead": "300ms", "keepAlive": "1h"}})).await;
    for beginning in ["", "P", "GET / HT", "PRI * HTTP/2.0\r\n"] {
        let start = Instant::now();
        let mut stream = rest.connect().await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        assert_eq!(read_all(&mut stream).await, "", "{beginning:?}");
        assert!(start.elapsed() >= Duration::from_millis(290), "{beginning:?} after {:?}", start.elapsed());
    }
    // The second head of a connection has the same time, from its first byte; to be idle is no offence.
    let mut stream = rest.connect().await;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    stream.write_all(b"GET / HTTP/1.1\r\n").await.unwrap();
    let start = Instant::now();
    assert_eq!(read_all(&mut stream).await, "");
    assert!(start.elapsed() >= Duration::from_millis(290), "{:?}", start.elapsed());
    assert_serving(rest).await;
}

#[tokio::test]
async fn an_idle_connection_ends_in_order_and_a_busy_one_does_not() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"timeouts": {"keepAlive": "300ms"}})).await;
    let mut idle = rest.connect().await;
    idle.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    assert!(read_all(&mut idle).await.ends_with("\r\n\r\n"));
    // A call may take longer than a pause between calls.
    edge.behave(edgeway_plugin::conformance::Behaviour::Stall);
    let mut busy = rest.connect().await;
    busy.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    edge.wait_in_flight(1).await;
    tokio::time::sleep(Duration::from_millis(900)).await;
    edge.release();
    assert!(read_until(&mut busy, "\r\n\r\n").await.starts_with("HTTP/1.1 200 OK"));
    edge.behave(edgeway_plugin::conformance::Behaviour::Echo);
    assert_serving(rest).await;
}

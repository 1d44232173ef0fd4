//! What goes over the wire of HTTP/1.1, as it was given.

use bytes::Bytes;
use edgeway_plugin::{Body, FaultCode, Request};
use http_body::Frame;
use serde_json::json;

use crate::support::*;

/// The head that the service sees for a request; it answers 204.
async fn seen(more: serde_json::Value, request: Request<Body>) -> (String, Peer) {
    let (listener, service) = listening("http", more).await;
    let call = call(&service, request);
    let mut peer = accept(&listener).await;
    let head = peer.head().await;
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(joined(call).await.unwrap().status(), 204);
    (head, peer)
}

#[tokio::test]
async fn method_path_query_and_headers_pass_as_they_are() {
    let request = Request::builder()
        .method("PROPFIND")
        .uri("/a%2Fb/../%00/%FF?q=a+b&&x=%zz")
        .header("host", "api.example.com")
        .header("x-two", "1")
        .header("x-two", &b"\xff\xfe"[..])
        .body(Body::empty())
        .unwrap();
    let (listener, service) = http().await;
    let call = call(&service, request);
    let mut peer = accept(&listener).await;
    let expected =
        b"PROPFIND /a%2Fb/../%00/%FF?q=a+b&&x=%zz HTTP/1.1\r\nhost: api.example.com\r\nx-two: 1\r\nx-two: \xff\xfe\r\n\r\n";
    assert_eq!(peer.exactly(expected.len()).await, expected);
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(call).await.unwrap();
}

#[tokio::test]
async fn no_body_and_a_body_of_zero_stay_apart() {
    for (method, length) in [("GET", None), ("POST", None), ("POST", Some("0")), ("DELETE", Some("0"))] {
        let mut request =
            Request::builder().method(method).uri("/").header("host", "a").body(Body::empty()).unwrap();
        if let Some(length) = length {
            request.headers_mut().insert("content-length", length.parse().unwrap());
        }
        let (head, _) = seen(json!({}), request).await;
        assert_eq!(head.contains("content-length: 0\r\n"), length.is_some(), "{head}");
        assert_eq!(head.contains("content-length"), length.is_some(), "{head}");
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
}

#[tokio::test]
async fn a_known_length_is_kept_and_an_unknown_one_is_chunked() {
    for method in ["POST", "GET", "DELETE"] {
        let request = || Request::builder().method(method).uri("/").header("host", "a");
        let (head, mut peer) =
            seen(json!({}), request().header("content-length", "5").body("hello".into()).unwrap()).await;
        assert!(head.contains("content-length: 5\r\n") && !head.contains("transfer-encoding"), "{head}");
        assert_eq!(peer.exactly(5).await, b"hello");

        let (head, mut peer) = seen(json!({}), request().body("hello".into()).unwrap()).await;
        assert!(
            head.contains("transfer-encoding: chunked\r\n") && !head.contains("content-length"),
            "{head}"
        );
        assert_eq!(peer.until(b"0\r\n\r\n").await, "5\r\nhello\r\n0\r\n\r\n");
    }
}

#[tokio::test]
async fn the_host_is_rewritten_only_if_asked_for() {
    let (head, _) = seen(json!({}), get("/")).await;
    assert!(head.contains("host: api.example.com\r\n"), "{head}");
    let (head, _) = seen(json!({"host": "orders.internal"}), get("/")).await;
    assert!(head.contains("host: orders.internal\r\n") && !head.contains("api.example.com"), "{head}");
}

#[tokio::test]
async fn te_passes_and_is_named_as_of_this_hop() {
    let mut request = get("/");
    request.headers_mut().insert("te", "trailers".parse().unwrap());
    let (head, _) = seen(json!({}), request).await;
    assert!(head.contains("te: trailers\r\n") && head.contains("connection: te\r\n"), "{head}");
}

#[tokio::test]
async fn an_answer_keeps_what_is_its_own_and_loses_what_is_the_hops() {
    let (listener, service) = http().await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send(
        "HTTP/1.1 503 Later\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: timeout=5\r\n\
         set-cookie: a\r\nset-cookie: b\r\ncontent-length: 2\r\n\r\nno",
    )
    .await;
    let response = joined(call).await.unwrap();
    assert_eq!(response.status(), 503);
    // Between different names the order says nothing (RFC 9110, section 5.3); within one it does.
    let mut headers: Vec<_> =
        response.headers().iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    headers.sort_by_key(|(name, _)| *name);
    assert_eq!(headers, [("content-length", &b"2"[..]), ("set-cookie", b"a"), ("set-cookie", b"b")]);
    assert_eq!(text(response).await.unwrap(), "no");
}

#[tokio::test]
async fn the_answer_to_head_has_a_length_and_no_body() {
    let (listener, service) = http().await;
    let mut request = get("/");
    *request.method_mut() = http::Method::HEAD;
    let call = call(&service, request);
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n").await;
    let response = joined(call).await.unwrap();
    assert_eq!(response.headers()["content-length"], "1234");
    assert!(http_body::Body::is_end_stream(response.body()));
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let (listener, service) = http().await;
    let (feeder, body) = fed();
    let mut request = post(body);
    request.headers_mut().insert("trailer", "x-sum".parse().unwrap());
    let call = call(&service, request);
    let mut peer = accept(&listener).await;
    assert!(peer.head().await.contains("trailer: x-sum\r\n"));
    feeder.send(piece("abc")).await.unwrap();
    let mut trailers = http::HeaderMap::new();
    trailers.insert("x-sum", "7".parse().unwrap());
    feeder.send(Ok(Frame::trailers(trailers))).await.unwrap();
    drop(feeder);
    assert_eq!(peer.until(b"\r\n\r\n").await, "3\r\nabc\r\n0\r\nx-sum: 7\r\n\r\n");

    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-end\r\n\r\n2\r\nhi\r\n0\r\nx-end: 9\r\n\r\n").await;
    let response = joined(call).await.unwrap();
    assert_eq!(response.headers()["trailer"], "x-end");
    assert!(!response.headers().contains_key("transfer-encoding"));
    let mut body = response.into_body();
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap().into_data().unwrap(), Bytes::from("hi"));
    let trailers = in_time(body.frame()).await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(trailers["x-end"], "9");
    assert!(in_time(body.frame()).await.is_none());
}

#[tokio::test]
async fn a_service_of_http_1_0_is_answered_to_the_end_and_not_reused() {
    let (listener, service) = http().await;
    for _ in 0..2 {
        let call = call(&service, post("abc"));
        let mut peer = accept(&listener).await;
        peer.head().await;
        assert_eq!(peer.until(b"0\r\n\r\n").await, "3\r\nabc\r\n0\r\n\r\n");
        peer.send("HTTP/1.0 200 OK\r\nconnection: keep-alive\r\ncontent-length: 2\r\n\r\nok").await;
        assert_eq!(text(joined(call).await.unwrap()).await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn requests_that_could_be_understood_in_two_ways_are_refused() {
    let (_listener, service) = http().await;
    let two = |second: &str| {
        let mut request = post("abc");
        request.headers_mut().append("content-length", "3".parse().unwrap());
        request.headers_mut().append("content-length", second.parse().unwrap());
        request
    };
    let mut empty = post(Body::empty());
    empty.headers_mut().insert("content-length", "3".parse().unwrap());
    for request in [two("4"), two("3, 3"), two("+3"), empty] {
        assert_eq!(answer(&service, request).await.unwrap_err().code(), FaultCode::BadRequest);
    }
    let mut connect = get("/");
    *connect.method_mut() = http::Method::CONNECT;
    assert_eq!(answer(&service, connect).await.unwrap_err().code(), FaultCode::Unsupported);
}

#[tokio::test]
async fn a_transfer_encoding_that_slipped_through_does_not_reach_the_service() {
    let mut request = post("abc");
    request.headers_mut().insert("content-length", "3".parse().unwrap());
    request.headers_mut().insert("transfer-encoding", "chunked".parse().unwrap());
    let (head, mut peer) = seen(json!({}), request).await;
    assert!(head.contains("content-length: 3\r\n") && !head.contains("transfer-encoding"), "{head}");
    assert_eq!(peer.exactly(3).await, b"abc");
}

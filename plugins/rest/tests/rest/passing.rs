//! What passes, what is removed, what is set.

use edgeway_plugin::{
    Body, Fault, FaultCode, Response,
    conformance::{Behaviour, FakeEdge},
};
use serde_json::json;

use crate::support::{Rest, assert_fault, read_until};

use tokio::io::AsyncWriteExt;

#[tokio::test]
async fn method_path_query_and_repeated_headers_pass_unchanged() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    rest.raw(
        b"PROPFIND /a%00b/../c//%ff%20?q=%FF&&x= HTTP/1.1\r\nHost: api:8080\r\nX-Two: 1\r\nX-Raw: \xfe\xff\r\nX-Two: 2\r\n\
          Connection: close\r\n\r\n",
    )
    .await;
    let calls = edge.wait_calls(1).await;
    let request = &calls[0].request;
    assert_eq!(request.method(), "PROPFIND");
    assert_eq!(request.uri(), "/a%00b/../c//%ff%20?q=%FF&&x=");
    assert_eq!(request.headers()["host"], "api:8080");
    assert_eq!(request.headers().get_all("x-two").iter().collect::<Vec<_>>(), ["1", "2"]);
    assert_eq!(request.headers()["x-raw"].as_bytes(), b"\xfe\xff");
    assert!(!request.headers().contains_key("connection"));
    rest.stop().await;
}

#[tokio::test]
async fn the_way_of_a_call_is_told() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"via": "hub-1"})).await;
    rest.raw(
        "GET / HTTP/1.1\r\nHost: api\r\nVia: 1.0 before\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Port: 1\r\n\
         Connection: close\r\n\r\n",
    )
    .await;
    let calls = edge.wait_calls(1).await;
    let headers = calls[0].request.headers();
    assert_eq!(headers.get_all("via").iter().collect::<Vec<_>>(), ["1.0 before", "1.1 hub-1"]);
    assert_eq!(headers.get_all("x-forwarded-for").iter().collect::<Vec<_>>(), ["127.0.0.1"]);
    assert_eq!(headers["x-forwarded-proto"], "http");
    assert_eq!(headers["x-forwarded-host"], "api");
    assert_eq!(headers["forwarded"], "for=127.0.0.1;proto=http;host=\"api\"");
    assert!(!headers.contains_key("x-forwarded-port"));
    assert_eq!(headers["traceparent"].len(), 55);
    rest.stop().await;
}

#[tokio::test]
async fn trusted_callers_are_believed_and_added_to() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"trustForwarded": true})).await;
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";
    rest.raw(format!(
        "GET / HTTP/1.1\r\nHost: api\r\nX-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Proto: https\r\n\
         traceparent: {parent}\r\ntracestate: a=b\r\nConnection: close\r\n\r\n",
    ))
    .await;
    let calls = edge.wait_calls(1).await;
    let headers = calls[0].request.headers();
    assert_eq!(headers["x-forwarded-for"], "10.0.0.1, 127.0.0.1");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["traceparent"], parent);
    assert_eq!(headers["tracestate"], "a=b");
    rest.stop().await;
}

#[tokio::test]
async fn absent_zero_known_and_unknown_length_stay_apart() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let mut stream = rest.connect().await;
    for (framing, length) in [
        ("\r\n", None),
        ("Content-Length: 0\r\n\r\n", Some("0")),
        ("Content-Length: 3\r\n\r\nabc", Some("3")),
        ("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", None),
    ] {
        let before = edge.calls().len();
        stream.write_all(format!("POST / HTTP/1.1\r\nHost: a\r\n{framing}").as_bytes()).await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        let call = edge.wait_calls(before + 1).await.pop().unwrap();
        assert_eq!(
            call.request.headers().get("content-length").map(|length| length.to_str().unwrap()),
            length
        );
        assert!(!call.request.headers().contains_key("transfer-encoding"));
        match framing {
            "\r\n" | "Content-Length: 0\r\n\r\n" => assert!(head.contains("content-length: 0\r\n"), "{head}"),
            "Content-Length: 3\r\n\r\nabc" => {
                assert!(head.contains("content-length: 3\r\n"), "{head}");
                read_until(&mut stream, "abc").await;
            }
            _ => {
                assert!(head.contains("transfer-encoding: chunked\r\n"), "{head}");
                read_until(&mut stream, "3\r\nabc\r\n0\r\n\r\n").await;
            }
        }
    }
    drop(stream);
    rest.stop().await;
}

#[tokio::test]
async fn a_services_own_answer_passes_whatever_its_status() {
    let edge = FakeEdge::answering(|request, _| async move {
        let status: u16 = request.uri().path()[1..].parse().unwrap();
        let response = Response::builder()
            .status(status)
            .header("x-own", "1")
            .header("x-own", "2")
            .header("connection", "x-hop")
            .header("x-hop", "1")
            .header("edgeway-fault", "forged");
        Ok(response.body(Body::full("own")).unwrap())
    });
    let rest = Rest::start(&edge).await;
    for status in [200, 301, 404, 429, 500, 503, 599] {
        let answer =
            rest.raw(format!("GET /{status} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{answer}");
        assert!(answer.contains("x-own: 1\r\nx-own: 2\r\n") && answer.ends_with("\r\n\r\nown"), "{answer}");
        assert!(!answer.contains("x-hop") && !answer.contains("edgeway-fault"), "{answer}");
    }
    rest.stop().await;
}

#[tokio::test]
async fn every_fault_is_told_with_its_code() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    assert!(!FaultCode::ALL.is_empty());
    for &code in FaultCode::ALL {
        edge.behave(Behaviour::Fault(code));
        let answer = rest.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert_fault(&answer, code.http_status().as_u16(), code.name());
        assert_eq!(answer.contains("\r\nretry-after: 1\r\n"), code == FaultCode::Overloaded, "{answer}");
    }
    rest.stop().await;
}

#[tokio::test]
async fn answers_without_a_body_have_none() {
    let edge = FakeEdge::answering(|request, _| async move {
        let (status, length, body) = match request.uri().path() {
            "/head" => (200, Some("5"), Body::empty()),
            "/204" => (204, None, Body::empty()),
            "/304" => (304, None, Body::empty()),
            "/fault" => return Err(Fault::new(FaultCode::NoRoute)),
            _ => (200, Some("5"), Body::full("hello")),
        };
        let mut response = Response::builder().status(status);
        if let Some(length) = length {
            response = response.header("content-length", length);
        }
        Ok(response.body(body).unwrap())
    });
    let rest = Rest::start(&edge).await;
    let mut stream = rest.connect().await;
    for (request, status) in
        [("HEAD /head", 200), ("HEAD /body", 200), ("GET /204", 204), ("GET /304", 304), ("HEAD /fault", 404)]
    {
        stream.write_all(format!("{request} HTTP/1.1\r\nHost: a\r\n\r\n").as_bytes()).await.unwrap();
        let head = read_until(&mut stream, "\r\n\r\n").await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {head}");
        assert_eq!(
            head.contains("content-length: 5"),
            request.ends_with("/head") || request.ends_with("/body"),
            "{head}"
        );
        assert!(!head.contains("transfer-encoding"), "{head}");
    }
    // Had any of them left a byte behind, this answer would not be the next.
    stream.write_all(b"GET /body HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
    assert!(crate::support::read_all(&mut stream).await.ends_with("\r\n\r\nhello"));
    rest.stop().await;
}

#[tokio::test]
async fn absolute_targets_and_options_star_are_understood() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    rest.raw("GET http://api.example.com:81/x?y HTTP/1.1\r\nHost: other\r\nConnection: close\r\n\r\n").await;
    let calls = edge.wait_calls(1).await;
    assert_eq!(calls[0].request.uri(), "/x?y");
    assert_eq!(calls[0].request.headers()["host"], "api.example.com:81");
    let answer = rest.raw("OPTIONS * HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 204 "), "{answer}");
    assert_eq!(edge.calls().len(), 1, "it is about the plugin, no service hears of it");
    rest.stop().await;
}

#[tokio::test]
async fn callers_of_http_1_0_are_served() {
    let edge = FakeEdge::answering(|_, _| async {
        Ok(Response::new(Body::new(crate::bodies::unsized_body("hello"))))
    });
    let rest = Rest::start(&edge).await;
    let answer = rest.raw("GET /x HTTP/1.0\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nhello"), "{answer}");
    assert!(!answer.contains("transfer-encoding"), "{answer}");
    let calls = edge.wait_calls(1).await;
    assert_eq!(calls[0].request.headers()["host"], rest.address.to_string());
    assert_eq!(calls[0].request.headers()["via"], "1.0 edgeway");
    rest.stop().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let edge = FakeEdge::answering(|request, _| async move {
        Ok(Response::new(Body::full(request.uri().path().to_owned())))
    });
    let rest = Rest::start(&edge).await;
    let answer = rest
        .raw("GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        .await;
    let (first, second) = (answer.find("\r\n\r\n/1HTTP/1.1 200 OK"), answer.ends_with("\r\n\r\n/2"));
    assert!(first.is_some() && second, "{answer}");
    rest.stop().await;
}

//! Services that break the rules. Each gives a fault, none a hang, and the next call works.

use edgeway_plugin::FaultCode;
use serde_json::json;

use crate::support::*;

/// The fault for an answer after which the service closes.
async fn fault_of(bytes: &str) -> edgeway_plugin::Fault {
    let (listener, service) = http().await;
    let first = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send(bytes).await;
    drop(peer);
    let fault = match joined(first).await {
        Err(fault) => fault,
        Ok(response) => text(response).await.expect_err("a cut answer was reported complete"),
    };
    // The connector goes on.
    let next = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(next).await.unwrap();
    fault
}

#[tokio::test]
async fn an_answer_that_is_cut_or_no_http_is_a_reset() {
    for (bytes, word) in [
        ("", "without an answer"),
        ("HTTP/1.1 200 OK\r\ncontent-le", "without an answer"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc", "before the end"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "before the end"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n", "before the end"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabc", "before the end"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n", "before the end"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n", "before the end"),
        ("SSH-2.0-OpenSSH_9.6\r\n", "not valid"),
        ("\x16\x03\x01\x02\x00\x01\x00", "not valid"),
        ("HTTP/1.1 20x OK\r\n\r\n", "not valid"),
        ("HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\na", "not valid"),
        ("HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n", "not valid"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
            "without being asked",
        ),
    ] {
        let fault = fault_of(bytes).await;
        assert_eq!(fault.code(), FaultCode::ServiceReset, "{bytes:?}: {fault}");
        assert!(fault.detail().contains(word), "{bytes:?}: {fault}");
    }
}

#[tokio::test]
async fn a_reset_of_an_answer_without_length_is_no_end() {
    let (listener, service) = http().await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 200 OK\r\n\r\nhalf").await;
    let mut body = joined(call).await.unwrap().into_body();
    in_time(body.frame()).await.unwrap().unwrap();
    peer.stream.set_zero_linger().unwrap();
    drop(peer);
    assert_eq!(in_time(body.frame()).await.unwrap().unwrap_err().code(), FaultCode::ServiceReset);
}

#[tokio::test]
async fn an_answer_without_length_ends_with_its_connection() {
    let (listener, service) = http().await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 200 OK\r\n\r\nall of it").await;
    drop(peer);
    assert_eq!(text(joined(call).await.unwrap()).await.unwrap(), "all of it");
}

#[tokio::test]
async fn heads_over_a_limit_are_refused() {
    let many: String = (0..200).map(|n| format!("x-{n}: 1\r\n")).collect();
    let large = format!("x-large: {}\r\n", "a".repeat(70_000));
    for headers in [many, large] {
        let fault = fault_of(&format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n")).await;
        assert_eq!(fault.code(), FaultCode::ServiceReset);
        assert!(fault.detail().contains("over 65536 bytes or 128 fields"), "{fault}");
    }
}

#[tokio::test]
async fn a_head_without_end_is_refused_at_the_limit() {
    let (listener, service) = http().await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send(format!("HTTP/1.1 200 OK\r\nx: {}", "a".repeat(100_000))).await;
    assert_eq!(joined(call).await.unwrap_err().code(), FaultCode::ServiceReset);
    peer.rest().await;
}

#[tokio::test]
async fn as_many_fields_as_allowed_pass() {
    let (listener, service) = listening("http", json!({"limits": {"headerCount": 500}})).await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    let many: String = (0..499).map(|n| format!("x-{n}: 1\r\n")).collect();
    peer.send(format!("HTTP/1.1 200 OK\r\n{many}content-length: 0\r\n\r\n")).await;
    assert_eq!(joined(call).await.unwrap().headers().len(), 500);
}

#[tokio::test]
async fn interim_answers_pass_by_and_endless_ones_are_a_reset() {
    let (listener, service) = http().await;
    let first = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    let hints = "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n".repeat(32);
    peer.head().await;
    peer.send(format!("{hints}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
    joined(first).await.unwrap();
    // On the same connection: each call has its own count.
    let second = call(&service, get("/"));
    peer.head().await;
    peer.send(format!("{hints}HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")).await;
    joined(second).await.unwrap();

    let endless = call(&service, get("/"));
    peer.head().await;
    let send = async {
        use tokio::io::AsyncWriteExt;
        while peer.stream.write_all(b"HTTP/1.1 102 Processing\r\n\r\n").await.is_ok() {}
    };
    let (_, answer) = in_time(async { tokio::join!(send, endless) }).await;
    let fault = answer.unwrap().unwrap_err();
    assert_eq!(fault.code(), FaultCode::ServiceReset);
    assert!(fault.detail().contains("interim"), "{fault}");
}

#[tokio::test]
async fn bytes_behind_an_answer_poison_no_other_call() {
    let (listener, service) = http().await;
    let first = call(&service, get("/1"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send(
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nokHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
    )
    .await;
    let _ = text(joined(first).await.unwrap()).await;
    let second = call(&service, get("/2"));
    let mut peer = accept(&listener).await;
    assert!(peer.head().await.starts_with("GET /2 "));
    peer.send("HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ngood").await;
    assert_eq!(text(joined(second).await.unwrap()).await.unwrap(), "good");
}

#[tokio::test]
async fn a_refused_connection_says_where_and_why() {
    let (listener, service) = http().await;
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let fault = answer(&service, get("/")).await.unwrap_err();
    assert_eq!(fault.code(), FaultCode::ServiceRefused);
    assert!(fault.detail().contains(&address) && fault.detail().contains("refused"), "{fault}");
}

#[tokio::test]
async fn a_connection_that_does_not_come_about_is_refused_in_time() {
    // A listener that never accepts, its backlog full: the next connect hangs.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = Vec::new();
    while let Ok(Ok(stream)) =
        tokio::time::timeout(std::time::Duration::from_millis(200), tokio::net::TcpStream::connect(address))
            .await
    {
        held.push(stream);
        assert!(held.len() < 64, "the backlog is never full");
    }
    let service = connector(json!({"url": format!("http://{address}"), "timeouts": {"connect": "100ms"}}));
    let fault = answer(&service, get("/")).await.unwrap_err();
    assert_eq!(fault.code(), FaultCode::ServiceRefused);
    assert!(fault.detail().contains("within 100ms"), "{fault}");
}

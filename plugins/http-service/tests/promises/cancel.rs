//! A caller that leaves is seen by the service.

use std::sync::Arc;

use edgeway_plugin::FaultCode;

use crate::support::*;

#[tokio::test]
async fn a_dropped_call_closes_the_connection() {
    let (listener, service) = http().await;
    let call = call(&service, get("/"));
    let mut peer = accept(&listener).await;
    peer.head().await;
    call.abort();
    peer.rest().await;
}

#[tokio::test]
async fn a_dropped_answer_closes_the_connection() {
    for head in ["content-length: 10", "transfer-encoding: chunked", "x: y"] {
        let (listener, service) = http().await;
        let call = call(&service, get("/"));
        let mut peer = accept(&listener).await;
        peer.head().await;
        peer.send(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n")).await;
        drop(joined(call).await.unwrap());
        peer.rest().await;
    }
}

#[tokio::test]
async fn a_dropped_answer_stops_the_upload() {
    let (listener, service) = http().await;
    let (feeder, body) = fed();
    let call = call(&service, post(body));
    let mut peer = accept(&listener).await;
    peer.head().await;
    peer.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    drop(joined(call).await.unwrap());
    in_time(feeder.closed()).await;
    let (rest, _) = peer.rest().await;
    assert!(!String::from_utf8_lossy(&rest).contains("0\r\n\r\n"), "the upload was ended cleanly");
}

#[tokio::test]
async fn a_dropped_connector_closes_idle_and_busy_connections() {
    let (listener, service) = http().await;
    let first = call(&service, get("/"));
    let mut idle = accept(&listener).await;
    idle.head().await;
    idle.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(first).await.unwrap();

    let (feeder, body) = fed();
    let second = call(&service, post(body));
    idle.head().await;
    idle.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await;
    let mut answer = joined(second).await.unwrap().into_body();

    let third = call(&service, get("/"));
    let mut waiting = accept(&listener).await;
    waiting.head().await;
    waiting.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(third).await.unwrap();

    drop(Arc::into_inner(service).expect("no call holds it"));
    waiting.rest().await;
    idle.rest().await;
    in_time(feeder.closed()).await;
    assert_eq!(in_time(answer.frame()).await.unwrap().unwrap_err().code(), FaultCode::ServiceReset);
}

#[tokio::test]
async fn no_task_outlives_the_connector() {
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let (listener, service) = http().await;
    let first = call(&service, get("/"));
    let mut idle = accept(&listener).await;
    idle.head().await;
    idle.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(first).await.unwrap();

    let mut chat = get("/chat");
    chat.headers_mut().insert("connection", "upgrade".parse().unwrap());
    chat.headers_mut().insert("upgrade", "chat".parse().unwrap());
    let (_feeder, body) = fed();
    *chat.body_mut() = body;
    let second = call(&service, chat);
    idle.head().await;
    idle.send("HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: chat\r\n\r\n").await;
    let _answer = joined(second).await.unwrap();

    let third = call(&service, get("/"));
    let mut next = accept(&listener).await;
    next.head().await;
    next.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    joined(third).await.unwrap();

    assert!(tasks() >= 2, "an idle connection and an upgraded one");
    drop(service);
    in_time(async {
        while tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

//! Starting, stopping, and the limit of connections.

use std::sync::Arc;

use edgeway_plugin::{
    PluginError,
    conformance::{Behaviour, FakeEdge},
};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    http2::{Caller, get},
    support::{Rest, assert_fault, build, read_all, read_until, until, within},
};

const GET: &[u8] = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[tokio::test]
async fn stopping_finishes_what_runs_and_takes_nothing_new() {
    let edge = FakeEdge::behaving(Behaviour::Stall);
    let rest = Rest::start(&edge).await;
    let mut idle = rest.connect().await;
    let mut busy = rest.connect().await;
    busy.write_all(GET).await.unwrap();
    let mut caller = Caller::new(rest.connect().await).await;
    let streams: Vec<_> = (0..3).map(|_| tokio::spawn(caller.send.send_request(get("/")))).collect();
    edge.wait_in_flight(4).await;
    rest.stop.cancel();
    assert_eq!(read_all(&mut idle).await, "", "idle connections end at once");
    let address = rest.address;
    within("the listener closes", async {
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!rest.task.is_finished(), "calls still run");
    assert_eq!(edge.in_flight(), 4);
    edge.release();
    let answer = read_all(&mut busy).await;
    assert!(answer.starts_with("HTTP/1.1 200 OK") && answer.contains("connection: close"), "{answer}");
    for stream in streams {
        assert_eq!(within("the stream is finished", stream).await.unwrap().unwrap().status(), 200);
    }
    within("run returns", rest.task).await.unwrap().unwrap();
}

#[tokio::test]
async fn dropping_run_leaves_nothing_behind() {
    let edge = FakeEdge::behaving(Behaviour::Stall);
    let rest = Rest::start(&edge).await;
    let mut busy = rest.connect().await;
    busy.write_all(GET).await.unwrap();
    let caller = Caller::new(rest.connect().await).await;
    let mut send = caller.send;
    let stream = tokio::spawn(async move { send.send_request(get("/")).await });
    edge.wait_in_flight(2).await;
    edge.behave(Behaviour::Echo);
    let mut upgraded = rest.connect().await;
    upgraded
        .write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
        .await
        .unwrap();
    read_until(&mut upgraded, "\r\n\r\n").await;
    rest.task.abort();
    edge.wait_cancelled(2).await;
    until("every call is gone", || edge.in_flight() == 0).await;
    let _ = within("h1 ends", busy.read(&mut [0; 8])).await;
    let _ = within("the upgrade ends", upgraded.read(&mut [0; 8])).await;
    assert!(within("h2 ends", stream).await.unwrap().is_err());
}

#[tokio::test]
async fn it_can_be_run_again_on_the_same_port() {
    let edge = FakeEdge::echo();
    let first = Rest::start(&edge).await;
    let address = first.address;
    let mut kept = first.connect().await;
    kept.write_all(GET).await.unwrap();
    read_until(&mut kept, "\r\n\r\n").await;
    first.stop().await;
    let plugin = Arc::new(build(json!({"listeners": [{"address": address.to_string()}]})).unwrap());
    for _ in 0..2 {
        let rest = Rest::run(&edge, plugin.clone()).await;
        assert_eq!(rest.address, address);
        let answer = rest.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
        rest.stop().await;
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let edge = FakeEdge::echo();
    let rest = Rest::start(&edge).await;
    let plugin = build(json!({"listeners": [{"address": rest.address.to_string()}]})).unwrap();
    let cx = edgeway_plugin::PluginContext::new(
        "rest",
        Arc::new(edge.clone()),
        tokio_util::sync::CancellationToken::new(),
        |_| panic!("nothing was bound"),
    );
    let error = within("run fails", edgeway_plugin::Plugin::run(&plugin, cx)).await.expect_err("taken");
    assert!(matches!(&error, PluginError::Bind { address, .. } if *address == rest.address), "{error}");
    rest.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_at_once() {
    let edge = FakeEdge::echo();
    let rest = Rest::with(&edge, json!({"limits": {"connections": 2}})).await;
    let mut taken = Vec::new();
    for _ in 0..2 {
        let mut stream = rest.connect().await;
        stream.write_all(GET).await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
        taken.push(stream);
    }
    let answer = rest.raw(GET).await;
    assert_fault(&answer, 503, "overloaded");
    assert!(answer.contains("\r\nretry-after: 1\r\n"), "{answer}");
    let mut caller = Caller::new(rest.connect().await).await;
    let answer = caller.call(get("/")).await;
    assert_eq!((answer.status().as_u16(), &answer.headers()["retry-after"]), (503, &"1".parse().unwrap()));
    assert_eq!(edge.calls().len(), 2);
    // A place that is free again is given to the next.
    drop(taken);
    within("a place is free", async {
        loop {
            let answer = rest.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
            if answer.starts_with("HTTP/1.1 200 OK") {
                break;
            }
        }
    })
    .await;
    drop(caller);
    rest.stop().await;
}

#[tokio::test]
async fn a_stalled_call_delays_no_other() {
    let edge = FakeEdge::behaving(Behaviour::Stall);
    let rest = Rest::start(&edge).await;
    let mut stalled = Vec::new();
    for _ in 0..20 {
        let mut stream = rest.connect().await;
        stream.write_all(GET).await.unwrap();
        stalled.push(stream);
    }
    edge.wait_in_flight(20).await;
    edge.behave(Behaviour::Echo);
    let answer = rest.raw("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    drop(stalled);
    edge.wait_cancelled(20).await;
    rest.stop().await;
}

#[tokio::test]
async fn every_listener_is_reported_and_serves() {
    let edge = FakeEdge::echo();
    let plugin =
        build(json!({"listeners": [{"address": "127.0.0.1:0"}, {"address": "127.0.0.1:0"}]})).unwrap();
    let (bound, mut addresses) = tokio::sync::mpsc::unbounded_channel();
    let stop = tokio_util::sync::CancellationToken::new();
    let cx = edgeway_plugin::PluginContext::new("rest", Arc::new(edge), stop.clone(), move |address| {
        bound.send(address).unwrap();
    });
    let task = tokio::spawn(async move { edgeway_plugin::Plugin::run(&plugin, cx).await });
    for _ in 0..2 {
        let address = within("a listener is reported", addresses.recv()).await.unwrap();
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n").await.unwrap();
        assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 200 OK"));
    }
    stop.cancel();
    within("run returns", task).await.unwrap().unwrap();
}

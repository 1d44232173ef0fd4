//! T3 and invariant 6: a stalled call delays no other call and no heartbeat.

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;

use crate::{
    raw::{self, Caller},
    service::Service,
    world::{ECHO, Plan, http, within},
};

/// A service that sends as much as it can.
async fn fountain() -> Service {
    Service::start(|mut connection| async move {
        connection.request().await;
        connection.send("HTTP/1.1 200 OK\r\ncontent-length: 50000000\r\n\r\n").await;
        let piece = vec![b'x'; 100_000];
        for _ in 0..500 {
            if connection.stream.write_all(&piece).await.is_err() {
                return;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stalled_downloads_and_uploads_delay_no_other_call_and_no_heartbeat() {
    let fountain = fountain().await;
    let silent = Service::silent().await;
    let services = [ECHO.to_owned(), http("fountain", fountain.address), http("silent", silent.address)];
    // Short, so that missing heartbeats would end the session within the test.
    let plan = Plan { tunnel: "keepAlive: 200ms, idleTimeout: 1s".into(), ..Plan::default() };
    let uplink = "uplink: {keepAlive: 200ms, idleTimeout: 1s}";
    let world = plan.node_with("berlin-1", services.concat(), uplink).start().await;
    let mut stalled = Vec::new();
    for _ in 0..40 {
        let mut caller = Caller::connect(world.rest).await;
        caller.send("GET /any/fountain HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
        assert_eq!(caller.head().await.expect("a head").status, 200);
        stalled.push(caller);
        // And an upload that nobody reads, as far as it goes without blocking this test.
        let mut caller = Caller::connect(world.rest).await;
        caller.send("POST /any/silent HTTP/1.1\r\nHost: e2e\r\nContent-Length: 50000000\r\n\r\n").await;
        let piece = vec![b'x'; 1 << 20];
        let _ = tokio::time::timeout(Duration::from_millis(20), caller.stream.write_all(&piece)).await;
        stalled.push(caller);
    }
    let began = Instant::now();
    let mut slowest = Duration::ZERO;
    let mut calls = 0;
    while began.elapsed() < Duration::from_secs(3) {
        let started = Instant::now();
        let answer = raw::post(world.rest, "/any/echo", &[b'y'; 2000]).await;
        assert!(answer.status == 200 && answer.body.len() == 2000);
        slowest = slowest.max(started.elapsed());
        calls += 1;
    }
    assert!(calls >= 20 && slowest < Duration::from_secs(2), "{calls} calls, the slowest took {slowest:?}");
    let admin = world.hub().admin_address().expect("an admin page");
    for cause in ["timed_out", "reset", "transport"] {
        let series = format!("edgeway_hub_sessions_ended_total{{cause=\"{cause}\"}}");
        assert_eq!(world.metric(admin, &series).await, 0.0, "the session ended: {cause}");
    }
    assert!(world.agent("berlin-1").is_connected());
    drop(stalled);
    world.until("nothing is left in flight", |nodes| nodes.iter().all(|node| node.in_flight == 0)).await;
    world.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_reader_gets_everything_in_the_end() {
    let fountain = fountain().await;
    let world = Plan::default().node("berlin-1", http("fountain", fountain.address)).start().await;
    let mut caller = Caller::connect(world.rest).await;
    caller.send("GET /any/fountain HTTP/1.1\r\nHost: e2e\r\nConnection: close\r\n\r\n").await;
    // Long enough for every window on the way to fill.
    tokio::time::sleep(Duration::from_millis(500)).await;
    let answer = within("the whole body", caller.answer()).await.expect("an answer");
    assert!(answer.complete && answer.body.len() == 50_000_000);
    world.shutdown().await;
}

#[tokio::test]
async fn a_node_that_hangs_delays_no_other_node() {
    let silent = Service::silent().await;
    let world =
        Plan::default().node("berlin-1", http("s", silent.address)).node("tokyo-1", ECHO).start().await;
    let mut held = Vec::new();
    for _ in 0..200 {
        let mut caller = Caller::connect(world.rest).await;
        caller.send("GET /nodes/berlin-1/s HTTP/1.1\r\nHost: e2e\r\n\r\n").await;
        held.push(caller);
    }
    let began = Instant::now();
    for _ in 0..50 {
        assert_eq!(raw::get(world.rest, "/nodes/tokyo-1/echo").await.status, 200);
    }
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    drop(held);
    world.shutdown().await;
}
